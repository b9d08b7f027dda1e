//! The tests of the workspace with line coverage, at little more than their own price.
//!
//! Only Weir's own crates are instrumented: xtask passes itself as the compiler wrapper that cargo
//! uses for members of the workspace, so dependencies are shared with every other build.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::stages::{Outcome, captured};
use crate::{Result, process, root, scratch};

/// Set for the wrapper's calls only.
const WRAPPER: &str = "WEIR_XTASK_COVERAGE";

pub(crate) fn is_rustc_wrapper() -> bool {
    std::env::var_os(WRAPPER).is_some()
}

/// Called by cargo as `xtask rustc ARGUMENTS...`.
pub(crate) fn wrap_rustc() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(rustc) = arguments.next() else { return ExitCode::from(2) };
    let status = Command::new(rustc).args(arguments).args(["-C", "instrument-coverage"]).status();
    match status.ok().and_then(|status| status.code()) {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    }
}

/// Unit and integration tests, with coverage if the tools for it can be had.
pub(crate) fn tests() -> Result<Outcome> {
    let tools = match tools() {
        Ok(tools) => tools,
        Err(reason) => {
            captured("tests", process::cargo(&["test", "--workspace", "--no-fail-fast"]))?;
            return Ok(Outcome::Passed(format!("LINE COVERAGE NOT MEASURED: {reason}")));
        }
    };
    let profiles = scratch().join("coverage");
    if profiles.exists() {
        std::fs::remove_dir_all(&profiles).map_err(|error| format!("{}: {error}", profiles.display()))?;
    }
    let xtask = std::env::current_exe().map_err(|error| error.to_string())?;
    // Cargo replaces its own copy when it builds the workspace, so the wrapper is a copy beside it.
    std::fs::create_dir_all(&profiles).map_err(|error| format!("{}: {error}", profiles.display()))?;
    let wrapper = scratch().join("rustc-with-coverage");
    std::fs::copy(&xtask, &wrapper).map_err(|error| format!("{}: {error}", wrapper.display()))?;
    let instrumented = |arguments: &[&str]| {
        let mut command = process::cargo(arguments);
        command.env("RUSTC_WORKSPACE_WRAPPER", &wrapper).env(WRAPPER, "1");
        // %m: one file a binary, merged on exit, however many processes the tests start.
        command.env("LLVM_PROFILE_FILE", profiles.join("%4m.profraw"));
        command
    };
    let said = captured("tests", instrumented(&["test", "--workspace", "--no-fail-fast"]))?;
    report(&tools, &profiles, &executables(&said)).map(Outcome::Passed)
}

pub(crate) struct Tools {
    pub(crate) profdata: PathBuf,
    cov: PathBuf,
}

/// The compiler's own LLVM tools; installed if rustup is there.
pub(crate) fn tools() -> Result<Tools> {
    let sysroot = process::output(process::command("rustc", &["--print", "sysroot"]))?;
    let find = || {
        let bin = std::fs::read_dir(Path::new(sysroot.trim()).join("lib/rustlib")).ok()?.flatten();
        let mut bin = bin.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("llvm-cov").exists());
        let bin = bin.next()?;
        Some(Tools { profdata: bin.join("llvm-profdata"), cov: bin.join("llvm-cov") })
    };
    if let Some(tools) = find() {
        return Ok(tools);
    }
    let installed = process::output(process::command("rustup", &["component", "add", "llvm-tools"]));
    find().ok_or_else(|| match installed {
        Ok(_) => "`rustup component add llvm-tools` brought no llvm-cov".to_owned(),
        Err(error) => format!("no llvm-tools, and {}", error.lines().next().unwrap_or_default()),
    })
}

/// The test binaries cargo named: `Running unittests src/lib.rs (target/debug/deps/x-1234)`.
fn executables(said: &str) -> Vec<PathBuf> {
    let running = said.lines().filter_map(|line| line.trim().strip_prefix("Running "));
    let paths = running.filter_map(|line| Some(line.rsplit_once('(')?.1.trim_end_matches(')')));
    paths.map(|path| root().join(path)).collect()
}

fn report(tools: &Tools, profiles: &Path, executables: &[PathBuf]) -> Result<String> {
    let merged = profiles.join("all.profdata");
    let mut merge = process::command(&tools.profdata, &["merge", "-sparse", "-o"]);
    let raw = std::fs::read_dir(profiles).map_err(|error| error.to_string())?.flatten().map(|entry| entry.path());
    merge.arg(&merged).args(raw.filter(|path| path.extension().is_some_and(|extension| extension == "profraw")));
    process::output(merge)?;
    let mut profile = OsString::from("--instr-profile=");
    profile.push(&merged);
    let mut report = process::command(&tools.cov, &["report"]);
    report.arg(profile).arg("--ignore-filename-regex=(/registry/|/rustc/|/tests?/|tests\\.rs$|/xtask/)");
    for executable in executables {
        report.arg("--object").arg(executable);
    }
    let table = process::output(report)?;
    let file = scratch().join("coverage.txt");
    std::fs::write(&file, &table).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(format!("line coverage {} (by file: {})", summary(&table), file.display()))
}

/// Lines covered, in all and by crate. The columns of the table are regions, functions, lines, each
/// as total, missed, percent.
fn summary(table: &str) -> String {
    let mut crates: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in table.lines() {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (Some(path), Some(lines), Some(missed)) = (columns.first(), columns.get(7), columns.get(8)) else {
            continue;
        };
        let (Ok(lines), Ok(missed)) = (lines.parse::<u64>(), missed.parse::<u64>()) else { continue };
        let name = match path.split_once("crates/").or(path.split_once('/').filter(|_| !path.contains("src/"))) {
            Some((_, rest)) => rest.split('/').next().unwrap_or(rest),
            // llvm-cov leaves out what all paths have in common: that is `.../crates/`.
            None => path.split('/').next().unwrap_or(path),
        };
        let sums = crates.entry(name.to_owned()).or_default();
        sums.0 += lines;
        sums.1 += missed;
    }
    let percent = |(lines, missed): (u64, u64)| 100.0 * (lines - missed.min(lines)) as f64 / lines.max(1) as f64;
    let all = crates.remove("TOTAL").unwrap_or_default();
    let each = crates.iter().map(|(name, sums)| format!("{name} {:.0} %", percent(*sums)));
    format!("{:.1} %: {}", percent(all), each.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_summed_by_crate() {
        let row =
            |path: &str, lines: u64, missed: u64| format!("{path} 9 1 88.89% 3 1 66.67% {lines} {missed} 50.00%\n");
        let table = format!(
            "Filename Regions Missed Cover\n{}{}{}{}",
            row("log/src/a.rs", 100, 10),
            row("log/src/b.rs", 100, 30),
            row("meta/src/lib.rs", 50, 0),
            row("TOTAL", 250, 40)
        );
        assert_eq!(summary(&table), "84.0 %: log 80 %, meta 100 %");
    }

    #[test]
    fn executables_are_found_in_what_cargo_says() {
        let said =
            "   Compiling x v1\n     Running unittests src/lib.rs (/t/debug/deps/weir_log-12ab)\nrunning 3 tests\n";
        assert_eq!(executables(said), [PathBuf::from("/t/debug/deps/weir_log-12ab")]);
    }
}
