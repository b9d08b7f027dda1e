//! The OTLP decoder from outside: against an independent decoder (prost), against hostile bytes,
//! and on the examples of the specification.

#![allow(clippy::unwrap_used, reason = "tests")]

mod again;
mod budgets;
mod cells;
mod corpus;
mod equal;
mod generate;
mod hostile;
mod memory;
mod oracle;
mod refused;
mod wire;
