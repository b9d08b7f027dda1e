//! `/health`, `/health/live`, `/health/ready`, and the addresses a server listens on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// It works.
    Ok,
    /// It works in part; `detail` says what does not.
    Degraded,
    /// It does not work.
    Failed,
}

/// The reply of `GET /health`: 200 unless something has failed, else 503.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthReport {
    /// The worst status of the components.
    pub status: HealthStatus,
    /// The version of Weir.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// The parts of the server.
    pub components: Vec<ComponentHealth>,
}

/// The health of one part of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ComponentHealth {
    /// Its name: `log`, `tables`, `metadata`, `disk`, ...
    pub name: String,
    /// How well it is.
    pub status: HealthStatus,
    /// What is wrong, or a figure worth knowing; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The reply of `GET /health/live` and `GET /health/ready`: 200, or 503 while it is not so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthProbe {
    /// The answer.
    pub status: HealthStatus,
}

/// The contents of `DIR/addresses.json`: where the server listens, each `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Addresses {
    /// The main port: ingest, queries, administration, health, metrics.
    pub http: String,
    /// OTLP and OTAP over gRPC.
    pub otlp_grpc: String,
    /// OTLP over HTTP.
    pub otlp_http: String,
}
