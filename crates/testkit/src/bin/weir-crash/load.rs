//! Producers: each sends its rows in order, one request at a time, until the server stops answering.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::bodies::{Protocol, Rows, encode};
use crate::disk::Disk;
use crate::journal::Journal;
use crate::since;
use weir_testkit::oracle::server::{Addresses, Server};
use weir_testkit::oracle::wire::{Answer, Grpc, Http};

const TENANTS: [&str; 2] = ["crash-a", "crash-b"];
/// Producers of each protocol in each tenant.
const PRODUCERS: usize = 2;
/// How long to go on trying a request after a restart.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// When to strike.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// After this long under load.
    After(Duration),
    /// Right after the first acknowledgement of this run.
    FirstAcknowledgement,
    /// Right after the first acknowledgement that follows the making of a new log segment.
    AcknowledgementAfterNewSegment,
}

/// A request whose outcome is not known.
struct Pending {
    body: Bytes,
    key: String,
    first: u64,
    n_rows: u64,
}

/// One sender.
pub(crate) struct Producer {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    /// Rows below this were sent and, after the retries, acknowledged.
    pub(crate) n_rows: u64,
    key: String,
    random: ChaCha8Rng,
    pending: Option<Pending>,
    grpc: Grpc,
    http: Http,
}

/// All senders, and what they were promised.
pub(crate) struct Load {
    pub(crate) producers: Vec<Producer>,
    pub(crate) admin_key: String,
    journal: Arc<Journal>,
}

impl Load {
    /// Makes tenants, keys and producers.
    pub(crate) async fn prepare(server: &Server, scratch: &Path, seed: u64) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut producers = Vec::new();
        let admin = [("authorization", format!("Bearer {}", server.admin_key))];
        for tenant in TENANTS {
            let address = &server.addresses.http;
            let body = json!({ "id": tenant, "name": tenant, "tier": "enterprise" });
            server.http.json(address, "/api/v1/tenants", &admin, &body).await?;
            let path = format!("/api/v1/tenants/{tenant}/keys");
            let body = json!({ "scopes": ["ingest"] });
            let answer = server.http.json(address, &path, &admin, &body).await?;
            let key = answer["key"].as_str().context("the answer has no key")?;
            for protocol in Protocol::ALL {
                for number in 0..PRODUCERS {
                    producers.push(Producer {
                        tenant: tenant.to_owned(),
                        name: format!("{}-{number}", protocol.name()),
                        protocol,
                        n_rows: 0,
                        key: key.to_owned(),
                        random: ChaCha8Rng::seed_from_u64(random.random()),
                        pending: None,
                        grpc: Grpc::default(),
                        http: Http::default(),
                    });
                }
            }
        }
        Ok(Self { producers, admin_key: server.admin_key.clone(), journal: Arc::new(Journal::create(scratch)?) })
    }

    /// Sends from all producers at once until the moment has come; then strikes.
    pub(crate) async fn run(&mut self, server: &Server, moment: Moment, disk: &Disk) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for mut producer in self.producers.drain(..) {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let (addresses, journal) = (server.addresses.clone(), Arc::clone(&self.journal));
            let is_off = disk.is_off();
            tasks.spawn(async move {
                let outcome = producer.send_until(&addresses, &journal, &is_off, &stop, &acknowledged).await;
                (producer, outcome)
            });
        }
        let waited = wait_for(moment, server, &acknowledged).await;
        // The strike itself comes now, while requests are under way; only then are producers told,
        // who will find out anyhow.
        disk.cut_power()?;
        if !disk.is_real() {
            server.strike()?;
        }
        stop.store(true, Ordering::Relaxed);
        let mut outcomes = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            let (producer, outcome) = joined.context("a producer panicked")?;
            self.producers.push(producer);
            outcomes.push(outcome);
        }
        self.producers.sort_by(|one, other| (&one.tenant, &one.name).cmp(&(&other.tenant, &other.name)));
        outcomes.into_iter().collect::<Result<Vec<()>>>()?;
        waited
    }

    /// Sends every unanswered request again, unchanged; returns how many there were.
    pub(crate) async fn retry(&mut self, server: &Server, disk: &Disk) -> Result<u64> {
        let is_off = disk.is_off();
        let mut n_requests = 0;
        for producer in &mut self.producers {
            n_requests += u64::from(producer.pending.is_some());
            let begin = Instant::now();
            while producer.pending.is_some() {
                let answer = producer.send_pending(&server.addresses, &self.journal, &is_off).await?;
                if let Some(problem) = answer {
                    ensure!(begin.elapsed() < RETRY_TIMEOUT, "a retry is still not answered: {problem}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        Ok(n_requests)
    }
}

async fn wait_for(moment: Moment, server: &Server, acknowledged: &AtomicU64) -> Result<()> {
    let begin = Instant::now();
    let patience = Duration::from_secs(30);
    let next_acknowledgement = async || {
        let before = acknowledged.load(Ordering::Relaxed);
        while acknowledged.load(Ordering::Relaxed) == before {
            ensure!(begin.elapsed() < patience, "no acknowledgement after {} ms of load", since(begin));
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    match moment {
        Moment::After(time) => tokio::time::sleep(time).await,
        Moment::FirstAcknowledgement => {
            if acknowledged.load(Ordering::Relaxed) == 0 {
                next_acknowledgement().await?;
            }
        }
        Moment::AcknowledgementAfterNewSegment => {
            let segments = server.n_segments();
            while server.n_segments() <= segments {
                ensure!(begin.elapsed() < patience, "no new segment after {} ms of load", since(begin));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            next_acknowledgement().await?;
        }
    }
    Ok(())
}

impl Producer {
    async fn send_until(
        &mut self,
        addresses: &Addresses,
        journal: &Journal,
        is_off: &AtomicBool,
        stop: &AtomicBool,
        acknowledged: &AtomicU64,
    ) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            if self.pending.is_none() {
                self.pending = Some(self.next_request()?);
            }
            match self.send_pending(addresses, journal, is_off).await? {
                None => {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                // Refused or unanswered: most likely the strike. A moment's rest, then the same again.
                Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        Ok(())
    }

    fn next_request(&mut self) -> Result<Pending> {
        // Mostly small requests, sometimes large ones.
        let n_rows = if self.random.random_ratio(1, 10) { 200 } else { self.random.random_range(1..20) };
        let time_ns = u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos())?;
        let rows = Rows { tenant: &self.tenant, producer: &self.name, first: self.n_rows, n_rows, time_ns };
        let body = encode(self.protocol, &rows);
        let key = format!("{}-{}-{}", self.tenant, self.name, self.n_rows);
        Ok(Pending { body, key, first: self.n_rows, n_rows })
    }

    /// Sends the request under way. `None`: acknowledged. Otherwise why not.
    ///
    /// What is said without power does not count (see [`crate::disk`]).
    async fn send_pending(
        &mut self,
        addresses: &Addresses,
        journal: &Journal,
        is_off: &AtomicBool,
    ) -> Result<Option<String>> {
        let Some(pending) = &self.pending else { return Ok(None) };
        let bearer = ("authorization", format!("Bearer {}", self.key));
        let idempotency = ("idempotency-key", pending.key.clone());
        let json = ("content-type", "application/json".to_owned());
        let protobuf = ("content-type", "application/x-protobuf".to_owned());
        let body = pending.body.clone();
        let answer = match self.protocol {
            Protocol::Ingest => self.http.post(&addresses.http, "/ingest", &[bearer, json], body).await?,
            Protocol::Segment => self.http.post(&addresses.http, "/v1/batch", &[bearer, json], body).await?,
            Protocol::OtlpHttpLogs => {
                let headers = [bearer, protobuf, idempotency];
                self.http.post(&addresses.otlp_http, "/v1/logs", &headers, body).await?
            }
            Protocol::OtlpGrpcLogs => {
                let method = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
                self.grpc.call(&addresses.otlp_grpc, method, &[bearer, idempotency], &body).await?
            }
            Protocol::OtlpGrpcSpans => {
                let method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
                self.grpc.call(&addresses.otlp_grpc, method, &[bearer, idempotency], &body).await?
            }
        };
        match answer {
            Answer::Later(reason) | Answer::Unanswered(reason) => Ok(Some(reason)),
            Answer::Acknowledged(_) if is_off.load(Ordering::SeqCst) => Ok(Some("the power is off".to_owned())),
            Answer::Acknowledged(body) => {
                check_reply(self.protocol, &body, pending.n_rows)?;
                journal.acknowledged(&self.tenant, &self.name, pending.first, pending.n_rows)?;
                self.n_rows = pending.first + pending.n_rows;
                self.pending = None;
                Ok(None)
            }
        }
    }
}

/// Every row is accounted for in the reply: received = stored + deduplicated + rejected, none rejected.
fn check_reply(protocol: Protocol, body: &[u8], n_rows: u64) -> Result<()> {
    match protocol {
        Protocol::Ingest => {
            let reply: Value = serde_json::from_slice(body).context("the reply of /ingest")?;
            let count = |name: &str| reply[name].as_u64().unwrap_or(u64::MAX);
            let sum = count("stored").saturating_add(count("deduplicated")).saturating_add(count("rejected"));
            ensure!(
                count("received") == n_rows && sum == n_rows && count("rejected") == 0,
                "the reply does not account for {n_rows} rows: {reply}"
            );
        }
        Protocol::Segment => {
            let reply: Value = serde_json::from_slice(body).context("the reply of /v1/batch")?;
            ensure!(reply["success"] == json!(true), "the reply is {reply}");
        }
        // An empty message: no partial success, so everything was taken.
        _ => ensure!(body.is_empty() || body == [0x0a, 0x00], "a partial success: {body:02x?}"),
    }
    Ok(())
}
