//! `GET /api/v1/tail/{stream}`: rows as they are stored, over WebSocket or server-sent events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The query parameters of `GET /api/v1/tail/{stream}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TailParameters {
    /// A condition in SQL that rows must meet, for example `severity_number >= 17`.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// The end of the stream after this many rows. Left out: no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// One message of a tail: the data of a server-sent event, or a WebSocket text message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TailMessage {
    /// Rows, oldest first, as objects from column to value; columns without a value are left out.
    Rows {
        /// The rows.
        rows: Vec<Map<String, Value>>,
    },
    /// The reader was too slow, and rows were left out to keep up. They are in the table.
    Skipped {
        /// How many.
        rows: u64,
    },
    /// The tail ends, with the reason.
    End {
        /// The stable code: `limit`, `shutdown`, `revoked`, `tenant_deleted`, `error`.
        code: String,
        /// The reason, for people.
        detail: String,
    },
}
