//! What was decoded is encoded and decoded again, by our decoder and by the generated structs: the rows are the same.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use weir_codecs::otlp::encode::encode;
use weir_codecs::otlp::{Encoding, Signal, decode};

use crate::cells::{Row, rows};
use crate::equal::{all_rows, context};
use crate::generate::Random;
use crate::oracle;

/// What the receiver adds itself is another thing each time.
fn without_flag(mut rows: Vec<Row>) -> Vec<Row> {
    for row in &mut rows {
        row.remove("time_flag");
    }
    rows
}

/// Rows of several requests, in one batch.
fn check(signal: Signal, body: &[u8], seed: u64, of_structs: fn(&[u8]) -> Vec<Row>) {
    let decoded = decode(signal, Encoding::Protobuf, body, &context()).unwrap();
    let Some(batch) = decoded.batches.first().map(|decoded| &decoded.batch) else { return };
    // Mixed, so that rows of one resource do not stand together.
    let mut random = Random::new(seed);
    let count = u32::try_from(batch.num_rows()).unwrap();
    let mut order: Vec<u32> = (0..count).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
    }
    let mixed = take_record_batch(batch, &UInt32Array::from(order)).unwrap();

    let encoded = encode(signal, &mixed).unwrap();
    assert_eq!(encoded.unfit, [], "seed {seed}");
    let picked: UInt32Array = encoded.order.iter().map(|row| u32::try_from(*row).unwrap()).collect();
    assert_eq!(picked.len(), mixed.num_rows(), "seed {seed}");
    let expected: RecordBatch = take_record_batch(&mixed, &picked).unwrap();
    let expected = without_flag(rows(&expected));

    let again = decode(signal, Encoding::Protobuf, &encoded.body, &context()).unwrap();
    assert_eq!(again.rejects, [], "seed {seed}");
    let again = without_flag(all_rows(&again));
    let read = without_flag(of_structs(&encoded.body));
    assert_eq!((again.len(), read.len()), (expected.len(), expected.len()), "seed {seed}");
    for (at, row) in expected.iter().enumerate() {
        let (mut again, mut read) = (again[at].clone(), read[at].clone());
        if !row.contains_key("duration_ns") {
            // A span without a start has begun when it was received, and has a duration from then on.
            again.remove("duration_ns");
            read.remove("duration_ns");
        }
        assert_eq!(&again, row, "seed {seed}, row {at}");
        assert_eq!(&read, row, "seed {seed}, row {at}, by the generated structs");
    }
}

#[test]
fn logs_come_back() {
    let read = |body: &[u8]| oracle::logs(&ExportLogsServiceRequest::decode(body).unwrap());
    (0..500).for_each(|seed| check(Signal::Logs, &Random::new(seed).logs().encode_to_vec(), seed, read));
}

#[test]
fn spans_come_back() {
    let read = |body: &[u8]| oracle::spans(&ExportTraceServiceRequest::decode(body).unwrap());
    (0..500).for_each(|seed| check(Signal::Traces, &Random::new(seed).spans().encode_to_vec(), seed, read));
}

#[test]
fn metrics_come_back() {
    let read = |body: &[u8]| oracle::metrics(&ExportMetricsServiceRequest::decode(body).unwrap());
    (0..500).for_each(|seed| check(Signal::Metrics, &Random::new(seed).metrics().encode_to_vec(), seed, read));
}
