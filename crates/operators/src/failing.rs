//! Rows an expression fails on: they are set aside, the others go on.

use arrow::array::UInt32Array;
use weir_base::{ErrorKind, Kinded};
use weir_component::Batch;
use weir_component::operator::{Aside, AsideNotes, AsideReason, OperatorError, Output};
use weir_sql::SqlError;

/// Applies `compute` to a batch. Should it fail because of the values of some rows, these are found by
/// halving and set aside, and `compute` is applied to the rest. Gives the rows that went well with
/// what was computed of them; nothing if there are none.
///
/// # Errors
/// If it fails for another reason than the values.
pub(crate) fn apply<T>(
    batch: Batch,
    output: &mut dyn Output,
    compute: &mut dyn FnMut(&Batch) -> Result<T, SqlError>,
) -> Result<Option<(Batch, T)>, OperatorError> {
    match compute(&batch) {
        Ok(value) => Ok(Some((batch, value))),
        Err(error) if !is_of_a_row(&error) => Err(fatal(&error)),
        Err(_) => {
            let mut bad = Vec::new();
            search(&batch, 0, batch.len(), compute, &mut bad)?;
            let rows = u32::try_from(batch.len()).map_err(OperatorError::internal)?;
            let good = UInt32Array::from_iter_values((0..rows).filter(|row| !bad.iter().any(|(at, _)| at == row)));
            let failed = UInt32Array::from_iter_values(bad.iter().map(|(row, _)| *row));
            output.aside(Aside {
                reason: AsideReason::Failed,
                rows: batch.take(&failed).map_err(OperatorError::internal)?.rows,
                notes: AsideNotes::Messages(bad.into_iter().map(|(_, message)| message).collect()),
            });
            if good.is_empty() {
                return Ok(None);
            }
            let batch = batch.take(&good).map_err(OperatorError::internal)?;
            let value = compute(&batch).map_err(|error| fatal(&error))?;
            Ok(Some((batch, value)))
        }
    }
}

/// Whether a value of a row can be the reason, so that other rows may go well.
fn is_of_a_row(error: &SqlError) -> bool {
    error.kind() == ErrorKind::Input
}

pub(crate) fn fatal(error: &SqlError) -> OperatorError {
    OperatorError::new(error.kind(), error.to_string())
}

fn search<T>(
    batch: &Batch,
    start: usize,
    len: usize,
    compute: &mut dyn FnMut(&Batch) -> Result<T, SqlError>,
    bad: &mut Vec<(u32, String)>,
) -> Result<(), OperatorError> {
    match compute(&batch.slice(start, len)) {
        Ok(_) => Ok(()),
        Err(error) if !is_of_a_row(&error) => Err(fatal(&error)),
        Err(error) if len == 1 => {
            bad.push((u32::try_from(start).map_err(OperatorError::internal)?, error.to_string()));
            Ok(())
        }
        Err(_) => {
            let half = len / 2;
            search(batch, start, half, compute, bad)?;
            search(batch, start + half, len - half, compute, bad)
        }
    }
}
