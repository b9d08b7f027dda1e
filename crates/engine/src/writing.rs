//! The states of an epoch on their way to the store, a little at a time: whoever runs this has other things to do, too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use weir_base::Clock;
use weir_component::checkpoint::CheckpointStore;
use weir_component::operator::OperatorState;

use crate::error::JobError;
use crate::states::{Laid, Laying, ObjectRef, Shelf};

/// Bytes that are encoded at a time, and at least one batch: some milliseconds, where batches are not large.
const SLICE: usize = 1 << 20;

/// Whose state: a step, and which instance of it.
pub(crate) type Whose = (String, usize);

/// What is in the store of the states of a job.
#[derive(Debug, Default)]
pub(crate) struct Shelves {
    shelves: BTreeMap<Whose, Shelf>,
    /// Older objects that the newest states need.
    needed: BTreeSet<String>,
}

impl Shelves {
    /// Whether the newest states need an object that is older than they are.
    pub(crate) fn need(&self, object: &str) -> bool {
        self.needed.contains(object)
    }
}

/// States of which some are in the store.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    left: VecDeque<(Whose, OperatorState)>,
    under_way: Option<(Whose, Laying)>,
    /// Put together, and not known to be in the store.
    laid: Option<(Whose, Laid)>,
    stored: BTreeMap<Whose, (ObjectRef, Shelf)>,
    /// How long encoding took.
    pub(crate) encoding: Duration,
    /// How long the store took.
    pub(crate) storing: Duration,
    /// Bytes that were written.
    pub(crate) bytes: u64,
}

impl Writing {
    /// Begins to write states; those in which there is nothing are left out.
    pub(crate) fn begin(states: impl Iterator<Item = (Whose, OperatorState)>) -> Self {
        Self { left: states.filter(|(_, state)| !state.is_empty()).collect(), ..Self::default() }
    }

    /// Does a little of the work. Says whether all of it is done. After an error it can be called again, with the same
    /// names: an object of this name was written by an attempt before, out of the same state.
    ///
    /// # Errors
    /// If the store fails, or a state cannot be encoded.
    pub(crate) async fn go_on(
        &mut self,
        (store, clock): (&dyn CheckpointStore, &dyn Clock),
        shelves: &Shelves,
        name: impl Fn(&Whose) -> String,
    ) -> Result<bool, JobError> {
        if let Some((whose, laid)) = &self.laid {
            let begun = clock.monotonic();
            store.create(&laid.reference.name, &laid.bytes).await?;
            self.storing += clock.monotonic().saturating_sub(begun);
            self.bytes += laid.reference.bytes;
            let whose = whose.clone();
            if let Some((_, Laid { reference, shelf, .. })) = self.laid.take() {
                self.stored.insert(whose, (reference, shelf));
            }
            return Ok(false);
        }
        let begun = clock.monotonic();
        if let Some((whose, mut laying)) = self.under_way.take() {
            if laying.go_on(SLICE)? {
                self.laid = Some((whose, laying.finish()?));
            } else {
                self.under_way = Some((whose, laying));
            }
        } else if let Some((whose, state)) = self.left.pop_front() {
            let known = shelves.shelves.get(&whose);
            let laying = Laying::begin(name(&whose), &state, known.unwrap_or(&Shelf::default()));
            self.under_way = Some((whose, laying));
        } else {
            return Ok(true);
        }
        self.encoding += clock.monotonic().saturating_sub(begun);
        Ok(false)
    }

    /// The objects of a step, in the order of its instances.
    pub(crate) fn objects(&self, step: &str) -> Vec<ObjectRef> {
        let of_step = self.stored.range((step.to_owned(), 0)..).take_while(|((id, _), _)| id == step);
        of_step.map(|(_, (object, _))| object.clone()).collect()
    }

    /// Bytes of the states, also of what was not written again.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.stored.values().map(|(object, _)| object.state_bytes).sum()
    }

    /// What is in the store, once the manifest is there that names it.
    pub(crate) fn finish(self) -> Shelves {
        let needed = self.stored.values().flat_map(|(object, _)| object.needs.iter().cloned()).collect();
        let shelves = self.stored.into_iter().map(|(whose, (_, shelf))| (whose, shelf)).collect();
        Shelves { shelves, needed }
    }
}

#[cfg(test)]
mod tests;
