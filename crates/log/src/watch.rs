//! Where the newest rows of the streams are that somebody reads, and who waits for them.
//!
//! A reader of a quiet stream neither looks at what others send nor is woken by it: it knows where the newest row of
//! its stream stands, and goes to the end of the log if that is behind it.
//!
//! Invariant: the place of a row is noted before the row can be read. So who sees an end of the log, and no row of its
//! stream noted before that end, misses none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_base::{StreamName, TenantId};

/// A stream that is read.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Rows from here on are noted.
    since: u64,
    /// Behind the newest row that was noted; 0 if none was.
    after: AtomicU64,
    /// Rows of the stream have become durable.
    pub(crate) appended: Notify,
}

impl Watch {
    /// Whether there is no row of the stream at `at` or after it, up to an end of the log that was read before.
    pub(crate) fn has_none(&self, at: u64) -> bool {
        at >= self.since && self.after.load(Ordering::Acquire) <= at
    }
}

/// The streams of a shard that are read.
#[derive(Debug)]
pub(crate) struct Watched(Mutex<State>);

#[derive(Debug)]
struct State {
    /// All rows before this were noted where somebody read their stream.
    noted: u64,
    streams: HashMap<TenantId, HashMap<StreamName, Weak<Watch>>>,
}

impl State {
    fn watch(&self, tenant: &TenantId, stream: &StreamName) -> Option<Arc<Watch>> {
        self.streams.get(tenant)?.get(stream)?.upgrade()
    }
}

impl Watched {
    /// Of a log that ends at `end`.
    pub(crate) fn new(end: u64) -> Self {
        Self(Mutex::new(State { noted: end, streams: HashMap::new() }))
    }

    /// Begins to note the rows of a stream.
    pub(crate) fn begin(&self, tenant: &TenantId, stream: &StreamName) -> Arc<Watch> {
        let mut state = self.0.lock();
        if let Some(watch) = state.watch(tenant, stream) {
            return watch;
        }
        let watch = Arc::new(Watch { since: state.noted, after: AtomicU64::new(0), appended: Notify::new() });
        state.streams.entry(tenant.clone()).or_default().insert(stream.clone(), Arc::downgrade(&watch));
        watch
    }

    /// Forgets a stream whose last reader is about to go.
    pub(crate) fn end(&self, tenant: &TenantId, stream: &StreamName, watch: &Arc<Watch>) {
        let mut state = self.0.lock();
        if Arc::strong_count(watch) > 1 {
            return;
        }
        if let Some(streams) = state.streams.get_mut(tenant) {
            streams.remove(stream);
            if streams.is_empty() {
                state.streams.remove(tenant);
            }
        }
    }

    /// Notes rows that will be durable, by their places, up to `end`.
    pub(crate) fn note<'a>(&self, end: u64, rows: impl Iterator<Item = (&'a TenantId, &'a StreamName, u64)>) {
        let mut state = self.0.lock();
        state.noted = end;
        for (tenant, stream, offset) in rows {
            if let Some(watch) = state.watch(tenant, stream) {
                watch.after.fetch_max(offset + 1, Ordering::AcqRel);
            }
        }
    }

    /// Wakes who waits for rows of these streams.
    pub(crate) fn wake<'a>(&self, streams: impl Iterator<Item = (&'a TenantId, &'a StreamName)>) {
        let woken: Vec<Arc<Watch>> = {
            let state = self.0.lock();
            streams.filter_map(|(tenant, stream)| state.watch(tenant, stream)).collect()
        };
        for watch in woken {
            watch.appended.notify_waiters();
        }
    }
}
