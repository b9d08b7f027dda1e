//! Our rows equal those of the oracle.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use weir_base::Timestamp;
use weir_codecs::otlp::{Encoding, Signal, decode};
use weir_codecs::{Decoded, RowContext};

use crate::cells::{Row, rows};
use crate::generate::Random;
use crate::oracle::{self, RECEIVED_AT};

pub(crate) fn context() -> RowContext<'static> {
    RowContext {
        tenant: "acme",
        received_at: Timestamp(RECEIVED_AT),
        client_ip: None,
        user_agent: None,
        rows_max: 100_000,
        row_bytes_max: 1 << 20,
        value_bytes_max: 1 << 20,
        decoded_bytes_max: 64 << 20,
    }
}

pub(crate) fn all_rows(decoded: &Decoded) -> Vec<Row> {
    decoded.batches.iter().flat_map(|batch| rows(&batch.batch)).collect()
}

fn check(signal: Signal, encoding: Encoding, body: &[u8], expected: &[Row], seed: u64) {
    let decoded = decode(signal, encoding, body, &context()).unwrap();
    assert_eq!(decoded.rejects, [], "seed {seed}");
    assert_eq!(decoded.received, expected.len(), "seed {seed}");
    let actual = all_rows(&decoded);
    assert_eq!(actual.len(), expected.len(), "seed {seed}");
    for (at, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert_eq!(actual, expected, "seed {seed}, row {at}");
    }
}

#[test]
fn logs_equal_the_oracle() {
    for seed in 0..500 {
        let body = Random::new(seed).logs().encode_to_vec();
        // Read back, because the encoder drops a double of -0.0 as if it were absent.
        let request = ExportLogsServiceRequest::decode(body.as_slice()).unwrap();
        check(Signal::Logs, Encoding::Protobuf, &body, &oracle::logs(&request), seed);
    }
}

#[test]
fn spans_equal_the_oracle() {
    for seed in 0..500 {
        let body = Random::new(seed).spans().encode_to_vec();
        // Read back, because the encoder drops a double of -0.0 as if it were absent.
        let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        check(Signal::Traces, Encoding::Protobuf, &body, &oracle::spans(&request), seed);
    }
}

#[test]
fn metrics_equal_the_oracle() {
    for seed in 0..500 {
        let body = Random::new(seed).metrics().encode_to_vec();
        // Read back, because the encoder drops a double of -0.0 as if it were absent.
        let request = ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
        check(Signal::Metrics, Encoding::Protobuf, &body, &oracle::metrics(&request), seed);
    }
}

/// JSON as the generated structs write it gives the rows that their protobuf gives.
fn check_json<M: Message + Default + serde::Serialize>(signal: Signal, body: &[u8], seed: u64) {
    let message = M::decode(body).unwrap();
    let expected = decode(signal, Encoding::Protobuf, body, &context()).unwrap();
    for text in [serde_json::to_string(&message).unwrap(), serde_json::to_string_pretty(&message).unwrap()] {
        check(signal, Encoding::Json, text.as_bytes(), &all_rows(&expected), seed);
        let actual = decode(signal, Encoding::Json, text.as_bytes(), &context()).unwrap();
        for (actual, expected) in actual.batches.iter().zip(&expected.batches) {
            assert_eq!(actual.observed, expected.observed, "seed {seed}");
            assert_eq!(actual.batch, expected.batch, "seed {seed}");
        }
    }
}

#[test]
fn json_equals_protobuf() {
    for seed in 0..200 {
        let body = Random::finite(seed).logs().encode_to_vec();
        check_json::<ExportLogsServiceRequest>(Signal::Logs, &body, seed);
        let body = Random::finite(seed).spans().encode_to_vec();
        check_json::<ExportTraceServiceRequest>(Signal::Traces, &body, seed);
        let body = Random::finite(seed).metrics().encode_to_vec();
        check_json::<ExportMetricsServiceRequest>(Signal::Metrics, &body, seed);
    }
}

/// The examples of the specification: what the generated structs read from them.
#[test]
fn the_examples_of_the_specification_are_read() {
    type Expected = fn(&str) -> Vec<Row>;
    let cases: [(&str, Signal, Expected); 4] = [
        ("logs.json", Signal::Logs, |text| oracle::logs(&serde_json::from_str(text).unwrap())),
        ("events.json", Signal::Logs, |text| oracle::logs(&serde_json::from_str(text).unwrap())),
        ("trace.json", Signal::Traces, |text| oracle::spans(&serde_json::from_str(text).unwrap())),
        ("metrics.json", Signal::Metrics, |text| oracle::metrics(&serde_json::from_str(text).unwrap())),
    ];
    for (file, signal, expected) in cases {
        let path = format!("{}/tests/data/otlp/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let expected = expected(&text);
        assert!(!expected.is_empty(), "{file}");
        check(signal, Encoding::Json, text.as_bytes(), &expected, 0);
    }
}
