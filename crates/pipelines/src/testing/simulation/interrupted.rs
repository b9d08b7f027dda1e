//! A run to the end of the input, one step at a time, that is interrupted once.

use super::*;

impl World {
    /// Runs, and `interrupt`s the job once after so many steps, or later as long as that gives it back. `before_row` comes before
    /// each row is sent. Says whether it came to that.
    pub(super) fn run_interrupted(
        &mut self,
        at: usize,
        mut before_row: impl FnMut(&mut Self),
        mut interrupt: impl FnMut(&mut Self, Steps) -> Result<Option<Steps>, Steps>,
    ) -> bool {
        let (mut sent, mut taken, mut was_interrupted) = (0, 0, false);
        let mut steps = self.open().unwrap().expect("it has not run yet");
        for round in 0.. {
            assert!(round < 100_000, "the job does not come to its end");
            let again = match settle(&mut steps, &mut self.seeded, 1) {
                Ok(Rest::Ended(end)) => {
                    assert_eq!(end, End::Finished);
                    return taken >= at;
                }
                Ok(Rest::Quiet(_)) => {
                    match self.rows.get(sent).copied() {
                        Some(row) => {
                            before_row(self);
                            self.stream.send(PARTITIONS[row.partition], batch(&[row]));
                        }
                        None => self.stream.end(),
                    }
                    sent += 1;
                    self.clock.advance(INTERVAL / 5);
                    continue;
                }
                Ok(Rest::Enough) => {
                    taken += 1;
                    if was_interrupted || taken < at {
                        continue;
                    }
                    match interrupt(self, steps) {
                        Ok(again) => {
                            was_interrupted = true;
                            again
                        }
                        Err(not_yet) => {
                            steps = not_yet;
                            continue;
                        }
                    }
                }
                Err(JobError::Undecided { .. }) => {
                    drop(steps);
                    self.reopen(true)
                }
                Err(error) => panic!("{error}"),
            };
            match again {
                Some(again) => steps = again,
                // It had come to its end.
                None => return taken >= at,
            }
        }
        false
    }

    /// The same of each step of a run with few rows, and under some seeds: what is committed is what it should be.
    pub(super) fn whatever_is_interrupted(
        seeds: u64,
        make: impl Fn(u64) -> Self,
        run: impl Fn(&mut Self, usize) -> bool,
    ) {
        for seed in 0..number("WEIR_SIM_STEP_SEEDS", seeds) {
            for at in 1.. {
                let mut world = make(seed);
                world.rows.truncate(12);
                let was_interrupted = run(&mut world, at);
                world.check(seed);
                if !was_interrupted {
                    assert!(at > 50, "seed {seed}: it took {at} steps only");
                    break;
                }
            }
        }
    }
}
