//! Windows that each key has of its own: sessions, and windows of so many rows.
//!
//! No row is kept. What the rows of a window come to is in its parts: one row each of a state of the
//! aggregation. A part that still takes rows is a slot of the accumulators; at a checkpoint all slots become a
//! sealed batch, which is shared with the checkpoint and never changed. Where accumulators give all slots or
//! none, that happens when windows are done, too; where they are single, the slots of windows that are done are
//! looked at and used again. Windows that become one put their parts into one list, and the parts are merged when
//! the window is done.
//!
//! Invariant: a key is known exactly as long as it has a window. Parts of windows that are gone, and parts
//! that could be one, are done away with once they are more than half of what there must be.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, interleave};
use arrow::datatypes::{Int64Type, UInt32Type};
use weir_component::batch::bytes_of;
use weir_component::operator::{OperatorError, OperatorState, Share};
use weir_sql::expressions::{Aggregation, Arguments, Finished, Slots};

use super::results;
use crate::failing::fatal;
use crate::keys::KeyTable;

/// No window, no part.
pub(super) const NONE: u32 = u32::MAX;
/// So many parts are always kept as they are. A part takes some hundred bytes, and there are many pipelines with few
/// windows each: one for each tenant.
const PARTS_MIN: usize = 64;

const PARTS: &str = "parts";
const OWNERS: &str = "owners";
const WINDOWS: &str = "windows";

/// A window that takes rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenWindow {
    pub(super) key: u32,
    /// The times of its first and its last row.
    pub(super) first: i64,
    pub(super) last: i64,
    /// How many rows it has.
    pub(super) rows: i64,
    /// The next window of the same key, which is older.
    pub(super) older: u32,
    /// Another for each window there ever was, so that a place that is used again is told apart.
    pub(super) generation: u32,
    /// It takes no more rows.
    pub(super) is_full: bool,
    /// Its first and last part.
    head: u32,
    tail: u32,
    /// The part that takes its rows, unless that was sealed since.
    open: u32,
}

pub(super) struct OpenWindows {
    aggregation: Arc<Aggregation>,
    keys: KeyTable,
    /// By key.
    newest: Vec<u32>,
    windows: Vec<OpenWindow>,
    free: Vec<u32>,
    /// How many windows there ever were.
    begun: u32,
    sealed: Vec<RecordBatch>,
    /// The number of parts before each sealed batch.
    before: Vec<usize>,
    n_sealed: usize,
    sealed_bytes: usize,
    /// By part: the next part of the same window. Those after the sealed ones are slots.
    next: Vec<u32>,
    slots: Slots,
    key_of_slot: Vec<u32>,
    /// Slots of windows that are gone.
    free_slots: Vec<u32>,
}

impl OpenWindows {
    pub(super) fn new(aggregation: Arc<Aggregation>) -> Result<Self, OperatorError> {
        Ok(Self {
            keys: KeyTable::new(Arc::clone(aggregation.key_schema()))?,
            slots: aggregation.slots().map_err(|error| fatal(&error))?,
            aggregation,
            newest: Vec::new(),
            windows: Vec::new(),
            free: Vec::new(),
            begun: 0,
            sealed: Vec::new(),
            before: Vec::new(),
            n_sealed: 0,
            sealed_bytes: 0,
            next: Vec::new(),
            key_of_slot: Vec::new(),
            free_slots: Vec::new(),
        })
    }

    /// How many windows there are.
    pub(super) fn len(&self) -> usize {
        self.windows.len() - self.free.len()
    }

    pub(super) fn n_keys(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn n_parts(&self) -> usize {
        self.next.len() - self.free_slots.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.sealed_bytes
            + self.slots.bytes()
            + self.windows.capacity() * size_of::<OpenWindow>()
            + (self.newest.capacity() + self.next.capacity()) * size_of::<u32>()
            + (self.key_of_slot.capacity() + self.free_slots.capacity()) * size_of::<u32>()
    }

    /// All windows.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.newest.iter().flat_map(move |newest| self.of_key(*newest))
    }

    /// A window and all older ones of its key.
    fn of_key(&self, newest: u32) -> impl Iterator<Item = u32> {
        let some = |window: u32| (window != NONE).then_some(window);
        std::iter::successors(some(newest), move |window| some(self.window(*window).older))
    }

    pub(super) fn window(&self, window: u32) -> &OpenWindow {
        &self.windows[window as usize]
    }

    pub(super) fn window_mut(&mut self, window: u32) -> &mut OpenWindow {
        &mut self.windows[window as usize]
    }

    /// Whether it is still there.
    pub(super) fn has(&self, window: u32, generation: u32) -> bool {
        let known = self.windows.get(window as usize);
        known.is_some_and(|known| known.generation == generation && known.key != NONE)
    }

    /// The keys of rows, as numbers.
    pub(super) fn keys_of(&mut self, arguments: &Arguments, keys: &mut Vec<u32>) -> Result<(), OperatorError> {
        self.numbers(arguments.keys(), arguments.rows(), keys)
    }

    /// Keys as numbers; one that is not known becomes so.
    pub(super) fn numbers(
        &mut self,
        keys: &[ArrayRef],
        n_rows: usize,
        numbers: &mut Vec<u32>,
    ) -> Result<(), OperatorError> {
        self.keys.numbers(keys, n_rows, numbers)?;
        self.newest.resize(self.keys.bound().max(self.newest.len()), NONE);
        Ok(())
    }

    /// The newest window of a key, or [`NONE`].
    pub(super) fn newest(&self, key: u32) -> u32 {
        self.newest[key as usize]
    }

    /// Begins a window of a key with a row, before the window `older` and after `newer` in the key's list.
    pub(super) fn begin(&mut self, key: u32, time: i64, newer: u32, older: u32) -> u32 {
        self.begun = self.begun.wrapping_add(1);
        let begun = OpenWindow {
            key,
            first: time,
            last: time,
            rows: 0,
            older,
            generation: self.begun,
            is_full: false,
            head: NONE,
            tail: NONE,
            open: NONE,
        };
        let window = match self.free.pop() {
            Some(window) => {
                *self.window_mut(window) = begun;
                window
            }
            None => {
                self.windows.push(begun);
                number(self.windows.len() - 1)
            }
        };
        self.link(key, newer, window);
        window
    }

    /// Makes `window` what comes after `newer` in the list of a key.
    fn link(&mut self, key: u32, newer: u32, window: u32) {
        if newer == NONE {
            self.newest[key as usize] = window;
        } else {
            self.window_mut(newer).older = window;
        }
    }

    /// The slot for the rows of a window.
    #[inline]
    pub(super) fn slot(&mut self, window: u32) -> usize {
        let open = self.window(window).open;
        match open != NONE && open as usize >= self.n_sealed {
            true => open as usize - self.n_sealed,
            false => self.begin_slot(window),
        }
    }

    fn begin_slot(&mut self, window: u32) -> usize {
        let key = self.window(window).key;
        let part = match self.free_slots.pop() {
            Some(slot) => {
                self.key_of_slot[slot as usize] = key;
                number(self.n_sealed + slot as usize)
            }
            None => {
                self.key_of_slot.push(key);
                self.next.push(NONE);
                number(self.next.len() - 1)
            }
        };
        self.append(window, part);
        self.window_mut(window).open = part;
        part as usize - self.n_sealed
    }

    /// A new part at the end of a window's.
    fn add_part(&mut self, window: u32) {
        self.next.push(NONE);
        self.append(window, number(self.next.len() - 1));
    }

    /// Puts a part at the end of a window's.
    fn append(&mut self, window: u32, part: u32) {
        self.next[part as usize] = NONE;
        let tail = self.window(window).tail;
        if tail == NONE {
            self.window_mut(window).head = part;
        } else {
            self.next[tail as usize] = part;
        }
        self.window_mut(window).tail = part;
    }

    /// Makes one window of a window and the next older one of its key.
    pub(super) fn absorb_older(&mut self, window: u32) {
        let gone = self.window(window).older;
        let other = *self.window(gone);
        let n_sealed = self.n_sealed;
        let tail = self.window(window).tail;
        let own = self.window_mut(window);
        own.first = own.first.min(other.first);
        own.last = own.last.max(other.last);
        own.rows += other.rows;
        own.older = other.older;
        if other.head != NONE {
            if tail == NONE {
                own.head = other.head;
            }
            own.tail = other.tail;
            if own.open == NONE || (own.open as usize) < n_sealed {
                own.open = other.open;
            }
            if tail != NONE {
                self.next[tail as usize] = other.head;
            }
        }
        self.release(gone);
    }

    fn release(&mut self, window: u32) {
        self.window_mut(window).key = NONE;
        self.free.push(window);
    }

    /// Adds rows to the slots they were given.
    pub(super) fn update(&mut self, arguments: &Arguments, of_row: &[usize]) -> Result<(), OperatorError> {
        let n_slots = self.key_of_slot.len();
        self.slots.update(arguments, of_row, n_slots).map_err(|error| fatal(&error))
    }

    /// What the rows of each of these windows come to so far, with their keys.
    pub(super) fn results(&mut self, windows: &[u32]) -> Result<Finished, OperatorError> {
        if !self.slots.are_single() {
            self.seal()?;
        }
        let mut slots = self.merged(windows)?;
        let keys = self.columns(windows.iter().map(|window| self.window(*window).key))?;
        slots.finish(keys).map_err(|error| fatal(&error))
    }

    /// Keys by their numbers, as columns.
    pub(super) fn columns(&self, keys: impl Iterator<Item = u32>) -> Result<Vec<ArrayRef>, OperatorError> {
        self.keys.columns(keys)
    }

    /// What the rows of each of these windows come to, with their keys. The windows are gone then.
    pub(super) fn finish(&mut self, done: &[u32]) -> Result<Finished, OperatorError> {
        let finished = self.results(done)?;
        for window in done {
            self.remove(*window);
        }
        self.tidy()?;
        Ok(finished)
    }

    fn remove(&mut self, window: u32) {
        let OpenWindow { key, older, .. } = *self.window(window);
        let newer = self.of_key(self.newest(key)).take_while(|other| *other != window).last().unwrap_or(NONE);
        self.link(key, newer, older);
        if self.slots.are_single() {
            self.free_slots_of(window);
        }
        self.release(window);
        if self.newest(key) == NONE {
            self.keys.remove(key);
        }
    }

    /// The slots of a window that is gone take rows of another one.
    fn free_slots_of(&mut self, window: u32) {
        let mut part = self.window(window).head;
        while part != NONE {
            if part as usize >= self.n_sealed {
                let slot = part as usize - self.n_sealed;
                self.slots.clear(slot);
                self.free_slots.push(number(slot));
            }
            part = self.next[part as usize];
        }
    }

    /// The parts of each of these windows, merged into one slot each. Slots there are besides are single.
    fn merged(&self, windows: &[u32]) -> Result<Slots, OperatorError> {
        let (mut places, mut of_place) = (Vec::new(), Vec::new());
        let (mut open, mut of_open) = (Vec::with_capacity(windows.len()), Vec::with_capacity(windows.len()));
        for (at, window) in windows.iter().enumerate() {
            let mut part = self.window(*window).head;
            while part != NONE {
                if part as usize >= self.n_sealed {
                    open.push(part as usize - self.n_sealed);
                    of_open.push(at);
                } else {
                    let batch = self.before.partition_point(|before| *before <= part as usize) - 1;
                    places.push((batch, part as usize - self.before[batch]));
                    of_place.push(at);
                }
                part = self.next[part as usize];
            }
        }
        let mut slots = self.aggregation.slots().map_err(|error| fatal(&error))?;
        if !open.is_empty() {
            let states = self.slots.some(&open).ok_or_else(|| OperatorError::internal("a window was not sealed"))?;
            slots.merge(&states, &of_open, windows.len()).map_err(|error| fatal(&error))?;
        }
        if places.is_empty() && !open.is_empty() {
            return Ok(slots);
        }
        let states = (self.aggregation.n_keys()..self.aggregation.state_schema().fields().len()).map(|column| {
            let columns: Vec<&dyn Array> = self.sealed.iter().map(|batch| batch.column(column).as_ref()).collect();
            interleave(&columns, &places).map_err(OperatorError::internal)
        });
        let states: Vec<ArrayRef> = states.collect::<Result<_, _>>()?;
        slots.merge(&states, &of_place, windows.len()).map_err(|error| fatal(&error))?;
        Ok(slots)
    }

    /// Makes a batch of all slots.
    fn seal(&mut self) -> Result<(), OperatorError> {
        if self.key_of_slot.is_empty() {
            return Ok(());
        }
        if self.key_of_slot.len() == self.free_slots.len() {
            self.slots = self.aggregation.slots().map_err(|error| fatal(&error))?;
            self.forget_slots();
            return Ok(());
        }
        // Slots that are free are parts of no window, whatever their key: one that is known.
        let some = self.all().next().map_or(NONE, |window| self.window(window).key);
        for slot in &self.free_slots {
            self.key_of_slot[*slot as usize] = some;
        }
        self.free_slots.clear();
        let keys = self.keys.columns(self.key_of_slot.iter().copied())?;
        let states = self.slots.take_state().map_err(|error| fatal(&error))?;
        let n_parts = self.key_of_slot.len();
        self.key_of_slot.clear();
        self.add_sealed(keys, states, n_parts)
    }

    fn add_sealed(
        &mut self,
        mut columns: Vec<ArrayRef>,
        states: Vec<ArrayRef>,
        n_parts: usize,
    ) -> Result<(), OperatorError> {
        columns.extend(states);
        let options = RecordBatchOptions::new().with_row_count(Some(n_parts));
        let schema = Arc::clone(self.aggregation.state_schema());
        let batch = RecordBatch::try_new_with_options(schema, columns, &options).map_err(OperatorError::internal)?;
        self.before.push(self.n_sealed);
        self.n_sealed += n_parts;
        self.sealed_bytes += bytes_of(&batch);
        self.sealed.push(batch);
        // Batches of about the same size become one, so that there are never many and none is copied often.
        while let [.., before, last] = self.sealed.as_slice()
            && before.num_rows() <= 2 * last.num_rows()
        {
            let both = concat_batches(&last.schema(), [before, last]).map_err(OperatorError::internal)?;
            self.sealed_bytes -= bytes_of(before) + bytes_of(last);
            self.sealed_bytes += bytes_of(&both);
            self.sealed.truncate(self.sealed.len() - 2);
            self.before.pop();
            self.sealed.push(both);
        }
        Ok(())
    }

    /// Forgets all slots, which are parts of no window.
    fn forget_slots(&mut self) {
        self.next.truncate(self.n_sealed);
        self.key_of_slot.clear();
        self.free_slots.clear();
    }

    /// Does away with parts that are of no use, when they are many.
    fn tidy(&mut self) -> Result<(), OperatorError> {
        if self.len() > 0 && self.next.len() <= self.len() + self.len() / 2 + PARTS_MIN {
            return Ok(());
        }
        if self.len() == 0 {
            // The room is not kept, either: there may have been many once.
            *self = Self { begun: self.begun, ..Self::new(Arc::clone(&self.aggregation))? };
            return Ok(());
        }
        let windows: Vec<u32> = self.all().collect();
        let mut slots = self.merged(&windows)?;
        let keys = self.keys.columns(windows.iter().map(|window| self.window(*window).key))?;
        let states = slots.take_state().map_err(|error| fatal(&error))?;
        self.sealed.clear();
        self.before.clear();
        self.n_sealed = 0;
        self.sealed_bytes = 0;
        self.slots = self.aggregation.slots().map_err(|error| fatal(&error))?;
        self.forget_slots();
        self.next.shrink_to(windows.len() + windows.len() / 2);
        for window in &windows {
            let OpenWindow { head, tail, open, .. } = self.window_mut(*window);
            (*head, *tail, *open) = (NONE, NONE, NONE);
            self.add_part(*window);
        }
        self.add_sealed(keys, states, windows.len())
    }

    /// All that has to be known, in tables.
    pub(super) fn snapshot(&mut self, state: &mut OperatorState) -> Result<(), OperatorError> {
        self.seal()?;
        self.tidy()?;
        let mut owners = vec![None; self.next.len()];
        let (mut first, mut last, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (at, window) in (0_u32..).zip(self.all()) {
            let window = self.window(window);
            first.push(window.first);
            last.push(window.last);
            rows.push(window.rows);
            let mut part = window.head;
            while part != NONE {
                owners[part as usize] = Some(at);
                part = self.next[part as usize];
            }
        }
        if first.is_empty() {
            return Ok(());
        }
        let numbers = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let table = |columns: Vec<(&str, ArrayRef)>| RecordBatch::try_from_iter(columns).map(|table| vec![table]);
        let owners = table(vec![("window", Arc::new(UInt32Array::from(owners)) as ArrayRef)]);
        let windows = table(vec![("first", numbers(first)), ("last", numbers(last)), ("rows", numbers(rows))]);
        state.tables.insert(PARTS.to_owned(), self.sealed.clone());
        state.tables.insert(OWNERS.to_owned(), owners.map_err(OperatorError::internal)?);
        state.tables.insert(WINDOWS.to_owned(), windows.map_err(OperatorError::internal)?);
        Ok(())
    }

    /// Takes over what an instance owns. Gives the window each one of the state is here, in the order of
    /// [`OpenWindows::all`] when it was made, or [`NONE`].
    pub(super) fn restore(&mut self, state: &OperatorState, share: Share) -> Result<Vec<u32>, OperatorError> {
        let (Some(owners), Some(windows)) = (state.table(OWNERS).first(), state.table(WINDOWS).first()) else {
            return Ok(Vec::new());
        };
        let bad = || OperatorError::state("the state of a window step does not fit together");
        let owners = owners.column(0).as_primitive_opt::<UInt32Type>().ok_or_else(bad)?;
        let number = |at: usize| windows.columns().get(at).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(first), Some(last), Some(rows)) = (number(0), number(1), number(2)) else { return Err(bad()) };
        // The window here of each window there.
        let mut here = vec![NONE; first.len()];
        let mut from = 0;
        for batch in state.table(PARTS) {
            if batch.schema_ref() != self.aggregation.state_schema() || from + batch.num_rows() > owners.len() {
                return Err(bad());
            }
            let own = results::owned(&self.aggregation, batch, share)?;
            let taken = |row: usize| own.value(row) && owners.is_valid(from + row);
            let mask = (0..batch.num_rows()).map(|row| Some(taken(row))).collect();
            let owner_of: Vec<u32> =
                (0..batch.num_rows()).filter(|row| taken(*row)).map(|row| owners.value(from + row)).collect();
            from += batch.num_rows();
            if owner_of.is_empty() {
                continue;
            }
            let parts = filter_record_batch(batch, &mask).map_err(OperatorError::internal)?;
            let mut keys = Vec::new();
            self.keys.numbers(&parts.columns()[..self.aggregation.n_keys()], parts.num_rows(), &mut keys)?;
            self.newest.resize(self.keys.bound(), NONE);
            for (key, owner) in keys.into_iter().zip(owner_of) {
                let known = here.get_mut(owner as usize).ok_or_else(bad)?;
                if *known == NONE {
                    let at = owner as usize;
                    *known = self.put_back(key, first.value(at), last.value(at), rows.value(at));
                }
                let window = *known;
                self.add_part(window);
            }
            let columns = parts.columns().to_vec();
            self.add_sealed(columns, Vec::new(), parts.num_rows())?;
        }
        Ok(here)
    }

    /// A window of a state, where it belongs among those of its key.
    fn put_back(&mut self, key: u32, first: i64, last: i64, rows: i64) -> u32 {
        let newer = self.of_key(self.newest(key)).take_while(|other| self.window(*other).first > first).last();
        let older = newer.map_or(self.newest(key), |newer| self.window(newer).older);
        let window = self.begin(key, first, newer.unwrap_or(NONE), older);
        let put = self.window_mut(window);
        (put.last, put.rows) = (last, rows);
        window
    }
}

fn number(at: usize) -> u32 {
    // The state of a step is bounded in bytes long before.
    u32::try_from(at).unwrap_or(NONE)
}
