//! `cargo xtask abuse`: runs `weir-abuse` of `testkit` against the built server.

use std::process::Command;

use crate::arguments::Arguments;
use crate::stages::{Outcome, captured};
use crate::{Result, process};

pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    let only = arguments.option("--only")?;
    arguments.end()?;
    process::run(process::build_binaries())?;
    let mut command = abuse();
    if let Some(only) = only {
        command.args(["--only", &only]);
    }
    process::run(command)
}

/// Every scenario, as a stage of a test run.
pub(crate) fn all() -> Result<Outcome> {
    let said = captured("abuse", abuse())?;
    Ok(Outcome::Passed(said.lines().next_back().unwrap_or_default().to_owned()))
}

fn abuse() -> Command {
    let mut command = process::command(process::built("debug", "weir-abuse"), &[]);
    command.arg("--weir").arg(process::built("debug", "weir"));
    command
}
