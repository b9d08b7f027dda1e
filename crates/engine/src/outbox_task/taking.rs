//! What is taken from the lanes before a sink that has an outbox: all that comes, as long as there is room and the sink need not
//! hold up others.

use std::time::Duration;

use weir_component::Batch;

use super::{OutboxTask, Waiting};
use crate::error::JobError;
use crate::job::Turn;
use crate::lane::{Arrival, Message};
use crate::patience::PATIENCE;

/// How often a sink that holds up others looks whether they wait.
const LOOKED_EVERY: Duration = Duration::from_millis(10);

impl OutboxTask {
    /// Takes what comes, unless there is no room for it or the one before is not done.
    pub(super) async fn take(&mut self) -> Result<Turn, JobError> {
        if self.has_ended && self.reported.is_none() {
            // What it is still doing, whoever goes on does again.
            self.end.outlets.tell(&Message::End);
            return Ok(Turn::Finished);
        }
        if self.outbox.is_full() && !self.makes_room() && !self.lets_pass() {
            return Ok(self.end.waits());
        }
        self.put_away().await?;
        if let Some(turn) = self.holds_up() {
            return Ok(turn);
        }
        if self.outbox.is_heavy() && self.is_left_behind() {
            // What waits is more than memory is there for, and could not leave it when it came.
            self.has_given = false;
            if let Some(turn) = self.store_wait.waits() {
                return Ok(turn);
            }
            match self.outbox.spill().await {
                Ok(()) => self.store_wait.reset(),
                Err(error) => return self.store_failed(error),
            }
        }
        match self.end.inlets.take() {
            Arrival::Empty if self.has_given && self.work.is_none() && self.outbox.has_waiting() => {}
            Arrival::Empty => {
                if !self.outbox.has_waiting() {
                    (self.lags, self.presses_since) = (false, None);
                    self.end.board.note_ready(self.end.index, !self.end.is_failing());
                }
                return Ok(self.end.waits());
            }
            Arrival::Nothing | Arrival::Watermark(_) => {}
            Arrival::Rows { batch, .. } => self.push(batch).await?,
            Arrival::Replay(replay) => self.push(replay.batch).await?,
            Arrival::Barrier(epoch) => {
                self.end.epoch = epoch;
                // A receipt that no manifest records yet is recorded by this one.
                let is_prepared = self.has_unrecorded();
                self.barrier = Some(Waiting { epoch, since: self.end.clock.monotonic(), is_prepared });
            }
            Arrival::End => self.has_ended = true,
        }
        self.has_given = false;
        Ok(Turn::Worked)
    }

    /// Where there is no room left: whether an epoch is on its way that makes some, by recording what the sink has prepared.
    /// Its barrier is behind what comes.
    fn makes_room(&self) -> bool {
        if !self.has_unrecorded() {
            return false;
        }
        if self.end.board.requested(self.end.epoch).is_none() {
            self.end.board.hurry();
            return false;
        }
        true
    }

    /// Whether the job is to stop, and its last barrier is behind what comes: there is little of that, for nothing more is read.
    fn lets_pass(&self) -> bool {
        let board = &self.end.board;
        board.is_stopping() && (board.requested(self.end.epoch).is_some() || board.is_ending())
    }

    /// A sink that works holds up what comes before it, as anybody does who has enough to do; for a moment, if another sink has
    /// nothing to do.
    fn holds_up(&mut self) -> Option<Turn> {
        if self.work.is_none() || !self.outbox.has_waiting() || self.is_left_behind() {
            return None;
        }
        if self.presses_since.is_none()
            && !self.end.inlets.is_full()
            && self.end.board.requested(self.end.epoch).is_none()
        {
            return Some(Turn::Wait);
        }
        let since = *self.presses_since.get_or_insert_with(|| self.end.clock.monotonic());
        let left = PATIENCE.saturating_sub(self.end.since(since));
        self.lags = left.is_zero() && (self.lets_pass() || self.end.board.others_wait(self.end.index));
        (!self.lags).then_some(Turn::Sleep(left.max(LOOKED_EVERY)))
    }

    /// Lets what the sink was given leave memory where that is much, and asks for an epoch before there is no room for more.
    async fn put_away(&mut self) -> Result<(), JobError> {
        if !self.outbox.is_crowded() || self.store_wait.waits().is_some() {
            return Ok(());
        }
        let may_prepare = self.may_prepare();
        if let Err(error) = self.outbox.put_away(may_prepare).await {
            return self.store_failed(error).map(drop);
        }
        self.store_wait.reset();
        if self.outbox.wants_epoch() && !self.has_hurried && self.end.board.requested(self.end.epoch).is_none() {
            self.has_hurried = true;
            self.end.board.hurry();
        }
        Ok(())
    }

    async fn push(&mut self, batch: Batch) -> Result<(), JobError> {
        let batch = self.end.shown(batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        self.end.board.note_ready(self.end.index, false);
        self.end.stats.tap.pass(&batch.rows);
        self.end.note_rows();
        self.outbox.push(batch.rows, batch.times);
        if self.is_left_behind() && self.store_wait.waits().is_none() {
            // What fails is tried again before much more is taken.
            match self.outbox.spill().await {
                Ok(()) => self.store_wait.reset(),
                Err(error) => _ = self.store_failed(error)?,
            }
        }
        Ok(())
    }
}
