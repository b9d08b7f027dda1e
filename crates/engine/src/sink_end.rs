//! What all tasks that write sinks have in common: the lanes to and from them, what a sink is given of a batch, what becomes of
//! rows it is refused, and when it is tried again after a failure.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use weir_base::Clock;
use weir_component::operator::Aside;
use weir_component::sink::SinkError;
use weir_component::{Batch, revision};

use crate::aside::{self, Origin};
use crate::board::Board;
use crate::breaker::{Breaker, Verdict};
use crate::chain::Outlets;
use crate::error::JobError;
use crate::insight::HeldBy;
use crate::job::{Backoff, Turn};
use crate::lane::{Inlets, Waker};
use crate::replay::sink_door;
use crate::stats::NodeStats;

/// A sink that was given nothing for so long settles what it has taken.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_millis(50);

/// The place of a sink in a job.
pub(crate) struct SinkEnd {
    pub(crate) index: usize,
    pub(crate) id: String,
    pub(crate) inlets: Inlets,
    /// For rows that are refused.
    pub(crate) outlets: Outlets,
    pub(crate) board: Arc<Board>,
    pub(crate) waker: Waker,
    pub(crate) stats: Arc<NodeStats>,
    pub(crate) backoff: Backoff,
    pub(crate) breaker: Breaker,
    pub(crate) clock: Arc<dyn Clock>,
    /// The newest epoch whose barrier has come.
    pub(crate) epoch: u64,
    /// Nobody sees the rows it is given before they are committed.
    pub(crate) is_shown_by_commit: bool,
    /// The columns it is given, if it is given every revision of results; otherwise it gets final ones.
    pub(crate) revised: Option<SchemaRef>,
    /// The columns of rows that can be run again one by one.
    pub(crate) schema: SchemaRef,
    /// Bytes it is owed, as was said last.
    pub(crate) backlog: u64,
}

/// What comes of a failure that may pass.
pub(crate) enum Failed {
    /// It is tried again.
    Again(Turn),
    /// The same, and not before the circuit's time is over.
    Opened(Turn),
    /// It has gone on for too long.
    GaveUp(JobError),
}

impl SinkEnd {
    /// What the sink gets of a batch.
    pub(crate) fn shown(&self, batch: Batch) -> Result<Batch, JobError> {
        let shown = match &self.revised {
            None => batch.finals(),
            Some(schema) => revision::in_columns(schema, &batch.rows, &batch.times, batch.revisions.as_ref())
                .map(|rows: RecordBatch| Batch::new(rows, batch.times)),
        };
        shown.map_err(|error| JobError::internal(&self.id, error))
    }

    /// Says that rows wait to be shown by the next checkpoint, or, of a sink that shows them without, that one is worth while.
    pub(crate) fn note_rows(&self) {
        self.board.has_shown(self.epoch + 1);
        if self.is_shown_by_commit {
            self.board.has_filled(self.index, self.epoch + 1);
        } else {
            self.board.has_read(self.epoch + 1);
        }
    }

    /// Makes dead letters of what was refused.
    pub(crate) fn set_aside(&self, refused: &[Aside]) -> Result<(), JobError> {
        for aside in refused {
            NodeStats::add(&self.stats.dead, aside.rows.num_rows());
            // A result that comes in revisions cannot be run again by itself.
            let is_row = self.revised.is_none() && *aside.rows.schema_ref() == self.schema;
            let origin = Origin { input: is_row.then_some(0), attempts: 1 };
            self.outlets.aside(false, aside::of_step(&sink_door(&self.id), aside, origin)?);
        }
        Ok(())
    }

    /// Counts rows that were written.
    pub(crate) fn wrote(&self, rows: usize) {
        NodeStats::add(&self.stats.rows_in, rows);
        NodeStats::add(&self.stats.rows_out, rows);
        NodeStats::add(&self.stats.batches, 1);
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.breaker.has_failed()
    }

    /// Whether the sink may be tried now; a circuit that was open until then is half-open.
    pub(crate) fn may_try(&mut self) -> bool {
        if self.backoff.waits().is_some() {
            return false;
        }
        if self.breaker.has_failed() && self.breaker.may_try(self.clock.monotonic()) {
            self.stats.circuit.note(self.breaker.circuit(), None);
        }
        true
    }

    pub(crate) fn went_well(&mut self) {
        self.backoff.reset();
        if self.breaker.has_failed() {
            self.breaker.succeeded();
            self.stats.circuit.note(self.breaker.circuit(), None);
        }
    }

    /// What comes of a failure.
    ///
    /// # Errors
    /// If it makes no sense to try it again.
    pub(crate) fn failed(&mut self, error: SinkError) -> Result<Failed, JobError> {
        if !JobError::may_pass(error.kind) || error.is_undecided {
            return Err(JobError::sink(&self.id, error));
        }
        NodeStats::add(&self.stats.retries, 1);
        let least = error.after.unwrap_or_default();
        let error = JobError::sink(&self.id, error);
        let verdict = self.breaker.failed(self.clock.monotonic());
        self.stats.circuit.note(self.breaker.circuit(), Some(&error));
        Ok(match verdict {
            Verdict::Again => match self.backoff.next_after(error, least) {
                Ok(turn) => Failed::Again(turn),
                Err(error) => Failed::GaveUp(error),
            },
            Verdict::After(time) => {
                tracing::warn!(
                    sink = %self.id, %error, open_ms = time.as_millis(),
                    "a sink fails, and is left alone for a while"
                );
                Failed::Opened(self.backoff.rest(time.max(least)))
            }
            Verdict::GiveUp => Failed::GaveUp(error),
        })
    }

    /// Leaves the sink alone for a while although it has failed for longer than it may.
    pub(crate) fn rest(&mut self) {
        let time = self.breaker.open(self.clock.monotonic());
        self.stats.circuit.note(self.breaker.circuit(), None);
        self.backoff.rest(time);
    }

    /// What is to be done while the sink is waited for.
    pub(crate) fn waits(&self) -> Turn {
        self.backoff.waits().unwrap_or(Turn::Wait)
    }

    /// Time since some moment.
    pub(crate) fn since(&self, moment: Duration) -> Duration {
        self.clock.monotonic().saturating_sub(moment)
    }

    /// Says how many bytes the sink is owed, for whoever wants to know.
    pub(crate) fn say_backlog(&mut self, bytes: u64) {
        if std::mem::replace(&mut self.backlog, bytes) != bytes {
            self.stats.held.say(0, HeldBy { gauges: vec![("backlog_bytes", bytes)], totals: Vec::new() });
        }
    }
}
