//! Rows under a checksum: how they are written, and how they are read back only if they check out.
//!
//! The checksum is CRC32C over the table's name and every column, each with its type and length, so
//! a value moved to another column, row or table does not check out either. It stands in the row's
//! last column, `crc`.

use rusqlite::Row;
use rusqlite::types::Value;
use weir_base::crc::{crc32c, crc32c_append};

use crate::DamagedRow;

/// A table whose rows carry a checksum.
#[derive(Debug)]
pub(crate) struct CheckedTable {
    /// The table's name.
    pub(crate) name: &'static str,
    /// Columns of the primary key, in its order.
    pub(crate) key: &'static [&'static str],
    /// The columns after the key, without `crc`.
    pub(crate) rest: &'static [&'static str],
}

impl CheckedTable {
    fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.key.iter().chain(self.rest).copied()
    }

    /// `SELECT` of all columns and the checksum, in the order [`CheckedTable::read`] expects;
    /// `tail` is what follows the table's name.
    pub(crate) fn select(&self, tail: &str) -> String {
        let columns: Vec<_> = self.columns().collect();
        format!("SELECT {}, crc FROM {} {tail}", columns.join(", "), self.name)
    }

    /// Inserts a row; one of the same key is a constraint error.
    pub(crate) fn insert(&self) -> String {
        let columns: Vec<_> = self.columns().collect();
        let places: Vec<_> = (1..=columns.len() + 1).map(|at| format!("?{at}")).collect();
        format!("INSERT INTO {} ({}, crc) VALUES ({})", self.name, columns.join(", "), places.join(", "))
    }

    /// Inserts a row or takes the place of the one of the same key.
    pub(crate) fn put(&self) -> String {
        let updates: Vec<_> =
            self.rest.iter().chain(["crc"].iter()).map(|column| format!("{column} = excluded.{column}")).collect();
        format!("{} ON CONFLICT ({}) DO UPDATE SET {}", self.insert(), self.key.join(", "), updates.join(", "))
    }

    /// The values of [`CheckedTable::insert`]: the columns and their checksum.
    pub(crate) fn sealed(&self, mut values: Vec<Value>) -> Vec<Value> {
        debug_assert_eq!(values.len(), self.key.len() + self.rest.len(), "columns of {}", self.name);
        let crc = self.crc(&values);
        values.push(Value::Integer(i64::from(crc)));
        values
    }

    /// The checksum of the columns.
    pub(crate) fn crc(&self, values: &[Value]) -> u32 {
        let mut crc = crc32c(self.name.as_bytes());
        for value in values {
            let (tag, bytes): (u8, &[u8]) = match value {
                Value::Null => (0, &[]),
                Value::Integer(number) => (1, &number.to_le_bytes()),
                Value::Real(number) => (2, &number.to_bits().to_le_bytes()),
                Value::Text(text) => (3, text.as_bytes()),
                Value::Blob(bytes) => (4, bytes),
            };
            crc = crc32c_append(crc, &[tag]);
            crc = crc32c_append(crc, &(bytes.len() as u64).to_le_bytes());
            crc = crc32c_append(crc, bytes);
        }
        crc
    }

    /// The columns of a row of [`CheckedTable::select`], if they check out. The outer error is
    /// SQLite's own.
    pub(crate) fn read(&'static self, row: &Row<'_>) -> rusqlite::Result<Result<Fields, DamagedRow>> {
        let n_columns = self.key.len() + self.rest.len();
        let mut values = Vec::with_capacity(n_columns);
        for at in 0..n_columns {
            match row.get::<_, Value>(at) {
                Ok(value) => values.push(value),
                // Text that is not UTF-8: taken as bytes, so that the checksum refuses it and the
                // key can still be named.
                Err(_) => values.push(Value::Blob(
                    row.get_ref(at)?.as_bytes_or_null().ok().flatten().map_or_else(Vec::new, <[u8]>::to_vec),
                )),
            }
        }
        let stored = row.get_ref(n_columns)?.as_i64().ok();
        if stored == Some(i64::from(self.crc(&values))) {
            Ok(Ok(Fields { table: self, values, at: 0 }))
        } else {
            Ok(Err(self.damaged(&values[..self.key.len()], "the checksum does not match")))
        }
    }

    /// Names a row as damaged.
    pub(crate) fn damaged(&self, key: &[Value], problem: &'static str) -> DamagedRow {
        let parts: Vec<String> = key
            .iter()
            .map(|value| match value {
                Value::Text(text) => text.chars().take(80).collect(),
                Value::Integer(number) => number.to_string(),
                Value::Blob(bytes) => String::from_utf8_lossy(bytes).chars().take(80).collect(),
                Value::Null | Value::Real(_) => "?".to_owned(),
            })
            .collect();
        DamagedRow { table: self.name, key: parts.join("/"), problem, tenant: None, stream: None }
    }
}

/// The columns of a row that checked out, taken one after the other.
#[derive(Debug)]
pub(crate) struct Fields {
    table: &'static CheckedTable,
    values: Vec<Value>,
    at: usize,
}

impl Fields {
    fn next(&mut self) -> Value {
        let value = self.values.get_mut(self.at).map_or(Value::Null, |value| std::mem::replace(value, Value::Null));
        self.at += 1;
        value
    }

    /// The row checked out and still cannot be understood.
    pub(crate) fn unreadable(&self, key: &str) -> DamagedRow {
        let problem = "a column cannot be understood";
        DamagedRow { table: self.table.name, key: key.to_owned(), problem, tenant: None, stream: None }
    }

    /// Text; empty if it is not.
    pub(crate) fn text(&mut self) -> String {
        match self.next() {
            Value::Text(text) => text,
            _ => String::new(),
        }
    }

    /// An integer, if it is one.
    pub(crate) fn optional_int(&mut self) -> Option<i64> {
        match self.next() {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// An integer; 0 if it is not.
    pub(crate) fn int(&mut self) -> i64 {
        self.optional_int().unwrap_or(0)
    }

    /// An integer that was written from a `u64` below 2^63.
    pub(crate) fn unsigned(&mut self) -> u64 {
        u64::try_from(self.int()).unwrap_or(0)
    }

    /// Bytes; empty if it is not.
    pub(crate) fn blob(&mut self) -> Vec<u8> {
        match self.next() {
            Value::Blob(bytes) => bytes,
            _ => Vec::new(),
        }
    }
}

/// The checksum of a row of [`CheckedTable::select`]. It was compared already.
pub(crate) fn checksum_of(row: &Row<'_>) -> rusqlite::Result<u32> {
    let at = row.as_ref().column_count().saturating_sub(1);
    Ok(row.get_ref(at)?.as_i64().ok().and_then(|crc| u32::try_from(crc).ok()).unwrap_or(0))
}

/// The checksum in what [`CheckedTable::sealed`] gives.
pub(crate) fn checksum_in(row: &[Value]) -> u32 {
    match row.last() {
        Some(Value::Integer(crc)) => u32::try_from(*crc).unwrap_or(0),
        _ => 0,
    }
}

/// A `u64` as SQLite keeps it. Offsets and counts stay far below 2^63; one beyond would read back
/// wrong, which must not happen silently.
pub(crate) fn integer(number: u64) -> Value {
    assert!(number <= i64::MAX as u64, "{number} does not fit the database");
    Value::Integer(number as i64)
}
