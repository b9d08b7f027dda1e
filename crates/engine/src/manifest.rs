//! What a checkpoint is made of: one manifest, and the objects it names, in which the states of steps are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weir_base::{ErrorKind, crc};
use weir_component::sink::{Decision, Receipt};
use weir_component::source::SourcePosition;

use crate::error::JobError;
use crate::outbox::OutboxState;
use crate::states::ObjectRef;
use crate::time::SourceTime;

/// The format of manifests.
const VERSION: u32 = 2;

/// Everything that has to be known to go on after an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    /// The pipeline.
    pub pipeline: String,
    /// The start of the pipeline that wrote it.
    pub generation: u64,
    /// The process that wrote it, by a name no other has.
    pub(crate) writer: String,
    /// Which of those it is that run the pipeline at once, where several do; the same as long as there are
    /// checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) member: Option<String>,
    /// The epoch.
    pub epoch: u64,
    /// The epoch its content is of: the same, or an earlier one that was taken over. 0: nothing has been done yet.
    pub prepared: u64,
    /// Whether all input has been read and all windows are closed.
    pub finished: bool,
    /// Whether nothing was read after it by the start that wrote it: it ended there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ended: bool,
    /// What its epochs are counted in: the name of the start that began anew, or went back to a savepoint. Epochs of two with
    /// the same name are of one history.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) lineage: String,
    /// The newest epoch of that history in which rows were read.
    #[serde(default)]
    pub(crate) read: u64,
    /// The newest epoch of that history in which a sink was given rows, of those just read or of what was open.
    #[serde(default)]
    pub(crate) shown: u64,
    /// The epoch in which it was last taken over from one that did not end by itself: before that, rows may have been read that are in
    /// no checkpoint.
    #[serde(default)]
    pub(crate) unsure: u64,
    /// When it was written, in nanoseconds since 1970.
    pub created_at: i64,
    /// What states belong to: step id to text.
    pub(crate) fingerprints: BTreeMap<String, String>,
    pub(crate) sources: BTreeMap<String, SourceState>,
    pub(crate) steps: BTreeMap<String, StepState>,
    pub(crate) sinks: BTreeMap<String, Receipt>,
    /// What sinks were owed after their last receipt, of those that have one of another epoch, or were owed anything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) outboxes: BTreeMap<String, OutboxState>,
    /// The sink whose decision makes its content count. `None`: it counts because it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) decided_by: Option<String>,
    /// What that decision names it by; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) digest: String,
    /// The newest decision that was known when it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seen: Option<Decision>,
    /// A decision that does not count any more, because somebody wanted to begin anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) forgotten: Option<Decision>,
    /// It is a savepoint: what sinks have done before is nothing to whoever goes on from here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_savepoint: bool,
}

/// Where a source stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceState {
    pub(crate) position: SourcePosition,
    pub(crate) time: SourceTime,
    /// Which part of what is there it has read, where that is not always the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<String>,
}

/// Where the state of a step is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepState {
    /// The objects, one for each instance that had anything to know; they may need older ones.
    pub(crate) objects: Vec<ObjectRef>,
    /// The watermark the step had told.
    pub(crate) watermark: i64,
    /// How far time had come in its inputs; of the first step of a task alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reached: Option<i64>,
}

impl Manifest {
    pub(crate) fn new(pipeline: &str, generation: u64, epoch: u64, created_at: i64) -> Self {
        Self {
            version: VERSION,
            pipeline: pipeline.to_owned(),
            generation,
            writer: String::new(),
            member: None,
            epoch,
            prepared: epoch,
            finished: false,
            ended: false,
            lineage: String::new(),
            read: 0,
            shown: 0,
            unsure: 0,
            created_at,
            fingerprints: BTreeMap::new(),
            sources: BTreeMap::new(),
            steps: BTreeMap::new(),
            sinks: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            decided_by: None,
            digest: String::new(),
            seen: None,
            forgotten: None,
            is_savepoint: false,
        }
    }

    /// Makes it a proposal, whose content counts once `sink` has decided so.
    pub(crate) fn propose(&mut self, sink: &str) -> Result<Decision, JobError> {
        self.decided_by = Some(sink.to_owned());
        self.digest.clear();
        let json = serde_json::to_vec(self).map_err(|error| corrupt("manifest", error))?;
        let digest = Sha256::digest(&json);
        self.digest = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(self.decision())
    }

    /// What names its content in a decision.
    pub(crate) fn decision(&self) -> Decision {
        Decision { epoch: self.prepared, manifest: self.digest.clone() }
    }

    /// Itself, if it is the manifest of `epoch`.
    pub(crate) fn checked(self, epoch: u64) -> Result<Self, JobError> {
        if self.epoch == epoch { Ok(self) } else { Err(corrupt(&format!("epoch {epoch}"), "it is that of another")) }
    }

    /// The manifest as it is stored: JSON with its sum in front.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, JobError> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| corrupt("manifest", error.to_string()))?;
        let mut bytes = format!("{:08x}\n", crc::crc32c(&json)).into_bytes();
        bytes.extend_from_slice(&json);
        Ok(bytes)
    }

    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self, JobError> {
        let (sum, json) = bytes.split_at_checked(9).ok_or_else(|| corrupt(name, "it is cut"))?;
        if sum != format!("{:08x}\n", crc::crc32c(json)).as_bytes() {
            return Err(corrupt(name, "its checksum is wrong"));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|error| corrupt(name, error.to_string()))?;
        if manifest.version != VERSION {
            return Err(corrupt(name, format!("its format is {}, and this program reads {VERSION}", manifest.version)));
        }
        Ok(manifest)
    }
}

fn corrupt(name: &str, message: impl std::fmt::Display) -> JobError {
    JobError::Checkpoint { kind: ErrorKind::Corrupt, message: format!("{name} cannot be read: {message}") }
}
