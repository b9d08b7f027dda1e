//! Where rows come from: what can be read again from a position.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use weir_base::{ErrorKind, Kinded, Timestamp};

/// A source after its check: what it will give, and how to open it.
#[async_trait]
pub trait PlannedSource: Send + Sync {
    /// The columns of its rows.
    fn schema(&self) -> SchemaRef;

    /// Whether it ends by itself.
    fn is_bounded(&self) -> bool;

    /// Begins to read at `position`, or at the beginning.
    ///
    /// # Errors
    /// If it cannot be opened. `NotFound`: what comes after the position is not kept any more, so rows were lost
    /// to this reader; somebody has to decide where it goes on.
    async fn open(&self, position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError>;

    /// One line for people: what is read.
    fn describe(&self) -> String;

    /// The column with the event time where the pipeline does not name one. `None`: the time of arrival.
    fn time(&self) -> Option<&str> {
        None
    }

    /// The rows in something it could not make into rows before ([`SourceReject::payload`]), now that it may be
    /// described in another way. `None`: what it reads are not texts, so there is nothing to try again.
    ///
    /// # Errors
    /// What is wrong with it: lower case, no full stop.
    fn again(&self, payload: &str) -> Option<Result<RecordBatch, String>> {
        let _ = payload;
        None
    }

    /// The stream of Weir it reads, if it is one.
    fn stream(&self) -> Option<&str> {
        None
    }

    /// Which part of what is there it reads, such as `part 1/3 of the partitions`, where documents may differ in that: how far
    /// one part was read says nothing of another. Kept with positions.
    fn part(&self) -> Option<String> {
        None
    }

    /// Whether several processes that run the same pipeline divide the partitions among them. How far each was read
    /// is then known to all of them by [`Source::share`] and not by the checkpoint of one.
    fn is_shared(&self) -> bool {
        false
    }
}

/// A source that is being read.
#[async_trait]
pub trait Source: Send {
    /// What comes next. May read and decode for some milliseconds between awaits, so it belongs on a
    /// thread that is not needed for anything quick. May be dropped at any await: nothing is lost and nothing comes twice.
    ///
    /// `behind` is the partition that holds back event time: rows of it are the most useful, and rows of
    /// others only pile up in windows. A source that can choose reads that partition.
    ///
    /// # Errors
    /// A transient one is tried again by the engine; after any other the source is not asked again. `NotFound`
    /// means the same as from [`PlannedSource::open`].
    async fn next(&mut self, behind: Option<&str>) -> Result<Next, SourceError>;

    /// The place after the last batch that was given.
    fn position(&self) -> SourcePosition;

    /// Everything before `position` is part of a checkpoint and will not be asked for again.
    ///
    /// # Errors
    /// If that could not be noted; the checkpoint stands nevertheless.
    async fn committed(&mut self, position: &SourcePosition) -> Result<(), SourceError> {
        let _ = position;
        Ok(())
    }

    /// The partitions rows may still come from: time waits for each of them, for those that have not
    /// given a row too, and for no other. The same pointer as long as they are the same. `None`: the
    /// partitions rows have come from so far.
    fn partitions(&self) -> Option<Arc<[PartitionName]>> {
        None
    }

    /// Whether `next` gives rows of the partition it is told of if there are any. Then rows of another one mean that
    /// it has none at the moment, and it may be idle beside others that are busy.
    fn prefers_behind(&self) -> bool {
        false
    }

    /// Of one that stands where all had been read: what has come since, in a few words, such as `in/a.ndjson has grown`.
    /// Only looks.
    ///
    /// # Errors
    /// If what was read is not what is there now.
    fn come_since(&self) -> Result<Option<String>, SourceError> {
        Ok(None)
    }

    /// How far behind it is, in rows, if that is known.
    fn lag_rows(&self) -> Option<u64> {
        None
    }

    /// The same of each partition it knows it of.
    fn lags(&self) -> Vec<(PartitionName, u64)> {
        Vec::new()
    }

    /// Of a source that is shared ([`PlannedSource::is_shared`]): what it has of the partitions now, and how far it
    /// has read them. A sink that decides commits it together with its rows.
    fn share(&self) -> Option<Share> {
        None
    }

    /// Why what it gave last may be older than it should be: it could not be read since, and goes on without.
    fn trouble(&self) -> Option<&Trouble> {
        None
    }

    /// Of one that has been read to its end: what should have been there before any row and was not, such as the header of
    /// a file that somebody has just emptied. No row is wrong for it, but who needs all of what is read has less than that.
    fn lacks(&self) -> Option<&str> {
        None
    }

    /// Bytes of memory that what it has read and not given yet takes, where that may be much. They count as state of
    /// the pipeline.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Whether it waits for a checkpoint, because it has to give away partitions.
    fn wants_checkpoint(&self) -> bool {
        false
    }
}

/// Attempts to read that failed, and that a source goes on without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// How many have failed since the last one that did not.
    pub attempts: u64,
    /// When the first of them failed.
    pub since: Timestamp,
    /// What was attempted last and what came of it.
    pub error: String,
}

/// A part of what several processes read together, as it is at a barrier.
#[derive(Clone)]
pub struct Share {
    /// What the sink has to know to commit it; only a sink of the same system understands it.
    pub membership: Arc<dyn Any + Send + Sync>,
    /// How far the partitions have been read.
    pub position: SourcePosition,
}

impl fmt::Debug for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Share").field("position", &self.position).finish_non_exhaustive()
    }
}

/// What a source has to say.
#[derive(Debug)]
pub enum Next {
    /// Rows.
    Rows(SourceRows),
    /// No rows, and no row of this partition is expected any more that would not be allowed by a row of
    /// this time, in nanoseconds since 1970.
    Time(PartitionName, i64),
    /// Nothing at the moment; worth asking again after so long.
    Nothing(Duration),
    /// Nothing any more.
    Done,
}

/// Rows of one partition, in the partition's order.
#[derive(Clone, Debug)]
pub struct SourceRows {
    /// Which partition: time is kept for each. The names are stable over restarts.
    pub partition: PartitionName,
    /// The rows.
    pub rows: RecordBatch,
    /// When each row arrived, in nanoseconds since 1970, if the source knows. A row advances time by
    /// the smaller one of its event time and its arrival.
    pub arrived: Option<arrow::buffer::ScalarBuffer<i64>>,
    /// What could not be made into rows.
    pub rejects: Vec<SourceReject>,
    /// Bytes it was read from.
    pub bytes: u64,
}

/// The name of a partition of a source.
pub type PartitionName = Arc<str>;

/// Something that was read and is not a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReject {
    /// Where it was read, such as `in/a.ndjson:17`.
    pub place: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What was read, cut.
    pub payload: String,
}

/// How far a source has been read: partition to a place only the source understands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourcePosition {
    /// Place by partition.
    pub partitions: BTreeMap<String, serde_json::Value>,
}

/// Why a source cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// What kind of error; `Transient`, `Timeout` and `Limit` are tried again.
    pub kind: ErrorKind,
    /// What was attempted and what came of it: lower case, no full stop.
    pub message: String,
    /// Others read its partitions now: nothing it gave since the last checkpoint counts, and the pipeline has to be
    /// opened again.
    pub is_lost: bool,
}

impl SourceError {
    /// An error of some kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), is_lost: false }
    }

    /// Its share has gone to others without its doing.
    pub fn lost(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Conflict, message: message.into(), is_lost: true }
    }
}

impl Kinded for SourceError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}
