//! What the targets share: a request's context with limits far below those of the fuzzer.

use weir_base::Timestamp;
use weir_codecs::{DecodeError, Decoded, RowContext};

pub fn context() -> RowContext<'static> {
    RowContext {
        tenant: "acme",
        received_at: Timestamp(1_700_000_000_000_000_000),
        client_ip: None,
        user_agent: None,
        rows_max: 1000,
        row_bytes_max: 64 * 1024,
        value_bytes_max: 16 * 1024,
        decoded_bytes_max: 4 * 1024 * 1024,
    }
}

/// Every row is accounted for, and there are no more than allowed.
pub fn check(decoded: Result<Decoded, DecodeError>) {
    if let Ok(decoded) = decoded {
        let n_rows: usize = decoded.batches.iter().map(|batch| batch.batch.num_rows()).sum();
        assert_eq!(decoded.received, n_rows + decoded.rejects.len());
        assert!(decoded.received <= 1000);
    }
}
