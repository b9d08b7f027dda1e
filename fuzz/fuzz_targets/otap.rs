//! OTAP, one batch: the first byte is the signal.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use weir_codecs::otap::decode;
use weir_codecs::otlp::Signal;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let signal = [Signal::Logs, Signal::Traces, Signal::Metrics][usize::from(*first) % 3];
    common::check(decode(signal, body, &common::context()));
});
