//! `weir check`: the same parsing and checks as `weir serve`, and nothing started.
pub(super) fn run(args: &crate::cli::CheckArgs) -> anyhow::Result<()> {
    anyhow::bail!("this build cannot check {}", args.file.display())
}
