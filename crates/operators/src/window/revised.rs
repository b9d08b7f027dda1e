//! Windows of time that are put out before they are final: which results have been, how often, and which have
//! changed since.
//!
//! A window is *closed* once the watermark has reached its end, and final once it has reached the end and the lateness. In
//! between a late row changes results that are known. What changes is noted by pane, so that a row costs the same
//! however many windows it is part of, and spread over windows when something is put out.
//!
//! Invariant: of a closed window either nothing has been put out (`wants_all`), or each of its groups is in `keys`, with
//! the number of its newest revision and whether it has changed since. With early results that is so of every window.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use weir_component::operator::{OperatorError, OperatorState, Share, Waiting};
use weir_component::revision::Revision;
use weir_sql::expressions::Aggregation;

use super::assign::Windows;
use super::operator::PaneKey;
use super::results::owned;
use crate::clock;
use crate::keys::KeyTable;

/// What the table of a window is called in a state, before its end and whether nothing of it was put out.
const TABLE: &str = "revised";
/// How far the watermark is.
const NOW: &str = "now";

/// What is known of one group of a window.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    /// The number of its newest revision; 0 if nothing was put out.
    revision: i64,
    has_changed: bool,
}

/// What is known of the results of one window.
struct Tracked {
    keys: KeyTable,
    /// By the number of the key.
    groups: Vec<Group>,
    has_changed: bool,
    wants_all: bool,
}

pub(super) struct Revising {
    aggregation: Arc<Aggregation>,
    /// Results are put out of windows that are not closed.
    early: bool,
    /// The latest watermark: windows that end by then are closed.
    pub(super) now: i64,
    /// When the next window closes, at the earliest.
    next_close: i64,
    tracked: BTreeMap<i64, Tracked>,
    /// The keys of rows that have come since the last time something was put out, by pane.
    changed: BTreeMap<PaneKey, KeyTable>,
    waiting: Waiting,
    numbers: Vec<u32>,
}

impl Tracked {
    fn new(aggregation: &Aggregation) -> Result<Self, OperatorError> {
        let keys = KeyTable::new(Arc::clone(aggregation.key_schema()))?;
        Ok(Self { keys, groups: Vec::new(), has_changed: false, wants_all: false })
    }

    /// The numbers of keys, each of which is known then.
    fn numbers(&mut self, keys: &[ArrayRef], n_rows: usize, numbers: &mut Vec<u32>) -> Result<(), OperatorError> {
        self.keys.numbers(keys, n_rows, numbers)?;
        self.groups.resize(self.keys.bound(), Group::default());
        Ok(())
    }

    /// The next revisions of groups.
    fn revise(
        &mut self,
        keys: &[ArrayRef],
        n_rows: usize,
        is_final: bool,
        numbers: &mut Vec<u32>,
    ) -> Result<Vec<Revision>, OperatorError> {
        self.numbers(keys, n_rows, numbers)?;
        let revise = |number: &u32| {
            let group = &mut self.groups[*number as usize];
            group.revision += 1;
            group.has_changed = false;
            Revision { number: group.revision, is_final, is_retracted: false }
        };
        Ok(numbers.iter().map(revise).collect())
    }

    fn bytes(&self) -> usize {
        self.keys.bytes() + self.groups.capacity() * size_of::<Group>()
    }

    /// Whether something of it waits to be put out.
    fn waits(&self) -> bool {
        self.wants_all || self.has_changed
    }
}

impl Revising {
    pub(super) fn new(aggregation: Arc<Aggregation>, early: bool) -> Self {
        Self {
            aggregation,
            early,
            now: i64::MIN,
            next_close: i64::MAX,
            tracked: BTreeMap::new(),
            changed: BTreeMap::new(),
            waiting: Waiting::default(),
            numbers: Vec::new(),
        }
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.waiting
    }

    pub(super) fn bytes(&self) -> usize {
        self.tracked.values().map(Tracked::bytes).chain(self.changed.values().map(KeyTable::bytes)).sum()
    }

    fn tracked<'a>(
        tracked: &'a mut BTreeMap<i64, Tracked>,
        aggregation: &Aggregation,
        end: i64,
    ) -> Result<&'a mut Tracked, OperatorError> {
        match tracked.entry(end) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => Ok(entry.insert(Tracked::new(aggregation)?)),
        }
    }

    /// Rows with such keys have come to a pane, the first window of which that is not final ends at `first_end`.
    pub(super) fn note(
        &mut self,
        windows: &Windows,
        pane: PaneKey,
        first_end: i64,
        (keys, n_rows): (&[ArrayRef], usize),
    ) -> Result<(), OperatorError> {
        let is_closed = first_end <= self.now;
        self.next_close = self.next_close.min(first_open(windows, pane, first_end, self.now));
        if !is_closed && !self.early {
            return Ok(());
        }
        let changed = match self.changed.entry(pane) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(KeyTable::new(Arc::clone(self.aggregation.key_schema()))?)
            }
        };
        changed.numbers(keys, n_rows, &mut self.numbers)?;
        self.waiting.changed |= is_closed;
        self.waiting.early |= self.early;
        Ok(())
    }

    /// Spreads what has changed over the windows it belongs to, those before `next_end` excepted.
    pub(super) fn spread(&mut self, windows: &Windows, next_end: i64) -> Result<(), OperatorError> {
        for (pane, changed) in std::mem::take(&mut self.changed) {
            let all = 0..u32::try_from(changed.bound()).unwrap_or(u32::MAX);
            let (columns, n_rows) = (changed.columns(all)?, changed.len());
            let until = if self.early { i64::MAX } else { self.now };
            for end in ends(windows, pane, next_end).take_while(|end| *end <= until) {
                let tracked = Self::tracked(&mut self.tracked, &self.aggregation, end)?;
                tracked.numbers(&columns, n_rows, &mut self.numbers)?;
                for number in &self.numbers {
                    tracked.groups[*number as usize].has_changed = true;
                }
                tracked.has_changed = true;
            }
        }
        Ok(())
    }

    /// Takes note of how far time is. `panes` are those there are; windows that end before `next_end` are final.
    pub(super) fn advance(
        &mut self,
        windows: &Windows,
        now: i64,
        next_end: i64,
        panes: impl Iterator<Item = PaneKey>,
    ) -> Result<(), OperatorError> {
        self.forget(next_end);
        let before = self.now;
        self.now = before.max(now);
        if self.now < self.next_close {
            return Ok(());
        }
        self.next_close = i64::MAX;
        for pane in panes {
            for end in ends(windows, pane, next_end).take_while(|end| *end <= self.now) {
                if end > before && !self.early {
                    Self::tracked(&mut self.tracked, &self.aggregation, end)?.wants_all = true;
                }
                self.waiting.changed = true;
            }
            let first = ends(windows, pane, next_end).next().unwrap_or(i64::MAX);
            self.next_close = self.next_close.min(first_open(windows, pane, first, self.now));
        }
        Ok(())
    }

    /// Forgets the windows that end before `next_end`, which are final: an instance may know of some of which it has no
    /// rows any more, or had none when another one put them out.
    pub(super) fn forget(&mut self, next_end: i64) {
        self.tracked = self.tracked.split_off(&next_end);
    }

    /// The ends of the windows of which something is put out now: of closed ones only, or of all.
    pub(super) fn due(&mut self, is_early: bool) -> Vec<i64> {
        self.waiting.changed = false;
        self.waiting.early &= !is_early;
        let until = if is_early { i64::MAX } else { self.now };
        self.tracked.range(..=until).filter(|(_, tracked)| tracked.waits()).map(|(end, _)| *end).collect()
    }

    /// The part of a pane's state, which begins with its keys, of which something is put out with the window.
    pub(super) fn wanted(&mut self, end: i64, state: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let Some(tracked) = self.tracked.get_mut(&end).filter(|tracked| !tracked.wants_all) else {
            return Ok(state.clone());
        };
        let n_keys = self.aggregation.n_keys();
        tracked.numbers(&state.columns()[..n_keys], state.num_rows(), &mut self.numbers)?;
        let is_wanted = |row: usize| tracked.groups[self.numbers[row] as usize].has_changed;
        let wanted = BooleanArray::new(BooleanBuffer::collect_bool(state.num_rows(), is_wanted), None);
        filter_record_batch(state, &wanted).map_err(OperatorError::internal)
    }

    /// Groups of a window are put out, before they are final: their revisions.
    pub(super) fn put_out(
        &mut self,
        end: i64,
        keys: &[ArrayRef],
        n_rows: usize,
    ) -> Result<Vec<Revision>, OperatorError> {
        let tracked = Self::tracked(&mut self.tracked, &self.aggregation, end)?;
        (tracked.wants_all, tracked.has_changed) = (false, false);
        tracked.revise(keys, n_rows, false, &mut self.numbers)
    }

    /// All groups of a window are put out for the last time: their revisions.
    pub(super) fn finish(
        &mut self,
        end: i64,
        keys: &[ArrayRef],
        n_rows: usize,
    ) -> Result<Vec<Revision>, OperatorError> {
        match self.tracked.remove(&end) {
            Some(mut tracked) => tracked.revise(keys, n_rows, true, &mut self.numbers),
            None => Ok(vec![Revision { number: 1, is_final: true, is_retracted: false }; n_rows]),
        }
    }

    /// All that has to be known, in tables. Nothing is left to be spread.
    pub(super) fn snapshot(&self, state: &mut OperatorState) -> Result<(), OperatorError> {
        for (end, tracked) in &self.tracked {
            let n_keys = u32::try_from(tracked.keys.bound()).unwrap_or(u32::MAX);
            let keys = tracked.keys.columns(0..n_keys)?;
            let names = (0..keys.len()).map(|at| at.to_string()).chain(["revision".to_owned(), "changed".to_owned()]);
            let revisions: Int64Array = tracked.groups.iter().map(|group| group.revision).collect();
            let changed = BooleanBuffer::collect_bool(tracked.groups.len(), |at| tracked.groups[at].has_changed);
            let own: [ArrayRef; 2] = [Arc::new(revisions), Arc::new(BooleanArray::new(changed, None))];
            let table = RecordBatch::try_from_iter_with_nullable(
                names.zip(keys.into_iter().chain(own)).map(|(name, column)| (name, column, true)),
            );
            let name = format!("{TABLE}/{end}/{}", u8::from(tracked.wants_all));
            state.tables.insert(name, vec![table.map_err(OperatorError::internal)?]);
        }
        Ok(())
    }

    /// Takes over what an instance owns.
    pub(super) fn restore(&mut self, state: &OperatorState, share: Share) -> Result<(), OperatorError> {
        let bad = || OperatorError::state("what a window step has put out is not known");
        self.now = self.now.max(clock::find(state, NOW).unwrap_or(i64::MIN));
        let n_keys = self.aggregation.n_keys();
        for (name, tables) in state.tables.iter().filter(|(name, _)| is_revised(name)) {
            let (end, wants_all) =
                name.strip_prefix(TABLE).and_then(|rest| rest[1..].split_once('/')).ok_or_else(bad)?;
            let end = end.parse().map_err(|_| bad())?;
            let tracked = Self::tracked(&mut self.tracked, &self.aggregation, end)?;
            tracked.wants_all |= wants_all == "1";
            for table in tables {
                if table.num_columns() != n_keys + 2 {
                    return Err(bad());
                }
                let own = owned(&self.aggregation, table, share)?;
                let table = filter_record_batch(table, &own).map_err(OperatorError::internal)?;
                let revisions = table.column(n_keys).as_primitive_opt::<Int64Type>().ok_or_else(bad)?;
                let changed = table.column(n_keys + 1).as_boolean_opt().ok_or_else(bad)?;
                tracked.numbers(&table.columns()[..n_keys], table.num_rows(), &mut self.numbers)?;
                for (row, number) in self.numbers.iter().enumerate() {
                    let group = Group { revision: revisions.value(row), has_changed: changed.value(row) };
                    tracked.groups[*number as usize] = group;
                    tracked.has_changed |= group.has_changed;
                }
            }
        }
        // Whatever waits is looked for, and so is what closes next.
        self.waiting = Waiting { changed: true, early: self.early };
        self.next_close = i64::MIN;
        Ok(())
    }
}

/// Whether a table of a state is about what was put out.
pub(super) fn is_revised(name: &str) -> bool {
    name.starts_with(TABLE)
}

/// The time in a state that says how far the watermark is.
pub(super) fn clock_entry(now: i64) -> (&'static str, i64) {
    (NOW, now)
}

/// The ends of the windows a pane counts for, from `next_end` on.
pub(super) fn ends(windows: &Windows, pane: PaneKey, next_end: i64) -> impl Iterator<Item = i64> + use<> {
    let first = windows.first_end_of_pane(pane.start);
    let from = pane.from_end.max(next_end);
    // Ends are `every` apart.
    let steps = (i128::from(from) - i128::from(first)).max(0).div_euclid(i128::from(windows.every));
    let first = i64::try_from(i128::from(first) + steps * i128::from(windows.every)).unwrap_or(i64::MAX);
    let first = if first < from { first.saturating_add(windows.every) } else { first };
    let last = windows.last_end_of_time(pane.start).unwrap_or(i64::MIN);
    let every = windows.every;
    std::iter::successors(Some(first), move |end| end.checked_add(every)).take_while(move |end| *end <= last)
}

/// The end of the first window after `now` that a pane counts for, whose first window ends at `first_end`.
fn first_open(windows: &Windows, pane: PaneKey, first_end: i64, now: i64) -> i64 {
    let after = now.saturating_add(1).max(first_end);
    ends(windows, pane, after).next().unwrap_or(i64::MAX)
}
