//! Grouping by columns of few values.
//!
//! Telemetry is grouped by services, severities, routes: a handful of values, repeated millions of
//! times. DataFusion's first stage of a grouped aggregate hashes and compares the values of every
//! row. [`FewGroups`] takes its place: it remembers which group each combination of values is, in
//! tables small enough for the first-level cache, and looks at a value only when it has not met it.
//! Accumulators, the second stage and the answer are DataFusion's own. Once there are more groups
//! than pays, it hands over what it has and leaves the rest of the input to DataFusion's first stage.

mod numbering;

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties,
    ReplaceChildrenOptions, SendableRecordBatchStream,
};
use futures::StreamExt;
use parking_lot::Mutex;

use self::numbering::{Numbering, can_number};

/// With more groups than this, hashing is as good.
const GROUPS_MAX: usize = 4096;
/// The most groups a heap is made for.
const HEAP_GROUPS_MAX: usize = 10_000;
/// Aggregates whose state is a few numbers for each group.
const AGGREGATES: &[&str] = &["avg", "count", "max", "min", "sum"];

/// Puts [`FewGroups`] where it can stand.
#[derive(Debug, Default)]
pub(crate) struct UseFewGroups;

impl PhysicalOptimizerRule for UseFewGroups {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| match FewGroups::instead_of(&plan)? {
            Some(better) => Ok(Transformed::yes(Arc::new(better) as Arc<dyn ExecutionPlan>)),
            None => Ok(Transformed::no(plan)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "UseFewGroups"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Takes the limit off aggregates that would keep only the first of very many groups.
#[derive(Debug, Default)]
pub(crate) struct KeepAllGroups;

impl PhysicalOptimizerRule for KeepAllGroups {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| match aggregate(&plan).filter(|stage| makes_room_ahead(stage)) {
            Some(stage) => Ok(Transformed::yes(Arc::new(stage.with_new_limit_options(None)) as Arc<dyn ExecutionPlan>)),
            None => Ok(Transformed::no(plan)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "KeepAllGroups"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether DataFusion would make room for more groups than pays, before it knows of any. Its hash tables only stop at
/// the limit; its heaps take as much at once.
fn makes_room_ahead(stage: &AggregateExec) -> bool {
    stage.limit_options().is_some_and(|limit| limit.limit() > HEAP_GROUPS_MAX)
        && !stage.is_unordered_unfiltered_group_by_distinct()
}

/// The first stage of a grouped aggregate.
#[derive(Debug)]
pub(crate) struct FewGroups {
    /// What it takes the place of.
    plain: Arc<dyn ExecutionPlan>,
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    metrics: ExecutionPlanMetricsSet,
}

fn aggregate(plan: &Arc<dyn ExecutionPlan>) -> Option<&AggregateExec> {
    plan.downcast_ref::<AggregateExec>()
}

fn with_children(
    plan: &Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    Arc::clone(plan).replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

impl FewGroups {
    fn instead_of(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Self>> {
        let Some(stage) = aggregate(plan) else { return Ok(None) };
        let group = stage.group_expr();
        let schema = stage.input().schema();
        let keys = group.input_exprs();
        let numbers = keys.iter().map(|key| Ok(can_number(&key.data_type(&schema)?))).collect::<Result<Vec<_>>>()?;
        let simple = |at: usize| {
            let expr = &stage.aggr_expr()[at];
            let state_is_flat = expr.state_fields()?.iter().all(|field| field.data_type().is_primitive());
            Ok(AGGREGATES.contains(&expr.fun().name())
                && !expr.is_distinct()
                && expr.order_bys().is_empty()
                && expr.groups_accumulator_supported()
                && stage.filter_expr().get(at).is_none_or(Option::is_none)
                && state_is_flat)
        };
        let aggregates = (0..stage.aggr_expr().len()).map(simple).collect::<Result<Vec<_>>>()?;
        let fits = *stage.mode() == AggregateMode::Partial
            && group.is_single()
            && !keys.is_empty()
            && stage.limit_options().is_none()
            && *stage.input_order_mode() == InputOrderMode::Linear
            && numbers.into_iter().chain(aggregates).all(|fits| fits);
        Ok(fits.then(|| Self {
            plain: Arc::clone(plan),
            input: Arc::clone(stage.input()),
            keys,
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }
}

impl DisplayAs for FewGroups {
    fn fmt_as(&self, format: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FewGroups: ")?;
        match aggregate(&self.plain) {
            Some(stage) => stage.fmt_as(format, formatter),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for FewGroups {
    fn name(&self) -> &'static str {
        "FewGroups"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.plain.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.plain.apply_expressions(visit)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        with_children(&self.plain, children)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(stage) = aggregate(&self.plain) else { return internal_err!("the first stage is no aggregate") };
        let aggregates = stage
            .aggr_expr()
            .iter()
            .map(|expr| Ok((expr.expressions(), expr.create_groups_accumulator()?)))
            .collect::<Result<_>>()?;
        let work = Work {
            input: Some(self.input.execute(partition, Arc::clone(&context))?),
            rest: None,
            plain: Arc::clone(&self.plain),
            keys: self.keys.clone(),
            aggregates,
            numbering: Numbering::new(self.keys.len()),
            groups: Vec::new(),
            partition,
            context,
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let rows =
            futures::stream::try_unfold(
                work,
                |mut work| async move { Ok(work.next().await?.map(|batch| (batch, work))) },
            );
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows.boxed())))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One partition at work.
struct Work {
    /// Until it has ended, or is handed over.
    input: Option<SendableRecordBatchStream>,
    /// DataFusion's stage over the rest of the input.
    rest: Option<SendableRecordBatchStream>,
    plain: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    aggregates: Vec<(Vec<Arc<dyn PhysicalExpr>>, Box<dyn GroupsAccumulator>)>,
    numbering: Numbering,
    /// The group of each row of the batch.
    groups: Vec<usize>,
    partition: usize,
    context: Arc<TaskContext>,
    metrics: BaselineMetrics,
}

impl Work {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(rest) = &mut self.rest {
            return rest.next().await.transpose();
        }
        while let Some(mut input) = self.input.take() {
            match input.next().await {
                Some(batch) => {
                    self.add(&batch?)?;
                    if self.numbering.groups() <= GROUPS_MAX {
                        self.input = Some(input);
                        continue;
                    }
                    let rest: Arc<dyn ExecutionPlan> = Arc::new(Rest {
                        properties: Arc::clone(self.plain.children()[0].properties()),
                        stream: Mutex::new(Some(input)),
                    });
                    let plain = with_children(&self.plain, vec![rest])?;
                    self.rest = Some(plain.execute(self.partition, Arc::clone(&self.context))?);
                }
                None => drop(input),
            }
            if self.numbering.groups() > 0 {
                return self.emit().map(Some);
            }
        }
        match &mut self.rest {
            Some(rest) => rest.next().await.transpose(),
            None => Ok(None),
        }
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let _timer = self.metrics.elapsed_compute().timer();
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let evaluate = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(rows);
        let keys = self.keys.iter().map(evaluate).collect::<Result<Vec<_>>>()?;
        self.numbering.number(&keys, &mut self.groups)?;
        let groups = self.numbering.groups();
        for (arguments, accumulator) in &mut self.aggregates {
            let values = arguments.iter().map(evaluate).collect::<Result<Vec<_>>>()?;
            accumulator.update_batch(&values, &self.groups, None, groups)?;
        }
        Ok(())
    }

    fn emit(&mut self) -> Result<RecordBatch> {
        let mut columns = self.numbering.take_keys()?;
        for (_, accumulator) in &mut self.aggregates {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        let batch = RecordBatch::try_new(self.plain.schema(), columns)?;
        self.metrics.output_rows().add(batch.num_rows());
        Ok(batch)
    }
}

/// What is left of an input, once.
struct Rest {
    properties: Arc<PlanProperties>,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Rest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rest").finish_non_exhaustive()
    }
}

impl DisplayAs for Rest {
    fn fmt_as(&self, _format: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Rest")
    }
}

impl ExecutionPlan for Rest {
    fn name(&self) -> &'static str {
        "Rest"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        match self.stream.lock().take() {
            Some(stream) => Ok(stream),
            None => internal_err!("what is left of an input is read once"),
        }
    }
}

#[cfg(test)]
mod tests;
