//! Replies of the ingest routes that speak JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The reply of `POST /ingest`: 200 if at least one row was taken, 422 if every row is bad.
///
/// `received = stored + deduplicated + rejected`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IngestReply {
    /// Rows in the request.
    pub received: u64,
    /// Rows stored by this request.
    pub stored: u64,
    /// Rows that were stored before, by their id, and are not stored again.
    pub deduplicated: u64,
    /// Rows refused; they are in the table `_rejected`.
    pub rejected: u64,
    /// Why rows were refused, at most the first 100.
    pub errors: Vec<RowError>,
    /// What "stored" means here. Left out for `disk`.
    #[serde(default, skip_serializing_if = "Durability::is_disk")]
    pub durability: Durability,
}

/// How many entries [`IngestReply::errors`] has at most.
pub const ROW_ERRORS_MAX: usize = 100;

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The rows are on disk, and stay there if the power fails.
    #[default]
    Disk,
    /// The rows are in memory; a crash in the next moments may lose them. A tenant's own choice.
    Memory,
}

impl Durability {
    /// Whether it is the full promise.
    pub fn is_disk(&self) -> bool {
        *self == Self::Disk
    }
}

/// Why one row was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RowError {
    /// Which row of the request, counted from 0.
    pub index: u64,
    /// The field, as a JSON pointer within the row; empty for the row as a whole.
    pub field: String,
    /// The stable code: `malformed`, `missing_field`, `wrong_type`, `out_of_range`, `unknown_type`,
    /// `too_large` or `wrong_tenant`.
    pub code: String,
    /// What was wrong, for people.
    pub message: String,
}

/// The reply of the Segment and RudderStack routes, whose clients look at nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SegmentReply {
    /// Always true: bad rows go to `_rejected`, as the tracking API has it.
    pub success: bool,
}
