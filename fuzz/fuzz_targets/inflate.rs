//! Every compression, over the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_codecs::inflate::{Encoding, decompress};

const OUT_MAX: usize = 1024 * 1024;

fuzz_target!(|body: &[u8]| {
    for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
        if let Ok(out) = decompress(encoding, body, OUT_MAX) {
            assert!(out.len() <= OUT_MAX);
        }
    }
});
