//! `weir pipeline`: pipelines that run in a server.

use std::path::Path;

use anyhow::Context;
use http::Method;
use serde_json::{Value, json};
use weir_api::pipeline::{
    DocumentFormat, Pipeline, PipelineApplied, PipelineApply, PipelineCircuit, PipelineExplanation, PipelineNode,
    PipelineOutcome, PipelineStatus, PipelineTrouble,
};
use weir_document::Syntax;

use super::local::{self, Local};
use super::{list_of, print_list, savepoint, say};
use crate::cli::{ListFormat, PipelineCommand};
use crate::client::{Api, path_segment};
use crate::failure::bad_arguments;

pub(super) async fn run(command: PipelineCommand) -> anyhow::Result<()> {
    match command {
        PipelineCommand::Apply { file, dry_run, restart, format, tenant, target } => {
            let body = application(&file, dry_run, restart)?;
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            let answer = api.post("/api/v1/pipelines", &body).await?;
            match format {
                ListFormat::Json => say(serde_json::to_string_pretty(&answer)?)?,
                ListFormat::Table => applied(serde_json::from_value(answer)?)?,
            }
            Ok(())
        }
        PipelineCommand::List { format, tenant, target } => {
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            let answer = api.ask(Method::GET, "/api/v1/pipelines").await?;
            let list = list_of(&answer, "pipelines")?;
            match format {
                ListFormat::Json => print_list(list, &[], format),
                ListFormat::Table => {
                    let rows: Vec<Value> = list.iter().map(in_a_line).collect::<anyhow::Result<_>>()?;
                    print_list(
                        &rows,
                        &["name", "kind", "status", "read", "written", "late", "dead", "watermark", "error"],
                        format,
                    )
                }
            }
        }
        PipelineCommand::Show { name, format, tenant, target } => {
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            let answer = api.ask(Method::GET, &path(&name)).await?;
            match format {
                ListFormat::Json => say(serde_json::to_string_pretty(&answer)?)?,
                ListFormat::Table => show(&serde_json::from_value(answer)?)?,
            }
            Ok(())
        }
        PipelineCommand::Explain { name, format, tenant, target } => {
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            let answer = api.ask(Method::GET, &format!("{}/explain", path(&name))).await?;
            match format {
                ListFormat::Json => Ok(say(serde_json::to_string_pretty(&answer)?)?),
                ListFormat::Table => explain(&serde_json::from_value(answer)?),
            }
        }
        PipelineCommand::Stop { name, tenant, target } => {
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            api.post(&format!("{}/stop", path(&name)), &json!({})).await?;
            Ok(say(format_args!("stopped {name}"))?)
        }
        PipelineCommand::Start { name, tenant, target } => {
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            api.post(&format!("{}/start", path(&name)), &json!({})).await?;
            Ok(say(format_args!("started {name}"))?)
        }
        PipelineCommand::Savepoint { name, label, state, .. } if local::is_file(&name) => {
            let local = Local::open(&name, state.state.as_deref())?;
            let (label, saved) = local.savepoint(label).await?;
            let bytes = saved.state_bytes;
            Ok(say(format_args!("{label}: savepoint of {name} at checkpoint {}, {bytes} bytes of state", saved.epoch))?)
        }
        PipelineCommand::Savepoints { name, format, state, .. } if local::is_file(&name) => {
            let list = Local::open(&name, state.state.as_deref())?.savepoints().await?;
            print_list(&list, &savepoint::COLUMNS, format)
        }
        PipelineCommand::Restore { name, label, file, dry_run, write_again, state, .. } if local::is_file(&name) => {
            if file.is_some() {
                return Err(bad_arguments(
                    "a pipeline that is named by its file has its document there: leave out --file",
                ));
            }
            Local::open(&name, state.state.as_deref())?.restore(&label, dry_run, write_again).await
        }
        PipelineCommand::DeleteSavepoint { name, label, state, .. } if local::is_file(&name) => {
            Local::open(&name, state.state.as_deref())?.delete_savepoint(&label)?;
            Ok(say(format_args!("deleted the savepoint {label} of {name}"))?)
        }
        PipelineCommand::Savepoint { name, label, tenant, target, .. } => {
            savepoint::make(&Api::new(&target, tenant.tenant.as_deref())?, &name, label).await
        }
        PipelineCommand::Savepoints { name, format, tenant, target, .. } => {
            savepoint::list(&Api::new(&target, tenant.tenant.as_deref())?, &name, format).await
        }
        PipelineCommand::Restore { name, label, file, dry_run, write_again, tenant, target, .. } => {
            let application = file.map(|file| application(&file, dry_run, false)).transpose()?;
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            savepoint::restore(&api, &name, &label, application, dry_run, write_again).await
        }
        PipelineCommand::DeleteSavepoint { name, label, tenant, target, .. } => {
            savepoint::delete(&Api::new(&target, tenant.tenant.as_deref())?, &name, &label).await
        }
        PipelineCommand::Delete { name, tenant, target } => {
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            api.ask(Method::DELETE, &path(&name)).await?;
            Ok(say(format_args!("deleted {name}"))?)
        }
    }
}

pub(super) fn path(name: &str) -> String {
    format!("/api/v1/pipelines/{}", path_segment(name))
}

fn application(file: &Path, dry_run: bool, restart: bool) -> anyhow::Result<PipelineApply> {
    let syntax = Syntax::of_path(file)
        .ok_or_else(|| bad_arguments(format!("{}: expected a file .yaml, .yml, .toml or .json", file.display())))?;
    let format = match syntax {
        Syntax::Yaml => DocumentFormat::Yaml,
        Syntax::Toml => DocumentFormat::Toml,
        Syntax::Json => DocumentFormat::Json,
    };
    let document =
        std::fs::read_to_string(file).map_err(|error| bad_arguments(format!("{}: {error}", file.display())))?;
    Ok(PipelineApply { document, format, source: Some(file.display().to_string()), dry_run, restart })
}

/// What became of a document, or would.
fn applied(answer: PipelineApplied) -> anyhow::Result<()> {
    let PipelineApplied { name, outcome, dry_run, resumes_from, nodes, .. } = answer;
    let from = match (resumes_from, dry_run) {
        (Some(epoch), false) => format!("from checkpoint {epoch}"),
        (Some(epoch), true) => format!("from checkpoint {epoch}, or the one it makes when it is stopped for it"),
        (None, false) => "where it began: it had come to no checkpoint".to_owned(),
        (None, true) => "from the checkpoint it makes when it is stopped for it: it has none yet".to_owned(),
    };
    let line = match (outcome, dry_run) {
        (PipelineOutcome::Created, false) => format!("{name}: created, and runs"),
        (PipelineOutcome::Created, true) => format!("{name}: would be created"),
        (PipelineOutcome::Resumed, false) => format!("{name}: changed, and goes on {from}"),
        (PipelineOutcome::Resumed, true) => format!("{name}: would go on {from}"),
        (PipelineOutcome::Restarted, false) => format!("{name}: begins anew"),
        (PipelineOutcome::Restarted, true) => format!("{name}: would begin anew"),
        (PipelineOutcome::Unchanged, false) => format!("{name}: is what was applied before, and runs"),
        (PipelineOutcome::Unchanged, true) => format!("{name}: is what was applied before"),
    };
    say(line)?;
    for node in &nodes {
        say(format_args!("  {}", described(node)))?;
    }
    Ok(())
}

/// The most characters a table shows of what a part does: the rest of the row is what is looked for there.
const PART_CHARACTERS_MAX: usize = 64;

/// A part in a line of its own, with all there is to say.
pub(super) fn described(node: &PipelineNode) -> String {
    let state = state(node).map(|state| format!(" [{state}]")).unwrap_or_default();
    format!("{}{state}", named(node, &node.text))
}

/// A part as a cell of a table; [`states`] says the rest.
pub(super) fn in_a_cell(node: &PipelineNode) -> String {
    let whole = node.text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text: String = whole.chars().take(PART_CHARACTERS_MAX).collect();
    if text.len() < whole.len() {
        text.pop();
        text.push('…');
    }
    let circuit = open_circuit(node).map(|circuit| format!(" [circuit {}]", circuit.state)).unwrap_or_default();
    let stale = if node.trouble.is_some() { " [not read again]" } else { "" };
    let waits = backlog(node).map(|bytes| format!(" [{bytes} wait]")).unwrap_or_default();
    format!("{}{circuit}{waits}{stale}", named(node, &text))
}

/// How much a sink has not taken yet, and waits for it beside the checkpoints.
fn backlog(node: &PipelineNode) -> Option<String> {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let bytes = node.counters.as_ref()?.held.get("backlog_bytes").copied().filter(|bytes| *bytes > 0)?;
    let unit = (bytes.ilog2() / 10).min(4);
    Some(match unit {
        0 => format!("{bytes} bytes"),
        unit => format!("{:.1} {}", bytes as f64 / f64::from(1 << 10).powi(unit.cast_signed()), UNITS[unit as usize]),
    })
}

/// How parts are that are not well: a line for each, for below a table.
pub(super) fn states(nodes: &[PipelineNode]) -> impl Iterator<Item = String> + '_ {
    nodes.iter().filter_map(|node| Some(format!("{}: {}", node.id, state(node)?)))
}

fn named(node: &PipelineNode, text: &str) -> String {
    use weir_api::pipeline::PipelineRole::{Sink, Source, Step};
    match (node.role, &node.delivery) {
        (Source, _) => format!("from {text}"),
        (Step, _) => format!("{}: {text}", node.id),
        (Sink, Some(delivery)) => format!("to {text}, {delivery}"),
        (Sink, None) => format!("to {text}"),
    }
}

fn open_circuit(node: &PipelineNode) -> Option<&PipelineCircuit> {
    node.circuit.as_ref().filter(|circuit| circuit.state != "closed")
}

/// What is to be said of the circuit of a sink that is not closed, of rows that wait for a sink, and of a table that cannot
/// be read again.
fn state(node: &PipelineNode) -> Option<String> {
    if let Some(PipelineTrouble { attempts, since, error }) = &node.trouble {
        return Some(format!("not read again since {since}, {attempts} attempts: {error}"));
    }
    let waits = backlog(node).map(|bytes| format!("{bytes} of rows wait for it"));
    let circuit = open_circuit(node).map(|circuit| {
        let error = circuit.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        format!("circuit {}{error}", circuit.state)
    });
    let all: Vec<String> = waits.into_iter().chain(circuit).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// So many of the partitions that are furthest behind in rows are named.
const LAGS_SHOWN: usize = 3;

/// What time waits for, and which part the others wait for.
fn explain(explanation: &PipelineExplanation) -> anyhow::Result<()> {
    say(format_args!("{}: {}", explanation.name, status_text(explanation.status)?))?;
    for node in &explanation.nodes {
        say(format_args!("  {}", described(node)))?;
        let held = node.counters.as_ref().map(|counters| &counters.held);
        let late = held.and_then(|held| held.get("windows_open_for_late_rows")).copied().unwrap_or(0);
        if late > 0 {
            say(format_args!("    {late} windows have ended and are open for late rows"))?;
        }
    }
    for time in &explanation.times {
        match &time.watermark {
            Some(watermark) => {
                say(format_args!("{}: time has come to {watermark}; windows that end later are open", time.source))?;
            }
            None => say(format_args!("{}: there is no time yet, so all windows are open", time.source))?,
        }
        let mut lags: Vec<_> =
            time.partitions.iter().filter_map(|partition| Some((partition.lag_rows?, &partition.name))).collect();
        lags.sort_by(|(lag, name), (other, after)| other.cmp(lag).then_with(|| name.cmp(after)));
        for (lag, partition) in lags.iter().take(LAGS_SHOWN).filter(|(lag, _)| *lag > 0) {
            say(format_args!("  {lag} rows of {partition} are not read yet"))?;
        }
        if let Some(slowest) = &time.waits_for {
            say(format_args!(
                "  it is ahead of {slowest} by more than its `align`, and is not read until that has come nearer"
            ))?;
        }
        let Some(behind) = &time.held_back_by else { continue };
        let of = time.partitions.iter().find(|partition| partition.name == *behind);
        match of.and_then(|partition| partition.watermark.as_ref()) {
            Some(watermark) => say(format_args!("  it waits for {behind}, which is at {watermark}"))?,
            None => say(format_args!("  it waits for {behind}, which has not given a row"))?,
        }
        let idle = time.partitions.iter().filter(|partition| partition.idle).count();
        say(format_args!("  {} partitions, {idle} of those shown silent and not waited for", time.partitions_total))?;
    }
    if explanation.slow.is_empty() {
        say("no part waits for another")?;
    }
    for slow in &explanation.slow {
        say(format_args!("{} is slow: {} waits for it", slow.part, slow.waiting.join(", ")))?;
    }
    Ok(())
}

fn status_text(status: PipelineStatus) -> anyhow::Result<String> {
    let status = serde_json::to_value(status)?;
    status.as_str().map(str::to_owned).context("a status that is no text")
}

pub(super) fn status_of(pipeline: &Pipeline) -> anyhow::Result<String> {
    status_text(pipeline.status)
}

/// A pipeline as a row of the list.
fn in_a_line(item: &Value) -> anyhow::Result<Value> {
    use weir_api::pipeline::PipelineRole::{Sink, Source};
    let pipeline: Pipeline = serde_json::from_value(item.clone())?;
    let counters =
        |role| pipeline.nodes.iter().filter(move |node| node.role == role).filter_map(|node| node.counters.as_ref());
    let all = || pipeline.nodes.iter().filter_map(|node| node.counters.as_ref());
    // Those without an input are given what was set aside.
    let results = pipeline.nodes.iter().filter(|node| node.role == Sink && !node.inputs.is_empty());
    Ok(json!({
        "name": pipeline.name,
        "kind": if pipeline.built_in { "built in" } else { "own" },
        "status": status_of(&pipeline)?,
        "read": counters(Source).map(|counters| counters.rows_in).sum::<u64>(),
        "written": results.filter_map(|node| node.counters.as_ref()).map(|counters| counters.rows_in).sum::<u64>(),
        "late": all().map(|counters| counters.late).sum::<u64>(),
        "dead": all().map(|counters| counters.dead).sum::<u64>(),
        "watermark": counters(Source).filter_map(|counters| counters.watermark.clone()).min(),
        "error": pipeline.failure.as_ref().map(|failure| failure.message.clone()),
    }))
}

fn show(pipeline: &Pipeline) -> anyhow::Result<()> {
    let since = pipeline.running_since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    let kind = if pipeline.built_in { ", built in" } else { "" };
    say(format_args!("{}: {}{since}, revision {}{kind}", pipeline.name, status_of(pipeline)?, pipeline.revision))?;
    if let Some(failure) = &pipeline.failure {
        say(format_args!("{} at {}: {}", failure.code, failure.at, failure.message))?;
        for problem in &failure.errors {
            say(format_args!("  {}: {}", problem.pointer, problem.detail))?;
        }
        if let Some(again) = &failure.retry_at {
            say(format_args!("starts again at {again}"))?;
        }
    }
    if let Some(checkpoint) = &pipeline.checkpoint {
        say(format_args!(
            "checkpoint {}, {} bytes of state, {:.3} s",
            checkpoint.epoch, checkpoint.state_bytes, checkpoint.seconds
        ))?;
    }
    let rows: Vec<Value> = pipeline
        .nodes
        .iter()
        .map(|node| {
            let counters = node.counters.clone().unwrap_or_default();
            json!({
                "part": in_a_cell(node),
                "in": counters.rows_in + counters.table_rows,
                "out": counters.rows_out,
                "late": counters.late,
                "dead": counters.dead,
                "retries": counters.retries,
                "busy": format!("{:.1}s", counters.busy_seconds),
                "state": counters.state_bytes,
                "watermark": counters.watermark,
            })
        })
        .collect();
    let fields = ["part", "in", "out", "late", "dead", "retries", "busy", "state", "watermark"];
    print_list(&rows, &fields, ListFormat::Table)?;
    states(&pipeline.nodes).try_for_each(say).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_short_and_what_it_leaves_out_is_said_below() {
        let node = |role: &str, text: &str, more: Value| {
            let mut node = json!({ "id": "a", "role": role, "text": text });
            node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<PipelineNode>(node).unwrap()
        };
        let step = node("step", &format!("sets\n  x: {}", "é".repeat(500)), json!({}));
        assert_eq!(in_a_cell(&step), format!("a: sets x: {}…", "é".repeat(PART_CHARACTERS_MAX - 9)));
        assert!(described(&step).chars().count() > 500, "there is a place for all of it");
        let error = "cannot write: ".repeat(9);
        let circuit =
            json!({ "delivery": "exactly once", "circuit": { "state": "open", "opened": 1, "error": error } });
        let sink = node("sink", "writes x.csv (csv)", circuit);
        assert_eq!(in_a_cell(&sink), "to writes x.csv (csv), exactly once [circuit open]");
        assert_eq!(states(&[step, sink.clone()]).collect::<Vec<_>>(), [format!("a: circuit open: {error}")]);
        // Rows that wait for it, also while it is being tried.
        let mut behind = sink;
        let mut wait = |bytes: u64| {
            let held = [("backlog_bytes".to_owned(), bytes)].into();
            behind.counters = Some(weir_api::pipeline::PipelineCounters { held, ..Default::default() });
            behind.clone()
        };
        let sink = wait(5 << 19);
        assert_eq!(in_a_cell(&sink), "to writes x.csv (csv), exactly once [circuit open] [2.5 MiB wait]");
        let expected = format!("a: 2.5 MiB of rows wait for it, circuit open: {error}");
        assert_eq!(states(&[sink]).collect::<Vec<_>>(), [expected]);
        for (bytes, expected) in
            [(0, None), (1, Some("1 bytes")), (1 << 30, Some("1.0 GiB")), (u64::MAX, Some("16777216.0 TiB"))]
        {
            assert_eq!(backlog(&wait(bytes)).as_deref(), expected);
        }
    }
}
