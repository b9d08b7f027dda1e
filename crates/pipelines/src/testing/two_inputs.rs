//! Two inputs under a seed: rows that go two ways, come together again, and are joined with those of another input,
//! with everything the simulation of one input does to them, and counted in windows. What is committed must be what
//! all pairs of rows give.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests; a failing seed is printed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampNanosecondType};
use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use weir_base::Timestamp;
use weir_base::clock::ManualClock;
use weir_engine::{End, Input, Job, JobOptions, Plan, PlanAside, PlanSink, PlanSource, PlanStep, Steps};
use weir_operators::{STEPS, StepContext};
use weir_sql::expressions::{Language, NoKinds};

use super::memory::{MemorySink, MemorySource, MemoryStore, MemoryStream, MemoryTable, StoreFault};
use super::schedule::{Rest, Seeded, settle};
use super::simulation::{INTERVAL, Row, batch, number};

const PARTITIONS: [&str; 2] = ["a", "b"];

/// How the inputs are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Near {
    before: i64,
    after: i64,
    kind: &'static str,
    /// Which time results have.
    time: &'static str,
}

/// The length of the windows of joined rows.
const SIZE: i64 = 16;

/// The steps for inputs that are joined so; compiling them takes longer than running them.
fn planned_steps(near: Near) -> Vec<PlanStep> {
    static KNOWN: Mutex<BTreeMap<Near, Vec<PlanStep>>> = Mutex::new(BTreeMap::new());
    KNOWN.lock().entry(near).or_insert_with(|| plan_steps(near)).clone()
}

/// Odd values take a branch of their own and come back, and then everything is joined.
fn plan_steps(near: Near) -> Vec<PlanStep> {
    let language = Language::new(Arc::new(NoKinds), weir_base::clock::SystemClock::new());
    let schema = batch(&[]).schema();
    let plan = |id: &str, name: &str, config: Json, inputs: Vec<Input>, others: Vec<SchemaRef>| {
        let input = if name == "window" { Arc::clone(&others[0]) } else { Arc::clone(&schema) };
        let context = StepContext { input, others, language: &language, when: None, identity: None };
        let spec = STEPS.iter().find(|spec| spec.name == name).unwrap();
        PlanStep { id: id.to_owned(), step: (spec.plan)(&config, &context).unwrap(), inputs }
    };
    let branch = |branch| Input::Step { step: 0, branch };
    let join = json!({
        "with": "right",
        "on": ["k"],
        "within": {"before": format!("{}ns", near.before), "after": format!("{}ns", near.after)},
        "kind": near.kind,
        "time": near.time,
    });
    let window = json!({
        "tumbling": format!("{SIZE}ns"), "by": {"key": "coalesce(k, right_k)"},
        "select": {"n": "count(*)", "total": "sum(right_v)"},
    });
    let other = || vec![Arc::clone(&schema)];
    let odd = Input::Step { step: 1, branch: 0 };
    let all = Input::Step { step: 2, branch: 0 };
    let join = plan("join", "join", join, vec![all, Input::Source(1)], other());
    let joined = join.step.outputs()[0].schema.clone();
    vec![
        plan("route", "route", json!({"odd": "v % 2 = 1"}), vec![Input::Source(0)], Vec::new()),
        plan("set", "set", json!({"v": "v + 1000"}), vec![branch(1)], Vec::new()),
        plan("union", "union", json!(["set"]), vec![branch(0), odd], other()),
        join,
        plan("windows", "window", window, vec![Input::Step { step: 3, branch: 0 }], vec![joined]),
    ]
}

struct World {
    seeded: Seeded,
    /// The rows of each input.
    rows: [Vec<Row>; 2],
    streams: [Arc<MemoryStream>; 2],
    results: Arc<MemoryTable>,
    windows: Arc<MemoryTable>,
    late: Arc<MemoryTable>,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    plan: Plan,
    disorder: i64,
    near: Near,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut seeded = Seeded::new(seed);
        let disorder = [0, 5, 40][seeded.below(3)];
        let spread = [0, 5, 20][seeded.below(3)];
        let (before, after) = [(0, 0), (5, 0), (0, 12), (30, 30)][seeded.below(4)];
        let kind = ["inner", "left", "right", "full"][seeded.below(4)];
        let near = Near { before, after, kind, time: ["later", "left", "right"][seeded.below(3)] };
        let draw = |seeded: &mut Seeded| -> Vec<Row> {
            let row = |at: usize, seeded: &mut Seeded| Row {
                partition: seeded.below(PARTITIONS.len()),
                time: i64::try_from(at).unwrap() * 2 - i64::try_from(seeded.below(spread + 1)).unwrap(),
                key: i64::try_from(seeded.below(4)).unwrap(),
                value: i64::try_from(seeded.below(100)).unwrap(),
            };
            (0..1 + seeded.below(60)).map(|at| row(at, seeded)).collect()
        };
        let rows = [draw(&mut seeded), draw(&mut seeded)];
        let streams = [0, 1].map(|_| MemoryStream::new(batch(&[]).schema(), &PARTITIONS));
        let [results, windows, late]: [Arc<MemoryTable>; 3] = Default::default();
        let align = [None, Some(Duration::from_nanos(10)), Some(Duration::ZERO)][seeded.below(3)];
        let source = |at: usize| PlanSource {
            id: format!("from_{at}"),
            source: Arc::new(MemorySource { stream: Arc::clone(&streams[at]), time: None }),
            time: Some(0),
            disorder: Duration::from_nanos(u64::try_from(disorder).unwrap()),
            idle: None,
            align,
        };
        let sink = |id: &str, table: &Arc<MemoryTable>, step: usize| PlanSink {
            id: id.to_owned(),
            sink: Arc::new(MemorySink(Arc::clone(table))),
            input: Input::Step { step, branch: 0 },
            key: Vec::new(),
            breaker: weir_engine::BreakerOptions::default(),
        };
        let plan = Plan {
            pipeline: "sim".to_owned(),
            sources: vec![source(0), source(1)],
            steps: planned_steps(near),
            sinks: vec![sink("results", &results, 3), sink("windows", &windows, 4)],
            late: Some(PlanAside { id: "late".to_owned(), sink: Arc::new(MemorySink(Arc::clone(&late))) }),
            dead: None,
            parallelism: 1 + seeded.below(3),
        };
        let clock = ManualClock::new(Timestamp(0));
        Self { seeded, rows, streams, results, windows, late, store: Arc::default(), clock, plan, disorder, near }
    }

    fn open(&self) -> Result<Option<Steps>, weir_engine::JobError> {
        let options = JobOptions { checkpoint_interval: Some(INTERVAL), ..JobOptions::default() };
        let store: Arc<MemoryStore> = Arc::clone(&self.store);
        let job = Job::open(&self.plan, store, self.clock.clone(), options);
        let job = job.now_or_never().expect("nothing here waits")?;
        Ok(if job.is_finished() { None } else { Some(Steps::new(job)) })
    }

    /// Runs to the end of both inputs, with crashes on the way.
    fn run(&mut self, mut crashes: usize, has_faults: bool) {
        let mut sent = [0, 0];
        let mut steps = self.open().unwrap().expect("it has not run yet");
        for round in 0.. {
            assert!(round < 100_000, "the job does not come to its end");
            let until = if crashes == 0 { usize::MAX } else { 1 + self.seeded.below(80) };
            if has_faults && self.seeded.below(3) == 0 {
                let fault = [None, Some(StoreFault::Fails), Some(StoreFault::AnswerLost)];
                self.store.fail((0..4).map(|_| fault[self.seeded.below(3)]).collect::<Vec<_>>());
            }
            match settle(&mut steps, &mut self.seeded, until).unwrap() {
                Rest::Ended(end) => return assert_eq!(end, End::Finished),
                Rest::Enough => {
                    crashes -= 1;
                    drop(steps);
                    self.plan.parallelism = 1 + self.seeded.below(3);
                    steps = loop {
                        match self.open() {
                            Ok(Some(steps)) => break steps,
                            Ok(None) => return,
                            Err(error) => assert!(has_faults, "{error}"),
                        }
                    };
                }
                Rest::Quiet(_) => {
                    // One input may be far ahead of the other, or have ended.
                    let at = self.seeded.below(2);
                    let rows = &self.rows[at][sent[at]..];
                    let more = (1 + self.seeded.below(20)).min(rows.len());
                    for row in &rows[..more] {
                        self.streams[at].send(PARTITIONS[row.partition], batch(std::slice::from_ref(row)));
                    }
                    sent[at] += more;
                    self.streams[at].cut((0..10).map(|_| self.seeded.below(7)).collect::<Vec<_>>());
                    if sent[at] == self.rows[at].len() {
                        self.streams[at].end();
                    }
                    self.clock.advance(INTERVAL);
                }
            }
        }
    }

    /// Results found by hand, and the times of late rows.
    fn by_hand(&self) -> (Vec<Joined>, Vec<i64>) {
        let mut late = Vec::new();
        let [left, right] = [0, 1].map(|side| {
            let mut newest = [i64::MIN; PARTITIONS.len()];
            let on_time = |row: &&Row| {
                let newest = &mut newest[row.partition];
                let watermark = if *newest == i64::MIN { i64::MIN } else { *newest - self.disorder };
                *newest = (*newest).max(row.time);
                if row.time < watermark {
                    late.push(row.time);
                }
                row.time >= watermark
            };
            self.rows[side].iter().filter(on_time).copied().collect::<Vec<Row>>()
        });
        let Near { before, after, kind, time } = self.near;
        let is_near = |row: &Row, other: &Row| {
            other.key == row.key && other.time >= row.time - before && other.time <= row.time + after
        };
        let value = |row: &Row| if row.value % 2 == 1 { row.value + 1000 } else { row.value };
        let own = |row: &Row, last: i64| if time == "later" { row.time + last } else { row.time };
        let mut results = Vec::new();
        for row in &left {
            let found: Vec<&Row> = right.iter().filter(|other| is_near(row, other)).collect();
            if found.is_empty() && matches!(kind, "left" | "full") {
                results.push((own(row, after), row.key, Some(value(row)), None));
            }
            for other in found {
                let at = match time {
                    "left" => row.time,
                    "right" => other.time,
                    _ => row.time.max(other.time),
                };
                results.push((at, row.key, Some(value(row)), Some(other.value)));
            }
        }
        if matches!(kind, "right" | "full") {
            let alone = right.iter().filter(|other| !left.iter().any(|row| is_near(row, other)));
            results.extend(alone.map(|other| (own(other, before), other.key, None, Some(other.value))));
        }
        late.sort_unstable();
        (results, late)
    }

    fn check(&self, seed: u64) {
        let (joined, late) = self.by_hand();
        let numbers = |rows: &RecordBatch, at: usize| -> Vec<Option<i64>> {
            rows.column(at).as_primitive::<Int64Type>().iter().collect()
        };
        let mut results = Vec::new();
        for rows in self.results.rows() {
            let [keys, values, other_keys, other_values] = [1, 2, 4, 5].map(|at| numbers(&rows, at));
            for row in 0..rows.num_rows() {
                results.push((keys[row].or(other_keys[row]).unwrap(), values[row], other_values[row]));
            }
        }
        results.sort_unstable();
        let mut expected: Vec<_> = joined.iter().map(|(_, key, value, other)| (*key, *value, *other)).collect();
        expected.sort_unstable();
        assert_eq!(results, expected, "seed {seed}: {:?}", self.near);
        let mut windows = BTreeMap::new();
        for (time, key, _, other) in joined {
            let (n, total) = windows.entry((time.div_euclid(SIZE) * SIZE, key)).or_insert((0, None));
            *n += 1;
            *total = other.map_or(*total, |other| Some(total.unwrap_or(0) + other));
        }
        let mut counted = BTreeMap::new();
        for rows in self.windows.rows() {
            let starts = rows.column(0).as_struct().column(0).as_primitive::<TimestampNanosecondType>();
            let [keys, counts, totals] = [1, 2, 3].map(|at| numbers(&rows, at));
            for row in 0..rows.num_rows() {
                let window = (starts.value(row), keys[row].unwrap());
                assert!(
                    counted.insert(window, (counts[row].unwrap(), totals[row])).is_none(),
                    "seed {seed}: {window:?}"
                );
            }
        }
        assert_eq!(counted, windows, "seed {seed}: {:?}", self.near);
        // Those of the join, and none of the windows behind it.
        let times = |rows: RecordBatch| rows.column(0).as_primitive::<TimestampNanosecondType>().values().to_vec();
        let mut times: Vec<i64> = self.late.rows().into_iter().flat_map(times).collect();
        times.sort_unstable();
        assert_eq!(times, late, "seed {seed}: late rows");
    }
}

/// The time of a result, its key, and its values on the left and on the right.
type Joined = (i64, i64, Option<i64>, Option<i64>);

#[test]
fn joins_are_the_same_whatever_crashes() {
    let first = number("WEIR_SIM_FIRST_SEED", 0);
    for seed in first..first + number("WEIR_SIM_SEEDS", 300) {
        let mut world = World::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.run((seed % 6) as usize, seed % 2 == 1);
            world.check(seed);
        }));
        if let Err(panic) = result {
            eprintln!("failing seed: WEIR_SIM_FIRST_SEED={seed} WEIR_SIM_SEEDS=1");
            std::panic::resume_unwind(panic);
        }
    }
}

/// One that is far ahead is not read until the other has come nearer, or has ended.
#[test]
fn a_source_that_is_ahead_waits_for_the_slowest() {
    let mut world = World::new(0);
    world.plan.sources.iter_mut().for_each(|source| {
        source.disorder = Duration::ZERO;
        source.align = Some(Duration::from_nanos(10));
    });
    let send = |at: usize, times: &[i64]| {
        for (time, partition) in times.iter().flat_map(|time| PARTITIONS.map(|partition| (*time, partition))) {
            let row = Row { partition: 0, time, key: 1, value: 2 };
            world.streams[at].send(partition, batch(&[row]));
        }
        world.streams[at].cut([1; 1000]);
    };
    let options = JobOptions { checkpoint_interval: Some(INTERVAL), ..JobOptions::default() };
    let store: Arc<MemoryStore> = Arc::clone(&world.store);
    let job = Job::open(&world.plan, store, world.clock.clone(), options).now_or_never().unwrap().unwrap();
    let progress = Arc::clone(job.progress());
    let mut steps = Steps::new(job);
    let mut seeded = Seeded::new(3);
    let mut read = |seeded: &mut Seeded| {
        assert!(matches!(settle(&mut steps, seeded, usize::MAX).unwrap(), Rest::Quiet(_)));
        let rows = |at: usize| progress.sources[at].1.rows_in.load(std::sync::atomic::Ordering::Relaxed);
        (rows(0), rows(1), progress.sources[0].1.source.view().waits_for)
    };
    send(1, &[0]);
    assert_eq!(read(&mut seeded), (0, 2, None));
    send(0, &(0..100).collect::<Vec<_>>());
    let (first, _, _) = read(&mut seeded);
    assert!((22..=26).contains(&first), "{first} rows are read");
    // It is said now and then.
    world.clock.advance(INTERVAL);
    assert_eq!(read(&mut seeded).2.as_deref(), Some("from_1"));
    send(1, &[50]);
    let (more, _, _) = read(&mut seeded);
    assert!((122..=126).contains(&more), "{more} rows are read");
    world.streams[1].end();
    assert_eq!(read(&mut seeded).0, 200, "who has ended holds up nobody");
}
