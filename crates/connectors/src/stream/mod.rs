//! The source and the sink `stream`: streams of Weir, which the pipeline's tenant has in the log of a server.
//!
//! Here is only how they are written in a document. What they do is up to the handle a pipeline is given
//! ([`weir_component::streams::Streams`]): without one, as in `weir run`, there are no streams.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use weir_base::quantity::Span;
use weir_component::sink::{Delivery, PlannedSink};
use weir_component::source::PlannedSource;
use weir_component::spec::{About, Access, Fault, PlanContext, SinkSpec, SourceSpec, Stability};
use weir_component::streams::{self, ReadStream, ReadTable, StreamStart, Streams, WriteStream};

use crate::config;

/// The entry in the table of sources.
pub const SOURCE: SourceSpec = SourceSpec {
    about: About {
        name: "stream",
        summary: "Reads a stream of Weir.",
        stability: Stability::Preview,
        access: Access { connects: false, files: false, credentials: false, terminal: false },
        example: "name: spans\nstart: now\nquiet: 30s\nrevisions: final\n",
        schema: || schemars::schema_for!(StreamSourceConfig),
    },
    plan: plan_source,
};

/// The entry among the tables rows are looked up in.
pub const TABLE: SourceSpec = SourceSpec {
    about: About {
        name: "table",
        summary: "Reads a table of the tenant.",
        stability: Stability::Preview,
        access: Access { connects: false, files: false, credentials: false, terminal: false },
        example: "name: customers\ncolumns: [id, name, tier]\nwhere: \"tier > 1\"\n",
        schema: || schemars::schema_for!(TableConfig),
    },
    plan: plan_table,
};

/// The entry in the table of sinks.
pub const SINK: SinkSpec = SinkSpec {
    about: About {
        name: "stream",
        summary: "Writes a stream of Weir, each row exactly once, or sooner and at least once.",
        stability: Stability::Preview,
        access: Access { connects: false, files: false, credentials: false, terminal: false },
        example: "name: slow_checkouts\ndelivery: exactly_once\n",
        schema: || schemars::schema_for!(StreamSinkConfig),
    },
    delivery: Delivery::ExactlyOnce,
    plan: plan_sink,
};

/// Reads a stream of Weir: one of those that are built in, or one that another pipeline writes.
///
/// The name alone is enough: `from: { stream: spans }`. The event time is the column `time` unless the document names
/// another. A row moves time on by the smaller one of its event time and its `received_at`, so that one clock that is
/// fast does not make everybody late. While the stream is silent, time goes on behind that of the log, see `quiet`. The
/// log keeps rows for a time; a pipeline that is not run for longer ends up `overrun`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-weir-short" = "name"))]
pub struct StreamSourceConfig {
    /// The stream.
    pub name: String,
    /// Where a pipeline begins that has never run. Later it always goes on where it was.
    #[serde(default)]
    pub start: Start,
    /// While the stream is silent, time goes on this far behind the log. A row that comes later than this and
    /// `watermark` together is late, also if it is the first for hours. Default: 30s.
    #[serde(default = "quiet_default")]
    pub quiet: Span,
    /// Which rows are read of a stream with a key, whose rows are revisions of results.
    #[serde(default)]
    pub revisions: Revisions,
    /// Only these columns are read, beside `time` and `received_at`, which makes reading cheaper. Default: all.
    #[serde(default)]
    pub columns: Vec<String>,
}

/// Reads a table of the tenant as a query of the tenant would: a stream that is built in or that a pipeline writes. Of a
/// stream with a key these are the newest revisions.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// The table.
    pub name: String,
    /// The columns that are kept in memory.
    pub columns: Vec<String>,
    /// Only rows for which this is true. Default: all rows.
    #[serde(default, rename = "where")]
    #[schemars(extend("format" = "expression"))]
    pub condition: Option<String>,
}

/// Which rows are read of a stream with a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Revisions {
    /// Final results, each once, without the columns `is_final`, `revision`, `retracted` and `began_at`.
    #[default]
    Final,
    /// All rows as they are in `<name>_history`.
    All,
}

/// Where a pipeline begins that has never run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With rows that came after the pipeline was applied.
    #[default]
    Now,
    /// With the oldest rows that the log still has.
    Oldest,
}

/// Writes a stream of Weir. The name alone is enough: `to: [ { stream: slow_checkouts } ]`.
///
/// `exactly_once`: rows are seen when their checkpoint is made, soon after they were put out, unless the document says how
/// often checkpoints are made. `at_least_once`: rows are seen as soon as they are durable, and after a failure some of
/// them are there twice.
///
/// The stream is a table of the tenant, which is made when the pipeline first starts. Its first columns are those of
/// every table, `time`, `received_at` and `time_flag`; the columns of the rows come after them. `time` is the rows' own
/// column of that name; without one the start of their window; without a window their event time. A column that is new
/// is added at the end; one whose type has changed is refused.
///
/// With `key` beside it the rows are revisions of results. The table shows the newest one of each key and hides what was
/// taken back; `<name>_history` shows all of them. A stream keeps its key for good.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-weir-short" = "name"))]
pub struct StreamSinkConfig {
    /// The stream: lower-case letters, digits and _, beginning with a letter.
    pub name: String,
    /// What is promised. Default: `exactly_once`.
    #[serde(default)]
    pub delivery: StreamDelivery,
}

/// What is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamDelivery {
    /// Each row once, whatever happens.
    #[default]
    ExactlyOnce,
    /// Each row, sooner, and after a failure some more than once.
    AtLeastOnce,
}

fn quiet_default() -> Span {
    Span(Duration::from_secs(30))
}

/// A configuration that may be the name alone.
fn whole(config: &Json) -> Json {
    match config {
        Json::String(name) => json!({ "name": name }),
        config => config.clone(),
    }
}

fn streams_of(context: &PlanContext) -> Result<&Arc<dyn Streams>, Vec<Fault>> {
    context.streams.as_ref().ok_or_else(|| {
        let message = "streams are in the log of a server, and this pipeline runs by itself";
        vec![Fault::new("", message, "give it to a server with `weir pipeline apply`")]
    })
}

fn plan_source(config: &Json, context: &PlanContext) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
    let written: StreamSourceConfig = config::parse(&whole(config))?;
    let start = match written.start {
        Start::Now => StreamStart::Now,
        Start::Oldest => StreamStart::Oldest,
    };
    let revisions = match written.revisions {
        Revisions::Final => streams::Revisions::Final,
        Revisions::All => streams::Revisions::All,
    };
    let read = ReadStream { name: written.name, start, quiet: written.quiet.0, revisions, columns: written.columns };
    streams_of(context)?.source(&read).map_err(|fault| vec![placed(config, fault)])
}

fn plan_table(config: &Json, context: &PlanContext) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
    let TableConfig { name, columns, condition } = config::parse(config)?;
    if columns.is_empty() {
        let message = "it is not said which columns are kept in memory";
        return Err(vec![Fault::new("/columns", message, "name the key, and what is looked up")]);
    }
    streams_of(context)?.table(&ReadTable { name, columns, condition }).map_err(|fault| vec![fault])
}

fn plan_sink(config: &Json, key: &[String], context: &PlanContext) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
    let written: StreamSinkConfig = config::parse(&whole(config))?;
    let delivery = match written.delivery {
        StreamDelivery::ExactlyOnce => Delivery::ExactlyOnce,
        StreamDelivery::AtLeastOnce => Delivery::AtLeastOnce,
    };
    let write = WriteStream { name: written.name, key: key.to_vec(), delivery };
    streams_of(context)?.sink(&write).map_err(|fault| vec![placed(config, fault)])
}

/// Where the name stands alone, there is no place below it.
fn placed(config: &Json, fault: Fault) -> Fault {
    if config.is_string() { Fault { pointer: String::new(), ..fault } } else { fault }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::Timestamp;
    use weir_base::clock::ManualClock;
    use weir_testkit::sim_disk::SimDisk;

    #[test]
    fn without_a_server_there_are_no_streams() {
        let context = PlanContext {
            tenant: None,
            checkpoint_interval: std::time::Duration::from_secs(10),
            directory: "/d".into(),
            pipeline: "test".to_owned(),
            disk: SimDisk::new(),
            clock: ManualClock::new(Timestamp(0)),
            streams: None,
        };
        for config in [json!("spans"), json!({ "name": "spans" })] {
            let source = (SOURCE.plan)(&config, &context).err().unwrap_or_default();
            let sink = (SINK.plan)(&config, &[], &context).err().unwrap_or_default();
            for faults in [source, sink] {
                assert!(faults[0].message.contains("runs by itself"), "{faults:?}");
                assert!(faults[0].hint.contains("weir pipeline apply"), "{faults:?}");
            }
        }
    }
}
