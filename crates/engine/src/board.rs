//! What the tasks of a job and its coordinator tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::channel::oneshot;
use parking_lot::Mutex;
use weir_component::checkpoint::CheckpointStore;
use weir_component::operator::OperatorState;
use weir_component::sink::{Decision, Receipt};
use weir_component::source::{Share, SourcePosition};

use crate::error::JobError;
use crate::lane::Waker;
use crate::outbox::OutboxState;
use crate::savepoint::Saved;
use crate::time::SourceTime;

/// How a job comes to an end after an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All input has been read: windows close.
    Finish,
    /// Somebody wants it to stop: it can go on later.
    Stop,
}

/// It is to stop after one more epoch, and can go on later.
const STOP: u64 = 1;
/// The same, and what is open is closed as if all input had been read.
const SETTLE: u64 = 2;

/// A barrier that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) epoch: u64,
    pub(crate) ending: Option<Ending>,
}

/// What a sink that decides is to commit: the decision, and the shares of sources in it.
pub(crate) type Proposal = (Decision, Vec<Share>);

/// What a task has to say.
#[derive(Debug)]
pub(crate) enum Report {
    Source {
        source: usize,
        epoch: u64,
        position: SourcePosition,
        time: SourceTime,
        share: Option<Share>,
    },
    SourceDone,
    Chain {
        chain: usize,
        instance: usize,
        epoch: u64,
        states: Vec<(String, OperatorState)>,
        times: ChainTimes,
    },
    /// The last receipt of the sink, and what it is owed after it if that is not all.
    Sink {
        sink: usize,
        epoch: u64,
        receipt: Option<Receipt>,
        outbox: Option<OutboxState>,
    },
    Decided {
        epoch: u64,
    },
    /// `is_late`: not yet, and the epoch does not wait for it. `is_left`: there is more to be done, in a later epoch: rows
    /// the sink is owed, or dead letters.
    Committed {
        epoch: u64,
        is_late: bool,
        is_left: bool,
    },
}

/// How far time has come in a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChainTimes {
    /// In what comes to it.
    pub(crate) reached: i64,
    /// In what it puts out.
    pub(crate) told: i64,
}

/// What the coordinator and the tasks tell each other.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) reports: Mutex<Vec<Report>>,
    pub(crate) request: Mutex<Option<Request>>,
    /// What the sink that decides, if there is one, is to decide next.
    pub(crate) proposed: Mutex<Option<Proposal>>,
    /// The newest epoch that was decided.
    pub(crate) decided: AtomicU64,
    /// The newest epoch that is committed by all sinks, with the positions in it.
    pub(crate) committed: Mutex<Option<(u64, Vec<SourcePosition>)>>,
    /// [`STOP`] or [`SETTLE`], once somebody wants it to end.
    pub(crate) stop: AtomicU64,
    /// No further epoch comes.
    pub(crate) over: AtomicBool,
    /// Who wants the next checkpoint to be kept.
    pub(crate) savepoints: Mutex<Vec<Wish>>,
    /// A source does not want to wait for the next checkpoint.
    pub(crate) hurry: AtomicBool,
    /// The newest epoch in which rows were read.
    pub(crate) read: AtomicU64,
    /// The newest epoch in which a sink was given rows.
    pub(crate) shown: AtomicU64,
    /// The newest epoch in which a source came further on, be it without a row.
    pub(crate) moved: AtomicU64,
    /// By sink: the newest epoch in which it was given rows that its commit shows.
    pub(crate) filled: Vec<AtomicU64>,
    /// By sink, of those that are given results: it waits for more.
    ready: Vec<AtomicBool>,
    pub(crate) coordinator: Waker,
    pub(crate) tasks: Mutex<Vec<Waker>>,
}

impl Board {
    /// A board for so many sinks, so many of which are given results: they come first.
    pub(crate) fn new(n_sinks: usize, n_results: usize) -> Self {
        let filled = (0..n_sinks).map(|_| AtomicU64::new(0)).collect();
        let ready = (0..n_results).map(|_| AtomicBool::new(false)).collect();
        Self { filled, ready, ..Self::default() }
    }

    /// A sink waits for more, or does not any more.
    pub(crate) fn note_ready(&self, sink: usize, is_ready: bool) {
        if let Some(ready) = self.ready.get(sink)
            && ready.load(Ordering::Relaxed) != is_ready
        {
            ready.store(is_ready, Ordering::Relaxed);
        }
    }

    /// Whether another sink waits for more.
    pub(crate) fn others_wait(&self, sink: usize) -> bool {
        self.ready.iter().enumerate().any(|(other, ready)| other != sink && ready.load(Ordering::Relaxed))
    }

    /// Rows were read that belong to `epoch`.
    pub(crate) fn has_read(&self, epoch: u64) {
        self.note(&self.read, epoch);
    }

    /// A source has come further on in `epoch`, past nothing that is for it.
    pub(crate) fn has_moved(&self, epoch: u64) {
        self.note(&self.moved, epoch);
    }

    /// A sink was given rows in `epoch`.
    pub(crate) fn has_shown(&self, epoch: u64) {
        self.shown.fetch_max(epoch, Ordering::AcqRel);
    }

    /// A sink was given rows that are shown when `epoch` is committed.
    pub(crate) fn has_filled(&self, sink: usize, epoch: u64) {
        self.note(&self.filled[sink], epoch);
    }

    fn note(&self, newest: &AtomicU64, epoch: u64) {
        // Mostly it is known: nothing is written then, and nobody woken.
        if newest.load(Ordering::Acquire) < epoch && newest.fetch_max(epoch, Ordering::AcqRel) < epoch {
            self.coordinator.wake();
        }
    }

    pub(crate) fn coordinator(&self) -> Waker {
        self.coordinator.clone()
    }

    pub(crate) fn add_task(&self, waker: Waker) {
        self.tasks.lock().push(waker);
    }

    pub(crate) fn wake_tasks(&self) {
        for task in self.tasks.lock().iter() {
            task.wake();
        }
    }

    pub(crate) fn report(&self, report: Report) {
        self.reports.lock().push(report);
        self.coordinator.wake();
    }

    /// The barrier a source that has sent `epoch` is to send next.
    pub(crate) fn requested(&self, epoch: u64) -> Option<Request> {
        self.request.lock().filter(|request| request.epoch > epoch)
    }

    pub(crate) fn decided(&self) -> u64 {
        self.decided.load(Ordering::Acquire)
    }

    /// Whether the newest epoch that was asked for is the last one, or what that has left.
    pub(crate) fn is_ending(&self) -> bool {
        self.request.lock().is_some_and(|request| request.ending.is_some())
    }

    /// The same, because all input was read.
    pub(crate) fn is_finishing(&self) -> bool {
        self.request.lock().is_some_and(|request| request.ending == Some(Ending::Finish))
    }

    /// Whether somebody waits for a checkpoint that all sinks have committed.
    pub(crate) fn has_wishes(&self) -> bool {
        !self.savepoints.lock().is_empty()
    }

    /// The same, or it is better if they have: the job stops.
    pub(crate) fn wants_all(&self) -> bool {
        self.request.lock().is_some_and(|request| request.ending == Some(Ending::Stop)) || self.has_wishes()
    }

    /// The proposal for an epoch.
    pub(crate) fn proposed(&self, epoch: u64) -> Option<Proposal> {
        self.proposed.lock().clone().filter(|(decision, _)| decision.epoch == epoch)
    }

    /// Asks for a checkpoint now.
    pub(crate) fn hurry(&self) {
        if !self.hurry.swap(true, Ordering::AcqRel) {
            self.coordinator.wake();
        }
    }

    /// What a source that knows of `epoch` is to be told.
    pub(crate) fn to_commit(&self, source: usize, epoch: u64) -> Option<(u64, SourcePosition)> {
        let committed = self.committed.lock();
        let (newest, positions) = committed.as_ref()?;
        (*newest > epoch).then(|| (*newest, positions[source].clone()))
    }

    /// Asks the job to stop after one more epoch.
    pub(crate) fn stop(&self) {
        self.stop.store(STOP, Ordering::Release);
        self.coordinator.wake();
    }

    /// Asks the job to end after one more epoch as it would if all input had been read.
    pub(crate) fn settle(&self) {
        self.stop.store(SETTLE, Ordering::Release);
        self.coordinator.wake();
    }

    /// Wants the next checkpoint to be kept.
    pub(crate) fn keep(&self, wish: Wish) {
        self.savepoints.lock().push(wish);
        self.hurry.store(true, Ordering::Release);
        self.coordinator.wake();
    }

    /// Whether no further epoch comes.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire) > 0
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.stop.load(Ordering::Acquire) == SETTLE
    }
}

/// Somebody who wants a checkpoint to be kept.
pub(crate) struct Wish {
    /// Where.
    pub(crate) to: Arc<dyn CheckpointStore>,
    /// Is told what came of it.
    pub(crate) done: oneshot::Sender<Result<Saved, JobError>>,
    /// A checkpoint was made for it that sinks were not part of.
    pub(crate) is_again: bool,
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Wish").finish_non_exhaustive()
    }
}
