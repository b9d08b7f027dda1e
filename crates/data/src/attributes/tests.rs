#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::{Array, AsArray};

use super::*;

fn rows(column: &ArrayRef) -> Vec<Option<String>> {
    let map = column.as_map();
    (0..map.len())
        .map(|row| {
            map.is_valid(row).then(|| {
                let entries = map.value(row);
                let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
                let texts: Vec<_> =
                    (0..entries.len()).map(|at| format!("{}={}", keys.value(at), values.value(at))).collect();
                texts.join(" ")
            })
        })
        .collect()
}

fn observed(keys: &[ObservedKey]) -> Vec<String> {
    keys.iter().map(|key| format!("{} {} {}", key.key, key.kind.as_str(), key.count)).collect()
}

#[test]
fn rows_hold_what_was_pushed_and_keys_are_counted() {
    let mut builder = AttributesBuilder::with_capacity(2);
    builder.push_str("a", "x\"y");
    builder.push_i64("b", -5);
    builder.end_row();
    builder.end_row();
    builder.push_i64("b", 1);
    builder.push_bool("c", true);
    builder.push_f64("a", 1.0);
    builder.push_json("n", "null");
    builder.end_row();
    let (column, keys) = builder.finish();
    assert_eq!(rows(&column), [Some("a=\"x\\\"y\" b=-5".to_owned()), None, Some("b=1 c=true a=1.0 n=null".to_owned())]);
    assert_eq!(observed(&keys), ["a text 2", "b number 2", "c bool 1"]);
}

#[test]
fn a_row_taken_back_leaves_no_trace() {
    let mut builder = AttributesBuilder::with_capacity(0);
    builder.push_str("kept", "1");
    builder.end_row();
    builder.push_str("gone", "x");
    builder.push_i64("kept", 2);
    builder.push_json("null", "null");
    builder.abandon_row();
    builder.abandon_row();
    builder.push_bool("kind", true);
    builder.abandon_row();
    builder.push_str("kind", "text now");
    builder.end_row();
    assert!(
        builder
            .push_written("bad", |out| -> Result<(), ()> {
                out.push_str("[1,");
                Err(())
            })
            .is_err()
    );
    builder.end_row();
    builder.push_str("open", "at the end");
    let (column, keys) = builder.finish();
    assert_eq!(rows(&column), [Some("kept=\"1\"".to_owned()), Some("kind=\"text now\"".to_owned()), None]);
    assert_eq!(observed(&keys), ["kept text 1", "kind text 1"]);
}

#[test]
fn a_row_can_stand_many_times() {
    let mut builder = AttributesBuilder::with_capacity(0);
    builder.push_i64("a", 7);
    builder.end_row_times(3);
    builder.end_row_times(2);
    builder.push_str("lost", "");
    builder.end_row_times(0);
    builder.push_i64("a", 8);
    builder.push_str("b", "ü");
    assert_eq!(builder.open_row().collect::<Vec<_>>(), [("a", "8"), ("b", "\"ü\"")]);
    assert_eq!(builder.last_row().collect::<Vec<_>>(), []);
    assert_eq!(builder.open_row_bytes(), 2 + 1 + 4);
    builder.end_row_times(2);
    assert_eq!(builder.last_row().collect::<Vec<_>>(), [("a", "8"), ("b", "\"ü\"")]);
    assert_eq!(builder.len(), 7);
    let (column, keys) = builder.finish();
    let (seven, eight) = (Some("a=7".to_owned()), Some("a=8 b=\"ü\"".to_owned()));
    assert_eq!(rows(&column), [seven.clone(), seven.clone(), seven, None, None, eight.clone(), eight]);
    assert_eq!(observed(&keys), ["a number 5", "b text 2"]);
}

#[test]
fn an_empty_builder_is_an_empty_column() {
    let (column, keys) = AttributesBuilder::with_capacity(0).finish();
    assert_eq!((column.len(), keys.len()), (0, 0));
}
