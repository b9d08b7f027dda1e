//! Where a pipeline goes on: the newest manifest, and what it names.
//!
//! Names: `epoch-N` is the manifest of an epoch, `state-GENERATION-EPOCH-WRITER-STEP-INSTANCE` the state of
//! one instance of a step, or the part of it that is not in older ones.
//!
//! A start of the pipeline takes over by writing the next epoch itself: a copy of the newest manifest under a
//! new generation. Each epoch can be written once, so a process that was taken for dead and is not can
//! decide nothing any more from that moment; and if it was quicker, what it decided is what is taken
//! over. Only then are sinks opened, which throw away what was prepared and not decided. (One object that
//! is created or not as the owner of an epoch is also how Arroyo's state protocol of 2026 fences.)
//!
//! Where a sink decides, it is taken over first: from then on nobody else decides anything, and only then
//! is it asked what was decided. The copy is one of the manifest that names, not of the newest.

use std::collections::BTreeMap;

use weir_base::Timestamp;
use weir_component::checkpoint::{CheckpointStore, Created};
use weir_component::operator::OperatorState;
use weir_component::sink::{Owner, TakenOver};
use weir_component::source::SourcePosition;

use crate::check::check;
use crate::decision::choose;
use crate::error::JobError;
use crate::job::{JobOptions, Opening};
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::replay::REPLAY_ID;
use crate::states;

pub(crate) fn epoch_name(epoch: u64) -> String {
    format!("epoch-{epoch:012}")
}

/// The writer is part of it, so that no name is ever written by two.
pub(crate) fn state_name((generation, epoch): (u64, u64), writer: &str, step: &str, instance: usize) -> String {
    let writer: String = writer.chars().take(WRITER_CHARACTERS).collect();
    format!("state-{generation:010}-{epoch:012}-{writer}-{step}-{instance}")
}

/// So much of the name of a writer tells it from others.
const WRITER_CHARACTERS: usize = 8;

pub(crate) fn is_epoch(name: &str) -> Option<u64> {
    let epoch = name.strip_prefix("epoch-")?.parse().ok()?;
    (epoch_name(epoch) == name).then_some(epoch)
}

/// The generation and epoch of a state.
pub(crate) fn is_state(name: &str) -> Option<(u64, u64)> {
    let mut parts = name.strip_prefix("state-")?.splitn(3, '-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// From where a pipeline goes on.
pub(crate) struct Recovered {
    /// The epoch this start has written: what it goes on from.
    pub(crate) manifest: Manifest,
    /// States by step.
    pub(crate) states: BTreeMap<String, Vec<OperatorState>>,
}

/// The newest manifest of a store, if there is one.
pub(crate) async fn newest(store: &dyn CheckpointStore) -> Result<Option<Manifest>, JobError> {
    loop {
        let Some(epoch) = store.list().await?.iter().filter_map(|name| is_epoch(name)).max() else { return Ok(None) };
        // If it is gone, somebody else has gone on and cleaned up.
        if let Some(bytes) = store.read(&epoch_name(epoch)).await? {
            return Manifest::decode(&epoch_name(epoch), &bytes)?.checked(epoch).map(Some);
        }
    }
}

/// How far rows that failed before were run again, by the newest manifest of a store.
///
/// # Errors
/// If it cannot be read.
pub async fn replayed(store: &dyn CheckpointStore) -> Result<Option<SourcePosition>, JobError> {
    let manifest = newest(store).await?;
    Ok(manifest.and_then(|mut manifest| manifest.sources.remove(REPLAY_ID)).map(|state| state.position))
}

/// All manifests of a store.
async fn all(store: &dyn CheckpointStore) -> Result<Vec<Manifest>, JobError> {
    let mut manifests = Vec::new();
    for name in store.list().await? {
        if let Some(epoch) = is_epoch(&name)
            && let Some(bytes) = store.read(&name).await?
        {
            manifests.push(Manifest::decode(&name, &bytes)?.checked(epoch)?);
        }
    }
    Ok(manifests)
}

/// The sink of a plan that decides, taken over.
pub(crate) struct Decided {
    pub(crate) sink: String,
    pub(crate) taken: Box<dyn TakenOver>,
}

/// Who takes over, if the newest checkpoint is one of `plan` and it may.
pub(crate) async fn owner(store: &dyn CheckpointStore, plan: &Plan, options: &JobOptions) -> Result<Owner, JobError> {
    let (writer, is_again) = (options.writer.clone(), options.is_again);
    let mut owner = Owner { sink: String::new(), writer, is_again, member: None };
    let newest = newest(store).await?;
    if let Some(manifest) = &newest {
        check(plan, manifest)?;
        if !owner.may_follow(&manifest.writer) {
            return Err(JobError::Fenced { generation: manifest.generation });
        }
    }
    if plan.is_shared() {
        let first = || options.writer.chars().take(MEMBER_CHARACTERS).collect();
        owner.member = Some(newest.and_then(|manifest| manifest.member).unwrap_or_else(first));
    }
    Ok(owner)
}

/// So much of the name of the first writer is the name of a member.
const MEMBER_CHARACTERS: usize = 12;

/// Takes over the sink that decides, if there is one.
pub(crate) async fn take_over_sink(plan: &Plan, owner: &Owner, opening: &Opening) -> Result<Option<Decided>, JobError> {
    let mut deciders = plan.sinks.iter().filter_map(|sink| Some((&sink.id, sink.sink.decider()?)));
    let Some((id, decider)) = deciders.next() else { return Ok(None) };
    if let Some((other, _)) = deciders.next() {
        return Err(JobError::internal(other, format!("it decides epochs, and so does {id}: only one can")));
    }
    if let Some(sink) = plan.sinks.iter().find(|sink| sink.id == *id) {
        opening.say(sink.sink.describe());
    }
    let owner = Owner { sink: id.clone(), ..owner.clone() };
    let taken = decider.take_over(owner).await.map_err(|error| JobError::sink(id, error))?;
    Ok(Some(Decided { sink: id.clone(), taken }))
}

/// Takes over a pipeline, if its newest checkpoint is one of `plan`; otherwise whoever runs it is not
/// disturbed. What counts of it may depend on what a sink has decided, which was taken over before.
pub(crate) async fn recover(
    store: &dyn CheckpointStore,
    plan: &Plan,
    options: &JobOptions,
    (owner, decided): (&Owner, Option<&Decided>),
    now: Timestamp,
) -> Result<Recovered, JobError> {
    let last = decided.and_then(|decided| decided.taken.decided());
    let manifest = loop {
        let manifests = all(store).await?;
        let newest = manifests.iter().max_by_key(|manifest| manifest.epoch);
        if let Some(newest) = newest {
            check(plan, newest)?;
            if newest.writer == options.writer {
                break newest.clone();
            }
        }
        let mut forgotten = newest.and_then(|manifest| manifest.forgotten.clone());
        let chosen = if options.begin_anew {
            forgotten = last.cloned();
            None
        } else if let Some(savepoint) = newest.filter(|manifest| manifest.is_savepoint) {
            forgotten = last.cloned();
            Some(savepoint)
        } else {
            choose(&manifests, decided.map(|decided| (decided.sink.as_str(), last)))?
        };
        let mut manifest = chosen.cloned().unwrap_or_else(|| Manifest::new(&plan.pipeline, 0, 0, now.0));
        // Epochs and generations rise, whichever manifest counts.
        let epochs = newest.map(|manifest| manifest.epoch).into_iter().chain(last.map(|last| last.epoch));
        manifest.epoch = 1 + epochs.max().unwrap_or(0);
        manifest.generation = 1 + newest.map_or(0, |manifest| manifest.generation);
        manifest.forgotten = forgotten.filter(|_| decided.is_some());
        manifest.seen = last.filter(|last| manifest.forgotten.as_ref() != Some(*last)).cloned();
        options.writer.clone_into(&mut manifest.writer);
        if manifest.is_savepoint || manifest.lineage.is_empty() {
            manifest.lineage.clone_from(&options.writer);
        }
        if manifest.prepared > 0 && !manifest.is_savepoint && !manifest.ended {
            manifest.unsure = manifest.epoch;
        }
        (manifest.is_savepoint, manifest.ended) = (false, false);
        manifest.member.clone_from(&owner.member);
        if store.create(&epoch_name(manifest.epoch), &manifest.encode()?).await? == Created::Now {
            break manifest;
        }
    };
    let mut states_of: BTreeMap<String, Vec<OperatorState>> = BTreeMap::new();
    for (step, state) in &manifest.steps {
        for object in &state.objects {
            states_of.entry(step.clone()).or_default().push(states::read(store, object).await?);
        }
    }
    // Another process may be taking over the sink at this moment, and go on from one of these: they are
    // removed when this one has decided something.
    if decided.is_none() {
        for name in store.list().await? {
            if is_epoch(&name).is_some_and(|epoch| epoch < manifest.epoch) {
                store.delete(&name).await?;
            }
        }
    }
    Ok(Recovered { manifest, states: states_of })
}
