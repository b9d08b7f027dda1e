//! One table file: verified reads, its parsed footer, and its end.
//!
//! Invariant: no byte of a file is used before the CRC32C of its 64 KiB block, kept by the
//! catalogue, has been compared. There is no mmap: bytes that change after they were checked, and
//! signals for I/O errors, are not an option.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::error::ArrowError;
use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::reader::{ChunkReader, Length};
use weir_base::crc::crc32c;
use weir_base::disk::{Disk, DiskFile};
use weir_meta::catalogue::{CRC_BLOCK_BYTES, FileEntry};

use crate::StoreError;
use crate::metadata_cache::MetadataCache;

const BLOCK: u64 = CRC_BLOCK_BYTES as u64;
/// Ranges no further apart than this are read in one go.
const GAP_BYTES: u64 = 2 * BLOCK;
/// No single read is larger than this, so that a buffer is never a surprise.
const READ_BYTES_MAX: u64 = 32 << 20;

/// What all files of a store share.
#[derive(Debug)]
pub(crate) struct FileContext {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) metadata: MetadataCache,
    /// Files to unlink: no table names them and no snapshot pins them. Bounded by the files that
    /// were replaced; emptied by the background worker.
    pub(crate) unlink: Mutex<Vec<PathBuf>>,
}

/// A Parquet file of a table. As long as anyone holds it, its bytes stay on the disk.
#[derive(Debug)]
pub struct TableFile {
    /// What the catalogue knows of it.
    pub entry: FileEntry,
    context: Arc<FileContext>,
    path: PathBuf,
    obsolete: AtomicBool,
    /// The first damage a read has found.
    damage: OnceLock<(u64, String)>,
}

impl Drop for TableFile {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.context.metadata.forget(self.entry.id);
            self.context.unlink.lock().push(std::mem::take(&mut self.path));
        }
    }
}

impl TableFile {
    pub(crate) fn new(entry: FileEntry, context: Arc<FileContext>) -> Self {
        let path = context.dir.join(&entry.path);
        Self { entry, context, path, obsolete: AtomicBool::new(false), damage: OnceLock::new() }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has the file unlinked once nobody holds it. Called after the catalogue has forgotten it.
    pub(crate) fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// The damage a read has found, if any: an error that names the file and the offset. Errors of
    /// the Parquet library that passed through Arrow keep only a text; this does not.
    pub fn damage(&self) -> Option<StoreError> {
        let (offset, what) = self.damage.get()?;
        Some(StoreError::Corrupt { file: self.path.clone(), offset: *offset, what: what.clone() })
    }

    fn corrupt(&self, offset: u64, what: &str) -> StoreError {
        if self.damage.set((offset, what.to_owned())).is_ok() {
            tracing::error!(file = %self.path.display(), offset, what, "table file is damaged");
        }
        StoreError::Corrupt { file: self.path.clone(), offset, what: what.to_owned() }
    }

    fn open(&self) -> Result<Arc<dyn DiskFile>, StoreError> {
        match self.context.disk.open_read(&self.path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.corrupt(0, "the file is missing")),
            Err(source) => Err(StoreError::Io { attempt: "open", path: self.path.clone(), source }),
        }
    }

    /// Reads whole blocks and compares their checksums.
    fn read_verified(&self, file: &dyn DiskFile, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.start > range.end || range.end > self.entry.bytes {
            return Err(self.corrupt(range.end, "a range beyond the end of the file was asked for"));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let first = range.start / BLOCK;
        let begin = first * BLOCK;
        let end = range.end.next_multiple_of(BLOCK).min(self.entry.bytes);
        let len = usize::try_from(end - begin).unwrap_or(usize::MAX);
        let mut buffer = vec![0; len];
        match file.read_exact_at(&mut buffer, begin) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let offset = file.len().unwrap_or(begin);
                return Err(self.corrupt(offset, "the file ends too early"));
            }
            Err(source) => return Err(StoreError::Io { attempt: "read", path: self.path.clone(), source }),
        }
        for (at, block) in (first..).zip(buffer.chunks(CRC_BLOCK_BYTES)) {
            let expected = usize::try_from(at).ok().and_then(|at| self.entry.block_crcs.get(at));
            if expected != Some(&crc32c(block)) {
                return Err(self.corrupt(at * BLOCK, "the checksum of the 64 KiB block does not match"));
            }
        }
        let skip = usize::try_from(range.start - begin).unwrap_or(usize::MAX);
        let take = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        Ok(Bytes::from(buffer).slice(skip..skip + take))
    }

    /// Reads several ranges; those that share blocks, or nearly, share one read.
    pub(crate) fn read_ranges(&self, file: &dyn DiskFile, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        if let Some(range) = ranges.iter().find(|range| range.start > range.end) {
            return Err(self.corrupt(range.start, "a range that ends before it begins was asked for"));
        }
        let mut order: Vec<usize> = (0..ranges.len()).collect();
        order.sort_unstable_by_key(|at| ranges[*at].start);
        let mut out = vec![Bytes::new(); ranges.len()];
        let mut group: Vec<usize> = Vec::new();
        let mut span: Range<u64> = 0..0;
        for at in order {
            let range = &ranges[at];
            let joins = !group.is_empty()
                && range.start <= span.end.saturating_add(GAP_BYTES)
                && range.end.max(span.end).saturating_sub(span.start) <= READ_BYTES_MAX;
            if joins {
                span.end = span.end.max(range.end);
            } else {
                self.read_group(file, ranges, &group, &span, &mut out)?;
                group.clear();
                span = range.clone();
            }
            group.push(at);
        }
        self.read_group(file, ranges, &group, &span, &mut out)?;
        Ok(out)
    }

    fn read_group(
        &self,
        file: &dyn DiskFile,
        ranges: &[Range<u64>],
        group: &[usize],
        span: &Range<u64>,
        out: &mut [Bytes],
    ) -> Result<(), StoreError> {
        if group.is_empty() {
            return Ok(());
        }
        let bytes = self.read_verified(file, span.clone())?;
        for at in group {
            let range = &ranges[*at];
            let start = usize::try_from(range.start - span.start).unwrap_or(usize::MAX);
            let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
            out[*at] = bytes.slice(start..start + len);
        }
        Ok(())
    }

    /// The parsed footer with page index, from the cache or from the disk.
    pub fn metadata(self: &Arc<Self>) -> Result<Arc<ParquetMetaData>, StoreError> {
        if let Some(metadata) = self.context.metadata.find(self.entry.id) {
            return Ok(metadata);
        }
        let blocks = FileBlocks::new(Arc::clone(self));
        let metadata = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .parse_and_finish(&blocks)
            .and_then(|metadata| without_wrong_bounds(metadata, &self.entry))
            .map_err(|error| StoreError::parquet("read the footer of", &self.path, error))?;
        let metadata = Arc::new(metadata);
        self.context.metadata.keep(self.entry.id, Arc::clone(&metadata));
        Ok(metadata)
    }

    /// A reader for the Parquet library's asynchronous decoder.
    pub fn reader(self: &Arc<Self>) -> TableFileReader {
        TableFileReader { blocks: FileBlocks::new(Arc::clone(self)) }
    }

    /// A reader for the Parquet library's synchronous decoder.
    pub(crate) fn blocks(self: &Arc<Self>) -> FileBlocks {
        FileBlocks::new(Arc::clone(self))
    }
}

/// The metadata without the bounds of columns in which there is a NaN: Parquet leaves it out of them, and for queries it is
/// greater than every other number. The catalogue knows no bounds of such columns.
fn without_wrong_bounds(metadata: ParquetMetaData, entry: &FileEntry) -> parquet::errors::Result<ParquetMetaData> {
    let descriptor = metadata.file_metadata().schema_descr_ptr();
    let has_nan = |at: &usize| {
        let column = descriptor.column(*at);
        let stats = entry.columns.get(column.path().string().as_str());
        column.physical_type() == PhysicalType::DOUBLE && stats.is_some_and(|stats| stats.max.is_none())
    };
    let columns: Vec<usize> = (0..descriptor.num_columns()).filter(has_nan).collect();
    if columns.is_empty() {
        return Ok(metadata);
    }
    let mut builder = metadata.into_builder();
    let mut row_groups = builder.take_row_groups();
    for row_group in &mut row_groups {
        for at in &columns {
            let column = &mut row_group.columns_mut()[*at];
            *column = column.clone().into_builder().clear_statistics().build()?;
        }
    }
    let mut index = builder.take_column_index();
    for of_row_group in index.iter_mut().flatten() {
        for at in &columns {
            if let Some(index) = of_row_group.get_mut(*at) {
                *index = ColumnIndexMetaData::NONE;
            }
        }
    }
    Ok(builder.set_row_groups(row_groups).set_column_index(index).build())
}

/// A file that is opened at the first read; clones share the handle.
#[derive(Clone, Debug)]
pub(crate) struct FileBlocks {
    file: Arc<TableFile>,
    handle: Arc<OnceLock<Arc<dyn DiskFile>>>,
    /// Why the last read failed: on its way through Arrow an error becomes a text.
    failure: Arc<Mutex<Option<StoreError>>>,
}

impl FileBlocks {
    fn new(file: Arc<TableFile>) -> Self {
        Self { file, handle: Arc::default(), failure: Arc::default() }
    }

    fn handle(&self) -> Result<&Arc<dyn DiskFile>, StoreError> {
        if let Some(handle) = self.handle.get() {
            return Ok(handle);
        }
        let opened = self.file.open()?;
        Ok(self.handle.get_or_init(|| opened))
    }

    fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        self.file.read_ranges(self.handle()?.as_ref(), ranges)
    }

    fn read_one(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let result = self.handle().and_then(|handle| self.file.read_verified(handle.as_ref(), range));
        if let Err(error) = &result {
            *self.failure.lock() = Some(error.again());
        }
        result
    }

    /// What an error of the decoder really was.
    pub(crate) fn failure(&self, error: ArrowError) -> StoreError {
        let path = self.file.path.clone();
        let failure = self.failure.lock().take();
        failure.unwrap_or_else(|| StoreError::Parquet { attempt: "read", path, source: error.into() })
    }
}

fn external(error: StoreError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl Length for FileBlocks {
    fn len(&self) -> u64 {
        self.file.entry.bytes
    }
}

impl ChunkReader for FileBlocks {
    type T = BlockStream;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BlockStream { blocks: self.clone(), at: start, buffer: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let end = start.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        self.read_one(start..end).map_err(external)
    }
}

/// Reads a file onwards from one place, a block at a time.
#[derive(Debug)]
pub(crate) struct BlockStream {
    blocks: FileBlocks,
    at: u64,
    buffer: Bytes,
}

impl io::Read for BlockStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            let end = (self.at + 1).next_multiple_of(BLOCK).min(self.blocks.len());
            if self.at >= end {
                return Ok(0);
            }
            self.buffer = self.blocks.read_one(self.at..end).map_err(io::Error::other)?;
            self.at = end;
        }
        let len = out.len().min(self.buffer.len());
        self.buffer.copy_to_slice(&mut out[..len]);
        Ok(len)
    }
}

/// Serves verified ranges of one file to the Parquet library. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TableFileReader {
    blocks: FileBlocks,
}

impl TableFileReader {
    /// The file it reads.
    pub fn file(&self) -> &Arc<TableFile> {
        &self.blocks.file
    }

    /// Runs blocking work off the runtime's threads where there is a runtime.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FileBlocks) -> Result<T, StoreError> + Send + 'static,
    ) -> parquet::errors::Result<T> {
        let blocks = self.blocks.clone();
        let result = match tokio::runtime::Handle::try_current() {
            Ok(runtime) => match runtime.spawn_blocking(move || work(&blocks)).await {
                Ok(result) => result,
                Err(_stopped) => Err(StoreError::Stopped),
            },
            Err(_no_runtime) => work(&blocks),
        };
        result.map_err(external)
    }
}

impl AsyncFileReader for TableFileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.blocking(move |blocks| blocks.read_one(range)).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        self.blocking(move |blocks| blocks.read(&ranges)).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        // A hit costs no task.
        match self.blocks.file.context.metadata.find(self.blocks.file.entry.id) {
            Some(metadata) => std::future::ready(Ok(metadata)).boxed(),
            None => self.blocking(|blocks| blocks.file.metadata()).boxed(),
        }
    }
}
