//! The streams of a tenant, as far as one pipeline may read and write them.
//!
//! Where streams are kept is no business of the components: the entries `stream` of the tables of sources and
//! sinks only ask the handle they are given. Whoever runs pipelines beside a log gives one; a pipeline that runs
//! by itself has none.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;

use crate::sink::{Delivery, PlannedSink};
use crate::source::PlannedSource;
use crate::spec::Fault;

/// The streams of one tenant, for one of its pipelines.
pub trait Streams: Send + Sync + fmt::Debug {
    /// The columns of a stream as a pipeline sees them; `None` if there is no such stream.
    fn schema(&self, stream: &str) -> Option<SchemaRef>;

    /// Plans to read a stream. Nothing is opened yet. The pointer of a fault is relative to the settings of
    /// the source.
    ///
    /// # Errors
    /// What is wrong with it.
    fn source(&self, read: &ReadStream) -> Result<Arc<dyn PlannedSource>, Fault>;

    /// Plans to read a table as a whole, to its end. Nothing is asked yet. The pointer of a fault is relative to the
    /// settings of the table.
    ///
    /// # Errors
    /// What is wrong with it.
    fn table(&self, read: &ReadTable) -> Result<Arc<dyn PlannedSource>, Fault>;

    /// Plans to write a stream, which is made with the first rows' columns if it is not there. Nothing is
    /// opened yet.
    ///
    /// # Errors
    /// What is wrong with it.
    fn sink(&self, write: &WriteStream) -> Result<Arc<dyn PlannedSink>, Fault>;
}

/// How a stream is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadStream {
    /// Its name.
    pub name: String,
    /// Where a pipeline begins that has not read it before.
    pub start: StreamStart,
    /// How long after a commit of the log rows of its time are still expected, where the stream itself is
    /// silent: time goes on without it up to so long ago.
    pub quiet: Duration,
    /// Which rows, where the stream has a key.
    pub revisions: Revisions,
    /// Which columns, beside `time` and `received_at`; all of them, if none is named.
    pub columns: Vec<String>,
}

/// How a table is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadTable {
    /// Its name.
    pub name: String,
    /// Which columns.
    pub columns: Vec<String>,
    /// Which rows: those for which this is true; all of them, if it is not said.
    pub condition: Option<String>,
}

/// Which rows are read of a stream with a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revisions {
    /// Final results, each once, as if they had never been revised.
    #[default]
    Final,
    /// All rows, with the columns that say which revisions they are.
    All,
}

/// Where a pipeline begins to read a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamStart {
    /// With the rows that came after the pipeline was made.
    #[default]
    Now,
    /// With the oldest rows the log still has.
    Oldest,
}

/// How a stream is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteStream {
    /// Its name.
    pub name: String,
    /// The columns a row is known by; empty if every row stands for itself. With a key, rows end with
    /// [`crate::revision::COLUMNS`].
    pub key: Vec<String>,
    /// What is promised of each row.
    pub delivery: Delivery,
}
