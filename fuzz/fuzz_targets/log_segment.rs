//! A segment of the log: opened, read, repaired.

#![no_main]

mod log_disk;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| weir_log::fuzz::segment(&log_disk::sample(), input));
