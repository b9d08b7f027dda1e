//! The file of the metadata database, with some bytes changed.

#![no_main]

mod scratch;

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use weir_meta::fuzz::Sample;

thread_local! {
    static SAMPLE: OnceCell<Sample> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| {
    SAMPLE.with(|sample| sample.get_or_init(|| Sample::new(&scratch::folder("file"))).run(input));
});
