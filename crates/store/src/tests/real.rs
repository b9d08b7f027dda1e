//! The real log and the real catalogue around the store, and real threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weir_base::clock::ManualClock;
use weir_base::disk::RealDisk;
use weir_base::secret::Secret;
use weir_base::shutdown::Shutdown;
use weir_base::{Clock, Timestamp};
use weir_log::{Append, AppendPart, Durability, Log, LogOptions};
use weir_meta::Meta;
use weir_meta::limits::Tier;
use weir_meta::tenants::NewTenant;

use crate::seam::SeamError;
use crate::testing::{Bench, NOW, ids, log_rows, stream, tenant};
use crate::{Expiry, Store, StoreOptions};

fn open(dir: &Path, tail_bytes_max: u64) -> (Arc<Meta>, Arc<Store>, Arc<Log>) {
    let clock: Arc<dyn Clock> = ManualClock::new(Timestamp(NOW));
    let meta = Meta::open(&dir.join("meta.db"), Secret::new([7; 32]), Arc::clone(&clock)).unwrap();
    let options = StoreOptions { dir: dir.join("tables"), tail_bytes_max, ..StoreOptions::default() };
    let store = Store::open(options, RealDisk::new(), Arc::clone(&clock), Arc::clone(&meta) as _).unwrap();
    let options = LogOptions { reserve_bytes: 0, ..LogOptions::new(dir.join("log")) };
    let log = Log::open_without_threads(options, RealDisk::new(), clock, vec![Arc::clone(&store) as _]).unwrap();
    store.attach(Arc::clone(&log) as _);
    (meta, store, log)
}

fn append(log: &Log, id: i64) {
    let part = AppendPart { stream: stream("logs"), batch: log_rows(&[(id, id)]), id_column: None };
    let appending = log.append(Append {
        tenant: tenant("acme"),
        parts: vec![part],
        idempotency_key: None,
        producer: None,
        durability: Durability::Disk,
    });
    log.step();
    assert_eq!(appending.now().unwrap().unwrap().parts[0].stored, 1);
}

#[test]
fn rows_go_from_the_log_to_files_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    for tail_bytes_max in [0, 1 << 20] {
        let dir = dir.path().join(tail_bytes_max.to_string());
        std::fs::create_dir(&dir).unwrap();
        let mut expected = Vec::new();
        for round in 0..4 {
            let (meta, store, log) = open(&dir, tail_bytes_max);
            if round == 0 {
                let new = NewTenant { id: tenant("acme"), name: String::new(), tier: Tier::Free };
                meta.create_tenant(new).unwrap();
            }
            let found = || ids(&store.snapshot(&tenant("acme"), &stream("logs")).unwrap()).unwrap();
            assert_eq!(found(), expected, "after start {round}");
            for _ in 0..20 {
                let id = expected.len() as i64;
                append(&log, id);
                expected.push(id);
            }
            store.merge_tails();
            assert_eq!(found(), expected);
            if round % 2 == 0 {
                store.flush_all().unwrap();
                assert_eq!(found(), expected);
                append(&log, expected.len() as i64);
                expected.push(expected.len() as i64);
            }
            assert_eq!(found(), expected);
            let spilled = store.stats().tail_spilled_bytes;
            assert_eq!(spilled > 0, tail_bytes_max == 0);
            log.close();
        }
    }
}

#[test]
fn only_what_the_catalogue_refuses_itself_is_sure_not_to_happen() {
    use weir_meta::MetaError;
    let sync_failed = || std::io::Error::from_raw_os_error(5);
    let answers = [
        (MetaError::NotFound { what: "tenant", id: "acme".into() }, true),
        (MetaError::Fenced { epoch: 1, current: 2 }, true),
        (MetaError::Io { action: "commit", path: "meta.db".into(), source: sync_failed() }, false),
    ];
    for (error, is_refusal) in answers {
        let shown = error.to_string();
        assert_eq!(SeamError::from(error).is_refusal, is_refusal, "{shown}");
    }
}

#[test]
fn an_interrupted_deletion_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let (meta, store, log) = open(dir.path(), 1 << 20);
    meta.create_tenant(NewTenant { id: tenant("acme"), name: String::new(), tier: Tier::Free }).unwrap();
    append(&log, 1);
    store.flush_all().unwrap();
    append(&log, 2);
    meta.delete_tenant(&tenant("acme")).unwrap();
    store.retain_once(Expiry::Guarded).unwrap();
    assert_eq!(meta.tenants_to_purge(), []);
    assert_eq!(meta.positions().unwrap().entries, []);
    assert!(store.stats().tables.is_empty());
    log.close();
    drop((meta, store, log));
    let (_meta, store, log) = open(dir.path(), 1 << 20);
    assert!(store.stats().tables.iter().all(|table| table.tail_rows == 0), "the log does not bring it back");
    log.close();
}

/// Writers, flushes, merges and queries at once: a query sees rows without a gap, each once, and
/// never fewer than one before.
#[test]
fn everything_at_once() {
    let bench = Bench::new(|options| {
        options.tail_bytes_max = 200_000;
        options.flush_bytes = 100_000;
        options.compaction_files_max = 3;
    });
    let done = AtomicBool::new(false);
    let running = || !done.load(Ordering::Acquire);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for part in 0..400 {
                let rows: Vec<(i64, i64)> = (part * 5..part * 5 + 5).map(|id| (id, id)).collect();
                bench.append("acme", "logs", log_rows(&rows));
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while running() {
                bench.store.flush_all().unwrap();
            }
        });
        scope.spawn(|| {
            while running() {
                bench.store.compact_once().unwrap();
                bench.store.unlink_retired();
            }
        });
        scope.spawn(|| {
            while running() {
                bench.store.merge_tails();
                bench.store.release();
            }
        });
        let mut before = 0;
        while running() {
            let found = bench.ids("acme");
            assert_eq!(found, (0..found.len() as i64).collect::<Vec<_>>());
            assert!(found.len() >= before);
            before = found.len();
        }
    });
    assert_eq!(bench.ids("acme"), (0..2000).collect::<Vec<_>>());
    bench.store.flush_all().unwrap();
    bench.store.unlink_retired();
    assert_eq!(bench.files_on_disk().len(), bench.catalogue.files().len());
}

#[test]
fn background_threads_work_and_end() {
    let bench = Bench::new(|options| options.flush_bytes = 1);
    let shutdown = Shutdown::default();
    let workers = bench.store.run(&shutdown).unwrap();
    bench.append("acme", "logs", log_rows(&[(1, 1)]));
    while bench.store.stats().flushes == 0 {
        std::thread::yield_now();
    }
    shutdown.begin();
    workers.join();
    assert_eq!(bench.ids("acme"), [1]);
    assert!(bench.snapshot("acme", "logs").tail.is_empty());
}
