//! Whether a pipeline can go on from a checkpoint: what was kept must have its place in the plan, and mean the same there.

use std::collections::BTreeMap;

use crate::error::JobError;
use crate::manifest::Manifest;
use crate::outbox::columns_of;
use crate::plan::Plan;
use crate::replay::REPLAY_ID;

/// Whether states that belong to such texts are those of this plan.
fn compare(plan: &Plan, before: &BTreeMap<String, String>) -> Result<(), JobError> {
    let changed = |reason: String| Err(JobError::Changed { reason });
    let now = plan.fingerprints();
    for (step, before) in before {
        match now.get(step) {
            None => {
                return changed(format!("it belongs to a pipeline with {step}, which this one does not have"));
            }
            Some(text) if text != before => {
                return changed(format!("{step} was \"{before}\" and is \"{text}\" now"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

impl Plan {
    /// Whether a job of this plan could go on from a checkpoint that one of `before` has yet to make, as far as that is known
    /// before it is made: what its steps keep and where its sinks write.
    ///
    /// # Errors
    /// [`JobError::Changed`] with what differs.
    pub fn could_follow(&self, before: &Self) -> Result<(), JobError> {
        compare(self, &before.fingerprints())
    }
}

/// Whether a checkpoint is one of this plan.
pub(crate) fn check(plan: &Plan, manifest: &Manifest) -> Result<(), JobError> {
    let changed = |reason: String| Err(JobError::Changed { reason });
    if manifest.pipeline != plan.pipeline {
        return changed(format!("it is one of the pipeline {}", manifest.pipeline));
    }
    compare(plan, &manifest.fingerprints)?;
    // Alone, the checkpoint says how far has been read; together, what all of them have committed.
    if manifest.prepared > 0 && manifest.member.is_some() != plan.is_shared() {
        let before = if plan.is_shared() { "alone" } else { "as one of several" };
        return changed(format!("it was made by a process that read its source {before}"));
    }
    for (sink, owed) in manifest.outboxes.iter().filter(|(_, owed)| owed.is_owed()) {
        let Some(known) = plan.sinks.iter().find(|known| known.id == *sink) else { continue };
        if known.sink.decider().is_some() || columns_of(&plan.given(known)) != owed.columns {
            return changed(format!(
                "the sink {sink} has not taken all rows that were put out for it, and they are not like those it is given now"
            ));
        }
    }
    // What stands nowhere, such as a table that is read anew at every start, is missed by nobody.
    let read = manifest.sources.iter().filter(|(_, state)| !state.position.partitions.is_empty());
    for (source, _) in read {
        if source != REPLAY_ID && plan.sources.iter().all(|known| known.id != *source) {
            return changed(format!("it has a position of {source}, which the pipeline does not read any more"));
        }
    }
    Ok(())
}
