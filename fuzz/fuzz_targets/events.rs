//! SDK events.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use weir_codecs::events::decode;

fuzz_target!(|body: &[u8]| common::check(decode(body, &common::context())));
