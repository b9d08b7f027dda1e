//! What a sink does while its task goes on: one thing at a time, with the sink in its hands.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::future::BoxFuture;
use weir_component::checkpoint::CheckpointStore;
use weir_component::sink::{Opening, PlannedSink, Receipt, Sink, SinkError};

use crate::error::JobError;

/// How a sink is opened.
pub(crate) struct Opener {
    pub(crate) planned: Arc<dyn PlannedSink>,
    pub(crate) schema: SchemaRef,
    pub(crate) opening: Opening,
    /// What it keeps beside the checkpoints.
    pub(crate) kept: Arc<dyn CheckpointStore>,
}

impl Opener {
    /// Opens it. After a failure that may pass it can be tried again.
    pub(crate) fn open(&self) -> impl Future<Output = Result<Box<dyn Sink>, SinkError>> + Send + use<> {
        let (planned, schema) = (Arc::clone(&self.planned), Arc::clone(&self.schema));
        let (opening, kept) = (self.opening.clone(), Arc::clone(&self.kept));
        async move { planned.open_with(schema, opening, kept).await }
    }
}

/// Whether a sink that could not be opened may be some time.
pub(crate) fn may_come(error: &SinkError) -> bool {
    JobError::may_pass(error.kind) && !error.is_undecided
}

/// What the sink has done.
pub(crate) enum Done {
    Opened,
    Wrote(usize),
    Prepared(u64, Receipt),
    Committed,
    Settled,
}

/// The last receipt of a sink.
pub(crate) struct Prepared {
    /// The epoch the sink calls it by.
    pub(crate) epoch: u64,
    pub(crate) receipt: Receipt,
    /// The epoch of the first manifest that records it.
    pub(crate) recorded: Option<u64>,
    pub(crate) is_committed: bool,
}

impl Prepared {
    /// Whether it is to be committed, where that is the newest epoch that was decided.
    pub(crate) fn waits_for_commit(&self, decided: u64) -> bool {
        !self.is_committed && self.recorded.is_some_and(|recorded| recorded <= decided)
    }
}

/// The sink, if it is open, and what came of it.
pub(crate) type Worked = (Option<Box<dyn Sink>>, Result<Done, SinkError>);
/// What the sink is doing.
pub(crate) type Work = BoxFuture<'static, Worked>;
