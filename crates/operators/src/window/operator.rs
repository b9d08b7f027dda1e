//! Panes of aggregated rows, and windows made out of them when their time has come.
//!
//! Invariant: whether a row counts for a window depends on the watermark of the row's own source
//! partition, never on how far other partitions or instances are. A row that is too late for the
//! first of its windows and not for the last is kept in a pane of its own, which the windows it is too
//! late for leave out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{
    Aside, AsideNotes, AsideReason, Moment, Operator, OperatorError, OperatorState, Output, Share, Waiting,
};
use weir_component::revision::Revision;
use weir_sql::expressions::{Aggregation, Arguments, Groups};

use super::assign::Windows;
use super::pane::Pane;
use super::places::{Place, Places};
use super::results::{self, About, Shape};
use super::revised::{self, Revising};
use crate::clock;
use crate::failing::{self, fatal};

/// A pane by its start, and the end of the first window it counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PaneKey {
    pub(super) start: i64,
    /// The smallest time there is if it counts for all.
    pub(super) from_end: i64,
}

pub(super) struct Window {
    windows: Windows,
    lateness: i64,
    aggregation: Arc<Aggregation>,
    shape: Shape,
    panes: BTreeMap<PaneKey, Pane>,
    /// Every window that ends before it has been put out.
    next_end: i64,
    /// The latest watermark, less the lateness.
    watermark: i64,
    /// What was put out before it was final, if that is wanted.
    revising: Option<Revising>,
    /// How many windows became final.
    expired: u64,
}

impl Window {
    pub(super) fn new(windows: Windows, lateness: i64, shape: Shape, revising: Option<Revising>) -> Self {
        Self {
            windows,
            lateness,
            aggregation: Arc::clone(&shape.aggregation),
            shape,
            panes: BTreeMap::new(),
            next_end: i64::MIN,
            watermark: i64::MIN,
            revising,
            expired: 0,
        }
    }

    /// Where a row belongs. Of rows without a watermark of their own that is the same for all of a pane.
    fn pane_of_row(&self, batch: &Batch, row: usize) -> Place {
        let time = batch.times[row];
        if !self.windows.is_in_range(time) {
            return Place::OutOfRange;
        }
        let Some(last_end) = self.windows.last_end_of_time(time) else { return Place::Gap };
        let watermark = batch.watermark(row).saturating_sub(self.lateness);
        // The second cannot be if sources keep their word; were it otherwise, the row is not lost.
        if last_end <= watermark || last_end < self.next_end {
            return Place::Late;
        }
        let start = self.windows.pane_of(time);
        let first_end = self.windows.first_end_of_pane(start);
        let from_end = if first_end <= watermark { self.windows.first_open_end(time, watermark) } else { i64::MIN };
        Place::Pane(PaneKey { start, from_end })
    }

    fn add(&mut self, key: PaneKey, arguments: &Arguments) -> Result<(), OperatorError> {
        self.panes.entry(key).or_default().update(&self.aggregation, arguments)?;
        if let Some(revising) = &mut self.revising {
            let first_end = revised::ends(&self.windows, key, self.next_end).next().unwrap_or(i64::MAX);
            revising.note(&self.windows, key, first_end, (arguments.keys(), arguments.rows()))?;
        }
        Ok(())
    }

    /// The panes of a window.
    fn panes_of(&self, end: i64) -> Vec<PaneKey> {
        let from = PaneKey { start: self.windows.start_of(end), from_end: i64::MIN };
        let to = PaneKey { start: end, from_end: i64::MIN };
        self.panes.range(from..to).map(|(key, _)| *key).filter(|key| key.from_end <= end).collect()
    }

    /// Puts out what has changed of a window that is not final.
    fn revise(&mut self, end: i64, output: &mut dyn Output) -> Result<(), OperatorError> {
        let keys = self.panes_of(end);
        let Some(revising) = &mut self.revising else { return Ok(()) };
        let mut groups = self.aggregation.groups().map_err(|error| fatal(&error))?;
        for key in keys {
            let Some(pane) = self.panes.get_mut(&key) else { continue };
            pane.seal()?;
            for sealed in &pane.sealed {
                groups.merge(&revising.wanted(end, sealed)?).map_err(|error| fatal(&error))?;
            }
        }
        let finished = groups.finish().map_err(|error| fatal(&error))?;
        let revisions = revising.put_out(end, finished.keys(), finished.rows())?;
        self.shape.put_out(&About::of_one(self.windows.start_of(end), end, revisions), &finished, output)
    }

    /// Puts out a window for the last time.
    fn put_out(&mut self, end: i64, output: &mut dyn Output) -> Result<(), OperatorError> {
        let start = self.windows.start_of(end);
        let from = PaneKey { start, from_end: i64::MIN };
        let keys = self.panes_of(end);
        if let Some(revising) = &mut self.revising {
            revising.spread(&self.windows, self.next_end)?;
        }
        let is_tumbling = self.windows.size == self.windows.every;
        let mut groups = None;
        if let ([key], true) = (keys.as_slice(), is_tumbling)
            && let Some(pane) = self.panes.get_mut(key)
            && pane.sealed.is_empty()
        {
            // Nothing else needs the pane, so its groups are finished as they are.
            groups = pane.open.take();
        }
        let mut groups = match groups {
            Some(groups) => groups,
            None => {
                let mut groups = self.aggregation.groups().map_err(|error| fatal(&error))?;
                for key in &keys {
                    let Some(pane) = self.panes.get_mut(key) else { continue };
                    pane.seal()?;
                    for sealed in &pane.sealed {
                        groups.merge(sealed).map_err(|error| fatal(&error))?;
                    }
                }
                groups
            }
        };
        if groups.is_empty() {
            return Ok(());
        }
        if self.windows.is_cumulative && end < start + self.windows.size {
            // The next windows begin with all of this one, so its panes become one.
            let state = groups.take_state().map_err(|error| fatal(&error))?;
            for key in &keys {
                self.panes.remove(key);
            }
            groups.merge(&state).map_err(|error| fatal(&error))?;
            self.panes.insert(from, Pane::of(state));
        }
        let finished = groups.finish().map_err(|error| fatal(&error))?;
        self.expired += 1;
        let revisions = match &mut self.revising {
            Some(revising) => revising.finish(end, finished.keys(), finished.rows())?,
            None => vec![Revision { number: 1, is_final: true, is_retracted: false }; finished.rows()],
        };
        self.shape.put_out(&About::of_one(start, end, revisions), &finished, output)
    }

    /// Forgets the panes no window to come needs.
    fn forget(&mut self) {
        while let Some((key, _)) = self.panes.first_key_value() {
            let last = self.windows.last_end_of_time(key.start);
            if last.is_some_and(|last| last >= self.next_end) {
                break;
            }
            self.panes.pop_first();
        }
    }
}

impl Operator for Window {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let aggregation = Arc::clone(&self.aggregation);
        let computed = failing::apply(batch, output, &mut |batch| aggregation.arguments(&batch.rows))?;
        for (batch, arguments) in computed {
            self.take_in(&batch, &arguments, output)?;
        }
        // One at a time, so that no batch waits for long.
        if let Some(pane) = self.panes.values_mut().find(|pane| pane.is_merging()) {
            pane.merge(&self.aggregation)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.watermark = self.watermark.max(clock::less(watermark, self.lateness));
        while let Some((pane, _)) = self.panes.first_key_value() {
            let end = self.windows.first_end_of_pane(pane.start).max(self.next_end);
            if end > self.watermark {
                break;
            }
            self.put_out(end, output)?;
            self.next_end = end + self.windows.every;
            self.forget();
        }
        if let Some(revising) = &mut self.revising {
            revising.advance(&self.windows, watermark.0, self.next_end, self.panes.keys().copied())?;
        }
        Ok(Timestamp(self.watermark))
    }

    fn waiting(&self) -> Waiting {
        self.revising.as_ref().map_or_else(Waiting::default, Revising::waiting)
    }

    fn on_moment(&mut self, moment: Moment, output: &mut dyn Output) -> Result<(), OperatorError> {
        let Some(revising) = &mut self.revising else { return Ok(()) };
        revising.spread(&self.windows, self.next_end)?;
        for end in revising.due(moment == Moment::Early) {
            self.revise(end, output)?;
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        for (key, pane) in &mut self.panes {
            pane.seal()?;
            state.tables.insert(format!("{}/{}", key.start, key.from_end), pane.sealed.clone());
        }
        let mut times = vec![("watermark", self.watermark), ("next_end", self.next_end)];
        if let Some(revising) = &mut self.revising {
            revising.spread(&self.windows, self.next_end)?;
            revising.snapshot(&mut state)?;
            times.push(revised::clock_entry(revising.now));
        }
        clock::put(&mut state, &times)?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        // Instances stop at the same barrier, which all watermarks before it precede.
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
            self.next_end = self.next_end.max(clock::get(state, "next_end")?);
            if let Some(revising) = &mut self.revising {
                revising.restore(state, share)?;
            }
            let panes = state.tables.iter().filter(|(name, _)| !clock::is_clock(name) && !revised::is_revised(name));
            for (name, batches) in panes {
                let key = pane_key(name)?;
                for batch in batches {
                    let own = results::share_of(&self.aggregation, batch, share)?;
                    if own.num_rows() > 0 {
                        self.panes.entry(key).or_default().sealed.push(own);
                    }
                }
            }
        }
        if let Some(revising) = &mut self.revising {
            revising.forget(self.next_end);
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.panes.values().map(Pane::bytes).sum::<usize>() + self.revising.as_ref().map_or(0, Revising::bytes)
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let groups = |pane: &Pane| {
            pane.sealed.iter().map(RecordBatch::num_rows).sum::<usize>() + pane.open.as_ref().map_or(0, Groups::len)
        };
        let keys: usize = self.panes.values().map(groups).sum();
        let late = self.windows_for_late_rows() as u64;
        vec![("open_panes", self.panes.len() as u64), ("keys", keys as u64), ("windows_open_for_late_rows", late)]
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        vec![("expired_windows", self.expired)]
    }
}

impl Window {
    /// How many windows there are that would be final but for the lateness.
    fn windows_for_late_rows(&self) -> usize {
        let now = self.watermark.saturating_add(self.lateness);
        let (mut n_windows, mut next) = (0, self.next_end);
        for pane in self.panes.keys() {
            for end in revised::ends(&self.windows, *pane, next).take_while(|end| *end <= now) {
                n_windows += 1;
                next = end + 1;
            }
        }
        n_windows
    }

    /// Rows whose keys and arguments have been computed.
    fn take_in(&mut self, batch: &Batch, arguments: &Arguments, output: &mut dyn Output) -> Result<(), OperatorError> {
        let Places { panes, late, out_of_range } =
            Places::of(batch, self.windows.pane, &|row| self.pane_of_row(batch, row));
        for (key, runs) in panes {
            self.add(key, &runs.of(arguments).map_err(|error| fatal(&error))?)?;
        }
        if !late.is_empty() {
            let by = late.iter().map(|row| {
                let row = *row as usize;
                batch.watermark(row).saturating_sub(batch.times[row])
            });
            let notes = AsideNotes::LateBy(by.collect());
            let late = batch.take(&UInt32Array::from(late)).map_err(OperatorError::internal)?;
            output.aside(Aside { reason: AsideReason::Late, rows: late.rows, times: Some(late.times), notes });
        }
        if !out_of_range.is_empty() {
            let message = "its time is so far away that its window has no bounds";
            let notes = AsideNotes::Messages(vec![message.to_owned(); out_of_range.len()]);
            let far = batch.take(&UInt32Array::from(out_of_range)).map_err(OperatorError::internal)?;
            output.aside(Aside { reason: AsideReason::Failed, rows: far.rows, times: Some(far.times), notes });
        }
        Ok(())
    }
}

fn pane_key(name: &str) -> Result<PaneKey, OperatorError> {
    name.split_once('/')
        .and_then(|(start, from_end)| Some(PaneKey { start: start.parse().ok()?, from_end: from_end.parse().ok()? }))
        .ok_or_else(|| OperatorError::state(format!("the state of a window step has no pane called {name}")))
}
