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

fn all_rows(decoded: &Decoded) -> Vec<Row> {
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
        let body = Random(seed).logs().encode_to_vec();
        // Read back, because the encoder drops a double of -0.0 as if it were absent.
        let request = ExportLogsServiceRequest::decode(body.as_slice()).unwrap();
        check(Signal::Logs, Encoding::Protobuf, &body, &oracle::logs(&request), seed);
    }
}

#[test]
fn spans_equal_the_oracle() {
    for seed in 0..500 {
        let body = Random(seed).spans().encode_to_vec();
        // Read back, because the encoder drops a double of -0.0 as if it were absent.
        let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        check(Signal::Traces, Encoding::Protobuf, &body, &oracle::spans(&request), seed);
    }
}

#[test]
fn metrics_equal_the_oracle() {
    for seed in 0..500 {
        let body = Random(seed).metrics().encode_to_vec();
        // Read back, because the encoder drops a double of -0.0 as if it were absent.
        let request = ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
        check(Signal::Metrics, Encoding::Protobuf, &body, &oracle::metrics(&request), seed);
    }
}
