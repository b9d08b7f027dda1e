#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::{ArrayRef, Int64Array, StringArray};
use expect_test::{Expect, expect};

use super::*;
use crate::ready;

fn check(format: ConsoleFormat, expected: &Expect) {
    let printed = Arc::new(Mutex::new(Vec::new()));
    let columns: [(&str, ArrayRef); 2] =
        [("n", Arc::new(Int64Array::from(vec![Some(1), None]))), ("t", Arc::new(StringArray::from(vec!["a\"b", "c"])))];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let plan = Plan { format, printer: Arc::clone(&printed) as Printer };
    let mut sink = ready(plan.open(rows.schema(), Opening { generation: 1, last: None })).unwrap();
    ready(sink.write(&rows)).unwrap();
    ready(sink.write(&rows.slice(0, 0))).unwrap();
    expected.assert_eq(std::str::from_utf8(&printed.lock()).unwrap());
}

#[test]
fn rows_are_printed_as_lines_or_as_a_table() {
    check(
        ConsoleFormat::Ndjson,
        &expect![[r#"
            {"n":1,"t":"a\"b"}
            {"n":null,"t":"c"}
        "#]],
    );
    check(
        ConsoleFormat::Table,
        &expect![[r#"
            +---+-----+
            | n | t   |
            +---+-----+
            | 1 | a"b |
            |   | c   |
            +---+-----+
        "#]],
    );
}
