//! What waits for the writer of a shard: bounded in bytes, first in first out within a tenant, and
//! taken round-robin over tenants, so that one tenant's backlog does not delay another's request.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use weir_base::TenantId;

use crate::format::RECORDS_MAX;
use crate::{Append, Appended, LogError};

/// An append that waits for its commit.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) append: Append,
    /// One a part: the stream's schema if the part may be merged with others under it, else `None`.
    pub(crate) schemas: Vec<Option<SchemaRef>>,
    /// Bytes in memory.
    pub(crate) size: usize,
    /// Taken when the answer is given.
    pub(crate) reply: Option<oneshot::Sender<Result<Appended, LogError>>>,
}

impl Pending {
    /// Answers, once.
    pub(crate) fn answer(&mut self, result: Result<Appended, LogError>) {
        if let Some(reply) = self.reply.take() {
            // The appender may have gone away; the rows are stored all the same.
            let _ = reply.send(result);
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Pending>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantId, Waiting>,
    /// Tenants with requests, in the order of their turns.
    ring: VecDeque<TenantId>,
    /// Bytes waiting and being committed.
    bytes: usize,
    requests: usize,
    closed: bool,
}

/// Why the writer woke up.
#[derive(Debug)]
pub(crate) enum Work {
    Commit(Vec<Pending>),
    Idle,
    Closed,
}

/// The queue of one shard.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    bytes_max: usize,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), ready: Condvar::new(), bytes_max }
    }

    /// Puts an append in, or refuses it.
    pub(crate) fn push(&self, pending: Pending) -> Result<(), LogError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closed {
            return Err(LogError::Closed);
        }
        if state.bytes > 0 && state.bytes + pending.size > self.bytes_max {
            return Err(LogError::QueueFull { bytes: state.bytes, bytes_max: self.bytes_max });
        }
        let tenant = state.tenants.entry(pending.append.tenant.clone()).or_default();
        let share = self.bytes_max / 2;
        if tenant.bytes > 0 && tenant.bytes + pending.size > share {
            return Err(LogError::QueueFull { bytes: tenant.bytes, bytes_max: share });
        }
        if tenant.requests.is_empty() {
            state.ring.push_back(pending.append.tenant.clone());
        }
        tenant.bytes += pending.size;
        state.bytes += pending.size;
        state.requests += 1;
        tenant.requests.push_back(pending);
        self.ready.notify_one();
        Ok(())
    }

    /// What the next commit should hold: at least one request if any waits.
    pub(crate) fn take(&self, commit_bytes_max: usize) -> Vec<Pending> {
        Self::take_from(&mut self.state.lock(), commit_bytes_max)
    }

    fn take_from(state: &mut State, commit_bytes_max: usize) -> Vec<Pending> {
        let mut taken: Vec<Pending> = Vec::new();
        let mut bytes = 0;
        let mut parts = 0;
        while let Some(tenant) = state.ring.pop_front() {
            let Some(waiting) = state.tenants.get_mut(&tenant) else { continue };
            let Some(first) = waiting.requests.front() else { continue };
            let fits = bytes + first.size <= commit_bytes_max && parts + first.append.parts.len() <= RECORDS_MAX;
            if !taken.is_empty() && !fits {
                state.ring.push_front(tenant);
                break;
            }
            let Some(request) = waiting.requests.pop_front() else { continue };
            bytes += request.size;
            parts += request.append.parts.len();
            waiting.bytes -= request.size;
            state.requests -= 1;
            taken.push(request);
            if waiting.requests.is_empty() {
                state.tenants.remove(&tenant);
            } else {
                state.ring.push_back(tenant);
            }
        }
        taken
    }

    /// Waits for something to do; `idle_after` bounds the wait.
    pub(crate) fn wait(&self, commit_bytes_max: usize, idle_after: Duration) -> Work {
        let mut state = self.state.lock();
        loop {
            let taken = Self::take_from(&mut state, commit_bytes_max);
            if !taken.is_empty() {
                return Work::Commit(taken);
            }
            if state.closed {
                return Work::Closed;
            }
            if self.ready.wait_for(&mut state, idle_after).timed_out() && state.ring.is_empty() && !state.closed {
                return Work::Idle;
            }
        }
    }

    /// Gives back the room of requests that were answered.
    pub(crate) fn done(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Refuses everything from now on; what waits is still handed out.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.ready.notify_all();
    }

    /// Bytes and requests waiting.
    pub(crate) fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.bytes, state.requests)
    }
}
