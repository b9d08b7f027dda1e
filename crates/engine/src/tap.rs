//! Rows as they pass a part of a running pipeline, for somebody who looks. Nobody waits for them: one that
//! is slow is told how many rows it did not get.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// The most batches that wait for one listener.
const BATCHES_MAX: usize = 64;

/// Where rows can be seen.
#[derive(Debug, Default)]
pub struct Tap {
    /// Looked at for every batch: almost always there is nobody.
    open: AtomicUsize,
    listeners: Mutex<Vec<Listener>>,
}

#[derive(Debug)]
struct Listener {
    sender: mpsc::Sender<RecordBatch>,
    missed_rows: Arc<AtomicU64>,
}

/// Somebody who looks. Dropping it ends it.
#[derive(Debug)]
pub struct Listening {
    receiver: mpsc::Receiver<RecordBatch>,
    missed_rows: Arc<AtomicU64>,
}

impl Tap {
    /// Begins to look at the rows that pass from now on.
    pub fn listen(&self) -> Listening {
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        let missed_rows = Arc::<AtomicU64>::default();
        let mut listeners = self.listeners.lock();
        listeners.push(Listener { sender, missed_rows: Arc::clone(&missed_rows) });
        self.open.store(listeners.len(), Ordering::Release);
        Listening { receiver, missed_rows }
    }

    /// How many look.
    pub fn listeners(&self) -> usize {
        self.listeners.lock().iter().filter(|listener| !listener.sender.is_closed()).count()
    }

    /// Shows rows to whoever looks.
    pub(crate) fn pass(&self, rows: &RecordBatch) {
        if self.open.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut listeners = self.listeners.lock();
        listeners.retain(|listener| match listener.sender.try_send(rows.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(rows)) => {
                listener.missed_rows.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        self.open.store(listeners.len(), Ordering::Release);
    }
}

impl Listening {
    /// The next rows; `None` once the pipeline has ended or was started anew.
    pub async fn next(&mut self) -> Option<RecordBatch> {
        self.receiver.recv().await
    }

    /// How many rows were left out since the last call.
    pub fn take_missed_rows(&self) -> u64 {
        self.missed_rows.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use arrow::array::{ArrayRef, Int64Array};
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_slow_listener_is_told_what_it_missed_and_costs_nobody_anything() {
        let tap = Tap::default();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let rows = RecordBatch::try_from_iter([("a", column)]).unwrap();
        tap.pass(&rows);
        let (mut slow, gone) = (tap.listen(), tap.listen());
        drop(gone);
        for _ in 0..BATCHES_MAX + 2 {
            tap.pass(&rows);
        }
        assert_eq!((slow.take_missed_rows(), slow.take_missed_rows()), (6, 0));
        assert_eq!(tap.open.load(Ordering::Relaxed), 1);
        for _ in 0..BATCHES_MAX {
            assert_eq!(slow.next().now_or_never().unwrap().unwrap(), rows);
        }
        assert!(slow.next().now_or_never().is_none());
        drop(tap);
        assert!(slow.next().now_or_never().unwrap().is_none());
    }
}
