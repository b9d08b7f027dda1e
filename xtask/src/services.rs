//! `cargo xtask services up|down`: the real services the tests use, on loopback, in a scratch folder. Tests start
//! their own; these are for trying things by hand.

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::{Result, kafka, process, scratch, signal};

const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// `cargo xtask services`.
pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    let word = arguments.word().unwrap_or_default();
    let brokers = arguments.number("--brokers", 3)?;
    let topics = arguments.option("--topics")?.unwrap_or_default();
    arguments.end()?;
    match word.as_str() {
        "up" => up(brokers, &topics),
        "down" => down(),
        _ => Err(arguments.wrong("services up or services down?")),
    }
}

/// Where the brokers' addresses stand while they run. Whoever takes it away stops them.
fn addresses() -> PathBuf {
    scratch().join("services").join("kafka.brokers")
}

fn up(brokers: u64, topics: &str) -> Result<()> {
    if let Some(there) = running(&addresses()) {
        println!("Kafka runs already: {there}");
        return Ok(());
    }
    process::run(process::build_binaries())?;
    let there = start(&process::built("debug", "weir-kafka"), brokers, topics)?;
    println!("Kafka: {there}\nStop it with `cargo xtask services down`.");
    Ok(())
}

/// Starts brokers with `program`, which is `weir-kafka`, and answers with their addresses. `topics`, separated by commas, are made.
pub(crate) fn start(program: &Path, brokers: u64, topics: &str) -> Result<String> {
    let file = addresses();
    // They end with the file below, and they are somebody's.
    if let Some(there) = running(&file) {
        return Err(format!("brokers run already at {there}; stop them with `cargo xtask services down`"));
    }
    let libraries = kafka::libraries()?;
    let folder = file.parent().unwrap_or(&file);
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // Left by brokers that are gone.
    remove(&file)?;
    let log_path = folder.join("kafka.log");
    let log = File::create(&log_path).map_err(|error| format!("{}: {error}", log_path.display()))?;
    let errors = log.try_clone().map_err(|error| error.to_string())?;
    let mut command = process::command(program, &["--hold"]);
    command.arg(&file).arg("--libs").arg(libraries).args(["--brokers", &brokers.to_string()]);
    if !topics.is_empty() {
        command.args(["--topics", topics]);
    }
    // A group of its own: it goes on when this command has ended, and Ctrl-C is not for it.
    command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors);
    let mut child = command.spawn().map_err(|error| process::cannot_start(&command, &error))?;
    let begun = Instant::now();
    loop {
        if let Some(there) = running(&file) {
            return Ok(there);
        }
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        if ended.is_some() || begun.elapsed() > START_TIMEOUT {
            // With its brokers, which are in its group.
            signal::kill_group(&child);
            let said = std::fs::read_to_string(&log_path).unwrap_or_default();
            return Err(format!("Kafka does not start; {} says:\n{said}", log_path.display()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Stops what [`start`] started, and waits for it.
pub(crate) fn down() -> Result<()> {
    let file = addresses();
    let Some(there) = running(&file) else {
        remove(&file)?;
        println!("no service runs");
        return Ok(());
    };
    remove(&file)?;
    let begun = Instant::now();
    while first_answers(&there) {
        if begun.elapsed() > STOP_TIMEOUT {
            return Err(format!("the brokers at {there} still answer"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("Kafka has stopped");
    Ok(())
}

/// The addresses of the brokers, if they run.
fn running(file: &Path) -> Option<String> {
    let brokers = std::fs::read_to_string(file).ok()?;
    first_answers(&brokers).then_some(brokers)
}

fn first_answers(brokers: &str) -> bool {
    brokers.split(',').next().is_some_and(|first| TcpStream::connect(first).is_ok())
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", file.display())),
        _ => Ok(()),
    }
}
