//! `/api/v1/tenants/{id}/keys`: what lets programs in.
//!
//! Administrators manage the keys of every tenant, a key with scope `admin` those of its own. No key
//! can make one that allows more than itself. What an administrator makes for tenant `system` with scope
//! `admin` is an administrator's key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use weir_api::key as api;
use weir_base::{Diagnostic, ErrorKind, TenantId, Timestamp};
use weir_meta::keys::{KeyKind, KeyRecord, NewKey, Scopes};
use weir_meta::tenants::Tenant;

use super::tenants::visible;
use super::time::{TIME_HINT, no_time, read, rfc3339};
use super::{Draft, Path, blocking};
use crate::app::App;
use crate::auth::Caller;
use crate::problem::{Problem, Result};

/// `GET /api/v1/tenants/{id}/keys`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<api::KeyList>> {
    let tenant = managed(&app, &caller, &id).await?;
    let meta = Arc::clone(&app.meta);
    let keys = blocking(move || meta.keys(&tenant.id)).await?;
    Ok(Json(api::KeyList { keys: keys.iter().map(shown).collect() }))
}

/// `POST /api/v1/tenants/{id}/keys`.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    mut draft: Draft<api::KeyCreate>,
) -> Result<(StatusCode, Json<api::KeyCreated>)> {
    let tenant = managed(&app, &caller, &id).await?;
    let now = app.clock.now();
    draft.add(problems(draft.part("scopes"), draft.part::<String>("expires_at").as_deref(), now));
    let request = draft.finish()?;
    let scopes = Scopes {
        ingest: request.scopes.contains(&api::Scope::Ingest),
        query: request.scopes.contains(&api::Scope::Query),
        admin: request.scopes.contains(&api::Scope::Admin),
    };
    if !caller.is_administrator() && !caller.principal.scopes.contains(scopes) {
        return Err(Problem::new(ErrorKind::Forbidden, "the new key would allow more than the key that asks for it")
            .pointer("/scopes"));
    }
    let expires_at = request.expires_at.as_deref().and_then(read);
    // A key does not outlive the one that made it.
    let expires_at = match caller.principal.expires_at {
        Some(bound) if !caller.is_administrator() => Some(expires_at.map_or(bound, |at| at.min(bound))),
        _ => expires_at,
    };
    // Only an administrator makes administrators.
    let is_administrators = tenant.id == TenantId::system() && scopes.admin && caller.is_administrator();
    let new = NewKey {
        tenant: tenant.id.clone(),
        kind: if is_administrators { KeyKind::Admin } else { KeyKind::Key },
        scopes,
        name: request.name.unwrap_or_default(),
        expires_at,
    };
    let (meta, log) = (Arc::clone(&app.meta), Arc::clone(&app.log));
    let create = move || {
        let _room = log.room();
        meta.create_key(new)
    };
    let (record, secret) = blocking(create).await?;
    tracing::info!(tenant = %tenant.id, key = %record.id, by = %caller.principal.key_id, "key created");
    let shown = shown(&record);
    let created = api::KeyCreated {
        id: shown.id,
        key: secret.expose().clone(),
        tenant: shown.tenant,
        kind: shown.kind,
        scopes: shown.scopes,
        name: shown.name,
        created_at: shown.created_at,
        expires_at: shown.expires_at,
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// What is wrong with a key that is asked for.
fn problems(scopes: Option<Vec<api::Scope>>, expires_at: Option<&str>, now: Timestamp) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let mut problem = |place: &str, message: String, hint: &str| {
        problems.push(Diagnostic { message, place: place.to_owned(), hint: hint.to_owned() });
    };
    if scopes.is_some_and(|scopes| scopes.is_empty()) {
        problem("/scopes", "a key needs at least one scope".to_owned(), "scopes are ingest, query and admin");
    }
    match expires_at.map(|text| (text, read(text))) {
        Some((text, None)) => problem("/expires_at", no_time(text), TIME_HINT),
        Some((_, Some(at))) if at <= now => {
            problem("/expires_at", "the key would have expired already".to_owned(), "");
        }
        _ => {}
    }
    problems
}

/// `DELETE /api/v1/tenants/{id}/keys/{key}`: the key stops working at once.
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
) -> Result<StatusCode> {
    let tenant = managed(&app, &caller, &id).await?;
    let (meta, log) = (Arc::clone(&app.meta), Arc::clone(&app.log));
    let (owner, doomed) = (tenant.id.clone(), key.clone());
    let revoke = move || {
        let _room = log.room();
        meta.revoke_key(&owner, &doomed)
    };
    if !blocking(revoke).await? {
        return Err(Problem::new(ErrorKind::NotFound, "there is no such key"));
    }
    tracing::info!(tenant = %tenant.id, %key, by = %caller.principal.key_id, "key revoked");
    Ok(StatusCode::NO_CONTENT)
}

async fn managed(app: &Arc<App>, caller: &Caller, id: &str) -> Result<Arc<Tenant>> {
    let tenant = visible(app, caller, id).await?;
    caller.require_admin()?;
    Ok(tenant)
}

fn shown(record: &KeyRecord) -> api::Key {
    api::Key {
        id: record.id.clone(),
        tenant: record.tenant.to_string(),
        kind: match record.kind {
            KeyKind::Key => api::KeyKind::Key,
            KeyKind::Admin => api::KeyKind::Admin,
        },
        scopes: [
            (record.scopes.ingest, api::Scope::Ingest),
            (record.scopes.query, api::Scope::Query),
            (record.scopes.admin, api::Scope::Admin),
        ]
        .into_iter()
        .filter(|(allowed, _)| *allowed)
        .map(|(_, scope)| scope)
        .collect(),
        name: (!record.name.is_empty()).then(|| record.name.clone()),
        created_at: rfc3339(record.created_at),
        expires_at: record.expires_at.map(rfc3339),
        revoked_at: record.revoked_at.map(rfc3339),
    }
}
