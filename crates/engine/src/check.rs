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

/// Whether `now` is the part of a source that was read before, if that is known.
fn compare_part(source: &str, before: Option<&str>, now: Option<&str>) -> Result<(), JobError> {
    match (before, now) {
        (Some(before), Some(now)) if before != now => {
            Err(JobError::Changed { reason: format!("{source} has read {before} so far, and is to read {now} now") })
        }
        _ => Ok(()),
    }
}

/// Whether sources can go on where those of a checkpoint stood.
fn compare_sources(plan: &Plan, manifest: &Manifest) -> Result<(), JobError> {
    let changed = |reason: String| Err(JobError::Changed { reason });
    // Alone, the checkpoint says how far has been read; together, what all of them have committed.
    if manifest.prepared > 0 && manifest.member.is_some() != plan.is_shared() {
        return changed(read_otherwise(manifest.member.is_some()));
    }
    for (source, state) in &manifest.sources {
        match plan.sources.iter().find(|known| known.id == *source) {
            Some(known) => compare_part(source, state.part.as_deref(), known.source.part().as_deref())?,
            // What stands nowhere, such as a table that is read anew at every start, is missed by nobody.
            None if source == REPLAY_ID || state.position.partitions.is_empty() => {}
            None => {
                return changed(format!("it has a position of {source}, which the pipeline does not read any more"));
            }
        }
    }
    Ok(())
}

fn read_otherwise(was_shared: bool) -> String {
    let before = if was_shared { "as one of several" } else { "alone" };
    format!("it was made by a process that read its source {before}")
}

impl Plan {
    /// Whether a job of this plan could go on from a checkpoint that one of `before` has yet to make, as far as that is known
    /// before it is made: what its steps keep, where its sinks write, and which part of its sources was read.
    ///
    /// # Errors
    /// [`JobError::Changed`] with what differs.
    pub fn could_follow(&self, before: &Self) -> Result<(), JobError> {
        compare(self, &before.fingerprints())?;
        if before.is_shared() != self.is_shared() {
            return Err(JobError::Changed { reason: read_otherwise(before.is_shared()) });
        }
        for source in &before.sources {
            if let Some(known) = self.sources.iter().find(|known| known.id == source.id) {
                compare_part(&source.id, source.source.part().as_deref(), known.source.part().as_deref())?;
            }
        }
        Ok(())
    }
}

/// Whether a checkpoint is one of this plan.
pub(crate) fn check(plan: &Plan, manifest: &Manifest) -> Result<(), JobError> {
    let changed = |reason: String| Err(JobError::Changed { reason });
    if manifest.pipeline != plan.pipeline {
        return changed(format!("it is one of the pipeline {}", manifest.pipeline));
    }
    compare(plan, &manifest.fingerprints)?;
    for (sink, owed) in manifest.outboxes.iter().filter(|(_, owed)| owed.is_owed()) {
        let Some(known) = plan.sinks.iter().find(|known| known.id == *sink) else { continue };
        if known.sink.decider().is_some() || columns_of(&plan.given(known)) != owed.columns {
            return changed(format!(
                "the sink {sink} has not taken all rows that were put out for it, and they are not like those it is given now"
            ));
        }
    }
    compare_sources(plan, manifest)
}

#[cfg(test)]
mod tests;
