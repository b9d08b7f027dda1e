//! Crashes and failures at every disk operation of a life with flushes, a merge and an expiry.

use std::path::PathBuf;
use std::sync::Arc;

use weir_base::disk::Disk;
use weir_base::{ErrorKind, Kinded};
use weir_testkit::sim_disk::{Choices, Fault, SimDisk};

use crate::testing::{Bench, log_rows};
use crate::{Expiry, StoreOptions};

fn options() -> StoreOptions {
    StoreOptions {
        dir: PathBuf::from("/data/tables"),
        compaction_files_max: 3,
        promoted_keys_max: 2,
        row_group_rows_max: 8,
        ..StoreOptions::default()
    }
}

fn bench(disk: &Arc<SimDisk>) -> Bench {
    let bench = Bench::on(Arc::clone(disk) as Arc<dyn Disk>, options()).unwrap();
    bench.catalogue.declare("id", weir_data::attributes::AttributeKind::Number);
    bench
}

/// A life with everything that writes. `check` is called after every step with the rows there must
/// be; what fails on the way is tried again by a later step.
fn live(bench: &Bench, mut check: impl FnMut(&Bench, i64)) {
    let mut next = 0;
    for round in 0..3_i64 {
        for _ in 0..2 {
            // Some rows of the day before, so that a flush writes two files.
            let rows: Vec<(i64, i64)> = (next..next + 10).map(|id| (id, -(id % 2) * 80_000 + round)).collect();
            next += 10;
            bench.append("acme", "logs", log_rows(&rows));
        }
        check(bench, next);
        let _ = bench.store.flush_all();
        check(bench, next);
    }
    for _ in 0..2 {
        let _ = bench.store.compact_once();
        check(bench, next);
        bench.store.unlink_retired();
        check(bench, next);
    }
    let _ = bench.store.retain_once(Expiry::Guarded);
    check(bench, next);
}

fn exactly(rows: i64) -> Vec<i64> {
    (0..rows).collect()
}

/// After a restart on what is left, every row is there once, and no other file.
fn check_restart(bench: &Bench, disk: Arc<dyn Disk>, context: &str) {
    let rows = 60;
    let bench = bench.after_crash(disk);
    assert_eq!(bench.ids("acme"), exactly(rows), "{context}");
    bench.store.flush_all().unwrap();
    while bench.store.compact_once().unwrap().merges > 0 {}
    bench.store.unlink_retired();
    assert_eq!(bench.ids("acme"), exactly(rows), "{context}");
    assert_eq!(bench.files_on_disk().len(), bench.catalogue.files().len(), "{context}");
}

#[test]
fn power_lost_at_any_operation_loses_and_doubles_nothing() {
    let mut n_states = 0;
    for at in 1.. {
        let disk = SimDisk::new();
        let bench = bench(&disk);
        disk.fail_from(Fault::PowerLoss, at);
        live(&bench, |_, _| {});
        if disk.faults_met().is_empty() {
            assert!(at > 40, "the life has only {at} operations");
            break;
        }
        for seed in weir_testkit::seeds(3) {
            let left = disk.after_crash(&mut Choices::seeded(at * 100 + seed));
            check_restart(&bench, left, &format!("operation {at}, seed {seed}"));
            n_states += 1;
        }
    }
    assert!(n_states > 100, "{n_states}");
}

#[test]
fn a_failure_at_any_operation_loses_and_doubles_nothing() {
    for fault in [Fault::Io, Fault::Full] {
        for lasting in [false, true] {
            // Lasting failures differ little by where they begin.
            for at in (1..).step_by(if lasting { 5 } else { 1 }) {
                let disk = SimDisk::new();
                let bench = bench(&disk);
                if lasting {
                    disk.fail_from(fault, at);
                } else {
                    disk.fail_at(fault, at);
                }
                let context = format!("{fault:?} at {at}, lasting {lasting}");
                // Counted without reading, so that the failures meet the writers.
                live(&bench, |bench, rows| {
                    let snapshot = bench.snapshot("acme", "logs");
                    let in_files: u64 = snapshot.files.iter().map(|file| file.entry.rows).sum();
                    let in_tail: usize = snapshot.tail.iter().map(|record| record.rows()).sum();
                    assert_eq!(in_files + in_tail as u64, rows as u64, "{context}");
                });
                if disk.faults_met().is_empty() {
                    break;
                }
                disk.heal();
                bench.store.flush_all().unwrap();
                assert!(bench.snapshot("acme", "logs").tail.is_empty(), "{context}");
                assert_eq!(bench.ids("acme"), exactly(60), "{context}");
                check_restart(&bench, disk, &context);
            }
        }
    }
}

#[test]
fn a_full_disk_is_reported_as_full_and_recovers_by_itself() {
    let disk = SimDisk::new();
    let bench = bench(&disk);
    bench.append("acme", "logs", log_rows(&[(1, 1)]));
    disk.set_capacity(Some(disk.used()));
    let error = bench.store.flush_all().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    assert_eq!(bench.ids("acme"), [1]);
    let stats = bench.store.stats();
    assert_eq!(stats.flush_failures, 1);
    assert!(stats.tables[0].flush_error.is_some());
    disk.set_capacity(None);
    // Tried again with a growing pause, which begins small.
    bench.clock.advance(std::time::Duration::from_secs(600));
    bench.store.flush_due(&|| false);
    assert_eq!(bench.store.stats().flushes, 1);
    assert_eq!(bench.store.stats().tables[0].flush_error, None);
    assert_eq!(bench.ids("acme"), [1]);
}
