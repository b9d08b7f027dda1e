//! Reading one table: its files and its tail as one source of rows.
//!
//! Files are read by DataFusion's Parquet source, which prunes files, row groups and pages by
//! statistics and bloom filters and evaluates filters while decoding; or by [`BlockScan`] where that
//! reads less. [`TableSource`] puts the tail beside it as one more partition, so that filters,
//! projections, sort orders and limits reach both the same way (a `UNION` node would stop sort
//! orders).

mod statistics;
mod tail;

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result, Statistics, exec_err};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::{DataSource, DataSourceExec, OpenArgs};
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalSortExpr, conjunction};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::filter_pushdown::{FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::{
    DisplayFormatType, ExecutionPlan, Partitioning, SendableRecordBatchStream, SortOrderPushdownResult,
};
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::file::metadata::ParquetMetaData;

pub(crate) use self::statistics::file_statistics;
use self::statistics::files_statistics;
use self::tail::Tail;
use crate::attributes::sql_schema;
use crate::blocks::BlockScan;
use crate::promoted::PromotedKeys;
use crate::tables::{TableFileView, TableView, TailView};

/// The made-up place of all files. Nothing can be read through it: files are opened by
/// [`FileReaders`].
pub(crate) const FILES_URL: &str = "weir://tables";

/// A table of one query.
#[derive(Debug)]
pub(crate) struct Table {
    view: TableView,
    schema: SchemaRef,
}

impl Table {
    pub(crate) fn new(view: TableView) -> Self {
        let schema = sql_schema(&view.stream);
        Self { view, schema }
    }
}

#[async_trait]
impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // Which filters the scan evaluates exactly is settled on the physical plan.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        Some(self.table_statistics())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = state.config_options().execution.target_partitions.max(1);
        // A limit is only pushed here if no filter stands between; and `limit` counts rows of each
        // partition, which is all the layers above rely on.
        let limit = limit.filter(|_| filters.is_empty());
        let files = self.files(partitions, limit)?;
        let indices: Vec<usize> = match projection {
            Some(indices) => indices.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let projection = ProjectionExprs::from_indices(&indices, &self.schema);
        let tail = Tail {
            parts: self.view.tail.iter().rev().cloned().collect(),
            schema: Arc::clone(&self.schema),
            projection: ProjectionExprs::from_indices(
                &(0..self.schema.fields().len()).collect::<Vec<_>>(),
                &self.schema,
            ),
            filter: None,
            limit,
        };
        let source = TableSource { table: self.view.stream.name.as_ref().into(), files, tail, filtered: false };
        match source.try_swapping_with_projection(&projection)? {
            Some(projected) => Ok(Arc::new(DataSourceExec::new(projected))),
            None => exec_err!("cannot select columns of {}", self.view.stream.name),
        }
    }
}

impl Table {
    fn table_statistics(&self) -> Statistics {
        let mut statistics = files_statistics(&self.view.files, &self.schema);
        let tail_rows = tail_rows(&self.view.tail);
        statistics.num_rows = statistics.num_rows.add(&tail_rows);
        if !self.view.tail.is_empty() {
            statistics = forget_columns(statistics);
        }
        statistics
    }

    fn files(&self, partitions: usize, limit: Option<usize>) -> Result<Option<Arc<dyn DataSource>>> {
        if self.view.files.is_empty() {
            return Ok(None);
        }
        let mut files: Vec<&Arc<dyn TableFileView>> = self.view.files.iter().collect();
        // Newest first; dealt out like cards, so that every partition begins with new ones.
        files.sort_by_key(|file| std::cmp::Reverse((file.entry().max_time, file.entry().id)));
        let mut groups: Vec<Vec<PartitionedFile>> = vec![Vec::new(); partitions.min(files.len())];
        let dealt = groups.len();
        for (at, file) in files.into_iter().enumerate() {
            groups[at % dealt].push(partitioned(file, &self.schema));
        }
        let source = ParquetSource::new(Arc::clone(&self.schema))
            .with_parquet_file_reader_factory(Arc::new(FileReaders))
            .with_pushdown_filters(true)
            .with_reorder_filters(true)
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(true);
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(FILES_URL)?, Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_statistics(files_statistics(&self.view.files, &self.schema))
            .with_output_ordering(self.ordering().into_iter().collect())
            .with_limit(limit)
            .with_expr_adapter(Some(Arc::new(PromotedKeys)))
            .build();
        let stream = Arc::clone(&self.view.stream);
        Ok(Some(Arc::new(BlockScan::new(stream, &self.view.files, &self.schema, Arc::new(config)))))
    }

    /// How files are sorted.
    fn ordering(&self) -> Option<LexOrdering> {
        LexOrdering::new(self.view.stream.sort.iter().filter_map(|name| {
            let at = self.schema.index_of(name).ok()?;
            let options = arrow::compute::SortOptions { descending: false, nulls_first: true };
            Some(PhysicalSortExpr::new(Arc::new(Column::new(name, at)), options))
        }))
    }
}

/// The file behind a [`PartitionedFile`].
#[derive(Debug)]
struct Opened(Arc<dyn TableFileView>);

fn partitioned(file: &Arc<dyn TableFileView>, schema: &SchemaRef) -> PartitionedFile {
    let entry = file.entry();
    // The name appears in plans; it tells nothing about the disk.
    PartitionedFile::new(format!("{}/{}", entry.partition, entry.id.0), entry.bytes)
        .with_statistics(Arc::new(file_statistics(entry, schema)))
        .with_extension(Opened(Arc::clone(file)))
}

/// Opens files by what [`partitioned`] attached to them, never by name.
#[derive(Debug)]
struct FileReaders;

impl ParquetFileReaderFactory for FileReaders {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        match file.extensions.get::<Opened>() {
            Some(opened) => Ok(Box::new(CountedReader {
                inner: opened.0.reader(),
                bytes: MetricBuilder::new(metrics).counter("bytes_scanned", partition),
            })),
            None => exec_err!("there is no such file"),
        }
    }
}

/// Counts the bytes a query asks of its files.
pub(crate) struct CountedReader {
    pub(crate) inner: Box<dyn AsyncFileReader + Send>,
    pub(crate) bytes: Count,
}

impl CountedReader {
    fn count(&self, range: &Range<u64>) {
        self.bytes.add(usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX));
    }
}

impl AsyncFileReader for CountedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.count(&range);
        self.inner.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        for range in &ranges {
            self.count(range);
        }
        self.inner.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        self.inner.get_metadata(options)
    }
}

fn tail_rows(tail: &[Arc<dyn TailView>]) -> Precision<usize> {
    tail.iter().fold(Precision::Exact(0), |sum, part| match part.rows() {
        Some(rows) => sum.add(&Precision::Exact(rows)),
        None => Precision::Absent,
    })
}

/// Keeps only the number of rows: the tail's values are not looked at for statistics.
fn forget_columns(mut statistics: Statistics) -> Statistics {
    for column in &mut statistics.column_statistics {
        *column = ColumnStatistics::new_unknown();
    }
    statistics
}

/// Files and tail as one source. The tail, if there is one, is the last partition.
#[derive(Clone, Debug)]
pub(crate) struct TableSource {
    table: Arc<str>,
    files: Option<Arc<dyn DataSource>>,
    /// Perhaps without any rows; its projection is that of the whole source.
    tail: Tail,
    filtered: bool,
}

impl TableSource {
    fn file_partitions(&self) -> usize {
        self.files.as_ref().map_or(0, |files| files.output_partitioning().partition_count())
    }

    /// The same, given that only so many rows are wanted, the first by this order; `None` if that
    /// changes nothing.
    pub(crate) fn counting_newest(&self, order: &PhysicalSortExpr, rows: usize) -> Option<Self> {
        let files = self.files.as_ref()?.downcast_ref::<BlockScan>()?;
        let files = Arc::new(files.counting_newest(order, rows)?);
        Some(Self { files: Some(files), ..self.clone() })
    }

    /// A source without rows still has one partition.
    fn has_tail_partition(&self) -> bool {
        self.files.is_none() || !self.tail.parts.is_empty()
    }
}

impl DataSource for TableSource {
    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.open_with_args(OpenArgs::new(partition, context))
    }

    fn open_with_args(&self, arguments: OpenArgs) -> Result<SendableRecordBatchStream> {
        match &self.files {
            Some(files) if arguments.partition < self.file_partitions() => files.open_with_args(arguments),
            _ if self.has_tail_partition() => self.tail.open(),
            _ => exec_err!("there is no such partition of {}", self.table),
        }
    }

    fn fmt_as(&self, format: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "table={}, tail_parts={}", self.table, self.tail.parts.len())?;
        if let Some(files) = &self.files {
            write!(formatter, ", ")?;
            return files.fmt_as(format, formatter);
        }
        let columns: Vec<&str> = self.tail.projection.iter().map(|column| column.alias.as_str()).collect();
        write!(formatter, ", projection=[{}]", columns.join(", "))?;
        if let Some(filter) = &self.tail.filter {
            write!(formatter, ", predicate={filter}")?;
        }
        Ok(())
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        repartition_file_min_size: usize,
        output_ordering: Option<LexOrdering>,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        let Some(files) = &self.files else { return Ok(None) };
        let files = files.repartitioned(target_partitions, repartition_file_min_size, output_ordering)?;
        Ok(files.map(|files| Arc::new(Self { files: Some(files), ..self.clone() }) as Arc<dyn DataSource>))
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(self.file_partitions() + usize::from(self.has_tail_partition()))
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        match &self.files {
            // Rows of the tail come in no order, so files alone have one.
            Some(files) if !self.has_tail_partition() => files.eq_properties(),
            Some(files) => EquivalenceProperties::new(Arc::clone(files.eq_properties().schema())),
            None => {
                EquivalenceProperties::new(self.tail.output_schema().unwrap_or_else(|_| Arc::clone(&self.tail.schema)))
            }
        }
    }

    fn scheduling_type(&self) -> SchedulingType {
        SchedulingType::Cooperative
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let files = match (&self.files, partition) {
            (Some(files), Some(at)) if at < self.file_partitions() => return files.partition_statistics(Some(at)),
            (Some(files), None) => Some(files.partition_statistics(None)?),
            _ => None,
        };
        let mut statistics = match files {
            Some(files) if !self.has_tail_partition() => return Ok(files),
            Some(files) => forget_columns(files.as_ref().clone()),
            None => {
                let mut none = Statistics::new_unknown(self.eq_properties().schema());
                none.num_rows = Precision::Exact(0);
                none
            }
        };
        statistics.num_rows = statistics.num_rows.add(&tail_rows(&self.tail.parts));
        Ok(Arc::new(if self.filtered || self.tail.limit.is_some() { statistics.to_inexact() } else { statistics }))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        let files = match &self.files {
            Some(files) => Some(files.with_fetch(limit)?),
            None => None,
        };
        Some(Arc::new(Self { files, tail: Tail { limit, ..self.tail.clone() }, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        match &self.files {
            Some(files) => files.fetch(),
            None => self.tail.limit,
        }
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.files.as_ref().map(|files| files.metrics()).unwrap_or_default()
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn DataSource>>> {
        let files = match &self.files {
            Some(files) => match files.try_swapping_with_projection(projection)? {
                Some(files) => Some(files),
                None => return Ok(None),
            },
            None => None,
        };
        let projection = self.tail.projection.try_merge(projection)?;
        Ok(Some(Arc::new(Self { files, tail: Tail { projection, ..self.tail.clone() }, ..self.clone() })))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        let mut answers = vec![PushedDown::Yes; filters.len()];
        let mut files = self.files.clone();
        if let Some(own) = &self.files {
            let pushed = own.try_pushdown_filters(filters.clone(), config)?;
            answers = pushed.filters;
            if let Some(updated) = pushed.updated_node {
                files = Some(updated);
            }
        }
        let mut parts: Vec<Arc<dyn PhysicalExpr>> = self.tail.filter.iter().cloned().collect();
        let before = parts.len();
        for (filter, answer) in filters.iter().zip(&answers) {
            if matches!(answer, PushedDown::Yes) {
                let filter = self.tail.projection.unproject_expr(filter)?;
                parts.push(reassign_expr_columns(filter, &self.tail.schema)?);
            }
        }
        let filtered = self.filtered || parts.len() > before;
        let filter = if parts.is_empty() { None } else { Some(conjunction(parts)) };
        let tail = Tail { filter, ..self.tail.clone() };
        let source: Arc<dyn DataSource> = Arc::new(Self { files, tail, filtered, ..self.clone() });
        Ok(FilterPushdownPropagation { filters: answers, updated_node: Some(source) })
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        let Some(files) = &self.files else { return Ok(SortOrderPushdownResult::Unsupported) };
        let with = |files: Arc<dyn DataSource>| -> Arc<dyn DataSource> {
            Arc::new(Self { files: Some(files), ..self.clone() })
        };
        Ok(match files.try_pushdown_sort(order)? {
            // The tail has no order, so with it the sort has to stay.
            SortOrderPushdownResult::Exact { inner } if !self.has_tail_partition() => {
                SortOrderPushdownResult::Exact { inner: with(inner) }
            }
            SortOrderPushdownResult::Exact { inner } | SortOrderPushdownResult::Inexact { inner } => {
                SortOrderPushdownResult::Inexact { inner: with(inner) }
            }
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }

    fn with_preserve_order(&self, preserve_order: bool) -> Option<Arc<dyn DataSource>> {
        let files = self.files.as_ref()?.with_preserve_order(preserve_order)?;
        Some(Arc::new(Self { files: Some(files), ..self.clone() }))
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        if let Some(files) = &self.files
            && files.apply_expressions(visit)? == TreeNodeRecursion::Stop
        {
            return Ok(TreeNodeRecursion::Stop);
        }
        for expr in self.tail.filter.iter().chain(self.tail.projection.iter().map(|projected| &projected.expr)) {
            if visit(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn create_sibling_state(&self, config: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        self.files.as_ref()?.create_sibling_state(config)
    }
}

/// Whether a leaf of a physical plan reads one of our tables.
pub(crate) fn is_table(source: &Arc<dyn DataSource>) -> bool {
    source.is::<TableSource>()
}
