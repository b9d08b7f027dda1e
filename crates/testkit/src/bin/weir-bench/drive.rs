//! Drives a scenario and measures the server meanwhile.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use weir_testkit::oracle::server::{Addresses, Server, walk};
use weir_testkit::oracle::wire::{Answer, Grpc, Http};

use crate::process::{self, Cpu};
use crate::requests::{Bodies, Shape};

const TENANT: &str = "bench";

/// How fast to send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// The next request as soon as the last is answered.
    Full,
    /// By the clock, whether the server keeps up or not: waiting for a slow answer must not hide it.
    RowsPerSecond(u64),
}

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) connections: u64,
    pub(crate) pace: Pace,
}

/// What was measured.
pub(crate) struct Measured {
    rows: u64,
    elapsed: Duration,
    cpu: Cpu,
    threads: Vec<(String, Duration)>,
    latencies: Vec<Duration>,
    fdatasync_p99: Duration,
    rss_peak_mb: u64,
    disk_bytes: u64,
    rows_ever: u64,
}

impl Measured {
    pub(crate) const HEADER: &str = "\
| scenario | rows/s acknowledged | µs CPU a row (user + system) | rows per CPU-second | ack p50 / p99 / p99.9 ms | fdatasync p99 ms | RSS peak MB | bytes on disk a row (log and tables) | CPU by thread |
|---|---|---|---|---|---|---|---|---|
";

    pub(crate) fn row(&self, name: &str) -> String {
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / self.rows.max(1) as f64;
        let total = self.cpu.total().as_secs_f64();
        let percentile = |fraction: f64| percentile(&self.latencies, fraction).as_secs_f64() * 1e3;
        let threads = self.threads.iter().filter(|(_, time)| *time > Duration::from_millis(100));
        let threads: Vec<String> = threads.map(|(name, time)| format!("{name} {:.2} µs", micros(*time))).collect();
        format!(
            "| {name} | {:.0} | {:.2} ({:.2} + {:.2}) | {:.0} | {:.2} / {:.2} / {:.2} | {:.2} | {} | {:.0} | {} |",
            self.rows as f64 / self.elapsed.as_secs_f64(),
            micros(self.cpu.total()),
            micros(self.cpu.user),
            micros(self.cpu.system),
            self.rows as f64 / total.max(1e-9),
            percentile(0.5),
            percentile(0.99),
            percentile(0.999),
            self.fdatasync_p99.as_secs_f64() * 1e3,
            self.rss_peak_mb,
            self.disk_bytes as f64 / self.rows_ever.max(1) as f64,
            threads.join(", ")
        )
    }
}

pub(crate) fn percentile(sorted: &[Duration], fraction: f64) -> Duration {
    let index = ((sorted.len() as f64 * fraction).ceil() as usize).saturating_sub(1);
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// A tenant without limits, and a key of it that may send and ask.
pub(crate) async fn tenant(server: &Server) -> Result<String> {
    let admin = [("authorization", format!("Bearer {}", server.admin_key))];
    let address = &server.addresses.http;
    let body = json!({ "id": TENANT, "name": TENANT, "tier": "enterprise" });
    server.http.json(address, "/api/v1/tenants", &admin, &body).await?;
    let body = json!({ "scopes": ["ingest", "query"] });
    let answer = server.http.json(address, &format!("/api/v1/tenants/{TENANT}/keys"), &admin, &body).await?;
    Ok(answer["key"].as_str().context("the answer has no key")?.to_owned())
}

/// Shared by all senders of a scenario.
#[derive(Default)]
pub(crate) struct Progress {
    stop: AtomicBool,
    measuring: AtomicBool,
    rows: AtomicU64,
    rows_measured: AtomicU64,
}

/// Runs a scenario: a warm-up, then the measurement.
pub(crate) async fn measure(server: &Server, scenario: &Scenario, time: Duration, folder: &Path) -> Result<Measured> {
    let key = tenant(server).await?;
    let process_id = server.process_id().context("the server does not run")?;
    let progress = Arc::new(Progress::default());
    let begin = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for connection in 0..scenario.connections {
        let sender = Sender {
            addresses: server.addresses.clone(),
            key: key.clone(),
            bodies: Bodies::new(scenario.shape, connection),
            shape: scenario.shape,
            http: Http::default(),
            grpc: Grpc::default(),
        };
        senders.spawn(sender.run(Arc::clone(&progress), schedule(scenario, connection, begin)));
    }
    tokio::time::sleep(time / 5).await;
    let (cpu, threads) = (process::cpu(process_id)?, process::cpu_by_thread(process_id)?);
    progress.measuring.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    let file = folder.join("fdatasync");
    let syncs = tokio::task::spawn_blocking(move || sync_for(&file, time));
    let mut syncs = syncs.await??;
    progress.measuring.store(false, Ordering::Relaxed);
    let elapsed = begin.elapsed();
    let cpu = process::cpu(process_id)?.since(cpu);
    let threads_after = process::cpu_by_thread(process_id)?;
    let (rss_peak_mb, _) = process::memory_mb(process_id)?;
    progress.stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    while let Some(sender) = senders.join_next().await {
        latencies.extend(sender??);
    }
    latencies.sort_unstable();
    syncs.sort_unstable();
    let mut disk_bytes = 0;
    walk(&folder.join("data"), &mut |path| {
        let is_file_of_rows = path.extension().is_some_and(|extension| extension == "seg" || extension == "parquet");
        disk_bytes += if is_file_of_rows { path.metadata().map_or(0, |metadata| metadata.len()) } else { 0 };
    })?;
    let spent = |(name, after): (String, Duration)| {
        let before = threads.get(&name).copied().unwrap_or_default();
        (name, after.saturating_sub(before))
    };
    Ok(Measured {
        rows: progress.rows_measured.load(Ordering::Relaxed),
        elapsed,
        cpu,
        threads: threads_after.into_iter().map(spent).collect(),
        latencies,
        fdatasync_p99: percentile(&syncs, 0.99),
        rss_peak_mb,
        disk_bytes,
        rows_ever: progress.rows.load(Ordering::Relaxed),
    })
}

/// When a connection's requests are due, if by the clock: the first moment and the distance.
fn schedule(scenario: &Scenario, connection: u64, begin: Instant) -> Option<(Instant, Duration)> {
    let Pace::RowsPerSecond(rows) = scenario.pace else { return None };
    let requests_per_second = rows as f64 / scenario.shape.rows() as f64;
    let every = Duration::from_secs_f64(scenario.connections as f64 / requests_per_second);
    Some((begin + every.mul_f64(connection as f64 / scenario.connections as f64), every))
}

/// What an fdatasync of 64 KiB costs on the same disk in the same minute; a few a second, so that
/// they do not disturb what is measured.
fn sync_for(path: &Path, time: Duration) -> Result<Vec<Duration>> {
    let mut file = std::fs::File::create(path)?;
    let block = vec![7_u8; 64 << 10];
    let (begin, mut taken) = (Instant::now(), Vec::new());
    while begin.elapsed() < time {
        file.write_all(&block)?;
        let before = Instant::now();
        file.sync_data()?;
        taken.push(before.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(file);
    std::fs::remove_file(path)?;
    Ok(taken)
}

/// One connection.
struct Sender {
    addresses: Addresses,
    key: String,
    bodies: Bodies,
    shape: Shape,
    http: Http,
    grpc: Grpc,
}

impl Sender {
    async fn run(mut self, progress: Arc<Progress>, schedule: Option<(Instant, Duration)>) -> Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        let mut due = schedule.map(|(first, _)| first);
        while !progress.stop.load(Ordering::Relaxed) {
            let body = self.bodies.next();
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
            // Late requests count from when they were due.
            let begin = due.unwrap_or_else(Instant::now);
            let answer = self.send(body).await?;
            let took = begin.elapsed();
            due = due.zip(schedule).map(|(due, (_, every))| due + every);
            match answer {
                Answer::Acknowledged(_) => {
                    let rows = self.shape.rows() as u64;
                    progress.rows.fetch_add(rows, Ordering::Relaxed);
                    if progress.measuring.load(Ordering::Relaxed) {
                        progress.rows_measured.fetch_add(rows, Ordering::Relaxed);
                        latencies.push(took);
                    }
                }
                Answer::Later(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Answer::Unanswered(reason) => anyhow::bail!("a request was not answered: {reason}"),
            }
        }
        Ok(latencies)
    }

    async fn send(&mut self, body: bytes::Bytes) -> Result<Answer> {
        let bearer = ("authorization", format!("Bearer {}", self.key));
        match self.shape {
            Shape::Events { .. } => {
                let json = ("content-type", "application/json".to_owned());
                self.http.post(&self.addresses.http, "/ingest", &[bearer, json], body).await
            }
            Shape::Logs { .. } => {
                let method = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
                self.grpc.call(&self.addresses.otlp_grpc, method, &[bearer], &body).await
            }
        }
    }
}

/// Sends rows of a shape until there are so many.
pub(crate) async fn fill(server: &Server, key: &str, shape: Shape, rows: u64) -> Result<()> {
    let mut senders = tokio::task::JoinSet::new();
    let left = Arc::new(AtomicU64::new(rows / shape.rows() as u64));
    for connection in 0..8 {
        let mut sender = Sender {
            addresses: server.addresses.clone(),
            key: key.to_owned(),
            bodies: Bodies::new(shape, connection),
            shape,
            http: Http::default(),
            grpc: Grpc::default(),
        };
        let left = Arc::clone(&left);
        senders.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let body = sender.bodies.next();
                loop {
                    match sender.send(body.clone()).await? {
                        Answer::Acknowledged(_) => break,
                        Answer::Later(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                        Answer::Unanswered(reason) => anyhow::bail!("a request was not answered: {reason}"),
                    }
                }
            }
            Ok(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(())
}
