//! Decides epochs: asks for barriers, gathers what the tasks report, writes the manifest, and lets
//! sinks commit. One epoch is under way at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::channel::oneshot;
use parking_lot::Mutex;
use weir_base::Clock;
use weir_component::checkpoint::{CheckpointStore, Created};
use weir_component::operator::OperatorState;
use weir_component::sink::{Decision, Receipt};
use weir_component::source::{Share, SourcePosition};

use crate::error::JobError;
use crate::job::{Backoff, End, Turn};
use crate::lane::Waker;
use crate::manifest::{Manifest, SourceState};
use crate::pace::{Cost, News, Pace};
use crate::recovery::{epoch_name, is_epoch, is_state, state_name};
use crate::savepoint::{Saved, savepoint};
use crate::stats::Progress;
use crate::time::SourceTime;
use crate::writing::{Shelves, Writing};

/// How a job comes to an end after an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All input has been read: windows close.
    Finish,
    /// Somebody wants it to stop: it can go on later.
    Stop,
}

/// A barrier that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) epoch: u64,
    pub(crate) ending: Option<Ending>,
}

/// What a sink that decides is to commit: the decision, and the shares of sources in it.
pub(crate) type Proposal = (Decision, Vec<Share>);

/// What a task has to say. `is_left`: there are dead letters of the next epoch.
#[derive(Debug)]
pub(crate) enum Report {
    Source { source: usize, epoch: u64, position: SourcePosition, time: SourceTime, share: Option<Share> },
    SourceDone,
    Chain { chain: usize, instance: usize, epoch: u64, states: Vec<(String, OperatorState)>, times: ChainTimes },
    Sink { sink: usize, epoch: u64, receipt: Receipt },
    Decided { epoch: u64 },
    Committed { epoch: u64, is_left: bool },
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
    reports: Mutex<Vec<Report>>,
    request: Mutex<Option<Request>>,
    /// What the sink that decides, if there is one, is to decide next.
    proposed: Mutex<Option<Proposal>>,
    /// The newest epoch that was decided.
    decided: AtomicU64,
    /// The newest epoch that is committed by all sinks, with the positions in it.
    committed: Mutex<Option<(u64, Vec<SourcePosition>)>>,
    stop: AtomicU64,
    /// The last epoch is committed by all sinks.
    over: AtomicBool,
    /// Who wants the next checkpoint to be kept.
    savepoints: Mutex<Vec<Wish>>,
    /// A source does not want to wait for the next checkpoint.
    hurry: AtomicBool,
    /// The newest epoch in which rows were read.
    read: AtomicU64,
    /// The newest epoch in which a source came further on, be it without a row.
    moved: AtomicU64,
    /// By sink: the newest epoch in which it was given rows that its commit shows.
    filled: Vec<AtomicU64>,
    coordinator: Waker,
    tasks: Mutex<Vec<Waker>>,
}

impl Board {
    /// A board for so many sinks.
    pub(crate) fn new(n_sinks: usize) -> Self {
        Self { filled: (0..n_sinks).map(|_| AtomicU64::new(0)).collect(), ..Self::default() }
    }

    /// Rows were read that belong to `epoch`.
    pub(crate) fn has_read(&self, epoch: u64) {
        self.note(&self.read, epoch);
    }

    /// A source has come further on in `epoch`, past nothing that is for it.
    pub(crate) fn has_moved(&self, epoch: u64) {
        self.note(&self.moved, epoch);
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

    fn wake_tasks(&self) {
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
        self.stop.store(1, Ordering::Release);
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
}

/// Somebody who wants a checkpoint to be kept.
pub(crate) struct Wish {
    /// Where.
    pub(crate) to: Arc<dyn CheckpointStore>,
    /// Is told what came of it.
    pub(crate) done: oneshot::Sender<Result<Saved, JobError>>,
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Wish").finish_non_exhaustive()
    }
}

/// What was reported of the epoch under way.
#[derive(Debug, Default)]
struct Gathered {
    sources: BTreeMap<usize, (SourcePosition, SourceTime)>,
    shares: BTreeMap<usize, Share>,
    chains: BTreeMap<(usize, usize), (Vec<(String, OperatorState)>, ChainTimes)>,
    sinks: BTreeMap<usize, Receipt>,
    decided: bool,
    committed: usize,
    /// Sinks have dead letters that belong to the next epoch.
    is_left: bool,
}

enum Phase {
    /// Since this time.
    Resting(Duration),
    /// A barrier flows; since this time.
    Gathering(Duration),
    /// Everything was reported; states and then the manifest are being written.
    Writing(Box<Writing>),
    /// The manifest is written as a proposal; the sink that decides commits.
    Deciding(Decision),
    /// The epoch is decided; sinks commit.
    Committing,
}

/// The sink that decides, and what it decided.
#[derive(Clone, Debug)]
pub(crate) struct Deciding {
    /// Its id.
    pub(crate) sink: String,
    /// The newest decision.
    pub(crate) last: Option<Decision>,
    /// A decision that does not count any more.
    pub(crate) forgotten: Option<Decision>,
}

pub(crate) struct Coordinator {
    pub(crate) pipeline: String,
    pub(crate) generation: u64,
    pub(crate) writer: String,
    pub(crate) fingerprints: BTreeMap<String, String>,
    pub(crate) source_ids: Vec<String>,
    pub(crate) sink_ids: Vec<String>,
    /// How many chain instances report.
    pub(crate) n_chains: usize,
    /// By sink: how much time it wants from one commit to the next; `None` if its rows are shown without.
    pub(crate) commit_intervals: Vec<Option<Duration>>,
    pace: Pace,
    pub(crate) store: Arc<dyn CheckpointStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) board: Arc<Board>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) backoff: Backoff,
    pub(crate) deciding: Option<Deciding>,
    /// Which of those it is that run the pipeline at once, where several do.
    pub(crate) member: Option<String>,
    /// The newest epoch, under way or decided.
    epoch: u64,
    /// When the newest one began.
    began: Duration,
    ending: Option<Ending>,
    n_done: usize,
    phase: Phase,
    /// What is in the store of the states of the epoch before, which need not be written again.
    shelves: Shelves,
    gathered: Gathered,
    /// Objects of the epoch before, to be removed.
    old: Vec<String>,
}

impl Coordinator {
    #[expect(clippy::too_many_arguments, reason = "it is put together in one place, with names")]
    pub(crate) fn new(
        pipeline: String,
        generation: u64,
        writer: String,
        epoch: u64,
        fingerprints: BTreeMap<String, String>,
        source_ids: Vec<String>,
        sink_ids: Vec<String>,
        n_chains: usize,
        (interval, commit_intervals): (Option<Duration>, Vec<Option<Duration>>),
        store: Arc<dyn CheckpointStore>,
        clock: Arc<dyn Clock>,
        board: Arc<Board>,
        progress: Arc<Progress>,
        backoff: Backoff,
        deciding: Option<Deciding>,
    ) -> Self {
        let now = clock.monotonic();
        board.decided.store(epoch, Ordering::Release);
        Self {
            pipeline,
            generation,
            writer,
            fingerprints,
            source_ids,
            sink_ids,
            n_chains,
            commit_intervals,
            pace: Pace::new(interval),
            store,
            clock,
            board,
            progress,
            backoff,
            deciding,
            member: None,
            epoch,
            began: now,
            ending: None,
            n_done: 0,
            phase: Phase::Resting(now),
            shelves: Shelves::default(),
            gathered: Gathered::default(),
            old: Vec::new(),
        }
    }

    /// How the job has ended, once it has.
    pub(crate) fn end(&self) -> Option<End> {
        match (&self.phase, self.ending) {
            (Phase::Resting(_), Some(ending)) if self.board.is_over() => Some(match ending {
                Ending::Finish => End::Finished,
                Ending::Stop => End::Stopped,
            }),
            _ => None,
        }
    }

    /// Does one thing. Must not be dropped before it is done.
    pub(crate) async fn turn(&mut self) -> Result<Turn, JobError> {
        self.take_reports();
        match &self.phase {
            Phase::Resting(_) if self.board.is_over() => Ok(Turn::Finished),
            Phase::Resting(since) => {
                let ending = if self.ending.is_some() {
                    // What the last epoch has left is one more.
                    self.ending
                } else if self.n_done == self.source_ids.len() {
                    Some(Ending::Finish)
                } else if self.board.is_stopping() {
                    Some(Ending::Stop)
                } else {
                    None
                };
                let rested = self.clock.monotonic().saturating_sub(self.pace.since(self.began, *since));
                let is_hurried = self.board.hurry.load(Ordering::Acquire);
                if ending.is_none() && !is_hurried {
                    match self.pace.interval(self.news()) {
                        None => return Ok(Turn::Wait),
                        Some(interval) if rested < interval => return Ok(Turn::Sleep(interval.saturating_sub(rested))),
                        Some(_) => {}
                    }
                }
                // A source that asks from here on may mean what comes after this barrier.
                self.board.hurry.store(false, Ordering::Release);
                self.epoch += 1;
                self.ending = ending;
                self.gathered = Gathered::default();
                self.began = self.clock.monotonic();
                self.phase = Phase::Gathering(self.began);
                *self.board.request.lock() = Some(Request { epoch: self.epoch, ending });
                self.board.wake_tasks();
                Ok(Turn::Worked)
            }
            Phase::Gathering(since) => {
                let is_whole = self.gathered.sources.len() == self.source_ids.len()
                    && self.gathered.chains.len() == self.n_chains
                    && self.gathered.sinks.len() == self.sink_ids.len();
                if !is_whole {
                    return Ok(Turn::Wait);
                }
                let took = self.clock.monotonic().saturating_sub(*since);
                self.progress.checkpoint_ns.store(u64::try_from(took.as_nanos()).unwrap_or(0), Ordering::Relaxed);
                let states = self.gathered.chains.iter().flat_map(|((_, instance), (states, _))| {
                    states.iter().map(|(id, state)| ((id.clone(), *instance), state.clone()))
                });
                self.phase = Phase::Writing(Box::new(Writing::begin(states)));
                Ok(Turn::Worked)
            }
            Phase::Writing(_) => match self.write().await {
                Ok(None) => {
                    self.backoff.reset();
                    Ok(Turn::Worked)
                }
                Ok(Some(proposal)) => {
                    self.backoff.reset();
                    match proposal {
                        Some(decision) => {
                            let shares = self.gathered.shares.values().cloned().collect();
                            *self.board.proposed.lock() = Some((decision.clone(), shares));
                            self.phase = Phase::Deciding(decision);
                            self.board.wake_tasks();
                        }
                        None => self.decided(),
                    }
                    Ok(Turn::Worked)
                }
                Err(JobError::Checkpoint { kind, message }) if JobError::may_pass(kind) => {
                    self.backoff.next(JobError::Checkpoint { kind, message })
                }
                Err(error) => Err(error),
            },
            Phase::Deciding(decision) => {
                if !self.gathered.decided {
                    return Ok(Turn::Wait);
                }
                if let Some(deciding) = &mut self.deciding {
                    deciding.last = Some(decision.clone());
                }
                self.decided();
                Ok(Turn::Worked)
            }
            Phase::Committing => {
                if self.gathered.committed < self.sink_ids.len() {
                    return Ok(Turn::Wait);
                }
                let positions = self.gathered.sources.values().map(|(position, _)| position.clone()).collect();
                *self.board.committed.lock() = Some((self.epoch, positions));
                self.progress.epoch.store(self.epoch, Ordering::Relaxed);
                if self.ending.is_some() && !self.gathered.is_left {
                    self.board.over.store(true, Ordering::Release);
                }
                self.board.wake_tasks();
                self.keep().await;
                self.clean().await;
                self.phase = Phase::Resting(self.clock.monotonic());
                Ok(Turn::Worked)
            }
        }
    }

    /// What has come since the newest epoch.
    fn news(&self) -> News {
        let is_new = |newest: &AtomicU64| newest.load(Ordering::Acquire) > self.epoch;
        let waiting = self.board.filled.iter().zip(&self.commit_intervals).filter(|(newest, _)| is_new(newest));
        if let Some(slowest) = waiting.filter_map(|(_, interval)| *interval).max() {
            News::Results(slowest)
        } else if is_new(&self.board.read) {
            News::Rows
        } else if is_new(&self.board.moved) {
            News::Moved
        } else {
            News::Nothing
        }
    }

    /// The epoch counts: sinks show what they have prepared.
    fn decided(&mut self) {
        self.phase = Phase::Committing;
        self.board.decided.store(self.epoch, Ordering::Release);
        self.board.wake_tasks();
    }

    fn take_reports(&mut self) {
        let reports = std::mem::take(&mut *self.board.reports.lock());
        let current = self.epoch;
        for report in reports {
            match report {
                Report::SourceDone => self.n_done += 1,
                Report::Source { source, epoch, position, time, share } => {
                    assert_eq!(epoch, current, "tasks report the epoch under way");
                    self.gathered.shares.extend(share.map(|share| (source, share)));
                    self.gathered.sources.insert(source, (position, time));
                }
                Report::Chain { chain, instance, epoch, states, times } => {
                    assert_eq!(epoch, current, "tasks report the epoch under way");
                    self.gathered.chains.insert((chain, instance), (states, times));
                }
                Report::Sink { sink, epoch, receipt } => {
                    assert_eq!(epoch, current, "tasks report the epoch under way");
                    self.gathered.sinks.insert(sink, receipt);
                }
                Report::Decided { epoch } => {
                    assert_eq!(epoch, current, "tasks report the epoch under way");
                    self.gathered.decided = true;
                }
                Report::Committed { epoch, is_left } => {
                    assert_eq!(epoch, current, "tasks report the epoch under way");
                    self.gathered.committed += 1;
                    self.gathered.is_left |= is_left;
                }
            }
        }
    }

    /// Does some of what there is to write: states, then the manifest. May be called again after it failed: what an
    /// attempt left is taken for what it is, since a name says generation, epoch and instance. Returns, once all is
    /// written, what is left to be decided by a sink, if one decides.
    async fn write(&mut self) -> Result<Option<Option<Decision>>, JobError> {
        let Phase::Writing(writing) = &mut self.phase else { return Ok(None) };
        let (own, writer) = ((self.generation, self.epoch), &self.writer);
        let name = |(step, instance): &(String, usize)| state_name(own, writer, step, *instance);
        if !writing.go_on((self.store.as_ref(), self.clock.as_ref()), &self.shelves, name).await? {
            return Ok(None);
        }
        let begun = self.clock.monotonic();
        let mut manifest = Manifest::new(&self.pipeline, self.generation, self.epoch, self.clock.now().0);
        manifest.writer.clone_from(&self.writer);
        manifest.member.clone_from(&self.member);
        manifest.finished = self.ending == Some(Ending::Finish);
        manifest.fingerprints = self.fingerprints.clone();
        for (states, times) in self.gathered.chains.values() {
            for (at, (id, _)) in states.iter().enumerate() {
                let step = manifest.steps.entry(id.clone()).or_default();
                step.watermark = times.told;
                step.reached = (at == 0).then_some(times.reached);
                step.objects = writing.objects(id);
            }
        }
        for (index, (position, time)) in &self.gathered.sources {
            let state = SourceState { position: position.clone(), time: time.clone() };
            manifest.sources.insert(self.source_ids[*index].clone(), state);
        }
        for (index, receipt) in &self.gathered.sinks {
            manifest.sinks.insert(self.sink_ids[*index].clone(), receipt.clone());
        }
        let mut proposal = None;
        if let Some(Deciding { sink, last, forgotten }) = &self.deciding {
            manifest.seen.clone_from(last);
            manifest.forgotten.clone_from(forgotten);
            proposal = Some(manifest.propose(sink)?);
        }
        let name = epoch_name(self.epoch);
        let bytes = manifest.encode()?;
        if self.store.create(&name, &bytes).await? == Created::Now {
            // One that was removed can be written again; whoever has removed it has gone on from there.
            let newest = self.store.list().await?.iter().filter_map(|name| is_epoch(name)).max();
            if newest.is_some_and(|newest| newest > self.epoch) {
                return Err(JobError::Fenced { generation: self.generation + 1 });
            }
        } else {
            // Either an attempt before this one succeeded and its answer was lost, or another process was quicker.
            let Some(there) = self.store.read(&name).await? else {
                return Err(JobError::Fenced { generation: self.generation + 1 });
            };
            let other = Manifest::decode(&name, &there)?;
            if other.writer != self.writer {
                return Err(JobError::Fenced { generation: other.generation });
            }
            // It differs in the time it was written at.
            proposal = proposal.map(|_| other.decision());
        }
        let Writing { encoding, storing, bytes, .. } = **writing;
        self.progress.checkpoint_bytes.store(writing.state_bytes(), Ordering::Relaxed);
        self.shelves = std::mem::take(&mut **writing).finish();
        let taking: u64 = self.progress.steps.iter().map(|(_, step)| step.snapshot_ns.load(Ordering::Relaxed)).sum();
        let writing = storing + self.clock.monotonic().saturating_sub(begun);
        self.pace.made(Cost { work: encoding + Duration::from_nanos(taking), writing, bytes });
        Ok(Some(proposal))
    }

    /// Copies the epoch that was just committed for those who want to keep it.
    async fn keep(&self) {
        let wishes = std::mem::take(&mut *self.board.savepoints.lock());
        for Wish { to, done } in wishes {
            // Nobody may be waiting any more.
            let _ = done.send(savepoint(self.store.as_ref(), to.as_ref()).await);
        }
    }

    /// Removes what the committed epoch makes superfluous. What cannot be removed now is removed later.
    async fn clean(&mut self) {
        let Ok(names) = self.store.list().await else { return };
        let own = (self.generation, self.epoch);
        self.old.clear();
        for name in names {
            let is_old_epoch = is_epoch(&name).is_some_and(|epoch| epoch < self.epoch);
            let is_old_state = is_state(&name).is_some_and(|state| state < own) && !self.shelves.need(&name);
            if is_old_epoch || is_old_state {
                self.old.push(name);
            }
        }
        // Manifests first: what a manifest names is there as long as it is.
        self.old.sort_by_key(|name| is_epoch(name).is_none());
        for name in &self.old {
            if let Err(error) = self.store.delete(name).await {
                tracing::debug!(pipeline = %self.pipeline, %error, "an old checkpoint could not be removed");
            }
        }
    }
}
