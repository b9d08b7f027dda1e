//! Work that keeps a processor busy, away from the threads that serve connections.
//!
//! More than about a millisecond on an I/O thread delays everybody whose connection that thread
//! serves. Less than that is quicker done at once: handing work over costs two context switches,
//! which is more than decoding one small request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use weir_base::{ErrorKind, Kinded};

/// A bounded number of threads for work.
#[derive(Debug)]
pub struct Workers {
    places: Arc<Semaphore>,
    inline_bytes_max: usize,
    panics: AtomicU64,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    /// The work panicked: a bug. The panic hook has logged where.
    #[error("the work panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The process is ending.
    #[error("the server is stopping")]
    Stopping,
}

impl Kinded for WorkError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Panicked { .. } => ErrorKind::Internal,
            Self::Stopping => ErrorKind::Transient,
        }
    }
}

/// Decoders take 10 to 20 ns a byte unoptimised and 2 to 3 ns optimised, so that this much is well
/// below a millisecond where it counts.
const INLINE_BYTES_MAX: usize = 64 * 1024;

impl Workers {
    /// As many threads as the machine has processors.
    pub fn new() -> Arc<Self> {
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(threads)),
            inline_bytes_max: INLINE_BYTES_MAX,
            panics: AtomicU64::new(0),
        })
    }

    /// Panics caught since the start. Anything but 0 is a bug.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Does `work` on about `bytes` of input: at once if that is little, else on a thread of its
    /// own. A panic in it is an error here and harms nobody else.
    ///
    /// What the work holds (a body and its reservation) should be moved into it: work that has
    /// begun is finished even if the caller goes away.
    pub async fn run<T, F>(&self, bytes: usize, work: F) -> Result<T, WorkError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if bytes <= self.inline_bytes_max {
            return self.caught(catch_unwind(AssertUnwindSafe(work)));
        }
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| WorkError::Stopping)?;
        let done = spawn_blocking(move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            drop(place);
            done
        });
        match done.await {
            Ok(done) => self.caught(done),
            Err(_) => Err(WorkError::Stopping),
        }
    }

    /// Does a little work at once. A panic in it is an error here and harms nobody else.
    pub fn run_here<T>(&self, work: impl FnOnce() -> T) -> Result<T, WorkError> {
        self.caught(catch_unwind(AssertUnwindSafe(work)))
    }

    fn caught<T>(&self, done: std::thread::Result<T>) -> Result<T, WorkError> {
        done.map_err(|panic| {
            self.panics.fetch_add(1, Ordering::Relaxed);
            WorkError::Panicked { message: panic_message(&*panic) }
        })
    }
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests;
