//! The writer of a shard: the single owner of its end, its dedup index and its producers.
//!
//! One commit: decide what of each request is new, merge the rows of each (tenant, stream), lay out
//! one block, write, fdatasync, advance the durable end, call the subscribers, answer.
//!
//! Invariant: a commit is built only when the one before is durable, so at most the last block of
//! a shard is above the watermark. A file whose write or sync failed is never written again.

mod plan;
mod segments;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use hashbrown::{HashMap, HashSet};
use weir_base::{StreamName, TenantId, Timestamp};

use crate::dedup::{Dedup, FROZEN_MAX, KeyHasher};
use crate::format::{BlockBuilder, BlockFrame, BlockKind, Entry, IndexEntry, RowsEntry};
use crate::producers::Producers;
use crate::queue::Pending;
use crate::rows::{self, Encoder};
use crate::segment::SegmentFile;
use crate::shard::{Segment, Shard};
use crate::stats::add;
use crate::{Appended, Commit, Durability, LogError, Record};
use plan::Plan;
use segments::remove_spare;

/// Schemas kept encoded; past it the cache begins anew.
const SCHEMAS_CACHED_MAX: usize = 4096;
/// So many sets of columns of one stream in one segment; rows with others are stored with all columns
/// of the stream. Columns without a value are left out, so any tenant could make a new set a commit.
const COLUMN_SETS_MAX: usize = 64;
/// A checkpoint at least every so many segments: what comes after it is read in full by an open.
const CHECKPOINT_SEGMENTS: u64 = 4;
/// After a failed watermark or segment, try again no sooner than this.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// What a file system reads and writes at once at least, in bytes.
const PAGE: u64 = 4096;

/// The segment being written.
struct Current {
    file: SegmentFile,
    segment: Arc<Segment>,
    /// Schemas this segment holds already.
    schemas: HashSet<u64>,
    /// How many of them came with each stream.
    column_sets: HashMap<StreamName, usize>,
    messages: Vec<(u64, Arc<Vec<u8>>)>,
    index: BTreeMap<(TenantId, StreamName), IndexEntry>,
}

/// The writer of a shard.
pub(crate) struct Writer {
    encoder: Encoder,
    builder: BlockBuilder,
    buffer: Vec<u8>,
    schema_cache: HashMap<SchemaRef, (u64, Arc<Vec<u8>>)>,
    /// The schemas in the block in `buffer`.
    fresh: Vec<FreshSchema>,
    hasher: KeyHasher,
    dedup: Dedup,
    producers: Producers,
    current: Option<Current>,
    next_number: u64,
    /// The durable end.
    end: u64,
    /// Where the ids were last handed to the housekeeper.
    frozen_to: u64,
    /// The last commit is not yet below a watermark on disk.
    dirty: bool,
    /// When the last commit ended, by the monotonic clock.
    last_commit: Duration,
    watermark_not_before: Duration,
}

/// A schema that a block is the first of its segment to hold.
struct FreshSchema {
    id: u64,
    stream: StreamName,
    schema: SchemaRef,
    message: Arc<Vec<u8>>,
}

/// Why a commit failed.
enum Failure {
    /// The rows could not be laid out; nothing was written.
    Build(LogError),
    /// The disk refused or failed.
    Disk(LogError),
}

/// What recovery hands to the writer.
pub(crate) struct WriterStart {
    pub(crate) dedup: Dedup,
    pub(crate) producers: Producers,
    pub(crate) hasher: KeyHasher,
    pub(crate) next_number: u64,
    pub(crate) end: u64,
    pub(crate) frozen_to: u64,
}

impl Writer {
    pub(crate) fn new(start: WriterStart) -> Result<Self, LogError> {
        Ok(Self {
            encoder: Encoder::new().map_err(|error| LogError::Internal(error.to_string()))?,
            builder: BlockBuilder::default(),
            buffer: Vec::new(),
            schema_cache: HashMap::new(),
            fresh: Vec::new(),
            hasher: start.hasher,
            dedup: start.dedup,
            producers: start.producers,
            current: None,
            next_number: start.next_number,
            end: start.end,
            frozen_to: start.frozen_to,
            dirty: false,
            last_commit: Duration::ZERO,
            watermark_not_before: Duration::ZERO,
        })
    }

    /// Commits requests and answers them.
    pub(crate) fn commit(&mut self, shard: &Shard, requests: Vec<Pending>) {
        let bytes = requests.iter().map(|request| request.size).sum();
        // Before the clock is looked at for the commit itself.
        shard.committing.store(shard.clock.now().0, Ordering::SeqCst);
        self.commit_requests(shard, requests);
        shard.committing.store(i64::MAX, Ordering::SeqCst);
        shard.queue.done(bytes);
    }

    fn commit_requests(&mut self, shard: &Shard, mut requests: Vec<Pending>) {
        let started = shard.clock.monotonic();
        let time = shard.clock.now();
        if let Err(error) = self.make_ready(shard, time) {
            for request in &mut requests {
                add(&shard.counters.refused_full, 1);
                request.answer(Err(error.clone()));
            }
            return;
        }
        let mut plan = self.plan(shard, &mut requests);
        if plan.groups.is_empty() && plan.requests.is_empty() {
            self.answer(shard, &mut requests, plan.outcomes);
            return;
        }
        match self.store(shard, &mut plan, &mut requests, time, started) {
            Ok(()) => self.answer(shard, &mut requests, plan.outcomes),
            // One of them does not lay out; alone each, so that it fails alone.
            Err(Failure::Build(_)) if requests.len() > 1 => {
                for request in requests {
                    self.commit_requests(shard, vec![request]);
                }
            }
            Err(Failure::Build(error) | Failure::Disk(error)) => {
                let full = matches!(error, LogError::Full { .. });
                for request in &mut requests {
                    add(if full { &shard.counters.refused_full } else { &shard.counters.appends_failed }, 1);
                    request.answer(Err(error.clone()));
                }
            }
        }
    }

    /// Everything that may refuse a commit before it is looked at.
    fn make_ready(&mut self, shard: &Shard, time: Timestamp) -> Result<(), LogError> {
        if shard.space.is_full() {
            return Err(LogError::Full { dir: shard.dir.clone() });
        }
        let keys_max = shard.options.dedup_memory_ids_max;
        let far =
            self.end.saturating_sub(self.frozen_to) >= shard.options.segment_bytes.saturating_mul(CHECKPOINT_SEGMENTS);
        if far || self.dedup.is_due(time.0, keys_max) || shard.freeze_wanted.load(Ordering::Relaxed) {
            self.freeze(shard);
        }
        if self.dedup.recent_len() >= keys_max.saturating_mul(2) {
            // The housekeeper cannot write the ids; memory does not grow past this.
            return Err(LogError::Full { dir: shard.dir.clone() });
        }
        Ok(())
    }

    fn freeze(&mut self, shard: &Shard) {
        if self.dedup.frozen_len() >= FROZEN_MAX {
            return;
        }
        shard.freeze_wanted.store(false, Ordering::Relaxed);
        self.dedup.freeze(self.end, self.producers.states());
        self.frozen_to = self.end;
        shard.counters.recent_keys.store(0, Ordering::Relaxed);
        shard.housekeeper.raise();
    }

    fn answer(&self, shard: &Shard, requests: &mut [Pending], outcomes: Vec<Option<Appended>>) {
        for (request, outcome) in requests.iter_mut().zip(outcomes) {
            if let Some(mut outcome) = outcome {
                add(&shard.counters.appends, 1);
                outcome.end = shard.position(self.end);
                request.answer(Ok(outcome));
            }
        }
    }

    /// Merges, encodes, writes, syncs and publishes.
    fn store(
        &mut self,
        shard: &Shard,
        plan: &mut Plan,
        requests: &mut [Pending],
        time: Timestamp,
        started: Duration,
    ) -> Result<(), Failure> {
        for group in &mut plan.groups {
            if group.batches.len() > 1
                && let Some(schema) = &group.schema
            {
                let merged = rows::merge(schema, &group.batches).map_err(|error| {
                    Failure::Build(LogError::Internal(format!("cannot merge rows of {}: {error}", group.stream)))
                })?;
                group.batches = vec![merged];
            }
        }
        if self.current.is_none() {
            self.roll(shard, 0).map_err(Failure::Disk)?;
        }
        self.build(plan, time, BlockKind::Commit, shard)?;
        if !self.fits() {
            let needed = self.buffer.len() as u64;
            self.roll(shard, needed).map_err(Failure::Disk)?;
            // The new segment needs its schemas.
            self.build(plan, time, BlockKind::Commit, shard)?;
        }
        let end = shard.position(self.end + self.buffer.len() as u64);
        for (request, outcome) in requests.iter_mut().zip(&mut plan.outcomes) {
            if request.append.durability == Durability::Memory
                && let Some(mut outcome) = outcome.take()
            {
                add(&shard.counters.appends, 1);
                outcome.end = end;
                request.answer(Ok(outcome));
            }
        }
        let offset = self.end;
        let places = (offset..).zip(&plan.groups).map(|(place, group)| (&group.tenant, &group.stream, place));
        shard.watched.note(end.offset, places);
        self.write(shard, time).map_err(|error| Failure::Disk(LogError::CommitFailed(Box::new(error))))?;
        self.last_commit = shard.clock.monotonic();
        self.dirty = true;

        // Durable: take in what was decided.
        let had_keys = !plan.keys.is_empty();
        self.dedup.insert(plan.keys.drain(), time.0);
        for request in &plan.requests {
            if let Some(sequence) = request.producer {
                self.producers.insert(&request.tenant, sequence, time.0);
            }
        }
        self.producers.shrink(shard.options.producers_max);
        if had_keys {
            shard.counters.recent_keys.store(self.dedup.recent_len() as u64, Ordering::Relaxed);
        }
        shard.counters.producers.store(self.producers.len() as u64, Ordering::Relaxed);

        let mut n_rows = 0;
        let mut records = Vec::with_capacity(plan.groups.len());
        for (number, group) in plan.groups.drain(..).enumerate() {
            let Some(batch) = group.batches.into_iter().next() else { continue };
            n_rows += batch.num_rows() as u64;
            records.push(Record {
                tenant: group.tenant,
                stream: group.stream,
                position: shard.position(offset + number as u64),
                committed_at: time,
                batch,
            });
        }
        if let Some(current) = &mut self.current {
            for record in &records {
                let key = (record.tenant.clone(), record.stream.clone());
                let entry = current.index.entry(key).or_insert_with(|| IndexEntry {
                    tenant: record.tenant.clone(),
                    stream: record.stream.clone(),
                    first: record.position.offset,
                    last: 0,
                    records: 0,
                    rows: 0,
                });
                entry.last = record.position.offset;
                entry.records += 1;
                entry.rows += record.batch.num_rows() as u64;
            }
        }
        shard.recent.push(offset, self.end, &records, shard.options.recent_bytes_max);
        shard.watched.wake(records.iter().map(|record| (&record.tenant, &record.stream)));
        if !records.is_empty() {
            let commit = Commit { records, end };
            for subscriber in shard.subscribers.iter() {
                subscriber.committed(&commit);
            }
        }
        add(&shard.counters.commits, 1);
        add(&shard.counters.rows, n_rows);
        shard.counters.observe_commit(self.last_commit.saturating_sub(started));
        Ok(())
    }

    /// Lays out the block in `buffer`, with the schemas the current segment does not hold yet.
    fn build(&mut self, plan: &Plan, time: Timestamp, kind: BlockKind, shard: &Shard) -> Result<(), Failure> {
        let failed = |error: arrow::error::ArrowError| {
            Failure::Build(LogError::Internal(format!("cannot encode rows: {error}")))
        };
        self.builder.clear();
        self.fresh.clear();
        for group in &plan.groups {
            let Some(batch) = group.batches.first() else { continue };
            let (mut schema, mut message) = self.schema(batch.schema_ref());
            let mut stored = batch.clone();
            if !self.is_held(schema)
                && self.column_sets(&group.stream) >= COLUMN_SETS_MAX
                && let Some(wide) = widen(&group.stream, batch)
            {
                (schema, message) = self.schema(wide.schema_ref());
                stored = wide;
            }
            if !self.is_held(schema) {
                let write = |out: &mut Vec<u8>| {
                    out.extend_from_slice(&message);
                    Ok::<(), std::convert::Infallible>(())
                };
                let Ok(()) = self.builder.push_body(write, |body| Entry::Schema { body, id: schema });
                let stream = group.stream.clone();
                self.fresh.push(FreshSchema { id: schema, stream, schema: stored.schema(), message });
            }
            let (min_time, max_time) = rows::time_range(batch);
            let encoder = &mut self.encoder;
            self.builder
                .push_body(
                    |out| encoder.batch(&stored, out),
                    |body| {
                        Entry::Rows(RowsEntry {
                            body,
                            schema,
                            rows: batch.num_rows() as u32,
                            min_time,
                            max_time,
                            tenant: group.tenant.clone(),
                            stream: group.stream.clone(),
                            id_column: group.id_column.map(str::to_owned),
                        })
                    },
                )
                .map_err(failed)?;
        }
        for request in &plan.requests {
            self.builder.push(Entry::Request(request.clone()));
        }
        self.builder.finish(&self.frame(shard, time, kind), &mut self.buffer);
        if u32::try_from(self.buffer.len()).is_err() {
            return Err(Failure::Build(LogError::Internal("a commit larger than 4 GiB".to_owned())));
        }
        Ok(())
    }

    /// Whether the current segment holds a schema, or will with the block being laid out.
    fn is_held(&self, schema: u64) -> bool {
        self.current.as_ref().is_some_and(|current| current.schemas.contains(&schema))
            || self.fresh.iter().any(|fresh| fresh.id == schema)
    }

    /// How many schemas the current segment holds because of a stream.
    fn column_sets(&self, stream: &StreamName) -> usize {
        let held = self.current.as_ref().and_then(|current| current.column_sets.get(stream)).copied().unwrap_or(0);
        held + self.fresh.iter().filter(|fresh| fresh.stream == *stream).count()
    }

    fn frame(&self, shard: &Shard, time: Timestamp, kind: BlockKind) -> BlockFrame {
        BlockFrame {
            log_id: shard.log_id,
            shard: shard.number,
            kind,
            offset: self.end,
            watermark: self.end,
            time: time.0,
        }
    }

    fn schema(&mut self, schema: &SchemaRef) -> (u64, Arc<Vec<u8>>) {
        if let Some((id, message)) = self.schema_cache.get(schema) {
            return (*id, Arc::clone(message));
        }
        if self.schema_cache.len() >= SCHEMAS_CACHED_MAX {
            self.schema_cache.clear();
        }
        let (id, message) = self.encoder.schema(schema);
        let message = Arc::new(message);
        self.schema_cache.insert(Arc::clone(schema), (id, Arc::clone(&message)));
        (id, message)
    }

    fn fits(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.file.file_offset(self.end) + self.buffer.len() as u64 <= current.file.len)
    }

    /// Writes `buffer` at the end and makes it durable.
    fn write(&mut self, shard: &Shard, time: Timestamp) -> Result<(), LogError> {
        let Some(current) = &mut self.current else {
            return Err(LogError::Internal("no segment to write to".to_owned()));
        };
        let at = current.file.file_offset(self.end);
        // Zeros up to the end of the page, where there are zeros already: the rest of a page which is not in memory, because the
        // segment was filled past the page cache, would be read first.
        let len = self.buffer.len();
        let page_end = (at + len as u64).next_multiple_of(PAGE).min(current.file.len);
        self.buffer.resize(len.max((page_end - at) as usize), 0);
        let written = current.file.file.write_all_at(&self.buffer, at);
        self.buffer.truncate(len);
        let written = written.and_then(|()| {
            add(&shard.counters.syncs, 1);
            current.file.file.sync_data()
        });
        if let Err(error) = written {
            return Err(self.give_up(shard, error));
        }
        let mut schemas = HashMap::new();
        for FreshSchema { id, stream, schema, message } in self.fresh.drain(..) {
            current.schemas.insert(id);
            *current.column_sets.entry(stream).or_default() += 1;
            current.messages.push((id, message));
            schemas.insert(id, schema);
        }
        if !schemas.is_empty() {
            shard.keep_schemas(schemas);
        }
        self.end += self.buffer.len() as u64;
        add(&shard.counters.bytes_written, self.buffer.len() as u64);
        current.segment.end.store(self.end, Ordering::Release);
        current.segment.last_time.store(time.0, Ordering::Release);
        shard.durable.store(self.end, Ordering::Release);
        Ok(())
    }

    /// Whether the last commit still waits for its watermark.
    pub(crate) fn watermark_due(&self, now: Duration, idle: Duration) -> bool {
        self.dirty && now >= self.last_commit + idle && now >= self.watermark_not_before
    }

    /// Whether there will be something to do without a new append.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Writes an empty block, so that the last commit is below a watermark on disk.
    pub(crate) fn watermark(&mut self, shard: &Shard) -> Result<(), LogError> {
        if !self.dirty {
            return Ok(());
        }
        let time = shard.clock.now();
        self.builder.clear();
        self.fresh.clear();
        self.builder.finish(&self.frame(shard, time, BlockKind::Commit), &mut self.buffer);
        let begin = self.end;
        let written = if self.fits() { self.write(shard, time) } else { self.roll(shard, 0) };
        if self.end > begin {
            shard.recent.push(begin, self.end, &[], shard.options.recent_bytes_max);
        }
        match written {
            Ok(()) => self.dirty = false,
            Err(_) => self.watermark_not_before = shard.clock.monotonic() + RETRY_AFTER,
        }
        written
    }

    /// What can be done while nobody waits.
    pub(crate) fn idle(&mut self, shard: &Shard) {
        let now = shard.clock.monotonic();
        if self.watermark_due(now, shard.options.idle_watermark)
            && let Err(error) = self.watermark(shard)
        {
            tracing::warn!(error = %weir_base::error::chain(&error), "cannot write the watermark of an idle shard");
        }
        if shard.freeze_wanted.load(Ordering::Relaxed) {
            self.freeze(shard);
        }
    }

    /// Leaves the shard in good order: the last commit below a watermark, no space held.
    pub(crate) fn finish(&mut self, shard: &Shard) {
        if self.current.is_none()
            && let Err(error) = self.watermark(shard)
        {
            tracing::warn!(error = %weir_base::error::chain(&error), "cannot write the last watermark");
        }
        // The footer is a watermark too.
        self.seal(shard);
        self.dirty = false;
        if self.frozen_to < self.end {
            self.freeze(shard);
        }
        if let Some(spare) = shard.spare.lock().take() {
            remove_spare(shard, &spare);
        }
    }
}

/// From now on appends are refused, and the reserve is free for everything else.
pub(crate) fn enter_full(shard: &Shard) {
    if !shard.space.full.swap(true, Ordering::AcqRel) {
        tracing::error!(dir = %shard.space.dir.display(), "the disk is full, appends are refused until there is space");
    }
    if let Err(error) = shard.space.give_reserve() {
        tracing::error!(error = %weir_base::error::chain(&error), "cannot give the reserve free");
    }
    shard.housekeeper.raise();
}

/// The batch with all columns of its stream; `None` if it does not fit them.
fn widen(stream: &StreamName, batch: &RecordBatch) -> Option<RecordBatch> {
    let known = weir_data::streams::stream(stream.as_str())?;
    weir_data::batch::conform(batch, &known.schema).ok()
}

/// The schema under which parts of a stream may be merged: the stream's own, if the batch has only
/// its columns, in its order.
pub(crate) fn merge_schema(stream: &StreamName, batch: &Schema) -> Result<Option<SchemaRef>, LogError> {
    let Some(known) = weir_data::streams::stream(stream.as_str()) else { return Ok(None) };
    let mut fields = known.schema.fields().iter();
    for field in batch.fields() {
        let Some(expected) = fields.find(|expected| expected.name() == field.name()) else {
            return match known.schema.field_with_name(field.name()) {
                Ok(_) => Ok(None),
                Err(_) => Err(LogError::Schema {
                    stream: stream.to_string(),
                    problem: format!("column {} is not in the schema", field.name()),
                }),
            };
        };
        if expected.data_type() != field.data_type() {
            return Err(LogError::Schema {
                stream: stream.to_string(),
                problem: format!(
                    "column {} has type {} where {} is expected",
                    field.name(),
                    field.data_type(),
                    expected.data_type()
                ),
            });
        }
    }
    Ok(Some(Arc::clone(&known.schema)))
}
