//! How many rows of a table each tenant has, and the exclusive or of their checksums.
//!
//! A checksum says that a row is one that was written once. It cannot say that the row is missing
//! (its page was lost, or its tenant is the very thing that was damaged), or that it is an older one
//! (the disk lost a write). These sums can: they change in the same transaction, on another page.
//!
//! A tenant without sums has not changed since this table exists; its rows are not compared.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::checksum::{CheckedTable, checksum_of, integer};
use crate::{DamagedRow, MetaError};

pub(crate) static SUMS: CheckedTable =
    CheckedTable { name: "row_sums", key: &["of", "tenant"], rest: &["n_rows", "rows_sum"] };

/// What a row is called that the sums do not account for.
pub(crate) const PROBLEM: &str = "rows are missing, or there are rows that do not belong here";

/// The condition that picks the rows of a tenant.
pub(crate) const OF_TENANT: &str = "tenant = ?1";

/// The number of rows, and the exclusive or of their checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    n_rows: u64,
    rows_sum: u32,
}

impl Sums {
    /// Takes in a row.
    pub(crate) fn add(&mut self, crc: u32) {
        self.n_rows = self.n_rows.saturating_add(1);
        self.rows_sum ^= crc;
    }

    /// Takes a row out.
    pub(crate) fn remove(&mut self, crc: u32) {
        self.n_rows = self.n_rows.saturating_sub(1);
        self.rows_sum ^= crc;
    }

    /// What is stored for a table and a tenant.
    pub(crate) fn read(
        connection: &Connection,
        table: &CheckedTable,
        tenant: &str,
    ) -> Result<Option<Result<Self, DamagedRow>>, MetaError> {
        let row = connection
            .prepare_cached(&SUMS.select("WHERE of = ?1 AND tenant = ?2"))
            .and_then(|mut statement| statement.query_row([table.name, tenant], |row| SUMS.read(row)).optional())
            .map_err(|error| MetaError::database("read the sums of rows", error))?;
        Ok(row.map(|row| {
            row.map(|mut fields| {
                fields.text();
                fields.text();
                Self { n_rows: fields.unsigned(), rows_sum: u32::try_from(fields.int()).unwrap_or(0) }
            })
        }))
    }

    /// The sums before a change that [`Change::finish`] ends. `rows` is the condition that picks the
    /// tenant's rows, for one that has no sums yet.
    pub(crate) fn change(
        transaction: &Transaction<'_>,
        table: &'static CheckedTable,
        tenant: &str,
        rows: &str,
    ) -> Result<Change, MetaError> {
        let sums = match Self::read(transaction, table, tenant)? {
            None => Some(
                Self::count(transaction, table, tenant, rows)
                    .map_err(|error| MetaError::database("count the rows of a tenant", error))?,
            ),
            // Damaged sums stay as they are: nobody knows what they should be.
            Some(sums) => sums.ok(),
        };
        Ok(Change { table, tenant: tenant.to_owned(), sums })
    }

    fn count(connection: &Connection, table: &CheckedTable, tenant: &str, rows: &str) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached(&format!("SELECT crc FROM {} WHERE {rows}", table.name))?;
        let mut found = statement.query([tenant])?;
        let mut sums = Self::default();
        while let Some(row) = found.next()? {
            sums.add(checksum_of(row)?);
        }
        Ok(sums)
    }
}

/// Sums in the middle of a transaction.
#[derive(Debug)]
pub(crate) struct Change {
    table: &'static CheckedTable,
    tenant: String,
    sums: Option<Sums>,
}

impl Change {
    /// Takes in a row.
    pub(crate) fn add(&mut self, crc: u32) {
        if let Some(sums) = &mut self.sums {
            sums.add(crc);
        }
    }

    /// Takes a row out.
    pub(crate) fn remove(&mut self, crc: u32) {
        if let Some(sums) = &mut self.sums {
            sums.remove(crc);
        }
    }

    /// Stores the sums.
    pub(crate) fn finish(self, transaction: &Transaction<'_>) -> Result<(), MetaError> {
        let Some(sums) = self.sums else { return Ok(()) };
        let row = SUMS.sealed(vec![
            Value::Text(self.table.name.to_owned()),
            Value::Text(self.tenant),
            integer(sums.n_rows),
            Value::Integer(i64::from(sums.rows_sum)),
        ]);
        transaction
            .prepare_cached(&SUMS.put())
            .and_then(|mut statement| statement.execute(rusqlite::params_from_iter(row)))
            .map_err(|error| MetaError::database("write the sums of rows", error))?;
        Ok(())
    }
}
