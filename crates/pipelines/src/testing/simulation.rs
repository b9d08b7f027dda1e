//! Whole pipelines under a seed: rows in several partitions, cut at random, tasks in a random order, a
//! store of checkpoints that fails, and crashes at any step. What is committed must be what it
//! would have been without any of it.
//!
//! `WEIR_SIM_SEEDS` says how many seeds, `WEIR_SIM_FIRST_SEED` the first; a failing seed is printed.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests; a failing seed is printed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::json;
use weir_base::Timestamp;
use weir_base::clock::ManualClock;
use weir_component::checkpoint::CheckpointStore;
use weir_engine::{End, Input, Job, JobError, JobOptions, Plan, PlanAside, PlanSink, PlanSource, PlanStep, Steps};
use weir_operators::{STEPS, StepContext};
use weir_sql::expressions::{Language, NoKinds};

use super::memory::{MemorySink, MemorySource, MemoryStore, MemoryStream, MemoryTable, StoreFault};
use super::schedule::{Rest, Seeded, settle};
use super::transactions::{CommitFault, TransactionLog, TransactionSink};

mod deciding;
mod interrupted;
mod keeping;
mod owed;
mod pacing;
mod revised;
mod settling;

pub(super) const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) partition: usize,
    pub(super) time: i64,
    pub(super) key: i64,
    pub(super) value: i64,
}

pub(super) fn batch(rows: &[Row]) -> RecordBatch {
    let numbers = |value: fn(&Row) -> i64| Arc::new(rows.iter().map(value).collect::<Int64Array>()) as ArrayRef;
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values(rows.iter().map(|row| row.time)));
    RecordBatch::try_from_iter([("time", times), ("k", numbers(|row| row.key)), ("v", numbers(|row| row.value))])
        .unwrap()
}

/// What the last step does with rows that came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Last {
    Hopping { size: i64, every: i64 },
    Session { gap: i64 },
    Count { rows: i64, within: i64 },
    Dedupe { within: i64 },
}

impl Last {
    fn step(self) -> (&'static str, serde_json::Value) {
        let span = |time: i64| format!("{time}ns");
        let (kind, what) = match self {
            Self::Hopping { size, every } => ("hopping", json!({"size": span(size), "every": span(every)})),
            Self::Session { gap } => ("session", json!({"gap": span(gap)})),
            Self::Count { rows, within } => ("count", json!({"rows": rows, "within": span(within)})),
            Self::Dedupe { within } => return ("dedupe", json!({"by": ["k"], "within": span(within)})),
        };
        ("window", json!({kind: what, "by": ["k"], "select": {"n": "count(*)", "total": "sum(v)"}}))
    }
}

/// One simulated world: input, a plan over it, and what became of it.
struct World {
    seeded: Seeded,
    rows: Vec<Row>,
    stream: Arc<MemoryStream>,
    results: Arc<MemoryTable>,
    /// Where results go instead, if a sink decides.
    log: Option<Arc<TransactionLog>>,
    passed: Arc<MemoryTable>,
    late: Arc<MemoryTable>,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    plan: Plan,
    disorder: i64,
    last: Last,
    lane_rows_max: usize,
    checkpoint_interval: Option<Duration>,
    /// Bytes that are kept of what a sink was given.
    kept_bytes_max: usize,
    /// The second sink fails now and then, for a time.
    sinks_fail: bool,
}

/// The steps of a plan with such a last step.
fn planned_steps(last: Last) -> Vec<PlanStep> {
    static KNOWN: Mutex<BTreeMap<Last, Vec<PlanStep>>> = Mutex::new(BTreeMap::new());
    let make = || {
        let language = Language::new(Arc::new(NoKinds), weir_base::clock::SystemClock::new());
        let steps = [("filter", json!("v % 10 <> 3")), ("set", json!({"v": "v * 2"})), last.step()];
        let mut input = batch(&[]).schema();
        let plan = |(at, (name, config)): (usize, (&str, serde_json::Value))| {
            let context = StepContext {
                input: Arc::clone(&input),
                others: Vec::new(),
                language: &language,
                when: None,
                identity: None,
            };
            let spec = STEPS.iter().find(|spec| spec.name == name).unwrap();
            let step = (spec.plan)(&config, &context).unwrap();
            input = Arc::clone(&step.outputs()[0].schema);
            let read = if at == 0 { Input::Source(0) } else { Input::Step { step: at - 1, branch: 0 } };
            PlanStep { id: name.to_owned(), step, inputs: vec![read] }
        };
        steps.into_iter().enumerate().map(plan).collect()
    };
    KNOWN.lock().entry(last).or_insert_with(make).clone()
}

const PARTITIONS: [&str; 3] = ["a", "b", "c"];

impl World {
    fn new(seed: u64) -> Self {
        let mut seeded = Seeded::new(seed);
        let disorder = [0, 5, 40][seeded.below(3)];
        // Rows are out of order by up to this; where it is more than the disorder, some are late.
        let spread = [0, 5, 20][seeded.below(3)];
        let count = 1 + seeded.below(120);
        let rows: Vec<Row> = (0..count)
            .map(|at| Row {
                partition: seeded.below(PARTITIONS.len()),
                time: i64::try_from(at).unwrap() * 2 - i64::try_from(seeded.below(spread + 1)).unwrap(),
                key: i64::try_from(seeded.below(4)).unwrap(),
                value: i64::try_from(seeded.below(100)).unwrap(),
            })
            .collect();
        // Few, because compiling the steps of each takes longer than running them.
        let hopping = [(1, 1), (7, 7), (30, 30), (10, 5), (12, 8), (29, 3), (5, 20)][seeded.below(7)];
        let last = match seeded.below(8) {
            0 | 1 => Last::Session { gap: [1, 5, 23][seeded.below(3)] },
            2 => Last::Count { rows: 3, within: [4, 50][seeded.below(2)] },
            3 | 4 => Last::Dedupe { within: [3, 30][seeded.below(2)] },
            _ => Last::Hopping { size: hopping.0, every: hopping.1 },
        };
        let lane_rows_max = [1, 3, 1000][seeded.below(3)];
        let stream = MemoryStream::new(batch(&[]).schema(), &PARTITIONS);
        let tables: [Arc<MemoryTable>; 3] = Default::default();
        let [results, passed, late] = tables.clone();
        let after = |step| Input::Step { step, branch: 0 };
        let steps = planned_steps(last);
        let sink = |id: &str, table: &Arc<MemoryTable>, input| PlanSink {
            id: id.to_owned(),
            sink: Arc::new(MemorySink(Arc::clone(table))),
            input,
            key: Vec::new(),
            breaker: weir_engine::BreakerOptions::default(),
        };
        let plan = Plan {
            pipeline: "sim".to_owned(),
            sources: vec![PlanSource {
                id: "from".to_owned(),
                source: Arc::new(MemorySource { stream: Arc::clone(&stream), time: None }),
                time: Some(0),
                disorder: Duration::from_nanos(u64::try_from(disorder).unwrap()),
                idle: None,
                align: None,
            }],
            steps,
            sinks: vec![sink("results", &results, after(2)), sink("passed", &passed, after(1))],
            late: Some(PlanAside { id: "late".to_owned(), sink: Arc::new(MemorySink(Arc::clone(&late))) }),
            dead: None,
            parallelism: 1 + seeded.below(3),
        };
        Self {
            rows,
            stream,
            results,
            log: None,
            passed,
            late,
            store: Arc::default(),
            clock: ManualClock::new(Timestamp(0)),
            plan,
            disorder,
            last,
            lane_rows_max,
            checkpoint_interval: [Some(INTERVAL), None][seeded.below(2)],
            kept_bytes_max: [100, 2000, 1 << 20][seeded.below(3)],
            sinks_fail: false,
            seeded,
        }
    }

    /// One whose results go to a log with transactions, whose commits decide.
    fn with_decider(seed: u64) -> Self {
        let mut world = Self::new(seed);
        let log: Arc<TransactionLog> = Arc::default();
        world.plan.sinks[0].sink = Arc::new(TransactionSink(Arc::clone(&log)));
        world.log = Some(log);
        world
    }

    fn options(&self) -> JobOptions {
        JobOptions {
            checkpoint_interval: self.checkpoint_interval,
            lane_rows_max: self.lane_rows_max,
            kept_bytes_max: self.kept_bytes_max,
            ..JobOptions::default()
        }
    }

    fn open(&self) -> Result<Option<Steps>, JobError> {
        self.open_with(self.options())
    }

    fn open_with(&self, options: JobOptions) -> Result<Option<Steps>, JobError> {
        let store: Arc<MemoryStore> = Arc::clone(&self.store);
        let job = Job::open(&self.plan, store, self.clock.clone(), options);
        let job = job.now_or_never().expect("nothing here waits")?;
        Ok(if job.is_finished() { None } else { Some(Steps::new(job)) })
    }

    /// What can go wrong outside goes wrong.
    fn draw_faults(&mut self) {
        let fault = [None, Some(StoreFault::Fails), Some(StoreFault::AnswerLost)];
        let faults: Vec<_> = (0..4).map(|_| fault[self.seeded.below(3)]).collect();
        self.store.fail(faults);
        let Some(log) = self.log.clone() else { return };
        if self.seeded.below(4) == 0 {
            log.time_out();
        }
        let fault = [
            None,
            Some(CommitFault::Lost),
            Some(CommitFault::AnswerLost),
            Some(CommitFault::Again),
            Some(CommitFault::TimedOut),
        ];
        let faults: Vec<_> = (0..3).map(|_| fault[self.seeded.below(5)]).collect();
        log.fail(faults);
    }

    /// Opens it again after a crash, or after an outcome that is not known. `None`: it had come to its end.
    fn reopen(&mut self, has_faults: bool) -> Option<Steps> {
        self.plan.parallelism = 1 + self.seeded.below(3);
        loop {
            // A store that fails while the job is opened is asked again, as an operator would.
            match self.open() {
                Ok(steps) => return steps,
                Err(error) => assert!(has_faults, "{error}"),
            }
        }
    }

    /// Runs to the end of the input, with `crashes` on the way.
    fn run(&mut self, crashes: usize, has_faults: bool) {
        let mut sent = 0;
        let mut crashes_left = crashes;
        let mut steps = self.open().unwrap().expect("it has not run yet");
        for round in 0.. {
            assert!(round < 100_000, "the job does not come to its end");
            // The plan may be split differently after a restart; results do not depend on it.
            let until = match crashes_left {
                0 => usize::MAX,
                _ => 1 + self.seeded.below(60),
            };
            if has_faults && self.seeded.below(3) == 0 {
                self.draw_faults();
            }
            match settle(&mut steps, &mut self.seeded, until) {
                Ok(Rest::Ended(end)) => {
                    assert_eq!(end, End::Finished);
                    return;
                }
                Ok(Rest::Enough) => {
                    crashes_left -= 1;
                    drop(steps);
                    match self.reopen(has_faults) {
                        Some(again) => steps = again,
                        // The crash came after the last decision.
                        None => return,
                    }
                }
                Ok(Rest::Quiet(_)) => {
                    if sent < self.rows.len() {
                        if self.sinks_fail && has_faults && self.seeded.below(3) == 0 {
                            self.passed.down(self.seeded.below(40));
                            self.passed.slow([0, 0, 1, 30][self.seeded.below(4)]);
                        }
                        let more = 1 + self.seeded.below(20);
                        for row in &self.rows[sent..(sent + more).min(self.rows.len())] {
                            self.stream.send(PARTITIONS[row.partition], batch(std::slice::from_ref(row)));
                        }
                        sent = (sent + more).min(self.rows.len());
                        let sizes: Vec<usize> = (0..10).map(|_| self.seeded.below(7)).collect();
                        self.stream.cut(sizes);
                    } else {
                        self.stream.end();
                    }
                    self.clock.advance(INTERVAL);
                }
                Err(JobError::Undecided { .. }) if has_faults => {
                    drop(steps);
                    match self.reopen(has_faults) {
                        Some(again) => steps = again,
                        None => return,
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Results, as others see them.
    fn results(&self) -> Vec<RecordBatch> {
        self.log.as_ref().map_or_else(|| self.results.rows(), |log| log.rows())
    }

    /// Results reckoned by hand: first and last time, key, number and sum of rows. And the times of late rows.
    fn by_hand(&self) -> (Vec<[i64; 5]>, Vec<i64>) {
        let mut newest = [i64::MIN; PARTITIONS.len()];
        let (mut windows, mut late) = (BTreeMap::new(), Vec::new());
        // The rows of each key that were on time.
        let mut taken: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
        for row in &self.rows {
            let newest = &mut newest[row.partition];
            let watermark = if *newest == i64::MIN { i64::MIN } else { *newest - self.disorder };
            *newest = (*newest).max(row.time);
            if row.value % 10 == 3 {
                continue;
            }
            let row = Row { value: row.value * 2, ..*row };
            let Last::Hopping { size, every } = self.last else {
                if row.time >= watermark {
                    taken.entry(row.key).or_default().push(row);
                } else {
                    late.push(row.time);
                }
                continue;
            };
            // A row counts where its own partition has not passed the end.
            let (mut counts, mut is_in_one) = (false, false);
            let mut start = row.time.div_euclid(every) * every;
            while start > row.time - size {
                is_in_one = true;
                if start + size > watermark {
                    counts = true;
                    let entry = windows.entry((start, start + size, row.key)).or_insert((0, 0));
                    *entry = (entry.0 + 1, entry.1 + row.value);
                }
                start -= every;
            }
            if is_in_one && !counts {
                late.push(row.time);
            }
        }
        let mut results: Vec<[i64; 5]> =
            windows.into_iter().map(|((start, end, key), (n, total))| [start, end, key, n, total]).collect();
        for (key, mut rows) in taken {
            rows.sort_by_key(|row| (row.time, row.value));
            let (mut open, mut last): (Option<usize>, i64) = (None, i64::MIN);
            for row in rows {
                let known = open.map(|at| results[at]);
                let goes_on = known.is_some_and(|[start, _, _, n, _]| match self.last {
                    Last::Session { gap } => row.time - last < gap,
                    Last::Count { rows, within } => n < rows && row.time - start < within,
                    Last::Dedupe { within } => row.time - start < within,
                    Last::Hopping { .. } => false,
                });
                last = row.time;
                let at = match open.filter(|_| goes_on) {
                    Some(at) => at,
                    None => {
                        results.push([row.time, row.time, key, 0, 0]);
                        results.len() - 1
                    }
                };
                open = Some(at);
                let [_, end, _, n, total] = &mut results[at];
                match self.last {
                    Last::Dedupe { .. } if *n > 0 => continue,
                    Last::Session { gap } => *end = row.time + gap,
                    _ => *end = row.time,
                }
                (*n, *total) = (*n + 1, *total + row.value);
            }
        }
        results.sort_unstable();
        late.sort_unstable();
        (results, late)
    }

    /// The same as they were committed.
    fn committed(&self) -> Vec<[i64; 5]> {
        let mut results = Vec::new();
        for rows in self.results() {
            let numbers = |at: usize| rows.column(at).as_primitive::<Int64Type>();
            if let Last::Dedupe { .. } = self.last {
                let times = rows.column(0).as_primitive::<TimestampNanosecondType>();
                for row in 0..rows.num_rows() {
                    let time = times.value(row);
                    results.push([time, time, numbers(1).value(row), 1, numbers(2).value(row)]);
                }
                continue;
            }
            let window = rows.column(0).as_struct();
            let bound = |at: usize, row| window.column(at).as_primitive::<TimestampNanosecondType>().value(row);
            for row in 0..rows.num_rows() {
                let [key, n, total] = [1, 2, 3].map(|at| numbers(at).value(row));
                results.push([bound(0, row), bound(1, row), key, n, total]);
            }
        }
        results.sort_unstable();
        results
    }

    fn check(&self, seed: u64) {
        let (results, late) = self.by_hand();
        assert_eq!(self.committed(), results, "seed {seed}: {:?}", self.last);
        let passed: usize = self.passed.rows().iter().map(RecordBatch::num_rows).sum();
        assert_eq!(passed, self.rows.iter().filter(|row| row.value % 10 != 3).count(), "seed {seed}");
        let mut times = Vec::new();
        for rows in self.late.rows() {
            times.extend(rows.column(0).as_primitive::<TimestampNanosecondType>().values().to_vec());
        }
        times.sort_unstable();
        assert_eq!(times, late, "seed {seed}: late rows");
        let names = self.store.names();
        // A start that has not decided anything yet removes nothing, where a sink decides.
        let is_clean = names.iter().filter(|name| name.starts_with("epoch")).count() <= 1;
        assert!(is_clean || self.log.is_some(), "seed {seed}: {names:?}");
    }
}

pub(super) fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn committed_output_is_the_same_whatever_crashes() {
    whatever_crashes(World::new);
}

/// The same where a sink's own commit decides: with answers that are lost, producers that are fenced, and a
/// broker that gives up on transactions.
#[test]
fn what_a_transaction_decides_is_the_same_whatever_crashes() {
    whatever_crashes(World::with_decider);
}

fn whatever_crashes(make: fn(u64) -> World) {
    let first = number("WEIR_SIM_FIRST_SEED", 0);
    for seed in first..first + number("WEIR_SIM_SEEDS", 500) {
        let mut world = make(seed);
        let (crashes, has_faults) = ((seed % 6) as usize, seed % 2 == 1);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.run(crashes, has_faults);
            world.check(seed);
            assert!(!world.log.as_ref().is_some_and(|log| log.is_open()), "seed {seed}: a transaction is left open");
        }));
        if let Err(panic) = result {
            eprintln!("failing seed: WEIR_SIM_FIRST_SEED={seed} WEIR_SIM_SEEDS=1");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A process that was taken for dead goes on beside the one that has taken over: it must decide nothing, at
/// whatever moment it was overtaken.
#[test]
fn a_process_that_was_overtaken_decides_nothing() {
    for seed in 0..number("WEIR_SIM_SEEDS", 200).min(2000) {
        let mut world = World::new(seed);
        let rows = world.rows.clone();
        let half = rows.len() / 2;
        let send = |rows: &[Row]| {
            for row in rows {
                world.stream.send(PARTITIONS[row.partition], batch(std::slice::from_ref(row)));
            }
        };
        send(&rows[..half]);
        let mut old = world.open().unwrap().expect("it has not run yet");
        world.clock.advance(INTERVAL);
        let turns = 1 + world.seeded.below(150);
        settle(&mut old, &mut world.seeded, turns).unwrap();
        let mut new = world.open().unwrap().expect("the input has not ended");
        send(&rows[half..]);
        let mut refused = None;
        let mut finished = false;
        for round in 0..400 {
            // Either of them may be the quicker one.
            if round == 20 {
                world.stream.end();
            }
            world.clock.advance(INTERVAL);
            if refused.is_none() {
                let turns = 1 + world.seeded.below(40);
                refused = settle(&mut old, &mut world.seeded, turns).err();
                assert_eq!(old.end(), None, "seed {seed}: the old process came to an end");
            }
            // It goes on from what the old one, late with its cleaning, has left.
            if world.seeded.below(4) == 0 {
                match world.open().unwrap() {
                    Some(again) => new = again,
                    // It has decided its last checkpoint, and was stopped before it could say so.
                    None => {
                        finished = true;
                        break;
                    }
                }
            }
            let turns = 1 + world.seeded.below(250);
            if let Rest::Ended(_) = settle(&mut new, &mut world.seeded, turns).unwrap() {
                finished = new.end() == Some(End::Finished);
                break;
            }
        }
        while refused.is_none() {
            world.clock.advance(INTERVAL);
            refused = settle(&mut old, &mut world.seeded, 1_000).err();
            assert_eq!(old.end(), None, "seed {seed}: the old process came to an end");
        }
        assert!(finished, "seed {seed}: the new process came to no end");
        assert!(matches!(refused, Some(JobError::Fenced { .. })), "seed {seed}: {refused:?}");
        world.check(seed);
    }
}

/// A process that was overtaken may still clean up: what the later one has written is not its to remove.
#[test]
fn cleaning_removes_nothing_of_a_later_start() {
    let mut world = World::new(3);
    let later = "state-0000000099-000000000001-of_another-window-0";
    world.store.create(later, b"state").now_or_never().expect("nothing here waits").unwrap();
    world.run(0, false);
    let names = world.store.names();
    assert!(names.iter().any(|name| name == later), "{names:?}");
    let newest = names.iter().find_map(|name| name.strip_prefix("epoch-")).expect("a checkpoint");
    let own = names.iter().filter(|name| name.starts_with("state-") && *name != later);
    assert!(own.clone().count() > 0 && own.clone().all(|name| name.contains(newest)), "its own are cleaned: {names:?}");
}

/// A plan the checkpoint is not one of is refused without disturbing the process that runs the pipeline.
#[test]
fn a_refused_start_takes_nothing_over() {
    let mut world = World::new(3);
    for row in &world.rows.clone() {
        world.stream.send(PARTITIONS[row.partition], batch(std::slice::from_ref(row)));
    }
    let mut running = world.open().unwrap().expect("it has not run yet");
    let fits = |world: &World| world.plan.resumes(world.store.as_ref()).now_or_never().expect("nothing here waits");
    assert!(matches!(fits(&world), Ok(None)), "it has done nothing yet");
    while !matches!(fits(&world), Ok(Some(_))) {
        world.clock.advance(INTERVAL);
        settle(&mut running, &mut world.seeded, 50).unwrap();
    }
    let name = std::mem::replace(&mut world.plan.pipeline, "other".to_owned());
    assert!(matches!(fits(&world), Err(JobError::Changed { .. })));
    assert!(matches!(world.open(), Err(JobError::Changed { .. })));
    world.plan.pipeline = name;
    world.stream.end();
    while !matches!(settle(&mut running, &mut world.seeded, 1000).unwrap(), Rest::Ended(End::Finished)) {
        world.clock.advance(INTERVAL);
    }
    world.check(3);
}
