//! What the functions of one query may use together: memory, work at a stretch, and time.
//!
//! The memory of operators is accounted for by the engine; what expressions make on the way is
//! not. So the places of a plan that make text or lists share the query's memory between them, and
//! the more there are, the fewer rows are worked on at once. What is computed while planning gets
//! far less: it would end as a constant that is repeated for every row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, LogicalPlan};
use parking_lot::Mutex;
use weir_base::Clock;

use crate::error::SqlError;
use crate::functions::makes_values;

/// The most bytes the functions of a query may hold, whatever the tenant's memory is.
const QUERY_BYTES_MAX: usize = 256 << 20;
/// The most bytes one call may make out of one batch.
pub(crate) const CALL_BYTES_MAX: usize = 64 << 20;
/// The most bytes one call may make while planning.
const FOLDED_CALL_BYTES_MAX: usize = 1 << 20;
/// The most bytes all calls may make while planning.
const FOLDED_BYTES_MAX: usize = 16 << 20;
/// The most steps of work in one piece, about a second or two of the slowest.
const WORK_MAX: usize = 200_000_000;
/// The same while planning.
const FOLDED_WORK_MAX: usize = 10_000_000;
/// The most rows of a batch.
pub(crate) const BATCH_ROWS_MAX: usize = 8192;
/// Batches are not made smaller than this because of many places.
const BATCH_ROWS_MIN: usize = 256;
/// With so many places batches are as large as they can be.
const PLACES_OF_FULL_BATCH: usize = 4;
/// Constants smaller than this do not count.
const SMALL_CONSTANT_BYTES: usize = 256;

/// The budget of one query, or of one row filter.
#[derive(Debug)]
pub(crate) struct Budget {
    clock: Arc<dyn Clock>,
    time: Duration,
    /// In nanoseconds of the monotonic clock.
    deadline: AtomicU64,
    bytes: usize,
    planning: AtomicBool,
    /// Nobody waits for the answer any more.
    cancelled: AtomicBool,
    call_bytes_max: AtomicUsize,
    folded: AtomicUsize,
    refused: Mutex<Option<SqlError>>,
}

/// What of a plan or an expression its functions have to share memory with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Places {
    count: usize,
    constant_bytes: usize,
}

impl Places {
    /// Counts the places of an expression.
    pub(crate) fn add(&mut self, expr: &Expr) -> Result<TreeNodeRecursion> {
        expr.apply(|part| {
            match part {
                Expr::Literal(value, _) => {
                    let bytes = value.size();
                    if bytes > SMALL_CONSTANT_BYTES {
                        self.constant_bytes = self.constant_bytes.saturating_add(bytes);
                    }
                }
                part => self.count += usize::from(makes_values(part)),
            }
            Ok(TreeNodeRecursion::Continue)
        })
    }

    /// Counts the places of a plan.
    pub(crate) fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut places = Self::default();
        plan.apply_with_subqueries(|node| node.apply_expressions(|expr| places.add(expr)))?;
        Ok(places)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Budget {
    /// A budget for planning; it ends `time` from `begun`, in monotonic time.
    pub(crate) fn new(clock: Arc<dyn Clock>, memory_bytes: usize, begun: Duration, time: Duration) -> Arc<Self> {
        Arc::new(Self {
            clock,
            time,
            deadline: AtomicU64::new(nanos(begun.saturating_add(time))),
            bytes: memory_bytes.min(QUERY_BYTES_MAX),
            planning: AtomicBool::new(true),
            cancelled: AtomicBool::new(false),
            call_bytes_max: AtomicUsize::new(FOLDED_CALL_BYTES_MAX.min(memory_bytes)),
            folded: AtomicUsize::new(0),
            refused: Mutex::default(),
        })
    }

    /// Begins the time anew.
    pub(crate) fn renew(&self) {
        self.deadline.store(nanos(self.clock.monotonic().saturating_add(self.time)), Ordering::Relaxed);
    }

    /// Ends planning, and says how many rows may be worked on at once. Fails if something was
    /// refused meanwhile: the planner keeps what it cannot compute, to be tried again on each row.
    pub(crate) fn planned(&self, places: Places) -> std::result::Result<usize, SqlError> {
        if let Some(error) = self.refused.lock().take() {
            return Err(error);
        }
        self.planning.store(false, Ordering::Relaxed);
        let share = (self.bytes / places.count.max(1)).min(CALL_BYTES_MAX);
        self.call_bytes_max.store(share, Ordering::Relaxed);
        let by_places =
            (BATCH_ROWS_MAX * PLACES_OF_FULL_BATCH / places.count.max(PLACES_OF_FULL_BATCH)).max(BATCH_ROWS_MIN);
        let by_constants = (self.bytes.min(CALL_BYTES_MAX) / places.constant_bytes.max(1)).max(1);
        Ok(by_places.min(by_constants))
    }

    fn is_planning(&self) -> bool {
        self.planning.load(Ordering::Relaxed)
    }

    /// The error as the engine takes it, remembered while planning.
    pub(crate) fn refuse(&self, error: SqlError) -> DataFusionError {
        if self.is_planning() {
            self.refused.lock().get_or_insert_with(|| error.clone());
        }
        error.into_datafusion()
    }

    /// Ends what asks.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Fails once the time is over or nobody waits any more: what does not yield has to ask.
    pub(crate) fn check_time(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(self.refuse(SqlError::Cancelled));
        }
        if nanos(self.clock.monotonic()) > self.deadline.load(Ordering::Relaxed) {
            return Err(self.refuse(SqlError::Timeout { limit: self.time }));
        }
        Ok(())
    }

    /// The most bytes one call may make.
    pub(crate) fn call_bytes_max(&self) -> usize {
        self.call_bytes_max.load(Ordering::Relaxed)
    }

    /// The most steps of work in one piece.
    pub(crate) fn work_max(&self) -> usize {
        if self.is_planning() { FOLDED_WORK_MAX } else { WORK_MAX }
    }

    /// The error of a call whose result is too large.
    pub(crate) fn too_large(&self, function: &str) -> DataFusionError {
        self.refuse(SqlError::ResultTooLarge { function: function.to_owned(), bytes: self.call_bytes_max() })
    }

    /// Counts the result of a call.
    pub(crate) fn charge(&self, function: &str, bytes: usize) -> Result<()> {
        if bytes > self.call_bytes_max() {
            return Err(self.too_large(function));
        }
        if self.is_planning()
            && self.folded.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > FOLDED_BYTES_MAX
        {
            return Err(self.refuse(SqlError::ConstantsTooLarge { bytes: FOLDED_BYTES_MAX }));
        }
        Ok(())
    }
}
