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
}

/// What was decided before the crash and not committed is in the savepoint, in the sinks, and nowhere twice.
#[test]
fn a_savepoint_after_a_crash_at_any_step_loses_and_repeats_nothing() {
    let make = |seed: u64| if seed.is_multiple_of(2) { World::new(seed) } else { World::with_decider(seed) };
    World::whatever_is_interrupted(4, make, |world, at| {
        let goes_back = |world: &mut World, steps: Steps| {
            // Before the first checkpoint there is nothing to keep.
            if world.plan.resumes(world.store.as_ref()).now_or_never().unwrap().unwrap().is_none() {
                return Err(steps);
            }
            drop(steps);
            world.goes_back();
            Ok(world.open().unwrap())
        };
        world.run_interrupted(at, |_| (), goes_back)
    });
}
