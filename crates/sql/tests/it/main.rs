//! Queries end to end, over tables in memory.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unreachable_pub, missing_docs, reason = "tests")]

mod support;

mod answers;
