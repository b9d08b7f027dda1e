use crate::StoreError;
use crate::testing::{Bench, ids, log_rows, stream, tenant};

/// Every byte of a small file, damaged in several ways: an error that names file and offset, or the
/// right rows; never other rows. Every bit and every length with `WEIR_EVERY_BIT`.
#[test]
fn every_damaged_byte_is_found_or_harmless() {
    let bench = Bench::new(|_| {});
    let rows: Vec<(i64, i64)> = (0..40).map(|id| (id, id)).collect();
    bench.append("acme", "logs", log_rows(&rows));
    bench.store.flush_all().unwrap();
    let expected = bench.ids("acme");
    let path = bench.snapshot("acme", "logs").files[0].path().to_owned();
    let good = bench.disk.read(&path, 1 << 20).unwrap();
    let check = |bytes: &[u8], what: &str, offset: Option<u64>| {
        let file = bench.disk.open(&path).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        // A new file object, so that no cached footer hides the damage.
        let snapshot = bench.snapshot("acme", "logs");
        let entry = snapshot.files[0].entry.clone();
        bench.store.files.metadata.forget(entry.id);
        match ids(&snapshot) {
            Ok(found) => assert_eq!(found, expected, "{what}"),
            Err(StoreError::Corrupt { file, offset: at, .. }) => {
                assert_eq!(file, path, "{what}");
                if let Some(offset) = offset {
                    assert!(at <= offset, "{what}: byte {offset} is reported at {at}");
                }
            }
            Err(other) => panic!("{what}: {other:?}"),
        }
    };
    let every = std::env::var_os("WEIR_EVERY_BIT").is_some();
    for bit in (0..good.len() * 8).filter(|bit| every || bit % 8 == bit / 8 % 8) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        check(&bytes, &format!("bit {bit}"), Some(bit as u64 / 8));
    }
    for len in (0..good.len()).step_by(if every { 1 } else { 97 }) {
        check(&good[..len], &format!("cut to {len}"), None);
    }
    // Sectors in each other's places.
    let n_sectors = good.len() / 512;
    for (one, other) in (0..n_sectors).flat_map(|one| (0..one).map(move |other| (one, other))) {
        let (mut swapped, mut copied) = (good.clone(), good.clone());
        let (one, other) = (one * 512..(one + 1) * 512, other * 512..(other + 1) * 512);
        swapped[one.clone()].copy_from_slice(&good[other.clone()]);
        swapped[other.clone()].copy_from_slice(&good[one.clone()]);
        copied[other.clone()].copy_from_slice(&good[one.clone()]);
        check(&swapped, &format!("{one:?} and {other:?} swapped"), None);
        check(&copied, &format!("{one:?} over {other:?}"), None);
    }
    // Another file of the same table, as after a write to the wrong place, and an older one of the
    // same length.
    let rows: Vec<(i64, i64)> = (100..140).map(|id| (id, id)).collect();
    let neighbour = Bench::new(|_| {});
    neighbour.append("acme", "logs", log_rows(&rows));
    neighbour.store.flush_all().unwrap();
    let other = neighbour.snapshot("acme", "logs").files[0].path().to_owned();
    let mut other = neighbour.disk.read(&other, 1 << 20).unwrap();
    check(&other, "another file", None);
    other.resize(good.len(), 0);
    check(&other, "another file of the same length", None);
    let mut longer = good.clone();
    longer.extend([0; 100]);
    check(&longer, "zeros at the end", None);
    check(&vec![0; good.len()], "zeros", None);
    bench.disk.remove(&path).unwrap();
    assert!(matches!(ids(&bench.snapshot("acme", "logs")), Err(StoreError::Corrupt { .. })));
    let other = bench.store.snapshot(&tenant("other"), &stream("logs")).unwrap();
    assert_eq!(ids(&other).unwrap(), [0; 0], "other tenants go on");
}

#[test]
fn damaged_rows_of_the_catalogue_cost_their_table_and_no_file() {
    let mut bench = Bench::new(|_| {});
    for name in ["hurt", "safe"] {
        bench.append(name, "logs", log_rows(&[(1, 1)]));
    }
    bench.append("hurt", "logs", log_rows(&[(2, 1)]));
    bench.store.flush_all().unwrap();
    let files = bench.files_on_disk();
    bench.catalogue.damage(&tenant("hurt"), &stream("logs"));
    bench.reopen().unwrap();
    assert!(bench.store.damage(&tenant("hurt"), &stream("logs")).is_some());
    let error = bench.store.snapshot(&tenant("hurt"), &stream("logs")).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { what, .. } if what.contains("row 7")), "{error:?}");
    assert_eq!(bench.ids("safe"), [1]);
    // What looks like an orphan may be what the damaged row named.
    assert_eq!(bench.files_on_disk(), files);
    // New rows are taken in, and written to no file as long as nobody knows what is missing.
    bench.append("hurt", "logs", log_rows(&[(3, 1)]));
    assert!(bench.store.flush_all().is_err());
    assert_eq!(bench.files_on_disk(), files);
    assert_eq!(bench.store.stats().tables.iter().filter(|table| table.damage.is_some()).count(), 1);
}
