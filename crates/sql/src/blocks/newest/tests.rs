use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampNanosecondArray};

use super::{Newest, Wanted};

fn batch(times: &[i64]) -> RecordBatch {
    let column: ArrayRef = Arc::new(TimestampNanosecondArray::from(times.to_vec()).with_timezone("UTC"));
    RecordBatch::try_from_iter([("other", Arc::clone(&column)), ("time", column)]).unwrap()
}

#[test]
fn too_old_is_what_cannot_be_among_the_newest_of_all() {
    let newest = Newest::new(Wanted { time: 1, rows: 3 });
    newest.see(&batch(&[50, 40]));
    assert_eq!(newest.too_old(), i64::MIN, "a third row may be of any time");
    newest.see(&batch(&[10]));
    assert_eq!(newest.too_old(), 9, "a row of the same time may come first by what else is sorted by");
    newest.see(&batch(&[20, 5, 60]));
    assert_eq!(newest.too_old(), 39);
    newest.see(&batch(&[1, 2, 3]));
    assert_eq!(newest.too_old(), 39);
}

#[test]
fn what_is_not_a_time_does_not_count() {
    let newest = Newest::new(Wanted { time: 7, rows: 1 });
    newest.see(&batch(&[50, 40]));
    assert_eq!(newest.too_old(), i64::MIN);
}
