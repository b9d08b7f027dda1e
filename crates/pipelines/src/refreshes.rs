//! Tables that are read again because somebody asks, and not because it is time.
//!
//! Rows that are about to be run again may have failed because of what was in a table. Whoever has repaired the table and
//! asks for them has not waited until it is read again, so [`crate::letters::source`] asks for that first, and the readers
//! of the tables say when they have done it. Both belong to one start of a pipeline; nothing of it is in a checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Who asks tables to be read again, and who reads them, of one start of a pipeline.
#[derive(Debug)]
pub struct Refreshes {
    /// How often it was asked.
    asked: watch::Sender<u64>,
    /// By reader: for which of the times it was asked the table has been read. What it has found then was given.
    done: watch::Sender<BTreeMap<u64, u64>>,
}

impl Default for Refreshes {
    fn default() -> Self {
        Self { asked: watch::Sender::new(0), done: watch::Sender::new(BTreeMap::new()) }
    }
}

impl Refreshes {
    /// Asks for all tables to be read again, beginning after now. `None` if there is none that is.
    pub(crate) fn ask(&self) -> Option<u64> {
        if self.done.borrow().is_empty() {
            return None;
        }
        let mut asked = 0;
        self.asked.send_modify(|times| {
            *times += 1;
            asked = *times;
        });
        Some(asked)
    }

    /// Waits until that has been done for all tables. One that could not be read is as it was.
    pub(crate) async fn done(&self, asked: u64) {
        // It is never closed: the sender is here.
        let _ = self.done.subscribe().wait_for(|readers| readers.values().all(|done| *done >= asked)).await;
    }

    /// A reader that serves those who ask.
    pub(crate) fn join(self: &Arc<Self>) -> Asked {
        let (asked, mut reader) = (self.asked.subscribe(), 0);
        let now = *asked.borrow();
        self.done.send_modify(|readers| {
            reader = readers.last_key_value().map_or(0, |(last, _)| last + 1);
            readers.insert(reader, now);
        });
        Asked { refreshes: Arc::clone(self), asked, reader, served: now, serving: None, was_read: None }
    }
}

/// What a reader of a table has been asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    refreshes: Arc<Refreshes>,
    asked: watch::Receiver<u64>,
    reader: u64,
    served: u64,
    /// For which time it was asked the table is being read.
    serving: Option<u64>,
    /// For which one it has been read; what was found has not been given yet.
    was_read: Option<u64>,
}

impl Asked {
    /// Nothing is being read: whether it is to be, because somebody has asked since.
    pub(crate) fn begins(&mut self) -> bool {
        let asked = *self.asked.borrow_and_update();
        let known = [Some(self.served), self.serving, self.was_read].into_iter().flatten().max();
        let is_new = Some(asked) > known;
        if is_new {
            self.serving = Some(asked);
        }
        is_new
    }

    /// The table was read, or it cannot be.
    pub(crate) fn has_read(&mut self) {
        self.was_read = self.serving.take().or(self.was_read);
    }

    /// All that was read has been given.
    pub(crate) fn has_given(&mut self) {
        if let Some(served) = self.was_read.take() {
            self.served = served;
            self.refreshes.done.send_modify(|readers| {
                readers.insert(self.reader, served);
            });
        }
    }

    /// Waits until somebody asks.
    pub(crate) async fn wait(&mut self) {
        // It is never closed: the sender is here.
        let served = self.served;
        let _ = self.asked.wait_for(|asked| *asked > served).await;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Nobody waits for a table that is not read any more.
        self.refreshes.done.send_modify(|readers| {
            readers.remove(&self.reader);
        });
    }
}
