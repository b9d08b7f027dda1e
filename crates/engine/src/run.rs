//! Runs a job on Tokio: a task for each of its tasks.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinHandle;
use weir_base::ErrorKind;
use weir_component::checkpoint::CheckpointStore;
use weir_component::sink::SinkError;

use crate::board::{Board, Wish};
use crate::chain::ChainTask;
use crate::coordinator::Coordinator;
use crate::error::JobError;
use crate::job::{End, Job, Turn};
use crate::lane::Waker;
use crate::outbox_task::OutboxTask;
use crate::replay::ReplayTask;
use crate::savepoint::{Saved, savepoint};
use crate::sink_task::SinkTask;
use crate::sink_work::Work;
use crate::source_task::SourceTask;
use crate::whose::Whose;

/// Stops a running job from outside.
#[derive(Clone, Debug)]
pub struct Control {
    board: Arc<Board>,
}

impl Job {
    /// What stops this job.
    pub fn control(&self) -> Control {
        Control { board: Arc::clone(&self.board) }
    }
}

impl Control {
    /// Lets the job make one more checkpoint and end there. It can go on from it later.
    pub fn stop(&self) {
        self.board.stop();
    }

    /// Lets the job close what is open, as if all input had been read, put that out as final, make one more checkpoint and
    /// end; one that has not begun reads nothing. Nobody goes on from it; another pipeline may begin where it stood
    /// ([`crate::begin_at`]).
    pub fn settle(&self) {
        self.board.settle();
    }

    /// Lets the job make a checkpoint now, and copies it into `to`, which is empty.
    ///
    /// # Errors
    /// If it cannot be copied, or the job ends before.
    pub fn savepoint(&self, to: Arc<dyn CheckpointStore>) -> BoxFuture<'static, Result<Saved, JobError>> {
        let (done, result) = oneshot::channel();
        self.board.keep(Wish { to, done, is_again: false });
        let ended = || JobError::Checkpoint {
            kind: ErrorKind::Conflict,
            message: "the pipeline ended before its next checkpoint".to_owned(),
        };
        result.map(move |result| result.unwrap_or_else(|_| Err(ended()))).boxed()
    }
}

/// Keeps a checkpoint of a pipeline that does not run, in `to`, which is empty. The newest one says what was decided, and not
/// whether sinks have done their part of it, nor is what they have to do it with part of a savepoint: so the job runs until they
/// have, makes one more checkpoint before it reads anything, and stops.
///
/// # Errors
/// Those of the job, or if the checkpoint cannot be copied.
pub async fn keep(job: Job, to: Arc<dyn CheckpointStore>) -> Result<Saved, JobError> {
    if job.is_finished() {
        let store = Arc::clone(&job.coordinator.store);
        // They were asked to when they were opened.
        drop(job);
        return savepoint(store.as_ref(), to.as_ref()).await;
    }
    let control = job.control();
    let saving = control.savepoint(to);
    control.stop();
    run(job).await?;
    saving.await
}

/// Ends a task when it is not waited for any more.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a job to its end. Dropping the future stops everything the job started, as a crash would:
/// what was committed stays, the rest is done again by the next start.
///
/// # Errors
/// The first error of a task; all others are stopped.
pub async fn run(job: Job) -> Result<End, JobError> {
    if job.is_finished() {
        // Sinks have settled its last epoch when they were opened.
        return Ok(End::Finished);
    }
    let Job { sources, replay, chains, sinks, outboxes, mut coordinator, .. } = job;
    if coordinator.board.is_stopping() {
        // One that is to stop before it has begun reads nothing.
        coordinator.turn().await?;
    }
    let mut tasks: FuturesUnordered<BoxFuture<'static, Result<(), JobError>>> = FuturesUnordered::new();
    // What pushes does not live on: the whole can be sent to another thread.
    {
        let spawn = |future: BoxFuture<'static, Result<(), JobError>>| {
            let mut task = Owned(tokio::spawn(Whose::along(future)));
            tasks.push(Box::pin(async move {
                match (&mut task.0).await {
                    Ok(result) => result,
                    Err(error) if error.is_panic() => {
                        Err(JobError::internal("pipeline", "a task panicked, which is a bug"))
                    }
                    Err(_) => Ok(()),
                }
            }));
        };
        for source in sources {
            spawn(Box::pin(run_source(source)));
        }
        if let Some(replay) = replay {
            spawn(Box::pin(run_replay(replay)));
        }
        for chain in chains {
            spawn(Box::pin(run_chain(chain)));
        }
        for sink in sinks {
            spawn(Box::pin(run_sink(sink)));
        }
        for outbox in outboxes {
            spawn(Box::pin(run_outbox(outbox)));
        }
    }
    let coordinating = AssertUnwindSafe(coordinate(&mut coordinator)).catch_unwind();
    tokio::pin!(coordinating);
    let mut end = None;
    loop {
        tokio::select! {
            result = &mut coordinating, if end.is_none() => {
                end = Some(result.unwrap_or_else(|_| Err(JobError::internal("pipeline", "the coordinator panicked, which is a bug")))?);
            }
            Some(result) = tasks.next() => result?,
            else => break,
        }
        if let Some(end) = end
            && tasks.is_empty()
        {
            return Ok(end);
        }
    }
    end.ok_or_else(|| JobError::internal("pipeline", "all tasks ended and the job did not"))
}

async fn coordinate(coordinator: &mut Coordinator) -> Result<End, JobError> {
    let waker = coordinator.board.coordinator();
    loop {
        let turn = coordinator.turn().await?;
        if let Some(end) = coordinator.end() {
            return Ok(end);
        }
        rest(turn, &waker).await;
    }
}

/// Waits as a turn says.
async fn rest(turn: Turn, waker: &Waker) {
    match turn {
        Turn::Worked => tokio::task::yield_now().await,
        Turn::Wait => waker.wait().await,
        Turn::Sleep(time) => {
            let _ = tokio::time::timeout(time.max(Duration::from_millis(1)), waker.wait()).await;
        }
        Turn::Finished => {}
    }
}

async fn run_source(mut task: SourceTask) -> Result<(), JobError> {
    let waker = task.waker.clone();
    loop {
        // A source may take long to answer; a barrier does not wait for it.
        let turn = tokio::select! {
            biased;
            turn = task.turn() => turn?,
            () = waker.wait() => continue,
        };
        match turn {
            Turn::Finished => return Ok(()),
            turn => rest(turn, &waker).await,
        }
    }
}

async fn run_replay(mut task: ReplayTask) -> Result<(), JobError> {
    let waker = task.waker.clone();
    loop {
        let turn = tokio::select! {
            biased;
            turn = task.turn() => turn?,
            () = waker.wait() => continue,
        };
        match turn {
            Turn::Finished => return Ok(()),
            turn => rest(turn, &waker).await,
        }
    }
}

async fn run_chain(mut task: ChainTask) -> Result<(), JobError> {
    let waker = task.waker.clone();
    loop {
        match task.turn()? {
            Turn::Finished => return Ok(()),
            turn => rest(turn, &waker).await,
        }
    }
}

/// Lets a sink work on another thread: however long it takes, also without ever waiting, epochs go on without it.
fn beside(work: Work) -> Work {
    let mut task = Owned(tokio::spawn(Whose::along(work)));
    Box::pin(async move {
        (&mut task.0)
            .await
            .unwrap_or_else(|_| (None, Err(SinkError::new(ErrorKind::Internal, "it panicked, which is a bug"))))
    })
}

async fn run_outbox(mut task: OutboxTask) -> Result<(), JobError> {
    task.runs = beside;
    let waker = task.end.waker.clone();
    loop {
        match task.turn().await? {
            Turn::Finished => return Ok(()),
            turn => tokio::select! {
                () = rest(turn, &waker) => {}
                () = task.work_done() => {}
            },
        }
    }
}

async fn run_sink(mut task: SinkTask) -> Result<(), JobError> {
    let waker = task.end.waker.clone();
    loop {
        match task.turn().await? {
            Turn::Finished => return Ok(()),
            turn => rest(turn, &waker).await,
        }
    }
}
