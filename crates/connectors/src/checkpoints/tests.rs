#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use weir_testkit::sim_disk::{Choices, Fault, SimDisk};

use super::take_overs::{OVERDUE_MAX, PATIENCE, TAKE_OVERS_MAX};
use super::*;
use crate::ready;

fn open(disk: &Arc<SimDisk>) -> Result<CheckpointFolder, CheckpointError> {
    CheckpointFolder::open(Path::new("/d/c"), Arc::clone(disk) as Arc<dyn Disk>)
}

#[test]
fn an_object_is_created_once_and_read_as_it_was() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    assert_eq!(ready(store.read("m-1")).unwrap(), None);
    assert_eq!(ready(store.create("m-1", b"one")).unwrap(), Created::Now);
    assert_eq!(ready(store.create("m-1", b"two")).unwrap(), Created::Before);
    assert_eq!(ready(store.create("empty", b"")).unwrap(), Created::Now);
    assert_eq!(ready(store.read("m-1")).unwrap().unwrap(), b"one");
    assert_eq!(ready(store.read("empty")).unwrap().unwrap(), b"");
    assert_eq!(ready(store.list()).unwrap(), ["empty", "m-1"]);
    ready(store.delete("m-1")).unwrap();
    ready(store.delete("m-1")).unwrap();
    assert_eq!(ready(store.list()).unwrap(), ["empty"]);
    assert_eq!(disk.files_under(Path::new("/d/c")).len(), 1, "nothing is left aside");
}

#[test]
fn names_stay_within_the_folder() {
    let store = open(&SimDisk::new()).unwrap();
    for name in ["", ".", "..", "../x", "a/b", ".hidden", "a\0", "ä", &"x".repeat(129)] {
        assert_eq!(ready(store.create(name, b"")).unwrap_err().kind, ErrorKind::Internal, "{name}");
        assert!(ready(store.read(name)).is_err() && ready(store.delete(name)).is_err());
    }
    assert_eq!(ready(store.create(&"x".repeat(128), b"")).unwrap(), Created::Now);
}

#[test]
fn damage_is_found() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    ready(store.create("m", b"some bytes")).unwrap();
    let path = Path::new("/d/c/m");
    let good = disk.peek(path).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        disk.poke(path, &bytes).unwrap();
        assert_eq!(ready(store.read("m")).unwrap_err().kind, ErrorKind::Corrupt, "bit {bit}");
    }
    for len in 0..good.len() {
        disk.poke(path, &good[..len]).unwrap();
        assert_eq!(ready(store.read("m")).unwrap_err().kind, ErrorKind::Corrupt, "{len} bytes");
    }
}

/// Creates and deletes objects; what is certain afterwards, and what may or may not be.
fn work(store: &CheckpointFolder, certain: &mut BTreeMap<String, Option<Vec<u8>>>) {
    for n in 0..4_u8 {
        for (name, bytes) in [(format!("m-{n}"), vec![n; 700]), (format!("m-{n}"), vec![n + 100; 9])] {
            match ready(store.create(&name, &bytes)) {
                Ok(Created::Now) => {
                    certain.insert(name, Some(bytes));
                }
                // Somebody before, who may have been told that it failed.
                Ok(Created::Before) => {
                    let read = ready(store.read(&name)).ok().flatten();
                    if let Some(read) = read {
                        certain.insert(name, Some(read));
                    }
                }
                Err(_) => {}
            }
        }
        if n >= 2 {
            let name = format!("m-{}", n - 2);
            // It may come back, as it was.
            certain.remove(&name);
            let _ = ready(store.delete(&name));
        }
    }
}

#[test]
fn what_was_created_stays_and_nothing_is_ever_half_there() {
    for fault in [Fault::PowerLoss, Fault::Io, Fault::Full] {
        for seed in weir_testkit::seeds(8) {
            for at in 1.. {
                let disk = SimDisk::new();
                disk.fail_at(fault, at);
                let mut certain = BTreeMap::new();
                if let Ok(store) = open(&disk) {
                    work(&store, &mut certain);
                }
                let what = format!("{fault:?} at {at}, seed {seed}");
                let after = disk.after_crash(&mut Choices::seeded(seed));
                let store = open(&after).unwrap();
                for name in ready(store.list()).unwrap() {
                    let bytes = ready(store.read(&name)).unwrap_or_else(|error| panic!("{what}: {error}")).unwrap();
                    let n: u8 = name[2..].parse().unwrap();
                    assert!(bytes == vec![n; 700] || bytes == vec![n + 100; 9], "{what}: {name}");
                }
                for (name, bytes) in &certain {
                    assert_eq!(&ready(store.read(name)).unwrap(), bytes, "{what}: {name}");
                }
                assert!(after.files_under(Path::new("/d/c")).iter().all(|path| !path.ends_with(".aside")));
                if disk.faults_met().is_empty() {
                    assert!(at > 20, "{at} operations");
                    break;
                }
            }
        }
    }
}

#[test]
fn waiting_for_the_disk_takes_few_threads() {
    let threads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let started = Arc::clone(&threads);
    let count = move || {
        started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .on_thread_start(count)
        .build()
        .unwrap();
    runtime.block_on(async {
        let pause = || std::thread::sleep(std::time::Duration::from_millis(5));
        let all: Vec<_> = (0..100).map(|_| tokio::spawn(off_the_way(pause))).collect();
        for one in all {
            one.await.unwrap();
        }
    });
    let threads = threads.load(std::sync::atomic::Ordering::Relaxed);
    // One takes over from each that waits; some more are about to rest.
    assert!(threads <= 2 * (2 + TAKE_OVERS_MAX), "{threads} threads");
}

/// Some pipelines have a disk that hangs, for as long as it wants: the others go on after a moment, and how many wait at a
/// time has a bound, also if all of them hang.
#[test]
fn a_disk_that_hangs_holds_up_its_own_pipelines_only() {
    let take_overs: &'static TakeOvers = Box::leak(Box::new(TakeOvers::new()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async move {
        let mut hung = Vec::new();
        for _ in 0..2 * TAKE_OVERS_MAX {
            hung.push(
                tokio::time::timeout(100 * PATIENCE, take_overs.take())
                    .await
                    .expect("the others have hung long enough"),
            );
        }
        let quick: Vec<_> = (0..50).map(|_| tokio::spawn(async { drop(take_overs.take().await) })).collect();
        for one in quick {
            tokio::time::timeout(100 * PATIENCE, one).await.expect("those with a good disk go on").unwrap();
        }
        while hung.len() < TAKE_OVERS_MAX + OVERDUE_MAX {
            hung.push(
                tokio::time::timeout(100 * PATIENCE, take_overs.take()).await.expect("there is room for some more"),
            );
        }
        assert!(
            tokio::time::timeout(5 * PATIENCE, take_overs.take()).await.is_err(),
            "all hang, and nobody takes over"
        );
        // Once the disk has come back it is as it was before.
        drop(hung);
        let all: Vec<_> = futures::future::join_all((0..TAKE_OVERS_MAX).map(|_| take_overs.take())).await;
        assert!(tokio::time::timeout(PATIENCE / 2, take_overs.take()).await.is_err());
        drop(all);
    });
}
