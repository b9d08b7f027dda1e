//! The log whose files inputs take the place of, made once and copied for each input.

use std::sync::{Arc, LazyLock};

use weir_base::disk::Disk;
use weir_testkit::sim_disk::SimDisk;

static SAMPLE: LazyLock<Arc<SimDisk>> = LazyLock::new(|| {
    // The log catches panics of the Arrow decoder; libFuzzer's hook would end the run at once.
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|place| !place.file().contains("arrow")) {
            abort(panic);
        }
    }));
    let disk = SimDisk::new();
    let log = weir_log::fuzz::sample(&(Arc::clone(&disk) as _));
    let copy = disk.fork();
    log.close();
    copy
});

pub fn sample() -> Arc<dyn Disk> {
    SAMPLE.fork()
}
