//! `weir check`: the same parsing and checks as `weir serve` and `weir run`, and nothing started.

use weir_document::read::text_of_file;
use weir_document::{Parsed, Value};
use weir_server::config;

use super::run::prepare_check;
use super::say;
use crate::cli::CheckArgs;
use crate::failure::bad_arguments;

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    if is_pipeline(args) {
        let prepared = prepare_check(&args.file)?;
        say(format_args!("{} is good: the pipeline {}", args.file.display(), prepared.document.name))?;
        for source in &prepared.plan.sources {
            say(format_args!("  from {}", source.source.describe()))?;
        }
        for step in &prepared.plan.steps {
            say(format_args!("  {}: {}", step.id, step.step.describe()))?;
        }
        for sink in &prepared.plan.sinks {
            say(format_args!("  to {}, {}", sink.sink.describe(), sink.sink.delivery().as_str()))?;
        }
        return Ok(());
    }
    let problems = config::check_file(&args.file);
    if problems.is_empty() {
        say(format_args!("{} is good", args.file.display()))?;
        return Ok(());
    }
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Err(bad_arguments(lines.join("\n")))
}

/// Whether a file describes a pipeline: no configuration has a setting of that name.
fn is_pipeline(args: &CheckArgs) -> bool {
    let Some((syntax, text)) = text_of_file(&args.file, "file", &mut Vec::new()) else { return false };
    let Parsed { root, .. } = syntax.parse("", &text);
    // One without its name is still a pipeline, and is told so; a configuration has none of these.
    let of_pipelines = ["pipeline", "from", "steps", "sql", "to"];
    matches!(&root.value, Value::Map(entries) if entries.iter().any(|(key, _)| of_pipelines.contains(&key.name.as_str())))
}
