#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use serde_json::{Value as Json, json};
use weir_component::Batch;

use crate::testing::{Kept, lines, plan};
use crate::*;

fn rows() -> RecordBatch {
    let host: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None, Some("7")]));
    let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    RecordBatch::try_from_iter([("host", host), ("n", n)]).unwrap()
}

/// What a step makes of the rows: their cells, what was set aside in brackets; or why it is refused.
fn check_when(name: &str, config: Json, when: Option<&str>, expected: &[&str]) {
    let actual = match plan(name, &config, &rows().schema(), when) {
        Err(faults) => faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect(),
        Ok(step) => {
            let mut kept = Kept::default();
            let mut operator = step.make().unwrap();
            operator.on_batch(0, Batch::new(rows(), vec![0; 4].into()), &mut kept).unwrap();
            for batch in &kept.batches {
                assert_eq!(batch.rows.schema(), step.outputs()[0].schema, "{name} {config}");
                assert_eq!(batch.rows.num_rows(), batch.len());
            }
            let mut all = lines(kept.batches.iter().map(|batch| &batch.rows));
            all.extend(lines(kept.asides.iter().map(|aside| &aside.rows)).iter().map(|line| format!("[{line}]")));
            all
        }
    };
    assert_eq!(actual, expected, "{name} {config} {when:?}");
}

fn check(name: &str, config: Json, expected: &[&str]) {
    check_when(name, config, None, expected);
}

#[test]
fn filter_keeps_rows_for_which_the_condition_is_true() {
    check("filter", json!("n > 2"), &["3", "7 4"]);
    check("filter", json!("host <> 'a'"), &["7 4", "b 2"]);
    check("filter", json!("false"), &[]);
    check_when("filter", json!("n > 3"), Some("host is not null"), &["3", "7 4"]);
    check("filter", json!("n"), &[": a condition is true or false, such as severity_number >= 17; this is Int64"]);
}

#[test]
fn a_row_an_expression_fails_on_is_set_aside() {
    check("filter", json!("cast(host as bigint) > 5"), &["7 4", "[a 1]", "[b 2]"]);
    check("set", json!({"m": "10 / (n - 3)"}), &["7 4 10", "a 1 -5", "b 2 -10", "[3]"]);
    check_when("set", json!({"m": "10 / (n - 3)"}), Some("n <> 3"), &["3", "7 4 10", "a 1 -5", "b 2 -10"]);
}

#[test]
fn set_sees_the_row_as_it_was() {
    check("set", json!({"n": "n * 2", "m": "n + 1"}), &["6 4", "7 8 5", "a 2 2", "b 4 3"]);
    let ordered = json!([{"name": "z", "text": "1"}, {"name": "y", "text": "2"}]);
    check("set", ordered, &["3 1 2", "7 4 1 2", "a 1 1 2", "b 2 1 2"]);
    check_when("set", json!({"n": "n * 10", "m": "n"}), Some("n % 2 = 0"), &["3", "7 40 4", "a 1", "b 20 2"]);
    check_when(
        "set",
        json!({"n": "upper(host)"}),
        Some("true"),
        &["/n: n is Int64 in rows that pass by and would be Utf8 in the others"],
    );
    check("set", json!({}), &[": there is nothing to set"]);
}

#[test]
fn columns_are_dropped_kept_and_renamed() {
    check("drop", json!(["host"]), &["1", "2", "3", "4"]);
    check("keep", json!(["n", "host"]), &["1 a", "2 b", "3", "4 7"]);
    check("rename", json!({"host": "n", "n": "host"}), &["3", "7 4", "a 1", "b 2"]);
    check("rename", json!({"host": "n"}), &[": two columns would be called `n`"]);
    check("drop", json!(["host", "n"]), &[": no column would be left"]);
    check("keep", json!(["n", "hots", "n"]), &["/1: there is no column `hots`", "/2: `n` is there twice"]);
    check_when(
        "drop",
        json!(["n"]),
        Some("true"),
        &["/when: rows cannot pass by a drop step: its output has other columns"],
    );
}

#[test]
fn every_step_is_described() {
    for spec in STEPS {
        assert!(spec.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", spec.name);
        assert!(spec.summary.ends_with('.'), "{}", spec.name);
        assert!(spec.example.starts_with(spec.name), "{}", spec.name);
        let schema = (spec.schema)();
        assert!(schema.get("description").is_some(), "the configuration of {} is not documented", spec.name);
    }
}
