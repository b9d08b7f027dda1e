//! Tables beside a stream: read as a whole, and again when they have changed.
//!
//! To a pipeline a table is a source like any other, whose rows come in *versions*. Each row has the number of its
//! version, and behind the last one come rows that are nothing but marks: the version is whole. There are so many of
//! them, each for another part of the keys, that every instance of a step gets one, however many there are.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;

/// The column with the number of the version. No name of a user has a space in front.
const VERSION: &str = " version";
/// The column that is null in rows of the table, and says of a mark for which part of the keys it is.
const MARK: &str = " mark";
/// How many marks there are: as many as a step may have instances.
const MARKS: i64 = 1024;
/// How many columns a table has beside its own.
const HIDDEN: usize = 2;

/// The columns of a table as a step gets them: its own, which may be null in marks, and those two.
pub fn with_columns(schema: &SchemaRef) -> SchemaRef {
    let own = schema.fields().iter().map(|field| Arc::new(Field::clone(field).with_nullable(true)));
    let hidden = [Field::new(VERSION, DataType::Int64, false), Field::new(MARK, DataType::Int64, true)];
    let fields: Vec<FieldRef> = own.chain(hidden.map(Arc::new)).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Whether rows with these columns are those of a table.
pub fn is_table(schema: &Schema) -> bool {
    let n_own = schema.fields().len().checked_sub(HIDDEN);
    n_own.is_some_and(|n_own| schema.field(n_own).name() == VERSION && schema.field(n_own + 1).name() == MARK)
}

/// The columns of its own of a table, if it is one.
pub fn own_columns(schema: &SchemaRef) -> Option<SchemaRef> {
    let n_own = schema.fields().len().checked_sub(HIDDEN)?;
    is_table(schema).then(|| Arc::new(Schema::new(schema.fields()[..n_own].to_vec())))
}

/// Rows of a version; `schema` is made by [`with_columns`].
///
/// # Errors
/// If the schema is another.
pub fn rows_of(schema: &SchemaRef, rows: &RecordBatch, version: i64) -> Result<RecordBatch, ArrowError> {
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(version, rows.num_rows())));
    columns.push(new_null_array(&DataType::Int64, rows.num_rows()));
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// What comes behind the last row of a version.
///
/// # Errors
/// If the schema is none of a table.
pub fn marks_of(schema: &SchemaRef, version: i64) -> Result<RecordBatch, ArrowError> {
    let marks: Int64Array = (0..MARKS).collect();
    let n_own = schema.fields().len().saturating_sub(HIDDEN);
    let own = schema.fields().iter().take(n_own).map(|field| new_null_array(field.data_type(), marks.len()));
    let mut columns: Vec<ArrayRef> = own.collect();
    columns.push(Arc::new(Int64Array::from_value(version, marks.len())));
    columns.push(Arc::new(marks));
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// A batch of a table, taken apart.
#[derive(Debug)]
pub struct Part<'a> {
    /// The columns of its own.
    pub rows: RecordBatch,
    /// The version of each row.
    pub versions: &'a Int64Array,
    marks: &'a Int64Array,
}

impl<'a> Part<'a> {
    /// The parts of a batch whose columns are those of [`with_columns`].
    pub fn of(batch: &'a RecordBatch) -> Option<Self> {
        let n_own = batch.num_columns().checked_sub(HIDDEN)?;
        let numbers = |at: usize| batch.column(at).as_primitive_opt::<Int64Type>();
        let own: Vec<usize> = (0..n_own).collect();
        Some(Self { rows: batch.project(&own).ok()?, versions: numbers(n_own)?, marks: numbers(n_own + 1)? })
    }

    /// How many rows of the table there are, which is all that are no marks.
    pub fn len(&self) -> usize {
        self.marks.null_count()
    }

    /// Whether there are only marks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a row is a mark.
    pub fn is_mark(&self, row: usize) -> bool {
        self.marks.is_valid(row)
    }

    /// For a mark, a hash of the part of the keys it is for.
    pub fn hash_of_mark(&self, row: usize) -> Option<u64> {
        // Owners go by the upper bits.
        self.is_mark(row).then(|| self.marks.value(row).cast_unsigned() << (64 - MARKS.trailing_zeros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::Share;

    /// Every instance of a step gets a mark, however many there are.
    #[test]
    fn every_instance_gets_a_mark() {
        let schema = with_columns(&Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false)])));
        let Ok(marks) = marks_of(&schema, 7) else { panic!("the schema is that of a table") };
        let Some(part) = Part::of(&marks) else { panic!("marks are rows of a table") };
        for count in (1..40).chain([100, 333, 1023, 1024]) {
            let mut has_one = vec![false; count];
            for row in 0..marks.num_rows() {
                has_one[Share::owner(part.hash_of_mark(row).unwrap_or(0), count)] = true;
            }
            assert!(has_one.iter().all(|has| *has), "{count} instances");
        }
        assert_eq!(own_columns(&schema).map(|own| own.fields().len()), Some(1));
        assert_eq!(own_columns(&part.rows.schema()), None);
        assert!(is_table(&schema) && !is_table(&part.rows.schema()) && part.is_empty());
    }
}
