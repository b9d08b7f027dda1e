//! What the fuzz target calls: a table file with any damage, read in any ranges, also when the
//! catalogue says something else of it. Built for fuzzing and for the test that replays the corpus,
//! and in no program.
//!
//! The Parquet decoder is not fuzzed: it is given nothing but bytes that were compared with their
//! checksums, and that is what is tested here.
#![allow(clippy::unwrap_used, reason = "a failed step is a finding")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use parquet::file::reader::ChunkReader;
use weir_base::crc::crc32c;
use weir_base::disk::Disk;
use weir_base::{StreamName, TenantId, Timestamp};
use weir_meta::catalogue::{CRC_BLOCK_BYTES, FileEntry, FileId};

use crate::StoreError;
use crate::file::{FileContext, TableFile};
use crate::metadata_cache::MetadataCache;

const LEN: usize = 3 * CRC_BLOCK_BYTES + 1000;
const RANGES_MAX: usize = 8;

/// A file of four blocks, and what is in it.
pub struct Blocks {
    context: Arc<FileContext>,
    entry: FileEntry,
    good: Vec<u8>,
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Up to a little past the end of the file.
    fn place(&mut self) -> usize {
        let number = u32::from_le_bytes([self.byte(), self.byte(), self.byte(), 0]) as usize;
        number % (LEN + 100)
    }
}

impl Blocks {
    /// A file on that disk.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        let dir = PathBuf::from("/tables");
        disk.create_dir_all(&dir).unwrap();
        let path = "file".to_owned();
        disk.create(&dir.join(&path)).unwrap();
        let good: Vec<u8> = (0..LEN as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let entry = FileEntry {
            id: FileId(1),
            tenant: TenantId::new("acme").unwrap(),
            stream: StreamName::new("logs").unwrap(),
            partition: "2026-11-21".to_owned(),
            path,
            bytes: LEN as u64,
            rows: 1,
            min_time: Timestamp(0),
            max_time: Timestamp(0),
            max_received_at: Timestamp(0),
            level: 0,
            columns: BTreeMap::new(),
            promoted: Vec::new(),
            block_crcs: good.chunks(CRC_BLOCK_BYTES).map(crc32c).collect(),
            footer_bytes: 100,
            created_at: Timestamp(0),
        };
        let metadata = MetadataCache::new(1 << 20);
        let context = FileContext { disk, dir, metadata, unlink: Mutex::default() };
        Self { context: Arc::new(context), entry, good }
    }

    /// Damages file and entry, and reads. A byte with the number of changed bytes (three for the
    /// place, one for what is changed), a byte that says what else is wrong with its argument, then
    /// ranges: two places each.
    pub fn run(&self, input: &[u8]) {
        let mut input = Input(input);
        let mut bytes = self.good.clone();
        let mut entry = self.entry.clone();
        for _ in 0..input.byte() % 8 {
            let at = input.place() % LEN;
            bytes[at] ^= input.byte();
        }
        let what = input.byte();
        let place = input.place();
        match what % 8 {
            1 => bytes.truncate(place),
            2 => bytes.resize(bytes.len() + place % 5000, 0xa5),
            3 => entry.bytes = place as u64,
            4 => entry.block_crcs.truncate(place % 5),
            5 => entry.block_crcs.push(place as u32),
            6 => entry.bytes = u64::MAX - place as u64,
            _ => {}
        }
        let path = self.context.dir.join(&entry.path);
        let disk_file = self.context.disk.open(&path).unwrap();
        disk_file.set_len(0).unwrap();
        disk_file.write_all_at(&bytes, 0).unwrap();
        // A simulated disk keeps what is not synced.
        disk_file.sync_all().unwrap();
        let is_whole = bytes == self.good && entry == self.entry;
        let file = Arc::new(TableFile::new(entry, Arc::clone(&self.context)));

        let mut ranges = Vec::new();
        while !input.0.is_empty() && ranges.len() < RANGES_MAX {
            ranges.push(input.place() as u64..input.place() as u64);
        }
        for range in &ranges {
            let blocks = file.blocks();
            let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap();
            match blocks.get_bytes(range.start, len) {
                Ok(found) => self.check(range.start, &found, len),
                Err(_) => {
                    assert!(!is_whole || range.end.max(range.start) > LEN as u64, "a good file is refused: {range:?}")
                }
            }
            let mut found = Vec::new();
            if let Ok(stream) = blocks.get_read(range.start)
                && stream.take(len as u64).read_to_end(&mut found).is_ok()
            {
                self.check(range.start, &found, found.len());
            }
        }
        let handle = self.context.disk.open_read(&path).unwrap();
        match file.read_ranges(handle.as_ref(), &ranges) {
            Ok(parts) => {
                for (range, part) in ranges.iter().zip(parts) {
                    self.check(range.start, &part, usize::try_from(range.end - range.start).unwrap());
                }
            }
            Err(StoreError::Corrupt { file: named, .. }) => assert_eq!(named, path),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn check(&self, start: u64, found: &[u8], len: usize) {
        let start = usize::try_from(start).unwrap();
        assert_eq!(found.len(), len);
        assert!(len == 0 || self.good.get(start..start + len) == Some(found), "wrong bytes at {start}");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use weir_testkit::sim_disk::SimDisk;

    use super::*;

    #[test]
    fn table_file_corpus() {
        let blocks = Blocks::new(SimDisk::new());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/table_file");
        let mut n_inputs = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            let done = catch_unwind(AssertUnwindSafe(|| blocks.run(&input)));
            assert!(done.is_ok(), "{}", path.display());
            n_inputs += 1;
        }
        assert!(n_inputs > 0, "table_file has no corpus");
    }
}
