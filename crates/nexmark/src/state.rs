//! What state costs: how long a pipeline stands still for a checkpoint, and how long it takes to go on after a restart.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weir_base::Clock;
use weir_base::clock::SystemClock;
use weir_engine::{Job, NodeStats, Progress};
use weir_testkit::report::figures::{Figures, Target};

use crate::memory::{Kept, Laps, TableEnds};
use crate::run::{self, Prepared};
use crate::tables::{BATCH_ROWS, TIME, Table};

/// A window that stays open, so that every key there ever was is part of the state.
const DOCUMENT: &str = include_str!("../../../tests/nexmark/state.yaml");
const KEYS: usize = 1_000_000;
/// Rows of a round over the keys.
const ROWS: usize = 4 * KEYS;
const CHECKPOINTS: usize = 100;
/// Rows with a key each that come to 1 GB of state.
const LARGE_KEYS: usize = 16_000_000;
const LARGE_BYTES: f64 = 1e9;
/// How often counters are looked at.
const LOOK: Duration = Duration::from_micros(200);

/// Rows of one hour with these keys.
fn table(keys: impl Iterator<Item = ArrayRef>) -> Result<Table> {
    let mut batches = Vec::new();
    for key in keys {
        let rows = key.len();
        let price: ArrayRef = Arc::new(Int64Array::from_iter_values((0_i64..).take(rows)));
        // All at once: time does not matter here.
        let time: ArrayRef =
            Arc::new(TimestampNanosecondArray::from(vec![1_767_225_600_000_000_000; rows]).with_timezone("UTC"));
        batches.push(RecordBatch::try_from_iter([("key", key), ("price", price), (TIME, time)])?);
    }
    let schema = batches.first().context("no rows")?.schema();
    Ok(Table { schema, batches: batches.into() })
}

fn prepared(table: Table, laps: &Laps) -> Result<Prepared> {
    let tables = [("state".to_owned(), table)].into();
    run::prepare("state", DOCUMENT, &TableEnds { tables, kept: Kept::default(), laps: Some(laps.clone()) })
}

/// The value below which a share of the values lies.
pub(crate) fn quantile(values: &mut [Duration], share: f64) -> f64 {
    values.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).map_or(0.0, |value| value.as_secs_f64() * 1e3)
}

/// How long the step stands still for a checkpoint with a million keys, and how long the source was not asked for rows.
pub(crate) fn pauses(seed: u64, folder: &Path) -> Result<Figures> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let largest = i64::try_from(KEYS)?;
    let key = |_| {
        let keys = (0..BATCH_ROWS).map(|_| random.random_range(0..largest));
        Arc::new(Int64Array::from_iter_values(keys)) as ArrayRef
    };
    let table = table((0..ROWS / BATCH_ROWS).map(key))?;
    let laps = Laps::default();
    let prepared = prepared(table, &laps)?;
    // One for the pipeline, one for writing checkpoints.
    let runtime = run::runtime(2)?;
    let store = run::store(folder)?;
    let job = runtime.block_on(Job::open(&prepared.plan, store, SystemClock::new(), prepared.options.clone()))?;
    let progress = Arc::clone(job.progress());
    let is_over = Arc::new(AtomicBool::new(false));
    let watching = {
        let (progress, is_over, laps) = (Arc::clone(&progress), Arc::clone(&is_over), laps.clone());
        std::thread::spawn(move || watch(&progress, &is_over, &laps))
    };
    runtime.block_on(async { tokio::spawn(weir_engine::run(job)).await })??;
    is_over.store(true, Ordering::Release);
    let (mut pauses, bytes) = watching.join().map_err(|_| anyhow::anyhow!("the thread that watches panicked"))?;
    let mut gaps = laps.gaps();
    ensure!(pauses.len() >= CHECKPOINTS / 2 && !gaps.is_empty(), "only {} checkpoints", pauses.len());
    let mut figures = Figures::default();
    figures.add("checkpoints", pauses.len() as f64, "checkpoints");
    figures.add("largest checkpoint", bytes as f64 / 1e6, "MB");
    figures.add("the step stands still, p50", quantile(&mut pauses, 0.5), "ms");
    figures.compare("the step stands still, p99", quantile(&mut pauses, 0.99), "ms", Target::AtMost(50.0));
    figures.add("longest time without a batch between two checkpoints, p50", quantile(&mut gaps, 0.5), "ms");
    figures.add("longest time without a batch between two checkpoints, p99", quantile(&mut gaps, 0.99), "ms");
    figures.remark(
        "One million keys, each with a count, a sum and a maximum, in random order at full speed; a checkpoint every \
         200 ms into a folder. The time without a batch is that between two calls of the source, so it has all in it that \
         keeps the pipeline from reading, other programs on the machine among them.",
    );
    Ok(figures)
}

/// How long each snapshot took, until there were enough of them, and the bytes of the largest checkpoint.
fn watch(progress: &Progress, is_over: &AtomicBool, laps: &Laps) -> (Vec<Duration>, u64) {
    let (mut pauses, mut bytes) = (Vec::new(), 0);
    let Some((_, stats)) = progress.steps.first() else { return (pauses, bytes) };
    let mut seen = 0;
    while !is_over.load(Ordering::Acquire) {
        let snapshots = NodeStats::get(&stats.snapshots);
        if snapshots > seen {
            seen = snapshots;
            pauses.push(Duration::from_nanos(NodeStats::get(&stats.snapshot_ns)));
        }
        bytes = bytes.max(NodeStats::get(&progress.checkpoint_bytes));
        if pauses.len() >= CHECKPOINTS {
            laps.end();
        }
        std::thread::sleep(LOOK);
    }
    (pauses, bytes)
}

/// How long it takes from the start of a pipeline with 1 GB of state to the first batch it has worked on.
pub(crate) fn restart(folder: &Path) -> Result<Figures> {
    let key = |first: usize| {
        let keys =
            (first..(first + BATCH_ROWS).min(LARGE_KEYS)).map(|key| format!("somebody-{key:012}-with-a-long-name"));
        Arc::new(StringArray::from_iter_values(keys)) as ArrayRef
    };
    let laps = Laps::default();
    let prepared = prepared(table((0..LARGE_KEYS).step_by(BATCH_ROWS).map(key))?, &laps)?;
    let clock = SystemClock::new();
    let runtime = run::runtime(2)?;
    let store = run::store(folder)?;
    let open = || {
        Job::open(&prepared.plan, Arc::clone(&store), Arc::clone(&clock) as Arc<dyn Clock>, prepared.options.clone())
    };
    let job = runtime.block_on(open())?;
    let (control, progress) = (job.control(), Arc::clone(job.progress()));
    let stopping = std::thread::spawn(move || {
        while run::sum(&progress.steps, |stats| NodeStats::get(&stats.rows_in)) < LARGE_KEYS as u64 {
            std::thread::sleep(LOOK);
        }
        control.stop();
        progress
    });
    runtime.block_on(async { tokio::spawn(weir_engine::run(job)).await })??;
    let progress = stopping.join().map_err(|_| anyhow::anyhow!("the thread that stops it panicked"))?;
    let bytes = NodeStats::get(&progress.checkpoint_bytes) as f64;
    ensure!(bytes > LARGE_BYTES, "the state has only {bytes} bytes");

    let begun = clock.monotonic();
    let cpu = weir_base::cpu::of_this_process()?;
    let job = runtime.block_on(open())?;
    ensure!(job.resumed().is_some(), "it began anew");
    let opened = clock.monotonic().saturating_sub(begun);
    let (control, progress) = (job.control(), Arc::clone(job.progress()));
    let waiting = {
        let clock = Arc::clone(&clock);
        std::thread::spawn(move || {
            while run::sum(&progress.steps, |stats| NodeStats::get(&stats.rows_in)) == 0 {
                std::thread::sleep(LOOK);
            }
            let works = clock.monotonic();
            control.stop();
            works
        })
    };
    runtime.block_on(async { tokio::spawn(weir_engine::run(job)).await })??;
    let cpu = weir_base::cpu::of_this_process()?.saturating_sub(cpu);
    let works = waiting.join().map_err(|_| anyhow::anyhow!("the thread that waits panicked"))?.saturating_sub(begun);
    let mut figures = Figures::default();
    figures.add("state", bytes / 1e9, "GB");
    figures.add("keys", LARGE_KEYS as f64 / 1e6, "million");
    figures.add("state is read, checked and taken over", opened.as_secs_f64(), "s");
    figures.compare("it works on rows again after", works.as_secs_f64(), "s", Target::AtMost(10.0));
    figures.add("CPU time, with the checkpoint after it", cpu.as_secs_f64(), "s");
    Ok(figures)
}
