//! The times in a step's state.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use weir_base::Timestamp;
use weir_component::operator::{OperatorError, OperatorState};

/// The table with the times of a state.
const CLOCK: &str = "clock";

/// A watermark less a lateness. The end of time stays the end of time.
pub(crate) fn less(watermark: Timestamp, lateness: i64) -> i64 {
    if watermark.0 == i64::MAX { i64::MAX } else { watermark.0.saturating_sub(lateness) }
}

/// Puts times into a state.
pub(crate) fn put(state: &mut OperatorState, times: &[(&str, i64)]) -> Result<(), OperatorError> {
    let columns = times.iter().map(|(name, time)| (*name, Arc::new(Int64Array::from(vec![*time])) as ArrayRef));
    let table = RecordBatch::try_from_iter(columns).map_err(OperatorError::internal)?;
    state.tables.insert(CLOCK.to_owned(), vec![table]);
    Ok(())
}

/// A time of a state; the latest one if it is there more than once, the smallest there is if it is empty.
pub(crate) fn get(state: &OperatorState, name: &str) -> Result<i64, OperatorError> {
    let time = |table: &RecordBatch| {
        let column = table.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        (column.len() == 1).then(|| column.value(0))
    };
    let missing = || OperatorError::state(format!("the state of a step has no time called {name}"));
    let times = state.table(CLOCK).iter().map(|table| time(table).ok_or_else(missing));
    Ok(times.collect::<Result<Vec<i64>, _>>()?.into_iter().max().unwrap_or(i64::MIN))
}

/// A time of a state, if it has one of that name.
pub(crate) fn find(state: &OperatorState, name: &str) -> Option<i64> {
    let times =
        state.table(CLOCK).iter().filter_map(|table| table.column_by_name(name)?.as_primitive_opt::<Int64Type>());
    times.filter(|column| column.len() == 1).map(|column| column.value(0)).max()
}

/// Whether a table of a state is that of its times.
pub(crate) fn is_clock(name: &str) -> bool {
    name == CLOCK
}
