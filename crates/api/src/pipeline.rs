//! `/api/v1/pipelines`: computations that go on.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::ProblemPlace;

/// The language of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DocumentFormat {
    /// YAML.
    #[default]
    Yaml,
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

/// The body of `POST /api/v1/pipelines`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineApply {
    /// The document; it names the pipeline.
    pub document: String,
    /// Its language.
    #[serde(default)]
    pub format: DocumentFormat,
    /// What the document is called in the places of problems, such as the name of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Only check it, and say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Begin anew, without the checkpoints there are.
    #[serde(default)]
    pub restart: bool,
}

/// What applying a document does to a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PipelineOutcome {
    /// It is new.
    Created,
    /// It goes on where it stands with the new document.
    Resumed,
    /// It begins anew.
    Restarted,
    /// It is the document that was applied before.
    Unchanged,
}

/// The reply of `POST /api/v1/pipelines`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineApplied {
    /// The name of the pipeline.
    pub name: String,
    /// What happened; after a dry run what would happen.
    pub outcome: PipelineOutcome,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The checkpoint it goes on from. After a dry run the newest one there is; a pipeline that runs makes one more when it is
    /// stopped for the new document. Absent if there is none: it has done nothing that counts yet, and begins where it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes_from: Option<u64>,
    /// What the pipeline is made of.
    pub nodes: Vec<PipelineNode>,
    /// The pipeline; absent after a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
}

/// What a pipeline does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PipelineStatus {
    /// It opens what it reads and writes.
    Starting,
    /// It runs.
    Running,
    /// It has failed for a reason that may pass, and is started again by itself.
    Waiting,
    /// It has failed, and somebody has to do something.
    Failed,
    /// The rows it would go on with are not kept any more: somebody has to say where it goes on.
    Overrun,
    /// All its input has been read, and all its results are in place.
    Finished,
    /// There is nothing for it to do; it is started again by itself when there is. Only pipelines of Weir's own do so.
    Resting,
    /// It was stopped, and goes on from its checkpoint when it is started.
    Stopped,
}

/// A pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// What it does at the moment.
    pub status: PipelineStatus,
    /// Whether it is to run, also after a restart of the server.
    pub wanted: bool,
    /// Since when it runs, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<String>,
    /// Why it does not run; of one that starts, what has not opened yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<PipelineFailure>,
    /// How often it was started again by itself since the server was started.
    pub restarts: u64,
    /// Rises each time the document changes.
    pub revision: u64,
    /// Whether an administrator has applied it, so that it may reach what tenants may not.
    pub trusted: bool,
    /// Whether it ships with Weir, which keeps it for every tenant.
    #[serde(default)]
    pub built_in: bool,
    /// When it was first applied, RFC 3339.
    pub created_at: String,
    /// When its document was last changed, RFC 3339.
    pub changed_at: String,
    /// The id of the key that changed it.
    pub changed_by: String,
    /// Its newest checkpoint, since it was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PipelineCheckpoint>,
    /// Its parts with their counters since it was last started.
    pub nodes: Vec<PipelineNode>,
    /// The document, where one pipeline was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// The language of the document.
    pub format: DocumentFormat,
}

/// Why a pipeline does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineFailure {
    /// The stable code, as in replies that are problems.
    pub code: String,
    /// What was attempted and what came of it.
    pub message: String,
    /// When, RFC 3339.
    pub at: String,
    /// When it is started again, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<String>,
    /// How often in a row it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// What is wrong with the document, if that is why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemPlace>,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineCheckpoint {
    /// Its number.
    pub epoch: u64,
    /// Bytes of state in it.
    pub state_bytes: u64,
    /// How long it took from the barrier at the sources to the last task, in seconds.
    pub seconds: f64,
}

/// What a part of a pipeline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PipelineRole {
    /// Rows come from it.
    Source,
    /// Rows are changed by it.
    Step,
    /// Rows go to it.
    Sink,
}

/// A part of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineNode {
    /// Its id, unique within the pipeline.
    pub id: String,
    /// What it is.
    pub role: PipelineRole,
    /// What it does, for people.
    pub text: String,
    /// The ids of the parts it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// What a sink promises of each row: `exactly once` or `at least once`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
    /// Whether a sink is tried at the moment; absent for other parts, and while the pipeline has not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<PipelineCircuit>,
    /// What a table goes on without, as it cannot be read again; absent while it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<PipelineTrouble>,
    /// Its counters; absent while the pipeline has not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<PipelineCounters>,
}

/// Why what was read last of a table still counts: it could not be read since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineTrouble {
    /// How many attempts have failed since the last one that did not.
    pub attempts: u64,
    /// When the first of them failed, RFC 3339.
    pub since: String,
    /// What came of the last one.
    pub error: String,
}

/// Whether a sink is tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineCircuit {
    /// `closed`: rows go through. `open`: it has failed too often, and nothing is tried for a while. `half_open`: one
    /// attempt is made.
    pub state: String,
    /// How often it has opened since the pipeline was last started.
    pub opened: u64,
    /// The last failure, since it last went well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Counters of a part, over all its instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineCounters {
    /// Rows that came in; of a source, rows read. Rows of tables are not among them.
    pub rows_in: u64,
    /// Rows read of a table that rows are looked up in, of all its versions.
    #[serde(default)]
    pub table_rows: u64,
    /// Rows that went out; of a sink, rows written.
    pub rows_out: u64,
    /// Batches that came in.
    pub batches: u64,
    /// Bytes a source was read from.
    pub bytes: u64,
    /// Rows that were too late.
    pub late: u64,
    /// Rows that can never succeed.
    pub dead: u64,
    /// Failures that were tried again.
    pub retries: u64,
    /// Seconds of work.
    pub busy_seconds: f64,
    /// Bytes of state.
    pub state_bytes: u64,
    /// How far event time has come, RFC 3339; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<String>,
    /// Rows that came in a second, over the last two seconds.
    pub rows_in_per_second: f64,
    /// Seconds in which it could not work because what comes after it was full.
    pub blocked_seconds: f64,
    /// How many of its instances are blocked like that at the moment.
    pub blocked_instances: u64,
    /// Rows a source has not read yet, if it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_rows: Option<u64>,
    /// What the state of a step holds, such as `open_windows`, `windows_open_for_late_rows` and `keys`; as of the
    /// last checkpoint.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<String, u64>,
    /// How many windows were done with since the pipeline was started; their state is gone.
    #[serde(default)]
    pub expired_windows: u64,
}

/// The query parameters of `GET /api/v1/pipelines/{name}/tap`. The messages are those of a tail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TapParameters {
    /// The id of the part whose rows are shown: those that go out of a source or a step, or come to a sink. Left
    /// out: those that come to the first sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// A condition in SQL that rows must meet.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Show one row of so many, before the condition is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// The end after this many rows. Left out: no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// The reply of `GET /api/v1/pipelines/{name}/explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineExplanation {
    /// The name of the pipeline.
    pub name: String,
    /// What it does at the moment.
    pub status: PipelineStatus,
    /// Its parts.
    pub nodes: Vec<PipelineNode>,
    /// What each source's time waits for.
    pub times: Vec<PipelineTime>,
    /// Parts that others wait for: what comes before them has no room for its results.
    pub slow: Vec<PipelineSlow>,
}

/// Event time of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineTime {
    /// The id of the source.
    pub source: String,
    /// Its watermark, RFC 3339: windows that end before it are closed, all others are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<String>,
    /// The partition that holds back the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back_by: Option<String>,
    /// The source it is too far ahead of (`align`), so that it is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Its partitions, those that are furthest behind first, at most a hundred of them.
    pub partitions: Vec<PipelinePartition>,
    /// How many partitions it has.
    pub partitions_total: u64,
}

/// A partition of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelinePartition {
    /// Its name.
    pub name: String,
    /// Its watermark, RFC 3339; absent before its first row, which time waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<String>,
    /// It has been silent for so long that it does not hold back the others.
    pub idle: bool,
    /// Rows of it that were not read yet, if the source knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_rows: Option<u64>,
}

/// A part that others wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineSlow {
    /// Its id.
    pub part: String,
    /// The ids of those that wait.
    pub waiting: Vec<String>,
}

/// The reply of `GET /api/v1/graph`: all pipelines of the tenant, and the streams between them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Graph {
    /// Streams, and the parts of pipelines.
    pub nodes: Vec<GraphNode>,
    /// What rows flow along.
    pub edges: Vec<GraphEdge>,
}

/// A stream, or a part of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GraphNode {
    /// Unique in the graph: `stream/NAME`, or `pipeline/NAME/ROLE/PART`.
    pub id: String,
    /// The pipeline it is a part of; absent for streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// What its pipeline does at the moment; absent for streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PipelineStatus>,
    /// What it is, for people.
    pub text: String,
    /// Rows that come in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_in_per_second: Option<f64>,
}

/// A way of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GraphEdge {
    /// The id of the node they come from.
    pub from: String,
    /// The id of the node they go to.
    pub to: String,
}

/// The body of `POST /api/v1/pipelines/{name}/savepoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SavepointCreate {
    /// Its name: a-z, 0-9, `_` and `-`. Left out: the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// A checkpoint that is kept under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Savepoint {
    /// Its name.
    pub label: String,
    /// The number of the checkpoint.
    pub epoch: u64,
    /// When the checkpoint was made, RFC 3339.
    pub created_at: String,
    /// Bytes of state in it.
    pub state_bytes: u64,
    /// Whether all input had been read.
    pub finished: bool,
}

/// The reply of `GET /api/v1/pipelines/{name}/savepoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SavepointList {
    /// The savepoints, the newest last.
    pub savepoints: Vec<Savepoint>,
}

/// The body of `POST /api/v1/pipelines/{name}/savepoints/{label}/restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SavepointRestore {
    /// Another document of the pipeline. Left out: the one it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// The language of that document.
    #[serde(default)]
    pub format: DocumentFormat,
    /// What that document is called in the places of problems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Only check it, and say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// That rows after the savepoint are written again is wanted; needed if the pipeline has read on since.
    #[serde(default)]
    pub write_again: bool,
}

/// The reply of `POST /api/v1/pipelines/{name}/savepoints/{label}/restore`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SavepointRestored {
    /// The savepoint the pipeline goes on from.
    pub savepoint: Savepoint,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Whether the pipeline had read on since the savepoint: the rows after it are written again.
    pub writes_again: bool,
    /// Whether that is known. What a pipeline that runs has read since its last checkpoint is not, as long as it is not stopped,
    /// which a dry run does not do.
    pub is_certain: bool,
    /// What becomes of what is there, sink by sink.
    pub sinks: Vec<SavepointSink>,
    /// The pipeline; absent after a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
}

/// A sink of a pipeline that goes on from a savepoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SavepointSink {
    /// What it does.
    pub text: String,
    /// What becomes of what is there.
    pub begins: String,
}

/// The reply of `GET /api/v1/pipelines`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineList {
    /// The pipelines, by name.
    pub pipelines: Vec<Pipeline>,
}
