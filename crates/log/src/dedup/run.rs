//! A run: sorted 128-bit hashes on disk, written once.
//!
//! ```text
//!    0  8  magic "WEIRIDS2"
//!    8  8  log id
//!   16  2  shard
//!   18  2  level: how often it was merged
//!   20  4  blocks of the filter
//!   24  8  number of keys
//!   32  8  first log time, nanoseconds since 1970
//!   40  8  last log time
//!   48  4  checksum of the fences
//!   52  4  checksum of bytes 0..52
//! 4096     the sectors of the filter, then zeros up to a multiple of 4096
//!          blocks of 4096 bytes: up to 255 keys (16 each, ascending), zeros,
//!          number of keys (4), 8 zero bytes, checksum of the block, then of its number (4)
//!          then the fences: the high 8 bytes of the first key of every 16th block
//! ```
//!
//! A look costs a miss of the cache where the filter is in memory, and one read of 512 bytes where it is not. In memory are
//! always the fences, two bytes for a thousand keys. Filters are loaded by whoever has an overview of all runs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weir_base::crc::{crc32c, crc32c_append};
use weir_base::disk::{Disk, DiskFile, with_suffix};

use super::filter::{
    Filter, SECTOR, SectorWriter, blocks_for, memory_of, sector_is_whole, sector_may_contain, sector_of, sectors_of,
};
use crate::format::Cursor;

const MAGIC: [u8; 8] = *b"WEIRIDS2";
const BLOCK: usize = 4096;
const KEYS: usize = 255;
/// Blocks between two fences.
const FENCED: usize = 16;
/// Keys are written in pieces of so many bytes, ...
const BUFFER: usize = 1 << 20;
/// ... and made durable every so many, so that the disk is not busy with one large file when others wait for it.
const SYNC_BYTES: u64 = 16 << 20;
/// Merging looks up after so many keys.
const KEYS_BETWEEN: u64 = 64 * 1024;

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
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) info: RunInfo,
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) keys: u64,
    file: Arc<dyn DiskFile>,
    /// Blocks of the filter.
    filter_blocks: u32,
    /// The filter, while it is in memory.
    filter: Option<Arc<Filter>>,
    /// A part of the filter cannot be read, or is damaged: keys are looked for without it until the run is merged.
    filter_is_damaged: Arc<AtomicBool>,
    fences: Arc<[u64]>,
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

/// Where the keys begin.
fn keys_at(filter_blocks: u32) -> u64 {
    BLOCK as u64 + (sectors_of(filter_blocks) * SECTOR as u64).next_multiple_of(BLOCK as u64)
}

/// Writes a run block by block.
struct Writer {
    file: Arc<dyn DiskFile>,
    at: u64,
    filter_at: u64,
    unsynced: u64,
    buffer: Vec<u8>,
    block: Vec<u8>,
    n_block: u32,
    keys: u64,
    filter_blocks: u32,
    filter: SectorWriter,
    fences: Vec<u64>,
}

impl Writer {
    fn new(file: Arc<dyn DiskFile>, keys_max: u64) -> Self {
        let filter_blocks = blocks_for(keys_max);
        Self {
            file,
            at: keys_at(filter_blocks),
            filter_at: BLOCK as u64,
            unsynced: 0,
            buffer: Vec::new(),
            block: Vec::with_capacity(BLOCK),
            n_block: 0,
            keys: 0,
            filter_blocks,
            filter: SectorWriter::new(filter_blocks),
            fences: Vec::new(),
        }
    }

    fn push(&mut self, key: u128) -> io::Result<()> {
        if self.block.is_empty() && (self.n_block as usize).is_multiple_of(FENCED) {
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
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        for (bytes, at) in [(&mut self.buffer, &mut self.at), (&mut self.filter.out, &mut self.filter_at)] {
            self.file.write_all_at(bytes, *at)?;
            *at += bytes.len() as u64;
            self.unsynced += bytes.len() as u64;
            bytes.clear();
        }
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn finish(mut self, info: &RunInfo) -> io::Result<(u64, u32, Arc<[u64]>)> {
        self.end_block()?;
        self.filter.finish();
        let filter_end = self.filter_at + self.filter.out.len() as u64;
        self.filter.out.resize(self.filter.out.len() + (keys_at(self.filter_blocks) - filter_end) as usize, 0);
        let fences: Vec<u8> = self.fences.iter().flat_map(|fence| fence.to_le_bytes()).collect();
        self.buffer.extend_from_slice(&fences);
        self.flush()?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&info.log_id.to_le_bytes());
        header.extend_from_slice(&info.shard.to_le_bytes());
        header.extend_from_slice(&info.level.to_le_bytes());
        header.extend_from_slice(&self.filter_blocks.to_le_bytes());
        header.extend_from_slice(&self.keys.to_le_bytes());
        header.extend_from_slice(&info.min_time.to_le_bytes());
        header.extend_from_slice(&info.max_time.to_le_bytes());
        header.extend_from_slice(&crc32c(&fences).to_le_bytes());
        let crc = crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        header.resize(BLOCK, 0);
        self.file.write_all_at(&header, 0)?;
        self.file.sync_all()?;
        Ok((self.keys, self.filter_blocks, self.fences.into()))
    }
}

impl Run {
    /// Writes keys that are sorted and without repeats.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, number: u64, info: RunInfo, keys: &[u128]) -> io::Result<Self> {
        Self::write(disk, dir, number, info, keys.len() as u64, |writer| {
            keys.iter().try_for_each(|key| writer.push(*key))
        })
    }

    /// Merges runs into one. Fails if one of them is damaged. It may take long: `between` is called now and then, for
    /// what cannot wait, and says whether to go on.
    pub(crate) fn merge(
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        runs: &[Arc<Run>],
        between: &mut dyn FnMut() -> bool,
    ) -> io::Result<Self> {
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
            let (mut last, mut n_keys) = (None, 0_u64);
            while let Some(Reverse((key, number))) = heap.pop() {
                if last != Some(key) {
                    writer.push(key)?;
                    last = Some(key);
                }
                n_keys += 1;
                if n_keys.is_multiple_of(KEYS_BETWEEN) && !between() {
                    return Err(io::Error::new(io::ErrorKind::Interrupted, "merging was given up for now"));
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
            let (keys, filter_blocks, fences) = writer.finish(&info)?;
            disk.rename(&aside, &path)?;
            disk.sync_dir(dir)?;
            let filter_is_damaged = Arc::default();
            Ok(Self {
                info,
                number,
                path: path.clone(),
                keys,
                file,
                filter_blocks,
                filter: None,
                filter_is_damaged,
                fences,
            })
        };
        let made = write();
        if made.is_err() {
            // Best effort: what stays is removed by the next open. Nobody knows of the other name yet.
            let _ = disk.remove(&aside);
            let _ = disk.remove(&path);
        }
        made
    }

    /// Opens a run, without its filter in memory.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, number: u64) -> io::Result<Self> {
        let path = run_path(dir, number);
        let file = disk.open_read(&path)?;
        let len = file.len()?;
        let mut header = [0; 56];
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
        let filter_blocks = cursor.u32().map_err(early)?;
        let keys = cursor.u64().map_err(early)?;
        let min_time = cursor.i64().map_err(early)?;
        let max_time = cursor.i64().map_err(early)?;
        let fences_crc = cursor.u32().map_err(early)?;
        if cursor.u32().map_err(early)? != crc32c(&header[..52]) {
            return Err(malformed("the checksum of the header of a run of ids does not match"));
        }
        let n_blocks = keys.div_ceil(KEYS as u64);
        let n_fences = n_blocks.div_ceil(FENCED as u64);
        if filter_blocks == 0 || n_blocks > len / BLOCK as u64 {
            return Err(malformed("a run of ids has the wrong length"));
        }
        let fences_at = keys_at(filter_blocks) + BLOCK as u64 * n_blocks;
        if fences_at + n_fences * 8 != len {
            return Err(malformed("a run of ids has the wrong length"));
        }
        let mut fence_bytes = vec![0; n_fences as usize * 8];
        file.read_exact_at(&mut fence_bytes, fences_at)?;
        if crc32c(&fence_bytes) != fences_crc {
            return Err(malformed("the checksum of the fences of a run of ids does not match"));
        }
        let fences = fence_bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let info = RunInfo { log_id, shard, level, min_time, max_time };
        let filter_is_damaged = Arc::default();
        Ok(Self { info, number, path, keys, file, filter_blocks, filter: None, filter_is_damaged, fences })
    }

    /// Bytes of disk it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.block_at(self.n_blocks()) + self.fences.len() as u64 * 8
    }

    /// Whether a part of its filter is known to be unreadable.
    pub(crate) fn needs_filter(&self) -> bool {
        self.filter_is_damaged.load(Ordering::Relaxed)
    }

    /// Bytes of memory its filter takes, or would take.
    pub(crate) fn filter_bytes(&self) -> usize {
        memory_of(self.filter_blocks)
    }

    /// Its filter, if that is in memory.
    pub(crate) fn filter(&self) -> Option<&Filter> {
        self.filter.as_deref()
    }

    /// The same run with its filter in memory, if that can be read, or without.
    pub(crate) fn with_filter(&self, wanted: bool) -> Self {
        let mut run = self.clone();
        if !wanted {
            run.filter = None;
        } else if run.filter.is_none() && !run.filter_is_damaged.load(Ordering::Relaxed) {
            let mut sectors = vec![0; sectors_of(self.filter_blocks) as usize * SECTOR];
            // If that fails, lookups meet the same failure and say so.
            if self.file.read_exact_at(&mut sectors, BLOCK as u64).is_ok() {
                run.filter = Filter::from_sectors(&sectors, self.filter_blocks).map(Arc::new);
                if run.filter.is_none() {
                    self.note_damaged_filter();
                }
            }
        }
        run
    }

    fn n_blocks(&self) -> usize {
        self.keys.div_ceil(KEYS as u64) as usize
    }

    fn block_at(&self, number: usize) -> u64 {
        keys_at(self.filter_blocks) + (BLOCK * number) as u64
    }

    fn block(&self, number: usize) -> io::Result<Vec<u128>> {
        let mut bytes = [0; BLOCK];
        self.file.read_exact_at(&mut bytes, self.block_at(number))?;
        let (body, crc) = bytes.split_at(BLOCK - 4);
        if crc32c_append(crc32c(body), &(number as u32).to_le_bytes()).to_le_bytes() != crc {
            return Err(malformed("the checksum of a block of ids does not match"));
        }
        let keys = u32::from_le_bytes([body[KEYS * 16], body[KEYS * 16 + 1], body[KEYS * 16 + 2], body[KEYS * 16 + 3]]);
        let keys = (keys as usize).min(KEYS);
        Ok(body.as_chunks::<16>().0[..keys].iter().map(|bytes| u128::from_le_bytes(*bytes)).collect())
    }

    /// Whether the key may be in the run, by its filter.
    fn may_contain(&self, key: u128) -> bool {
        if let Some(filter) = &self.filter {
            return filter.may_contain(key);
        }
        if self.filter_is_damaged.load(Ordering::Relaxed) {
            return true;
        }
        let number = sector_of(key, self.filter_blocks);
        let mut sector = [0; SECTOR];
        // A filter that cannot be read says nothing: the ids themselves decide.
        let read = self.file.read_exact_at(&mut sector, BLOCK as u64 + number * SECTOR as u64);
        let said = read.ok().and_then(|()| sector_may_contain(&sector, number, key, self.filter_blocks));
        said.unwrap_or_else(|| {
            self.note_damaged_filter();
            true
        })
    }

    fn note_damaged_filter(&self) {
        if !self.filter_is_damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(file = %self.path.display(), "the filter of a run of ids cannot be read, every look reads the ids themselves");
        }
    }

    /// Whether the key is in the run.
    pub(crate) fn contains(&self, key: u128) -> io::Result<bool> {
        if !self.may_contain(key) {
            return Ok(false);
        }
        let high = (key >> 64) as u64;
        let after = self.fences.partition_point(|fence| *fence <= high) * FENCED;
        // Keys with equal high halves may stand on both sides of a fence.
        let from = self.fences.partition_point(|fence| *fence < high).saturating_sub(1) * FENCED;
        let (mut from, mut after) = (from, after.min(self.n_blocks()));
        while from < after {
            let middle = from.midpoint(after);
            let keys = match self.block(middle) {
                Ok(keys) => keys,
                // It may be in another one.
                Err(error) => return self.is_in_one_of(key, (from..after).filter(|at| *at != middle), error),
            };
            if keys.first().is_none_or(|first| key < *first) {
                after = middle;
            } else if keys.last().is_some_and(|last| key > *last) {
                from = middle + 1;
            } else {
                return Ok(keys.binary_search(&key).is_ok());
            }
        }
        Ok(false)
    }

    /// Whether the key is in one of these blocks; if not, `error` kept it from being known.
    fn is_in_one_of(&self, key: u128, blocks: impl Iterator<Item = usize>, error: io::Error) -> io::Result<bool> {
        for number in blocks {
            if self.block(number).is_ok_and(|keys| keys.binary_search(&key).is_ok()) {
                return Ok(true);
            }
        }
        Err(error)
    }

    /// Reads and checks every sector and block.
    pub(crate) fn verify(&self) -> Result<(), (u64, io::Error)> {
        for number in 0..sectors_of(self.filter_blocks) {
            let at = BLOCK as u64 + number * SECTOR as u64;
            let mut sector = [0; SECTOR];
            self.file.read_exact_at(&mut sector, at).map_err(|error| (at, error))?;
            if !sector_is_whole(&sector, number) {
                return Err((at, malformed("the checksum of a sector of the filter of ids does not match")));
            }
        }
        self.verify_keys()
    }

    /// Reads and checks every block: what it takes to merge it.
    pub(crate) fn verify_keys(&self) -> Result<(), (u64, io::Error)> {
        let mut keys = 0;
        for number in 0..self.n_blocks() {
            let at = self.block_at(number);
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
            if self.block == self.run.n_blocks() {
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
