//! Sessions and windows of so many rows against what sorting all rows first gives.

use super::*;
use crate::testing::driven::{Ran, run};

/// What came of rows as windows.
struct Windowed(Ran);

impl Windowed {
    fn check(&self, windows: &[(i64, i64, Vec<Row>)], by_key: bool) {
        let line = |(start, end, rows): &(i64, i64, Vec<Row>)| {
            let values = || rows.iter().map(|row| row.value);
            let key = by_key.then_some(rows[0].key);
            let n = i64::try_from(rows.len()).unwrap();
            line((*start, *end), key, (n, values().sum(), values().max().unwrap()))
        };
        let mut expected: Vec<String> = windows.iter().map(line).collect();
        expected.sort();
        assert_eq!(lines(self.0.instances.kept.batches.iter().map(|batch| &batch.rows)), expected);
        assert_eq!(self.0.instances.kept.asides.iter().map(|aside| aside.rows.num_rows()).sum::<usize>(), self.0.late);
    }
}

/// With `is_single`, aggregates that know each window by itself; otherwise one that gives all of them or none.
fn config(kind: &str, what: Json, lateness: i64, by_key: bool, is_single: bool) -> Json {
    let most = if is_single { "max(v)" } else { "last_value(v ORDER BY v)" };
    let mut config = json!({
        kind: what,
        "lateness": format!("{lateness}ns"),
        "select": {"n": "count(*)", "total": "sum(v)", "most": most},
    });
    if by_key {
        config["by"] = json!(["k"]);
    }
    config
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn sessions_are_what_the_sorted_rows_give(
        acts in acts(),
        gap in 1_i64..30,
        lateness in prop_oneof![Just(0_i64), 1_i64..25],
        disorder in 0_i64..40,
        slow in 0_u8..3,
        by_key in any::<bool>(),
        is_single in any::<bool>(),
    ) {
        let config = config("session", json!({"gap": format!("{gap}ns")}), lateness, by_key, is_single);
        let ran = run(&step(&config), acts, disorder, lateness, slow, by_key);
        let mut sessions: Vec<(i64, i64, Vec<Row>)> = Vec::new();
        for rows in ran.sorted() {
            let mut last = None;
            for row in rows {
                if last.is_none_or(|last| row.time - last >= gap) {
                    sessions.push((row.time, 0, Vec::new()));
                }
                let session = sessions.last_mut().unwrap();
                session.1 = row.time + gap;
                session.2.push(row);
                last = Some(row.time);
            }
        }
        Windowed(ran).check(&sessions, by_key);
    }

    #[test]
    fn windows_of_so_many_rows_are_what_the_sorted_rows_give(
        acts in acts(),
        rows_max in 1_i64..6,
        within in 1_i64..60,
        lateness in prop_oneof![Just(0_i64), 1_i64..25],
        disorder in 0_i64..40,
        slow in 0_u8..3,
        by_key in any::<bool>(),
        is_single in any::<bool>(),
    ) {
        let count = json!({"rows": rows_max, "within": format!("{within}ns")});
        let config = config("count", count, lateness, by_key, is_single);
        let ran = run(&step(&config), acts, disorder, lateness, slow, by_key);
        let mut windows: Vec<(i64, i64, Vec<Row>)> = Vec::new();
        for rows in ran.sorted() {
            let mut is_open = false;
            for row in rows {
                is_open &= windows.last().is_some_and(|window| row.time - window.0 < within);
                if !is_open {
                    windows.push((row.time, 0, Vec::new()));
                }
                let window = windows.last_mut().unwrap();
                window.1 = row.time;
                window.2.push(row);
                is_open = i64::try_from(window.2.len()).unwrap() < rows_max;
            }
        }
        Windowed(ran).check(&windows, by_key);
    }
}

#[test]
fn a_gap_inside_a_batch_ends_a_session() {
    let session = json!({"session": {"gap": "10ns"}, "by": ["k"], "select": {"n": "count(*)"}});
    let window = |start: i64, end: i64, n: i64| {
        let line = line((start, end), Some(1), (0, n, 0));
        line.replace(" 1 0 0 ", " 1 ")
    };
    check(session.clone(), &[(0, 1), (1, 1), (100, 1), (101, 1)], 200, &[&window(100, 111, 2), &window(0, 11, 2)]);
    // A row exactly the gap later is another session's; one before that is not.
    check(session.clone(), &[(0, 1), (10, 1), (19, 1)], 200, &[&window(10, 29, 2), &window(0, 10, 1)]);
    // A row between two makes them one, before 1970 as after.
    check(session.clone(), &[(-12, 1), (6, 1), (-3, 1)], 200, &[&window(-12, 16, 3)]);
    check(session, &[(0, 1), (5, 1)], 14, &[]);
}

/// Between checkpoints, windows that are done leave room for those that come, which begin with nothing in it.
#[test]
fn slots_are_used_again() {
    let config = config("session", json!({"gap": "10ns"}), 0, true, true);
    let mut instances = Instances::new(&step(&config), 1);
    for time in 0..3000_i64 {
        instances.send(&[Row { time, key: time, value: time, watermark: i64::MIN }]);
        instances.watermark(time);
        let gauges: BTreeMap<_, _> = instances.operators[0].gauges().into_iter().collect();
        assert!(gauges["open_windows"] <= 11 && gauges["parts"] == gauges["open_windows"], "{gauges:?}");
    }
    instances.watermark(i64::MAX);
    instances.assert_empty();
    let mut expected: Vec<String> =
        (0..3000).map(|time| line((time, time + 10), Some(time), (1, time, time))).collect();
    expected.sort();
    assert_eq!(lines(instances.kept.batches.iter().map(|batch| &batch.rows)), expected);
}

/// Long sessions with many checkpoints, and many keys that come once: neither leaves anything behind.
#[test]
fn parts_and_keys_do_not_pile_up() {
    let session = json!({"session": {"gap": "100ns"}, "by": ["k"], "select": {"n": "count(*)"}});
    let mut instances = Instances::new(&step(&session), 1);
    let mut most = 0;
    for time in 0..6000_i64 {
        // One key comes all the time, two others never again.
        let rows = [0, 2 * time + 1, 2 * time + 2].map(|key| Row { time, key, value: 1, watermark: i64::MIN });
        instances.send(&rows);
        instances.watermark(time + 1);
        if time % 10 == 0 {
            let state = instances.operators[0].snapshot().unwrap();
            assert!(state.table("parts").len() < 20, "{} batches in a checkpoint", state.table("parts").len());
        }
        let gauges: BTreeMap<_, _> = instances.operators[0].gauges().into_iter().collect();
        assert!(gauges["keys"] <= 203, "{gauges:?}");
        assert_eq!(gauges["keys"], gauges["open_windows"]);
        most = most.max(gauges["parts"]);
    }
    assert!(most < 5000, "{most} parts of 200 windows");
    instances.watermark(i64::MAX);
    instances.assert_empty();
    let counted: usize = instances.kept.batches.iter().map(Batch::len).sum();
    assert_eq!(counted, 12_001);
}
