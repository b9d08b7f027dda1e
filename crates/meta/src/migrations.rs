//! The schema, as a list of steps. A released step never changes; the schema grows by adding one.

use rusqlite::{Connection, Transaction, TransactionBehavior};
use weir_base::Timestamp;

use crate::{DamagedRow, MetaError};

/// `PRAGMA application_id`: "weir".
const APPLICATION_ID: i64 = 0x7765_6972;

/// One step.
pub(crate) struct Migration {
    /// From 1, without gaps.
    pub(crate) number: i64,
    /// For people.
    pub(crate) name: &'static str,
    /// The statements.
    pub(crate) sql: &'static str,
    /// What statements cannot do.
    pub(crate) then: fn(&Transaction<'_>) -> rusqlite::Result<()>,
}

fn nothing(_: &Transaction<'_>) -> rusqlite::Result<()> {
    Ok(())
}

/// All steps, oldest first.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "tenants and keys",
        sql: "
            CREATE TABLE settings (
                name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE counters (
                name TEXT NOT NULL, copy INTEGER NOT NULL, value INTEGER NOT NULL, crc INTEGER NOT NULL,
                PRIMARY KEY (name, copy)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE tenants (
                id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, tier TEXT NOT NULL, overrides TEXT NOT NULL,
                settings TEXT NOT NULL, created_at INTEGER NOT NULL, deleted_at INTEGER, crc INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE purged_tenants (
                id TEXT NOT NULL PRIMARY KEY, purged_at INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE keys (
                id TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenants (id), kind TEXT NOT NULL,
                scopes TEXT NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL, pepper INTEGER NOT NULL,
                created_at INTEGER NOT NULL, expires_at INTEGER, revoked_at INTEGER, crc INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE key_uses (
                id TEXT NOT NULL PRIMARY KEY REFERENCES keys (id) ON DELETE CASCADE, last_used_at INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
        ",
        then: nothing,
    },
    Migration {
        number: 2,
        name: "attribute kinds and the catalogue",
        sql: "
            CREATE TABLE attribute_keys (
                tenant TEXT NOT NULL REFERENCES tenants (id), stream TEXT NOT NULL, open_column TEXT NOT NULL,
                attribute TEXT NOT NULL, kind TEXT NOT NULL, crc INTEGER NOT NULL,
                PRIMARY KEY (tenant, stream, open_column, attribute)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE tables (
                tenant TEXT NOT NULL REFERENCES tenants (id), stream TEXT NOT NULL, n_files INTEGER NOT NULL,
                files_sum INTEGER NOT NULL, n_positions INTEGER NOT NULL, crc INTEGER NOT NULL,
                PRIMARY KEY (tenant, stream)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE positions (
                tenant TEXT NOT NULL REFERENCES tenants (id), stream TEXT NOT NULL, shard INTEGER NOT NULL,
                log_offset INTEGER NOT NULL, crc INTEGER NOT NULL,
                PRIMARY KEY (tenant, stream, shard)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE files (
                tenant TEXT NOT NULL REFERENCES tenants (id), stream TEXT NOT NULL, id INTEGER NOT NULL,
                partition_name TEXT NOT NULL, path TEXT NOT NULL, n_bytes INTEGER NOT NULL, n_rows INTEGER NOT NULL,
                min_time INTEGER NOT NULL, max_time INTEGER NOT NULL, max_received_at INTEGER NOT NULL,
                level INTEGER NOT NULL, columns_json TEXT NOT NULL, promoted_json TEXT NOT NULL,
                block_crcs BLOB NOT NULL, footer_bytes INTEGER NOT NULL, created_at INTEGER NOT NULL,
                crc INTEGER NOT NULL,
                PRIMARY KEY (tenant, stream, id)
            ) STRICT, WITHOUT ROWID;
        ",
        then: nothing,
    },
    Migration {
        number: 3,
        name: "sums of rows, and a checksum for the ids of former tenants",
        sql: "
            CREATE TABLE row_sums (
                of TEXT NOT NULL, tenant TEXT NOT NULL, n_rows INTEGER NOT NULL, rows_sum INTEGER NOT NULL,
                crc INTEGER NOT NULL,
                PRIMARY KEY (of, tenant)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE former_tenants (
                id TEXT NOT NULL PRIMARY KEY, purged_at INTEGER NOT NULL, crc INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
        ",
        then: crate::tenants::seal_former_tenants,
    },
    Migration {
        number: 4,
        name: "pipelines",
        sql: "
            CREATE TABLE pipelines (
                tenant TEXT NOT NULL REFERENCES tenants (id), name TEXT NOT NULL, document TEXT NOT NULL,
                syntax TEXT NOT NULL, revision INTEGER NOT NULL, incarnation INTEGER NOT NULL, trust TEXT NOT NULL,
                wanted TEXT NOT NULL, created_at INTEGER NOT NULL, changed_at INTEGER NOT NULL,
                changed_by TEXT NOT NULL, crc INTEGER NOT NULL,
                PRIMARY KEY (tenant, name)
            ) STRICT, WITHOUT ROWID;
        ",
        then: nothing,
    },
    Migration {
        number: 5,
        name: "streams of tenants",
        sql: "
            CREATE TABLE streams (
                tenant TEXT NOT NULL REFERENCES tenants (id), name TEXT NOT NULL, columns BLOB NOT NULL,
                created_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, crc INTEGER NOT NULL,
                PRIMARY KEY (tenant, name)
            ) STRICT, WITHOUT ROWID;
        ",
        then: nothing,
    },
];

/// Whether the tables are those that the steps make. A statement of the schema has no checksum: what
/// is damaged in it would turn up as a column or a table that does not exist, in the middle of something.
pub(crate) fn check_schema(connection: &Connection) -> Result<(), MetaError> {
    let failed = |error| MetaError::database("read the schema of the metadata database", error);
    let mut model = Connection::open_in_memory().map_err(failed)?;
    apply(&mut model, Timestamp::default())?;
    let mut statements = schema_of(connection).map_err(failed)?;
    for expected in schema_of(&model).map_err(failed)? {
        match statements.iter().position(|found| *found == expected) {
            Some(at) => statements.swap_remove(at),
            None => return Err(damaged_schema(&expected.0)),
        };
    }
    match statements.first() {
        None => Ok(()),
        Some((name, _)) => Err(damaged_schema(name)),
    }
}

fn damaged_schema(name: &str) -> MetaError {
    let (key, problem) = (name.to_owned(), "the statement that makes it is not the one of this version");
    MetaError::Corrupt(DamagedRow { table: "sqlite_schema", key, problem, tenant: None, stream: None })
}

/// Names and statements, as they are stored.
fn schema_of(connection: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Runs the steps the database has not seen, each in a transaction of its own.
pub(crate) fn apply(connection: &mut Connection, now: Timestamp) -> Result<(), MetaError> {
    apply_list(connection, now, MIGRATIONS)
}

pub(crate) fn apply_list(connection: &mut Connection, now: Timestamp, list: &[Migration]) -> Result<(), MetaError> {
    let failed = |error| MetaError::database("bring the metadata schema up to date", error);
    connection
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS migrations (
                number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL
            ) STRICT",
        )
        .map_err(failed)?;
    let found: i64 = connection
        .query_row("SELECT coalesce(max(number), 0) FROM migrations", [], |row| row.get(0))
        .map_err(failed)?;
    let known = list.last().map_or(0, |migration| migration.number);
    if found > known {
        return Err(MetaError::NewerSchema { found, known });
    }
    if found == 0 {
        connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    }
    for migration in list.iter().filter(|migration| migration.number > found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(migration.sql).map_err(failed)?;
        (migration.then)(&transaction).map_err(failed)?;
        transaction
            .execute(
                "INSERT INTO migrations (number, name, applied_at) VALUES (?1, ?2, ?3)",
                (migration.number, migration.name, now.0),
            )
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
