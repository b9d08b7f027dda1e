//! The background threads. Plain threads, because their work is CPU and disk.
//!
//! - the keeper merges small chunks of tails, unlinks files nobody needs and releases the log;
//! - the flusher writes tails to files;
//! - the compactor merges files and expires them.
//!
//! Each also has a synchronous entry point, so that tests decide what happens when.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use weir_base::shutdown::Shutdown;

use crate::StoreError;
use crate::retain::Expiry;
use crate::store::Store;

/// How long a thread waits at most before it looks around again; also the time a shutdown waits.
const TICK: Duration = Duration::from_millis(100);
/// After a panic a thread waits this long.
const PANIC_PAUSE: Duration = Duration::from_secs(1);
/// The keeper releases the log at least so often.
const RELEASE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks for tails that are old enough to be flushed, or one part in so many of that age if that is less.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
const FLUSH_AGE_PART: u32 = 8;
/// Between two looks for files to compact.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(2);

/// The running background threads. Dropping it does not stop them; the shutdown does.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Waits until all threads have ended, which they do soon after the shutdown has begun.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a background thread of the tables panicked");
            }
        }
    }
}

impl Store {
    /// Starts the background threads. They end when the shutdown begins; what is in the tails stays
    /// in the log.
    ///
    /// # Errors
    /// If the operating system has no thread to give.
    pub fn run(self: &Arc<Self>, shutdown: &Shutdown) -> Result<Workers, StoreError> {
        let spawn = |name: &str, work: fn(&Self, &Shutdown)| {
            let (store, shutdown) = (Arc::clone(self), shutdown.clone());
            let work = move || {
                while !shutdown.has_begun() {
                    // A panic is a bug, and costs its round, not the thread: without it tails would
                    // grow until the log is full.
                    if std::panic::catch_unwind(AssertUnwindSafe(|| work(&store, &shutdown))).is_err() {
                        tracing::error!("a background thread of the tables panicked; it goes on");
                        std::thread::sleep(PANIC_PAUSE);
                    }
                }
            };
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|source| StoreError::Io {
                attempt: "start a thread for",
                path: self.options.dir.clone(),
                source,
            })
        };
        let threads = vec![
            spawn("weir-keeper", Self::keep_until)?,
            spawn("weir-flusher", Self::flush_until)?,
            spawn("weir-compactor", Self::compact_until)?,
        ];
        Ok(Workers { threads })
    }

    fn keep_until(&self, shutdown: &Shutdown) {
        let mut released = Duration::ZERO;
        while !shutdown.has_begun() {
            self.keeper_signal.wait(TICK);
            self.merge_tails();
            self.unlink_retired();
            let now = self.clock.monotonic();
            if now.saturating_sub(released) >= RELEASE_INTERVAL {
                released = now;
                self.release();
            }
        }
    }

    fn flush_until(&self, shutdown: &Shutdown) {
        // Tails that are large are told of at once, and of the others it is a matter of age. With 200 tenants there are
        // more than a thousand tables to look at.
        let every = (self.options.flush_age / FLUSH_AGE_PART).clamp(TICK, FLUSH_INTERVAL);
        let mut looked: Option<Duration> = None;
        while !shutdown.has_begun() {
            let is_wanted = self.flush_signal.wait(TICK);
            let now = self.clock.monotonic();
            if is_wanted || looked.is_none_or(|then| now.saturating_sub(then) >= every) {
                looked = Some(now);
                self.flush_due(&|| shutdown.has_begun());
            }
        }
    }

    fn compact_until(&self, shutdown: &Shutdown) {
        let mut compacted = Duration::ZERO;
        let mut expired: Option<Duration> = None;
        while !shutdown.has_begun() {
            std::thread::sleep(TICK);
            let now = self.clock.monotonic();
            if self.is_fenced() {
                continue;
            }
            if expired.is_none_or(|then| now.saturating_sub(then) >= self.options.retention_interval) {
                expired = Some(now);
                // Failures are logged, counted and met again at the next pass.
                let _ = self.retain_once(Expiry::Guarded);
            }
            if now.saturating_sub(compacted) >= COMPACTION_INTERVAL {
                compacted = now;
                let stop = || shutdown.has_begun();
                // Pass after pass, until there is nothing left to merge.
                while !stop() && matches!(self.compact_pass(&stop), Ok(report) if report.merges > 0) {}
            }
        }
    }

    /// Merges small chunks of the tails that asked for it.
    pub fn merge_tails(&self) {
        let tables = std::mem::take(&mut *self.to_merge.lock());
        for (tenant, stream) in tables {
            // Its tenant may have been deleted.
            let Some(table) = self.existing(&tenant, &stream) else { continue };
            if let Err(error) = table.merge_chunks() {
                tracing::error!(%tenant, %stream, error = %weir_base::error::chain(&error), "cannot merge rows of a tail");
            }
        }
    }

    /// Unlinks files that no table names and no snapshot holds.
    pub fn unlink_retired(&self) {
        let paths = std::mem::take(&mut *self.files.unlink.lock());
        for path in paths {
            match self.files.disk.remove(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    // The next start finds it as an orphan.
                    tracing::warn!(path = %path.display(), %error, "cannot unlink a replaced table file");
                    continue;
                }
            }
            let _guard = self.dirs.lock();
            // A directory that still has files refuses, which is what we want.
            let mut parent = path.parent();
            while let Some(dir) = parent.filter(|dir| *dir != self.options.dir) {
                if self.files.disk.remove_dir(dir).is_err() {
                    break;
                }
                parent = dir.parent();
            }
        }
    }
}
