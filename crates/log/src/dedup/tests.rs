#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use weir_base::disk::Disk;
use weir_base::{StreamName, TenantId};
use weir_testkit::sim_disk::SimDisk;

use super::filter::{Filter, SECTOR, SectorWriter, blocks_for, sector_may_contain, sector_of};
use super::run::{Run, RunInfo, run_path};
use super::{Dedup, DedupShared, KeyHasher};
use crate::IdempotencyKey;

const WINDOW: Duration = Duration::from_secs(8 * 3600);
/// A part of the window.
const HOUR: i64 = 3600 * 1_000_000_000;

const DIR: &str = "/ids";

fn info() -> RunInfo {
    RunInfo { log_id: 1, shard: 0, level: 0, min_time: 10, max_time: 20 }
}

/// Hash-like keys that depend on a number alone.
fn key(number: u64) -> u128 {
    let hasher = KeyHasher::new([7; 16]);
    let tenant = TenantId::new("t").unwrap();
    hasher.ids(&tenant, &StreamName::new("s").unwrap()).hash(&number.to_le_bytes())
}

fn sorted(numbers: impl Iterator<Item = u64>) -> Vec<u128> {
    let mut keys: Vec<u128> = numbers.map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn disk() -> Arc<SimDisk> {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

fn of(key: &[u8], body: u64) -> IdempotencyKey {
    IdempotencyKey { key: key.to_vec(), body }
}

#[test]
fn hashes_separate_tenants_streams_kinds_and_keys() {
    let tenant = |name: &str| TenantId::new(name).unwrap();
    let stream = |name: &str| StreamName::new(name).unwrap();
    let one = KeyHasher::new([1; 16]);
    let other = KeyHasher::new([2; 16]);
    let hashes = [
        one.ids(&tenant("a"), &stream("s")).hash(b"x"),
        one.ids(&tenant("as"), &stream("s")).hash(b"x"),
        one.ids(&tenant("a"), &stream("ss")).hash(b"x"),
        one.ids(&tenant("a"), &stream("s")).hash(b"y"),
        one.idempotency(&tenant("a"), &of(b"x", 1)).key,
        one.idempotency(&tenant("a"), &of(b"x", 1)).request,
        one.idempotency(&tenant("a"), &of(b"x", 2)).request,
        one.idempotency(&tenant("a"), &of(b"x", 2)).before_bodies,
        other.ids(&tenant("a"), &stream("s")).hash(b"x"),
    ];
    for (at, hash) in hashes.iter().enumerate() {
        assert!(!hashes[..at].contains(hash), "{at}");
    }
}

#[test]
fn filters_forget_nothing_and_rarely_lie() {
    for n_keys in [10_000, 1_100_000] {
        let n_blocks = blocks_for(n_keys);
        let mut writer = SectorWriter::new(n_blocks);
        sorted(0..n_keys).into_iter().for_each(|key| writer.insert(key));
        writer.finish();
        let sectors = writer.out.as_chunks::<SECTOR>().0;
        let read = |key| {
            let number = sector_of(key, n_blocks);
            sector_may_contain(&sectors[number as usize], number, key, n_blocks).unwrap()
        };
        let filter = Filter::from_sectors(&writer.out, n_blocks).unwrap();
        assert!((0..n_keys).all(|number| filter.may_contain(key(number)) && read(key(number))));
        let lies = (n_keys..n_keys + 10_000).filter(|number| filter.may_contain(key(*number))).count();
        assert!(lies < if n_keys > 1 << 20 { 200 } else { 40 }, "{lies} of 10000");
        assert_eq!(lies, (n_keys..n_keys + 10_000).filter(|number| read(key(*number))).count());
        let keys: Vec<u128> = (n_keys - 500..n_keys + 5_001).map(key).collect();
        let mut perhaps = Vec::new();
        filter.which_perhaps(&keys, |at| perhaps.push(at));
        let expected: Vec<usize> = (0..keys.len()).filter(|at| filter.may_contain(keys[*at])).collect();
        assert_eq!(perhaps, expected, "many at once");
    }
}

#[test]
fn runs_of_every_size_know_their_keys() {
    for n_keys in [1, 254, 255, 256, 1000, 255 * 16, 255 * 16 + 1, 30_000] {
        for is_in_memory in [false, true] {
            let disk = disk();
            let keys = sorted(0..n_keys);
            Run::create(disk.as_ref(), Path::new(DIR), 3, info(), &keys).unwrap();
            let run = Run::open(disk.as_ref(), Path::new(DIR), 3).unwrap().with_filter(is_in_memory);
            assert_eq!((run.info, run.keys, run.filter().is_some()), (info(), n_keys, is_in_memory));
            run.verify().unwrap();
            assert!((0..n_keys).all(|number| run.contains(key(number)).unwrap()));
            assert!(!(n_keys..n_keys + 500).any(|number| run.contains(key(number)).unwrap()));
            for edge in [0, u128::MAX] {
                assert!(!run.contains(edge).unwrap());
            }
        }
    }
}

#[test]
fn keys_with_equal_high_halves_are_found_across_blocks() {
    let disk = disk();
    let keys: Vec<u128> = (0..6000).map(|low| (42 << 64) | low).collect();
    let run = Run::create(disk.as_ref(), Path::new(DIR), 0, info(), &keys).unwrap();
    assert!(keys.iter().all(|key| run.contains(*key).unwrap()));
    assert!(!run.contains((42 << 64) | 6000).unwrap());
    assert!(!run.contains(41 << 64).unwrap());
}

#[test]
fn merged_runs_hold_the_union() {
    let disk = disk();
    let parts = [(0..400), (200..700), (650..1000)];
    let runs: Vec<Arc<Run>> = parts
        .into_iter()
        .enumerate()
        .map(|(number, numbers)| {
            Arc::new(Run::create(disk.as_ref(), Path::new(DIR), number as u64, info(), &sorted(numbers)).unwrap())
        })
        .collect();
    let merged = Run::merge(disk.as_ref(), Path::new(DIR), 9, &runs, &mut || true).unwrap();
    assert_eq!((merged.keys, merged.info.level), (1000, 1));
    let merged = Run::open(disk.as_ref(), Path::new(DIR), 9).unwrap();
    merged.verify().unwrap();
    assert!((0..1000).all(|number| merged.contains(key(number)).unwrap()));
}

#[test]
fn every_damaged_byte_of_a_run_is_found_or_harmless() {
    let disk = disk();
    let keys = sorted(0..300);
    Run::create(disk.as_ref(), Path::new(DIR), 0, info(), &keys).unwrap();
    let path = run_path(Path::new(DIR), 0);
    let bytes = disk.peek(&path).unwrap();
    // Between the filter and the keys are zeros that nobody reads.
    let padding = 4096 + 2 * SECTOR..8192;
    for at in (0..64).chain((64..bytes.len()).step_by(7)) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        disk.poke(&path, &damaged).unwrap();
        let Ok(run) = Run::open(disk.as_ref(), Path::new(DIR), 0) else { continue };
        for run in [run.with_filter(false), run.with_filter(true)] {
            // Beyond the header and its padding, nothing is uncovered.
            assert!(at < 4096 || padding.contains(&at) || run.verify().is_err(), "byte {at}");
            // Ids are known as long as they can be read, whatever became of the filter.
            if run.verify_keys().is_ok() {
                assert!((0..300).all(|number| run.contains(key(number)).unwrap()), "byte {at}");
                assert!(!(300..400).any(|number| run.contains(key(number)).unwrap()), "byte {at}");
            }
        }
    }
}

#[test]
fn a_damaged_block_hides_only_its_own_keys() {
    let disk = disk();
    let keys = sorted(0..255 * 40);
    Run::create(disk.as_ref(), Path::new(DIR), 0, info(), &keys).unwrap();
    let path = run_path(Path::new(DIR), 0);
    let mut bytes = disk.peek(&path).unwrap();
    let at = bytes.len() - 3 * 8 - 32 * 4096;
    bytes[at] ^= 1;
    disk.poke(&path, &bytes).unwrap();
    let run = Run::open(disk.as_ref(), Path::new(DIR), 0).unwrap();
    let unknown: Vec<usize> = (0..keys.len()).filter(|at| !run.contains(keys[*at]).is_ok_and(|found| found)).collect();
    assert_eq!(unknown, (8 * 255..9 * 255).collect::<Vec<_>>());
    assert!(unknown.iter().all(|at| run.contains(keys[*at]).is_err()), "it is not known that they are not there");
}

#[test]
fn many_small_runs_of_a_part_become_few() {
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, 1 << 20).unwrap();
    let mut dedup = Dedup::new(Arc::clone(&shared));
    for number in 0..64 {
        dedup.insert([key(number)], 5);
        dedup.freeze(number, Vec::new());
        let frozen = shared.next_frozen().unwrap();
        shared.write_run(disk.as_ref(), &frozen).unwrap();
        shared.thaw();
        shared.merge(disk.as_ref(), 5, u64::MAX, &mut || true).unwrap();
    }
    assert!(shared.size().1 <= 3 * 3, "{:?}", shared.size());
    let reopened = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, 1 << 20).unwrap();
    let dedup = Dedup::new(reopened);
    assert!((0..64).all(|number| dedup.lookup().contains(key(number))));
    assert!(!dedup.lookup().contains(key(64)));
}

/// Writes a run of one key.
fn write(dedup: &mut Dedup, disk: &dyn Disk, number: u64, hour: i64) {
    dedup.insert([key(number)], hour * HOUR);
    dedup.freeze(number, Vec::new());
    let shared = Arc::clone(&dedup.shared);
    shared.write_run(disk, &shared.next_frozen().unwrap()).unwrap();
    shared.thaw();
}

#[test]
fn all_runs_of_a_part_that_is_over_become_one_whatever_their_levels() {
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, 1 << 20).unwrap();
    let mut dedup = Dedup::new(Arc::clone(&shared));
    for number in 0..6 {
        write(&mut dedup, disk.as_ref(), number, 0);
        shared.merge(disk.as_ref(), HOUR - 1, u64::MAX, &mut || true).unwrap();
    }
    assert_eq!(shared.size(), (6, 3), "one of four and two of one");
    (6..9).for_each(|number| write(&mut dedup, disk.as_ref(), number, 1));
    shared.merge(disk.as_ref(), HOUR, u64::MAX, &mut || true).unwrap();
    assert_eq!(shared.size(), (9, 4), "the hour that is over is one run, the other is left alone");
    for _ in 0..2 {
        shared.merge(disk.as_ref(), 2 * HOUR, u64::MAX, &mut || true).unwrap();
        assert_eq!(shared.size(), (9, 2));
    }
    assert!((0..9).all(|number| dedup.lookup().contains(key(number))));
}

#[test]
fn memory_for_filters_goes_to_the_smallest_runs() {
    let disk = disk();
    let open = |bytes| DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, bytes).unwrap();
    let mut dedup = Dedup::new(open(1000));
    let has_filter = |shared: &DedupShared| {
        let mut runs: Vec<(u64, bool)> =
            shared.view().runs.iter().map(|run| (run.keys, run.filter().is_some())).collect();
        runs.sort_unstable();
        runs
    };
    // In bytes: 64 for 32 keys, 2016 for 1000.
    for (number, n_keys) in [(0_u64, 32), (1, 1000), (2, 33)] {
        dedup.insert((0..n_keys).map(|at| key(number << 32 | at)), 0);
        dedup.freeze(number, Vec::new());
        let shared = Arc::clone(&dedup.shared);
        shared.write_run(disk.as_ref(), &shared.next_frozen().unwrap()).unwrap();
        shared.thaw();
    }
    let expected = [(32, true), (33, true), (1000, false)];
    assert_eq!(has_filter(&dedup.shared), expected);
    assert_eq!(has_filter(&open(1000)), expected);
    assert!(has_filter(&open(1 << 20)).iter().all(|(_, has_filter)| *has_filter));
    assert!(!has_filter(&open(0)).iter().any(|(_, has_filter)| *has_filter));
}

#[test]
fn ids_that_are_written_while_runs_are_merged_stay_known() {
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, 1 << 20).unwrap();
    let mut dedup = Dedup::new(Arc::clone(&shared));
    let freeze = |dedup: &mut Dedup, numbers: std::ops::Range<u64>| {
        dedup.insert(numbers.map(key), 0);
        dedup.freeze(0, Vec::new());
        shared.write_run(disk.as_ref(), &shared.next_frozen().unwrap()).unwrap();
        shared.thaw();
    };
    (0..4).for_each(|number| freeze(&mut dedup, number * 30_000..(number + 1) * 30_000));
    let mut looks = 0;
    shared
        .merge(disk.as_ref(), 0, u64::MAX, &mut || {
            freeze(&mut dedup, 1_000_000 + looks..1_000_001 + looks);
            looks += 1;
            true
        })
        .unwrap();
    assert_eq!(looks, 1, "120,000 keys are more than once, and less than twice as many as are merged at a time");
    assert_eq!(shared.size(), (120_001, 2));
    let reopened = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, 1 << 20).unwrap();
    for shared in [shared.clone(), reopened] {
        let dedup = Dedup::new(shared);
        let lookup = dedup.lookup();
        assert!((0..120_000).chain([1_000_000]).all(|number| lookup.contains(key(number))));
    }
}

#[test]
fn merging_is_given_up_for_now_and_needs_room() {
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, 1 << 20).unwrap();
    let mut dedup = Dedup::new(Arc::clone(&shared));
    for number in 0..4_u64 {
        dedup.insert((number << 32..(number << 32) + 20_000).map(key), 0);
        dedup.freeze(0, Vec::new());
        shared.write_run(disk.as_ref(), &shared.next_frozen().unwrap()).unwrap();
        shared.thaw();
    }
    let bytes: u64 = shared.view().runs.iter().map(|run| run.bytes()).sum();
    let files = || disk.files_under(Path::new(DIR)).len();
    assert_eq!(
        bytes,
        disk.files_under(Path::new(DIR)).iter().map(|path| disk.peek(path).unwrap().len() as u64).sum::<u64>()
    );
    shared.merge(disk.as_ref(), 0, bytes - 1, &mut || true).unwrap();
    assert_eq!((shared.size(), files()), ((80_000, 4), 4), "there is no room");
    shared.merge(disk.as_ref(), 0, bytes, &mut || false).unwrap();
    assert_eq!((shared.size(), files(), shared.damaged()), ((80_000, 4), 4, 0), "it was given up");
    shared.merge(disk.as_ref(), 0, bytes, &mut || true).unwrap();
    assert_eq!((shared.size(), files()), ((80_000, 1), 1));
}

#[test]
fn a_filter_that_cannot_be_read_hides_no_id_and_is_made_anew() {
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, 0).unwrap();
    let mut dedup = Dedup::new(Arc::clone(&shared));
    write(&mut dedup, disk.as_ref(), 1, 0);
    let path = run_path(Path::new(DIR), 0);
    let mut bytes = disk.peek(&path).unwrap();
    bytes[4096] ^= 1;
    disk.poke(&path, &bytes).unwrap();
    assert!(dedup.lookup().contains(key(1)) && !dedup.lookup().contains(key(2)));
    // Its part is over, so it is written again, though there is nothing to merge it with.
    shared.merge(disk.as_ref(), HOUR, u64::MAX, &mut || true).unwrap();
    assert!(shared.view().runs.iter().all(|run| run.number > 0 && run.verify().is_ok()));
    assert!(dedup.lookup().contains(key(1)) && !dedup.lookup().contains(key(2)));
    shared.merge(disk.as_ref(), HOUR, u64::MAX, &mut || panic!("there is nothing to do")).unwrap();
}

#[test]
fn a_damaged_run_keeps_neither_other_hours_nor_its_own_from_being_merged() {
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, 0).unwrap();
    let mut dedup = Dedup::new(Arc::clone(&shared));
    let now = 2 * HOUR;
    // The damaged hour is the oldest and has the newest runs: it comes first in any order.
    (0..8).for_each(|number| write(&mut dedup, disk.as_ref(), number, 1));
    (8..16).for_each(|number| write(&mut dedup, disk.as_ref(), number, 0));
    let path = run_path(Path::new(DIR), 12);
    let mut bytes = disk.peek(&path).unwrap();
    bytes[8192] ^= 1;
    disk.poke(&path, &bytes).unwrap();
    assert!(shared.merge(disk.as_ref(), now, u64::MAX, &mut || true).is_err());
    assert_eq!(shared.size().1, 9, "the other hour is merged");
    assert_eq!(shared.damaged(), 1);
    // What is left of the hour is merged then, without an error.
    shared.merge(disk.as_ref(), now, u64::MAX, &mut || true).unwrap();
    assert_eq!(shared.size().1, 3);
    assert_eq!(shared.damaged(), 1, "it is named once");
    shared.expire(disk.as_ref(), 3 * HOUR, Duration::ZERO).unwrap();
    assert_eq!(shared.size(), (0, 0));
}

#[test]
fn a_set_that_waits_for_its_checkpoint_is_written_once() {
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, WINDOW, 1 << 20).unwrap();
    let mut dedup = Dedup::new(Arc::clone(&shared));
    dedup.insert([key(1)], 5);
    dedup.freeze(1, Vec::new());
    for _ in 0..3 {
        shared.write_run(disk.as_ref(), &shared.next_frozen().unwrap()).unwrap();
        assert_eq!(shared.size(), (1, 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_files_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        let disk = disk();
        let path = run_path(Path::new(DIR), 0);
        disk.create(&path).unwrap();
        disk.poke(&path, &bytes).unwrap();
        prop_assert!(Run::open(disk.as_ref(), Path::new(DIR), 0).is_err());
    }
}
