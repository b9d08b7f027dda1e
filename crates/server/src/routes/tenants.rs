//! `/api/v1/tenants` and `/api/v1/tenants/{id}`: the owners of data.
//!
//! Administrators manage every tenant. Anybody else sees at most their own; for them every other
//! tenant does not exist.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value};
use weir_api::ingest::Durability as ApiDurability;
use weir_api::tenant as api;
use weir_base::{Diagnostic, ErrorKind, StreamName, TenantId};
use weir_data::streams::StreamDef;
use weir_meta::limits::{LimitOverrides, Tier};
use weir_meta::tenants::sessions::SessionSettings;
use weir_meta::tenants::{Durability, NewTenant, Tenant, TenantPatch, TenantSettings};
use weir_sql::nearest;

use super::time::rfc3339;
use super::{Draft, Path, blocking};
use crate::app::App;
use crate::auth::Caller;
use crate::problem::{Problem, Result};

/// `GET /api/v1/tenants`.
pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<api::TenantList>> {
    caller.require_administrator()?;
    let meta = Arc::clone(&app.meta);
    let tenants = blocking(move || meta.tenants()).await?;
    Ok(Json(api::TenantList { tenants: tenants.iter().map(|tenant| shown(tenant)).collect() }))
}

/// `POST /api/v1/tenants`.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut draft: Draft<api::TenantCreate>,
) -> Result<(StatusCode, Json<api::Tenant>)> {
    caller.require_administrator()?;
    let id = draft.part::<String>("id").map(|id| TenantId::new(&id));
    if let Some(Err(error)) = &id {
        draft.add([Diagnostic { message: error.to_string(), place: "/id".to_owned(), hint: String::new() }]);
    }
    // Checked before the tenant is made, so that a mistake leaves nothing behind.
    let streams = id.as_ref().and_then(|id| id.as_ref().ok()).map(|id| app.meta.streams().all(id));
    draft.add(problems(draft.part("limits"), draft.part("settings"), streams.as_deref(), &LimitOverrides::default()));
    let request = draft.finish()?;
    let id = TenantId::new(&request.id).map_err(|error| Problem::new(ErrorKind::Input, error.to_string()))?;
    let patch = TenantPatch {
        name: None,
        tier: None,
        overrides: (!request.limits.is_empty()).then(|| Value::Object(request.limits.clone())),
        settings: Some(settings(&request.settings)),
    };
    let new = NewTenant { id: id.clone(), name: request.name.unwrap_or_default(), tier: tier(request.tier) };
    let meta = Arc::clone(&app.meta);
    let tenant = blocking(move || {
        meta.create_tenant(new)?;
        meta.update_tenant(&id, patch)
    })
    .await?;
    tracing::info!(tenant = %tenant.id, by = %caller.principal.key_id, "tenant created");
    Ok((StatusCode::CREATED, Json(shown(&tenant))))
}

/// `GET /api/v1/tenants/{id}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<api::Tenant>> {
    let tenant = visible(&app, &caller, &id).await?;
    Ok(Json(shown(&tenant)))
}

/// `PATCH /api/v1/tenants/{id}`.
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    mut draft: Draft<api::TenantChange>,
) -> Result<Json<api::Tenant>> {
    let tenant = visible(&app, &caller, &id).await?;
    caller.require_administrator()?;
    let streams = app.meta.streams().all(&tenant.id);
    draft.add(problems(draft.part("limits"), draft.part("settings"), Some(&streams), &tenant.overrides));
    let request = draft.finish()?;
    let patch = TenantPatch {
        name: request.name,
        tier: request.tier.map(tier),
        // All overrides are replaced: those that are not named are taken away.
        overrides: request.limits.map(|limits| {
            let mut all: Map<String, Value> = match serde_json::to_value(&tenant.overrides) {
                Ok(Value::Object(known)) => known.into_iter().map(|(name, _)| (name, Value::Null)).collect(),
                _ => Map::new(),
            };
            all.extend(limits);
            Value::Object(all)
        }),
        settings: request.settings.as_ref().map(settings),
    };
    let meta = Arc::clone(&app.meta);
    let (id, before) = (tenant.id.clone(), tenant);
    let tenant = blocking(move || meta.update_tenant(&id, patch)).await?;
    if tenant.settings.sessions != before.settings.sessions {
        app.pipelines.arrivals.changed(&tenant.id);
    }
    tracing::info!(tenant = %tenant.id, by = %caller.principal.key_id, "tenant changed");
    Ok(Json(shown(&tenant)))
}

/// `DELETE /api/v1/tenants/{id}`: its keys die at once, its rows are removed.
pub(crate) async fn delete(State(app): State<Arc<App>>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode> {
    let tenant = visible(&app, &caller, &id).await?;
    caller.require_administrator()?;
    let id = tenant.id.clone();
    let (meta, log, doomed) = (Arc::clone(&app.meta), Arc::clone(&app.log), id.clone());
    let delete = move || {
        let _room = log.room();
        meta.delete_tenant(&doomed)
    };
    blocking(delete).await?;
    app.forget_tenant(&id).await?;
    tracing::info!(tenant = %id, by = %caller.principal.key_id, "tenant deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/tenants/{id}/streams/{stream}/expire`: the next pass of retention removes whatever
/// is due of this table, also if that is more than half of it.
pub(crate) async fn expire(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((id, stream)): Path<(String, String)>,
) -> Result<StatusCode> {
    let tenant = visible(&app, &caller, &id).await?;
    caller.require_administrator()?;
    let known = StreamName::new(&stream).is_ok_and(|stream| app.store.confirm_expiry(&tenant.id, &stream));
    if !known {
        return Err(Problem::new(ErrorKind::NotFound, "the tenant has no such table"));
    }
    tracing::info!(tenant = %tenant.id, %stream, by = %caller.principal.key_id, "expiry confirmed");
    Ok(StatusCode::NO_CONTENT)
}

/// The tenant of that id, if the caller may know that it exists.
pub(super) async fn visible(app: &Arc<App>, caller: &Caller, id: &str) -> Result<Arc<Tenant>> {
    let unknown = || Problem::new(ErrorKind::NotFound, "there is no such tenant");
    let id = TenantId::new(id).map_err(|_| unknown())?;
    if !caller.is_administrator() && caller.tenant.id != id {
        return Err(unknown());
    }
    let meta = Arc::clone(&app.meta);
    blocking(move || meta.tenant(&id)).await?.ok_or_else(unknown)
}

/// All that is wrong with limits and settings of a tenant with these streams, if they are known. What it has already is not
/// wrong.
fn problems(
    limits: Option<Map<String, Value>>,
    asked: Option<api::TenantSettings>,
    streams: Option<&[Arc<StreamDef>]>,
    before: &LimitOverrides,
) -> Vec<Diagnostic> {
    let mut problems = match limits.map(|limits| LimitOverrides::default().merge(&Value::Object(limits), "/limits")) {
        Some(Ok(limits)) => streams.map(|streams| unknown_streams(&limits, streams, before)).unwrap_or_default(),
        Some(Err(found)) => found,
        None => Vec::new(),
    };
    problems.extend(asked.iter().flat_map(|asked| settings(asked).problems("/settings")));
    problems
}

/// Streams with a retention of their own that there are not.
fn unknown_streams(limits: &LimitOverrides, streams: &[Arc<StreamDef>], before: &LimitOverrides) -> Vec<Diagnostic> {
    let known: Vec<&str> = streams.iter().map(|stream| stream.name.as_ref()).collect();
    let had = |name: &StreamName| before.retention_by_stream.as_ref().is_some_and(|had| had.contains_key(name));
    let named = limits.retention_by_stream.iter().flat_map(|by_stream| by_stream.keys());
    let unknown = named.filter(|name| !known.contains(&name.as_str()) && !had(name));
    let problem = |name: &StreamName| {
        let hint = match nearest(name.as_str(), known.iter().copied()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!(
                "the streams are {}; one that a pipeline writes can be named once it has begun to",
                known.join(", ")
            ),
        };
        let place = format!("/limits/retention_by_stream/{name}");
        Diagnostic { message: format!("the tenant has no stream `{name}`"), place, hint }
    };
    unknown.map(problem).collect()
}

fn tier(tier: api::Tier) -> Tier {
    match tier {
        api::Tier::Free => Tier::Free,
        api::Tier::Paid => Tier::Paid,
        api::Tier::Enterprise => Tier::Enterprise,
    }
}

fn settings(settings: &api::TenantSettings) -> TenantSettings {
    TenantSettings {
        allowed_origins: settings.allowed_origins.clone(),
        durability: match settings.durability {
            ApiDurability::Disk => Durability::Disk,
            ApiDurability::Memory => Durability::Memory,
        },
        sessions: SessionSettings {
            enabled: settings.sessions.enabled,
            gap: settings.sessions.gap,
            conversions: settings.sessions.conversions.clone(),
        },
    }
}

fn object<T: serde::Serialize>(value: &T) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

fn shown(tenant: &Tenant) -> api::Tenant {
    api::Tenant {
        id: tenant.id.to_string(),
        name: tenant.name.clone(),
        tier: match tenant.tier {
            Tier::Free => api::Tier::Free,
            Tier::Paid => api::Tier::Paid,
            Tier::Enterprise => api::Tier::Enterprise,
        },
        created_at: rfc3339(tenant.created_at),
        settings: api::TenantSettings {
            allowed_origins: tenant.settings.allowed_origins.clone(),
            durability: match tenant.settings.durability {
                Durability::Disk => ApiDurability::Disk,
                Durability::Memory => ApiDurability::Memory,
            },
            sessions: api::SessionSettings {
                enabled: tenant.settings.sessions.enabled,
                gap: tenant.settings.sessions.gap,
                conversions: tenant.settings.sessions.conversions.clone(),
            },
        },
        limits: object(&*tenant.limits),
        overrides: object(&tenant.overrides),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_retention_is_of_a_stream_there_is() {
        let streams: Vec<_> = weir_data::streams::STREAMS.iter().cloned().collect();
        let limits = |names: &[&str]| -> LimitOverrides {
            let by_stream: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), "3d".into())).collect();
            serde_json::from_value(serde_json::json!({ "retention_by_stream": by_stream })).unwrap()
        };
        let check = |names: &[&str], expected: &[&str]| {
            let found = unknown_streams(&limits(names), &streams, &limits(&["had"]));
            let found: Vec<String> =
                found.iter().map(|problem| format!("{}: {}", problem.place, problem.hint)).collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            found.iter().zip(expected).for_each(|(found, expected)| assert!(found.contains(expected), "{found}"));
        };
        check(&["spans", "_rejected", "had"], &[]);
        check(&["span"], &["/limits/retention_by_stream/span: did you mean `spans`?"]);
        check(&["traces", "logs"], &["the streams are events, "]);
    }
}
