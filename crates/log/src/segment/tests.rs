#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use weir_base::disk::Disk;
use weir_base::{StreamName, TenantId};
use weir_testkit::sim_disk::SimDisk;

use super::{Found, Opened, ScanEnd, SegmentFile, Spare, segment_number, segment_path};
use crate::format::{BlockBuilder, BlockFrame, BlockKind, Body, Entry, RowsEntry, SegmentHeader};

const LOG: u64 = 0x0123_4567_89ab_cdef;
const DIR: &str = "/log";

/// Everything a scan hands out: offset, number of the entry, the entry, its body if that is good.
type Seen = Vec<(u64, usize, Entry, Option<Vec<u8>>)>;

fn entry(number: u64, body: Body) -> Entry {
    Entry::Rows(RowsEntry {
        body,
        schema: 77,
        rows: number as u32,
        min_time: -1,
        max_time: 1,
        tenant: TenantId::new(&format!("t{}", number % 3)).unwrap(),
        stream: StreamName::new("s").unwrap(),
        id_column: number.is_multiple_of(2).then(|| "event_id".to_owned()),
    })
}

/// A segment of 52 records in 4 blocks. Says which bytes of the file carry something.
fn sample(disk: &SimDisk) -> (SegmentFile, Vec<bool>) {
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let header =
        SegmentHeader { log_id: LOG, shard: 2, number: 9, base: 5120, created_at: 1, capacity: 0, schemas: vec![] };
    let mut blocks = Vec::new();
    let mut used = vec![false; 512];
    used[..68].fill(true);
    for block in 0..4 {
        let mut builder = BlockBuilder::default();
        let mut lens = Vec::new();
        for record in 0..13 {
            let number = block * 13 + record;
            let body: Vec<u8> = (0..17 + number % 5).map(|byte| (byte * 31 + number) as u8).collect();
            lens.push(body.len());
            let write = |out: &mut Vec<u8>| {
                out.extend_from_slice(&body);
                Ok::<(), ()>(())
            };
            builder.push_body(write, |body| entry(number, body)).unwrap();
        }
        let offset = 5120 + blocks.len() as u64;
        let frame = BlockFrame { log_id: LOG, shard: 2, kind: BlockKind::Commit, offset, watermark: offset, time: 42 };
        let mut bytes = Vec::new();
        builder.finish(&frame, &mut bytes);
        let directory_len = u32::from_le_bytes(bytes[44..48].try_into().unwrap()) as usize;
        let mut of_block = vec![false; bytes.len()];
        of_block[..64 + directory_len].fill(true);
        let mut at = (64 + directory_len).next_multiple_of(8);
        for len in lens {
            of_block[at..at + len].fill(true);
            at = (at + len).next_multiple_of(8);
        }
        blocks.extend_from_slice(&bytes);
        used.extend(of_block);
    }
    let spare = Spare::create(disk, &Path::new(DIR).join("spare"), 10 << 10, true).unwrap();
    let segment = spare.promote(disk, Path::new(DIR), &header, &blocks).unwrap();
    (segment, used)
}

fn reopened(disk: &SimDisk) -> Option<SegmentFile> {
    match SegmentFile::open(disk, &segment_path(Path::new(DIR), 9), 9, LOG, 2).unwrap() {
        Opened::Good(segment, _) => Some(segment),
        Opened::BadHeader(segment, _) => segment,
        Opened::Foreign => None,
    }
}

fn scan(segment: &SegmentFile, limit: Option<u64>) -> (Seen, Vec<(u64, u64)>, ScanEnd) {
    let mut seen = Vec::new();
    let mut gaps = Vec::new();
    let end = segment
        .scan(limit, false, &mut |found| {
            match found {
                Found::Gap { from, to } => gaps.push((from, to)),
                Found::Block(block) => {
                    for (number, entry) in block.entries.iter().enumerate() {
                        let body = (!block.bad.contains(&number)).then(|| block.body(number).to_vec());
                        seen.push((block.header.offset, number, entry.clone(), body));
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    (seen, gaps, end)
}

#[test]
fn names_and_numbers() {
    assert_eq!(segment_number("00000000000000000012.seg"), Some(12));
    for name in ["12.seg", "00000000000000000012.tmp", "0000000000000000001x.seg", "+0000000000000000012.seg"] {
        assert_eq!(segment_number(name), None, "{name}");
    }
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let disk = SimDisk::new();
    let (segment, used) = sample(&disk);
    let path = segment.path.clone();
    let (whole, gaps, end) = scan(&segment, None);
    assert_eq!((whole.len(), gaps.len()), (52, 0));
    let bytes = disk.peek(&path).unwrap();
    for bit in 0..used.len() * 8 {
        if !used[bit / 8] && bit % 8 != bit / 8 % 8 {
            continue;
        }
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        disk.poke(&path, &flipped).unwrap();
        let Some(segment) = reopened(&disk) else {
            assert!(bit < 68 * 8, "bit {bit} hides the whole segment");
            continue;
        };
        let header_bad = segment.capacity == 0;
        let (seen, gaps, after) = scan(&segment, None);
        for found in &seen {
            let same = whole.iter().find(|other| (other.0, other.1) == (found.0, found.1)).unwrap();
            assert_eq!(found.2, same.2, "bit {bit}: a wrong entry");
            assert!(found.3.is_none() || found.3 == same.3, "bit {bit}: a wrong body");
        }
        let n_good = seen.iter().filter(|found| found.3.is_some()).count();
        let noticed = header_bad || !gaps.is_empty() || n_good < 52 || after.at < end.at || after.mended > 0;
        assert_eq!(noticed, used[bit / 8], "bit {bit} of byte {}", bit / 8);
        if bit >= 512 * 8 {
            // One bit in what a block says of itself is put right; in a record it costs that record.
            assert!(gaps.is_empty(), "bit {bit}: {gaps:?}");
            assert_eq!(n_good, 52 - usize::from(noticed && after.mended == 0), "bit {bit}");
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    let disk = SimDisk::new();
    let (segment, _) = sample(&disk);
    let path = segment.path.clone();
    let (whole, _, _) = scan(&segment, None);
    let bytes = disk.peek(&path).unwrap();
    for len in 0..bytes.len() {
        disk.poke(&path, &bytes[..len]).unwrap();
        let Some(segment) = reopened(&disk) else {
            assert!(len < 512 + 64, "cut to {len}");
            continue;
        };
        let (seen, _, end) = scan(&segment, None);
        assert!(end.cut || segment.capacity == 0, "cut to {len}");
        for found in seen.iter().filter(|found| found.3.is_some()) {
            assert!(whole.contains(found), "cut to {len}");
        }
    }
}

#[test]
fn a_segment_ends_where_the_next_begins() {
    let disk = SimDisk::new();
    let (segment, _) = sample(&disk);
    let (whole, _, _) = scan(&segment, None);
    let second = whole[13].0;
    let (seen, gaps, end) = scan(&segment, Some(second));
    assert_eq!((seen.len(), gaps.len(), end.at), (13, 0, second));
}

#[test]
fn blocks_of_other_logs_shards_and_places_are_no_blocks() {
    let disk = SimDisk::new();
    let (segment, _) = sample(&disk);
    let foreign = SegmentFile { log_id: LOG + 1, ..segment.clone() };
    assert_eq!(scan(&foreign, None).0.len(), 0);
    let other_shard = SegmentFile { shard: 3, ..segment.clone() };
    assert_eq!(scan(&other_shard, None).0.len(), 0);
    let shifted = SegmentFile { base: segment.base + 512, file: Arc::clone(&segment.file), ..segment };
    let (seen, _, end) = scan(&shifted, None);
    assert_eq!(seen.len(), 0);
    assert!(end.watermark > shifted.base, "a block in a wrong place tells what was durable");
}
