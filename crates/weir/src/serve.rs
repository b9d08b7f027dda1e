//! `weir serve`: from the command line to a running server.

use std::path::PathBuf;

use clap::Args;

/// The data directory when nothing else is said.
pub(crate) const DATA_DIR_DEFAULT: &str = "weir-data";

/// `weir serve`. What is absent here comes from the environment, then from the
/// configuration file, then from the defaults; reading those is the configuration's own work, so that
/// its problems are reported together.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Configuration file, YAML or TOML; `weir check` checks it without starting
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Directory for everything Weir keeps; created if absent [env: WEIR_DATA_DIR] [default: weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Address of the API and of ingest over HTTP [env: WEIR_HTTP] [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<String>,

    /// Address of OTLP over gRPC [env: WEIR_OTLP_GRPC] [default: 127.0.0.1:4317]
    #[arg(long, value_name = "ADDR")]
    pub(crate) otlp_grpc: Option<String>,

    /// Address of OTLP over HTTP [env: WEIR_OTLP_HTTP] [default: 127.0.0.1:4318]
    #[arg(long, value_name = "ADDR")]
    pub(crate) otlp_http: Option<String>,
}

/// Runs the server until it is told to stop.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    anyhow::bail!("this build has no server for {args:?}")
}
