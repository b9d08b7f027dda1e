//! The second gate: what a physical plan may be made of.
//!
//! The first gate looks at the text. This one looks at what came of it, and would catch what slips
//! past the first by a way nobody thought of: an operator that writes, or a leaf that reads
//! anything but a table of ours or rows in memory.

use std::sync::Arc;

use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;

use crate::error::SqlError;
use crate::scan::is_table;

/// Operators that only compute.
const OPERATORS: &[&str] = &[
    "AggregateExec",
    "BoundedWindowAggExec",
    "BufferExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "CrossJoinExec",
    "ExplainExec",
    "FilterExec",
    "GlobalLimitExec",
    "HashJoinExec",
    "InterleaveExec",
    "LocalLimitExec",
    "NestedLoopJoinExec",
    "OutputRequirementExec",
    "PartialSortExec",
    "PartitionedTopKExec",
    "PiecewiseMergeJoinExec",
    "ProjectionExec",
    "RepartitionExec",
    "ScalarSubqueryExec",
    "SortExec",
    "SortExec(TopK)",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "SymmetricHashJoinExec",
    "UnionExec",
    "UnnestExec",
    "WindowAggExec",
];

/// Leaves that read nothing.
const EMPTY_LEAVES: &[&str] = &["EmptyExec", "PlaceholderRowExec", "ExplainExec"];

/// Lets a plan pass, or refuses it.
pub(crate) fn check(plan: &Arc<dyn ExecutionPlan>) -> Result<(), SqlError> {
    let children = plan.children();
    if children.is_empty() {
        let allowed = match plan.downcast_ref::<DataSourceExec>() {
            Some(leaf) => is_table(leaf.data_source()) || leaf.data_source().is::<MemorySourceConfig>(),
            None => EMPTY_LEAVES.contains(&plan.name()),
        };
        if !allowed {
            return refuse(plan);
        }
    } else if !OPERATORS.contains(&plan.name()) {
        return refuse(plan);
    }
    children.into_iter().try_for_each(check)
}

fn refuse(plan: &Arc<dyn ExecutionPlan>) -> Result<(), SqlError> {
    tracing::error!(operator = plan.name(), "a query came to need an operator that is not allowed");
    Err(SqlError::invalid("the query needs something that is not supported here"))
}
