//! `POST /api/v1/query`: SQL over the tenant's own tables.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The body of `POST /api/v1/query`. The format of the answer is chosen by `Accept`:
/// `application/json`, `application/x-ndjson`, `text/csv`, `application/vnd.apache.arrow.stream` or
/// `application/vnd.apache.parquet`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    /// One SQL query.
    pub sql: String,
    /// Values of `$1`, `$2`, ... in the query: text, numbers, booleans or null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<Value>,
}

/// The answer as `application/json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueryReply {
    /// The columns, in order.
    pub columns: Vec<Column>,
    /// The rows; each has one value for each column. Timestamps are RFC 3339, 64-bit integers are
    /// numbers, NaN and infinities are null, maps and structs are objects.
    pub rows: Vec<Vec<Value>>,
    /// What ended the answer after its first byte; then `rows` are not all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<QueryError>,
    /// What answering took.
    pub stats: QueryStats,
}

/// Why an answer ended too early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueryError {
    /// As in problems: `timeout`, `limit`, ...
    pub code: String,
    /// The status a problem of this kind has.
    pub status: u16,
    /// What was wrong.
    pub detail: String,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type: `int64`, `float64`, `bool`, `string`, `timestamp`, `list`, `struct` or `map`.
    pub r#type: String,
}

/// What answering a query took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct QueryStats {
    /// Rows in the answer.
    pub rows: u64,
    /// Whether the answer was cut at the tenant's `query_rows_max`.
    pub truncated: bool,
    /// Milliseconds from the arrival of the query to its last row.
    pub elapsed_ms: f64,
    /// Of them, until the query was planned.
    pub planning_ms: f64,
    /// Bytes read from table files.
    pub bytes_scanned: u64,
    /// Table files read.
    pub files_scanned: u64,
}
