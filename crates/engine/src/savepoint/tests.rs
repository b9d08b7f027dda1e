use weir_component::sink::{Decision, Receipt};

use super::*;
use crate::manifest::{SourceState, StepState};
use crate::memory::{Memory, ready};
use crate::states::ObjectRef;
use crate::time::SourceTime;

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
fn a_pipeline_may_begin_where_another_one_stood() {
    let (from, to) = (checkpoint(), Memory::default());
    let mut manifest = ready(newest(&from)).unwrap().unwrap();
    let position = SourcePosition { partitions: [("a".to_owned(), serde_json::json!(7))].into() };
    let at = SourceState { position: position.clone(), time: SourceTime::default(), part: None };
    for source in ["events", REPLAY_ID] {
        manifest.sources.insert(source.to_owned(), at.clone());
    }
    manifest.epoch = 10;
    ready(put(&manifest, &from)).unwrap();
    let begins = ready(begin_at(&from, &to)).unwrap().unwrap();
    assert_eq!(begins.positions, [("events".to_owned(), position)]);
    let begun = ready(newest(&to)).unwrap().unwrap();
    assert!(begun.is_savepoint && !begun.finished && begun.steps.is_empty() && begun.fingerprints.is_empty());
    assert!(begun.sinks.is_empty() && begun.outboxes.is_empty());
    // One that has done nothing has nowhere to begin.
    let (nothing, to) = (Memory::default(), Memory::default());
    let mut first = Manifest::new("p", 1, 1, 1);
    first.prepared = 0;
    ready(put(&first, &nothing)).unwrap();
    assert_eq!(ready(begin_at(&nothing, &to)), Ok(None));
    assert_eq!(ready(newest(&to)).map(|manifest| manifest.is_some()), Ok(false));
}

#[test]
fn what_came_since_a_savepoint_is_known_or_said_not_to_be() {
    let at = |place: u64| {
        let position = SourcePosition { partitions: [("a".to_owned(), serde_json::json!(place))].into() };
        SourceState { position, time: SourceTime::default(), part: None }
    };
    // (epoch, prepared, where it stands, the newest epoch with rows, whether it ended, of which history)
    type Made = (u64, u64, u64, u64, bool, &'static str);
    let store_of = |(epoch, prepared, place, read, ended, lineage): Made, shown: u64| {
        let (store, mut manifest) = (Memory::default(), Manifest::new("p", 1, epoch, 1));
        (manifest.prepared, manifest.read, manifest.ended, manifest.shown) = (prepared, read, ended, shown);
        manifest.lineage = lineage.to_owned();
        manifest.sources.insert("events".to_owned(), at(place));
        ready(put(&manifest, &store)).unwrap();
        store
    };
    let store = |made: Made| store_of(made, 5);
    let kept = store((5, 5, 70, 5, false, "x"));
    let check = |made: Made, expected: Since| assert_eq!(ready(since(&kept, &store(made))), Ok(expected), "{made:?}");
    check((6, 6, 70, 5, true, "x"), Since::Nothing);
    // It stands further on, behind rows of others.
    check((6, 6, 90, 5, true, "x"), Since::Nothing);
    check((6, 6, 90, 6, true, "x"), Since::ReadOn);
    // It was killed, or runs on.
    check((6, 6, 90, 5, false, "x"), Since::Unknown);
    check((7, 5, 70, 5, false, "x"), Since::Unknown);
    // Epochs of another history say nothing of this one.
    check((6, 6, 90, 2, true, "y"), Since::ReadOn);
    check((6, 6, 70, 2, true, "y"), Since::Nothing);
    check((4, 4, 60, 4, true, "x"), Since::ReadOn);
    // Nothing came, and a window was closed by time all the same.
    assert_eq!(ready(since(&kept, &store_of((6, 6, 70, 5, true, "x"), 6))), Ok(Since::ReadOn));
    // Killed since, started, and ended before it read anything.
    let killed = store((7, 7, 70, 5, true, "x"));
    for (unsure, expected) in [(6, Since::Unknown), (5, Since::Nothing)] {
        let mut manifest = ready(newest(&killed)).unwrap().unwrap();
        manifest.unsure = unsure;
        let again = Memory::default();
        ready(put(&manifest, &again)).unwrap();
        assert_eq!(ready(since(&kept, &again)), Ok(expected));
    }
    // Begun anew, it has nothing of what was done before.
    assert_eq!(ready(since(&kept, &Memory::default())), Ok(Since::ReadOn));
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
