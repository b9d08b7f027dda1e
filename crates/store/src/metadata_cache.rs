//! Parsed footers, kept under a byte budget: planning a query must not parse them again.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use parquet::file::metadata::ParquetMetaData;
use weir_meta::catalogue::FileId;

#[derive(Debug)]
struct Kept {
    metadata: Arc<ParquetMetaData>,
    bytes: u64,
    used: u64,
}

#[derive(Debug, Default)]
struct Inner {
    kept: HashMap<FileId, Kept>,
    bytes: u64,
    tick: u64,
}

/// The cache. The least recently used footers go first.
#[derive(Debug)]
pub(crate) struct MetadataCache {
    bytes_max: u64,
    inner: Mutex<Inner>,
}

impl MetadataCache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, inner: Mutex::default() }
    }

    pub(crate) fn find(&self, id: FileId) -> Option<Arc<ParquetMetaData>> {
        let mut inner = self.inner.lock();
        inner.tick += 1;
        let tick = inner.tick;
        let kept = inner.kept.get_mut(&id)?;
        kept.used = tick;
        Some(Arc::clone(&kept.metadata))
    }

    pub(crate) fn keep(&self, id: FileId, metadata: Arc<ParquetMetaData>) {
        let bytes = u64::try_from(metadata.memory_size()).unwrap_or(u64::MAX);
        if bytes > self.bytes_max / 2 {
            return;
        }
        let mut inner = self.inner.lock();
        inner.tick += 1;
        let used = inner.tick;
        if let Some(before) = inner.kept.insert(id, Kept { metadata, bytes, used }) {
            inner.bytes -= before.bytes;
        }
        inner.bytes += bytes;
        if inner.bytes > self.bytes_max {
            // A quarter is freed at once, so that the sort is paid for rarely.
            let mut by_use: Vec<(u64, FileId)> = inner.kept.iter().map(|(id, kept)| (kept.used, *id)).collect();
            by_use.sort_unstable();
            for (_, id) in by_use {
                if inner.bytes <= self.bytes_max / 4 * 3 {
                    break;
                }
                if let Some(gone) = inner.kept.remove(&id) {
                    inner.bytes -= gone.bytes;
                }
            }
        }
    }

    pub(crate) fn forget(&self, id: FileId) {
        let mut inner = self.inner.lock();
        if let Some(gone) = inner.kept.remove(&id) {
            inner.bytes -= gone.bytes;
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.inner.lock().bytes
    }
}
