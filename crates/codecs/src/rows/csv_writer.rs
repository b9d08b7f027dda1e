//! Rows as CSV that reads back as it was: null is an empty cell, the empty text `""`, timestamps are
//! RFC 3339, lists, maps and structs are JSON.
//!
//! Texts are written byte for byte. That is right for files that programs read; answers to people,
//! who open them in a spreadsheet, are written elsewhere and defuse what looks like a formula.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use weir_data::json_rows::{Cell, cell, is_json};

use super::csv::needs_quotes;

/// Appends the names of the columns.
pub fn write_csv_header(out: &mut Vec<u8>, schema: &Schema, delimiter: u8) {
    for (at, field) in schema.fields().iter().enumerate() {
        if at > 0 {
            out.push(delimiter);
        }
        write_text(out, field.name(), delimiter);
    }
    out.push(b'\n');
}

/// Texts as one record, with its end.
pub(super) fn csv_record(texts: &[String], delimiter: u8) -> String {
    let mut out = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        if at > 0 {
            out.push(delimiter);
        }
        write_text(&mut out, text, delimiter);
    }
    out.push(b'\n');
    String::from_utf8_lossy(&out).into_owned()
}

/// How the values of a column are written.
enum Column<'a> {
    Text(&'a arrow::array::StringArray),
    /// By way of JSON; `bool`: what is a string there is text here.
    Json(Cell<'a>, bool),
}

/// Appends rows.
pub fn write_csv_rows(out: &mut Vec<u8>, rows: &RecordBatch, delimiter: u8) {
    let fields = rows.schema_ref().fields();
    let columns: Vec<Column<'_>> =
        fields.iter().zip(rows.columns()).map(|(field, array)| column(field, array)).collect();
    let nulls: Vec<_> = rows.columns().iter().map(|column| column.logical_nulls()).collect();
    let mut scratch = String::new();
    for row in 0..rows.num_rows() {
        for (at, (column, nulls)) in columns.iter().zip(&nulls).enumerate() {
            if at > 0 {
                out.push(delimiter);
            }
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            match column {
                Column::Text(texts) => write_text(out, texts.value(row), delimiter),
                Column::Json(cell, text) => {
                    scratch.clear();
                    cell(&mut scratch, row);
                    match scratch.strip_prefix('"').filter(|_| *text) {
                        Some(_) => match serde_json::from_str::<String>(&scratch) {
                            Ok(plain) => write_text(out, &plain, delimiter),
                            Err(_) => write_text(out, &scratch, delimiter),
                        },
                        None if scratch == "null" => {}
                        None => write_text(out, &scratch, delimiter),
                    }
                }
            }
        }
        out.push(b'\n');
    }
}

fn column<'a>(field: &Field, array: &'a arrow::array::ArrayRef) -> Column<'a> {
    match array.data_type() {
        DataType::Utf8 if !is_json(field) => Column::Text(array.as_string::<i32>()),
        _ => Column::Json(cell(field, array), !is_json(field)),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str, delimiter: u8) {
    if !needs_quotes(text, delimiter) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        out.extend_from_slice(&rest.as_bytes()[..=at]);
        out.push(b'"');
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}
