//! Inputs that are silent for longer than their `idle`, under a seed: time goes on without them, and they come back with rows that
//! are late by then or not, with everything the simulation of one input does to them.
//!
//! Which rows are late depends on how long who was silent, so it is taken from what was set aside: nothing twice, all that is late
//! in its own partition, and nothing else that could not be. All other rows are in the results, once.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests; a failing seed is printed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use weir_base::clock::ManualClock;
use weir_base::{Clock, Timestamp};
use weir_engine::{End, Input, Job, JobOptions, Plan, PlanAside, PlanSink, PlanSource, PlanStep, Steps};
use weir_operators::{STEPS, StepContext};
use weir_sql::expressions::{Language, NoKinds};

use super::memory::{MemorySink, MemorySource, MemoryStore, MemoryStream, MemoryTable, StoreFault};
use super::schedule::{Rest, Seeded, settle};
use super::simulation::{INTERVAL, Row, batch, number};

const PARTITIONS: [&str; 2] = ["a", "b"];
/// How long windows are.
const SIZE: i64 = 10;
/// How near rows are joined.
const NEAR: i64 = 6;

/// The steps, which take longer to compile than to run.
fn planned_steps() -> Vec<PlanStep> {
    static KNOWN: Mutex<Vec<PlanStep>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock();
    if known.is_empty() {
        *known = plan_steps();
    }
    known.clone()
}

/// A window over both inputs, one over the second alone, and a join.
fn plan_steps() -> Vec<PlanStep> {
    let language = Language::new(Arc::new(NoKinds), weir_base::clock::SystemClock::new());
    let schema = batch(&[]).schema();
    let plan = |id: &str, name: &str, config: Json, inputs: Vec<Input>| {
        let others = vec![Arc::clone(&schema); inputs.len() - 1];
        let context =
            StepContext { input: Arc::clone(&schema), others, language: &language, when: None, identity: None };
        let spec = STEPS.iter().find(|spec| spec.name == name).unwrap();
        PlanStep { id: id.to_owned(), step: (spec.plan)(&config, &context).unwrap(), inputs }
    };
    let span = |time: i64| format!("{time}ns");
    let window = json!({"tumbling": span(SIZE), "by": ["k"], "select": {"n": "count(*)", "total": "sum(v)"}});
    let within = json!({"before": span(NEAR), "after": span(NEAR)});
    let join = json!({"with": "right", "on": ["k"], "within": within, "kind": "left"});
    let [first, second] = [0, 1].map(Input::Source);
    vec![
        plan("union", "union", json!(["right"]), vec![first, second]),
        plan("counts", "window", window.clone(), vec![Input::Step { step: 0, branch: 0 }]),
        plan("alone", "window", window, vec![second]),
        plan("pairs", "join", join, vec![first, second]),
    ]
}

/// A row of an input, and whether its partition may have been idle before it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    input: usize,
    row: Row,
    may_follow: bool,
}

struct World {
    seeded: Seeded,
    /// The rows of each input that are still to be sent.
    rows: [Vec<Row>; 2],
    sent: Vec<Sent>,
    streams: [Arc<MemoryStream>; 2],
    tables: BTreeMap<&'static str, Arc<MemoryTable>>,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    plan: Plan,
    disorder: i64,
    /// When a row of each partition was sent last, and whether it has ever been silent for long enough.
    silent: [[(Duration, bool); 2]; 2],
    /// So many rounds an input is given nothing.
    pauses: [usize; 2],
    lane_rows_max: usize,
}

impl World {
    fn new(seed: u64, rows_max: usize) -> Self {
        let mut seeded = Seeded::new(seed);
        let disorder = [0, 5][seeded.below(2)];
        let spread = [0, 4, 12][seeded.below(3)];
        let mut draw = |input: usize| -> Vec<Row> {
            let row = |at: usize| Row {
                partition: seeded.below(PARTITIONS.len()),
                time: i64::try_from(at).unwrap() * 3 - i64::try_from(seeded.below(spread + 1)).unwrap(),
                key: i64::try_from(seeded.below(3)).unwrap(),
                // No other row has it.
                value: i64::try_from(input * 1000 + at).unwrap(),
            };
            (0..rows_max / 2 + 1).map(row).collect()
        };
        let rows = [draw(0), draw(1)];
        let streams = [0, 1].map(|_| MemoryStream::new(batch(&[]).schema(), &PARTITIONS));
        let tables: BTreeMap<&'static str, Arc<MemoryTable>> =
            ["counts", "alone", "pairs", "late"].into_iter().map(|id| (id, Arc::default())).collect();
        let idle = [[Some(2), Some(3)], [None, Some(2)], [Some(2), None]][seeded.below(3)];
        let source = |at: usize| PlanSource {
            id: format!("from_{at}"),
            source: Arc::new(MemorySource { stream: Arc::clone(&streams[at]), time: None }),
            time: Some(0),
            disorder: Duration::from_nanos(u64::try_from(disorder).unwrap()),
            idle: idle[at].map(|rounds| rounds * INTERVAL),
            align: None,
        };
        let sink = |(id, step): (&'static str, usize)| PlanSink {
            id: id.to_owned(),
            sink: Arc::new(MemorySink(Arc::clone(&tables[id]))),
            input: Input::Step { step, branch: 0 },
            key: Vec::new(),
            breaker: weir_engine::BreakerOptions::default(),
        };
        let plan = Plan {
            pipeline: "sim".to_owned(),
            sources: vec![source(0), source(1)],
            steps: planned_steps(),
            sinks: [("counts", 1), ("alone", 2), ("pairs", 3)].map(sink).into(),
            late: Some(PlanAside { id: "late".to_owned(), sink: Arc::new(MemorySink(Arc::clone(&tables["late"]))) }),
            dead: None,
            parallelism: 1 + seeded.below(3),
        };
        Self {
            lane_rows_max: [1, 3, 1000][seeded.below(3)],
            seeded,
            rows,
            sent: Vec::new(),
            streams,
            tables,
            store: Arc::default(),
            clock: ManualClock::new(Timestamp(0)),
            plan,
            disorder,
            silent: Default::default(),
            pauses: [0; 2],
        }
    }

    fn open(&self) -> Result<Option<Steps>, weir_engine::JobError> {
        let options = JobOptions {
            checkpoint_interval: Some(INTERVAL),
            lane_rows_max: self.lane_rows_max,
            ..JobOptions::default()
        };
        let store: Arc<MemoryStore> = Arc::clone(&self.store);
        let job = Job::open(&self.plan, store, self.clock.clone(), options);
        let job = job.now_or_never().expect("nothing here waits")?;
        Ok(if job.is_finished() { None } else { Some(Steps::new(job)) })
    }

    fn reopen(&mut self, has_faults: bool) -> Option<Steps> {
        self.plan.parallelism = 1 + self.seeded.below(3);
        loop {
            match self.open() {
                Ok(steps) => return steps,
                Err(error) => assert!(has_faults, "{error}"),
            }
        }
    }

    /// Sends some rows, or lets some time pass in silence.
    fn goes_on(&mut self) {
        self.clock.advance(INTERVAL);
        for input in 0..2 {
            if self.pauses[input] > 0 {
                self.pauses[input] -= 1;
                continue;
            }
            if self.seeded.below(4) == 0 {
                self.pauses[input] = 1 + self.seeded.below(6);
            }
            let more = (1 + self.seeded.below(4)).min(self.rows[input].len());
            for row in self.rows[input].drain(..more) {
                let now = self.clock.monotonic();
                let (last, may_follow) = &mut self.silent[input][row.partition];
                *may_follow |= self.plan.sources[input].idle.is_some_and(|idle| now - *last >= idle);
                *last = now;
                self.sent.push(Sent { input, row, may_follow: *may_follow });
                self.streams[input].send(PARTITIONS[row.partition], batch(&[row]));
            }
            self.streams[input].cut((0..6).map(|_| self.seeded.below(4)).collect::<Vec<_>>());
            if self.rows[input].is_empty() {
                self.streams[input].end();
            }
        }
    }

    /// Runs to the end of both inputs, with a crash after so many steps, and after so many more. Says whether it came to all.
    fn run(&mut self, mut crashes: Vec<usize>, has_faults: bool) -> bool {
        let mut steps = self.open().unwrap().expect("it has not run yet");
        for round in 0.. {
            assert!(round < 100_000, "the job does not come to its end");
            if has_faults && self.seeded.below(3) == 0 {
                let fault = [None, Some(StoreFault::Fails), Some(StoreFault::AnswerLost)];
                self.store.fail((0..4).map(|_| fault[self.seeded.below(3)]).collect::<Vec<_>>());
            }
            let until = if crashes.is_empty() { usize::MAX } else { 1 };
            match settle(&mut steps, &mut self.seeded, until).unwrap() {
                Rest::Ended(end) => {
                    assert_eq!(end, End::Finished);
                    return crashes.is_empty();
                }
                Rest::Quiet(_) => self.goes_on(),
                Rest::Enough => {
                    if let Some(left) = crashes.last_mut() {
                        *left -= 1;
                        if *left == 0 {
                            crashes.pop();
                            drop(steps);
                            match self.reopen(has_faults) {
                                Some(again) => steps = again,
                                None => return crashes.is_empty(),
                            }
                        }
                    }
                }
            }
        }
        false
    }

    /// The values of rows that were set aside as late by a step.
    fn late(&self, step: &str) -> BTreeSet<i64> {
        let mut values = BTreeSet::new();
        for rows in self.tables["late"].rows() {
            let (steps, texts) = (rows.column(1).as_string::<i32>(), rows.column(5).as_string::<i32>());
            for row in (0..rows.num_rows()).filter(|row| steps.value(*row) == step) {
                let value = serde_json::from_str::<Json>(texts.value(row)).unwrap()["v"].as_i64().unwrap();
                assert!(values.insert(value), "{step}: {value} is late twice");
            }
        }
        values
    }

    /// Checks that the rows of a step that are late are those that must be, and none that cannot be. Time comes to a row when
    /// it comes to `end` of its time. Says how many are late because others went on.
    fn check_late(&self, step: &str, end: fn(i64) -> i64, late: &BTreeSet<i64>) -> usize {
        let furthest = self.sent.iter().map(|sent| sent.row.time).max().unwrap_or(i64::MIN);
        let (mut newest, mut followed) = (BTreeMap::new(), 0);
        for Sent { input, row, may_follow } in self.sent.iter().filter(|sent| step != "alone" || sent.input == 1) {
            let newest = newest.entry((*input, row.partition)).or_insert(i64::MIN);
            let is_over = |newest: i64| newest > i64::MIN && end(row.time) <= newest - self.disorder;
            let is_late = late.contains(&row.value);
            if is_over(*newest) {
                assert!(is_late, "{step}: {row:?} is late in its own partition");
            } else if is_late {
                assert!(*may_follow && is_over(furthest), "{step}: {row:?} of {input} cannot be late");
                followed += 1;
            }
            *newest = row.time.max(*newest);
        }
        followed
    }

    /// Start of the window, key, number and sum of the rows that are not late.
    fn windows(&self, late: &BTreeSet<i64>, of: fn(&&Sent) -> bool) -> Vec<[i64; 4]> {
        let mut windows = BTreeMap::new();
        for Sent { row, .. } in self.sent.iter().filter(of).filter(|sent| !late.contains(&sent.row.value)) {
            let (n, total) = windows.entry((row.time.div_euclid(SIZE) * SIZE, row.key)).or_insert((0, 0));
            (*n, *total) = (*n + 1, *total + row.value);
        }
        windows.into_iter().map(|((start, key), (n, total))| [start, key, n, total]).collect()
    }

    fn committed_windows(&self, id: &str) -> Vec<[i64; 4]> {
        let mut results = Vec::new();
        for rows in self.tables[id].rows() {
            let starts = rows.column(0).as_struct().column(0).as_primitive::<TimestampNanosecondType>();
            let number = |at: usize, row| rows.column(at).as_primitive::<Int64Type>().value(row);
            results.extend(
                (0..rows.num_rows()).map(|row| [starts.value(row), number(1, row), number(2, row), number(3, row)]),
            );
        }
        results.sort_unstable();
        results
    }

    fn pairs(&self, late: &BTreeSet<i64>) -> Vec<(i64, Option<i64>)> {
        let on_time = |input: usize| {
            let of = move |sent: &&Sent| sent.input == input;
            self.sent
                .iter()
                .filter(of)
                .map(|sent| sent.row)
                .filter(|row| !late.contains(&row.value))
                .collect::<Vec<_>>()
        };
        let (left, right) = (on_time(0), on_time(1));
        let mut pairs = Vec::new();
        for row in left {
            let near =
                right.iter().filter(|other| other.key == row.key && row.time.abs_diff(other.time) <= NEAR as u64);
            let found: Vec<_> = near.map(|other| (row.value, Some(other.value))).collect();
            if found.is_empty() {
                pairs.push((row.value, None));
            }
            pairs.extend(found);
        }
        pairs.sort_unstable();
        pairs
    }

    fn committed_pairs(&self) -> Vec<(i64, Option<i64>)> {
        let mut results = Vec::new();
        for rows in self.tables["pairs"].rows() {
            let number = |at: usize| rows.column(at).as_primitive::<Int64Type>();
            let right = |row: usize| number(5).is_valid(row).then(|| number(5).value(row));
            results.extend((0..rows.num_rows()).map(|row| (number(2).value(row), right(row))));
        }
        results.sort_unstable();
        results
    }

    /// How many rows were late because others went on.
    fn check(&self, seed: u64) -> usize {
        let [counts, alone, pairs] = ["counts", "alone", "pairs"].map(|step| self.late(step));
        let end = |time: i64| (time.div_euclid(SIZE) + 1) * SIZE;
        let followed = self.check_late("counts", end, &counts);
        self.check_late("alone", end, &alone);
        self.check_late("pairs", |time| time + 1, &pairs);
        let of_second: BTreeSet<i64> = counts.iter().copied().filter(|value| *value >= 1000).collect();
        assert_eq!(alone, of_second, "seed {seed}: what is over is over for all steps");
        assert_eq!(self.committed_windows("counts"), self.windows(&counts, |_| true), "seed {seed}");
        assert_eq!(self.committed_windows("alone"), self.windows(&alone, |sent| sent.input == 1), "seed {seed}");
        assert_eq!(self.committed_pairs(), self.pairs(&pairs), "seed {seed}");
        followed
    }
}

#[test]
fn rows_of_who_was_silent_are_in_the_results_or_late_whatever_crashes() {
    let (first, seeds) = (number("WEIR_SIM_FIRST_SEED", 0), number("WEIR_SIM_SEEDS", 300));
    let mut followed = 0;
    for seed in first..first + seeds {
        let mut world = World::new(seed, 60);
        let crashes = (0..seed % 6).map(|_| 1 + world.seeded.below(150)).collect();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.run(crashes, seed % 2 == 1);
            world.check(seed)
        }));
        match result {
            Ok(rows) => followed += rows,
            Err(panic) => {
                eprintln!("failing seed: WEIR_SIM_FIRST_SEED={seed} WEIR_SIM_SEEDS=1");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(seeds < 300 || followed > 300, "hardly a row was late for its silence: {followed}");
}

#[test]
fn a_crash_at_any_step_of_silence_loses_and_repeats_nothing() {
    for seed in 0..number("WEIR_SIM_STEP_SEEDS", 3) {
        for at in 1.. {
            let mut world = World::new(seed, 12);
            let has_crashed = world.run(vec![at], false);
            world.check(seed);
            if !has_crashed {
                assert!(at > 50, "seed {seed}: it took {at} steps only");
                break;
            }
        }
    }
}
