//! `weir pipeline savepoint`, `savepoints`, `restore` and `delete-savepoint`: checkpoints that are kept.

use http::Method;
use weir_api::pipeline::{
    PipelineApply, Savepoint, SavepointCreate, SavepointRestore, SavepointRestored, SavepointSink,
};

use super::pipeline::path;
use super::{list_of, print_list, say};
use crate::cli::ListFormat;
use crate::client::{Api, path_segment};

/// What is shown of savepoints.
pub(super) const COLUMNS: [&str; 5] = ["label", "epoch", "created_at", "state_bytes", "finished"];

fn address(name: &str) -> String {
    format!("{}/savepoints", path(name))
}

pub(super) async fn make(api: &Api, name: &str, label: Option<String>) -> anyhow::Result<()> {
    let answer = api.post(&address(name), &SavepointCreate { label }).await?;
    let Savepoint { label, epoch, state_bytes, .. } = serde_json::from_value(answer)?;
    Ok(say(format_args!("{label}: savepoint of {name} at checkpoint {epoch}, {state_bytes} bytes of state"))?)
}

pub(super) async fn list(api: &Api, name: &str, format: ListFormat) -> anyhow::Result<()> {
    let answer = api.ask(Method::GET, &address(name)).await?;
    let list = list_of(&answer, "savepoints")?;
    print_list(list, &COLUMNS, format)
}

pub(super) async fn delete(api: &Api, name: &str, label: &str) -> anyhow::Result<()> {
    api.ask(Method::DELETE, &format!("{}/{}", address(name), path_segment(label))).await?;
    Ok(say(format_args!("deleted the savepoint {label} of {name}"))?)
}

pub(super) async fn restore(
    api: &Api,
    name: &str,
    label: &str,
    application: Option<PipelineApply>,
    dry_run: bool,
    write_again: bool,
) -> anyhow::Result<()> {
    let mut body = SavepointRestore { dry_run, write_again, ..SavepointRestore::default() };
    if let Some(PipelineApply { document, format, source, .. }) = application {
        body = SavepointRestore { document: Some(document), format, source, ..body };
    }
    let answer = api.post(&format!("{}/{}/restore", address(name), path_segment(label)), &body).await?;
    let SavepointRestored { savepoint, writes_again, is_certain, sinks, .. } = serde_json::from_value(answer)?;
    let goes = if dry_run { "would go on" } else { "goes on" };
    say(format_args!("{name}: {goes} from {label}, checkpoint {} of {}", savepoint.epoch, savepoint.created_at))?;
    let what = match (writes_again, is_certain) {
        (true, _) => "the rows after it are written again",
        (false, true) => "it has read nothing since",
        (false, false) => {
            "it has read nothing since, up to its last checkpoint; what it has read after that is seen when it is stopped for this"
        }
    };
    say(format_args!("  {what}"))?;
    for SavepointSink { text, begins } in sinks {
        say(format_args!("  {text}: {begins}"))?;
    }
    Ok(())
}
