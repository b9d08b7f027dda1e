//! A run of the ids that the log remembers.

#![no_main]

mod log_disk;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| weir_log::fuzz::ids(&log_disk::sample(), input));
