//! `/api/v1/pipelines`: computations that go on, of the caller's tenant.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use weir_api::pipeline as api;
use weir_api::problem::ProblemPlace;
use weir_base::Timestamp;
use weir_component::source::Trouble;
use weir_component::table::is_table;
use weir_engine::{Input, NodeStats, Plan, Progress};
use weir_meta::pipelines::{DocumentSyntax, PipelineRecord, Trust, Wanted};

use super::time::rfc3339;
use super::{JsonBody, Path, whole};
use crate::app::App;
use crate::auth::Caller;
use crate::pipelines::built_in::is_built_in;
use crate::pipelines::{Application, Begin, Failure, Outcome, Part, Rates, Status, View};
use crate::problem::Result;

/// What a document is called in the places of problems if nobody says.
pub(super) const SOURCE_DEFAULT: &str = "document";
/// The longest such name.
pub(super) const SOURCE_CHARACTERS_MAX: usize = 200;

/// `GET /api/v1/pipelines`.
pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<api::PipelineList>> {
    caller.require_query()?;
    let records = app.pipelines.list(&caller.tenant.id).await?;
    let pipelines = records.iter().map(|record| shown(record, &app.pipelines.view(record), false)).collect();
    Ok(Json(api::PipelineList { pipelines }))
}

/// `POST /api/v1/pipelines`.
pub(crate) async fn apply(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(request): JsonBody<api::PipelineApply>,
) -> Result<(StatusCode, Json<api::PipelineApplied>)> {
    caller.require_admin()?;
    let source = request.source.unwrap_or_else(|| SOURCE_DEFAULT.to_owned());
    let application = Application {
        document: request.document,
        syntax: match request.format {
            api::DocumentFormat::Yaml => DocumentSyntax::Yaml,
            api::DocumentFormat::Toml => DocumentSyntax::Toml,
            api::DocumentFormat::Json => DocumentSyntax::Json,
        },
        source: source.chars().filter(|shown| !shown.is_control()).take(SOURCE_CHARACTERS_MAX).collect(),
        trust: if caller.is_administrator() { Trust::Administrator } else { Trust::Tenant },
        by: caller.principal.key_id.clone(),
        dry_run: request.dry_run,
        begin: if request.restart { Begin::Anew } else { Begin::GoOn },
    };
    let (changed, tenant) = (Arc::clone(&app), caller.tenant.id.clone());
    let applied = whole(async move { changed.pipelines.apply(&tenant, application).await }).await?;
    let name = applied.prepared.name.clone();
    if applied.record.is_some() {
        tracing::info!(
            tenant = %caller.tenant.id, pipeline = name, outcome = ?applied.outcome, by = %caller.principal.key_id,
            "pipeline applied"
        );
    }
    let status = match (&applied.record, applied.outcome) {
        (Some(_), Outcome::Created) => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    let reply = api::PipelineApplied {
        name,
        outcome: match applied.outcome {
            Outcome::Created => api::PipelineOutcome::Created,
            Outcome::Resumed { .. } | Outcome::Settled => api::PipelineOutcome::Resumed,
            Outcome::Restarted => api::PipelineOutcome::Restarted,
            Outcome::Unchanged => api::PipelineOutcome::Unchanged,
        },
        dry_run: applied.record.is_none(),
        resumes_from: match applied.outcome {
            Outcome::Resumed { epoch } => epoch,
            _ => None,
        },
        nodes: nodes(&applied.prepared.plan, None, &Rates::default()),
        pipeline: applied.record.as_ref().map(|record| shown(record, &app.pipelines.view(record), false)),
    };
    Ok((status, Json(reply)))
}

/// `GET /api/v1/pipelines/{name}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<api::Pipeline>> {
    caller.require_query()?;
    let record = app.pipelines.show(&caller.tenant.id, &name).await?;
    Ok(Json(shown(&record, &app.pipelines.view(&record), true)))
}

/// `POST /api/v1/pipelines/{name}/stop`.
pub(crate) async fn stop(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<api::Pipeline>> {
    caller.require_admin()?;
    let record = app.pipelines.stop(&caller.tenant.id, &name).await?;
    tracing::info!(tenant = %caller.tenant.id, pipeline = name, by = %caller.principal.key_id, "pipeline stopped");
    Ok(Json(shown(&record, &app.pipelines.view(&record), false)))
}

/// `POST /api/v1/pipelines/{name}/start`.
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<api::Pipeline>> {
    caller.require_admin()?;
    let record = app.pipelines.start(&caller.tenant.id, &name).await?;
    tracing::info!(tenant = %caller.tenant.id, pipeline = name, by = %caller.principal.key_id, "pipeline started");
    Ok(Json(shown(&record, &app.pipelines.view(&record), false)))
}

/// `DELETE /api/v1/pipelines/{name}`.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    caller.require_admin()?;
    app.pipelines.delete(&caller.tenant.id, &name).await?;
    tracing::info!(tenant = %caller.tenant.id, pipeline = name, by = %caller.principal.key_id, "pipeline deleted");
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn shown(record: &PipelineRecord, view: &View, with_document: bool) -> api::Pipeline {
    let (status, running_since, failure) = match &view.status {
        Status::Starting => {
            (api::PipelineStatus::Starting, None, view.opening.as_ref().map(|failure| failed(failure, None)))
        }
        Status::Running { since } => (api::PipelineStatus::Running, Some(rfc3339(*since)), None),
        Status::Waiting { failure, until, attempts } => {
            let failed = failed(failure, Some((*until, *attempts)));
            (api::PipelineStatus::Waiting, None, Some(failed))
        }
        Status::Failed(failure) => (api::PipelineStatus::Failed, None, Some(failed(failure, None))),
        Status::Overrun(failure) => (api::PipelineStatus::Overrun, None, Some(failed(failure, None))),
        Status::Finished => (api::PipelineStatus::Finished, None, None),
        Status::Resting => (api::PipelineStatus::Resting, None, None),
        Status::Stopped => (api::PipelineStatus::Stopped, None, None),
    };
    let progress = view.progress.as_deref();
    api::Pipeline {
        name: record.name.clone(),
        status,
        wanted: record.wanted == Wanted::Running,
        running_since,
        failure,
        restarts: view.restarts,
        revision: record.revision,
        trusted: record.trust == Trust::Administrator,
        built_in: is_built_in(record),
        created_at: rfc3339(record.created_at),
        changed_at: rfc3339(record.changed_at),
        changed_by: record.changed_by.clone(),
        checkpoint: progress.map(|progress| api::PipelineCheckpoint {
            epoch: progress.epoch.load(Ordering::Relaxed),
            state_bytes: progress.checkpoint_bytes.load(Ordering::Relaxed),
            seconds: seconds(progress.checkpoint_ns.load(Ordering::Relaxed)),
        }),
        nodes: view.plan.as_deref().map(|plan| nodes(plan, progress, &view.rates)).unwrap_or_default(),
        document: with_document.then(|| record.document.clone()),
        format: match record.syntax {
            DocumentSyntax::Yaml => api::DocumentFormat::Yaml,
            DocumentSyntax::Toml => api::DocumentFormat::Toml,
            DocumentSyntax::Json => api::DocumentFormat::Json,
        },
    }
}

fn failed(failure: &Failure, again: Option<(Timestamp, u32)>) -> api::PipelineFailure {
    let place = |problem: &weir_base::Diagnostic| ProblemPlace {
        pointer: problem.place.clone(),
        detail: problem.message.clone(),
        hint: (!problem.hint.is_empty()).then(|| problem.hint.clone()),
    };
    api::PipelineFailure {
        code: failure.kind.code().to_owned(),
        message: failure.message.clone(),
        at: rfc3339(failure.at),
        retry_at: again.map(|(until, _)| rfc3339(until)),
        attempts: again.map(|(_, attempts)| attempts),
        errors: failure.problems.iter().map(place).collect(),
    }
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

/// The parts of a plan: sources, steps, sinks, and where rows go that are set aside.
fn nodes(plan: &Plan, progress: Option<&Progress>, rates: &Rates) -> Vec<api::PipelineNode> {
    let counters = |nodes: fn(&Progress) -> &Vec<(String, Arc<NodeStats>)>, part: fn(String) -> Part, id: &str| {
        let (_, stats) = nodes(progress?).iter().find(|(known, _)| known == id)?;
        Some(counted(stats, rates.of(&part(id.to_owned()))))
    };
    let name_of = |input: &Input| match input {
        Input::Source(at) => plan.sources.get(*at).map(|source| source.id.clone()),
        Input::Step { step, .. } => plan.steps.get(*step).map(|step| step.id.clone()),
    };
    let sources = plan.sources.iter().map(|source| api::PipelineNode {
        role: api::PipelineRole::Source,
        text: source.source.describe(),
        inputs: Vec::new(),
        delivery: None,
        circuit: None,
        trouble: progress.and_then(|progress| trouble(progress, &source.id)),
        counters: counters(|progress| &progress.sources, Part::Source, &source.id),
        id: source.id.clone(),
    });
    let steps = plan.steps.iter().map(|step| api::PipelineNode {
        role: api::PipelineRole::Step,
        text: step.step.describe(),
        inputs: step.inputs.iter().filter_map(name_of).collect(),
        delivery: None,
        circuit: None,
        trouble: None,
        counters: counters(|progress| &progress.steps, Part::Step, &step.id),
        id: step.id.clone(),
    });
    let sinks = plan.sinks.iter().map(|sink| (&sink.id, &sink.sink, name_of(&sink.input)));
    let aside = plan.late.iter().chain(&plan.dead).map(|aside| (&aside.id, &aside.sink, None));
    let sinks = sinks.chain(aside).map(|(id, sink, input)| api::PipelineNode {
        role: api::PipelineRole::Sink,
        text: sink.describe(),
        inputs: input.into_iter().collect(),
        delivery: Some(sink.delivery().as_str().to_owned()),
        circuit: progress.and_then(|progress| circuit(progress, id)),
        trouble: None,
        counters: counters(|progress| &progress.sinks, Part::Sink, id),
        id: id.clone(),
    });
    sources.chain(steps).chain(sinks).collect()
}

/// Whether a sink is tried at the moment.
fn circuit(progress: &Progress, id: &str) -> Option<api::PipelineCircuit> {
    let (_, stats) = progress.sinks.iter().find(|(known, _)| known == id)?;
    let weir_engine::Seen { circuit, opened, error } = stats.circuit.seen();
    Some(api::PipelineCircuit { state: circuit.as_str().to_owned(), opened, error })
}

/// What a source goes on without.
fn trouble(progress: &Progress, id: &str) -> Option<api::PipelineTrouble> {
    let (_, stats) = progress.sources.iter().find(|(known, _)| known == id)?;
    let Trouble { attempts, since, error } = stats.source.trouble()?;
    Some(api::PipelineTrouble { attempts, since: rfc3339(since), error })
}

fn counted(stats: &NodeStats, rows_in_per_second: f64) -> api::PipelineCounters {
    let watermark = stats.watermark.load(Ordering::Relaxed);
    api::PipelineCounters {
        rows_in: NodeStats::get(&stats.rows_in),
        table_rows: NodeStats::get(&stats.table_rows),
        rows_out: NodeStats::get(&stats.rows_out),
        batches: NodeStats::get(&stats.batches),
        bytes: NodeStats::get(&stats.bytes),
        late: NodeStats::get(&stats.late),
        dead: NodeStats::get(&stats.dead),
        retries: NodeStats::get(&stats.retries),
        busy_seconds: seconds(NodeStats::get(&stats.busy_ns)),
        state_bytes: NodeStats::get(&stats.state_bytes),
        watermark: time(watermark),
        rows_in_per_second,
        blocked_seconds: stats.blocked.time().as_secs_f64(),
        blocked_instances: stats.blocked.instances(),
        lag_rows: stats.source.view().lag_rows,
        held: stats.held.gauges().into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        expired_windows: stats.held.totals().get("expired_windows").copied().unwrap_or(0),
    }
}

/// A watermark for people. The extremes stand for: none yet, and the end of all time.
fn time(watermark: i64) -> Option<String> {
    (watermark != i64::MIN && watermark != i64::MAX).then(|| rfc3339(Timestamp(watermark)))
}

/// The most partitions of a source that are shown.
const PARTITIONS_SHOWN_MAX: usize = 100;

/// `GET /api/v1/pipelines/{name}/explain`.
pub(crate) async fn explain(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<api::PipelineExplanation>> {
    caller.require_query()?;
    let record = app.pipelines.show(&caller.tenant.id, &name).await?;
    let view = app.pipelines.view(&record);
    let api::Pipeline { name, status, nodes, .. } = shown(&record, &view, false);
    let sources = view.progress.as_deref().map(|progress| progress.sources.as_slice()).unwrap_or_default();
    // Nobody waits for the time of a table.
    let has_time = |id: &str| {
        let planned = view.plan.iter().flat_map(|plan| &plan.sources).find(|source| source.id == id);
        planned.is_none_or(|source| !is_table(&source.source.schema()))
    };
    let times = sources.iter().filter(|(id, _)| has_time(id)).map(|(id, stats)| time_of(id, stats)).collect();
    let slow = slow(&nodes);
    Ok(Json(api::PipelineExplanation { name, status, nodes, times, slow }))
}

fn time_of(id: &str, stats: &NodeStats) -> api::PipelineTime {
    let said = stats.source.view();
    let mut partitions = said.partitions;
    // Those without a row hold back time most of all.
    partitions.sort_by_key(|partition| (partition.idle, partition.watermark));
    api::PipelineTime {
        source: id.to_owned(),
        watermark: time(stats.watermark.load(Ordering::Relaxed)),
        held_back_by: said.behind,
        waits_for: said.waits_for,
        partitions_total: partitions.len() as u64,
        partitions: partitions
            .into_iter()
            .take(PARTITIONS_SHOWN_MAX)
            .map(|partition| api::PipelinePartition {
                watermark: partition.watermark.and_then(time),
                name: partition.name,
                idle: partition.idle,
                lag_rows: partition.lag_rows,
            })
            .collect(),
    }
}

/// Where backpressure begins: parts that are not blocked and are waited for by one that is.
fn slow(nodes: &[api::PipelineNode]) -> Vec<api::PipelineSlow> {
    let is_blocked =
        |node: &&api::PipelineNode| node.counters.as_ref().is_some_and(|counters| counters.blocked_instances > 0);
    let waiting = |node: &api::PipelineNode| -> Vec<String> {
        let inputs = nodes.iter().filter(|before| node.inputs.contains(&before.id));
        inputs.filter(is_blocked).map(|before| before.id.clone()).collect()
    };
    nodes
        .iter()
        .filter(|node| !is_blocked(node))
        .map(|node| api::PipelineSlow { part: node.id.clone(), waiting: waiting(node) })
        .filter(|slow| !slow.waiting.is_empty())
        .collect()
}

/// `GET /api/v1/graph`.
pub(crate) async fn graph(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<api::Graph>> {
    caller.require_query()?;
    let records = app.pipelines.list(&caller.tenant.id).await?;
    let mut graph = api::Graph::default();
    let mut streams: BTreeSet<String> = BTreeSet::new();
    for record in &records {
        let view = app.pipelines.view(record);
        let status = shown(record, &view, false).status;
        let Some(plan) = view.plan.as_deref() else { continue };
        let id = |part: &Part| match part {
            Part::Source(id) => format!("pipeline/{}/source/{id}", record.name),
            Part::Step(id) => format!("pipeline/{}/step/{id}", record.name),
            Part::Sink(id) => format!("pipeline/{}/sink/{id}", record.name),
        };
        let part_of = |input: &Input| match input {
            Input::Source(at) => plan.sources.get(*at).map(|source| Part::Source(source.id.clone())),
            Input::Step { step, .. } => plan.steps.get(*step).map(|step| Part::Step(step.id.clone())),
        };
        let mut put = |part: &Part, text: String, inputs: Vec<String>| {
            graph.edges.extend(inputs.into_iter().map(|from| api::GraphEdge { from, to: id(part) }));
            graph.nodes.push(api::GraphNode {
                id: id(part),
                pipeline: Some(record.name.clone()),
                status: Some(status),
                text,
                rows_in_per_second: Some(view.rates.of(part)),
            });
        };
        let mut written = Vec::new();
        for source in &plan.sources {
            let stream = source.source.stream().map(|stream| format!("stream/{stream}"));
            streams.extend(stream.clone());
            put(&Part::Source(source.id.clone()), source.source.describe(), stream.into_iter().collect());
        }
        for step in &plan.steps {
            let inputs = step.inputs.iter().filter_map(part_of).map(|part| id(&part)).collect();
            put(&Part::Step(step.id.clone()), step.step.describe(), inputs);
        }
        for sink in &plan.sinks {
            let part = Part::Sink(sink.id.clone());
            put(&part, sink.sink.describe(), part_of(&sink.input).iter().map(&id).collect());
            if let Some(stream) = sink.sink.stream() {
                written.push(api::GraphEdge { from: id(&part), to: format!("stream/{stream}") });
                streams.insert(format!("stream/{stream}"));
            }
        }
        graph.edges.extend(written);
    }
    graph.nodes.extend(streams.into_iter().map(|id| api::GraphNode {
        text: id.clone(),
        id,
        pipeline: None,
        status: None,
        rows_in_per_second: None,
    }));
    Ok(Json(graph))
}

#[cfg(test)]
mod tests;
