//! Rows on their way through a pipeline.

use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{concat, concat_batches, filter, filter_record_batch, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::revision::{Revision, Revisions};

/// Rows with their event times, and what their sources knew of time when they came.
///
/// Invariant: `times`, and `watermarks` and `revisions` if there are any, are as long as `rows`.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The columns a user sees.
    pub rows: RecordBatch,
    /// Event time of each row, in nanoseconds since 1970.
    pub times: ScalarBuffer<i64>,
    /// The watermark of the row's source partition just before the row, in nanoseconds since 1970.
    /// `None` if no row is older than it: then none of them can be late for anything.
    pub watermarks: Option<ScalarBuffer<i64>>,
    /// Of results of windows: which revisions they are. `None` of all other rows.
    pub revisions: Option<Revisions>,
}

impl Batch {
    /// Rows of which none is late.
    pub fn new(rows: RecordBatch, times: ScalarBuffer<i64>) -> Self {
        assert_eq!(rows.num_rows(), times.len(), "every row has a time");
        Self { rows, times, watermarks: None, revisions: None }
    }

    /// No rows.
    pub fn empty(schema: SchemaRef) -> Self {
        Self::new(RecordBatch::new_empty(schema), ScalarBuffer::from(Vec::new()))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Bytes the rows take.
    pub fn bytes(&self) -> usize {
        bytes_of(&self.rows) + 16 * self.len()
    }

    /// The watermark of row `row`; the smallest time there is if it is not behind it.
    pub fn watermark(&self, row: usize) -> i64 {
        self.watermarks.as_ref().map_or(i64::MIN, |watermarks| watermarks[row])
    }

    /// The same rows with other columns.
    pub fn with_rows(self, rows: RecordBatch) -> Self {
        assert_eq!(rows.num_rows(), self.times.len(), "an operator that keeps rows keeps all of them");
        Self { rows, ..self }
    }

    /// The rows from `start`, `len` of them; copies nothing.
    pub fn slice(&self, start: usize, len: usize) -> Self {
        Self {
            rows: self.rows.slice(start, len),
            times: self.times.slice(start, len),
            watermarks: self.watermarks.as_ref().map(|watermarks| watermarks.slice(start, len)),
            revisions: self
                .revisions
                .as_ref()
                .map(|revisions| Revisions::unpacked(revisions.packed().slice(start, len))),
        }
    }

    /// The rows for which `keep` is true.
    ///
    /// # Errors
    /// If `keep` is not as long as the batch.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Self, ArrowError> {
        let part = |values: &ScalarBuffer<i64>| {
            let kept = filter(&Int64Array::new(values.clone(), None), keep)?;
            Ok::<_, ArrowError>(numbers(&kept))
        };
        Ok(Self {
            rows: filter_record_batch(&self.rows, keep)?,
            times: part(&self.times)?,
            watermarks: self.watermarks.as_ref().map(part).transpose()?,
            revisions: self.revisions.as_ref().map(Revisions::packed).map(part).transpose()?.map(Revisions::unpacked),
        })
    }

    /// The rows at `indices`, in that order.
    ///
    /// # Errors
    /// If an index is out of bounds.
    pub fn take(&self, indices: &UInt32Array) -> Result<Self, ArrowError> {
        let part = |values: &ScalarBuffer<i64>| {
            let taken = take(&Int64Array::new(values.clone(), None), indices, None)?;
            Ok::<_, ArrowError>(numbers(&taken))
        };
        Ok(Self {
            rows: take_record_batch(&self.rows, indices)?,
            times: part(&self.times)?,
            watermarks: self.watermarks.as_ref().map(part).transpose()?,
            revisions: self.revisions.as_ref().map(Revisions::packed).map(part).transpose()?.map(Revisions::unpacked),
        })
    }

    /// The rows for which `keep` is true, and of results of windows those that were put out before and are not kept
    /// now, as results that do not exist any more.
    ///
    /// # Errors
    /// If `keep` is not as long as the batch.
    pub fn keep(&self, keep: &BooleanArray) -> Result<Self, ArrowError> {
        let Some(revisions) = &self.revisions else { return self.filter(keep) };
        let (revisions, told) = revisions.retracted(keep);
        Self { revisions: Some(revisions), ..self.clone() }.filter(&told)
    }

    /// The rows that are final results, as rows that are never revised.
    ///
    /// # Errors
    /// None, if the batch is one.
    pub fn finals(self) -> Result<Self, ArrowError> {
        let Some(revisions) = &self.revisions else { return Ok(self) };
        let finals = revisions.finals();
        let kept = if finals.false_count() == 0 { self } else { self.filter(&finals)? };
        Ok(Self { revisions: None, ..kept })
    }

    /// All rows of `batches`, one after the other.
    ///
    /// # Errors
    /// If a batch has another schema.
    pub fn concat<'a>(schema: &SchemaRef, batches: impl IntoIterator<Item = &'a Self>) -> Result<Self, ArrowError> {
        let batches: Vec<&Self> = batches.into_iter().collect();
        if let [one] = batches.as_slice() {
            return Ok((*one).clone());
        }
        let joined = |part: &dyn Fn(&Self) -> Int64Array| {
            let parts: Vec<Int64Array> = batches.iter().map(|batch| part(batch)).collect();
            let parts: Vec<&dyn Array> = parts.iter().map(|part| part as &dyn Array).collect();
            if parts.is_empty() { Ok(ScalarBuffer::from(Vec::new())) } else { concat(&parts).map(|all| numbers(&all)) }
        };
        let watermarks = if batches.iter().any(|batch| batch.watermarks.is_some()) {
            Some(joined(&|batch| match &batch.watermarks {
                Some(watermarks) => Int64Array::new(watermarks.clone(), None),
                None => Int64Array::from(vec![i64::MIN; batch.len()]),
            })?)
        } else {
            None
        };
        let revisions = if batches.iter().any(|batch| batch.revisions.is_some()) {
            let joined = joined(&|batch| {
                let first = Revision { number: 1, is_final: true, is_retracted: false };
                let own = batch.revisions.clone();
                let own = own.unwrap_or_else(|| std::iter::repeat_n(first, batch.len()).collect());
                Int64Array::new(own.packed().clone(), None)
            })?;
            Some(Revisions::unpacked(joined))
        } else {
            None
        };
        Ok(Self {
            rows: concat_batches(schema, batches.iter().map(|batch| &batch.rows))?,
            times: joined(&|batch| Int64Array::new(batch.times.clone(), None))?,
            watermarks,
            revisions,
        })
    }
}

/// Bytes the rows of a batch take, whatever larger buffers they are a part of: a batch that was read from a
/// message shares one buffer between all its columns.
pub fn bytes_of(rows: &RecordBatch) -> usize {
    let column = |column: &arrow::array::ArrayRef| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    rows.columns().iter().map(column).sum()
}

/// The numbers of an array the kernels of Arrow made out of one of `i64` without nulls.
fn numbers(array: &dyn Array) -> ScalarBuffer<i64> {
    array.to_data().buffers().first().map_or_else(
        || ScalarBuffer::from(Vec::new()),
        |buffer| ScalarBuffer::new(buffer.clone(), array.offset(), array.len()),
    )
}

#[cfg(test)]
mod tests;
