//! Decides epochs: asks for barriers, gathers what the tasks report, writes the manifest, and lets
//! sinks commit. One epoch is under way at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weir_base::Clock;
use weir_component::checkpoint::{CheckpointStore, Created};
use weir_component::operator::OperatorState;
use weir_component::sink::{Decision, Receipt};
use weir_component::source::{Share, SourcePosition};

use crate::board::{Board, ChainTimes, Ending, Report, Request, Wish};
use crate::error::JobError;
use crate::job::{Backoff, End, Turn};
use crate::manifest::{Manifest, SourceState};
use crate::outbox::{OutboxState, is_outbox};
use crate::pace::{Cost, News, Pace};
use crate::recovery::{epoch_name, is_epoch, is_state, state_name};
use crate::savepoint::{owed, savepoint};
use crate::states::ObjectRef;
use crate::stats::Progress;
use crate::time::SourceTime;
use crate::writing::{Shelves, Writing};

/// What was reported of the epoch under way.
#[derive(Debug, Default)]
struct Gathered {
    sources: BTreeMap<usize, (SourcePosition, SourceTime)>,
    shares: BTreeMap<usize, Share>,
    chains: BTreeMap<(usize, usize), (Vec<(String, OperatorState)>, ChainTimes)>,
    sinks: BTreeMap<usize, (Option<Receipt>, Option<OutboxState>)>,
    decided: bool,
    committed: usize,
    /// Sinks have not committed, and are not waited for.
    is_late: bool,
    /// There is something that belongs to the next epoch: dead letters, or rows sinks are owed.
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
    /// By source: which part of what is there it reads.
    pub(crate) source_parts: Vec<Option<String>>,
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
    /// What all its epochs are counted in.
    pub(crate) lineage: String,
    /// The newest epoch in which an earlier start has read rows.
    pub(crate) read_before: u64,
    /// The same of rows that were given to a sink.
    pub(crate) shown_before: u64,
    /// As in the manifest it began with.
    pub(crate) unsure: u64,
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
            source_parts: Vec::new(),
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
            lineage: String::new(),
            read_before: 0,
            shown_before: 0,
            unsure: 0,
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

    /// The epoch that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.epoch + 1
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
                let is_hurried = self.board.hurry.load(Ordering::Acquire);
                let is_stopping = self.board.is_stopping() && !self.board.is_settling();
                if self.ending == Some(Ending::Finish) && is_stopping && !is_hurried {
                    // What sinks are owed, the next start gives them.
                    self.ending = Some(Ending::Stop);
                    self.board.over.store(true, Ordering::Release);
                    self.board.wake_tasks();
                    return Ok(Turn::Finished);
                }
                let ending = if self.ending.is_some() {
                    // What the last epoch has left is one more, once it is worth while.
                    self.ending
                } else if self.n_done == self.source_ids.len() || self.board.is_settling() {
                    Some(Ending::Finish)
                } else if self.board.is_stopping() {
                    Some(Ending::Stop)
                } else {
                    None
                };
                let rested = self.clock.monotonic().saturating_sub(self.pace.since(self.began, *since));
                if ending == self.ending && !is_hurried {
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
                Report::Sink { sink, epoch, receipt, outbox } => {
                    assert_eq!(epoch, current, "tasks report the epoch under way");
                    self.gathered.sinks.insert(sink, (receipt, outbox));
                }
                Report::Decided { epoch } => {
                    assert_eq!(epoch, current, "tasks report the epoch under way");
                    self.gathered.decided = true;
                }
                Report::Committed { epoch, is_late, is_left } => {
                    assert_eq!(epoch, current, "tasks report the epoch under way");
                    self.gathered.committed += 1;
                    self.gathered.is_late |= is_late;
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
        manifest.lineage.clone_from(&self.lineage);
        // Rows that are read meanwhile belong to the next one: known all the same, should nothing come of that.
        manifest.read = self.read_before.max(self.board.read.load(Ordering::Acquire));
        manifest.shown = self.shown_before.max(self.board.shown.load(Ordering::Acquire));
        manifest.unsure = self.unsure;
        manifest.ended = self.ending.is_some();
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
            let part = self.source_parts.get(*index).cloned().flatten();
            let state = SourceState { position: position.clone(), time: time.clone(), part };
            manifest.sources.insert(self.source_ids[*index].clone(), state);
        }
        for (index, (receipt, outbox)) in &self.gathered.sinks {
            let id = &self.sink_ids[*index];
            manifest.sinks.extend(receipt.clone().map(|receipt| (id.clone(), receipt)));
            manifest.outboxes.extend(outbox.clone().map(|outbox| (id.clone(), outbox)));
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

    /// Copies the epoch that was just committed for those who want to keep it. One that sinks were not waited for is not
    /// what they want; the next one waits longer for their sake.
    async fn keep(&self) {
        let wishes = std::mem::take(&mut *self.board.savepoints.lock());
        let mut outboxes = self.gathered.sinks.values().filter_map(|(_, outbox)| outbox.as_ref());
        let is_owed = self.gathered.is_late || outboxes.any(OutboxState::is_owed);
        for wish in wishes {
            if is_owed && !wish.is_again && !self.board.is_over() {
                self.board.keep(Wish { is_again: true, ..wish });
                continue;
            }
            // Nobody may be waiting any more.
            let _ = wish.done.send(match is_owed {
                true => Err(owed()),
                false => savepoint(self.store.as_ref(), wish.to.as_ref()).await,
            });
        }
    }

    /// Removes what the committed epoch makes superfluous. What cannot be removed now is removed later.
    async fn clean(&mut self) {
        let Ok(names) = self.store.list().await else { return };
        let own = (self.generation, self.epoch);
        self.old.clear();
        let outboxes = self.gathered.sinks.values().filter_map(|(_, outbox)| outbox.as_ref());
        let owed: Vec<&ObjectRef> = outboxes.flat_map(|outbox| &outbox.objects).collect();
        for name in names {
            let is_old_epoch = is_epoch(&name).is_some_and(|epoch| epoch < self.epoch);
            let is_old_state = is_state(&name).is_some_and(|state| state < own) && !self.shelves.need(&name);
            // What sinks of this start are owed, they remove themselves.
            let is_old_box = is_outbox(&name).is_some_and(|generation| generation < self.generation)
                && !owed.iter().any(|object| object.name == name);
            if is_old_epoch || is_old_state || is_old_box {
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
