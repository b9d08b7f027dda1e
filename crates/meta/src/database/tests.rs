#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rusqlite::types::Value;
use weir_base::clock::ManualClock;
use weir_base::error::Kinded;
use weir_base::secret::Secret;
use weir_base::{ErrorKind, TenantId, Timestamp};

use super::*;
use crate::limits::Tier;
use crate::migrations::{MIGRATIONS, apply_list};
use crate::tenants::FORMER_TENANTS;
use crate::tenants::NewTenant;

fn open(path: &Path) -> Result<Arc<Meta>, MetaError> {
    Meta::open(path, Secret::new([7; 32]), ManualClock::new(Timestamp(5)))
}

#[test]
fn durability_is_on() {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(&directory.path().join("meta.db")).unwrap();
    let writer = meta.writer.lock();
    let pragma = |name: &str| writer.pragma_query_value(None, name, |row| row.get::<_, Value>(0)).unwrap();
    assert_eq!(pragma("journal_mode"), Value::Text("wal".into()));
    assert_eq!(pragma("synchronous"), Value::Integer(2), "FULL");
    assert_eq!(pragma("foreign_keys"), Value::Integer(1));
    assert_eq!(pragma("busy_timeout"), Value::Integer(5_000));
    for file in ["meta.db", "meta.db-wal"] {
        let mode = fs::metadata(directory.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} can be read by others");
    }
}

#[test]
fn an_older_schema_is_brought_up_to_date() {
    // The first released schema with a tenant in it, as the version of that time left it.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    for known in 1..MIGRATIONS.len() {
        let _ = fs::remove_file(&path);
        let mut connection = open_writer(&path, &DamageList::default()).unwrap();
        apply_list(&mut connection, Timestamp(1), &MIGRATIONS[..known]).unwrap();
        connection
            .execute(
                "INSERT INTO tenants (id, name, tier, overrides, settings, created_at, deleted_at, crc)
                 VALUES ('old', 'Old', 'paid', '{}', '{\"allowed_origins\":[],\"durability\":\"disk\"}', 3, NULL, ?1)",
                [709_193_791_i64],
            )
            .unwrap();
        if known < 3 {
            connection.execute("INSERT INTO purged_tenants (id, purged_at) VALUES ('former', 4)", []).unwrap();
        } else {
            let row = FORMER_TENANTS.sealed(vec![Value::Text("former".to_owned()), Value::Integer(4)]);
            connection.execute(&FORMER_TENANTS.put(), rusqlite::params_from_iter(row)).unwrap();
        }
        drop(connection);
        let meta = open(&path).unwrap();
        assert_eq!(meta.damage(), []);
        let taken = NewTenant { id: TenantId::new("former").unwrap(), name: String::new(), tier: Tier::Free };
        assert_eq!(meta.create_tenant(taken).unwrap_err().kind(), ErrorKind::Conflict);
        let tenant = meta.tenant(&TenantId::new("old").unwrap()).unwrap().unwrap();
        assert_eq!((tenant.name.as_str(), tenant.tier), ("Old", Tier::Paid));
        assert_eq!(meta.files().unwrap().entries, []);
        drop(meta);
        let numbers: Vec<i64> = {
            let connection = open_reader(&path).unwrap();
            let mut statement = connection.prepare("SELECT number FROM migrations ORDER BY number").unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        assert_eq!(numbers, (1..=MIGRATIONS.len() as i64).collect::<Vec<_>>());
    }
}

#[test]
fn migrations_are_numbered_without_gaps() {
    let numbers: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.number).collect();
    assert_eq!(numbers, (1..=MIGRATIONS.len() as i64).collect::<Vec<_>>());
}

#[test]
fn a_failed_migration_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = open_writer(&directory.path().join("meta.db"), &DamageList::default()).unwrap();
    let bad = crate::migrations::Migration {
        number: 1,
        name: "bad",
        sql: "CREATE TABLE a (x); CREATE TABLE a (x);",
        then: |_| Ok(()),
    };
    apply_list(&mut connection, Timestamp(1), &[bad]).unwrap_err();
    apply_list(&mut connection, Timestamp(1), MIGRATIONS).unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    drop(open(&path).unwrap());
    Connection::open(&path).unwrap().execute("INSERT INTO migrations VALUES (1000, 'later', 9)", []).unwrap();
    let error = open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().starts_with("the metadata database has schema 1000, and this version"), "{error}");
}

#[test]
fn settings() {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(&directory.path().join("meta.db")).unwrap();
    assert_eq!(meta.setting("shards").unwrap(), None);
    meta.set_setting("shards", "1").unwrap();
    meta.set_setting("shards", "2").unwrap();
    assert_eq!(meta.setting("shards").unwrap().as_deref(), Some("2"));
    meta.writer.lock().execute("UPDATE settings SET value = '3' WHERE name = 'shards'", []).unwrap();
    assert_eq!(
        meta.setting("shards").unwrap_err().to_string(),
        "row `shards` of table `settings` is damaged: the checksum does not match"
    );
}

/// A page-sized hole anywhere in the file: opening and reading never panic and never return a row
/// that was not written.
#[test]
fn damaged_pages_are_survived() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    let meta = open(&path).unwrap();
    for at in 0..30 {
        let id = TenantId::new(&format!("tenant-{at}")).unwrap();
        meta.create_tenant(NewTenant { id, name: "x".repeat(150), tier: Tier::Free }).unwrap();
    }
    drop(meta);
    let whole = fs::read(&path).unwrap();
    let mut n_opened = 0;
    for at in (0..whole.len()).step_by(512) {
        let mut bytes = whole.clone();
        for byte in &mut bytes[at..(at + 64).min(whole.len())] {
            *byte ^= 0x55;
        }
        fs::write(&path, bytes).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(directory.path().join(format!("meta.db{suffix}")));
        }
        // Structures that nothing works without stop the start, with an error.
        let Ok(meta) = open(&path) else { continue };
        n_opened += 1;
        for tenant in meta.tenants().unwrap().iter().filter(|tenant| tenant.id != TenantId::system()) {
            assert_eq!(tenant.name, "x".repeat(150));
        }
    }
    assert!(n_opened > 10, "only {n_opened} starts");
}
