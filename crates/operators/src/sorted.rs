//! Rows in the order of event time: kept until no earlier one is expected.
//!
//! Invariant: the order depends on the rows alone. Rows of the same time are in the order of their values,
//! column by column; rows that are the same in everything can stand for one another.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use weir_component::Batch;
use weir_component::operator::{KeyHash, OperatorError, Share};
use weir_component::spec::Fault;

/// Rows are let go in batches of so many.
const BATCH_ROWS: usize = 8192;
/// The column with the times, in a state. No name of a user has a space in front.
const TIME: &str = " time";

/// Rows that wait for earlier ones.
pub(crate) struct Sorter {
    schema: SchemaRef,
    converter: RowConverter,
    waiting: Vec<Waiting>,
}

struct Waiting {
    batch: Batch,
    first: i64,
    last: i64,
    /// The rows as they are in a state, once they have been in one: the next checkpoint knows them by it, and does not write
    /// them again.
    in_state: Option<RecordBatch>,
}

impl Waiting {
    fn of(batch: Batch) -> Option<Self> {
        let (first, last) = (*batch.times.iter().min()?, *batch.times.iter().max()?);
        Some(Self { batch: Batch { watermarks: None, ..batch }, first, last, in_state: None })
    }
}

/// Refuses columns whose values have no order.
pub(crate) fn check(schema: &SchemaRef, faults: &mut Vec<Fault>) {
    if !RowConverter::supports_fields(&sort_fields(schema)) {
        let message = "rows are taken in the order of their values here, and a column has values without an order";
        faults.push(Fault::new("", message, "keep only the columns that are needed"));
    }
}

fn sort_fields(schema: &SchemaRef) -> Vec<SortField> {
    schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect()
}

impl Sorter {
    /// No rows; those to come have such columns.
    pub(crate) fn new(schema: SchemaRef) -> Result<Self, OperatorError> {
        let converter = RowConverter::new(sort_fields(&schema)).map_err(OperatorError::internal)?;
        Ok(Self { schema, converter, waiting: Vec::new() })
    }

    /// How many rows wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.batch.len()).sum()
    }

    /// Bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.batch.bytes()).sum()
    }

    /// Takes rows.
    pub(crate) fn push(&mut self, batch: Batch) {
        self.waiting.extend(Waiting::of(batch));
    }

    /// The rows before `time`, in order. At the end of time, all rows.
    pub(crate) fn release(&mut self, time: i64) -> Result<Vec<Batch>, OperatorError> {
        let is_due = |at: i64| at < time || time == i64::MAX;
        let mut due = Vec::new();
        let mut left = Vec::new();
        for waiting in self.waiting.drain(..) {
            if !is_due(waiting.first) {
                left.push(waiting);
            } else if is_due(waiting.last) {
                due.push(waiting.batch);
            } else {
                let now: BooleanArray = waiting.batch.times.iter().map(|at| Some(is_due(*at))).collect();
                due.push(waiting.batch.filter(&now).map_err(OperatorError::internal)?);
                let later = BooleanArray::new(!now.values(), None);
                left.extend(Waiting::of(waiting.batch.filter(&later).map_err(OperatorError::internal)?));
            }
        }
        self.waiting = left;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let all = Batch::concat(&self.schema, &due).map_err(OperatorError::internal)?;
        let order = self.order(&all)?;
        let batches = order.map_or_else(
            || Ok((0..all.len()).step_by(BATCH_ROWS).map(|at| all.slice(at, BATCH_ROWS.min(all.len() - at))).collect()),
            |order| order.chunks(BATCH_ROWS).map(|part| all.take(&UInt32Array::from(part.to_vec()))).collect(),
        );
        batches.map_err(OperatorError::internal)
    }

    /// The order of rows; `None` if they are in it.
    fn order(&self, batch: &Batch) -> Result<Option<Vec<u32>>, OperatorError> {
        let times: &[i64] = &batch.times;
        if times.is_sorted_by(|before, after| before < after) {
            return Ok(None);
        }
        let mut order: Vec<u32> = (0_u32..).take(times.len()).collect();
        let time_of = |row: &u32| times[*row as usize];
        order.sort_by_key(time_of);
        // Only rows of the same time are looked into.
        let is_tied = |at: usize| {
            let here = time_of(&order[at]);
            (at > 0 && time_of(&order[at - 1]) == here) || (at + 1 < order.len() && time_of(&order[at + 1]) == here)
        };
        let places: Vec<usize> = (0..order.len()).filter(|at| is_tied(*at)).collect();
        if !places.is_empty() {
            let tied: Vec<u32> = places.iter().map(|at| order[*at]).collect();
            let columns = batch.take(&UInt32Array::from(tied.clone())).map_err(OperatorError::internal)?.rows;
            let values = self.converter.convert_columns(columns.columns()).map_err(OperatorError::internal)?;
            let mut ranks: Vec<usize> = (0..tied.len()).collect();
            ranks.sort_by(|a, b| {
                let times = time_of(&tied[*a]).cmp(&time_of(&tied[*b]));
                times.then_with(|| values.row(*a).cmp(&values.row(*b)))
            });
            for (place, rank) in places.into_iter().zip(ranks) {
                order[place] = tied[rank];
            }
        }
        Ok(Some(order))
    }

    /// The rows that wait, each with its time.
    pub(crate) fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        let schema = state_schema(&self.schema);
        let with_time = |waiting: &mut Waiting| {
            if let Some(known) = &waiting.in_state {
                return Ok(known.clone());
            }
            let mut columns = waiting.batch.rows.columns().to_vec();
            columns.push(Arc::new(Int64Array::new(waiting.batch.times.clone(), None)) as ArrayRef);
            let rows = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(OperatorError::internal)?;
            Ok(waiting.in_state.insert(rows).clone())
        };
        self.waiting.iter_mut().map(with_time).collect()
    }

    /// Takes over the part of such rows that an instance owns; `keys` is what they are spread by.
    pub(crate) fn restore(
        &mut self,
        batches: &[RecordBatch],
        keys: Option<&dyn KeyHash>,
        share: Share,
    ) -> Result<(), OperatorError> {
        let schema = state_schema(&self.schema);
        for batch in batches {
            let times = batch.columns().last().and_then(|column| column.as_primitive_opt::<Int64Type>());
            let Some(times) = times.filter(|_| batch.schema().fields() == schema.fields()) else {
                return Err(OperatorError::state("rows that wait have other columns than this step gets"));
            };
            let times: ScalarBuffer<i64> = times.values().clone();
            let columns = batch.columns()[..batch.num_columns() - 1].to_vec();
            let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(OperatorError::internal)?;
            let mut batch = Batch::new(rows, times);
            match keys {
                Some(keys) if share.count > 1 => {
                    let own: BooleanArray =
                        keys.hashes(&batch)?.into_iter().map(|hash| Some(share.owns(hash))).collect();
                    batch = batch.filter(&own).map_err(OperatorError::internal)?;
                }
                // All rows are in one place.
                None if share.index > 0 => batch = batch.slice(0, 0),
                _ => {}
            }
            self.push(batch);
        }
        Ok(())
    }
}

fn state_schema(schema: &SchemaRef) -> SchemaRef {
    let time: FieldRef = Arc::new(Field::new(TIME, DataType::Int64, false));
    Arc::new(Schema::new(schema.fields().iter().map(Arc::clone).chain([time]).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::testing::driven::{Row, batch};

    fn is_same(one: &RecordBatch, other: &RecordBatch) -> bool {
        one.columns().iter().zip(other.columns()).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// What the engine has written it knows again by the memory of its columns.
    #[test]
    fn rows_that_wait_on_are_in_the_next_state_as_they_were() {
        let row = |time: i64| Row { time, key: 1, value: time, watermark: i64::MIN };
        let mut sorter = Sorter::new(batch(&[]).rows.schema()).unwrap();
        sorter.push(batch(&[row(1), row(7)]));
        sorter.push(batch(&[row(9)]));
        let first = sorter.snapshot().unwrap();
        sorter.push(batch(&[row(10)]));
        assert_eq!(sorter.release(5).unwrap().len(), 1);
        let second = sorter.snapshot().unwrap();
        assert_eq!(second.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [1, 1, 1]);
        assert!(second.iter().any(|known| is_same(known, &first[1])), "row 9 waits on");
        let known = |rows: &RecordBatch| first.iter().any(|known| is_same(known, rows));
        assert_eq!(second.iter().filter(|rows| known(rows)).count(), 1, "the others are new, or fewer than they were");
        assert!(sorter.snapshot().unwrap().iter().zip(&second).all(|(again, known)| is_same(again, known)));
    }
}
