//! What a checkpoint is made of: one manifest, and one object for the state of each instance of a step.
//!
//! An object holds the tables of an operator's state, each as an Arrow IPC stream, behind a header
//! with the length of what follows and before a CRC32C of all of it. It is looked at only if the
//! sum is right, so what is decoded is what was encoded.

use std::collections::BTreeMap;
use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weir_base::{ErrorKind, crc};
use weir_component::batch::bytes_of;
use weir_component::operator::OperatorState;
use weir_component::sink::{Decision, Receipt};
use weir_component::source::SourcePosition;

use crate::error::JobError;
use crate::time::SourceTime;

/// The format of manifests and objects.
const VERSION: u32 = 1;
/// The first bytes of an object.
const MAGIC: &[u8; 8] = b"weirste1";

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
    /// When it was written, in nanoseconds since 1970.
    pub created_at: i64,
    /// What states belong to: step id to text.
    pub(crate) fingerprints: BTreeMap<String, String>,
    pub(crate) sources: BTreeMap<String, SourceState>,
    pub(crate) steps: BTreeMap<String, StepState>,
    pub(crate) sinks: BTreeMap<String, Receipt>,
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
}

/// Where the state of a step is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepState {
    /// The objects, one for each instance that had any.
    pub(crate) objects: Vec<ObjectRef>,
    /// The watermark the step had told.
    pub(crate) watermark: i64,
}

/// An object of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjectRef {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) crc32c: u32,
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
            created_at,
            fingerprints: BTreeMap::new(),
            sources: BTreeMap::new(),
            steps: BTreeMap::new(),
            sinks: BTreeMap::new(),
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

/// The tables of a state as an object. Empty tables are left out.
pub(crate) fn encode_state(state: &OperatorState) -> Result<Vec<u8>, JobError> {
    let failed = |error: arrow::error::ArrowError| corrupt("a state", error);
    // Room for all of it from the start: a large state that grew would be copied again and again.
    let n_bytes: usize = state.tables.values().flatten().map(bytes_of).sum();
    let mut bytes = Vec::with_capacity(MAGIC.len() + n_bytes + n_bytes / 8 + 4096 * state.tables.len());
    bytes.extend_from_slice(MAGIC);
    for (name, batches) in &state.tables {
        let Some(first) = batches.first() else { continue };
        bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        // The length of the table, once it is known.
        let place = bytes.len();
        bytes.extend_from_slice(&[0; 8]);
        let mut writer = StreamWriter::try_new(&mut bytes, first.schema_ref()).map_err(failed)?;
        for batch in batches {
            writer.write(batch).map_err(failed)?;
        }
        writer.finish().map_err(failed)?;
        drop(writer);
        let length = (bytes.len() - place - 8) as u64;
        bytes[place..place + 8].copy_from_slice(&length.to_le_bytes());
    }
    let sum = crc::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// The state in an object whose size and sum are known.
pub(crate) fn decode_state(object: &ObjectRef, bytes: &[u8]) -> Result<OperatorState, JobError> {
    let bad = |message: &str| corrupt(&object.name, message);
    if bytes.len() as u64 != object.bytes {
        return Err(bad(&format!("it has {} bytes instead of {}", bytes.len(), object.bytes)));
    }
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| bad("it is cut"))?;
    if crc::crc32c(body) != u32::from_le_bytes(*sum) || u32::from_le_bytes(*sum) != object.crc32c {
        return Err(bad("its checksum is wrong"));
    }
    let mut rest = body.strip_prefix(MAGIC.as_slice()).ok_or_else(|| bad("it is not a state"))?;
    let mut state = OperatorState::default();
    while !rest.is_empty() {
        let name = String::from_utf8_lossy(part(&mut rest).ok_or_else(|| bad("it is cut"))?).into_owned();
        let table = part(&mut rest).ok_or_else(|| bad("it is cut"))?;
        let reader = StreamReader::try_new(Cursor::new(table), None).map_err(|error| corrupt(&object.name, error))?;
        let batches: Result<Vec<RecordBatch>, _> = reader.collect();
        state.tables.insert(name, batches.map_err(|error| corrupt(&object.name, error))?);
    }
    Ok(state)
}

/// A length and so many bytes.
fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (part, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(part)
}

pub(crate) fn reference(name: String, bytes: &[u8]) -> ObjectRef {
    let sum = bytes.last_chunk::<4>().map_or(0, |sum| u32::from_le_bytes(*sum));
    ObjectRef { name, bytes: bytes.len() as u64, crc32c: sum }
}
