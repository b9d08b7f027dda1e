//! Measures the shipped program from another process: CPU time of the server for each row and by what
//! it was for, the rate it acknowledges at, how long acknowledgements take, memory and its growth,
//! bytes on disk, and the time of a start.
//!
//! It drives one scenario after the other over the real protocols, prints the figures beside their
//! targets, and adds them with the date and the machine to a page of the documentation. The load
//! generator shares the machine, so rates are what is left for the server; CPU time for each row is
//! the figure to compare, and the best of several runs is the one least disturbed.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports to the person at the terminal")]
#![allow(clippy::disallowed_methods, reason = "an outside client has the wall clock and nothing else")]

mod counts;
mod disk;
mod drive;
mod memory;
mod process;
mod query;
mod requests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use weir_testkit::oracle::server::Server;
use weir_testkit::report::{self, figures::Figures};

use crate::drive::{Measured, Pace, Scenario, Targets};
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
    /// The `weir-stock` program, optimised: stock DataFusion is asked what `query` asks, too
    #[arg(long)]
    stock: Option<PathBuf>,
    /// Markdown file the figures are added to
    #[arg(long)]
    report: Option<PathBuf>,
    /// How long each scenario is measured; by default 20 s after a warm-up, memory 600 s
    #[arg(long)]
    seconds: Option<u64>,
    /// Runs of each scenario of `ingest` and `latency`; the best counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only scenarios whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Rows to query, or to compact
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
    /// Gigabytes of table files to start with
    #[arg(long, default_value_t = 10.0)]
    gigabytes: f64,
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
    /// How much memory it takes, and whether it grows
    Memory,
    /// What it takes when nobody sends
    Idle,
    /// What merging costs, and how large tables are
    Disk,
    /// How soon it is ready with much data
    Start,
}

const INGEST: &[Scenario] = &[
    Scenario {
        name: "/ingest, 100 events a request, 16 connections",
        shape: Shape::Events { rows: 100 },
        connections: 16,
        pace: Pace::Full,
        targets: Targets { receiving: None, to_parquet: Some(2.5), ack_p50: None },
    },
    Scenario {
        name: "/ingest, 1 event a request, 200 connections",
        shape: Shape::Events { rows: 1 },
        connections: 200,
        pace: Pace::Full,
        targets: Targets { receiving: None, to_parquet: Some(15.0), ack_p50: None },
    },
    Scenario {
        name: "OTLP gRPC, 1000 logs a request, 8 connections",
        shape: Shape::Logs { rows: 1000 },
        connections: 8,
        pace: Pace::Full,
        targets: Targets { receiving: Some(1.2), to_parquet: Some(2.4), ack_p50: None },
    },
];

const LATENCY: &[Scenario] = &[Scenario {
    name: "/ingest, 20,000 events/s in requests of 100, 16 connections",
    shape: Shape::Events { rows: 100 },
    connections: 16,
    pace: Pace::RowsPerSecond(20_000),
    targets: Targets { receiving: None, to_parquet: None, ack_p50: Some(3.0) },
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
    let mut bench = Bench { options, scratch: scratch.path(), tables: Vec::new(), folders: 0 };
    match options.what {
        What::Ingest => bench.scenarios(INGEST).await?,
        What::Latency => bench.scenarios(LATENCY).await?,
        What::Query => {
            let table = query::measure(&options.weir, options.stock.as_deref(), scratch.path(), options.rows).await?;
            bench.tables.push(table);
        }
        What::Memory => bench.memory().await?,
        What::Idle => bench.idle().await?,
        What::Disk => bench.disk().await?,
        What::Start => bench.start().await?,
    }
    let text = report::section(&format!("{:?}", options.what), &bench.tables.join("\n"))?;
    if let Some(report) = &options.report {
        report::add(report, &text)?;
    }
    Ok(())
}

/// What is measured, one scenario after the other.
struct Bench<'a> {
    options: &'a Options,
    scratch: &'a Path,
    tables: Vec<String>,
    folders: usize,
}

impl Bench<'_> {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.options.only)
    }

    fn seconds(&self, default: u64) -> Duration {
        Duration::from_secs(self.options.seconds.unwrap_or(default))
    }

    /// An empty folder for a new server: none pays for what another left behind.
    fn folder(&mut self) -> Result<PathBuf> {
        self.folders += 1;
        let folder = self.scratch.join(self.folders.to_string());
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }

    fn done(&mut self, name: &str, figures: &Figures, folder: &Path) -> Result<()> {
        let table = figures.table(name);
        println!("{table}");
        self.tables.push(table);
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
    }

    async fn scenarios(&mut self, scenarios: &[Scenario]) -> Result<()> {
        for scenario in scenarios.iter().filter(|scenario| scenario.name.contains(&self.options.only)) {
            let mut best: Option<Measured> = None;
            let mut runs = Vec::new();
            for _ in 0..self.options.runs.max(1) {
                println!("{} ...", scenario.name);
                let folder = self.folder()?;
                let mut server = Server::new(&self.options.weir, &folder, &folder.join("data"), drive::CONFIG)?;
                server.start().await.with_context(|| server.log_end())?;
                let measured = drive::measure(&server, scenario, self.seconds(20), &folder).await;
                let measured = measured.with_context(|| server.log_end())?;
                server.stop().await?;
                std::fs::remove_dir_all(&folder)?;
                println!("  {:.2} µs a row", measured.micros_a_row);
                runs.push(format!("{:.2}", measured.micros_a_row));
                if best.as_ref().is_none_or(|best| measured.micros_a_row < best.micros_a_row) {
                    best = Some(measured);
                }
            }
            if let Some(Measured { mut figures, .. }) = best {
                figures.remark(format!("CPU a row of all runs: {} µs; the best is shown.", runs.join(", ")));
                let folder = self.folder()?;
                self.done(scenario.name, &figures, &folder)?;
            }
        }
        Ok(())
    }

    async fn memory(&mut self) -> Result<()> {
        for load in memory::LOADS {
            if !self.wants(load.name) {
                continue;
            }
            println!("{} ...", load.name);
            let folder = self.folder()?;
            let figures = memory::measure(&self.options.weir, &folder, load, self.seconds(600)).await?;
            self.done(load.name, &figures, &folder)?;
        }
        Ok(())
    }

    async fn idle(&mut self) -> Result<()> {
        let folder = self.folder()?;
        let figures = memory::idle(&self.options.weir, &folder, self.seconds(30)).await?;
        self.done("idle, 20 tenants with data", &figures, &folder)
    }

    async fn disk(&mut self) -> Result<()> {
        let rows = self.options.rows;
        for (name, shape, of_json) in
            [("events", Shape::Events { rows: 100 }, 14.0), ("logs", Shape::Logs { rows: 1000 }, 8.0)]
        {
            if !self.wants(name) {
                continue;
            }
            println!("{rows} {name} ...");
            let folder = self.folder()?;
            let figures = disk::compaction(&self.options.weir, &folder, shape, rows, of_json).await?;
            self.done(&format!("{name} after merging"), &figures, &folder)?;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        let folder = self.folder()?;
        let figures = disk::start(&self.options.weir, &folder, self.options.gigabytes).await?;
        self.done("start with data", &figures, &folder)
    }
}
