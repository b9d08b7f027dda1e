//! What rows find against looking through all rows of the table.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use proptest::prelude::*;
use serde_json::json;
use weir_component::Batch;
use weir_component::operator::{AsideNotes, AsideReason, Distribution, Share};
use weir_component::table::{marks_of, rows_of, with_columns};

use super::index::FOUND_MAX;
use crate::testing::driven::{Instances, Row, batch};
use crate::testing::{lines, plan_with};

fn table(rows: &[(Option<i64>, i64)]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(rows.iter().map(|(id, _)| *id).collect::<Int64Array>());
    let names: ArrayRef = Arc::new(rows.iter().map(|(_, name)| *name).collect::<Int64Array>());
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, true)]).unwrap()
}

fn schema() -> SchemaRef {
    with_columns(&table(&[]).schema())
}

/// Sends rows of a table to the instances that own them.
fn send(instances: &mut Instances, rows: RecordBatch) {
    let rows = Batch::new(rows.clone(), vec![0; rows.num_rows()].into());
    let Distribution::ByKey(keys) = instances.step.distribution(1) else { panic!("a table is spread by key") };
    let hashes = keys.hashes(&rows).unwrap();
    let count = instances.operators.len();
    for owner in 0..count {
        let own = hashes.iter().map(|hash| Some(Share::owner(*hash, count) == owner)).collect();
        let part = rows.filter(&own).unwrap();
        if !part.is_empty() {
            instances.operators[owner].on_batch(1, part, &mut instances.kept).unwrap();
        }
    }
}

fn send_version(instances: &mut Instances, rows: &[(Option<i64>, i64)], version: i64) {
    // In pieces, as a file is read.
    for rows in rows.chunks(3) {
        send(instances, rows_of(&schema(), &table(rows), version).unwrap());
    }
    send(instances, marks_of(&schema(), version).unwrap());
}

#[derive(Clone, Debug)]
enum Act {
    Rows(Vec<(i64, i64)>),
    Table(Vec<(Option<i64>, i64)>),
    /// Rows of a version that never becomes whole.
    Part(Vec<(Option<i64>, i64)>),
    Restart(usize),
    Watermark,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let of_table = || prop::collection::vec((prop::option::weighted(0.9, 0_i64..6), 0_i64..10), 0..12);
    let act = prop_oneof![
        6 => prop::collection::vec((0_i64..6, 0_i64..10), 1..12).prop_map(Act::Rows),
        2 => of_table().prop_map(Act::Table),
        1 => of_table().prop_map(Act::Part),
        2 => (1_usize..4).prop_map(Act::Restart),
        2 => Just(Act::Watermark),
    ];
    prop::collection::vec(act, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn rows_find_what_is_in_the_newest_whole_version(
        acts in acts(),
        kind in prop::sample::select(vec!["inner", "left", "required"]),
    ) {
        let config = json!({
            "table": "t", "on": { "k": "id" }, "select": ["name"], "kind": kind,
        });
        let step = plan_with("lookup", &config, &batch(&[]).rows.schema(), &[schema()], None).unwrap();
        let mut instances = Instances::new(&step, 2);
        let (mut known, mut waiting, mut expected): (Option<Vec<(Option<i64>, i64)>>, Vec<Row>, Vec<String>) =
            (None, Vec::new(), Vec::new());
        let (mut version, mut time, mut promised) = (0, 0, i64::MIN);
        let failed = std::cell::Cell::new(0);
        let find = |row: &Row, known: &[(Option<i64>, i64)], expected: &mut Vec<String>| {
            let found: Vec<i64> = known.iter().filter(|(id, _)| *id == Some(row.key)).map(|(_, name)| *name).collect();
            expected.extend(found.iter().map(|name| format!("{} {} {name}", row.key, row.value)));
            if found.is_empty() && kind == "left" {
                expected.push(format!("{} {}", row.key, row.value));
            }
            failed.set(failed.get() + usize::from(found.is_empty() && kind == "required"));
        };
        for act in acts.into_iter().chain([Act::Table(vec![(Some(1), 1), (Some(1), 2)])]) {
            match act {
                Act::Rows(rows) => {
                    let rows = rows.into_iter().map(|(key, value)| {
                        time += 1;
                        Row { time, key, value, watermark: i64::MIN }
                    });
                    let rows: Vec<Row> = rows.collect();
                    instances.send(&rows);
                    match &known {
                        Some(known) => rows.iter().for_each(|row| find(row, known, &mut expected)),
                        None => waiting.extend(rows),
                    }
                }
                Act::Table(rows) => {
                    version += 1;
                    send_version(&mut instances, &rows, version);
                    waiting.drain(..).for_each(|row| find(&row, &rows, &mut expected));
                    known = Some(rows);
                }
                Act::Part(rows) => {
                    version += 1;
                    send(&mut instances, rows_of(&schema(), &table(&rows), version).unwrap());
                }
                Act::Restart(count) => {
                    // The table is read anew, and the versions begin again.
                    instances.restart(count);
                    version = 0;
                    known = None;
                }
                Act::Watermark => {
                    let earliest = waiting.iter().map(|row| row.time).min();
                    let before = promised;
                    for operator in &mut instances.operators {
                        let told = operator.on_watermark(weir_base::Timestamp(time), &mut instances.kept).unwrap().0;
                        prop_assert!(told <= time && told >= before.min(time));
                        // What waits is not late for those who read the results.
                        prop_assert!(earliest.is_none_or(|earliest| told <= earliest.max(before)) || told <= time);
                    }
                    promised = earliest.unwrap_or(time).min(time).max(promised);
                }
            }
        }
        expected.sort();
        prop_assert_eq!(lines(instances.kept.batches.iter().map(|batch| &batch.rows)), expected);
        let set_aside: usize = instances.kept.asides.iter().map(|aside| aside.rows.num_rows()).sum();
        prop_assert_eq!(set_aside, failed.get());
        for batch in &instances.kept.batches {
            prop_assert_eq!(batch.rows.schema(), Arc::clone(&step.outputs()[0].schema));
        }
    }
}

/// Rows that wait are not passed by the watermark, also after a restart.
#[test]
fn time_waits_for_rows_that_wait() {
    let config = json!({ "table": "t", "on": { "k": "id" } });
    let step = plan_with("lookup", &config, &batch(&[]).rows.schema(), &[schema()], None).unwrap();
    let mut instances = Instances::new(&step, 1);
    instances.send(&[Row { time: 7, key: 1, value: 1, watermark: i64::MIN }]);
    assert_eq!(instances.watermark(9), 7);
    instances.restart(1);
    assert_eq!(instances.watermark(11), 7);
    assert!(!instances.operators[0].has_more());
    instances.restart(1);
    send_version(&mut instances, &[(Some(1), 5)], 1);
    assert_eq!(instances.kept.batches.iter().map(Batch::len).sum::<usize>(), 1);
    // What was held back is told without another watermark.
    assert!(instances.operators[0].has_more());
    let told = instances.operators[0].on_watermark(weir_base::Timestamp(i64::MIN), &mut instances.kept).unwrap();
    assert_eq!(told.0, 11);
    assert!(!instances.operators[0].has_more());
    assert_eq!(instances.watermark(12), 12);
}

/// One instance takes over what waits in one of two.
#[test]
fn time_waits_for_rows_of_other_instances() {
    let config = json!({ "table": "t", "on": { "k": "id" } });
    let step = plan_with("lookup", &config, &batch(&[]).rows.schema(), &[schema()], None).unwrap();
    let mut instances = Instances::new(&step, 2);
    instances.send(&[Row { time: 7, key: 1, value: 1, watermark: i64::MIN }]);
    let told: Vec<i64> = (instances.operators.iter_mut())
        .map(|operator| operator.on_watermark(weir_base::Timestamp(9), &mut instances.kept).unwrap().0)
        .collect();
    assert_eq!(told.iter().min(), Some(&7), "one of them has the row: {told:?}");
    assert_eq!(told.iter().max(), Some(&9), "the other one has none: {told:?}");
    instances.restart(1);
    assert_eq!(instances.watermark(10), 7);
}

/// A version takes the place of the one before: what is held does not grow with the number of versions.
#[test]
fn what_is_held_is_one_version() {
    let config = json!({ "table": "t", "on": { "k": "id" } });
    let step = plan_with("lookup", &config, &batch(&[]).rows.schema(), &[schema()], None).unwrap();
    let mut instances = Instances::new(&step, 1);
    let rows: Vec<_> = (0..1000).map(|id| (Some(id), id)).collect();
    send_version(&mut instances, &rows, 1);
    let bytes = instances.operators[0].state_bytes();
    assert!(bytes > 16_000, "{bytes}");
    for version in 2..20 {
        send_version(&mut instances, &rows, version);
        assert_eq!(instances.operators[0].state_bytes(), bytes);
    }
    // Nothing of it is in a checkpoint.
    assert!(instances.operators[0].snapshot().unwrap().table("waiting").is_empty());
}

/// A row of the table that cannot be looked up is set aside once, and not with each version it is still in.
#[test]
fn a_row_of_the_table_that_fails_is_set_aside_once() {
    let config = json!({ "table": "t", "on": { "k": "100 / id" } });
    let step = plan_with("lookup", &config, &batch(&[]).rows.schema(), &[schema()], None).unwrap();
    let mut instances = Instances::new(&step, 1);
    let mut failed = |rows: &[(Option<i64>, i64)], version: i64| {
        send_version(&mut instances, rows, version);
        let asides = std::mem::take(&mut instances.kept).asides;
        let rows = asides.iter().flat_map(|aside| {
            let AsideNotes::Messages(messages) = &aside.notes else { panic!("it is said what is wrong") };
            assert_eq!(messages.len(), aside.rows.num_rows());
            aside.rows.column(1).as_primitive::<Int64Type>().values().to_vec()
        });
        rows.collect::<Vec<i64>>()
    };
    assert_eq!(failed(&[(Some(1), 1), (Some(0), 2), (Some(0), 3)], 1), [2, 3]);
    assert_eq!(failed(&[(Some(0), 3), (Some(1), 4), (Some(0), 2), (Some(0), 5)], 2), [5]);
    assert_eq!(failed(&[(Some(0), 2)], 3), Vec::<i64>::new());
    assert_eq!(failed(&[(Some(0), 2), (Some(0), 3)], 4), [3], "it was not there in between");
}

/// What one row becomes is bounded, whatever is in the table.
#[test]
fn a_row_that_finds_too_much_is_set_aside() {
    let config = json!({ "table": "t", "on": { "k": "id" } });
    let step = plan_with("lookup", &config, &batch(&[]).rows.schema(), &[schema()], None).unwrap();
    let mut instances = Instances::new(&step, 1);
    let rows: Vec<_> = (0..FOUND_MAX as i64).map(|name| (Some(1), name)).collect();
    send_version(&mut instances, &[rows.clone(), rows, vec![(Some(1), 7), (Some(2), 8)]].concat()[100..], 1);
    let row = |time, key| Row { time, key, value: 0, watermark: i64::MIN };
    instances.send(&[row(1, 2), row(2, 1), row(3, 2)]);
    assert_eq!(instances.kept.batches.iter().map(Batch::len).sum::<usize>(), 2);
    let [aside] = instances.kept.asides.as_slice() else { panic!("one is set aside") };
    assert_eq!((aside.reason, aside.rows.num_rows()), (AsideReason::Failed, 1));
    let rows: Vec<_> = (0..FOUND_MAX as i64).map(|name| (Some(1), name)).collect();
    send_version(&mut instances, &rows, 2);
    instances.send(&[row(4, 1)]);
    assert_eq!(instances.kept.batches.iter().map(Batch::len).sum::<usize>(), 2 + FOUND_MAX);
}

#[test]
fn what_has_no_meaning_is_refused() {
    let refused = |config: serde_json::Value| {
        let faults = plan_with("lookup", &config, &batch(&[]).rows.schema(), &[schema()], None).err().unwrap();
        faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(refused(json!({"table": "t", "on": []})), "/on: every row would find the whole table");
    assert_eq!(
        refused(json!({"table": "t", "on": { "k": "cast(id as text)" }, "select": ["nome"]})),
        "/on/k: it is Int64 in the rows and Utf8 in the table, which are never equal; \
         /select/nome: there is no column `nome`; did you mean `name`?; the columns here are id, name"
    );
    assert_eq!(
        refused(json!({"table": "t", "on": { "k": "id" }, "select": [
            { "name": "t_k", "text": "name" }, { "name": "k", "text": "id" },
        ]})),
        "/select: rows and table have a column `k`, and there is one `t_k`, too"
    );
}
