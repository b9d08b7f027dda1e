//! Files have a search index that belongs to their rows, and others can read them all the same.

use parquet::arrow::async_reader::AsyncFileReader;

use crate::StoreError;
use crate::search::index::{SearchIndex, Segment};
use crate::search::{Case, Condition};
use crate::testing::{Bench, log_rows};
use crate::{Snapshot, TableFile};

fn index(file: &std::sync::Arc<TableFile>) -> Option<SearchIndex> {
    SearchIndex::of(&file.metadata().unwrap(), "body")
}

/// Whether any block of any file may have a body with that text.
fn may_have(snapshot: &Snapshot, text: &str) -> bool {
    let condition = Condition::contains(text, Case::Sensitive);
    snapshot.files.iter().any(|file| {
        let index = index(file).unwrap();
        assert_eq!(index.segments(), 1);
        let bytes = futures::executor::block_on(file.reader().get_bytes(index.bytes(0).unwrap())).unwrap();
        Segment::parse(&bytes).unwrap().candidates(&condition) != 0
    })
}

#[test]
fn files_are_indexed_when_they_are_written_and_when_they_are_merged() {
    let bench = Bench::new(|options| options.compaction_files_max = 3);
    for round in 0..3 {
        let rows: Vec<(i64, i64)> = (0..10).map(|row| (round * 1000 + row, row)).collect();
        bench.append("acme", "logs", log_rows(&rows));
        bench.store.flush_all().unwrap();
        let snapshot = bench.snapshot("acme", "logs");
        for before in 0..3 {
            assert_eq!(may_have(&snapshot, &format!("row {before}00")), before <= round && before > 0);
        }
    }
    assert_eq!(bench.snapshot("acme", "logs").files.len(), 3);
    assert_eq!(bench.store.compact_once().unwrap().merges, 1);
    let snapshot = bench.snapshot("acme", "logs");
    assert_eq!(snapshot.files.len(), 1);
    assert!(may_have(&snapshot, "row 2005"));
    assert!(!may_have(&snapshot, "row 40"));
    assert_eq!(bench.ids("acme").len(), 30);
}

#[test]
fn files_without_an_index_go_on_working() {
    let bench = Bench::new(|options| options.search_index = false);
    bench.append("acme", "logs", log_rows(&[(1, 1), (2, 2)]));
    bench.store.flush_all().unwrap();
    assert_eq!(index(&bench.snapshot("acme", "logs").files[0]), None);
    assert_eq!(bench.ids("acme"), [1, 2]);
}

#[test]
fn a_damaged_index_is_reported_as_damage_of_the_file() {
    let bench = Bench::new(|_| {});
    bench.append("acme", "logs", log_rows(&[(1, 1), (2, 2)]));
    bench.store.flush_all().unwrap();
    let file = bench.snapshot("acme", "logs").files[0].clone();
    let bytes = index(&file).unwrap().bytes(0).unwrap();
    let good = bench.disk.read(file.path(), 1 << 20).unwrap();
    for at in bytes.clone() {
        let mut damaged = good.clone();
        damaged[at as usize] ^= 0x10;
        bench.disk.open(file.path()).unwrap().write_all_at(&damaged, 0).unwrap();
        let error = futures::executor::block_on(file.reader().get_bytes(bytes.clone())).unwrap_err();
        assert!(matches!(file.damage(), Some(StoreError::Corrupt { offset: 0, .. })), "byte {at}: {error}");
    }
}
