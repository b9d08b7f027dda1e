//! What one sink is owed: the rows it has been given and has not prepared, and those it is still to be given, in their order.
//!
//! While the sink takes them as they come, they are in memory and few. When it does not, a checkpoint writes them beside the
//! states, so that the epoch needs nothing of the sink; and when many wait, or many were given since it has prepared, they go
//! there before. Once the sink has prepared what it was given, that is not owed any more.
//!
//! Invariant: the sink has been given what is before the cursor since it was opened or has last prepared, in this order and
//! nothing else. A start begins with the cursor at the front.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, Schema};
use serde::{Deserialize, Serialize};
use weir_base::{ErrorKind, crc};
use weir_component::batch::bytes_of;
use weir_component::checkpoint::CheckpointStore;
use weir_component::operator::OperatorState;

use crate::error::JobError;
use crate::states::{self, Laid, Laying, ObjectRef, Shelf};

/// Of what may be kept in memory, rows that wait may be one part in so many; then they are an object.
const WAITING_SHARE: usize = 4;
/// An object of so many bytes is small, however few rows come after it: each has a kilobyte that is not rows.
const SMALL_BYTES: u64 = 16 << 10;
/// An object may have so many bytes, however little is kept in memory.
const PIECE_BYTES: usize = 64 << 10;
/// Where memory is short, one part in so many is kept of what would be otherwise.
const TIGHT_SHARE: usize = 16;
/// Rows of a batch of an object.
const BATCH_ROWS: usize = 8192;

/// What an outbox is in a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutboxState {
    /// What the sink has called its last receipt by; 0 if it has given none.
    pub(crate) prepared: u64,
    /// So many batches of the first object are in that receipt.
    pub(crate) skip: usize,
    /// What comes after it.
    pub(crate) objects: Vec<ObjectRef>,
    /// What tells the columns of these rows from others ([`columns_of`]).
    pub(crate) columns: u32,
}

impl OutboxState {
    /// Whether there is anything the sink is still to be given.
    pub(crate) fn is_owed(&self) -> bool {
        !self.objects.is_empty()
    }
}

/// What tells columns from others: a sum of their names and types, in order.
pub(crate) fn columns_of(schema: &Schema) -> u32 {
    let columns = schema.fields().iter().map(|field| format!("{}\u{0}{}\u{0}", field.name(), field.data_type()));
    crc::crc32c(columns.collect::<String>().as_bytes())
}

/// Rows with their event times.
type Rows = (RecordBatch, ScalarBuffer<i64>);

enum Entry {
    Memory(Rows),
    /// Rows in the store, and the batches if they were read.
    Stored(ObjectRef, Option<Vec<Rows>>),
}

/// What is being given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Giving {
    /// An entry that was in memory. It may be an object meanwhile.
    Entry,
    /// A batch of an object.
    Batch,
}

/// The names of the objects of an outbox begin with this.
const PREFIX: &str = "box-";

/// The generation that has made an object of an outbox.
pub(crate) fn is_outbox(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

pub(crate) struct Outbox {
    store: Arc<dyn CheckpointStore>,
    generation: u64,
    /// What the names of its objects begin with.
    prefix: String,
    columns: u32,
    /// Objects made by this start of the pipeline.
    count: u64,
    entries: VecDeque<Entry>,
    /// The cursor: so many entries were given, and so many batches of the next one.
    given: usize,
    given_batches: usize,
    /// What is being given to the sink at the moment: it is behind the cursor, and may be before it soon.
    giving: Option<Giving>,
    /// Batches of the first entry that the sink has prepared before.
    skip: usize,
    /// Bytes in memory, before and behind the cursor.
    given_bytes: usize,
    waiting_bytes: usize,
    stored_bytes: u64,
    stored_bytes_max: u64,
    /// Rows that were given and are not prepared, and rows that wait, are each in memory up to about so many bytes.
    kept_bytes_max: usize,
    /// There is no room for that at the moment.
    is_tight: bool,
    /// Whether it has all that was given since the last time the sink prepared.
    is_whole: bool,
    /// Objects that nobody needs once the next manifest is decided.
    superfluous: Vec<String>,
}

impl Outbox {
    /// The outbox of a sink that is given such columns, as a manifest has it, of a start with that generation and name. It may have so many bytes in the
    /// store, and of rows that were given in memory.
    pub(crate) fn new(
        store: Arc<dyn CheckpointStore>,
        (generation, writer): (u64, &str),
        (sink, columns): (&str, u32),
        state: Option<OutboxState>,
        (stored_bytes_max, kept_bytes_max): (u64, usize),
    ) -> Self {
        let (skip, objects) = state.map_or((0, Vec::new()), |state| (state.skip, state.objects));
        let writer: String = writer.chars().take(8).collect();
        Self {
            store,
            generation,
            prefix: format!("{PREFIX}{generation:010}-{writer}-{sink}-"),
            columns,
            count: 0,
            given: 0,
            given_batches: skip,
            giving: None,
            skip,
            given_bytes: 0,
            waiting_bytes: 0,
            stored_bytes: objects.iter().map(|object| object.bytes).sum(),
            stored_bytes_max,
            kept_bytes_max,
            is_tight: false,
            entries: objects.into_iter().map(|object| Entry::Stored(object, None)).collect(),
            is_whole: true,
            superfluous: Vec::new(),
        }
    }

    /// Adds rows at the end.
    pub(crate) fn push(&mut self, rows: RecordBatch, times: ScalarBuffer<i64>) {
        self.waiting_bytes += bytes_of(&rows);
        self.entries.push_back(Entry::Memory((rows, times)));
    }

    /// Whether rows wait to be given.
    pub(crate) fn has_waiting(&self) -> bool {
        self.given < self.entries.len()
    }

    /// Whether it takes no more before some of it was given.
    pub(crate) fn is_full(&self) -> bool {
        self.has_waiting() && self.bytes() >= self.stored_bytes_max
    }

    /// Says that memory is short, or is not any more.
    pub(crate) fn be_tight(&mut self, is_tight: bool) {
        self.is_tight = is_tight;
    }

    /// Bytes that may be in memory at the moment, of rows that were given and of those that wait.
    fn limit(&self) -> usize {
        if self.is_tight { self.kept_bytes_max / TIGHT_SHARE } else { self.kept_bytes_max }
    }

    /// Bytes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        let read = match self.entries.get(self.given) {
            Some(Entry::Stored(object, Some(_))) => usize::try_from(object.bytes).unwrap_or(usize::MAX),
            _ => 0,
        };
        self.given_bytes + self.waiting_bytes + read
    }

    /// Whether so much waits in memory that no more should.
    pub(crate) fn is_heavy(&self) -> bool {
        self.waiting_bytes >= self.limit()
    }

    /// Whether what the sink was given could be given to it again.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Bytes that wait, beside the checkpoints and in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.stored_bytes + self.waiting_bytes as u64
    }

    /// The rows behind the cursor, to be given to the sink. They are in the store if many wait. [`Outbox::gave`] or
    /// [`Outbox::refused`] says what came of it.
    pub(crate) async fn next(&mut self) -> Result<Option<Rows>, JobError> {
        loop {
            let (store, given_batches) = (Arc::clone(&self.store), self.given_batches);
            match self.entries.get_mut(self.given) {
                None => return Ok(None),
                Some(Entry::Memory(rows)) => {
                    self.giving = Some(Giving::Entry);
                    return Ok(Some(rows.clone()));
                }
                Some(Entry::Stored(object, read)) => {
                    let batches = match read {
                        Some(batches) => batches,
                        None => read.insert(load(store.as_ref(), self.generation, object).await?),
                    };
                    if let Some(rows) = batches.get(given_batches) {
                        self.giving = Some(Giving::Batch);
                        return Ok(Some(rows.clone()));
                    }
                    *read = None;
                    (self.given, self.given_batches) = (self.given + 1, 0);
                }
            }
        }
    }

    /// Whether the sink may be given more before it can prepare.
    pub(crate) fn may_give_more(&self) -> bool {
        self.given_bytes < self.limit() / 2
    }

    /// Whether there is anything that is not prepared.
    pub(crate) fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The sink has not taken what it was to be given.
    pub(crate) fn refused(&mut self) {
        self.giving = None;
    }

    /// What [`Outbox::next`] gave was given to the sink.
    pub(crate) fn gave(&mut self) {
        match self.giving.take() {
            Some(Giving::Entry) => {
                if let Some(Entry::Memory((rows, _))) = self.entries.get(self.given) {
                    let bytes = bytes_of(rows);
                    self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
                    self.given_bytes += bytes;
                }
                self.given += 1;
            }
            Some(Giving::Batch) => self.given_batches += 1,
            None => {}
        }
    }

    /// Whether more was given since the sink has prepared than memory is there for.
    pub(crate) fn is_crowded(&self) -> bool {
        self.given_bytes > self.limit()
    }

    /// Lets rows that were given leave memory, to be kept in the store as far as there is room. Where there is none, a sink that
    /// can prepare is one that works: they are forgotten, and to give them to it again would take going back.
    pub(crate) async fn put_away(&mut self, may_prepare: bool) -> Result<(), JobError> {
        if self.is_whole && self.stored_bytes + self.given_bytes as u64 <= self.stored_bytes_max {
            match self.store_from(0).await {
                Ok(()) => return Ok(()),
                Err(JobError::Checkpoint { kind, .. }) if JobError::may_pass(kind) && may_prepare => {}
                Err(error) => return Err(error),
            }
        }
        if may_prepare {
            self.given_bytes = 0;
            self.is_whole = false;
            let given = std::mem::take(&mut self.given);
            let kept = self.entries.split_off(given);
            for entry in std::mem::replace(&mut self.entries, kept) {
                self.drop_entry(entry);
            }
        }
        Ok(())
    }

    /// Whether so much of what the sink was given is in the store that it should prepare before there is no room.
    pub(crate) fn wants_epoch(&self) -> bool {
        let stored = self.entries.iter().take(self.given).map(|entry| match entry {
            Entry::Stored(object, _) => object.bytes,
            Entry::Memory(_) => 0,
        });
        stored.sum::<u64>() >= self.stored_bytes_max / 2
    }

    fn drop_entry(&mut self, entry: Entry) {
        if let Entry::Stored(object, _) = entry {
            self.stored_bytes = self.stored_bytes.saturating_sub(object.bytes);
            self.superfluous.push(object.name);
        }
    }

    /// The sink has prepared all it was given.
    pub(crate) fn prepared(&mut self) {
        // An object of which all was given is not owed either.
        if let Some(Entry::Stored(_, Some(batches))) = self.entries.get(self.given)
            && batches.len() == self.given_batches
        {
            (self.given, self.given_batches) = (self.given + 1, 0);
        }
        for _ in 0..std::mem::take(&mut self.given) {
            if let Some(entry) = self.entries.pop_front() {
                self.drop_entry(entry);
            }
        }
        self.given_bytes = 0;
        self.skip = self.given_batches;
        self.is_whole = true;
    }

    /// Lets rows that wait leave memory, if they are many.
    pub(crate) async fn spill(&mut self) -> Result<(), JobError> {
        if self.waiting_bytes < self.limit() / WAITING_SHARE {
            return Ok(());
        }
        self.store_from(self.given).await
    }

    /// Makes all of it durable, and says where it is.
    pub(crate) async fn keep(&mut self, prepared: u64) -> Result<OutboxState, JobError> {
        self.fold().await?;
        self.store_from(self.given).await?;
        self.store_from(0).await?;
        let objects = self.entries.iter().filter_map(|entry| match entry {
            Entry::Stored(object, _) => Some(object.clone()),
            Entry::Memory(_) => None,
        });
        Ok(OutboxState { prepared, skip: self.skip, objects: objects.collect(), columns: self.columns })
    }

    /// Takes small objects before the rows that come last back into memory, to become one object with them: epochs come and
    /// go, and a sink that is down for long is not owed an object by each of them. Each row is written again a few times at
    /// most, since what it is put together with is about as large.
    async fn fold(&mut self) -> Result<(), JobError> {
        let is_memory = |entry: &Entry| matches!(entry, Entry::Memory(_));
        let mut first = self.entries.len() - self.entries.iter().rev().take_while(|entry| is_memory(entry)).count();
        if first == self.entries.len() {
            return Ok(());
        }
        // Nothing of it was given, and none of what is after it.
        let least = self.given + usize::from(self.given_batches > 0 || self.giving.is_some());
        while first > least {
            let Some(Entry::Stored(object, _)) = self.entries.get(first - 1) else { break };
            let waiting = self.waiting_bytes as u64;
            if object.bytes >= (self.kept_bytes_max / WAITING_SHARE) as u64
                || object.bytes > SMALL_BYTES.max(2 * waiting)
                // As much is in memory as may be.
                || waiting >= (self.limit() as u64).max(SMALL_BYTES)
            {
                break;
            }
            let (object, store) = (object.clone(), Arc::clone(&self.store));
            let batches = load(store.as_ref(), self.generation, &object).await?;
            first -= 1;
            if let Some(entry) = self.entries.remove(first) {
                self.drop_entry(entry);
            }
            for rows in batches.into_iter().rev() {
                self.waiting_bytes += bytes_of(&rows.0);
                self.entries.insert(first, Entry::Memory(rows));
            }
        }
        Ok(())
    }

    /// Makes an object of each run of rows in memory from that entry on, up to the cursor or, if that is where it begins, to
    /// the end: an object is on one side of the cursor.
    async fn store_from(&mut self, from: usize) -> Result<(), JobError> {
        let to = if from < self.given { self.given } else { self.entries.len() };
        let is_given = from < self.given;
        let mut at = from;
        let mut end = to;
        while at < end {
            let run = self.entries.range(at..end).map_while(|entry| match entry {
                Entry::Memory(rows) => Some(rows),
                Entry::Stored(..) => None,
            });
            // What is being given is an object by itself, which is before the cursor or behind it as a whole.
            let is_alone = at == self.given && self.giving.is_some();
            // An object is read as a whole.
            let (mut bytes, most) = (0, (self.kept_bytes_max / WAITING_SHARE).max(PIECE_BYTES));
            let is_within = |rows: &&Rows| {
                let is_within = bytes < most;
                bytes += bytes_of(&rows.0);
                is_within
            };
            let run: Vec<&Rows> = run.take(if is_alone { 1 } else { usize::MAX }).take_while(is_within).collect();
            if run.is_empty() {
                at += 1;
                continue;
            }
            let (length, bytes) = (run.len(), run.iter().map(|(rows, _)| bytes_of(rows)).sum::<usize>());
            self.count += 1;
            let Laid { reference: object, bytes: encoded, .. } =
                encode(format!("{}{:010}", self.prefix, self.count), &run)?;
            if let Err(error) = self.store.create(&object.name, &encoded).await {
                // It may be there nevertheless, and the next attempt may have more in it.
                self.superfluous.push(object.name);
                return Err(error.into());
            }
            self.stored_bytes += object.bytes;
            self.entries.drain(at..at + length);
            self.entries.insert(at, Entry::Stored(object, None));
            end -= length - 1;
            if is_given {
                self.given -= length - 1;
                self.given_bytes = self.given_bytes.saturating_sub(bytes);
            } else {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
            }
            at += 1;
        }
        Ok(())
    }

    /// What nobody needs once the manifest that is written next is decided.
    pub(crate) fn take_superfluous(&mut self) -> Vec<String> {
        std::mem::take(&mut self.superfluous)
    }

    /// Removes objects. What cannot be removed is removed by a later start.
    pub(crate) async fn remove(&self, names: &[String]) {
        for name in names {
            if let Err(error) = self.store.delete(name).await {
                tracing::debug!(%error, name, "rows a sink has taken could not be removed");
            }
        }
    }
}

const ROWS: &str = "rows";
const TIMES: &str = "times";

fn internal(error: arrow::error::ArrowError) -> JobError {
    JobError::internal("outbox", error)
}

fn encode(name: String, run: &[&Rows]) -> Result<Laid, JobError> {
    let schema = run.first().map_or_else(|| Arc::new(Schema::empty()), |(first, _)| first.schema());
    let rows = concat_batches(&schema, run.iter().map(|(rows, _)| rows)).map_err(internal)?;
    let times: Int64Array = run.iter().flat_map(|(_, times)| times.iter().copied()).collect();
    let times = RecordBatch::try_from_iter([(TIMES, Arc::new(times) as _)]).map_err(internal)?;
    let cut = |whole: &RecordBatch| {
        let begins = (0..whole.num_rows()).step_by(BATCH_ROWS);
        begins.map(|begin| whole.slice(begin, BATCH_ROWS.min(whole.num_rows() - begin))).collect::<Vec<_>>()
    };
    let tables = BTreeMap::from([(ROWS.to_owned(), cut(&rows)), (TIMES.to_owned(), cut(&times))]);
    let mut laying = Laying::begin(name, &OperatorState { tables }, &Shelf::default());
    while !laying.go_on(usize::MAX)? {}
    laying.finish()
}

async fn load(store: &dyn CheckpointStore, generation: u64, object: &ObjectRef) -> Result<Vec<Rows>, JobError> {
    let mut tables = match states::read(store, object).await {
        Ok(state) => state.tables,
        // Only a later start removes what this one still needs.
        Err(JobError::Checkpoint { kind: ErrorKind::Corrupt, .. }) if store.read(&object.name).await?.is_none() => {
            return Err(JobError::Fenced { generation: generation + 1 });
        }
        Err(error) => return Err(error),
    };
    let (rows, times) = (tables.remove(ROWS).unwrap_or_default(), tables.remove(TIMES).unwrap_or_default());
    let is_right = rows.len() == times.len()
        && rows.iter().zip(&times).all(|(rows, times)| {
            rows.num_rows() == times.num_rows()
                && times.columns().first().is_some_and(|times| times.as_primitive_opt::<Int64Type>().is_some())
        });
    if !is_right {
        let message = format!("{} has no times for its rows", object.name);
        return Err(JobError::Checkpoint { kind: ErrorKind::Corrupt, message });
    }
    let times = times.into_iter().map(|times| times.column(0).as_primitive::<Int64Type>().values().clone());
    Ok(rows.into_iter().zip(times).collect())
}

#[cfg(test)]
mod tests;
