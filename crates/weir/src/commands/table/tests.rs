#![allow(clippy::unwrap_used, reason = "tests")]
use serde_json::json;

use super::*;

#[track_caller]
fn check(columns: &[(&str, &str)], rows: &[Vec<Value>], width: Option<usize>, expected: &[&str]) {
    let columns = columns.iter().map(|(name, kind)| Column::typed(name, kind)).collect();
    let rows = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let text = render(columns, rows, width);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "\n{text}");
}

#[test]
fn numbers_stand_right_and_text_left() {
    check(
        &[("type", "string"), ("n", "int64")],
        &[vec![json!("click"), json!(7)], vec![json!(null), json!(12345)]],
        None,
        &["type       n", "─────  ─────", "click      7", "       12345"],
    );
}

#[test]
fn an_empty_result_still_shows_its_columns() {
    check(&[("a", "string"), ("b", "int64")], &[], Some(80), &["a  b", "─  ─"]);
}

#[test]
fn wide_columns_give_way_alike() {
    check(
        &[("id", "string"), ("body", "string")],
        &[vec![json!("1"), json!("abcdefghijklmnopqrstuvwxyz")]],
        Some(18),
        &["id  body", "──  ──────────────", "1   abcdefghijklm…"],
    );
}

#[test]
fn too_many_columns_become_blocks_without_the_empty_values() {
    let columns: Vec<(String, &str)> = (0..12).map(|index| (format!("column_{index}"), "string")).collect();
    let columns: Vec<(&str, &str)> = columns.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
    let mut row = vec![Value::Null; 12];
    row[3] = json!("a value");
    row[11] = json!({"k": 1});
    check(
        &columns,
        &[row],
        Some(40),
        &["── row 1 ───────────────────────────────", "column_3   a value", "column_11  {\"k\":1}"],
    );
}

#[test]
fn a_row_cannot_drive_the_terminal() {
    let hostile = "\u{1b}]0;pwned\u{7}\u{9b}31m\r\n\u{202e}\u{7f}";
    for value in [json!(hostile), json!({ hostile: hostile }), json!([hostile])] {
        let text = cell(&value);
        assert!(!text.chars().any(|character| character.is_control() || character == '\u{202e}'), "{text:?}");
    }
}
