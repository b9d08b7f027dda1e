//! Joins against all pairs of rows, in any order, cut in any way, with checkpoints in between that are taken over
//! by another number of instances.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::PlannedStep;
use weir_component::spec::Fault;

use crate::testing::driven::{Instances, Row, batch, resorted};
use crate::testing::{Kept, lines, plan_with};

fn step(config: &Json) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    let schema = batch(&[]).rows.schema();
    plan_with("join", config, &schema, std::slice::from_ref(&schema), None)
}

#[derive(Clone, Debug)]
enum Act {
    /// Side, and of each row: partition, step of its time, key, value.
    Rows(usize, Vec<(usize, i64, i64, i64)>),
    Restart(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let row = (0_usize..2, -30_i64..40, 0_i64..4, 0_i64..10);
    let act = prop_oneof![
        6 => (0_usize..2, prop::collection::vec(row, 1..10)).prop_map(|(side, rows)| Act::Rows(side, rows)),
        1 => (1_usize..4).prop_map(Act::Restart),
    ];
    prop::collection::vec(act, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn pairs_are_those_of_all_rows(
        acts in acts(),
        before in 0_i64..25,
        after in 0_i64..25,
        lateness in prop_oneof![Just(0_i64), 1_i64..25],
        disorder in 0_i64..40,
        slow in 0_u8..3,
        is_outer in any::<bool>(),
    ) {
        let config = json!({
            "with": "r",
            "on": ["k"],
            "within": {"before": format!("{before}ns"), "after": format!("{after}ns")},
            "lateness": format!("{lateness}ns"),
            "kind": if is_outer { "left" } else { "inner" },
        });
        let mut instances = Instances::new(&step(&config).unwrap(), 2);
        let mut taken: [Vec<Row>; 2] = Default::default();
        let mut late = 0;
        // By side and partition.
        let mut newest = [[i64::MIN; 2]; 2];
        let (mut told, mut base) = (i64::MIN, -50);
        for act in acts {
            let (side, rows) = match act {
                Act::Restart(count) => {
                    instances.restart(count);
                    continue;
                }
                Act::Rows(side, rows) => (side, rows),
            };
            let mut sent = Vec::new();
            for (partition, step, key, value) in rows {
                let newest = &mut newest[side][partition];
                let watermark = if *newest == i64::MIN { i64::MIN } else { *newest - disorder };
                base += 1;
                let row = Row { time: base + step, key, value, watermark };
                *newest = (*newest).max(row.time);
                if row.time >= watermark.saturating_sub(lateness) {
                    taken[side].push(row);
                } else {
                    late += 1;
                }
                sent.push(row);
            }
            instances.send_to(side, &if slow == 1 { resorted(&sent) } else { sent });
            if slow != 2 && newest.iter().flatten().all(|newest| *newest > i64::MIN) {
                let watermark = newest.iter().flatten().min().unwrap() - disorder;
                if watermark > told {
                    told = watermark;
                    let n_before = instances.kept.batches.len();
                    let promised = instances.watermark(told);
                    prop_assert_eq!(promised, told - lateness);
                    for batch in &instances.kept.batches[n_before..] {
                        prop_assert!(batch.times.iter().all(|time| *time < promised));
                    }
                }
            }
        }
        instances.watermark(i64::MAX);
        instances.assert_empty();
        let mut expected = Vec::new();
        for left in &taken[0] {
            let near = |right: &&Row| {
                right.key == left.key && right.time >= left.time - before && right.time <= left.time + after
            };
            let pairs: Vec<&Row> = taken[1].iter().filter(near).collect();
            for right in &pairs {
                expected.push(format!("{} {} {} {}", left.key, left.value, right.key, right.value));
            }
            if pairs.is_empty() && is_outer {
                expected.push(format!("{} {}", left.key, left.value));
            }
        }
        expected.sort();
        prop_assert_eq!(lines(instances.kept.batches.iter().map(|batch| &batch.rows)), expected);
        prop_assert_eq!(instances.kept.asides.iter().map(|aside| aside.rows.num_rows()).sum::<usize>(), late);
    }
}

/// Rows are remembered as long as others can find them and no longer, in memory and in checkpoints.
#[test]
fn rows_are_forgotten() {
    let config = json!({"with": "r", "on": ["k"], "within": {"before": "50ns", "after": "100ns"}});
    let mut instances = Instances::new(&step(&config).unwrap(), 1);
    for time in 0..3000_i64 {
        let row = |key| Row { time, key, value: 1, watermark: i64::MIN };
        instances.send_to(0, &[row(time), row(7)]);
        instances.send_to(1, &[row(-time)]);
        instances.watermark(time + 1);
        let gauges = instances.operators[0].gauges();
        assert!(gauges[0].1 <= 204 && gauges[1].1 <= 52 && gauges[2].1 <= 154, "{gauges:?}");
        if time % 100 == 0 {
            let state = instances.operators[0].snapshot().unwrap();
            let known: usize = state.table("left").iter().map(RecordBatch::num_rows).sum();
            assert!(known <= 204, "{known} rows in a checkpoint");
        }
    }
    instances.watermark(i64::MAX);
    instances.assert_empty();
}

/// Rows few others ask for are in no index, and a checkpoint shares them with the one before; when many ask, there is
/// one, and the same pairs come.
#[test]
fn rows_few_ask_for_stay_as_they_came() {
    let config = json!({"with": "r", "on": ["k"], "within": {"before": "100ns", "after": "1000ns"}});
    let left: Vec<Row> =
        (0..2000).map(|time| Row { time, key: time % 250, value: time, watermark: i64::MIN }).collect();
    let right = |time: i64, key: i64| Row { time, key, value: -time, watermark: i64::MIN };
    let pairs = |asking: &[Row]| {
        let near = |left: &&Row, right: &Row| {
            left.key == right.key && right.time >= left.time - 100 && right.time <= left.time + 1000
        };
        let of = |right: &Row| left.iter().filter(|left| near(left, right)).copied().collect::<Vec<Row>>();
        let line = |(left, right): (Row, Row)| format!("{} {} {} {}", left.key, left.value, right.key, right.value);
        let all = asking.iter().flat_map(|right| of(right).into_iter().map(|left| line((left, *right))));
        let mut all: Vec<String> = all.collect();
        all.sort();
        all
    };
    let mut instances = Instances::new(&step(&config).unwrap(), 1);
    for rows in left.chunks(500) {
        instances.send_to(0, rows);
    }
    let before = instances.operators[0].snapshot().unwrap();
    let few = [right(1500, 7), right(1400, 500)];
    instances.send_to(1, &few[..1]);
    instances.send_to(1, &few[1..]);
    let came = |instances: &Instances| lines(instances.kept.batches.iter().map(|batch| &batch.rows));
    assert_eq!(came(&instances), pairs(&few));
    assert!(!pairs(&few).is_empty());
    assert_eq!(instances.operators[0].gauges()[2].1, 0, "nothing is in an index");
    let shared = |state: &weir_component::operator::OperatorState| {
        let is_same = |one: &RecordBatch, other: &RecordBatch| {
            one.columns().iter().zip(other.columns()).all(|(one, other)| Arc::ptr_eq(one, other))
        };
        assert_eq!(state.table("left").len(), 4);
        state.table("left").iter().zip(before.table("left")).all(|(one, other)| is_same(one, other))
    };
    assert!(shared(&instances.operators[0].snapshot().unwrap()));
    let many: Vec<Row> = (0..300).map(|at| right(1000 + at, at)).collect();
    instances.send_to(1, &many);
    assert!(instances.operators[0].gauges()[2].1 > 0);
    assert!(shared(&instances.operators[0].snapshot().unwrap()), "rows in an index are not written again either");
    let mut expected = [pairs(&few), pairs(&many)].concat();
    expected.sort();
    assert_eq!(came(&instances), expected);
    instances.watermark(i64::MAX);
    instances.assert_empty();
}

/// Null is equal to nothing, not to null either; expressions and names of the two sides.
#[test]
fn null_finds_nobody() {
    let side = |key: [Option<&str>; 3]| {
        let key: ArrayRef = Arc::new(StringArray::from(key.to_vec()));
        let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        RecordBatch::try_from_iter([("key", key), ("n", n)]).unwrap()
    };
    let (left, right) = (side([Some("a"), None, Some("b")]), side([None, Some("A"), None]));
    for (kind, expected) in [("inner", &["a 1 A 2"][..]), ("left", &["2", "a 1 A 2", "b 3"][..])] {
        let config = json!({"with": "r", "on": {"upper(key)": "key"}, "within": {"after": "1s"}, "kind": kind});
        let step = plan_with("join", &config, &left.schema(), &[right.schema()], None).unwrap();
        let names: Vec<String> = step.outputs()[0].schema.fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["key", "n", "r_key", "r_n"]);
        let mut join = step.make().unwrap();
        let mut kept = Kept::default();
        join.on_batch(0, Batch::new(left.clone(), vec![0; 3].into()), &mut kept).unwrap();
        join.on_batch(1, Batch::new(right.clone(), vec![0; 3].into()), &mut kept).unwrap();
        // Rows that may come without a match are in the index, and few others are.
        assert_eq!(join.gauges()[2].1, if kind == "left" { 2 } else { 0 });
        join.on_watermark(Timestamp(i64::MAX), &mut kept).unwrap();
        assert_eq!(lines(kept.batches.iter().map(|batch| &batch.rows)), expected, "{kind}");
        assert!(join.gauges().iter().all(|(_, count)| *count == 0));
    }
}

#[test]
fn what_cannot_be_joined_is_refused() {
    let refused = |config: Json| {
        let faults = step(&config).err().unwrap();
        faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        refused(json!({"with": "r", "on": [], "within": {}})),
        "/on: every row would be joined with every other; /within: it is not said how far the times may be apart"
    );
    assert_eq!(
        refused(json!({"with": "r", "on": {"k": "cast(k as varchar)"}, "within": {"after": "1s"}})),
        "/on/k: the left side is Int64 and the right one Utf8, which are never equal"
    );
    assert_eq!(
        refused(json!({"with": "r", "on": ["q"], "within": {"after": "1s"}})),
        "/on/q: there is no column `q`; did you mean `k`?; the columns here are k, v; /on/q: there is no column `q`; \
         did you mean `k`?; the columns here are k, v"
    );
}
