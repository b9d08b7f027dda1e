//! Where results go.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use weir_base::{ErrorKind, Kinded};

use crate::checkpoint::CheckpointStore;
use crate::operator::Aside;
use crate::source::Share;
use crate::spec::Fault;

/// What a sink promises of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Once, whatever happens.
    ExactlyOnce,
    /// Once or, after a failure, more than once.
    AtLeastOnce,
}

impl Delivery {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly once",
            Self::AtLeastOnce => "at least once",
        }
    }
}

/// How long after a commit the next one is worth while to a sink to which a commit is cheap.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(200);

/// A sink after its check: what it promises, and how to open it.
#[async_trait]
pub trait PlannedSink: Send + Sync {
    /// What it really promises.
    fn delivery(&self) -> Delivery;

    /// Opens it for rows of `schema`. `last` is the newest epoch that was decided, if there is one, with
    /// the receipt this sink gave for it: whatever was prepared after it is undone, and that epoch
    /// itself is committed if it was not yet.
    ///
    /// `generation` rises each time the pipeline is started: what an earlier one still does must not
    /// get in the way of this one.
    ///
    /// # Errors
    /// If it cannot be opened.
    async fn open(&self, schema: SchemaRef, opened: Opening) -> Result<Box<dyn Sink>, SinkError>;

    /// As [`PlannedSink::open`], for a sink that keeps rows itself until their epoch is decided: `kept` are objects beside
    /// the pipeline's checkpoints that belong to this sink alone, from one start to the next.
    ///
    /// # Errors
    /// If it cannot be opened.
    async fn open_with(
        &self,
        schema: SchemaRef,
        opened: Opening,
        kept: Arc<dyn CheckpointStore>,
    ) -> Result<Box<dyn Sink>, SinkError> {
        drop(kept);
        self.open(schema, opened).await
    }

    /// One line for people: where the rows go.
    fn describe(&self) -> String;

    /// What is wrong with rows of these columns. Pointers are relative to the settings of the sink.
    fn check(&self, schema: &SchemaRef) -> Vec<Fault> {
        let _ = schema;
        Vec::new()
    }

    /// A column it wants to be given besides those of `schema`, if any.
    fn computes(&self, schema: &SchemaRef) -> Option<Computed> {
        let _ = schema;
        None
    }

    /// What becomes of what is there when a pipeline begins anew as far as this sink knows, in a few words. Only looks.
    ///
    /// # Errors
    /// Why it could not be opened then.
    async fn begins_anew(&self) -> Result<String, SinkError> {
        Ok("rows are added to those that are there".to_owned())
    }

    /// The stream of Weir it writes, if it is one.
    fn stream(&self) -> Option<&str> {
        None
    }

    /// How much time it wants from one commit to the next, where the document does not say how often checkpoints are made
    /// and rows wait to be shown. `None`: nobody waits for its commits, since rows are shown when they are written.
    fn commit_interval(&self) -> Option<Duration> {
        (self.delivery() == Delivery::ExactlyOnce).then_some(COMMIT_INTERVAL)
    }

    /// Whether it keeps rows from one process to the next until their epoch is committed.
    fn keeps_rows(&self) -> bool {
        self.delivery() == Delivery::ExactlyOnce && self.decider().is_none()
    }

    /// Itself, if its own commit decides epochs. A pipeline has at most one such sink.
    fn decider(&self) -> Option<&dyn Decider> {
        None
    }
}

/// A column that is computed for a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Computed {
    /// The setting it is written in, relative to those of the sink: what is wrong with it is wrong there.
    pub pointer: &'static str,
    /// What it is called.
    pub column: &'static str,
    /// The SQL expression.
    pub expression: String,
}

/// An epoch that was decided, by the digest of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The epoch.
    pub epoch: u64,
    /// The digest of its manifest.
    pub manifest: String,
}

/// Who takes over a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The id of the sink in the pipeline.
    pub sink: String,
    /// A name of this start of the pipeline that no other has: that of the process, a dot, and which of the
    /// process's starts it is.
    pub writer: String,
    /// It goes on from an earlier start in the same process. If another process has taken over since
    /// then, this one has no right to.
    pub is_again: bool,
    /// Where several processes run the pipeline at once, each with its share: the name of the one whose
    /// checkpoints these are, which it keeps. It takes over from itself only.
    pub member: Option<String>,
}

impl Owner {
    /// Whether a start with the name `writer` may be gone on from.
    pub fn may_follow(&self, writer: &str) -> bool {
        let process = |writer: &str| writer.split('.').next().map(str::to_owned);
        !self.is_again || process(writer) == process(&self.writer)
    }
}

/// A sink that cannot show later what it was given before: what makes rows visible there is also what
/// makes them safe, as with the transactions of Kafka. So *its* commit decides: manifests are written
/// first, as proposals, and the one it names in its commit is the one that counts.
#[async_trait]
pub trait Decider: Send + Sync {
    /// Makes sure that no earlier process decides anything any more, and only then reads what was decided.
    ///
    /// # Errors
    /// If it cannot be reached or refuses; [`ErrorKind::Conflict`] if the owner may not follow whoever took
    /// over last ([`Owner::may_follow`]).
    async fn take_over(&self, owner: Owner) -> Result<Box<dyn TakenOver>, SinkError>;
}

/// A sink that this process alone may write.
#[async_trait]
pub trait TakenOver: Send + Sync {
    /// The newest decision.
    fn decided(&self) -> Option<&Decision>;

    /// Opens it for rows of `schema`, after that decision.
    ///
    /// # Errors
    /// If it cannot be opened.
    async fn open(self: Box<Self>, schema: SchemaRef, opening: Opening) -> Result<Box<dyn Sink>, SinkError>;
}

/// From where a sink goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// Rises each time the pipeline is started.
    pub generation: u64,
    /// The newest epoch that was decided, with its receipt. `None`: the pipeline has never run.
    pub last: Option<(u64, Receipt)>,
}

/// A sink that is being written.
///
/// Invariant: sinks never retry, sleep or drop. They return an error, and the engine decides.
#[async_trait]
pub trait Sink: Send {
    /// Takes rows; may keep them until [`Sink::prepare`].
    ///
    /// # Errors
    /// After a transient one the same rows are given again.
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError>;

    /// As [`Sink::write`], with the event time of each row, in nanoseconds since 1970.
    ///
    /// # Errors
    /// As those of [`Sink::write`].
    async fn write_timed(&mut self, rows: &RecordBatch, times: &ScalarBuffer<i64>) -> Result<(), SinkError> {
        let _ = times;
        self.write(rows).await
    }

    /// Makes everything written since the last call durable, and for one that delivers exactly once
    /// not yet visible. What it returns is all [`Sink::commit`] needs, in this process or a later one.
    ///
    /// # Errors
    /// A transient one: it is called again.
    async fn prepare(&mut self, epoch: u64) -> Result<Receipt, SinkError>;

    /// The epoch was decided: its rows become visible. Doing it twice is the same as once. Rows of the
    /// next epoch may have been written meanwhile; the next epoch is prepared after it.
    ///
    /// # Errors
    /// A transient one: it is called again.
    async fn commit(&mut self, epoch: u64, receipt: &Receipt) -> Result<(), SinkError>;

    /// Rows that will never be taken where they were sent, since this was asked last: it is when the sink was opened,
    /// before each prepare, and after each write, prepare and commit that went well. They become dead letters of the epoch that is under way, so
    /// a sink that is refused rows in [`Sink::commit`] has to say so again after a start from a checkpoint that was
    /// prepared before it said so.
    fn refused(&mut self) -> Vec<Aside> {
        Vec::new()
    }

    /// Whether it does not know yet of all rows it has taken that they have come where they go. When it was given nothing for a
    /// moment, it is asked to [`settle`](Sink::settle) that, and not only when the next rows or a checkpoint come.
    fn is_unsettled(&self) -> bool {
        false
    }

    /// Waits until the rows it has taken have come where they go.
    ///
    /// # Errors
    /// After a transient one it is called again, unless something else is before; rows that failed are tried again in any case.
    async fn settle(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Of a sink that decides ([`Decider`]): commits what was prepared, together with `decision` and, where
    /// sources are shared, with how far each share has been read. Between [`Sink::prepare`] and the end of this it
    /// is given no rows.
    ///
    /// # Errors
    /// After a transient one it is called again, with the same decision. [`SinkError::undecided`] if it is not
    /// known what became of it, or if a share has gone to others.
    async fn decide(&mut self, decision: &Decision, shares: &[Share]) -> Result<(), SinkError> {
        let _ = (decision, shares);
        Err(SinkError::new(ErrorKind::Internal, "it was asked to decide, which it does not do"))
    }
}

/// What a sink has to know to commit an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Receipt(pub serde_json::Value);

/// Why a sink refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// What kind of error; `Transient`, `Timeout`, `Limit` and `Full` are tried again.
    pub kind: ErrorKind,
    /// What was attempted and what came of it: lower case, no full stop.
    pub message: String,
    /// What it was given since the last decision is lost, or nobody knows what became of it: the pipeline
    /// has to be opened again and to go on from whatever was decided.
    pub is_undecided: bool,
    /// It said itself when it may be tried again.
    pub after: Option<Duration>,
}

impl SinkError {
    /// An error of some kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), is_undecided: false, after: None }
    }

    /// The same, not to be tried again before so long.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self { after: Some(time), ..self }
    }

    /// An error after which only opening the pipeline again shows where it stands.
    pub fn undecided(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), is_undecided: true, after: None }
    }
}

impl Kinded for SinkError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}
