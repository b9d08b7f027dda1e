//! OTLP in JSON, as each of the signals.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use weir_codecs::otlp::{Encoding, Signal, decode};

fuzz_target!(|body: &[u8]| {
    for signal in [Signal::Logs, Signal::Traces, Signal::Metrics] {
        common::check(decode(signal, Encoding::Json, body, &common::context()));
    }
});
