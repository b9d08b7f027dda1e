//! Who is asking: the key of a request, and the tenant it acts for.
//!
//! Invariant: every refusal of a key looks the same; the reason is only in the log.
//! Invariant: the tenant comes from the key. A tenant named beside it must be the same one; only an
//! administrator's key chooses.

mod failures;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use weir_base::{Clock, ErrorKind, Kinded, TenantId};
use weir_meta::keys::{KeyKind, Principal, RefusedReason};
use weir_meta::tenants::Tenant;
use weir_meta::{Meta, MetaError};

use crate::cors;
use crate::middleware;
use crate::problem::Problem;
use failures::Failures;

/// The header that names a tenant.
pub const TENANT_HEADER: &str = "x-weir-tenant";
const API_KEY_HEADER: &str = "x-api-key";

/// Who asks, and for whom.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key's owner and what the key allows.
    pub principal: Arc<Principal>,
    /// The tenant acted for.
    pub tenant: Arc<Tenant>,
    /// Whether the request names it.
    is_tenant_named: bool,
}

/// Who asks, where a key is not needed. An invalid key is refused all the same.
#[derive(Clone, Debug)]
pub struct MaybeCaller(pub Option<Caller>);

/// Why a request is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No key.
    #[error("this needs a key")]
    Missing,
    /// A key that is not valid, for whatever reason.
    #[error("the key is not valid")]
    Refused,
    /// Too many invalid keys from one address.
    #[error("too many invalid keys from this address")]
    TooMany {
        /// How many a minute are looked at.
        per_minute: u32,
        /// When to try again.
        retry_after: Duration,
    },
    /// Two keys that are not the same.
    #[error("the request has several different keys")]
    Ambiguous,
    /// A tenant named that is not the key's.
    #[error("the key does not belong to the tenant that {TENANT_HEADER} names")]
    OtherTenant,
    /// An administrator named a tenant that does not exist, or something that cannot be one.
    #[error("there is no tenant {tenant}")]
    NoTenant {
        /// As named, cut.
        tenant: String,
    },
    /// Rows with an administrator's key, and nobody says whose they are.
    #[error("the key is an administrator's, and the request does not say which tenant its rows are of")]
    TenantNeeded,
    /// The key does not allow this.
    #[error("the key does not have the scope `{scope}`")]
    Scope {
        /// What it lacks.
        scope: &'static str,
    },
    /// Only administrators do this.
    #[error("this needs an administrator's key")]
    NotAdministrator,
    /// The page's site is not among the tenant's.
    #[error("the site is not among those the tenant allows")]
    Origin(Box<Problem>),
    /// The key cannot be checked now.
    #[error("the key cannot be checked at the moment")]
    Unavailable,
    /// The tenant cannot be read.
    #[error("reading the tenant")]
    Meta(#[from] MetaError),
}

impl Kinded for AuthError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing | Self::Refused => ErrorKind::Unauthenticated,
            Self::TooMany { .. } => ErrorKind::Limit,
            Self::Ambiguous | Self::TenantNeeded => ErrorKind::Input,
            Self::OtherTenant | Self::Scope { .. } | Self::NotAdministrator | Self::Origin(_) => ErrorKind::Forbidden,
            Self::NoTenant { .. } => ErrorKind::NotFound,
            Self::Unavailable => ErrorKind::Transient,
            Self::Meta(error) => error.kind(),
        }
    }
}

impl AuthError {
    /// What [`Problem`] says beyond the kind and the message.
    pub(crate) fn describe(&self, problem: Problem) -> Problem {
        match self {
            // One body for both, see the invariant.
            Self::Missing | Self::Refused => Problem::new(ErrorKind::Unauthenticated, "a valid key is needed")
                .hint("send it as Authorization: Bearer KEY, as X-API-Key: KEY, or as the user name of HTTP Basic"),
            Self::TooMany { per_minute, retry_after } => problem
                .code("auth_failures")
                .limit("auth_failures_per_minute_max", u64::from(*per_minute), None)
                .retry_after(*retry_after),
            Self::Ambiguous => problem.code("ambiguous_credentials").hint("send one key, in one place"),
            Self::OtherTenant => problem
                .code("other_tenant")
                .pointer("X-Weir-Tenant")
                .hint("leave the header out: the key says which tenant it is for"),
            Self::NoTenant { .. } => problem.pointer("X-Weir-Tenant"),
            Self::TenantNeeded => problem
                .code("tenant_needed")
                .pointer("X-Weir-Tenant")
                .hint("send with a key of the tenant, or name the tenant in that header"),
            Self::Scope { .. } => problem.code("scope").hint("use a key with that scope"),
            Self::NotAdministrator => problem.code("not_administrator"),
            Self::Origin(refusal) => (**refusal).clone(),
            Self::Unavailable | Self::Meta(_) => problem,
        }
    }
}

impl Caller {
    /// Whether the key is an administrator's.
    pub fn is_administrator(&self) -> bool {
        self.principal.kind == KeyKind::Admin
    }

    /// Whether the key still holds, for requests that stay open. A key that cannot be read does not.
    pub fn still_holds(&self, meta: &Meta) -> bool {
        meta.key_holds(&self.principal).unwrap_or(false)
    }

    /// Refuses keys that may not send rows, and an administrator's that does not say for whom: nobody would look for
    /// them among those of the operator.
    pub fn require_ingest(&self) -> Result<(), AuthError> {
        require(self.principal.scopes.ingest, "ingest")?;
        if self.is_administrator() && !self.is_tenant_named { Err(AuthError::TenantNeeded) } else { Ok(()) }
    }

    /// Refuses keys that may not ask.
    pub fn require_query(&self) -> Result<(), AuthError> {
        require(self.principal.scopes.query, "query")
    }

    /// Refuses keys that may not manage the tenant's keys.
    pub fn require_admin(&self) -> Result<(), AuthError> {
        require(self.principal.scopes.admin, "admin")
    }

    /// Refuses all but administrators' keys.
    pub fn require_administrator(&self) -> Result<(), AuthError> {
        if self.is_administrator() { Ok(()) } else { Err(AuthError::NotAdministrator) }
    }
}

fn require(allowed: bool, scope: &'static str) -> Result<(), AuthError> {
    if allowed { Ok(()) } else { Err(AuthError::Scope { scope }) }
}

/// Finds out who is asking.
#[derive(Debug)]
pub struct Authenticator {
    meta: Arc<Meta>,
    clock: Arc<dyn Clock>,
    failures: Failures,
}

impl Authenticator {
    /// Looks keys up in `meta`. One address may try `failures_per_minute_max` invalid keys a minute
    /// before it is told to wait; 0 is no bound.
    pub fn new(meta: Arc<Meta>, clock: Arc<dyn Clock>, failures_per_minute_max: u32) -> Self {
        Self { meta, clock, failures: Failures::new(failures_per_minute_max) }
    }

    /// Who sent a request with these headers, or with `body_key` in its body, from `client`.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        body_key: Option<&str>,
        client: IpAddr,
    ) -> Result<Caller, AuthError> {
        let key = presented_key(headers, body_key)?;
        let principal = match self.meta.verify_key(&key) {
            Ok(principal) => principal,
            Err(refused) if refused.reason == RefusedReason::Unavailable => return Err(AuthError::Unavailable),
            Err(refused) => {
                let reason = refused.reason.as_str();
                let key_id = refused.key_id.as_deref().unwrap_or("-");
                tracing::info!(reason, key_id, %client, "key refused");
                // Valid keys are never slowed down: many clients may share an address, and one of
                // them with an old key must not lock the others out.
                return Err(match self.failures.count(client, self.clock.monotonic()) {
                    Some(retry_after) => AuthError::TooMany { per_minute: self.failures.per_minute(), retry_after },
                    None => AuthError::Refused,
                });
            }
        };
        let tenant = self.tenant_of(&principal, headers)?;
        middleware::record_tenant(&tenant.id);
        cors::check(&tenant.settings.allowed_origins, headers)
            .map_err(|problem| AuthError::Origin(Box::new(problem)))?;
        let is_tenant_named = headers.contains_key(TENANT_HEADER);
        Ok(Caller { principal, tenant, is_tenant_named })
    }

    fn tenant_of(&self, principal: &Principal, headers: &HeaderMap) -> Result<Arc<Tenant>, AuthError> {
        let mut named = headers.get_all(TENANT_HEADER).iter();
        let Some(first) = named.next() else { return self.own_tenant(principal) };
        let name = String::from_utf8_lossy(first.as_bytes());
        // Two names are one too many, even for an administrator.
        if named.next().is_some() {
            return Err(AuthError::OtherTenant);
        }
        if principal.kind != KeyKind::Admin {
            return if name == principal.tenant.as_str() {
                self.own_tenant(principal)
            } else {
                Err(AuthError::OtherTenant)
            };
        }
        let no_tenant = || AuthError::NoTenant { tenant: name.chars().take(80).collect() };
        let id = TenantId::new(&name).map_err(|_| no_tenant())?;
        self.meta.tenant(&id)?.ok_or_else(no_tenant)
    }

    fn own_tenant(&self, principal: &Principal) -> Result<Arc<Tenant>, AuthError> {
        self.meta.tenant(&principal.tenant)?.ok_or(AuthError::Refused)
    }
}

/// Whether a request has a key in its headers, so that nobody has to look into its body for one.
pub fn has_credentials(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION) || headers.contains_key(API_KEY_HEADER)
}

/// The one key of a request, wherever it stands.
fn presented_key<'a>(headers: &'a HeaderMap, body_key: Option<&'a str>) -> Result<Cow<'a, str>, AuthError> {
    let mut found: Option<Cow<'a, str>> = None;
    let authorizations = headers.get_all(AUTHORIZATION).iter().map(|value| authorization_key(value.as_bytes()));
    let api_keys = headers.get_all(API_KEY_HEADER).iter().map(|value| plain_key(value.as_bytes()));
    let body_keys = body_key.into_iter().map(|key| plain_key(key.as_bytes()));
    for key in authorizations.chain(api_keys).chain(body_keys) {
        let key = key.ok_or(AuthError::Refused)?;
        match &found {
            Some(other) if *other != key => return Err(AuthError::Ambiguous),
            _ => found = Some(key),
        }
    }
    found.ok_or(AuthError::Missing)
}

fn plain_key(value: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(value).ok()?.trim();
    // Nothing is never looked up: "no password" has let people into other systems.
    if text.is_empty() { None } else { Some(Cow::Borrowed(text)) }
}

/// The key in `Authorization`: `Bearer KEY`, or `Basic` with the key as user and no password, or
/// with the tenant as user and the key as password.
fn authorization_key(value: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let (scheme, rest) = text.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return plain_key(rest.as_bytes());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let key = decoded.strip_suffix(':').unwrap_or(&decoded).trim();
    if key.is_empty() { None } else { Some(Cow::Owned(key.to_owned())) }
}

#[cfg(test)]
mod tests;
