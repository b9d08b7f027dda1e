//! `/api/v1/tenants`: owners of data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weir_base::quantity::Span;

use crate::ingest::Durability;

/// What a tenant has paid for; decides its limits, unless they are overridden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The smallest limits.
    #[default]
    Free,
    /// The middle ones.
    Paid,
    /// The largest.
    Enterprise,
}

/// The body of `POST /api/v1/tenants`. Administrators only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantCreate {
    /// The id: 1 to 64 of `a-z`, `0-9`, `_` and `-`, beginning with a letter or digit. It cannot
    /// change later. A UUID fits.
    pub id: String,
    /// A name for people; the id if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tier; `free` if left out.
    #[serde(default)]
    pub tier: Tier,
    /// Limits that differ from the tier's, by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub limits: Map<String, Value>,
    /// Settings of the tenant; defaults if left out.
    #[serde(default)]
    pub settings: TenantSettings,
}

/// The body of `PATCH /api/v1/tenants/{id}`: what is left out stays as it is. Administrators only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantChange {
    /// The new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The new tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// All limits that differ from the tier's, replacing those set before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Map<String, Value>>,
    /// All settings, replacing those set before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<TenantSettings>,
}

/// What a tenant decides for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantSettings {
    /// Web sites whose pages may send events and ask queries, as origins: `https://shop.example`,
    /// `https://*.shop.example` for every sub-domain, or `*` for any site (the default, if empty).
    pub allowed_origins: Vec<String>,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// How the rows of `sessions` are made.
    pub sessions: SessionSettings,
}

/// How the sessions of a tenant are made, where that differs from the configuration of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionSettings {
    /// Whether they are kept. The server may have switched them off for everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// After so long without an event of a visitor the next one begins a session: `30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<Span>,
    /// The names of tracked events that are conversions, in lower or upper case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversions: Option<Vec<String>>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tenant {
    /// The id.
    pub id: String,
    /// The name for people.
    pub name: String,
    /// The tier.
    pub tier: Tier,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// Settings of the tenant.
    pub settings: TenantSettings,
    /// The limits in force, by name: those of the tier with the overrides applied.
    pub limits: Map<String, Value>,
    /// The limits that differ from the tier's.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub overrides: Map<String, Value>,
}

/// The reply of `GET /api/v1/tenants`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantList {
    /// The tenants, by id.
    pub tenants: Vec<Tenant>,
}
