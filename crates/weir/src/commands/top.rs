//! `weir top`: what the pipelines of a tenant do at the moment, over and over.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use http::Method;
use weir_api::pipeline::{Pipeline, PipelineList};

use super::pipeline::{in_a_cell, states, status_of};
use super::table::{self, Column};
use crate::cli::TopArgs;
use crate::client::Api;

/// Two looks are at least so far apart.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
/// Moves to the upper left corner and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

const COLUMNS: [&str; 10] = ["part", "rows/s", "in", "out", "late", "dead", "busy", "waits", "state", "lag"];

pub(super) async fn run(args: TopArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.target, args.tenant.tenant.as_deref())?;
    let mut looks = 0;
    loop {
        let answer = api.ask(Method::GET, "/api/v1/pipelines").await?;
        let PipelineList { mut pipelines } = serde_json::from_value(answer)?;
        pipelines.retain(|pipeline| args.name.as_ref().is_none_or(|name| *name == pipeline.name));
        if let (Some(name), true) = (&args.name, pipelines.is_empty()) {
            anyhow::bail!("there is no pipeline {name}");
        }
        let mut text = String::new();
        for pipeline in &pipelines {
            show(pipeline, &mut text)?;
        }
        if pipelines.is_empty() {
            text.push_str("there are no pipelines\n");
        }
        let mut out = std::io::stdout().lock();
        if out.is_terminal() {
            out.write_all(CLEAR.as_bytes())?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        drop(out);
        looks += 1;
        if args.looks.is_some_and(|most| looks >= most) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(args.every.0.max(SHORTEST_WAIT)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn show(pipeline: &Pipeline, text: &mut String) -> anyhow::Result<()> {
    let checkpoint = pipeline
        .checkpoint
        .as_ref()
        .map(|checkpoint| format!(", checkpoint {} in {:.0} ms", checkpoint.epoch, checkpoint.seconds * 1e3));
    let restarts = if pipeline.restarts > 0 { format!(", {} restarts", pipeline.restarts) } else { String::new() };
    text.push_str(&format!(
        "{}: {}{}{restarts}\n",
        pipeline.name,
        status_of(pipeline)?,
        checkpoint.unwrap_or_default()
    ));
    if let Some(failure) = &pipeline.failure {
        text.push_str(&format!("  {}\n", failure.message));
    }
    let columns = COLUMNS.iter().map(|name| Column::text(name)).collect();
    let rows = pipeline.nodes.iter().map(|node| {
        let counters = node.counters.clone().unwrap_or_default();
        vec![
            in_a_cell(node),
            format!("{:.0}", counters.rows_in_per_second),
            (counters.rows_in + counters.table_rows).to_string(),
            counters.rows_out.to_string(),
            counters.late.to_string(),
            counters.dead.to_string(),
            format!("{:.1}s", counters.busy_seconds),
            format!("{:.1}s", counters.blocked_seconds),
            counters.state_bytes.to_string(),
            counters.lag_rows.map(|rows| rows.to_string()).unwrap_or_default(),
        ]
    });
    text.push_str(&table::render(columns, rows.collect(), table::width_of_stdout()));
    for state in states(&pipeline.nodes) {
        text.push_str(&format!("  {state}\n"));
    }
    text.push('\n');
    Ok(())
}
