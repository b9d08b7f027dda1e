//! Calls of the tracking API, single and in batches.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use weir_codecs::segment::{Call, decode};

fuzz_target!(|body: &[u8]| {
    for call in [Call::Track, Call::Batch] {
        common::check(decode(call, body, &common::context()));
    }
});
