//! `weir generate`: makes the demo tenants and their keys, then runs the simulator.
pub(super) fn run(args: crate::cli::GenerateArgs) -> anyhow::Result<()> {
    anyhow::bail!("this build cannot run {args:?}")
}
