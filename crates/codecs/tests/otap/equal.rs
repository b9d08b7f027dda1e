//! Our rows from OTAP equal our rows from OTLP.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use weir_base::Timestamp;
use weir_codecs::otap::Stream;
use weir_codecs::otlp::{self, Encoding, Signal};
use weir_codecs::{Decoded, RowContext};

use crate::cells::{Row, rows};
use crate::encode::{BatchArrowRecords, Encoder, normalize_logs, normalize_metrics, normalize_spans};
use crate::generate::Random;
use crate::oracle::RECEIVED_AT;

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

/// Compares one batch of a stream with the OTLP request that it stands for.
pub(crate) fn check(signal: Signal, stream: &mut Stream, batch: &[u8], request: &[u8], what: &str) {
    let expected = otlp::decode(signal, Encoding::Protobuf, request, &context()).unwrap();
    let actual = stream.decode(batch, &context()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(actual.rejects.len(), expected.rejects.len(), "{what}");
    assert_eq!(actual.received, expected.received, "{what}");
    let (actual, expected) = (all_rows(&actual), all_rows(&expected));
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (at, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        assert_eq!(actual, expected, "{what}, row {at}");
    }
}

/// Streams of a few batches, by seed.
fn streams<M: Message + Default>(
    signal: Signal,
    make: fn(&mut Random) -> M,
    normalize: fn(&mut M),
    encode: fn(&mut Encoder, &M) -> BatchArrowRecords,
) {
    for seed in 0..200 {
        let mut encoder = Encoder::new(seed);
        let mut stream = Stream::new(signal);
        for n in 0..3 {
            let mut request = make(&mut encoder.random);
            normalize(&mut request);
            // Read back, because prost drops a double of -0.0 as if it were absent.
            let bytes = request.encode_to_vec();
            let request = M::decode(bytes.as_slice()).unwrap();
            let batch = encode(&mut encoder, &request).encode_to_vec();
            check(signal, &mut stream, &batch, &bytes, &format!("seed {seed}, batch {n}"));
        }
    }
}

#[test]
fn logs_equal_otlp() {
    streams::<ExportLogsServiceRequest>(Signal::Logs, Random::logs, normalize_logs, Encoder::logs);
}

#[test]
fn spans_equal_otlp() {
    streams::<ExportTraceServiceRequest>(Signal::Traces, Random::spans, normalize_spans, Encoder::spans);
}

#[test]
fn metrics_equal_otlp() {
    streams::<ExportMetricsServiceRequest>(Signal::Metrics, Random::metrics, normalize_metrics, Encoder::metrics);
}
