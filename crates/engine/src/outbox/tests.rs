#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::ArrayRef;
use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use proptest::prelude::*;
use weir_component::checkpoint::{CheckpointError, Created};

use super::*;

#[derive(Default)]
struct Memory {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// So many calls that write fail.
    faults: Mutex<usize>,
}

#[async_trait]
impl CheckpointStore for Memory {
    async fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, CheckpointError> {
        let mut faults = self.faults.lock();
        if *faults > 0 {
            *faults -= 1;
            return Err(CheckpointError::new(ErrorKind::Transient, "the store did not answer"));
        }
        let before = self.objects.lock().insert(name.to_owned(), bytes.to_vec());
        assert_eq!(before, None, "a name is used once");
        Ok(Created::Now)
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        Ok(self.objects.lock().get(name).cloned())
    }

    async fn list(&self) -> Result<Vec<String>, CheckpointError> {
        Ok(self.objects.lock().keys().cloned().collect())
    }

    async fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        self.objects.lock().remove(name);
        Ok(())
    }
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here waits")
}

fn rows(from: i64, count: i64) -> Rows {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + count));
    (RecordBatch::try_from_iter([("v", values)]).unwrap(), (from..from + count).collect())
}

fn values((rows, times): &Rows) -> Vec<i64> {
    let values = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(values, times.to_vec(), "each row has its time");
    values
}

/// What happens to an outbox and the sink before it.
#[derive(Clone, Copy, Debug)]
enum Event {
    Come(i64),
    Give(usize),
    /// A batch is on its way to the sink; and what came of it.
    Begin,
    End(bool),
    Prepare,
    /// An epoch without the sink, or with it if it has just prepared.
    Epoch,
    Spill,
    StoreFails,
    /// The process is killed: what was not part of an epoch is undone.
    Kill,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1_i64..40).prop_map(Event::Come),
        3 => (1_usize..6).prop_map(Event::Give),
        2 => Just(Event::Begin),
        2 => any::<bool>().prop_map(Event::End),
        1 => Just(Event::Prepare),
        2 => Just(Event::Epoch),
        1 => Just(Event::Spill),
        1 => Just(Event::StoreFails),
        1 => Just(Event::Kill),
    ]
}

/// The sink, the outbox and the last epoch.
struct Bench {
    store: Arc<Memory>,
    outbox: Outbox,
    generation: u64,
    /// Rows that have come, in all; and by the last epoch.
    come: i64,
    come_before: i64,
    /// What the sink was given since it prepared, what it has prepared, and the same by the last epoch.
    given: Vec<i64>,
    on_its_way: Option<Vec<i64>>,
    prepared: Vec<i64>,
    prepared_before: Vec<i64>,
    state: Option<OutboxState>,
}

impl Bench {
    fn new(kept_bytes_max: usize) -> Self {
        Self::of(1 << 30, kept_bytes_max)
    }

    fn of(stored_bytes_max: u64, kept_bytes_max: usize) -> Self {
        let store = Arc::new(Memory::default());
        let outbox =
            Outbox::new(Arc::clone(&store) as _, (1, "writer"), ("file", 0), None, (stored_bytes_max, kept_bytes_max));
        let (given, prepared, prepared_before) = (Vec::new(), Vec::new(), Vec::new());
        let on_its_way = None;
        Self {
            store,
            outbox,
            generation: 1,
            come: 0,
            come_before: 0,
            given,
            on_its_way,
            prepared,
            prepared_before,
            state: None,
        }
    }

    fn give(&mut self, batches: usize) {
        for _ in 0..batches {
            let Some(rows) = ready(self.outbox.next()).unwrap() else { return };
            self.given.extend(values(&rows));
            self.gave();
        }
    }

    fn gave(&mut self) {
        self.outbox.gave();
        if self.outbox.is_crowded() {
            ready(self.outbox.put_away(true)).unwrap();
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Come(count) => {
                let (rows, times) = rows(self.come, count);
                self.come += count;
                self.outbox.push(rows, times);
            }
            Event::Give(batches) => {
                self.happens(Event::End(true));
                self.give(batches);
            }
            Event::Begin => {
                self.happens(Event::End(false));
                self.on_its_way = ready(self.outbox.next()).unwrap().as_ref().map(values);
            }
            Event::End(is_taken) => match self.on_its_way.take() {
                Some(rows) if is_taken => {
                    self.given.extend(rows);
                    self.gave();
                }
                _ => self.outbox.refused(),
            },
            Event::Prepare => {
                self.happens(Event::End(true));
                self.prepared.append(&mut self.given);
                self.outbox.prepared();
            }
            Event::Epoch => {
                if !self.outbox.is_whole() {
                    self.happens(Event::Prepare);
                }
                if let Ok(state) = ready(self.outbox.keep(1)) {
                    self.state = Some(state);
                    self.come_before = self.come;
                    self.prepared_before.clone_from(&self.prepared);
                    let superfluous = self.outbox.take_superfluous();
                    ready(self.outbox.remove(&superfluous));
                }
            }
            Event::Spill => {
                let _ = ready(self.outbox.spill());
            }
            Event::StoreFails => *self.store.faults.lock() = 1,
            Event::Kill => {
                self.generation += 1;
                self.come = self.come_before;
                self.prepared.clone_from(&self.prepared_before);
                self.given.clear();
                self.on_its_way = None;
                let (store, state) = (Arc::clone(&self.store), self.state.clone());
                let bounds = (self.outbox.stored_bytes_max, self.outbox.kept_bytes_max);
                self.outbox = Outbox::new(store, (self.generation, "writer"), ("file", 0), state, bounds);
            }
        }
    }
}

proptest! {
    /// Whatever happens, the sink has prepared all rows in their order once it was given what it is owed.
    #[test]
    fn every_row_is_given_once_and_in_order(events in prop::collection::vec(event(), 0..60), kept in 0_usize..4) {
        let (stored_max, kept_max) = [(3_000, 100), (1 << 30, 500), (1 << 30, 2_000), (1 << 30, 1 << 20)][kept];
        let mut bench = Bench::of(stored_max, kept_max);
        for event in events {
            bench.happens(event);
        }
        *bench.store.faults.lock() = 0;
        bench.happens(Event::Give(usize::MAX));
        bench.happens(Event::Prepare);
        prop_assert_eq!(&bench.prepared, &(0..bench.come).collect::<Vec<_>>());
        prop_assert!(!bench.outbox.has_waiting());
        // Nothing is owed any more, and so nothing is left but what starts that were killed have left.
        bench.happens(Event::Epoch);
        let own = format!("{PREFIX}{:010}", bench.generation);
        let left: Vec<String> = ready(bench.store.list()).unwrap();
        prop_assert!(left.iter().all(|name| !name.starts_with(&own)), "{:?}", left);
        prop_assert_eq!(bench.outbox.bytes(), 0);
    }
}

/// A sink that is down for long is not owed an object by every epoch, nor is everything written again each time.
#[test]
fn many_epochs_make_few_objects() {
    let mut bench = Bench::new(4 << 20);
    let mut written = 0;
    for _ in 0..500 {
        bench.happens(Event::Come(10));
        let before: BTreeMap<String, Vec<u8>> = bench.store.objects.lock().clone();
        bench.happens(Event::Epoch);
        let objects = bench.store.objects.lock();
        written +=
            objects.iter().filter(|(name, _)| !before.contains_key(*name)).map(|(_, bytes)| bytes.len()).sum::<usize>();
        assert!(objects.len() < 20, "{}", objects.len());
    }
    assert!(written < 500 * 20_000, "{written}");
    bench.give(usize::MAX);
    bench.happens(Event::Prepare);
    assert_eq!(bench.prepared, (0..5000).collect::<Vec<_>>());
}

#[test]
fn memory_is_bounded_by_what_is_kept() {
    let mut bench = Bench::new(10_000);
    for _ in 0..1000 {
        bench.happens(Event::Come(100));
        bench.happens(Event::Spill);
        assert!(bench.outbox.waiting_bytes < 10_000);
    }
    assert!(bench.outbox.bytes() > 1_000 * 800 && !bench.outbox.is_full());
    // What the sink takes without preparing leaves memory as well, and is given again by whoever goes on.
    bench.happens(Event::Epoch);
    let mut bench = Bench::new(10_000);
    for _ in 0..100 {
        bench.happens(Event::Come(100));
        bench.give(1);
        assert!(bench.outbox.memory_bytes() <= 10_000);
    }
    assert!(bench.outbox.is_whole() && bench.outbox.bytes() > 60_000);
    for event in [Event::Epoch, Event::Kill, Event::Give(usize::MAX), Event::Prepare] {
        bench.happens(event);
    }
    assert_eq!(bench.prepared, (0..10_000).collect::<Vec<_>>());
    // Up to the room there is for it.
    let mut bench = Bench::of(50_000, 10_000);
    while bench.outbox.is_whole() {
        assert!(bench.come < 10_000 && bench.outbox.stored_bytes <= 50_000);
        bench.happens(Event::Come(100));
        bench.give(1);
        assert!(bench.outbox.wants_epoch() || bench.outbox.stored_bytes < 25_000);
    }
    assert!(bench.come > 3_000 && bench.outbox.bytes() == 0);
    bench.happens(Event::Prepare);
    assert!(bench.outbox.is_whole());
    // Where memory is short, less of it is used.
    let mut bench = Bench::new(160_000);
    bench.outbox.be_tight(true);
    for _ in 0..100 {
        bench.happens(Event::Come(100));
        bench.happens(Event::Spill);
        assert!(bench.outbox.memory_bytes() < 10_000);
    }
}
