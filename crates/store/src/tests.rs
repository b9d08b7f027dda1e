//! The life of tables: what a snapshot shows before, during and after everything that can happen.
#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;
mod faults;
mod life;
mod random;
mod real;
mod search;
mod shapes;
