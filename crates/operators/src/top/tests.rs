//! The first rows against what sorting all rows gives.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use serde_json::json;
use weir_base::Timestamp;
use weir_component::operator::Moment;

use crate::testing::driven::{Act, Instances, Row, acts, batch};
use crate::testing::{lines, plan};

/// The first rows of each group, as the oracle has them: `(group, key)` to rows in order.
fn first(rows: &[Row], rows_max: usize, group: impl Fn(&Row) -> i64) -> BTreeMap<(i64, i64), Vec<Row>> {
    let mut groups: BTreeMap<(i64, i64), Vec<Row>> = BTreeMap::new();
    for row in rows {
        groups.entry((group(row), row.key)).or_default().push(*row);
    }
    for rows in groups.values_mut() {
        rows.sort_by_key(|row| (-row.value, row.time, row.key));
        rows.truncate(rows_max);
    }
    groups
}

/// The places of rows, which are in order.
fn places(rows: &[Row], ties: &str) -> Vec<usize> {
    let place = |(at, row): (usize, &Row)| {
        let before = rows.iter().filter(|other| other.value > row.value);
        match ties {
            "broken" => at + 1,
            "shared" => before.count() + 1,
            _ => before.map(|other| other.value).collect::<BTreeSet<i64>>().len() + 1,
        }
    };
    rows.iter().enumerate().map(place).collect()
}

/// The rows that are on time, and how many are not: a row is late by the end of its stretch.
fn taken(acts: &[Act], disorder: i64, end: impl Fn(i64) -> i64) -> (Vec<Row>, usize) {
    let (mut taken, mut late) = (Vec::new(), 0);
    let mut newest = [i64::MIN; 2];
    let mut base = -50;
    for act in acts {
        let Act::Rows(rows) = act else { continue };
        for (partition, step, key, value) in rows {
            let newest = &mut newest[usize::from(*partition)];
            let watermark = if *newest == i64::MIN { i64::MIN } else { *newest - disorder };
            base += 1;
            let row = Row { time: base + step, key: *key, value: *value, watermark };
            *newest = (*newest).max(row.time);
            if end(row.time) > watermark { taken.push(row) } else { late += 1 }
        }
    }
    (taken, late)
}

/// Sends what `acts` say, with a watermark after each send as the partitions have it.
fn driven(instances: &mut Instances, acts: &[Act], disorder: i64) {
    let mut newest = [i64::MIN; 2];
    let (mut told, mut base) = (i64::MIN, -50);
    for act in acts {
        let rows = match act {
            Act::Restart(count) => {
                instances.restart(*count);
                continue;
            }
            Act::Rows(rows) => rows,
        };
        let mut sent = Vec::new();
        for (partition, step, key, value) in rows {
            let newest = &mut newest[usize::from(*partition)];
            let watermark = if *newest == i64::MIN { i64::MIN } else { *newest - disorder };
            base += 1;
            let row = Row { time: base + step, key: *key, value: *value, watermark };
            *newest = (*newest).max(row.time);
            sent.push(row);
        }
        instances.send(&sent);
        if newest.iter().all(|newest| *newest > i64::MIN) {
            let watermark = newest.iter().min().unwrap() - disorder;
            if watermark > told {
                told = watermark;
                let before = instances.kept.batches.len();
                let promised = instances.watermark(told);
                for batch in &instances.kept.batches[before..] {
                    assert!(batch.times.iter().all(|time| *time < told), "a row from the future");
                }
                assert!(promised <= told);
            }
        }
    }
    instances.watermark(i64::MAX);
    instances.assert_empty();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn of_each_stretch_of_time(
        acts in acts(),
        per in 1_i64..60,
        offset in 0_i64..60,
        rows_max in 1_usize..4,
        disorder in 0_i64..40,
        ties in prop::sample::select(vec!["broken", "shared", "dense"]),
    ) {
        let config = json!({
            "rows": rows_max, "order_by": "v desc", "by": ["k"], "per": format!("{per}ns"),
            "offset": format!("{offset}ns"), "rank": "place", "ties": ties,
        });
        let step = plan("top", &config, &batch(&[]).rows.schema(), None).unwrap();
        let mut instances = Instances::new(&step, 2);
        driven(&mut instances, &acts, disorder);
        let start = |time: i64| time - (time - offset).rem_euclid(per);
        let (taken, late) = taken(&acts, disorder, |time| start(time) + per);
        let mut expected = Vec::new();
        for rows in first(&taken, usize::MAX, |row| start(row.time)).values() {
            let kept = places(rows, ties).into_iter().zip(rows).filter(|(place, _)| *place <= rows_max);
            expected.extend(kept.map(|(place, row)| format!("{} {} {place}", row.key, row.value)));
        }
        expected.sort();
        prop_assert_eq!(lines(instances.kept.batches.iter().map(|batch| &batch.rows)), expected);
        let set_aside: usize = instances.kept.asides.iter().map(|aside| aside.rows.num_rows()).sum();
        prop_assert_eq!(set_aside, late);
    }

    /// What is known of each place is what it was told last, and that is what the sorted rows give; what it is told on
    /// the way is the same in whatever order rows come.
    #[test]
    fn of_all_rows_so_far(
        acts in acts(),
        rows_max in 1_usize..4,
        disorder in 0_i64..40,
        slow in 0_u8..3,
        by_key in any::<bool>(),
    ) {
        let config = match by_key {
            // Nothing is forgotten before the end.
            true => json!({ "rows": rows_max, "order_by": "v desc", "rank": "place", "by": ["k"], "keep": "1d" }),
            false => json!({ "rows": rows_max, "order_by": "v desc", "rank": "place" }),
        };
        let step = plan("top", &config, &batch(&[]).rows.schema(), None).unwrap();
        let ran = run_in_microseconds(&step, acts.clone(), disorder, slow);
        let mut known: BTreeMap<(i64, i64), (i64, i64, bool)> = BTreeMap::new();
        for batch in &ran.kept.batches {
            let column = |at: usize| batch.rows.column(at).as_primitive::<Int64Type>().values().to_vec();
            let (keys, values, places) = (column(0), column(1), column(2));
            let revisions = batch.revisions.as_ref().unwrap();
            for row in 0..batch.len() {
                let key = (if by_key { keys[row] } else { 0 }, places[row]);
                let revision = revisions.of(row);
                let before = known.insert(key, (revision.number, values[row], revision.is_final));
                prop_assert!(before.is_none_or(|(number, _, _)| number < revision.number), "numbers grow");
            }
        }
        prop_assert!(known.values().all(|(_, _, is_final)| *is_final));
        let mut rows: Vec<Row> = ran.taken;
        if !by_key {
            rows.iter_mut().for_each(|row| row.key = 0);
        }
        let mut expected = BTreeMap::new();
        for ((_, key), rows) in first(&rows, rows_max, |_| 0) {
            expected.extend(rows.iter().zip(1..).map(|(row, place)| ((key, place), row.value)));
        }
        let known: BTreeMap<_, _> = known.into_iter().map(|(place, (_, value, _))| (place, value)).collect();
        prop_assert_eq!(known, expected);
    }
}

struct RanInMicroseconds {
    kept: crate::testing::Kept,
    taken: Vec<Row>,
}

/// One row a nanosecond is too near for places that change with each microsecond.
fn run_in_microseconds(
    step: &std::sync::Arc<dyn weir_component::operator::PlannedStep>,
    acts: Vec<Act>,
    disorder: i64,
    slow: u8,
) -> RanInMicroseconds {
    let mut instances = Instances::new(step, 2);
    let (mut taken, mut newest) = (Vec::new(), [i64::MIN; 2]);
    let (mut told, mut base) = (i64::MIN, -50);
    for act in acts {
        let rows = match act {
            Act::Restart(count) => {
                instances.restart(count);
                continue;
            }
            Act::Rows(rows) => rows,
        };
        let mut sent = Vec::new();
        for (partition, step, key, value) in rows {
            let newest = &mut newest[usize::from(partition)];
            let watermark = if *newest == i64::MIN { i64::MIN } else { *newest - disorder * 1000 };
            base += 1;
            // Two rows may be in one microsecond.
            let row = Row { time: (base + step) * 500, key, value, watermark };
            *newest = (*newest).max(row.time);
            if row.time >= watermark {
                taken.push(row);
            }
            sent.push(row);
        }
        if slow == 1 {
            sent.reverse();
        }
        instances.send(&sent);
        if slow != 2 && newest.iter().all(|newest| *newest > i64::MIN) {
            let watermark = newest.iter().min().unwrap() - disorder * 1000;
            if watermark > told {
                told = watermark;
                instances.watermark(told);
            }
        }
    }
    instances.watermark(i64::MAX);
    instances.assert_empty();
    RanInMicroseconds { kept: instances.kept, taken }
}

/// What is told on the way does not depend on how far watermarks come at a time, on batches or instances.
#[test]
fn changes_are_the_same_however_rows_come() {
    let config = json!({ "rows": 2, "order_by": "v desc", "rank": "place", "by": ["k"], "keep": "3ms" });
    let step = plan("top", &config, &batch(&[]).rows.schema(), None).unwrap();
    let row = |time: i64, key: i64, value: i64| Row { time: time * 1_000_000, key, value, watermark: i64::MIN };
    let rows = [
        row(1, 7, 10),
        row(1, 8, 5),
        row(2, 7, 20),
        row(3, 7, 5),
        row(5, 7, 15),
        row(9, 7, 1),
        row(9, 8, 6),
        row(10, 7, 2),
    ];
    let told = |instances: &Instances| {
        let mut told = Vec::new();
        for batch in &instances.kept.batches {
            let text = |row: usize| {
                let line = lines([&batch.rows.slice(row, 1)]).remove(0);
                let revision = batch.revisions.as_ref().unwrap().of(row);
                let number = revision.number - super::changes::number_at(0);
                format!("{number} {line}{}", if revision.is_final { " final" } else { "" })
            };
            told.extend((0..batch.len()).map(text));
        }
        told.sort();
        told
    };
    let mut at_once = Instances::new(&step, 1);
    at_once.send(&rows);
    at_once.watermark(i64::MAX);
    let expected = ["1000 7 10 1", "1000 8 5 1", "10000 7 2 1", "10000 7 1 2", "12999 7 1 2 final"];
    let all = told(&at_once);
    for line in &expected[..4] {
        assert!(all.iter().any(|told| told == line), "{line}: {all:?}");
    }
    // A key that begins anew was final before, and another of its rows is first now.
    assert!(all.contains(&"7999 7 20 1 final".to_owned()), "{all:?}");
    assert!(all.contains(&"9000 7 1 1".to_owned()), "{all:?}");
    assert!(all.contains(&"12999 7 2 1 final".to_owned()), "{all:?}");
    for count in 1..4 {
        let mut one_by_one = Instances::new(&step, count);
        for at in (0..rows.len()).rev() {
            one_by_one.send(&rows[at..=at]);
        }
        for time in 0..40 {
            one_by_one.watermark(time * 400_000 + 123);
            one_by_one.restart(1 + usize::try_from(time).unwrap() % 3);
        }
        one_by_one.watermark(i64::MAX);
        assert_eq!(told(&one_by_one), all, "{count} instances");
        one_by_one.assert_empty();
    }
}

/// Rows of a key that was forgotten may be in a state, in one batch with others: they do not come back with the key.
#[test]
fn what_was_forgotten_does_not_come_back_with_a_checkpoint() {
    let config = json!({ "rows": 2, "order_by": "v desc", "rank": "place", "by": ["k"], "keep": "3ms" });
    let step = plan("top", &config, &batch(&[]).rows.schema(), None).unwrap();
    let row = |time: i64, key: i64, value: i64| Row { time: time * 1_000_000, key, value, watermark: i64::MIN };
    for count in 1..3 {
        let mut instances = Instances::new(&step, 1);
        instances.send(&[row(1, 7, 10), row(1, 8, 5)]);
        instances.watermark(2_000_000);
        instances.send(&[row(3, 8, 1), row(5, 8, 1), row(7, 8, 1), row(8, 7, 1)]);
        instances.watermark(9_000_000);
        let state = instances.operators[0].snapshot().unwrap();
        assert_eq!(state.table("first").iter().map(RecordBatch::num_rows).sum::<usize>(), 6, "all are still there");
        instances.restart(count);
        instances.kept = crate::testing::Kept::default();
        instances.watermark(i64::MAX);
        let finals = lines(instances.kept.batches.iter().map(|batch| &batch.rows));
        assert_eq!(finals, ["7 1 1", "8 1 2", "8 5 1"], "{count} instances");
        instances.assert_empty();
    }
}

/// However many rows come, only the first are held, also in checkpoints.
#[test]
fn what_is_held_is_bounded() {
    for config in [
        json!({ "rows": 3, "order_by": "v desc", "by": ["k"], "per": "1000ns" }),
        json!({ "rows": 3, "order_by": "v desc", "rank": "place", "by": ["k"], "keep": "1ms" }),
    ] {
        let step = plan("top", &config, &batch(&[]).rows.schema(), None).unwrap();
        let mut instances = Instances::new(&step, 1);
        let mut bytes = 0;
        for time in 0..3000_i64 {
            let rows = [1, 2, 3].map(|key| Row { time: time * 5000, key, value: time % 97, watermark: i64::MIN });
            instances.send(&rows);
            instances.watermark(time * 5000 + 1000);
            let operator = &mut instances.operators[0];
            if time <= 300 {
                // Up and down, as rows that are not held any more leave their batches some at a time.
                bytes = operator.state_bytes().max(bytes);
            } else {
                assert!(operator.state_bytes() <= bytes + 200, "{bytes} became {}", operator.state_bytes());
            }
            let rows = operator.gauges().into_iter().find(|(name, _)| *name == "rows").unwrap().1;
            assert!(rows <= 9, "{rows} rows");
            let state = operator.snapshot().unwrap();
            let kept: usize = state.table("first").iter().map(|batch| batch.num_rows()).sum();
            assert!(kept <= 9 + 3 * 3, "{kept} rows in a checkpoint");
            instances.kept = crate::testing::Kept::default();
        }
        instances.moment(Moment::Changed);
        instances.watermark(i64::MAX);
        instances.assert_empty();
        assert_eq!(instances.operators[0].state_bytes(), 0);
    }
}

/// A row that comes first changes every place behind it: what comes out at once is bounded nevertheless, and is the same.
#[test]
fn what_comes_out_at_once_is_bounded() {
    let config = json!({ "rows": 1000, "order_by": "v desc", "rank": "place", "by": ["k"], "keep": "1s" });
    let step = plan("top", &config, &batch(&[]).rows.schema(), None).unwrap();
    let row = |at: i64| Row { time: at * 5_000, key: at % 3, value: at, watermark: i64::MIN };
    let rows: Vec<Row> = (0..600).map(row).collect();
    let mut instances = Instances::new(&step, 1);
    instances.send(&rows);
    let operator = &mut instances.operators[0];
    let (mut calls, mut told) = (0, 0);
    loop {
        let mut kept = crate::testing::Kept::default();
        let promise = operator.on_watermark(Timestamp(i64::MAX), &mut kept).unwrap().0;
        let sizes: Vec<usize> = kept.batches.iter().map(|batch| batch.len()).collect();
        assert!(sizes.iter().sum::<usize>() <= 8192 + 1000 && sizes.iter().all(|size| *size <= 8192), "{sizes:?}");
        (calls, told) = (calls + 1, told + sizes.iter().sum::<usize>());
        if !operator.has_more() {
            assert_eq!(promise, i64::MAX);
            break;
        }
        assert_eq!(promise, i64::MIN, "nothing is promised before it is out");
    }
    // Each of 200 rows of a key tells all of it before, and then each of them is final.
    assert_eq!(told, 3 * (200 * 201 / 2 + 200));
    assert!(calls >= told / (8192 + 1000), "{calls}");
    instances.assert_empty();
}

/// Rows that are not among the first any more do not pile up, and what did not change is not written again.
#[test]
fn rows_stay_where_they_came_until_few_are_left() {
    let config = json!({ "rows": 1, "order_by": "v desc", "by": ["k"], "per": "1d" });
    let step = plan("top", &config, &batch(&[]).rows.schema(), None).unwrap();
    let mut instances = Instances::new(&step, 2);
    let row = |time: i64, key: i64, value: i64| Row { time, key, value, watermark: i64::MIN };
    // These are never passed.
    let high: Vec<Row> = (0..3000).map(|key| row(0, 10_000 + key, 1_000_000)).collect();
    instances.send(&high);
    let columns = |state: &weir_component::operator::OperatorState| {
        let first = |batch: &arrow::array::RecordBatch| std::sync::Arc::as_ptr(batch.column(0)).cast::<()>() as usize;
        state.table("first").iter().map(first).collect::<std::collections::BTreeSet<usize>>()
    };
    let before = instances.operators[0].snapshot().unwrap();
    for time in 1..400_i64 {
        // Each of them passes that of the round before; two are the same in everything.
        let mut rows: Vec<Row> = (0..200).map(|key| row(time, key, time)).collect();
        rows.extend([row(time, 7, time), row(time - 1, 8, time)]);
        instances.send(&rows);
        for operator in &mut instances.operators {
            let gauges: BTreeMap<_, _> = operator.gauges().into_iter().collect();
            assert_eq!(gauges["rows"], gauges["keys"]);
            let state = operator.snapshot().unwrap();
            let rows: usize = state.table("first").iter().map(|batch| batch.num_rows()).sum();
            assert!(rows < 5000, "{rows} rows for {gauges:?}");
        }
        if time == 300 {
            assert!(columns(&before).is_subset(&columns(&instances.operators[0].snapshot().unwrap())));
            instances.restart(1);
        }
    }
    instances.watermark(i64::MAX);
    instances.assert_empty();
    let mut expected: Vec<String> = high.iter().map(|row| format!("{} {}", row.key, row.value)).collect();
    expected.extend((0..200).map(|key| format!("{key} 399")));
    expected.sort();
    assert_eq!(lines(instances.kept.batches.iter().map(|batch| &batch.rows)), expected);
}

#[test]
fn what_has_no_meaning_is_refused() {
    let refused = |config: serde_json::Value| {
        let faults = plan("top", &config, &batch(&[]).rows.schema(), None).err().unwrap();
        faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        refused(json!({"rows": 1, "order_by": "v"})),
        ": which row is in which place changes with the rows, so it has to be said in a column"
    );
    assert_eq!(
        refused(json!({"rows": 1, "order_by": "v", "by": ["k"], "rank": "n"})),
        ": the first rows of every key there ever was would have to be remembered for ever"
    );
    assert_eq!(
        refused(json!({"rows": 0, "order_by": "w", "per": "0s", "rank": "v", "keep": "1s", "offset": "1s"})),
        "/rows: 1 to 10000 rows of a group can be kept; /per: a stretch of time has a length; \
         /keep: what is kept of a stretch of time or a window is forgotten at its end; \
         /rank: there is a column `v` already; \
         /order_by: there is no column `w`; did you mean `k`?; the columns here are k, v"
    );
    assert_eq!(
        refused(json!({"rows": 1, "order_by": "v desc, (select 1)", "per": "1s"})),
        "/order_by: an order is of expressions over a row: no subqueries"
    );
    assert_eq!(
        refused(json!({"rows": 1, "order_by": "count(*)", "per": "1s"})),
        "/order_by: count() looks at many rows, and this expression is computed for one row at a time: aggregates \
         belong into a window"
    );
}

/// Of all rows so far, what has not changed is in the next state as it was: by the memory of its columns it is known that
/// it has been written.
#[test]
fn a_state_has_again_what_has_not_changed() {
    let config = json!({ "rows": 2, "order_by": "v desc", "rank": "place", "by": ["k"], "keep": "1d" });
    let step = plan("top", &config, &batch(&[]).rows.schema(), None).unwrap();
    let mut instances = Instances::new(&step, 1);
    let row = |time: i64, key: i64| Row { time: time * 1_000_000, key, value: time, watermark: i64::MIN };
    instances.send(&(0..3000).map(|at| row(at, at)).collect::<Vec<_>>());
    instances.watermark(3000 * 1_000_000);
    let mut before = instances.operators[0].snapshot().unwrap();
    for at in 3000..3020 {
        instances.send(&[row(at, 7)]);
        instances.watermark((at + 1) * 1_000_000);
        let now = instances.operators[0].snapshot().unwrap();
        let new_rows = |table: &str| {
            let is_same = |one: &RecordBatch, other: &RecordBatch| {
                one.columns().iter().zip(other.columns()).all(|(one, other)| Arc::ptr_eq(one, other))
            };
            let is_new = |rows: &&RecordBatch| !before.table(table).iter().any(|known| is_same(known, rows));
            now.table(table).iter().filter(is_new).map(RecordBatch::num_rows).sum::<usize>()
        };
        // Rows that are no longer among the first go with others that are few.
        assert!((1..=6).contains(&new_rows("first")), "{} rows at {at}", new_rows("first"));
        let n_groups = new_rows("groups");
        assert!(n_groups == 1 || (n_groups == 3000 && at % 3 == 2), "{n_groups} groups at {at}");
        before = now;
    }
}
