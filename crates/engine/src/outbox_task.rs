//! Writes one sink beside others, at its own pace: what it does not take at once it is owed ([`crate::outbox`]), and epochs go
//! on without it.
//!
//! A barrier waits a moment for the sink to prepare what came before it. If it does not, what it is owed becomes part of
//! the checkpoint instead, and the checkpoint is whole without it. What the sink prepares later, at whatever moment,
//! is part of the next checkpoint: the manifest then says by which epoch the sink calls it, and what it is owed after it.
//!
//! Invariants:
//! - What is recorded of a sink in a manifest is its last receipt, and after it all rows it was not given before that receipt, in
//!   their order: together all that came before the barrier, each row once.
//! - A receipt is committed after a manifest that records it is decided, and the next one is prepared after that, by a higher number.
//! - Rows that were refused become dead letters of the epoch whose manifest records the first receipt after they were: of a sink
//!   that goes on from an earlier one they are refused once more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use weir_base::ErrorKind;
use weir_component::operator::Aside;
use weir_component::sink::{Receipt, Sink, SinkError};

use crate::board::Report;
use crate::chain::StateBudget;
use crate::error::JobError;
use crate::job::{Backoff, Turn};
use crate::lane::Message;
use crate::outbox::Outbox;
use crate::patience::Patience;
use crate::sink_end::{Failed, SETTLED_AFTER, SinkEnd};
use crate::sink_work::{Done, Opener, Prepared, Work, Worked};

mod taking;

/// How long others wait for a sink at a checkpoint that should be one of all sinks.
const LONG_PATIENCE: Duration = Duration::from_secs(5);

/// A barrier that has come and was not reported.
struct Waiting {
    epoch: u64,
    since: Duration,
    /// The sink has prepared since it came.
    is_prepared: bool,
}

/// An epoch that was reported and is not committed as far as the coordinator knows.
struct Reported {
    epoch: u64,
    /// The sink was owed rows after it.
    is_owed: bool,
    superfluous: Vec<String>,
    /// Since when it is decided.
    decided: Option<Duration>,
}

pub(crate) struct OutboxTask {
    pub(crate) end: SinkEnd,
    /// Puts work where it does not keep this task from going on.
    pub(crate) runs: fn(Work) -> Work,
    outbox: Outbox,
    /// What it has in memory is part of that, by so many bytes as measured last.
    budget: Arc<StateBudget>,
    measured: usize,
    /// Waits after the store has failed.
    store_wait: Backoff,
    opener: Option<Opener>,
    sink: Option<Box<dyn Sink>>,
    work: Option<Work>,
    worked: Option<Worked>,
    prepared: Option<Prepared>,
    /// What was refused since the last receipt. It is no dead letter yet.
    refused: Vec<Aside>,
    barrier: Option<Waiting>,
    reported: Option<Reported>,
    /// There is more than its last receipt.
    is_behind: bool,
    /// An epoch was asked for, so that what it was given can be part of it.
    has_asked: bool,
    /// The same, because there would be no room for more of it.
    has_hurried: bool,
    /// Others have waited for it in vain, and do not again before it has taken all there is.
    lags: bool,
    /// How long its preparing and its committing are waited for.
    preparing: Patience,
    committing: Patience,
    /// Since when it keeps others from going on.
    presses_since: Option<Duration>,
    /// Since when it does what it is doing.
    working_since: Duration,
    /// Whose turn it was last: whether rows were given, or taken.
    has_given: bool,
    has_ended: bool,
}

impl OutboxTask {
    /// `sink`: open already, with what it was refused in epochs before, or to be opened. `last`: the last receipt in the
    /// manifest it goes on from.
    pub(crate) fn new(
        end: SinkEnd,
        (outbox, budget): (Outbox, Arc<StateBudget>),
        store_wait: Backoff,
        sink: Result<(Box<dyn Sink>, Vec<Aside>), Opener>,
        last: Option<(u64, Receipt)>,
    ) -> Self {
        let (sink, refused, opener) = match sink {
            Ok((sink, refused)) => (Some(sink), refused, None),
            Err(opener) => (None, Vec::new(), Some(opener)),
        };
        // A sink commits its last receipt when it is opened.
        let (recorded, is_committed) = (Some(end.epoch), opener.is_none());
        let prepared = last.map(|(epoch, receipt)| Prepared { epoch, receipt, recorded, is_committed });
        Self {
            end,
            runs: |work| work,
            outbox,
            budget,
            measured: 0,
            store_wait,
            opener,
            sink,
            work: None,
            worked: None,
            prepared,
            is_behind: !refused.is_empty(),
            refused,
            barrier: None,
            reported: None,
            has_asked: false,
            has_hurried: false,
            lags: false,
            preparing: Patience::default(),
            committing: Patience::default(),
            presses_since: None,
            working_since: Duration::ZERO,
            has_given: false,
            has_ended: false,
        }
    }

    /// Waits until the sink has done what it is doing; for ever, if that is nothing.
    pub(crate) async fn work_done(&mut self) {
        match &mut self.work {
            Some(work) => {
                self.worked = Some(work.await);
                self.work = None;
            }
            None => std::future::pending().await,
        }
    }

    /// Does one thing, and waits for nothing but the store of checkpoints. Must not be dropped before it is done.
    pub(crate) async fn turn(&mut self) -> Result<Turn, JobError> {
        self.say();
        if self.sink_worked()? || self.decided().await {
            return Ok(Turn::Worked);
        }
        // Nobody waits for what it may do next, if an epoch can go on now.
        let waits = self.barrier().await?;
        if waits == Some(Turn::Worked) || self.begin_work().await? {
            return Ok(Turn::Worked);
        }
        let turn = match waits {
            Some(turn) => turn,
            None => self.take().await?,
        };
        let soon = [self.grace(), self.settles_in().filter(|left| !left.is_zero())].into_iter().flatten().min();
        Ok(match (turn, soon) {
            (Turn::Wait, Some(left)) => Turn::Sleep(left),
            (Turn::Sleep(time), Some(left)) => Turn::Sleep(time.min(left)),
            (turn, _) => turn,
        })
    }

    /// Takes note of what the sink has done, if it has.
    fn sink_worked(&mut self) -> Result<bool, JobError> {
        if let Some(work) = &mut self.work
            && let Some(worked) = work.now_or_never()
        {
            (self.worked, self.work) = (Some(worked), None);
        }
        let Some((sink, result)) = self.worked.take() else { return Ok(false) };
        self.sink = sink;
        match result {
            Ok(done) => {
                self.end.went_well();
                self.done(done)?;
            }
            Err(error) => self.failed(error)?,
        }
        Ok(true)
    }

    /// What failed is tried again, unless that makes no sense.
    fn failed(&mut self, error: SinkError) -> Result<(), JobError> {
        self.outbox.refused();
        let failed = self.end.failed(error)?;
        if !matches!(failed, Failed::Again(_)) && !self.outbox.is_whole() {
            // The epoch cannot go on without the sink, which was given much of it. The next start can.
            let message = "it fails, and had taken more than is kept of it: it is given all of that again";
            return Err(JobError::sink(&self.end.id, SinkError::undecided(ErrorKind::Transient, message)));
        }
        match failed {
            // Nobody else is harmed as long as there is room for what it is owed, and something else to do.
            Failed::GaveUp(error) if self.outbox.is_full() || self.end.board.is_finishing() => Err(error),
            Failed::GaveUp(_) => {
                self.end.rest();
                Ok(())
            }
            Failed::Again(_) | Failed::Opened(_) => Ok(()),
        }
    }

    fn done(&mut self, done: Done) -> Result<(), JobError> {
        self.note_refused();
        let took = self.end.since(self.working_since);
        match done {
            Done::Opened => {
                self.opener = None;
                if let Some(prepared) = &mut self.prepared {
                    prepared.is_committed = true;
                }
            }
            Done::Wrote(rows) => {
                self.outbox.gave();
                self.end.wrote(rows);
                // Before a barrier that has come, they are of its epoch.
                if self.barrier.is_none() {
                    self.end.note_rows();
                }
            }
            Done::Settled => {}
            Done::Prepared(epoch, receipt) => {
                self.preparing.took(took);
                self.outbox.prepared();
                self.prepared = Some(Prepared { epoch, receipt, recorded: None, is_committed: false });
                self.is_behind = false;
                self.bury()?;
                match &mut self.barrier {
                    Some(barrier) => barrier.is_prepared = true,
                    None => self.ask(),
                }
            }
            Done::Committed => {
                self.committing.took(took);
                if let Some(prepared) = &mut self.prepared {
                    prepared.is_committed = true;
                }
                if self.reported.is_none() && self.end.board.is_finishing() {
                    self.end.board.hurry();
                }
            }
        }
        if !self.outbox.is_whole() {
            // No manifest is written before the receipt that these are refused before.
            self.bury()?;
        }
        Ok(())
    }

    /// Asks the sink what it was refused.
    fn note_refused(&mut self) {
        let Some(sink) = &mut self.sink else { return };
        let refused = sink.refused();
        if !refused.is_empty() {
            self.refused.extend(refused);
            self.is_behind = true;
        }
    }

    /// Makes dead letters of what was refused.
    fn bury(&mut self) -> Result<(), JobError> {
        self.end.set_aside(&std::mem::take(&mut self.refused))
    }

    /// Asks for an epoch, to be part of it; at the end, where nothing else asks for one, for one at once.
    fn ask(&mut self) {
        self.has_asked = true;
        if self.end.board.is_finishing() && !self.outbox.has_waiting() {
            self.end.board.hurry();
        } else {
            self.end.note_rows();
        }
    }

    /// Goes on once the epoch that was reported is decided. Says whether it does.
    async fn decided(&mut self) -> bool {
        let Some(reported) = self.reported.as_mut() else { return false };
        if self.end.board.decided() < reported.epoch {
            return false;
        }
        let since = *reported.decided.get_or_insert_with(|| self.end.clock.monotonic());
        let (epoch, is_owed) = (reported.epoch, reported.is_owed);
        let superfluous = std::mem::take(&mut reported.superfluous);
        self.outbox.remove(&superfluous).await;
        let is_late = self.has_to_commit();
        if is_late {
            if self.end.since(since) < self.patience(&self.committing) {
                return false;
            }
            self.committing.in_vain();
        }
        self.reported = None;
        // What it was refused it is refused again by whoever goes on, if nobody does here.
        let is_left = (is_late || is_owed || !self.refused.is_empty()) && self.end.board.is_finishing();
        if is_left && self.has_unrecorded() {
            self.end.board.hurry();
        }
        self.end.board.report(Report::Committed { epoch, is_late, is_left });
        true
    }

    /// How long something is waited for at the moment.
    fn patience(&self, patience: &Patience) -> Duration {
        if self.end.is_failing() {
            Duration::ZERO
        } else if self.end.board.wants_all() {
            LONG_PATIENCE
        } else if self.lags {
            Duration::ZERO
        } else {
            patience.time()
        }
    }

    /// Whether others go on without it.
    fn is_left_behind(&self) -> bool {
        self.lags || self.end.is_failing()
    }

    /// Whether a receipt is decided and not committed.
    fn has_to_commit(&self) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| prepared.waits_for_commit(self.end.board.decided()))
    }

    /// Whether the sink has prepared what no manifest records yet.
    fn has_unrecorded(&self) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| prepared.recorded.is_none())
    }

    fn may_prepare(&self) -> bool {
        self.prepared.as_ref().is_none_or(|prepared| prepared.is_committed)
    }

    /// Lets the sink do what is most urgent, if it has nothing to do and is not left alone for a while.
    async fn begin_work(&mut self) -> Result<bool, JobError> {
        let is_over = self.has_ended && self.reported.is_none();
        if self.work.is_some() || is_over || !self.end.may_try() {
            return Ok(false);
        }
        if let Some(opener) = &self.opener {
            let opening = opener.open();
            return Ok(self.begin(async move {
                match opening.await {
                    Ok(sink) => (Some(sink), Ok(Done::Opened)),
                    Err(error) => (None, Err(error)),
                }
            }));
        }
        if self.has_to_commit() {
            let Some((mut sink, prepared)) = self.sink.take().zip(self.prepared.as_ref()) else { return Ok(false) };
            let (epoch, receipt) = (prepared.epoch, prepared.receipt.clone());
            return Ok(self.begin(async move {
                let result = sink.commit(epoch, &receipt).await;
                (Some(sink), result.map(|()| Done::Committed))
            }));
        }
        if self.may_prepare() && self.is_due() {
            return Ok(self.begin_preparing());
        }
        // What came after a barrier is not taken before it is reported, so what is given then is of its epoch.
        let is_turn = !self.has_given || self.barrier.is_some() || self.outbox.is_full();
        if is_turn
            && self.outbox.has_waiting()
            && (self.may_prepare() || self.outbox.may_give_more())
            && !self.end.outlets.is_full()
        {
            let (rows, times) = match self.outbox.next().await {
                Ok(Some(rows)) => rows,
                Ok(None) => return Ok(true),
                Err(JobError::Checkpoint { kind, message }) if JobError::may_pass(kind) => {
                    self.failed(SinkError::new(kind, message))?;
                    return Ok(true);
                }
                Err(error) => return Err(error),
            };
            let Some(mut sink) = self.sink.take() else { return Ok(false) };
            self.has_given = true;
            return Ok(self.begin(async move {
                let result = sink.write_timed(&rows, &times).await;
                (Some(sink), result.map(|()| Done::Wrote(rows.num_rows())))
            }));
        }
        if self.settles_in().is_some_and(|left| left.is_zero()) {
            let Some(mut sink) = self.sink.take() else { return Ok(false) };
            return Ok(self.begin(async move {
                let result = sink.settle().await;
                (Some(sink), result.map(|()| Done::Settled))
            }));
        }
        Ok(false)
    }

    /// When the sink is to settle what it has taken, if it is given nothing before.
    fn settles_in(&self) -> Option<Duration> {
        let is_unsettled = self.sink.as_ref().is_some_and(|sink| sink.is_unsettled());
        let is_idle = is_unsettled && self.barrier.is_none() && !self.outbox.has_waiting();
        is_idle.then(|| SETTLED_AFTER.saturating_sub(self.end.since(self.working_since)))
    }

    /// Whether the sink is to prepare what it was given.
    fn is_due(&mut self) -> bool {
        match &self.barrier {
            Some(barrier) if barrier.is_prepared => false,
            // Who wants a checkpoint of all sinks wants one with all rows.
            Some(_) => !self.outbox.has_waiting() || !self.end.board.has_wishes(),
            None if !self.is_behind || self.outbox.has_waiting() => false,
            // No barrier waits for it, so it need not wait for one.
            None if self.is_left_behind() || self.preparing.time().is_zero() => true,
            None => {
                if !self.has_asked && self.reported.is_none() {
                    self.ask();
                }
                false
            }
        }
    }

    fn begin_preparing(&mut self) -> bool {
        // Also what it was refused when it failed.
        self.note_refused();
        let Some(mut sink) = self.sink.take() else { return false };
        // What no barrier waits for belongs to the epoch of the next one: the sink is never given a number twice.
        let epoch = self.end.epoch + u64::from(self.barrier.is_none());
        self.begin(async move {
            let result = sink.prepare(epoch).await;
            (Some(sink), result.map(|receipt| Done::Prepared(epoch, receipt)))
        })
    }

    fn begin(&mut self, work: impl Future<Output = Worked> + Send + 'static) -> bool {
        (self.work, self.working_since) = (Some((self.runs)(work.boxed())), self.end.clock.monotonic());
        true
    }

    /// Reports a barrier that has come, with the sink or without.
    async fn barrier(&mut self) -> Result<Option<Turn>, JobError> {
        let Some(barrier) = &self.barrier else { return Ok(None) };
        let (epoch, is_prepared) = (barrier.epoch, barrier.is_prepared);
        let waited = self.end.since(barrier.since);
        if !self.outbox.is_whole() {
            return Ok(Some(self.end.waits()));
        }
        if !is_prepared {
            let patience = self.patience(&self.preparing);
            if waited < patience {
                return Ok(Some(Turn::Sleep(patience.saturating_sub(waited))));
            }
        }
        if let Some(turn) = self.store_wait.waits() {
            return Ok(Some(turn));
        }
        let called = self.prepared.as_ref().map_or(0, |prepared| prepared.epoch);
        let state = match self.outbox.keep(called).await {
            Ok(state) => state,
            Err(error) => return self.store_failed(error).map(Some),
        };
        self.store_wait.reset();
        if !is_prepared && !self.lags {
            self.lags = true;
            self.preparing.in_vain();
        }
        self.is_behind = self.outbox.has_entries() || !self.refused.is_empty();
        (self.barrier, self.has_asked, self.has_hurried) = (None, false, false);
        let superfluous = self.outbox.take_superfluous();
        self.reported = Some(Reported { epoch, is_owed: state.is_owed(), superfluous, decided: None });
        let outbox = (called != epoch || state.is_owed()).then_some(state);
        let receipt = self.prepared.as_mut().map(|prepared| {
            prepared.recorded.get_or_insert(epoch);
            prepared.receipt.clone()
        });
        self.end.outlets.tell(&Message::Barrier(epoch));
        self.end.board.report(Report::Sink { sink: self.end.index, epoch, receipt, outbox });
        Ok(Some(Turn::Worked))
    }

    /// When to try again after the store has failed, or why not.
    fn store_failed(&mut self, error: JobError) -> Result<Turn, JobError> {
        match error {
            JobError::Checkpoint { kind, .. } if JobError::may_pass(kind) => self.store_wait.next(error),
            error => Err(error),
        }
    }

    /// How long a commit that is waited for may still take.
    fn grace(&self) -> Option<Duration> {
        let waited = self.end.since(self.reported.as_ref()?.decided?);
        Some(self.patience(&self.committing).saturating_sub(waited)).filter(|left| !left.is_zero())
    }

    fn say(&mut self) {
        let bytes = if self.is_left_behind() { self.outbox.bytes() } else { 0 };
        self.end.say_backlog(bytes);
        let bytes = self.outbox.memory_bytes();
        if bytes != self.measured {
            self.end.stats.state_bytes.store(bytes as u64, Ordering::Relaxed);
        }
        // The states of others may have grown meanwhile.
        let has_room = self.budget.keep(&mut self.measured, bytes);
        self.outbox.be_tight(!has_room);
    }
}
