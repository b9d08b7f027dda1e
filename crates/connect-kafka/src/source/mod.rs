//! The source `kafka`: the messages of topics, each a row, read from the places of the checkpoint.

mod group;
mod open;
mod parked;
mod reader;
mod rows;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use weir_base::quantity::{ByteSize, Span};
use weir_codecs::rows::Columns;
use weir_component::source::{PlannedSource, Source, SourceError, SourcePosition};
use weir_component::spec::{About, Access, Fault, PlanContext, SourceSpec, Stability};
use weir_connectors::config::{self, DeclaredColumns};

use crate::client::{Cluster, Sasl, Tls};

pub(crate) use group::{ClaimError, Member, Rebalances};

/// The entry of the table.
pub const SPEC: SourceSpec = SourceSpec {
    about: About {
        name: "kafka",
        summary: "Reads the messages of Kafka topics, each a JSON object, as they come.",
        stability: Stability::Preview,
        access: Access { connects: true, files: false, credentials: true, terminal: false },
        example: "brokers: \"k1:9092,k2:9092\"\ntopic: visits\nformat: json\nschema: { time: timestamp, path: text, status: int64 }\n",
        schema: || schemars::schema_for!(KafkaSourceConfig),
    },
    plan,
};

/// The most a message may be allowed to have.
const MESSAGE_BYTES_LIMIT: u64 = 64 << 20;

/// After how long without a sign of life the others take over.
const SESSION_DEFAULT: Duration = Duration::from_secs(10);

/// Reads topics of Apache Kafka.
///
/// Every message is a row; one that is none is set aside with its topic, partition and offset, and counted, and the
/// others go on. Messages of transactions are read when these are committed. Every partition has a time of its
/// own. How far each has been read is kept in the checkpoint, and nothing else decides where reading goes on; the
/// offsets that are committed to the group are for people and tools to look at. If messages that have not been
/// read were removed from the topic meanwhile, the pipeline stops with an error.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSourceConfig {
    /// Brokers of the cluster, as `host:port`, separated by commas. A few are enough; they know the others.
    pub brokers: String,
    /// The topic, or a list of them.
    pub topic: Topics,
    /// How messages are written.
    pub format: MessageFormat,
    /// The columns, as `{name: type}`, or as a list of such pairs where their order matters. Types: `int64`, `float64`,
    /// `bool`, `text`, `timestamp`, `json` (any value, kept as JSON text). A `timestamp` is RFC 3339, or a number of
    /// milliseconds since 1970 (microseconds from 10^14 on, nanoseconds from 10^17 on); `timestamp_s`, `timestamp_ms`,
    /// `timestamp_us` and `timestamp_ns` say what a number counts. Members of a message that are no column are ignored,
    /// missing ones are null.
    pub schema: DeclaredColumns,
    /// Where a pipeline without a checkpoint begins. Partitions that are found later are read from their beginning. With
    /// `latest` nothing is read before a checkpoint says where that was, which is made at once. Together with `shared` the
    /// group is told where that was, before anything is read. Default: `earliest`.
    #[serde(default)]
    pub start: Start,
    /// The group whose offsets show how far the pipeline has come. Default: `weir.TENANT.PIPELINE`, with `local` for
    /// the tenant where there is none.
    pub group: Option<String>,
    /// Divide the partitions among all processes that run this pipeline, each with a state of its own: one that comes
    /// takes over some, and those of one that goes or dies are read by the others. The offsets of the group then say
    /// where reading goes on, and a sink `kafka` in the same cluster commits them together with its rows. No step may
    /// remember rows, since partitions move. Default: false.
    #[serde(default)]
    pub shared: bool,
    /// Read a part of the partitions, and leave the others to other pipelines, so that several processes share the work of a
    /// pipeline that remembers rows: each runs a pipeline with a name and a part of its own, such as `{ number: 1, of: 3 }`. Part 1
    /// has the partitions 0, 3, 6, and so on. Results by key are whole where all messages of a key are in one partition.
    pub part: Option<PartOf>,
    /// After how long without a sign of life the others take over the partitions of a process. Only with `shared`.
    /// The brokers want it to be between 6s and 30m, if not configured otherwise. Default: 10s.
    pub session: Option<Span>,
    /// Columns with what Kafka says of a message.
    #[serde(default)]
    pub metadata: Metadata,
    /// How often new partitions are looked for. Default: 30s.
    #[serde(default = "discover")]
    pub discover: Span,
    /// The most bytes one message may have; a longer one is rejected. At most 64MiB. Default: 1MiB.
    #[serde(default = "message_bytes_max")]
    pub message_bytes_max: ByteSize,
    /// The most bytes that are fetched ahead, over all partitions. Default: 64MiB.
    #[serde(default = "fetch_bytes_max")]
    pub fetch_bytes_max: ByteSize,
    /// TLS, if the brokers want it.
    pub tls: Option<Tls>,
    /// Who reads, if the brokers want to know.
    pub sasl: Option<Sasl>,
}

/// A part of the partitions of each topic. Which one a partition belongs to never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartOf {
    /// Which part, from 1.
    pub number: i32,
    /// How many parts there are.
    pub of: i32,
}

impl PartOf {
    /// Whether a partition belongs to it.
    fn has(self, partition: i32) -> bool {
        partition % self.of == self.number - 1
    }
}

impl fmt::Display for PartOf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.number, self.of)
    }
}

/// One topic or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Topics {
    /// A topic.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    /// A JSON object.
    Json,
}

/// Where a pipeline without a checkpoint begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest message there is.
    #[default]
    Earliest,
    /// With what comes after the pipeline has begun, whenever it is killed from then on.
    Latest,
}

/// Columns with what Kafka says of a message; each is given the name written here, and is left out without one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The key, as text. Null if it is no UTF-8.
    pub key: Option<String>,
    /// The time of the message: when it was made or when it was appended, as the topic is configured.
    pub timestamp: Option<String>,
    /// The headers, as a JSON object of texts.
    pub headers: Option<String>,
    /// The topic.
    pub topic: Option<String>,
    /// The number of the partition.
    pub partition: Option<String>,
    /// The offset in the partition.
    pub offset: Option<String>,
}

fn discover() -> Span {
    Span(Duration::from_secs(30))
}

fn message_bytes_max() -> ByteSize {
    ByteSize(1 << 20)
}

fn fetch_bytes_max() -> ByteSize {
    ByteSize(64 << 20)
}

/// What is read, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    cluster: Cluster,
    topics: Vec<String>,
    group: String,
    is_shared: bool,
    part: Option<PartOf>,
    session: Duration,
    start: Start,
    columns: Arc<Columns>,
    metadata: Metadata,
    schema: SchemaRef,
    discover: Duration,
    message_bytes_max: usize,
    fetch_bytes_max: u64,
}

fn plan(config: &Json, context: &PlanContext) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
    Ok(Arc::new(make(config, context)?))
}

fn make(config: &Json, context: &PlanContext) -> Result<Plan, Vec<Fault>> {
    let config: KafkaSourceConfig = config::parse(config)?;
    let mut faults = Vec::new();
    let cluster = Cluster::new(&config.brokers, config.tls.as_ref(), config.sasl.as_ref(), &mut faults);
    let topics = match config.topic {
        Topics::One(topic) => vec![topic],
        Topics::Many(topics) => topics,
    };
    if topics.is_empty() {
        faults.push(Fault::new("/topic", "there is no topic", "name one, or a list of them"));
    }
    for (at, topic) in topics.iter().enumerate() {
        faults.extend(crate::client::topic_fault(topic, "/topic"));
        if topics[..at].contains(topic) {
            faults.push(Fault::new("/topic", format!("the topic `{topic}` is named twice"), ""));
        }
    }
    for (pointer, bytes, limit) in [
        ("/message_bytes_max", config.message_bytes_max, MESSAGE_BYTES_LIMIT),
        ("/fetch_bytes_max", config.fetch_bytes_max, 1 << 30),
    ] {
        if bytes.0 < 1024 || bytes.0 > limit {
            faults.push(Fault::new(pointer, format!("{bytes} is not between 1KiB and {}", ByteSize(limit)), ""));
        }
    }
    if config.discover.0 < Duration::from_secs(1) {
        faults.push(Fault::new("/discover", format!("{} is less than 1s", config.discover), ""));
    }
    if let Some(part) = config.part {
        if part.of < 1 || !(1..=part.of).contains(&part.number) {
            let message = format!("there is no part {} of {}", part.number, part.of);
            faults.push(Fault::new("/part", message, "of three parts the first is { number: 1, of: 3 }"));
        }
        if config.shared {
            let message = "the processes divide the partitions among them, or it is said which ones this one reads";
            faults.push(Fault::new("/part", message, "leave out `part` or `shared`"));
        }
    }
    if let Some(session) = config.session {
        if !config.shared {
            faults.push(Fault::new("/session", "a pipeline that reads alone has no session", "add `shared: true`"));
        } else if session.0 < Duration::from_secs(1) || session.0 > Duration::from_hours(1) {
            faults.push(Fault::new("/session", format!("{session} is not between 1s and 1h"), ""));
        }
    }
    let columns = config.schema.columns("/schema").unwrap_or_else(|found| {
        faults.extend(found);
        Columns::new(Vec::new())
    });
    let mut names: BTreeSet<&str> = columns.columns().iter().map(|(name, _)| name.as_str()).collect();
    for (part, name) in config.metadata.names() {
        let pointer = format!("/metadata/{part}");
        if name.is_empty() {
            faults.push(Fault::new(&pointer, "the column has no name", ""));
        } else if !names.insert(name) {
            faults.push(Fault::new(&pointer, format!("there is a column `{name}` already"), "give it another name"));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let tenant = context.tenant.as_deref().unwrap_or("local");
    Ok(Plan {
        cluster,
        group: config.group.unwrap_or_else(|| format!("weir.{tenant}.{}", context.pipeline)),
        topics,
        is_shared: config.shared,
        part: config.part,
        session: config.session.map_or(SESSION_DEFAULT, |session| session.0),
        start: config.start,
        schema: rows::schema(&columns, &config.metadata),
        columns: Arc::new(columns),
        metadata: config.metadata,
        discover: config.discover.0,
        message_bytes_max: config.message_bytes_max.as_usize(),
        fetch_bytes_max: config.fetch_bytes_max.0,
    })
}

impl Metadata {
    /// The columns that are wished for: what they hold, and their names.
    fn names(&self) -> impl Iterator<Item = (&'static str, &String)> {
        [
            ("key", &self.key),
            ("timestamp", &self.timestamp),
            ("headers", &self.headers),
            ("topic", &self.topic),
            ("partition", &self.partition),
            ("offset", &self.offset),
        ]
        .into_iter()
        .filter_map(|(part, name)| Some((part, name.as_ref()?)))
    }
}

#[async_trait]
impl PlannedSource for Plan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn is_bounded(&self) -> bool {
        false
    }

    async fn open(&self, position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(open::open(self.clone(), position).await?))
    }

    fn again(&self, payload: &str) -> Option<Result<RecordBatch, String>> {
        Some(rows::again(self, payload))
    }

    fn describe(&self) -> String {
        let share = match self.part {
            _ if self.is_shared => "its share of ".to_owned(),
            Some(part) => format!("part {part} of the partitions of "),
            None => String::new(),
        };
        format!("reads {share}{} of Kafka at {}", self.topics.join(", "), self.cluster.brokers())
    }

    fn part(&self) -> Option<String> {
        (!self.is_shared).then(|| {
            self.part.map_or_else(|| "all partitions".to_owned(), |part| format!("part {part} of the partitions"))
        })
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }
}

#[cfg(test)]
mod tests;
