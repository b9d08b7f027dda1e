#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use weir_base::clock::ManualClock;
use weir_base::error::Kinded;
use weir_base::secret::Secret;
use weir_base::{ErrorKind, StreamName, TenantId, Timestamp};

use super::*;
use crate::limits::Tier;
use crate::tenants::{NewTenant, TenantState};
use crate::{Meta, MetaError};

fn open(path: &Path) -> Arc<Meta> {
    let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
    Meta::open(&path.join("meta.db"), Secret::new([7; 32]), clock).unwrap()
}

fn id(text: &str) -> TenantId {
    TenantId::new(text).unwrap()
}

fn stream(text: &str) -> StreamName {
    StreamName::new(text).unwrap()
}

fn with_tenants(path: &Path) -> Arc<Meta> {
    let meta = open(path);
    for tenant in ["acme", "blue"] {
        meta.create_tenant(NewTenant { id: id(tenant), name: String::new(), tier: Tier::Free }).unwrap();
    }
    meta
}

fn file(tenant: &str, stream_name: &str, path: &str) -> FileEntry {
    FileEntry {
        id: FileId(0),
        tenant: id(tenant),
        stream: stream(stream_name),
        partition: "2026-11-21".to_owned(),
        path: path.to_owned(),
        bytes: 70_000,
        rows: 123,
        min_time: Timestamp(-5),
        max_time: Timestamp(1_700_000_000_000_000_000),
        max_received_at: Timestamp(1_700_000_000_000_000_001),
        level: 1,
        columns: [
            ("a".to_owned(), ColumnStats { min: Some(Bound::Int(1)), max: Some(Bound::Text("z".into())), nulls: 3 }),
            ("b".to_owned(), ColumnStats { min: Some(Bound::Float(1.5)), max: Some(Bound::Bool(true)), nulls: 0 }),
        ]
        .into(),
        promoted: vec![PromotedKey {
            column: "attributes".into(),
            key: "k".into(),
            kind: "text".into(),
            file_column: "attributes.k".into(),
        }],
        block_crcs: vec![0, 0xFFFF_FFFF],
        footer_bytes: 900,
        created_at: Timestamp(1),
    }
}

fn commit(epoch: u64, tenant: &str, stream_name: &str, add: &[&str], position: Option<(u16, u64, u64)>) -> TableCommit {
    TableCommit {
        tenant: id(tenant),
        stream: stream(stream_name),
        writer_epoch: epoch,
        add: add.iter().map(|path| file(tenant, stream_name, path)).collect(),
        remove: Vec::new(),
        position,
    }
}

#[test]
fn a_commit_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let meta = with_tenants(directory.path());
    let epoch = meta.begin_writer().unwrap();
    let ids = meta.commit_table(commit(epoch, "acme", "logs", &["a", "b"], Some((0, 0, 10)))).unwrap();
    assert_eq!(ids, [FileId(1), FileId(2)]);
    let replace = TableCommit { remove: vec![ids[0]], ..commit(epoch, "acme", "logs", &["c"], Some((0, 10, 30))) };
    assert_eq!(meta.commit_table(replace).unwrap(), [FileId(3)]);
    drop(meta);

    let meta = open(directory.path());
    let files = meta.files().unwrap();
    assert_eq!(files.damaged, []);
    let expected: Vec<FileEntry> =
        [(2, "b"), (3, "c")].map(|(id, path)| FileEntry { id: FileId(id), ..file("acme", "logs", path) }).into();
    assert_eq!(files.entries, expected);
    let positions = meta.positions().unwrap();
    assert_eq!(positions.damaged, []);
    let expected = TablePosition { tenant: id("acme"), stream: stream("logs"), shard: 0, offset: 30 };
    assert_eq!(positions.entries, [expected]);
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let meta = with_tenants(directory.path());
    let epoch = meta.begin_writer().unwrap();
    let ids = meta.commit_table(commit(epoch, "acme", "logs", &["a"], Some((0, 0, 10)))).unwrap();
    let other = meta.commit_table(commit(epoch, "blue", "logs", &["o"], None)).unwrap();
    let gone = meta.delete_tenant(&id("blue")).unwrap();
    assert!(gone);

    let check = |commit: TableCommit, expected: &str, kind: ErrorKind| {
        let error = meta.commit_table(commit).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (expected, kind));
        let files = meta.files().unwrap();
        assert_eq!(files.damaged, []);
        assert_eq!(files.entries.len(), 2);
        assert_eq!(meta.positions().unwrap().entries[0].offset, 10);
    };
    let base = || commit(epoch, "acme", "logs", &["n"], None);
    let conflict = ErrorKind::Conflict;
    check(
        TableCommit { position: Some((0, 0, 20)), ..base() },
        "table `acme/logs` is at 10 of shard 0, not at 0",
        conflict,
    );
    check(
        TableCommit { position: Some((1, 5, 20)), ..base() },
        "table `acme/logs` is at 0 of shard 1, not at 5",
        conflict,
    );
    check(
        TableCommit { position: Some((0, 10, 9)), ..base() },
        "table `acme/logs` is at 10 of shard 0, not at 10",
        conflict,
    );
    check(TableCommit { remove: vec![FileId(99)], ..base() }, "file `99` is not part of the table", conflict);
    check(TableCommit { remove: other, ..base() }, "file `2` is not part of the table", conflict);
    check(TableCommit { remove: vec![ids[0], ids[0]], ..base() }, "file `1` is not part of the table", conflict);
    check(
        TableCommit { add: vec![file("blue", "logs", "x")], ..base() },
        "file `x` belongs to another table than the commit's",
        conflict,
    );
    check(commit(epoch, "nobody", "logs", &[], None), "there is no tenant `nobody`", ErrorKind::NotFound);
    check(commit(epoch, "blue", "logs", &[], None), "there is no tenant `blue`", ErrorKind::NotFound);
}

#[test]
fn a_later_writer_fences_an_earlier_one() {
    let directory = tempfile::tempdir().unwrap();
    let meta = with_tenants(directory.path());
    let first = meta.begin_writer().unwrap();
    meta.commit_table(commit(first, "acme", "logs", &["a"], None)).unwrap();
    // The second one is another process.
    let second = open(directory.path()).begin_writer().unwrap();
    assert!(second > first);
    let error = meta.commit_table(commit(first, "acme", "logs", &["b"], None)).unwrap_err();
    assert!(matches!(error, MetaError::Fenced { epoch, current } if epoch == first && current == second), "{error}");
    meta.commit_table(commit(second, "acme", "logs", &["c"], None)).unwrap();
    assert_eq!(meta.files().unwrap().entries.len(), 2);
}

#[test]
fn one_damaged_copy_of_the_epoch_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let meta = with_tenants(directory.path());
    let epoch = meta.begin_writer().unwrap();
    meta.writer.lock().execute("UPDATE counters SET value = 77 WHERE copy = 0", []).unwrap();
    assert_eq!(meta.begin_writer().unwrap(), epoch + 1);
    meta.writer.lock().execute("UPDATE counters SET value = 77", []).unwrap();
    assert_eq!(meta.begin_writer().unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn dropping_a_tenants_files_leaves_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let meta = with_tenants(directory.path());
    let epoch = meta.begin_writer().unwrap();
    for tenant in ["acme", "blue"] {
        meta.commit_table(commit(epoch, tenant, "logs", &["a"], Some((0, 0, 10)))).unwrap();
        meta.commit_table(commit(epoch, tenant, "spans", &["b", "c"], Some((0, 0, 10)))).unwrap();
    }
    assert!(meta.purge_tenant(&id("acme")).is_err(), "not deleted");
    for tenant in ["acme", "nobody"] {
        assert_eq!(meta.drop_table_files(&id(tenant)).unwrap_err().kind(), ErrorKind::Conflict, "{tenant}");
    }
    assert_eq!(meta.files().unwrap().entries.len(), 6);
    assert_eq!(meta.tenants_to_purge(), []);
    meta.delete_tenant(&id("acme")).unwrap();
    assert!(meta.purge_tenant(&id("acme")).is_err(), "still has files");
    let dropped = meta.drop_table_files(&id("acme")).unwrap();
    assert_eq!(dropped.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let files = meta.files().unwrap();
    assert_eq!((files.entries.len(), files.damaged), (3, vec![]));
    let positions = meta.positions().unwrap();
    assert_eq!((positions.entries.len(), positions.damaged), (4, vec![]), "positions stay until the purge");

    assert_eq!(meta.tenants_to_purge(), [id("acme")]);
    meta.purge_tenant(&id("acme")).unwrap();
    meta.purge_tenant(&id("acme")).unwrap();
    assert_eq!(meta.tenants_to_purge(), []);
    assert_eq!(meta.drop_table_files(&id("acme")).unwrap(), []);
    assert_eq!(meta.positions().unwrap().entries.len(), 2);
    assert!(meta.tenants().unwrap().iter().all(|tenant| tenant.id != id("acme")));
    let again = meta.create_tenant(NewTenant { id: id("acme"), name: String::new(), tier: Tier::Free });
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict, "old rows may still be in the log");
}

/// A tenant whose row is damaged, or behind a page that cannot be read, has not been deleted.
#[test]
fn files_of_a_tenant_that_is_not_found_stay() {
    let damages = [
        "UPDATE tenants SET id = 'acmf' WHERE id = 'acme'",
        "DELETE FROM tenants WHERE id = 'acme'",
        "UPDATE tenants SET deleted_at = 5 WHERE id = 'acme'",
    ];
    for sql in damages {
        let directory = tempfile::tempdir().unwrap();
        let meta = with_tenants(directory.path());
        let epoch = meta.begin_writer().unwrap();
        meta.commit_table(commit(epoch, "acme", "logs", &["a"], Some((0, 0, 10)))).unwrap();
        {
            let writer = meta.writer.lock();
            writer.pragma_update(None, "foreign_keys", false).unwrap();
            assert_eq!(writer.execute(sql, []).unwrap(), 1);
        }
        drop(meta);
        let meta = open(directory.path());
        assert!(!matches!(meta.tenant_state(&id("acme")), Ok(TenantState::Deleted | TenantState::Live(_))), "{sql}");
        meta.drop_table_files(&id("acme")).unwrap_err();
        assert_eq!(meta.files().unwrap().entries.len(), 1, "{sql}");
        assert_eq!(meta.tenants_to_purge(), [], "{sql}");
    }
}

/// Statements that damage one row of acme's without adjusting its checksum, for each column.
fn damages(table: &'static crate::checksum::CheckedTable, row: &str) -> Vec<(String, String)> {
    let columns = table.key.iter().chain(table.rest).chain(["crc"].iter());
    columns
        .map(|column| {
            let set = format!(
                "{column} = CASE typeof({column}) WHEN 'integer' THEN {column} + 1000
                 WHEN 'blob' THEN x'00000000fffffffe' ELSE {column} || 'x' END"
            );
            ((*column).to_owned(), format!("UPDATE {} SET {set} WHERE {row}", table.name))
        })
        .collect()
}

/// Everything `damaged` says about tenants: acme's table is named, blue's never.
fn check_blame(damaged: &[DamagedRow], what: &str) {
    let harmed: Vec<_> = damaged.iter().filter_map(|row| Some((row.tenant.clone()?, row.stream.clone()))).collect();
    assert!(harmed.contains(&(id("acme"), Some(stream("logs")))), "{what}: {damaged:?}");
    assert!(harmed.iter().all(|(tenant, _)| *tenant == id("acme")), "{what}: {damaged:?}");
}

#[test]
fn every_damaged_column_of_the_catalogue_is_found_and_harms_only_its_table() {
    let mut cases = damages(&rows::FILES, "tenant = 'acme' AND stream = 'logs' AND path = 'a'");
    cases.extend(damages(&rows::POSITIONS, "tenant = 'acme' AND stream = 'logs'"));
    cases.extend(damages(&rows::TABLES, "tenant = 'acme' AND stream = 'logs'"));
    cases.extend(
        [
            "DELETE FROM files WHERE tenant = 'acme' AND stream = 'logs' AND path = 'a'",
            "DELETE FROM files WHERE tenant = 'acme' AND stream = 'logs'",
            "DELETE FROM positions WHERE tenant = 'acme' AND stream = 'logs'",
            "DELETE FROM tables WHERE tenant = 'acme' AND stream = 'logs'",
            // A row that looks as if it were another tenant's, who has a table of that name.
            "UPDATE files SET tenant = 'blue' WHERE tenant = 'acme' AND stream = 'logs' AND path = 'a'",
            "UPDATE positions SET tenant = 'blue', shard = 5 WHERE tenant = 'acme' AND stream = 'logs'",
            // Bytes that are not text at all.
            "UPDATE files SET path = CAST(x'ff41' AS TEXT) WHERE tenant = 'acme' AND stream = 'logs' AND path = 'a'",
        ]
        .map(|sql| (sql.to_owned(), sql.to_owned())),
    );
    let directory = tempfile::tempdir().unwrap();
    let meta = with_tenants(directory.path());
    let epoch = meta.begin_writer().unwrap();
    for tenant in ["acme", "blue"] {
        meta.commit_table(commit(epoch, tenant, "logs", &["a", "b"], Some((0, 0, 10)))).unwrap();
        meta.commit_table(commit(epoch, tenant, "spans", &["s"], Some((0, 0, 10)))).unwrap();
    }
    for (column, sql) in cases {
        // Damage does not mind foreign keys.
        meta.writer.lock().pragma_update(None, "foreign_keys", false).unwrap();
        let n_rows = meta.writer.lock().execute(&sql, []).unwrap();
        assert!(n_rows > 0, "{sql}");

        let (files, positions) = (meta.files().unwrap(), meta.positions().unwrap());
        let damaged = [files.damaged, positions.damaged].concat();
        assert!(!damaged.is_empty(), "{column}: {sql}");
        check_blame(&damaged, &sql);
        let good = |tenant: &str| files.entries.iter().filter(|file| file.tenant == id(tenant)).count();
        assert_eq!(good("blue"), 3, "{sql}");
        assert_eq!(positions.entries.iter().filter(|position| position.tenant == id("blue")).count(), 2, "{sql}");
        assert!(files.entries.iter().all(|file| *file
            == FileEntry { id: file.id, ..self::file(file.tenant.as_str(), file.stream.as_str(), &file.path) }));
        assert!(!meta.damage().is_empty());

        // Others can still commit.
        meta.commit_table(commit(epoch, "blue", "events", &[], Some((0, 0, 0)))).unwrap();
        reset(&meta, epoch);
    }
}

/// Puts the catalogue back to what the damage test starts with.
fn reset(meta: &Meta, epoch: u64) {
    meta.writer
        .lock()
        .execute_batch("DELETE FROM files; DELETE FROM positions; DELETE FROM tables; DELETE FROM row_sums")
        .unwrap();
    for tenant in ["acme", "blue"] {
        meta.commit_table(commit(epoch, tenant, "logs", &["a", "b"], Some((0, 0, 10)))).unwrap();
        meta.commit_table(commit(epoch, tenant, "spans", &["s"], Some((0, 0, 10)))).unwrap();
    }
}
