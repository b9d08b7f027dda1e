//! How soon the result of a window can be seen: the shipped server takes events over HTTP, a pipeline counts them in windows
//! into a stream, and somebody follows that stream.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};
use weir_testkit::oracle::server::Server;
use weir_testkit::report::figures::{Figures, Target};

use crate::run;
use crate::state::quantile;

/// What is promised of the results, the document, and the milliseconds in which they should be seen.
const DOCUMENTS: [(&str, &str, f64); 2] = [
    ("exactly once", include_str!("../../../tests/nexmark/latency.yaml"), 300.0),
    ("at least once", include_str!("../../../tests/nexmark/latency_at_least_once.yaml"), 100.0),
];
/// The length of a window in the documents.
const WINDOW_MS: u64 = 500;
const TENANT: &str = "bench";
const WINDOWS: usize = 200;
/// An event so often.
const EVERY: Duration = Duration::from_millis(5);

/// How long to wait before the stream is followed again.
const AGAIN: Duration = Duration::from_millis(100);

/// A line that came from whoever follows the stream, and when.
type Line = (SystemTime, String);

#[allow(clippy::disallowed_methods, reason = "an outside client has the wall clock and nothing else")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Somebody who follows a stream, until it is not needed any more.
struct Follower {
    child: Arc<Mutex<Child>>,
    is_over: Arc<AtomicBool>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        let mut child = self.child.lock();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn weir(program: &Path, data: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words).args(["--tenant", TENANT, "--data-dir"]).arg(data).stdin(Stdio::null());
    command
}

/// Follows the stream of results, which is there soon after the pipeline was applied: until then nobody can.
fn follow(program: &Path, data: &Path) -> Result<(Follower, Receiver<Line>)> {
    let mut tail = weir(program, data, &["tail", "latency_results"]);
    tail.stdout(Stdio::piped()).stderr(Stdio::null());
    let child = Arc::new(Mutex::new(tail.spawn().context("cannot run weir tail")?));
    let is_over = Arc::new(AtomicBool::new(false));
    let (sender, lines) = sync_channel(1 << 16);
    let follower = Follower { child: Arc::clone(&child), is_over: Arc::clone(&is_over) };
    std::thread::spawn(move || {
        loop {
            let output = child.lock().stdout.take();
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines().map_while(Result::ok)) {
                if sender.send((now(), line)).is_err() {
                    return;
                }
            }
            std::thread::sleep(AGAIN);
            let mut child = child.lock();
            if is_over.load(Ordering::Acquire) {
                return;
            }
            let _ = child.wait();
            match tail.spawn() {
                Ok(next) => *child = next,
                Err(_) => return,
            }
        }
    });
    Ok((follower, lines))
}

/// How soon results can be seen, with each promise.
pub(crate) fn measure(program: &Path, folder: &Path) -> Result<Figures> {
    let mut figures = Figures::default();
    for (at, (promise, document, target)) in DOCUMENTS.into_iter().enumerate() {
        let own = folder.join(at.to_string());
        std::fs::create_dir(&own)?;
        let mut latencies = latencies(program, &own, document).with_context(|| promise.to_owned())?;
        figures.add(format!("windows, {promise}"), latencies.len() as f64, "windows");
        let p50 = quantile(&mut latencies, 0.5);
        figures.add(format!("event in to result seen, {promise}, p50"), p50, "ms");
        let p99 = quantile(&mut latencies, 0.99);
        figures.compare(format!("event in to result seen, {promise}, p99"), p99, "ms", Target::AtMost(target));
    }
    figures.remark(
        "From before the request with the first event after the end of a window is sent, until whoever follows the stream of \
         results (`weir tail`) has the result: durable in the log, read, counted, committed, and sent out. Windows of 500 ms, \
         lateness and disorder 0; checkpoints when the pipeline thinks best.",
    );
    Ok(figures)
}

/// Sends events and takes the time from the first one after the end of a window to the result of that window.
fn latencies(program: &Path, folder: &Path, document: &str) -> Result<Vec<Duration>> {
    let data = folder.join("data");
    let runtime = run::runtime(1)?;
    let mut server = Server::new(program, folder, &data, "")?;
    runtime.block_on(server.start())?;
    let admin = [("authorization", format!("Bearer {}", server.admin_key))];
    let body = json!({ "id": TENANT, "name": TENANT, "tier": "enterprise" });
    runtime.block_on(server.http.json(&server.addresses.http, "/api/v1/tenants", &admin, &body))?;
    let path = folder.join("latency.yaml");
    std::fs::write(&path, document)?;
    let applied = weir(program, &data, &["pipeline", "apply"]).arg(&path).output()?;
    ensure!(applied.status.success(), "the pipeline was refused: {}", String::from_utf8_lossy(&applied.stderr));
    let (follower, lines) = follow(program, &data)?;

    let headers = [admin[0].clone(), ("x-weir-tenant", TENANT.to_owned())];
    // For each window, when the first event was sent that is not before its end.
    let mut closed: std::collections::BTreeMap<u64, SystemTime> = std::collections::BTreeMap::new();
    let mut latencies = Vec::new();
    let begun = now();
    while latencies.len() < WINDOWS {
        let sent = now();
        let end = millis(sent) / WINDOW_MS * WINDOW_MS;
        closed.entry(end).or_insert(sent);
        let event = json!({ "events": [{ "type": "custom", "name": "tick", "timestamp": millis(sent) }] });
        runtime.block_on(server.http.json(&server.addresses.http, "/ingest", &headers, &event))?;
        while let Ok((came, line)) = lines.try_recv() {
            let row: Value = serde_json::from_str(&line).context("a line of the tail is not JSON")?;
            if let Some(sent) = end_of(&row).and_then(|end| closed.get(&end)) {
                latencies.push(came.duration_since(*sent).unwrap_or_default());
            }
        }
        ensure!(
            begun.elapsed()? < Duration::from_secs(600),
            "only {} results came\n{}",
            latencies.len(),
            server.log_end()
        );
        std::thread::sleep(EVERY.saturating_sub(sent.elapsed().unwrap_or_default()));
    }
    drop(follower);
    runtime.block_on(server.stop())?;
    // The first windows have the start of the pipeline in them.
    Ok(latencies.split_off(10))
}

/// When the window of a result ended, in milliseconds since 1970.
fn end_of(row: &Value) -> Option<u64> {
    // Its time is where its window begins.
    let start: jiff::Timestamp = row.get("time")?.as_str()?.parse().ok()?;
    u64::try_from(start.as_millisecond()).ok().map(|start| start + WINDOW_MS)
}
