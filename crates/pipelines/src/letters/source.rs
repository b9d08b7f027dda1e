//! The queue of dead letters as a source of the pipeline they belong to.
//!
//! Who asks for letters says so in this process, so an empty queue costs nothing. Letters that come while the pipeline runs
//! wait until its tables have been read again: what was wrong with them may have been repaired there a moment ago.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Sleep;
use weir_base::{ErrorKind, Kinded};
use weir_component::checkpoint::CheckpointError;
use weir_component::source::{Next, PartitionName, PlannedSource, Source, SourceError, SourcePosition, SourceRows};
use weir_engine::replay_schema;

use super::queue::{PARTITION, Place, Queue, Queued};
use crate::refreshes::Refreshes;

/// Letters that are given at once.
const BATCH_LETTERS: usize = if cfg!(test) { 2 } else { 256 };
/// An empty queue is looked at after so long, also if nobody said that something was put in.
const LOOKED_EVERY: Duration = Duration::from_secs(60);
/// Letters wait for tables for so long at most.
const TABLES_WAIT: Duration = Duration::from_secs(60);

/// Dead letters that are to be run again.
pub struct LetterSourcePlan {
    queue: Queue,
    refreshes: Option<Arc<Refreshes>>,
}

impl LetterSourcePlan {
    /// The letters of `queue`, before which tables are read again through `refreshes`.
    pub fn new(queue: Queue, refreshes: Option<Arc<Refreshes>>) -> Self {
        Self { queue, refreshes }
    }
}

fn failed(error: CheckpointError) -> SourceError {
    SourceError::new(error.kind(), error.message)
}

#[async_trait]
impl PlannedSource for LetterSourcePlan {
    fn schema(&self) -> SchemaRef {
        replay_schema()
    }

    fn is_bounded(&self) -> bool {
        false
    }

    async fn open(&self, position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        let position = position.unwrap_or_default();
        let place = Place::of(&position);
        let place = place.ok_or_else(|| {
            SourceError::new(ErrorKind::Corrupt, "the position among dead letters makes no sense".to_owned())
        })?;
        // Whoever was here before may have died before that was noted.
        self.queue.settle(&position).await.map_err(failed)?;
        let (mut pending, mut settled) = (0, place);
        let (queue, puts) = (&self.queue, self.queue.puts());
        let mut asked_before = None;
        for number in queue.objects().await.map_err(failed)?.into_iter().filter(|number| *number >= place.object) {
            let skipped = if number == place.object { place.letters } else { 0 };
            pending += queue.read(number).await.map_err(failed)?.len().saturating_sub(skipped) as u64;
            asked_before = Some(number);
        }
        settled.letters = 0;
        Ok(Box::new(LetterSource {
            queue: queue.clone(),
            puts,
            has_looked: false,
            place,
            waiting: VecDeque::new(),
            pending,
            settled,
            tables: Tables { refreshes: self.refreshes.clone(), read_for: asked_before, wait: None },
        }))
    }

    fn describe(&self) -> String {
        "reads the dead letters that are to be run again".to_owned()
    }
}

struct LetterSource {
    queue: Queue,
    /// Says when something is put in.
    puts: watch::Receiver<u64>,
    /// Nothing was in the queue since that was said last.
    has_looked: bool,
    place: Place,
    /// Letters of the object that is being read.
    waiting: VecDeque<Queued>,
    /// How many there were when it was opened, less those given since.
    pending: u64,
    /// Up to where the queue was tidied.
    settled: Place,
    tables: Tables,
}

/// Tables that are read again before letters are given.
struct Tables {
    refreshes: Option<Arc<Refreshes>>,
    /// The newest object for which they have been: those that were there at the start, just after which they are read
    /// anyway, and others since.
    read_for: Option<u64>,
    /// For up to which object they are being read, the number of the request, and how long that is waited for yet.
    wait: Option<(u64, u64, Pin<Box<Sleep>>)>,
}

impl Tables {
    /// Waits until the tables have been read again since `object` was put in, the newest one being `newest`. May be
    /// dropped while it waits.
    async fn read_again(&mut self, object: u64, newest: u64) {
        let Some(refreshes) = &self.refreshes else { return };
        while self.read_for.is_none_or(|known| known < object) {
            if self.wait.is_none() {
                let Some(asked) = refreshes.ask() else { return };
                self.wait = Some((newest, asked, Box::pin(tokio::time::sleep(TABLES_WAIT))));
            }
            let Some((up_to, asked, too_long)) = &mut self.wait else { return };
            tokio::select! {
                () = refreshes.done(*asked) => {}
                () = too_long => {}
            }
            (self.read_for, self.wait) = (Some(*up_to), None);
        }
    }
}

fn rows_of(letters: &[Queued]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let text =
        |of: fn(&Queued) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(letters.iter().map(of))) };
    let inputs = letters.iter().map(|letter| letter.input.map(|input| number(input as u64)));
    let columns: Vec<ArrayRef> = vec![
        text(|letter| &letter.step),
        text(|letter| &letter.reason),
        Arc::new(Int64Array::from_iter(inputs)),
        Arc::new(Int64Array::from_iter_values(letters.iter().map(|letter| number(letter.attempts)))),
        Arc::new(Int64Array::from_iter_values(letters.iter().map(|letter| letter.time))),
        text(|letter| &letter.row),
    ];
    RecordBatch::try_new(replay_schema(), columns)
}

#[async_trait]
impl Source for LetterSource {
    async fn next(&mut self, _behind: Option<&str>) -> Result<Next, SourceError> {
        if self.waiting.is_empty() {
            if self.has_looked {
                let _ = tokio::time::timeout(LOOKED_EVERY, self.puts.changed()).await;
                self.has_looked = false;
            }
            self.puts.mark_unchanged();
            let objects = self.queue.objects().await.map_err(failed)?;
            let newest = objects.last().copied().unwrap_or_default();
            let next = objects.into_iter().find(|number| {
                // An object that was read to its end is behind the place.
                *number >= self.place.object
            });
            let Some(number) = next else {
                self.has_looked = true;
                return Ok(Next::Nothing(Duration::ZERO));
            };
            self.tables.read_again(number, newest).await;
            let skipped = if number == self.place.object { self.place.letters } else { 0 };
            let letters = self.queue.read(number).await.map_err(failed)?;
            self.place = Place { object: number, letters: skipped };
            self.waiting = letters.into_iter().skip(skipped).collect();
        }
        let count = self.waiting.len().min(BATCH_LETTERS);
        let letters: Vec<Queued> = self.waiting.drain(..count).collect();
        self.place.letters += count;
        if self.waiting.is_empty() {
            self.place = Place { object: self.place.object + 1, letters: 0 };
        }
        self.pending = self.pending.saturating_sub(count as u64);
        let rows = rows_of(&letters)
            .map_err(|error| SourceError::new(ErrorKind::Internal, format!("cannot put letters together: {error}")))?;
        let bytes = letters.iter().map(|letter| letter.row.len() as u64).sum();
        let partition: PartitionName = PARTITION.into();
        Ok(Next::Rows(SourceRows { partition, rows, arrived: None, rejects: Vec::new(), bytes }))
    }

    fn position(&self) -> SourcePosition {
        let place = serde_json::json!({ "object": self.place.object, "letters": self.place.letters });
        SourcePosition { partitions: [(PARTITION.to_owned(), place)].into() }
    }

    async fn committed(&mut self, position: &SourcePosition) -> Result<(), SourceError> {
        let place = Place::of(position).unwrap_or_default();
        if place.object > self.settled.object {
            self.queue.settle(position).await.map_err(failed)?;
            self.settled = place;
        }
        Ok(())
    }

    fn lag_rows(&self) -> Option<u64> {
        Some(self.pending)
    }
}
