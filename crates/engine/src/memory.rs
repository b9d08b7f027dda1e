//! A store of checkpoints in memory, for tests.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use weir_component::checkpoint::{CheckpointError, CheckpointStore, Created};

/// Objects by their names.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Mutex<BTreeMap<String, Vec<u8>>>);

#[async_trait]
impl CheckpointStore for Memory {
    async fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, CheckpointError> {
        let mut objects = self.0.lock();
        if objects.contains_key(name) {
            return Ok(Created::Before);
        }
        objects.insert(name.to_owned(), bytes.to_vec());
        Ok(Created::Now)
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        Ok(self.0.lock().get(name).cloned())
    }

    async fn list(&self) -> Result<Vec<String>, CheckpointError> {
        Ok(self.0.lock().keys().cloned().collect())
    }

    async fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        self.0.lock().remove(name);
        Ok(())
    }
}

/// What comes of a future that waits for nothing.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}
