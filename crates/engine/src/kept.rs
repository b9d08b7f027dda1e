//! What a sink keeps beside the checkpoints: objects of the same store, under names of its own.

use std::sync::Arc;

use async_trait::async_trait;
use weir_component::checkpoint::{CheckpointError, CheckpointStore, Created};

/// The objects of one sink. No id has a dot in it, so no name is one of two sinks, a manifest or a state.
pub(crate) struct Kept {
    store: Arc<dyn CheckpointStore>,
    prefix: String,
}

impl Kept {
    pub(crate) fn new(store: &Arc<dyn CheckpointStore>, sink: &str) -> Self {
        Self { store: Arc::clone(store), prefix: format!("kept.{sink}.") }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

#[async_trait]
impl CheckpointStore for Kept {
    async fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, CheckpointError> {
        self.store.create(&self.name(name), bytes).await
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        self.store.read(&self.name(name)).await
    }

    async fn list(&self) -> Result<Vec<String>, CheckpointError> {
        let all = self.store.list().await?;
        Ok(all.iter().filter_map(|name| name.strip_prefix(&self.prefix)).map(str::to_owned).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        self.store.delete(&self.name(name)).await
    }
}
