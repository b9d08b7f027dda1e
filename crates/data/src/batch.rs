//! Batches against their stream's schema.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;

/// Room to spare below this is not worth a copy.
const SPARE_BYTES: usize = 256;

/// The values without the room behind them, if that is a quarter of what they take or more: the rows of a request are kept
/// until they are in files, and are counted then by what is in them.
pub fn fitted<T>(mut values: Vec<T>) -> Vec<T> {
    let spare = values.capacity() - values.len();
    if spare * size_of::<T>() >= SPARE_BYTES && spare >= values.len() / 4 {
        values.shrink_to_fit();
    }
    values
}

/// Builds a batch out of the columns that have a value, in the order of `schema`. `columns` holds
/// one entry a field of the schema; `None` and all-null columns are left out (unless the field
/// forbids null).
pub fn sparse(schema: &Schema, columns: Vec<Option<ArrayRef>>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::with_capacity(columns.len());
    let mut kept = Vec::with_capacity(columns.len());
    for (field, column) in schema.fields().iter().zip(columns) {
        if let Some(column) = column
            && (!field.is_nullable() || column.null_count() < column.len())
        {
            fields.push(Arc::clone(field));
            kept.push(column);
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), kept, &options)
}

/// The batch with exactly the columns of `schema`: missing ones become null, and columns the
/// schema does not know are an error.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if Arc::ptr_eq(&batch.schema(), schema) {
        return Ok(batch.clone());
    }
    let own = batch.schema();
    let mut found = 0;
    let columns = schema
        .fields()
        .iter()
        .map(|field| match own.index_of(field.name()) {
            Ok(at) => {
                found += 1;
                let column = batch.column(at);
                if column.data_type() == field.data_type() {
                    Ok(Arc::clone(column))
                } else {
                    Err(ArrowError::SchemaError(format!(
                        "column {} has type {} where {} is expected",
                        field.name(),
                        column.data_type(),
                        field.data_type()
                    )))
                }
            }
            Err(_) => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if found < own.fields().len() {
        let stray = own.fields().iter().find(|field| schema.index_of(field.name()).is_err());
        return Err(ArrowError::SchemaError(format!(
            "column {} is not in the schema",
            stray.map_or("", |field| field.name())
        )));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Concatenates batches whose columns are subsets of `schema`, leaving out the columns none has.
pub fn concat_sparse(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    if let [only] = batches {
        return Ok(only.clone());
    }
    let present: Vec<_> = schema
        .fields()
        .iter()
        .filter(|field| batches.iter().any(|batch| batch.schema_ref().index_of(field.name()).is_ok()))
        .map(Arc::clone)
        .collect();
    let union: SchemaRef = Arc::new(Schema::new(present));
    let conformed = batches.iter().map(|batch| conform(batch, &union)).collect::<Result<Vec<_>, _>>()?;
    arrow::compute::concat_batches(&union, &conformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_would_be_kept_for_nothing_is_given_back() {
        let with_room = |n_values: usize, room: usize| {
            let mut values: Vec<i64> = Vec::with_capacity(room);
            values.resize(n_values, 7);
            fitted(values)
        };
        assert!(with_room(100, 1024).capacity() < 1024);
        assert_eq!(with_room(100, 1024), vec![7; 100]);
        assert_eq!(with_room(1, 8).capacity(), 8, "too little to be worth it");
        assert_eq!(with_room(1000, 1100).capacity(), 1100, "little beside what is in it");
    }
}
