#![allow(clippy::unwrap_used, reason = "tests")]

use weir_base::{ErrorKind, Kinded};

use super::*;
use crate::error::from_datafusion;

const MAX: usize = 1000;

/// What a query holds, and what it is told of a refusal.
struct Asking {
    pool: Arc<QueryPool>,
    reservation: MemoryReservation,
}

fn asking(environment: &Environment) -> Asking {
    let (runtime, pool) = environment.for_query();
    Asking { pool, reservation: MemoryConsumer::new("operator").register(&runtime.memory_pool) }
}

impl Asking {
    fn grow(&mut self, bytes: usize) -> std::result::Result<(), SqlError> {
        self.reservation.try_grow(bytes).map_err(|error| from_datafusion(&error, self.pool.context()))
    }
}

/// One that would have room if it were alone is told to come again; one that never has is not.
#[test]
fn memory_that_others_hold_is_told_from_too_little_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let process = ProcessMemory::new(2 * MAX);
    let environment =
        |name: &str| Environment::new(&TenantId::new(name).unwrap(), MAX, 4, dir.path(), 0, &process).unwrap();
    let (shop, other) = (environment("shop"), environment("other"));
    let held = SqlError::MemoryHeld { bytes: MAX };
    let too_much = SqlError::Memory { bytes: MAX };
    assert_eq!((held.kind(), too_much.kind()), (ErrorKind::Limit, ErrorKind::TooLarge));
    let mut alone = asking(&shop);
    assert_eq!(alone.grow(MAX), Ok(()));
    assert_eq!(alone.grow(1), Err(too_much.clone()), "it has all there is");
    alone.reservation.shrink(400);
    let mut second = asking(&shop);
    assert_eq!(second.grow(300), Ok(()));
    assert_eq!(second.grow(300), Err(held.clone()), "the first holds 600");
    assert_eq!(second.grow(701), Err(too_much.clone()), "that is more than there is without the first");
    drop(alone);
    assert_eq!(second.grow(700), Ok(()));
    // Another tenant holds what is left of the process's.
    let mut third = asking(&other);
    assert_eq!(third.grow(900), Ok(()));
    let mut crowd = asking(&environment("crowd"));
    assert_eq!(crowd.grow(101), Err(held));
    assert_eq!(crowd.grow(MAX + 1), Err(too_much));
    drop((second, third, crowd));
    assert_eq!(process.used(), 0);
}

/// Nobody else is there, so nobody else can be what it has to wait for.
#[test]
fn partitions_of_a_lone_query_do_not_take_each_other_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let process = ProcessMemory::new(MAX);
    let environment = Environment::new(&TenantId::new("shop").unwrap(), MAX, 4, dir.path(), 0, &process).unwrap();
    let (runtime, pool) = environment.for_query();
    std::thread::scope(|scope| {
        for partition in 0..4 {
            let (runtime, pool) = (&runtime, &pool);
            scope.spawn(move || {
                let reservation = MemoryConsumer::new("operator").register(&runtime.memory_pool);
                for turn in 0..50_000 {
                    if reservation.try_grow(300 + partition).is_err() {
                        assert!(!pool.crowded.load(Ordering::Relaxed), "in turn {turn}");
                    }
                    if turn % 3 == 0 {
                        reservation.free();
                    }
                }
            });
        }
    });
    assert_eq!((process.used(), *pool.held.lock()), (0, 0));
}
