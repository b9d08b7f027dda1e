//! The newest rows that all partitions of a scan have found together.
//!
//! `ORDER BY time DESC LIMIT n` sorts every partition for itself, and its filter is tightened only once
//! one of them has found n rows alone. Two partitions then read twice the blocks it takes, and how many
//! exactly depends on which thread ran first. [`CountTogether`] tells the scan what n is; its partitions
//! put the times of the rows they hand on into one heap and stop together.
//!
//! Invariant: only rows that go into the sort as they are count, so nothing may stand in between.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampNanosecondType;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};
use parking_lot::Mutex;

use crate::scan::TableSource;

/// With more rows than this wanted, their times are not counted: it is a sort of most of a table.
const ROWS_MAX: usize = 100_000;

/// What is wanted: so many rows, the newest by a column of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) time: usize,
    pub(crate) rows: usize,
}

/// The times of the newest rows found so far.
#[derive(Debug)]
pub(super) struct Newest {
    wanted: Wanted,
    /// The oldest of them is on top; never more than are wanted.
    times: Mutex<BinaryHeap<Reverse<i64>>>,
    too_old: AtomicI64,
}

impl Newest {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { wanted, times: Mutex::default(), too_old: AtomicI64::new(i64::MIN) }
    }

    /// Counts rows that are handed on.
    pub(super) fn see(&self, batch: &RecordBatch) {
        let column = batch.columns().get(self.wanted.time);
        let Some(found) = column.and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>()) else {
            return;
        };
        let mut times = self.times.lock();
        for time in found.iter().flatten() {
            if times.len() < self.wanted.rows {
                times.push(Reverse(time));
            } else if let Some(mut oldest) = times.peek_mut()
                && oldest.0 < time
            {
                *oldest = Reverse(time);
            }
        }
        if times.len() == self.wanted.rows
            && let Some(Reverse(oldest)) = times.peek()
        {
            // A row of the same time may still be wanted: what comes next in the order decides.
            self.too_old.store(oldest.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// The largest time that is too old.
    pub(super) fn too_old(&self) -> i64 {
        self.too_old.load(Ordering::Relaxed)
    }
}

/// Tells scans of tables how many of the newest rows the sort above them keeps.
#[derive(Debug, Default)]
pub(crate) struct CountTogether;

impl PhysicalOptimizerRule for CountTogether {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| match counting(&plan) {
            Some(scan) => {
                let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
                Ok(Transformed::yes(plan.replace_children(vec![scan], options)?))
            }
            None => Ok(Transformed::no(plan)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "CountTogether"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The scan right below a sort that keeps the newest rows, so that it counts them.
fn counting(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let sort = plan.downcast_ref::<SortExec>()?;
    let rows = sort.fetch().filter(|rows| (1..=ROWS_MAX).contains(rows))?;
    let scan = sort.input().downcast_ref::<DataSourceExec>()?;
    let source = scan.data_source().downcast_ref::<TableSource>()?;
    let source = source.counting_newest(sort.expr().first(), rows)?;
    Some(Arc::new(scan.clone().with_data_source(Arc::new(source))))
}

#[cfg(test)]
mod tests;
