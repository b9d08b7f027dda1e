//! `weir serve`: from the command line to a running server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use weir_base::Clock;
use weir_base::clock::SystemClock;
use weir_base::shutdown::Shutdown;
use weir_server::app::{self, Environment};
use weir_server::config::settings::LogFormat;
use weir_server::config::{Config, Overrides};
use weir_server::middleware::WithRequest;
use weir_server::telemetry::logs::{CollectLayer, LineBuffer};

use crate::failure::bad_arguments;
use crate::traces::{self, SpanBuffer, TraceLayer};

/// The data directory when nothing else is said.
pub(crate) const DATA_DIR_DEFAULT: &str = "weir-data";

/// `weir serve`. What is absent here comes from the environment (`WEIR_...`), then from the
/// configuration file, then from the defaults.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Configuration file, YAML or TOML; `weir check` checks it without starting
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Directory for everything Weir keeps; created if absent [default: weir-data] [env: WEIR_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Address of the API and of ingest over HTTP [default: 127.0.0.1:8080] [env: WEIR_HTTP]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<String>,

    /// Address of OTLP over gRPC [default: 127.0.0.1:4317] [env: WEIR_OTLP_GRPC]
    #[arg(long, value_name = "ADDR")]
    pub(crate) otlp_grpc: Option<String>,

    /// Address of OTLP over HTTP [default: 127.0.0.1:4318] [env: WEIR_OTLP_HTTP]
    #[arg(long, value_name = "ADDR")]
    pub(crate) otlp_http: Option<String>,
}

/// Runs the server until it is told to stop.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = configuration(args)?;
    let clock: Arc<dyn Clock> = SystemClock::new();
    let lines = LineBuffer::new(Arc::clone(&clock));
    let spans = SpanBuffer::new(Arc::clone(&clock));
    start_logging(&config, &lines, &spans)?;
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (variable, meant) in weir_server::config::environment::ignored(names) {
        let meant = meant.unwrap_or_default();
        tracing::warn!(
            variable,
            meant,
            "an environment variable is named like a setting, and there is none; it is ignored"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("weir-io")
        // Decoders recurse at most 64 levels deep; the default would do, unoptimised builds need more.
        .thread_stack_size(8 << 20)
        // What large requests took stays with the threads that decoded them, until these end.
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .context("cannot start the runtime")?;
    let shutdown = Shutdown::default();
    runtime.block_on(async move {
        tokio::spawn(until_signal(shutdown.clone()));
        let exporting = config.telemetry.traces_endpoint.clone().map(|endpoint| {
            // Ended after the server, so that its last requests are sent too.
            let ended = Shutdown::default();
            (tokio::spawn(traces::export(spans, endpoint, ended.clone())), ended)
        });
        let running = app::start(config, Environment { clock, lines, shutdown }).await?;
        running.serve().await;
        if let Some((exporting, ended)) = exporting {
            ended.begin();
            // A collector that does not answer must not hold the end up.
            let _ = tokio::time::timeout(Duration::from_secs(2), exporting).await;
        }
        anyhow::Ok(())
    })?;
    runtime.shutdown_background();
    Ok(())
}

fn configuration(args: ServeArgs) -> anyhow::Result<Config> {
    let ServeArgs { config, data_dir, http, otlp_grpc, otlp_http } = args;
    let flags = Overrides { data_dir, http, otlp_grpc, otlp_http };
    Config::load(config.as_deref(), environment(), flags).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
        let count = problems.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        bad_arguments(format!("the configuration has {count} {noun}:\n{}", lines.join("\n")))
    })
}

/// `WEIR_...` of the environment, without those that are not settings of the server.
fn environment() -> impl Iterator<Item = (String, String)> {
    const OTHERS: [&str; 3] = ["WEIR_CONFIG", "WEIR_URL", "WEIR_KEY"];
    std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        (name.starts_with("WEIR_") && !OTHERS.contains(&name.as_str())).then_some((name, value))
    })
}

/// Log lines go to standard error for people and machines, and into tenant `system`.
fn start_logging(config: &Config, lines: &Arc<LineBuffer>, spans: &Arc<SpanBuffer>) -> anyhow::Result<()> {
    let telemetry = &config.telemetry;
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| telemetry.log_level.as_str().to_owned());
    let filter = EnvFilter::try_new(&directives).map_err(|error| bad_arguments(format!("RUST_LOG: {error}")))?;
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let to_stderr = match telemetry.log_format {
        LogFormat::Json => {
            let objects = format::format().json().flatten_event(true);
            let to_stderr = to_stderr.fmt_fields(format::JsonFields::new()).event_format(WithRequest::json(objects));
            to_stderr.with_filter(filter_fn(is_event)).boxed()
        }
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let text = format::format().with_ansi(colour);
            let to_stderr = to_stderr.with_ansi(colour).event_format(WithRequest::text(text));
            to_stderr.with_filter(filter_fn(is_event)).boxed()
        }
    };
    let exports = telemetry.traces_endpoint.is_some();
    tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(move |metadata| exports || metadata.is_event()))
        .with(to_stderr)
        .with(CollectLayer(Arc::clone(lines)))
        .with(exports.then(|| TraceLayer(Arc::clone(spans))))
        .try_init()
        .context("cannot start logging")
}

/// Spans are for the export alone: log lines get the request's fields from its scope.
fn is_event(metadata: &Metadata<'_>) -> bool {
    metadata.is_event()
}

/// The first SIGTERM or SIGINT begins the shutdown, the second ends the process at once.
async fn until_signal(shutdown: Shutdown) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; stop the process with kill -9, nothing is lost by it");
        return;
    };
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    next().await;
    shutdown.begin();
    next().await;
    std::process::exit(130);
}
