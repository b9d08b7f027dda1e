//! The crash oracle: an independent client that kills Weir under load and compares what was
//! acknowledged with what is found.
//!
//! It knows Weir only by its command line and its wire protocols. Producers of every protocol send
//! numbered, checksummed rows at once; each acknowledgement is fsynced to a journal before the next
//! request. At a random moment the server is killed (or its file system loses power). After the
//! restart unanswered requests are sent again with the same ids, and then every row must be there
//! exactly once, unchanged and in order.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports to the person at the terminal")]
#![allow(clippy::disallowed_methods, reason = "an outside client has the wall clock and nothing else")]

mod bodies;
mod compare;
mod disk;
mod journal;
mod load;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weir_testkit::oracle::server;

use crate::load::{Load, Moment};

/// Small segments and frequent flushes, so that a short life meets all the dangerous moments.
const CONFIG: &str = include_str!("weir.yaml");

/// Kills a Weir server under load, again and again, and checks that it kept its promises.
#[derive(Debug, Parser)]
struct Options {
    /// The `weir` program to test
    #[arg(long)]
    weir: PathBuf,
    /// How often to kill it
    #[arg(long, default_value_t = 25)]
    cycles: u32,
    /// Cycles on one data directory, before a new one is begun
    #[arg(long, default_value_t = 13)]
    cycles_per_directory: u32,
    /// Seed of all choices; a random one is taken and printed if absent
    #[arg(long)]
    seed: Option<u64>,
    /// Cut the power of the file system instead of killing the process; needs root
    #[arg(long)]
    power_loss: bool,
    /// Keep the data directory and the journals of a failed run here
    #[arg(long, default_value = "target/crash-failure")]
    keep: PathBuf,
}

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| u64::from_le_bytes(weir_base::random::bytes()) >> 32);
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.context("cannot start").and_then(|runtime| runtime.block_on(run(&options, seed))) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}\nagain: weir-crash --weir {} --seed {seed}", options.weir.display());
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options, seed: u64) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut totals = Totals::default();
    let mut cycle = 0;
    while cycle < options.cycles {
        // A power cut is also tried on the first acknowledgement a directory ever gave, so those
        // directories are used up faster.
        let per_directory = if options.power_loss { 3 } else { options.cycles_per_directory };
        let cycles = per_directory.min(options.cycles - cycle);
        one_directory(options, &mut random, cycle, cycles, &mut totals).await?;
        cycle += cycles;
    }
    println!("{}", totals.summary(options, seed));
    Ok(())
}

/// A new data directory, and some cycles on it.
async fn one_directory(
    options: &Options,
    random: &mut ChaCha8Rng,
    first_cycle: u32,
    cycles: u32,
    totals: &mut Totals,
) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot make a scratch directory")?;
    let disk = disk::Disk::new(scratch.path(), options.power_loss)?;
    let config = config(totals.directories);
    totals.directories += 1;
    let mut server = server::Server::new(&options.weir, scratch.path(), &disk.data_dir(), &config)?;
    let outcome = async {
        totals.ready.push(server.start().await?);
        let mut load = Load::prepare(&server, scratch.path(), random.random()).await?;
        for cycle in first_cycle..first_cycle + cycles {
            let moment = moment(options, cycle - first_cycle, random);
            load.run(&server, moment, &disk).await.with_context(|| format!("cycle {cycle}, {moment:?}"))?;
            disk.cut_power()?;
            server.kill().await?;
            disk.restore()?;
            totals.ready.push(server.start().await.with_context(|| format!("restart after cycle {cycle}"))?);
            totals.retried +=
                load.retry(&server, &disk).await.with_context(|| format!("retries after cycle {cycle}"))?;
            let found = compare::compare(&server, &load).await.with_context(|| format!("after cycle {cycle}"))?;
            println!("cycle {cycle}: {found}");
            anyhow::ensure!(found.is_clean(), "cycle {cycle} broke a promise: {found}\n{}", found.examples());
            totals.rows = totals.rows_before + found.rows;
        }
        totals.rows_before = totals.rows;
        // Two quiet restarts, after which nothing half-made may be left.
        for _ in 0..2 {
            server.stop().await?;
            totals.ready.push(server.start().await?);
        }
        let found = compare::compare(&server, &load).await?;
        anyhow::ensure!(found.is_clean(), "quiet restarts broke a promise: {found}\n{}", found.examples());
        server.stop().await?;
        server::no_leftovers(&disk.data_dir())?;
        disk.check()
    }
    .await;
    if let Err(error) = outcome {
        server.kill().await?;
        // Unmounted before it is moved; the image holds everything.
        drop(disk);
        keep(scratch, options);
        return Err(error.context(server.log_end()));
    }
    Ok(())
}

/// How the server is configured: every other log has several shards.
fn config(directory: u32) -> String {
    let shards = if directory.is_multiple_of(2) { 1 } else { 3 };
    CONFIG.replace("log:\n", &format!("log:\n  shards: {shards}\n"))
}

/// When to strike: some special moments, otherwise anywhere in the first second and a half.
fn moment(options: &Options, in_directory: u32, random: &mut ChaCha8Rng) -> Moment {
    let after = Duration::from_millis(random.random_range(50..1500));
    match (options.power_loss, in_directory) {
        (true, 0) => Moment::FirstAcknowledgement,
        (true, 1) => Moment::AcknowledgementAfterNewSegment,
        _ => Moment::After(after),
    }
}

fn keep(scratch: tempfile::TempDir, options: &Options) {
    let from = scratch.keep();
    // On another file system it cannot be moved; then it stays where it is and is named.
    let moved = std::fs::remove_dir_all(&options.keep).is_ok() | std::fs::rename(&from, &options.keep).is_ok();
    let place = if moved && options.keep.exists() { &options.keep } else { &from };
    println!("data directory, server log and journals are kept in {}", place.display());
}

#[derive(Default)]
struct Totals {
    directories: u32,
    ready: Vec<Duration>,
    rows: u64,
    rows_before: u64,
    retried: u64,
}

impl Totals {
    fn summary(&self, options: &Options, seed: u64) -> String {
        let mut ready = self.ready.clone();
        ready.sort_unstable();
        let p99 = ready.get((ready.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
        format!(
            "{} cycles of {}: {} rows, {} requests retried, lost 0, doubled 0, phantom 0, damaged 0, out of order 0; \
             ready again p99 {:.2} s; seed {seed}",
            options.cycles,
            if options.power_loss { "power loss" } else { "kill -9" },
            self.rows,
            self.retried,
            p99.as_secs_f64()
        )
    }
}

/// Milliseconds since a moment, for log lines.
fn since(begin: Instant) -> u128 {
    begin.elapsed().as_millis()
}
