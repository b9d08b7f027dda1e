//! Joins that can be stopped.
//!
//! A join makes many rows of few. It counts none of them against the work its task may do at a stretch, and a join
//! whose condition is rarely true computes it for hours before there is a row to give. So what comes out of a join is
//! counted, and its condition asks whether the query has time left and somebody who waits for it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, HashJoinExecBuilder, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
};
use datafusion::physical_plan::unnest::UnnestExec;

use crate::budget::Budget;

/// Puts the two checks into every join.
#[derive(Debug)]
pub(crate) struct StopJoins(pub(crate) Arc<Budget>);

impl StopJoins {
    fn asking(&self, filter: Option<&JoinFilter>) -> Option<JoinFilter> {
        filter.map(|filter| {
            let condition = Asking { condition: Arc::clone(filter.expression()), budget: Arc::clone(&self.0) };
            JoinFilter::new(Arc::new(condition), filter.column_indices().to_vec(), Arc::clone(filter.schema()))
        })
    }

    fn stoppable(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
        let join = if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
            let filter = self.asking(join.filter());
            Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(filter).build()?)
        } else if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            HashJoinExecBuilder::from(join).with_filter(self.asking(join.filter())).build_exec()?
        } else if plan.downcast_ref::<CrossJoinExec>().is_some() || plan.downcast_ref::<UnnestExec>().is_some() {
            plan
        } else {
            return Ok(Transformed::no(plan));
        };
        Ok(Transformed::yes(Arc::new(CooperativeExec::new(join))))
    }
}

impl PhysicalOptimizerRule for StopJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| self.stoppable(plan)).data()
    }

    fn name(&self) -> &str {
        "StopJoins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A condition that fails when the query's time is over or nobody waits for it.
#[derive(Clone, Debug)]
struct Asking {
    condition: Arc<dyn PhysicalExpr>,
    budget: Arc<Budget>,
}

impl fmt::Display for Asking {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt(formatter)
    }
}

impl PartialEq for Asking {
    fn eq(&self, other: &Self) -> bool {
        self.condition.eq(&other.condition)
    }
}

impl Eq for Asking {}

impl Hash for Asking {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.condition.hash(state);
    }
}

impl PhysicalExpr for Asking {
    fn data_type(&self, input_schema: &Schema) -> Result<DataType> {
        self.condition.data_type(input_schema)
    }

    fn nullable(&self, input_schema: &Schema) -> Result<bool> {
        self.condition.nullable(input_schema)
    }

    fn return_field(&self, input_schema: &Schema) -> Result<FieldRef> {
        self.condition.return_field(input_schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.budget.check_time()?;
        self.condition.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.condition]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let condition = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.condition));
        Ok(Arc::new(Self { condition, budget: Arc::clone(&self.budget) }))
    }

    fn fmt_sql(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt_sql(formatter)
    }
}
