//! The blocks of a table file and their checksums.

#![no_main]

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use weir_store::fuzz::Blocks;
use weir_testkit::sim_disk::SimDisk;

thread_local! {
    static BLOCKS: OnceCell<Blocks> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| {
    BLOCKS.with(|blocks| blocks.get_or_init(|| Blocks::new(SimDisk::new())).run(input));
});
