//! The tail of a table: rows that are durable in the log and not yet in files.
//!
//! Decoded batches are kept under one byte budget for all tables. Past it the oldest keep only
//! their places in the log and are read back when somebody asks. The budget counts what is really
//! held: rows a query still looks at after they were flushed count until it is done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arrow::array::{Array, RecordBatch};
use parking_lot::{Mutex, RwLock};
use weir_base::{ErrorKind, StreamName, TenantId};
use weir_data::batch::concat_sparse;
use weir_data::streams::StreamDef;
use weir_log::{Position, Record};

use crate::StoreError;
use crate::seam::RecordSource;

/// The memory of all tails.
#[derive(Default)]
pub(crate) struct TailMemory {
    bytes: AtomicU64,
    spilled_bytes: AtomicU64,
    source: RwLock<Option<Weak<dyn RecordSource>>>,
    /// Places in the log that somebody may still read back, with how many chunks begin there. They
    /// hold the log like unflushed rows do.
    pins: Mutex<BTreeMap<Position, usize>>,
    /// Chunks in the order they came, the oldest first. Entries of chunks that are gone are dropped
    /// when they come to the front, and all at once when they are the majority.
    oldest: Mutex<VecDeque<Weak<Chunk>>>,
}

impl TailMemory {
    pub(crate) fn attach(&self, source: Weak<dyn RecordSource>) {
        *self.source.write() = Some(source);
    }

    pub(crate) fn source(&self) -> Option<Arc<dyn RecordSource>> {
        self.source.read().as_ref().and_then(Weak::upgrade)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes.load(Ordering::Relaxed)
    }

    /// The first place in a shard that spilled rows still need.
    pub(crate) fn first_pin(&self, shard: u16) -> Option<u64> {
        let from = Position { shard, offset: 0 };
        let to = Position { shard, offset: u64::MAX };
        self.pins.lock().range(from..=to).next().map(|(position, _)| position.offset)
    }

    /// Drops the decoded rows of the oldest chunks until `bytes_max` holds.
    pub(crate) fn make_room(&self, bytes_max: u64) {
        if self.bytes() <= bytes_max {
            return;
        }
        let mut oldest = self.oldest.lock();
        while self.bytes() > bytes_max {
            let Some(chunk) = oldest.pop_front() else { return };
            if let Some(chunk) = chunk.upgrade() {
                chunk.spill();
            }
        }
    }

    fn remember(&self, chunk: &Arc<Chunk>) {
        let mut oldest = self.oldest.lock();
        while oldest.front().is_some_and(|front| front.strong_count() == 0) {
            oldest.pop_front();
        }
        if oldest.len() >= 1024 && oldest.len().is_power_of_two() {
            oldest.retain(|chunk| chunk.strong_count() > 0);
        }
        oldest.push_back(Arc::downgrade(chunk));
    }
}

/// What a column costs beside its values: headers of arrays and buffers. Of a record of one row it
/// is most of the cost.
const COLUMN_BYTES: usize = 256;

/// Bytes the rows of a batch take, without what they share with other batches.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> u64 {
    let bytes = |column: &arrow::array::ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0) + COLUMN_BYTES;
    let bytes: usize = batch.columns().iter().map(bytes).sum();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Neighbouring records of one table, kept as one batch: single rows would cost more in array
/// headers than in values.
pub(crate) struct Chunk {
    tenant: TenantId,
    stream: StreamName,
    definition: Arc<StreamDef>,
    pub(crate) shard: u16,
    /// Where the records begin, ascending.
    pub(crate) offsets: Vec<u64>,
    pub(crate) rows: usize,
    pub(crate) bytes: u64,
    state: Mutex<ChunkState>,
    memory: Arc<TailMemory>,
}

struct ChunkState {
    batch: Option<RecordBatch>,
    /// No table has this chunk any more, only snapshots do: the log need not keep its rows, so they must
    /// not be spilled.
    is_out: bool,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.state.get_mut().batch.is_some() {
            self.memory.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        } else {
            self.memory.spilled_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            self.unpin();
        }
    }
}

impl Chunk {
    pub(crate) fn of_record(record: &Record, definition: Arc<StreamDef>, memory: &Arc<TailMemory>) -> Arc<Self> {
        Self::new(
            record.tenant.clone(),
            record.stream.clone(),
            definition,
            record.position.shard,
            vec![record.position.offset],
            record.batch.clone(),
            memory,
        )
    }

    fn new(
        tenant: TenantId,
        stream: StreamName,
        definition: Arc<StreamDef>,
        shard: u16,
        offsets: Vec<u64>,
        batch: RecordBatch,
        memory: &Arc<TailMemory>,
    ) -> Arc<Self> {
        let bytes = batch_bytes(&batch);
        memory.bytes.fetch_add(bytes, Ordering::Relaxed);
        let chunk = Arc::new(Self {
            tenant,
            stream,
            definition,
            shard,
            offsets,
            rows: batch.num_rows(),
            bytes,
            state: Mutex::new(ChunkState { batch: Some(batch), is_out: false }),
            memory: Arc::clone(memory),
        });
        memory.remember(&chunk);
        chunk
    }

    /// One chunk in place of several neighbours of the same table and shard.
    pub(crate) fn merge(chunks: &[Arc<Self>]) -> Result<Option<Arc<Self>>, StoreError> {
        let Some(first) = chunks.first() else { return Ok(None) };
        let mut batches = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            // What was spilled stays spilled.
            let Some(batch) = chunk.state.lock().batch.clone() else { return Ok(None) };
            batches.push(batch);
        }
        // One with all columns of the others: streams only grow.
        let definition = chunks.iter().map(|chunk| &chunk.definition).max_by_key(|stream| stream.schema.fields().len());
        let definition = Arc::clone(definition.unwrap_or(&first.definition));
        let batch = concat_sparse(&definition.schema, &batches)
            .map_err(StoreError::rows("merge neighbouring rows of a tail"))?;
        let offsets = chunks.iter().flat_map(|chunk| chunk.offsets.iter().copied()).collect();
        let (tenant, stream) = (first.tenant.clone(), first.stream.clone());
        Ok(Some(Self::new(tenant, stream, definition, first.shard, offsets, batch, &first.memory)))
    }

    pub(crate) fn first_offset(&self) -> u64 {
        self.offsets.first().copied().unwrap_or(0)
    }

    pub(crate) fn last_offset(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(0)
    }

    pub(crate) fn is_spilled(&self) -> bool {
        self.state.lock().batch.is_none()
    }

    /// The chunk leaves its table: its rows are in files now, or in another chunk. To be called in the
    /// same step as the table changes: as soon as the table does not name the rows, the log may be
    /// released, and what is spilled after that cannot be read back.
    pub(crate) fn leave(&self) {
        self.state.lock().is_out = true;
    }

    fn position(&self) -> Position {
        Position { shard: self.shard, offset: self.first_offset() }
    }

    fn spill(&self) {
        let mut state = self.state.lock();
        if state.is_out || state.batch.is_none() {
            return;
        }
        // Pinned before the rows go and while the log still keeps them: who releases the log looks at
        // the tables first, and at the pins after that.
        *self.memory.pins.lock().entry(self.position()).or_default() += 1;
        state.batch = None;
        self.memory.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.memory.spilled_bytes.fetch_add(self.bytes, Ordering::Relaxed);
    }

    fn unpin(&self) {
        let mut pins = self.memory.pins.lock();
        let position = self.position();
        if let Some(count) = pins.get_mut(&position) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&position);
            }
        }
    }

    /// The rows, read back from the log if they are no longer in memory.
    pub(crate) fn batch(&self) -> Result<RecordBatch, StoreError> {
        if let Some(batch) = self.state.lock().batch.clone() {
            return Ok(batch);
        }
        let error = |offset: u64, kind: ErrorKind, source: Box<dyn std::error::Error + Send + Sync>| StoreError::Log {
            shard: self.shard,
            offset,
            kind,
            source,
        };
        let source = self
            .memory
            .source()
            .ok_or_else(|| error(self.first_offset(), ErrorKind::Transient, "the log is not open".into()))?;
        let mut batches = Vec::with_capacity(self.offsets.len());
        for offset in &self.offsets {
            let record = source
                .read(Position { shard: self.shard, offset: *offset })
                .map_err(|failure| error(*offset, failure.kind, failure.source))?;
            if record.tenant != self.tenant || record.stream != self.stream {
                return Err(error(*offset, ErrorKind::Internal, "the record there belongs to another table".into()));
            }
            batches.push(record.batch);
        }
        let batch = concat_sparse(&self.definition.schema, &batches)
            .map_err(StoreError::rows("put rows read back from the log together"))?;
        if batch.num_rows() != self.rows {
            return Err(error(self.first_offset(), ErrorKind::Internal, "the records there have other rows".into()));
        }
        Ok(batch)
    }
}

/// Some rows of a tail, as a snapshot sees them.
#[derive(Clone)]
pub struct TailRecord {
    pub(crate) chunk: Arc<Chunk>,
}

impl std::fmt::Debug for TailRecord {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TailRecord")
            .field("position", &self.position())
            .field("rows", &self.rows())
            .finish_non_exhaustive()
    }
}

impl TailRecord {
    /// The rows; columns that are all null may be missing. Rows that are no longer in memory are
    /// read back from the log, which blocks.
    pub fn batch(&self) -> Result<RecordBatch, StoreError> {
        self.chunk.batch()
    }

    /// Whether [`TailRecord::batch`] has to read the log.
    pub fn is_spilled(&self) -> bool {
        self.chunk.is_spilled()
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.chunk.rows
    }

    /// Bytes of the decoded rows.
    pub fn bytes(&self) -> u64 {
        self.chunk.bytes
    }

    /// Where the first of them begins in the log.
    pub fn position(&self) -> Position {
        self.chunk.position()
    }
}
