//! Formats: bytes of a request to Arrow batches, with the rows that could not be read beside them.
//!
//! Invariant: no decoder here panics or allocates past its budget, whatever the bytes.

mod decoded;

pub use decoded::{DecodeError, Decoded, DecodedBatch, EARLY_AFTER, IMPOSSIBLE, LATE_AFTER, RowContext, time_flag};
