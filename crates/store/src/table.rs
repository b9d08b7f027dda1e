//! One table in memory: its files, its tail, and how far it is written.
//!
//! Invariant: files and tail change together under one lock, so whoever takes a [`Snapshot`] sees
//! every row exactly once: before, during and after a flush or a compaction.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use weir_base::{StreamName, TenantId};
use weir_data::streams::StreamDef;
use weir_log::{Position, Record};

use crate::StoreError;
use crate::file::TableFile;
use crate::tail::{Chunk, TailMemory, TailRecord};

/// Neighbouring chunks of one size class are merged once there are so many.
const MERGE_CHUNKS: usize = 16;
/// A chunk of so many rows is left alone: more would save queries little, and every row is copied for
/// it.
const CHUNK_ROWS_MAX: usize = 1024;
/// A chunk of so many bytes is left alone.
const CHUNK_BYTES_MAX: u64 = 4 << 20;

/// What a query reads: files and tail as they were at one moment. As long as it is held, its files
/// stay on the disk and its rows stay readable.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The stream.
    pub stream: Arc<StreamDef>,
    /// The files, by partition.
    pub files: Arc<Vec<Arc<TableFile>>>,
    /// The rows not yet in files, in the order of the log.
    pub tail: Vec<TailRecord>,
    /// Up to which offset of each shard the rows are in `files`.
    pub positions: BTreeMap<u16, u64>,
}

/// Why a table is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableDamage {
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
    pub(crate) what: String,
}

impl TableDamage {
    pub(crate) fn error(&self) -> StoreError {
        StoreError::Corrupt { file: self.file.clone(), offset: self.offset, what: self.what.clone() }
    }
}

/// A table.
pub(crate) struct Table {
    pub(crate) tenant: TenantId,
    pub(crate) name: StreamName,
    /// Grows by columns at the end.
    stream: Mutex<Arc<StreamDef>>,
    state: Mutex<TableState>,
    /// Held by whoever writes the tail to files.
    pub(crate) flushing: Mutex<()>,
    /// Held by whoever replaces or removes files.
    pub(crate) rearranging: Mutex<()>,
    dropped: AtomicBool,
}

#[derive(Default)]
pub(crate) struct TableState {
    pub(crate) files: Arc<Vec<Arc<TableFile>>>,
    pub(crate) tail: Vec<Arc<Chunk>>,
    /// Rows of records before this offset are in files, by shard.
    pub(crate) positions: BTreeMap<u16, u64>,
    /// Records up to this offset have been seen, by shard.
    seen: BTreeMap<u16, u64>,
    /// The last flush that has not succeeded takes the records of this shard up to this offset:
    /// they are not merged.
    frozen: Option<(u16, u64)>,
    pub(crate) damage: Option<TableDamage>,
    pub(crate) unflushed_bytes: u64,
    pub(crate) unflushed_rows: u64,
    /// When the oldest unflushed row came, by the monotonic clock.
    pub(crate) oldest: Option<Duration>,
    pub(crate) failures: u32,
    /// Not before this time, by the monotonic clock, is a failed flush tried again.
    pub(crate) retry_at: Duration,
    pub(crate) last_error: Option<String>,
    /// Not before this time, by the monotonic clock, is a merge tried again.
    pub(crate) merge_at: Duration,
    /// Records since chunks were last merged.
    appended: usize,
    snapshot: Option<Arc<Snapshot>>,
}

/// The rows one flush writes.
pub(crate) struct FlushInput {
    pub(crate) shard: u16,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) chunks: Vec<Arc<Chunk>>,
}

impl Table {
    pub(crate) fn new(tenant: TenantId, name: StreamName, stream: Arc<StreamDef>) -> Self {
        Self {
            tenant,
            name,
            stream: Mutex::new(stream),
            state: Mutex::default(),
            flushing: Mutex::new(()),
            rearranging: Mutex::new(()),
            dropped: AtomicBool::new(false),
        }
    }

    /// The stream as it is now.
    pub(crate) fn definition(&self) -> Arc<StreamDef> {
        Arc::clone(&self.stream.lock())
    }

    /// The stream has got more columns.
    pub(crate) fn redefine(&self, stream: Arc<StreamDef>) {
        {
            let mut known = self.stream.lock();
            if Arc::ptr_eq(&known, &stream) {
                return;
            }
            *known = stream;
        }
        self.change(|_| ());
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn mark_dropped(&self) {
        self.dropped.store(true, Ordering::Release);
    }

    /// Looks at the state without changing what a snapshot shows.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut TableState) -> T) -> T {
        look(&mut self.state.lock())
    }

    /// Changes the state; the next snapshot is made anew.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut TableState) -> T) -> T {
        let mut state = self.state.lock();
        state.snapshot = None;
        change(&mut state)
    }

    pub(crate) fn position(&self, shard: u16) -> u64 {
        self.state.lock().positions.get(&shard).copied().unwrap_or(0)
    }

    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        let mut state = self.state.lock();
        if let Some(damage) = &state.damage {
            return Err(damage.error());
        }
        if let Some(snapshot) = &state.snapshot {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot = Arc::new(Snapshot {
            stream: self.definition(),
            files: Arc::clone(&state.files),
            tail: state.tail.iter().map(|chunk| TailRecord { chunk: Arc::clone(chunk) }).collect(),
            positions: state.positions.clone(),
        });
        state.snapshot = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// Appends a record to the tail. Answers whether neighbouring chunks should be merged.
    pub(crate) fn append(&self, record: &Record, memory: &Arc<TailMemory>, now: Duration) -> bool {
        if self.is_dropped() || record.batch.num_rows() == 0 {
            return false;
        }
        let Position { shard, offset } = record.position;
        let chunk = Chunk::of_record(record, self.definition(), memory);
        self.change(|state| {
            let committed = state.positions.get(&shard).copied().unwrap_or(0);
            let seen = state.seen.get(&shard).copied().unwrap_or(0);
            if offset < committed.max(seen) {
                // In files, or in the tail: a record is taken once.
                return false;
            }
            state.seen.insert(shard, offset + 1);
            state.unflushed_bytes += chunk.bytes;
            state.unflushed_rows += chunk.rows as u64;
            state.oldest.get_or_insert(now);
            state.tail.push(chunk);
            state.appended += 1;
            if state.appended < MERGE_CHUNKS {
                return false;
            }
            state.appended = 0;
            true
        })
    }

    /// Merges neighbouring small chunks, so that the tail stays a short list.
    pub(crate) fn merge_chunks(&self) -> Result<(), StoreError> {
        while let Some(neighbours) = self.look(find_neighbours) {
            let Some(merged) = Chunk::merge(&neighbours)? else { return Ok(()) };
            self.change(|state| {
                // A flush may have frozen or taken them meanwhile.
                let at = state.tail.iter().position(|chunk| Arc::ptr_eq(chunk, &neighbours[0]));
                let Some(at) = at else { return };
                let still = state.tail.get(at..at + neighbours.len()).is_some_and(|now| {
                    now.iter().zip(&neighbours).all(|(now, then)| Arc::ptr_eq(now, then))
                        && now.iter().all(|chunk| !is_frozen(state.frozen, chunk))
                });
                if still {
                    neighbours.iter().for_each(|chunk| chunk.leave());
                    let before: u64 = neighbours.iter().map(|chunk| chunk.bytes).sum();
                    state.unflushed_bytes = (state.unflushed_bytes + merged.bytes).saturating_sub(before);
                    state.tail.splice(at..at + neighbours.len(), [merged]);
                }
            });
        }
        Ok(())
    }

    /// The rows the next flush writes: the oldest of one shard, up to about `bytes_max`; what is more
    /// than that is cut into flushes of about one size, none of which is a little rest. Until it
    /// succeeds they are not merged with others: if nobody can tell whether its transaction took
    /// place, the tail must still have a border where the table's position may be.
    pub(crate) fn flush_input(&self, bytes_max: u64) -> Option<FlushInput> {
        let mut state = self.state.lock();
        let shard = state.tail.first()?.shard;
        let all: u64 = state.tail.iter().filter(|chunk| chunk.shard == shard).map(|chunk| chunk.bytes).sum();
        let share = all / all.div_ceil(bytes_max.max(1)).max(1);
        let mut bytes = 0_u64;
        let mut chunks = Vec::new();
        for chunk in state.tail.iter().filter(|chunk| chunk.shard == shard) {
            if bytes >= share || !chunks.is_empty() && bytes.saturating_add(chunk.bytes) > bytes_max {
                break;
            }
            bytes = bytes.saturating_add(chunk.bytes);
            chunks.push(Arc::clone(chunk));
        }
        let to = chunks.last()?.last_offset() + 1;
        state.frozen = Some((shard, to));
        Some(FlushInput { shard, from: state.positions.get(&shard).copied().unwrap_or(0), to, chunks })
    }

    /// The flush is committed: its files take the place of its rows.
    pub(crate) fn flushed(&self, input: &FlushInput, files: Vec<Arc<TableFile>>, now: Duration) {
        // Dropped after the table is free again.
        let _gone: Vec<Arc<Chunk>> = self.change(|state| {
            add_files(state, files);
            state.positions.insert(input.shard, input.to);
            state.frozen = None;
            let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(&mut state.tail)
                .into_iter()
                .partition(|chunk| chunk.shard == input.shard && chunk.first_offset() < input.to);
            state.tail = left;
            state.count_tail();
            // What is left came while the flush ran: it is younger than now by less than that.
            state.oldest = (!state.tail.is_empty()).then_some(now);
            state.failures = 0;
            state.retry_at = Duration::ZERO;
            state.last_error = None;
            gone.iter().for_each(|chunk| chunk.leave());
            gone
        });
    }

    /// Files were replaced: `removed` are unlinked once no snapshot holds them.
    pub(crate) fn replace_files(&self, removed: &[Arc<TableFile>], added: Vec<Arc<TableFile>>) {
        for file in removed {
            file.retire();
        }
        self.change(|state| {
            Arc::make_mut(&mut state.files).retain(|file| !removed.iter().any(|gone| gone.entry.id == file.entry.id));
            add_files(state, added);
        });
    }

    /// Takes over positions and files from the catalogue. `files` is given the files known so far.
    pub(crate) fn reload(
        &self,
        positions: Vec<(u16, u64)>,
        files: impl FnOnce(&[Arc<TableFile>]) -> Vec<Arc<TableFile>>,
    ) {
        let _gone: Vec<Arc<Chunk>> = self.change(|state| {
            let now = files(&state.files);
            for file in state.files.iter().filter(|file| now.iter().all(|kept| !Arc::ptr_eq(kept, file))) {
                file.retire();
            }
            state.files = Arc::default();
            add_files(state, now);
            state.positions = positions.into_iter().collect();
            let positions = &state.positions;
            let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(&mut state.tail).into_iter().partition(|chunk| {
                positions.get(&chunk.shard).is_some_and(|position| chunk.first_offset() < *position)
            });
            state.tail = left;
            state.count_tail();
            gone.iter().for_each(|chunk| chunk.leave());
            gone
        });
    }

    /// The first offset of a shard that is not in files; `None` if all is.
    pub(crate) fn first_unflushed(&self, shard: u16) -> Option<u64> {
        let state = self.state.lock();
        state.tail.iter().find(|chunk| chunk.shard == shard).map(|chunk| chunk.first_offset())
    }

    /// Forgets everything: the tenant is gone.
    pub(crate) fn clear(&self) {
        let (files, _tail) = self.change(|state| {
            state.tail.iter().for_each(|chunk| chunk.leave());
            state.unflushed_bytes = 0;
            state.unflushed_rows = 0;
            state.oldest = None;
            state.positions.clear();
            (std::mem::take(&mut state.files), std::mem::take(&mut state.tail))
        });
        for file in files.iter() {
            file.retire();
        }
    }
}

impl TableState {
    fn count_tail(&mut self) {
        self.unflushed_bytes = self.tail.iter().map(|chunk| chunk.bytes).sum();
        self.unflushed_rows = self.tail.iter().map(|chunk| chunk.rows as u64).sum();
    }
}

fn add_files(state: &mut TableState, files: Vec<Arc<TableFile>>) {
    if files.is_empty() {
        return;
    }
    let all = Arc::make_mut(&mut state.files);
    all.extend(files);
    all.sort_by(|left, right| {
        (left.entry.partition.as_str(), left.entry.id).cmp(&(right.entry.partition.as_str(), right.entry.id))
    });
}

fn is_frozen(frozen: Option<(u16, u64)>, chunk: &Chunk) -> bool {
    frozen.is_some_and(|(shard, to)| chunk.shard == shard && chunk.first_offset() < to)
}

/// Chunks are merged with their like, sixteen or more at a time: a row is copied a few times, not
/// once for every later record.
fn size_class(chunk: &Chunk) -> usize {
    if chunk.bytes >= CHUNK_BYTES_MAX {
        return 2;
    }
    match chunk.rows {
        0..64 => 0,
        64..CHUNK_ROWS_MAX => 1,
        _ => 2,
    }
}

fn find_neighbours(state: &mut TableState) -> Option<Vec<Arc<Chunk>>> {
    let mut begin = 0;
    while begin < state.tail.len() {
        let first = &state.tail[begin];
        let class = size_class(first);
        let alike = state.tail[begin..]
            .iter()
            .take_while(|chunk| {
                chunk.shard == first.shard
                    && size_class(chunk) == class
                    && !chunk.is_spilled()
                    && !is_frozen(state.frozen, chunk)
            })
            .count();
        if class < 2 && alike >= MERGE_CHUNKS {
            // All of one class at once, as far as they fit.
            let mut bytes = 0;
            let mut rows = 0;
            let fits = state.tail[begin..begin + alike]
                .iter()
                .take_while(|chunk| {
                    bytes += chunk.bytes;
                    rows += chunk.rows;
                    bytes <= CHUNK_BYTES_MAX * 2 && rows <= CHUNK_ROWS_MAX * 4
                })
                .count();
            if fits >= 2 {
                return Some(state.tail[begin..begin + fits].to_vec());
            }
        }
        begin += alike.max(1);
    }
    None
}
