//! Reading one table: its files and its tail as one source of rows.
//!
//! Files are read by DataFusion's Parquet source, which prunes files, row groups and pages by
//! statistics and bloom filters, evaluates filters while decoding, and reads the newest row groups
//! first for `ORDER BY time DESC LIMIT n`. [`TableSource`] puts the tail beside it as one more
//! partition, so that filters, projections, sort orders and limits reach both the same way (a
//! `UNION` node would stop sort orders).

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, Statistics, exec_err};
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
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalSortExpr, conjunction};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::filter_pushdown::{FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayFormatType, ExecutionPlan, Partitioning, SendableRecordBatchStream, SortOrderPushdownResult,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::file::metadata::ParquetMetaData;
use weir_meta::catalogue::{Bound, FileEntry};

use crate::attributes::{is_open_field, sql_schema};
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
        let schema = sql_schema(view.stream);
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
        let source = TableSource { table: self.view.stream.name, files, tail, filtered: false };
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
        Ok(Some(Arc::new(config)))
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
struct CountedReader {
    inner: Box<dyn AsyncFileReader + Send>,
    bytes: Count,
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

fn bound(bound: Option<&Bound>, data_type: &DataType) -> Precision<ScalarValue> {
    let value = match (bound, data_type) {
        (Some(Bound::Bool(value)), DataType::Boolean) => ScalarValue::Boolean(Some(*value)),
        (Some(Bound::Int(value)), DataType::Int64) => ScalarValue::Int64(Some(*value)),
        (Some(Bound::Int(value)), DataType::Int32) => match i32::try_from(*value) {
            Ok(value) => ScalarValue::Int32(Some(value)),
            Err(_) => return Precision::Absent,
        },
        (Some(Bound::Int(value)), DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, zone)) => {
            ScalarValue::TimestampNanosecond(Some(*value), zone.clone())
        }
        (Some(Bound::Text(value)), DataType::Utf8View) => ScalarValue::Utf8View(Some(value.clone())),
        // Doubles are left out: the catalogue's bounds do not cover NaN, which sorts above all.
        _ => return Precision::Absent,
    };
    Precision::Exact(value)
}

/// What is known of one file. Bounds need not be tight: they only prune, and a column whose bounds
/// agree holds that one value.
fn file_statistics(entry: &FileEntry, schema: &SchemaRef) -> Statistics {
    let rows = usize::try_from(entry.rows).unwrap_or(usize::MAX);
    let column_statistics = schema
        .fields()
        .iter()
        .map(|field| {
            let mut column = ColumnStatistics::new_unknown();
            if is_open_field(field) {
                // Its entries may be in columns of their own.
                return column;
            }
            match entry.columns.get(field.name()) {
                Some(known) => {
                    column.min_value = bound(known.min.as_ref(), field.data_type());
                    column.max_value = bound(known.max.as_ref(), field.data_type());
                    column.null_count = Precision::Exact(usize::try_from(known.nulls).unwrap_or(usize::MAX));
                }
                // A column the catalogue does not name has no value at all.
                None if field.is_nullable() => column.null_count = Precision::Exact(rows),
                None => {}
            }
            if field.name() == "time" {
                let zone: Arc<str> = "UTC".into();
                let time = |at: i64| ScalarValue::TimestampNanosecond(Some(at), Some(Arc::clone(&zone)));
                column.min_value = Precision::Exact(time(entry.min_time.0));
                column.max_value = Precision::Exact(time(entry.max_time.0));
                column.null_count = Precision::Exact(0);
            }
            column
        })
        .collect();
    Statistics {
        num_rows: Precision::Exact(rows),
        total_byte_size: Precision::Inexact(usize::try_from(entry.bytes).unwrap_or(usize::MAX)),
        column_statistics,
    }
}

/// What is known of all files together. Only what is exact in the catalogue is exact here: counts,
/// and the bounds of `time`; an aggregate may be answered from it.
fn files_statistics(files: &[Arc<dyn TableFileView>], schema: &SchemaRef) -> Statistics {
    let mut total = Statistics {
        num_rows: Precision::Exact(0),
        total_byte_size: Precision::Inexact(0),
        column_statistics: vec![ColumnStatistics::new_unknown(); schema.fields().len()],
    };
    for (at, file) in files.iter().enumerate() {
        let own = file_statistics(file.entry(), schema);
        total.num_rows = total.num_rows.add(&own.num_rows);
        total.total_byte_size = total.total_byte_size.add(&own.total_byte_size);
        for (total, own) in total.column_statistics.iter_mut().zip(own.column_statistics) {
            if at == 0 {
                *total = own;
                continue;
            }
            total.null_count = total.null_count.add(&own.null_count);
            total.min_value = total.min_value.min(&own.min_value);
            total.max_value = total.max_value.max(&own.max_value);
        }
    }
    for (field, column) in schema.fields().iter().zip(&mut total.column_statistics) {
        if field.name() != "time" {
            column.min_value = std::mem::take(&mut column.min_value).to_inexact();
            column.max_value = std::mem::take(&mut column.max_value).to_inexact();
        }
    }
    total
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

/// The rows of the tail, newest first.
#[derive(Clone, Debug)]
struct Tail {
    parts: Arc<[Arc<dyn TailView>]>,
    schema: SchemaRef,
    projection: ProjectionExprs,
    /// In terms of `schema`.
    filter: Option<Arc<dyn PhysicalExpr>>,
    limit: Option<usize>,
}

/// Columns taken out of a batch of the tail, with the expressions over them.
struct Take {
    indices: Vec<usize>,
    schema: SchemaRef,
}

impl Take {
    fn of<'e>(expressions: impl Iterator<Item = &'e Arc<dyn PhysicalExpr>>, schema: &SchemaRef) -> Result<Self> {
        let mut indices: Vec<usize> = expressions.flat_map(collect_columns).map(|column| column.index()).collect();
        indices.sort_unstable();
        indices.dedup();
        let schema = Arc::new(schema.project(&indices)?);
        Ok(Self { indices, schema })
    }

    /// The columns, in the types of the table; what a batch does not have is null.
    fn columns(&self, batch: &RecordBatch, table: &Schema) -> Result<RecordBatch> {
        let own = batch.schema_ref();
        let columns = self
            .indices
            .iter()
            .map(|at| {
                let field = table.field(*at);
                Ok(match own.index_of(field.name()) {
                    Ok(at) if batch.column(at).data_type() == field.data_type() => Arc::clone(batch.column(at)),
                    Ok(at) => cast(batch.column(at), field.data_type())?,
                    Err(_) => new_null_array(field.data_type(), batch.num_rows()),
                })
            })
            .collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

impl Tail {
    fn output_schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(self.projection.project_schema(&self.schema)?))
    }

    fn open(&self) -> Result<SendableRecordBatchStream> {
        let output = self.output_schema()?;
        let filter = match &self.filter {
            Some(filter) => {
                let take = Take::of(std::iter::once(filter), &self.schema)?;
                let filter = reassign_expr_columns(Arc::clone(filter), &take.schema)?;
                Some((take, filter))
            }
            None => None,
        };
        let take = Take::of(self.projection.iter().map(|projected| &projected.expr), &self.schema)?;
        let projection = self.projection.clone().try_map_exprs(|expr| reassign_expr_columns(expr, &take.schema))?;
        let projector = projection.make_projector(&take.schema)?;
        let table = Arc::clone(&self.schema);
        let result_schema = Arc::clone(&output);
        let evaluate = move |batch: &RecordBatch| -> Result<RecordBatch> {
            let columns = match &filter {
                None => take.columns(batch, &table)?,
                Some((filter_take, filter)) => {
                    // Only what the filter needs is looked at before it is known which rows stay.
                    let seen = filter_take.columns(batch, &table)?;
                    let keep = filter.evaluate(&seen)?.into_array(seen.num_rows())?;
                    let keep = as_boolean_array(&keep)?;
                    let kept = keep.true_count();
                    if kept == 0 {
                        return Ok(RecordBatch::new_empty(Arc::clone(&result_schema)));
                    }
                    let columns = take.columns(batch, &table)?;
                    if kept == columns.num_rows() { columns } else { filter_record_batch(&columns, keep)? }
                }
            };
            projector.project_batch(&columns)
        };
        let limit = self.limit.unwrap_or(usize::MAX);
        let parts = Arc::clone(&self.parts);
        let state = (parts, 0, limit, evaluate);
        let stream = futures::stream::try_unfold(state, |(parts, mut at, left, evaluate)| async move {
            while left > 0
                && let Some(part) = parts.get(at)
            {
                let batch = load(part).await?;
                at += 1;
                let mut batch = evaluate(&batch)?;
                if batch.num_rows() == 0 {
                    continue;
                }
                if batch.num_rows() > left {
                    batch = batch.slice(0, left);
                }
                let left = left - batch.num_rows();
                return Ok(Some((batch, (parts, at, left, evaluate))));
            }
            Ok(None)
        });
        Ok(Box::pin(datafusion::physical_plan::coop::cooperative(RecordBatchStreamAdapter::new(
            output,
            stream.boxed(),
        ))))
    }
}

/// The rows of a part; one that has to be read back is read where blocking does no harm.
async fn load(part: &Arc<dyn TailView>) -> Result<RecordBatch> {
    let result = if part.is_resident() {
        part.batch()
    } else {
        let part = Arc::clone(part);
        tokio::task::spawn_blocking(move || part.batch())
            .await
            .map_err(|error| datafusion::common::DataFusionError::ExecutionJoin(Box::new(error)))?
    };
    result.map_err(crate::SqlError::into_datafusion)
}

/// Files and tail as one source. The tail, if there is one, is the last partition.
#[derive(Clone, Debug)]
pub(crate) struct TableSource {
    table: &'static str,
    files: Option<Arc<dyn DataSource>>,
    /// Perhaps without any rows; its projection is that of the whole source.
    tail: Tail,
    filtered: bool,
}

impl TableSource {
    fn file_partitions(&self) -> usize {
        self.files.as_ref().map_or(0, |files| files.output_partitioning().partition_count())
    }

    /// A source without rows still has one partition.
    fn has_tail_partition(&self) -> bool {
        self.files.is_none() || !self.tail.parts.is_empty()
    }

    /// Whether a filter on the output looks into an open column. Files keep those in several
    /// columns, which the Parquet reader's filters cannot put together.
    fn is_on_open_column(&self, filter: &Arc<dyn PhysicalExpr>) -> Result<bool> {
        let filter = self.tail.projection.unproject_expr(filter)?;
        Ok(collect_columns(&filter)
            .iter()
            .any(|column| self.tail.schema.field_with_name(column.name()).is_ok_and(is_open_field)))
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
            let mut offered = Vec::with_capacity(filters.len());
            let mut places = Vec::with_capacity(filters.len());
            for (at, filter) in filters.iter().enumerate() {
                answers[at] = PushedDown::No;
                if !self.is_on_open_column(filter)? {
                    offered.push(Arc::clone(filter));
                    places.push(at);
                }
            }
            let pushed = own.try_pushdown_filters(offered, config)?;
            for (place, answer) in places.into_iter().zip(pushed.filters) {
                answers[place] = answer;
            }
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
