#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use serde_json::{Value as Json, json};
use weir_base::clock::SystemClock;
use weir_component::Batch;
use weir_sql::expressions::{Defined, Language, NoKinds};

use crate::testing::{Kept, lines, plan, plan_with};
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
    // What people are told of it is what was written.
    let described = |name: &str, config: Json| plan(name, &config, &rows().schema(), None).unwrap().describe();
    assert_eq!(described("drop", json!(["host"])), "drops columns: host");
    assert_eq!(described("keep", json!(["host"])), "keeps columns: host");
    assert_eq!(described("rename", json!({"host": "server"})), "renames columns: host to server");
    check("keep", json!(["n", "hots", "n"]), &["/1: there is no column `hots`", "/2: `n` is there twice"]);
    check_when(
        "drop",
        json!(["n"]),
        Some("true"),
        &["/when: rows cannot pass by a drop step: its output has other columns"],
    );
}

/// What a step puts out into each of its branches.
fn check_branches(name: &str, config: Json, expected: &[&[&str]]) {
    let step = plan(name, &config, &rows().schema(), None).unwrap();
    let mut kept = Kept::default();
    step.make().unwrap().on_batch(0, Batch::new(rows(), vec![0; 4].into()), &mut kept).unwrap();
    assert_eq!(step.outputs().len(), expected.len(), "{name} {config}");
    for (branch, expected) in expected.iter().enumerate() {
        let batches = kept.batches.iter().zip(&kept.branches).filter(|(_, of)| **of == branch);
        assert_eq!(&lines(batches.map(|(batch, _)| &batch.rows)), expected, "branch {branch} of {name} {config}");
    }
}

#[test]
fn a_row_takes_the_first_branch_that_is_true_for_it() {
    let ordered = json!([{"name": "big", "text": "n > 2"}, {"name": "named", "text": "host < 'b'"}]);
    check_branches("route", ordered, &[&["b 2"], &["3", "7 4"], &["a 1"]]);
    // A condition is not asked for rows that are gone, and a row it fails on is lost to all branches.
    let failing = json!([{"name": "text", "text": "host > 'a'"}, {"name": "number", "text": "cast(host as int) > 1"}]);
    check_branches("route", failing, &[&["3"], &["b 2"], &["7 4"]]);
    check("route", json!({}), &[": there is no branch"]);
    check("route", json!({"Big": "n > 2"}), &["/Big: `Big` is not the name of a branch"]);
}

#[test]
fn a_list_becomes_rows() {
    let lists = arrow::array::ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>([
        Some(vec![Some(7), None]),
        Some(vec![]),
        None,
        Some(vec![Some(9)]),
    ]);
    let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    let rows = RecordBatch::try_from_iter([("list", Arc::new(lists) as ArrayRef), ("n", n)]).unwrap();
    let check = |config: Json, expected: &[&str]| {
        let step = plan("explode", &config, &rows.schema(), None).unwrap();
        let mut kept = Kept::default();
        // A part of a larger batch: its lists begin somewhere in the values.
        for (from, len) in [(0, 3), (3, 1)] {
            let batch = Batch::new(rows.clone(), vec![0; 4].into()).slice(from, len);
            step.make().unwrap().on_batch(0, batch, &mut kept).unwrap();
        }
        for batch in &kept.batches {
            assert_eq!(batch.rows.schema(), step.outputs()[0].schema, "{config}");
        }
        assert_eq!(lines(kept.batches.iter().map(|batch| &batch.rows)), expected, "{config}");
    };
    check(json!({"column": "list"}), &["1", "7 1", "9 4"]);
    check(json!({"column": "list", "keep_empty": true, "index": "i"}), &["1 1", "2", "3", "7 1 0", "9 4 0"]);
    check(json!({"column": "list", "as": "e"}), &["[7, ] 1", "[7, ] 1 7", "[9] 4 9"]);
}

#[test]
fn what_cannot_be_exploded_is_refused() {
    check("explode", json!({"column": "n"}), &["/column: the column `n` is Int64, not a list"]);
    check("explode", json!({"column": "m"}), &["/column: there is no column `m`"]);
    check("explode", json!({"column": "host", "as": "n"}), &["/as: there is a column `n` already"]);
    check("explode", json!({"column": "host", "index": "n"}), &["/index: there is a column `n` already"]);
}

#[test]
fn a_union_has_columns_of_one_kind() {
    let swapped = RecordBatch::try_from_iter([("n", rows().column(1).clone()), ("host", rows().column(0).clone())]);
    let swapped = swapped.unwrap();
    let step = plan_with("union", &json!(["other"]), &rows().schema(), &[swapped.schema()], None).unwrap();
    let mut kept = Kept::default();
    let mut union = step.make().unwrap();
    union.on_batch(1, Batch::new(swapped.slice(0, 1), vec![0].into()), &mut kept).unwrap();
    union.on_batch(0, Batch::new(rows().slice(1, 1), vec![0].into()), &mut kept).unwrap();
    assert_eq!(lines(kept.batches.iter().map(|batch| &batch.rows)), ["a 1", "b 2"]);
    let other = RecordBatch::try_from_iter([("n", rows().column(0).clone()), ("x", rows().column(0).clone())]);
    let faults = plan_with("union", &json!(["o"]), &rows().schema(), &[other.unwrap().schema()], None).err().unwrap();
    assert_eq!(
        faults[0].message,
        "o cannot be added: it has no column `host`; its column `n` is Utf8 instead of Int64; it has a column `x`, \
         which the others do not have"
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

/// State belongs to what an expression means: not to what a function of the document is called, nor to what it meant
/// before.
#[test]
fn a_changed_function_makes_another_state() {
    let fingerprint = |name: &str, config: &Json, when: Option<&str>, body: &str| {
        let defined = Defined::new(&[("twice(x)".to_owned(), body.to_owned())]).unwrap();
        let language = Language::new(Arc::new(NoKinds), SystemClock::new()).with(defined);
        let spec = STEPS.iter().find(|spec| spec.name == name).unwrap();
        let (input, others) = (rows().schema(), vec![rows().schema()]);
        let context = StepContext { input, others, language: &language, when, identity: None };
        (spec.plan)(config, &context).unwrap().state_fingerprint().unwrap()
    };
    let window = |select: &str| json!({ "tumbling": "1m", "by": ["host"], "select": { "m": select } });
    let cases = [
        ("window", window("max(twice(n))"), None),
        ("window", json!({ "tumbling": "1m", "by": { "k": "twice(n)" }, "select": { "m": "count(*)" } }), None),
        ("top", json!({ "rows": 1, "order_by": "twice(n) desc", "per": "1m" }), None),
        ("top", json!({ "rows": 1, "order_by": "n", "per": "1m", "by": { "k": "twice(n)" } }), None),
        ("dedupe", json!({ "by": { "k": "twice(n)" }, "within": "1m" }), None),
        ("dedupe", json!({ "by": ["host"], "within": "1m" }), Some("twice(n) > 2")),
        ("limit_rate", json!({ "rows": 1, "per": "1m", "by": { "k": "twice(n)" } }), None),
        ("limit_rate", json!({ "rows": 1, "per": "1m" }), Some("twice(n) > 2")),
    ];
    for (name, config, when) in &cases {
        let of = |body: &str| fingerprint(name, config, *when, body);
        assert_ne!(of("x * 2"), of("x + x"), "{name} {config} {when:?}");
        assert_eq!(of("x * 2"), of("x*2"), "{name} {config} {when:?}");
    }
    // Without a call of one, the text is what it was.
    let plain = fingerprint("window", &window("max( n )"), None, "x");
    assert_eq!(plain, "tumbling windows of 1m from 0s, 0s late, by 1 of: \"host\", max( n )");
}
