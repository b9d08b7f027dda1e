//! Where a pipeline goes on: the newest manifest, and what it names.
//!
//! Names: `generation-N` marks each start of the pipeline, `epoch-N` is the manifest of an epoch,
//! `state-GENERATION-EPOCH-STEP-INSTANCE` the state of one instance of a step.

use std::collections::BTreeMap;

use weir_component::checkpoint::{CheckpointStore, Created};
use weir_component::operator::OperatorState;

use crate::error::JobError;
use crate::manifest::{Manifest, decode_state};

pub(crate) fn generation_name(generation: u64) -> String {
    format!("generation-{generation:010}")
}

pub(crate) fn epoch_name(epoch: u64) -> String {
    format!("epoch-{epoch:012}")
}

pub(crate) fn state_name(generation: u64, epoch: u64, step: &str, instance: usize) -> String {
    format!("state-{generation:010}-{epoch:012}-{step}-{instance}")
}

pub(crate) fn is_epoch(name: &str) -> Option<u64> {
    name.strip_prefix("epoch-")?.parse().ok()
}

fn is_generation(name: &str) -> Option<u64> {
    name.strip_prefix("generation-")?.parse().ok()
}

pub(crate) fn is_state(name: &str) -> bool {
    name.starts_with("state-")
}

/// From where a pipeline goes on.
pub(crate) struct Recovered {
    pub(crate) generation: u64,
    pub(crate) manifest: Option<Manifest>,
    /// States by step.
    pub(crate) states: BTreeMap<String, Vec<OperatorState>>,
}

/// Takes over a pipeline: marks a new generation, then reads the newest manifest. The order matters:
/// an older process looks for a newer generation before it decides an epoch.
pub(crate) async fn recover(store: &dyn CheckpointStore) -> Result<Recovered, JobError> {
    let names = store.list().await?;
    let mut generation = names.iter().filter_map(|name| is_generation(name)).max().unwrap_or(0) + 1;
    while store.create(&generation_name(generation), b"").await? == Created::Before {
        generation += 1;
    }
    let names = store.list().await?;
    let manifest = match names.iter().filter_map(|name| is_epoch(name)).max() {
        None => None,
        Some(epoch) => {
            let name = epoch_name(epoch);
            let bytes = store.read(&name).await?.unwrap_or_default();
            Some(Manifest::decode(&name, &bytes)?)
        }
    };
    let mut states: BTreeMap<String, Vec<OperatorState>> = BTreeMap::new();
    for (step, state) in manifest.iter().flat_map(|manifest| &manifest.steps) {
        for object in &state.objects {
            let bytes = store.read(&object.name).await?.unwrap_or_default();
            states.entry(step.clone()).or_default().push(decode_state(object, &bytes)?);
        }
    }
    // Marks of generations before are of no use to anybody any more.
    for old in names.iter().filter(|name| is_generation(name).is_some_and(|other| other < generation)) {
        store.delete(old).await?;
    }
    Ok(Recovered { generation, manifest, states })
}
