//! Rows of a batch as plain text, to be compared and read.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimestampNanosecondType};

/// A row: column to text, without the columns that are null.
pub(crate) type Row = BTreeMap<String, String>;

/// All rows of a batch.
pub(crate) fn rows(batch: &RecordBatch) -> Vec<Row> {
    (0..batch.num_rows())
        .map(|row| {
            let columns = batch.schema_ref().fields().iter().zip(batch.columns());
            columns.filter_map(|(field, column)| Some((field.name().clone(), cell(column, row)?))).collect()
        })
        .collect()
}

fn cell(array: &dyn Array, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(..) => array.as_primitive::<TimestampNanosecondType>().value(row).to_string(),
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
            pairs((0..entries.len()).map(|at| (keys.value(at), values.value(at))))
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            list((0..items.len()).map(|at| cell(&items, at).unwrap_or_else(|| "null".to_owned())))
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            record(fields.iter().zip(columns).map(|(field, column)| (field.name().as_str(), cell(column, row))))
        }
        other => panic!("no column is of type {other}"),
    })
}

/// An attribute map as text.
pub(crate) fn pairs<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    entries.map(|(key, value)| format!("{key:?}: {value}")).collect::<Vec<_>>().join("; ")
}

/// A list as text.
pub(crate) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// A struct as text.
pub(crate) fn record<'a>(fields: impl Iterator<Item = (&'a str, Option<String>)>) -> String {
    let present = fields.filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    format!("{{{}}}", present.collect::<Vec<_>>().join(", "))
}
