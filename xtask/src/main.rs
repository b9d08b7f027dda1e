//! `cargo xtask`: everything a developer runs, from a bare checkout to a demo or a full test run.
//!
//! It stands on the standard library alone, so it starts at once. What needs Weir's own code is a
//! subcommand of `weir` or a binary of `testkit` that this calls.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person at the terminal")]
#![allow(clippy::disallowed_methods, reason = "it times builds; Weir's clock seam is for Weir")]

mod abuse;
mod arguments;
mod clients;
mod coverage;
mod crash;
mod deeper;
mod demo;
mod dependencies;
mod dist;
mod http;
mod kafka;
mod nexmark;
mod process;
mod server;
mod services;
mod signal;
mod stages;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use arguments::Arguments;

/// What went wrong, for the person at the terminal.
pub(crate) type Result<T> = std::result::Result<T, String>;

const HELP: &str = "\
cargo xtask COMMAND

  demo       build Weir, start it with live data of three tenants, and say how to look at it
               --dev            the unoptimised build, as the tests use it
               --data-dir DIR   default: weir-data
               --rate ROWS      rows a second, default 1000
               --duration TIME  stop by itself, such as 30s
               --check          also check that the data is there, and again after a restart
  test       everything: style, lints, unit and integration tests, demo, crashes, real clients, Kafka
  check      fmt, tidy, clippy, tests
  quick      fmt, tidy, clippy and tests of the crates changed since the last commit (or --since REF)
  tidy       the rules that no compiler checks; --bless shrinks the list of large files
  crash      kill the server under load, restart, compare: --cycles N (25), --seed S, --power-loss
  abuse      full disk, bombs, slow and greedy senders, a stop under load: --only NAME
  clients    real SDKs against a server: --only NAME
  kafka      pipelines on real Kafka brokers, killed and stopped: --cycles N (8), --brokers N (3), --only NAME, --seed S,
             --tls (builds with OpenSSL and tries that, too);
             takes Java and Maven
  gen        write the generated pages of docs/; --check only compares
  sim        simulated crashes over a faulty disk: --seeds N (100), --first M; or --every-bit: all damage of
             one bit, cut or misplaced block that small files can have, of which the tests do a part
  fuzz       fuzz a decoder or reader: NAME --seconds N (60) --sanitizer NAME (address, or none); without a
             name all of them
  bench      measure: ingest | query | latency | memory | idle | disk | start | stream | all; stream takes Python
             (and Java with Maven, to measure Flink beside Weir), and --only q5,q7,kafka
             --shipped        the program `dist` has built, in place of `cargo build --release`
  dist       build the program that is shipped: once to count, at work, what runs how often, and once with these
             counts; takes twice the time of a release build (and Java with Maven, for Kafka)
  services   up | down: the real services the tests use, for trying things by hand: Kafka brokers on loopback
             (--brokers N, 3; --topics a,b)

Exit codes: 0 all well, 1 something failed, 2 wrong arguments.";

fn main() -> ExitCode {
    if coverage::is_rustc_wrapper() {
        return coverage::wrap_rustc();
    }
    let mut arguments = Arguments::new(std::env::args().skip(1));
    let command = arguments.word().unwrap_or_default();
    let outcome = match command.as_str() {
        "demo" => demo::run(&mut arguments),
        "test" => test::everything(&arguments),
        "check" => test::check(&arguments),
        "quick" => test::quick(&mut arguments),
        "tidy" => tidy::run(&mut arguments),
        "crash" => crash::run(&mut arguments),
        "abuse" => abuse::run(&mut arguments),
        "clients" => clients::run(&mut arguments),
        "kafka" => kafka::run(&mut arguments),
        "gen" => deeper::generate(&mut arguments),
        "sim" => deeper::simulate(&mut arguments),
        "fuzz" => deeper::fuzz(&mut arguments),
        "dist" => dist::run(&mut arguments),
        "bench" => deeper::bench(&mut arguments),
        "services" => services::run(&mut arguments),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        "" => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
        unknown => Err(arguments.wrong(&format!("no command `{unknown}`; `cargo xtask help` lists them"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::from(if arguments.are_wrong() { 2 } else { 1 })
        }
    }
}

/// The root of the checkout: as `cargo run` says now, because checkouts that share a target directory
/// share this program too.
pub(crate) fn root() -> PathBuf {
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(manifest_dir).parent().map(PathBuf::from).unwrap_or_default()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where xtask keeps logs and what it installs; under [`target`], so `cargo clean` removes it.
pub(crate) fn scratch() -> PathBuf {
    target().join("xtask")
}

/// Whether this is a CI run, where what is missing is a failure and not a shrug.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}
