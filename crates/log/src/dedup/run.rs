//! A run: sorted 128-bit hashes on disk, written once.
//!
//! ```text
//!    0  8  magic "WEIRIDS1"
//!    8  8  log id
//!   16  2  shard
//!   18  2  level: how often it was merged
//!   20  4  bytes of the filter
//!   24  8  number of keys
//!   32  8  first log time, nanoseconds since 1970
//!   40  8  last log time
//!   48  4  checksum of the filter
//!   52  4  checksum of the fences
//!   56  4  checksum of bytes 0..56
//! 4096     blocks of 4096 bytes: up to 255 keys (16 each, ascending), zeros,
//!          number of keys (4), 8 zero bytes, checksum of the block, then of its number (4)
//!          then the filter, then the fences: the high 8 bytes of the first key of each block
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_base::crc::{crc32c, crc32c_append};
use weir_base::disk::{Disk, DiskFile, with_suffix};

use super::filter::Filter;
use crate::format::Cursor;

const MAGIC: [u8; 8] = *b"WEIRIDS1";
const BLOCK: usize = 4096;
const KEYS: usize = 255;

/// What a run covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunInfo {
    pub(crate) log_id: u64,
    pub(crate) shard: u16,
    pub(crate) level: u16,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
}

/// An open run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) info: RunInfo,
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) keys: u64,
    file: Arc<dyn DiskFile>,
    filter: Option<Filter>,
    fences: Vec<u64>,
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The path of a run.
pub(crate) fn run_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.ids"))
}

/// The number in a run's file name.
pub(crate) fn run_number(name: &str) -> Option<u64> {
    name.strip_suffix(".ids").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// Writes a run block by block.
struct Writer {
    file: Arc<dyn DiskFile>,
    at: u64,
    buffer: Vec<u8>,
    block: Vec<u8>,
    n_block: u32,
    keys: u64,
    filter: Filter,
    fences: Vec<u64>,
}

impl Writer {
    const BUFFER: usize = 1 << 20;

    fn new(file: Arc<dyn DiskFile>, keys_max: u64) -> Self {
        Self {
            file,
            at: BLOCK as u64,
            buffer: Vec::new(),
            block: Vec::with_capacity(BLOCK),
            n_block: 0,
            keys: 0,
            filter: Filter::new(keys_max),
            fences: Vec::new(),
        }
    }

    fn push(&mut self, key: u128) -> io::Result<()> {
        if self.block.is_empty() {
            self.fences.push((key >> 64) as u64);
        }
        self.block.extend_from_slice(&key.to_le_bytes());
        self.filter.insert(key);
        self.keys += 1;
        if self.block.len() == KEYS * 16 { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let keys = (self.block.len() / 16) as u32;
        self.block.resize(KEYS * 16, 0);
        self.block.extend_from_slice(&keys.to_le_bytes());
        self.block.extend_from_slice(&[0; 8]);
        let crc = crc32c_append(crc32c(&self.block), &self.n_block.to_le_bytes());
        self.block.extend_from_slice(&crc.to_le_bytes());
        self.n_block += 1;
        self.buffer.append(&mut self.block);
        if self.buffer.len() >= Self::BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, info: &RunInfo) -> io::Result<(u64, Filter, Vec<u64>)> {
        self.end_block()?;
        let filter = self.filter.to_bytes();
        let fences: Vec<u8> = self.fences.iter().flat_map(|fence| fence.to_le_bytes()).collect();
        self.buffer.extend_from_slice(&filter);
        self.buffer.extend_from_slice(&fences);
        self.flush()?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&info.log_id.to_le_bytes());
        header.extend_from_slice(&info.shard.to_le_bytes());
        header.extend_from_slice(&info.level.to_le_bytes());
        header.extend_from_slice(&(filter.len() as u32).to_le_bytes());
        header.extend_from_slice(&self.keys.to_le_bytes());
        header.extend_from_slice(&info.min_time.to_le_bytes());
        header.extend_from_slice(&info.max_time.to_le_bytes());
        header.extend_from_slice(&crc32c(&filter).to_le_bytes());
        header.extend_from_slice(&crc32c(&fences).to_le_bytes());
        let crc = crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        header.resize(BLOCK, 0);
        self.file.write_all_at(&header, 0)?;
        self.file.sync_all()?;
        Ok((self.keys, self.filter, self.fences))
    }
}

impl Run {
    /// Writes keys that are sorted and without repeats.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, number: u64, info: RunInfo, keys: &[u128]) -> io::Result<Self> {
        Self::write(disk, dir, number, info, keys.len() as u64, |writer| {
            keys.iter().try_for_each(|key| writer.push(*key))
        })
    }

    /// Merges runs into one. Fails if one of them is damaged.
    pub(crate) fn merge(disk: &dyn Disk, dir: &Path, number: u64, runs: &[Arc<Run>]) -> io::Result<Self> {
        let first = runs.first().ok_or_else(|| malformed("nothing to merge"))?;
        let info = RunInfo {
            level: runs.iter().map(|run| run.info.level).max().unwrap_or(0).saturating_add(1),
            min_time: runs.iter().map(|run| run.info.min_time).min().unwrap_or(0),
            max_time: runs.iter().map(|run| run.info.max_time).max().unwrap_or(0),
            ..first.info
        };
        let keys_max = runs.iter().map(|run| run.keys).sum();
        Self::write(disk, dir, number, info, keys_max, |writer| {
            let mut readers =
                runs.iter().map(|run| Reader { run, block: 0, keys: Vec::new(), at: 0 }).collect::<Vec<_>>();
            let mut heap = BinaryHeap::new();
            for (number, reader) in readers.iter_mut().enumerate() {
                if let Some(key) = reader.next()? {
                    heap.push(Reverse((key, number)));
                }
            }
            let mut last = None;
            while let Some(Reverse((key, number))) = heap.pop() {
                if last != Some(key) {
                    writer.push(key)?;
                    last = Some(key);
                }
                if let Some(key) = readers[number].next()? {
                    heap.push(Reverse((key, number)));
                }
            }
            Ok(())
        })
    }

    fn write(
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        info: RunInfo,
        keys_max: u64,
        fill: impl FnOnce(&mut Writer) -> io::Result<()>,
    ) -> io::Result<Self> {
        let path = run_path(dir, number);
        let aside = with_suffix(&path, ".tmp");
        let write = || {
            match disk.remove(&aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = disk.create(&aside)?;
            let mut writer = Writer::new(Arc::clone(&file), keys_max);
            fill(&mut writer)?;
            let (keys, filter, fences) = writer.finish(&info)?;
            disk.rename(&aside, &path)?;
            disk.sync_dir(dir)?;
            Ok(Self { info, number, path: path.clone(), keys, file, filter: Some(filter), fences })
        };
        let made = write();
        if made.is_err() {
            // Best effort: what stays is removed by the next open.
            let _ = disk.remove(&aside);
        }
        made
    }

    /// Opens a run; its filter is loaded if it has at most `filter_bytes_max` bytes.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, number: u64, filter_bytes_max: usize) -> io::Result<Self> {
        let path = run_path(dir, number);
        let file = disk.open_read(&path)?;
        let len = file.len()?;
        let mut header = [0; 60];
        if len < BLOCK as u64 {
            return Err(malformed("a run of ids ends too early"));
        }
        file.read_exact_at(&mut header, 0)?;
        let early = |_| malformed("a run of ids ends too early");
        let mut cursor = Cursor(&header);
        if cursor.take(8).map_err(early)? != MAGIC {
            return Err(malformed("not a run of ids"));
        }
        let log_id = cursor.u64().map_err(early)?;
        let shard = cursor.u16().map_err(early)?;
        let level = cursor.u16().map_err(early)?;
        let filter_len = cursor.u32().map_err(early)?;
        let keys = cursor.u64().map_err(early)?;
        let min_time = cursor.i64().map_err(early)?;
        let max_time = cursor.i64().map_err(early)?;
        let filter_crc = cursor.u32().map_err(early)?;
        let fences_crc = cursor.u32().map_err(early)?;
        if cursor.u32().map_err(early)? != crc32c(&header[..56]) {
            return Err(malformed("the checksum of the header of a run of ids does not match"));
        }
        let n_blocks = keys.div_ceil(KEYS as u64);
        if n_blocks > len / BLOCK as u64 {
            return Err(malformed("a run of ids has the wrong length"));
        }
        let filter_at = BLOCK as u64 * (1 + n_blocks);
        let fences_at = filter_at + u64::from(filter_len);
        if fences_at.checked_add(n_blocks * 8) != Some(len) {
            return Err(malformed("a run of ids has the wrong length"));
        }
        let mut fence_bytes = vec![0; n_blocks as usize * 8];
        file.read_exact_at(&mut fence_bytes, fences_at)?;
        if crc32c(&fence_bytes) != fences_crc {
            return Err(malformed("the checksum of the fences of a run of ids does not match"));
        }
        let fences = fence_bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let mut filter = None;
        if filter_len as usize <= filter_bytes_max {
            let mut bytes = vec![0; filter_len as usize];
            file.read_exact_at(&mut bytes, filter_at)?;
            if crc32c(&bytes) != filter_crc {
                return Err(malformed("the checksum of the filter of a run of ids does not match"));
            }
            filter = Filter::from_bytes(&bytes);
        }
        let info = RunInfo { log_id, shard, level, min_time, max_time };
        Ok(Self { info, number, path, keys, file, filter, fences })
    }

    fn block(&self, number: usize) -> io::Result<Vec<u128>> {
        let mut bytes = [0; BLOCK];
        self.file.read_exact_at(&mut bytes, (BLOCK * (1 + number)) as u64)?;
        let (body, crc) = bytes.split_at(BLOCK - 4);
        if crc32c_append(crc32c(body), &(number as u32).to_le_bytes()).to_le_bytes() != crc {
            return Err(malformed("the checksum of a block of ids does not match"));
        }
        let keys = u32::from_le_bytes([body[KEYS * 16], body[KEYS * 16 + 1], body[KEYS * 16 + 2], body[KEYS * 16 + 3]]);
        let keys = (keys as usize).min(KEYS);
        Ok(body.as_chunks::<16>().0[..keys].iter().map(|bytes| u128::from_le_bytes(*bytes)).collect())
    }

    /// Whether the key is in the run.
    pub(crate) fn contains(&self, key: u128) -> io::Result<bool> {
        if self.filter.as_ref().is_some_and(|filter| !filter.may_contain(key)) {
            return Ok(false);
        }
        let high = (key >> 64) as u64;
        let after = self.fences.partition_point(|fence| *fence <= high);
        // Keys with equal high halves may stand on both sides of a border between blocks.
        let from = self.fences.partition_point(|fence| *fence < high).saturating_sub(1);
        for number in from..after {
            if self.block(number)?.binary_search(&key).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes of memory its filter takes.
    pub(crate) fn filter_bytes(&self) -> usize {
        self.filter.as_ref().map_or(0, Filter::len_bytes)
    }

    /// The same run without its filter in memory.
    pub(crate) fn without_filter(&self) -> Self {
        Self {
            info: self.info,
            number: self.number,
            path: self.path.clone(),
            keys: self.keys,
            file: Arc::clone(&self.file),
            filter: None,
            fences: self.fences.clone(),
        }
    }

    /// Reads and checks every block.
    pub(crate) fn verify(&self) -> Result<(), (u64, io::Error)> {
        let mut keys = 0;
        for number in 0..self.fences.len() {
            let at = (BLOCK * (1 + number)) as u64;
            keys += self.block(number).map_err(|error| (at, error))?.len() as u64;
        }
        if keys == self.keys { Ok(()) } else { Err((0, malformed("a run of ids has another number of keys"))) }
    }
}

struct Reader<'a> {
    run: &'a Run,
    block: usize,
    keys: Vec<u128>,
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> io::Result<Option<u128>> {
        while self.at == self.keys.len() {
            if self.block == self.run.fences.len() {
                return Ok(None);
            }
            self.keys = self.run.block(self.block)?;
            self.block += 1;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.keys.get(self.at - 1).copied())
    }
}
