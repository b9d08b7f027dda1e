//! Text files and messages to rows of declared columns: newline-delimited JSON and CSV.
//!
//! Decoding gives rows *and* rejects: a record that is wrong is set aside with its line and what is
//! wrong, and the next one is read. A decoder is handed bytes and says how many of them it has used,
//! so that a position between two records is all a reader has to remember.
//!
//! Invariant: memory is bounded by [`BATCH_ROWS_MAX`] rows, [`BATCH_CELLS_MAX`] cells, [`BATCH_BYTES_MAX`]
//! bytes of text and `record_bytes_max` bytes a record, whatever is read.

mod builder;
mod csv;
mod csv_writer;
mod infer;
mod ndjson;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use weir_data::streams::{JSON_MARK, timestamp_type};

pub use csv::{CsvDecoder, CsvOptions, HeaderError, csv_header};
pub use csv_writer::{write_csv_header, write_csv_rows};
pub use infer::{Inference, infer_csv, infer_ndjson};
pub use ndjson::NdjsonDecoder;

/// The most rows of a batch.
pub const BATCH_ROWS_MAX: usize = 8192;
/// The most rows of a batch times its columns: with many columns batches have fewer rows.
pub const BATCH_CELLS_MAX: usize = 2 << 20;
/// A batch is full as soon as its texts, or its rejects, take so many bytes.
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// The most bytes of a record that are kept with its reject.
pub const REJECT_PAYLOAD_BYTES_MAX: usize = if cfg!(test) { 4096 } else { 64 << 10 };
/// The deepest nesting of a value in a column of JSON.
pub const JSON_NESTING_MAX: usize = 128;
/// Numbers from here on are no milliseconds in a column of type `timestamp`, but microseconds.
const MICROS_FROM: i64 = 100_000_000_000_000;
/// Numbers from here on are nanoseconds in a column of type `timestamp`.
const NANOS_FROM: i64 = 100_000_000_000_000_000;

/// What a column holds. All columns may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// A whole number of 64 bits. JSON numbers such as `2.0` and `1e3` are whole too.
    Int64,
    /// A double.
    Float64,
    /// `true` or `false`.
    Bool,
    /// Text. Other values become their JSON text.
    Text,
    /// A moment: ISO 8601 (UTC if it has no offset), or a number since 1970 in a unit.
    Timestamp(EpochUnit),
    /// Any value, as JSON text.
    Json,
}

/// What a number in a column of timestamps counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EpochUnit {
    /// Milliseconds; microseconds from 10^14 on and nanoseconds from 10^17 on (either is the year
    /// 5138 in the unit before).
    ByMagnitude,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
}

impl ColumnType {
    /// Every type.
    pub const ALL: [Self; 10] = [
        Self::Int64,
        Self::Float64,
        Self::Bool,
        Self::Text,
        Self::Timestamp(EpochUnit::ByMagnitude),
        Self::Timestamp(EpochUnit::Seconds),
        Self::Timestamp(EpochUnit::Millis),
        Self::Timestamp(EpochUnit::Micros),
        Self::Timestamp(EpochUnit::Nanos),
        Self::Json,
    ];

    /// The name in a schema.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Bool => "bool",
            Self::Text => "text",
            Self::Timestamp(EpochUnit::ByMagnitude) => "timestamp",
            Self::Timestamp(EpochUnit::Seconds) => "timestamp_s",
            Self::Timestamp(EpochUnit::Millis) => "timestamp_ms",
            Self::Timestamp(EpochUnit::Micros) => "timestamp_us",
            Self::Timestamp(EpochUnit::Nanos) => "timestamp_ns",
            Self::Json => "json",
        }
    }

    /// The type of a name; `string` is text too.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = if name == "string" { "text" } else { name };
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// What messages call a value of this type.
    const fn expected(self) -> &'static str {
        match self {
            Self::Int64 => "an int64",
            Self::Float64 => "a number",
            Self::Bool => "true or false",
            Self::Text => "a text",
            Self::Timestamp(_) => "a timestamp (RFC 3339, or a number since 1970)",
            Self::Json => "JSON",
        }
    }

    /// The field of a column.
    pub fn field(self, name: &str) -> Field {
        match self {
            Self::Int64 => Field::new(name, DataType::Int64, true),
            Self::Float64 => Field::new(name, DataType::Float64, true),
            Self::Bool => Field::new(name, DataType::Boolean, true),
            Self::Text => Field::new(name, DataType::Utf8, true),
            Self::Timestamp(_) => Field::new(name, timestamp_type(), true),
            Self::Json => {
                Field::new(name, DataType::Utf8, true).with_metadata([(JSON_MARK.to_owned(), "true".to_owned())].into())
            }
        }
    }
}

/// The columns a decoder fills.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    columns: Vec<(String, ColumnType)>,
    schema: SchemaRef,
}

impl Columns {
    /// Columns by name; names do not repeat.
    pub fn new(columns: Vec<(String, ColumnType)>) -> Self {
        let fields: Vec<Field> = columns.iter().map(|(name, kind)| kind.field(name)).collect();
        Self { columns, schema: Arc::new(Schema::new(fields)) }
    }

    /// Name and type of each.
    pub fn columns(&self) -> &[(String, ColumnType)] {
        &self.columns
    }

    /// The Arrow schema of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The place of a column.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|(column, _)| column == name)
    }
}

/// A record that is no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// The line it begins at, from 0, counted from where the decoder began.
    pub line: u64,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// The record, cut.
    pub payload: String,
}

impl RejectedRecord {
    fn new(line: u64, message: String, record: &[u8]) -> Self {
        let cut = &record[..record.len().min(REJECT_PAYLOAD_BYTES_MAX)];
        let mut payload = String::from_utf8_lossy(cut).into_owned();
        if cut.len() < record.len() {
            // Half a character at the cut is no fault of the record.
            while payload.ends_with(char::REPLACEMENT_CHARACTER) {
                payload.pop();
            }
            payload.push('…');
        }
        Self { line, message, payload }
    }

    /// Bytes it takes.
    fn bytes(&self) -> usize {
        self.message.len() + self.payload.len() + size_of::<Self>()
    }
}

/// Adds to the beginning of a line that is being passed over, as far as a reject shows it.
fn keep_beginning(passing: &mut Option<Vec<u8>>, bytes: &[u8]) {
    if let Some(begun) = passing {
        let room = (REJECT_PAYLOAD_BYTES_MAX + 1).saturating_sub(begun.len());
        begun.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }
}

/// What a decoder has collected.
#[derive(Clone, Debug)]
pub struct DecodedRows {
    /// The good rows.
    pub rows: RecordBatch,
    /// The bad records.
    pub rejects: Vec<RejectedRecord>,
}

/// How far a decoder came with the bytes it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many of the bytes it has used; the others have to be given again, with more after them.
    pub bytes: usize,
    /// How many of these bytes, from the first, end with the end of a record: after them is a
    /// position. Less than `bytes` only within a record that is too long and is being passed over.
    pub whole: usize,
    /// How many lines end within `whole`.
    pub lines: u64,
}

/// The moment an ISO 8601 text names, in UTC if it has no offset; `None` if it is none, or lies outside
/// 1677 to 2262.
pub fn timestamp(text: &str) -> Option<weir_base::Timestamp> {
    crate::json_time::parse(text, crate::json_time::Notation::Iso8601)
}

/// The moment a number in a column of timestamps names.
fn epoch(number: i64, unit: EpochUnit) -> Option<i64> {
    let unit = match unit {
        EpochUnit::ByMagnitude if number.unsigned_abs() >= NANOS_FROM.unsigned_abs() => EpochUnit::Nanos,
        EpochUnit::ByMagnitude if number.unsigned_abs() >= MICROS_FROM.unsigned_abs() => EpochUnit::Micros,
        EpochUnit::ByMagnitude => EpochUnit::Millis,
        unit => unit,
    };
    number.checked_mul(nanos_of(unit))
}

const fn nanos_of(unit: EpochUnit) -> i64 {
    match unit {
        EpochUnit::Seconds => 1_000_000_000,
        EpochUnit::Millis | EpochUnit::ByMagnitude => 1_000_000,
        EpochUnit::Micros => 1_000,
        EpochUnit::Nanos => 1,
    }
}

#[cfg(test)]
mod tests;
