//! What the fuzz targets call: one file of a log made of arbitrary bytes, then the real way through
//! it: open, read back, append, check, repair, open again. Built for fuzzing and for the tests that
//! replay the corpora, and in no program.
//!
//! Checksums keep nearly every input away from the code behind them, so the first byte of an input
//! says whether they are put right first. Not those of records: that the Arrow decoder gets nothing
//! but bytes that were checked is an invariant, and what it does with others is not ours to find.
#![allow(clippy::unwrap_used, reason = "a failed step is a finding")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parking_lot::Mutex;
use weir_base::clock::ManualClock;
use weir_base::crc::{crc32c, crc32c_append};
use weir_base::disk::Disk;
use weir_base::error::Kinded;
use weir_base::{ErrorKind, StreamName, TenantId, Timestamp};

use crate::dedup::run::{Run, run_path};
use crate::format::{ALIGN, BLOCK_HEADER, BLOCK_MAGIC, FOOTER_MAGIC, FOOTER_TRAILER, SegmentHeader};
use crate::segment::{segment_number, segment_path};
use crate::state::{Identity, seal};
use crate::{
    Append, AppendPart, Commit, Damage, Durability, IdempotencyKey, Log, LogError, LogOptions, Position,
    ProducerSequence, Subscriber, fsck,
};

/// Where the log of [`sample`] is.
pub const DIR: &str = "/log";
const LOG_ID: u64 = 0x7765_6972;
const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

/// Checksums are put right before the input is used.
const SEALED: u8 = 1;
/// The input takes the place of the last segment but one.
const FOLLOWED: u8 = 2;
/// The input is the log's identity, not a shard's checkpoint.
const IDENTITY: u8 = 2;
/// The other copy of the state stays as it was.
const COPY_STAYS: u8 = 4;

#[derive(Default)]
struct Keeper {
    records: Mutex<Vec<(Position, TenantId, RecordBatch)>>,
    damages: Mutex<Vec<Damage>>,
}

impl Subscriber for Keeper {
    fn wants(&self, _tenant: &TenantId, _stream: &StreamName, _position: Position) -> bool {
        true
    }

    fn committed(&self, commit: &Commit) {
        let records = commit.records.iter();
        self.records
            .lock()
            .extend(records.map(|record| (record.position, record.tenant.clone(), record.batch.clone())));
    }

    fn damaged(&self, damage: &Damage) {
        self.damages.lock().push(damage.clone());
    }
}

fn open(disk: &Arc<dyn Disk>) -> Result<(Arc<Log>, Arc<Keeper>), LogError> {
    let options = LogOptions {
        segment_bytes: 4096,
        commit_bytes_max: 64 << 10,
        queue_bytes_max: 1 << 20,
        reserve_bytes: 0,
        dedup_memory_ids_max: 4,
        ..LogOptions::new(DIR)
    };
    let keeper = Arc::new(Keeper::default());
    let clock = ManualClock::new(START.plus(Duration::from_secs(60)));
    let log = Log::open_without_threads(options, Arc::clone(disk), clock, vec![Arc::clone(&keeper) as _])?;
    Ok((log, keeper))
}

fn append(log: &Log, tenant: &str, number: i64) -> Result<(), LogError> {
    let ids: ArrayRef = Arc::new(StringArray::from_iter([Some(format!("{tenant}{number}")), None]));
    let values: ArrayRef = Arc::new(Int64Array::from_iter([Some(number), Some(-number)]));
    let batch = RecordBatch::try_from_iter_with_nullable([("event_id", ids, true), ("value", values, true)]).unwrap();
    let sequence = number.unsigned_abs();
    let answer = log.append(Append {
        tenant: TenantId::new(tenant).unwrap(),
        parts: vec![AppendPart { stream: StreamName::new("s").unwrap(), batch, id_column: Some("event_id") }],
        idempotency_key: Some(IdempotencyKey { key: vec![tenant.len() as u8, number as u8], body: 9 }),
        producer: Some(ProducerSequence { producer: 7, epoch: 1, sequence }),
        durability: Durability::Disk,
    });
    log.step();
    answer.now().unwrap().map(|_| ())
}

/// Makes the log whose files inputs take the place of. It is still open, as at a kill: copy the
/// disk before dropping it.
pub fn sample(disk: &Arc<dyn Disk>) -> Arc<Log> {
    disk.create_dir_all(Path::new(DIR)).unwrap();
    Identity { log_id: LOG_ID, shards: 1, dedup_key: [5; 16] }.store(disk.as_ref(), Path::new(DIR)).unwrap();
    let (log, _) = open(disk).unwrap();
    for number in 0..12 {
        append(&log, ["a", "b", "c"][number as usize % 3], number).unwrap();
    }
    log
}

fn put(disk: &Arc<dyn Disk>, path: &Path, bytes: &[u8]) {
    let _ = disk.remove(path);
    disk.create(path).unwrap().write_all_at(bytes, 0).unwrap();
}

/// An input as a segment of the sample on `disk`.
pub fn segment(disk: &Arc<dyn Disk>, input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let dir = Path::new(DIR).join("shard-0");
    let mut numbers: Vec<u64> =
        disk.list(&dir).unwrap().iter().filter_map(|entry| segment_number(&entry.name)).collect();
    if flags & FOLLOWED != 0 {
        numbers.pop();
    }
    let number = numbers.pop().unwrap();
    let mut bytes = bytes.to_vec();
    if flags & SEALED != 0 {
        seal_segment(&mut bytes, number);
    }
    put(disk, &segment_path(&dir, number), &bytes);
    exercise(disk, Repair::KeepsAll);
}

/// Puts the checksums of headers and directories right, and where they belong.
fn seal_segment(bytes: &mut [u8], number: u64) {
    if let Ok(needs) = SegmentHeader::needs(bytes)
        && needs <= bytes.len()
    {
        bytes[10..12].fill(0);
        bytes[16..24].copy_from_slice(&LOG_ID.to_le_bytes());
        bytes[24..32].copy_from_slice(&number.to_le_bytes());
        // A repaired file gets the length it was made with, and this disk is memory.
        bytes[59..64].fill(0);
        let crc = crc32c_append(crc32c(&bytes[..64]), &bytes[68..needs]);
        bytes[64..68].copy_from_slice(&crc.to_le_bytes());
    }
    for block in bytes.chunks_mut(ALIGN as usize).filter(|chunk| chunk.len() == ALIGN as usize) {
        let (_, trailer) = block.split_at_mut(ALIGN as usize - FOOTER_TRAILER);
        if trailer.starts_with(&FOOTER_MAGIC) {
            let crc = crc32c(&trailer[..12]);
            trailer[12..].copy_from_slice(&crc.to_le_bytes());
        }
    }
    for at in (0..bytes.len()).step_by(ALIGN as usize) {
        let block = &mut bytes[at..];
        if block.len() < BLOCK_HEADER || !block.starts_with(&BLOCK_MAGIC) {
            continue;
        }
        block[8..16].copy_from_slice(&LOG_ID.to_le_bytes());
        block[52..54].fill(0);
        // A block that reaches far past the end makes the file as long, and this disk is memory.
        block[42..44].fill(0);
        let directory_len = u32::from_le_bytes([block[44], block[45], block[46], block[47]]) as usize;
        if let Some(directory) = block.get(BLOCK_HEADER..BLOCK_HEADER.saturating_add(directory_len)) {
            let crc = crc32c(directory);
            block[56..60].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c(&block[..60]);
        block[60..64].copy_from_slice(&crc.to_le_bytes());
    }
}

/// An input as the identity or a checkpoint of the sample on `disk`.
pub fn state(disk: &Arc<dyn Disk>, input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let bytes = if flags & SEALED != 0 { seal(bytes.to_vec()) } else { bytes.to_vec() };
    let path = match flags & IDENTITY {
        0 => Path::new(DIR).join("shard-0/checkpoint"),
        _ => Path::new(DIR).join("identity"),
    };
    // Shards cost memory each, and nobody makes many.
    if Identity::decode(&bytes).is_ok_and(|identity| identity.shards > 8) {
        return;
    }
    put(disk, &path, &bytes);
    if flags & COPY_STAYS == 0 {
        put(disk, &weir_base::disk::with_suffix(&path, ".copy"), &bytes);
    }
    exercise(disk, Repair::MayRemove);
}

/// An input as a run of ids of the sample on `disk`.
pub fn ids(disk: &Arc<dyn Disk>, input: &[u8]) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & SEALED != 0 {
        seal_ids(&mut bytes);
    }
    let dir = Path::new(DIR).join("shard-0/ids");
    put(disk, &run_path(&dir, 1), &bytes);
    for is_in_memory in [false, true] {
        let Ok(run) = Run::open(disk.as_ref(), &dir, 1) else { continue };
        let run = Arc::new(run.with_filter(is_in_memory));
        for key in [0, u128::MAX, 1 << 64, u128::from(LOG_ID) << 64] {
            let _ = run.contains(key);
        }
        let is_whole = run.verify_keys().is_ok();
        let merged = Run::merge(disk.as_ref(), &dir, 99, &[Arc::clone(&run), run], &mut || true);
        assert!(merged.is_ok() || !is_whole, "a whole run does not merge: {merged:?}");
        disk.remove(&run_path(&dir, 99)).unwrap_or_default();
    }
    exercise(disk, Repair::KeepsAll);
}

/// Puts the checksums of a run right.
fn seal_ids(bytes: &mut [u8]) {
    const BLOCK: usize = 4096;
    const SECTOR: usize = 512;
    if bytes.len() < BLOCK {
        return;
    }
    bytes[8..16].copy_from_slice(&LOG_ID.to_le_bytes());
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let n_sectors = (word(bytes, 20) as usize).div_ceil(15);
    for number in 0..n_sectors {
        let at = BLOCK + SECTOR * number;
        let Some(sector) = bytes.get_mut(at..at + SECTOR) else { break };
        let crc = crc32c_append(crc32c(&sector[..SECTOR - 4]), &(number as u64).to_le_bytes());
        sector[SECTOR - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    let keys_at = BLOCK + (n_sectors * SECTOR).next_multiple_of(BLOCK);
    let n_blocks = (word(bytes, 24) as usize).div_ceil(255);
    for number in 0..n_blocks {
        let at = keys_at + BLOCK * number;
        let Some(block) = bytes.get_mut(at..at + BLOCK) else { break };
        let crc = crc32c_append(crc32c(&block[..BLOCK - 4]), &(number as u32).to_le_bytes());
        block[BLOCK - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    let fences_at = keys_at + BLOCK * n_blocks;
    if let Some(fences) = bytes.get(fences_at..fences_at + n_blocks.div_ceil(16) * 8) {
        let crc = crc32c(fences);
        bytes[48..52].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32c(&bytes[..52]);
    bytes[52..56].copy_from_slice(&crc.to_le_bytes());
}

/// What is left of the records after repair and another open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repair {
    KeepsAll,
    /// A checkpoint that says so removes segments: it is the word of the log itself.
    MayRemove,
}

/// Opens, reads, appends, repairs and opens again.
fn exercise(disk: &Arc<dyn Disk>, repair: Repair) {
    let opened = open(disk);
    let (log, keeper) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
            return;
        }
    };
    let found = keeper.records.lock().clone();
    for (position, tenant, batch) in &found {
        if let Ok(record) = log.read(*position) {
            assert_eq!((&record.tenant, &record.batch), (tenant, batch));
        }
    }
    // A producer's sequence or an id may be in the input, so that nothing is stored.
    let appended = append(&log, "z", 1);
    log.close();
    drop(log);
    if appended.is_err() {
        return;
    }
    fsck(Path::new(DIR), disk.as_ref(), true).unwrap();
    let report = fsck(Path::new(DIR), disk.as_ref(), false).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let (log, again) = open(disk).unwrap();
    assert_eq!(*again.damages.lock(), []);
    let records = again.records.lock();
    for record in &found {
        assert!(repair == Repair::MayRemove || records.contains(record), "repair lost a good record: {record:?}");
    }
    drop(records);
    log.close();
}

#[cfg(test)]
mod tests;
