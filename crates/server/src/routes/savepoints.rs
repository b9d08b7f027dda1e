//! `/api/v1/pipelines/{name}/savepoints`: checkpoints that are kept, and gone back to.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use weir_api::pipeline as api;
use weir_base::Timestamp;
use weir_meta::pipelines::{DocumentSyntax, Trust};

use super::pipelines::{SOURCE_CHARACTERS_MAX, SOURCE_DEFAULT, shown};
use super::time::rfc3339;
use super::{JsonBody, Path, whole};
use crate::app::App;
use crate::auth::Caller;
use crate::pipelines::{Restore, Savepoint};
use crate::problem::Result;

fn savepoint(Savepoint { label, saved }: Savepoint) -> api::Savepoint {
    api::Savepoint {
        label,
        epoch: saved.epoch,
        created_at: rfc3339(Timestamp(saved.created_at)),
        state_bytes: saved.state_bytes,
        finished: saved.finished,
    }
}

/// A label nobody has thought of: the time, to the millisecond.
fn label_of(now: Timestamp) -> String {
    let text = rfc3339(Timestamp(now.0 - now.0.rem_euclid(1_000_000)));
    text.chars().filter(char::is_ascii_alphanumeric).map(|shown| shown.to_ascii_lowercase()).collect()
}

/// `GET /api/v1/pipelines/{name}/savepoints`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<api::SavepointList>> {
    caller.require_query()?;
    let savepoints = app.pipelines.savepoints(&caller.tenant.id, &name).await?;
    Ok(Json(api::SavepointList { savepoints: savepoints.into_iter().map(savepoint).collect() }))
}

/// `POST /api/v1/pipelines/{name}/savepoints`.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<api::SavepointCreate>,
) -> Result<(StatusCode, Json<api::Savepoint>)> {
    caller.require_admin()?;
    let label = request.label.unwrap_or_else(|| label_of(app.clock.now()));
    let made = app.pipelines.savepoint(&caller.tenant.id, &name, &label).await?;
    tracing::info!(
        tenant = %caller.tenant.id, pipeline = name, label, by = %caller.principal.key_id, "savepoint made"
    );
    Ok((StatusCode::CREATED, Json(savepoint(made))))
}

/// `DELETE /api/v1/pipelines/{name}/savepoints/{label}`.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((name, label)): Path<(String, String)>,
) -> Result<StatusCode> {
    caller.require_admin()?;
    app.pipelines.delete_savepoint(&caller.tenant.id, &name, &label).await?;
    tracing::info!(
        tenant = %caller.tenant.id, pipeline = name, label, by = %caller.principal.key_id, "savepoint deleted"
    );
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/pipelines/{name}/savepoints/{label}/restore`.
pub(crate) async fn restore(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((name, label)): Path<(String, String)>,
    JsonBody(request): JsonBody<api::SavepointRestore>,
) -> Result<Json<api::SavepointRestored>> {
    caller.require_admin()?;
    let api::SavepointRestore { document, format, source, dry_run, write_again } = request;
    let syntax = match format {
        api::DocumentFormat::Yaml => DocumentSyntax::Yaml,
        api::DocumentFormat::Toml => DocumentSyntax::Toml,
        api::DocumentFormat::Json => DocumentSyntax::Json,
    };
    let trust = if caller.is_administrator() { Trust::Administrator } else { Trust::Tenant };
    let source = source.unwrap_or_else(|| SOURCE_DEFAULT.to_owned());
    let source = source.chars().filter(|shown| !shown.is_control()).take(SOURCE_CHARACTERS_MAX).collect();
    let restore = Restore {
        document: document.map(|document| (document, syntax, source, trust)),
        write_again,
        dry_run,
        by: caller.principal.key_id.clone(),
    };
    let (changed, tenant) = (Arc::clone(&app), caller.tenant.id.clone());
    let (of, to) = (name.clone(), label.clone());
    let restored = whole(async move { changed.pipelines.restore(&tenant, &of, &to, restore).await }).await?;
    if restored.record.is_some() {
        tracing::info!(
            tenant = %caller.tenant.id, pipeline = name, label, by = %caller.principal.key_id,
            "pipeline went back to a savepoint"
        );
    }
    let sinks = restored.sinks.into_iter().map(|(text, begins)| api::SavepointSink { text, begins });
    Ok(Json(api::SavepointRestored {
        savepoint: savepoint(Savepoint { label, saved: restored.saved }),
        dry_run,
        writes_again: restored.writes_again,
        is_certain: restored.is_certain,
        sinks: sinks.collect(),
        pipeline: restored.record.as_ref().map(|record| shown(record, &app.pipelines.view(record), false)),
    }))
}
