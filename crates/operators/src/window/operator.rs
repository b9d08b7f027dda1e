//! Panes of aggregated rows, and windows made out of them when their time has come.
//!
//! Invariant: whether a row counts for a window depends on the watermark of the row's own source
//! partition, never on how far other partitions or instances are. A row that is too late for the
//! first of its windows and not for the last is kept in a pane of its own, which the windows it is too
//! late for leave out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StructArray, TimestampNanosecondArray, UInt32Array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Int64Type};
use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::batch::bytes_of;
use weir_component::operator::{Aside, AsideNotes, AsideReason, Operator, OperatorError, OperatorState, Output, Share};
use weir_sql::expressions::{Aggregation, Arguments, Finished, Groups, key_hashes};

use super::WINDOW_COLUMN;
use super::assign::Windows;
use crate::failing::{self, fatal};

/// Sealed parts of a pane are merged when there are so many.
const SEALED_MAX: usize = 8;
/// The table with the times of a state.
const CLOCK: &str = "clock";

/// A pane by its start, and the end of the first window it counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PaneKey {
    start: i64,
    /// The smallest time there is if it counts for all.
    from_end: i64,
}

/// The rows of a pane, aggregated.
#[derive(Default)]
struct Pane {
    /// What was sealed for checkpoints, or for windows that overlap; never changed.
    sealed: Vec<RecordBatch>,
    /// What came since.
    open: Option<Groups>,
}

pub(super) struct Window {
    windows: Windows,
    lateness: i64,
    aggregation: Arc<Aggregation>,
    panes: BTreeMap<PaneKey, Pane>,
    /// Every window that starts before it has been put out.
    next_start: i64,
    /// The latest watermark, less the lateness.
    watermark: i64,
}

impl Window {
    pub(super) fn new(windows: Windows, lateness: i64, aggregation: Arc<Aggregation>) -> Self {
        Self { windows, lateness, aggregation, panes: BTreeMap::new(), next_start: i64::MIN, watermark: i64::MIN }
    }

    /// The pane of each row; `None` for rows that belong to none, with the reason noted in `aside`.
    fn pane_of_row(&self, batch: &Batch, row: usize) -> Place {
        let time = batch.times[row];
        if !self.windows.is_in_range(time) {
            return Place::OutOfRange;
        }
        let Some(last) = self.windows.last_of_time(time) else { return Place::Gap };
        let watermark = batch.watermark(row).saturating_sub(self.lateness);
        // The second cannot be if sources keep their word; were it otherwise, the row is not lost.
        if last + self.windows.size <= watermark || last < self.next_start {
            return Place::Late;
        }
        let start = self.windows.pane_of(time);
        let first_end = self.windows.first_of_pane(start) + self.windows.size;
        let from_end = if first_end <= watermark { self.windows.first_open_end(time, watermark) } else { i64::MIN };
        Place::Pane(PaneKey { start, from_end })
    }

    fn add(&mut self, key: PaneKey, arguments: &Arguments) -> Result<(), OperatorError> {
        let pane = self.panes.entry(key).or_default();
        let groups = match &mut pane.open {
            Some(groups) => groups,
            open => open.insert(self.aggregation.groups().map_err(|error| fatal(&error))?),
        };
        groups.update(arguments).map_err(|error| fatal(&error))
    }

    fn put_out(&mut self, start: i64, output: &mut dyn Output) -> Result<(), OperatorError> {
        let end = start + self.windows.size;
        let from = PaneKey { start, from_end: i64::MIN };
        let to = PaneKey { start: end, from_end: i64::MIN };
        let keys: Vec<PaneKey> =
            self.panes.range(from..to).map(|(key, _)| *key).filter(|key| key.from_end <= end).collect();
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
                    pane.seal(&self.aggregation)?;
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
        let finished = groups.finish().map_err(|error| fatal(&error))?;
        self.put_out_groups((start, end), &finished, output)
    }

    /// The results of groups. A group an expression fails on, such as a division by a sum that is 0, is set
    /// aside; the others come.
    fn put_out_groups(
        &self,
        (start, end): (i64, i64),
        finished: &Finished,
        output: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        let n_rows = finished.rows();
        match self.aggregation.results(vec![self.bounds(start, end, n_rows)], finished) {
            Ok(rows) => output.batch(0, Batch::new(rows, vec![end - 1; n_rows].into())),
            Err(error) if !failing::is_of_a_row(&error) => return Err(fatal(&error)),
            Err(error) if n_rows == 1 => {
                let group = self.aggregation.group(vec![self.bounds(start, end, 1)], finished);
                output.aside(Aside {
                    reason: AsideReason::Failed,
                    rows: group.map_err(|error| fatal(&error))?,
                    times: Some(vec![end - 1].into()),
                    notes: AsideNotes::Messages(vec![error.to_string()]),
                });
            }
            Err(_) => {
                let half = n_rows / 2;
                self.put_out_groups((start, end), &finished.slice(0, half), output)?;
                self.put_out_groups((start, end), &finished.slice(half, n_rows - half), output)?;
            }
        }
        Ok(())
    }

    fn bounds(&self, start: i64, end: i64, n_rows: usize) -> ArrayRef {
        let time = |time| Arc::new(TimestampNanosecondArray::from(vec![time; n_rows]).with_timezone("UTC")) as ArrayRef;
        let schema = self.aggregation.output_schema();
        let fields = match schema.field_with_name(WINDOW_COLUMN).map(|field| field.data_type()) {
            Ok(DataType::Struct(fields)) => fields.clone(),
            _ => unreachable!("the first column is the window"),
        };
        Arc::new(StructArray::new(fields, vec![time(start), time(end)], None))
    }

    /// Forgets the panes no window to come needs.
    fn forget(&mut self) {
        while let Some((key, _)) = self.panes.first_key_value() {
            let last = self.windows.last_of_time(key.start);
            if last.is_some_and(|last| last >= self.next_start) {
                break;
            }
            self.panes.pop_first();
        }
    }
}

enum Place {
    Pane(PaneKey),
    /// Between windows.
    Gap,
    Late,
    OutOfRange,
}

impl Pane {
    fn seal(&mut self, aggregation: &Aggregation) -> Result<(), OperatorError> {
        if let Some(mut groups) = self.open.take()
            && !groups.is_empty()
        {
            self.sealed.push(groups.take_state().map_err(|error| fatal(&error))?);
        }
        if self.sealed.len() >= SEALED_MAX {
            let mut groups = aggregation.groups().map_err(|error| fatal(&error))?;
            for sealed in &self.sealed {
                groups.merge(sealed).map_err(|error| fatal(&error))?;
            }
            self.sealed = vec![groups.take_state().map_err(|error| fatal(&error))?];
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.sealed.iter().map(bytes_of).sum::<usize>() + self.open.as_ref().map_or(0, Groups::bytes)
    }
}

impl Operator for Window {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let aggregation = Arc::clone(&self.aggregation);
        let computed = failing::apply(batch, output, &mut |batch| aggregation.arguments(&batch.rows))?;
        for (batch, arguments) in computed {
            self.take_in(&batch, &arguments, output)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        // The end of time stays the end of time.
        let watermark = if watermark.0 == i64::MAX { i64::MAX } else { watermark.0.saturating_sub(self.lateness) };
        self.watermark = self.watermark.max(watermark);
        while let Some((pane, _)) = self.panes.first_key_value() {
            let start = self.windows.first_of_pane(pane.start).max(self.next_start);
            if start + self.windows.size > self.watermark {
                break;
            }
            self.put_out(start, output)?;
            self.next_start = start + self.windows.every;
            self.forget();
        }
        Ok(Timestamp(self.watermark))
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        for (key, pane) in &mut self.panes {
            pane.seal(&self.aggregation)?;
            state.tables.insert(format!("{}/{}", key.start, key.from_end), pane.sealed.clone());
        }
        let clock = |time: i64| Arc::new(Int64Array::from(vec![time])) as ArrayRef;
        let clock =
            RecordBatch::try_from_iter([("watermark", clock(self.watermark)), ("next_start", clock(self.next_start))])
                .map_err(OperatorError::internal)?;
        state.tables.insert(CLOCK.to_owned(), vec![clock]);
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        // Instances stop at the same barrier, which all watermarks before it precede.
        for state in states {
            for (name, batches) in &state.tables {
                if name == CLOCK {
                    for batch in batches {
                        self.watermark = self.watermark.max(clock_value(batch, "watermark")?);
                        self.next_start = self.next_start.max(clock_value(batch, "next_start")?);
                    }
                    continue;
                }
                let key = pane_key(name)?;
                for batch in batches {
                    let own = self.share_of(batch, share)?;
                    if own.num_rows() > 0 {
                        self.panes.entry(key).or_default().sealed.push(own);
                    }
                }
            }
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.panes.values().map(Pane::bytes).sum()
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let groups = |pane: &Pane| {
            pane.sealed.iter().map(RecordBatch::num_rows).sum::<usize>() + pane.open.as_ref().map_or(0, Groups::len)
        };
        let keys: usize = self.panes.values().map(groups).sum();
        vec![("open_panes", self.panes.len() as u64), ("keys", keys as u64)]
    }
}

impl Window {
    /// Rows whose keys and arguments have been computed.
    fn take_in(&mut self, batch: &Batch, arguments: &Arguments, output: &mut dyn Output) -> Result<(), OperatorError> {
        let mut places: BTreeMap<PaneKey, Vec<u32>> = BTreeMap::new();
        let (mut late, mut out_of_range) = (Vec::new(), Vec::new());
        // Rows mostly come in order, so most have the pane of the row before.
        let mut current: Option<(PaneKey, Vec<u32>)> = None;
        for (row, index) in (0..batch.len()).zip(0_u32..) {
            match self.pane_of_row(batch, row) {
                Place::Pane(key) => match &mut current {
                    Some((at, rows)) if *at == key => rows.push(index),
                    _ => {
                        if let Some((at, rows)) = current.take() {
                            places.insert(at, rows);
                        }
                        let mut rows = places.remove(&key).unwrap_or_default();
                        rows.push(index);
                        current = Some((key, rows));
                    }
                },
                Place::Gap => {}
                Place::Late => late.push(index),
                Place::OutOfRange => out_of_range.push(index),
            }
        }
        if let Some((at, rows)) = current {
            places.insert(at, rows);
        }
        for (key, rows) in places {
            if rows.len() == batch.len() {
                self.add(key, arguments)?;
            } else {
                let rows = UInt32Array::from(rows);
                self.add(key, &arguments.take(&rows).map_err(|error| fatal(&error))?)?;
            }
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

    fn share_of(&self, batch: &RecordBatch, share: Share) -> Result<RecordBatch, OperatorError> {
        if batch.schema_ref() != self.aggregation.state_schema() {
            return Err(OperatorError::state("the state of a window step has other columns than this step needs"));
        }
        if share.count == 1 {
            return Ok(batch.clone());
        }
        let keys = &batch.columns()[..self.aggregation.n_keys()];
        let hashes = key_hashes(keys, batch.num_rows()).map_err(|error| fatal(&error))?;
        let own: BooleanArray = hashes.into_iter().map(|hash| Some(share.owns(hash))).collect();
        filter_record_batch(batch, &own).map_err(OperatorError::internal)
    }
}

fn clock_value(batch: &RecordBatch, name: &str) -> Result<i64, OperatorError> {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .filter(|column| column.len() == 1)
        .map(|column| column.value(0))
        .ok_or_else(|| OperatorError::state("the state of a window step has no clock"))
}

fn pane_key(name: &str) -> Result<PaneKey, OperatorError> {
    name.split_once('/')
        .and_then(|(start, from_end)| Some(PaneKey { start: start.parse().ok()?, from_end: from_end.parse().ok()? }))
        .ok_or_else(|| OperatorError::state(format!("the state of a window step has no pane called {name}")))
}
