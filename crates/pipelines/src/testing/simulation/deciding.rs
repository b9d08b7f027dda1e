//! What is particular to pipelines with a sink whose own commit decides.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::FutureExt;
use weir_base::ErrorKind;
use weir_engine::{End, Job, JobError, JobOptions};

use super::{INTERVAL, PARTITIONS, Row, World, batch, number};
use crate::testing::memory::MemoryStore;
use crate::testing::schedule::{Rest, settle};

/// The same where a sink decides: the later process is the one that writes, and the earlier one, when it learns
/// that, does not take over again.
#[test]
fn a_process_that_was_overtaken_commits_nothing() {
    for seed in 0..number("WEIR_SIM_SEEDS", 200).min(2000) {
        let mut world = World::with_decider(seed);
        let rows = world.rows.clone();
        let half = rows.len() / 2;
        let send = |rows: &[Row]| {
            for row in rows {
                world.stream.send(PARTITIONS[row.partition], batch(std::slice::from_ref(row)));
            }
        };
        send(&rows[..half]);
        let options = world.options();
        let mut old = world.open_with(options.clone()).unwrap().expect("it has not run yet");
        world.clock.advance(INTERVAL);
        let turns = 1 + world.seeded.below(150);
        settle(&mut old, &mut world.seeded, turns).unwrap();
        let mut new = world.open().unwrap().expect("the input has not ended");
        send(&rows[half..]);
        let mut refused = None;
        for round in 0..1000 {
            assert!(round < 999, "seed {seed}: it does not come to its end");
            if round == 20 {
                world.stream.end();
            }
            world.clock.advance(INTERVAL);
            if refused.is_none() {
                let turns = 1 + world.seeded.below(40);
                refused = settle(&mut old, &mut world.seeded, turns).err();
                assert_eq!(old.end(), None, "seed {seed}: the old process came to an end");
            }
            let turns = 1 + world.seeded.below(80);
            if let Rest::Ended(end) = settle(&mut new, &mut world.seeded, turns).unwrap() {
                assert_eq!(end, End::Finished);
                break;
            }
        }
        while refused.is_none() {
            world.clock.advance(INTERVAL);
            refused = settle(&mut old, &mut world.seeded, 1_000).err();
        }
        let refused = refused.unwrap();
        assert!(
            matches!(refused, JobError::Fenced { .. } | JobError::Undecided { kind: ErrorKind::Conflict, .. }),
            "seed {seed}: {refused:?}"
        );
        let again = world.open_with(options.again()).err();
        assert!(matches!(again, Some(JobError::Fenced { .. })), "seed {seed}: {again:?}");
        // With a store of its own it learns it from the sink.
        let elsewhere = Job::open(&world.plan, Arc::<MemoryStore>::default(), world.clock.clone(), options.again());
        let elsewhere = elsewhere.now_or_never().expect("nothing here waits").err();
        assert!(
            matches!(elsewhere, Some(JobError::Component { kind: ErrorKind::Conflict, .. })),
            "seed {seed}: {elsewhere:?}"
        );
        world.check(seed);
    }
}

/// Checkpoints and sink that do not belong together are refused; beginning anew delivers everything once more.
#[test]
fn a_sink_that_knows_of_other_decisions_is_refused() {
    let mut world = World::with_decider(3);
    world.run(0, false);
    let log = world.log.clone().unwrap();
    let rows: usize = log.rows().iter().map(RecordBatch::num_rows).sum();
    let store = std::mem::take(&mut world.store);
    let refused = world.open().err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("that is none of these checkpoints"), "{refused}");
    let anew = JobOptions { begin_anew: true, ..world.options() };
    let mut steps = world.open_with(anew).unwrap().expect("it begins anew");
    settle(&mut steps, &mut world.seeded, 10).unwrap();
    drop(steps);
    // Nothing was decided since, and what was before does not count any more.
    let mut steps = world.open().unwrap().expect("it goes on");
    while !matches!(settle(&mut steps, &mut world.seeded, 1000).unwrap(), Rest::Ended(_)) {
        world.clock.advance(INTERVAL);
    }
    assert_eq!(log.rows().iter().map(RecordBatch::num_rows).sum::<usize>(), 2 * rows);
    world.store = store;
    log.forget();
    let refused = world.open().err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("does not know any more"), "{refused}");
}
