//! Dead letters that are to be run again: objects of a store, each of which is there whole or not at all.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use weir_base::ErrorKind;
use weir_component::checkpoint::{CheckpointError, CheckpointStore};
use weir_component::operator::AsideReason;
use weir_component::source::SourcePosition;
use weir_engine::Letter;

use super::book::Book;
use super::{LetterId, LetterSet};

/// Letters of one object.
const OBJECT_LETTERS_MAX: usize = if cfg!(test) { 3 } else { 1000 };

/// A letter in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queued {
    /// Its id.
    pub id: String,
    /// The source or step that set it aside.
    pub step: String,
    /// Why, as in [`AsideReason::as_str`].
    pub reason: String,
    /// At which input of the step it had come.
    pub input: Option<usize>,
    /// How often it has failed there.
    pub attempts: u64,
    /// Its event time, in nanoseconds since 1970.
    pub time: i64,
    /// The row.
    pub row: String,
}

impl Queued {
    /// As the engine knows it; `None` if its reason is none.
    pub fn letter(&self) -> Option<Letter<'_>> {
        let reason = AsideReason::parse(&self.reason)?;
        let Self { step, input, attempts, time, row, .. } = self;
        Some(Letter { step, reason, input: *input, attempts: *attempts, time: *time, row })
    }
}

/// The letters of a pipeline that are to be run again.
#[derive(Clone)]
pub struct Queue {
    store: Arc<dyn CheckpointStore>,
    book: Arc<Book>,
}

pub(super) fn of_book(error: &io::Error) -> CheckpointError {
    CheckpointError::new(ErrorKind::Transient, format!("what was done with dead letters cannot be noted: {error}"))
}

fn object_name(number: u64) -> String {
    format!("replay-{number:012}")
}

fn is_object(name: &str) -> Option<u64> {
    name.strip_prefix("replay-")?.parse().ok()
}

/// How far a pipeline has come with its queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// All objects before this one are done, ...
    pub(super) object: u64,
    /// ... and so many letters of it.
    pub(super) letters: usize,
}

/// What a position of the queue calls its one partition.
pub(super) const PARTITION: &str = "letters";

impl Place {
    pub(super) fn of(position: &SourcePosition) -> Option<Self> {
        match position.partitions.get(PARTITION) {
            None => Some(Self::default()),
            Some(place) => Self::deserialize(place).ok(),
        }
    }
}

impl Queue {
    /// A queue in `store`.
    pub fn new(store: Arc<dyn CheckpointStore>, book: Arc<Book>) -> Self {
        Self { store, book }
    }

    /// The numbers of all objects, in order.
    pub(super) async fn objects(&self) -> Result<Vec<u64>, CheckpointError> {
        let mut numbers: Vec<u64> = self.store.list().await?.iter().filter_map(|name| is_object(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Says when objects are put in by this process.
    pub(super) fn puts(&self) -> watch::Receiver<u64> {
        self.book.puts()
    }

    /// The letters of an object; none if it is gone.
    pub(super) async fn read(&self, number: u64) -> Result<Vec<Queued>, CheckpointError> {
        let name = object_name(number);
        let Some(bytes) = self.store.read(&name).await? else { return Ok(Vec::new()) };
        serde_json::from_slice(&bytes)
            .map_err(|error| CheckpointError::new(ErrorKind::Corrupt, format!("{name} cannot be read: {error}")))
    }

    /// Puts letters in. Should it fail or die in the middle, the first of them may be in the queue: those are as good
    /// as asked for.
    ///
    /// # Errors
    /// If they cannot be written.
    pub async fn put(&self, letters: &[Queued]) -> Result<(), CheckpointError> {
        for part in letters.chunks(OBJECT_LETTERS_MAX) {
            let number = self.book.next_queued().map_err(|error| of_book(&error))?;
            let bytes = serde_json::to_vec(part)
                .map_err(|error| CheckpointError::new(ErrorKind::Internal, format!("cannot write letters: {error}")))?;
            self.store.create(&object_name(number), &bytes).await?;
            self.book.note_put();
        }
        Ok(())
    }

    /// The letters that are in the queue, also those that were run again since the last checkpoint. Ask the book for
    /// those that were run again afterwards: it is told of them before they leave the queue.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn waiting(&self) -> Result<LetterSet, CheckpointError> {
        let mut set = LetterSet::default();
        for number in self.objects().await? {
            set.extend(self.read(number).await?.iter().filter_map(|letter| LetterId::parse(&letter.id)));
        }
        Ok(set)
    }

    /// Takes out what has been run again by a position of a checkpoint, and notes it.
    ///
    /// # Errors
    /// If that cannot be read or noted.
    pub async fn settle(&self, position: &SourcePosition) -> Result<(), CheckpointError> {
        let damaged = || CheckpointError::new(ErrorKind::Corrupt, "the position among dead letters makes no sense");
        self.done(Place::of(position).ok_or_else(damaged)?, false).await
    }

    /// The same, before the pipeline goes away or begins anew: the rest is not run again any more.
    ///
    /// # Errors
    /// As those of [`Queue::settle`].
    pub async fn abandon(&self, position: Option<&SourcePosition>) -> Result<(), CheckpointError> {
        let place = position.and_then(Place::of).unwrap_or_default();
        self.done(place, true).await
    }

    async fn done(&self, place: Place, with_partial: bool) -> Result<(), CheckpointError> {
        for number in self.objects().await? {
            if number > place.object || (number == place.object && !with_partial) {
                continue;
            }
            let letters = self.read(number).await?;
            let count = if number == place.object { place.letters } else { letters.len() };
            let ids = letters.iter().take(count).filter_map(|letter| LetterId::parse(&letter.id));
            self.book.note_replayed(ids).map_err(|error| of_book(&error))?;
            if number < place.object {
                self.store.delete(&object_name(number)).await?;
            }
        }
        Ok(())
    }
}
