//! What rows of pipelines become that no receiver has decoded before. That requests come back as they were is in
//! `tests/otlp/again.rs`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use weir_base::Timestamp;
use weir_data::json_rows;

use super::*;
use crate::RowContext;
use crate::otlp::{Encoding, decode};

fn context() -> RowContext<'static> {
    RowContext {
        tenant: "acme",
        received_at: Timestamp(1_700_000_000_000_000_000),
        client_ip: None,
        user_agent: None,
        rows_max: 1000,
        row_bytes_max: 1 << 20,
        value_bytes_max: 1 << 20,
        decoded_bytes_max: 64 << 20,
    }
}

fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// The rows a receiver makes of it, as JSON, in the order of the request.
fn received(signal: Signal, encoded: &Encoded) -> Vec<serde_json::Value> {
    let decoded = decode(signal, Encoding::Protobuf, &encoded.body, &context()).unwrap();
    assert_eq!(decoded.rejects, []);
    assert_eq!(decoded.received, encoded.order.len());
    let Some(batch) = decoded.batches.first().map(|decoded| &decoded.batch) else { return Vec::new() };
    let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    let lines = json_rows::lines(batch, &names);
    serde_json::Deserializer::from_slice(&lines).into_iter().map(Result::unwrap).collect()
}

#[test]
fn results_of_a_window_are_a_gauge_with_attributes() {
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; 2]));
    let rows = rows(vec![
        ("time", times),
        ("name", texts(&[Some("orders"), Some("orders")])),
        ("value", Arc::new(Int64Array::from(vec![3, 5]))),
        ("region", texts(&[Some("eu"), None])),
        ("rate", Arc::new(Float64Array::from(vec![0.5, 2.0]))),
    ]);
    assert_eq!(misfits(Signal::Metrics, rows.schema_ref()), []);
    let encoded = encode(Signal::Metrics, &rows).unwrap();
    let received = received(Signal::Metrics, &encoded);
    assert_eq!(received[0]["type"], "gauge");
    assert_eq!(received[0]["value"], 3.0);
    assert_eq!(received[0]["attributes"], serde_json::json!({ "region": "eu", "rate": 0.5 }));
    assert_eq!(received[1]["attributes"], serde_json::json!({ "rate": 2.0 }));
}

#[test]
fn rows_are_grouped_by_where_they_come_from_and_can_be_found_again() {
    let rows = rows(vec![
        ("body", texts(&[Some("1"), Some("2"), Some("3"), Some("4")])),
        ("service_name", texts(&[Some("a"), Some("b"), Some("a"), None])),
        ("scope_name", texts(&[Some("x"), Some("x"), Some("y"), None])),
    ]);
    let encoded = encode(Signal::Logs, &rows).unwrap();
    assert_eq!(encoded.order, [0, 2, 1, 3]);
    let received = received(Signal::Logs, &encoded);
    let told: Vec<_> = received.iter().map(|row| (row["body"].clone(), row["service_name"].clone())).collect();
    let text = serde_json::Value::from;
    let none = serde_json::Value::Null;
    assert_eq!(
        told,
        [("1", "a".into()), ("3", "a".into()), ("2", "b".into()), ("4", none)].map(|(body, name)| (text(body), name))
    );
}

#[test]
fn what_cannot_be_said_costs_its_row() {
    let rows = rows(vec![
        ("trace_id", texts(&[Some("0102030405060708090a0b0c0d0e0f10"), Some("abc"), None, Some("")])),
        ("kind", texts(&[Some("server"), None, Some("sideways"), Some("7")])),
    ]);
    let encoded = encode(Signal::Traces, &rows).unwrap();
    assert_eq!(encoded.order, [0, 3]);
    assert_eq!(
        encoded.unfit,
        [
            (1, "trace_id: `abc` is not an id of 16 bytes in hexadecimal digits".to_owned()),
            (2, "kind is `sideways`, not one of internal, server, client, producer, consumer".to_owned()),
        ]
    );
    let received = received(Signal::Traces, &encoded);
    assert_eq!((&received[0]["kind"], &received[1]["kind"]), (&"server".into(), &"7".into()));
}

#[test]
fn a_span_ends_after_its_duration_and_a_service_is_named_once() {
    let map = |pairs: &[(&str, &str)]| {
        let mut builder = weir_data::attributes::AttributesBuilder::with_capacity(1);
        for (key, value) in pairs {
            builder.push_json(key, value);
        }
        builder.end_row();
        builder.finish().0
    };
    let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000]));
    let rows = rows(vec![
        ("time", time),
        ("duration_ns", Arc::new(Int64Array::from(vec![5]))),
        ("service_name", texts(&[Some("new")])),
        ("resource", map(&[("service.name", "\"old\""), ("host", "1")])),
    ]);
    let received = received(Signal::Traces, &encode(Signal::Traces, &rows).unwrap());
    assert_eq!(received[0]["duration_ns"], 5);
    assert_eq!(received[0]["resource"], serde_json::json!({ "service.name": "new", "host": 1 }));
}

#[test]
fn columns_that_mean_something_else_are_told_of() {
    let schema = Schema::new(vec![
        Field::new("body", DataType::Utf8View, true),
        Field::new("attributes", DataType::Utf8, true),
        Field::new("severity_number", DataType::Int64, true),
        Field::new("window", DataType::new_list(DataType::Int64, true), true),
    ]);
    let misfits = misfits(Signal::Logs, &schema);
    assert_eq!(misfits.len(), 1);
    assert_eq!(misfits[0].0, "attributes");
}
