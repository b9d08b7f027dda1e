use arrow::array::{Float64Array, Int64Array, StringArray, TimestampNanosecondArray};

use super::*;

fn letter<'a>(row: &'a str) -> Letter<'a> {
    Letter { step: "set", reason: AsideReason::Failed, input: Some(0), attempts: 1, time: 7, row }
}

/// A row that is set aside reads as the row it was.
#[test]
fn a_row_comes_back_as_it_was() {
    let zone = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("t", zone, true),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
    ]));
    let times = TimestampNanosecondArray::from(vec![1_782_900_000_123_456_789]).with_timezone("UTC");
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(times),
        Arc::new(Int64Array::from(vec![i64::MAX])),
        Arc::new(Float64Array::from(vec![0.1])),
        Arc::new(StringArray::from(vec![None::<&str>])),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let notes = weir_component::operator::AsideNotes::None;
    let aside = weir_component::operator::Aside { reason: AsideReason::Failed, rows: rows.clone(), times: None, notes };
    let set_aside = aside::of_step("set", &aside, aside::Origin { input: Some(0), attempts: 1 }).unwrap();
    let text = set_aside.rows.column_by_name("row").unwrap().as_string::<i32>().value(0).to_owned();
    assert_eq!(decode(&letter(&text), &schema), Ok(rows));
}

#[test]
fn what_is_no_row_of_the_step_is_refused_with_the_reason() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let whole = format!("{{\"n\":1,\"x\":\"{}\"}}", "y".repeat(ROW_BYTES_MAX));
    let cases = [
        (r#"{"n":"x"}"#, "does not fit the columns of set"),
        (r#"{"m":1}"#, "does not fit the columns of set"),
        (r#"{"n":1"#, "does not fit the columns of set"),
        (r#"{"n":1}{"n":2}"#, "not one row"),
        (&whole[..ROW_BYTES_MAX], "longer than"),
    ];
    for (row, expected) in cases {
        let found = decode(&letter(row), &schema).unwrap_err();
        assert!(found.contains(expected), "{row:.40}: {found}");
    }
    assert!(pick(&[1], &Letter { input: None, ..letter("") }).unwrap_err().contains("not a row as it came"));
    assert!(pick(&[1], &Letter { input: Some(1), ..letter("") }).unwrap_err().contains("input any more"));
}

/// Once time has come to its end nobody can say how late a row is.
#[test]
fn a_row_that_is_run_again_after_the_end_is_late_by_nothing_that_could_be_said() {
    let times = vec![1_782_900_000_123_456_789, -5, 7];
    let by = vec![i64::MAX - times[0], i64::MAX, 30];
    let column: arrow::array::ArrayRef = Arc::new(Int64Array::from(times.clone()));
    let aside = weir_component::operator::Aside {
        reason: AsideReason::Late,
        rows: RecordBatch::try_from_iter([("n", column)]).unwrap(),
        times: Some(times.into()),
        notes: weir_component::operator::AsideNotes::LateBy(by),
    };
    let set_aside = aside::of_step("window", &aside, aside::Origin { input: Some(0), attempts: 2 }).unwrap();
    let late_by = set_aside.rows.column_by_name("late_by_ns").unwrap().as_primitive::<Int64Type>();
    assert_eq!(late_by.iter().collect::<Vec<_>>(), [None, None, Some(30)]);
}

/// By a program that did not keep at which input.
#[test]
fn a_row_that_waited_for_a_table_is_told_from_one_of_the_table() {
    let columns = |names: &[&str]| -> SchemaRef {
        Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect::<Vec<_>>()))
    };
    let rows = columns(&["n", "user"]);
    let table = weir_component::table::with_columns(&columns(&["n", "name"]));
    for (row, expected) in [
        (r#"{"n":1,"user":2}"#, Some(0)),
        (r#"{"user":2}"#, Some(0)),
        (r#"{"n":1,"name":2}"#, None),
        // It may be either.
        (r#"{"n":1}"#, None),
        ("{}", None),
        (r#"{"user":2,"other":1}"#, None),
    ] {
        let old = Letter { input: None, ..letter(row) };
        assert_eq!(waited(&old, &[Arc::clone(&rows), Arc::clone(&table)]).input, expected, "{row}");
        // Steps without a table keep none back in that way.
        assert_eq!(waited(&old, &[Arc::clone(&rows), Arc::clone(&rows)]).input, None, "{row}");
        assert_eq!(waited(&old, &[Arc::clone(&rows)]).input, None, "{row}");
        assert_eq!(waited(&letter(row), &[Arc::clone(&rows), Arc::clone(&table)]).input, Some(0), "{row}");
    }
}
