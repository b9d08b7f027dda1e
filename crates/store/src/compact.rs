//! Merging files: many small sorted files of a partition become few large ones.
//!
//! Which files: neighbours in size class, so that a row is rewritten a bounded number of times.
//! How: all inputs are read at once, a batch each, and their rows merged by the sort order. Memory
//! is bounded by taking fewer files, never by giving up the order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use hashbrown::HashSet;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::RowGroupMetaData;
use weir_base::Timestamp;
use weir_meta::catalogue::{FileEntry, FileId, PromotedKey};

use crate::StoreError;
use crate::file::{FileBlocks, TableFile};
use crate::order::{Run, gather, push_run, sort_columns};
use crate::partition::end_of;
use crate::promote::{choose_merged, file_schema, promote, restore_map};
use crate::store::{Store, table_damage};
use crate::table::Table;
use crate::texts::Coding;
use crate::write::NewFile;

/// How long a table whose merge failed is left alone.
const RETRY: Duration = Duration::from_secs(60);
/// Rows read from an input at a time.
const INPUT_ROWS: usize = 2048;
/// Rows written at a time.
const OUTPUT_ROWS: usize = 8192;

/// What one pass of compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Merges committed.
    pub merges: usize,
    /// Files that were replaced.
    pub files: usize,
    /// Rows rewritten.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
}

impl Store {
    /// One pass over all tables: at most one merge a table.
    ///
    /// # Errors
    /// The first failure; other tables are looked at all the same.
    pub fn compact_once(&self) -> Result<CompactionReport, StoreError> {
        self.compact_pass(&|| false)
    }

    pub(crate) fn compact_pass(&self, stop: &dyn Fn() -> bool) -> Result<CompactionReport, StoreError> {
        let mut report = CompactionReport::default();
        let mut failure = None;
        for table in self.all_tables() {
            if stop() || self.is_fenced() {
                break;
            }
            match self.compact_table(&table, stop, &mut report) {
                Ok(()) => {}
                Err(StoreError::Stopped) => {}
                Err(error) => {
                    self.counters.compaction_failures.fetch_add(1, Ordering::Relaxed);
                    // A full disk is not made emptier by writing half a file again and again.
                    let again = self.clock.monotonic() + RETRY;
                    table.look(|state| state.merge_at = again);
                    tracing::error!(
                        tenant = %table.tenant,
                        stream = %table.name,
                        error = %weir_base::error::chain(&error),
                        "cannot merge table files; they stay as they are"
                    );
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or(Ok(report), Err)
    }

    fn compact_table(
        &self,
        table: &Arc<Table>,
        stop: &dyn Fn() -> bool,
        report: &mut CompactionReport,
    ) -> Result<(), StoreError> {
        let _guard = table.rearranging.lock();
        let (files, merge_at) = table.look(|state| (Arc::clone(&state.files), state.merge_at));
        if files.len() < 2 || self.clock.monotonic() < merge_at || table_damage(table).is_some() {
            return Ok(());
        }
        let Some(inputs) = self.choose(&files)? else { return Ok(()) };
        let level = inputs.iter().map(|file| file.entry.level).max().unwrap_or(0) + 1;
        let partition = inputs[0].entry.partition.clone();
        let entry = self.merge(table, &inputs, &partition, level, stop)?;
        let (rows, bytes) = (entry.rows, entry.bytes);
        let expected: u64 = inputs.iter().map(|file| file.entry.rows).sum();
        // Stopping beats writing nonsense.
        assert_eq!(rows, expected, "a merge must keep every row");
        let ids: Vec<FileId> = inputs.iter().map(|file| file.entry.id).collect();
        let added = self.commit(table, vec![entry], &ids, None)?;
        table.replace_files(&inputs, added);
        report.merges += 1;
        report.files += inputs.len();
        report.rows += rows;
        report.bytes += bytes;
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        self.counters.compacted_rows.fetch_add(rows, Ordering::Relaxed);
        self.counters.compacted_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.keeper_signal.raise();
        Ok(())
    }

    /// The files to merge next, if any: of one partition, as many as memory allows.
    fn choose(&self, files: &[Arc<TableFile>]) -> Result<Option<Vec<Arc<TableFile>>>, StoreError> {
        let mut by_partition: BTreeMap<&str, Vec<&Arc<TableFile>>> = BTreeMap::new();
        for file in files {
            // Merged rows compress better: what was large enough to be merged is large enough after.
            let done = self.options.compaction_bytes / 4 * 3;
            if file.entry.bytes < done && file.damage().is_none() {
                by_partition.entry(&file.entry.partition).or_default().push(file);
            }
        }
        let now = self.clock.now();
        for (partition, small) in by_partition {
            let Some(chosen) = self.choose_in(partition, &small, now) else { continue };
            // Before their footers are read: a partition that is done with has one file, and there are many such.
            if chosen.len() >= 2 {
                return self.within_memory(chosen).map(Some);
            }
        }
        Ok(None)
    }

    fn choose_in(&self, partition: &str, small: &[&Arc<TableFile>], now: Timestamp) -> Option<Vec<Arc<TableFile>>> {
        let sum = |files: &[&Arc<TableFile>]| files.iter().map(|file| file.entry.bytes).sum::<u64>();
        let mut by_level: BTreeMap<u32, Vec<&Arc<TableFile>>> = BTreeMap::new();
        for file in small {
            by_level.entry(file.entry.level).or_default().push(file);
        }
        for alike in by_level.values() {
            let enough = alike.len() >= self.options.compaction_files && sum(alike) >= self.options.compaction_bytes;
            if enough || alike.len() >= self.options.compaction_files_max {
                return Some(self.within_size(alike.iter().copied()));
            }
        }
        // The partition is over and quiet: what is left is merged across levels, unless that would
        // rewrite a large file for the sake of little ones.
        let newest = small.iter().map(|file| file.entry.created_at).max()?;
        let over = end_of(partition).is_some_and(|end| end <= now);
        if !over || now.since(newest) < self.options.compaction_quiet {
            return None;
        }
        let mut by_size: Vec<&Arc<TableFile>> = small.to_vec();
        by_size.sort_by_key(|file| Reverse(file.entry.bytes));
        while let [largest, rest @ ..] = by_size.as_slice()
            && !rest.is_empty()
            && largest.entry.bytes > sum(rest).saturating_mul(4)
        {
            by_size.remove(0);
        }
        by_size.sort_by_key(|file| file.entry.id);
        Some(self.within_size(by_size.into_iter()))
    }

    /// As many files from the front as make a file of the largest size.
    fn within_size<'a>(&self, files: impl Iterator<Item = &'a Arc<TableFile>>) -> Vec<Arc<TableFile>> {
        let mut bytes = 0_u64;
        let mut chosen = Vec::new();
        for file in files {
            bytes = bytes.saturating_add(file.entry.bytes);
            if bytes > self.options.compaction_bytes_max && chosen.len() >= 2 {
                break;
            }
            chosen.push(Arc::clone(file));
        }
        chosen
    }

    /// As many of the files from the front as can be read at once, but at least two.
    fn within_memory(&self, files: Vec<Arc<TableFile>>) -> Result<Vec<Arc<TableFile>>, StoreError> {
        let mut bytes = 0_u64;
        let mut chosen = Vec::new();
        for file in files {
            bytes = bytes.saturating_add(reading_bytes(&file)?);
            if bytes > self.options.compaction_memory_max && chosen.len() >= 2 {
                break;
            }
            chosen.push(file);
        }
        Ok(chosen)
    }

    fn merge(
        &self,
        table: &Arc<Table>,
        inputs: &[Arc<TableFile>],
        partition: &str,
        level: u32,
        stop: &dyn Fn() -> bool,
    ) -> Result<FileEntry, StoreError> {
        let entries: Vec<&FileEntry> = inputs.iter().map(|file| &file.entry).collect();
        let kind = |column: &str, key: &str| self.kind(table, column, key);
        let definition = table.definition();
        let promoted = choose_merged(&definition, &entries, self.options.promoted_keys_max, &kind);
        let repeating = Repeating::of(inputs, definition.sort)?;
        let opened =
            inputs.iter().map(|file| Input::open(file, &promoted, &repeating)).collect::<Result<Vec<_>, _>>()?;
        let schema = file_schema(&union(&definition.schema, &opened), &promoted);
        let coding = Coding::new(&schema, |field| repeating.is_everywhere(field.name()));
        let mut merge = Merge::begin(definition.sort, coding, opened)?;
        let mut file: Option<NewFile<'_>> = None;
        while let Some(batch) = merge.next()? {
            if stop() || table.is_dropped() {
                return Err(StoreError::Stopped);
            }
            let file = match &mut file {
                Some(file) => file,
                none => none.insert(NewFile::begin(
                    self.target(table, partition, level),
                    &merge.coding,
                    promoted.clone(),
                    &batch,
                )?),
            };
            file.write(&batch, &merge.coding)?;
            if file.is_between_groups() {
                merge.forget()?;
            }
        }
        file.ok_or(StoreError::Stopped)?.finish(&merge.coding)
    }
}

/// About how much memory reading a file from front to end takes: a page of every column, decoded,
/// and two batches. A column with a dictionary holds that instead: its pages are small.
fn reading_bytes(file: &Arc<TableFile>) -> Result<u64, StoreError> {
    const PAGE_BYTES: i64 = 256 * 1024;
    let metadata = file.metadata()?;
    let pages = metadata
        .row_groups()
        .iter()
        .map(|group| group.columns().iter().map(|column| column.uncompressed_size().clamp(0, PAGE_BYTES)).sum::<i64>());
    let pages = u64::try_from(pages.max().unwrap_or(0)).unwrap_or(0);
    let total: i64 = metadata.row_groups().iter().map(|group| group.total_byte_size()).sum();
    let row = u64::try_from(total).unwrap_or(0) / file.entry.rows.max(1);
    Ok(pages + row * INPUT_ROWS as u64 * 2)
}

/// One file being read.
struct Input {
    file: Arc<TableFile>,
    blocks: FileBlocks,
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    /// The promoted keys of the output, if the file has others: its rows must then be restored and
    /// promoted anew. Files of one kind of traffic mostly agree.
    differs: Option<Vec<PromotedKey>>,
}

/// Which text columns the inputs keep by a dictionary. Such are read as they are kept.
struct Repeating {
    /// Columns some input keeps otherwise.
    plain: HashSet<String>,
    /// The sort columns, which are read as texts.
    sort: Vec<&'static str>,
}

impl Repeating {
    fn of(inputs: &[Arc<TableFile>], sort: &[&'static str]) -> Result<Self, StoreError> {
        let mut plain = HashSet::new();
        for input in inputs {
            for column in input.metadata()?.row_groups().iter().flat_map(RowGroupMetaData::columns) {
                if column.dictionary_page_offset().is_none()
                    && let [name] = column.column_path().parts()
                {
                    plain.insert(name.clone());
                }
            }
        }
        // Rows are compared by their texts.
        Ok(Self { plain, sort: sort.to_vec() })
    }

    /// The columns of a file as they are to be read.
    fn hint(&self, schema: &SchemaRef) -> SchemaRef {
        let by_dictionary = |field: &Arc<Field>| {
            let is_wanted = *field.data_type() == DataType::Utf8
                && self.is_everywhere(field.name())
                && !self.sort.contains(&field.name().as_str());
            if !is_wanted {
                return Arc::clone(field);
            }
            let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            Arc::new(field.as_ref().clone().with_data_type(kind))
        };
        Arc::new(Schema::new_with_metadata(
            schema.fields().iter().map(by_dictionary).collect::<Vec<_>>(),
            schema.metadata().clone(),
        ))
    }

    fn is_everywhere(&self, column: &str) -> bool {
        !self.plain.contains(column)
    }
}

impl Input {
    fn open(file: &Arc<TableFile>, promoted: &[PromotedKey], repeating: &Repeating) -> Result<Self, StoreError> {
        let failed = |error| StoreError::parquet("read", file.path(), error);
        let blocks = file.blocks();
        let mut metadata = ArrowReaderMetadata::try_new(file.metadata()?, ArrowReaderOptions::new()).map_err(failed)?;
        let differs = (file.entry.promoted != promoted).then(|| promoted.to_vec());
        let schema = Arc::clone(metadata.schema());
        if differs.is_none() {
            let options = ArrowReaderOptions::new().with_schema(repeating.hint(&schema));
            metadata = ArrowReaderMetadata::try_new(file.metadata()?, options).map_err(failed)?;
        }
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(blocks.clone(), metadata)
            .with_batch_size(INPUT_ROWS)
            .build()
            .map_err(failed)?;
        Ok(Self { file: Arc::clone(file), blocks, reader, schema, differs })
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        match self.reader.next() {
            None => Ok(None),
            Some(Ok(batch)) => Ok(Some(batch)),
            Some(Err(error)) => Err(self.blocks.failure(error)),
        }
    }
}

/// The stream's columns that any input has, as they are once promoted keys are restored.
fn union(full: &SchemaRef, inputs: &[Input]) -> SchemaRef {
    let has = |input: &Input, name: &String| {
        input.schema.index_of(name).is_ok() || input.file.entry.promoted.iter().any(|key| key.column == *name)
    };
    let fields = full.fields().iter().filter(|field| inputs.iter().any(|input| has(input, field.name())));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// Where one input stands.
struct Cursor {
    input: Input,
    /// Which of the merge's batches is the present one.
    source: u32,
    keys: Rows,
    row: usize,
}

/// A merge of sorted inputs. Of equal rows those of the earlier input come first.
struct Merge {
    /// What numbers in the batches mean.
    coding: Coding,
    sort: Vec<(&'static str, DataType)>,
    converter: RowConverter,
    cursors: Vec<Option<Cursor>>,
    heap: BinaryHeap<Reverse<(OwnedRow, usize)>>,
    /// Batches rows were taken from and not yet written, and the present ones of all inputs.
    batches: Vec<RecordBatch>,
    runs: Vec<Run>,
    rows: usize,
}

impl Merge {
    fn begin(sort: &[&'static str], coding: Coding, inputs: Vec<Input>) -> Result<Self, StoreError> {
        let schema = Arc::clone(coding.plain());
        let sort: Vec<(&'static str, DataType)> = sort
            .iter()
            .filter_map(|name| Some((*name, schema.field_with_name(name).ok()?.data_type().clone())))
            .collect();
        let fields = sort.iter().map(|(_, kind)| SortField::new(kind.clone())).collect();
        let converter = RowConverter::new(fields).map_err(StoreError::rows("compare rows"))?;
        let mut merge = Self {
            coding,
            sort,
            converter,
            cursors: Vec::new(),
            heap: BinaryHeap::new(),
            batches: Vec::new(),
            runs: Vec::new(),
            rows: 0,
        };
        for (at, input) in inputs.into_iter().enumerate() {
            merge.cursors.push(None);
            merge.load(at, input)?;
        }
        Ok(merge)
    }

    /// Makes the next batch of an input its present one.
    fn load(&mut self, at: usize, mut input: Input) -> Result<(), StoreError> {
        loop {
            let Some(batch) = input.next()? else { return Ok(()) };
            if batch.num_rows() == 0 {
                continue;
            }
            let schema = self.coding.plain();
            let batch = match &input.differs {
                None => Ok(batch),
                Some(promoted) => promote(&restore_map(&batch, &input.file.entry)?, promoted, schema),
            }
            .map_err(StoreError::rows("align the rows of a file"))?;
            let keys = self
                .converter
                .convert_columns(&sort_columns(&batch, &self.sort))
                .map_err(StoreError::rows("compare rows"))?;
            let batch = self.coding.encode(&batch).map_err(StoreError::rows("align the rows of a file"))?;
            self.heap.push(Reverse((keys.row(0).owned(), at)));
            let source = u32::try_from(self.batches.len()).unwrap_or(u32::MAX);
            self.batches.push(batch);
            self.cursors[at] = Some(Cursor { input, source, keys, row: 0 });
            return Ok(());
        }
    }

    /// The next rows in order, about [`OUTPUT_ROWS`] of them.
    fn next(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        while self.rows < OUTPUT_ROWS {
            let Some(Reverse((_, at))) = self.heap.pop() else { break };
            let Some(cursor) = self.cursors[at].as_mut() else { continue };
            // All rows up to the next input's first come at once: files of one flush after the
            // other hardly overlap, so this is often the rest of the batch.
            let left = cursor.keys.num_rows() - cursor.row;
            let limit = left.min(OUTPUT_ROWS - self.rows);
            let taken = match self.heap.peek() {
                None => limit,
                Some(Reverse((other, other_at))) => {
                    let other = other.row();
                    let first_wins = at < *other_at;
                    run_length(limit, |row| {
                        let key = cursor.keys.row(cursor.row + row);
                        key < other || (first_wins && key == other)
                    })
                }
            }
            .max(1);
            push_run(&mut self.runs, cursor.source, cursor.row as u32, taken as u32);
            self.rows += taken;
            cursor.row += taken;
            if cursor.row < cursor.keys.num_rows() {
                self.heap.push(Reverse((cursor.keys.row(cursor.row).owned(), at)));
            } else if let Some(done) = self.cursors[at].take() {
                self.load(at, done.input)?;
            }
        }
        if self.runs.is_empty() {
            return Ok(None);
        }
        let batch = gather(self.coding.coded(), &self.batches, &self.runs).map_err(StoreError::rows("merge rows"))?;
        self.runs.clear();
        self.rows = 0;
        // Only the present batches are needed further.
        let mut kept = Vec::with_capacity(self.cursors.len());
        for cursor in self.cursors.iter_mut().flatten() {
            kept.push(self.batches[cursor.source as usize].clone());
            cursor.source = u32::try_from(kept.len() - 1).unwrap_or(u32::MAX);
        }
        self.batches = kept;
        Ok(Some(batch))
    }

    /// Forgets texts that are not needed any more. Batches given out before must not be used.
    fn forget(&mut self) -> Result<(), StoreError> {
        self.coding.renew(&mut self.batches).map_err(StoreError::rows("renumber the texts of a merge"))
    }
}

/// How many of the first `limit` rows satisfy a condition that, once false, stays false: by
/// doubling steps, then by halving.
fn run_length(limit: usize, holds: impl Fn(usize) -> bool) -> usize {
    let mut low = 0;
    let mut step = 1;
    while low + step <= limit && holds(low + step - 1) {
        low += step;
        step *= 2;
    }
    let mut high = (low + step - 1).min(limit);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
