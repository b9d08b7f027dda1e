//! `weir log`: the log of a stopped server.
pub(super) fn run(command: crate::cli::LogCommand) -> anyhow::Result<()> {
    anyhow::bail!("this build cannot run {command:?}")
}
