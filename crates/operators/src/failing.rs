//! Rows an expression fails on: they are set aside, the others go on.

use arrow::array::UInt32Array;
use weir_base::{ErrorKind, Kinded};
use weir_component::Batch;
use weir_component::operator::{Aside, AsideNotes, AsideReason, OperatorError, Output};
use weir_sql::SqlError;

/// Applies `compute` to a batch. Should it fail because of the values of some rows, these are found by
/// halving and set aside. Gives the rows that went well, in order and in as few pieces as there were
/// halves without a bad row, with what was computed of each.
///
/// # Errors
/// If it fails for another reason than the values.
pub(crate) fn apply<T>(
    batch: Batch,
    output: &mut dyn Output,
    compute: &mut dyn FnMut(&Batch) -> Result<T, SqlError>,
) -> Result<Vec<(Batch, T)>, OperatorError> {
    match compute(&batch) {
        Ok(value) => Ok(vec![(batch, value)]),
        Err(error) if !is_of_a_row(&error) => Err(fatal(&error)),
        Err(error) => {
            let mut found = Found { good: Vec::new(), bad: Vec::new(), messages: Vec::new() };
            found.search(&batch, 0, batch.len(), error, compute)?;
            let failed = batch.take(&UInt32Array::from(found.bad)).map_err(OperatorError::internal)?;
            output.aside(Aside {
                reason: AsideReason::Failed,
                rows: failed.rows,
                times: Some(failed.times),
                notes: AsideNotes::Messages(found.messages),
            });
            Ok(found.good)
        }
    }
}

/// Whether a value of a row can be the reason, so that other rows, or fewer of them, may go well.
pub(crate) fn is_of_a_row(error: &SqlError) -> bool {
    error.kind() == ErrorKind::Input || matches!(error, SqlError::ResultTooLarge { .. })
}

pub(crate) fn fatal(error: &SqlError) -> OperatorError {
    OperatorError::new(error.kind(), error.to_string())
}

struct Found<T> {
    good: Vec<(Batch, T)>,
    bad: Vec<u32>,
    messages: Vec<String>,
}

impl<T> Found<T> {
    /// Looks into `len` rows from `start`, for which `error` came.
    fn search(
        &mut self,
        batch: &Batch,
        start: usize,
        len: usize,
        error: SqlError,
        compute: &mut dyn FnMut(&Batch) -> Result<T, SqlError>,
    ) -> Result<(), OperatorError> {
        if len == 1 {
            self.bad.push(u32::try_from(start).map_err(OperatorError::internal)?);
            self.messages.push(error.to_string());
            return Ok(());
        }
        for (start, len) in [(start, len / 2), (start + len / 2, len - len / 2)] {
            let half = batch.slice(start, len);
            match compute(&half) {
                Ok(value) => self.good.push((half, value)),
                Err(error) if !is_of_a_row(&error) => return Err(fatal(&error)),
                Err(error) => self.search(batch, start, len, error, compute)?,
            }
        }
        Ok(())
    }
}
