//! Weir from outside: the shipped program as a process, and its protocols as a stranger speaks them.
//! For tests that must not share a line of code with what they test.
#![allow(clippy::disallowed_methods, reason = "an outside client has the wall clock and nothing else")]

pub mod server;
pub mod wire;
