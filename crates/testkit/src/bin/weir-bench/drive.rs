//! Sends at a server from many connections, and measures it meanwhile.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::task::JoinSet;
use weir_testkit::oracle::server::{Addresses, Server};
use weir_testkit::oracle::wire::{Answer, Grpc, Http};

use crate::counts::Counts;
use crate::process::{self, Spent};
use crate::requests::{Bodies, Shape};
use weir_testkit::report::figures::{Figures, Target};

/// How fast to send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// The next request as soon as the last is answered.
    Full,
    /// By the clock, whether the server keeps up or not: waiting for a slow answer must not hide it.
    RowsPerSecond(u64),
    /// By the clock, ten times as fast for five seconds of every thirty.
    Bursts(u64),
}

impl Pace {
    /// Rows a second, so long after the beginning; `None` for as fast as it goes.
    fn rate(self, after: Duration) -> Option<f64> {
        match self {
            Self::Full => None,
            Self::RowsPerSecond(rows) => Some(rows as f64),
            Self::Bursts(rows) => Some(rows as f64 * if after.as_secs() % 30 < 5 { 10.0 } else { 1.0 }),
        }
    }
}

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    pub(crate) targets: Targets,
}

/// What a scenario should reach; CPU time in microseconds a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Targets {
    /// Receiving, making durable and queryable: without the table writer.
    pub(crate) receiving: Option<f64>,
    /// The same with the table writer, up to the first sorted Parquet.
    pub(crate) to_parquet: Option<f64>,
    /// The median acknowledgement, in milliseconds; the 99th percentile is then compared with the disk.
    pub(crate) ack_p50: Option<f64>,
}

/// The settings the ingest figures are measured with: the defaults, but that rows of the last
/// seconds are written to files when sending has ended.
pub(crate) const CONFIG: &str = "tables:\n  flush_age: 5s\n";

/// One of the compared figures of a run: the less, the better the run.
pub(crate) struct Measured {
    pub(crate) figures: Figures,
    pub(crate) micros_a_row: f64,
}

pub(crate) fn percentile(sorted: &[Duration], fraction: f64) -> Duration {
    let index = ((sorted.len() as f64 * fraction).ceil() as usize).saturating_sub(1);
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// A tenant without limits, and a key of it that may send and ask.
pub(crate) async fn tenant(server: &Server, id: &str) -> Result<String> {
    let admin = [("authorization", format!("Bearer {}", server.admin_key))];
    let address = &server.addresses.http;
    let body = json!({ "id": id, "name": id, "tier": "enterprise" });
    server.http.json(address, "/api/v1/tenants", &admin, &body).await?;
    let body = json!({ "scopes": ["ingest", "query"] });
    let answer = server.http.json(address, &format!("/api/v1/tenants/{id}/keys"), &admin, &body).await?;
    Ok(answer["key"].as_str().context("the answer has no key")?.to_owned())
}

/// Connections that send.
pub(crate) struct Senders {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<Vec<Duration>>>,
}

/// What all senders share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    measuring: AtomicBool,
    rows: AtomicU64,
    refused: AtomicU64,
}

impl Senders {
    /// Starts to send; connections take the keys in turn.
    pub(crate) fn start(server: &Server, keys: &[String], shape: Shape, connections: usize, pace: Pace) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let begin = Instant::now();
        for connection in 0..connections {
            let sender = Sender {
                addresses: server.addresses.clone(),
                key: keys[connection % keys.len()].clone(),
                bodies: Bodies::new(shape, connection as u64),
                shape,
                http: Http::default(),
                grpc: Grpc::default(),
            };
            let place = connection as f64 / connections as f64;
            let clock = Clock { begin, pace, requests_a_row: 1.0 / (shape.rows() * connections) as f64 };
            tasks.spawn(sender.run(Arc::clone(&shared), clock, place));
        }
        Self { shared, tasks }
    }

    /// Rows acknowledged so far.
    pub(crate) fn rows(&self) -> u64 {
        self.shared.rows.load(Ordering::Relaxed)
    }

    /// Requests the server asked to send later.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Whether times of acknowledgements count from now on.
    pub(crate) fn measure(&self, measuring: bool) {
        self.shared.measuring.store(measuring, Ordering::Relaxed);
    }

    /// Fails if a sender has failed.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.and(Err(anyhow::anyhow!("a sender ended by itself"))),
        }
    }

    /// Ends sending; the times of all measured acknowledgements, sorted.
    pub(crate) async fn stop(mut self) -> Result<Vec<Duration>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut latencies = Vec::new();
        while let Some(sender) = self.tasks.join_next().await {
            latencies.extend(sender??);
        }
        latencies.sort_unstable();
        Ok(latencies)
    }
}

/// When requests of one connection are due.
#[derive(Clone, Copy)]
struct Clock {
    begin: Instant,
    pace: Pace,
    requests_a_row: f64,
}

impl Clock {
    /// From one request to the next, if by the clock.
    fn gap(&self, due: Instant) -> Option<Duration> {
        let rate = self.pace.rate(due.saturating_duration_since(self.begin))?;
        Some(Duration::from_secs_f64(1.0 / (rate * self.requests_a_row)))
    }
}

/// Runs a scenario: a warm-up, then the measurement, then the end of what is in the tail.
pub(crate) async fn measure(server: &Server, scenario: &Scenario, time: Duration, folder: &Path) -> Result<Measured> {
    let key = tenant(server, "bench").await?;
    let process_id = server.process_id().context("the server does not run")?;
    let mut senders = Senders::start(server, &[key], scenario.shape, scenario.connections, scenario.pace);
    tokio::time::sleep(time / 5).await;
    senders.check()?;

    let (spent, counts, rows) = (Spent::by(process_id)?, Counts::of(server).await?, senders.rows());
    senders.measure(true);
    let begin = Instant::now();
    let file = folder.join("fdatasync");
    let mut syncs = tokio::task::spawn_blocking(move || sync_for(&file, time)).await??;
    senders.measure(false);
    let elapsed = begin.elapsed();
    let acknowledged = (senders.rows() - rows) as f64;
    let sending = Spent::by(process_id)?.since(&spent);
    let refused = senders.refused();
    let latencies = senders.stop().await?;

    // The table writer works behind: its time counts until the last row is in a file.
    let counts_after = until_flushed(server).await?;
    let whole = Spent::by(process_id)?.since(&spent);
    let flushed = counts_after.table_rows - counts.table_rows;
    let log_bytes = counts_after.log_bytes - counts.log_bytes;
    let (rss_peak, _) = process::memory_mb(process_id)?;

    let micros = |time: Duration, rows: f64| time.as_secs_f64() * 1e6 / rows.max(1.0);
    let receiving = micros(sending.receiving(), acknowledged);
    let writing = micros(whole.writing, flushed);
    let to_parquet = receiving + writing;
    let mut figures = Figures::default();
    let targets = scenario.targets;
    compare(&mut figures, "CPU a row, up to the first sorted Parquet", to_parquet, "µs", targets.to_parquet);
    compare(&mut figures, "CPU a row without the table writer", receiving, "µs", targets.receiving);
    figures.add("CPU a row of the table writer", writing, "µs");
    let per_second = 1e6 / to_parquet;
    match targets.to_parquet {
        Some(most) => figures.compare("rows per CPU-second", per_second, "rows", Target::AtLeast(1e6 / most)),
        None => figures.add("rows per CPU-second", per_second, "rows"),
    }
    for (name, time) in sending.threads.iter().filter(|(_, time)| **time >= elapsed / 200) {
        figures.add(format!("thread {name}, CPU a row"), micros(*time, acknowledged), "µs");
    }
    let system = sending.all.system.as_secs_f64() / sending.all.total().as_secs_f64().max(1e-9);
    figures.add("of all CPU time, in the kernel", system * 100.0, "%");
    figures.add("acknowledged", acknowledged / elapsed.as_secs_f64(), "rows/s");
    syncs.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let sync_p99 = millis(percentile(&syncs, 0.99));
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|fraction| millis(percentile(&latencies, fraction)));
    compare(&mut figures, "acknowledged after, p50", p50, "ms", targets.ack_p50);
    let p99_most = targets.ack_p50.map(|_| sync_p99 * 2.5 + 3.0);
    compare(&mut figures, "acknowledged after, p99", p99, "ms", p99_most);
    figures.add("acknowledged after, p99.9", p999, "ms");
    figures.add("fdatasync of 64 KiB in the same run, p99", sync_p99, "ms");
    figures.add("asked to send later", refused as f64, "requests");
    figures.add("rows a commit", acknowledged / (counts_after.commits - counts.commits).max(1.0), "rows");
    figures.add("RSS peak", rss_peak, "MB");
    figures.add("log, written a row", log_bytes / flushed.max(1.0), "B");
    figures.add(
        "table files a row, before they are compacted",
        counts_after.table_bytes / counts_after.table_rows.max(1.0),
        "B",
    );
    if counts_after.compacted_rows > counts.compacted_rows {
        let compacted = counts_after.compacted_rows - counts.compacted_rows;
        figures.add("CPU a row that was merged meanwhile", micros(whole.compacting, compacted), "µs");
    }
    Ok(Measured { figures, micros_a_row: to_parquet })
}

fn compare(figures: &mut Figures, what: &str, measured: f64, unit: &'static str, most: Option<f64>) {
    match most {
        Some(most) => figures.compare(what, measured, unit, Target::AtMost(most)),
        None => figures.add(what, measured, unit),
    }
}

/// Waits until no row of a measured tenant is in a tail.
pub(crate) async fn until_flushed(server: &Server) -> Result<Counts> {
    let begin = Instant::now();
    loop {
        let counts = Counts::of(server).await?;
        if counts.tail_rows == 0.0 {
            return Ok(counts);
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(120), "rows stay in the tail\n{}", server.log_end());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
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
    /// `place` spreads the connections over the time between two requests of one.
    async fn run(mut self, shared: Arc<Shared>, clock: Clock, place: f64) -> Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        let mut due = clock.gap(clock.begin).map(|gap| clock.begin + gap.mul_f64(place));
        while !shared.stop.load(Ordering::Relaxed) {
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
            let body = self.bodies.next();
            // Late requests count from when they were due.
            let begin = due.unwrap_or_else(Instant::now);
            let answer = self.send(body).await?;
            let took = begin.elapsed();
            due = due.and_then(|due| Some(due + clock.gap(due)?));
            match answer {
                Answer::Acknowledged(_) => {
                    shared.rows.fetch_add(self.shape.rows() as u64, Ordering::Relaxed);
                    if shared.measuring.load(Ordering::Relaxed) {
                        latencies.push(took);
                    }
                }
                Answer::Later(_) => {
                    shared.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Answer::Unanswered(reason) => anyhow::bail!("a request was not answered: {reason}"),
            }
        }
        Ok(latencies)
    }

    async fn send(&mut self, body: bytes::Bytes) -> Result<Answer> {
        let bearer = ("authorization", format!("Bearer {}", self.key));
        match self.shape {
            Shape::Events { .. } | Shape::LargeEvents { .. } => {
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

/// Sends about so many rows of a shape, as fast as the server takes them.
pub(crate) async fn fill(server: &Server, key: &str, shape: Shape, rows: u64) -> Result<()> {
    let mut senders = Senders::start(server, &[key.to_owned()], shape, 8, Pace::Full);
    while senders.rows() < rows {
        tokio::time::sleep(Duration::from_millis(100)).await;
        senders.check()?;
    }
    senders.stop().await.map(|_| ())
}
