//! One file of a scan: its filters and columns as it has them, which row groups and blocks of it may
//! have wanted rows, and reading these.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::Result;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::pruning::PrunableStatistics;
use datafusion::datasource::physical_plan::ParquetFileMetrics;
use datafusion::datasource::physical_plan::parquet::{
    BloomFilterStatistics, PagePruningAccessPlanFilter, ParquetAccessPlan, RowGroupAccess, RowGroupAccessPlanFilter,
    apply_file_schema_type_coercions,
};
use datafusion::physical_expr::conjunction;
use datafusion::physical_expr::expressions::DynamicFilterTracking;
use datafusion::physical_expr::projection::{ProjectionExprs, Projector};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use parquet::arrow::arrow_reader::{ArrowPredicate, ArrowReaderMetadata, ArrowReaderOptions, RowFilter, RowSelection};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask, parquet_column};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics as ColumnStatistics;
use weir_data::streams::StreamDef;
use weir_store::search::index::{SearchIndex, Segment};
use weir_store::search::{BLOCK_ROWS, Condition, SEGMENT_BLOCKS, SEGMENT_ROWS};

use super::newest::Newest;
use super::queue::Place;
use super::{condition, threshold};
use crate::promoted::PromotedKeys;
use crate::scan::{CountedReader, file_statistics};
use crate::tables::TableFileView;

/// What is the same for all files.
pub(super) struct Scan {
    files: Arc<[Arc<dyn TableFileView>]>,
    schema: SchemaRef,
    output: SchemaRef,
    projection: ProjectionExprs,
    filters: Vec<Arc<dyn PhysicalExpr>>,
    /// What the search columns must have.
    conditions: Vec<(&'static str, Condition)>,
    metrics: ExecutionPlanMetricsSet,
    partition: usize,
    newest: Option<Arc<Newest>>,
    bytes_scanned: Count,
    files_opened: Count,
}

impl Scan {
    #[expect(clippy::too_many_arguments, reason = "one caller; the parts of one scan")]
    pub(super) fn new(
        stream: &StreamDef,
        files: Arc<[Arc<dyn TableFileView>]>,
        schema: &SchemaRef,
        projection: &ProjectionExprs,
        filters: &[Arc<dyn PhysicalExpr>],
        metrics: &ExecutionPlanMetricsSet,
        partition: usize,
        newest: Option<Arc<Newest>>,
    ) -> Result<Self> {
        let conditions = stream
            .search_columns
            .iter()
            .map(|column| (*column, Condition::all(filters.iter().map(|filter| condition::of(filter, column)))))
            .filter(|(_, condition)| *condition != Condition::Anything)
            .collect();
        Ok(Self {
            files,
            schema: Arc::clone(schema),
            output: Arc::new(projection.project_schema(schema)?),
            projection: projection.clone(),
            filters: filters.to_vec(),
            conditions,
            metrics: metrics.clone(),
            partition,
            newest,
            bytes_scanned: MetricBuilder::new(metrics).counter("bytes_scanned", partition),
            files_opened: MetricBuilder::new(metrics).counter("files_opened", partition),
        })
    }

    /// Whether it may become known on the way that no more rows are wanted.
    pub(super) fn stops_early(&self) -> bool {
        self.filters.iter().any(is_dynamic)
    }

    /// Rows that are not newer than this are not wanted.
    pub(super) fn threshold(&self) -> Result<i64> {
        let counted = self.newest.as_ref().map_or(i64::MIN, |newest| newest.too_old());
        Ok(threshold::of(&self.filters)?.max(counted))
    }

    /// Takes note of rows of the output.
    pub(super) fn found(&self, batch: &RecordBatch) {
        if let Some(newest) = &self.newest {
            newest.see(batch);
        }
    }

    /// Which files may have wanted rows, by what the catalogue knows of them.
    pub(super) fn prune_files(&self) -> Result<Vec<bool>> {
        let statistics = self.files.iter().map(|file| Arc::new(file_statistics(file.entry(), &self.schema))).collect();
        let statistics = PrunableStatistics::new(statistics, Arc::clone(&self.schema));
        let mut kept = vec![true; self.files.len()];
        let fixed = self.filters.iter().filter(|filter| !is_dynamic(filter));
        if let Some(predicate) = pruning(&conjunction(fixed.cloned()), &self.schema)
            && let Ok(answers) = predicate.prune(&statistics)
        {
            kept = answers;
        }
        Ok(kept)
    }

    fn reader(&self, file: &Arc<dyn TableFileView>) -> CountedReader {
        CountedReader { inner: file.reader(), bytes: self.bytes_scanned.clone() }
    }

    /// Opens a file and rewrites filters and columns for it.
    pub(super) async fn prepare(&self, at: usize) -> Result<Arc<Prepared>> {
        let view = Arc::clone(&self.files[at]);
        self.files_opened.add(1);
        let metadata = self.reader(&view).get_metadata(None).await?;
        let mut metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())?;
        if let Some(coerced) = apply_file_schema_type_coercions(&self.schema, metadata.schema()) {
            let options = ArrowReaderOptions::new().with_schema(Arc::new(coerced));
            metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)?;
        }
        let physical = Arc::clone(metadata.schema());
        let adapter = PromotedKeys.create(Arc::clone(&self.schema), Arc::clone(&physical))?;
        let rewritten =
            self.filters.iter().map(|filter| adapter.rewrite(Arc::clone(filter))).collect::<Result<Vec<_>>>()?;
        let take = |exprs: &[&Arc<dyn PhysicalExpr>]| Columns::of(exprs, &metadata);
        let mut predicates: Vec<Predicate> = Vec::new();
        // Filters on the same columns are one, so that these are decoded once.
        let mut by_columns: Vec<(Columns, Vec<Arc<dyn PhysicalExpr>>)> = Vec::new();
        for filter in &rewritten {
            let columns = take(&[filter])?;
            let alone = is_dynamic(filter);
            match by_columns.iter_mut().find(|(known, _)| known.indices == columns.indices && !alone) {
                Some((_, filters)) => filters.push(Arc::clone(filter)),
                None => by_columns.push((columns, vec![Arc::clone(filter)])),
            }
        }
        for (columns, filters) in by_columns {
            let changes = filters.iter().any(is_dynamic);
            let expr = reassign_expr_columns(conjunction(filters), &columns.schema)?;
            let bytes = columns.bytes(&metadata);
            predicates.push(Predicate { expr, mask: columns.mask, cost: (changes, bytes) });
        }
        predicates.sort_by_key(|predicate| predicate.cost);
        let projection = self.projection.clone().try_map_exprs(|expr| adapter.rewrite(expr))?;
        let columns = take(&projection.iter().map(|projected| &projected.expr).collect::<Vec<_>>())?;
        let projection = projection.try_map_exprs(|expr| reassign_expr_columns(expr, &columns.schema))?;
        let fixed: Vec<_> = rewritten.into_iter().filter(|filter| !is_dynamic(filter)).collect();
        let indexes = self
            .conditions
            .iter()
            .filter_map(|(column, condition)| Some((SearchIndex::of(metadata.metadata(), column)?, condition.clone())))
            .collect();
        let mut first_row = 0;
        let groups = metadata.metadata().row_groups().iter();
        let rows = groups
            .map(|group| {
                let first = first_row;
                first_row += u64::try_from(group.num_rows()).unwrap_or(0);
                first..first_row
            })
            .collect();
        let time = parquet_column(metadata.parquet_schema(), &physical, "time").map(|(leaf, _)| leaf);
        Ok(Arc::new(Prepared {
            view,
            predicates,
            mask: columns.mask,
            projector: projection.make_projector(&columns.schema)?,
            output: Arc::clone(&self.output),
            fixed: (!fixed.is_empty()).then(|| conjunction(fixed)),
            indexes,
            rows,
            time,
            metadata,
        }))
    }
}

/// Whether a filter is tightened while the query runs.
fn is_dynamic(filter: &Arc<dyn PhysicalExpr>) -> bool {
    DynamicFilterTracking::classify(filter).contains_dynamic_filter()
}

/// A filter as a question to statistics. `None` if it rules out nothing.
fn pruning(filter: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Option<Arc<PruningPredicate>> {
    PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).build(Arc::clone(filter))
}

/// Columns of a file that expressions need.
struct Columns {
    indices: Vec<usize>,
    schema: SchemaRef,
    mask: ProjectionMask,
}

impl Columns {
    fn of(exprs: &[&Arc<dyn PhysicalExpr>], metadata: &ArrowReaderMetadata) -> Result<Self> {
        let mut indices: Vec<usize> =
            exprs.iter().flat_map(|expr| collect_columns(expr)).map(|column| column.index()).collect();
        indices.sort_unstable();
        indices.dedup();
        let schema: Schema = metadata.schema().project(&indices)?;
        let mask = ProjectionMask::roots(metadata.parquet_schema(), indices.iter().copied());
        Ok(Self { indices, schema: Arc::new(schema), mask })
    }

    fn bytes(&self, metadata: &ArrowReaderMetadata) -> i64 {
        let Some(group) = metadata.metadata().row_groups().first() else { return 0 };
        let leaves = (0..group.num_columns()).filter(|leaf| self.mask.leaf_included(*leaf));
        leaves.map(|leaf| group.column(leaf).compressed_size()).sum()
    }
}

/// A filter as the Parquet reader applies it.
#[derive(Clone)]
struct Predicate {
    expr: Arc<dyn PhysicalExpr>,
    mask: ProjectionMask,
    /// What changes while the query runs comes last: it mostly holds where blocks are read at all.
    cost: (bool, i64),
}

impl ArrowPredicate for Predicate {
    fn projection(&self) -> &ProjectionMask {
        &self.mask
    }

    fn evaluate(&mut self, batch: RecordBatch) -> std::result::Result<BooleanArray, ArrowError> {
        let value = self.expr.evaluate(&batch).and_then(|value| value.into_array(batch.num_rows()));
        Ok(as_boolean_array(&value.map_err(ArrowError::from)?).map_err(ArrowError::from)?.clone())
    }
}

/// A file that was looked into.
pub(super) struct Prepared {
    view: Arc<dyn TableFileView>,
    metadata: ArrowReaderMetadata,
    predicates: Vec<Predicate>,
    mask: ProjectionMask,
    projector: Projector,
    output: SchemaRef,
    /// The filters that do not change, over the file's columns.
    fixed: Option<Arc<dyn PhysicalExpr>>,
    indexes: Vec<(SearchIndex, Condition)>,
    /// The rows of each row group.
    rows: Vec<Range<u64>>,
    /// The place of the time column.
    time: Option<usize>,
}

impl Prepared {
    /// The output's columns of what was read.
    pub(super) fn project(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let projected = self.projector.project_batch(batch)?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = projected.columns().to_vec();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?)
    }

    /// The newest time in a row group.
    pub(super) fn newest_of_group(&self, group: usize) -> Option<i64> {
        match self.metadata.metadata().row_group(group).column(self.time?).statistics()? {
            ColumnStatistics::Int64(values) => values.max_opt().copied(),
            _ => None,
        }
    }

    /// The row groups that may have wanted rows by their statistics and those of their pages.
    pub(super) fn accesses(&self, scan: &Scan) -> Result<Vec<(usize, RowGroupAccess)>> {
        let groups = self.metadata.metadata().row_groups();
        let mut plan = ParquetAccessPlan::new_all(groups.len());
        if let Some(fixed) = &self.fixed {
            let metrics = self.file_metrics(scan);
            let physical = self.metadata.schema();
            if let Some(predicate) = pruning(fixed, physical) {
                let mut filter = RowGroupAccessPlanFilter::new(plan);
                filter.prune_by_statistics(physical, self.metadata.parquet_schema(), groups, &predicate, &metrics);
                plan = filter.build();
            }
            let pages = PagePruningAccessPlanFilter::new(fixed, Arc::clone(physical));
            if pages.filter_number() > 0 && self.metadata.metadata().column_index().is_some() {
                let metadata = self.metadata.metadata();
                plan = pages.prune_plan_with_page_index(
                    plan,
                    physical,
                    self.metadata.parquet_schema(),
                    metadata,
                    &metrics,
                );
            }
        }
        let accesses = plan.into_inner().into_iter().enumerate();
        Ok(accesses.filter(|(_, access)| access.should_scan()).collect())
    }

    fn file_metrics(&self, scan: &Scan) -> ParquetFileMetrics {
        let entry = self.view.entry();
        ParquetFileMetrics::new(scan.partition, &format!("{}/{}", entry.partition, entry.id.0), &scan.metrics)
    }

    /// Whether the bloom filters of a row group rule it out.
    async fn is_ruled_out(&self, group: usize, scan: &Scan) -> Result<bool> {
        let Some(fixed) = &self.fixed else { return Ok(false) };
        let physical = self.metadata.schema();
        let Some(predicate) = pruning(fixed, physical) else { return Ok(false) };
        let mut filters = BloomFilterStatistics::new();
        let mut found = false;
        for column in predicate.literal_columns() {
            let schema = self.metadata.parquet_schema();
            let Some((leaf, _)) = parquet_column(schema, physical, &column) else { continue };
            if self.metadata.metadata().row_group(group).column(leaf).bloom_filter_offset().is_none() {
                continue;
            }
            let reader = scan.reader(&self.view);
            let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, self.metadata.clone());
            if let Some(filter) = builder.get_row_group_column_bloom_filter(group, leaf).await? {
                let descriptor = schema.column(leaf);
                filters.insert(column, filter, descriptor.physical_type(), descriptor.type_length());
                found = true;
            }
        }
        Ok(found && predicate.prune(&filters).is_ok_and(|answers| answers.first() == Some(&false)))
    }

    /// The blocks of the file, by number, that overlap `rows` and may have wanted rows by the index.
    async fn blocks(&self, rows: &Range<u64>, scan: &Scan) -> Result<Vec<u64>> {
        let mut wanted: Vec<u64> = (rows.start / BLOCK_ROWS..rows.end.div_ceil(BLOCK_ROWS)).collect();
        for (index, condition) in &self.indexes {
            let segments = rows.start / SEGMENT_ROWS..rows.end.div_ceil(SEGMENT_ROWS);
            for segment in segments {
                let at = usize::try_from(segment).unwrap_or(usize::MAX);
                let Some(bytes) = index.bytes(at) else { continue };
                let bytes = scan.reader(&self.view).get_bytes(bytes).await?;
                let Some(read) = Segment::parse(&bytes) else {
                    // Nothing is known of these blocks, so all are read.
                    tracing::error!(file = self.view.entry().id.0, segment, "a search index is damaged");
                    continue;
                };
                let candidates = read.candidates(condition);
                wanted.retain(|block| {
                    block / SEGMENT_BLOCKS != segment || candidates >> (block % SEGMENT_BLOCKS) & 1 == 1
                });
            }
        }
        Ok(wanted)
    }

    /// The newest time of some rows of a row group, by the page index.
    fn newest_of_rows(&self, group: usize, rows: &Range<usize>) -> i64 {
        let newest = || {
            let metadata = self.metadata.metadata();
            let time = self.time?;
            let ColumnIndexMetaData::INT64(values) = metadata.column_index()?.get(group)?.get(time)? else {
                return None;
            };
            let pages = metadata.offset_index()?.get(group)?.get(time)?.page_locations();
            let first_row =
                |page: usize| pages.get(page).map(|page| usize::try_from(page.first_row_index).unwrap_or(0));
            let mut newest = None;
            for page in 0..pages.len() {
                let begins = first_row(page)?;
                let ends = first_row(page + 1).unwrap_or(usize::MAX);
                if begins < rows.end && rows.start < ends {
                    newest = newest.max(Some(*values.max_value(page)?));
                }
            }
            newest
        };
        newest().or_else(|| self.newest_of_group(group)).unwrap_or(i64::MAX)
    }
}

/// A block of a row group.
struct Block {
    newest: i64,
    /// Counted from the row group's first.
    rows: Range<usize>,
}

/// Rows to be read in one go.
pub(super) struct Run {
    selection: RowSelection,
    pub(super) blocks: usize,
}

/// A row group of which the blocks are being read.
pub(super) struct Group {
    pub(super) file: Arc<Prepared>,
    scan: Arc<Scan>,
    group: usize,
    rows: usize,
    pages: Option<RowSelection>,
    /// The newest first.
    blocks: VecDeque<Block>,
}

impl Group {
    /// Finds out which blocks may have wanted rows.
    pub(super) async fn open(place: Place, scan: &Arc<Scan>) -> Result<Self> {
        let Place { file, group, access } = place;
        let rows = file.rows[group].clone();
        let mut blocks = VecDeque::new();
        if !file.is_ruled_out(group, scan).await? {
            let mut found = Vec::new();
            for block in file.blocks(&rows, scan).await? {
                let begin = (block * BLOCK_ROWS).max(rows.start) - rows.start;
                let end = ((block + 1) * BLOCK_ROWS).min(rows.end) - rows.start;
                let rows = usize::try_from(begin).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
                found.push(Block { newest: file.newest_of_rows(group, &rows), rows });
            }
            // Later rows first where times are equal: files are sorted by time, mostly.
            found.sort_by_key(|block| std::cmp::Reverse((block.newest, block.rows.start)));
            blocks = found.into();
        }
        Ok(Self {
            scan: Arc::clone(scan),
            rows: usize::try_from(rows.end - rows.start).unwrap_or(0),
            pages: match access {
                RowGroupAccess::Selection(pages) => Some(pages),
                RowGroupAccess::Scan | RowGroupAccess::Skip => None,
            },
            file,
            group,
            blocks,
        })
    }

    /// The next blocks that have rows newer than `threshold`, up to `blocks_max`.
    pub(super) fn next_run(&mut self, blocks_max: usize, threshold: i64) -> Option<Run> {
        loop {
            let mut ranges = Vec::new();
            while ranges.len() < blocks_max
                && let Some(block) = self.blocks.pop_front()
            {
                if block.newest > threshold {
                    ranges.push(block.rows);
                }
            }
            if ranges.is_empty() {
                return None;
            }
            let blocks = ranges.len();
            ranges.sort_by_key(|rows| rows.start);
            let mut selection = RowSelection::from_consecutive_ranges(ranges.into_iter(), self.rows);
            if let Some(pages) = &self.pages {
                selection = selection.intersection(pages);
            }
            if selection.selects_any() {
                return Some(Run { selection, blocks });
            }
        }
    }

    /// Begins to read a run: filters first, other columns for the rows that are left.
    pub(super) fn read(&self, run: Run, batch_size: usize) -> Result<ParquetRecordBatchStream<CountedReader>> {
        let file = &self.file;
        let reader = self.scan.reader(&file.view);
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, file.metadata.clone())
            .with_row_groups(vec![self.group])
            .with_row_selection(run.selection)
            .with_projection(file.mask.clone())
            .with_batch_size(batch_size);
        if !file.predicates.is_empty() {
            let predicates = file.predicates.iter().map(|predicate| Box::new(predicate.clone()) as _).collect();
            builder = builder.with_row_filter(RowFilter::new(predicates));
        }
        Ok(builder.build()?)
    }
}
