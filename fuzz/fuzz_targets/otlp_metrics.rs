//! OTLP metrics in protobuf.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use weir_codecs::otlp::{Encoding, Signal, decode};

fuzz_target!(|body: &[u8]| {
    common::check(decode(Signal::Metrics, Encoding::Protobuf, body, &common::context()));
});
