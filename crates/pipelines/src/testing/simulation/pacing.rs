//! How soon results are seen, and what a pipeline costs to which nothing comes.

use super::*;

pub(super) const MS: Duration = Duration::from_millis(1);

/// A world in which nothing goes wrong, that makes checkpoints when they are worth while, and what runs in it.
pub(super) fn running(seed: u64) -> (World, Steps) {
    let mut world = World::new(seed);
    world.checkpoint_interval = None;
    let steps = world.open().unwrap().expect("it has not run yet");
    (world, steps)
}

impl World {
    pub(super) fn settles(&mut self, steps: &mut Steps) {
        let rest = settle(steps, &mut self.seeded, usize::MAX).unwrap();
        assert!(matches!(rest, Rest::Quiet(_)), "{rest:?}");
    }

    pub(super) fn send(&self, rows: &[Row]) {
        for row in rows {
            self.stream.send(PARTITIONS[row.partition], batch(std::slice::from_ref(row)));
        }
    }

    /// How many rows were sent.
    pub(super) fn stream_rows(&self) -> usize {
        self.stream.len()
    }

    pub(super) fn passed(&self) -> usize {
        self.passed.rows().iter().map(RecordBatch::num_rows).sum()
    }
}

pub(super) fn row(time: i64) -> Row {
    Row { partition: 0, time, key: 1, value: 1 }
}

#[test]
fn results_are_seen_a_moment_after_they_are_there() {
    let (mut world, mut steps) = running(1);
    for round in 1..50 {
        world.send(&[row(i64::try_from(round).unwrap())]);
        // The one before was just seen, so this one waits.
        world.settles(&mut steps);
        world.clock.advance(199 * MS);
        world.settles(&mut steps);
        assert_eq!(world.passed(), round - 1);
        world.clock.advance(MS);
        world.settles(&mut steps);
        assert_eq!(world.passed(), round);
    }
    // After some quiet, one does not wait at all.
    world.clock.advance(1000 * MS);
    world.send(&[row(50)]);
    world.settles(&mut steps);
    assert_eq!(world.passed(), 50);
}

#[test]
fn a_pipeline_to_which_nothing_comes_writes_nothing() {
    for (seed, interval) in [(1, None), (2, Some(INTERVAL))] {
        let mut world = World::new(seed);
        world.checkpoint_interval = interval;
        let mut steps = world.open().unwrap().expect("it has not run yet");
        for time in 0..100 {
            world.send(&[row(time)]);
            world.settles(&mut steps);
            world.clock.advance(INTERVAL);
        }
        world.settles(&mut steps);
        let names = world.store.names();
        // Parts of the state are made one, so they do not become more and more.
        assert!(names.iter().any(|name| name.starts_with("epoch-")) && names.len() < 30, "{names:?}");
        for _ in 0..1000 {
            world.clock.advance(10 * INTERVAL);
            world.settles(&mut steps);
            assert_eq!(world.store.names(), names, "{interval:?}");
        }
    }
}
