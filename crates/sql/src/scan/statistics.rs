//! What the catalogue says of files, as the engine takes it.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use weir_meta::catalogue::{Bound, FileEntry};

use crate::attributes::is_open_field;
use crate::tables::TableFileView;

fn bound(bound: Option<&Bound>, data_type: &DataType) -> Precision<ScalarValue> {
    let value = match (bound, data_type) {
        (Some(Bound::Bool(value)), DataType::Boolean) => ScalarValue::Boolean(Some(*value)),
        (Some(Bound::Int(value)), DataType::Int64) => ScalarValue::Int64(Some(*value)),
        (Some(Bound::Int(value)), DataType::Int32) => match i32::try_from(*value) {
            Ok(value) => ScalarValue::Int32(Some(value)),
            Err(_) => return Precision::Absent,
        },
        (Some(Bound::Int(value)), DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, zone)) => {
            ScalarValue::TimestampNanosecond(Some(*value), zone.clone())
        }
        (Some(Bound::Text(value)), DataType::Utf8View) => ScalarValue::Utf8View(Some(value.clone())),
        // Doubles are left out: the catalogue's bounds do not cover NaN, which sorts above all.
        _ => return Precision::Absent,
    };
    Precision::Exact(value)
}

/// What is known of one file. Bounds need not be tight: they only prune, and a column whose bounds
/// agree holds that one value.
pub(crate) fn file_statistics(entry: &FileEntry, schema: &SchemaRef) -> Statistics {
    let rows = usize::try_from(entry.rows).unwrap_or(usize::MAX);
    let column_statistics = schema
        .fields()
        .iter()
        .map(|field| {
            let mut column = ColumnStatistics::new_unknown();
            if is_open_field(field) {
                // Its entries may be in columns of their own.
                return column;
            }
            match entry.columns.get(field.name()) {
                Some(known) => {
                    column.min_value = bound(known.min.as_ref(), field.data_type());
                    column.max_value = bound(known.max.as_ref(), field.data_type());
                    column.null_count = Precision::Exact(usize::try_from(known.nulls).unwrap_or(usize::MAX));
                }
                // A column the catalogue does not name has no value at all.
                None if field.is_nullable() => column.null_count = Precision::Exact(rows),
                None => {}
            }
            if field.name() == "time" {
                let zone: Arc<str> = "UTC".into();
                let time = |at: i64| ScalarValue::TimestampNanosecond(Some(at), Some(Arc::clone(&zone)));
                column.min_value = Precision::Exact(time(entry.min_time.0));
                column.max_value = Precision::Exact(time(entry.max_time.0));
                column.null_count = Precision::Exact(0);
            }
            column
        })
        .collect();
    Statistics {
        num_rows: Precision::Exact(rows),
        total_byte_size: Precision::Inexact(usize::try_from(entry.bytes).unwrap_or(usize::MAX)),
        column_statistics,
    }
}

/// What is known of all files together. Only what is exact in the catalogue is exact here: counts,
/// and the bounds of `time`; an aggregate may be answered from it.
pub(super) fn files_statistics(files: &[Arc<dyn TableFileView>], schema: &SchemaRef) -> Statistics {
    let mut total = Statistics {
        num_rows: Precision::Exact(0),
        total_byte_size: Precision::Inexact(0),
        column_statistics: vec![ColumnStatistics::new_unknown(); schema.fields().len()],
    };
    for (at, file) in files.iter().enumerate() {
        let own = file_statistics(file.entry(), schema);
        total.num_rows = total.num_rows.add(&own.num_rows);
        total.total_byte_size = total.total_byte_size.add(&own.total_byte_size);
        for (total, own) in total.column_statistics.iter_mut().zip(own.column_statistics) {
            if at == 0 {
                *total = own;
                continue;
            }
            total.null_count = total.null_count.add(&own.null_count);
            total.min_value = total.min_value.min(&own.min_value);
            total.max_value = total.max_value.max(&own.max_value);
        }
    }
    for (field, column) in schema.fields().iter().zip(&mut total.column_statistics) {
        if field.name() != "time" {
            column.min_value = std::mem::take(&mut column.min_value).to_inexact();
            column.max_value = std::mem::take(&mut column.max_value).to_inexact();
        }
    }
    total
}
