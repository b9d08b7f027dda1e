//! How soon results of a stream are seen in another, of a pipeline that says nothing about checkpoints; and that one to which
//! nothing comes writes nothing.
#![allow(clippy::print_stderr, reason = "what is measured is printed")]

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use weir_base::Clock;
use weir_base::clock::SystemClock;

use crate::program::{PATIENCE, Serving, until};
use crate::served_pipelines::Desk;
use crate::served_streams::post;

/// Counts by second of event time. The events are of earlier, so that each moves time on by itself.
fn counting(sink: &str, more: &str) -> String {
    format!(
        r#"
pipeline: soon
from: {{ stream: {{ name: events, quiet: 100h }}, watermark: 0s }}
steps:
  - window: {{ tumbling: 1s, select: {{ n: "count(*)" }} }}
to: [ {{ stream: {sink} }} ]
{more}
"#
    )
}

/// A server with such a pipeline.
struct Bench {
    desk: Desk,
    server: Serving,
    key: String,
    /// The event time of the first event, in milliseconds since 1970.
    first: u64,
    sent: u64,
}

impl Bench {
    fn new(document: &str) -> Self {
        let desk = Desk::new();
        let server = Serving::start(&desk.data_dir(), &[]);
        let desk = desk.with_tenant();
        let key = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "ingest,query"]).trim().to_owned();
        let file = desk.write("soon.yaml", document);
        desk.applies(&file, &[]);
        desk.wait_for("soon", "running");
        let first = u64::try_from(SystemClock::new().now().0 / 1_000_000).unwrap() - 10 * 3_600_000;
        Self { desk, server, key, first, sent: 0 }
    }

    /// Sends an event of the next second, which closes the one before.
    fn send(&mut self) {
        let at = self.first / 1000 * 1000 + self.sent * 1000;
        let event = json!({ "type": "click", "timestamp": at });
        let reply = post(&self.server, "/ingest", &self.key, &json!({ "events": [event] }).to_string());
        assert!(reply.starts_with("HTTP/1.1 2"), "{reply}");
        self.sent += 1;
    }

    /// How many windows there are, and how many different ones.
    fn windows(&self) -> (u64, u64) {
        let sql = json!({ "sql": "select count(*), count(distinct time) from soon" });
        let reply = post(&self.server, "/api/v1/query", &self.key, &sql.to_string());
        // Each row of an answer is a line, however it is cut on the way.
        let row = reply.lines().find(|line| line.starts_with('[') && line.ends_with(']'));
        row.and_then(|row| serde_json::from_str(row).ok()).unwrap_or_default()
    }

    /// How long it takes from sending an event until the window it closes is seen by SQL: of so many, the median and the
    /// longest but one in a hundred.
    fn latency(&mut self, rounds: u64) -> (Duration, Duration) {
        let clock = SystemClock::new();
        self.send();
        let mut taken = Vec::new();
        for _ in 0..rounds {
            let begun = clock.monotonic();
            self.send();
            while self.windows().1 < self.sent - 1 {
                assert!(clock.monotonic().saturating_sub(begun) < PATIENCE, "{:?} of {}", self.windows(), self.sent);
            }
            taken.push(clock.monotonic().saturating_sub(begun));
        }
        taken.sort_unstable();
        (taken[taken.len() / 2], taken[taken.len() * 99 / 100])
    }
}

/// `WEIR_LATENCY_ROUNDS` windows are measured; what they took is printed.
#[test]
fn windows_are_seen_soon_though_nobody_says_how_often_checkpoints_are_made() {
    let rounds = std::env::var("WEIR_LATENCY_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20);
    let mut bench = Bench::new(&counting("soon", ""));
    let (median, p99) = bench.latency(rounds);
    eprintln!("exactly once: p50 {median:?}, p99 {p99:?} of {rounds}");
    assert!(median < Duration::from_secs(2), "{median:?}");
    assert_eq!(bench.windows(), (bench.sent - 1, bench.sent - 1));
    assert_eq!(bench.server.stop(Signal::TERM), Some(0));
}

/// Nobody waits for a checkpoint of which there is none; and after kill -9 every window is there, some twice.
#[test]
fn at_least_once_needs_no_checkpoint_and_loses_nothing_by_a_kill() {
    let rounds = std::env::var("WEIR_LATENCY_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20);
    let mut bench = Bench::new(&counting("{ name: soon, delivery: at_least_once }", "checkpoint: { interval: 1h }"));
    let (median, p99) = bench.latency(rounds);
    eprintln!("at least once: p50 {median:?}, p99 {p99:?} of {rounds}");
    let sink = bench.desk.show("soon")["nodes"].as_array().unwrap().iter().find(|node| node["role"] == "sink").cloned();
    assert_eq!(sink.unwrap()["delivery"], "at least once");
    bench.server.signal(Signal::KILL);
    // Until it is gone its lock on the directory is not.
    bench.server.child.wait().unwrap();
    let data_dir = bench.desk.data_dir();
    drop(std::mem::replace(&mut bench.server, Serving::start(&data_dir, &[])));
    bench.send();
    let all = bench.sent - 1;
    until("all windows are there again", || (bench.windows() == (2 * all - 1, all)).then_some(()));
    assert_eq!(bench.server.stop(Signal::TERM), Some(0));
}

/// All files below a folder, with their sizes and when they were written.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let data = entry.metadata().unwrap();
        if data.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(format!("{} {:?}", entry.path().display(), data.modified().unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_pipeline_to_which_nothing_comes_leaves_its_files_alone() {
    let mut bench = Bench::new(&counting("soon", "checkpoint: { interval: 20ms }"));
    bench.latency(3);
    let folder = bench.desk.data_dir().join("pipelines").join("acme").join("soon");
    // What the last checkpoint makes superfluous goes after it.
    let clock = SystemClock::new();
    let mut before = files(&folder);
    let begun = clock.monotonic();
    let mut since = begun;
    while clock.monotonic().saturating_sub(since) < Duration::from_secs(2) {
        assert!(since < begun + PATIENCE, "{before:?}");
        std::thread::sleep(Duration::from_millis(50));
        let now = files(&folder);
        if now != before {
            (before, since) = (now, clock.monotonic());
        }
    }
    assert!(before.iter().any(|file| file.contains("epoch-")), "{before:?}");
    assert_eq!(bench.server.stop(Signal::TERM), Some(0));
}
