//! Measures the shipped program from another process: CPU time of the server for each row, the rate
//! it acknowledges at, how long acknowledgements take, memory, and bytes on disk.
//!
//! It drives one scenario after the other over the real protocols, prints a table, and adds it with
//! the date and the machine to a page of the documentation. The load generator shares the machine,
//! so rates are what is left for the server; CPU time for each row is the figure to compare.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports to the person at the terminal")]
#![allow(clippy::disallowed_methods, reason = "an outside client has the wall clock and nothing else")]

mod drive;
mod process;
mod query;
mod requests;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use weir_testkit::oracle::server::Server;

use crate::drive::{Measured, Pace, Scenario};
use crate::requests::Shape;

/// Measures a Weir server.
#[derive(Debug, Parser)]
struct Options {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// The `weir` program, optimised
    #[arg(long)]
    weir: PathBuf,
    /// Markdown file the table is added to
    #[arg(long)]
    report: Option<PathBuf>,
    /// How long each scenario is measured, after a warm-up of a fifth of it
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Rows to query
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
    /// Directory for the data; on the disk to be measured
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// How much a row costs
    Ingest,
    /// How long questions take
    Query,
    /// How long acknowledgements take at a fixed rate
    Latency,
}

const INGEST: &[Scenario] = &[
    Scenario {
        name: "/ingest, 100 events a request, 16 connections",
        shape: Shape::Events { rows: 100 },
        connections: 16,
        pace: Pace::Full,
    },
    Scenario {
        name: "/ingest, 1 event a request, 200 connections",
        shape: Shape::Events { rows: 1 },
        connections: 200,
        pace: Pace::Full,
    },
    Scenario {
        name: "OTLP gRPC, 1000 logs a request, 8 connections",
        shape: Shape::Logs { rows: 1000 },
        connections: 8,
        pace: Pace::Full,
    },
];

const LATENCY: &[Scenario] = &[Scenario {
    name: "/ingest, 20,000 events/s in requests of 100",
    shape: Shape::Events { rows: 100 },
    connections: 16,
    pace: Pace::RowsPerSecond(20_000),
}];

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.context("cannot start").and_then(|runtime| runtime.block_on(run(&options))) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.dir).with_context(|| format!("cannot make {}", options.dir.display()))?;
    let scratch = tempfile::tempdir_in(&options.dir).context("cannot make a scratch directory")?;
    let mut table = match options.what {
        What::Ingest => measure_all(options, scratch.path(), INGEST).await?,
        What::Latency => measure_all(options, scratch.path(), LATENCY).await?,
        What::Query => query::measure(&options.weir, scratch.path(), options.rows).await?,
    };
    table.insert_str(0, &format!("\n## {:?}, {}\n\n{}\n\n", options.what, process::today()?, process::machine()));
    println!("{table}");
    if let Some(report) = &options.report {
        let mut text = match std::fs::read_to_string(report) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                "# Benchmarks\n\nWritten by `cargo xtask bench`, newest last.\n".to_owned()
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", report.display())),
        };
        text.push_str(&table);
        std::fs::write(report, text).with_context(|| format!("cannot write {}", report.display()))?;
    }
    Ok(())
}

async fn measure_all(options: &Options, scratch: &std::path::Path, scenarios: &[Scenario]) -> Result<String> {
    let mut table = Measured::HEADER.to_owned();
    for (number, scenario) in scenarios.iter().enumerate() {
        println!("{} ...", scenario.name);
        // A new server each, so that none pays for what another left behind.
        let folder = scratch.join(number.to_string());
        std::fs::create_dir(&folder)?;
        let mut server = Server::new(&options.weir, &folder, &folder.join("data"), "{}\n")?;
        server.start().await.with_context(|| server.log_end())?;
        let measured = drive::measure(&server, scenario, Duration::from_secs(options.seconds), &folder).await;
        let measured = measured.with_context(|| server.log_end())?;
        server.stop().await?;
        println!("{}", measured.row(scenario.name));
        table.push_str(&measured.row(scenario.name));
        table.push('\n');
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(table)
}
