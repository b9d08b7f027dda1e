//! The state of one instance of a step, as objects of the store.
//!
//! An object holds *pieces*, each one batch of a state as an Arrow IPC stream, and an index: which pieces make which
//! tables. Batches of a state are never changed, only replaced by others, and most are those of the checkpoint before.
//! These are not written again: the index names the older object they are in, and that object stays as long as it
//! is needed. One of which less than half is still of use is written anew, so states never take more than twice
//! their size.
//!
//! ```text
//! 0  8  magic "weirste2"
//! 8     pieces
//!       the index, JSON
//!       length of the index (8), CRC32C of index and length (4)
//! ```
//!
//! The sums of index and pieces are known to whoever names them, so what is decoded is what was encoded.
//!
//! What a batch is known by is the memory of its columns: as long as somebody remembers the place, nothing else can be
//! there. What is remembered does not keep the columns themselves alive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Cursor;
use std::sync::{Arc, Weak};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};
use weir_base::{ErrorKind, crc};
use weir_component::batch::bytes_of;
use weir_component::checkpoint::CheckpointStore;
use weir_component::operator::OperatorState;

use crate::error::JobError;

const MAGIC: &[u8; 8] = b"weirste2";
/// A state is in so many older objects at most.
const NEEDS_MAX: usize = 16;

/// An object of the store that is the state of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjectRef {
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// Of its index.
    pub(crate) crc32c: u32,
    /// The older objects in which the rest of the state is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) needs: Vec<String>,
    /// Bytes of the state, wherever they are.
    pub(crate) state_bytes: u64,
}

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    /// 0: in the same object; otherwise the place of another among those it needs, from 1.
    object: usize,
    at: u64,
    bytes: u64,
    crc32c: u32,
}

/// The pieces of each table.
type Index = BTreeMap<String, Vec<Piece>>;

fn corrupt(name: &str, message: impl std::fmt::Display) -> JobError {
    JobError::Checkpoint { kind: ErrorKind::Corrupt, message: format!("{name} cannot be read: {message}") }
}

/// A batch that is in an object.
#[derive(Clone, Debug)]
struct Kept {
    schema: SchemaRef,
    columns: Vec<Weak<dyn Array>>,
    object: usize,
    piece: Piece,
}

impl Kept {
    fn of(batch: &RecordBatch, piece: Piece) -> Self {
        let columns = batch.columns().iter().map(Arc::downgrade).collect();
        Self { schema: batch.schema(), columns, object: 0, piece }
    }

    fn is(&self, batch: &RecordBatch) -> bool {
        let columns = batch.columns();
        self.columns.len() == columns.len()
            && self
                .columns
                .iter()
                .zip(columns)
                .all(|(known, column)| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(column)))
            && self.schema == batch.schema()
    }
}

/// What is in the store of the state of one instance: what the next checkpoint need not write again.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    /// Names of objects, and the bytes of all pieces in them.
    objects: Vec<(String, u64)>,
    /// By the place of the first column.
    kept: BTreeMap<usize, Vec<Kept>>,
}

/// The place of the first column of a batch.
fn place(batch: &RecordBatch) -> Option<usize> {
    batch.columns().first().map(|column| Arc::as_ptr(column).cast::<()>() as usize)
}

impl Shelf {
    fn find(&self, batch: &RecordBatch) -> Option<&Kept> {
        self.kept.get(&place(batch)?)?.iter().find(|kept| kept.is(batch))
    }

    /// Which objects stay in use, if they hold so many bytes that do.
    fn in_use(&self, live: &[u64]) -> Vec<bool> {
        let mut in_use: Vec<bool> =
            self.objects.iter().zip(live).map(|((_, bytes), live)| *live > 0 && live * 2 >= *bytes).collect();
        let mut order: Vec<usize> = (0..live.len()).filter(|at| in_use[*at]).collect();
        order.sort_by_key(|at| std::cmp::Reverse(live[*at]));
        for at in order.into_iter().skip(NEEDS_MAX) {
            in_use[at] = false;
        }
        in_use
    }
}

/// A batch on its way.
#[derive(Debug)]
struct Waiting {
    table: String,
    at: usize,
    batch: RecordBatch,
}

/// An object that is being put together, a part at a time.
#[derive(Debug)]
pub(crate) struct Laying {
    name: String,
    bytes: Vec<u8>,
    index: Index,
    needs: Vec<String>,
    waiting: VecDeque<Waiting>,
    /// What the shelf will be.
    shelf: Shelf,
}

/// An object that is put together.
#[derive(Debug)]
pub(crate) struct Laid {
    pub(crate) bytes: Vec<u8>,
    pub(crate) reference: ObjectRef,
    /// What is in the store once it is.
    pub(crate) shelf: Shelf,
}

impl Laying {
    /// Begins the object `name` of a state.
    pub(crate) fn begin(name: String, state: &OperatorState, known: &Shelf) -> Self {
        let mut live = vec![0; known.objects.len()];
        let mut counted = BTreeSet::new();
        for kept in state.tables.values().flatten().filter_map(|batch| known.find(batch)) {
            if counted.insert((kept.object, kept.piece.at)) {
                live[kept.object] += kept.piece.bytes;
            }
        }
        let in_use = known.in_use(&live);
        // The place of objects that stay, behind this one.
        let mut places = vec![0; known.objects.len()];
        let mut shelf = Shelf { objects: vec![(name.clone(), 0)], kept: BTreeMap::new() };
        for (at, object) in known.objects.iter().enumerate().filter(|(at, _)| in_use[*at]) {
            places[at] = shelf.objects.len();
            shelf.objects.push(object.clone());
        }
        let needs = shelf.objects[1..].iter().map(|(name, _)| name.clone()).collect();
        let mut laying =
            Self { name, bytes: MAGIC.to_vec(), index: Index::new(), needs, waiting: VecDeque::new(), shelf };
        for (table, batches) in &state.tables {
            for (at, batch) in batches.iter().enumerate() {
                let kept = known.find(batch).filter(|kept| in_use[kept.object]);
                let piece = match kept {
                    Some(kept) => Piece { object: places[kept.object], ..kept.piece },
                    // Filled in later.
                    None => Piece { object: 0, at: 0, bytes: 0, crc32c: 0 },
                };
                laying.index.entry(table.clone()).or_default().push(piece);
                match kept {
                    Some(_) => laying.keep(batch, piece),
                    None => laying.waiting.push_back(Waiting { table: table.clone(), at, batch: batch.clone() }),
                }
            }
        }
        // Room for all of it from the start: a large state that grew would be copied again and again.
        let n_bytes: usize = laying.waiting.iter().map(|waiting| bytes_of(&waiting.batch)).sum();
        laying.bytes.reserve(n_bytes + n_bytes / 8 + 1024 * laying.waiting.len());
        laying
    }

    fn keep(&mut self, batch: &RecordBatch, piece: Piece) {
        if let Some(place) = place(batch) {
            let kept = Kept { object: piece.object, ..Kept::of(batch, piece) };
            self.shelf.kept.entry(place).or_default().push(kept);
        }
    }

    /// Encodes about so many bytes. Says whether all is done.
    ///
    /// # Errors
    /// If a batch cannot be encoded.
    pub(crate) fn go_on(&mut self, bytes: usize) -> Result<bool, JobError> {
        let until = self.bytes.len().saturating_add(bytes);
        while self.bytes.len() < until {
            let Some(Waiting { table, at, batch }) = self.waiting.pop_front() else { return Ok(true) };
            let begin = self.bytes.len();
            let failed = |error| corrupt("a state", error);
            let mut writer = StreamWriter::try_new(&mut self.bytes, batch.schema_ref()).map_err(failed)?;
            writer.write(&batch).map_err(failed)?;
            writer.finish().map_err(failed)?;
            drop(writer);
            let own = &self.bytes[begin..];
            let piece = Piece { object: 0, at: begin as u64, bytes: own.len() as u64, crc32c: crc::crc32c(own) };
            if let Some(place) = self.index.get_mut(&table).and_then(|pieces| pieces.get_mut(at)) {
                *place = piece;
            }
            self.keep(&batch, piece);
        }
        Ok(self.waiting.is_empty())
    }

    /// Ends the object, all of which has been encoded.
    ///
    /// # Errors
    /// If the index cannot be encoded.
    pub(crate) fn finish(mut self) -> Result<Laid, JobError> {
        let index = serde_json::to_vec(&self.index).map_err(|error| corrupt("an index", error))?;
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&index);
        self.bytes.extend_from_slice(&(index.len() as u64).to_le_bytes());
        let crc32c = crc::crc32c(&self.bytes[begin..]);
        self.bytes.extend_from_slice(&crc32c.to_le_bytes());
        let bytes = self.bytes.len() as u64;
        self.shelf.objects[0].1 = begin as u64;
        let state_bytes = self.index.values().flatten().map(|piece| piece.bytes).sum();
        let reference = ObjectRef { name: self.name, bytes, crc32c, needs: self.needs, state_bytes };
        Ok(Laid { bytes: self.bytes, reference, shelf: self.shelf })
    }
}

/// The index of an object whose sum is known.
fn index_of(object: &ObjectRef, bytes: &[u8]) -> Result<Index, JobError> {
    let bad = |message: &str| corrupt(&object.name, message);
    if bytes.len() as u64 != object.bytes {
        return Err(bad(&format!("it has {} bytes instead of {}", bytes.len(), object.bytes)));
    }
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| bad("it is cut"))?;
    let (pieces, length) = body.split_last_chunk::<8>().ok_or_else(|| bad("it is cut"))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let begin = pieces.len().checked_sub(length).ok_or_else(|| bad("its index is cut"))?;
    if crc::crc32c(&body[begin..]) != u32::from_le_bytes(*sum) || u32::from_le_bytes(*sum) != object.crc32c {
        return Err(bad("its checksum is wrong"));
    }
    serde_json::from_slice(&pieces[begin..]).map_err(|error| corrupt(&object.name, error))
}

fn decode(name: &str, bytes: &[u8], piece: &Piece) -> Result<RecordBatch, JobError> {
    let bad = |message: &str| corrupt(name, message);
    let range = usize::try_from(piece.at).ok().zip(usize::try_from(piece.bytes).ok());
    let own = range.and_then(|(at, length)| bytes.get(at..)?.get(..length)).ok_or_else(|| bad("it is cut"))?;
    if !bytes.starts_with(MAGIC) || crc::crc32c(own) != piece.crc32c {
        return Err(bad("its checksum is wrong"));
    }
    let mut batches = StreamReader::try_new(Cursor::new(own), None).map_err(|error| corrupt(name, error))?;
    match batches.next() {
        Some(batch) => batch.map_err(|error| corrupt(name, error)),
        None => Err(bad("a piece of it holds no rows")),
    }
}

/// Reads a state. One object after the other is in memory.
///
/// # Errors
/// If an object is missing or damaged, or the store fails.
pub(crate) async fn read(store: &dyn CheckpointStore, object: &ObjectRef) -> Result<OperatorState, JobError> {
    let own = store.read(&object.name).await?.unwrap_or_default();
    let index = index_of(object, &own)?;
    let mut tables: BTreeMap<String, Vec<Option<RecordBatch>>> =
        index.iter().map(|(table, pieces)| (table.clone(), vec![None; pieces.len()])).collect();
    let mut fill = |at: usize, name: &str, bytes: &[u8]| {
        for (table, pieces) in &index {
            for (number, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.object == at) {
                if let Some(slot) = tables.get_mut(table).and_then(|slots| slots.get_mut(number)) {
                    *slot = Some(decode(name, bytes, piece)?);
                }
            }
        }
        Ok::<(), JobError>(())
    };
    fill(0, &object.name, &own)?;
    drop(own);
    for (at, name) in (1..).zip(&object.needs) {
        let bytes = store.read(name).await?.ok_or_else(|| corrupt(name, "it is missing"))?;
        fill(at, name, &bytes)?;
    }
    let mut state = OperatorState::default();
    for (table, batches) in tables {
        let batches: Option<Vec<RecordBatch>> = batches.into_iter().collect();
        let batches = batches.ok_or_else(|| corrupt(&object.name, "a piece of it is in no object"))?;
        state.tables.insert(table, batches);
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
