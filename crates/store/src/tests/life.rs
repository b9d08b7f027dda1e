use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, TimestampNanosecondArray};
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use crate::testing::{Bench, Fault, NOW, SECOND, log_rows, read_file, stream, tenant, times};
use crate::{Expiry, StoreError};

#[test]
fn rows_are_seen_from_the_tail_and_from_files() {
    let mut bench = Bench::new(|_| {});
    assert_eq!(bench.ids("acme"), [0; 0]);
    bench.append("acme", "logs", log_rows(&[(2, 5), (1, 3)]));
    bench.append("other", "logs", log_rows(&[(9, 0)]));
    assert_eq!(bench.ids("acme"), [1, 2]);
    let report = bench.store.flush(&tenant("acme"), &stream("logs")).unwrap();
    assert_eq!((report.files, report.rows), (1, 2));
    bench.append("acme", "logs", log_rows(&[(3, 1)]));
    assert_eq!(bench.ids("acme"), [1, 2, 3]);
    let snapshot = bench.snapshot("acme", "logs");
    assert_eq!((snapshot.files.len(), snapshot.tail.len()), (1, 1));
    bench.reopen().unwrap();
    assert_eq!(bench.ids("acme"), [1, 2, 3]);
    assert_eq!(bench.ids("other"), [9]);
    bench.store.flush_all().unwrap();
    bench.reopen().unwrap();
    assert_eq!(bench.ids("acme"), [1, 2, 3]);
    assert!(bench.snapshot("acme", "logs").tail.is_empty());
}

#[test]
fn unknown_streams_are_refused() {
    let bench = Bench::new(|_| {});
    let error = bench.store.snapshot(&tenant("acme"), &stream("nothing")).unwrap_err();
    assert!(matches!(error, StoreError::UnknownStream(_)));
}

#[test]
fn a_file_is_sorted_and_described() {
    let bench = Bench::new(|_| {});
    bench.append("acme", "logs", log_rows(&[(1, 50), (2, -10)]));
    bench.append("acme", "logs", log_rows(&[(3, 7), (4, 50), (5, -10)]));
    bench.store.flush_all().unwrap();
    let snapshot = bench.snapshot("acme", "logs");
    let [file] = snapshot.files.as_slice() else { panic!("one file") };
    let seconds: Vec<i64> = times(file).iter().map(|time| (time - NOW) / SECOND).collect();
    assert_eq!(seconds, [-10, -10, 7, 50, 50]);
    let entry = &file.entry;
    assert_eq!((entry.rows, entry.level, entry.partition.as_str()), (5, 0, "2026-11-21"));
    assert_eq!((entry.min_time.0, entry.max_time.0), (NOW - 10 * SECOND, NOW + 50 * SECOND));
    assert_eq!(entry.max_received_at.0, NOW);
    use weir_meta::catalogue::Bound;
    let flags = &entry.columns["flags"];
    assert_eq!((&flags.min, &flags.max, flags.nulls), (&Some(Bound::Int(1)), &Some(Bound::Int(5)), 0));
    let body = &entry.columns["body"];
    assert_eq!(body.min, Some(Bound::Text("row 1".into())));
    assert!(!entry.columns.contains_key("severity_text"), "a column without values is left out");
    let metadata = file.metadata().unwrap();
    let sorting = metadata.row_group(0).sorting_columns().unwrap();
    assert_eq!(sorting.len(), 1);
    let first = metadata.row_group(0).column(sorting[0].column_idx as usize);
    assert_eq!(first.column_path().string(), "time");
    assert!(metadata.offset_index().is_some() && metadata.column_index().is_some(), "the page index is there");
    let footer = metadata.memory_size();
    assert!(footer > 0 && entry.footer_bytes > 8 && entry.footer_bytes < entry.bytes);
}

#[test]
fn rows_are_partitioned_by_believable_time() {
    let bench = Bench::new(|_| {});
    let day = 86_400;
    // Now is 13:00; received now.
    bench.append("acme", "logs", log_rows(&[(1, 0), (2, -14 * 3600), (3, -40 * day), (4, 2 * day), (5, -29 * day)]));
    bench.store.flush_all().unwrap();
    let found: Vec<(String, Vec<i64>)> = bench
        .snapshot("acme", "logs")
        .files
        .iter()
        .map(|file| {
            let flags = read_file(file).unwrap();
            let ids = flags.iter().flat_map(|batch| {
                use arrow::array::AsArray;
                let column = batch.column_by_name("flags").unwrap();
                column.as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
            });
            (file.entry.partition.clone(), ids.collect())
        })
        .collect();
    let expected = [("2026-10-23", vec![5]), ("2026-11-20", vec![2]), ("2026-11-21", vec![3, 1, 4])];
    assert_eq!(found, expected.map(|(name, ids)| (name.to_owned(), ids)));
}

#[test]
fn short_retention_means_hour_partitions() {
    let bench = Bench::new(|_| {});
    bench.catalogue.retain(&tenant("acme"), Duration::from_secs(86_400));
    bench.append("acme", "logs", log_rows(&[(1, 0), (2, -7200)]));
    bench.store.flush_all().unwrap();
    let names: Vec<String> =
        bench.snapshot("acme", "logs").files.iter().map(|file| file.entry.partition.clone()).collect();
    assert_eq!(names, ["2026-11-21T11", "2026-11-21T13"]);
}

#[test]
fn a_crowded_day_means_hour_partitions() {
    let bench = Bench::new(|options| options.day_bytes_max = 100);
    bench.append("acme", "logs", log_rows(&[(1, 0), (2, -7200)]));
    bench.store.flush_all().unwrap();
    bench.append("acme", "logs", log_rows(&[(3, 0), (4, -7200)]));
    bench.store.flush_all().unwrap();
    let names: Vec<String> =
        bench.snapshot("acme", "logs").files.iter().map(|file| file.entry.partition.clone()).collect();
    assert_eq!(names, ["2026-11-21", "2026-11-21T11", "2026-11-21T13"]);
}

#[test]
fn a_snapshot_does_not_change_and_keeps_its_files() {
    let bench = Bench::new(|options| options.compaction_files_max = 2);
    for id in 0..2 {
        bench.append("acme", "logs", log_rows(&[(id, id)]));
        bench.store.flush_all().unwrap();
    }
    bench.append("acme", "logs", log_rows(&[(7, 7)]));
    let before = bench.snapshot("acme", "logs");
    let report = bench.store.compact_once().unwrap();
    assert_eq!((report.merges, report.files, report.rows), (1, 2, 2));
    bench.store.flush_all().unwrap();
    bench.store.unlink_retired();
    assert_eq!(bench.files_on_disk().len(), 4, "two pinned, one merged, one new");
    assert_eq!(crate::testing::ids(&before).unwrap(), [0, 1, 7]);
    assert_eq!(bench.ids("acme"), [0, 1, 7]);
    drop(before);
    bench.store.unlink_retired();
    assert_eq!(bench.files_on_disk().len(), 2);
    assert_eq!(bench.ids("acme"), [0, 1, 7]);
}

#[test]
fn orphans_are_removed_at_the_start_and_nothing_else() {
    let mut bench = Bench::new(|_| {});
    bench.append("acme", "logs", log_rows(&[(1, 1)]));
    bench.store.flush_all().unwrap();
    let dir = bench.options.dir.join("acme/logs/2026-11-21");
    for name in ["left.parquet", "half.parquet.tmp", "notes.txt"] {
        bench.disk.create(&dir.join(name)).unwrap();
    }
    bench.reopen().unwrap();
    let left: Vec<String> = bench.disk.list(&dir).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&"notes.txt".to_owned()));
    assert_eq!(bench.store.stats().orphans_removed, 2);
    assert_eq!(bench.ids("acme"), [1]);
}

#[test]
fn small_records_are_merged_in_the_tail() {
    let bench = Bench::new(|_| {});
    for id in 0..1000 {
        bench.append("acme", "logs", log_rows(&[(id, id % 7)]));
        bench.store.merge_tails();
    }
    assert!(bench.snapshot("acme", "logs").tail.len() < 64, "{}", bench.snapshot("acme", "logs").tail.len());
    assert_eq!(bench.ids("acme"), (0..1000).collect::<Vec<_>>());
    bench.store.flush_all().unwrap();
    assert_eq!(bench.ids("acme"), (0..1000).collect::<Vec<_>>());
    assert_eq!(bench.store.stats().tail_memory_bytes, 0);
}

/// The log does not keep what has left the tail, so what only a snapshot still holds must stay in memory.
#[test]
fn what_only_a_snapshot_holds_is_not_given_up() {
    let bench = Bench::new(|_| {});
    let mut held = Vec::new();
    for id in 0..40 {
        bench.append("acme", "logs", log_rows(&[(id, id)]));
        held.push(bench.snapshot("acme", "logs"));
    }
    bench.store.merge_tails();
    held.push(bench.snapshot("acme", "logs"));
    bench.store.flush_all().unwrap();
    assert_eq!(bench.log.released.load(std::sync::atomic::Ordering::SeqCst), 4000);
    bench.store.memory.make_room(0);
    for (at, snapshot) in held.iter().enumerate() {
        let count = (at as i64 + 1).min(40);
        assert_eq!(crate::testing::ids(snapshot).unwrap(), (0..count).collect::<Vec<_>>());
    }
    drop(held);
    assert_eq!(bench.store.stats().tail_memory_bytes, 0);
}

#[test]
fn past_its_budget_the_tail_is_read_back_from_the_log() {
    let bench = Bench::new(|options| options.tail_bytes_max = 4000);
    for id in 0..100 {
        bench.append("acme", "logs", log_rows(&[(id, id)]));
        bench.store.merge_tails();
    }
    let stats = bench.store.stats();
    assert!(stats.tail_memory_bytes <= 4000, "{}", stats.tail_memory_bytes);
    assert!(stats.tail_spilled_bytes > 0);
    let pinned = bench.snapshot("acme", "logs");
    assert_eq!(bench.ids("acme"), (0..100).collect::<Vec<_>>());
    bench.store.flush_all().unwrap();
    assert_eq!(bench.ids("acme"), (0..100).collect::<Vec<_>>());
    // The snapshot still needs places in the log, so they are not released.
    assert_eq!(crate::testing::ids(&pinned).unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!(bench.log.released.load(std::sync::atomic::Ordering::SeqCst), 0);
    drop(pinned);
    bench.store.release();
    assert_eq!(bench.log.released.load(std::sync::atomic::Ordering::SeqCst), 10_000);
    let stats = bench.store.stats();
    assert_eq!((stats.tail_memory_bytes, stats.tail_spilled_bytes), (0, 0));
}

#[test]
fn only_unflushed_rows_hold_the_log() {
    let bench = Bench::new(|_| {});
    let released = || {
        bench.store.release();
        bench.log.released.load(std::sync::atomic::Ordering::SeqCst)
    };
    bench.append("acme", "logs", log_rows(&[(1, 1)]));
    bench.append("other", "logs", log_rows(&[(2, 1)]));
    bench.append("acme", "logs", log_rows(&[(3, 1)]));
    assert_eq!(released(), 0);
    bench.store.flush(&tenant("acme"), &stream("logs")).unwrap();
    assert_eq!(released(), 100, "the other table waits");
    bench.store.flush(&tenant("other"), &stream("logs")).unwrap();
    assert_eq!(released(), 300);
}

#[test]
fn what_is_due_is_flushed() {
    let bench = Bench::new(|options| {
        options.flush_age = Duration::from_secs(600);
        options.flush_bytes = 20_000;
        options.unflushed_bytes_max = 60_000;
    });
    let flushed = || {
        bench.store.flush_due(&|| false);
        bench.store.stats().flushes
    };
    bench.append("old", "logs", log_rows(&[(1, 1)]));
    assert_eq!(flushed(), 0);
    bench.clock.advance(Duration::from_secs(599));
    assert_eq!(flushed(), 0);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(flushed(), 1, "age");
    let many: Vec<(i64, i64)> = (0..400).map(|id| (id, id)).collect();
    bench.append("large", "logs", log_rows(&many));
    assert_eq!(flushed(), 2, "size");
    for at in 0..20 {
        bench.append(&format!("t{at}"), "logs", log_rows(&many[..60 + at]));
    }
    let before = bench.store.stats();
    let held: u64 = before.tables.iter().map(|table| table.tail_bytes).sum();
    assert!(held > 60_000, "{held}");
    flushed();
    let after = bench.store.stats();
    let held: u64 = after.tables.iter().map(|table| table.tail_bytes).sum();
    assert!(held <= 60_000 && held > 40_000, "{held}");
    let largest = after.tables.iter().find(|table| table.tenant.as_str() == "t19").unwrap();
    assert_eq!(largest.tail_rows, 0, "largest first");
}

#[test]
fn a_day_of_small_writes_leaves_few_files() {
    let bench = Bench::new(|_| {});
    // From the beginning of the next day.
    bench.clock.advance(Duration::from_secs(11 * 3600));
    let mut most = 0;
    for minute in 0..36 * 60 {
        let second = 11 * 3600 + minute * 60;
        // Received when sent: the clock of the rows stands, so times reach at most an hour ahead.
        bench.append("acme", "logs", log_rows(&[(minute, second.min(3000))]));
        bench.clock.advance(Duration::from_secs(60));
        bench.store.flush_due(&|| false);
        while bench.store.compact_once().unwrap().merges > 0 {}
        bench.store.unlink_retired();
        most = most.max(bench.snapshot("acme", "logs").files.len());
    }
    assert!(most <= 32, "{most} files");
    let stats = bench.store.stats();
    assert!(stats.flushes >= 200, "{}", stats.flushes);
    bench.store.flush_all().unwrap();
    assert_eq!(bench.ids("acme"), (0..36 * 60).collect::<Vec<_>>());
    bench.clock.advance(Duration::from_secs(2 * 86_400));
    while bench.store.compact_once().unwrap().merges > 0 {}
    assert_eq!(bench.snapshot("acme", "logs").files.len(), 1, "a quiet partition becomes one file");
    assert_eq!(bench.ids("acme"), (0..36 * 60).collect::<Vec<_>>());
}

#[test]
fn merged_files_are_sorted() {
    let bench = Bench::new(|options| options.compaction_files_max = 3);
    for part in 0..3 {
        let rows: Vec<(i64, i64)> = (0..5000).map(|at| (part + 3 * at, (at * 7919 + part) % 3000)).collect();
        bench.append("acme", "logs", log_rows(&rows));
        bench.store.flush_all().unwrap();
    }
    assert_eq!(bench.store.compact_once().unwrap().merges, 1);
    let snapshot = bench.snapshot("acme", "logs");
    let [file] = snapshot.files.as_slice() else { panic!("one file") };
    assert_eq!((file.entry.level, file.entry.rows), (1, 15_000));
    assert!(times(file).is_sorted());
    assert_eq!(bench.ids("acme"), (0..15_000).collect::<Vec<_>>());
}

#[test]
fn little_memory_means_smaller_merges() {
    let bench = Bench::new(|options| {
        options.compaction_files_max = 6;
        options.compaction_memory_max = 1;
    });
    for id in 0..6 {
        bench.append("acme", "logs", log_rows(&[(id, id)]));
        bench.store.flush_all().unwrap();
    }
    let report = bench.store.compact_once().unwrap();
    assert_eq!((report.merges, report.files), (1, 2));
    assert_eq!(bench.ids("acme"), (0..6).collect::<Vec<_>>());
}

#[test]
fn retention_takes_old_files_and_never_most_of_a_table() {
    let bench = Bench::new(|_| {});
    bench.catalogue.retain(&tenant("acme"), Duration::from_secs(10 * 86_400));
    let day = 86_400;
    for id in 0..10 {
        bench.append("acme", "logs", log_rows(&[(id, -id * day)]));
    }
    bench.store.flush_all().unwrap();
    assert_eq!(bench.store.retain_once(Expiry::Guarded).unwrap().files, 0);
    bench.clock.advance(Duration::from_secs(3 * 86_400));
    let report = bench.store.retain_once(Expiry::Guarded).unwrap();
    assert_eq!((report.files, report.rows, report.held.len()), (2, 2, 0));
    assert_eq!(bench.ids("acme"), (0..8).collect::<Vec<_>>());
    // A clock that jumps takes nothing.
    bench.clock.advance(Duration::from_secs(3650 * 86_400));
    let report = bench.store.retain_once(Expiry::Guarded).unwrap();
    assert_eq!((report.files, report.held), (0, vec![(tenant("acme"), stream("logs"))]));
    assert_eq!(bench.store.stats().retention_held.len(), 1);
    assert_eq!(bench.ids("acme"), (0..8).collect::<Vec<_>>());
    let report = bench.store.retain_once(Expiry::Confirmed).unwrap();
    assert_eq!((report.files, report.held.len()), (8, 0));
    assert_eq!(bench.ids("acme"), [0; 0]);
    bench.store.unlink_retired();
    assert_eq!(bench.files_on_disk(), [""; 0]);
}

#[test]
fn the_guard_of_retention_gives_way_to_an_operator_and_to_time() {
    let (acme, logs) = (tenant("acme"), stream("logs"));
    let held = || {
        let bench = Bench::new(|_| {});
        bench.catalogue.retain(&tenant("acme"), Duration::from_secs(86_400));
        bench.append("acme", "logs", log_rows(&[(1, 1)]));
        bench.store.flush_all().unwrap();
        bench.clock.advance(Duration::from_secs(10 * 86_400));
        assert_eq!(bench.store.retain_once(Expiry::Guarded).unwrap().held.len(), 1);
        bench
    };
    let pass = |bench: &Bench| bench.store.retain_once(Expiry::Guarded).map(|report| (report.files, report.held.len()));

    let bench = held();
    assert!(!bench.store.confirm_expiry(&tenant("nobody"), &logs));
    assert!(bench.store.confirm_expiry(&acme, &logs));
    // A pass that fails does not use the confirmation up.
    bench.catalogue.fail_next(Fault::Refused);
    pass(&bench).unwrap_err();
    assert_eq!(pass(&bench).unwrap(), (1, 0));
    bench.append("acme", "logs", log_rows(&[(2, 1)]));
    bench.store.flush_all().unwrap();
    assert_eq!(pass(&bench).unwrap(), (0, 1), "once");

    let bench = held();
    bench.clock.advance(Duration::from_secs(86_399));
    assert_eq!(pass(&bench).unwrap(), (0, 1));
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(pass(&bench).unwrap(), (1, 0));
    bench.append("acme", "logs", log_rows(&[(2, 1)]));
    bench.store.flush_all().unwrap();
    assert_eq!(pass(&bench).unwrap(), (0, 1), "the day begins again");
}

#[test]
fn the_catalogues_word_is_taken_under_both_locks() {
    let bench = Bench::new(|_| {});
    let (acme, logs) = (tenant("acme"), stream("logs"));
    bench.append("acme", "logs", log_rows(&[(1, 1)]));
    bench.catalogue.fail_next(Fault::Silent);
    bench.store.flush(&acme, &logs).unwrap_err();
    let table = bench.store.table(&acme, &logs);
    let merging = table.rearranging.lock();
    bench.store.flush(&acme, &logs).unwrap_err();
    assert_eq!(bench.snapshot("acme", "logs").files.len(), 0, "a merge is at work");
    drop(merging);
    bench.store.flush(&acme, &logs).unwrap_err();
    assert_eq!(bench.snapshot("acme", "logs").files.len(), 1);
    assert_eq!(bench.ids("acme"), [1]);
    assert!(!bench.store.stats().fenced);
    assert_eq!(bench.store.flush(&acme, &logs).unwrap().files, 0);
}

#[test]
fn a_deleted_tenant_leaves_nothing() {
    let mut bench = Bench::new(|_| {});
    bench.append("gone", "logs", log_rows(&[(1, 1)]));
    bench.append("here", "logs", log_rows(&[(2, 1)]));
    bench.store.flush_all().unwrap();
    bench.append("gone", "logs", log_rows(&[(3, 1)]));
    let pinned = bench.snapshot("gone", "logs");
    bench.catalogue.delete(&tenant("gone"));
    let report = bench.store.retain_once(Expiry::Guarded).unwrap();
    assert_eq!(report.dropped_tenants, [tenant("gone")]);
    assert_eq!(crate::testing::ids(&pinned).unwrap(), [1, 3], "a running query goes on");
    assert_eq!(bench.ids("gone"), [0; 0]);
    drop(pinned);
    bench.store.unlink_retired();
    assert_eq!(bench.files_on_disk().len(), 1);
    bench.reopen().unwrap();
    assert_eq!(bench.ids("gone"), [0; 0], "the log does not bring it back");
    assert_eq!(bench.ids("here"), [2]);
}

/// Killed before its files were unlinked, or before its folders were.
#[test]
fn an_interrupted_deletion_leaves_no_folder_behind_the_next_start() {
    let mut bench = Bench::new(|_| {});
    bench.append("gone", "logs", log_rows(&[(1, 1)]));
    bench.append("here", "logs", log_rows(&[(2, 1)]));
    bench.store.flush_all().unwrap();
    let folders = |bench: &Bench| {
        let dir = &bench.store.options.dir;
        let entries = bench.store.files.disk.list(dir).unwrap();
        entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect::<Vec<_>>()
    };
    assert_eq!(folders(&bench), ["gone", "here"]);
    bench.catalogue.delete(&tenant("gone"));
    bench.store.drop_tenant(&tenant("gone")).unwrap();
    bench.reopen().unwrap();
    assert_eq!(folders(&bench), ["here"]);
    let tables: Vec<_> = bench.store.stats().tables.iter().map(|table| table.tenant.to_string()).collect();
    assert_eq!(tables, ["here"], "the log makes no table for it again");
    assert_eq!(bench.ids("here"), [2]);
}

#[test]
fn a_tenant_that_is_not_found_loses_nothing() {
    let mut bench = Bench::new(|_| {});
    bench.append("lost", "logs", log_rows(&[(1, 1)]));
    bench.append("here", "logs", log_rows(&[(2, 1)]));
    bench.store.flush_all().unwrap();
    bench.append("lost", "logs", log_rows(&[(3, 1)]));
    bench.catalogue.lose(&tenant("lost"));
    let files = bench.files_on_disk();
    for _ in 0..2 {
        assert!(bench.store.retain_once(Expiry::Confirmed).is_err(), "it is reported");
        assert!(bench.store.drop_tenant(&tenant("lost")).is_err());
        assert!(bench.store.drop_tenant(&tenant("here")).is_err());
        assert!(bench.store.flush_all().is_err(), "there is nobody to write files for");
        assert_eq!(bench.ids("lost"), [1, 3]);
        bench.store.unlink_retired();
        assert_eq!(bench.files_on_disk(), files);
        bench.reopen().unwrap();
    }
    bench.append("here", "logs", log_rows(&[(4, 1)]));
    assert_eq!(bench.ids("here"), [2, 4]);
}

#[test]
fn a_second_writer_fences_the_first() {
    let mut bench = Bench::new(|_| {});
    bench.append("acme", "logs", log_rows(&[(1, 1)]));
    let first = std::sync::Arc::clone(&bench.store);
    bench.reopen().unwrap();
    assert!(matches!(first.flush_all(), Err(StoreError::Fenced)));
    assert!(first.stats().fenced);
    bench.store.flush_all().unwrap();
    assert_eq!(bench.ids("acme"), [1]);
    assert_eq!(bench.files_on_disk().len(), 1);
}

#[test]
fn commits_that_fail_or_are_not_heard_neither_lose_nor_double() {
    for fault in [Fault::Refused, Fault::Unheard, Fault::Silent, Fault::Late] {
        let mut bench = Bench::new(|options| options.compaction_files_max = 2);
        bench.append("acme", "logs", log_rows(&[(1, 1)]));
        bench.catalogue.fail_next(fault);
        let result = bench.store.flush_all();
        assert_eq!(result.is_ok(), fault == Fault::Unheard, "{fault:?}");
        assert_eq!(bench.ids("acme"), [1], "{fault:?}");
        for id in 2..40 {
            bench.append("acme", "logs", log_rows(&[(id, 1)]));
        }
        bench.store.merge_tails();
        // A table that has moved is reloaded at the first attempt and flushed at the second.
        let _ = bench.store.flush_all();
        assert_eq!(bench.ids("acme"), (1..40).collect::<Vec<_>>(), "{fault:?}");
        bench.store.flush_all().unwrap();
        assert_eq!(bench.ids("acme"), (1..40).collect::<Vec<_>>(), "{fault:?}");
        assert!(!bench.store.stats().fenced, "{fault:?}");
        bench.append("acme", "logs", log_rows(&[(40, 1)]));
        bench.store.flush_all().unwrap();
        bench.catalogue.fail_next(fault);
        let _ = bench.store.compact_once();
        assert_eq!(bench.ids("acme"), (1..41).collect::<Vec<_>>(), "{fault:?}");
        bench.clock.advance(Duration::from_secs(60));
        let _ = bench.store.compact_once();
        assert!(!bench.store.stats().fenced, "{fault:?}");
        assert_eq!(bench.ids("acme"), (1..41).collect::<Vec<_>>(), "{fault:?}");
        bench.reopen().unwrap();
        assert_eq!(bench.ids("acme"), (1..41).collect::<Vec<_>>(), "{fault:?}");
        bench.store.unlink_retired();
        assert_eq!(bench.files_on_disk().len(), bench.catalogue.files().len(), "{fault:?}");
    }
}

#[test]
fn a_commit_that_comes_back_after_a_crash_finds_its_files() {
    // A flush, and then a merge, whose commit is reported as failed and is there after the crash.
    for merge in [false, true] {
        let mut bench = Bench::new(|options| options.compaction_files_max = 2);
        for id in 1..4 {
            bench.append("acme", "logs", log_rows(&[(id, 1)]));
            if merge {
                bench.store.flush_all().unwrap();
            }
        }
        bench.catalogue.fail_next(Fault::Late);
        if merge {
            let _ = bench.store.compact_once();
        } else {
            bench.store.flush_all().unwrap_err();
        }
        assert_eq!(bench.ids("acme"), [1, 2, 3]);
        bench.reopen().unwrap();
        assert_eq!(bench.snapshot("acme", "logs").files.len(), 1, "merge {merge}");
        assert_eq!(bench.ids("acme"), [1, 2, 3], "merge {merge}");
    }
    // A later commit settles it, and its files go without a restart.
    let mut bench = Bench::new(|_| {});
    bench.append("acme", "logs", log_rows(&[(1, 1)]));
    for _ in 0..3 {
        bench.catalogue.fail_next(Fault::Late);
        bench.store.flush_all().unwrap_err();
    }
    assert_eq!(bench.files_on_disk().len(), 3);
    bench.append("other", "logs", log_rows(&[(2, 1)]));
    bench.store.flush_all().unwrap();
    assert_eq!(bench.files_on_disk().len(), 2);
    bench.reopen().unwrap();
    assert_eq!((bench.ids("acme"), bench.ids("other")), (vec![1], vec![2]));
}

#[test]
fn damage_of_the_log_stops_the_tables_it_may_have_hit() {
    use weir_base::ErrorKind;
    use weir_base::Kinded;
    use weir_log::{Damage, Position, Subscriber};
    let check = |streams: Option<Vec<&str>>, hit: &[&str]| {
        let bench = Bench::new(|_| {});
        bench.append("safe", "logs", log_rows(&[(1, 1)]));
        bench.append("safe", "logs", log_rows(&[(1, 1)]));
        bench.store.flush_all().unwrap();
        bench.append("hurt", "logs", log_rows(&[(2, 1)]));
        bench.store.damaged(&Damage {
            file: "segment-7".into(),
            file_offset: 4711,
            from: Position { shard: 0, offset: 50 },
            to: Position { shard: 0, offset: 90 },
            streams: streams.map(|names| names.into_iter().map(|name| (tenant(name), stream("logs"))).collect()),
        });
        for name in ["safe", "hurt", "third"] {
            let result = bench.store.snapshot(&tenant(name), &stream("logs"));
            if hit.contains(&name) {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains("segment-7") && error.to_string().contains("4711"), "{error}");
                if name == "hurt" {
                    assert!(bench.store.flush(&tenant(name), &stream("logs")).is_err(), "nothing is papered over");
                }
            } else {
                result.unwrap();
            }
        }
    };
    check(Some(vec!["hurt"]), &["hurt"]);
    check(Some(vec!["hurt", "safe"]), &["hurt"]);
    // A table that is made later has lost nothing.
    check(None, &["hurt"]);
}

#[test]
fn damage_of_unknown_streams_hits_the_tables_there_are_after_recovery() {
    use weir_log::{Damage, Position, Subscriber};
    let bench = Bench::new(|_| {});
    bench.append("old", "logs", log_rows(&[(1, 1)]));
    let open = || {
        let options = bench.options.clone();
        let (disk, clock) = (bench.disk.clone(), bench.clock.clone());
        let store = crate::Store::open(options, disk, clock, bench.catalogue.clone()).unwrap();
        store.damaged(&Damage {
            file: "segment-7".into(),
            file_offset: 4711,
            from: Position { shard: 0, offset: 0 },
            to: Position { shard: 0, offset: 90 },
            streams: None,
        });
        bench.log.replay(&store);
        store.attach(bench.log.clone());
        store
    };
    let store = open();
    let hurt = |store: &crate::Store, name: &str| {
        let (tenant, stream) = (tenant(name), stream("logs"));
        let damage = store.damage(&tenant, &stream).is_some();
        assert_eq!(store.snapshot(&tenant, &stream).is_err(), damage, "{name}");
        damage
    };
    assert!(hurt(&store, "old"));
    bench.log.append(&store, vec![(tenant("new"), stream("logs"), log_rows(&[(2, 1)]))]);
    assert!(!hurt(&store, "new") && !hurt(&store, "none") && hurt(&store, "old"));
    // Nor is one at the next start, although it is not in files and the log says the same again.
    let store = open();
    assert!(!hurt(&store, "new") && !hurt(&store, "none") && hurt(&store, "old"));
    store.flush(&tenant("new"), &stream("logs")).unwrap();
}

/// Tables that cannot be flushed hold the log; others are not flushed for it each time.
#[test]
fn a_table_that_cannot_be_flushed_does_not_press_on_others() {
    use weir_log::{Damage, Position, Subscriber};
    let many: Vec<(i64, i64)> = (0..400).map(|id| (id, id)).collect();
    for damaged in [false, true] {
        let bench = Bench::new(|options| {
            options.flush_age = Duration::from_secs(600);
            options.unflushed_bytes_max = 10_000;
        });
        bench.append("hurt", "logs", log_rows(&many));
        if damaged {
            bench.store.damaged(&Damage {
                file: "segment-7".into(),
                file_offset: 4711,
                from: Position { shard: 0, offset: 0 },
                to: Position { shard: 0, offset: 90 },
                streams: Some(vec![(tenant("hurt"), stream("logs"))]),
            });
        } else {
            bench.catalogue.fail_next(Fault::Refused);
            bench.store.flush(&tenant("hurt"), &stream("logs")).unwrap_err();
        }
        bench.append("safe", "logs", log_rows(&[(1, 1)]));
        bench.store.flush_due(&|| false);
        assert_eq!(bench.store.stats().flushes, 0, "damaged {damaged}");
        bench.clock.advance(Duration::from_secs(600));
        bench.store.flush_due(&|| false);
        assert_eq!(bench.snapshot("safe", "logs").tail.len(), 0, "damaged {damaged}");
        assert_eq!(bench.store.damage(&tenant("hurt"), &stream("logs")).is_some(), damaged);
    }
}

/// The attributes of all rows of a snapshot, by id.
fn attributes(bench: &Bench) -> std::collections::BTreeMap<i64, Vec<(String, String)>> {
    use arrow::array::{Array, AsArray};
    let mut out = std::collections::BTreeMap::new();
    for batch in crate::testing::read_all(&bench.snapshot("acme", "logs")).unwrap() {
        let flags = batch.column_by_name("flags").unwrap().as_primitive::<arrow::datatypes::Int64Type>();
        let maps = batch.column_by_name("attributes").unwrap().as_map();
        for row in 0..batch.num_rows() {
            let entries = maps.value(row);
            let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
            let mut entries: Vec<(String, String)> =
                (0..entries.len()).map(|at| (keys.value(at).to_owned(), values.value(at).to_owned())).collect();
            entries.sort();
            out.insert(flags.value(row), entries);
        }
    }
    out
}

#[test]
fn frequent_attributes_get_columns_and_come_back() {
    use weir_data::attributes::AttributeKind;
    let bench = Bench::new(|options| {
        options.promoted_keys_max = 8;
        options.compaction_files_max = 3;
    });
    let promoted = || -> Vec<Vec<String>> {
        let snapshot = bench.snapshot("acme", "logs");
        let names = |file: &std::sync::Arc<crate::TableFile>| {
            file.entry.promoted.iter().map(|key| key.file_column.clone()).collect()
        };
        snapshot.files.iter().map(names).collect()
    };
    let rows = |from: i64| -> Vec<(i64, i64)> { (from..from + 30).map(|id| (id, id)).collect() };
    // No kind is known: the map stays whole.
    bench.append("acme", "logs", log_rows(&rows(0)));
    bench.store.flush_all().unwrap();
    bench.catalogue.declare("id", AttributeKind::Number);
    bench.append("acme", "logs", log_rows(&rows(30)));
    bench.store.flush_all().unwrap();
    bench.catalogue.declare("color", AttributeKind::Text);
    bench.append("acme", "logs", log_rows(&rows(60)));
    let expected = {
        let mut expected = attributes(&bench);
        expected.retain(|id, _| *id >= 60);
        expected
    };
    bench.store.flush_all().unwrap();
    assert_eq!(promoted(), [vec![], vec!["attributes.id"], vec!["attributes.color", "attributes.id"]]);
    let all = attributes(&bench);
    assert_eq!(all.len(), 90);
    assert_eq!(all[&6], [("color".to_owned(), "\"red\"".to_owned()), ("id".to_owned(), "6".to_owned())]);
    assert_eq!(all[&7], [("id".to_owned(), "7".to_owned())]);
    assert!(expected.iter().all(|(id, entries)| all[id] == *entries));
    let entry = &bench.snapshot("acme", "logs").files[2].entry;
    assert_eq!(entry.columns["attributes.color"].nulls, 20);
    assert!(!entry.columns.contains_key("attributes"), "nothing is stored twice");
    assert_eq!(bench.store.compact_once().unwrap().merges, 1);
    assert_eq!(promoted(), [["attributes.color", "attributes.id"]]);
    assert_eq!(attributes(&bench), all);
    // Files that agree are merged as they are.
    for from in [90, 120, 150] {
        bench.append("acme", "logs", log_rows(&rows(from)));
        bench.store.flush_all().unwrap();
    }
    let all = attributes(&bench);
    assert_eq!(bench.store.compact_once().unwrap().merges, 1);
    assert_eq!(attributes(&bench), all);
    assert_eq!(all.len(), 180);
}

/// Parquet leaves a NaN out of the bounds it keeps, and queries take it for greater than every other number.
#[test]
fn columns_with_a_nan_have_no_bounds() {
    let bench = Bench::new(|_| {});
    let definition = weir_data::streams::stream("metrics").unwrap();
    for values in [[1.0, f64::NAN], [1.0, 2.0]] {
        let times: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![NOW; 2]).with_timezone("UTC"));
        let columns = definition.schema.fields().iter().map(|field| -> Option<ArrayRef> {
            match field.name().as_str() {
                "time" | "received_at" => Some(Arc::clone(&times)),
                "value" => Some(Arc::new(Float64Array::from(values.to_vec()))),
                _ => None,
            }
        });
        let batch = weir_data::batch::sparse(&definition.schema, columns.collect(), 2).unwrap();
        bench.append("acme", "metrics", batch);
        bench.store.flush_all().unwrap();
    }
    let bounds: Vec<(bool, bool, bool)> = bench
        .snapshot("acme", "metrics")
        .files
        .iter()
        .map(|file| {
            let metadata = file.metadata().unwrap();
            let columns = metadata.row_group(0).columns();
            let at = columns.iter().position(|column| column.column_path().string() == "value").unwrap();
            let index = metadata.column_index().is_some_and(|index| index[0][at] != ColumnIndexMetaData::NONE);
            let of_time =
                columns.iter().any(|column| column.column_path().string() == "time" && column.statistics().is_some());
            (columns[at].statistics().is_some(), index, of_time)
        })
        .collect();
    let (with, without) = (&bounds[0], &bounds[1]);
    assert_eq!(*with, (false, false, true));
    assert!(without.0 && without.2, "{without:?}");
}
