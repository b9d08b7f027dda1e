//! The threads queries run on.
//!
//! An operator that does not yield holds the thread it runs on, a join of everything with everything for minutes. So
//! queries that run side by side do not share threads, up to a number of them: each takes the lane with the fewest
//! tasks, and lanes share the processors by the operating system, which takes them away from whoever has had enough.
//! Alternatives were a check in every operator, which are not ours, and a process for each query.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The stack of a query thread. Planning is recursive; the first gate keeps its depth within this.
const STACK_BYTES: usize = 16 * 1024 * 1024;
/// With more queries than this at once, some share threads.
const LANES_MAX: usize = 16;
/// A lane without work for so long ends, but for the first.
const IDLE: Duration = Duration::from_secs(10);
/// That no lane can be made is said so often at the most.
const WARNED_EVERY: Duration = Duration::from_secs(60);
/// The name of every thread here.
const THREAD_NAME: &str = "weir-query";

/// Runtimes, made as there are queries at once, and ended when there are not.
#[derive(Debug)]
pub(crate) struct Lanes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    threads: usize,
    idle: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The first stays.
    lanes: Vec<Lane>,
    /// A task on the first lane looks for idle ones.
    is_watched: bool,
    warned: Option<Instant>,
}

#[derive(Debug)]
struct Lane {
    runtime: Runtime,
    /// Shared with everything that runs here or may begin something.
    uses: Arc<()>,
    idle_since: Option<Instant>,
}

/// A lane that something runs on. While it is held, more can be begun there.
#[derive(Clone, Debug)]
pub(crate) struct OnLane {
    handle: Handle,
    _used: Arc<()>,
}

impl OnLane {
    /// Begins a task beside the one it was given for.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn(task)
    }
}

impl Lanes {
    /// One lane of so many threads.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        Self::ending_after(threads, IDLE)
    }

    fn ending_after(threads: usize, idle: Duration) -> std::io::Result<Self> {
        let state = State { lanes: vec![Lane::new(threads)?], is_watched: false, warned: None };
        Ok(Self(Arc::new(Shared { threads, idle, state: Mutex::new(state) })))
    }

    /// Begins a task where the fewest are.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<(JoinHandle<T>, OnLane)> {
        let mut state = self.0.state.lock();
        let (_, fewest) = state.least_busy()?;
        if fewest > 0 && state.lanes.len() < LANES_MAX {
            match Lane::new(self.0.threads) {
                Ok(lane) => state.lanes.push(lane),
                Err(error) => state.warn(&error),
            }
        }
        // What was just made has none.
        let (at, _) = state.least_busy()?;
        let lane = state.lanes.get_mut(at)?;
        lane.idle_since = None;
        let on_lane = OnLane { handle: lane.runtime.handle().clone(), _used: Arc::clone(&lane.uses) };
        let held = on_lane.clone();
        let running = on_lane.spawn(async move {
            let outcome = task.await;
            drop(held);
            outcome
        });
        if state.lanes.len() > 1 && !state.is_watched {
            state.is_watched = true;
            let first = state.lanes.first()?;
            first.runtime.spawn(watch(Arc::downgrade(&self.0), self.0.idle));
        }
        Some((running, on_lane))
    }

    /// Runs what never waits on a thread of its own.
    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        self.0.state.lock().lanes.first().map(|lane| lane.runtime.spawn_blocking(work))
    }
}

impl State {
    /// The lane with the fewest tasks, and how many it has.
    fn least_busy(&self) -> Option<(usize, usize)> {
        let watching = |at: usize| usize::from(at == 0 && self.is_watched);
        let tasks = |(at, lane): (usize, &Lane)| (at, lane.tasks().saturating_sub(watching(at)));
        self.lanes.iter().enumerate().map(tasks).min_by_key(|(_, tasks)| *tasks)
    }

    fn warn(&mut self, error: &std::io::Error) {
        let now = Instant::now();
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= WARNED_EVERY) {
            self.warned = Some(now);
            tracing::warn!(%error, "queries share threads: no more can be started");
        }
    }

    /// Ends what was idle for so long. False if only the first lane is left.
    fn end_idle(&mut self, idle: Duration) -> bool {
        let now = Instant::now();
        // From the last: taking one away moves those behind it.
        for at in (1..self.lanes.len()).rev() {
            let lane = &mut self.lanes[at];
            if lane.tasks() > 0 || Arc::strong_count(&lane.uses) > 1 {
                lane.idle_since = None;
            } else if now.duration_since(*lane.idle_since.get_or_insert(now)) >= idle {
                self.lanes.remove(at).end();
            }
        }
        self.is_watched = self.lanes.len() > 1;
        self.is_watched
    }
}

/// Ends idle lanes until there are none to end.
async fn watch(shared: Weak<Shared>, idle: Duration) {
    loop {
        tokio::time::sleep(idle / 2).await;
        let Some(shared) = shared.upgrade() else { return };
        if !shared.state.lock().end_idle(shared.idle) {
            return;
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for lane in self.state.get_mut().lanes.drain(..) {
            lane.end();
        }
    }
}

impl Lane {
    fn new(threads: usize) -> std::io::Result<Self> {
        // Where the system gives no thread, making a runtime panics instead of saying so.
        let trial = std::thread::Builder::new().name(THREAD_NAME.to_owned()).stack_size(STACK_BYTES).spawn(|| {})?;
        drop(trial.join());
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(threads.max(2) * 4)
            .thread_stack_size(STACK_BYTES)
            .thread_name(THREAD_NAME)
            .enable_time()
            .build()?;
        Ok(Self { runtime, uses: Arc::default(), idle_since: None })
    }

    fn tasks(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }

    fn end(self) {
        // Dropping a runtime waits, which is not allowed inside another one.
        self.runtime.shutdown_background();
    }
}

#[cfg(test)]
mod tests;
