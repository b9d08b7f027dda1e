//! Ctrl-C and SIGTERM: noticed here, and passed on to the processes xtask started.
#![allow(unsafe_code, reason = "the standard library has no signals, and xtask has no dependencies")]

use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const SIGINT: i32 = 2;
pub(crate) const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

static STOP: AtomicBool = AtomicBool::new(false);

// SAFETY: both are POSIX functions with these C types on every platform Weir builds for; `signal`
// takes the address of a handler, and the only one ever given is `on_stop` below.
unsafe extern "C" {
    safe fn signal(signal: i32, handler: usize) -> usize;
    safe fn kill(process: i32, signal: i32) -> i32;
    safe fn geteuid() -> u32;
}

/// Only stores a flag: that is all a signal handler may safely do.
extern "C" fn on_stop(_: i32) {
    STOP.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C does not end xtask but makes [`stop_asked`] true. Programs started later
/// begin with the default behaviour again.
pub(crate) fn catch() {
    let handler: extern "C" fn(i32) = on_stop;
    for number in [SIGINT, SIGTERM] {
        signal(number, handler as usize);
    }
}

/// Whether Ctrl-C was pressed since [`catch`].
pub(crate) fn stop_asked() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Asks a child to stop.
pub(crate) fn terminate(child: &Child) {
    if let Ok(process) = i32::try_from(child.id()) {
        kill(process, SIGTERM);
    }
}

/// Ends a child and all it has started, if it was given a group of its own.
pub(crate) fn kill_group(child: &Child) {
    if let Ok(process) = i32::try_from(child.id()) {
        kill(-process, SIGKILL);
    }
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    geteuid() == 0
}
