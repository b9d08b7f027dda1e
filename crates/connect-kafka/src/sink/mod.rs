//! The sink `kafka`: rows as messages of a topic, exactly once by transactions, or at least once without.

mod messages;
mod plain;
mod producer;
mod progress;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use weir_base::ErrorKind;
use weir_base::quantity::{ByteSize, Span};
use weir_component::sink::{Computed, Decider, Delivery, Opening, Owner, PlannedSink, Sink, SinkError, TakenOver};
use weir_component::spec::{About, Access, Fault, PlanContext, SinkSpec, Stability};
use weir_connectors::config;

use crate::client::{Cluster, Sasl, Tls, topic_fault};
use crate::source::MessageFormat;

/// The entry of the table.
pub const SPEC: SinkSpec = SinkSpec {
    about: About {
        name: "kafka",
        summary: "Writes rows to a Kafka topic as JSON, exactly once by transactions.",
        stability: Stability::Preview,
        access: Access { connects: true, files: false, credentials: true, terminal: false },
        example: "brokers: \"k1:9092,k2:9092\"\ntopic: slow-checkouts\ndelivery: exactly_once\nkey: region\n",
        schema: || schemars::schema_for!(KafkaSinkConfig),
    },
    delivery: Delivery::ExactlyOnce,
    plan,
};

/// How much time there is from one transaction to the next: each takes some tens of milliseconds of the brokers.
const TRANSACTION_INTERVAL: Duration = Duration::from_secs(1);
/// The column of sessions, where no other is named.
const SESSION_COLUMN: &str = "session_id";
/// How much longer than two checkpoints a transaction must be allowed to be open.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(10);
/// The longest transaction a broker allows unless it is configured otherwise (`transaction.max.timeout.ms`).
const TIMEOUT_USUAL_MAX: Duration = Duration::from_mins(15);

/// Writes to a topic of Apache Kafka; each row is a message with a JSON object.
///
/// `exactly_once`: the rows between two checkpoints are one transaction, and its commit is what decides the
/// checkpoint, so both happen or neither. Consumers that read committed messages (`isolation.level=read_committed`)
/// see each row once, when its checkpoint is made (about every second while rows come, unless the document says how
/// often); others also see rows of transactions that are given up. A pipeline
/// can have one such sink. `at_least_once`: rows are seen at once, and after a failure some of them again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkConfig {
    /// Brokers of the cluster, as `host:port`, separated by commas. A few are enough; they know the others.
    pub brokers: String,
    /// The topic. It must exist.
    pub topic: String,
    /// How messages are written. Default: `json`.
    #[serde(default = "json")]
    pub format: MessageFormat,
    /// What is promised. Default: `exactly_once`.
    #[serde(default)]
    pub delivery: KafkaDelivery,
    /// What decides the partition of a row. Default: `key` if there is a `key`, else `round_robin`.
    pub partition: Option<Partitioning>,
    /// What the key of the message is: a column, or an expression of SQL such as `concat(region, '/', city)`, which is not
    /// part of the message otherwise. A row in which it is null has no key.
    pub key: Option<String>,
    /// Put the tenant and a slash in front of each key. Default: false.
    #[serde(default)]
    pub key_with_tenant: bool,
    /// How batches are compressed. Default: `lz4`.
    #[serde(default)]
    pub compression: KafkaCompression,
    /// How long rows wait for others to be sent with. Default: 5ms.
    #[serde(default = "linger")]
    pub linger: Span,
    /// The most bytes a message may have; the brokers and the topic must allow it. A longer row stops the pipeline.
    /// Default: 1MB.
    #[serde(default = "message_bytes_max")]
    pub message_bytes_max: ByteSize,
    /// After how long without an end the brokers give up on a transaction; consumers of committed messages wait so
    /// long at most for a pipeline that died. At least two checkpoint intervals and 10s, and no more than the brokers
    /// allow (15m, if not configured otherwise). Default: 60s, or two intervals and 30s if that is more.
    pub transaction_timeout: Option<Span>,
    /// The compacted topic with one partition in which the pipeline notes how far it has come, together with its rows.
    /// It is made if it is not there. Many pipelines share it. Default: `__weir_progress`.
    #[serde(default = "progress_topic")]
    pub progress_topic: String,
    /// TLS, if the brokers want it.
    pub tls: Option<Tls>,
    /// Who writes, if the brokers want to know.
    pub sasl: Option<Sasl>,
}

/// What is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KafkaDelivery {
    /// Each row once, whatever happens.
    #[default]
    ExactlyOnce,
    /// Each row, and after a failure some more than once.
    AtLeastOnce,
}

/// What decides the partition of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partitioning {
    /// The key, as the clients of Java do it (murmur2). Rows without one go anywhere.
    Key,
    /// The session: the column `session_id`, or that of `key`, is the key.
    Session,
    /// The tenant: all rows go to one partition. The tenant is the key, unless `key` names a column.
    Tenant,
    /// Nothing: one partition after the other.
    RoundRobin,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KafkaCompression {
    /// Not at all.
    None,
    /// Gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    #[default]
    Lz4,
    /// Zstandard.
    Zstd,
}

impl KafkaCompression {
    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

const fn json() -> MessageFormat {
    MessageFormat::Json
}

fn linger() -> Span {
    Span(Duration::from_millis(5))
}

fn message_bytes_max() -> ByteSize {
    ByteSize(1_000_000)
}

fn progress_topic() -> String {
    "__weir_progress".to_owned()
}

/// Where rows go, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    cluster: Cluster,
    topic: String,
    delivery: KafkaDelivery,
    partition: Partitioning,
    /// The column of the key, or an expression.
    key: Option<String>,
    key_with_tenant: bool,
    tenant: Option<String>,
    pipeline: String,
    compression: KafkaCompression,
    linger: Duration,
    message_bytes_max: u64,
    transaction_timeout: Duration,
    progress_topic: String,
}

fn plan(config: &Json, _: &[String], context: &PlanContext) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
    Ok(Arc::new(make(config, context)?))
}

fn make(config: &Json, context: &PlanContext) -> Result<Plan, Vec<Fault>> {
    let config: KafkaSinkConfig = config::parse(config)?;
    let mut faults = Vec::new();
    let cluster = Cluster::new(&config.brokers, config.tls.as_ref(), config.sasl.as_ref(), &mut faults);
    faults.extend(topic_fault(&config.topic, "/topic"));
    faults.extend(topic_fault(&config.progress_topic, "/progress_topic"));
    if config.progress_topic == config.topic {
        faults.push(Fault::new("/progress_topic", "rows and progress need different topics", ""));
    }
    let default = if config.key.is_some() { Partitioning::Key } else { Partitioning::RoundRobin };
    let partition = config.partition.unwrap_or(default);
    if partition == Partitioning::Key && config.key.is_none() {
        faults.push(Fault::new("/partition", "there is no key to go by", "name a column with `key`"));
    }
    let key = match partition {
        Partitioning::Session => Some(config.key.unwrap_or_else(|| SESSION_COLUMN.to_owned())),
        _ => config.key,
    };
    if !(1024..=(1 << 30)).contains(&config.message_bytes_max.0) {
        let message = format!("{} is not between 1KiB and 1GiB", config.message_bytes_max);
        faults.push(Fault::new("/message_bytes_max", message, ""));
    }
    if config.linger.0 > Duration::from_secs(60) {
        faults.push(Fault::new("/linger", format!("{} is more than 60s", config.linger), ""));
    }
    let transaction_timeout = match config.delivery {
        KafkaDelivery::ExactlyOnce => {
            transaction_timeout(config.transaction_timeout, context.checkpoint_interval, &mut faults)
        }
        KafkaDelivery::AtLeastOnce => {
            if config.transaction_timeout.is_some() {
                faults.push(Fault::new("/transaction_timeout", "at least once takes no transactions", "leave it out"));
            }
            TIMEOUT_USUAL_MAX
        }
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Plan {
        cluster,
        topic: config.topic,
        delivery: config.delivery,
        partition,
        key,
        key_with_tenant: config.key_with_tenant,
        tenant: context.tenant.clone(),
        pipeline: context.pipeline.clone(),
        compression: config.compression,
        linger: config.linger.0,
        message_bytes_max: config.message_bytes_max.0,
        transaction_timeout,
        progress_topic: config.progress_topic,
    })
}

/// How long a transaction may be open. It is open from the first row after a checkpoint to the end of the next one;
/// if the brokers gave up on it before, the pipeline would begin it again and again.
fn transaction_timeout(wanted: Option<Span>, interval: Duration, faults: &mut Vec<Fault>) -> Duration {
    let least = interval * 2 + TIMEOUT_MARGIN;
    let shown = |time: Duration| Span(time);
    match wanted {
        Some(Span(wanted)) if wanted < least => {
            let message = format!(
                "{} is too short for a checkpoint every {}: a transaction could be given up before its checkpoint",
                shown(wanted),
                shown(interval)
            );
            let hint = format!("at least {}, or checkpoints more often", shown(least));
            faults.push(Fault::new("/transaction_timeout", message, hint));
            wanted
        }
        Some(Span(wanted)) => wanted,
        None => {
            let timeout = Duration::from_secs(60).max(interval * 2 + Duration::from_secs(30));
            if timeout > TIMEOUT_USUAL_MAX {
                let message = format!("a checkpoint every {} is too seldom for transactions", shown(interval));
                let hint = "make checkpoints more often, or say how long the brokers allow with `transaction_timeout`";
                faults.push(Fault::new("", message, hint));
            }
            timeout
        }
    }
}

impl Plan {
    /// The name of the producer for the brokers: always the same, so that the next one fences the one before.
    fn transactional_id(&self, owner: &Owner) -> String {
        let (tenant, sink) = (self.tenant.as_deref().unwrap_or("local"), &owner.sink);
        // Of several processes each fences those that had its own state.
        let member = owner.member.as_ref().map(|member| format!("/{member}")).unwrap_or_default();
        format!("weir/{tenant}/{}/{sink}{member}", self.pipeline)
    }
}

#[async_trait]
impl PlannedSink for Plan {
    fn delivery(&self) -> Delivery {
        match self.delivery {
            KafkaDelivery::ExactlyOnce => Delivery::ExactlyOnce,
            KafkaDelivery::AtLeastOnce => Delivery::AtLeastOnce,
        }
    }

    fn commit_interval(&self) -> Option<Duration> {
        (self.delivery == KafkaDelivery::ExactlyOnce).then_some(TRANSACTION_INTERVAL)
    }

    async fn open(&self, schema: SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        match self.delivery {
            KafkaDelivery::AtLeastOnce => Ok(Box::new(plain::open(self.clone(), &schema).await?)),
            KafkaDelivery::ExactlyOnce => {
                Err(SinkError::new(ErrorKind::Internal, "a sink that decides has to be taken over"))
            }
        }
    }

    fn describe(&self) -> String {
        format!("writes {} of Kafka at {}", self.topic, self.cluster.brokers())
    }

    fn computes(&self, schema: &SchemaRef) -> Option<Computed> {
        let expression = self.key.as_ref().filter(|key| schema.index_of(key).is_err())?;
        // A column that has to be there, and is not.
        if self.partition == Partitioning::Session && expression == SESSION_COLUMN {
            return None;
        }
        Some(Computed { pointer: "/key", column: messages::KEY_COLUMN, expression: expression.clone() })
    }

    fn check(&self, schema: &SchemaRef) -> Vec<Fault> {
        messages::check_key(self.key.as_deref(), self.partition, schema).into_iter().collect()
    }

    fn decider(&self) -> Option<&dyn Decider> {
        (self.delivery == KafkaDelivery::ExactlyOnce).then_some(self)
    }
}

#[async_trait]
impl Decider for Plan {
    async fn take_over(&self, owner: Owner) -> Result<Box<dyn TakenOver>, SinkError> {
        Ok(Box::new(transaction::take_over(self.clone(), owner).await?))
    }
}

#[cfg(test)]
mod tests;
