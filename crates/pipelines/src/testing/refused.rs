//! A sink that is refused rows when it commits, under a seed: each row is taken or becomes a dead letter, once, also
//! where it is refused in the last epoch there is, and wherever the process dies.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests; a failing seed is printed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::json;
use weir_base::clock::ManualClock;
use weir_base::{ErrorKind, Timestamp};
use weir_component::operator::{Aside, AsideNotes, AsideReason};
use weir_component::sink::{Delivery, Opening, PlannedSink, Receipt, Sink, SinkError};
use weir_connectors::checkpoints::CheckpointFolder;
use weir_engine::{BreakerOptions, End, Input, Job, JobError, JobOptions, Letter, Plan, PlanAside, PlanSink};
use weir_engine::{PlanSource, Steps, restore_savepoint, saved, savepoint};

use super::memory::{MemorySink, MemorySource, MemoryStore, MemoryStream, MemoryTable, StoreFault};
use super::schedule::{Rest, Seeded, settle};
use super::simulation::{INTERVAL, Row, batch, number};

/// Somebody who takes a request once, and not all rows of it.
#[derive(Debug, Default)]
struct Receiver(Mutex<Received>);

#[derive(Debug, Default)]
struct Received {
    staged: BTreeMap<(u64, u64), Vec<RecordBatch>>,
    taken: BTreeMap<u64, Vec<RecordBatch>>,
    /// What was refused by epoch, as long as it may have to be said again.
    refused: BTreeMap<u64, Vec<RecordBatch>>,
    /// So many calls fail, after they have done what they should or before.
    down: usize,
}

impl Received {
    fn is_up(&mut self) -> Result<(), SinkError> {
        if self.down == 0 {
            return Ok(());
        }
        self.down -= 1;
        Err(SinkError::new(ErrorKind::Transient, "the receiver did not answer"))
    }
}

const REFUSED: i64 = 3;

fn parts(rows: &RecordBatch) -> [RecordBatch; 2] {
    let values = rows.column(2).as_primitive::<Int64Type>();
    let is_bad = |value: &i64| value % REFUSED == 0;
    let part = |bad: bool| {
        let keep: BooleanArray = values.values().iter().map(|value| Some(is_bad(value) == bad)).collect();
        filter_record_batch(rows, &keep).unwrap()
    };
    [part(false), part(true)]
}

#[derive(Clone)]
struct RefusingSink(Arc<Receiver>);

struct Refusing {
    receiver: Arc<Receiver>,
    generation: u64,
    rows: Vec<RecordBatch>,
    /// Epochs of which it has to be said what was refused, and those of which it was said since the last prepare.
    to_say: Vec<u64>,
    said: Vec<u64>,
}

#[async_trait]
impl PlannedSink for RefusingSink {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn open(&self, _: SchemaRef, opening: Opening) -> Result<Box<dyn Sink>, SinkError> {
        let (generation, receiver) = (opening.generation, Arc::clone(&self.0));
        let mut sink = Refusing { receiver, generation, rows: Vec::new(), to_say: Vec::new(), said: Vec::new() };
        if let Some((epoch, receipt)) = &opening.last {
            sink.commit(*epoch, receipt).await?;
        }
        sink.to_say = self.0.0.lock().refused.keys().copied().collect();
        Ok(Box::new(sink))
    }

    fn describe(&self) -> String {
        "a receiver in memory".to_owned()
    }
}

#[async_trait]
impl Sink for Refusing {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        self.rows.push(rows.clone());
        Ok(())
    }

    async fn prepare(&mut self, epoch: u64) -> Result<Receipt, SinkError> {
        self.receiver.0.lock().is_up()?;
        let rows = std::mem::take(&mut self.rows);
        self.receiver.0.lock().staged.insert((self.generation, epoch), rows);
        Ok(Receipt(json!({ "generation": self.generation, "said": std::mem::take(&mut self.said) })))
    }

    async fn commit(&mut self, epoch: u64, receipt: &Receipt) -> Result<(), SinkError> {
        let mut received = self.receiver.0.lock();
        for said in receipt.0["said"].as_array().into_iter().flatten() {
            received.refused.remove(&said.as_u64().unwrap());
        }
        let generation = receipt.0["generation"].as_u64().unwrap();
        if let Some(rows) = received.staged.remove(&(generation, epoch)) {
            let both: Vec<[RecordBatch; 2]> = rows.iter().map(parts).collect();
            received.taken.insert(epoch, both.iter().map(|[good, _]| good.clone()).collect());
            let bad: Vec<RecordBatch> = both.into_iter().map(|[_, bad]| bad).filter(|bad| bad.num_rows() > 0).collect();
            if !bad.is_empty() {
                received.refused.insert(epoch, bad);
                self.to_say.push(epoch);
            }
        }
        received.is_up()
    }

    fn refused(&mut self) -> Vec<Aside> {
        let epochs = std::mem::take(&mut self.to_say);
        self.said.extend(&epochs);
        let received = self.receiver.0.lock();
        let rows = epochs.iter().flat_map(|epoch| &received.refused[epoch]).cloned();
        rows.map(|rows| {
            let notes = AsideNotes::Messages(vec!["no threes".to_owned(); rows.num_rows()]);
            Aside { reason: AsideReason::Refused, rows, times: None, notes }
        })
        .collect()
    }
}

struct World {
    seeded: Seeded,
    stream: Arc<MemoryStream>,
    receiver: Arc<Receiver>,
    passed: Arc<MemoryTable>,
    dead: Arc<MemoryTable>,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    plan: Plan,
}

impl World {
    fn new(seed: u64) -> Self {
        let stream = MemoryStream::new(batch(&[]).schema(), &["a"]);
        let (receiver, passed, dead): (Arc<Receiver>, Arc<MemoryTable>, Arc<MemoryTable>) = Default::default();
        let sink = |id: &str, sink: Arc<dyn PlannedSink>| PlanSink {
            id: id.to_owned(),
            sink,
            input: Input::Source(0),
            key: Vec::new(),
            breaker: BreakerOptions { budget: 1_000_000 * INTERVAL, ..BreakerOptions::default() },
        };
        let plan = Plan {
            pipeline: "sim".to_owned(),
            sources: vec![PlanSource {
                id: "from".to_owned(),
                source: Arc::new(MemorySource { stream: Arc::clone(&stream), time: None }),
                time: Some(0),
                disorder: Duration::ZERO,
                idle: None,
                align: None,
            }],
            steps: Vec::new(),
            sinks: vec![
                sink("passed", Arc::new(MemorySink(Arc::clone(&passed)))),
                sink("out", Arc::new(RefusingSink(Arc::clone(&receiver)))),
            ],
            late: None,
            dead: Some(PlanAside { id: "_dead".to_owned(), sink: Arc::new(MemorySink(Arc::clone(&dead))) }),
            parallelism: 1,
        };
        let clock = ManualClock::new(Timestamp(0));
        Self { seeded: Seeded::new(seed), stream, receiver, passed, dead, store: Arc::default(), clock, plan }
    }

    fn open(&self) -> Result<Option<Steps>, JobError> {
        let options = JobOptions { checkpoint_interval: Some(INTERVAL), lane_rows_max: 4, ..JobOptions::default() };
        let store: Arc<MemoryStore> = Arc::clone(&self.store);
        let job = Job::open(&self.plan, store, self.clock.clone(), options).now_or_never().unwrap()?;
        Ok(if job.is_finished() { None } else { Some(Steps::new(job)) })
    }

    /// Runs to the end of so many rows, with crashes and stops on the way.
    fn run(&mut self, rows: i64, mut crashes: usize, has_faults: bool) {
        let mut sent = 0;
        let mut steps = self.open().unwrap().unwrap();
        for round in 0.. {
            assert!(round < 100_000, "the job does not come to its end");
            let until = if crashes == 0 { usize::MAX } else { 1 + self.seeded.below(60) };
            if has_faults && self.seeded.below(3) == 0 {
                let fault = [None, Some(StoreFault::Fails), Some(StoreFault::AnswerLost)];
                self.store.fail((0..4).map(|_| fault[self.seeded.below(3)]).collect::<Vec<_>>());
            }
            let has_crashed = match settle(&mut steps, &mut self.seeded, until).unwrap() {
                Rest::Ended(End::Finished) => return,
                Rest::Ended(End::Stopped) => true,
                Rest::Enough => {
                    crashes -= 1;
                    true
                }
                Rest::Quiet(_) => {
                    let more = (1 + i64::try_from(self.seeded.below(9)).unwrap()).min(rows - sent);
                    for value in sent..sent + more {
                        let row = Row { partition: 0, time: value, key: 0, value };
                        self.stream.send("a", batch(&[row]));
                    }
                    sent += more;
                    if has_faults && sent < rows && self.seeded.below(6) == 0 {
                        self.receiver.0.lock().down = self.seeded.below(15);
                        self.passed.down(self.seeded.below(15));
                    }
                    if sent == rows {
                        self.stream.end();
                    } else if self.seeded.below(12) == 0 {
                        steps.control().stop();
                    }
                    self.clock.advance(INTERVAL);
                    false
                }
            };
            if has_crashed {
                steps = loop {
                    match self.open() {
                        Ok(Some(steps)) => break steps,
                        Ok(None) => return,
                        Err(error) => assert!(has_faults, "{error}"),
                    }
                };
            }
        }
    }

    fn letters(&self) -> Vec<RecordBatch> {
        self.dead.rows()
    }
}

/// The values in rows, in order.
fn values<'a>(rows: impl IntoIterator<Item = &'a RecordBatch>) -> Vec<i64> {
    let of = |rows: &RecordBatch| rows.column(2).as_primitive::<Int64Type>().values().to_vec();
    let mut values: Vec<i64> = rows.into_iter().flat_map(of).collect();
    values.sort_unstable();
    values
}

#[test]
fn each_row_is_taken_or_a_dead_letter_once_whatever_crashes() {
    let first = number("WEIR_SIM_FIRST_SEED", 0);
    for seed in first..first + number("WEIR_SIM_SEEDS", 300) {
        let mut world = World::new(seed);
        let count = i64::try_from(1 + world.seeded.below(40)).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.run(count, (seed % 6) as usize, seed % 2 == 1);
            assert_eq!(values(&world.passed.rows()), (0..count).collect::<Vec<_>>(), "beside it");
            let taken: Vec<RecordBatch> = world.receiver.0.lock().taken.values().flatten().cloned().collect();
            let good: Vec<i64> = (0..count).filter(|value| value % REFUSED != 0).collect();
            assert_eq!(values(&taken), good);
            let mut dead = Vec::new();
            for letters in world.letters() {
                let text = |name: &str| letters.column_by_name(name).unwrap().as_string::<i32>().clone();
                let (rows, steps, reasons) = (text("row"), text("step"), text("reason"));
                for at in 0..letters.num_rows() {
                    assert_eq!((steps.value(at), reasons.value(at)), ("to out", "refused"));
                    let row: serde_json::Value = serde_json::from_str(rows.value(at)).unwrap();
                    dead.push(row["v"].as_i64().unwrap());
                    let letter = Letter {
                        step: steps.value(at),
                        reason: AsideReason::Refused,
                        input: Some(0),
                        attempts: 1,
                        time: 0,
                        row: rows.value(at),
                    };
                    assert_eq!(world.plan.can_replay(&letter), Ok(()));
                }
            }
            dead.sort_unstable();
            assert_eq!(dead, (0..count).filter(|value| value % REFUSED == 0).collect::<Vec<_>>());
        }));
        if let Err(panic) = result {
            eprintln!("failing seed: WEIR_SIM_FIRST_SEED={seed} WEIR_SIM_SEEDS=1");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_source_says_how_far_behind_each_partition_is() {
    let mut world = World::new(0);
    world.stream.send("a", batch(&[Row { partition: 0, time: 0, key: 0, value: 0 }; 7]));
    world.stream.cut([2]);
    let job = {
        let options = JobOptions { checkpoint_interval: Some(INTERVAL), ..JobOptions::default() };
        let store: Arc<MemoryStore> = Arc::clone(&world.store);
        Job::open(&world.plan, store, world.clock.clone(), options).now_or_never().unwrap().unwrap()
    };
    let progress = Arc::clone(job.progress());
    let lags = || -> Vec<(String, Option<u64>)> {
        let said = progress.sources[0].1.source.view().partitions;
        said.into_iter().map(|partition| (partition.name, partition.lag_rows)).collect()
    };
    let mut steps = Steps::new(job);
    // It says so before it reads, and then only now and then.
    settle(&mut steps, &mut world.seeded, 1_000).unwrap();
    assert_eq!(lags(), [("a".to_owned(), Some(7))]);
    world.clock.advance(INTERVAL);
    settle(&mut steps, &mut world.seeded, 1_000).unwrap();
    assert_eq!(lags(), [("a".to_owned(), Some(0))]);
}

/// A savepoint on a disk that is full at any moment is none, and can be made again; the pipeline goes on.
#[test]
fn a_savepoint_on_a_full_disk_is_none_until_it_is_whole() {
    let mut world = World::new(3);
    world.run(20, 0, false);
    for at in 1.. {
        let disk = weir_testkit::sim_disk::SimDisk::new();
        let real: Arc<dyn weir_base::disk::Disk> = disk.clone();
        let to = CheckpointFolder::open(std::path::Path::new("/s"), real).unwrap();
        disk.fail_from(weir_testkit::sim_disk::Fault::Full, at);
        let made = savepoint(world.store.as_ref(), &to).now_or_never().unwrap();
        let has_met = !disk.faults_met().is_empty();
        disk.heal();
        let there = saved(&to).now_or_never().unwrap().unwrap();
        assert!(made.is_err() || there.is_some(), "at {at}: {made:?}");
        if there.is_none() {
            savepoint(world.store.as_ref(), &to).now_or_never().unwrap().unwrap();
        }
        let restored: Arc<MemoryStore> = Arc::default();
        let saved = restore_savepoint(&to, restored.as_ref()).now_or_never().unwrap().unwrap();
        assert_eq!((saved.finished, saved.positions.len()), (true, 1), "at {at}");
        if !has_met {
            assert!(at > 1, "it was full {at} times only");
            return;
        }
    }
}
