//! The OTAP decoder from outside: against our OTLP decoder, with an encoder of these tests and
//! with what a real producer sent, and against hostile bytes.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../otlp/cells.rs"]
#[allow(dead_code, reason = "shared with the tests of OTLP")]
mod cells;
mod corpus;
mod encode;
mod equal;
mod fixtures;
#[path = "../otlp/generate.rs"]
#[allow(dead_code, reason = "shared with the tests of OTLP")]
mod generate;
mod hostile;
#[path = "../otlp/memory.rs"]
mod memory;

/// What the generator of requests needs of the tests of OTLP.
mod oracle {
    /// When every request of these tests arrives.
    pub(crate) const RECEIVED_AT: i64 = 1_700_000_000_000_000_000;
}
