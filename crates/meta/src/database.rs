//! Opening the database file: connections, pragmas, the structure check, settings and counters.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction};

use crate::checksum::{CheckedTable, integer};
use crate::error::{DamageList, is_damage};
use crate::{DamagedRow, Meta, MetaError};

/// The smallest page of a database, and its smallest size.
const PAGE_BYTES_MIN: u64 = 512;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Structure problems reported at most.
const STRUCTURE_PROBLEMS_MAX: u32 = 20;

pub(crate) static SETTINGS: CheckedTable = CheckedTable { name: "settings", key: &["name"], rest: &["value"] };
/// Numbers that everything depends on are kept twice, so that one damaged row stops nothing.
pub(crate) static COUNTERS: CheckedTable = CheckedTable { name: "counters", key: &["name", "copy"], rest: &["value"] };
const COUNTER_COPIES: i64 = 2;

/// Opens the connection that writes; creates the file, readable by its owner only.
pub(crate) fn open_writer(path: &Path, damage: &DamageList) -> Result<Connection, MetaError> {
    let create = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match create {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let failed = |error| MetaError::io("read the metadata database", path, error);
            let len = fs::metadata(path).map_err(failed)?.len();
            // SQLite would take what is left of a file that was cut for a new database. An empty one
            // may be that: a crash came right after the line above.
            if (1..PAGE_BYTES_MIN).contains(&len) {
                let problem = format!("it has {len} bytes, which is less than any database has");
                return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidData, problem)));
            }
        }
        Err(error) => return Err(MetaError::io("create the metadata database", path, error)),
    }
    let action = "open the metadata database";
    let failed = |error| MetaError::database(action, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection.pragma_update(None, "cell_size_check", true).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    check_structure(&connection, damage).map_err(failed)?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, MetaError> {
    let failed = |error| MetaError::database("open the metadata database for reading", error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection.pragma_update(None, "cell_size_check", true).map_err(failed)?;
    connection.pragma_update(None, "query_only", true).map_err(failed)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(failed)?;
    Ok(connection)
}

/// Makes the database's directory entry durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), MetaError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let sync = || fs::File::open(directory)?.sync_all();
    sync().map_err(|error| MetaError::io("sync the directory", directory, error))
}

/// Looks for damage in SQLite's own structures. What it finds is noted and does not stop the start:
/// rows are checked one by one, and missing ones are missed by the sums of their table.
fn check_structure(connection: &Connection, damage: &DamageList) -> rusqlite::Result<()> {
    let sql = format!("PRAGMA quick_check({STRUCTURE_PROBLEMS_MAX})");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    loop {
        let line = match rows.next() {
            Ok(Some(row)) => row.get::<_, String>(0)?,
            Ok(None) => return Ok(()),
            Err(error) if is_damage(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        if line == "ok" {
            return Ok(());
        }
        damage.note(&DamagedRow {
            table: "sqlite",
            key: line.chars().take(200).collect(),
            problem: "the structure of the database file is damaged",
            tenant: None,
            stream: None,
        });
    }
}

/// A counter: the largest copy that checks out, `None` if there is none.
pub(crate) fn counter(connection: &Connection, name: &str) -> Result<Option<u64>, MetaError> {
    let failed = |error| MetaError::database("read a counter", error);
    let mut statement = connection.prepare_cached(&COUNTERS.select("WHERE name = ?1")).map_err(failed)?;
    let rows = statement.query_map([name], |row| COUNTERS.read(row)).map_err(failed)?;
    let (mut value, mut damaged) = (None, None);
    for row in rows {
        match row.map_err(failed)? {
            Ok(mut fields) => {
                fields.text();
                fields.int();
                value = value.max(Some(fields.unsigned()));
            }
            Err(row) => damaged = Some(row),
        }
    }
    match (value, damaged) {
        (None, Some(row)) => Err(MetaError::Corrupt(row)),
        (value, _) => Ok(value),
    }
}

/// Sets all copies of a counter.
pub(crate) fn set_counter(transaction: &Transaction<'_>, name: &str, value: u64) -> Result<(), MetaError> {
    let failed = |error| MetaError::database("write a counter", error);
    if value > i64::MAX as u64 {
        // Nothing counts that far; a row that says so is damaged, whatever its checksum.
        let key = [Value::Text(name.to_owned())];
        return Err(MetaError::Corrupt(COUNTERS.damaged(&key, "there is no number after it")));
    }
    let mut statement = transaction.prepare_cached(&COUNTERS.put()).map_err(failed)?;
    for copy in 0..COUNTER_COPIES {
        let row = COUNTERS.sealed(vec![Value::Text(name.to_owned()), Value::Integer(copy), integer(value)]);
        statement.execute(rusqlite::params_from_iter(row)).map_err(failed)?;
    }
    Ok(())
}

/// A setting, read inside whatever `connection` is in.
pub(crate) fn read_setting(connection: &Connection, name: &str) -> Result<Option<String>, MetaError> {
    let failed = |error| MetaError::database("read a setting", error);
    let mut statement = connection.prepare_cached(&SETTINGS.select("WHERE name = ?1")).map_err(failed)?;
    match statement.query_row([name], |row| SETTINGS.read(row)).optional().map_err(failed)? {
        None => Ok(None),
        Some(Err(row)) => Err(MetaError::Corrupt(row)),
        Some(Ok(mut fields)) => {
            fields.text();
            Ok(Some(fields.text()))
        }
    }
}

/// Writes a setting.
pub(crate) fn write_setting(transaction: &Transaction<'_>, name: &str, value: &str) -> Result<(), MetaError> {
    let failed = |error| MetaError::database("write a setting", error);
    let row = SETTINGS.sealed(vec![Value::Text(name.to_owned()), Value::Text(value.to_owned())]);
    let mut statement = transaction.prepare_cached(&SETTINGS.put()).map_err(failed)?;
    statement.execute(rusqlite::params_from_iter(row)).map_err(failed)?;
    Ok(())
}

impl Meta {
    /// A small value kept under a name, for example the number of shards.
    pub fn setting(&self, name: &str) -> Result<Option<String>, MetaError> {
        let setting = read_setting(&self.reader.lock(), name);
        match &setting {
            Err(MetaError::Corrupt(row)) => self.note_damage(row),
            Err(MetaError::Database { source, .. }) if is_damage(source) => {
                self.note_damage(
                    &SETTINGS.damaged(&[Value::Text(name.to_owned())], "a page of the table cannot be read"),
                );
            }
            _ => {}
        }
        setting
    }

    /// Keeps a small value under a name.
    pub fn set_setting(&self, name: &str, value: &str) -> Result<(), MetaError> {
        self.write("write a setting", |transaction| write_setting(transaction, name, value))
    }
}

#[cfg(test)]
mod tests;
