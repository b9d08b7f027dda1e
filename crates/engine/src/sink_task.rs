//! Writes one sink, prepares its epochs, and commits those that were decided. It goes on with nothing else while the sink does
//! not; where others should not wait for it, there is [`crate::outbox_task`].

use std::time::Duration;

use weir_component::Batch;
use weir_component::operator::Aside;
use weir_component::sink::{Receipt, Sink, SinkError};

use crate::board::Report;
use crate::error::JobError;
use crate::job::Turn;
use crate::lane::{Arrival, Message};
use crate::sink_end::{Failed, SETTLED_AFTER, SinkEnd};

/// What has been taken from the lanes and is not done.
enum Pending {
    Rows(Batch),
    Barrier(u64),
}

/// Writes a sink, and lets it hold up everything while it does not take what it is given.
pub(crate) struct SinkTask {
    pub(crate) end: SinkEnd,
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) state: SinkState,
    /// Its own commit decides epochs.
    pub(crate) decides: bool,
}

/// Where the task stands.
#[derive(Default)]
pub(crate) struct SinkState {
    pending: Option<Pending>,
    /// Prepared and not committed.
    prepared: Option<(u64, Receipt)>,
    /// The epoch it has decided last.
    decided: u64,
    has_ended: bool,
    /// When it was given rows, or settled them.
    given: Duration,
    /// Refused in epochs before this start.
    refused: Vec<Aside>,
}

impl SinkState {
    pub(crate) fn new(refused: Vec<Aside>) -> Self {
        Self { refused, ..Self::default() }
    }
}

impl SinkTask {
    /// Does one thing. Must not be dropped before it is done.
    pub(crate) async fn turn(&mut self) -> Result<Turn, JobError> {
        if !self.state.refused.is_empty() {
            // Whoever takes it is what the next checkpoint is made for.
            self.set_aside()?;
        }
        if !self.end.may_try() {
            return Ok(self.end.waits());
        }
        if let Some((epoch, receipt)) = &self.state.prepared
            && self.end.board.decided() >= *epoch
        {
            let (epoch, receipt) = (*epoch, receipt.clone());
            let result = self.sink.commit(epoch, &receipt).await;
            if let Some(turn) = self.judge(result.err())? {
                return Ok(turn);
            }
            self.state.prepared = None;
            let is_left = self.set_aside()?;
            if is_left && self.end.board.is_ending() {
                self.end.board.hurry();
            }
            self.end.board.report(Report::Committed { epoch, is_late: false, is_left });
            return Ok(Turn::Worked);
        }
        if self.decides
            && let Some((epoch, _)) = &self.state.prepared
        {
            let epoch = *epoch;
            let proposed = self.end.board.proposed(epoch).filter(|_| self.state.decided < epoch);
            // What comes after the barrier would be committed with what came before it, so it waits in the lanes.
            let Some((decision, shares)) = proposed else { return Ok(Turn::Wait) };
            let result = self.sink.decide(&decision, &shares).await;
            if let Some(turn) = self.judge(result.err())? {
                return Ok(turn);
            }
            self.state.decided = epoch;
            self.end.board.report(Report::Decided { epoch });
            return Ok(Turn::Worked);
        }
        if self.state.pending.is_none() {
            if self.end.outlets.is_full() {
                return Ok(Turn::Wait);
            }
            // An epoch is prepared after the one before is committed.
            match self.end.inlets.take() {
                Arrival::Empty if self.state.has_ended && self.state.prepared.is_none() => {
                    self.end.outlets.tell(&Message::End);
                    return Ok(Turn::Finished);
                }
                Arrival::Empty => {
                    self.end.board.note_ready(self.end.index, true);
                    return self.settle().await;
                }
                Arrival::Nothing | Arrival::Watermark(_) => return Ok(Turn::Worked),
                Arrival::Rows { batch, .. } => self.take(batch)?,
                // Steps alone are given rows one by one.
                Arrival::Replay(replay) => self.take(replay.batch)?,
                Arrival::Barrier(epoch) => {
                    self.end.epoch = epoch;
                    self.state.pending = Some(Pending::Barrier(epoch));
                }
                Arrival::End => {
                    self.state.has_ended = true;
                    return Ok(Turn::Worked);
                }
            }
        }
        match &self.state.pending {
            None => {}
            Some(Pending::Rows(batch)) => {
                let (rows, count) = (batch.rows.clone(), batch.len());
                let result = self.sink.write_timed(&rows, &batch.times).await;
                if let Some(turn) = self.judge(result.err())? {
                    return Ok(turn);
                }
                self.end.stats.tap.pass(&rows);
                self.end.wrote(count);
                self.state.given = self.end.clock.monotonic();
                self.set_aside()?;
            }
            Some(Pending::Barrier(epoch)) => {
                let epoch = *epoch;
                assert!(self.state.prepared.is_none(), "the epoch before was committed");
                // What it has to say of epochs before belongs to this one.
                self.set_aside()?;
                match self.sink.prepare(epoch).await {
                    Ok(receipt) => {
                        self.end.went_well();
                        self.set_aside()?;
                        self.end.outlets.tell(&Message::Barrier(epoch));
                        self.state.prepared = Some((epoch, receipt.clone()));
                        let receipt = Some(receipt);
                        self.end.board.report(Report::Sink { sink: self.end.index, epoch, receipt, outbox: None });
                    }
                    Err(error) => {
                        if let Some(turn) = self.judge(Some(error))? {
                            return Ok(turn);
                        }
                    }
                }
            }
        }
        self.state.pending = None;
        Ok(Turn::Worked)
    }

    /// Keeps a batch until it is written, if there is anything in it for the sink.
    fn take(&mut self, batch: Batch) -> Result<(), JobError> {
        let batch = self.end.shown(batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        self.end.board.note_ready(self.end.index, false);
        if self.end.is_shown_by_commit {
            self.end.note_rows();
        }
        self.state.pending = Some(Pending::Rows(batch));
        Ok(())
    }

    /// Lets the sink settle what it has taken, if it has been given nothing for a moment.
    async fn settle(&mut self) -> Result<Turn, JobError> {
        if !self.sink.is_unsettled() {
            return Ok(Turn::Wait);
        }
        let left = SETTLED_AFTER.saturating_sub(self.end.since(self.state.given));
        if !left.is_zero() {
            return Ok(Turn::Sleep(left));
        }
        let result = self.sink.settle().await;
        self.state.given = self.end.clock.monotonic();
        if let Some(turn) = self.judge(result.err())? {
            return Ok(turn);
        }
        self.set_aside()?;
        Ok(Turn::Worked)
    }

    /// Makes dead letters of what was refused. Says whether there is any.
    fn set_aside(&mut self) -> Result<bool, JobError> {
        let mut refused = std::mem::take(&mut self.state.refused);
        refused.extend(self.sink.refused());
        self.end.set_aside(&refused)?;
        Ok(!refused.is_empty())
    }

    /// `None` if it went well; otherwise when to try again, or why not.
    fn judge(&mut self, error: Option<SinkError>) -> Result<Option<Turn>, JobError> {
        let Some(error) = error else {
            self.end.went_well();
            return Ok(None);
        };
        match self.end.failed(error)? {
            Failed::Again(turn) | Failed::Opened(turn) => Ok(Some(turn)),
            Failed::GaveUp(error) => Err(error),
        }
    }
}
