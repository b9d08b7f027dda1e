#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{Int64Array, StringArray, TimestampNanosecondArray};
use arrow::datatypes::Field;
use proptest::prelude::*;
use weir_data::streams::timestamp_type;

use super::*;

type Row = (Option<u8>, Option<u8>, i64);

/// A batch with two text columns (left out if all null), a time and an id.
fn batch(rows: &[Row], first_id: i64) -> RecordBatch {
    let text = |value: &dyn Fn(&Row) -> Option<u8>| -> StringArray {
        rows.iter().map(|row| value(row).map(|byte| format!("n{byte}"))).collect()
    };
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (name, column) in [("a", text(&|row| row.0)), ("b", text(&|row| row.1))] {
        if column.null_count() < column.len() {
            fields.push(Field::new(name, DataType::Utf8, true));
            columns.push(Arc::new(column));
        }
    }
    fields.push(Field::new("time", timestamp_type(), false));
    let times: TimestampNanosecondArray = rows.iter().map(|row| Some(row.2)).collect();
    columns.push(Arc::new(times.with_timezone("UTC")));
    fields.push(Field::new("id", DataType::Int64, false));
    columns.push(Arc::new(Int64Array::from_iter_values((first_id..).take(rows.len()))));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn full_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("a", DataType::Utf8, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("time", timestamp_type(), false),
        Field::new("id", DataType::Int64, false),
    ]))
}

fn ids(batch: &RecordBatch) -> Vec<i64> {
    batch.column_by_name("id").unwrap().as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Both ways of sorting, and gathering in pieces of any size, agree with a stable sort of the
    /// rows themselves.
    #[test]
    fn sorting_agrees_with_a_stable_sort(
        parts in prop::collection::vec(
            prop::collection::vec((prop::option::of(0..3_u8), prop::option::of(0..3_u8), -3..3_i64), 0..30),
            1..5,
        ),
        columns in 0..3_usize,
        step in 1..50_u32,
    ) {
        let mut model: Vec<(Row, i64)> = Vec::new();
        let mut batches = Vec::new();
        for rows in &parts {
            batches.push(batch(rows, model.len() as i64));
            for row in rows {
                model.push((*row, model.len() as i64));
            }
        }
        let sort: &[&str] = [&["time"][..], &["a", "time"], &["b", "a", "time"]][columns];
        model.sort_by_key(|((a, b, time), _)| match columns {
            0 => (None, None, *time),
            1 => (None, *a, *time),
            _ => (*b, *a, *time),
        });
        let expected: Vec<i64> = model.iter().map(|(_, id)| *id).collect();
        let rows: Vec<RowAt> = (0..).zip(&batches)
            .flat_map(|(at, batch)| (0..batch.num_rows() as u32).map(move |row| (at, row)))
            .collect();
        let (schema, aligned) = align(&full_schema(), &batches).unwrap();
        let gathered = |runs: &[Run]| -> Vec<i64> {
            let mut cursor = RunCursor::new(runs);
            let mut out = Vec::new();
            loop {
                let some = cursor.next(step);
                if some.is_empty() {
                    return out;
                }
                out.extend(ids(&gather(&schema, &aligned, &some).unwrap()));
            }
        };
        prop_assert_eq!(gathered(&sorted_runs(&aligned, sort, &rows).unwrap()), expected.clone());
        // An extra column at the end takes the general way.
        let general: Vec<&str> = sort.iter().copied().chain(["id"]).collect();
        prop_assert_eq!(gathered(&sorted_runs(&aligned, &general, &rows).unwrap()), expected);
    }
}

#[test]
fn neighbouring_rows_become_one_run() {
    let mut runs = Vec::new();
    for (source, row) in [(0, 3), (0, 4), (1, 5), (0, 5), (0, 6)] {
        push_run(&mut runs, source, row, 1);
    }
    let expected = [(0, 3, 2), (1, 5, 1), (0, 5, 2)].map(|(source, start, len)| Run { source, start, len });
    assert_eq!(runs, expected);
}
