//! `weir serve`: from the command line to a running server.

use std::path::PathBuf;

use clap::Args;

/// The data directory when nothing else is said.
pub(crate) const DATA_DIR_DEFAULT: &str = "weir-data";

/// `weir serve`. What is absent here comes from the configuration file, then from the defaults.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Configuration file, YAML or TOML; `weir check` checks it without starting
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Directory for everything Weir keeps; created if absent [default: weir-data]
    #[arg(long, value_name = "DIR", env = "WEIR_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Address of the API, ingest over HTTP and the console [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "WEIR_HTTP")]
    pub(crate) http: Option<String>,

    /// Address of OTLP over gRPC [default: 127.0.0.1:4317]
    #[arg(long, value_name = "ADDR", env = "WEIR_OTLP_GRPC")]
    pub(crate) otlp_grpc: Option<String>,

    /// Address of OTLP over HTTP [default: 127.0.0.1:4318]
    #[arg(long, value_name = "ADDR", env = "WEIR_OTLP_HTTP")]
    pub(crate) otlp_http: Option<String>,
}

/// Runs the server until it is told to stop.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    anyhow::bail!("this build has no server for {args:?}")
}
