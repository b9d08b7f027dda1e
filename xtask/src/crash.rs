//! `cargo xtask crash`: runs the crash oracle (`weir-crash` of `testkit`) against the built server.

use std::process::Command;

use crate::arguments::Arguments;
use crate::stages::{Outcome, captured};
use crate::{Result, process, signal};

pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    let power_loss = arguments.flag("--power-loss");
    let cycles = arguments.number("--cycles", 25)?;
    let seed = arguments.option("--seed")?;
    arguments.end()?;
    process::run(process::build_binaries())?;
    let mut command = oracle(cycles);
    if let Some(seed) = seed {
        command.args(["--seed", &seed]);
    }
    if power_loss {
        command.arg("--power-loss");
    }
    process::run(command)
}

/// kill -9 under load.
pub(crate) fn kill_cycles(cycles: u64) -> Result<Outcome> {
    Ok(Outcome::Passed(verdict(&captured("crash-cycles", oracle(cycles))?)))
}

/// Power loss on a file system of its own, which takes root to mount.
pub(crate) fn power_loss_cycles(cycles: u64) -> Result<Outcome> {
    if !signal::is_root() {
        return Ok(Outcome::Skipped("needs root, to mount a file system and cut its power".to_owned()));
    }
    let mut command = oracle(cycles);
    command.arg("--power-loss");
    Ok(Outcome::Passed(verdict(&captured("power-loss", command)?)))
}

fn oracle(cycles: u64) -> Command {
    let mut command = process::command(process::built("debug", "weir-crash"), &["--cycles", &cycles.to_string()]);
    command.arg("--weir").arg(process::built("debug", "weir"));
    command
}

/// The last line: the oracle's own summary.
fn verdict(output: &str) -> String {
    output.lines().next_back().unwrap_or_default().to_owned()
}
