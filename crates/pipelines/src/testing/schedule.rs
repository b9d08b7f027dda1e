//! The order in which the tasks of a job take their turns, drawn from a seed.

use std::time::Duration;

use weir_engine::{End, JobError, Stepped, Steps};

/// A source of numbers that look random and are the same for the same seed (SplitMix64, Steele and others,
/// "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % (bound as u64)).unwrap_or(0)
    }
}

/// Why a run of steps came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The job has ended.
    Ended(End),
    /// No task has anything to do before so much time has passed; `None`: before something happens outside.
    Quiet(Option<Duration>),
    /// As many steps as wanted were taken.
    Enough,
}

/// A slow task has its turn so many times less often than others.
const SLOWNESS: usize = 30;

/// Lets tasks take turns in a random order until nothing is left to do, or `steps_max` turns did something.
/// Some tasks are slow, so that others run far ahead of them.
///
/// # Errors
/// Those of the job.
pub fn settle(steps: &mut Steps, seeded: &mut Seeded, steps_max: usize) -> Result<Rest, JobError> {
    let mut taken = 0;
    let slow: Vec<bool> = (0..steps.len()).map(|_| seeded.below(3) == 0).collect();
    loop {
        // Tasks that have something to do, tried in a random order until one has done it.
        let mut order: Vec<usize> = (0..steps.len()).collect();
        let mut last: Vec<usize> = Vec::new();
        order.retain(|task| {
            let waits = slow[*task] && seeded.below(SLOWNESS) > 0;
            if waits {
                last.push(*task);
            }
            !waits
        });
        let mut sleeps: Option<Duration> = None;
        let mut has_worked = false;
        loop {
            if order.is_empty() {
                std::mem::swap(&mut order, &mut last);
            }
            if order.is_empty() {
                break;
            }
            let task = order.swap_remove(seeded.below(order.len()));
            match steps.step(task)? {
                Stepped::Worked => {
                    has_worked = true;
                    break;
                }
                Stepped::Ended | Stepped::Waits => {}
                Stepped::Sleeps(time) => sleeps = Some(sleeps.map_or(time, |other| other.min(time))),
            }
        }
        if let Some(end) = steps.end() {
            return Ok(Rest::Ended(end));
        }
        if !has_worked {
            return Ok(Rest::Quiet(sleeps));
        }
        taken += 1;
        if taken >= steps_max {
            return Ok(Rest::Enough);
        }
    }
}
