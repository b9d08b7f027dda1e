//! Joins against all pairs of rows, in any order, cut in any way, with checkpoints in between that are taken over
//! by another number of instances.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{OperatorState, PlannedStep, Share};
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

/// A join, beside what is equal.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: &'static str,
    time: &'static str,
    before: i64,
    after: i64,
    lateness: i64,
}

fn cases() -> impl Strategy<Value = Case> {
    let kind = prop::sample::select(vec!["inner", "left", "right", "full"]);
    let time = prop::sample::select(vec!["later", "left", "right"]);
    let lateness = prop_oneof![Just(0_i64), 1_i64..25];
    (kind, time, 0_i64..25, 0_i64..25, lateness).prop_map(|(kind, time, before, after, lateness)| Case {
        kind,
        time,
        before,
        after,
        lateness,
    })
}

/// The time of a result, its key and value on the left, and those on the right.
type Joined = (i64, [Option<i64>; 4]);

impl Case {
    fn step(&self) -> Arc<dyn PlannedStep> {
        let span = |nanos: i64| format!("{nanos}ns");
        let within = json!({"before": span(self.before), "after": span(self.after)});
        let config = json!({
            "with": "r", "on": ["k"], "within": within, "lateness": span(self.lateness), "kind": self.kind,
            "time": self.time,
        });
        step(&config).unwrap()
    }

    /// How far behind the watermark results may come, beside the lateness.
    fn held_back(&self) -> i64 {
        match (self.time, self.kind) {
            ("later", _) => 0,
            ("left", "right" | "full") | ("right", "left" | "full") => self.before.max(self.after),
            ("left", _) => self.after,
            _ => self.before,
        }
    }

    /// All pairs of these rows, and those without one.
    fn by_hand(&self, [left, right]: &[Vec<Row>; 2]) -> Vec<Joined> {
        let is_near = |left: &Row, right: &Row| {
            let apart = right.time - left.time;
            right.key == left.key && apart >= -self.before && apart <= self.after
        };
        let of = |row: Option<&Row>| [row.map(|row| row.key), row.map(|row| row.value)];
        let result = |time: i64, left: Option<&Row>, right: Option<&Row>| {
            let ([key, value], [other_key, other_value]) = (of(left), of(right));
            (time, [key, value, other_key, other_value])
        };
        let mut results = Vec::new();
        for one in left {
            for other in right.iter().filter(|other| is_near(one, other)) {
                let time = match self.time {
                    "left" => one.time,
                    "right" => other.time,
                    _ => one.time.max(other.time),
                };
                results.push(result(time, Some(one), Some(other)));
            }
        }
        // Where the later time counts, it is the last at which one could have come.
        let alone = |row: &Row, more: i64| row.time + if self.time == "later" { more } else { 0 };
        if matches!(self.kind, "left" | "full") {
            let found = left.iter().filter(|one| !right.iter().any(|other| is_near(one, other)));
            results.extend(found.map(|one| result(alone(one, self.after), Some(one), None)));
        }
        if matches!(self.kind, "right" | "full") {
            let found = right.iter().filter(|other| !left.iter().any(|one| is_near(one, other)));
            results.extend(found.map(|other| result(alone(other, self.before), None, Some(other))));
        }
        results.sort_unstable();
        results
    }
}

/// The length of the windows behind a join.
const SIZE: i64 = 8;

/// A join and windows of its results, driven together.
struct Driven {
    join: Instances,
    windows: Instances,
    /// How many batches of the join the windows were given.
    n_passed: usize,
    promised: i64,
}

impl Driven {
    fn new(case: &Case) -> Self {
        let join = case.step();
        let config = json!({
            "tumbling": format!("{SIZE}ns"), "by": {"key": "coalesce(k, r_k)"}, "select": {"n": "count(*)", "total": "sum(v)"},
        });
        let windows = plan_with("window", &config, &join.outputs()[0].schema, &[], None).unwrap();
        let (join, windows) = (Instances::new(&join, 2), Instances::new(&windows, 2));
        Self { join, windows, n_passed: 0, promised: i64::MIN }
    }

    fn pass_on(&mut self) {
        for batch in self.join.kept.batches[self.n_passed..].iter().cloned() {
            assert!(batch.times.iter().all(|time| *time >= self.promised), "a promise is kept");
            self.windows.send_batch(0, batch);
        }
        self.n_passed = self.join.kept.batches.len();
    }

    fn send(&mut self, side: usize, rows: &[Row]) {
        self.join.send_to(side, rows);
        self.pass_on();
    }

    fn watermark(&mut self, time: i64) {
        let promised = self.join.watermark(time);
        self.pass_on();
        self.promised = promised;
        self.windows.watermark(promised);
    }

    fn joined(&self) -> Vec<Joined> {
        let mut results = Vec::new();
        for batch in &self.join.kept.batches {
            let columns = [0, 1, 2, 3].map(|column| batch.rows.column(column).as_primitive::<Int64Type>());
            let row = |row: usize| columns.map(|column| column.is_valid(row).then(|| column.value(row)));
            results.extend((0..batch.len()).map(|at| (batch.times[at], row(at))));
        }
        results.sort_unstable();
        results
    }

    /// Start, key, number and sum of each window.
    fn counted(&self) -> Vec<(i64, i64, i64, Option<i64>)> {
        let mut results = Vec::new();
        for batch in &self.windows.kept.batches {
            let starts = batch.rows.column(0).as_struct().column(0).as_primitive::<TimestampNanosecondType>();
            let [keys, counts, totals] = [1, 2, 3].map(|at| batch.rows.column(at).as_primitive::<Int64Type>());
            results.extend((0..batch.len()).map(|row| {
                let total = totals.is_valid(row).then(|| totals.value(row));
                (starts.value(row), keys.value(row), counts.value(row), total)
            }));
        }
        results.sort_unstable();
        results
    }
}

/// The windows of these results.
fn counted(joined: &[Joined]) -> Vec<(i64, i64, i64, Option<i64>)> {
    let mut windows: BTreeMap<(i64, i64), (i64, Option<i64>)> = BTreeMap::new();
    for (time, [key, value, other_key, _]) in joined {
        let start = time.div_euclid(SIZE) * SIZE;
        let (n, total) = windows.entry((start, key.or(*other_key).unwrap())).or_default();
        *n += 1;
        *total = value.map_or(*total, |value| Some(total.unwrap_or(0) + value));
    }
    windows.into_iter().map(|((start, key), (n, total))| (start, key, n, total)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// And no result comes too late for the windows behind, whatever time it has.
    #[test]
    fn pairs_are_those_of_all_rows(
        acts in acts(),
        case in cases(),
        disorder in 0_i64..40,
        slow in 0_u8..3,
    ) {
        let mut driven = Driven::new(&case);
        let mut taken: [Vec<Row>; 2] = Default::default();
        let mut late = 0;
        // By side and partition.
        let mut newest = [[i64::MIN; 2]; 2];
        let (mut told, mut base) = (i64::MIN, -50);
        for act in acts {
            let (side, rows) = match act {
                Act::Restart(count) => {
                    driven.join.restart(count);
                    driven.windows.restart(count);
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
                if row.time >= watermark.saturating_sub(case.lateness) {
                    taken[side].push(row);
                } else {
                    late += 1;
                }
                sent.push(row);
            }
            driven.send(side, &if slow == 1 { resorted(&sent) } else { sent });
            if slow != 2 && newest.iter().flatten().all(|newest| *newest > i64::MIN) {
                let watermark = newest.iter().flatten().min().unwrap() - disorder;
                if watermark > told {
                    told = watermark;
                    let n_before = driven.join.kept.batches.len();
                    driven.watermark(told);
                    prop_assert_eq!(driven.promised, told - case.lateness - case.held_back());
                    // What can have none any more comes at once.
                    for batch in &driven.join.kept.batches[n_before..] {
                        let last = told - case.lateness;
                        prop_assert!(batch.times.iter().all(|time| *time < last));
                    }
                }
            }
        }
        driven.watermark(i64::MAX);
        driven.join.assert_empty();
        driven.windows.assert_empty();
        let expected = case.by_hand(&taken);
        prop_assert_eq!(driven.counted(), counted(&expected));
        prop_assert_eq!(driven.joined(), expected);
        prop_assert_eq!(driven.join.kept.asides.iter().map(|aside| aside.rows.num_rows()).sum::<usize>(), late);
        prop_assert!(driven.windows.kept.asides.is_empty(), "nothing of a join is late");
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

/// What is over at once comes a part at a time, and is promised to be over when all of it has come.
#[test]
fn rows_without_others_come_when_there_is_room() {
    let within = json!({"before": "5ns", "after": "10ns"});
    let config = json!({"with": "r", "on": {"abs(k)": "abs(k)"}, "within": within, "kind": "full", "time": "left"});
    let mut join = step(&config).unwrap().make().unwrap();
    let mut kept = Kept::default();
    let row = |key: i64| Row { time: key % 1000, key, value: 1, watermark: i64::MIN };
    let sides = [(0..70_000).map(row).collect::<Vec<_>>(), (100_000..240_000).map(row).collect()];
    let mut least = 0;
    for (side, rows) in sides.iter().enumerate() {
        for rows in rows.chunks(10_000) {
            join.on_batch(side, batch(rows), &mut kept).unwrap();
        }
        // Columns, times, and what the index is made of.
        least += rows.len() * (16 + 16 + 32 + 4 + 4);
        assert!(join.state_bytes() > least, "{} bytes", join.state_bytes());
    }
    assert_eq!(join.on_watermark(Timestamp(3), &mut kept).unwrap(), Timestamp(-7));
    let mut parts = Vec::new();
    loop {
        let before = kept.batches.len();
        let told = join.on_watermark(Timestamp(5000), &mut kept).unwrap();
        parts.push(kept.batches[before..].iter().map(Batch::len).sum::<usize>());
        assert_eq!(told, Timestamp(if join.has_more() { -7 } else { 4990 }));
        if !join.has_more() {
            break;
        }
    }
    assert_eq!(parts, [2 * 65_536, 4_464 + 65_536, 8_928]);
    assert!(join.gauges().iter().all(|(_, count)| *count == 0));
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
    let shared = |state: &OperatorState| {
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
    let all = [
        ("inner", &["a 1 A 2"][..], 0),
        ("left", &["2", "a 1 A 2", "b 3"][..], 2),
        ("right", &["1", "3", "a 1 A 2"][..], 1),
        ("full", &["1", "2", "3", "a 1 A 2", "b 3"][..], 2),
    ];
    for (kind, expected, n_keys) in all {
        let config = json!({"with": "r", "on": {"upper(key)": "key"}, "within": {"after": "1s"}, "kind": kind});
        let step = plan_with("join", &config, &left.schema(), &[right.schema()], None).unwrap();
        let names: Vec<String> = step.outputs()[0].schema.fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["key", "n", "r_key", "r_n"]);
        let mut join = step.make().unwrap();
        let mut kept = Kept::default();
        join.on_batch(0, Batch::new(left.clone(), vec![0; 3].into()), &mut kept).unwrap();
        join.on_batch(1, Batch::new(right.clone(), vec![0; 3].into()), &mut kept).unwrap();
        // Rows that may come without a match are in the index, and few others are.
        assert_eq!(join.gauges()[2].1, n_keys, "{kind}");
        join.on_watermark(Timestamp(i64::MAX), &mut kept).unwrap();
        assert_eq!(lines(kept.batches.iter().map(|batch| &batch.rows)), expected, "{kind}");
        assert!(join.gauges().iter().all(|(_, count)| *count == 0));
    }
}

/// A checkpoint from before joins of other kinds were there is taken: what tells states apart is the same for those that
/// were, and so are their tables.
#[test]
fn states_of_before_are_taken() {
    let config = |kind: &str, time: &str| {
        let within = json!({"before": "5ns", "after": "10ns"});
        json!({"with": "r", "on": ["k"], "within": within, "lateness": "1ns", "kind": kind, "time": time})
    };
    let fingerprint = |kind, time| step(&config(kind, time)).unwrap().state_fingerprint().unwrap();
    let (left, right) = ("left", "right");
    assert_eq!(
        fingerprint("inner", "later"),
        "Inner join of \"k\" with r \"k\", from 5ns before to 10ns after, 1ns late"
    );
    assert_eq!(fingerprint(left, "later"), "Left join of \"k\" with r \"k\", from 5ns before to 10ns after, 1ns late");
    let mut all: Vec<String> = ["inner", left, right, "full"]
        .iter()
        .flat_map(|kind| ["later", left, right].map(|time| fingerprint(kind, time)))
        .collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 12, "no other one goes on with it");
    let known = |rows: &[(i64, i64, i64, bool)]| {
        let column =
            |of: fn(&(i64, i64, i64, bool)) -> i64| Arc::new(rows.iter().map(of).collect::<Int64Array>()) as ArrayRef;
        let matched: BooleanArray = rows.iter().map(|row| Some(row.3)).collect();
        RecordBatch::try_from_iter_with_nullable([
            ("k", column(|row| row.1), false),
            ("v", column(|row| row.2), false),
            (" time", column(|row| row.0), false),
            (" matched", Arc::new(matched) as ArrayRef, true),
        ])
        .unwrap()
    };
    let watermark = RecordBatch::try_from_iter([("watermark", Arc::new(Int64Array::from(vec![100])) as ArrayRef)]);
    let mut state = OperatorState::default();
    state.tables.insert("left".to_owned(), vec![known(&[(95, 1, 10, true), (96, 2, 20, false), (80, 3, 30, false)])]);
    state.tables.insert("right".to_owned(), vec![known(&[(99, 1, 11, false)])]);
    state.tables.insert("clock".to_owned(), vec![watermark.unwrap()]);
    for (kind, expected) in [("inner", &["1 12 1 11"][..]), ("left", &["1 12 1 11", "2 20"][..])] {
        let mut join = step(&config(kind, "later")).unwrap().make().unwrap();
        join.restore(std::slice::from_ref(&state), Share::WHOLE).unwrap();
        let mut kept = Kept::default();
        let row = Row { time: 101, key: 1, value: 12, watermark: i64::MIN };
        join.on_batch(0, batch(&[row]), &mut kept).unwrap();
        join.on_watermark(Timestamp(i64::MAX), &mut kept).unwrap();
        assert_eq!(lines(kept.batches.iter().map(|batch| &batch.rows)), expected, "{kind}");
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
