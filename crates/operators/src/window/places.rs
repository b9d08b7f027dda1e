//! Which pane the rows of a batch belong to.
//!
//! Rows mostly come in order, so most have the pane of the row before. Reckoning a pane takes divisions; that a time lies
//! in one takes two comparisons.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::UInt32Array;
use weir_component::Batch;
use weir_sql::SqlError;
use weir_sql::expressions::Arguments;

use super::operator::PaneKey;

/// Where a row belongs.
pub(super) enum Place {
    Pane(PaneKey),
    /// Between windows.
    Gap,
    Late,
    OutOfRange,
}

/// Where the rows of a batch belong.
#[derive(Default)]
pub(super) struct Places {
    pub(super) panes: BTreeMap<PaneKey, Runs>,
    pub(super) late: Vec<u32>,
    pub(super) out_of_range: Vec<u32>,
}

/// Rows that stand together, in order.
pub(super) struct Runs(Vec<Range<u32>>);

impl Places {
    /// Looks at all rows. `place` is that of a row; `pane` is the length of a pane.
    pub(super) fn of(batch: &Batch, pane: i64, place: &dyn Fn(usize) -> Place) -> Self {
        let mut places = Self::default();
        // With watermarks of their own, rows of a pane may count for different windows.
        let is_shared = batch.watermarks.is_none();
        let mut at = 0;
        while at < batch.len() {
            let row = u32::try_from(at).unwrap_or(u32::MAX);
            let mut next = at + 1;
            match place(at) {
                Place::Pane(key) => {
                    if is_shared {
                        let end = key.start.saturating_add(pane);
                        let is_elsewhere = |time: &i64| *time < key.start || *time >= end;
                        next = batch.times[at..].iter().position(is_elsewhere).map_or(batch.len(), |n| at + n);
                    }
                    let run = row..u32::try_from(next).unwrap_or(u32::MAX);
                    places.panes.entry(key).or_insert_with(|| Runs(Vec::new())).add(run);
                }
                Place::Gap => {}
                Place::Late => places.late.push(row),
                Place::OutOfRange => places.out_of_range.push(row),
            }
            at = next;
        }
        places
    }
}

impl Runs {
    fn add(&mut self, run: Range<u32>) {
        match self.0.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => self.0.push(run),
        }
    }

    /// These of the rows.
    pub(super) fn of(&self, arguments: &Arguments) -> Result<Arguments, SqlError> {
        match self.0.as_slice() {
            [run] => Ok(arguments.slice(run.start as usize, run.len())),
            runs => arguments.take(&runs.iter().cloned().flatten().collect::<UInt32Array>()),
        }
    }
}
