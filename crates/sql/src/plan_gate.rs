//! The second gate: what a physical plan may be made of.
//!
//! The first gate looks at the text. This one looks at what came of it, and would catch what slips
//! past the first by a way nobody thought of: an operator that writes, or a leaf that reads
//! anything but a table of ours or rows in memory. Before anything is computed it also looks at the
//! types: one null of a type of fixed size takes the whole size.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Result as PlanResult;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{Expr, LogicalPlan};
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

/// Whether a value of the type takes room by its type alone.
fn has_fixed_size(data_type: &DataType) -> bool {
    match data_type {
        DataType::FixedSizeList(..) | DataType::FixedSizeBinary(_) | DataType::Union(..) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::Map(field, _) => has_fixed_size(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_fixed_size(field.data_type())),
        DataType::Dictionary(_, values) => has_fixed_size(values),
        DataType::RunEndEncoded(_, values) => has_fixed_size(values.data_type()),
        _ => false,
    }
}

/// Lets the types of an expression pass, or refuses it.
pub(crate) fn check_types(expr: &Expr) -> PlanResult<TreeNodeRecursion> {
    expr.apply(|part| {
        let made = match part {
            Expr::Cast(cast) => has_fixed_size(cast.field.data_type()),
            Expr::TryCast(cast) => has_fixed_size(cast.field.data_type()),
            Expr::Literal(value, _) => has_fixed_size(&value.data_type()),
            _ => false,
        };
        if made {
            return Err(SqlError::invalid("types of a fixed size are not supported").into_datafusion());
        }
        Ok(TreeNodeRecursion::Continue)
    })
}

/// Lets the types of a plan pass that nothing was computed of yet, or refuses it.
pub(crate) fn check_plan_types(plan: &LogicalPlan) -> PlanResult<()> {
    plan.apply_with_subqueries(|node| node.apply_expressions(check_types)).map(|_| ())
}

fn refuse(plan: &Arc<dyn ExecutionPlan>) -> Result<(), SqlError> {
    tracing::error!(operator = plan.name(), "a query came to need an operator that is not allowed");
    Err(SqlError::invalid("the query needs something that is not supported here"))
}
