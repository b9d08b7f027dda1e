//! `cargo xtask test`, `check` and `quick`: the same stages, more or fewer of them.

use std::collections::BTreeSet;

use crate::arguments::Arguments;
use crate::stages::{Outcome, Stages, captured};
use crate::{Result, abuse, clients, coverage, crash, deeper, dependencies, kafka, process, target, tidy};

/// Crash cycles of a normal run; `cargo xtask crash --cycles N` does any number.
const CRASH_CYCLES: u64 = 25;
const POWER_LOSS_CYCLES: u64 = 10;

/// Everything, from nothing.
pub(crate) fn everything(arguments: &Arguments) -> Result<()> {
    arguments.end()?;
    let mut stages = Stages::new();
    style(&mut stages);
    stages.stage("licences", dependencies::licences);
    stages.stage("advisories", dependencies::advisories);
    // Without binaries there is nothing the rest could run.
    if lints(&mut stages) && stages.command("build", process::build_binaries()) {
        stages.stage("generated pages", || deeper::check_generated().map(|()| Outcome::Passed(String::new())));
        stages.stage("unit and integration tests", coverage::tests);
        stages.stage("demo", demo_smoke);
        stages.stage("crash cycles", || crash::kill_cycles(CRASH_CYCLES));
        stages.stage("power loss", || crash::power_loss_cycles(POWER_LOSS_CYCLES));
        stages.stage("abuse", abuse::all);
        stages.stage("real clients", || clients::all(None));
        stages.stage("kafka", kafka::all);
    }
    stages.end()
}

/// What a change needs before it is shared.
pub(crate) fn check(arguments: &Arguments) -> Result<()> {
    arguments.end()?;
    let mut stages = Stages::new();
    style(&mut stages);
    if lints(&mut stages) {
        stages.command("tests", process::cargo(&["test", "--workspace", "--no-fail-fast"]));
    }
    stages.end()
}

/// The crates touched since a commit.
pub(crate) fn quick(arguments: &mut Arguments) -> Result<()> {
    let since = arguments.option("--since")?.unwrap_or_else(|| "HEAD".to_owned());
    arguments.end()?;
    let changed = process::output(process::command("git", &["diff", "--name-only", &since]))?;
    let new = process::output(process::command("git", &["ls-files", "--others", "--exclude-standard"]))?;
    let crates: BTreeSet<String> = changed.lines().chain(new.lines()).filter_map(package_of).collect();
    let mut stages = Stages::new();
    style(&mut stages);
    if !crates.is_empty() {
        let packages: Vec<&str> = crates.iter().flat_map(|package| ["--package", package]).collect();
        let clippy = [&["clippy"], packages.as_slice(), &["--all-targets", "--", "-D", "warnings"]].concat();
        let test = [&["test"], packages.as_slice(), &["--no-fail-fast"]].concat();
        stages.command("clippy", process::cargo(&clippy));
        stages.command("tests", process::cargo(&test));
    }
    stages.end()
}

fn package_of(path: &str) -> Option<String> {
    let mut parts = path.split('/');
    match (parts.next()?, parts.next()?) {
        ("crates", "weir") => Some("weir".to_owned()),
        ("crates", name) => Some(format!("weir-{name}")),
        ("xtask", _) => Some("xtask".to_owned()),
        _ => None,
    }
}

fn style(stages: &mut Stages) {
    stages.command("fmt", process::cargo(&["fmt", "--all", "--check"]));
    stages.stage("tidy", || tidy::check().map(|()| Outcome::Passed(String::new())));
}

fn lints(stages: &mut Stages) -> bool {
    stages.command("clippy", process::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// The demo as a newcomer runs it, with the tests' build, for a few seconds, checked.
fn demo_smoke() -> Result<Outcome> {
    let dir = target().join("xtask").join("demo-smoke");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    let xtask = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = process::command(xtask, &["demo", "--dev", "--check", "--duration", "15s", "--data-dir"]);
    command.arg(&dir);
    let said = captured("demo", command)?;
    let rows = said.lines().rev().find(|line| line.contains("after a restart")).unwrap_or_default();
    Ok(Outcome::Passed(rows.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_package() {
        for (path, expected) in [
            ("crates/weir/src/main.rs", Some("weir")),
            ("crates/log/Cargo.toml", Some("weir-log")),
            ("xtask/src/main.rs", Some("xtask")),
            ("README.md", None),
            ("docs/src/tour.md", None),
        ] {
            assert_eq!(package_of(path).as_deref(), expected, "{path}");
        }
    }
}
