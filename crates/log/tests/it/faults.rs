//! A full or failing disk, at every operation.

use std::time::Duration;

use weir_base::clock::ManualClock;
use weir_base::disk::Disk;
use weir_base::{ErrorKind, Kinded};
use weir_log::LogOptions;
use weir_testkit::sim_disk::{Choices, Fault, SimDisk};

use crate::harness::{START, append, open, part, segments, small_options, try_open_with};

fn options() -> LogOptions {
    LogOptions { dedup_memory_ids_max: 8, retention: Duration::from_secs(10), ..small_options() }
}

/// Opens, appends (each until it is acknowledged), opens again and finds every row once. `fail` sets
/// the faults up; true is returned once it asked for more operations than there were.
fn run(what: &str, fault: Fault, at: u64, sticky: bool) -> bool {
    let clock = ManualClock::new(START);
    let disk = SimDisk::new();
    if sticky {
        disk.fail_from(fault, at);
    } else {
        disk.fail_at(fault, at);
    }
    let mut opened = try_open_with(&disk, &clock, options(), 0);
    if let Err(error) = &opened {
        assert!(!disk.faults_met().is_empty(), "{what}: {error:?}");
        disk.heal();
        opened = try_open_with(&disk, &clock, options(), 0);
    }
    let bench = opened.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let mut acknowledged = Vec::new();
    for value in 0..14 {
        let id = format!("{value}");
        let mut tries = 0;
        loop {
            match bench.append(append("a", vec![part("s", &[(&id, value)])])) {
                Ok(outcome) => {
                    if outcome.parts[0].stored == 0 {
                        assert!(tries > 0, "{what}: {value} was not sent before");
                    }
                    break;
                }
                Err(error) => {
                    assert!(
                        matches!(error.kind(), ErrorKind::Full | ErrorKind::Transient),
                        "{what}: {value}: {error:?}"
                    );
                    assert!(!disk.faults_met().is_empty(), "{what}: {error:?}");
                    tries += 1;
                    if tries > 3 {
                        disk.heal();
                    }
                    assert!(tries < 8, "{what}: {value}: no recovery: {error:?}");
                    clock.advance(Duration::from_secs(1));
                    bench.log.step();
                }
            }
        }
        acknowledged.push(id);
        // Whatever fails later, a crash now loses nothing.
        if value % 7 == 3 {
            let mut choices = Choices::seeded(at + value as u64);
            let after = disk.after_crash(&mut choices);
            let other = try_open_with(&after, &clock, options(), 0).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            check(what, &other.keeper.rows(), &acknowledged);
            assert_eq!(*other.keeper.damages.lock().unwrap(), [], "{what}");
        }
        if value == 9 {
            clock.advance(Duration::from_secs(20));
        }
        bench.rest();
    }
    let over = disk.faults_met().is_empty();
    disk.heal();
    check(what, &bench.keeper.rows(), &acknowledged);
    assert_eq!(*bench.keeper.damages.lock().unwrap(), [], "{what}");
    bench.log.close();
    drop(bench);
    let bench = try_open_with(&disk, &clock, options(), 0).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    check(what, &bench.keeper.rows(), &acknowledged);
    assert_eq!(*bench.keeper.damages.lock().unwrap(), [], "{what}");
    over
}

fn check(what: &str, rows: &[crate::harness::Row], acknowledged: &[String]) {
    let mut ids: Vec<&String> = rows.iter().map(|row| &row.id).collect();
    ids.sort();
    let n_found = ids.len();
    ids.dedup();
    assert_eq!(n_found, ids.len(), "{what}: doubled");
    for id in acknowledged {
        assert!(ids.binary_search(&id).is_ok(), "{what}: lost {id}");
    }
}

fn every(fault: Fault, sticky: bool) {
    for at in 1..5000 {
        if run(&format!("{fault:?} at {at}, sticky {sticky}"), fault, at, sticky) {
            assert!(at > 50, "only {at} operations");
            return;
        }
    }
    panic!("the faults never end");
}

#[test]
fn an_io_error_at_every_operation() {
    every(Fault::Io, false);
}

#[test]
fn a_full_disk_at_every_operation() {
    every(Fault::Full, false);
}

#[test]
fn a_disk_that_stays_full_from_every_operation_on() {
    every(Fault::Full, true);
}

#[test]
fn a_disk_that_fails_from_every_operation_on_until_it_is_healed() {
    every(Fault::Io, true);
}

#[test]
fn a_really_full_disk_refuses_before_writing_and_recovers_by_itself() {
    let clock = ManualClock::new(START);
    let disk = SimDisk::new();
    disk.set_capacity(Some(300 << 10));
    let bench = try_open_with(&disk, &clock, options(), 0).unwrap();
    let mut acknowledged = Vec::new();
    let refused = loop {
        let id = format!("{}", acknowledged.len());
        match bench.append(append("a", vec![part("s", &[(&id, 1)])])) {
            Ok(_) => acknowledged.push(id),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 10_000);
    };
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    assert!(bench.log.stats().is_full);
    let reserve = std::path::Path::new(crate::harness::DIR).join("reserve");
    assert!(disk.peek(&reserve).is_err(), "the reserve is given free");
    // It stays full until there is space, and reads work meanwhile.
    bench.rest();
    assert!(bench.log.stats().is_full);
    let positions = bench.keeper.positions.lock().unwrap().clone();
    bench.log.read(positions[3]).unwrap();
    // Released segments make room.
    bench.log.release(bench.log.end(0));
    for _ in 0..4 {
        clock.advance(Duration::from_secs(1));
        bench.log.step();
    }
    assert!(!bench.log.stats().is_full, "{:?}", bench.log.stats());
    bench.append(append("a", vec![part("s", &[("new", 1)])])).unwrap();
    let again = bench.append(append("a", vec![part("s", &[("0", 1)])])).unwrap();
    assert_eq!(again.parts[0].stored, 0, "ids outlive the segments");
    // And so does space from outside.
    disk.set_capacity(Some(disk.used()));
    while bench.append(append("a", vec![part("s", &[("", 1)])])).is_ok() {}
    disk.set_capacity(None);
    clock.advance(Duration::from_secs(1));
    bench.log.step();
    bench.append(append("a", vec![part("s", &[("newer", 1)])])).unwrap();
}

#[test]
fn rows_do_not_eat_up_the_reserve_that_was_given_free() {
    const RESERVE: u64 = 64 << 10;
    let clock = ManualClock::new(START);
    let disk = SimDisk::new();
    disk.set_capacity(Some(500 << 10));
    let bench = try_open_with(&disk, &clock, LogOptions { reserve_bytes: RESERVE, ..options() }, 0).unwrap();
    for count in 0.. {
        if bench.append(append("a", vec![part("s", &[("", 1)])])).is_err() {
            break;
        }
        assert!(count < 10_000);
        // The housekeeper sees space run out, and gives the reserve free, well before rows are refused.
        clock.advance(Duration::from_secs(1));
        bench.log.step();
    }
    let free = disk.free_bytes(std::path::Path::new(crate::harness::DIR)).unwrap();
    assert!(free >= RESERVE / 4 * 3, "{free} bytes are left for everything else");
}

/// Another program takes all that was given free, and deletes and keys have room all the same, again and again.
#[test]
fn the_last_quarter_of_the_reserve_is_for_deletes_and_keys() {
    const RESERVE: u64 = 64 << 10;
    let folder = std::path::Path::new(crate::harness::DIR);
    let clock = ManualClock::new(START);
    let disk = SimDisk::new();
    disk.set_capacity(Some(500 << 10));
    let bench = try_open_with(&disk, &clock, LogOptions { reserve_bytes: RESERVE, ..options() }, 0).unwrap();
    let free = || disk.free_bytes(folder).unwrap();
    while bench.append(append("a", vec![part("s", &[("", 1)])])).is_ok() {}
    assert!(bench.log.stats().is_full);
    disk.set_capacity(Some(disk.used()));
    for _ in 0..3 {
        clock.advance(Duration::from_secs(1));
        bench.log.step();
        assert_eq!(free(), 0);
    }
    for count in 1..4 {
        let (first, second) = (bench.log.room(), bench.log.room());
        let room = free();
        assert!(room >= RESERVE / 8, "{room}");
        let file = disk.create(&folder.join(format!("delete-{count}"))).unwrap();
        file.write_all_at(&[1; 1024], 0).unwrap();
        drop(first);
        assert!(free() >= room - 4096, "the other one still has it");
        drop(second);
        assert!(free() <= RESERVE / 64, "{} bytes are left for others", free());
    }
    // With room for it all is as before.
    disk.set_capacity(None);
    clock.advance(Duration::from_secs(1));
    bench.log.step();
    assert!(!bench.log.stats().is_full);
    assert_eq!(disk.peek(&folder.join("reserve")).unwrap().len() as u64, RESERVE / 4 * 3);
    let before = disk.used();
    drop(bench.log.room());
    assert_eq!(disk.used(), before, "it is not touched while there is room");
    // Others may have filled the disk before the housekeeper has seen it.
    disk.set_capacity(Some(disk.used()));
    let room = bench.log.room();
    assert!(free() >= RESERVE / 8, "{}", free());
    drop(room);
    assert!(free() <= RESERVE / 64, "{} bytes are left for others", free());
}

#[test]
fn a_log_opens_on_a_full_disk() {
    let bench = open(&SimDisk::new());
    for value in 0..30 {
        bench.append(append("a", vec![part("s", &[(&format!("{value}"), value)])])).unwrap();
    }
    let mut choices = Choices::seeded(1);
    let disk = bench.disk.after_crash(&mut choices);
    disk.set_capacity(Some(disk.used()));
    let again = try_open_with(&disk, &bench.clock, options(), 0).unwrap();
    assert_eq!(again.keeper.rows().len(), 30);
}

#[test]
fn a_file_whose_sync_failed_is_never_written_again() {
    let bench = open(&SimDisk::new());
    bench.append(append("a", vec![part("s", &[("1", 1)])])).unwrap();
    let file = segments(&bench.disk).pop().unwrap();
    // The write is the first operation, the sync the second.
    bench.disk.fail_at(Fault::Io, 2);
    let error = bench.append(append("a", vec![part("s", &[("2", 2)])])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    let before = bench.disk.peek(&file).unwrap();
    assert_eq!(bench.append(append("a", vec![part("s", &[("2", 2)])])).unwrap().parts[0].stored, 1);
    assert_eq!(bench.disk.peek(&file).unwrap(), before);
    assert_eq!(bench.log.stats().segments_failed, 1);
    let ids: Vec<String> = bench.keeper.rows().into_iter().map(|row| row.id).collect();
    assert_eq!(ids, ["1", "2"]);
}

/// That a segment exists is noted until it is stored: if it is lost later, it is missed.
#[test]
fn a_segment_is_noted_although_the_first_try_fails() {
    let mut n_failed = 0;
    for at in 1.. {
        let clock = ManualClock::new(START);
        let bench = try_open_with(&SimDisk::new(), &clock, small_options(), 0).unwrap();
        let n_before = segments(&bench.disk).len();
        let mut value = 0;
        // One commit before the segment is full, so that what follows makes the next one.
        let mut before = bench.disk.fork();
        while segments(&bench.disk).len() <= n_before + 1 {
            before = bench.disk.fork();
            bench.append(append("a", vec![part("s", &[(&format!("{value}"), value)])])).unwrap();
            value += 1;
        }
        let bench = try_open_with(&before, &clock, small_options(), 0).unwrap();
        bench.disk.fail_at(Fault::Io, at);
        let last = bench.append(append("a", vec![part("s", &[("last", 1)])]));
        let was_met = !bench.disk.faults_met().is_empty();
        bench.disk.heal();
        clock.advance(Duration::from_secs(2));
        bench.log.step();
        let after = bench.disk.fork();
        let newest = segments(&after).pop().unwrap();
        after.vanish(&newest).unwrap();
        let again = try_open_with(&after, &clock, small_options(), 0).unwrap();
        let is_lost = last.is_ok() && !again.keeper.rows().iter().any(|row| row.id == "last");
        assert!(
            !is_lost || !again.keeper.damages.lock().unwrap().is_empty(),
            "operation {at}: nobody misses {newest:?}"
        );
        n_failed += usize::from(was_met);
        if !was_met {
            break;
        }
    }
    assert!(n_failed > 5, "{n_failed}");
}
