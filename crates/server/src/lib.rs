//! The server: receivers, admission, authentication, the API, and the wiring of one process.

pub mod admission;
pub mod auth;
pub mod client_address;
pub mod config;
pub mod cors;
pub mod grpc;
pub mod middleware;
pub mod net;
pub mod problem;
pub mod work;
