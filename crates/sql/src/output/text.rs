//! Rows as comma-separated values (RFC 4180): a header, `\r\n`, quotes where they are needed.
//!
//! Null is an empty cell, an empty text `""`; numbers that are none are `nan`, `inf` and `-inf`. Lists, maps and structs are JSON text. A text that a
//! spreadsheet would run as a formula (it begins with `=`, `+`, `-`, `@`, a tab or a carriage
//! return) gets a `'` in front: rows come from strangers, and people open such files with a
//! double click. Programs that need every byte read JSON, Arrow or Parquet.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use weir_data::json_rows::{Cell, cell, not_finite};

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The header.
pub(super) fn header(schema: &Schema) -> Vec<u8> {
    let mut out = String::new();
    for (at, field) in schema.fields().iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_text(&mut out, field.name());
    }
    out.push_str("\r\n");
    out.into_bytes()
}

/// The rows.
pub(super) fn rows(batch: &RecordBatch) -> Vec<u8> {
    let fields = batch.schema_ref().fields();
    let cells: Vec<(bool, Cell<'_>, Option<_>)> = fields
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| (is_text(field.data_type()), cell(field, column), not_finite(column)))
        .collect();
    let nulls: Vec<_> = batch.columns().iter().map(|column| column.logical_nulls()).collect();
    let mut out = String::with_capacity(batch.num_rows() * batch.num_columns() * 12);
    let mut scratch = String::new();
    for row in 0..batch.num_rows() {
        for (at, ((text, cell, not_finite), nulls)) in cells.iter().zip(&nulls).enumerate() {
            if at > 0 {
                out.push(',');
            }
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            if let Some(name) = not_finite.as_ref().and_then(|name| name(row)) {
                out.push_str(name);
                continue;
            }
            scratch.clear();
            cell(&mut scratch, row);
            if *text || scratch.starts_with('"') {
                // What JSON quotes is text here; text that was embedded as JSON stays JSON.
                match serde_json::from_str::<String>(&scratch) {
                    Ok(plain) => write_text(&mut out, &plain),
                    Err(_) => write_quoted(&mut out, &scratch),
                }
            } else if scratch.contains([',', '"', '\n', '\r']) {
                write_quoted(&mut out, &scratch);
            } else if scratch != "null" {
                out.push_str(&scratch);
            }
        }
        out.push_str("\r\n");
    }
    out.into_bytes()
}

fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    for (at, part) in text.split('"').enumerate() {
        if at > 0 {
            out.push_str("\"\"");
        }
        out.push_str(part);
    }
    out.push('"');
}

fn write_text(out: &mut String, text: &str) {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula
        || text.is_empty()
        || text.contains([',', '"', '\n', '\r'])
        || text.starts_with(' ')
        || text.ends_with(' ')
    {
        let safe = if formula { format!("'{text}") } else { text.to_owned() };
        write_quoted(out, &safe);
    } else {
        out.push_str(text);
    }
}
