//! `/api/v1/pipelines/{name}/deadletters`: rows of a pipeline that failed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The query parameters of `GET /api/v1/pipelines/{name}/deadletters`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterParameters {
    /// Only those set aside since then, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only those of this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Only those that this source or step has set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Also those that were run again.
    #[serde(default)]
    pub all: bool,
    /// At most so many; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What became of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterState {
    /// Nothing yet.
    Open,
    /// It is to be run again, and is as soon as the pipeline runs.
    Waiting,
    /// It was run again. If it has failed again, that is another dead letter.
    Replayed,
}

/// A row that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// What it is called.
    pub id: String,
    /// What became of it.
    pub state: DeadLetterState,
    /// When it was set aside, RFC 3339.
    pub at: String,
    /// Its event time, RFC 3339; when it was set aside if it has none.
    pub time: String,
    /// The source or step that has set it aside; a sink it was refused at is `to ` and its id.
    pub step: String,
    /// Of which kind the error is: `malformed` (it could not be read), `no_time`, `failed` (an expression fails on it),
    /// `over_limit` or `refused` (whoever it was sent to will never take it).
    pub class: String,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How often it has failed there.
    pub attempts: u64,
    /// The row as JSON; if it could not be read, what there was, up to 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
}

/// The reply of `GET /api/v1/pipelines/{name}/deadletters`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterList {
    /// The dead letters, newest first.
    pub deadletters: Vec<DeadLetter>,
}

/// Which dead letters; all of those it says must be true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// Only those set aside since then, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only those of this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Only those that this source or step has set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Only these, at most 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
}

/// The body of `POST /api/v1/pipelines/{name}/deadletters/replay`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterReplay {
    /// Which ones; all that are open if it says nothing.
    #[serde(default)]
    pub filter: DeadLetterFilter,
    /// Only check whether they can be run again.
    #[serde(default)]
    pub dry_run: bool,
    /// Those that come after this id in the order of ids, as a reply says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// The reply of `POST /api/v1/pipelines/{name}/deadletters/replay`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLettersReplayed {
    /// How many are run again, as soon as the pipeline runs; after a dry run how many could be.
    pub replayed: u64,
    /// How many cannot be run again.
    pub refused: u64,
    /// Why not, with how many for each reason; at most twenty reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<DeadLetterReason>,
    /// There may be more: ask again with this as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Why dead letters cannot be run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterReason {
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// One of them.
    pub example: String,
}

/// The body of `POST /api/v1/pipelines/{name}/deadletters/purge`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterPurge {
    /// Which ones.
    #[serde(default)]
    pub filter: DeadLetterFilter,
    /// All of them; needed if the filter says nothing.
    #[serde(default)]
    pub all: bool,
}

/// The reply of `POST /api/v1/pipelines/{name}/deadletters/purge`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLettersPurged {
    /// How many are not shown any more.
    pub purged: u64,
}
