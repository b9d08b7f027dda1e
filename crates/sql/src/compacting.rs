//! Texts without the memory they do not need.
//!
//! A text view names a place in a buffer, and a batch holds all of every buffer it names. Where the engine puts rows of
//! several batches together (behind a repartition, a filter, a join) it copies the texts of some and shares the buffers
//! of others, by turns, and at each turn it leaves a buffer of up to 1 MiB with next to nothing in it: 1,200 rows of a
//! hundred small files then hold 46 MB for 80 kB of texts. What keeps batches (sorts, the kept side of a join) counts
//! all of it, and the query is refused. So [`CompactTexts`] stands in front of what keeps batches, and copies the
//! texts of a column whose buffers are mostly something else.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{ByteViewType, DataType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
    SendableRecordBatchStream,
};
use futures::StreamExt;

use crate::budget::BATCH_ROWS_MAX;

/// Buffers that hold this many times what is needed of them are not kept.
const WASTE_FACTOR: usize = 2;
/// Buffers together smaller than this are kept as they are.
const SMALL_BYTES: usize = 16 << 10;

/// Puts [`CompactTexts`] in front of what keeps batches.
#[derive(Debug)]
pub(crate) struct CompactKept;

impl PhysicalOptimizerRule for CompactKept {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let kept = kept_inputs(&plan);
            let mut changed = false;
            let children = plan
                .children()
                .into_iter()
                .enumerate()
                .map(|(at, child)| {
                    let is_kept = at < kept && child.schema().fields().iter().any(|field| is_view(field.data_type()));
                    changed |= is_kept;
                    let child = Arc::clone(child);
                    if is_kept { Arc::new(CompactTexts { input: child }) as Arc<dyn ExecutionPlan> } else { child }
                })
                .collect();
            if !changed {
                return Ok(Transformed::no(plan));
            }
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(plan.replace_children(children, options)?))
        })
        .data()
    }

    fn name(&self) -> &str {
        "CompactKept"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// How many inputs of an operator, from the first, it keeps batches of.
fn kept_inputs(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let sort = plan.downcast_ref::<SortExec>();
    // For the first few rows it is not worth to copy those of every batch.
    let keeps_first = sort.is_some_and(|sort| sort.fetch().is_none_or(|rows| rows > BATCH_ROWS_MAX))
        || plan.is::<HashJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>();
    if plan.is::<SortMergeJoinExec>() { 2 } else { usize::from(keeps_first) }
}

fn is_view(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8View | DataType::BinaryView)
}

/// Its input, with texts that hold little more than themselves.
#[derive(Debug)]
struct CompactTexts {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for CompactTexts {
    fn fmt_as(&self, _format: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CompactTexts")
    }
}

impl ExecutionPlan for CompactTexts {
    fn name(&self) -> &str {
        "CompactTexts"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self { input })),
            Err(_) => internal_err!("texts are compacted of one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let compact = rows.map(|batch| batch.and_then(|batch| compact(&batch)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), compact)))
    }
}

fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = batch.columns().iter().map(compacted).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

fn compacted(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View if is_wasteful(column.as_string_view()) => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView if is_wasteful(column.as_binary_view()) => Arc::new(column.as_binary_view().gc()),
        _ => Arc::clone(column),
    }
}

fn is_wasteful<T: ByteViewType>(texts: &GenericByteViewArray<T>) -> bool {
    let held: usize = texts.data_buffers().iter().map(arrow::buffer::Buffer::capacity).sum();
    held > SMALL_BYTES && held / WASTE_FACTOR > texts.total_buffer_bytes_used()
}

#[cfg(test)]
mod tests;
