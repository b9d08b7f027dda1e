//! Something that is held until a deadline, and not longer, whether anybody comes for it or not.
//!
//! A client that has stopped reading never asks for the rest of its answer, and then nothing of that
//! answer runs any more that could look at a clock. So a timer of its own drops what is held. Who
//! comes later is told that it is gone.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// Holds a `T` until its deadline.
#[derive(Debug)]
pub(crate) struct Expiring<T> {
    slot: Arc<Slot<T>>,
    timer: AbortHandle,
}

#[derive(Debug)]
struct Slot<T>(Mutex<Held<T>>);

#[derive(Debug)]
struct Held<T> {
    thing: Option<T>,
    /// Who waits for it.
    reader: Option<Waker>,
}

impl<T> Slot<T> {
    /// Drops what is held, and tells who waits for it.
    fn empty(&self) {
        let (thing, reader) = {
            let mut held = self.0.lock();
            (held.thing.take(), held.reader.take())
        };
        // Not under the lock: who knows what it takes.
        drop(thing);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl<T> Drop for Expiring<T> {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl<T: Send + 'static> Expiring<T> {
    /// Holds `thing` until `deadline`. Must be called within a Tokio runtime that has timers; the
    /// timer is there, and not among the query threads, whose operators may not yield in time.
    pub(crate) fn new(thing: T, deadline: Instant) -> Self {
        let slot = Arc::new(Slot(Mutex::new(Held { thing: Some(thing), reader: None })));
        let watched: Weak<Slot<T>> = Arc::downgrade(&slot);
        let timer = Handle::current().spawn(async move {
            sleep_until(deadline).await;
            if let Some(slot) = watched.upgrade() {
                slot.empty();
            }
        });
        Self { slot, timer: timer.abort_handle() }
    }

    /// Polls what is held; `None` once it is gone. Who is told to wait is also woken when it goes.
    pub(crate) fn poll<R>(
        &self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut T, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<Option<R>> {
        let mut held = self.slot.0.lock();
        let Some(thing) = &mut held.thing else { return Poll::Ready(None) };
        match poll(thing, context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => {
                held.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Changes what is held, if it is there still.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        if let Some(thing) = &mut self.slot.0.lock().thing {
            change(thing);
        }
    }

    /// Drops what is held before its deadline: nobody needs it any more.
    pub(crate) fn empty(&self) {
        self.timer.abort();
        self.slot.empty();
    }
}

#[cfg(test)]
mod tests;
