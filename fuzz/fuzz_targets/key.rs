//! Keys as senders present them.

#![no_main]

mod scratch;

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use weir_meta::fuzz::Keys;

thread_local! {
    static KEYS: OnceCell<Keys> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| {
    KEYS.with(|keys| keys.get_or_init(|| Keys::new(&scratch::folder("keys"))).run(input));
});
