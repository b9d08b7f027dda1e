//! What the fuzz targets and the tests of damage call: a small metadata database with arbitrary rows
//! or arbitrary bytes in it, through the real way of opening and reading it. Built for fuzzing and
//! for tests, and in no program.
#![allow(clippy::unwrap_used, reason = "a failed step is a finding")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::types::Value;
use weir_base::clock::ManualClock;
use weir_base::error::Kinded;
use weir_base::secret::Secret;
use weir_base::{ErrorKind, StreamName, TenantId, Timestamp};
use weir_data::attributes::AttributeKind;

use crate::attributes::{ATTRIBUTE_KEYS, AttributeKey};
use crate::catalogue::rows::{FILES, POSITIONS, TABLES};
use crate::catalogue::{ColumnStats, FileEntry, FileId, PromotedKey, TableCommit};
use crate::checksum::CheckedTable;
use crate::database::{COUNTERS, SETTINGS};
use crate::keys::{self, KEYS, KeyKind, NewKey, Scopes};
use crate::limits::Tier;
use crate::pipelines::{DocumentSyntax, PIPELINES, PipelinePut, Trust, Wanted};
use crate::sums::SUMS;
use crate::tenants::{FORMER_TENANTS, NewTenant, TENANTS, TenantState};
use crate::{DamagedRow, Meta, MetaError};

/// Every table whose rows carry a checksum.
static CHECKED: [&CheckedTable; 11] = [
    &FILES,
    &POSITIONS,
    &TABLES,
    &TENANTS,
    &KEYS,
    &ATTRIBUTE_KEYS,
    &SETTINGS,
    &COUNTERS,
    &SUMS,
    &FORMER_TENANTS,
    &PIPELINES,
];
const OWNERS: [&str; 2] = ["acme", "blue"];
const STREAM: &str = "logs";

fn tenant(id: &str) -> TenantId {
    TenantId::new(id).unwrap()
}

fn stream() -> StreamName {
    StreamName::new(STREAM).unwrap()
}

/// Opens the database at `path` as a server does.
pub fn open(path: &Path) -> Result<Arc<Meta>, MetaError> {
    let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
    Meta::open(path, Secret::new([7; 32]), clock)
}

fn file(owner: &str, path: String) -> FileEntry {
    FileEntry {
        id: FileId(0),
        tenant: tenant(owner),
        stream: stream(),
        partition: "2026-11-21".to_owned(),
        path,
        bytes: 70_000,
        rows: 123,
        min_time: Timestamp(-5),
        max_time: Timestamp(9),
        max_received_at: Timestamp(10),
        level: 1,
        columns: [("a".to_owned(), ColumnStats::default())].into(),
        promoted: vec![PromotedKey {
            column: "attributes".into(),
            key: "k".into(),
            kind: "text".into(),
            file_column: "attributes.k".into(),
        }],
        block_crcs: vec![0, u32::MAX],
        footer_bytes: 900,
        created_at: Timestamp(1),
    }
}

/// Two tenants with keys, attribute kinds, pipelines, files and positions.
fn fill(meta: &Meta) {
    let epoch = meta.begin_writer().unwrap();
    for owner in OWNERS {
        let id = tenant(owner);
        meta.create_tenant(NewTenant { id: id.clone(), name: String::new(), tier: Tier::Free }).unwrap();
        let scopes = Scopes { ingest: true, ..Scopes::default() };
        let key = NewKey { tenant: id.clone(), kind: KeyKind::Key, scopes, name: String::new(), expires_at: None };
        meta.create_key(key).unwrap();
        let (column, key) = ("attributes".to_owned(), "size".to_owned());
        let keys = [AttributeKey { stream: stream(), column, key, kind: AttributeKind::Number }];
        meta.declare_attributes(&id, &keys, 10).unwrap();
        let (name, document) = ("visits".to_owned(), "pipeline: visits".to_owned());
        let (syntax, trust, wanted, by) = (DocumentSyntax::Yaml, Trust::Tenant, Wanted::Running, "abcdef".to_owned());
        let put = PipelinePut {
            tenant: id.clone(),
            name,
            document,
            syntax,
            anew: false,
            trust,
            wanted,
            by,
            incarnation: None,
        };
        meta.put_pipeline(put).unwrap();
        let add = (1..3).map(|number| file(owner, format!("{owner}-{number}"))).collect();
        let position = Some((0, 0, 4096));
        let commit = TableCommit { tenant: id, stream: stream(), writer_epoch: epoch, add, remove: vec![], position };
        meta.commit_table(commit).unwrap();
    }
}

/// What a database says, in the order it says it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    /// One line an entry: what it is and whose, then all of it.
    entries: BTreeSet<(&'static str, String, String)>,
    /// What was refused because of damage, and whose it was.
    refused: BTreeSet<(&'static str, String)>,
}

/// Reads everything, the way the server does.
fn read(meta: &Meta) -> Result<Contents, MetaError> {
    let mut contents = Contents { entries: BTreeSet::new(), refused: BTreeSet::new() };
    let mut put = |what: &'static str, owner: &str, entry: String| {
        contents.entries.insert((what, owner.to_owned(), entry));
    };
    let (files, positions) = (meta.files()?, meta.positions()?);
    // A table of which anything is damaged is not served: nobody looks at what is left of it.
    let mut refused = BTreeSet::new();
    for row in files.damaged.iter().chain(&positions.damaged) {
        if let Some(tenant) = &row.tenant {
            refused.insert(("file", tenant.to_string()));
            refused.insert(("position", tenant.to_string()));
        }
    }
    let is_served = |tenant: &TenantId| !refused.contains(&("file", tenant.to_string()));
    for file in files.entries.iter().filter(|file| is_served(&file.tenant)) {
        put("file", file.tenant.as_str(), format!("{file:?}"));
    }
    for position in positions.entries.iter().filter(|position| is_served(&position.tenant)) {
        put("position", position.tenant.as_str(), format!("{position:?}"));
    }
    for owner in OWNERS.iter().chain(&["system"]) {
        let id = tenant(owner);
        match meta.tenant_state(&id) {
            Ok(TenantState::Live(found)) => put("tenant", owner, format!("{found:?}")),
            Ok(TenantState::Deleted) => put("tenant", owner, "deleted".to_owned()),
            Ok(TenantState::Unknown) | Err(MetaError::Corrupt(_)) => {
                refused.insert(("tenant", (*owner).to_owned()));
            }
            Err(error) => return Err(error),
        }
        match meta.keys(&id) {
            Ok(keys) => keys.into_iter().for_each(|key| put("key", owner, format!("{key:?}"))),
            Err(error) => {
                check_kind(&error);
                refused.insert(("key", (*owner).to_owned()));
            }
        }
        match meta.attribute_kinds(&id) {
            Ok(kinds) => kinds.keys(STREAM, "attributes").for_each(|kind| put("kind", owner, format!("{kind:?}"))),
            Err(error) => {
                check_kind(&error);
                refused.insert(("kind", (*owner).to_owned()));
            }
        }
    }
    for pipeline in meta.all_pipelines()? {
        put("pipeline", pipeline.tenant.as_str(), format!("{pipeline:?}"));
    }
    contents.refused = refused;
    Ok(contents)
}

/// A damaged database may be refused; it is never somebody else's fault, and never worth a retry.
fn check_kind(error: &MetaError) {
    let kinds = [ErrorKind::Corrupt, ErrorKind::Internal, ErrorKind::Config, ErrorKind::NotFound];
    assert!(kinds.contains(&error.kind()), "{error:?}");
}

/// Arbitrary rows in a database that stays open.
pub struct Rows {
    meta: Arc<Meta>,
    /// The rows of each table of [`CHECKED`], with their checksums.
    good: Vec<Vec<Vec<Value>>>,
    expected: Contents,
}

impl Rows {
    /// A database in `directory`.
    pub fn new(directory: &Path) -> Self {
        let meta = open(&directory.join("meta.db")).unwrap();
        fill(&meta);
        let good = CHECKED.iter().map(|table| all_rows(&meta, table)).collect();
        meta.writer.lock().execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF").unwrap();
        let expected = read(&meta).unwrap();
        Self { meta, good, expected }
    }

    /// Puts the rows that `input` describes into the database, reads it, and puts it back.
    ///
    /// A row is a byte (the table, and in the highest bit whether its checksum is right), then a byte
    /// for each column with what follows it: 1 an integer, 2 a text, 3 bytes, 4 null, 5 a small
    /// integer; anything else leaves the column as in a good row.
    pub fn run(&self, input: &[u8]) {
        let mut input = Input(input);
        let mut any_sealed = false;
        for _ in 0..8 {
            let Some(head) = input.byte() else { break };
            let at = usize::from(head & 0x7F) % CHECKED.len();
            let (table, good) = (CHECKED[at], &self.good[at]);
            let Some(model) = good.get(usize::from(head & 0x7F) / CHECKED.len() % good.len().max(1)) else { continue };
            let mut values = model.clone();
            let crc = values.pop().unwrap();
            for value in &mut values {
                input.change(value);
            }
            if head & 0x80 == 0 {
                values.push(crc);
            } else {
                values = table.sealed(values);
                any_sealed = true;
            }
            // Values that the column's type refuses cannot be there.
            let _ = self.meta.writer.lock().execute(&table.put(), rusqlite::params_from_iter(values));
        }
        let found = self.reload();
        if let Ok(found) = found
            && !any_sealed
        {
            assert!(found.entries.is_subset(&self.expected.entries), "{found:?}");
            let missing = self.expected.entries.difference(&found.entries).count();
            assert!(missing == 0 || !self.meta.damage().is_empty(), "{missing} entries are gone and nothing is said");
        }
        let _ = self.meta.begin_writer();
        self.reset();
    }

    fn reload(&self) -> Result<Contents, MetaError> {
        for owner in OWNERS {
            self.meta.attributes.forget(&tenant(owner));
        }
        self.meta.damage.clear();
        self.meta.load_tenants()?;
        self.meta.look_for_damaged_keys()?;
        read(&self.meta)
    }

    fn reset(&self) {
        let mut writer = self.meta.writer.lock();
        let transaction = writer.transaction().unwrap();
        for (table, rows) in CHECKED.iter().zip(&self.good) {
            transaction.execute(&format!("DELETE FROM {}", table.name), []).unwrap();
            for row in rows {
                transaction.execute(&table.insert(), rusqlite::params_from_iter(row)).unwrap();
            }
        }
        transaction.commit().unwrap();
    }
}

fn all_rows(meta: &Meta, table: &CheckedTable) -> Vec<Vec<Value>> {
    let writer = meta.writer.lock();
    let mut statement = writer.prepare(&table.select("")).unwrap();
    let n_columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..n_columns).map(|at| row.get(at)).collect()).unwrap();
    rows.map(Result::unwrap).collect()
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken.to_vec()
    }

    fn change(&mut self, value: &mut Value) {
        *value = match self.byte() {
            Some(1) => {
                let mut number = [0; 8];
                number.fill_with(|| self.byte().unwrap_or(0));
                Value::Integer(i64::from_le_bytes(number))
            }
            Some(2) => Value::Text(String::from_utf8_lossy(&self.bytes()).into_owned()),
            Some(3) => Value::Blob(self.bytes()),
            Some(4) => Value::Null,
            Some(5) => Value::Integer(i64::from(self.byte().unwrap_or(0))),
            _ => return,
        };
    }
}

/// Keys as senders present them, in a database that has one.
pub struct Keys {
    meta: Arc<Meta>,
    key: String,
}

impl Keys {
    /// A database in `directory`.
    pub fn new(directory: &Path) -> Self {
        let meta = open(&directory.join("meta.db")).unwrap();
        let id = tenant(OWNERS[0]);
        meta.create_tenant(NewTenant { id: id.clone(), name: String::new(), tier: Tier::Free }).unwrap();
        let scopes = Scopes { ingest: true, ..Scopes::default() };
        let key = NewKey { tenant: id, kind: KeyKind::Key, scopes, name: String::new(), expires_at: None };
        let key = meta.create_key(key).unwrap().1.expose().clone();
        Self { meta, key }
    }

    /// Presents a key. Of the first byte the lowest bit says that the rest takes the place of the
    /// good key's end, the next that the check is put right.
    pub fn run(&self, input: &[u8]) {
        let Some((flags, rest)) = input.split_first() else { return };
        let mut text = String::from_utf8_lossy(rest).into_owned();
        if flags & 1 != 0 {
            let keep = self.key.len().saturating_sub(text.len());
            text.insert_str(0, &self.key[..keep]);
        }
        if flags & 2 != 0
            && let Some(body) = text.len().checked_sub(6).and_then(|at| text.get(..at))
        {
            let check = keys::check_of(body);
            text = format!("{body}{}", String::from_utf8_lossy(&check));
        }
        let is_good = text == self.key || text.strip_prefix("acme:") == Some(self.key.as_str());
        assert_eq!(self.meta.verify_key(&text).is_ok(), is_good, "{text}");
    }
}

/// A database file, and what it says while it is whole.
pub struct Sample {
    path: PathBuf,
    /// The whole file.
    pub bytes: Vec<u8>,
    /// The file before its last commit.
    pub stale: Vec<u8>,
    expected: Contents,
    newest: FileId,
}

/// What became of a damaged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It says the same as the whole one.
    Harmless,
    /// What is damaged is named, and the rest is served.
    Named,
    /// It is not opened, or not read.
    Refused,
}

impl Sample {
    /// A database in `directory`, of small pages, so that there are few bytes without a meaning.
    pub fn new(directory: &Path) -> Self {
        let path = directory.join("sample.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA page_size = 512; VACUUM").unwrap();
        drop(connection);
        let meta = open(&path).unwrap();
        fill(&meta);
        drop(meta);
        let stale = std::fs::read(&path).unwrap();
        let meta = open(&path).unwrap();
        let epoch = meta.begin_writer().unwrap();
        let (id, remove) = (tenant(OWNERS[0]), vec![FileId(1)]);
        let add = vec![file(OWNERS[0], "acme-3".to_owned())];
        let position = Some((0, 4096, 8192));
        let commit = TableCommit { tenant: id, stream: stream(), writer_epoch: epoch, add, remove, position };
        let newest = meta.commit_table(commit).unwrap()[0];
        let expected = read(&meta).unwrap();
        assert_eq!((meta.damage(), expected.refused.len()), (vec![], 0));
        drop(meta);
        let bytes = std::fs::read(&path).unwrap();
        Self { path, bytes, stale, expected, newest }
    }

    /// The file with some of its bytes changed: three bytes a change, the first two of them the
    /// place.
    pub fn run(&self, input: &[u8]) {
        let mut bytes = self.bytes.clone();
        for change in input.as_chunks::<3>().0 {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
            bytes[at] = change[2];
        }
        self.check(&bytes);
    }

    /// Reads a database that has these bytes, and holds what it says against what it should.
    pub fn check(&self, bytes: &[u8]) -> Verdict {
        for beside in ["-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(beside);
            let _ = std::fs::remove_file(path);
        }
        std::fs::write(&self.path, bytes).unwrap();
        let opened = open(&self.path).and_then(|meta| read(&meta).map(|found| (meta, found)));
        let (meta, found) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                check_kind(&error);
                return Verdict::Refused;
            }
        };
        let damage = meta.damage();
        let wrong: Vec<_> = found.entries.difference(&self.expected.entries).collect();
        assert!(wrong.is_empty(), "wrong entries: {wrong:#?}\n{damage:?}");
        let missing: Vec<_> = self.expected.entries.difference(&found.entries).collect();
        for (what, owner, entry) in &missing {
            let is_named = found.refused.contains(&(what, owner.clone())) || damage.iter().any(|row| harms(row, owner));
            assert!(is_named, "{what} of {owner} is gone and nothing is said: {entry}\n{damage:?}");
        }
        self.check_neighbour(&meta, &found, &damage);
        if missing.is_empty() && damage.is_empty() && found.refused.is_empty() {
            Verdict::Harmless
        } else {
            Verdict::Named
        }
    }
}

impl Sample {
    /// A tenant that no damage touches is served as before: its table takes another file.
    fn check_neighbour(&self, meta: &Meta, found: &Contents, damage: &[DamagedRow]) {
        let owner = OWNERS[1];
        let is_harmed = damage.iter().any(|row| harms(row, owner)) || found.refused.iter().any(|(_, of)| of == owner);
        let epoch = match meta.begin_writer() {
            Ok(epoch) => epoch,
            Err(error) => return check_kind(&error),
        };
        let add = vec![file(owner, "new".to_owned())];
        let (id, position) = (tenant(owner), Some((0, 4096, 4608)));
        let commit = TableCommit { tenant: id, stream: stream(), writer_epoch: epoch, add, remove: vec![], position };
        match meta.commit_table(commit) {
            Ok(ids) => assert!(ids[0] > self.newest, "{ids:?} was used before"),
            Err(error) => assert!(is_harmed, "{owner} is not served: {error:?}\n{damage:?}"),
        }
    }
}

/// Whether a piece of damage covers this owner, or nobody can tell whom it covers.
fn harms(row: &DamagedRow, owner: &str) -> bool {
    row.tenant.as_ref().is_none_or(|tenant| tenant.as_str() == owner)
}

#[cfg(test)]
mod tests;
