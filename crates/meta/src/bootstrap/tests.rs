#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use weir_base::clock::ManualClock;
use weir_base::{ErrorKind, Kinded, Timestamp};

use super::*;
use crate::keys::KeyRecord;

struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn key_file(&self) -> PathBuf {
        self.directory.path().join("admin.key")
    }

    /// A start of the server, up to the key.
    fn open(&self) -> Arc<Meta> {
        let path = self.directory.path().join("meta.db");
        Meta::open(&path, Secret::new([7; 32]), ManualClock::new(Timestamp(1_000))).unwrap()
    }

    fn live_keys(&self, meta: &Meta) -> Vec<KeyRecord> {
        let keys = meta.keys(&TenantId::system()).unwrap();
        keys.into_iter().filter(|key| key.is_live(Timestamp(1_000))).collect()
    }

    /// After a start: the file holds the one live key, and later starts keep it.
    fn check(&self, expected: AdminKey) {
        let meta = self.open();
        let done = meta.ensure_admin_key(&self.key_file()).unwrap();
        assert_eq!(done, expected);
        let text = fs::read_to_string(self.key_file()).unwrap();
        let principal = meta.verify_key(text.trim()).unwrap();
        assert_eq!((principal.kind, principal.scopes), (KeyKind::Admin, Scopes::ALL));
        let live = self.live_keys(&meta);
        assert_eq!(live.len(), 1, "{live:?}");
        assert_eq!(live[0].id, principal.key_id);
        let mode = fs::metadata(self.key_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!self.directory.path().join("admin.key.tmp").exists());
        drop(meta);
        assert_eq!(self.open().ensure_admin_key(&self.key_file()).unwrap(), AdminKey::Kept);
        assert_eq!(fs::read_to_string(self.key_file()).unwrap(), text);
    }

    /// As [`Fixture::check`], for a start that has to make a key of its own.
    fn check_created(&self) {
        let meta = self.open();
        let AdminKey::Created(_) = meta.ensure_admin_key(&self.key_file()).unwrap() else { panic!("not created") };
        drop(meta);
        self.check(AdminKey::Kept);
    }
}

#[test]
fn the_first_start_makes_a_key() {
    Fixture::new().check_created();
}

#[test]
fn killed_before_the_file() {
    let fixture = Fixture::new();
    let meta = fixture.open();
    let (_, text) = meta.begin_admin_key().unwrap();
    drop(meta);
    fixture.check_created();
    assert!(fixture.open().verify_key(text.expose()).is_err(), "nobody has that key, so it must not work");
}

#[test]
fn killed_while_writing_aside() {
    for written in [0, 1, 40] {
        let fixture = Fixture::new();
        let meta = fixture.open();
        let (_, text) = meta.begin_admin_key().unwrap();
        fs::write(fixture.directory.path().join("admin.key.tmp"), &text.expose()[..written]).unwrap();
        drop(meta);
        fixture.check_created();
    }
}

#[test]
fn killed_after_the_rename() {
    let fixture = Fixture::new();
    let meta = fixture.open();
    let (id, text) = meta.begin_admin_key().unwrap();
    write_private(&fixture.key_file(), format!("{}\n", text.expose()).as_bytes()).unwrap();
    drop(meta);
    fixture.check(AdminKey::Created(id));
}

#[test]
fn killed_again_and_again() {
    let fixture = Fixture::new();
    let lost: Vec<String> = (0..3).map(|_| fixture.open().begin_admin_key().unwrap().1.expose().clone()).collect();
    fixture.check_created();
    let meta = fixture.open();
    assert!(lost.iter().all(|text| meta.verify_key(text).is_err()));
}

#[test]
fn a_file_that_is_not_this_key_is_not_complete() {
    for content in ["", "weir_adm_", "nonsense", "\u{0}"] {
        let fixture = Fixture::new();
        let meta = fixture.open();
        meta.begin_admin_key().unwrap();
        fs::write(fixture.key_file(), content).unwrap();
        drop(meta);
        fixture.check_created();
    }
    // A file of another database, found at the first start.
    let fixture = Fixture::new();
    let other = Fixture::new();
    other.check_created();
    fs::copy(other.key_file(), fixture.key_file()).unwrap();
    fixture.check_created();
}

#[test]
fn the_operator_may_remove_the_file_and_all_keys_but_the_last() {
    let fixture = Fixture::new();
    fixture.check_created();
    let first = fs::read_to_string(fixture.key_file()).unwrap();
    fs::remove_file(fixture.key_file()).unwrap();
    let meta = fixture.open();
    let [only] = fixture.live_keys(&meta).try_into().unwrap();
    let error = meta.revoke_key(&TenantId::system(), &only.id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("last administrator's key"), "{error}");
    assert_eq!(meta.ensure_admin_key(&fixture.key_file()).unwrap(), AdminKey::Kept);
    assert!(!fixture.key_file().exists());

    // Whoever has the directory makes another; the one before works on until it is revoked.
    let id = meta.renew_admin_key(&fixture.key_file()).unwrap();
    let second = fs::read_to_string(fixture.key_file()).unwrap();
    for text in [&first, &second] {
        assert_eq!(meta.verify_key(text.trim()).unwrap().kind, KeyKind::Admin);
    }
    assert!(meta.revoke_key(&TenantId::system(), &only.id).unwrap());
    meta.verify_key(first.trim()).unwrap_err();
    assert_eq!(meta.verify_key(second.trim()).unwrap().key_id, id);
    // A key that does not work any more counts for nothing.
    let error = meta.revoke_key(&TenantId::system(), &id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(meta.ensure_admin_key(&fixture.key_file()).unwrap(), AdminKey::Kept);
}

#[test]
fn a_damaged_marker_makes_no_second_key() {
    let fixture = Fixture::new();
    fixture.check_created();
    let meta = fixture.open();
    meta.writer.lock().execute("UPDATE settings SET value = 'pending:x' WHERE name = 'admin_key'", []).unwrap();
    assert_eq!(meta.ensure_admin_key(&fixture.key_file()).unwrap(), AdminKey::Kept);
    assert_eq!(fixture.live_keys(&meta).len(), 1);
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_and_tried_again() {
    let fixture = Fixture::new();
    let meta = fixture.open();
    let nowhere = fixture.directory.path().join("absent/admin.key");
    let error = meta.ensure_admin_key(&nowhere).unwrap_err();
    assert!(error.to_string().starts_with("cannot write the administrator's key to `"), "{error}");
    drop(meta);
    fixture.check_created();
}
