//! Windows of so many rows of a key.
//!
//! Rows are counted in the order of event time, and those of the same time in the order of their values: the
//! order in which partitions are read is not always the same, and results must be. So rows wait until no
//! earlier one is expected. A window that is not full is over some time after its first row, so that a
//! key that does not come again leaves nothing behind.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{KeyHash, Operator, OperatorError, OperatorState, Output, Share};
use weir_sql::expressions::{Aggregation, Arguments};

use super::Keyed;
use super::open::{NONE, OpenWindows};
use super::results::{About, Shape};
use crate::sorted::Sorter;
use crate::{clock, failing, late};

/// Rows that wait for earlier ones.
const WAITING: &str = "waiting";
/// So many entries are always kept as they are.
const DUE_MIN: usize = 1024;

pub(super) struct Counts {
    rows_max: i64,
    within: i64,
    lateness: i64,
    aggregation: Arc<Aggregation>,
    shape: Shape,
    waiting: Sorter,
    open: OpenWindows,
    /// When each window is over at the latest, in order: the window and its generation.
    due: VecDeque<(i64, u32, u32)>,
    /// The latest watermark, less the lateness.
    watermark: i64,
    keys: Vec<u32>,
    of_row: Vec<usize>,
}

impl Counts {
    pub(super) fn new(
        rows_max: i64,
        within: i64,
        lateness: i64,
        input: SchemaRef,
        shape: Shape,
    ) -> Result<Self, OperatorError> {
        let aggregation = Arc::clone(&shape.aggregation);
        Ok(Self {
            rows_max,
            within,
            lateness,
            waiting: Sorter::new(input)?,
            open: OpenWindows::new(Arc::clone(&aggregation))?,
            aggregation,
            shape,
            due: VecDeque::new(),
            watermark: i64::MIN,
            keys: Vec::new(),
            of_row: Vec::new(),
        })
    }

    /// Counts rows, which are in order.
    fn count(&mut self, batch: &Batch, arguments: &Arguments, output: &mut dyn Output) -> Result<(), OperatorError> {
        let mut keys = std::mem::take(&mut self.keys);
        self.open.keys_of(arguments, &mut keys)?;
        let mut of_row = std::mem::take(&mut self.of_row);
        of_row.clear();
        let mut over = Vec::new();
        for (key, time) in keys.iter().zip(batch.times.iter()) {
            let mut window = self.open.newest(*key);
            if window != NONE {
                let known = self.open.window_mut(window);
                if !known.is_full && time.saturating_sub(known.first) >= self.within {
                    known.is_full = true;
                    over.push(window);
                }
            }
            if window == NONE || self.open.window(window).is_full {
                window = self.open.begin(*key, *time, NONE, window);
                self.due.push_back((*time + self.within, window, self.open.window(window).generation));
            }
            of_row.push(self.open.slot(window));
            let known = self.open.window_mut(window);
            known.last = *time;
            known.rows += 1;
            if known.rows == self.rows_max {
                known.is_full = true;
                over.push(window);
            }
        }
        self.open.update(arguments, &of_row)?;
        (self.keys, self.of_row) = (keys, of_row);
        self.put_out(&over, output)
    }

    fn put_out(&mut self, over: &[u32], output: &mut dyn Output) -> Result<(), OperatorError> {
        if over.is_empty() {
            return Ok(());
        }
        let windows = || over.iter().map(|window| self.open.window(*window));
        let starts: Vec<i64> = windows().map(|window| window.first).collect();
        let ends: Vec<i64> = windows().map(|window| window.last).collect();
        // A window that did not become full is over when its time is.
        let time =
            |rows: i64, first: i64, last: i64| if rows == self.rows_max { last } else { first + self.within - 1 };
        let times: Vec<i64> = windows().map(|window| time(window.rows, window.first, window.last)).collect();
        let finished = self.open.finish(over)?;
        // Two of them may have the same bounds, so they are not told apart by these, and no result is ever revised.
        self.shape.put_out(&About { starts, ends, times, revisions: Vec::new() }, &finished, output)
    }
}

impl Operator for Counts {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let batch = late::on_time(batch, self.lateness, self.watermark, self.within, output)?;
        self.waiting.push(batch);
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.watermark = self.watermark.max(clock::less(watermark, self.lateness));
        let aggregation = Arc::clone(&self.aggregation);
        for batch in self.waiting.release(self.watermark)? {
            let computed = failing::apply(batch, output, &mut |batch| aggregation.arguments(&batch.rows))?;
            for (batch, arguments) in computed {
                self.count(&batch, &arguments, output)?;
            }
        }
        let mut over = Vec::new();
        while let Some((due, window, generation)) = self.due.front().copied() {
            let is_known = self.open.has(window, generation);
            if is_known && due > self.watermark {
                break;
            }
            self.due.pop_front();
            if is_known {
                over.push(window);
            }
        }
        self.put_out(&over, output)?;
        // Windows that became full leave entries behind.
        if self.due.len() > 2 * self.open.len() + DUE_MIN {
            let open = &self.open;
            self.due.retain(|(_, window, generation)| open.has(*window, *generation));
            self.due.shrink_to(2 * self.due.len());
        }
        Ok(Timestamp(self.watermark))
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        self.open.snapshot(&mut state)?;
        state.tables.insert(WAITING.to_owned(), self.waiting.snapshot()?);
        clock::put(&mut state, &[("watermark", self.watermark)])?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        let keyed = Keyed(Arc::clone(&self.aggregation));
        let keys: Option<&dyn KeyHash> = if self.aggregation.n_keys() == 0 { None } else { Some(&keyed) };
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
            self.waiting.restore(state.table(WAITING), keys, share)?;
            self.open.restore(state, share)?;
        }
        let due = |window: u32| {
            let known = self.open.window(window);
            (known.first + self.within, window, known.generation)
        };
        let mut all: Vec<_> = self.open.all().map(due).collect();
        all.sort_unstable();
        self.due = all.into();
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.open.bytes() + self.waiting.bytes() + self.due.capacity() * size_of::<(i64, u32, u32)>()
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let (windows, keys, parts) = (self.open.len(), self.open.n_keys(), self.open.n_parts());
        let waiting = self.waiting.len() as u64;
        vec![
            ("open_windows", windows as u64),
            ("keys", keys as u64),
            ("parts", parts as u64),
            ("waiting_rows", waiting),
        ]
    }
}
