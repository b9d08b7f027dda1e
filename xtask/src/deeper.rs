//! Commands that only call something else: generated pages, simulation, fuzzing, benchmarks.

use crate::arguments::Arguments;
use crate::{Result, dist, nexmark, process, root};

/// `cargo xtask gen`: the pages of docs/ that come from the code.
pub(crate) fn generate(arguments: &mut Arguments) -> Result<()> {
    let check = arguments.flag("--check");
    arguments.end()?;
    process::run(process::build_binaries())?;
    if check {
        return check_generated();
    }
    process::run(reference(&[]))?;
    // The pages of the HTTP API are kept fresh by a test of the server, which also writes them.
    let mut pages = process::cargo(&["test", "--quiet", "--workspace", "--lib", "--", "the_pages_are_fresh"]);
    pages.env("WEIR_GEN", "1");
    process::run(pages)
}

/// The committed pages are what the built `weir` would write.
pub(crate) fn check_generated() -> Result<()> {
    process::output(reference(&["--check"])).map(|_| ())
}

fn reference(more: &[&str]) -> std::process::Command {
    let mut command = process::command(process::built("debug", "weir"), &["reference", "--dir"]);
    command.arg(root().join("docs/src/reference")).args(more);
    command
}

/// `cargo xtask sim`: the simulated crashes of the normal test run, with more seeds; or all the damage
/// of which it does a part.
pub(crate) fn simulate(arguments: &mut Arguments) -> Result<()> {
    let seeds = arguments.number("--seeds", 100)?;
    let first = arguments.number("--first", 0)?;
    let every_bit = arguments.flag("--every-bit");
    arguments.end()?;
    if every_bit {
        let mut command = process::cargo(&["test", "--workspace", "--", "every_"]);
        command.env("WEIR_EVERY_BIT", "1");
        return process::run(command);
    }
    let mut command = process::cargo(&["test", "--workspace", "--", "crash"]);
    command.env("WEIR_SIM_SEEDS", seeds.to_string()).env("WEIR_SIM_FIRST_SEED", first.to_string());
    process::run(command)
}

/// `cargo xtask fuzz`: one reader, or all of them in turn. Takes cargo-fuzz and the compiler that is
/// there: the flags it needs are not stable, and `RUSTC_BOOTSTRAP` allows them to a stable one.
pub(crate) fn fuzz(arguments: &mut Arguments) -> Result<()> {
    let name = arguments.word();
    let seconds = arguments.number("--seconds", 60)?;
    let sanitizer = arguments.option("--sanitizer")?.unwrap_or_else(|| "address".to_owned());
    arguments.end()?;
    if !process::exists("cargo-fuzz") {
        return Err("cargo-fuzz is not installed: `cargo install cargo-fuzz`; the collected inputs run in the normal \
             tests without it"
            .to_owned());
    }
    let cargo_fuzz = |words: &[&str]| {
        let mut command = process::cargo(&[&["fuzz"], words].concat());
        command.env("RUSTC_BOOTSTRAP", "1");
        command
    };
    let list = process::output(cargo_fuzz(&["list"]))?;
    let targets: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let chosen: Vec<&str> = match &name {
        None => targets,
        Some(name) if targets.contains(&name.as_str()) => vec![name],
        Some(name) => return Err(arguments.wrong(&format!("no fuzz target {name}; there are {}", targets.join(", ")))),
    };
    for target in chosen {
        println!("▶ {target}, {seconds} s");
        // What a run collects stays out of the committed corpus, which it only begins with.
        let collected = root().join("fuzz/target/corpus").join(target);
        std::fs::create_dir_all(&collected)
            .map_err(|error| format!("cannot create {}: {error}", collected.display()))?;
        let (collected, committed) = (collected.display().to_string(), format!("fuzz/corpus/{target}"));
        let time = format!("-max_total_time={seconds}");
        let limits = ["--", &time, "-rss_limit_mb=512", "-malloc_limit_mb=64", "-timeout=5"];
        let words = ["run", "--sanitizer", &sanitizer, target, &collected, &committed];
        process::run(cargo_fuzz(&[words.as_slice(), &limits].concat()))?;
    }
    Ok(())
}

/// What `weir-bench` can measure, and what `weir-nexmark` does.
const BENCHES: [&str; 8] = ["ingest", "query", "latency", "memory", "idle", "disk", "start", STREAM];
const STREAM: &str = "stream";

/// `cargo xtask bench`: the optimised server, driven from another process. `all` is one after the other.
pub(crate) fn bench(arguments: &mut Arguments) -> Result<()> {
    let what = arguments.word().unwrap_or_default();
    let chosen: Vec<&str> = BENCHES.into_iter().filter(|known| what == "all" || what == *known).collect();
    if chosen.is_empty() {
        return Err(arguments.wrong(&format!("bench what? {} or all", BENCHES.join(", "))));
    }
    let only = if what == STREAM { arguments.option("--only")? } else { None };
    let shipped = arguments.flag("--shipped");
    arguments.end()?;
    let weir = if shipped { dist::built()? } else { process::built("release", "weir") };
    process::run(process::cargo(&["build", "--release", "--workspace", "--bins"]))?;
    let report = root().join("docs/benchmarks.md");
    for what in chosen {
        if what == STREAM {
            nexmark::bench(&weir, &report, &crate::target().join("bench"), only.as_deref())?;
            continue;
        }
        let mut command = process::command(process::built("release", "weir-bench"), &[what, "--weir"]);
        command.arg(&weir).arg("--report").arg(&report);
        if what == "query" {
            command.arg("--stock").arg(process::built("release", "weir-stock"));
        }
        command.arg("--dir").arg(crate::target().join("bench"));
        process::run(command)?;
    }
    Ok(())
}
