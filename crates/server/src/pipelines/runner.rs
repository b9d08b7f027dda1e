//! One pipeline: started, watched, and started again after what may pass.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use weir_base::{Diagnostic, ErrorKind, Kinded, Timestamp};
use weir_component::checkpoint::CheckpointStore;
use weir_engine::{Control, End, Job, JobError, JobOptions, Plan, Progress, Replays, Saved, Whose};
use weir_meta::pipelines::PipelineRecord;
use weir_pipelines::letters::queue::Queue;
use weir_pipelines::letters::source::LetterSourcePlan;
use weir_pipelines::refreshes::Refreshes;

use super::built_in;
use super::prepare::{Purpose, prepare};
use super::rates::Rates;
use super::{World, folder};

/// The wait before the second start of a pipeline that has failed.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait before a start.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often it is looked whether a pipeline that was started for a checkpoint has failed.
const LOOKED_EVERY: Duration = Duration::from_millis(50);
/// A pipeline that is being opened for longer says what it waits for.
const OPENED_WITHIN: Duration = Duration::from_secs(2);
/// A pipeline that has run for so long has not failed again but anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What a pipeline does at the moment.
#[derive(Clone, Debug)]
pub(crate) enum Status {
    /// It opens what it reads and writes.
    Starting,
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It has failed, and will be tried again.
    Waiting {
        /// Why.
        failure: Failure,
        /// When.
        until: Timestamp,
        /// How often in a row it has failed.
        attempts: u32,
    },
    /// It has failed, and somebody has to do something.
    Failed(Failure),
    /// The rows it would go on with are not kept any more.
    Overrun(Failure),
    /// All its input has been read, and all its results are in place.
    Finished,
    /// There is nothing for it to do; it is woken when there is.
    Resting,
    /// Somebody has stopped it.
    Stopped,
}

/// Why a pipeline does not run.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What kind of error.
    pub(crate) kind: ErrorKind,
    /// What was attempted and what came of it.
    pub(crate) message: String,
    /// When.
    pub(crate) at: Timestamp,
    /// What is wrong with its document, if that is why.
    pub(crate) problems: Vec<Diagnostic>,
}

/// How a pipeline is doing.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) status: Status,
    /// The counters of its last start.
    pub(crate) progress: Option<Arc<Progress>>,
    /// What it is made of.
    pub(crate) plan: Option<Arc<Plan>>,
    /// Rows a second.
    pub(crate) rates: Rates,
    /// How often it was started again after a failure, since the server was started.
    pub(crate) restarts: u64,
    /// What one that starts waits for, where that takes long.
    pub(crate) opening: Option<Failure>,
}

impl View {
    pub(super) fn stopped() -> Self {
        Self {
            status: Status::Stopped,
            progress: None,
            plan: None,
            rates: Rates::default(),
            restarts: 0,
            opening: None,
        }
    }
}

/// A pipeline that is looked after.
#[derive(Debug)]
pub(super) struct Runner {
    view: Arc<Mutex<View>>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
    control: Arc<Mutex<Option<Control>>>,
    /// What came of the savepoint it was started for.
    saved: Mutex<Option<oneshot::Receiver<Result<Saved, JobError>>>>,
}

impl Runner {
    /// Starts a pipeline on the threads of `handle`.
    pub(super) fn spawn(world: World, record: PipelineRecord, handle: &Handle) -> Arc<Self> {
        Self::spawn_for(world, record, handle, None)
    }

    /// Starts a pipeline that reads nothing, and only closes what is open and puts it out as final.
    pub(super) fn settle(world: World, record: PipelineRecord, handle: &Handle) -> Arc<Self> {
        Self::spawn_for(world, record, handle, Some(Once::Settle))
    }

    /// Starts a pipeline, lets it make one checkpoint before it reads anything, keeps that in `to`, and stops it.
    pub(super) fn once(
        world: World,
        record: PipelineRecord,
        handle: &Handle,
        to: Arc<dyn CheckpointStore>,
    ) -> Arc<Self> {
        let (done, saved) = oneshot::channel();
        let runner = Self::spawn_for(world, record, handle, Some(Once::Keep(to, done)));
        *runner.saved.lock() = Some(saved);
        runner
    }

    fn spawn_for(world: World, record: PipelineRecord, handle: &Handle, once: Option<Once>) -> Arc<Self> {
        let control = Arc::default();
        let view = Arc::new(Mutex::new(View { status: Status::Starting, ..View::stopped() }));
        let (stop, stopped) = watch::channel(false);
        let keeper = Keeper { world, record, view: Arc::clone(&view), stopped, control: Arc::clone(&control), once };
        let task = handle.spawn(keeper.keep());
        Arc::new(Self { view, stop, task: Mutex::new(Some(task)), control, saved: Mutex::default() })
    }

    /// Lets the pipeline make a checkpoint now and keep it in `to`; `None` if it does not run at the moment.
    pub(super) fn savepoint(
        &self,
        to: Arc<dyn CheckpointStore>,
    ) -> Option<BoxFuture<'static, Result<Saved, JobError>>> {
        self.control.lock().as_ref().map(|control| control.savepoint(to))
    }

    /// What came of the savepoint it was started for, or why the pipeline did not run.
    pub(super) async fn saved(&self) -> Result<Saved, Result<JobError, Failure>> {
        let saved = self.saved.lock().take();
        let ended = || JobError::Checkpoint {
            kind: ErrorKind::Conflict,
            message: "the pipeline ended before its checkpoint".to_owned(),
        };
        let Some(mut saved) = saved else { return Err(Ok(ended())) };
        loop {
            tokio::select! {
                result = &mut saved => return result.unwrap_or_else(|_| Err(ended())).map_err(Ok),
                () = tokio::time::sleep(LOOKED_EVERY) => {}
            }
            if let Status::Waiting { failure, .. } | Status::Failed(failure) | Status::Overrun(failure) =
                self.view().status
            {
                return Err(Err(failure));
            }
        }
    }

    /// Waits until one that was started to settle has, or says why it has not.
    pub(super) async fn settled(&self) -> Result<(), Failure> {
        loop {
            match self.view().status {
                Status::Finished => return Ok(()),
                Status::Waiting { failure, .. } | Status::Failed(failure) | Status::Overrun(failure) => {
                    return Err(failure);
                }
                // Its tenant is gone.
                _ if self.is_over() => return Ok(()),
                _ => tokio::time::sleep(LOOKED_EVERY).await,
            }
        }
    }

    pub(super) fn view(&self) -> View {
        self.view.lock().clone()
    }

    /// Takes note of how many rows have come by now.
    pub(super) fn sample(&self, now: Duration) {
        let mut view = self.view.lock();
        if let Some(progress) = view.progress.clone() {
            view.rates.sample(now, &progress);
        }
    }

    /// Whether nothing will happen any more without somebody's doing.
    pub(super) fn is_over(&self) -> bool {
        self.task.lock().as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Lets the pipeline make one more checkpoint, and cuts it off if that takes longer than `time_max`.
    pub(super) async fn stop(&self, time_max: Duration) {
        let _ = self.stop.send(true);
        let task = self.task.lock().take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout(time_max, &mut task).await.is_err() {
            task.abort();
            // It ends at its next await; until then its threads may still write.
            let _ = task.await;
        }
        self.view.lock().status = Status::Stopped;
    }
}

/// How one start of a pipeline ended.
enum Ended {
    Well(End),
    Badly(Failure, Then),
}

/// What becomes of a pipeline that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The same may go well later.
    Again,
    /// Somebody has to do something.
    Stay,
    /// Somebody has to say where it goes on.
    Overrun,
}

/// What a pipeline is started for that is to end at once.
enum Once {
    /// One checkpoint, which is kept there.
    Keep(Arc<dyn CheckpointStore>, oneshot::Sender<Result<Saved, JobError>>),
    /// To close what is open.
    Settle,
}

struct Keeper {
    world: World,
    record: PipelineRecord,
    view: Arc<Mutex<View>>,
    stopped: watch::Receiver<bool>,
    control: Arc<Mutex<Option<Control>>>,
    /// It is started for that only.
    once: Option<Once>,
}

impl Keeper {
    async fn keep(mut self) {
        let (tenant, pipeline) = (self.record.tenant.clone(), self.record.name.clone());
        let _awake = built_in::is_built_in(&self.record).then(|| self.world.awake.one_more());
        let mut attempts = 0;
        loop {
            let begun = self.world.clock.monotonic();
            let whose = Whose { tenant: Some(tenant.clone()), pipeline: pipeline.clone() };
            let ended = AssertUnwindSafe(whose.around(self.run_once().boxed())).catch_unwind().await;
            let ended = ended.unwrap_or_else(|_| {
                let message = "a part of the pipeline panicked, which is a bug".to_owned();
                Ended::Badly(self.failure(ErrorKind::Internal, message), Then::Again)
            });
            let (failure, then) = match ended {
                Ended::Well(end) => {
                    tracing::info!(%tenant, %pipeline, ?end, "pipeline ended");
                    self.set(if end == End::Finished { Status::Finished } else { Status::Stopped });
                    return;
                }
                Ended::Badly(..) if *self.stopped.borrow() => return,
                Ended::Badly(failure, then) => (failure, then),
            };
            tracing::warn!(%tenant, %pipeline, kind = failure.kind.code(), error = %failure.message, "pipeline failed");
            match then {
                Then::Stay => return self.set(Status::Failed(failure)),
                Then::Overrun => return self.set(Status::Overrun(failure)),
                Then::Again => {}
            }
            if self.world.clock.monotonic().saturating_sub(begun) > HEALTHY_AFTER {
                attempts = 0;
            }
            attempts += 1;
            let wait = wait_before(attempts);
            let until = Timestamp(self.world.clock.now().0.saturating_add_unsigned(wait.as_nanos() as u64));
            self.set(Status::Waiting { failure, until, attempts });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = wanted(&mut self.stopped) => return,
            }
            self.view.lock().restarts += 1;
        }
    }

    fn set(&self, status: Status) {
        self.view.lock().status = status;
    }

    fn failure(&self, kind: ErrorKind, message: String) -> Failure {
        Failure { kind, message, at: self.world.clock.now(), problems: Vec::new() }
    }

    fn of_job(&self, error: &JobError) -> Ended {
        let then = match error {
            JobError::StateTooLarge { .. } | JobError::Changed { .. } | JobError::Fenced { .. } => Then::Stay,
            JobError::Component { kind: ErrorKind::NotFound, .. } => Then::Overrun,
            // Opening it again shows where it stands.
            JobError::Undecided { .. } => Then::Again,
            error => match error.kind() {
                ErrorKind::Transient
                | ErrorKind::Timeout
                | ErrorKind::Limit
                | ErrorKind::Full
                | ErrorKind::Internal
                | ErrorKind::Cancelled => Then::Again,
                _ => Then::Stay,
            },
        };
        Ended::Badly(self.failure(error.kind(), error.to_string()), then)
    }

    /// Where dead letters come from that are to be run again.
    fn replays(&self, refreshes: Arc<Refreshes>) -> Result<Replays, String> {
        let failed = |error: std::io::Error| format!("the dead letters to be run again cannot be read: {error}");
        let book = self.world.letters.book(&self.record.tenant, &self.record.name).map_err(failed)?;
        let store = folder::replays_read(&self.world, &self.record).map_err(failed)?;
        Ok(Replays(Arc::new(LetterSourcePlan::new(Queue::new(Arc::new(store), book), Some(refreshes)))))
    }

    /// Plans, opens and runs the pipeline once.
    async fn run_once(&mut self) -> Ended {
        self.set(Status::Starting);
        let (world, record) = (self.world.clone(), self.record.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let PipelineRecord { tenant, name, syntax, document, trust, .. } = &record;
            prepare(&world, tenant, name, *syntax, document, *trust, Purpose::Run(&record))
        });
        let prepared = match prepared.await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(problems)) => {
                let message = "the document is not right any more".to_owned();
                let failure = Failure { problems, ..self.failure(ErrorKind::Config, message) };
                return Ended::Badly(failure, Then::Stay);
            }
            Err(error) => return Ended::Badly(self.failure(ErrorKind::Internal, error.to_string()), Then::Again),
        };
        let store = match folder::checkpoints(&self.world, &self.record) {
            Ok(store) => Arc::new(store),
            Err(error) => return self.of_job(&error.into()),
        };
        let state_bytes_max = match self.world.meta.tenant(&self.record.tenant) {
            Ok(Some(tenant)) => tenant.limits.pipeline_state_bytes_max.as_usize(),
            Ok(None) => return Ended::Well(End::Stopped),
            Err(error) => return Ended::Badly(self.failure(error.kind(), error.to_string()), Then::Again),
        };
        let defaults = JobOptions::default();
        let least = match built_in::is_built_in(&self.record) {
            true => built_in::CHECKPOINT_EACH * self.world.awake.count(),
            false => Duration::ZERO,
        };
        let checkpoint_interval = prepared.checkpoint_interval.map(|interval| interval.max(least));
        // Every incarnation has a store of its own, so an empty one means that all is to begin anew, also where a sink
        // knows of an earlier incarnation.
        let begin_anew = match store.list().await {
            Ok(names) => names.is_empty(),
            Err(error) => return self.of_job(&error.into()),
        };
        let replays = match self.replays(prepared.refreshes) {
            Ok(replays) => Some(replays),
            Err(message) => return Ended::Badly(self.failure(ErrorKind::Transient, message), Then::Again),
        };
        // What sinks are owed is on the disk of all tenants.
        let backlog_bytes_max = state_bytes_max as u64;
        let options =
            JobOptions { checkpoint_interval, state_bytes_max, backlog_bytes_max, begin_anew, replays, ..defaults };
        let plan = Arc::new(prepared.plan);
        self.view.lock().plan = Some(Arc::clone(&plan));
        let (begun, part) = (self.world.clock.now(), options.opening.clone());
        let opening = Job::open(&plan, Arc::clone(&store) as _, Arc::clone(&self.world.clock), options);
        tokio::pin!(opening);
        let opened = loop {
            tokio::select! {
                opened = &mut opening => break opened,
                () = wanted(&mut self.stopped) => return Ended::Well(End::Stopped),
                () = tokio::time::sleep(OPENED_WITHIN) => {}
            }
            let failure = part.part().map(|part| {
                let seconds = self.world.clock.now().since(begun).as_secs();
                self.failure(ErrorKind::Transient, format!("has not opened after {seconds} s what {part}"))
            });
            self.view.lock().opening = failure;
        };
        self.view.lock().opening = None;
        let job = match opened {
            Ok(job) => job,
            Err(error) => {
                // Nothing can be lost to one that has not read anything: what it names is simply not there.
                let has_read = matches!(plan.resumes(store.as_ref()).await, Ok(Some(_)));
                return match self.of_job(&error) {
                    Ended::Badly(failure, Then::Overrun) if !has_read => Ended::Badly(failure, Then::Stay),
                    ended => ended,
                };
            }
        };
        let control = job.control();
        {
            let mut view = self.view.lock();
            view.progress = Some(Arc::clone(job.progress()));
            view.rates = Rates::default();
            view.plan = Some(Arc::clone(&plan));
            view.status = Status::Running { since: self.world.clock.now() };
        }
        match self.once.take() {
            Some(Once::Keep(to, done)) => {
                let saving = control.savepoint(to);
                control.stop();
                tokio::spawn(async move {
                    // Nobody may be waiting any more.
                    let _ = done.send(saving.await);
                });
            }
            Some(Once::Settle) => {
                control.settle();
                self.once = Some(Once::Settle);
            }
            None => {}
        }
        *self.control.lock() = Some(control.clone());
        let running = weir_engine::run(job);
        tokio::pin!(running);
        let end = tokio::select! {
            end = &mut running => end,
            () = wanted(&mut self.stopped) => {
                control.stop();
                running.await
            }
        };
        *self.control.lock() = None;
        match end {
            Ok(end) => Ended::Well(end),
            Err(error) => self.of_job(&error),
        }
    }
}

/// Waits until the pipeline is to stop.
async fn wanted(stopped: &mut watch::Receiver<bool>) {
    // Whoever could say so is gone: as good as said.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Doubling from [`FIRST_WAIT`] to [`LONGEST_WAIT`], a quarter more or less, so that pipelines that failed together do
/// not come back together.
fn wait_before(attempt: u32) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    let [byte] = weir_base::random::bytes::<1>();
    whole * (192 + u32::from(byte) / 2) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        for (attempt, seconds) in [(1, 1), (2, 2), (5, 16), (7, 60), (40, 60)] {
            let wait = wait_before(attempt);
            let whole = Duration::from_secs(seconds);
            assert!(wait >= whole * 3 / 4 && wait < whole * 5 / 4, "{attempt}: {wait:?}");
        }
    }
}
