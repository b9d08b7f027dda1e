//! Rows of the metadata database, with and without a right checksum.

#![no_main]

mod scratch;

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use weir_meta::fuzz::Rows;

thread_local! {
    static ROWS: OnceCell<Rows> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| {
    ROWS.with(|rows| rows.get_or_init(|| Rows::new(&scratch::folder("rows"))).run(input));
});
