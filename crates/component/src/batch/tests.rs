#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::Int64Type;

use super::*;

fn batch(values: &[i64], watermark: Option<i64>) -> Batch {
    let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
    let mut batch = Batch::new(rows, ScalarBuffer::from(values.iter().map(|value| value * 10).collect::<Vec<_>>()));
    batch.watermarks = watermark.map(|watermark| ScalarBuffer::from(vec![watermark; values.len()]));
    batch
}

fn check(batch: &Batch, values: &[i64], watermarks: &[i64]) {
    assert_eq!(batch.rows.column(0).as_primitive::<Int64Type>().values(), values);
    assert_eq!(batch.times.to_vec(), values.iter().map(|value| value * 10).collect::<Vec<_>>());
    assert_eq!((0..batch.len()).map(|row| batch.watermark(row)).collect::<Vec<_>>(), watermarks);
}

#[test]
fn times_and_watermarks_go_with_their_rows() {
    let five = batch(&[0, 1, 2, 3, 4], Some(7));
    check(&five.slice(1, 3), &[1, 2, 3], &[7; 3]);
    check(&five.slice(2, 3).slice(1, 1), &[3], &[7]);
    check(&five.filter(&BooleanArray::from(vec![true, false, false, true, true])).unwrap(), &[0, 3, 4], &[7; 3]);
    check(&five.filter(&BooleanArray::from(vec![false; 5])).unwrap(), &[], &[]);
    check(&five.slice(1, 4).take(&UInt32Array::from(vec![3, 0, 0])).unwrap(), &[4, 1, 1], &[7; 3]);
}

#[test]
fn batches_with_and_without_watermarks_are_joined() {
    let schema = batch(&[], None).rows.schema();
    let joined = Batch::concat(&schema, [&batch(&[1, 2], None), &batch(&[3], Some(9)).slice(0, 1)]).unwrap();
    check(&joined, &[1, 2, 3], &[i64::MIN, i64::MIN, 9]);
    check(&Batch::concat(&schema, []).unwrap(), &[], &[]);
    check(&Batch::concat(&schema, [&batch(&[1], None), &batch(&[2], None)]).unwrap(), &[1, 2], &[i64::MIN; 2]);
}
