//! The second gate: what a physical plan may be made of.
//!
//! The first gate looks at the text. This one looks at what came of it, and would catch what slips
//! past the first by a way nobody thought of: an operator that writes, or a leaf that reads
//! anything but a table of ours or rows in memory. Before anything is computed it also looks at the
//! types: one null of a type of fixed size takes the whole size.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result as PlanResult};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{Expr, ExprSchemable, Like, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;

use crate::attributes::check_comparison;
use crate::error::SqlError;
use crate::scan::is_table;

/// The longest pattern of `LIKE`.
const PATTERN_BYTES_MAX: usize = 1024;
/// The most `_` of a pattern after its first `%`. With eight of them a row is still searched at 110 MB a
/// second, with sixteen at 2, with a thousand at 0.05; the number of `%` costs nothing (measured).
const FLOATING_SINGLES_MAX: usize = 8;

/// Operators that only compute.
const OPERATORS: &[&str] = &[
    "AggregateExec",
    "BoundedWindowAggExec",
    "BufferExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CompactTexts",
    "CooperativeExec",
    "CrossJoinExec",
    "ExplainExec",
    "FewGroups",
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

/// Whether there are maps in values of the type.
fn has_map(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(..) => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            has_map(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| has_map(field.data_type())),
        DataType::Dictionary(_, values) => has_map(values),
        _ => false,
    }
}

/// Lets an aggregate of values of these types pass, or refuses it: of maps none is the larger one.
pub(crate) fn check_order(name: &str, types: &[DataType]) -> Result<(), SqlError> {
    if !matches!(name, "max" | "min") || !types.first().is_some_and(has_map) {
        return Ok(());
    }
    Err(SqlError::invalid(format!(
        "{name}() needs values in an order, and maps have none: give it one of their values, as in {name}(properties['key'])"
    )))
}

/// Lets a pattern of `LIKE` pass, or refuses it: what it costs a row must not be the query's to choose,
/// since a deadline is looked at between batches only.
fn check_pattern(like: &Like) -> Result<(), SqlError> {
    let Expr::Literal(value, _) = like.pattern.as_ref() else { return Ok(()) };
    let Some(Some(pattern)) = value.try_as_str() else { return Ok(()) };
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(SqlError::TooLarge {
            what: "bytes in a pattern of LIKE",
            value: pattern.len(),
            max: PATTERN_BYTES_MAX,
        });
    }
    let escape = like.escape_char.unwrap_or('\\');
    let (mut is_floating, mut singles) = (false, 0);
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character == escape {
            characters.next();
        } else if character == '%' {
            is_floating = true;
        } else if character == '_' && is_floating {
            singles += 1;
        }
    }
    if singles > FLOATING_SINGLES_MAX {
        return Err(SqlError::TooLarge {
            what: "`_` after a `%` in a pattern of LIKE",
            value: singles,
            max: FLOATING_SINGLES_MAX,
        });
    }
    Ok(())
}

/// Lets the patterns of a plan pass whose constants are computed, or refuses it.
pub(crate) fn check_patterns(plan: &LogicalPlan) -> PlanResult<()> {
    let check = |expr: &Expr| {
        expr.apply(|part| match part {
            Expr::Like(like) if !matches!(like.pattern.as_ref(), Expr::Literal(..)) => Err(SqlError::invalid(
                "a pattern of LIKE must be the same for all rows; use strpos, starts_with or regexp_like to compare columns",
            )
            .into_datafusion()),
            Expr::Like(like) => {
                check_pattern(like).map_err(SqlError::into_datafusion).map(|()| TreeNodeRecursion::Continue)
            }
            _ => Ok(TreeNodeRecursion::Continue),
        })
    };
    plan.apply_with_subqueries(|node| node.apply_expressions(check)).map(|_| ())
}

/// Lets a plan pass that puts no maps in an order and finds no rows by them, or refuses it. To be called before the
/// optimizer, which fails with some, and after it, because it makes joins of `IN (SELECT ...)`, `EXCEPT` and `INTERSECT`.
pub(crate) fn check_maps(plan: &LogicalPlan) -> PlanResult<()> {
    let refused = |message: &str| Err(SqlError::invalid(message).into_datafusion());
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Join(join) => {
                for (left, _) in &join.on {
                    if has_map(&left.get_type(join.left.schema())?) {
                        return refused(
                            "rows of one side are not found by a map of the other, in JOIN, IN (SELECT ...), EXCEPT and INTERSECT alike: \
                             take one of its values, as in properties['key']",
                        );
                    }
                }
            }
            LogicalPlan::Aggregate(aggregate) => {
                for expr in &aggregate.aggr_expr {
                    check_ordered(expr, aggregate.input.schema())?;
                }
            }
            LogicalPlan::Window(window) => {
                for expr in &window.window_expr {
                    check_ordered(expr, window.input.schema())?;
                }
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map(|_| ())
}

/// Lets the aggregates and the windows of an expression pass, or refuses them.
fn check_ordered(expr: &Expr, schema: &DFSchema) -> PlanResult<()> {
    let types = |arguments: &[Expr]| -> PlanResult<Vec<DataType>> {
        arguments.iter().map(|argument| argument.get_type(schema)).collect()
    };
    expr.apply(|part| {
        match part {
            Expr::AggregateFunction(call) => {
                check_order(call.func.name(), &types(&call.params.args)?).map_err(SqlError::into_datafusion)?;
            }
            Expr::WindowFunction(call) => {
                check_order(call.fun.name(), &types(&call.params.args)?).map_err(SqlError::into_datafusion)?;
                for sort in &call.params.order_by {
                    if has_map(&sort.expr.get_type(schema)?) {
                        let message = "ORDER BY in OVER (...) needs values in an order, and maps have none: take one of \
                                       their values, as in properties['key']";
                        return Err(SqlError::invalid(message).into_datafusion());
                    }
                }
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map(|_| ())
}

/// Lets the types and the patterns of an expression pass, or refuses it.
pub(crate) fn check_types(expr: &Expr) -> PlanResult<TreeNodeRecursion> {
    expr.apply(|part| {
        check_comparison(part)?;
        let made = match part {
            // A regular expression without the bound that the functions have.
            Expr::SimilarTo(_) => {
                let message = "SIMILAR TO is not supported; use ~ or regexp_like";
                return Err(SqlError::invalid(message).into_datafusion());
            }
            Expr::Like(like) => {
                check_pattern(like).map_err(SqlError::into_datafusion)?;
                false
            }
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
