#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

/// A table comes out as it went in, in its one canonical form.
fn check(text: &str, expected: &str) {
    let table = TextTable::parse(text).unwrap();
    let schema = TextTable::schema([&table]);
    let batch = table.batch(&schema).unwrap();
    let names: Vec<String> = table.columns.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(render(&names, &shown(&batch, &names).unwrap()), expected);
}

#[test]
fn a_table_is_read_and_written() {
    check("ts  host\n00:00:01  a\n23:59:59.5  b c\n", "ts            host\n00:00:01      a\n23:59:59.500  b c\n");
    check("n  x  ok\n1  1  true\nnull  2.5  false\n", "n     x    ok\n1     1.0  true\nnull  2.5  false\n");
    check("t  u\n'1'  ''\n'a  b'  'null'\n", "t       u\n'1'     ''\n'a  b'  'null'\n");
    check("t\n'it''s'\n'a\\nb'\n", "t\n'it''s'\n'a\\nb'\n");
    check("at\n2026-01-02T03:04:05Z\n", "at\n2026-01-02T03:04:05Z\n");
    check("n:float64\n1\n", "n\n1.0\n");
}

#[test]
fn a_wrong_table_is_refused_with_its_line() {
    assert_eq!(TextTable::parse("a  b\n1\n"), Err((1, "1 cells under 2 columns".to_owned())));
    assert_eq!(
        TextTable::parse("a:number\n"),
        Err((0, "there is no column type `number`: int64, float64, bool, timestamp or text".to_owned()))
    );
    let table = TextTable::parse("a:int64\nx\n").unwrap();
    let error = table.batch(&TextTable::schema([&table])).unwrap_err();
    assert_eq!(error, "`x` is not of the type of the column a, Int64");
}
