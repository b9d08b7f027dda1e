//! Queries end to end, over tables in memory.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unreachable_pub, missing_docs, reason = "tests")]

mod support;

mod answers;
mod attributes;
mod defined;
mod extremes;
mod filters;
mod formats;
mod hostile;
mod isolation;
mod keyed;
mod limits;
mod maps;
mod memory;
mod reading;
mod searching;
