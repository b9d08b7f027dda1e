//! Writes one sink, prepares its epochs, and commits those that were decided.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use weir_base::Clock;
use weir_component::operator::Aside;
use weir_component::sink::{Receipt, Sink, SinkError};
use weir_component::{Batch, revision};

use crate::aside::{self, Origin};
use crate::breaker::{Breaker, Verdict};
use crate::chain::Outlets;
use crate::coordinator::{Board, Report};
use crate::error::JobError;
use crate::job::{Backoff, Turn};
use crate::lane::{Arrival, Inlets, Message, Waker};
use crate::replay::sink_door;
use crate::stats::NodeStats;

/// What has been taken from the lanes and is not done.
enum Pending {
    Rows(Batch),
    Barrier(u64),
}

pub(crate) struct SinkTask {
    pub(crate) index: usize,
    pub(crate) id: String,
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) inlets: Inlets,
    /// For rows that are refused.
    pub(crate) outlets: Outlets,
    pub(crate) board: Arc<Board>,
    pub(crate) waker: Waker,
    pub(crate) stats: Arc<NodeStats>,
    pub(crate) backoff: Backoff,
    pub(crate) breaker: Breaker,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) state: SinkState,
    /// The newest epoch whose barrier has come.
    pub(crate) epoch: u64,
    /// Nobody sees the rows it is given before they are committed.
    pub(crate) is_shown_by_commit: bool,
    /// Its own commit decides epochs.
    pub(crate) decides: bool,
    /// The columns it is given, if it is given every revision of results; otherwise it gets final ones.
    pub(crate) revised: Option<SchemaRef>,
    /// The columns of rows that can be run again one by one.
    pub(crate) schema: SchemaRef,
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
        if let Some(turn) = self.backoff.waits() {
            return Ok(turn);
        }
        if self.breaker.has_failed() && self.breaker.may_try(self.clock.monotonic()) {
            self.stats.circuit.note(self.breaker.circuit(), None);
        }
        if let Some((epoch, receipt)) = &self.state.prepared
            && self.board.decided() >= *epoch
        {
            let (epoch, receipt) = (*epoch, receipt.clone());
            let result = self.sink.commit(epoch, &receipt).await;
            if let Some(turn) = self.judge(result.err())? {
                return Ok(turn);
            }
            self.state.prepared = None;
            let is_left = self.set_aside()?;
            self.board.report(Report::Committed { epoch, is_left });
            return Ok(Turn::Worked);
        }
        if self.decides
            && let Some((epoch, _)) = &self.state.prepared
        {
            let epoch = *epoch;
            let proposed = self.board.proposed(epoch).filter(|_| self.state.decided < epoch);
            // What comes after the barrier would be committed with what came before it, so it waits in the lanes.
            let Some((decision, shares)) = proposed else { return Ok(Turn::Wait) };
            let result = self.sink.decide(&decision, &shares).await;
            if let Some(turn) = self.judge(result.err())? {
                return Ok(turn);
            }
            self.state.decided = epoch;
            self.board.report(Report::Decided { epoch });
            return Ok(Turn::Worked);
        }
        if self.state.pending.is_none() {
            if self.outlets.is_full() {
                return Ok(Turn::Wait);
            }
            // An epoch is prepared after the one before is committed.
            match self.inlets.take() {
                Arrival::Empty if self.state.has_ended && self.state.prepared.is_none() => {
                    self.outlets.tell(&Message::End);
                    return Ok(Turn::Finished);
                }
                Arrival::Empty => return Ok(Turn::Wait),
                Arrival::Nothing | Arrival::Watermark(_) => return Ok(Turn::Worked),
                Arrival::Rows { batch, .. } => self.take(batch)?,
                // Steps alone are given rows one by one.
                Arrival::Replay(replay) => self.take(replay.batch)?,
                Arrival::Barrier(epoch) => {
                    self.epoch = epoch;
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
                self.stats.tap.pass(&rows);
                NodeStats::add(&self.stats.rows_in, count);
                NodeStats::add(&self.stats.rows_out, count);
                NodeStats::add(&self.stats.batches, 1);
                self.set_aside()?;
            }
            Some(Pending::Barrier(epoch)) => {
                let epoch = *epoch;
                assert!(self.state.prepared.is_none(), "the epoch before was committed");
                // What it has to say of epochs before belongs to this one.
                self.set_aside()?;
                match self.sink.prepare(epoch).await {
                    Ok(receipt) => {
                        self.went_well();
                        self.set_aside()?;
                        self.outlets.tell(&Message::Barrier(epoch));
                        self.state.prepared = Some((epoch, receipt.clone()));
                        self.board.report(Report::Sink { sink: self.index, epoch, receipt });
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
        let batch = self.shown(batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        if self.is_shown_by_commit {
            self.board.has_filled(self.index, self.epoch + 1);
        }
        self.state.pending = Some(Pending::Rows(batch));
        Ok(())
    }

    /// What the sink gets of a batch.
    fn shown(&self, batch: Batch) -> Result<Batch, JobError> {
        let shown = match &self.revised {
            None => batch.finals(),
            Some(schema) => revision::in_columns(schema, &batch.rows, &batch.times, batch.revisions.as_ref())
                .map(|rows: RecordBatch| Batch::new(rows, batch.times)),
        };
        shown.map_err(|error| JobError::internal(&self.id, error))
    }

    /// Makes dead letters of what was refused. Says whether there is any.
    fn set_aside(&mut self) -> Result<bool, JobError> {
        let mut refused = std::mem::take(&mut self.state.refused);
        refused.extend(self.sink.refused());
        for aside in &refused {
            NodeStats::add(&self.stats.dead, aside.rows.num_rows());
            // A result that comes in revisions cannot be run again by itself.
            let is_row = self.revised.is_none() && *aside.rows.schema_ref() == self.schema;
            let origin = Origin { input: is_row.then_some(0), attempts: 1 };
            self.outlets.aside(false, aside::of_step(&sink_door(&self.id), aside, origin)?);
        }
        Ok(!refused.is_empty())
    }

    fn went_well(&mut self) {
        self.backoff.reset();
        if self.breaker.has_failed() {
            self.breaker.succeeded();
            self.stats.circuit.note(self.breaker.circuit(), None);
        }
    }

    /// `None` if it went well; otherwise when to try again, or why not.
    fn judge(&mut self, error: Option<SinkError>) -> Result<Option<Turn>, JobError> {
        match error {
            None => {
                self.went_well();
                Ok(None)
            }
            Some(error) if JobError::may_pass(error.kind) && !error.is_undecided => {
                NodeStats::add(&self.stats.retries, 1);
                let least = error.after.unwrap_or_default();
                let error = JobError::sink(&self.id, error);
                let verdict = self.breaker.failed(self.clock.monotonic());
                self.stats.circuit.note(self.breaker.circuit(), Some(&error));
                match verdict {
                    Verdict::Again => self.backoff.next_after(error, least).map(Some),
                    Verdict::After(time) => {
                        tracing::warn!(%error, open_ms = time.as_millis(), "a sink fails, and is left alone for a while");
                        Ok(Some(self.backoff.rest(time.max(least))))
                    }
                    Verdict::GiveUp => Err(error),
                }
            }
            Some(error) => Err(JobError::sink(&self.id, error)),
        }
    }
}
