//! The threads queries run on.
//!
//! An operator that does not yield holds the thread it runs on, a join of everything with everything for minutes. So
//! queries that run side by side do not share threads, up to a number of them: each takes the lane with the fewest
//! tasks, and lanes share the processors by the operating system, which takes them away from whoever has had enough.
//! Alternatives were a check in every operator, which are not ours, and a process for each query.

use std::future::Future;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// The stack of a query thread. Planning is recursive; the first gate keeps its depth within this.
const STACK_BYTES: usize = 16 * 1024 * 1024;
/// With more queries than this at once, some share threads.
const LANES_MAX: usize = 16;

/// Runtimes, made as there are queries at once.
#[derive(Debug)]
pub(crate) struct Lanes {
    threads: usize,
    lanes: Mutex<Vec<Runtime>>,
}

impl Lanes {
    /// One lane of so many threads.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        Ok(Self { threads, lanes: Mutex::new(vec![lane(threads)?]) })
    }

    /// Begins a task where the fewest are.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<(JoinHandle<T>, Handle)> {
        let mut lanes = self.lanes.lock();
        let tasks_of = |lane: &Runtime| lane.metrics().num_alive_tasks();
        let fewest = lanes.iter().map(tasks_of).min()?;
        if fewest > 0 && lanes.len() < LANES_MAX {
            match lane(self.threads) {
                Ok(lane) => lanes.push(lane),
                Err(error) => tracing::warn!(%error, "queries share threads: no more can be started"),
            }
        }
        // What was just made has none.
        let lane = lanes.iter().min_by_key(|lane| tasks_of(lane))?;
        Some((lane.spawn(task), lane.handle().clone()))
    }

    /// Runs what never waits on a thread of its own.
    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        self.lanes.lock().first().map(|lane| lane.spawn_blocking(work))
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for lane in self.lanes.get_mut().drain(..) {
            // Dropping a runtime waits, which is not allowed inside another one.
            lane.shutdown_background();
        }
    }
}

fn lane(threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(threads.max(2) * 4)
        .thread_stack_size(STACK_BYTES)
        .thread_name("weir-query")
        .enable_time()
        .build()
}
