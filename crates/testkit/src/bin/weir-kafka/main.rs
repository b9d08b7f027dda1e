//! The Kafka oracle: real brokers, the built `weir`, and an independent client that reads back what was committed.
//!
//! It knows Weir only by its command line. Numbered rows are sent to a topic; pipelines carry them on to a topic and
//! to files, or count them in windows, while their processes are killed, brokers go down and come back, and
//! processes are stopped for longer than their transactions may last. In the end every row must be there once, and
//! no transaction may be open.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports to the person at the terminal")]
#![allow(clippy::disallowed_methods, reason = "an outside client has the wall clock and nothing else")]

mod pipeline;
mod scenarios;
mod serving;
mod sharing;
mod topics;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use weir_testkit::kafka::{Cluster, Purpose};

/// Runs pipelines against real Kafka brokers, kills what can be killed, and checks that nothing is lost or doubled.
#[derive(Debug, Parser)]
struct Options {
    /// The `weir` program to test
    #[arg(long, required_unless_present = "hold")]
    weir: Option<PathBuf>,
    /// Try nothing: write the brokers' addresses to this file, and run them until it is gone
    #[arg(long)]
    hold: Option<PathBuf>,
    /// With `--hold`: topics to make first, with two partitions each
    #[arg(long, value_delimiter = ',')]
    topics: Vec<String>,
    /// The folder with the classes of Apache Kafka
    #[arg(long)]
    libs: PathBuf,
    /// The Java that runs them
    #[arg(long, default_value = "java")]
    java: PathBuf,
    /// How often the pipelines are killed
    #[arg(long, default_value_t = 8)]
    cycles: u32,
    /// How many brokers there are
    #[arg(long, default_value_t = 3)]
    brokers: usize,
    /// The `weir` was built with `kafka-tls`: try that, too
    #[arg(long)]
    tls: bool,
    /// Only scenarios whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Seed of all choices; a random one is taken and printed if absent
    #[arg(long)]
    seed: Option<u64>,
    /// Keep what pipelines and brokers wrote of a failed run here
    #[arg(long, default_value = "target/kafka-failure")]
    keep: PathBuf,
}

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    if let Some(file) = &options.hold {
        return ended(hold(&options, file));
    }
    let Some(weir) = &options.weir else { return ended(Err(anyhow::anyhow!("--weir is missing"))) };
    let seed = options.seed.unwrap_or_else(|| u64::from_le_bytes(weir_base::random::bytes()) >> 32);
    println!("seed {seed}");
    let outcome = run(&options, weir, seed);
    if outcome.is_err() {
        println!("again: weir-kafka --weir {} --libs {} --seed {seed}", weir.display(), options.libs.display());
    }
    ended(outcome)
}

fn ended(outcome: Result<String>) -> std::process::ExitCode {
    match outcome {
        Ok(summary) => {
            println!("{summary}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Brokers for whoever wants to try something by hand.
fn hold(options: &Options, file: &Path) -> Result<String> {
    let scratch = tempfile::tempdir().context("cannot make a scratch directory")?;
    let libs = std::path::absolute(&options.libs)?;
    let purpose = Purpose::Test;
    let cluster = Cluster::start(purpose, (&options.java, &libs), scratch.path(), options.brokers, options.tls)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for topic in &options.topics {
        runtime.block_on(topics::create(&cluster, topic, 2, &[]))?;
    }
    // Whoever waits for the file finds all of it.
    let whole = file.with_extension("new");
    std::fs::write(&whole, cluster.brokers()).with_context(|| format!("cannot write {}", whole.display()))?;
    std::fs::rename(&whole, file)?;
    while file.exists() {
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(cluster);
    Ok("stopped".to_owned())
}

fn run(options: &Options, weir: &Path, seed: u64) -> Result<String> {
    let scratch = tempfile::tempdir().context("cannot make a scratch directory")?;
    let outcome = run_in(options, weir, seed, scratch.path());
    if outcome.is_err() {
        let _ = std::fs::remove_dir_all(&options.keep);
        if let Some(parent) = options.keep.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let kept = scratch.keep();
        // The scratch directory may be on another file system; then it stays where it is.
        let place = if std::fs::rename(&kept, &options.keep).is_ok() { options.keep.clone() } else { kept };
        println!("kept in {}", place.display());
    }
    outcome
}

fn run_in(options: &Options, weir: &Path, seed: u64, scratch: &Path) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begun = Instant::now();
    let libs = std::path::absolute(&options.libs)?;
    let mut cluster = Cluster::start(Purpose::Test, (&options.java, &libs), scratch, options.brokers, options.tls)?;
    println!("{} brokers after {:.1} s", cluster.len(), begun.elapsed().as_secs_f64());
    let mut bench = scenarios::Bench {
        weir: std::path::absolute(weir)?,
        scratch: scratch.to_owned(),
        cluster: &mut cluster,
        runtime,
        random: ChaCha8Rng::seed_from_u64(seed),
        cycles: options.cycles,
    };
    let mut said = Vec::new();
    for (name, scenario) in scenarios::ALL {
        if options.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        if *name == "locked" && !options.tls {
            continue;
        }
        let begun = Instant::now();
        let line = scenario(&mut bench).with_context(|| name.to_string())?;
        println!("{name}: {line} ({:.1} s)", begun.elapsed().as_secs_f64());
        said.push(line);
    }
    anyhow::ensure!(!said.is_empty(), "no such scenario");
    Ok(said.join("; "))
}
