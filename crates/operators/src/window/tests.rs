//! Windows against a count by brute force: rows in any order, cut in any way, with checkpoints in
//! between that are taken over by another number of instances.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use weir_component::Batch;
use weir_component::operator::{AsideNotes, PlannedStep};

use crate::testing::driven::{Act, Instances, Row, acts, batch, resorted};
use crate::testing::{lines, plan};

mod own;
mod revised;

fn step(config: &Json) -> Arc<dyn PlannedStep> {
    plan("window", config, &batch(&[]).rows.schema(), None).unwrap()
}

fn check(config: Json, rows: &[(i64, i64)], watermark: i64, expected: &[&str]) {
    let rows: Vec<Row> =
        rows.iter().map(|(time, key)| Row { time: *time, key: *key, value: 1, watermark: i64::MIN }).collect();
    let mut instances = Instances::new(&step(&config), 1);
    instances.send(&rows);
    instances.watermark(watermark);
    assert_eq!(lines(instances.kept.batches.iter().map(|batch| &batch.rows)), expected, "{config}");
}

#[test]
fn a_window_comes_when_the_watermark_reaches_its_end() {
    let tumbling = json!({"tumbling": "10ns", "by": ["k"], "select": {"n": "count(*)"}});
    let first = "{start: 1970-01-01T00:00:00Z, end: 1970-01-01T00:00:00.000000010Z} 1 2";
    check(tumbling.clone(), &[(0, 1), (9, 1), (10, 1)], 9, &[]);
    check(tumbling.clone(), &[(0, 1), (9, 1), (10, 1)], 10, &[first]);
    let before = "{start: 1969-12-31T23:59:59.999999990Z, end: 1970-01-01T00:00:00Z} 1 1";
    check(tumbling, &[(-1, 1)], 0, &[before]);
}

#[test]
fn windows_have_an_offset() {
    let config = json!({"tumbling": "10ns", "offset": "3ns", "select": {"n": "count(*)"}});
    let window = "{start: 1970-01-01T00:00:00.000000003Z, end: 1970-01-01T00:00:00.000000013Z} 2";
    let before = "{start: 1969-12-31T23:59:59.999999993Z, end: 1970-01-01T00:00:00.000000003Z} 1";
    check(config, &[(2, 1), (3, 1), (12, 1)], 13, &[before, window]);
}

#[test]
fn wrong_windows_are_refused() {
    let refused = |config: Json| {
        let faults = plan("window", &config, &batch(&[]).rows.schema(), None).err().unwrap();
        faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(refused(json!({"select": {"n": "count(*)"}})), ": it is not said which windows");
    assert_eq!(
        refused(json!({"tumbling": "0s", "hopping": {"size": "1s", "every": "1s"}})),
        "/hopping: windows are tumbling or hopping, not both; /select: nothing is selected"
    );
    assert_eq!(
        refused(json!({"tumbling": "0s", "select": {"n": "count(*)"}})),
        "/tumbling: a window must have a length"
    );
    assert_eq!(
        refused(json!({"cumulative": {"size": "1h", "every": "7m"}, "select": {"n": "count(*)"}})),
        "/cumulative: the last window of 1h would be cut short"
    );
    assert_eq!(
        refused(json!({"session": {"gap": "1h"}, "offset": "7m", "select": {"n": "count(*)"}})),
        "/offset: where session windows begin depends on the rows alone"
    );
    assert_eq!(
        refused(json!({"tumbling": "1s", "by": ["k"], "select": {"k": "count(*)"}})),
        "/select: two columns of the result would be called `k`"
    );
    assert_eq!(
        refused(json!({"tumbling": "1s", "by": ["q"], "select": {"n": "count(*)"}})),
        "/by/q: there is no column `q`; did you mean `k`?; the columns here are k, v"
    );
    assert_eq!(
        refused(json!({"hopping": {"size": "1d", "every": "1ms"}, "select": {"n": "count(*)"}})),
        "/hopping: each row would be in 86400000 windows; 100000 are the most"
    );
}

#[test]
fn times_at_the_ends_of_time_are_set_aside() {
    let config = json!({"hopping": {"size": "7s", "every": "3s"}, "select": {"n": "count(*)"}});
    let mut instances = Instances::new(&step(&config), 1);
    let row = |time| Row { time, key: 1, value: 1, watermark: i64::MIN };
    instances.send(&[row(i64::MIN), row(i64::MIN + 1), row(i64::MAX), row(0)]);
    instances.watermark(i64::MAX);
    assert_eq!(instances.kept.asides.iter().map(|aside| aside.rows.num_rows()).sum::<usize>(), 3);
    assert_eq!(
        instances.kept.batches.iter().map(Batch::len).sum::<usize>(),
        3,
        "one row is in three windows of seven seconds every three"
    );
}

/// Every checkpoint makes a part; parts become one meanwhile, and nothing is lost or counted twice.
#[test]
fn a_pane_may_be_part_of_many_checkpoints() {
    let config = json!({"tumbling": "100ns", "by": ["k"], "select": {"n": "count(*)"}});
    let mut instances = Instances::new(&step(&config), 1);
    for round in 0..60 {
        instances.send(&[Row { time: round, key: round % 7, value: 1, watermark: i64::MIN }]);
        for operator in &mut instances.operators {
            let state = operator.snapshot().unwrap();
            let parts: usize = state.tables.values().map(Vec::len).max().unwrap();
            assert!(parts <= 10, "{parts} parts after {round} checkpoints");
        }
        if round == 29 {
            instances.restart(2);
        }
    }
    instances.watermark(100);
    let window = "{start: 1970-01-01T00:00:00Z, end: 1970-01-01T00:00:00.000000100Z}";
    let expected: Vec<String> = (0..7).map(|key| format!("{window} {key} {}", if key < 4 { 9 } else { 8 })).collect();
    assert_eq!(lines(instances.kept.batches.iter().map(|batch| &batch.rows)), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn windows_are_what_counting_by_hand_gives(
        acts in acts(),
        size in 1_i64..30,
        every in 1_i64..30,
        offset in 0_i64..20,
        // Of how many pieces the longest of cumulative windows is; 0: windows are hopping.
        pieces in prop_oneof![Just(0_i64), 1_i64..6],
        lateness in prop_oneof![Just(0_i64), 1_i64..25],
        disorder in 0_i64..20,
        slow in 0_u8..3,
        by_key in any::<bool>(),
    ) {
        let mut config = json!({
            "hopping": {"size": format!("{size}ns"), "every": format!("{every}ns")},
            "offset": format!("{offset}ns"),
            "lateness": format!("{lateness}ns"),
            "select": {"n": "count(*)", "total": "sum(v)", "most": "max(v)"},
        });
        if pieces > 0 {
            config["cumulative"] = json!({"size": format!("{}ns", every * pieces), "every": format!("{every}ns")});
            config.as_object_mut().unwrap().remove("hopping");
        }
        if by_key {
            config["by"] = json!(["k"]);
        }
        let windows: Vec<(i64, i64)> = (-200..200)
            .flat_map(|k| match pieces {
                0 => vec![(offset + k * every, offset + k * every + size)],
                _ => (1..=pieces)
                    .map(|piece| (offset + k * every * pieces, offset + (k * pieces + piece) * every))
                    .collect(),
            })
            .collect();
        let mut instances = Instances::new(&step(&config), 2);
        let mut newest = [i64::MIN; 2];
        let mut expected: BTreeMap<(i64, i64, i64), (i64, i64, i64)> = BTreeMap::new();
        let mut late = 0;
        let mut told = i64::MIN;
        let mut base = -50;
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
                let watermark = if *newest == i64::MIN { i64::MIN } else { *newest - disorder };
                base += 1;
                let row = Row { time: base + step, key: if by_key { key } else { 0 }, value, watermark };
                *newest = (*newest).max(row.time);
                sent.push(row);
                // By hand: every window whose end, and lateness, its partition has not passed.
                let (mut counted, mut is_in_one) = (false, false);
                for (start, end) in windows.iter().copied() {
                    if start <= row.time && row.time < end {
                        is_in_one = true;
                        if end.saturating_add(lateness) > row.watermark {
                            counted = true;
                            let entry = expected.entry((start, end, row.key)).or_insert((0, 0, i64::MIN));
                            *entry = (entry.0 + 1, entry.1 + row.value, entry.2.max(row.value));
                        }
                    }
                }
                late += usize::from(is_in_one && !counted);
            }
            // Each partition's rows keep their order; between them any order may come.
            let sent = if slow == 1 { resorted(&sent) } else { sent };
            instances.send(&sent);
            if slow != 2 && newest.iter().all(|newest| *newest > i64::MIN) {
                let watermark = newest.iter().min().unwrap() - disorder;
                if watermark > told {
                    told = watermark;
                    prop_assert_eq!(instances.watermark(told), told - lateness);
                }
            }
        }
        instances.watermark(i64::MAX);
        instances.assert_empty();
        let expected = expected.iter().map(|((start, end, key), (n, total, most))| {
            line((*start, *end), by_key.then_some(*key), (*n, *total, *most))
        });
        let mut expected: Vec<String> = expected.collect();
        expected.sort();
        prop_assert_eq!(lines(instances.kept.batches.iter().map(|batch| &batch.rows)), expected);
        let mut n_late = 0;
        for aside in &instances.kept.asides {
            let AsideNotes::LateBy(by) = &aside.notes else { panic!("only late rows are set aside") };
            prop_assert!(by.iter().all(|by| *by > 0));
            n_late += aside.rows.num_rows();
        }
        prop_assert_eq!(n_late, late);
        for batch in &instances.kept.batches {
            prop_assert!(batch.watermarks.is_none());
        }
    }
}

/// A result as a line: window, key, and of its rows their number, sum and maximum.
fn line((start, end): (i64, i64), key: Option<i64>, (n, total, most): (i64, i64, i64)) -> String {
    let bound = |time: i64| {
        let time = arrow::array::TimestampNanosecondArray::from(vec![time]).with_timezone("UTC");
        arrow::util::display::array_value_to_string(&time, 0).unwrap()
    };
    let key = key.map_or_else(String::new, |key| format!("{key} "));
    // The map of a configuration is in the order of its names.
    format!("{{start: {}, end: {}}} {key}{most} {n} {total}", bound(start), bound(end))
}
