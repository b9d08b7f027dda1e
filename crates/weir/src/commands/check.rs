//! `weir check`: the same parsing and checks as `weir serve`, and nothing started.

use weir_server::config;

use super::say;
use crate::cli::CheckArgs;
use crate::failure::bad_arguments;

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let problems = config::check_file(&args.file);
    if problems.is_empty() {
        say(format_args!("{} is good", args.file.display()))?;
        return Ok(());
    }
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Err(bad_arguments(lines.join("\n")))
}
