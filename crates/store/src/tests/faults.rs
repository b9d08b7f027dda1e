use crate::StoreError;
use crate::testing::{Bench, ids, log_rows, stream, tenant};

/// Every byte of a small file, damaged in several ways: an error that names file and offset, or the
/// right rows; never other rows.
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
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        check(&bytes, &format!("bit of byte {at}"), Some(at as u64));
    }
    for len in (0..good.len()).step_by(97) {
        check(&good[..len], &format!("cut to {len}"), None);
    }
    let mut longer = good.clone();
    longer.extend([0; 100]);
    check(&longer, "zeros at the end", None);
    check(&vec![0; good.len()], "zeros", None);
    bench.disk.remove(&path).unwrap();
    assert!(matches!(ids(&bench.snapshot("acme", "logs")), Err(StoreError::Corrupt { .. })));
    let other = bench.store.snapshot(&tenant("other"), &stream("logs")).unwrap();
    assert_eq!(ids(&other).unwrap(), [0; 0], "other tenants go on");
}
