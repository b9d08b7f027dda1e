//! Abuse of the shipped program: a full disk, bombs, slow senders, a stop under load, a greedy
//! neighbour. Each scenario has a server of its own and asserts what Weir promises.
//!
//! Like the crash oracle it knows Weir only by its command line and its wire protocols.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports to the person at the terminal")]
#![allow(clippy::disallowed_methods, reason = "an outside client has the wall clock and nothing else")]

mod bombs;
mod drain;
mod full_disk;
mod neighbour;
mod pulse;
mod sender;
mod slow;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Abuses a Weir server in every way that comes to mind, and checks that it keeps its promises.
#[derive(Debug, Parser)]
struct Options {
    /// The `weir` program to test
    #[arg(long)]
    weir: PathBuf,
    /// Only this scenario
    #[arg(long, value_parser = SCENARIOS)]
    only: Option<String>,
}

const SCENARIOS: [&str; 5] = ["full_disk", "bombs", "slow", "drain", "neighbour"];

/// How a scenario ended, if well.
enum Outcome {
    /// The promises hold; a remark worth a line.
    Kept(String),
    /// It could not be tried here, and why.
    Skipped(String),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.context("cannot start").and_then(|runtime| runtime.block_on(run(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let mut failed = Vec::new();
    let mut kept = 0;
    let mut skipped = 0;
    for name in SCENARIOS {
        if options.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let begin = Instant::now();
        let outcome = match name {
            "full_disk" => Box::pin(full_disk::run(&options.weir)).await,
            "bombs" => Box::pin(bombs::run(&options.weir)).await,
            "slow" => Box::pin(slow::run(&options.weir)).await,
            "drain" => Box::pin(drain::run(&options.weir)).await,
            _ => Box::pin(neighbour::run(&options.weir)).await,
        };
        let seconds = begin.elapsed().as_secs_f64();
        match outcome {
            Ok(Outcome::Kept(remark)) => {
                kept += 1;
                println!("{name}: ok in {seconds:.1} s: {remark}");
            }
            // Where everything is meant to run, what does not run is a failure.
            Ok(Outcome::Skipped(reason)) if !in_ci() => {
                skipped += 1;
                println!("{name}: SKIPPED: {reason}");
            }
            Ok(Outcome::Skipped(reason)) => {
                failed.push(name);
                println!("{name}: FAILED: {reason}");
            }
            Err(error) => {
                failed.push(name);
                println!("{name}: FAILED after {seconds:.1} s: {error:#}");
            }
        }
    }
    if !failed.is_empty() {
        bail!("broken promises: {}", failed.join(", "));
    }
    println!(
        "{kept} scenarios, all promises kept{}",
        if skipped > 0 { format!("; {skipped} skipped") } else { String::new() }
    );
    Ok(())
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}
