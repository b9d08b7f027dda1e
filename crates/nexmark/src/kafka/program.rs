//! A program that reads one topic and writes another, watched from outside.
#![allow(clippy::disallowed_methods, reason = "an outside look has the wall clock and nothing else")]

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use weir_testkit::kafka::Cluster;

use super::{BIDS, PARTITIONS, Setting, topics};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What a program may take for all.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The unit of CPU time in `/proc`: hundredths of a second, wherever Linux runs.
const TICKS: f64 = 100.0;
/// What Java has to allow Flink.
const JAVA_OPTIONS: &[&str] = &[
    "-Xms3g",
    "-Xmx3g",
    "-XX:+UseParallelGC",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.time=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
];

/// How to run it.
pub(super) struct Program {
    pub(super) name: String,
    /// The topic it writes.
    pub(super) topic: String,
    /// The group that shows how far it has read.
    pub(super) group: String,
    command: PathBuf,
    words: Vec<OsString>,
    brokers: String,
    /// What it runs in, made anew for each run.
    folder: PathBuf,
    /// A file it finds there.
    file: Option<(&'static str, &'static str)>,
}

/// What a run took, of the part that is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) rows: f64,
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
    /// In bytes, of the whole run.
    pub(super) rss_peak: f64,
}

impl Measured {
    pub(super) fn rate(&self) -> f64 {
        self.rows / self.wall.as_secs_f64()
    }

    pub(super) fn cpu_rate(&self) -> f64 {
        self.rows / self.cpu.as_secs_f64()
    }
}

/// Ends it when it is not needed any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// `weir run` with a document.
    pub(super) fn weir(
        query: &str,
        program: &Path,
        document: &'static str,
        cluster: &Cluster,
        folder: &Path,
    ) -> Result<Self> {
        Ok(Self {
            name: "Weir".to_owned(),
            topic: format!("weir_{query}"),
            group: format!("weir.local.{query}_kafka"),
            command: std::path::absolute(program)?,
            // Anew, whatever a run before has noted in the brokers.
            words: ["run", "pipeline.yaml", "--state", "state", "--restart"].map(OsString::from).into(),
            brokers: cluster.brokers(),
            folder: folder.join(format!("weir-{query}")),
            file: Some(("pipeline.yaml", document)),
        })
    }

    /// Flink, used in one of two ways.
    pub(super) fn flink(
        name: &str,
        api: &str,
        query: &str,
        setting: &Setting,
        cluster: &Cluster,
        folder: &Path,
    ) -> Self {
        let topic = format!("{api}_{query}");
        let mut classes = setting.flink.join("build/classes").into_os_string();
        classes.push(":");
        classes.push(setting.flink.join("jars/*"));
        let mut words: Vec<OsString> = JAVA_OPTIONS.iter().map(OsString::from).collect();
        words.extend([OsString::from("-cp"), classes]);
        let arguments =
            ["dev.weir.nexmark.Main", api, query, &cluster.brokers(), BIDS, &topic, &PARTITIONS.to_string()];
        words.extend(arguments.map(OsString::from));
        Self {
            name: format!("Flink, {name}"),
            group: format!("flink-{topic}"),
            topic,
            command: setting.java.clone(),
            words,
            brokers: cluster.brokers(),
            folder: folder.join(format!("flink-{api}-{query}")),
            file: None,
        }
    }

    /// Runs it until all rows are committed. What is measured begins with the commit of `warm` rows.
    pub(super) fn run(&self, cluster: &Cluster, warm: i64, all: i64) -> Result<Measured> {
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder)?;
        }
        std::fs::create_dir_all(self.folder.join("tmp"))?;
        if let Some((name, text)) = self.file {
            std::fs::write(self.folder.join(name), text)?;
        }
        let log = File::create(self.folder.join("log"))?;
        let child = Command::new(&self.command)
            .args(&self.words)
            .current_dir(&self.folder)
            .env("NEXMARK_BROKERS", &self.brokers)
            .env("JAVA_TOOL_OPTIONS", format!("-Djava.io.tmpdir={}", self.folder.join("tmp").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", self.command.display()))?;
        let mut running = Running(child);
        let process = running.0.id();
        let mut progress = topics::Progress::of(cluster, &self.group, BIDS, PARTITIONS)?;
        let begun = Instant::now();
        let mut first: Option<(i64, Instant, Duration)> = None;
        loop {
            if let Some(status) = running.0.try_wait()? {
                bail!("it ended with {status}:\n{}", self.log_end());
            }
            let rows = progress.rows()?;
            let (now, cpu) = (Instant::now(), cpu_of(process)?);
            match first {
                None if rows >= warm => first = Some((rows, now, cpu)),
                Some((from, since, before)) if rows >= all => {
                    ensure!(rows > from, "all rows came with one checkpoint; it takes more of them");
                    topics::wait_for_end(cluster, &self.topic, PARTITIONS)?;
                    return Ok(Measured {
                        rows: (rows - from) as f64,
                        wall: now - since,
                        cpu: cpu.saturating_sub(before),
                        rss_peak: rss_peak_of(process)?,
                    });
                }
                _ => {}
            }
            ensure!(begun.elapsed() < TIMEOUT, "{rows} of {all} rows after {TIMEOUT:?}:\n{}", self.log_end());
            std::thread::sleep(LOOK);
        }
    }

    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// CPU time of a process so far, with that of threads that have ended.
fn cpu_of(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, which may have anything in it, ends with the last bracket.
    let (_, fields) = stat.rsplit_once(')').context("a stat without a name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS))
}

/// The most memory a process has had, in bytes.
fn rss_peak_of(process: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_time_and_memory() {
        let own = std::process::id();
        let begun = Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed() < Duration::from_secs(20) && cpu_of(own).unwrap() < Duration::from_millis(30) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        assert!(cpu_of(own).unwrap() >= Duration::from_millis(30));
        assert!(rss_peak_of(own).unwrap() > 1e5);
    }
}
