//! The log through its public face, on a simulated disk (and once on the real one).
#![allow(clippy::unwrap_used, reason = "tests")]

mod basics;
mod crash;
mod damage;
mod faults;
mod harness;
mod readers;
