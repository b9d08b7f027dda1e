//! The server: receivers, admission, authentication, the API, and the wiring of one process.
//!
//! [`app`] brings the parts up and down, [`routes`] answers requests, [`ingest`] is the one way in
//! for rows. Around every handler stands [`middleware`]; below everything [`net`].
//!
//! Invariant: no handler keeps state between requests; what outlives one is in the log, the tables
//! or the metadata database.

pub mod admission;
pub mod app;
pub mod auth;
pub mod client_address;
pub mod config;
pub mod cors;
pub mod grpc;
pub mod ingest;
pub mod live;
pub mod lost_log;
pub mod middleware;
pub mod net;
mod pipelines;
pub mod problem;
pub mod routes;
pub mod stopped;
pub mod telemetry;
pub mod work;
