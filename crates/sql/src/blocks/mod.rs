//! Reading files block by block, the newest first.
//!
//! DataFusion's Parquet source reads a file front to back, or row group by row group from its end.
//! That is right for whatever looks at most of a table. A search for text looks at little of it: the
//! search index says which blocks of some thousand rows may match, and with `ORDER BY time DESC
//! LIMIT n` the first few blocks mostly have all there is to find. [`BlockScan`] takes over for
//! these: it asks the index before it reads, goes from the newest block to older ones, evaluates
//! filters before other columns are decoded, and stops once no older row can be among the n.
//! It also takes filters on attributes, which the Parquet source cannot put together.
//!
//! Until a filter or a sort order is pushed down that gains by it, it is the Parquet source.

mod condition;
mod file;
pub(crate) mod newest;
mod queue;
mod threshold;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::source::{DataSource, OpenArgs};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalSortExpr};
use datafusion::physical_expr_common::physical_expr::{PhysicalExpr, is_volatile};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::filter_pushdown::{FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayFormatType, Partitioning, SendableRecordBatchStream, SortOrderPushdownResult};
use futures::StreamExt;
use parquet::arrow::async_reader::ParquetRecordBatchStream;
use weir_data::streams::StreamDef;
use weir_store::search::{Condition, SEGMENT_BLOCKS, SEGMENT_ROWS};

use self::file::{Group, Scan};
use self::newest::Wanted;
use self::queue::Queue;
use crate::attributes::is_open_field;
use crate::scan::CountedReader;
use crate::tables::TableFileView;

/// Blocks read in one go where it is known when enough rows are found: what other partitions find
/// meanwhile makes them needless.
const COUNTED_RUN_BLOCKS: usize = 4;

/// The files of a table.
#[derive(Clone, Debug)]
pub(crate) struct BlockScan {
    stream: Arc<StreamDef>,
    files: Arc<[Arc<dyn TableFileView>]>,
    /// The table's.
    schema: SchemaRef,
    /// The Parquet source, with the same projection and limit. It reads until `active`, and knows
    /// the statistics.
    plain: Arc<dyn DataSource>,
    projection: ProjectionExprs,
    /// What rows are filtered by, in terms of `schema`. The Parquet source has those from before.
    filters: Vec<Arc<dyn PhysicalExpr>>,
    active: bool,
    /// How many of the newest rows are wanted of all partitions together, if that is known.
    wanted: Option<Wanted>,
    /// Other than the Parquet source has.
    partitions: Option<usize>,
    metrics: ExecutionPlanMetricsSet,
}

impl BlockScan {
    /// `plain` has all columns of `schema`.
    pub(crate) fn new(
        stream: Arc<StreamDef>,
        files: &[Arc<dyn TableFileView>],
        schema: &SchemaRef,
        plain: Arc<dyn DataSource>,
    ) -> Self {
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        Self {
            stream,
            files: files.into(),
            schema: Arc::clone(schema),
            plain,
            projection: ProjectionExprs::from_indices(&all, schema),
            filters: Vec::new(),
            active: false,
            wanted: None,
            partitions: None,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    fn partition_count(&self) -> usize {
        self.partitions.unwrap_or_else(|| self.plain.output_partitioning().partition_count())
    }

    /// An expression over the output, in terms of the table.
    fn unprojected(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        reassign_expr_columns(self.projection.unproject_expr(expr)?, &self.schema)
    }

    /// Whether a filter is better evaluated here.
    fn gains_by(&self, filter: &Arc<dyn PhysicalExpr>) -> bool {
        let is_open = |column: Column| self.schema.field_with_name(column.name()).is_ok_and(is_open_field);
        collect_columns(filter).into_iter().any(is_open)
            || self.stream.search_columns.iter().any(|column| condition::of(filter, column) != Condition::Anything)
    }

    fn output_schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(self.projection.project_schema(&self.schema)?))
    }

    /// The same, given that only so many rows are wanted, the first by an order of the output; `None`
    /// if it does not read the newest first, or that is not the order.
    pub(crate) fn counting_newest(&self, order: &PhysicalSortExpr, rows: usize) -> Option<Self> {
        let is_time = self.active && self.is_newest_first(order).ok()?;
        let time = order.expr.downcast_ref::<Column>().filter(|_| is_time)?.index();
        Some(Self { wanted: Some(Wanted { time, rows }), ..self.clone() })
    }

    fn is_newest_first(&self, order: &PhysicalSortExpr) -> Result<bool> {
        let expr = self.unprojected(&order.expr)?;
        Ok(order.options.descending && expr.downcast_ref::<Column>().is_some_and(|column| column.name() == "time"))
    }

    fn walk(&self, arguments: &OpenArgs) -> Result<Walk> {
        let shared = arguments.sibling_state.clone().and_then(|state| state.downcast::<Queue>().ok());
        // Nobody to share with: every so many files are this partition's.
        let own = || {
            let count = self.partition_count();
            Arc::new(Queue::of(&self.files, self.wanted, |at| at % count == arguments.partition))
        };
        let queue = shared.unwrap_or_else(own);
        let scan = Arc::new(Scan::new(
            &self.stream,
            Arc::clone(&self.files),
            &self.schema,
            &self.projection,
            &self.filters,
            &self.metrics,
            arguments.partition,
            queue.newest(),
        )?);
        let fetch = self.plain.fetch();
        let stops_early = fetch.is_some() || scan.stops_early();
        Ok(Walk {
            queue,
            scan,
            batch_size: arguments.context.session_config().batch_size(),
            left: fetch.unwrap_or(usize::MAX),
            run_blocks: if stops_early { 1 } else { SEGMENT_BLOCKS as usize },
            run_blocks_max: if self.wanted.is_some() { COUNTED_RUN_BLOCKS } else { SEGMENT_BLOCKS as usize },
            group: None,
            reading: None,
            blocks_read: MetricBuilder::new(&self.metrics).counter("blocks_read", arguments.partition),
        })
    }
}

impl DataSource for BlockScan {
    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.open_with_args(OpenArgs::new(partition, context))
    }

    fn open_with_args(&self, arguments: OpenArgs) -> Result<SendableRecordBatchStream> {
        if !self.active {
            return self.plain.open_with_args(arguments);
        }
        let walk = self.walk(&arguments)?;
        let rows =
            futures::stream::try_unfold(
                walk,
                |mut walk| async move { Ok(walk.next().await?.map(|batch| (batch, walk))) },
            );
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.output_schema()?, rows.boxed()))))
    }

    fn fmt_as(&self, format: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.active {
            return self.plain.fmt_as(format, formatter);
        }
        let columns: Vec<&str> = self.projection.iter().map(|column| column.alias.as_str()).collect();
        write!(formatter, "files={}, newest blocks first, projection=[{}]", self.files.len(), columns.join(", "))?;
        if let Some(limit) = self.fetch() {
            write!(formatter, ", limit={limit}")?;
        }
        for (at, filter) in self.filters.iter().enumerate() {
            write!(formatter, "{}{filter}", if at == 0 { ", predicate=" } else { " AND " })?;
        }
        Ok(())
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        repartition_file_min_size: usize,
        output_ordering: Option<LexOrdering>,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        if self.active {
            // Partitions take row groups off one queue, so there may be as many as row groups.
            let rows: u64 = self.files.iter().map(|file| file.entry().rows).sum();
            let groups = usize::try_from(rows.div_ceil(SEGMENT_ROWS)).unwrap_or(usize::MAX).max(self.files.len());
            let count = target_partitions.min(groups).max(self.partition_count());
            return Ok(Some(Arc::new(Self { partitions: Some(count), ..self.clone() })));
        }
        let plain = self.plain.repartitioned(target_partitions, repartition_file_min_size, output_ordering)?;
        Ok(plain.map(|plain| Arc::new(Self { plain, ..self.clone() }) as Arc<dyn DataSource>))
    }

    fn output_partitioning(&self) -> Partitioning {
        if self.active {
            Partitioning::UnknownPartitioning(self.partition_count())
        } else {
            self.plain.output_partitioning()
        }
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        let plain = self.plain.eq_properties();
        // Blocks come in no order that could be relied on.
        if self.active { EquivalenceProperties::new(Arc::clone(plain.schema())) } else { plain }
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        if !self.active {
            return self.plain.partition_statistics(partition);
        }
        let all = self.plain.partition_statistics(None)?;
        Ok(Arc::new(all.as_ref().clone().to_inexact()))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        Some(Arc::new(Self { plain: self.plain.with_fetch(limit)?, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.plain.fetch()
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        if self.active { self.metrics.clone() } else { self.plain.metrics() }
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn DataSource>>> {
        let Some(plain) = self.plain.try_swapping_with_projection(projection)? else { return Ok(None) };
        let projection = self.projection.try_merge(projection)?;
        // The place of the column that is counted by may be another one now.
        Ok(Some(Arc::new(Self { plain, projection, wanted: None, ..self.clone() })))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        let own = filters.iter().map(|filter| self.unprojected(filter)).collect::<Result<Vec<_>>>()?;
        // Rows that are filtered out later do not count.
        let mut scan = Self { wanted: None, ..self.clone() };
        scan.active |= own.iter().any(|filter| self.gains_by(filter));
        let answers = if scan.active {
            own.iter().map(|filter| if is_volatile(filter) { PushedDown::No } else { PushedDown::Yes }).collect()
        } else {
            let pushed = self.plain.try_pushdown_filters(filters, config)?;
            if let Some(updated) = pushed.updated_node {
                scan.plain = updated;
            }
            pushed.filters
        };
        let taken = own.into_iter().zip(&answers).filter(|(_, answer)| matches!(answer, PushedDown::Yes));
        scan.filters.extend(taken.map(|(filter, _)| filter));
        Ok(FilterPushdownPropagation { filters: answers, updated_node: Some(Arc::new(scan)) })
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        let newest_first = order.first().map(|first| self.is_newest_first(first)).transpose()?;
        if newest_first == Some(true) {
            return Ok(SortOrderPushdownResult::Inexact { inner: Arc::new(Self { active: true, ..self.clone() }) });
        }
        if self.active {
            return Ok(SortOrderPushdownResult::Unsupported);
        }
        let with = |plain| Arc::new(Self { plain, ..self.clone() }) as Arc<dyn DataSource>;
        Ok(match self.plain.try_pushdown_sort(order)? {
            SortOrderPushdownResult::Exact { inner } => SortOrderPushdownResult::Exact { inner: with(inner) },
            SortOrderPushdownResult::Inexact { inner } => SortOrderPushdownResult::Inexact { inner: with(inner) },
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }

    fn with_preserve_order(&self, preserve_order: bool) -> Option<Arc<dyn DataSource>> {
        if self.active {
            return None;
        }
        Some(Arc::new(Self { plain: self.plain.with_preserve_order(preserve_order)?, ..self.clone() }))
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        if !self.active {
            return self.plain.apply_expressions(visit);
        }
        for expr in self.filters.iter().chain(self.projection.iter().map(|projected| &projected.expr)) {
            if visit(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn create_sibling_state(&self, config: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        if self.active {
            return Some(Arc::new(Queue::of(&self.files, self.wanted, |_| true)));
        }
        self.plain.create_sibling_state(config)
    }
}

/// One partition on its way through the blocks.
struct Walk {
    queue: Arc<Queue>,
    scan: Arc<Scan>,
    batch_size: usize,
    /// Rows still wanted.
    left: usize,
    /// How many blocks are read in one go: few while the first may be enough, then more.
    run_blocks: usize,
    run_blocks_max: usize,
    group: Option<Group>,
    reading: Option<(ParquetRecordBatchStream<CountedReader>, Arc<file::Prepared>)>,
    blocks_read: Count,
}

impl Walk {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.left > 0 {
            if let Some((stream, file)) = &mut self.reading {
                match stream.next().await {
                    Some(batch) => {
                        let batch = file.project(&batch?)?;
                        if batch.num_rows() == 0 {
                            continue;
                        }
                        let batch = batch.slice(0, batch.num_rows().min(self.left));
                        self.left -= batch.num_rows();
                        self.scan.found(&batch);
                        return Ok(Some(batch));
                    }
                    None => self.reading = None,
                }
            }
            if let Some(group) = &mut self.group {
                match group.next_run(self.run_blocks, self.scan.threshold()?) {
                    Some(run) => {
                        self.blocks_read.add(run.blocks);
                        self.reading = Some((group.read(run, self.batch_size)?, Arc::clone(&group.file)));
                        self.run_blocks = (self.run_blocks * 2).min(self.run_blocks_max);
                        continue;
                    }
                    None => self.group = None,
                }
            }
            let Some(place) = self.queue.take(&self.scan).await? else { break };
            self.group = Some(Group::open(place, &self.scan).await?);
        }
        Ok(None)
    }
}
