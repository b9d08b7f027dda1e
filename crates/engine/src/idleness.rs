//! Sources that are silent, and hold back nobody: the time of one is that of the others it is read together with.
//!
//! Whether a source is idle, and how far time has come in it meanwhile, is decided here, once for all who read it: it is told
//! watermarks like those of a source that speaks. So steps need not know of it, all instances of one hear the same between the
//! same barriers, and when the source comes back, what is over for one of them is over for all.
//!
//! Sources are read together if there is a step that reads both, directly or not. An idle one is as far as the
//! slowest of them that is not; once all are idle, as far as the one that has come furthest: so it does not matter which of
//! them fell silent first. One that has told the end of time, such as a table, is waited for by nobody and follows nobody.
//!
//! Invariant: what a source has been told on its behalf is part of its state in a checkpoint exactly if it was told before the
//! barrier. Both happen under the lock ([`Idleness::lock`]).

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::chain::Outlets;
use crate::lane::{Lane, Message};
use crate::plan::{Input, Plan};
use weir_component::table::is_table;

/// One source.
#[derive(Debug)]
struct Place {
    /// Sources with the same number are read together.
    group: usize,
    lanes: Vec<Arc<Lane>>,
    /// The watermark those after it know; the smallest number before there is one.
    told: i64,
    is_idle: bool,
}

/// All sources of a job.
#[derive(Debug)]
pub(crate) struct Idleness(Mutex<Places>);

/// The sources, while nobody tells them anything.
#[derive(Debug)]
pub(crate) struct Places(Vec<Place>);

impl Idleness {
    /// For sources in groups of those that are read together. None is idle, and nothing has been told.
    pub(crate) fn new(groups: &[usize]) -> Self {
        let place = |group: &usize| Place { group: *group, lanes: Vec::new(), told: i64::MIN, is_idle: false };
        Self(Mutex::new(Places(groups.iter().map(place).collect())))
    }

    /// Nobody is told anything before what comes of it is dropped.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock()
    }
}

impl Places {
    /// A source begins, as far as it had come at the checkpoint.
    pub(crate) fn begin(&mut self, source: usize, outlets: &Outlets, told: Option<i64>, is_idle: bool) {
        let place = &mut self.0[source];
        place.lanes = outlets.lanes().cloned().collect();
        place.is_idle = is_idle;
        self.tell(source, told.unwrap_or(i64::MIN));
        self.follow(source);
    }

    /// A source that is not idle has come further.
    pub(crate) fn rise(&mut self, source: usize, time: i64) {
        self.tell(source, time);
        self.follow(source);
    }

    /// A source falls silent, or comes back: from then on it says itself how far it is.
    pub(crate) fn set_idle(&mut self, source: usize, is_idle: bool) {
        self.0[source].is_idle = is_idle;
        if is_idle {
            self.follow(source);
        }
    }

    /// How far time has come in a source, by itself or by others.
    pub(crate) fn told(&self, source: usize) -> Option<i64> {
        Some(self.0[source].told).filter(|told| *told > i64::MIN)
    }

    fn tell(&mut self, source: usize, time: i64) {
        let place = &mut self.0[source];
        if time > place.told {
            place.told = time;
            for lane in &place.lanes {
                lane.push(Message::Watermark(time));
            }
        }
    }

    /// Brings those who are idle, of those that are read together with a source, as far as the others.
    fn follow(&mut self, source: usize) {
        let group = self.0[source].group;
        let there = || self.0.iter().filter(|place| place.group == group && place.told < i64::MAX);
        let slowest = there().filter(|place| !place.is_idle).map(|place| place.told).min();
        let Some(time) = slowest.or_else(|| there().map(|place| place.told).max()) else { return };
        for at in 0..self.0.len() {
            if self.0[at].group == group && self.0[at].is_idle {
                self.tell(at, time);
            }
        }
    }
}

/// A number for each source, the same for those that are read together.
pub(crate) fn groups(plan: &Plan) -> Vec<usize> {
    let tables: Vec<bool> = plan.sources.iter().map(|source| is_table(&source.source.schema())).collect();
    grouped(&tables, plan.steps.iter().map(|step| step.inputs.as_slice()))
}

/// The same of sources of which some are tables, and of the inputs of the steps. A table that several look into does not
/// tie together what is read with it: it has no time of its own.
fn grouped<'a>(tables: &[bool], steps: impl Iterator<Item = &'a [Input]>) -> Vec<usize> {
    let mut groups: Vec<usize> = (0..tables.len()).collect();
    // A source each step is reached from: those it is reached from are in one group by then.
    let mut reached: Vec<Option<usize>> = Vec::new();
    for inputs in steps {
        let from = |input: &Input| match input {
            Input::Source(source) if tables[*source] => None,
            Input::Source(source) => Some(*source),
            Input::Step { step, .. } => reached.get(*step).copied().flatten(),
        };
        let from: Vec<usize> = inputs.iter().filter_map(from).collect();
        for pair in from.windows(2) {
            let (kept, joined) = (groups[pair[0]], groups[pair[1]]);
            groups.iter_mut().filter(|group| **group == joined).for_each(|group| *group = kept);
        }
        reached.push(from.first().copied());
    }
    groups
}

#[cfg(test)]
mod tests;
