//! The OTLP decoder from outside: against an independent decoder (prost), against hostile bytes,
//! and on the examples of the specification.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cells;
mod equal;
mod generate;
mod oracle;
