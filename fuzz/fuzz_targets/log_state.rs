//! The identity and the checkpoint of the log.

#![no_main]

mod log_disk;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| weir_log::fuzz::state(&log_disk::sample(), input));
