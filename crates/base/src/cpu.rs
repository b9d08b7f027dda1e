//! CPU time, for programs that measure themselves. Linux only.

use std::io;
use std::path::Path;
use std::time::Duration;

/// CPU time the threads of this process that are still running have used so far, in user space and in the kernel, to the
/// nanosecond (`/proc/self/task/*/schedstat`).
///
/// # Errors
/// If the kernel does not say.
pub fn of_this_process() -> io::Result<Duration> {
    let mut nanos = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread may end between the listing and the look.
        nanos += of_thread(&thread?.path()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// CPU time the calling thread has used so far.
///
/// # Errors
/// If the kernel does not say.
pub fn of_this_thread() -> io::Result<Duration> {
    of_thread(Path::new("/proc/thread-self")).map(Duration::from_nanos)
}

fn of_thread(folder: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(folder.join("schedstat"))?;
    let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
    first.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "schedstat begins with no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_time() {
        let (thread, process) = (of_this_thread().unwrap(), of_this_process().unwrap());
        let mut sum = 0_u64;
        while of_this_thread().unwrap() - thread < Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        assert!(of_this_process().unwrap() - process >= Duration::from_millis(4));
    }
}
