//! Running other programs: cargo first of all.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Result, root, target};

/// A program to be run in the root of the checkout.
pub(crate) fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// The cargo that runs xtask.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments)
}

/// Runs a program whose output the user sees as it comes.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let status = command.status().map_err(|error| cannot_start(&command, &error))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", shown(&command))) }
}

/// Runs a program and returns what it wrote to standard output.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let output = command.output().map_err(|error| cannot_start(&command, &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} failed: {}\n{}", shown(&command), output.status, said.trim_end()));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{} wrote something that is not text", shown(&command)))
}

/// Whether a program is there and works well enough to say its version.
pub(crate) fn exists(program: &str) -> bool {
    let mut command = command(program, &["--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

pub(crate) fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!("cannot run {}: {error}", shown(command))
}

/// A binary of the workspace as `cargo build` leaves it.
pub(crate) fn built(profile: &str, name: &str) -> PathBuf {
    target().join(profile).join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// The binaries the tests use. All of the workspace is built, because building single crates would
/// build their dependencies again with other features.
pub(crate) fn build_binaries() -> Command {
    cargo(&["build", "--workspace", "--bins"])
}
