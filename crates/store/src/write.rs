//! Writing one table file: encoded as Parquet, checksummed on the way, made durable under its
//! final name. Not yet part of any table: that is the catalogue's word.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{max, min};
use arrow::datatypes::{DataType, Float64Type, SchemaRef, TimeUnit, TimestampNanosecondType};
use parking_lot::Mutex;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{ParquetMetaData, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;
use weir_base::crc::crc32c;
use weir_base::disk::{Disk, DiskFile, with_suffix};
use weir_base::{StreamName, TenantId, Timestamp};
use weir_data::streams::StreamDef;
use weir_meta::catalogue::{Bound, CRC_BLOCK_BYTES, ColumnStats, FileEntry, FileId, PromotedKey};

use crate::StoreError;
use crate::row_groups::{GroupOptions, RowGroups, leaves};
use crate::search::build::Builder;
use crate::texts::Coding;
use crate::texts::chunk::ChunkOptions;

/// Bytes handed to the disk at a time; a multiple of the checksum block.
const WRITE_BYTES: usize = 16 * CRC_BLOCK_BYTES;
/// Rows of one page: what a late-materialising reader decodes at least. A block of the search index, so
/// that reading a block is reading one page of its column.
const PAGE_ROWS_MAX: usize = crate::search::BLOCK_ROWS as usize;
/// Bytes of one page before compression.
const PAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a dictionary; a column with a larger one is written plain.
const DICTIONARY_BYTES_MAX: usize = 512 * 1024;
/// Rows looked at to decide whether a dictionary pays.
const SAMPLE_ROWS: usize = 2048;
/// The suffix of a file that is being written.
pub(crate) const ASIDE: &str = ".tmp";
/// The suffix of a finished file.
pub(crate) const FINISHED: &str = ".parquet";

/// Passes bytes on to a file, block by block, with a checksum each.
#[derive(Debug)]
struct BlockWriter {
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    written: u64,
    crcs: Vec<u32>,
    last8: [u8; 8],
    /// The disk's own error: the Parquet library keeps only its text.
    failure: Option<io::Error>,
}

impl BlockWriter {
    fn new(file: Arc<dyn DiskFile>) -> Self {
        let buffer = Vec::with_capacity(WRITE_BYTES);
        Self { file, buffer, written: 0, crcs: Vec::new(), last8: [0; 8], failure: None }
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        self.crcs.extend(self.buffer.chunks(CRC_BLOCK_BYTES).map(crc32c));
        if let Some(last8) = self.buffer.last_chunk() {
            self.last8 = *last8;
        } else {
            // The last blocks are shorter than the trailer only if it straddles two writes.
            let keep = 8 - self.buffer.len();
            self.last8.copy_within(8 - keep.., 0);
            self.last8[keep..].copy_from_slice(&self.buffer);
        }
        let result = self.file.write_all_at(&self.buffer, self.written);
        self.written += u64::try_from(self.buffer.len()).unwrap_or(0);
        self.buffer.clear();
        result.map_err(|error| {
            let shown = io::Error::new(error.kind(), error.to_string());
            self.failure = Some(error);
            shown
        })
    }
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failure.is_some() {
            return Err(io::Error::other("the disk refused an earlier write"));
        }
        let len = bytes.len().min(WRITE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..len]);
        if self.buffer.len() == WRITE_BYTES {
            self.write_buffer()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where and for whom a file is written.
pub(crate) struct Target<'a> {
    pub(crate) disk: &'a Arc<dyn Disk>,
    /// The directory of all tables.
    pub(crate) dir: &'a Path,
    /// Held while a directory and the first file in it come into being, so that the cleaner does
    /// not remove the empty directory in between.
    pub(crate) dirs: &'a Mutex<()>,
    pub(crate) tenant: &'a TenantId,
    pub(crate) stream: Arc<StreamDef>,
    pub(crate) partition: &'a str,
    pub(crate) level: u32,
    pub(crate) now: Timestamp,
    pub(crate) row_group_rows_max: usize,
    pub(crate) row_group_bytes_max: usize,
    pub(crate) search_index: bool,
}

/// A file under construction. Dropping it before [`NewFile::finish`] removes what was written.
pub(crate) struct NewFile<'a> {
    target: Target<'a>,
    path: PathBuf,
    relative: String,
    schema: SchemaRef,
    promoted: Vec<PromotedKey>,
    writer: Option<RowGroups<BlockWriter>>,
    /// The search indexes, with the place of their column.
    search: Vec<(usize, Builder)>,
    rows: u64,
    nulls: Vec<u64>,
    has_nan: Vec<bool>,
    times: Option<(i64, i64, i64)>,
    aside_exists: bool,
}

/// A name nobody else has, that sorts by the time it was made.
fn fresh_name(now: Timestamp) -> String {
    let mut name = format!("{:012x}", now.as_millis().max(0));
    for byte in weir_base::random::bytes::<10>() {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

impl<'a> NewFile<'a> {
    /// Begins a file whose batches will all be of `coding`. `sample` is such a batch, to choose
    /// encodings by.
    pub(crate) fn begin(
        target: Target<'a>,
        coding: &Coding,
        promoted: Vec<PromotedKey>,
        sample: &RecordBatch,
    ) -> Result<Self, StoreError> {
        let schema = coding.plain();
        let relative = format!(
            "{}/{}/{}/{}{FINISHED}",
            target.tenant,
            target.stream.name,
            target.partition,
            fresh_name(target.now)
        );
        let path = target.dir.join(&relative);
        let aside = with_suffix(&path, ASIDE);
        let handle = {
            let _guard = target.dirs.lock();
            if let Some(parent) = path.parent() {
                target.disk.create_dir_all(parent).map_err(|source| StoreError::Io {
                    attempt: "create",
                    path: parent.to_owned(),
                    source,
                })?;
            }
            target.disk.create(&aside).map_err(|source| StoreError::Io { attempt: "create", path: aside, source })?
        };
        let mut file = Self {
            path,
            relative,
            schema: schema.clone(),
            promoted,
            writer: None,
            search: Vec::new(),
            rows: 0,
            nulls: vec![0; schema.fields().len()],
            has_nan: vec![false; schema.fields().len()],
            times: None,
            aside_exists: true,
            target,
        };
        let properties = properties(&file.target, coding, &file.promoted, sample);
        let options = group_options(&file.target, schema, &file.promoted);
        let writer = RowGroups::begin(BlockWriter::new(handle), schema, properties, options)
            .map_err(|error| StoreError::parquet("begin", &file.path, error))?;
        file.writer = Some(writer);
        if file.target.search_index {
            let columns = file.target.stream.search_columns.iter();
            file.search = columns.filter_map(|name| Some((schema.index_of(name).ok()?, Builder::new(name)))).collect();
        }
        Ok(file)
    }

    fn failed(&mut self, attempt: &'static str, error: parquet::errors::ParquetError) -> StoreError {
        let failure = self.writer.as_mut().and_then(|writer| writer.inner_mut().failure.take());
        match failure {
            Some(source) => StoreError::Io { attempt: "write", path: self.path.clone(), source },
            None => StoreError::parquet(attempt, &self.path, error),
        }
    }

    /// Appends rows.
    pub(crate) fn write(&mut self, batch: &RecordBatch, coding: &Coding) -> Result<(), StoreError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += u64::try_from(batch.num_rows()).unwrap_or(0);
        for (at, column) in batch.columns().iter().enumerate() {
            self.nulls[at] += u64::try_from(column.null_count()).unwrap_or(0);
            if let Some(values) = column.as_primitive_opt::<Float64Type>() {
                self.has_nan[at] |= values.iter().flatten().any(f64::is_nan);
            }
        }
        let bounds = |name: &str| {
            let column = batch.column_by_name(name)?.as_primitive_opt::<TimestampNanosecondType>()?;
            Some((min(column)?, max(column)?))
        };
        if let (Some((low, high)), Some((_, received))) = (bounds("time"), bounds("received_at")) {
            self.times = Some(match self.times {
                None => (low, high, received),
                Some(so_far) => (so_far.0.min(low), so_far.1.max(high), so_far.2.max(received)),
            });
        }
        for (at, builder) in &mut self.search {
            let column = batch.column(*at);
            if let Some(values) = column.as_string_opt::<i32>() {
                builder.add(values);
            } else if let (Some(texts), Some(numbers)) = (coding.texts(*at), column.as_primitive_opt()) {
                builder.add(&texts.decode(numbers));
            }
        }
        let Some(writer) = self.writer.as_mut() else { return Err(StoreError::Stopped) };
        match writer.write(batch, coding) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed("encode", error)),
        }
    }

    /// Whether the next row begins a row group: numbers given out before are then not needed by
    /// this file any more.
    pub(crate) fn is_between_groups(&self) -> bool {
        self.writer.as_ref().is_none_or(RowGroups::is_between)
    }

    /// Puts the search indexes behind the last row group.
    fn write_search(&mut self, coding: &Coding) -> Result<(), StoreError> {
        for (_, builder) in std::mem::take(&mut self.search) {
            let Some(writer) = self.writer.as_mut() else { return Err(StoreError::Stopped) };
            if let Err(error) = writer.end_group(coding) {
                return Err(self.failed("encode", error));
            }
            let offset = u64::try_from(writer.bytes_written()).unwrap_or(u64::MAX);
            let (bytes, entry) = builder.finish(offset);
            writer.append_key_value_metadata(entry);
            if let Err(error) = writer.write_all(&bytes) {
                return Err(self.failed("write", error.into()));
            }
        }
        Ok(())
    }

    /// Makes the file durable under its final name.
    pub(crate) fn finish(mut self, coding: &Coding) -> Result<FileEntry, StoreError> {
        self.write_search(coding)?;
        let Some(writer) = self.writer.as_mut() else { return Err(StoreError::Stopped) };
        let metadata = match writer.finish(coding) {
            Ok(metadata) => metadata,
            Err(error) => return Err(self.failed("finish", error)),
        };
        let blocks = writer.inner_mut();
        let io_error = |attempt: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| StoreError::Io { attempt, path, source }
        };
        blocks.write_buffer().map_err(io_error("write", &self.path))?;
        // Length and contents: after a failed sync the file is given up, never synced again.
        blocks.file.sync_all().map_err(io_error("sync", &self.path))?;
        let aside = with_suffix(&self.path, ASIDE);
        self.target.disk.rename(&aside, &self.path).map_err(io_error("rename", &aside))?;
        self.aside_exists = false;
        let entry = self.entry(&metadata);
        self.writer = None;
        if let Some(parent) = self.path.parent()
            && let Err(source) = self.target.disk.sync_dir(parent)
        {
            // The name may or may not be durable; the file belongs to nobody either way.
            discard(self.target.disk, &self.path);
            return Err(StoreError::Io { attempt: "sync", path: parent.to_owned(), source });
        }
        Ok(entry)
    }

    fn entry(&mut self, metadata: &ParquetMetaData) -> FileEntry {
        let (bytes, block_crcs, last8) = match self.writer.as_mut() {
            Some(writer) => {
                let blocks = writer.inner_mut();
                (blocks.written, std::mem::take(&mut blocks.crcs), blocks.last8)
            }
            None => (0, Vec::new(), [0; 8]),
        };
        let [a, b, c, d, ..] = last8;
        let (min_time, max_time, max_received_at) = self.times.unwrap_or_default();
        let mut columns = std::collections::BTreeMap::new();
        for (at, field) in self.schema.fields().iter().enumerate() {
            let nulls = self.nulls[at];
            if nulls == self.rows {
                continue;
            }
            let mut stats = ColumnStats { min: None, max: None, nulls };
            if !self.has_nan[at] && is_flat(field.data_type()) {
                (stats.min, stats.max) = bounds(metadata, field.name());
            }
            columns.insert(field.name().clone(), stats);
        }
        FileEntry {
            id: FileId(0),
            tenant: self.target.tenant.clone(),
            stream: stream_name(&self.target.stream),
            partition: self.target.partition.to_owned(),
            path: std::mem::take(&mut self.relative),
            bytes,
            rows: self.rows,
            min_time: Timestamp(min_time),
            max_time: Timestamp(max_time),
            max_received_at: Timestamp(max_received_at),
            level: self.target.level,
            columns,
            promoted: std::mem::take(&mut self.promoted),
            block_crcs,
            footer_bytes: u64::from(u32::from_le_bytes([a, b, c, d])) + 8,
            created_at: self.target.now,
        }
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if self.aside_exists {
            discard(self.target.disk, &with_suffix(&self.path, ASIDE));
        }
    }
}

/// Removes a file nobody refers to. Failing is harmless: the next start removes it.
pub(crate) fn discard(disk: &Arc<dyn Disk>, path: &Path) {
    if let Err(error) = disk.remove(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "cannot remove an unfinished table file");
    }
}

/// The name of a stream as an identifier.
pub(crate) fn stream_name(stream: &StreamDef) -> StreamName {
    #[allow(clippy::expect_used, reason = "only streams with valid names are defined")]
    StreamName::new(&stream.name).expect("names of streams are valid")
}

/// Whether a column is one leaf whose values have an order.
fn is_flat(kind: &DataType) -> bool {
    !kind.is_nested()
}

/// The bounds of one column over all row groups; absent as soon as one row group does not know.
fn bounds(metadata: &ParquetMetaData, name: &str) -> (Option<Bound>, Option<Bound>) {
    let mut low: Option<Bound> = None;
    let mut high: Option<Bound> = None;
    for group in metadata.row_groups() {
        let path_is = |path: &ColumnPath| matches!(path.parts(), [only] if only == name);
        let Some(column) = group.columns().iter().find(|column| path_is(column.column_path())) else {
            return (None, None);
        };
        let Some(statistics) = column.statistics() else { return (None, None) };
        if statistics.null_count_opt().is_some_and(|nulls| i64::try_from(nulls) == Ok(group.num_rows())) {
            continue;
        }
        let (Some(group_low), Some(group_high)) = group_bounds(statistics) else { return (None, None) };
        low = Some(match low {
            Some(so_far) if !less(&group_low, &so_far) => so_far,
            _ => group_low,
        });
        high = Some(match high {
            Some(so_far) if !less(&so_far, &group_high) => so_far,
            _ => group_high,
        });
    }
    (low, high)
}

fn group_bounds(statistics: &Statistics) -> (Option<Bound>, Option<Bound>) {
    let text = |bytes: Option<&[u8]>| bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).map(str::to_owned);
    let finite = |value: Option<&f64>| value.copied().filter(|value| value.is_finite()).map(Bound::Float);
    match statistics {
        Statistics::Boolean(values) => {
            (values.min_opt().copied().map(Bound::Bool), values.max_opt().copied().map(Bound::Bool))
        }
        Statistics::Int32(values) => {
            let bound = |value: Option<&i32>| value.map(|value| Bound::Int(i64::from(*value)));
            (bound(values.min_opt()), bound(values.max_opt()))
        }
        Statistics::Int64(values) => {
            (values.min_opt().copied().map(Bound::Int), values.max_opt().copied().map(Bound::Int))
        }
        Statistics::Double(values) => (finite(values.min_opt()), finite(values.max_opt())),
        Statistics::ByteArray(values) => {
            (text(values.min_bytes_opt()).map(Bound::Text), text(values.max_bytes_opt()).map(Bound::Text))
        }
        _ => (None, None),
    }
}

fn less(left: &Bound, right: &Bound) -> bool {
    match (left, right) {
        (Bound::Bool(left), Bound::Bool(right)) => left < right,
        (Bound::Int(left), Bound::Int(right)) => left < right,
        (Bound::Float(left), Bound::Float(right)) => left.total_cmp(right).is_lt(),
        (Bound::Text(left), Bound::Text(right)) => left < right,
        _ => false,
    }
}

/// Whether the values of a column repeat often enough for a dictionary, going by a sample.
fn repeats(column: &ArrayRef) -> bool {
    let rows = column.len();
    let step = (rows / SAMPLE_ROWS).max(1);
    let mut distinct = hashbrown::HashSet::new();
    let mut valid = 0;
    let mut see = |hash: &[u8]| {
        valid += 1;
        distinct.insert(crc32c(hash));
    };
    for row in (0..rows).step_by(step).filter(|row| column.is_valid(*row)) {
        match column.data_type() {
            DataType::Int64 => {
                see(&column.as_primitive::<arrow::datatypes::Int64Type>().value(row).to_le_bytes());
            }
            DataType::Int32 => {
                see(&column.as_primitive::<arrow::datatypes::Int32Type>().value(row).to_le_bytes());
            }
            DataType::Float64 => see(&column.as_primitive::<Float64Type>().value(row).to_le_bytes()),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                see(&column.as_primitive::<TimestampNanosecondType>().value(row).to_le_bytes());
            }
            _ => return true,
        }
    }
    distinct.len() * 2 <= valid || valid < 16
}

/// Of zstd, everywhere: higher levels cost much and gain little on columns.
const COMPRESSION_LEVEL: i32 = 1;
/// False positives of Bloom filters. Their size is a power of two: a full row group of different ids
/// takes a byte a row at this rate and two bytes at 1 %.
const BLOOM_FALSE: f64 = 0.03;

/// Whether a column gets a Bloom filter.
fn has_bloom(target: &Target<'_>, promoted: &[PromotedKey], column: &str) -> bool {
    target.stream.bloom_columns.contains(&column) && !promoted.iter().any(|key| key.file_column == column)
}

fn group_options(target: &Target<'_>, schema: &SchemaRef, promoted: &[PromotedKey]) -> GroupOptions {
    let distinct_max = u64::try_from(target.row_group_rows_max).unwrap_or(0);
    let chunk = |field: &std::sync::Arc<arrow::datatypes::Field>| ChunkOptions {
        page_rows: PAGE_ROWS_MAX,
        compression_level: COMPRESSION_LEVEL,
        dictionary_bytes_max: DICTIONARY_BYTES_MAX,
        bloom: has_bloom(target, promoted, field.name()).then_some((distinct_max, BLOOM_FALSE)),
    };
    GroupOptions {
        rows_max: target.row_group_rows_max,
        bytes_max: target.row_group_bytes_max,
        chunks: schema.fields().iter().map(chunk).collect(),
    }
}

fn properties(
    target: &Target<'_>,
    coding: &Coding,
    promoted: &[PromotedKey],
    sample: &RecordBatch,
) -> WriterProperties {
    let schema = coding.plain();
    let mut builder = WriterProperties::builder()
        .set_created_by("weir".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(COMPRESSION_LEVEL).unwrap_or_default()))
        .set_max_row_group_row_count(Some(target.row_group_rows_max))
        .set_max_row_group_bytes(Some(target.row_group_bytes_max))
        .set_data_page_row_count_limit(PAGE_ROWS_MAX)
        .set_data_page_size_limit(PAGE_BYTES_MAX)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
        .set_statistics_enabled(EnabledStatistics::Page);
    let mut leaf = 0_i32;
    let mut sorting = Vec::new();
    for (at, field) in schema.fields().iter().enumerate() {
        let path = ColumnPath::new(vec![field.name().clone()]);
        if target.stream.sort.contains(&field.name().as_str()) {
            sorting.push((field.name().as_str(), leaf));
        }
        leaf += i32::try_from(leaves(field.data_type())).unwrap_or(i32::MAX);
        match field.data_type() {
            // Times that are new in every row are small differences where rows are sorted by them. Those
            // of requests (`received_at`) and coarse ones repeat, out of order: there a difference takes
            // four bytes, a place in a dictionary one.
            DataType::Timestamp(..) => {
                let has_dictionary = sample.columns().get(at).is_some_and(repeats);
                builder = builder
                    .set_column_dictionary_enabled(path.clone(), has_dictionary)
                    .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED);
            }
            // Numbered columns have a dictionary without the library's help; other texts do not repeat.
            // Their lengths stand apart from them: in between, four bytes a text, they cost zstd
            // three bytes a row of random digits.
            DataType::Utf8 => {
                builder = builder
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY);
            }
            kind if is_flat(kind) => {
                let column = sample.columns().get(at);
                if column.is_some_and(|column| !repeats(column)) {
                    builder = builder.set_column_dictionary_enabled(path.clone(), false);
                }
            }
            kind => {
                // Nothing prunes by what is inside a map or a list.
                for (inner, is_text) in leaf_paths(field.name(), kind) {
                    if is_text {
                        builder = builder.set_column_encoding(inner.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY);
                    }
                    builder = builder.set_column_statistics_enabled(inner, EnabledStatistics::None);
                }
            }
        }
        if has_bloom(target, promoted, field.name()) {
            // Set by column: a size for all columns would give all of them a filter.
            builder = builder
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_max_ndv(path.clone(), u64::try_from(target.row_group_rows_max).unwrap_or(0))
                .set_column_bloom_filter_fpp(path, BLOOM_FALSE);
        }
    }
    // In the order of significance, which need not be the order of the columns.
    let sorting: Vec<SortingColumn> = target
        .stream
        .sort
        .iter()
        .filter_map(|name| sorting.iter().find(|(column, _)| column == name))
        .map(|(_, leaf)| SortingColumn { column_idx: *leaf, descending: false, nulls_first: true })
        .collect();
    builder.set_sorting_columns(Some(sorting)).build()
}

/// The paths of the leaf columns of a nested type, and whether each is text.
fn leaf_paths(name: &str, kind: &DataType) -> Vec<(ColumnPath, bool)> {
    fn descend(prefix: &[String], kind: &DataType, out: &mut Vec<(ColumnPath, bool)>) {
        let extended = |more: &[&str]| {
            let mut path = prefix.to_vec();
            path.extend(more.iter().map(|part| (*part).to_owned()));
            path
        };
        match kind {
            DataType::Struct(fields) => {
                for field in fields {
                    descend(&extended(&[field.name()]), field.data_type(), out);
                }
            }
            // The names the Parquet library gives to the levels of lists and maps.
            DataType::List(field) | DataType::LargeList(field) => {
                descend(&extended(&["list", field.name()]), field.data_type(), out);
            }
            DataType::Map(field, _) => descend(&extended(&[field.name()]), field.data_type(), out),
            kind => out.push((ColumnPath::new(prefix.to_vec()), *kind == DataType::Utf8)),
        }
    }
    let mut out = Vec::new();
    descend(&[name.to_owned()], kind, &mut out);
    out
}
