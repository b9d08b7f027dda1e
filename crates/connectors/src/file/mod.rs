//! Files of this machine, read and written.

pub mod sink;
pub mod source;
