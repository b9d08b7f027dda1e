#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use async_trait::async_trait;
use parking_lot::Mutex;
use weir_base::clock::ManualClock;
use weir_base::{ErrorKind, Timestamp};
use weir_component::checkpoint::{CheckpointError, Created};

use super::*;
use crate::memory::{Memory, ready};
use crate::states;

/// A store in which one call that writes fails.
#[derive(Default)]
struct Failing {
    memory: Memory,
    calls: Mutex<usize>,
    /// Which call, from 1, and whether it has done what it should.
    fails: Option<(usize, bool)>,
}

#[async_trait]
impl CheckpointStore for Failing {
    async fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, CheckpointError> {
        let call = {
            let mut calls = self.calls.lock();
            *calls += 1;
            *calls
        };
        let failed = || CheckpointError::new(ErrorKind::Transient, "the store did not answer");
        match self.fails {
            Some((fails, has_done)) if fails == call => {
                if has_done {
                    self.memory.create(name, bytes).await?;
                }
                Err(failed())
            }
            _ => self.memory.create(name, bytes).await,
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        self.memory.read(name).await
    }

    async fn list(&self) -> Result<Vec<String>, CheckpointError> {
        self.memory.list().await
    }

    async fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        self.memory.delete(name).await
    }
}

fn batch(first: i64, rows: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + rows));
    RecordBatch::try_from_iter([("n", numbers)]).unwrap()
}

fn state(batches: &[RecordBatch]) -> OperatorState {
    OperatorState { tables: BTreeMap::from([("rows".to_owned(), batches.to_vec())]) }
}

/// Writes states as the epoch of that number, and tries again what fails. Gives what is in the store, and how often it failed.
fn write(
    store: &Failing,
    states: &[(&str, usize, OperatorState)],
    shelves: &Shelves,
    epoch: usize,
) -> (Writing, Shelves, usize) {
    let of = |(step, instance, state): &(&str, usize, OperatorState)| (((*step).to_owned(), *instance), state.clone());
    let mut writing = Writing::begin(states.iter().map(of));
    let clock = ManualClock::new(Timestamp(0));
    let name = |(step, instance): &Whose| format!("state-{epoch}-{step}-{instance}");
    let mut failures = 0;
    loop {
        match ready(writing.go_on((store, clock.as_ref()), shelves, name)) {
            Ok(true) => break,
            Ok(false) => {}
            Err(JobError::Checkpoint { kind: ErrorKind::Transient, .. }) => failures += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let objects = writing.stored.iter().map(|(whose, (object, _))| (whose.clone(), (object.clone(), Shelf::default())));
    let named = Writing { stored: objects.collect(), ..Writing::default() };
    (named, writing.finish(), failures)
}

/// Wherever the store fails between states, what is named afterwards is all there, and what was written before is not again.
#[test]
fn a_store_that_fails_between_states_is_gone_on_with_where_it_failed() {
    let (large, other) = (batch(0, 5000), batch(7000, 3000));
    for has_done in [false, true] {
        for fails in 1..=9 {
            let store = Failing { fails: Some((fails, has_done)), ..Failing::default() };
            let mut shelves = Shelves::default();
            let mut failures = 0;
            for epoch in 0..3 {
                let fresh = |instance: usize| batch(i64::try_from(epoch * 10 + instance).unwrap(), 4);
                let states = [
                    ("join", 0, state(&[large.clone(), fresh(0)])),
                    ("join", 1, state(&[fresh(1)])),
                    ("nothing", 0, OperatorState::default()),
                    ("window", 0, state(&[other.clone(), fresh(2)])),
                ];
                let (writing, after, failed) = write(&store, &states, &shelves, epoch);
                (shelves, failures) = (after, failures + failed);
                assert_eq!(writing.objects("nothing"), []);
                let objects = [writing.objects("join"), writing.objects("window")].concat();
                let there = states.iter().filter(|(step, _, _)| *step != "nothing");
                assert_eq!(objects.len(), 3);
                for (object, (_, _, expected)) in objects.iter().zip(there) {
                    assert_eq!(ready(states::read(&store, object)).unwrap(), *expected, "{fails}: {object:?}");
                    assert!(epoch == 0 || object.bytes < 3000, "{fails}: {object:?}");
                }
                assert!(writing.state_bytes() > 8 * 8000);
            }
            assert_eq!((failures, *store.calls.lock()), (1, 10), "one more call than states");
        }
    }
}

/// Objects are kept as long as the newest states need them, and no longer.
#[test]
fn what_no_state_needs_any_more_can_be_removed() {
    let (store, large) = (Failing::default(), batch(0, 5000));
    let needed = |shelves: &Shelves| -> Vec<String> {
        let names = ready(store.list()).unwrap();
        names.into_iter().filter(|name| shelves.need(name)).collect()
    };
    let mut shelves = Shelves::default();
    for epoch in 0..3 {
        let fresh = batch(i64::try_from(epoch).unwrap(), 4);
        (_, shelves, _) = write(&store, &[("join", 0, state(&[large.clone(), fresh]))], &shelves, epoch);
        let first = ["state-0-join-0".to_owned()];
        assert_eq!(needed(&shelves), if epoch == 0 { &[][..] } else { &first[..] }, "{epoch}");
    }
    // The large batch is gone, and with it what it was in; what the last one has written stays.
    (_, shelves, _) = write(&store, &[("join", 0, state(&[batch(9, 9)]))], &shelves, 3);
    assert_eq!(needed(&shelves), [""; 0]);
    // A state in which nothing is left has no object, and needs none.
    (_, shelves, _) = write(&store, &[("join", 0, OperatorState::default())], &shelves, 4);
    assert_eq!((needed(&shelves).len(), shelves.shelves.len()), (0, 0));
}
