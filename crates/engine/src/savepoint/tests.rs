use weir_component::sink::{Decision, Receipt};

use super::*;
use crate::manifest::StepState;
use crate::memory::{Memory, ready};
use crate::states::ObjectRef;

const STATE: &str = "state-0000000003-000000000008-x-window-0";
/// What it needs.
const OLDER: &str = "state-0000000003-000000000002-x-window-0";

/// A checkpoint with one state, of a pipeline whose sink has decided.
fn checkpoint() -> Memory {
    let store = Memory::default();
    let mut manifest = Manifest::new("p", 3, 9, 1);
    manifest.prepared = 8;
    let object =
        ObjectRef { name: STATE.to_owned(), bytes: 5, crc32c: 0, needs: vec![OLDER.to_owned()], state_bytes: 9 };
    ready(store.create(&object.name, b"state")).unwrap();
    ready(store.create(OLDER, b"more")).unwrap();
    manifest.steps.insert("window".to_owned(), StepState { objects: vec![object], watermark: 7, reached: None });
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
    assert_eq!((made.epoch, made.state_bytes), (8, 9));
    from.0.lock().clear();
    assert_eq!(ready(restore_savepoint(&kept, &to)).unwrap(), made);
    let manifest = ready(newest(&to)).unwrap().unwrap();
    assert!(manifest.is_savepoint && manifest.sinks.is_empty() && manifest.decided_by.is_none());
    assert_eq!(manifest.fingerprints.keys().collect::<Vec<_>>(), ["window"]);
    assert_eq!((manifest.prepared, manifest.steps["window"].watermark, &manifest.seen), (8, 7, &None));
    assert!([STATE, OLDER].iter().all(|name| ready(to.read(name)).unwrap().is_some()));
}

#[test]
fn one_that_is_not_whole_is_none() {
    for missing in [STATE, OLDER] {
        let (from, kept) = (checkpoint(), Memory::default());
        ready(from.delete(missing)).unwrap();
        assert!(ready(savepoint(&from, &kept)).is_err());
        assert_eq!(ready(saved(&kept)), Ok(None));
        assert!(ready(restore_savepoint(&kept, &Memory::default())).is_err());
    }
    // A checkpoint is not one, nor is one written over.
    let (from, kept) = (checkpoint(), Memory::default());
    assert!(ready(restore_savepoint(&from, &Memory::default())).is_err());
    ready(savepoint(&from, &kept)).unwrap();
    assert!(ready(savepoint(&from, &kept)).is_err());
}
