//! The groups of the first of all rows so far: which there are, when each is forgotten, and how that is kept.
//!
//! What a checkpoint has to say of groups beside their rows is since when there has been each of them, and when its last row
//! came. A state has that as tables one after the other, of which the last word on a group counts: only groups with new
//! rows are written again. A group that was forgotten needs no word, because by its last one it is over.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use weir_component::batch::bytes_of;
use weir_component::operator::{OperatorError, Share};
use weir_sql::expressions::key_hashes;

use super::first::Entry;
use super::ranking::{BATCH_ROWS, Encoder};
use crate::failing::fatal;

/// The columns with times, in a state. No name of a user has a space in front.
const TIMES: [&str; 2] = [" begun", " last"];
/// After so many checkpoints all groups are written again.
const SEALED_MAX: usize = if cfg!(test) { 3 } else { 16 };

/// The first rows of one key.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: Arc<[u8]>,
    /// In order.
    pub(super) entries: Vec<Entry>,
    /// The time of its first row: those before are of a group that was forgotten.
    pub(super) begun: i64,
    /// The time of its last row.
    pub(super) last: i64,
    /// It has had a row since the last checkpoint.
    is_touched: bool,
}

pub(super) struct Groups {
    /// After so long without a row a group is forgotten.
    keep: Option<i64>,
    /// By keys, as bytes.
    numbers: HashMap<Arc<[u8]>, u32>,
    groups: Vec<Option<Group>>,
    free: Vec<u32>,
    /// When groups are forgotten.
    ends: BTreeSet<(i64, Arc<[u8]>)>,
    /// Groups that have had a row since the last checkpoint, and some that are gone.
    touched: Vec<u32>,
    /// What was said of groups in checkpoints, in how many, and the bytes it takes.
    sealed: Vec<RecordBatch>,
    n_seals: usize,
    sealed_bytes: usize,
    key_bytes: usize,
    schema: SchemaRef,
}

impl Groups {
    pub(super) fn new(keep: Option<i64>, encoder: &Encoder) -> Self {
        let times = TIMES.map(|name| Arc::new(Field::new(name, DataType::Int64, false)) as FieldRef);
        let keys = encoder.key_schema().fields().iter().map(Arc::clone);
        Self {
            keep,
            numbers: HashMap::new(),
            groups: Vec::new(),
            free: Vec::new(),
            ends: BTreeSet::new(),
            touched: Vec::new(),
            sealed: Vec::new(),
            n_seals: 0,
            sealed_bytes: 0,
            key_bytes: 0,
            schema: Arc::new(Schema::new(keys.chain(times).collect::<Vec<_>>())),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Bytes they take beside what their rows are ordered by.
    pub(super) fn bytes(&self) -> usize {
        let of_group = size_of::<(Arc<[u8]>, u32)>() + size_of::<(i64, Arc<[u8]>)>();
        let slots = self.groups.capacity() * size_of::<Option<Group>>() + self.touched.capacity() * size_of::<u32>();
        self.key_bytes + self.len() * of_group + slots + self.sealed_bytes
    }

    pub(super) fn number(&self, key: &[u8]) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    pub(super) fn get(&self, number: u32) -> Option<&Group> {
        self.groups.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Group> {
        self.groups.get_mut(number as usize)?.as_mut()
    }

    /// A row has come with these keys, at that time: begins the group if there is none. Gives its number.
    pub(super) fn touch(&mut self, key: &[u8], time: i64) -> u32 {
        let number = self.number(key).unwrap_or_else(|| self.begin(key, time));
        if let Some(group) = self.groups[number as usize].as_mut() {
            if let Some(keep) = self.keep.filter(|_| group.last < time) {
                self.ends.remove(&(group.last.saturating_add(keep), Arc::clone(&group.key)));
                self.ends.insert((time.saturating_add(keep), Arc::clone(&group.key)));
            }
            group.last = group.last.max(time);
            if !std::mem::replace(&mut group.is_touched, true) {
                self.touched.push(number);
            }
        }
        number
    }

    fn begin(&mut self, key: &[u8], time: i64) -> u32 {
        let key: Arc<[u8]> = key.into();
        let number = self.free.pop().unwrap_or_else(|| {
            self.groups.push(None);
            u32::try_from(self.groups.len() - 1).unwrap_or(u32::MAX)
        });
        self.key_bytes += key.len();
        if let Some(keep) = self.keep {
            self.ends.insert((time.saturating_add(keep), Arc::clone(&key)));
        }
        self.numbers.insert(Arc::clone(&key), number);
        self.groups[number as usize] =
            Some(Group { key, entries: Vec::new(), begun: time, last: time, is_touched: false });
        number
    }

    /// The time the next group is forgotten at.
    pub(super) fn next_end(&self) -> Option<i64> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Forgets the next group, with the time at which that is.
    pub(super) fn pop_end(&mut self) -> Option<(i64, Group)> {
        let (end, key) = self.ends.pop_first()?;
        Some((end, self.remove(&key)?))
    }

    /// Forgets some group that has no end.
    pub(super) fn pop(&mut self) -> Option<Group> {
        let key = self.numbers.keys().min().cloned()?;
        self.remove(&key)
    }

    fn remove(&mut self, key: &[u8]) -> Option<Group> {
        let number = self.numbers.remove(key)?;
        self.free.push(number);
        self.key_bytes -= key.len();
        let group = self.groups[number as usize].take();
        if self.numbers.is_empty() {
            (self.groups, self.free, self.touched) = (Vec::new(), Vec::new(), Vec::new());
            (self.sealed, self.n_seals, self.sealed_bytes) = (Vec::new(), 0, 0);
        }
        group
    }

    /// What is to be said of groups, in tables.
    pub(super) fn seal(&mut self, encoder: &Encoder) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut touched = std::mem::take(&mut self.touched);
        let said: usize = self.sealed.iter().map(RecordBatch::num_rows).sum();
        if self.n_seals >= SEALED_MAX || said + touched.len() > 2 * self.len() + BATCH_ROWS || self.len() == 0 {
            (self.sealed, self.n_seals) = (Vec::new(), 0);
            touched = self.numbers.values().copied().collect();
            touched.sort_unstable();
            for number in &touched {
                self.set_touched(*number, true);
            }
        }
        // A number may stand there for a group that is gone and for one that is not.
        touched.retain(|number| self.set_touched(*number, false));
        if !touched.is_empty() {
            self.n_seals += 1;
        }
        for numbers in touched.chunks(BATCH_ROWS) {
            let groups: Vec<&Group> = numbers.iter().filter_map(|number| self.get(*number)).collect();
            let mut columns = encoder.keys(groups.iter().map(|group| group.key.as_ref()))?;
            let column = |value: fn(&Group) -> i64| -> ArrayRef {
                Arc::new(groups.iter().map(|group| value(group)).collect::<Int64Array>())
            };
            columns.extend([column(|group| group.begun), column(|group| group.last)]);
            let table = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(OperatorError::internal)?;
            self.sealed.push(table);
        }
        self.sealed_bytes = self.sealed.iter().map(bytes_of).sum();
        Ok(self.sealed.clone())
    }

    /// Says whether a group has had a row since the last checkpoint, and gives what was said.
    fn set_touched(&mut self, number: u32, is_touched: bool) -> bool {
        self.get_mut(number).is_some_and(|group| std::mem::replace(&mut group.is_touched, is_touched))
    }

    /// Takes over the groups of a state that an instance owns, without their rows; those that are over by `watermark` were
    /// forgotten.
    pub(super) fn restore(
        &mut self,
        tables: &[RecordBatch],
        encoder: &Encoder,
        share: Share,
        watermark: i64,
    ) -> Result<(), OperatorError> {
        let n_keys = self.schema.fields().len() - TIMES.len();
        let mut known: HashMap<Vec<u8>, (i64, i64)> = HashMap::new();
        for table in tables {
            let number = |at: usize| table.columns().get(at).and_then(|column| column.as_primitive_opt::<Int64Type>());
            let times = number(n_keys).zip(number(n_keys + 1));
            let Some((begun, last)) = times.filter(|_| table.schema_ref().fields() == self.schema.fields()) else {
                return Err(OperatorError::state("the groups of the first rows have other keys than this step has"));
            };
            let keys = &table.columns()[..n_keys];
            let hashes = key_hashes(keys, table.num_rows()).map_err(|error| fatal(&error))?;
            let encoded = encoder.keys_as_bytes(keys)?;
            for (row, hash) in hashes.into_iter().enumerate() {
                // Without keys all rows are in one place.
                let is_own = if keys.is_empty() { share.index == 0 } else { share.owns(hash) };
                if is_own && begun.is_valid(row) {
                    let key = encoded.as_ref().map_or(&[][..], |keys| keys.row(row).data());
                    known.insert(key.to_vec(), (begun.value(row), last.value(row)));
                }
            }
        }
        for (key, (begun, last)) in known {
            if self.keep.is_none_or(|keep| last.saturating_add(keep) > watermark) {
                let number = self.touch(&key, last);
                if let Some(group) = self.get_mut(number) {
                    group.begun = begun;
                }
            }
        }
        Ok(())
    }
}
