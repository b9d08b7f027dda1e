//! A sink that learns later what became of rows it has taken: what failed is tried again soon, whatever comes or does not.

use async_trait::async_trait;
use weir_component::sink::{Delivery, Opening, PlannedSink, Receipt, Sink, SinkError};
use weir_engine::{Circuit, LONGEST_INTERVAL, NodeStats};

use super::pacing::{MS, row};
use super::*;

#[derive(Default)]
struct Lazy {
    taken: Mutex<usize>,
    arrived: Mutex<usize>,
    /// So many times rows do not arrive.
    down: Mutex<usize>,
}

struct LazySink(Arc<Lazy>);

#[async_trait]
impl PlannedSink for LazySink {
    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce
    }

    async fn open(&self, _: arrow::datatypes::SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }

    fn describe(&self) -> String {
        "a sink that is lazy".to_owned()
    }
}

#[async_trait]
impl Sink for LazySink {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        *self.0.taken.lock() += rows.num_rows();
        Ok(())
    }

    fn is_unsettled(&self) -> bool {
        *self.0.taken.lock() > *self.0.arrived.lock()
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        let mut down = self.0.down.lock();
        if *down > 0 {
            *down -= 1;
            return Err(SinkError::new(weir_base::ErrorKind::Transient, "rows did not arrive"));
        }
        *self.0.arrived.lock() = *self.0.taken.lock();
        Ok(())
    }

    async fn prepare(&mut self, _: u64) -> Result<Receipt, SinkError> {
        self.settle().await.map(|()| Receipt::default())
    }

    async fn commit(&mut self, _: u64, _: &Receipt) -> Result<(), SinkError> {
        Ok(())
    }
}

#[test]
fn what_failed_after_it_was_taken_is_tried_again_soon_and_is_seen() {
    for is_alone in [true, false] {
        let (mut world, lazy) = (World::new(1), Arc::new(Lazy::default()));
        world.checkpoint_interval = None;
        world.plan.sinks[1].sink = Arc::new(LazySink(Arc::clone(&lazy)));
        if is_alone {
            world.plan.sinks.remove(0);
        }
        let store: Arc<MemoryStore> = Arc::clone(&world.store);
        let job = Job::open(&world.plan, store, world.clock.clone(), world.options()).now_or_never().unwrap().unwrap();
        let progress = Arc::clone(job.progress());
        let (_, stats) = progress.sinks.iter().find(|(id, _)| id == "passed").unwrap();
        let mut steps = Steps::new(job);
        world.send(&[row(1)]);
        world.settles(&mut steps);
        *lazy.down.lock() = 9;
        assert_eq!((*lazy.taken.lock(), *lazy.arrived.lock()), (1, 0));
        let mut waited = Duration::ZERO;
        while NodeStats::get(&stats.retries) < 8 {
            assert!(waited < LONGEST_INTERVAL, "only a checkpoint would try it again");
            world.clock.advance(25 * MS);
            waited += 25 * MS;
            world.settles(&mut steps);
        }
        assert_eq!(stats.circuit.seen().circuit, Circuit::Open, "it fails, and everybody sees it");
        for _ in 0..40 {
            world.clock.advance(INTERVAL);
            world.settles(&mut steps);
        }
        assert_eq!(*lazy.arrived.lock(), 1);
        assert_eq!(stats.circuit.seen().circuit, Circuit::Closed);
    }
}
