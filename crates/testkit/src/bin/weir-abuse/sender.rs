//! A sender of numbered rows over one protocol, which repeats a request until it is acknowledged.

use std::collections::HashMap;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use weir_testkit::oracle::server::Addresses;
use weir_testkit::oracle::wire::{Answer, Grpc, Http};

use crate::stage::Stage;

/// A way to send rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Ingest,
    OtlpHttp,
    OtlpGrpc,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Ingest, Self::OtlpHttp, Self::OtlpGrpc];

    fn table(self) -> (&'static str, &'static str) {
        match self {
            Self::Ingest => ("events", "properties"),
            Self::OtlpHttp | Self::OtlpGrpc => ("logs", "attributes"),
        }
    }
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    Acknowledged,
    /// Refused: the HTTP status or the gRPC status, whether it says when to come again, and its words.
    Refused {
        status: u16,
        retry_after: bool,
        text: String,
    },
    /// Nobody knows.
    Unanswered(String),
}

/// One sender.
pub(crate) struct Sender {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    /// Rows below this were acknowledged.
    pub(crate) acknowledged: u64,
    rows_per_request: u64,
    padding: usize,
    key: String,
    pending: Option<Bytes>,
    http: Http,
    grpc: Grpc,
}

impl Sender {
    pub(crate) fn new(tenant: &str, key: &str, name: &str, protocol: Protocol) -> Self {
        Self {
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            protocol,
            acknowledged: 0,
            rows_per_request: 1,
            padding: 0,
            key: key.to_owned(),
            pending: None,
            http: Http::default(),
            grpc: Grpc::default(),
        }
    }

    /// With so many rows in a request, and so many bytes that do not compress in a row.
    pub(crate) fn large(mut self, rows_per_request: u64, padding: usize) -> Self {
        self.rows_per_request = rows_per_request;
        self.padding = padding;
        self
    }

    /// Sends the next rows, or again those that were not acknowledged, unchanged.
    pub(crate) async fn send(&mut self, addresses: &Addresses) -> Result<Outcome> {
        let body = match &self.pending {
            Some(body) => body.clone(),
            None => self.body()?,
        };
        self.pending = Some(body.clone());
        let bearer = ("authorization", format!("Bearer {}", self.key));
        let idempotency = ("idempotency-key", format!("{}-{}", self.name, self.acknowledged));
        let outcome = match self.protocol {
            Protocol::OtlpGrpc => {
                let method = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
                match self.grpc.call(&addresses.otlp_grpc, method, &[bearer, idempotency], &body).await? {
                    Answer::Acknowledged(reply) => {
                        ensure!(reply.is_empty() || reply[..] == [0x0a, 0x00], "a partial success: {reply:02x?}");
                        Outcome::Acknowledged
                    }
                    Answer::Later(text) => {
                        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
                        Outcome::Refused { status: status.context("no status")?, retry_after: true, text }
                    }
                    Answer::Unanswered(problem) => Outcome::Unanswered(problem),
                }
            }
            Protocol::Ingest | Protocol::OtlpHttp => {
                let (address, path, media_type) = if self.protocol == Protocol::Ingest {
                    (&addresses.http, "/ingest", "application/json")
                } else {
                    (&addresses.otlp_http, "/v1/logs", "application/x-protobuf")
                };
                let mut headers = vec![bearer, ("content-type", media_type.to_owned())];
                if self.protocol == Protocol::OtlpHttp {
                    headers.push(idempotency);
                }
                match self.http.request(Method::POST, address, path, &headers, body).await? {
                    Err(problem) => Outcome::Unanswered(problem),
                    Ok(reply) if reply.status == 200 => {
                        self.check_reply(&reply.body)?;
                        Outcome::Acknowledged
                    }
                    Ok(reply) => Outcome::Refused {
                        status: reply.status,
                        retry_after: reply.headers.contains_key("retry-after"),
                        text: reply.text(),
                    },
                }
            }
        };
        if matches!(outcome, Outcome::Acknowledged) {
            self.acknowledged += self.rows_per_request;
            self.pending = None;
        }
        Ok(outcome)
    }

    /// The next request: its path, its media type, its body; for those who send it by hand.
    pub(crate) fn body(&self) -> Result<Bytes> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let rows = self.acknowledged..self.acknowledged + self.rows_per_request;
        let salt = weir_base::crc::crc32c(format!("{} {}", self.tenant, self.name).as_bytes());
        let mut random = ChaCha8Rng::seed_from_u64(u64::from(salt) << 32 | self.acknowledged);
        let mut padding = || {
            let mut bytes = vec![0; self.padding / 2];
            random.fill_bytes(&mut bytes);
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        if self.protocol == Protocol::Ingest {
            let event = |seq: u64| {
                json!({
                    "id": format!("{salt:08x}-0000-4000-8000-{seq:012x}"),
                    "type": "custom",
                    "name": "abuse",
                    "timestamp": u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
                    "properties": { "row": self.row(seq), "padding": padding() },
                })
            };
            let events: Vec<Value> = rows.map(event).collect();
            return Ok(json!({ "events": events }).to_string().into());
        }
        let now_ns = u64::try_from(time.as_nanos())?;
        let pair = |key: &str, value: String| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(Any::StringValue(value)) }),
            ..KeyValue::default()
        };
        let records = rows.map(|seq| LogRecord {
            time_unix_nano: now_ns,
            attributes: vec![pair("row", self.row(seq)), pair("padding", padding())],
            ..LogRecord::default()
        });
        let scope = ScopeLogs { log_records: records.collect(), ..ScopeLogs::default() };
        let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
        Ok(ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec().into())
    }

    /// The rows of [`Sender::body`], sent by hand, were acknowledged.
    pub(crate) fn acknowledge(&mut self) {
        self.acknowledged += self.rows_per_request;
        self.pending = None;
    }

    /// The rows of [`Sender::body`], sent by hand, may or may not be there.
    pub(crate) fn leave_open(&mut self) -> Result<()> {
        self.pending = Some(self.body()?);
        Ok(())
    }

    fn row(&self, seq: u64) -> String {
        format!("{}/{seq}", self.name)
    }

    fn check_reply(&self, body: &[u8]) -> Result<()> {
        if self.protocol != Protocol::Ingest {
            ensure!(body.is_empty() || body == [0x0a, 0x00], "a partial success: {body:02x?}");
            return Ok(());
        }
        let reply: Value = serde_json::from_slice(body).context("the reply of /ingest")?;
        let count = |name: &str| reply[name].as_u64().unwrap_or(u64::MAX);
        ensure!(
            count("stored").saturating_add(count("deduplicated")) == self.rows_per_request,
            "the reply does not account for {} rows: {reply}",
            self.rows_per_request
        );
        Ok(())
    }
}

/// Every acknowledged row is there exactly once, and nothing that was never sent. Returns the number
/// of acknowledged rows.
pub(crate) async fn compare(stage: &Stage, senders: &[Sender]) -> Result<u64> {
    let mut places: Vec<(&str, Protocol)> =
        senders.iter().map(|sender| (sender.tenant.as_str(), sender.protocol)).collect();
    places.sort_by_key(|(tenant, protocol)| (*tenant, protocol.table()));
    places.dedup_by_key(|(tenant, protocol)| (*tenant, protocol.table()));
    let mut found: HashMap<(String, String), u64> = HashMap::new();
    for (tenant, protocol) in places {
        let (table, column) = protocol.table();
        for row in stage.query(tenant, &format!("select {column}['row'] from {table}")).await? {
            let row = row[0].as_str().with_context(|| format!("{tenant}.{table} has the row {row}"))?;
            *found.entry((tenant.to_owned(), row.to_owned())).or_default() += 1;
        }
    }
    let mut acknowledged = 0;
    let mut wrong = Vec::new();
    for sender in senders {
        acknowledged += sender.acknowledged;
        for seq in 0..sender.acknowledged {
            let times = found.remove(&(sender.tenant.clone(), sender.row(seq))).unwrap_or(0);
            if times != 1 {
                wrong.push(format!("acknowledged, and there {times} times: {} of {}", sender.row(seq), sender.tenant));
            }
        }
        let unknown = if sender.pending.is_some() { sender.rows_per_request } else { 0 };
        for seq in sender.acknowledged..sender.acknowledged + unknown {
            let times = found.remove(&(sender.tenant.clone(), sender.row(seq))).unwrap_or(0);
            if times > 1 {
                wrong.push(format!("sent again and there {times} times: {} of {}", sender.row(seq), sender.tenant));
            }
        }
    }
    wrong.extend(found.into_keys().map(|(tenant, row)| format!("never sent, or refused: {row} of {tenant}")));
    let examples = wrong[..wrong.len().min(10)].join("\n");
    ensure!(
        wrong.is_empty(),
        "{} of {acknowledged} acknowledged rows are not as they should be:\n{examples}",
        wrong.len()
    );
    Ok(acknowledged)
}
