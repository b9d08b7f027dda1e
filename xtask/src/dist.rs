//! `cargo xtask dist`: the program that is shipped.
//!
//! It is built twice. The first one counts how often each of its branches is taken, and is put to work: it receives,
//! stores, merges, answers and runs pipelines. The second one is laid out by these counts: what runs often is fast and stands
//! together, what never ran is small (profile-guided optimisation, <https://doc.rust-lang.org/rustc/profile-guided-optimization.html>).
//! Counts are not kept in the repository: they belong to the compiler and to the versions of all dependencies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::stages::captured;
use crate::{Result, coverage, process, root, server, services, target};

/// Where the brokers of the documents in `tests/training` are.
const BROKERS: &str = "TRAINING_BROKERS";
/// How long rows are carried from topic to topic.
const FROM_TOPIC_TO_TOPIC: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// What the server does while it counts: arguments of `weir-bench`.
const WORK: [(&str, &[&str]); 4] = [
    ("ingest", &["--runs", "1", "--seconds", "8"]),
    ("latency", &["--runs", "1", "--seconds", "5"]),
    ("memory", &["--only", "200 tenants", "--seconds", "20"]),
    ("query", &["--rows", "1000000"]),
];

/// `cargo xtask dist`.
pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    arguments.end()?;
    let tools = coverage::tools()?;
    let begun = Instant::now();
    let counts = folder().join("counts");
    let counting = folder().join("counting");
    println!("▶ the program that counts");
    // The build's own helpers count, too, but nobody wants to know.
    let flags = format!("-Cprofile-generate={}", counts.display());
    let counting = build(&counting, &flags, |command| command.env("LLVM_PROFILE_FILE", "/dev/null"))?;
    println!("▶ what puts it to work");
    process::run(process::cargo(&["build", "--release", "--package", "weir-testkit", "--bins"]))?;
    // Counts of another program would be taken for those of this one.
    match std::fs::remove_dir_all(&counts) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {error}", counts.display()));
        }
        _ => {}
    }
    work(&counting)?;
    println!("▶ the program that is shipped");
    let merged = merge(&tools.profdata, &counts)?;
    let flags = format!("-Cprofile-use={}", merged.display());
    build(&folder(), &flags, |command| command)?;
    println!("{} ({} min)", built()?.display(), begun.elapsed().as_secs() / 60);
    Ok(())
}

/// The program, if it was built.
pub(crate) fn built() -> Result<PathBuf> {
    let program = folder().join("release/weir");
    match program.exists() {
        true => Ok(program),
        false => Err("it was not built yet: cargo xtask dist".to_owned()),
    }
}

fn folder() -> PathBuf {
    target().join("dist")
}

/// Builds `weir` with flags of its own, in a folder of its own, so that the builds of others stay as they are.
fn build(folder: &Path, flags: &str, with: impl FnOnce(&mut Command) -> &mut Command) -> Result<PathBuf> {
    let mut command = process::cargo(&["build", "--release", "--package", "weir"]);
    // As set by whoever builds, which would otherwise be replaced.
    let others = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.env("RUSTFLAGS", format!("{others} {flags}").trim()).env("CARGO_TARGET_DIR", folder);
    with(&mut command);
    process::run(command)?;
    Ok(folder.join("release/weir"))
}

/// Lets the program that counts do everything that should be fast.
fn work(weir: &Path) -> Result<()> {
    let scratch = folder().join("work");
    let problem = |error: std::io::Error| format!("{}: {error}", scratch.display());
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).map_err(problem)?;
    }
    std::fs::create_dir_all(&scratch).map_err(problem)?;
    for (what, arguments) in WORK {
        println!("▶ at work: {what}");
        let mut command = process::command(process::built("release", "weir-bench"), &[what, "--weir"]);
        command.arg(weir).arg("--dir").arg(&scratch).args(arguments);
        captured(&format!("dist-{what}"), command)?;
    }
    println!("▶ at work: pipelines");
    for name in ["made.yaml", "windows.yaml"] {
        captured(&format!("dist-{name}"), pipeline(weir, &scratch, name)?)?;
    }
    match services::start(&process::built("release", "weir-kafka"), 1, "made,through") {
        Err(reason) => println!("what runs with Kafka is not counted: {reason}"),
        Ok(brokers) => {
            let outcome = from_topic_to_topic(weir, &scratch, &brokers);
            services::down()?;
            outcome?;
        }
    }
    std::fs::remove_dir_all(&scratch).map_err(problem)
}

/// `weir run` with a document of `tests/training`, whose files are in `scratch`.
fn pipeline(weir: &Path, scratch: &Path, name: &str) -> Result<Command> {
    let document = scratch.join(name);
    std::fs::copy(root().join("tests/training").join(name), &document)
        .map_err(|error| format!("{}: {error}", document.display()))?;
    let mut command = process::command(weir, &["run"]);
    command.arg(document).current_dir(scratch);
    Ok(command)
}

fn from_topic_to_topic(weir: &Path, scratch: &Path, brokers: &str) -> Result<()> {
    let mut made = pipeline(weir, scratch, "to_topic.yaml")?;
    made.env(BROKERS, brokers);
    captured("dist-to_topic.yaml", made)?;
    let mut through = pipeline(weir, scratch, "through.yaml")?;
    through.env(BROKERS, brokers);
    let mut child = through.spawn().map_err(|error| process::cannot_start(&through, &error))?;
    std::thread::sleep(FROM_TOPIC_TO_TOPIC);
    let early = child.try_wait().map_err(|error| error.to_string())?;
    // Counts are written by a program that ends in good order.
    match (early, server::stop(&mut child, STOP_TIMEOUT)) {
        (None, Some(_)) => Ok(()),
        (Some(status), _) => Err(format!("from topic to topic: it ended by itself: {status}")),
        (None, None) => Err("from topic to topic: it does not stop".to_owned()),
    }
}

fn merge(profdata: &Path, counts: &Path) -> Result<PathBuf> {
    let merged = folder().join("weir.profdata");
    let files = std::fs::read_dir(counts).map_err(|error| format!("{}: {error}", counts.display()))?;
    let mut merge = process::command(profdata, &["merge", "-o"]);
    merge.arg(&merged).args(files.flatten().map(|entry| entry.path()));
    process::output(merge)?;
    Ok(merged)
}
