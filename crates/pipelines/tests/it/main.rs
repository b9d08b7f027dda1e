//! Documents with the components there really are.

#![allow(clippy::unwrap_used, reason = "tests")]

mod components;
mod docs;
