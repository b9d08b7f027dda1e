//! Sessions that are put out before they are final: which have been, as what, and which have changed since.
//!
//! A session is *closed* while the watermark has reached its end. Whoever reads results knows a session by its start,
//! or by start and end; when these are not any more what they were when it was put out, the result that was known is
//! taken back, and the session begins as a new one. The same if it becomes part of another.
//!
//! Invariant: a session that is told has not become part of another; one that has, and was told, is in `gone` until
//! that is put out. That happens before any session is put out, so its key is still known.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use weir_component::operator::{KnownBy, Moment, OperatorError, OperatorState, Output, Share, Waiting};
use weir_component::revision::Revision;

use super::open::{NONE, OpenWindows};
use super::results::{About, Shape, owned};
use super::session::Due;
use crate::clock;

/// What was put out of the sessions there are, in their order.
const TOLD: &str = "told";
/// What was put out of sessions that are gone, and has to be taken back.
const GONE: &str = "gone";
/// How far the watermark is.
pub(super) const NOW: &str = "now";

/// What readers know of a session.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    first: i64,
    last: i64,
    /// The number of its newest revision; 0 if it is not known.
    revision: i64,
    has_changed: bool,
    /// There is an entry that says when it closes.
    is_closing: bool,
}

/// A result that has to be taken back.
#[derive(Clone, Copy, Debug)]
struct Gone {
    key: u32,
    first: i64,
    last: i64,
    revision: i64,
}

pub(super) struct Retelling {
    gap: i64,
    lateness: i64,
    early: bool,
    known_by: KnownBy,
    /// The latest watermark.
    pub(super) now: i64,
    /// By session.
    told: Vec<Told>,
    gone: Vec<Gone>,
    /// When sessions close, as it was once; they may close later by now.
    closing: BinaryHeap<Due>,
    /// Sessions that have changed and wait to be put out, with their generations; some do not wait any more.
    changed: Vec<(u32, u32)>,
    early_changed: Vec<(u32, u32)>,
}

impl Retelling {
    pub(super) fn new(gap: i64, lateness: i64, early: bool, known_by: KnownBy) -> Self {
        Self {
            gap,
            lateness,
            early,
            known_by,
            now: i64::MIN,
            told: Vec::new(),
            gone: Vec::new(),
            closing: BinaryHeap::new(),
            changed: Vec::new(),
            early_changed: Vec::new(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.told.capacity() * size_of::<Told>()
            + self.gone.capacity() * size_of::<Gone>()
            + self.closing.capacity() * size_of::<Due>()
            + (self.changed.capacity() + self.early_changed.capacity()) * size_of::<(u32, u32)>()
    }

    pub(super) fn waiting(&self) -> Waiting {
        // What a session is known as now comes no earlier than the session itself.
        let is_gone = !self.gone.is_empty();
        let changed = !self.changed.is_empty() || (is_gone && !self.early);
        Waiting { changed, early: !self.early_changed.is_empty() || (is_gone && self.early) }
    }

    /// Whether what is gone is taken back at a moment also if no session is put out.
    pub(super) fn takes_back_at(&self, moment: Moment) -> bool {
        (moment == Moment::Early) == self.early
    }

    fn told(&mut self, session: u32) -> &mut Told {
        let at = session as usize;
        if at >= self.told.len() {
            self.told.resize(at + 1, Told::default());
        }
        &mut self.told[at]
    }

    /// A session has begun.
    pub(super) fn begun(&mut self, open: &OpenWindows, session: u32) {
        *self.told(session) = Told::default();
        self.will_close(open, session);
    }

    /// Sees that a session is looked at when it closes; one that was closed may have been opened again.
    fn will_close(&mut self, open: &OpenWindows, session: u32) {
        if self.lateness > 0 && !std::mem::replace(&mut self.told(session).is_closing, true) {
            let known = open.window(session);
            self.closing.push(Reverse((known.last + self.gap, session, known.generation)));
        }
    }

    /// A session is about to become part of the next newer one of its key.
    pub(super) fn absorbed(&mut self, open: &OpenWindows, older: u32, newer: u32) {
        let is_closing = self.told(newer).is_closing;
        let known = Told { is_closing, ..*self.told(older) };
        let Told { first, last, revision, .. } = std::mem::replace(self.told(newer), known);
        if revision > 0 {
            self.gone.push(Gone { key: open.window(newer).key, first, last, revision });
        }
        // Whatever it was listed for, it is listed anew.
        self.told(newer).has_changed = false;
    }

    /// A session has got a row.
    pub(super) fn touched(&mut self, open: &OpenWindows, session: u32) {
        if !self.told(session).has_changed {
            self.told(session).has_changed = true;
            self.list(open, session);
        }
    }

    /// A session that has changed waits to be put out.
    fn list(&mut self, open: &OpenWindows, session: u32) {
        let known = open.window(session);
        let is_known = self.told(session).revision > 0;
        if known.last + self.gap <= self.now || (is_known && !self.early) {
            self.changed.push((session, known.generation));
            return;
        }
        if self.early {
            self.early_changed.push((session, known.generation));
        }
        self.will_close(open, session);
    }

    /// Takes note of how far time is.
    pub(super) fn advance(&mut self, open: &OpenWindows, now: i64) {
        self.now = self.now.max(now);
        while let Some(Reverse((due, session, generation))) = self.closing.peek().copied()
            && due <= self.now
        {
            self.closing.pop();
            if !open.has(session, generation) {
                continue;
            }
            let end = open.window(session).last + self.gap;
            if end > self.now {
                self.closing.push(Reverse((end, session, generation)));
                continue;
            }
            let told = self.told(session);
            told.is_closing = false;
            if told.has_changed {
                self.changed.push((session, generation));
            }
        }
    }

    /// Does away with entries for sessions that are gone, when they are many.
    pub(super) fn tidy(&mut self, open: &OpenWindows, entries_min: usize) {
        if self.closing.len() > 2 * open.len() + entries_min {
            self.closing.retain(|Reverse((_, session, generation))| open.has(*session, *generation));
            self.closing.shrink_to(2 * self.closing.len());
        }
        for list in [&mut self.changed, &mut self.early_changed] {
            if list.len() > 2 * open.len() + entries_min {
                list.retain(|(session, generation)| open.has(*session, *generation));
            }
        }
        if open.len() == 0 {
            self.told = Vec::new();
        }
    }

    /// The sessions to be put out now, each once: those that are closed or known, or all that have changed.
    pub(super) fn due(&mut self, open: &OpenWindows, is_early: bool) -> Vec<u32> {
        let mut listed = std::mem::take(&mut self.changed);
        if is_early {
            listed.append(&mut self.early_changed);
        }
        let mut due = Vec::with_capacity(listed.len());
        for (session, generation) in listed {
            if open.has(session, generation) && std::mem::take(&mut self.told(session).has_changed) {
                due.push(session);
            }
        }
        due
    }

    /// Takes back what is gone, and what these sessions were known as if that is not what they are.
    pub(super) fn take_back(
        &mut self,
        open: &OpenWindows,
        shape: &Shape,
        sessions: &[u32],
        output: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        let mut gone = std::mem::take(&mut self.gone);
        for session in sessions {
            let known = open.window(*session);
            let Told { first, last, revision, .. } = *self.told(*session);
            let is_same = first == known.first && (self.known_by == KnownBy::Start || last == known.last);
            if revision > 0 && !is_same {
                gone.push(Gone { key: known.key, first, last, revision });
                self.told(*session).revision = 0;
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let about = About {
            starts: gone.iter().map(|gone| gone.first).collect(),
            ends: gone.iter().map(|gone| gone.last + self.gap).collect(),
            // Never behind what was promised to whoever comes after.
            times: gone.iter().map(|gone| (gone.last + self.gap - 1).max(self.now)).collect(),
            revisions: gone.iter().map(|gone| revision(gone.revision + 1, true, true)).collect(),
        };
        shape.retract(&about, open.columns(gone.iter().map(|gone| gone.key))?, output)
    }

    /// The next revisions of sessions, which are put out as they are now.
    pub(super) fn revise(&mut self, open: &OpenWindows, sessions: &[u32], is_final: bool) -> Vec<Revision> {
        let revise = |session: &u32| {
            let known = open.window(*session);
            let told = self.told(*session);
            let Told { revision: before, is_closing, .. } = *told;
            *told = Told { first: known.first, last: known.last, revision: before + 1, has_changed: false, is_closing };
            revision(told.revision, is_final, false)
        };
        sessions.iter().map(revise).collect()
    }

    /// All that has to be known, in tables.
    pub(super) fn snapshot(&self, open: &OpenWindows, state: &mut OperatorState) -> Result<(), OperatorError> {
        let all: Vec<Told> =
            open.all().map(|session| self.told.get(session as usize).copied().unwrap_or_default()).collect();
        if !all.is_empty() {
            let changed: BooleanArray = all.iter().map(|told| Some(told.has_changed)).collect();
            let numbers = [
                ("first", column(&all, |told| told.first)),
                ("last", column(&all, |told| told.last)),
                ("revision", column(&all, |told| told.revision)),
                ("changed", Arc::new(changed) as ArrayRef),
            ];
            let table = RecordBatch::try_from_iter(numbers).map_err(OperatorError::internal)?;
            state.tables.insert(TOLD.to_owned(), vec![table]);
        }
        if !self.gone.is_empty() {
            let keys = open.columns(self.gone.iter().map(|gone| gone.key))?;
            let names = (0..keys.len()).map(|at| at.to_string());
            let names = names.chain(["first", "last", "revision"].map(str::to_owned));
            let numbers = [
                column(&self.gone, |gone| gone.first),
                column(&self.gone, |gone| gone.last),
                column(&self.gone, |gone| gone.revision),
            ];
            let columns = names.zip(keys.into_iter().chain(numbers)).map(|(name, column)| (name, column, true));
            let table = RecordBatch::try_from_iter_with_nullable(columns).map_err(OperatorError::internal)?;
            state.tables.insert(GONE.to_owned(), vec![table]);
        }
        Ok(())
    }

    /// Takes over what an instance owns; `here` is the session each one of the state is now.
    pub(super) fn restore(
        &mut self,
        open: &mut OpenWindows,
        shape: &Shape,
        (state, here): (&OperatorState, &[u32]),
        share: Share,
    ) -> Result<(), OperatorError> {
        let bad = || OperatorError::state("what was put out of sessions is not known");
        self.now = self.now.max(clock::find(state, NOW).unwrap_or(i64::MIN));
        // Of sessions of a state that says nothing of this, nothing was put out.
        for session in here.iter().filter(|session| **session != NONE) {
            *self.told(*session) = Told { has_changed: true, ..Told::default() };
        }
        for table in state.table(TOLD) {
            let (Some(first), Some(last), Some(revision)) = (number(table, 0), number(table, 1), number(table, 2))
            else {
                return Err(bad());
            };
            let changed = table.columns().get(3).and_then(|column| column.as_boolean_opt()).ok_or_else(bad)?;
            if table.num_rows() != here.len() {
                return Err(bad());
            }
            for (row, session) in here.iter().enumerate().filter(|(_, session)| **session != NONE) {
                let (first, last, revision) = (first.value(row), last.value(row), revision.value(row));
                let has_changed = changed.value(row);
                *self.told(*session) = Told { first, last, revision, has_changed, is_closing: false };
            }
        }
        let n_keys = shape.aggregation.n_keys();
        for table in state.table(GONE) {
            if table.num_columns() != n_keys + 3 {
                return Err(bad());
            }
            let own = owned(&shape.aggregation, table, share)?;
            let table = filter_record_batch(table, &own).map_err(OperatorError::internal)?;
            let mut keys = Vec::new();
            open.numbers(&table.columns()[..n_keys], table.num_rows(), &mut keys)?;
            let numbers = |at: usize| number(&table, n_keys + at);
            let (Some(first), Some(last), Some(revision)) = (numbers(0), numbers(1), numbers(2)) else {
                return Err(bad());
            };
            let gone = keys.iter().enumerate().map(|(row, key)| Gone {
                key: *key,
                first: first.value(row),
                last: last.value(row),
                revision: revision.value(row),
            });
            self.gone.extend(gone);
        }
        Ok(())
    }

    /// After all states were taken over: what closes when, and what waits.
    pub(super) fn restored(&mut self, open: &OpenWindows) {
        let all: Vec<u32> = open.all().collect();
        for session in all {
            self.will_close(open, session);
            if self.told(session).has_changed {
                self.list(open, session);
            }
        }
    }
}

fn revision(number: i64, is_final: bool, is_retracted: bool) -> Revision {
    Revision { number, is_final, is_retracted }
}

fn column<T>(all: &[T], value: fn(&T) -> i64) -> ArrayRef {
    Arc::new(all.iter().map(value).collect::<Int64Array>())
}

fn number(table: &RecordBatch, at: usize) -> Option<&Int64Array> {
    table.columns().get(at)?.as_primitive_opt::<Int64Type>()
}
