//! Measures pipelines with Nexmark: what an event costs in each query, in CPU time of the engine, beside what DataFusion
//! takes to group the same rows at once; and checks the results with DuckDB first.
//!
//! Events are in memory before a pipeline begins, in batches of 8,192 rows, and results are forgotten, so that neither
//! making events nor writing results is part of a figure. Everything else is as in `weir run`: the documents, the
//! checkpoints in a folder, event time.
#![allow(clippy::print_stdout, reason = "it reports to the person at the terminal")]

mod batch;
mod check;
mod events;
mod file;
mod kafka;
mod latency;
mod memory;
mod queries;
mod run;
mod state;
mod tables;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use weir_testkit::report::{
    self,
    figures::{Figures, number},
};

use crate::batch::Batch;
use crate::check::Checker;
use crate::memory::{Kept, TableEnds};
use crate::queries::{QUERIES, Query, SHARE_OF_BATCH};
use crate::run::Cost;
use crate::tables::Tables;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures pipelines with Nexmark.
#[derive(Debug, Parser)]
struct Options {
    /// Events to measure with; of 50 of them 46 are bids
    #[arg(long, default_value_t = 10_000_000)]
    events: u64,
    /// Events to check the results with
    #[arg(long, default_value_t = 500_000)]
    check_events: u64,
    /// Events in a second of event time
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// What the events depend on
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs of each query; the one that took the least CPU time counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Threads of the engine
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Only these, such as q5,q7; beside the queries there are `q0_ndjson`, `checkpoints`, `restart`, `latency` and
    /// `kafka`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A Python with DuckDB; without one results are not checked
    #[arg(long)]
    python: Option<PathBuf>,
    /// The program that compares, `tests/nexmark/check.py`
    #[arg(long, default_value = "tests/nexmark/check.py")]
    checker: PathBuf,
    /// Check and measure nothing
    #[arg(long)]
    only_check: bool,
    /// The program `weir` for what is measured from outside; otherwise the one beside this program
    #[arg(long)]
    weir: Option<PathBuf>,
    /// The folder with the classes of Apache Kafka; without it nothing is measured with Kafka
    #[arg(long, requires = "flink")]
    kafka: Option<PathBuf>,
    /// The folder with the classes of Apache Flink
    #[arg(long)]
    flink: Option<PathBuf>,
    /// The Java that runs both
    #[arg(long, default_value = "java")]
    java: PathBuf,
    /// Events to measure with from topic to topic
    #[arg(long, default_value_t = 5_000_000)]
    kafka_events: u64,
    /// Runs of each from topic to topic
    #[arg(long, default_value_t = 2)]
    kafka_runs: usize,
    /// Markdown file the figures are added to
    #[arg(long)]
    report: Option<PathBuf>,
    /// Directory for checkpoints and events
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
}

/// The name of the case of q0 that reads a file, and what it should reach.
const NDJSON: &str = "q0_ndjson";
const NDJSON_TARGET: f64 = 1.2e6;

/// The name of the case from topic to topic.
const KAFKA: &str = "kafka";

/// What is measured besides: name, title, how.
const OTHERS: &[(&str, &str, fn(&Options, &Path) -> Result<Figures>)] = &[
    ("checkpoints", "checkpoints with a million keys", |options, folder| state::pauses(options.seed, folder)),
    ("restart", "a restart with much state", |_, folder| state::restart(folder)),
    ("latency", "from an event to the result of a window in a stream", |options, folder| {
        latency::measure(&options.weir()?, folder)
    }),
];

impl Options {
    /// The program `weir` that is measured from outside.
    fn weir(&self) -> Result<PathBuf> {
        match &self.weir {
            Some(weir) => Ok(std::path::absolute(weir)?),
            None => batch::beside("weir").context("the program weir was not built"),
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn main() -> std::process::ExitCode {
    match run(&Options::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    std::fs::create_dir_all(&options.dir).with_context(|| format!("cannot make {}", options.dir.display()))?;
    let scratch = tempfile::tempdir_in(&options.dir).context("cannot make a scratch directory")?;
    let queries: Vec<&Query> = QUERIES.iter().filter(|query| options.wants(query.name)).collect();
    let mut remarks = Vec::new();
    match &options.python {
        Some(python) if !queries.is_empty() => {
            let tables = Tables::generate(options.seed, options.check_events, options.rate)?;
            let checker = Checker { python: python.clone(), program: options.checker.clone() };
            let folder = scratch.path().join("check");
            std::fs::create_dir(&folder)?;
            checker.check(&queries, &tables, &folder, options.threads)?;
            std::fs::remove_dir_all(&folder)?;
            remarks.push(format!("The results over {} events are those of DuckDB.", options.check_events));
        }
        _ => remarks.push("The results were not checked.".to_owned()),
    }
    if options.only_check {
        return Ok(());
    }
    let mut tables = Vec::new();
    if !queries.is_empty() || options.wants(NDJSON) {
        tables.push(measure(options, &queries, scratch.path(), &remarks)?);
    }
    for (name, title, measure) in OTHERS {
        if options.wants(name) {
            println!("{title} ...");
            let folder = tempfile::tempdir_in(scratch.path())?;
            let table = measure(options, folder.path())?.table(title);
            println!("{table}");
            tables.push(table);
        }
    }
    if options.wants(KAFKA)
        && let (Some(libs), Some(flink)) = (&options.kafka, &options.flink)
    {
        let folder = tempfile::tempdir_in(scratch.path())?;
        tables.push(kafka(options, libs, flink, folder.path())?);
    }
    anyhow::ensure!(!tables.is_empty(), "there is nothing of that name to measure");
    if let Some(report) = &options.report {
        report::add(report, &report::section("Stream", &tables.join("\n"))?)?;
    }
    Ok(())
}

/// From topic to topic, beside Flink.
fn kafka(options: &Options, libs: &Path, flink: &Path, folder: &Path) -> Result<String> {
    println!("from topic to topic ...");
    let setting = kafka::Setting {
        libs: std::path::absolute(libs)?,
        flink: std::path::absolute(flink)?,
        java: options.java.clone(),
        weir: options.weir()?,
        runs: options.kafka_runs,
    };
    let tables = Tables::generate(options.seed, options.kafka_events, options.rate)?;
    let table = kafka::measure(&setting, &tables, folder)?;
    println!("{table}");
    Ok(table)
}

/// Runs the queries one after the other, and puts the figures into a table.
fn measure(options: &Options, queries: &[&Query], scratch: &Path, remarks: &[String]) -> Result<String> {
    println!("making {} events ...", options.events);
    let tables = Tables::generate(options.seed, options.events, options.rate)?;
    let batch = match batch::beside("weir-stock") {
        Some(program) if queries.iter().any(|query| query.batch.is_some()) => {
            let rows = scratch.join("bid.arrow");
            tables.bid.to_arrow(&rows)?;
            Some(Batch { program, rows, n_rows: tables.bid.rows() })
        }
        _ => None,
    };
    let mut table = format!(
        "**Nexmark in memory, {} events, best of {} runs, {} thread(s), a checkpoint every 200 ms**\n\n\
         | query | events per CPU-second | target | of a batch `GROUP BY` | target | events | results | checkpoints |\n\
         |---|---|---|---|---|---|---|---|\n",
        number(options.events as f64),
        options.runs,
        options.threads
    );
    let verdict = |measured: f64, target: f64| if measured >= target { "reached" } else { "missed" };
    let mut add = |name: &str, cost: &Cost, target: Option<f64>, share: &str, share_target: &str| {
        let target = target.map(|target| format!("{}: {}", number(target), verdict(cost.rate(), target)));
        let line = format!(
            "| {name} | {} | {} | {share} | {share_target} | {} | {} | {} |\n",
            number(cost.rate()),
            target.unwrap_or_default(),
            number(cost.events as f64),
            number(cost.results as f64),
            cost.checkpoints
        );
        print!("{line}");
        table.push_str(&line);
    };
    for query in queries {
        let cost = best(options, query, &tables, scratch)?;
        let (mut share, mut share_target) = (String::new(), String::new());
        if let (Some(batch), Some(sql)) = (&batch, query.batch) {
            let of_batch = cost.rate() / batch.rate(sql)?;
            share = format!("{of_batch:.2}");
            share_target = format!("{SHARE_OF_BATCH}: {}", verdict(of_batch, SHARE_OF_BATCH));
        }
        add(query.name, &cost, query.target, &share, &share_target);
    }
    if options.wants(NDJSON) {
        let cost = file::best(&tables, scratch, options.runs, options.threads)?;
        add("q0 from NDJSON", &cost, Some(NDJSON_TARGET), "", "");
    }
    for remark in remarks {
        table.push_str(&format!("\n{remark}\n"));
    }
    table.push_str(
        "\nEvents are the rows a query reads; those of streams it does not read are not counted. A run that takes less than \
         200 ms has one checkpoint, at its end.\n",
    );
    for query in queries.iter().filter(|query| !query.remark.is_empty()) {
        table.push_str(&format!("\n- {}: {}.", query.name, query.remark));
    }
    table.push('\n');
    Ok(table)
}

/// The run that took the least CPU time.
fn best(options: &Options, query: &Query, tables: &Tables, scratch: &Path) -> Result<Cost> {
    let mut best: Option<Cost> = None;
    for _ in 0..options.runs.max(1) {
        let ends = TableEnds { tables: tables.by_name(), kept: Kept::default(), laps: None };
        let prepared = run::prepare(query.name, query.document, &ends)?;
        let folder = tempfile::tempdir_in(scratch)?;
        let cost = run::run(&prepared, folder.path(), options.threads).with_context(|| query.name)?;
        if best.as_ref().is_none_or(|best| cost.cpu < best.cpu) {
            best = Some(cost);
        }
    }
    best.context("no run")
}
