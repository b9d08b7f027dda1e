//! The catalogue: which files make up each table, and up to which log position.
//!
//! Here are the types; [`rows`] has what the database does with them.

pub(crate) mod rows;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_base::{StreamName, TenantId, Timestamp};

use crate::DamagedRow;

/// Bytes covered by one checksum of [`FileEntry::block_crcs`].
pub const CRC_BLOCK_BYTES: usize = 64 * 1024;

/// Identifies a file in the catalogue; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub i64);

/// A number, text or boolean that bounds a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bound {
    /// A boolean.
    Bool(bool),
    /// An integer, or nanoseconds of a timestamp.
    Int(i64),
    /// A double that is finite.
    Float(f64),
    /// Text.
    Text(String),
}

/// What is known of a column without opening the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnStats {
    /// Not larger than any value; absent if unknown or if all are null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Bound>,
    /// Not smaller than any value; absent if unknown or if all are null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Bound>,
    /// How many values are null.
    pub nulls: u64,
}

/// An attribute key that has a column of its own in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotedKey {
    /// The open column, for example `attributes`.
    pub column: String,
    /// The key within it.
    pub key: String,
    /// The kind the column holds: `bool`, `number` or `text`.
    pub kind: String,
    /// The column's name in the file.
    pub file_column: String,
}

/// One Parquet file of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct FileEntry {
    /// Given by the catalogue; 0 before it is committed.
    pub id: FileId,
    /// The owner.
    pub tenant: TenantId,
    /// The stream.
    pub stream: StreamName,
    /// The partition: `2026-11-21`, or `2026-11-21T13` for an hour.
    pub partition: String,
    /// The path below the tables' directory.
    pub path: String,
    /// The length in bytes.
    pub bytes: u64,
    /// The number of rows.
    pub rows: u64,
    /// The smallest `time`.
    pub min_time: Timestamp,
    /// The largest `time`.
    pub max_time: Timestamp,
    /// The largest `received_at`; retention goes by it for rows with an impossible time.
    pub max_received_at: Timestamp,
    /// How often the rows have been compacted; 0 for a file written from the tail.
    pub level: u32,
    /// Columns that have values, by name. A column that is missing here is all null.
    pub columns: BTreeMap<String, ColumnStats>,
    /// Attribute keys with a column of their own.
    pub promoted: Vec<PromotedKey>,
    /// CRC32C of each 64 KiB of the file, the last one shorter.
    pub block_crcs: Vec<u32>,
    /// The length of the Parquet footer with its trailing 8 bytes, so that it is read in one go.
    pub footer_bytes: u64,
    /// When the file was committed.
    pub created_at: Timestamp,
}

/// How far the table of a (tenant, stream) has been written from one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePosition {
    /// The owner.
    pub tenant: TenantId,
    /// The stream.
    pub stream: StreamName,
    /// The shard of the log.
    pub shard: u16,
    /// Rows of records before this offset are in files.
    pub offset: u64,
}

/// One atomic change of one table.
#[derive(Clone, Debug)]
pub struct TableCommit {
    /// The owner.
    pub tenant: TenantId,
    /// The stream.
    pub stream: StreamName,
    /// The epoch of the writer ([`crate::Meta::begin_writer`]); a smaller one than the database's is
    /// refused, so that a second writer fences the first.
    pub writer_epoch: u64,
    /// Files that become part of the table.
    pub add: Vec<FileEntry>,
    /// Files that stop being part of it.
    pub remove: Vec<FileId>,
    /// The table's position: shard, the offset it must have now, the offset it gets.
    pub position: Option<(u16, u64, u64)>,
}

/// What was read of a table of the database.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The rows that check out.
    pub entries: Vec<T>,
    /// What does not. A (tenant, stream) named here must not be read: rows of it are missing.
    pub damaged: Vec<DamagedRow>,
}

#[cfg(test)]
mod tests;
