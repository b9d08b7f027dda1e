//! Tests of the server over loopback. One binary, because linking it is slow.
#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod answers;
mod body;
mod grpc;
mod harness;
mod ingest;
mod losses;
mod net;
mod otap;
mod tail;
mod tls;
mod whole;
