//! What Weir says about itself: metrics for `/metrics`, usage for each tenant's `_usage` stream,
//! and both metrics and logs as rows of tenant `system`.

mod changes;
pub mod feed;
pub mod logs;
pub mod metrics;

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use weir_base::{TenantId, Timestamp};

use crate::ingest::{Envelope, Outcome};
use crate::middleware::{Observer, RequestEnd};
use metrics::{Counter, Family, Gauge, Histogram, Sample};

/// What one tenant did on one stream through one source since the last row of `_usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests, refused ones included.
    pub requests: u64,
    /// Bytes of bodies as they came over the wire.
    pub bytes: u64,
    /// Rows in the requests.
    pub rows_received: u64,
    /// Rows stored.
    pub rows_stored: u64,
    /// Rows refused.
    pub rows_rejected: u64,
    /// Rows that were stored before.
    pub rows_deduplicated: u64,
    /// Queries, failed ones included.
    pub queries: u64,
    /// Time queries took, in milliseconds.
    pub query_ms: u64,
    /// Rows queries returned.
    pub query_rows: u64,
}

/// Whose usage: tenant, stream, source.
pub type UsageKey = (TenantId, &'static str, &'static str);

/// The most usage keys kept between two rows; tenants times streams times sources stays below.
const USAGE_KEYS_MAX: usize = 100_000;

/// Every metric of the server, and the usage since the last flush.
#[derive(Debug)]
pub struct Telemetry {
    /// When the process began, for cumulative sums.
    pub started_at: Timestamp,
    /// Rows by tenant, stream, source and outcome (received, stored, rejected, deduplicated).
    pub ingest_rows: Family<Counter, 4>,
    /// Requests by tenant, source and outcome (accepted, failed).
    pub ingest_requests: Family<Counter, 3>,
    /// Bytes of bodies by tenant and source.
    pub ingest_bytes: Family<Counter, 2>,
    /// Time from a request's arrival to its durable acknowledgement, by source.
    pub ingest_ack: Family<Histogram, 1>,
    /// Rows refused, by tenant and code.
    pub rejected_rows: Family<Counter, 2>,
    /// Refusals by tenant and the limit that was passed.
    pub limit_refusals: Family<Counter, 2>,
    /// Requests acknowledged before they were on disk (`durability: memory`), by tenant.
    pub memory_acknowledged: Family<Counter, 1>,
    /// HTTP and gRPC requests by route, method and status.
    pub requests: Family<Counter, 3>,
    /// Time of HTTP and gRPC requests by route.
    pub request_time: Family<Histogram, 1>,
    /// Queries by tenant and outcome (`ok` or the error's code).
    pub queries: Family<Counter, 2>,
    /// Time of queries by tenant.
    pub query_time: Family<Histogram, 1>,
    /// Panics that were caught; each is a bug.
    pub panics: Family<Counter, 0>,
    /// Live subscriptions that are open.
    pub tails_open: Family<Gauge, 0>,
    /// Rows a slow live subscription was not given.
    pub tail_rows_skipped: Family<Counter, 0>,
    usage: Mutex<HashMap<UsageKey, Usage>>,
}

impl Telemetry {
    /// Telemetry of a process that begins now.
    pub fn new(started_at: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            started_at,
            ingest_rows: Family::new(
                "weir_ingest_rows_total",
                "Rows by what became of them; received = stored + rejected + deduplicated.",
                ["tenant", "stream", "source", "outcome"],
            ),
            ingest_requests: Family::new(
                "weir_ingest_requests_total",
                "Ingest requests by outcome.",
                ["tenant", "source", "outcome"],
            ),
            ingest_bytes: Family::new(
                "weir_ingest_bytes_total",
                "Bytes of request bodies as received.",
                ["tenant", "source"],
            ),
            ingest_ack: Family::new(
                "weir_ingest_ack_seconds",
                "Time from a request's arrival to its acknowledgement.",
                ["source"],
            ),
            rejected_rows: Family::new(
                "weir_ingest_rejected_rows_total",
                "Refused rows by reason.",
                ["tenant", "code"],
            ),
            limit_refusals: Family::new(
                "weir_limit_refusals_total",
                "Requests refused because a limit was passed.",
                ["tenant", "limit"],
            ),
            memory_acknowledged: Family::new(
                "weir_ingest_memory_acknowledged_total",
                "Requests acknowledged before their rows were on disk (durability: memory).",
                ["tenant"],
            ),
            requests: Family::new("weir_http_requests_total", "Requests answered.", ["route", "method", "status"]),
            request_time: Family::new("weir_http_request_seconds", "Time to answer a request.", ["route"]),
            queries: Family::new("weir_queries_total", "Queries by outcome.", ["tenant", "outcome"]),
            query_time: Family::new("weir_query_seconds", "Time of queries.", ["tenant"]),
            panics: Family::new("weir_panics_total", "Panics that were caught.", []),
            tails_open: Family::new("weir_tails_open", "Live subscriptions that are open.", []),
            tail_rows_skipped: Family::new(
                "weir_tail_skipped_rows_total",
                "Rows not shown to live subscriptions that were too slow.",
                [],
            ),
            usage: Mutex::new(HashMap::new()),
        })
    }

    fn with_usage(
        &self,
        tenant: &TenantId,
        stream: &'static str,
        source: &'static str,
        change: impl FnOnce(&mut Usage),
    ) {
        let mut usage = self.usage.lock();
        let key = (tenant.clone(), stream, source);
        if let Some(known) = usage.get_mut(&key) {
            change(known);
        } else if usage.len() < USAGE_KEYS_MAX {
            change(usage.entry(key).or_default());
        }
    }

    /// Counts an ingest request; `outcome` is `None` if it failed as a whole.
    pub fn ingested(&self, envelope: &Envelope<'_>, outcome: Option<&Outcome>, took: Duration) {
        let tenant = envelope.tenant.id.as_str();
        let (stream, source) = (envelope.stream, envelope.source);
        let result = if outcome.is_some() { "accepted" } else { "failed" };
        self.ingest_requests.with([tenant, source, result]).add(1);
        self.ingest_bytes.with([tenant, source]).add(envelope.wire_bytes as u64);
        if let Some(outcome) = outcome {
            self.ingest_ack.with([source]).observe(took);
            let rows = |outcome_name: &str, rows: usize| {
                if rows > 0 {
                    self.ingest_rows.with([tenant, stream, source, outcome_name]).add(rows as u64);
                }
            };
            rows("received", outcome.received);
            rows("stored", outcome.stored);
            rows("rejected", outcome.rejects.len());
            rows("deduplicated", outcome.deduplicated);
            for reject in &outcome.rejects {
                self.rejected_rows.with([tenant, reject.code.as_str()]).add(1);
            }
            if outcome.memory_only {
                self.memory_acknowledged.with([tenant]).add(1);
            }
        }
        self.with_usage(&envelope.tenant.id, stream, source, |usage| {
            usage.requests += 1;
            usage.bytes += envelope.wire_bytes as u64;
            if let Some(outcome) = outcome {
                usage.rows_received += outcome.received as u64;
                usage.rows_stored += outcome.stored as u64;
                usage.rows_rejected += outcome.rejects.len() as u64;
                usage.rows_deduplicated += outcome.deduplicated as u64;
            }
        });
    }

    /// Counts a query that ended.
    pub fn queried(&self, tenant: &TenantId, outcome: &str, took: Duration, rows: u64) {
        self.queries.with([tenant.as_str(), outcome]).add(1);
        self.query_time.with([tenant.as_str()]).observe(took);
        self.with_usage(tenant, "", "query", |usage| {
            usage.queries += 1;
            usage.query_ms += u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            usage.query_rows += rows;
        });
    }

    /// Takes the usage since the last call.
    pub fn take_usage(&self) -> Vec<(UsageKey, Usage)> {
        self.usage.lock().drain().collect()
    }

    /// Puts back usage that could not be stored.
    pub fn return_usage(&self, taken: Vec<(UsageKey, Usage)>) {
        for ((tenant, stream, source), back) in taken {
            self.with_usage(&tenant, stream, source, |usage| {
                usage.requests += back.requests;
                usage.bytes += back.bytes;
                usage.rows_received += back.rows_received;
                usage.rows_stored += back.rows_stored;
                usage.rows_rejected += back.rows_rejected;
                usage.rows_deduplicated += back.rows_deduplicated;
                usage.queries += back.queries;
                usage.query_ms += back.query_ms;
                usage.query_rows += back.query_rows;
            });
        }
    }

    /// Forgets a deleted tenant.
    pub fn forget_tenant(&self, tenant: &TenantId) {
        let tenant = tenant.as_str();
        self.ingest_rows.forget(0, tenant);
        self.ingest_requests.forget(0, tenant);
        self.ingest_bytes.forget(0, tenant);
        self.rejected_rows.forget(0, tenant);
        self.limit_refusals.forget(0, tenant);
        self.memory_acknowledged.forget(0, tenant);
        self.queries.forget(0, tenant);
        self.query_time.forget(0, tenant);
        self.usage.lock().retain(|(owner, _, _), _| owner.as_str() != tenant);
    }

    /// The value of every metric kept here.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        self.ingest_rows.samples(&mut samples);
        self.ingest_requests.samples(&mut samples);
        self.ingest_bytes.samples(&mut samples);
        self.ingest_ack.samples(&mut samples);
        self.rejected_rows.samples(&mut samples);
        self.limit_refusals.samples(&mut samples);
        self.memory_acknowledged.samples(&mut samples);
        self.requests.samples(&mut samples);
        self.request_time.samples(&mut samples);
        self.queries.samples(&mut samples);
        self.query_time.samples(&mut samples);
        self.tails_open.samples(&mut samples);
        self.tail_rows_skipped.samples(&mut samples);
        samples
    }
}

impl Observer for Telemetry {
    fn request_ended(&self, end: &RequestEnd<'_>) {
        let route = if end.route.is_empty() { "none" } else { end.route };
        self.requests.with([route, method_label(end.method), end.status.as_str()]).add(1);
        self.request_time.with([route]).observe(end.elapsed);
        if end.panicked {
            self.panics.with([]).add(1);
        }
    }
}

/// The method, if it is one of HTTP's own: clients may send any text as method, of any length.
fn method_label(method: &http::Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "CONNECT" | "TRACE") => known,
        _ => "other",
    }
}
