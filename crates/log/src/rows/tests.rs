#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, Int64Builder, ListBuilder, MapBuilder, RecordBatch, StringArray,
    StringBuilder, StructArray, TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use proptest::prelude::*;
use weir_data::attributes::AttributesBuilder;
use weir_data::batch::{concat_sparse, sparse};

use super::{Encoder, decode_batch, decode_column, decode_schema, merge, schema_id};

/// A batch of the stream `events` with the columns that `mask` names.
fn events(mask: u8, rows: usize) -> RecordBatch {
    let stream = weir_data::streams::stream("events").unwrap();
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_value(7, rows).with_timezone("UTC"));
    let text =
        |text: &str| Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("{text}{row}")))) as ArrayRef;
    let columns = stream
        .schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "time" | "received_at" => Some(Arc::clone(&times)),
            "event_id" if mask & 1 != 0 => Some(text("id")),
            "name" if mask & 2 != 0 => Some(text("name")),
            "country" if mask & 4 != 0 => Some(text("country")),
            "properties" if mask & 8 != 0 => {
                let mut builder = AttributesBuilder::with_capacity(rows);
                for _ in 0..rows {
                    builder.end_row();
                }
                Some(builder.finish().0)
            }
            _ => None,
        })
        .collect();
    sparse(&stream.schema, columns, rows).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_equals_the_plain_way(shapes in proptest::collection::vec((0u8..16, 1usize..12), 1..9)) {
        let schema = &weir_data::streams::stream("events").unwrap().schema;
        let batches: Vec<RecordBatch> = shapes.into_iter().map(|(mask, rows)| events(mask, rows)).collect();
        let merged = merge(schema, &batches).unwrap();
        prop_assert_eq!(&merged, &concat_sparse(schema, &batches).unwrap());
    }

    #[test]
    fn batches_read_back(mask in 0u8..16, rows in 1usize..40) {
        let batch = events(mask, rows);
        let mut encoder = Encoder::new().unwrap();
        let (id, message) = encoder.schema(batch.schema_ref());
        prop_assert_eq!(id, schema_id(&message));
        let schema = decode_schema(&message).unwrap();
        let mut body = Vec::new();
        encoder.batch(&batch, &mut body).unwrap();
        prop_assert_eq!(&decode_batch(&body, &schema, rows as u32).unwrap(), &batch);
        prop_assert!(decode_batch(&body, &schema, rows as u32 + 1).is_err());
    }

    /// Only bytes with the right checksum get here; even so nothing panics.
    #[test]
    fn garbage_does_not_decode(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let schema = decode_schema(&Encoder::new().unwrap().schema(events(3, 1).schema_ref()).1).unwrap();
        prop_assert!(decode_batch(&bytes, &schema, 1).is_err());
        prop_assert!(decode_schema(&bytes).is_err());
    }
}

#[test]
fn buffers_are_kept_small_and_a_false_length_is_refused() {
    let batch = events(3, 500);
    let mut encoder = Encoder::new().unwrap();
    let schema = decode_schema(&encoder.schema(batch.schema_ref()).1).unwrap();
    let mut body = Vec::new();
    encoder.batch(&batch, &mut body).unwrap();
    assert_eq!(body[4], 2);
    assert!(body.len() * 2 < batch.get_array_memory_size(), "{} bytes", body.len());
    let at = 8 + u32::from_le_bytes([body[0], body[1], body[2], body[3]]).next_multiple_of(8) as usize;
    for length in [u32::MAX, 7, 0] {
        let mut wrong = body.clone();
        wrong[at..at + 4].copy_from_slice(&length.to_le_bytes());
        assert!(decode_batch(&wrong, &schema, 500).is_err(), "{length}");
    }
    let mut unknown = body.clone();
    unknown[4] = 9;
    assert!(decode_batch(&unknown, &schema, 500).is_err());
}

/// Columns of every kind, one of whose buffers is not known to those who make lengths of offsets if `has_views`.
fn of_every_kind(rows: usize, has_views: bool) -> RecordBatch {
    let text = |row: usize| (!row.is_multiple_of(3)).then(|| "x".repeat(row % 7));
    let texts = StringArray::from_iter((0..rows).map(text));
    let mut lists = ListBuilder::new(StringBuilder::new());
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for row in 0..rows {
        (0..row % 4).for_each(|at| lists.values().append_option(text(row + at)));
        lists.append(row % 5 > 0);
        for at in 0..row % 3 {
            maps.keys().append_value(format!("key{at}"));
            maps.values().append_value(row as i64);
        }
        maps.append(true).unwrap();
    }
    let texts: ArrayRef = Arc::new(texts);
    let field = |name: &str, column: &ArrayRef| Arc::new(Field::new(name, column.data_type().clone(), true));
    let lists: ArrayRef = Arc::new(lists.finish());
    let nested = StructArray::from(vec![
        (field("flag", &bools(rows)), bools(rows)),
        (field("lists", &lists), Arc::clone(&lists)),
        (field("texts", &texts), Arc::clone(&texts)),
    ]);
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("flag", bools(rows)),
        ("text", Arc::clone(&texts)),
        ("nested", Arc::new(nested)),
        ("bytes", cast(&texts, &DataType::Binary).unwrap()),
        ("map", Arc::new(maps.finish())),
        ("number", Arc::new(Int64Array::from_iter_values(0..rows as i64))),
        ("list", lists),
    ];
    if has_views {
        columns.push(("view", cast(&texts, &DataType::Utf8View).unwrap()));
    }
    let nullable = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(nullable).unwrap()
}

fn bools(rows: usize) -> ArrayRef {
    Arc::new(BooleanArray::from_iter((0..rows).map(|row| (row % 4 > 0).then_some(row % 3 == 0))))
}

#[test]
fn columns_of_every_kind_read_back_also_in_part() {
    let one_text = |rows, _| of_every_kind(rows, false).project(&[1]).unwrap();
    let kinds = [(400, false, 2), (400, true, 1), (1, false, 2), (1, true, 1), (0, false, 2)];
    let wide =
        kinds.map(|(rows, has_views, form)| (of_every_kind as fn(usize, bool) -> RecordBatch, rows, has_views, form));
    // What does not get smaller is kept as it was.
    for (make, rows, has_views, form) in wide.into_iter().chain([(one_text as _, 1, false, 0)]) {
        let whole = make(rows + 7, has_views);
        for batch in [whole.slice(0, rows), whole.slice(5, rows)] {
            let mut encoder = Encoder::new().unwrap();
            let schema = decode_schema(&encoder.schema(batch.schema_ref()).1).unwrap();
            let mut body = Vec::new();
            encoder.batch(&batch, &mut body).unwrap();
            assert_eq!(body[4], form, "{rows} rows");
            assert_eq!(decode_batch(&body, &schema, rows as u32).unwrap(), batch);
            for column in batch.columns().iter().zip(schema.fields()) {
                let one = decode_column(&body, &schema, rows as u32, column.1.name()).unwrap().unwrap();
                assert_eq!(one.column(0), column.0);
            }
        }
    }
}

/// Offsets were made lengths for the compression, and are offsets again where it was of no use.
#[test]
fn texts_without_repetitions_read_back() {
    let mut state = 1_u64;
    let mut text = |length: usize| -> String {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + (state >> 33) as u8 % 90)
        };
        (0..length).map(|_| next()).collect()
    };
    let texts: ArrayRef = Arc::new(StringArray::from(vec![text(40), text(41), text(43)]));
    let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
    let mut encoder = Encoder::new().unwrap();
    let schema = decode_schema(&encoder.schema(batch.schema_ref()).1).unwrap();
    let mut body = Vec::new();
    encoder.batch(&batch, &mut body).unwrap();
    assert_eq!(body[4], 0);
    assert_eq!(decode_batch(&body, &schema, 3).unwrap(), batch);
}

#[test]
fn columns_out_of_order_are_refused() {
    let stream = weir_data::streams::stream("events").unwrap();
    let batch = events(3, 2);
    let swapped = batch.project(&[1, 0, 2, 3]).unwrap();
    assert!(merge(&stream.schema, &[batch, swapped]).is_err());
}

#[test]
fn time_ranges_and_ids() {
    assert_eq!(super::time_range(&events(0, 3)), (7, 7));
    let without = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    assert_eq!(super::time_range(&without), (i64::MAX, i64::MIN));
    let mut ids = Vec::new();
    super::for_each_id(&events(1, 2), "event_id", |row, id| ids.push((row, id.to_owned())));
    assert_eq!(ids, [(0, "id0".to_owned()), (1, "id1".to_owned())]);
    super::for_each_id(&without, "n", |_, _| panic!("numbers are no ids"));
}
