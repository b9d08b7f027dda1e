//! `/health`, `/health/live`, `/health/ready`: how the server is. No key is needed, and nothing of
//! any tenant is said.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use weir_api::health::{ComponentHealth, HealthProbe, HealthReport, HealthStatus};

use crate::app::App;

/// `GET /health/live`: the process runs.
pub(crate) async fn live() -> Json<HealthProbe> {
    Json(HealthProbe { status: HealthStatus::Ok })
}

/// `GET /health/ready`: the server takes requests, that is, until it begins to stop.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    let stopping = app.shutdown.has_begun();
    let status = if stopping { HealthStatus::Failed } else { HealthStatus::Ok };
    (http_status(status), Json(HealthProbe { status })).into_response()
}

/// `GET /health`: the parts, one by one.
pub(crate) async fn report(State(app): State<Arc<App>>) -> Response {
    let looking = Arc::clone(&app);
    let components = tokio::task::spawn_blocking(move || components(&looking)).await.unwrap_or_default();
    let status = components.iter().map(|component| component.status).max().unwrap_or(HealthStatus::Failed);
    let uptime = app.clock.now().since(app.telemetry.started_at);
    let report = HealthReport {
        status,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: uptime.as_secs(),
        components,
    };
    (http_status(status), Json(report)).into_response()
}

fn http_status(status: HealthStatus) -> StatusCode {
    if status == HealthStatus::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

fn component(name: &str, status: HealthStatus, detail: impl Into<String>) -> ComponentHealth {
    ComponentHealth { name: name.to_owned(), status, detail: detail.into() }
}

/// Whose it is may not be said to whoever asks, but where that stands.
fn log_damage(places: u64) -> String {
    let what = if places == 1 { "1 place of it is".to_owned() } else { format!("{places} places of it are") };
    format!(
        "{what} damaged: what read it stands still there, the rest goes on (the server's log names file, place and streams; `weir log fsck`)"
    )
}

fn table_damage(tables: usize) -> String {
    let what = if tables == 1 {
        "1 table has damaged files and is".to_owned()
    } else {
        format!("{tables} tables have damaged files and are")
    };
    format!("{what} not served (the server's log names them)")
}

fn file_damage(files: usize) -> String {
    let what = if files == 1 { "1 table file is" } else { &format!("{files} table files are") };
    format!("{what} damaged or missing: queries that need it fail, the rest goes on (the server's log names it)")
}

fn components(app: &App) -> Vec<ComponentHealth> {
    let log = app.log.stats();
    let store = app.store.stats();
    let log_health = if log.is_full {
        component("log", HealthStatus::Degraded, "the disk is full: rows are refused, queries work")
    } else if log.damages > 0 {
        component("log", HealthStatus::Degraded, log_damage(log.damages))
    } else {
        component("log", HealthStatus::Ok, "")
    };
    let damaged = store.tables.iter().filter(|table| table.damage.is_some()).count();
    let files_damaged = store.tables.iter().map(|table| table.files_damaged).sum::<usize>();
    let failing = store.tables.iter().filter(|table| table.flush_error.is_some()).count();
    let tables_health = if store.fenced {
        component("tables", HealthStatus::Failed, "another process has taken over the tables")
    } else if damaged > 0 {
        component("tables", HealthStatus::Degraded, table_damage(damaged))
    } else if files_damaged > 0 {
        component("tables", HealthStatus::Degraded, file_damage(files_damaged))
    } else if failing > 0 {
        component("tables", HealthStatus::Degraded, format!("{failing} tables cannot be written to files"))
    } else {
        component("tables", HealthStatus::Ok, "")
    };
    let rows_damaged = app.meta.damage().len();
    let metadata_health = if rows_damaged > 0 {
        component("metadata", HealthStatus::Degraded, format!("{rows_damaged} rows are damaged"))
    } else {
        component("metadata", HealthStatus::Ok, "")
    };
    vec![log_health, tables_health, metadata_health]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_counted_in_words() {
        assert!(log_damage(1).starts_with("1 place of it is damaged"));
        assert!(log_damage(3).starts_with("3 places of it are damaged"));
        assert!(table_damage(1).starts_with("1 table has damaged files and is not served"));
        assert!(file_damage(1).starts_with("1 table file is damaged or missing"));
        assert!(file_damage(2).starts_with("2 table files are damaged or missing"));
        assert!(table_damage(2).starts_with("2 tables have damaged files and are not served"));
    }
}
