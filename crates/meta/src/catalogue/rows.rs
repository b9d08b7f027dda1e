//! The catalogue in the database: its rows, their sums, and the one transaction that changes a table.
//!
//! A row that is damaged is found by its checksum, and a row that is *gone* by the count and the sum
//! its table keeps (`tables`). The sum also tells whose row a damaged one is, when its tenant may be
//! the very thing that was damaged.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction};
use weir_base::error::Kinded;
use weir_base::{ErrorKind, StreamName, TenantId, Timestamp};

use super::{FileEntry, FileId, Loaded, TableCommit, TablePosition};
use crate::checksum::{CheckedTable, Fields, checksum_in, checksum_of, integer};
use crate::database::{counter, set_counter};
use crate::error::is_damage;
use crate::sums::{self, OF_TENANT, Sums as RowSums};
use crate::{DamagedRow, Meta, MetaError, tenants};

const WRITER_EPOCH: &str = "writer_epoch";
const NEXT_FILE_ID: &str = "next_file_id";

pub(crate) static TABLES: CheckedTable =
    CheckedTable { name: "tables", key: &["tenant", "stream"], rest: &["n_files", "files_sum", "n_positions"] };

pub(crate) static POSITIONS: CheckedTable =
    CheckedTable { name: "positions", key: &["tenant", "stream", "shard"], rest: &["log_offset"] };

pub(crate) static FILES: CheckedTable = CheckedTable {
    name: "files",
    key: &["tenant", "stream", "id"],
    rest: &[
        "partition_name",
        "path",
        "n_bytes",
        "n_rows",
        "min_time",
        "max_time",
        "max_received_at",
        "level",
        "columns_json",
        "promoted_json",
        "block_crcs",
        "footer_bytes",
        "created_at",
    ],
};

/// The count and sum of a table's rows. The sum is the exclusive or of the rows' checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    n_files: u64,
    files_sum: u32,
    n_positions: u64,
}

type TableKey = (TenantId, StreamName);

fn read_sums(connection: &Connection, key: &TableKey) -> Result<Sums, MetaError> {
    let failed = |error| MetaError::database("read the sums of a table", error);
    let mut statement =
        connection.prepare_cached(&TABLES.select("WHERE tenant = ?1 AND stream = ?2")).map_err(failed)?;
    let row =
        statement.query_row([key.0.as_str(), key.1.as_str()], |row| TABLES.read(row)).optional().map_err(failed)?;
    match row {
        None => Ok(Sums::default()),
        Some(Ok(fields)) => Ok(decode_sums(fields).1),
        Some(Err(row)) => {
            Err(MetaError::Corrupt(DamagedRow { tenant: Some(key.0.clone()), stream: Some(key.1.clone()), ..row }))
        }
    }
}

fn decode_sums(mut fields: Fields) -> (Option<TableKey>, Sums) {
    let key = TenantId::new(&fields.text()).ok().zip(StreamName::new(&fields.text()).ok());
    let sums = Sums {
        n_files: fields.unsigned(),
        files_sum: u32::try_from(fields.int()).unwrap_or(0),
        n_positions: fields.unsigned(),
    };
    (key, sums)
}

fn write_sums(transaction: &Transaction<'_>, key: &TableKey, sums: Sums) -> Result<(), MetaError> {
    let row = TABLES.sealed(vec![
        Value::Text(key.0.to_string()),
        Value::Text(key.1.to_string()),
        integer(sums.n_files),
        Value::Integer(i64::from(sums.files_sum)),
        integer(sums.n_positions),
    ]);
    execute(transaction, &TABLES.put(), row, "write the sums of a table")
}

fn execute(transaction: &Transaction<'_>, sql: &str, row: Vec<Value>, action: &'static str) -> Result<(), MetaError> {
    transaction
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(rusqlite::params_from_iter(row)))
        .map_err(|error| MetaError::database(action, error))?;
    Ok(())
}

fn decode_file(mut fields: Fields) -> Result<FileEntry, DamagedRow> {
    let (tenant, stream, id) = (fields.text(), fields.text(), fields.int());
    let unreadable = fields.unreadable(&format!("{tenant}/{stream}/{id}"));
    let parsed = (|| {
        Some(FileEntry {
            id: FileId(id),
            tenant: TenantId::new(&tenant).ok()?,
            stream: StreamName::new(&stream).ok()?,
            partition: fields.text(),
            path: fields.text(),
            bytes: fields.unsigned(),
            rows: fields.unsigned(),
            min_time: Timestamp(fields.int()),
            max_time: Timestamp(fields.int()),
            max_received_at: Timestamp(fields.int()),
            level: u32::try_from(fields.int()).ok()?,
            columns: serde_json::from_str(&fields.text()).ok()?,
            promoted: serde_json::from_str(&fields.text()).ok()?,
            block_crcs: {
                let bytes = fields.blob();
                let (blocks, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return None;
                }
                blocks.iter().map(|block| u32::from_le_bytes(*block)).collect()
            },
            footer_bytes: fields.unsigned(),
            created_at: Timestamp(fields.int()),
        })
    })();
    parsed.ok_or(unreadable)
}

fn encode_file(file: &FileEntry) -> Result<Vec<Value>, MetaError> {
    let json = |text: serde_json::Result<String>| {
        text.map(Value::Text).map_err(|error| MetaError::invalid(&file.path, error.to_string(), ""))
    };
    Ok(vec![
        Value::Text(file.tenant.to_string()),
        Value::Text(file.stream.to_string()),
        Value::Integer(file.id.0),
        Value::Text(file.partition.clone()),
        Value::Text(file.path.clone()),
        integer(file.bytes),
        integer(file.rows),
        Value::Integer(file.min_time.0),
        Value::Integer(file.max_time.0),
        Value::Integer(file.max_received_at.0),
        Value::Integer(i64::from(file.level)),
        json(serde_json::to_string(&file.columns))?,
        json(serde_json::to_string(&file.promoted))?,
        Value::Blob(file.block_crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect()),
        integer(file.footer_bytes),
        Value::Integer(file.created_at.0),
    ])
}

fn decode_position(mut fields: Fields) -> Result<TablePosition, DamagedRow> {
    let (tenant, stream, shard) = (fields.text(), fields.text(), fields.int());
    let unreadable = fields.unreadable(&format!("{tenant}/{stream}/{shard}"));
    let parsed = (|| {
        Some(TablePosition {
            tenant: TenantId::new(&tenant).ok()?,
            stream: StreamName::new(&stream).ok()?,
            shard: u16::try_from(shard).ok()?,
            offset: fields.unsigned(),
        })
    })();
    parsed.ok_or(unreadable)
}

/// The table a damaged row claims to belong to.
fn claimed(key: &str) -> Option<TableKey> {
    let mut parts = key.split('/');
    TenantId::new(parts.next()?).ok().zip(StreamName::new(parts.next()?).ok())
}

/// The rows of a table of the database, read as far as it can be read.
struct Scan<T> {
    good: Vec<(T, u32)>,
    damaged: Vec<DamagedRow>,
}

impl Meta {
    /// Reads a whole table; if SQLite cannot get through it, tenant by tenant, so that a damaged
    /// page harms those on it only.
    fn scan<T>(
        &self,
        table: &'static CheckedTable,
        decode: fn(Fields) -> Result<T, DamagedRow>,
    ) -> Result<Scan<T>, MetaError> {
        let failed = |error| MetaError::database("read the catalogue", error);
        let reader = self.reader.lock();
        let mut scan = Scan { good: Vec::new(), damaged: Vec::new() };
        match scan_into(&reader, table, decode, &table.select(""), &[], &mut scan) {
            Ok(()) => return Ok(scan),
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        scan = Scan { good: Vec::new(), damaged: Vec::new() };
        if self.tenants.is_incomplete() {
            scan.damaged.push(table.damaged(&[], "rows of a tenant that is not known may be missing"));
        }
        for tenant in self.tenants.ids() {
            let sql = table.select("WHERE tenant = ?1");
            match scan_into(&reader, table, decode, &sql, &[tenant.as_str()], &mut scan) {
                Ok(()) => {}
                Err(error) if is_damage(&error) => {
                    let problem = "a page of the table cannot be read";
                    let key = tenant.to_string();
                    scan.damaged.push(DamagedRow {
                        table: table.name,
                        key,
                        problem,
                        tenant: Some(tenant),
                        stream: None,
                    });
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(scan)
    }

    /// Compares what was read with the sums of each table, and names whose rows are damaged.
    fn settle<T>(
        &self,
        scan: Scan<T>,
        name: &'static str,
        key_of: fn(&T) -> TableKey,
        matches: fn(&Sums, n_rows: u64, sum: u32) -> bool,
    ) -> Result<Loaded<T>, MetaError> {
        let mut found: BTreeMap<TableKey, (u64, u32)> = BTreeMap::new();
        let mut entries = Vec::with_capacity(scan.good.len());
        for (entry, crc) in scan.good {
            let (n_rows, sum) = found.entry(key_of(&entry)).or_default();
            *n_rows += 1;
            *sum ^= crc;
            entries.push(entry);
        }
        let sums = self.scan(&TABLES, |fields| match decode_sums(fields) {
            (Some(key), sums) => Ok((key, sums)),
            (None, _) => Err(TABLES.damaged(&[], "the key cannot be understood")),
        })?;
        let mut wrong: BTreeSet<TableKey> = BTreeSet::new();
        let mut expected: BTreeMap<TableKey, Sums> = sums.good.into_iter().map(|(entry, _)| entry).collect();
        for (key, (n_rows, sum)) in &found {
            let is_right = expected.remove(key).is_some_and(|sums| matches(&sums, *n_rows, *sum));
            if !is_right {
                wrong.insert(key.clone());
            }
        }
        wrong.extend(expected.into_iter().filter(|(_, sums)| !matches(sums, 0, 0)).map(|(key, _)| key));
        let mut damaged = scan.damaged;
        damaged.extend(sums.damaged);
        let mut named = BTreeSet::new();
        for row in &mut damaged {
            // A row that claims to belong to a table with nothing missing is somebody else's.
            if let Some(key) = claimed(&row.key).filter(|key| wrong.contains(key)) {
                (row.tenant, row.stream) = (Some(key.0.clone()), Some(key.1.clone()));
                named.insert(key);
            }
        }
        wrong.retain(|key| !named.contains(key));
        damaged.extend(wrong.into_iter().map(|(tenant, stream)| DamagedRow {
            table: name,
            key: format!("{tenant}/{stream}"),
            problem: "rows are missing, or there are rows that do not belong here",
            tenant: Some(tenant),
            stream: Some(stream),
        }));
        for row in &damaged {
            self.note_damage(row);
        }
        Ok(Loaded { entries, damaged })
    }

    /// Every file of every table that checks out, and what does not.
    pub fn files(&self) -> Result<Loaded<FileEntry>, MetaError> {
        let scan = self.scan(&FILES, decode_file)?;
        self.settle(
            scan,
            FILES.name,
            |file| (file.tenant.clone(), file.stream.clone()),
            |sums, n_rows, sum| sums.n_files == n_rows && sums.files_sum == sum,
        )
    }

    /// How far every table is written, and what does not check out. A table without a position of a
    /// shard is at its beginning.
    pub fn positions(&self) -> Result<Loaded<TablePosition>, MetaError> {
        let scan = self.scan(&POSITIONS, decode_position)?;
        let mut found: BTreeMap<TenantId, RowSums> = BTreeMap::new();
        for (position, crc) in &scan.good {
            found.entry(position.tenant.clone()).or_default().add(*crc);
        }
        let mut loaded = self.settle(
            scan,
            POSITIONS.name,
            |position| (position.tenant.clone(), position.stream.clone()),
            |sums, n_rows, _| sums.n_positions == n_rows,
        )?;
        // A position that is older than it should be: rows would come out of the log twice.
        for tenant in self.tenants.ids() {
            let stored = RowSums::read(&self.reader.lock(), &POSITIONS, tenant.as_str());
            let problem = match stored {
                Ok(Some(Ok(sums))) if sums != found.get(&tenant).copied().unwrap_or_default() => sums::PROBLEM,
                Ok(Some(Err(_))) => "the sum of the positions is damaged",
                Err(error) if error.kind() == ErrorKind::Corrupt => "the sum of the positions cannot be read",
                Ok(_) => continue,
                Err(error) => return Err(error),
            };
            if loaded.damaged.iter().any(|row| row.tenant.as_ref() == Some(&tenant)) {
                continue;
            }
            let damaged = POSITIONS.damaged(&[Value::Text(tenant.to_string())], problem);
            let damaged = DamagedRow { tenant: Some(tenant), ..damaged };
            self.note_damage(&damaged);
            loaded.damaged.push(damaged);
        }
        Ok(loaded)
    }

    /// Begins writing tables: every earlier writer is fenced from now on. Returns the epoch to put
    /// into [`TableCommit::writer_epoch`].
    pub fn begin_writer(&self) -> Result<u64, MetaError> {
        self.write("begin a writer", |transaction| {
            let epoch = counter(transaction, WRITER_EPOCH)?.unwrap_or(0) + 1;
            set_counter(transaction, WRITER_EPOCH, epoch)?;
            // An id is never used twice, also if the disk lost the last write of the counter.
            let taken: Option<i64> = transaction
                .query_row("SELECT max(id) FROM files", [], |row| row.get(0))
                .map_err(|error| MetaError::database("look for the newest file", error))?;
            let next = taken.and_then(|id| u64::try_from(id).ok()).unwrap_or(0).saturating_add(1);
            if counter(transaction, NEXT_FILE_ID)?.unwrap_or(1) < next {
                set_counter(transaction, NEXT_FILE_ID, next)?;
            }
            Ok(epoch)
        })
    }

    /// Changes one table: files in, files out, position forward, all of it or nothing. Returns the
    /// ids of the added files, in their order.
    ///
    /// # Errors
    /// [`MetaError::Fenced`] if another writer has begun, [`MetaError::PositionMoved`] if the table
    /// is not at the position given, [`MetaError::Conflict`] if a file to remove is not part of the
    /// table, [`MetaError::NotFound`] if the tenant does not exist or is deleted.
    pub fn commit_table(&self, commit: TableCommit) -> Result<Vec<FileId>, MetaError> {
        let key = (commit.tenant.clone(), commit.stream.clone());
        if let Some(file) = commit.add.iter().find(|file| (&file.tenant, &file.stream) != (&key.0, &key.1)) {
            return Err(MetaError::conflict("file", &file.path, "belongs to another table than the commit's"));
        }
        let result = self.write("commit a table", |transaction| {
            let current = counter(transaction, WRITER_EPOCH)?.unwrap_or(0);
            if current != commit.writer_epoch {
                return Err(MetaError::Fenced { epoch: commit.writer_epoch, current });
            }
            if !tenants::is_live(transaction, &commit.tenant)? {
                return Err(MetaError::not_found("tenant", &commit.tenant));
            }
            let mut sums = read_sums(transaction, &key)?;
            if let Some((shard, expected, offset)) = commit.position {
                sums.n_positions += u64::from(move_position(transaction, &key, shard, expected, offset)?);
            }
            for id in &commit.remove {
                sums.files_sum ^= remove_file(transaction, &key, *id)?;
                sums.n_files = sums.n_files.saturating_sub(1);
            }
            let mut ids = Vec::with_capacity(commit.add.len());
            if !commit.add.is_empty() {
                let mut next = counter(transaction, NEXT_FILE_ID)?.unwrap_or(1);
                for mut file in commit.add {
                    file.id = FileId(i64::try_from(next).unwrap_or(i64::MAX));
                    next += 1;
                    let row = FILES.sealed(encode_file(&file)?);
                    sums.files_sum ^= checksum_in(&row);
                    sums.n_files += 1;
                    execute(transaction, &FILES.insert(), row, "add a file to the catalogue")?;
                    ids.push(file.id);
                }
                set_counter(transaction, NEXT_FILE_ID, next)?;
            }
            write_sums(transaction, &key, sums)?;
            Ok(ids)
        });
        if let Err(MetaError::Corrupt(row)) = &result {
            self.note_damage(row);
        }
        result
    }

    /// Takes all files of a tenant out of the catalogue and returns those that can be read, so that
    /// they can be unlinked. Positions stay, so that the rows do not come back from the log.
    ///
    /// # Errors
    /// [`MetaError::Conflict`] unless the database proves that the tenant was deleted,
    /// [`MetaError::Corrupt`] if its row is damaged.
    pub fn drop_table_files(&self, tenant: &TenantId) -> Result<Vec<FileEntry>, MetaError> {
        self.write("drop the files of a tenant", |transaction| {
            if !tenants::is_gone(transaction, tenant)? {
                return Err(MetaError::conflict("tenant", tenant, "is not deleted"));
            }
            let failed = |error| MetaError::database("drop the files of a tenant", error);
            let mut scan = Scan { good: Vec::new(), damaged: Vec::new() };
            let sql = FILES.select("WHERE tenant = ?1");
            scan_into(transaction, &FILES, decode_file, &sql, &[tenant.as_str()], &mut scan).map_err(failed)?;
            transaction.execute("DELETE FROM files WHERE tenant = ?1", [tenant.as_str()]).map_err(failed)?;
            for key in table_keys(transaction, tenant).map_err(failed)? {
                let n_positions: i64 = transaction
                    .query_row(
                        "SELECT count(*) FROM positions WHERE tenant = ?1 AND stream = ?2",
                        [key.0.as_str(), key.1.as_str()],
                        |row| row.get(0),
                    )
                    .map_err(failed)?;
                let n_positions = u64::try_from(n_positions).unwrap_or(0);
                write_sums(transaction, &key, Sums { n_positions, ..Sums::default() })?;
            }
            Ok(scan.good.into_iter().map(|(file, _)| file).collect())
        })
    }
}

fn scan_into<T>(
    connection: &Connection,
    table: &'static CheckedTable,
    decode: fn(Fields) -> Result<T, DamagedRow>,
    sql: &str,
    parameters: &[&str],
    scan: &mut Scan<T>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
    while let Some(row) = rows.next()? {
        match table.read(row)?.and_then(decode) {
            Ok(entry) => scan.good.push((entry, checksum_of(row)?)),
            Err(damaged) => scan.damaged.push(damaged),
        }
    }
    Ok(())
}

fn table_keys(transaction: &Transaction<'_>, tenant: &TenantId) -> rusqlite::Result<Vec<TableKey>> {
    let mut statement = transaction.prepare_cached("SELECT stream FROM tables WHERE tenant = ?1")?;
    let streams = statement.query_map([tenant.as_str()], |row| row.get::<_, String>(0))?;
    let mut keys = Vec::new();
    for stream in streams {
        if let Ok(stream) = StreamName::new(&stream?) {
            keys.push((tenant.clone(), stream));
        }
    }
    Ok(keys)
}

/// Compare-and-set of a position. Returns whether the row is new.
fn move_position(
    transaction: &Transaction<'_>,
    key: &TableKey,
    shard: u16,
    expected: u64,
    offset: u64,
) -> Result<bool, MetaError> {
    let failed = |error| MetaError::database("move a table's position", error);
    let stored = transaction
        .prepare_cached(&POSITIONS.select("WHERE tenant = ?1 AND stream = ?2 AND shard = ?3"))
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| Ok((POSITIONS.read(row)?, checksum_of(row)?));
            statement.query_row((key.0.as_str(), key.1.as_str(), shard), read).optional()
        })
        .map_err(failed)?;
    let before = stored.as_ref().map(|(_, crc)| *crc);
    let found = match stored.map(|(row, _)| row.and_then(decode_position)).transpose() {
        Ok(position) => position.map(|position| position.offset),
        Err(row) => {
            let (tenant, stream) = (Some(key.0.clone()), Some(key.1.clone()));
            return Err(MetaError::Corrupt(DamagedRow { tenant, stream, ..row }));
        }
    };
    if found.unwrap_or(0) != expected || offset < expected {
        let (tenant, stream) = key.clone();
        return Err(MetaError::PositionMoved { tenant, stream, shard, expected, found: found.unwrap_or(0) });
    }
    let row = POSITIONS.sealed(vec![
        Value::Text(key.0.to_string()),
        Value::Text(key.1.to_string()),
        Value::Integer(i64::from(shard)),
        integer(offset),
    ]);
    let mut sums = RowSums::change(transaction, &POSITIONS, key.0.as_str(), OF_TENANT)?;
    if let Some(before) = before {
        sums.remove(before);
    }
    sums.add(checksum_in(&row));
    sums.finish(transaction)?;
    execute(transaction, &POSITIONS.put(), row, "move a table's position")?;
    Ok(found.is_none())
}

/// Takes a file out; returns the checksum of its row.
fn remove_file(transaction: &Transaction<'_>, key: &TableKey, id: FileId) -> Result<u32, MetaError> {
    let failed = |error| MetaError::database("remove a file from the catalogue", error);
    let row = transaction
        .prepare_cached(&FILES.select("WHERE tenant = ?1 AND stream = ?2 AND id = ?3"))
        .and_then(|mut statement| {
            statement
                .query_row((key.0.as_str(), key.1.as_str(), id.0), |row| {
                    Ok(match FILES.read(row)? {
                        Ok(_) => Ok(checksum_of(row)?),
                        Err(damaged) => Err(damaged),
                    })
                })
                .optional()
        })
        .map_err(failed)?;
    match row {
        None => Err(MetaError::conflict("file", id.0, "is not part of the table")),
        Some(Err(damaged)) => {
            let (tenant, stream) = (Some(key.0.clone()), Some(key.1.clone()));
            Err(MetaError::Corrupt(DamagedRow { tenant, stream, ..damaged }))
        }
        Some(Ok(crc)) => {
            transaction
                .prepare_cached("DELETE FROM files WHERE tenant = ?1 AND stream = ?2 AND id = ?3")
                .and_then(|mut statement| statement.execute((key.0.as_str(), key.1.as_str(), id.0)))
                .map_err(failed)?;
            Ok(crc)
        }
    }
}
