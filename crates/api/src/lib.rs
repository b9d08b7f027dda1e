//! Requests and replies of Weir's HTTP API, as types: what the server writes, what the command line
//! and the tests read, and what the API reference is made from.
//!
//! Invariant: nothing here does anything. No network, no Arrow, no database; a field's comment is
//! its documentation for users. Requests refuse unknown fields, replies tolerate them, so that a
//! client survives a newer server and a typing error does not pass in silence.

pub mod deadletter;
pub mod health;
pub mod ingest;
pub mod key;
pub mod pipeline;
pub mod problem;
pub mod query;
pub mod tail;
pub mod tenant;

#[cfg(test)]
mod tests;
