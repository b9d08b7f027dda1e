//! Live subscriptions: rows as they become durable, to any number of watchers.
//!
//! A watcher that cannot keep up loses rows and is told how many; it never slows the log, and its
//! queue has a bound in batches and bytes. All watchers share one decoded copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use hashbrown::HashMap;
use parking_lot::RwLock;
use tokio::sync::mpsc;
use weir_base::{StreamName, TenantId};
use weir_log::{Commit, Damage, Position, Subscriber};

/// The most batches that wait for one watcher.
pub const WATCHER_BATCHES_MAX: usize = 256;
/// The most bytes of decoded rows that wait for one watcher.
pub const WATCHER_BYTES_MAX: usize = 16 * 1024 * 1024;

type Key = (TenantId, StreamName);

#[derive(Debug)]
struct Watcher {
    id: u64,
    sender: mpsc::Sender<RecordBatch>,
    queued_bytes: Arc<AtomicUsize>,
    skipped_rows: Arc<AtomicU64>,
}

/// Passes every durable commit on to those who watch its streams.
#[derive(Debug, Default)]
pub struct Live {
    watchers: RwLock<HashMap<Key, Vec<Watcher>>>,
    next_id: AtomicU64,
}

/// One subscription. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    live: Arc<Live>,
    key: Key,
    id: u64,
    receiver: mpsc::Receiver<RecordBatch>,
    queued_bytes: Arc<AtomicUsize>,
    skipped_rows: Arc<AtomicU64>,
}

impl Watch {
    /// The next batch; `None` once the server stops.
    pub async fn next(&mut self) -> Option<RecordBatch> {
        let batch = self.receiver.recv().await?;
        self.queued_bytes.fetch_sub(batch.get_array_memory_size(), Ordering::Relaxed);
        Some(batch)
    }

    /// How many rows were left out since the last call because this watcher was slow.
    pub fn take_skipped_rows(&self) -> u64 {
        self.skipped_rows.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.live.watchers.write();
        if let Some(list) = watchers.get_mut(&self.key) {
            list.retain(|watcher| watcher.id != self.id);
            if list.is_empty() {
                watchers.remove(&self.key);
            }
        }
    }
}

impl Live {
    /// Begins to watch a stream of a tenant.
    pub fn watch(self: &Arc<Self>, tenant: TenantId, stream: StreamName) -> Watch {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(WATCHER_BATCHES_MAX);
        let skipped_rows = Arc::new(AtomicU64::new(0));
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let key = (tenant, stream);
        let watcher =
            Watcher { id, sender, queued_bytes: Arc::clone(&queued_bytes), skipped_rows: Arc::clone(&skipped_rows) };
        self.watchers.write().entry(key.clone()).or_default().push(watcher);
        Watch { live: Arc::clone(self), key, id, receiver, queued_bytes, skipped_rows }
    }

    /// How many subscriptions a tenant has.
    pub fn count(&self, tenant: &TenantId) -> usize {
        self.watchers.read().iter().filter(|((owner, _), _)| owner == tenant).map(|(_, list)| list.len()).sum()
    }

    /// Ends every subscription of a tenant.
    pub fn end_tenant(&self, tenant: &TenantId) {
        self.watchers.write().retain(|(owner, _), _| owner != tenant);
    }

    /// Ends every subscription, because the server stops.
    pub fn end_all(&self) {
        self.watchers.write().clear();
    }
}

impl Subscriber for Live {
    fn wants(&self, _: &TenantId, _: &StreamName, _: Position) -> bool {
        false
    }

    fn committed(&self, commit: &Commit) {
        let watchers = self.watchers.read();
        if watchers.is_empty() {
            return;
        }
        for record in &commit.records {
            let Some(list) = watchers.get(&(record.tenant.clone(), record.stream.clone())) else { continue };
            let bytes = record.batch.get_array_memory_size();
            for watcher in list {
                let queued = watcher.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
                if queued + bytes > WATCHER_BYTES_MAX || watcher.sender.try_send(record.batch.clone()).is_err() {
                    watcher.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    watcher.skipped_rows.fetch_add(record.batch.num_rows() as u64, Ordering::Relaxed);
                }
            }
        }
    }

    fn damaged(&self, _: &Damage) {}
}
