#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use weir_component::checkpoint::CheckpointStore;

use super::*;
use crate::memory::{Memory, ready};

fn batch(first: i64, rows: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + rows));
    let texts: ArrayRef =
        Arc::new(StringArray::from_iter_values((first..first + rows).map(|row| format!("row {row}"))));
    RecordBatch::try_from_iter([("n", numbers), ("text", texts)]).unwrap()
}

fn state<const N: usize>(tables: [(&str, Vec<RecordBatch>); N]) -> OperatorState {
    OperatorState { tables: tables.into_iter().map(|(name, batches)| (name.to_owned(), batches)).collect() }
}

/// Puts a state into a store as the object `name`; gives what names it.
fn put(store: &Memory, name: &str, state: &OperatorState, shelf: &mut Shelf) -> ObjectRef {
    let mut laying = Laying::begin(name.to_owned(), state, shelf);
    while !laying.go_on(1000).unwrap() {}
    let laid = laying.finish().unwrap();
    assert_eq!(laid.bytes.len() as u64, laid.reference.bytes);
    ready(store.create(name, &laid.bytes)).unwrap();
    *shelf = laid.shelf;
    laid.reference
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let (store, mut shelf) = (Memory::default(), Shelf::default());
    let (large, other) = (batch(0, 5000), batch(9000, 4000));
    let first = state([("a", vec![large.clone(), batch(1, 3)]), ("b", vec![other.clone()]), ("empty", vec![])]);
    let one = put(&store, "one", &first, &mut shelf);
    assert_eq!(one.needs, Vec::<String>::new());
    // A batch may move to another table and another place in it.
    let second = state([("a", vec![batch(7, 2), large.clone()]), ("c", vec![other, batch(8, 1)])]);
    let two = put(&store, "two", &second, &mut shelf);
    assert_eq!(two.needs, ["one"]);
    assert!(two.bytes < 3000 && two.state_bytes > one.bytes - 2000, "{two:?}");
    // The same values in other memory are another batch.
    let third = state([("a", vec![batch(0, 5000), large])]);
    let three = put(&store, "three", &third, &mut shelf);
    assert_eq!(three.needs, ["one"]);
    for (object, expected) in [(one, first), (two, second), (three, third)] {
        let read = ready(read(&store, &object)).unwrap();
        assert_eq!(
            read.tables.into_iter().filter(|(_, batches)| !batches.is_empty()).collect::<BTreeMap<_, _>>(),
            expected.tables.into_iter().filter(|(_, batches)| !batches.is_empty()).collect()
        );
    }
}

#[test]
fn an_object_of_little_use_is_written_anew_and_there_are_never_many() {
    let (store, mut shelf) = (Memory::default(), Shelf::default());
    let (small, large) = (batch(0, 100), batch(0, 5000));
    put(&store, "one", &state([("a", vec![small.clone(), large])]), &mut shelf);
    let two = put(&store, "two", &state([("a", vec![small.clone()])]), &mut shelf);
    assert_eq!(two.needs, Vec::<String>::new(), "most of `one` is of no use");
    let mut batches = vec![small];
    for number in 0..50 {
        batches.push(batch(number, 100 + number));
        let name = format!("object {number}");
        let expected = state([("a", batches.clone())]);
        let object = put(&store, &name, &expected, &mut shelf);
        assert!(object.needs.len() <= NEEDS_MAX, "{object:?}");
        assert!(object.bytes < object.state_bytes || number < 2, "{object:?}");
        assert_eq!(ready(read(&store, &object)).unwrap(), expected);
    }
}

#[test]
fn memory_that_is_used_again_is_not_taken_for_what_was_there() {
    let (store, mut shelf) = (Memory::default(), Shelf::default());
    for number in 0..200 {
        // The one before is gone, so its memory may be that of this one.
        let expected = state([("a", vec![batch(number, 50)])]);
        let object = put(&store, &format!("object {number}"), &expected, &mut shelf);
        assert_eq!(object.needs, Vec::<String>::new());
        assert_eq!(ready(read(&store, &object)).unwrap(), expected);
    }
}

#[test]
fn every_damaged_byte_is_found() {
    let (store, mut shelf) = (Memory::default(), Shelf::default());
    let kept = batch(0, 300);
    put(&store, "one", &state([("a", vec![kept.clone()])]), &mut shelf);
    let expected = state([("a", vec![kept, batch(1, 3)]), ("b", vec![batch(2, 2)])]);
    let object = put(&store, "two", &expected, &mut shelf);
    assert_eq!(object.needs, ["one"]);
    for name in ["one", "two"] {
        let bytes = ready(store.read(name)).unwrap().unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            store.0.lock().insert(name.to_owned(), damaged);
            match ready(read(&store, &object)) {
                Err(error) => assert!(error.to_string().contains(name), "{error}"),
                // Of the older one, only the pieces are looked at.
                Ok(read) => assert!(name == "one" && read == expected, "byte {at} of {name}"),
            }
        }
        for length in (0..bytes.len()).step_by(7) {
            store.0.lock().insert(name.to_owned(), bytes[..length].to_vec());
            assert!(ready(read(&store, &object)).is_err_and(|_| true) || name == "one", "{length} of {name}");
        }
        store.0.lock().remove(name);
        assert!(ready(read(&store, &object)).is_err());
        store.0.lock().insert(name.to_owned(), bytes);
    }
    assert_eq!(ready(read(&store, &object)).unwrap(), expected);
}
