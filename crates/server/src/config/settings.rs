//! The configuration as structs. Their doc comments are the reference for operators
//! (`docs/reference/configuration.md` and the annotated example are made from them), and their
//! `Default` is the only place where a default is written down.
//!
//! `x-min` and `format` in the schema attributes are what [`weir_document`] checks values by.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use weir_base::quantity::{ByteSize, Span};
use weir_meta::limits::{LimitOverrides, Tier};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

const fn millis(millis: u64) -> Span {
    Span(Duration::from_millis(millis))
}

/// The configuration of `weir serve`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory for everything Weir keeps: log, tables, metadata, keys. Created with mode 0700 if it does not exist;
    /// a relative path starts at the working directory.
    #[schemars(extend("format" = "path"))]
    pub data_dir: PathBuf,
    /// The main port: ingest over HTTP (OTLP too), queries, live tails, administration, health and metrics.
    pub http: ListenerConfig,
    /// OTLP over gRPC.
    pub otlp_grpc: ListenerConfig,
    /// OTLP over HTTP, on the port its clients expect. The same routes are on the main port.
    pub otlp_http: ListenerConfig,
    /// Networks (CIDR) of proxies whose `X-Forwarded-For` is believed. Empty: the address of the connection is the
    /// client's, whatever a header says.
    pub trusted_proxies: Vec<Cidr>,
    /// The log: where rows are safe before they are acknowledged.
    pub log: LogConfig,
    /// Tables: the files that rows are moved to from the log.
    pub tables: TablesConfig,
    /// Queries of all tenants together. What one tenant may use is in `tiers`.
    pub queries: QueriesConfig,
    /// Pipelines that run in this server.
    pub pipelines: PipelinesConfig,
    /// The table `sessions`, which a pipeline of Weir's own keeps from the events of every tenant.
    pub sessions: SessionsConfig,
    /// What all tenants together may use, and how patient connections are.
    pub limits: LimitsConfig,
    /// Limits of the tenants, by tier, where they differ from the defaults. A tenant's own overrides, set through the
    /// API, go before these.
    #[schemars(with = "TiersSchema")]
    pub tiers: BTreeMap<Tier, LimitOverrides>,
    /// What Weir says about itself.
    pub telemetry: TelemetryConfig,
    /// How long requests may go on after SIGTERM before connections are cut. What was acknowledged is safe either way.
    #[schemars(extend("x-min" = "0s"))]
    pub shutdown_deadline: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("weir-data"),
            http: ListenerConfig::on("127.0.0.1:8080"),
            otlp_grpc: ListenerConfig::on("127.0.0.1:4317"),
            otlp_http: ListenerConfig::on("127.0.0.1:4318"),
            trusted_proxies: Vec::new(),
            log: LogConfig::default(),
            tables: TablesConfig::default(),
            queries: QueriesConfig::default(),
            pipelines: PipelinesConfig::default(),
            sessions: SessionsConfig::default(),
            limits: LimitsConfig::default(),
            tiers: BTreeMap::new(),
            telemetry: TelemetryConfig::default(),
            shutdown_deadline: seconds(25),
        }
    }
}

/// A port Weir listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerConfig {
    /// Host and port. Port 0 takes a free one, which is then in `addresses.json` of the data directory. `0.0.0.0` or
    /// `[::]` listens on every interface; use TLS or a proxy then.
    #[schemars(extend("format" = "address", "examples" = ["0.0.0.0:8080"]))]
    pub address: String,
    /// Encrypt with this certificate; without it the port speaks plain text. The files are read again when they
    /// change.
    pub tls: Option<TlsFiles>,
}

impl ListenerConfig {
    /// Plain text on that address.
    pub fn on(address: &str) -> Self {
        Self { address: address.to_owned(), tls: None }
    }
}

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM file with the certificate, followed by its intermediates.
    #[schemars(extend("format" = "file", "examples" = ["/etc/weir/server.crt"]))]
    pub certificate: PathBuf,
    /// PEM file with the private key.
    #[schemars(extend("format" = "file", "examples" = ["/etc/weir/server.key"]))]
    pub key: PathBuf,
}

/// See [`Config::log`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Shards of a new log; an existing log keeps its number. More than one helps only with several disks.
    #[schemars(range(min = 1, max = 64))]
    pub shards: u16,
    /// Size of a segment file, reserved ahead.
    #[schemars(extend("x-min" = "1MiB", "x-max" = "4GiB"))]
    pub segment_bytes: ByteSize,
    /// One commit (one fsync) takes waiting rows up to about this size.
    #[schemars(extend("x-min" = "64KiB", "x-max" = "1GiB"))]
    pub commit_bytes_max: ByteSize,
    /// Rows waiting for their commit, in memory, for each shard. Beyond it requests are refused with 429; one tenant
    /// may hold half of it.
    #[schemars(extend("x-min" = "1MiB"))]
    pub queue_bytes_max: ByteSize,
    /// How long the log is kept after its rows are in table files.
    #[schemars(extend("x-min" = "0s"))]
    pub retention: Span,
    /// The log is kept shorter when it is larger than this. 0 is a fifth of the disk.
    pub retention_bytes: ByteSize,
    /// How long event ids and idempotency keys are remembered: a repeat within this time is stored once.
    #[schemars(extend("x-min" = "1m"))]
    pub dedup_window: Span,
    /// Producers whose last sequence number is remembered, for each shard; the longest silent are forgotten first.
    #[schemars(range(min = 1))]
    pub producers_max: usize,
    /// Disk space held back, so that checkpoints and deletes still work when the disk is full. 0 holds nothing back.
    pub reserve_bytes: ByteSize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            shards: 1,
            segment_bytes: ByteSize(64 * MIB),
            commit_bytes_max: ByteSize(4 * MIB),
            queue_bytes_max: ByteSize(64 * MIB),
            retention: seconds(24 * 3600),
            retention_bytes: ByteSize(0),
            dedup_window: seconds(24 * 3600),
            producers_max: 100_000,
            reserve_bytes: ByteSize(64 * MIB),
        }
    }
}

/// See [`Config::tables`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TablesConfig {
    /// A table is written to a file once so many bytes of it wait in the tail.
    #[schemars(extend("x-min" = "64KiB"))]
    pub flush_bytes: ByteSize,
    /// A table is written to a file once its oldest row has waited this long.
    #[schemars(extend("x-min" = "1s"))]
    pub flush_age: Span,
    /// Once the tails of a shard hold this much together, the largest are written to files.
    #[schemars(extend("x-min" = "1MiB"))]
    pub unflushed_bytes_max: ByteSize,
    /// Rows not yet in files that are kept in memory, of all tables; older ones are read back from the log when a query
    /// needs them.
    #[schemars(extend("x-min" = "1MiB"))]
    pub tail_bytes_max: ByteSize,
    /// Memory for what is known of the files' insides (Parquet footers).
    #[schemars(extend("x-min" = "1MiB"))]
    pub metadata_bytes_max: ByteSize,
    /// Files of about this size are not compacted again.
    #[schemars(extend("x-min" = "1MiB"))]
    pub compaction_bytes: ByteSize,
    /// Compaction makes no file larger than about this.
    #[schemars(extend("x-min" = "1MiB"))]
    pub compaction_bytes_max: ByteSize,
    /// Memory one compaction may use.
    #[schemars(extend("x-min" = "1MiB"))]
    pub compaction_memory_max: ByteSize,
    /// How often expired rows are looked for. How long rows are kept is each tenant's `retention`.
    #[schemars(extend("x-min" = "1s"))]
    pub retention_interval: Span,
    /// Attribute keys of each open column that get a column of their own in a file.
    #[schemars(range(max = 1_000))]
    pub promoted_keys_max: usize,
}

impl Default for TablesConfig {
    fn default() -> Self {
        Self {
            flush_bytes: ByteSize(20 * MIB),
            flush_age: seconds(600),
            unflushed_bytes_max: ByteSize(512 * MIB),
            tail_bytes_max: ByteSize(32 * MIB),
            metadata_bytes_max: ByteSize(32 * MIB),
            compaction_bytes: ByteSize(48 * MIB),
            compaction_bytes_max: ByteSize(512 * MIB),
            compaction_memory_max: ByteSize(64 * MIB),
            retention_interval: seconds(60),
            promoted_keys_max: 64,
        }
    }
}

/// See [`Config::queries`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueriesConfig {
    /// Memory all queries may account for together. Real use can be several times that for unusual queries, so leave
    /// room.
    #[schemars(extend("x-min" = "16MiB"))]
    pub memory_bytes: ByteSize,
    /// Disk space one tenant's queries may use for what does not fit into memory.
    pub spill_bytes_max: ByteSize,
    /// Threads that run a query; 0 is one for each core. Queries that run at once have their own, up to sixteen times.
    #[schemars(range(max = 1_024))]
    pub threads: usize,
    /// Parts of one query that run side by side; 0 is one for each thread.
    #[schemars(range(max = 1_024))]
    pub partitions: usize,
    /// No query runs longer than this, whatever its tenant's `query_time_max`.
    #[schemars(extend("x-min" = "1s"))]
    pub time_max: Span,
}

impl Default for QueriesConfig {
    fn default() -> Self {
        Self {
            memory_bytes: ByteSize(128 * MIB),
            spill_bytes_max: ByteSize(4 * GIB),
            threads: 0,
            partitions: 0,
            time_max: seconds(600),
        }
    }
}

/// See [`Config::pipelines`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PipelinesConfig {
    /// Threads that work for all pipelines together; 0 is one for each core.
    #[schemars(range(max = 1_024))]
    pub threads: usize,
    /// Pipelines that a tenant's own key has applied may connect to other machines, this one included, and use
    /// credentials for it. What an administrator's key has applied may do so in any case, and may use files and
    /// environment variables of the server, too; a tenant's never may.
    pub tenants_may_connect: bool,
}

/// See [`Config::sessions`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionsConfig {
    /// Whether they are kept. A tenant can switch its own off.
    pub enabled: bool,
    /// After so long without an event of a visitor the next one begins a session. A tenant can have another one.
    #[schemars(extend("x-min" = "1s", "x-max" = "1d"))]
    pub gap: Span,
    /// How late an event may come, after those that are there already, to be part of a session; sessions are final so long
    /// after their end, and take memory until then. What comes later is in `sessions_late`.
    #[schemars(extend("x-min" = "0s", "x-max" = "7d"))]
    pub lateness: Span,
    /// The names of tracked events that are conversions, in lower or upper case. A tenant can have others.
    pub conversions: Vec<String>,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            gap: seconds(30 * 60),
            lateness: seconds(60 * 60),
            conversions: ["purchase", "checkout", "signup"].map(str::to_owned).into(),
        }
    }
}

/// See [`Config::limits`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Connections at the same time, over all listeners.
    #[schemars(range(min = 1))]
    pub connections_max: usize,
    /// Connections at the same time from one IPv4 address or one IPv6 network of 64 bits, over all listeners; 0 is no
    /// limit. More are answered with 429 or closed. Connections from `trusted_proxies` are not counted.
    pub connections_per_address_max: usize,
    /// Rows accepted each second from all tenants together, averaged; 0 is no limit.
    pub rows_per_second: u64,
    /// Rows accepted at once after a quiet time, on top of the rate.
    #[schemars(range(min = 1))]
    pub rows_burst: u64,
    /// Bytes of request bodies accepted each second from all tenants together, averaged; 0 is no limit.
    pub bytes_per_second: ByteSize,
    /// Bytes of request bodies accepted at once after a quiet time, on top of the rate.
    #[schemars(extend("x-min" = "1B"))]
    pub bytes_burst: ByteSize,
    /// Memory for all requests that are being read and decoded.
    #[schemars(extend("x-min" = "1MiB"))]
    pub decoded_bytes_in_flight_max: ByteSize,
    /// How long a request waits for a part of `decoded_bytes_in_flight_max` before it is refused with 429.
    #[schemars(extend("x-min" = "0s", "x-max" = "1m"))]
    pub decoded_bytes_wait: Span,
    /// The longest time for a request's headers to arrive.
    #[schemars(extend("x-min" = "100ms"))]
    pub header_timeout: Span,
    /// The most bytes of a request's headers; there are at most 100 of them. More are refused with 431.
    #[schemars(extend("x-min" = "8KiB", "x-max" = "1MiB"))]
    pub header_bytes_max: ByteSize,
    /// The longest pause within a request's body.
    #[schemars(extend("x-min" = "100ms"))]
    pub body_timeout: Span,
    /// The slowest a body may arrive, averaged over each second after `body_timeout`; slower ones are cut off.
    pub body_bytes_per_second_min: ByteSize,
    /// The longest time for a TLS handshake.
    #[schemars(extend("x-min" = "100ms"))]
    pub handshake_timeout: Span,
    /// How long a connection may be quiet between requests.
    #[schemars(extend("x-min" = "1s"))]
    pub idle_timeout: Span,
    /// How long a client may not read what is sent to it.
    #[schemars(extend("x-min" = "1s"))]
    pub write_timeout: Span,
    /// Requests at the same time on one HTTP/2 connection.
    #[schemars(range(min = 1, max = 10_000))]
    pub streams_max: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 4_000,
            rows_per_second: 0,
            rows_burst: 5_000_000,
            bytes_per_second: ByteSize(0),
            bytes_burst: ByteSize(2 * GIB),
            decoded_bytes_in_flight_max: ByteSize(128 * MIB),
            decoded_bytes_wait: millis(250),
            header_timeout: seconds(10),
            header_bytes_max: ByteSize(64 * KIB),
            body_timeout: seconds(30),
            body_bytes_per_second_min: ByteSize(KIB),
            handshake_timeout: seconds(10),
            idle_timeout: seconds(120),
            write_timeout: seconds(30),
            streams_max: 128,
        }
    }
}

/// How [`Config::tiers`] is written.
#[derive(Default, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(dead_code, reason = "describes the file; the values are kept in a map")]
struct TiersSchema {
    /// Tenants of the tier free.
    free: LimitOverrides,
    /// Tenants of the tier paid.
    paid: LimitOverrides,
    /// Tenants of the tier enterprise.
    enterprise: LimitOverrides,
}

/// See [`Config::telemetry`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// How log lines on standard error look.
    pub log_format: LogFormat,
    /// The least important lines that are written.
    pub log_level: LogLevel,
    /// How often Weir stores those of its own metrics that have changed, as rows of tenant `system`; all of them every 5 minutes.
    #[schemars(extend("x-min" = "1s"))]
    pub metrics_interval: Span,
    /// How often each tenant's use is stored in its `_usage` stream.
    #[schemars(extend("x-min" = "1s"))]
    pub usage_interval: Span,
    /// Send Weir's own traces to this OTLP/HTTP endpoint, with `/v1/traces` added to it; they are sent nowhere without it.
    #[schemars(extend("format" = "url", "examples" = ["http://collector:4318"]))]
    pub traces_endpoint: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            metrics_interval: seconds(10),
            usage_interval: seconds(60),
            traces_endpoint: None,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Something outside failed and will be tried again.
    Warn,
    /// What happens seldom.
    Info,
    /// What happens with every request.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// A network, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub IpNet);

impl Cidr {
    /// Reads `10.0.0.0/8`, `fd00::/8` or one address.
    pub fn parse(text: &str) -> Option<Self> {
        let network = text.parse::<IpNet>().ok();
        network.or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from)).map(Self)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a network such as 10.0.0.0/8"))
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cidr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "cidr" })
    }
}
