#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use weir_base::error::{Kinded, chain};

#[test]
fn a_pepper_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pepper");
    let made = load_or_create(&path).unwrap();
    assert_eq!(load_or_create(&path).unwrap(), made);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&path).unwrap(), made.expose());
    assert_ne!(load_or_create(&directory.path().join("other")).unwrap(), made);
}

#[test]
fn what_a_kill_leaves_aside_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pepper");
    fs::write(directory.path().join("pepper.tmp"), "half").unwrap();
    load_or_create(&path).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_pepper_of_another_length_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pepper");
    for (n_bytes, expected) in [(0, "0"), (31, "31"), (33, "more than 32"), (5_000, "more than 32")] {
        fs::write(&path, vec![1; n_bytes]).unwrap();
        let error = load_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), weir_base::ErrorKind::Corrupt);
        assert!(chain(&error).contains(&format!("it has {expected} bytes instead of 32")), "{}", chain(&error));
    }
}
