//! Our rows equal those of the oracle.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
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
        let request: ExportLogsServiceRequest = Random(seed).logs();
        check(Signal::Logs, Encoding::Protobuf, &request.encode_to_vec(), &oracle::logs(&request), seed);
    }
}
