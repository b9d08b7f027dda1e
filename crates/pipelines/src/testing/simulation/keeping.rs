//! Savepoints of a pipeline whose process was killed.

use weir_engine::{restore_savepoint, savepoint};

use super::pacing::MS;
use super::*;

impl World {
    /// What [`weir_engine::keep`] does, one step at a time; and goes on from the savepoint as if it had never run before.
    fn goes_back(&mut self) {
        let kept: Arc<MemoryStore> = Arc::default();
        let to: Arc<MemoryStore> = Arc::clone(&kept);
        match self.open().unwrap() {
            None => savepoint(self.store.as_ref(), to.as_ref()).now_or_never().unwrap().map(drop).unwrap(),
            Some(mut steps) => {
                let saving = steps.control().savepoint(to);
                steps.control().stop();
                loop {
                    match settle(&mut steps, &mut self.seeded, usize::MAX).unwrap() {
                        Rest::Ended(_) => break,
                        _ => self.clock.advance(10 * MS),
                    }
                }
                saving.now_or_never().unwrap().map(drop).unwrap();
            }
        }
        self.store = Arc::default();
        restore_savepoint(kept.as_ref(), self.store.as_ref()).now_or_never().unwrap().unwrap();
    }

    /// Runs to the end of the input, with a crash after so many steps, and goes on from a savepoint that is made then. Says
    /// whether it came to that.
    fn run_from_a_savepoint(&mut self, at: usize) -> bool {
        let (mut sent, mut taken) = (0, 0);
        let mut steps = self.open().unwrap().expect("it has not run yet");
        for round in 0.. {
            assert!(round < 100_000, "the job does not come to its end");
            match settle(&mut steps, &mut self.seeded, 1).unwrap() {
                Rest::Ended(end) => {
                    assert_eq!(end, End::Finished);
                    return taken >= at;
                }
                Rest::Enough => {
                    taken += 1;
                    let has_begun = self.plan.resumes(self.store.as_ref()).now_or_never().unwrap().unwrap().is_some();
                    // Before the first checkpoint there is nothing to keep.
                    if taken >= at && taken < at + 10_000 && has_begun {
                        taken = at + 10_000;
                        drop(steps);
                        self.goes_back();
                        match self.open().unwrap() {
                            Some(again) => steps = again,
                            None => return true,
                        }
                    }
                }
                Rest::Quiet(_) => {
                    match self.rows.get(sent) {
                        Some(row) => self.stream.send(PARTITIONS[row.partition], batch(&[*row])),
                        None => self.stream.end(),
                    }
                    sent += 1;
                    self.clock.advance(INTERVAL / 5);
                }
            }
        }
        false
    }
}

/// What was decided before the crash and not committed is in the savepoint, in the sinks, and nowhere twice.
#[test]
fn a_savepoint_after_a_crash_at_any_step_loses_and_repeats_nothing() {
    for seed in 0..number("WEIR_SIM_STEP_SEEDS", 4) {
        for at in 1.. {
            let mut world = if seed % 2 == 0 { World::new(seed) } else { World::with_decider(seed) };
            world.rows.truncate(12);
            let has_crashed = world.run_from_a_savepoint(at);
            world.check(seed);
            if !has_crashed {
                assert!(at > 50, "seed {seed}: it took {at} steps only");
                break;
            }
        }
    }
}
