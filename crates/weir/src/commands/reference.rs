//! `weir reference`: writes the pages of `docs/` that come from the code, or says which of those
//! there are old. For `cargo xtask gen`; users read the pages.

use std::path::Path;

use anyhow::Context;

use super::say;
use crate::cli::ReferenceArgs;

pub(super) fn run(args: &ReferenceArgs) -> anyhow::Result<()> {
    let pages = [
        ("configuration.md", weir_server::config::reference_markdown()),
        ("weir.example.yaml", weir_server::config::annotated_example_yaml()),
        ("command-line.md", command_line()),
        ("pipeline-components.md", weir_pipelines::reference::markdown()),
        ("pipeline.schema.json", pipeline_schema()?),
    ];
    let mut old = Vec::new();
    for (name, text) in &pages {
        let path = args.dir.join(name);
        if args.check {
            if std::fs::read_to_string(&path).ok().as_ref() != Some(text) {
                old.push(path.display().to_string());
            }
        } else {
            write(&path, text)?;
            say(format_args!("wrote {}", path.display()))?;
        }
    }
    anyhow::ensure!(old.is_empty(), "not what the code says; run `cargo xtask gen`: {}", old.join(", "));
    Ok(())
}

/// The JSON schema of pipeline documents, for editors.
fn pipeline_schema() -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&weir_pipelines::plan::GRAMMAR.json_schema())? + "\n")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// `--help` of every command, as one page.
fn command_line() -> String {
    let mut text = "# Command line\n\nMade from `weir --help` by `cargo xtask gen`.\n".to_owned();
    let mut root = <crate::cli::CommandLine as clap::CommandFactory>::command().term_width(100);
    root.build();
    describe(&mut root, "", &mut text);
    text
}

fn describe(command: &mut clap::Command, above: &str, text: &mut String) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = format!("{above}{}", command.get_name());
    let help = command.render_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
    for inner in command.get_subcommands_mut() {
        describe(inner, &format!("{name} "), text);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn written_pages_are_fresh_and_changed_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let args = |check| ReferenceArgs { dir: dir.path().join("reference"), check };
        assert!(run(&args(true)).is_err(), "nothing is there yet");
        run(&args(false)).unwrap();
        run(&args(true)).unwrap();
        let page = dir.path().join("reference/command-line.md");
        let text = std::fs::read_to_string(&page).unwrap();
        for expected in ["## weir query", "## weir tenant create", "--format <FORMAT>"] {
            assert!(text.contains(expected), "{expected}");
        }
        std::fs::write(&page, text + "x").unwrap();
        let error = run(&args(true)).unwrap_err().to_string();
        assert!(error.contains("command-line.md") && !error.contains("configuration.md"), "{error}");
    }
}
