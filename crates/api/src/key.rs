//! `/api/v1/tenants/{id}/keys`: what lets a program in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Sending rows.
    Ingest,
    /// Asking queries and following streams.
    Query,
    /// Managing the tenant's own keys.
    Admin,
}

/// What a key is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// A key of one tenant.
    #[default]
    Key,
    /// An administrator's key: manages every tenant, and names one with `X-Weir-Tenant`.
    Admin,
}

/// The body of `POST /api/v1/tenants/{id}/keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyCreate {
    /// What the key allows; at least one, and nothing the asking key does not have itself. With `admin`, for tenant `system`
    /// and asked for with an administrator's key, it is an administrator's key.
    pub scopes: Vec<Scope>,
    /// A name for people, for example where the key is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When the key stops working, RFC 3339. Left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// The reply to the creation of a key: the only time the key itself is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyCreated {
    /// The id of the key; not secret.
    pub id: String,
    /// The key. It cannot be shown again.
    pub key: String,
    /// The tenant it belongs to.
    pub tenant: String,
    /// What it is for.
    pub kind: KeyKind,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// The name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// When it stops working, RFC 3339; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// The id of the key; not secret.
    pub id: String,
    /// The tenant it belongs to.
    pub tenant: String,
    /// What it is for.
    pub kind: KeyKind,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// The name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// When it stops working, RFC 3339; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When it was revoked, RFC 3339; absent: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
}

/// The reply of `GET /api/v1/tenants/{id}/keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyList {
    /// The keys of the tenant, oldest first.
    pub keys: Vec<Key>,
}
