//! Results that are put out before they are final, and put out again.
//!
//! A result of a window is known by the window and what it is grouped by. It may come early, come again when a late
//! row changes it, and cease to be, as a session does that becomes part of another. Each time it is a *revision*
//! of the same result, with a number that is larger than that of the one before. Rows carry this beside their
//! columns ([`crate::Batch::revisions`]), so that steps need not know of it.
//!
//! A sink with a `key` is given every revision, and the engine adds three columns at the end of its rows. One
//! without is given final results only, once each, without these columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

/// The column that says whether a result is final: Boolean.
pub const IS_FINAL: &str = "is_final";
/// The column with the number of a revision: Int64, larger with each revision of the same key.
pub const REVISION: &str = "revision";
/// The column that says whether a result does not exist any more: Boolean. The key and the window of such a row are
/// those of the result; other columns may be null.
pub const RETRACTED: &str = "retracted";

/// The three columns, in their order.
pub const COLUMNS: [&str; 3] = [IS_FINAL, REVISION, RETRACTED];

/// What is said of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Which revision of its result it is, from 1.
    pub number: i64,
    /// No other comes.
    pub is_final: bool,
    /// The result does not exist any more.
    pub is_retracted: bool,
}

/// What is said of each row of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Revisions(
    /// The numbers with both marks in their lowest bits, so that they are filtered and taken like times.
    ScalarBuffer<i64>,
);

const FINAL: i64 = 1;
const GONE: i64 = 2;
const MARKS: u32 = 2;

impl Revisions {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is said of a row.
    pub fn of(&self, row: usize) -> Revision {
        let packed = self.0[row];
        Revision { number: packed >> MARKS, is_final: packed & FINAL != 0, is_retracted: packed & GONE != 0 }
    }

    /// What is said of each row.
    pub fn iter(&self) -> impl Iterator<Item = Revision> {
        (0..self.len()).map(|row| self.of(row))
    }

    /// Whether there is no other revision of any of these results, before or after.
    pub fn are_only_first(&self) -> bool {
        self.iter().all(|revision| revision.number == 1 && revision.is_final && !revision.is_retracted)
    }

    /// The same, where rows for which `stays` is not true stand for results that do not exist any more, with the
    /// rows of it that anybody has to know of: a result that was never put out before need not be taken back.
    pub fn retracted(&self, stays: &BooleanArray) -> (Self, BooleanArray) {
        let gone = |(row, packed): (usize, &i64)| if stays.value(row) { *packed } else { packed | GONE };
        let marked = Self(self.0.iter().enumerate().map(gone).collect::<Vec<i64>>().into());
        let is_told = |row: usize| marked.0[row] & GONE == 0 || marked.of(row).number > 1;
        let told = BooleanArray::new(BooleanBuffer::collect_bool(self.len(), is_told), None);
        (marked, told)
    }

    /// The rows that are final results.
    pub fn finals(&self) -> BooleanArray {
        let is_result = |row: usize| self.0[row] & (FINAL | GONE) == FINAL;
        BooleanArray::new(BooleanBuffer::collect_bool(self.len(), is_result), None)
    }

    pub(crate) fn packed(&self) -> &ScalarBuffer<i64> {
        &self.0
    }

    pub(crate) fn unpacked(packed: ScalarBuffer<i64>) -> Self {
        Self(packed)
    }
}

impl FromIterator<Revision> for Revisions {
    fn from_iter<T: IntoIterator<Item = Revision>>(revisions: T) -> Self {
        let packed = |revision: Revision| {
            let marks = (FINAL * i64::from(revision.is_final)) | (GONE * i64::from(revision.is_retracted));
            (revision.number << MARKS) | marks
        };
        Self(revisions.into_iter().map(packed).collect::<Vec<i64>>().into())
    }
}

/// The columns of rows with the three that say which revisions they are.
pub fn with_columns(schema: &SchemaRef) -> SchemaRef {
    let own = [(IS_FINAL, DataType::Boolean), (REVISION, DataType::Int64), (RETRACTED, DataType::Boolean)];
    let own = own.into_iter().map(|(name, data_type)| Arc::new(Field::new(name, data_type, false)));
    let fields: Vec<FieldRef> = schema.fields().iter().cloned().chain(own).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Rows with what is said of them in columns; `schema` is theirs, made by [`with_columns`]. Rows that are no results
/// of windows are final, and their number is their time: of two rows with the same key the one with the later
/// time counts, in whatever order they come.
///
/// # Errors
/// If the schema is another.
pub fn in_columns(
    schema: &SchemaRef,
    rows: &RecordBatch,
    times: &ScalarBuffer<i64>,
    revisions: Option<&Revisions>,
) -> Result<RecordBatch, ArrowError> {
    let n_rows = rows.num_rows();
    let marks =
        |mark: i64| BooleanBuffer::collect_bool(n_rows, |row| revisions.is_some_and(|all| all.0[row] & mark != 0));
    let (is_final, numbers) = match revisions {
        Some(revisions) => (marks(FINAL), revisions.iter().map(|revision| revision.number).collect()),
        None => (BooleanBuffer::new_set(n_rows), Int64Array::new(times.clone(), None)),
    };
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns.push(Arc::new(BooleanArray::new(is_final, None)));
    columns.push(Arc::new(numbers));
    columns.push(Arc::new(BooleanArray::new(marks(GONE), None)));
    RecordBatch::try_new(Arc::clone(schema), columns)
}

#[cfg(test)]
mod tests;
