#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use weir_base::disk::Disk;
use weir_base::{StreamName, TenantId};
use weir_testkit::sim_disk::SimDisk;

use super::filter::Filter;
use super::run::{Run, RunInfo, run_path};
use super::{Dedup, DedupShared, KeyHasher};

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
        one.idempotency(&tenant("a"), b"x"),
        other.ids(&tenant("a"), &stream("s")).hash(b"x"),
    ];
    for (at, hash) in hashes.iter().enumerate() {
        assert!(!hashes[..at].contains(hash), "{at}");
    }
}

#[test]
fn filters_forget_nothing_and_rarely_lie() {
    let mut filter = Filter::new(10_000);
    (0..10_000).for_each(|number| filter.insert(key(number)));
    let filter = Filter::from_bytes(&filter.to_bytes()).unwrap();
    assert!((0..10_000).all(|number| filter.may_contain(key(number))));
    let lies = (10_000..20_000).filter(|number| filter.may_contain(key(*number))).count();
    assert!(lies < 300, "{lies} of 10000");
}

#[test]
fn runs_of_every_size_know_their_keys() {
    for n_keys in [1, 254, 255, 256, 1000] {
        for filter_bytes_max in [0, usize::MAX] {
            let disk = disk();
            let keys = sorted(0..n_keys);
            Run::create(disk.as_ref(), Path::new(DIR), 3, info(), &keys).unwrap();
            let run = Run::open(disk.as_ref(), Path::new(DIR), 3, filter_bytes_max).unwrap();
            assert_eq!((run.info, run.keys), (info(), n_keys));
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
    let keys: Vec<u128> = (0..600).map(|low| (42 << 64) | low).collect();
    let run = Run::create(disk.as_ref(), Path::new(DIR), 0, info(), &keys).unwrap().without_filter();
    assert!(keys.iter().all(|key| run.contains(*key).unwrap()));
    assert!(!run.contains((42 << 64) | 600).unwrap());
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
    let merged = Run::merge(disk.as_ref(), Path::new(DIR), 9, &runs).unwrap();
    assert_eq!((merged.keys, merged.info.level), (1000, 1));
    let merged = Run::open(disk.as_ref(), Path::new(DIR), 9, usize::MAX).unwrap();
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
    for at in (0..64).chain((64..bytes.len()).step_by(7)) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        disk.poke(&path, &damaged).unwrap();
        let Ok(run) = Run::open(disk.as_ref(), Path::new(DIR), 0, usize::MAX) else { continue };
        // Beyond the header and its padding, nothing is uncovered.
        assert!(at < 4096 || run.verify().is_err(), "byte {at}");
        if run.verify().is_ok() {
            assert!((0..300).all(|number| run.contains(key(number)).unwrap()), "byte {at}");
        }
    }
}

#[test]
fn many_small_runs_of_an_hour_become_one() {
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, 1 << 20).unwrap();
    let mut dedup = Dedup::new(Arc::clone(&shared));
    for number in 0..64 {
        dedup.insert([key(number)], 5);
        dedup.freeze(number, Vec::new());
        let frozen = shared.next_frozen().unwrap();
        shared.write_run(disk.as_ref(), &frozen).unwrap();
        shared.thaw();
        shared.merge(disk.as_ref()).unwrap();
    }
    assert!(shared.size().1 <= 2 * 8, "{:?}", shared.size());
    let reopened = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, 1 << 20).unwrap();
    let dedup = Dedup::new(reopened);
    assert!((0..64).all(|number| dedup.lookup().contains(key(number))));
    assert!(!dedup.lookup().contains(key(64)));
}

#[test]
fn a_damaged_run_keeps_neither_other_hours_nor_its_own_from_being_merged() {
    const HOUR: i64 = 3600 * 1_000_000_000;
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, 0).unwrap();
    let mut dedup = Dedup::new(Arc::clone(&shared));
    let mut write = |number: u64, hour: i64| {
        dedup.insert([key(number)], hour * HOUR);
        dedup.freeze(number, Vec::new());
        shared.write_run(disk.as_ref(), &shared.next_frozen().unwrap()).unwrap();
        shared.thaw();
    };
    // The damaged hour is the oldest and has the newest runs: it comes first in any order.
    (0..8).for_each(|number| write(number, 1));
    (8..16).for_each(|number| write(number, 0));
    let path = run_path(Path::new(DIR), 12);
    let mut bytes = disk.peek(&path).unwrap();
    bytes[4096] ^= 1;
    disk.poke(&path, &bytes).unwrap();
    assert!(shared.merge(disk.as_ref()).is_err());
    assert_eq!(shared.size().1, 9, "the other hour is merged");
    assert_eq!(shared.damaged(), 1);
    // What is left of the hour is merged once there is enough of it again, without an error.
    (16..17).for_each(|number| write(number, 0));
    shared.merge(disk.as_ref()).unwrap();
    assert_eq!(shared.size().1, 3);
    assert_eq!(shared.damaged(), 1, "it is named once");
    shared.expire(disk.as_ref(), 3 * HOUR, std::time::Duration::ZERO).unwrap();
    assert_eq!(shared.size(), (0, 0));
}

#[test]
fn a_set_that_waits_for_its_checkpoint_is_written_once() {
    let disk = disk();
    let shared = DedupShared::open(disk.as_ref(), Path::new(DIR), 1, 0, 1 << 20).unwrap();
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
        prop_assert!(Run::open(disk.as_ref(), Path::new(DIR), 0, usize::MAX).is_err());
    }
}
