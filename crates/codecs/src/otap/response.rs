//! What OTAP senders are answered: a `BatchStatus` for every batch.

use crate::otlp::response::{put_bytes, put_varint};

/// A `BatchStatus`; `code` is the gRPC status, 0 if the batch is stored.
pub fn batch_status(batch_id: i64, code: u8, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, 1, batch_id.cast_unsigned());
    put_varint(&mut out, 2, u64::from(code));
    put_bytes(&mut out, 3, message.as_bytes());
    out
}
