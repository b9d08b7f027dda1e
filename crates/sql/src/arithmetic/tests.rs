#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use weir_base::clock::SystemClock;
use weir_base::{ErrorKind, Kinded};

use super::*;
use crate::expressions::{Language, NoKinds};

/// Before constants are computed, and on rows; a value of the row's own is what makes it a dead letter.
#[test]
fn an_integer_of_a_pipeline_that_does_not_fit_is_an_error_of_its_row() {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None]));
    let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
    let language = Language::new(Arc::new(NoKinds), SystemClock::new());
    let advice = "cast an operand to double or to decimal(38, 0)";
    for (text, expected) in [
        ("9223372036854775807 + 1", "9223372036854775807 + 1 does not fit int64"),
        ("n * 9223372036854775807", "2 * 9223372036854775807 does not fit int64"),
        ("n - 3 - 9223372036854775807", "-2 - 9223372036854775807 does not fit int64"),
    ] {
        let scalar = language.scalar(&rows.schema(), "v", text).unwrap();
        let error = scalar.evaluate(&rows).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Input, format!("{expected}; {advice}")));
    }
    let condition = language.condition(&rows.schema(), "n * 9223372036854775807 > 0").unwrap();
    assert_eq!(condition.is_true(&rows).unwrap_err().kind(), ErrorKind::Input);
    let values = language.scalar(&rows.schema(), "v", "n * 3 - 1 + n").unwrap().evaluate(&rows).unwrap();
    assert_eq!(values.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(3), Some(7), None]));
}
