//! Formats: bytes of a request, a file or a message to Arrow batches, with the rows that could not be
//! read beside them.
//!
//! Invariant: no decoder here panics or allocates past its budget, whatever the bytes.

mod decoded;
pub mod events;
mod events_row;
pub mod inflate;
mod json_reader;
mod json_time;
pub mod otap;
pub mod otlp;
pub mod rows;
pub mod segment;

pub use decoded::{DecodeError, Decoded, DecodedBatch, EARLY_AFTER, IMPOSSIBLE, LATE_AFTER, RowContext, time_flag};
