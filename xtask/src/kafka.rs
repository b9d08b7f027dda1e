//! `cargo xtask kafka`: real Kafka brokers, from their Maven artifacts, for the oracle `weir-kafka` of `testkit`.
//!
//! Nothing of Kafka is installed: Maven puts its jars into a folder under `target/xtask`, once a version, and a
//! Java that is there runs them on loopback.

use std::path::PathBuf;
use std::process::Command;

use crate::arguments::Arguments;
use crate::stages::{Outcome, captured};
use crate::{Result, in_ci, process, root, scratch, target};

/// The version of Kafka the tests run against.
const VERSION: &str = "4.1.0";

/// Kills of a normal run; `cargo xtask kafka --cycles N` does any number.
const CYCLES: u64 = 8;

/// `cargo xtask kafka`.
pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    let cycles = arguments.number("--cycles", CYCLES)?;
    let brokers = arguments.number("--brokers", 3)?;
    let (only, seed) = (arguments.option("--only")?, arguments.option("--seed")?);
    let tls = arguments.flag("--tls");
    arguments.end()?;
    let mut build = process::build_binaries();
    if tls {
        build.args(["--features", "weir/kafka-tls"]);
    }
    process::run(build)?;
    let mut command = oracle(cycles)?;
    if tls {
        command.arg("--tls");
    }
    command.args(["--brokers", &brokers.to_string()]);
    for (name, value) in [("--only", only), ("--seed", seed)] {
        if let Some(value) = value {
            command.args([name, &value]);
        }
    }
    process::run(command)
}

/// All scenarios, on three brokers.
pub(crate) fn all() -> Result<Outcome> {
    let command = match oracle(CYCLES) {
        Ok(command) => command,
        // What is not there at the desk is said and left out; CI has to have it.
        Err(reason) if !in_ci() => return Ok(Outcome::Skipped(reason)),
        Err(reason) => return Err(reason),
    };
    let output = captured("kafka", command)?;
    Ok(Outcome::Passed(output.lines().next_back().unwrap_or_default().to_owned()))
}

fn oracle(cycles: u64) -> Result<Command> {
    let libs = libraries()?;
    let mut command = process::command(process::built("debug", "weir-kafka"), &["--cycles", &cycles.to_string()]);
    command.arg("--weir").arg(process::built("debug", "weir")).arg("--libs").arg(libs);
    command.arg("--keep").arg(target().join("kafka-failure"));
    Ok(command)
}

/// The folder with Kafka's jars; fetched if they are not there.
pub(crate) fn libraries() -> Result<PathBuf> {
    // Java 17 is the oldest Kafka 4 runs on; `java -version` says nothing that is easy to compare.
    if !process::exists("java") {
        return Err("there is no java, which Kafka needs (17 or later)".to_owned());
    }
    let folder = scratch().join(format!("kafka-{VERSION}"));
    let whole = folder.join("whole");
    if whole.exists() {
        return Ok(folder);
    }
    if !process::exists("mvn") {
        return Err(format!("there is no mvn to fetch Kafka with, and no jars in {}", folder.display()));
    }
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut fetch = process::command("mvn", &["--quiet", "--batch-mode", "--file"]);
    fetch
        .arg(root().join("tests/kafka/pom.xml"))
        .arg(format!("-Dkafka.version={VERSION}"))
        .arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", folder.display()))
        .arg("-DincludeScope=runtime");
    captured("kafka-jars", fetch).map_err(|error| format!("cannot fetch Kafka: {error}"))?;
    std::fs::write(&whole, VERSION).map_err(|error| format!("{}: {error}", whole.display()))?;
    Ok(folder)
}
