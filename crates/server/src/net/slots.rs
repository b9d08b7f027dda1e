//! How many connections there are, and how many there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The places for connections.
#[derive(Debug)]
pub(super) struct Slots {
    open: AtomicUsize,
    max: usize,
    reserve: usize,
    refused: AtomicU64,
    closed: Notify,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Everything.
    Ordinary,
    /// Health probes; the server is full.
    Reserve,
}

/// A place taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    pub(super) place: Place,
}

impl Slots {
    pub(super) fn new(max: usize, reserve: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), max, reserve, refused: AtomicU64::new(0), closed: Notify::new() })
    }

    /// Takes a place, or none if even the reserve is full.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        let place = if before < self.max {
            Place::Ordinary
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Place::Reserve
        };
        if before >= self.max.saturating_add(self.reserve) {
            self.give_back();
            return None;
        }
        Some(Slot { slots: Arc::clone(self), place })
    }

    /// Connections open now.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Connections that found the server full, since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns once no connection is open.
    pub(super) async fn all_closed(&self) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }

    fn give_back(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.closed.notify_waiters();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back();
    }
}
