//! Checkpoints that are kept: a savepoint is a copy of one, complete in a store of its own.
//!
//! It holds where sources stood and what steps had kept. What sinks had prepared belongs to the start of the pipeline that
//! prepared it, and is not part of it: whoever goes on from a savepoint begins anew as far as sinks know, and writes the rows
//! after it again. So a savepoint serves also for a pipeline whose sinks are others.
//!
//! The manifest is copied last: a store without one holds nothing.

use std::collections::BTreeSet;

use weir_base::ErrorKind;
use weir_component::checkpoint::{CheckpointStore, Created};
use weir_component::source::SourcePosition;

use crate::check::check;
use crate::error::JobError;
use crate::manifest::Manifest;
use crate::outbox::OutboxState;
use crate::plan::Plan;
use crate::recovery::{epoch_name, newest};
use crate::replay::REPLAY_ID;

/// What is known of a savepoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// The epoch it is of.
    pub epoch: u64,
    /// When the checkpoint was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// Bytes of state in it.
    pub state_bytes: u64,
    /// Whether all input had been read.
    pub finished: bool,
    /// Where sources stood, by their ids.
    pub positions: Vec<(String, SourcePosition)>,
}

impl Saved {
    fn of(manifest: &Manifest) -> Self {
        let objects = manifest.steps.values().flat_map(|step| &step.objects);
        let sources = manifest.sources.iter().filter(|(id, _)| *id != REPLAY_ID);
        Self {
            epoch: manifest.prepared,
            created_at: manifest.created_at,
            state_bytes: objects.map(|object| object.state_bytes).sum(),
            finished: manifest.finished,
            positions: sources.map(|(id, source)| (id.clone(), source.position.clone())).collect(),
        }
    }
}

fn missing(what: &str) -> JobError {
    JobError::Checkpoint { kind: ErrorKind::NotFound, message: format!("there is no {what}") }
}

/// What sinks are owed would not be part of a savepoint, nor would anybody give it to them again.
pub(crate) fn owed() -> JobError {
    let message = "a sink has not taken all that was put out for it; a savepoint can be made once it has".to_owned();
    JobError::Checkpoint { kind: ErrorKind::Conflict, message }
}

/// Copies the newest checkpoint of `from` into `to`, which is empty. Its epoch must have been committed by all sinks, which
/// [`crate::keep`] sees to, and nobody may be writing or removing checkpoints at that moment.
///
/// # Errors
/// If there is none, or it cannot be copied.
pub async fn savepoint(from: &dyn CheckpointStore, to: &dyn CheckpointStore) -> Result<Saved, JobError> {
    let Some(mut manifest) = newest(from).await?.filter(|manifest| manifest.prepared > 0) else {
        return Err(missing("checkpoint yet"));
    };
    if manifest.member.is_some() {
        let message =
            "it is run by several processes, and a checkpoint of one of them is not one of the whole".to_owned();
        return Err(JobError::Checkpoint { kind: ErrorKind::Conflict, message });
    }
    if manifest.outboxes.values().any(OutboxState::is_owed) {
        return Err(owed());
    }
    copy_states(&manifest, from, to).await?;
    manifest.sinks.clear();
    manifest.outboxes.clear();
    manifest.fingerprints.retain(|id, _| !id.starts_with("to "));
    manifest.sources.remove(REPLAY_ID);
    manifest.decided_by = None;
    manifest.digest.clear();
    manifest.seen = None;
    manifest.forgotten = None;
    manifest.is_savepoint = true;
    manifest.ended = false;
    put(&manifest, to).await?;
    Ok(Saved::of(&manifest))
}

async fn copy_states(
    manifest: &Manifest,
    from: &dyn CheckpointStore,
    to: &dyn CheckpointStore,
) -> Result<(), JobError> {
    let objects = manifest.steps.values().flat_map(|step| &step.objects);
    let names: BTreeSet<&String> = objects.flat_map(|object| object.needs.iter().chain([&object.name])).collect();
    for name in names {
        let bytes = from.read(name).await?.ok_or_else(|| missing(name))?;
        to.create(name, &bytes).await?;
    }
    Ok(())
}

async fn put(manifest: &Manifest, to: &dyn CheckpointStore) -> Result<(), JobError> {
    match to.create(&epoch_name(manifest.epoch), &manifest.encode()?).await? {
        Created::Now => Ok(()),
        Created::Before => {
            Err(JobError::Checkpoint { kind: ErrorKind::Conflict, message: "there is a savepoint already".to_owned() })
        }
    }
}

/// What is in a store of a savepoint; `None` if none was completed there.
///
/// # Errors
/// If it cannot be read.
pub async fn saved(store: &dyn CheckpointStore) -> Result<Option<Saved>, JobError> {
    Ok(newest(store).await?.as_ref().map(Saved::of))
}

/// Copies a savepoint into `to`, an empty store, from which the pipeline goes on when it is opened with it.
///
/// # Errors
/// If there is none, or it cannot be copied.
pub async fn restore_savepoint(from: &dyn CheckpointStore, to: &dyn CheckpointStore) -> Result<Saved, JobError> {
    let manifest = newest(from).await?.filter(|manifest| manifest.is_savepoint);
    let manifest = manifest.ok_or_else(|| missing("savepoint"))?;
    copy_states(&manifest, from, to).await?;
    put(&manifest, to).await?;
    Ok(Saved::of(&manifest))
}

/// Prepares `to`, an empty store, so that a pipeline that is opened with it begins where the one of `from` stands, and knows nothing
/// else of it: steps begin with nothing, and sinks write as those of another pipeline. `None` if that has come to no checkpoint
/// yet: whoever takes its place begins as it did. Nobody may be writing checkpoints at that moment, and no sink may decide them.
///
/// # Errors
/// If there is a checkpoint and it cannot be read, or nothing can be written.
pub async fn begin_at(from: &dyn CheckpointStore, to: &dyn CheckpointStore) -> Result<Option<Saved>, JobError> {
    let Some(before) = newest(from).await?.filter(|manifest| manifest.prepared > 0) else { return Ok(None) };
    let mut manifest = Manifest::new(&before.pipeline, before.generation, before.epoch, before.created_at);
    manifest.prepared = before.prepared;
    manifest.sources = before.sources;
    manifest.sources.remove(REPLAY_ID);
    manifest.lineage = before.lineage;
    (manifest.read, manifest.shown, manifest.unsure) = (before.read, before.shown, before.unsure);
    manifest.is_savepoint = true;
    put(&manifest, to).await?;
    Ok(Some(Saved::of(&manifest)))
}

/// What a pipeline has done since a savepoint of it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// It has read nothing.
    Nothing,
    /// It has read nothing up to its last checkpoint, and what it has read after that is in none: a sink that delivers at
    /// least once may have shown it.
    Unknown,
    /// It has read rows, or written some, or was begun anew.
    ReadOn,
}

/// What the pipeline whose checkpoints are in `now` has done since the savepoint in `savepoint` was made.
///
/// # Errors
/// If one of them cannot be read.
pub async fn since(savepoint: &dyn CheckpointStore, now: &dyn CheckpointStore) -> Result<Since, JobError> {
    let savepoint = newest(savepoint).await?.ok_or_else(|| missing("savepoint"))?;
    let Some(now) = newest(now).await? else { return Ok(Since::ReadOn) };
    let is_one_history = !now.lineage.is_empty() && now.lineage == savepoint.lineage;
    // What was open was shown, though nothing came: time went on, or letters were run again.
    if is_one_history && now.shown > savepoint.prepared {
        return Ok(Since::ReadOn);
    }
    // A source may stand further on behind rows that are not for it.
    let is_as_far = is_one_history && now.prepared >= savepoint.prepared && now.read <= savepoint.prepared;
    if !is_as_far && Saved::of(&now).positions != Saved::of(&savepoint).positions {
        return Ok(Since::ReadOn);
    }
    let is_sure = (now.ended || now.is_savepoint) && now.unsure <= savepoint.prepared;
    Ok(if is_sure { Since::Nothing } else { Since::Unknown })
}

impl Plan {
    /// Whether a job of this plan could go on from a savepoint, or another checkpoint.
    ///
    /// # Errors
    /// [`JobError::Changed`] with what differs; another one if it cannot be read.
    pub async fn fits(&self, store: &dyn CheckpointStore) -> Result<Saved, JobError> {
        let manifest = newest(store).await?.ok_or_else(|| missing("savepoint"))?;
        check(self, &manifest)?;
        Ok(Saved::of(&manifest))
    }
}

#[cfg(test)]
mod tests;
