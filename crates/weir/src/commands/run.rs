//! `weir run`: a pipeline without a server, in this process, until its input ends or somebody stops it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use weir_base::clock::SystemClock;
use weir_base::disk::{Disk, DiskLock, RealDisk};
use weir_base::{Clock, Diagnostic, Kinded};
use weir_component::checkpoint::CheckpointStore;
use weir_component::sink::PlannedSink;
use weir_component::spec::{Access, PlanContext};
use weir_component::streams::Streams;
use weir_component::table::is_table;
use weir_connectors::checkpoints::CheckpointFolder;
use weir_document::ProcessFills;
use weir_engine::{Control, End, Job, JobError, JobOptions, LONGEST_INTERVAL, NodeStats, Plan, Progress, Replays};
use weir_pipelines::document::Document;
use weir_pipelines::ends::RealEnds;
use weir_pipelines::letters::book::Book;
use weir_pipelines::letters::identified::Identified;
use weir_pipelines::letters::queue::Queue;
use weir_pipelines::letters::source::LetterSourcePlan;
use weir_pipelines::plan::{COMPONENTS, GRAMMAR, deliveries, plan};
use weir_pipelines::streams::described::DescribedStreams;
use weir_sql::expressions::{Language, NoKinds};

use super::{note, say};
use crate::cli::RunArgs;
use crate::failure::bad_arguments;

/// The wait before the second start of a pipeline in this process; each is twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait between two starts.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long the checkpoint may take after which a pipeline that was asked to stop does.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// How often progress is shown.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// A pipeline file, read and planned.
pub(super) struct Prepared {
    pub(super) document: Document,
    pub(super) plan: Plan,
    pub(super) disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    pub(super) state: PathBuf,
}

impl Prepared {
    /// Keeps every other process away from the state.
    pub(super) fn lock(&self) -> anyhow::Result<Box<dyn DiskLock>> {
        let state = self.state.display();
        self.disk.create_dir_all(&self.state).with_context(|| format!("cannot create {state}"))?;
        match self.disk.lock(&self.state.join("lock")) {
            Ok(lock) => Ok(lock),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                anyhow::bail!("another process runs this pipeline with the state in {state}")
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {state}")),
        }
    }

    pub(super) fn checkpoints(&self) -> PathBuf {
        self.state.join("checkpoints")
    }

    /// What was done with its dead letters, and those that are to be run again.
    pub(super) fn letters(&self) -> anyhow::Result<(Arc<Book>, Queue)> {
        let book = self.state.join("letters");
        let book =
            Book::open(Arc::clone(&self.disk), &book).with_context(|| format!("cannot read {}", book.display()))?;
        let book = Arc::new(book);
        let store = CheckpointFolder::open(&self.state.join("replays"), Arc::clone(&self.disk))?;
        Ok((Arc::clone(&book), Queue::new(Arc::new(store), book)))
    }

    /// Takes the pipeline over where its last checkpoint ends, without reading anything.
    pub(super) async fn open(&self, store: Arc<dyn CheckpointStore>) -> anyhow::Result<Job> {
        let options = JobOptions { replays: Some(self.replays()?), ..JobOptions::default() };
        Job::open(&self.plan, store, Arc::clone(&self.clock), options).await.map_err(hinted)
    }

    fn replays(&self) -> anyhow::Result<Replays> {
        Ok(Replays(Arc::new(LetterSourcePlan::new(self.letters()?.1, None))))
    }

    /// Forgets all checkpoints, but not which dead letters were run again.
    pub(super) async fn forget(&self) -> anyhow::Result<()> {
        let folder = self.checkpoints();
        let store = CheckpointFolder::open(&folder, Arc::clone(&self.disk))?;
        // Checkpoints that cannot be read are forgotten as well.
        let position = weir_engine::replayed(&store).await.unwrap_or_default();
        self.letters()?.1.abandon(position.as_ref()).await?;
        forget(self.disk.as_ref(), &folder)?;
        forget(self.disk.as_ref(), &self.state.join("replays"))
    }
}

/// As long as it is there, the checkpoints are not whole.
pub(super) const RESTORING: &str = "restoring";

/// All problems of a file as one error of wrong arguments.
fn refused(problems: &[Diagnostic]) -> anyhow::Error {
    bad_arguments(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// The folder of a file, never empty.
fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reads and plans a pipeline file. Nothing is opened but what is needed to know the columns.
pub(super) fn prepare(file: &Path, state: Option<&Path>) -> anyhow::Result<Prepared> {
    prepare_with(file, state, &|_| None)
}

/// The same for a pipeline that is only checked: streams are what they are by definition.
pub(super) fn prepare_check(file: &Path) -> anyhow::Result<Prepared> {
    prepare_with(file, None, &|pipeline| Some(Arc::new(DescribedStreams::built_in(pipeline)?)))
}

/// `streams` are those of a pipeline, by its name.
fn prepare_with(
    file: &Path,
    state: Option<&Path>,
    streams: &dyn Fn(&str) -> Option<Arc<dyn Streams>>,
) -> anyhow::Result<Prepared> {
    let directory = folder_of(file);
    let fills = ProcessFills { directory: directory.clone() };
    // What is wrong with its shape is told by the plan, together with all else.
    let document = GRAMMAR.read_file_as_far(file, &fills).map_err(|problems| refused(&problems))?;
    let clock: Arc<dyn Clock> = SystemClock::new();
    let disk: Arc<dyn Disk> = RealDisk::new();
    let state = state.map_or_else(|| directory.join(".weir").join(&document.name), Path::to_owned);
    let context = PlanContext {
        directory,
        pipeline: document.name.clone(),
        tenant: None,
        checkpoint_interval: document.checkpoint_interval.map_or(LONGEST_INTERVAL, |interval| interval.0),
        disk: Arc::clone(&disk),
        clock: Arc::clone(&clock),
        streams: streams(&document.name),
    };
    let ends = RealEnds {
        late: Some(aside(&context, &state, "late")?),
        dead: Some(Arc::new(Identified(aside(&context, &state, "dead")?))),
        allowed: Access::ALL,
        // As much as it gets when it runs, below.
        state_bytes_max: JobOptions::default().state_bytes_max as u64,
        // Rows can be asked for while it stands still, and tables are read when it starts.
        refreshes: None,
        context,
    };
    let language = Language::new(Arc::new(NoKinds), Arc::clone(&clock));
    let parallelism = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let plan = plan(&document, &ends, &language, parallelism).map_err(|problems| refused(&problems))?;
    Ok(Prepared { document, plan, disk, clock, state })
}

/// A file beside the checkpoints, for rows that were set aside.
fn aside(context: &PlanContext, state: &Path, name: &str) -> anyhow::Result<Arc<dyn PlannedSink>> {
    let spec = COMPONENTS.sinks.iter().find(|spec| spec.about.name == "file").context("there is no sink file")?;
    let path = std::path::absolute(state)?.join(format!("{name}.ndjson"));
    let config = json!({ "path": path, "format": "ndjson", "existing": "append" });
    (spec.plan)(&config, &[], context).map_err(|faults| {
        anyhow::anyhow!("{}", faults.into_iter().map(|fault| fault.message).collect::<Vec<_>>().join("; "))
    })
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let prepared = prepare(&args.file, args.state.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("weir-run").build()?;
    runtime.block_on(run_prepared(prepared, args.restart))
}

async fn run_prepared(prepared: Prepared, restart: bool) -> anyhow::Result<()> {
    let _lock = prepared.lock()?;
    let folder = prepared.checkpoints();
    if restart {
        let kept = "the pipeline cannot begin anew, and stays as it was";
        can_begin_anew(&prepared.plan).await.context(kept)?;
        prepared.forget().await?;
    } else if prepared.state.join(RESTORING).exists() {
        anyhow::bail!("a restore from a savepoint did not come to its end; do it again, or begin anew with --restart");
    }
    let replays = Some(prepared.replays()?);
    let Prepared { document, plan, disk, clock, state } = prepared;
    let store: Arc<dyn CheckpointStore> = Arc::new(CheckpointFolder::open(&folder, Arc::clone(&disk))?);
    let options = JobOptions {
        checkpoint_interval: document.checkpoint_interval.map(|interval| interval.0),
        begin_anew: restart,
        replays,
        ..JobOptions::default()
    };
    let begun = clock.monotonic();
    let stop = Arc::new(Stop::default());
    let stopping = tokio::spawn(stop_on_signal(Arc::clone(&stop)));
    // Whoever has been reached before is waited for.
    let has_run = plan.resumes(store.as_ref()).await.is_ok_and(|epoch| epoch.is_some());
    let mut again = Again::new(options, has_run);
    let mut is_cut = false;
    let (end, progress) = loop {
        let job = match Job::open(&plan, Arc::clone(&store), Arc::clone(&clock), again.options.clone()).await {
            Ok(job) => job,
            Err(error) => {
                again.after(error, clock.monotonic()).await.map_err(hinted)?;
                continue;
            }
        };
        match job.resumed() {
            _ if job.is_finished() => return say_finished(&plan, &job).await,
            Some(epoch) => note(format_args!("going on from checkpoint {epoch}")),
            None => {}
        }
        let progress = Arc::clone(job.progress());
        stop.now_runs(job.control());
        let shown = tokio::spawn(show(Arc::clone(&progress)));
        let from = progress.epoch.load(Ordering::Relaxed);
        let end = tokio::select! {
            end = weir_engine::run(job) => end,
            // What was read since the last checkpoint is read again.
            () = stop.overdue() => {
                is_cut = true;
                Ok(End::Stopped)
            }
        };
        shown.abort();
        if progress.epoch.load(Ordering::Relaxed) > from {
            again.went_well();
        }
        match end {
            Err(error @ JobError::Undecided { .. }) => again.after(error, clock.monotonic()).await?,
            end => break (end, progress),
        }
    };
    stopping.abort();
    let took = clock.monotonic().saturating_sub(begun);
    let failed_at = (end.is_err() || is_cut).then(|| progress.epoch.load(Ordering::Relaxed));
    summary(&plan, &progress, (&state, took), failed_at)?;
    if end? == End::Stopped {
        say("stopped; run it again to go on from here")?;
    }
    Ok(())
}

/// That all sinks could begin anew: what was reached is not forgotten for a run that could not begin.
async fn can_begin_anew(plan: &Plan) -> anyhow::Result<()> {
    for sink in &plan.sinks {
        sink.sink.begins_anew().await?;
    }
    Ok(())
}

/// There is nothing to run: all input was read before. Should there be more by now, it is not passed over in silence.
async fn say_finished(plan: &Plan, job: &Job) -> anyhow::Result<()> {
    if let Some(what) = job.come_since()? {
        anyhow::bail!(
            "{what}; the results of what was read before are final, so nothing is added to them: begin anew with \
             --restart, or let the pipeline wait for more (`follow` of a file)"
        );
    }
    let first = match can_begin_anew(plan).await {
        Ok(()) => String::new(),
        Err(error) => format!(", but first: {error}"),
    };
    say(format_args!("all input has been read before and all results are in place; --restart begins anew{first}"))?;
    Ok(())
}

/// An error with what can be done about it.
fn hinted(error: JobError) -> anyhow::Error {
    match error {
        JobError::Changed { .. } => anyhow::anyhow!("{error}; put it back as it was, or begin anew with --restart"),
        error => error.into(),
    }
}

/// Starts of the pipeline in this process: a sink that lost track of what it was given is opened again, as it
/// would be by the next process. So is one that cannot be reached by a pipeline that goes on from a checkpoint; in a
/// pipeline that begins, it is taken for a mistake.
struct Again {
    options: JobOptions,
    /// When the first start since the last checkpoint failed, and how many have.
    failed: Option<(Duration, u32)>,
    has_run: bool,
}

impl Again {
    const fn new(options: JobOptions, has_run: bool) -> Self {
        Self { options, failed: None, has_run }
    }

    fn went_well(&mut self) {
        self.failed = None;
    }

    /// Waits until the next start, or gives the error back if there should be none.
    async fn after(&mut self, error: JobError, now: Duration) -> Result<(), JobError> {
        let is_undecided = matches!(error, JobError::Undecided { .. });
        self.has_run |= is_undecided;
        let may_pass = is_undecided || (self.has_run && JobError::may_pass(error.kind()));
        let (since, attempts) = self.failed.unwrap_or((now, 0));
        if !may_pass || now.saturating_sub(since) > self.options.retry_time_max {
            return Err(error);
        }
        self.failed = Some((since, attempts + 1));
        self.options = self.options.again();
        // Not only for people at a terminal: it should not happen often.
        let _ = writeln!(std::io::stderr().lock(), "weir: {error}; starting again");
        let wait = FIRST_WAIT.saturating_mul(1 << attempts.min(16)).min(LONGEST_WAIT);
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Removes all objects of a folder.
fn forget(disk: &dyn Disk, folder: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot remove what is in {}", folder.display());
    disk.create_dir_all(folder).with_context(failed)?;
    let mut names: Vec<String> = disk.list(folder).with_context(failed)?.into_iter().map(|entry| entry.name).collect();
    // Manifests first: as long as one is there, what it names must be, too.
    names.sort_by_key(|name| !name.starts_with("epoch-"));
    for name in names {
        disk.remove(&folder.join(&name)).with_context(failed)?;
    }
    disk.sync_dir(folder).with_context(failed)
}

/// What stops the job that runs at the moment.
#[derive(Default)]
struct Stop {
    control: Mutex<Option<Control>>,
    is_asked: AtomicBool,
    asked: Notify,
}

impl Stop {
    fn now_runs(&self, control: Control) {
        *self.control.lock() = Some(control);
        if self.is_asked.load(Ordering::Acquire) {
            self.stop();
        }
    }

    fn stop(&self) {
        self.is_asked.store(true, Ordering::Release);
        self.asked.notify_one();
        if let Some(control) = &*self.control.lock() {
            control.stop();
        }
    }

    /// Waits until the job should have stopped by itself.
    async fn overdue(&self) {
        while !self.is_asked.load(Ordering::Acquire) {
            self.asked.notified().await;
        }
        tokio::time::sleep(STOP_TIME_MAX).await;
        note(format_args!(
            "there was no checkpoint in {} s, so what came after the last one is not part of it",
            STOP_TIME_MAX.as_secs()
        ));
    }
}

/// The first signal stops the job after a checkpoint, the second at once.
async fn stop_on_signal(stop: Arc<Stop>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    let mut next = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
    next().await;
    note("stopping after one more checkpoint; once more to stop at once");
    stop.stop();
    next().await;
    std::process::exit(1);
}

fn sum(nodes: &[(String, Arc<NodeStats>)], counter: fn(&NodeStats) -> u64) -> u64 {
    nodes.iter().map(|(_, stats)| counter(stats)).sum()
}

/// A line of progress on the terminal, over and over.
async fn show(progress: Arc<Progress>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(SHOWN_EVERY).await;
        let read = sum(&progress.sources, |stats| NodeStats::get(&stats.rows_in));
        let written = sum(&progress.sinks, |stats| NodeStats::get(&stats.rows_in));
        let epoch = progress.epoch.load(Ordering::Relaxed);
        let lag = match sum(&progress.sources, |stats| stats.source.view().lag_rows.unwrap_or(0)) {
            0 => String::new(),
            lag => format!(", {lag} behind"),
        };
        note(format_args!(
            "{read} rows read ({}/s{lag}), {written} results, {} late, {} dead letters, checkpoint {epoch}",
            read - before,
            progress.late(),
            progress.dead(),
        ));
        before = read;
    }
}

/// A size for people.
fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let exact = bytes as f64;
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.1} KiB", exact / 1024.0),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", exact / 1_048_576.0),
        _ => format!("{:.1} GiB", exact / 1_073_741_824.0),
    }
}

/// What was read and written, in so much time, with a state in that folder. `failed_at` is the last checkpoint of a run that
/// failed.
fn summary(
    plan: &Plan,
    progress: &Progress,
    (state, took): (&Path, Duration),
    failed_at: Option<u64>,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let is_of_table = |id: &str| plan.sources.iter().any(|source| source.id == id && is_table(&source.source.schema()));
    let (tables, sources): (Vec<_>, Vec<_>) = progress.sources.iter().cloned().partition(|(id, _)| is_of_table(id));
    let read = sum(&sources, |stats| NodeStats::get(&stats.rows_in));
    let bytes = sum(&sources, |stats| NodeStats::get(&stats.bytes));
    writeln!(out, "{read} rows read ({}) in {:.1} s", size(bytes), took.as_secs_f64())?;
    for (id, stats) in &tables {
        // The table `t` is the source `table_t`.
        writeln!(out, "{} rows of the {}", NodeStats::get(&stats.table_rows), id.replacen('_', " ", 1))?;
    }
    let deliveries = deliveries(plan);
    for (id, stats) in &progress.sinks {
        let rows = NodeStats::get(&stats.rows_in);
        match deliveries.get(id) {
            Some(delivery) => writeln!(out, "{}", line_of_sink(id, delivery, stats, failed_at))?,
            // Rows that were set aside are only worth a line if there are any.
            None if rows > 0 => {
                let name = id.trim_start_matches('_');
                let what = if name == "dead" { "dead letters" } else { "late rows" };
                writeln!(out, "{rows} {what} in {}", state.join(format!("{name}.ndjson")).display())?;
            }
            None => {}
        }
    }
    Ok(())
}

/// What became of the rows a sink was given. Those it refused are not among them, but dead letters; those since the last
/// checkpoint of a run that failed are given to it again.
fn line_of_sink(id: &str, delivery: &str, stats: &NodeStats, failed_at: Option<u64>) -> String {
    let refused = NodeStats::get(&stats.dead);
    let rows = NodeStats::get(&stats.rows_in).saturating_sub(refused);
    let refused = if refused > 0 { format!("; it refused {refused}") } else { String::new() };
    match failed_at {
        None => format!("{rows} rows to {id}, {delivery}{refused}"),
        Some(0) => format!("{rows} rows given to {id}, and none committed{refused}"),
        Some(epoch) => format!("{rows} rows given to {id}, {delivery}, committed up to checkpoint {epoch}{refused}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_a_sink_has_refused_are_not_among_those_it_got() {
        let stats = NodeStats::default();
        stats.rows_in.store(10, Ordering::Relaxed);
        let line = |failed_at| line_of_sink("otlp", "at least once", &stats, failed_at);
        assert_eq!(line(None), "10 rows to otlp, at least once");
        stats.dead.store(4, Ordering::Relaxed);
        assert_eq!(line(None), "6 rows to otlp, at least once; it refused 4");
        assert_eq!(line(Some(0)), "6 rows given to otlp, and none committed; it refused 4");
        let committed = "6 rows given to otlp, at least once, committed up to checkpoint 7; it refused 4";
        assert_eq!(line(Some(7)), committed);
    }
}
