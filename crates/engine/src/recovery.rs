//! Where a pipeline goes on: the newest manifest, and what it names.
//!
//! Names: `epoch-N` is the manifest of an epoch, `state-GENERATION-EPOCH-WRITER-STEP-INSTANCE` the state of
//! one instance of a step.
//!
//! A start of the pipeline takes over by writing the next epoch itself: a copy of the newest manifest under a
//! new generation. Each epoch can be written once, so a process that was taken for dead and is not can
//! decide nothing any more from that moment; and if it was quicker, what it decided is what is taken
//! over. Only then are sinks opened, which throw away what was prepared and not decided. (One object that
//! is created or not as the owner of an epoch is also how Arroyo's state protocol of 2026 fences.)

use std::collections::BTreeMap;

use weir_base::Timestamp;
use weir_component::checkpoint::{CheckpointStore, Created};
use weir_component::operator::OperatorState;

use crate::build::check;
use crate::error::JobError;
use crate::manifest::{Manifest, decode_state};
use crate::plan::Plan;

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

/// Takes over a pipeline, if its newest checkpoint is one of `plan`; otherwise whoever runs it is not
/// disturbed.
pub(crate) async fn recover(
    store: &dyn CheckpointStore,
    plan: &Plan,
    writer: &str,
    now: Timestamp,
) -> Result<Recovered, JobError> {
    let manifest = loop {
        let mut manifest = match newest(store).await? {
            None => Manifest::new(&plan.pipeline, 0, 0, now.0),
            Some(manifest) => {
                check(plan, &manifest)?;
                manifest
            }
        };
        if manifest.writer == writer {
            break manifest;
        }
        manifest.epoch += 1;
        manifest.generation += 1;
        writer.clone_into(&mut manifest.writer);
        if store.create(&epoch_name(manifest.epoch), &manifest.encode()?).await? == Created::Now {
            break manifest;
        }
    };
    let mut states: BTreeMap<String, Vec<OperatorState>> = BTreeMap::new();
    for (step, state) in &manifest.steps {
        for object in &state.objects {
            let bytes = store.read(&object.name).await?.unwrap_or_default();
            states.entry(step.clone()).or_default().push(decode_state(object, &bytes)?);
        }
    }
    for name in store.list().await? {
        if is_epoch(&name).is_some_and(|epoch| epoch < manifest.epoch) {
            store.delete(&name).await?;
        }
    }
    Ok(Recovered { manifest, states })
}
