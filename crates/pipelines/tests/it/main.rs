//! Documents with the components there really are, and the text tests of the repository.

#![allow(clippy::unwrap_used, reason = "tests")]

mod components;
mod docs;
#[cfg(feature = "kafka")]
mod sharing;
mod text_tests;
