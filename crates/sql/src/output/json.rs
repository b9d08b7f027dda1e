//! Answers as one JSON object. How a value is written is in [`weir_data::json_rows`].

use std::fmt::Write as _;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use weir_data::json::write_string;
use weir_data::json_rows::{Cell, cells, is_json, not_finite};

use super::type_name;
use crate::error::SqlError;
use crate::result::QueryStats;

/// `{"columns":[...],"rows":[`
pub(super) fn begin(schema: &Schema) -> Vec<u8> {
    let mut out = String::from("{\"columns\":[");
    for (at, field) in schema.fields().iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str("{\"name\":");
        write_string(&mut out, field.name());
        out.push_str(",\"type\":\"");
        out.push_str(if is_json(field) { "map" } else { type_name(field.data_type()) });
        out.push_str("\"}");
    }
    out.push_str("],\"rows\":[");
    out.into_bytes()
}

/// The rows as arrays, each after a comma but the very first.
pub(super) fn rows(batch: &RecordBatch, mut any: bool, numbers: Numbers) -> Vec<u8> {
    let cells: Vec<Cell<'_>> = match numbers {
        Numbers::OfJson => cells(batch),
        Numbers::All => {
            cells(batch).into_iter().zip(batch.columns()).map(|(cell, column)| named(cell, column)).collect()
        }
    };
    let mut out = String::with_capacity(batch.num_rows() * batch.num_columns() * 12);
    for row in 0..batch.num_rows() {
        out.push_str(if any { ",\n[" } else { "\n[" });
        any = true;
        for (at, cell) in cells.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            cell(&mut out, row);
        }
        out.push(']');
    }
    out.into_bytes()
}

/// Which numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// Those JSON has; others are null.
    OfJson,
    /// All, with the others as texts.
    All,
}

/// The cell of a column, with the names of numbers that JSON does not have.
fn named<'a>(cell: Cell<'a>, column: &'a ArrayRef) -> Cell<'a> {
    let Some(not_finite) = not_finite(column) else { return cell };
    Box::new(move |out, row| match not_finite(row) {
        Some(name) => write_string(out, name),
        None => cell(out, row),
    })
}

/// `],"stats":{...}}`, with `error` before it if there is one.
pub(super) fn end(stats: &QueryStats, error: Option<&SqlError>) -> Vec<u8> {
    let mut out = String::from("\n]");
    if let Some(error) = error {
        let _ = write!(out, ",\"error\":{}", error.problem());
    }
    let stats = serde_json::to_string(stats).unwrap_or_else(|_| "{}".to_owned());
    let _ = write!(out, ",\"stats\":{stats}}}");
    out.push('\n');
    out.into_bytes()
}
