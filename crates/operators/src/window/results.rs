//! What all windows have in common: how results are put out, and which part of a state an instance owns.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StructArray, TimestampNanosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use weir_component::Batch;
use weir_component::operator::{Aside, AsideNotes, AsideReason, OperatorError, Output, Share};
use weir_sql::expressions::{Aggregation, Finished, key_hashes};

use super::WINDOW_COLUMN;
use crate::failing::{self, fatal};

/// The results of groups, each with the bounds of its window and its event time. A group an expression fails
/// on, such as a division by a sum that is 0, is set aside; the others come.
pub(super) fn put_out(
    aggregation: &Aggregation,
    starts: &[i64],
    ends: &[i64],
    times: &[i64],
    finished: &Finished,
    output: &mut dyn Output,
) -> Result<(), OperatorError> {
    let n_rows = finished.rows();
    match aggregation.results(vec![bounds(aggregation, starts, ends)], finished) {
        Ok(rows) => output.batch(0, Batch::new(rows, times.to_vec().into())),
        Err(error) if !failing::is_of_a_row(&error) => return Err(fatal(&error)),
        Err(error) if n_rows == 1 => {
            let group = aggregation.group(vec![bounds(aggregation, starts, ends)], finished);
            output.aside(Aside {
                reason: AsideReason::Failed,
                rows: group.map_err(|error| fatal(&error))?,
                times: Some(times.to_vec().into()),
                notes: AsideNotes::Messages(vec![error.to_string()]),
            });
        }
        Err(_) => {
            let half = n_rows / 2;
            for (from, to) in [(0, half), (half, n_rows)] {
                let part = finished.slice(from, to - from);
                put_out(aggregation, &starts[from..to], &ends[from..to], &times[from..to], &part, output)?;
            }
        }
    }
    Ok(())
}

/// The column with the windows.
fn bounds(aggregation: &Aggregation, starts: &[i64], ends: &[i64]) -> ArrayRef {
    let time =
        |times: &[i64]| Arc::new(TimestampNanosecondArray::from(times.to_vec()).with_timezone("UTC")) as ArrayRef;
    let schema = aggregation.output_schema();
    let fields = match schema.field_with_name(WINDOW_COLUMN).map(|field| field.data_type()) {
        Ok(DataType::Struct(fields)) => fields.clone(),
        _ => unreachable!("the first column is the window"),
    };
    Arc::new(StructArray::new(fields, vec![time(starts), time(ends)], None))
}

/// The rows of a state whose keys an instance owns. The first columns are those of the aggregation's state.
pub(super) fn share_of(
    aggregation: &Aggregation,
    batch: &RecordBatch,
    share: Share,
) -> Result<RecordBatch, OperatorError> {
    if batch.schema_ref() != aggregation.state_schema() {
        return Err(OperatorError::state("the state of a window step has other columns than this step needs"));
    }
    if share.count == 1 {
        return Ok(batch.clone());
    }
    let own = owned(aggregation, batch, share)?;
    filter_record_batch(batch, &own).map_err(OperatorError::internal)
}

/// Which rows of a state an instance owns.
pub(super) fn owned(
    aggregation: &Aggregation,
    batch: &RecordBatch,
    share: Share,
) -> Result<BooleanArray, OperatorError> {
    let keys = &batch.columns()[..aggregation.n_keys()];
    let hashes = key_hashes(keys, batch.num_rows()).map_err(|error| fatal(&error))?;
    Ok(hashes.into_iter().map(|hash| Some(share.owns(hash))).collect())
}
