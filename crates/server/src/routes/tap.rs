//! `GET /api/v1/pipelines/{name}/tap`: rows as they pass a part of a pipeline, without disturbing it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use axum::extract::{Request, State};
use axum::response::Response;
use weir_api::pipeline::TapParameters;
use weir_base::ErrorKind;
use weir_component::table::own_columns;
use weir_engine::{Input, NodeStats, Plan, Progress};
use weir_sql::expressions::{Language, NoKinds, Scalar};

use super::Path;
use super::QueryString;
use super::query::problem;
use super::tail::{Filter, Followed, check_count, follow};
use crate::app::App;
use crate::auth::Caller;
use crate::problem::{Problem, Result};

/// `GET /api/v1/pipelines/{name}/tap`.
pub(crate) async fn tap(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    QueryString(parameters): QueryString<TapParameters>,
    request: Request,
) -> Result<Response> {
    caller.require_query()?;
    let record = app.pipelines.show(&caller.tenant.id, &name).await?;
    let view = app.pipelines.view(&record);
    let (Some(plan), Some(progress)) = (view.plan, view.progress) else {
        return Err(Problem::new(ErrorKind::Conflict, "the pipeline does not run").code("pipeline_stopped"));
    };
    let Some((stats, schema)) = part(&plan, &progress, parameters.part.as_deref()) else {
        let ids: Vec<&str> = plan
            .sources
            .iter()
            .map(|source| source.id.as_str())
            .chain(plan.steps.iter().map(|step| step.id.as_str()))
            .chain(plan.sinks.iter().map(|sink| sink.id.as_str()))
            .collect();
        return Err(Problem::new(ErrorKind::NotFound, "the pipeline has no such part")
            .pointer("part")
            .hint(format!("its parts are {}", ids.join(", "))));
    };
    let condition = match parameters.predicate {
        None => None,
        Some(text) => {
            let language = Language::new(Arc::new(NoKinds), Arc::clone(&app.clock));
            // Compiling takes longer than a request may keep its thread.
            let compiled = tokio::task::spawn_blocking(move || language.condition(&schema, &text)).await;
            let compiled = compiled.map_err(|error| Problem::internal(error.to_string()))?;
            Some(compiled.map_err(|error| problem(&error))?)
        }
    };
    check_count(&app, &caller)?;
    let filter = filter(condition, parameters.every.unwrap_or(1).max(1));
    let listening = stats.tap.listen();
    // What counts the listeners is forgotten with the start of the pipeline they belong to.
    drop((stats, progress, plan));
    follow(app, caller, Followed::Part(listening), filter, parameters.limit, request).await
}

/// The counters of a part and the columns of its rows. Without a name: what the first sink is given.
fn part(plan: &Plan, progress: &Progress, name: Option<&str>) -> Option<(Arc<NodeStats>, SchemaRef)> {
    let schema_of = |input: &Input| match input {
        Input::Source(at) => Some(plan.sources.get(*at)?.source.schema()),
        Input::Step { step, branch } => Some(Arc::clone(&plan.steps.get(*step)?.step.outputs().get(*branch)?.schema)),
    };
    let stats = |at: usize, all: &[(String, Arc<NodeStats>)]| Some(Arc::clone(&all.get(at)?.1));
    let Some(name) = name else { return Some((stats(0, &progress.sinks)?, schema_of(&plan.sinks.first()?.input)?)) };
    if let Some(at) = plan.sources.iter().position(|source| source.id == name) {
        let schema = plan.sources[at].source.schema();
        return Some((stats(at, &progress.sources)?, own_columns(&schema).unwrap_or(schema)));
    }
    if let Some(at) = plan.steps.iter().position(|step| step.id == name) {
        return Some((stats(at, &progress.steps)?, schema_of(&Input::Step { step: at, branch: 0 })?));
    }
    let at = plan.sinks.iter().position(|sink| sink.id == name)?;
    Some((stats(at, &progress.sinks)?, schema_of(&plan.sinks[at].input)?))
}

/// Every so manieth row, and of those the ones for which the condition is true.
fn filter(condition: Option<Scalar>, every: u64) -> Option<Filter> {
    if condition.is_none() && every == 1 {
        return None;
    }
    let seen = AtomicU64::new(0);
    Some(Arc::new(move |rows: &RecordBatch| {
        let before = seen.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        let sampled: BooleanArray =
            (before..before + rows.num_rows() as u64).map(|row| Some(row.is_multiple_of(every))).collect();
        let kept = filter_record_batch(rows, &sampled).map_err(|error| error.to_string())?;
        let Some(condition) = &condition else { return Ok(kept) };
        let is_true = condition.is_true(&kept).map_err(|error| error.to_string())?;
        filter_record_batch(&kept, &is_true).map_err(|error| error.to_string())
    }))
}
