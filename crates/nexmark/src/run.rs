//! Runs a query as `weir run` would, on a runtime of its own, and says what that cost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weir_base::clock::SystemClock;
use weir_base::disk::RealDisk;
use weir_base::{Clock, Diagnostic, cpu};
use weir_component::checkpoint::CheckpointStore;
use weir_connectors::checkpoints::CheckpointFolder;
use weir_document::{NoFills, Syntax};
use weir_engine::{End, Job, JobOptions, NodeStats, Plan, Progress};
use weir_pipelines::ends::Ends;
use weir_pipelines::plan::{GRAMMAR, plan};
use weir_sql::expressions::{Language, NoKinds};

/// The most bytes of state of a query.
pub(crate) const STATE_BYTES_MAX: usize = 8 << 30;

/// A pipeline that can run.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) options: JobOptions,
}

/// What a run cost.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    /// Rows that were read.
    pub(crate) events: u64,
    /// Results.
    pub(crate) results: u64,
    /// CPU time of all threads, in user space and in the kernel.
    pub(crate) cpu: Duration,
    pub(crate) checkpoints: u64,
}

impl Cost {
    /// Events for each second of CPU time.
    pub(crate) fn rate(&self) -> f64 {
        self.events as f64 / self.cpu.as_secs_f64()
    }
}

fn shown(problems: Vec<Diagnostic>) -> anyhow::Error {
    anyhow::anyhow!(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Reads and plans a document with these ends, in one instance unless it says otherwise.
pub(crate) fn prepare(name: &str, document: &str, ends: &dyn Ends) -> Result<Prepared> {
    let document = GRAMMAR.read(&format!("{name}.yaml"), Syntax::Yaml, document, &NoFills).map_err(shown)?;
    let language = Language::new(Arc::new(NoKinds), SystemClock::new());
    let plan = plan(&document, ends, &language, 1).map_err(shown)?;
    let defaults = JobOptions::default();
    let checkpoint_interval = document.checkpoint_interval.map(|interval| interval.0);
    let options = JobOptions { checkpoint_interval, state_bytes_max: STATE_BYTES_MAX, ..defaults };
    Ok(Prepared { plan, options })
}

/// A runtime with so many threads.
pub(crate) fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("cannot start threads")
}

/// A store of checkpoints in an empty folder.
pub(crate) fn store(folder: &Path) -> Result<Arc<dyn CheckpointStore>> {
    Ok(Arc::new(CheckpointFolder::open(folder, RealDisk::new())?))
}

pub(crate) fn sum(nodes: &[(String, Arc<NodeStats>)], counter: fn(&NodeStats) -> u64) -> u64 {
    nodes.iter().map(|(_, stats)| counter(stats)).sum()
}

/// Runs a pipeline to the end of its input.
pub(crate) fn run(prepared: &Prepared, folder: &Path, threads: usize) -> Result<Cost> {
    let runtime = runtime(threads)?;
    let store = store(folder)?;
    let clock: Arc<dyn Clock> = SystemClock::new();
    let options = prepared.options.clone();
    let job = runtime.block_on(Job::open(&prepared.plan, store, Arc::clone(&clock), options))?;
    let progress: Arc<Progress> = Arc::clone(job.progress());
    let before = cpu::of_this_process()?;
    let end = runtime.block_on(async { tokio::spawn(weir_engine::run(job)).await })??;
    let after = cpu::of_this_process()?;
    if end != End::Finished {
        bail!("the pipeline stopped before its end");
    }
    let aside = progress.late() + progress.dead();
    if aside > 0 {
        bail!("{aside} rows were set aside, and none should be");
    }
    Ok(Cost {
        events: sum(&progress.sources, |stats| NodeStats::get(&stats.rows_in)),
        results: sum(&progress.sinks, |stats| NodeStats::get(&stats.rows_in)),
        cpu: after.saturating_sub(before),
        checkpoints: progress.epoch.load(std::sync::atomic::Ordering::Relaxed).saturating_sub(1),
    })
}
