//! The rows of a running query, as its caller sees them.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::ExecutionPlan;
use futures::Stream;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use weir_base::{Clock, Kinded};

use crate::budget::Budget;
use crate::environment::Permit;
use crate::error::SqlError;
use crate::expiring::Expiring;
use crate::lanes::OnLane;

/// What the query's task tells its caller, in this order: a schema, batches, and the end or a
/// failure.
#[derive(Debug)]
pub(crate) enum Message {
    Schema(SchemaRef),
    Batch(RecordBatch),
    End,
    Failed(SqlError),
}

/// What a query cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QueryStats {
    /// Rows in the result so far.
    pub rows: u64,
    /// Whether rows were left out because the result is limited.
    pub truncated: bool,
    /// From the call to now, in milliseconds.
    pub elapsed_ms: f64,
    /// From the call to the finished plan, in milliseconds.
    pub planning_ms: f64,
    /// Bytes read from table files. Known at the end.
    pub bytes_scanned: u64,
    /// Table files opened. Known at the end.
    pub files_scanned: u64,
    /// The code of the error that ended the answer before its end. No part of the answer's statistics: it stands
    /// beside them.
    #[serde(skip)]
    pub failed: Option<&'static str>,
}

/// Statistics that both sides of a query write to.
#[derive(Debug)]
pub(crate) struct SharedStats {
    clock: Arc<dyn Clock>,
    begun: Duration,
    rows: AtomicU64,
    truncated: AtomicBool,
    planned: Mutex<Duration>,
    finished: Mutex<Option<Duration>>,
    scan: Mutex<(u64, u64)>,
    failed: OnceLock<&'static str>,
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl SharedStats {
    pub(crate) fn new(clock: Arc<dyn Clock>, begun: Duration) -> Arc<Self> {
        Arc::new(Self {
            clock,
            begun,
            rows: AtomicU64::new(0),
            truncated: AtomicBool::new(false),
            planned: Mutex::default(),
            finished: Mutex::default(),
            scan: Mutex::default(),
            failed: OnceLock::new(),
        })
    }

    fn since_begin(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.begun)
    }

    pub(crate) fn planned(&self) {
        *self.planned.lock() = self.since_begin();
    }

    pub(crate) fn add_rows(&self, rows: usize) {
        self.rows.fetch_add(u64::try_from(rows).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn truncate(&self) {
        self.truncated.store(true, Ordering::Relaxed);
    }

    /// Adds up what the scans of a finished plan counted.
    pub(crate) fn scanned(&self, plan: &Arc<dyn ExecutionPlan>) {
        let mut sum = (0, 0);
        add_scans(plan, &mut sum);
        *self.scan.lock() = sum;
        *self.finished.lock() = Some(self.since_begin());
    }

    /// Takes note of what ended the answer before its end.
    pub(crate) fn note_failure(&self, error: &SqlError) {
        // The first one is the cause.
        let _ = self.failed.set(error.kind().code());
    }

    pub(crate) fn read(&self) -> QueryStats {
        let (bytes_scanned, files_scanned) = *self.scan.lock();
        QueryStats {
            rows: self.rows.load(Ordering::Relaxed),
            truncated: self.truncated.load(Ordering::Relaxed),
            elapsed_ms: millis(self.finished.lock().unwrap_or_else(|| self.since_begin())),
            planning_ms: millis(*self.planned.lock()),
            bytes_scanned,
            files_scanned,
            failed: self.failed.get().copied(),
        }
    }
}

fn add_scans(plan: &Arc<dyn ExecutionPlan>, sum: &mut (u64, u64)) {
    if plan.children().is_empty()
        && let Some(metrics) = plan.metrics()
    {
        for metric in metrics.iter() {
            use datafusion::physical_plan::metrics::MetricValue;
            match metric.value() {
                MetricValue::Count { name, count } if name == "bytes_scanned" => {
                    sum.0 += u64::try_from(count.value()).unwrap_or(u64::MAX);
                }
                MetricValue::Count { name, count } if name == "files_opened" => {
                    sum.1 += u64::try_from(count.value()).unwrap_or(u64::MAX);
                }
                _ => {}
            }
        }
    }
    for child in plan.children() {
        add_scans(child, sum);
    }
}

/// The rows of a query, and what it cost. A stream of batches that share [`QueryResult::schema`];
/// it ends after the last row or the first error. Dropping it cancels the query. What nobody has
/// come for at the deadline is dropped then.
#[derive(Debug)]
pub struct QueryResult {
    schema: SchemaRef,
    rows: Expiring<Rows>,
    lane: OnLane,
    deadline: Instant,
    timeout: SqlError,
    stats: Arc<SharedStats>,
    ended: bool,
}

/// A running query, and what it has found so far.
///
/// Invariant: the tenant's place for a query is taken as long as something of its answer is here.
/// Else who does not read could have any number of answers in memory.
#[derive(Debug)]
pub(crate) struct Rows {
    pending: Option<Message>,
    receiver: mpsc::Receiver<Message>,
    task: JoinHandle<()>,
    budget: Arc<Budget>,
    _place: Arc<Permit>,
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.task.abort();
        // Abort is for what yields.
        self.budget.cancel();
    }
}

impl Rows {
    pub(crate) fn new(
        receiver: mpsc::Receiver<Message>,
        task: JoinHandle<()>,
        budget: Arc<Budget>,
        place: Arc<Permit>,
    ) -> Self {
        Self { pending: None, receiver, task, budget, _place: place }
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Message> {
        if let Some(message) = self.pending.take() {
            return Poll::Ready(message);
        }
        if let Some(message) = ready!(self.receiver.poll_recv(context)) {
            return Poll::Ready(message);
        }
        // The task ended without a word: it panicked, or the engine is shutting down.
        Poll::Ready(Message::Failed(match ready!(Pin::new(&mut self.task).poll(context)) {
            Err(error) if error.is_panic() => {
                tracing::error!("a query panicked");
                SqlError::Internal
            }
            _ => SqlError::Cancelled,
        }))
    }
}

impl QueryResult {
    /// Waits for the schema and for the first rows, so that what fails early fails here.
    pub(crate) async fn start(
        rows: Rows,
        lane: OnLane,
        deadline: Instant,
        timeout: SqlError,
        stats: Arc<SharedStats>,
    ) -> Result<Self, SqlError> {
        let mut result = Self {
            schema: SchemaRef::new(arrow::datatypes::Schema::empty()),
            rows: Expiring::new(rows, deadline),
            lane,
            deadline,
            timeout,
            stats,
            ended: false,
        };
        match result.message().await {
            Message::Schema(schema) => result.schema = schema,
            Message::Failed(error) => return Err(error),
            Message::Batch(_) | Message::End => return Err(SqlError::Internal),
        }
        match result.message().await {
            Message::Failed(error) => return Err(error),
            message => result.rows.change(|rows| rows.pending = Some(message)),
        }
        Ok(result)
    }

    /// The columns of the result.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What the query has cost so far; complete once the stream has ended.
    pub fn stats(&self) -> QueryStats {
        self.stats.read()
    }

    /// What both sides of the query write to.
    pub(crate) fn shared_stats(&self) -> &Arc<SharedStats> {
        &self.stats
    }

    /// Reads what the query has cost, also after the result has been given away.
    pub fn stats_handle(&self) -> impl Fn() -> QueryStats + Send + Sync + 'static {
        let stats = Arc::clone(&self.stats);
        move || stats.read()
    }

    /// Where work on the rows may run.
    pub(crate) fn lane(&self) -> &OnLane {
        &self.lane
    }

    /// When the query has to be done, and the error if it is not.
    pub(crate) fn deadline(&self) -> (Instant, SqlError) {
        (self.deadline, self.timeout.clone())
    }

    async fn message(&mut self) -> Message {
        std::future::poll_fn(|context| self.poll_message(context)).await
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Message> {
        let message = ready!(self.rows.poll(context, Rows::poll_message));
        Poll::Ready(message.unwrap_or_else(|| Message::Failed(self.timeout.clone())))
    }
}

impl Stream for QueryResult {
    type Item = Result<RecordBatch, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let last = match ready!(self.poll_message(context)) {
            Message::Batch(batch) => return Poll::Ready(Some(Ok(batch))),
            Message::End => None,
            Message::Failed(error) => Some(Err(error)),
            Message::Schema(_) => Some(Err(SqlError::Internal)),
        };
        self.ended = true;
        self.rows.empty();
        Poll::Ready(last)
    }
}
