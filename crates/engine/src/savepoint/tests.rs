use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use weir_component::checkpoint::CheckpointError;
use weir_component::sink::{Decision, Receipt};

use super::*;
use crate::manifest::{ObjectRef, StepState};

#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

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

fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

const STATE: &str = "state-0000000003-000000000008-x-window-0";

/// A checkpoint with one state, of a pipeline whose sink has decided.
fn checkpoint() -> Memory {
    let store = Memory::default();
    let mut manifest = Manifest::new("p", 3, 9, 1);
    manifest.prepared = 8;
    let object = ObjectRef { name: STATE.to_owned(), bytes: 5, crc32c: 0 };
    ready(store.create(&object.name, b"state")).unwrap();
    manifest.steps.insert("window".to_owned(), StepState { objects: vec![object], watermark: 7 });
    manifest.sinks.insert("out".to_owned(), Receipt(serde_json::json!(["rows"])));
    manifest.fingerprints.insert("window".to_owned(), "tumbling".to_owned());
    manifest.fingerprints.insert("to out".to_owned(), "writes out".to_owned());
    manifest.seen = Some(Decision { epoch: 8, manifest: "x".to_owned() });
    manifest.propose("out").unwrap();
    ready(store.create(&epoch_name(9), &manifest.encode().unwrap())).unwrap();
    store
}

#[test]
fn a_savepoint_has_the_states_and_nothing_of_the_sinks() {
    let (from, kept, to) = (checkpoint(), Memory::default(), Memory::default());
    let made = ready(savepoint(&from, &kept)).unwrap();
    assert_eq!((made.epoch, made.state_bytes), (8, 5));
    from.0.lock().clear();
    assert_eq!(ready(restore_savepoint(&kept, &to)).unwrap(), made);
    let manifest = ready(newest(&to)).unwrap().unwrap();
    assert!(manifest.is_savepoint && manifest.sinks.is_empty() && manifest.decided_by.is_none());
    assert_eq!(manifest.fingerprints.keys().collect::<Vec<_>>(), ["window"]);
    assert_eq!((manifest.prepared, manifest.steps["window"].watermark, &manifest.seen), (8, 7, &None));
    assert!(ready(to.read(STATE)).unwrap().is_some());
}

#[test]
fn one_that_is_not_whole_is_none() {
    let (from, kept) = (checkpoint(), Memory::default());
    ready(from.delete(STATE)).unwrap();
    assert!(ready(savepoint(&from, &kept)).is_err());
    assert_eq!(ready(saved(&kept)), Ok(None));
    assert!(ready(restore_savepoint(&kept, &Memory::default())).is_err());
    // A checkpoint is not one, nor is one written over.
    let (from, kept) = (checkpoint(), Memory::default());
    assert!(ready(restore_savepoint(&from, &Memory::default())).is_err());
    ready(savepoint(&from, &kept)).unwrap();
    assert!(ready(savepoint(&from, &kept)).is_err());
}
