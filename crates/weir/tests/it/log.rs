//! `weir log fsck` on logs that are whole, damaged, in use, and absent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use rustix::process::Signal;
use weir_base::clock::SystemClock;
use weir_base::disk::RealDisk;
use weir_base::{StreamName, TenantId};
use weir_log::{Append, AppendPart, Durability, Log, LogOptions};

use crate::program::{Serving, run, said as program_said};

fn open(dir: &Path) -> Arc<Log> {
    let options = LogOptions { segment_bytes: 64 << 10, reserve_bytes: 0, ..LogOptions::new(dir) };
    Log::open_without_threads(options, RealDisk::new(), SystemClock::new(), Vec::new()).unwrap()
}

fn append(log: &Log, tenant: &str, number: i64) {
    let ids: ArrayRef = Arc::new(StringArray::from_iter([Some(format!("needle-{tenant}-{number}"))]));
    let values: ArrayRef = Arc::new(Int64Array::from_iter([Some(number)]));
    let batch = RecordBatch::try_from_iter_with_nullable([("event_id", ids, true), ("value", values, true)]).unwrap();
    let stream = StreamName::new("own").unwrap();
    let answer = log.append(Append {
        tenant: TenantId::new(tenant).unwrap(),
        parts: vec![AppendPart { stream, batch, id_column: Some("event_id") }],
        idempotency_key: None,
        producer: None,
        durability: Durability::Disk,
    });
    log.step();
    answer.now().unwrap().unwrap();
}

/// A data directory whose log holds ten rows of each of two tenants, and its segment.
fn data_dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("log"));
    for number in 0..10 {
        append(&log, "acme", number);
        append(&log, "blue", number);
    }
    log.close();
    let shard = dir.path().join("log/shard-0");
    let segments = std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path());
    let segment = segments.filter(|path| path.extension().is_some_and(|end| end == "seg")).min().unwrap();
    (dir, segment)
}

fn fsck(dir: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = run(&[&["log", "fsck", "--data-dir", dir.to_str().unwrap()], more].concat());
    (output.status.code(), program_said(&output))
}

#[test]
fn a_whole_log_is_counted() {
    let (dir, _) = data_dir();
    let (code, said) = fsck(dir.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("20 records, 20 rows"), "{said}");
}

#[test]
fn damage_is_named_then_repaired_and_then_gone() {
    let (dir, segment) = data_dir();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(13).position(|window| window == b"needle-blue-3").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();

    let (code, said) = fsck(dir.path(), &[]);
    assert_eq!(code, Some(1), "{said}");
    let place = said.split_once(&format!("{}: damaged at byte ", segment.display())).unwrap().1;
    let (offset, whose) = place.split_once(',').unwrap();
    let offset: usize = offset.parse().unwrap();
    assert!(offset <= at && at - offset < 4096, "{said}");
    assert!(whose.starts_with(" rows of blue.own"), "{said}");
    assert!(said.contains("--repair"), "{said}");
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "without --repair nothing is changed");

    let (code, said) = fsck(dir.path(), &["--repair"]);
    assert_eq!(code, Some(1), "a script has to notice: {said}");
    assert!(said.contains("see above for what is lost"), "{said}");
    let aside = segment.parent().unwrap().join("quarantine");
    assert_eq!(std::fs::read_dir(aside).unwrap().count(), 1, "the damaged bytes are kept");

    let (code, said) = fsck(dir.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("19 records, 19 rows"), "{said}");
    // The log goes on.
    let log = open(&dir.path().join("log"));
    append(&log, "blue", 100);
    log.close();
    assert!(fsck(dir.path(), &[]).1.contains("20 records, 20 rows"));
}

#[test]
fn a_missing_segment_and_a_damaged_checkpoint_are_repaired() {
    let (dir, segment) = data_dir();
    let shard = segment.parent().unwrap();
    let copy = shard.join("checkpoint.copy");
    let mut bytes = std::fs::read(&copy).unwrap();
    bytes[20] ^= 0x10;
    std::fs::write(&copy, bytes).unwrap();
    std::fs::remove_file(&segment).unwrap();
    let (code, said) = fsck(dir.path(), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("one copy is damaged"), "{said}");
    assert!(said.contains(": missing, offsets "), "{said}");
    fsck(dir.path(), &["--repair"]);
    // Opening makes the segment that begins behind the hole; from then on all is well.
    open(&dir.path().join("log")).close();
    fsck(dir.path(), &["--repair"]);
    let (code, said) = fsck(dir.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn two_damaged_copies_are_not_said_to_serve() {
    let (dir, segment) = data_dir();
    for name in ["checkpoint", "checkpoint.copy"] {
        let path = segment.parent().unwrap().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
    }
    let (code, said) = fsck(dir.path(), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("both copies are damaged"), "{said}");
    assert!(!said.contains("the other serves"), "{said}");
    fsck(dir.path(), &["--repair"]);
    let (code, said) = fsck(dir.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("20 records, 20 rows"), "{said}");
}

#[test]
fn a_log_that_is_in_use_or_absent_is_refused() {
    let (dir, _) = data_dir();
    let log = open(&dir.path().join("log"));
    let (code, said) = fsck(dir.path(), &["--repair"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use"), "{said}");
    log.close();
    let empty = tempfile::tempdir().unwrap();
    let (code, said) = fsck(empty.path(), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(empty.path().to_str().unwrap()), "{said}");
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is made");
}

#[test]
fn a_lost_log_is_given_up_by_repair_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Serving::start(dir.path(), &[]);
    assert_eq!(server.stop(Signal::TERM), Some(0));
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let serve = ["serve", "--http", "127.0.0.1:0", "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"];
    let refused = run(&[&serve[..], &["--data-dir", dir.path().to_str().unwrap()]].concat());
    assert_eq!(refused.status.code(), Some(1), "{}", program_said(&refused));
    assert!(program_said(&refused).contains("log fsck --repair"), "{}", program_said(&refused));
    let (code, said) = fsck(dir.path(), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("missing or empty, and there was a log"), "{said}");
    assert!(!dir.path().join("log").exists(), "without --repair nothing is made");
    let (code, said) = fsck(dir.path(), &["--repair"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("begun anew; what was only there is lost"), "{said}");
    assert_eq!(fsck(dir.path(), &[]).0, Some(0));
    let server = Serving::start(dir.path(), &[]);
    assert_eq!(server.stop(Signal::TERM), Some(0));
}
