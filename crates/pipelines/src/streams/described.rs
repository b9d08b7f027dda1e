//! Streams as they are defined, for checking a pipeline where there is no log.
//!
//! Those that are built in are the same everywhere; a tenant's own are known to its server alone.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use weir_base::clock::SystemClock;
use weir_base::{ErrorKind, TenantId};
use weir_component::sink::{Delivery, Opening, PlannedSink, Sink, SinkError};
use weir_component::source::{PlannedSource, Source, SourceError, SourcePosition};
use weir_component::spec::Fault;
use weir_component::streams::{ReadStream, ReadTable, Streams, WriteStream};
use weir_data::defined::{StreamRegistry, has_columns};
use weir_data::streams::StreamDef;
use weir_sql::expressions::stream_schema;

use super::rows::{key_with_time, own_columns};
use super::source::columns_of;
use super::table::TablePlan;
use super::{check_writable, is_set_aside, readable};

/// The streams there are by definition, for one pipeline that is only checked.
#[derive(Debug)]
pub struct DescribedStreams {
    pipeline: String,
    registry: StreamRegistry,
    /// Whoever has no streams of its own.
    nobody: TenantId,
}

impl DescribedStreams {
    /// Those that are built in. `None` if nobody can be without streams, which is a bug.
    pub fn built_in(pipeline: &str) -> Option<Self> {
        let nobody = TenantId::new("nobody").ok()?;
        Some(Self { pipeline: pipeline.to_owned(), registry: StreamRegistry::default(), nobody })
    }
}

/// What to do about a stream that is not built in.
const HINT: &str = "a tenant's own streams are known to its server: `weir pipeline apply --dry-run` checks with them";

impl Streams for DescribedStreams {
    fn schema(&self, stream: &str) -> Option<SchemaRef> {
        self.registry.get(&self.nobody, stream).map(|stream| stream_schema(&stream))
    }

    fn source(&self, read: &ReadStream) -> Result<Arc<dyn PlannedSource>, Fault> {
        let found = readable(read, &self.registry, &self.nobody, &self.pipeline);
        let is_known = self.schema(&read.name).is_some() || is_set_aside(&read.name, &self.pipeline);
        let (_, definition) = found.map_err(|fault| match is_known {
            true => fault,
            false => Fault {
                message: format!("there is no built-in stream `{}`", read.name),
                hint: HINT.to_owned(),
                ..fault
            },
        })?;
        let (schema, _) = columns_of(&definition, read);
        Ok(Arc::new(DescribedSource { name: read.name.clone(), schema }))
    }

    fn table(&self, read: &ReadTable) -> Result<Arc<dyn PlannedSource>, Fault> {
        let Some(definition) = self.registry.get(&self.nobody, &read.name) else {
            return Err(Fault::new("/name", format!("there is no built-in table `{}`", read.name), HINT));
        };
        Ok(Arc::new(TablePlan::new(&self.nobody, &definition, read, SystemClock::new(), None)?))
    }

    fn sink(&self, write: &WriteStream) -> Result<Arc<dyn PlannedSink>, Fault> {
        check_writable(&write.name)?;
        Ok(Arc::new(DescribedSink { name: write.name.clone(), key: write.key.clone(), delivery: write.delivery }))
    }
}

struct DescribedSource {
    name: String,
    schema: SchemaRef,
}

#[async_trait]
impl PlannedSource for DescribedSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn is_bounded(&self) -> bool {
        false
    }

    async fn open(&self, _: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        Err(SourceError::new(ErrorKind::Config, "there is no log to read streams from"))
    }

    fn describe(&self) -> String {
        format!("reads the stream {}", self.name)
    }

    fn time(&self) -> Option<&str> {
        Some("time")
    }

    fn stream(&self) -> Option<&str> {
        Some(&self.name)
    }
}

struct DescribedSink {
    name: String,
    key: Vec<String>,
    delivery: Delivery,
}

#[async_trait]
impl PlannedSink for DescribedSink {
    fn delivery(&self) -> Delivery {
        self.delivery
    }

    async fn open(&self, _: SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        Err(SinkError::new(ErrorKind::Config, "there is no log to append to"))
    }

    fn describe(&self) -> String {
        format!("writes the stream {}", self.name)
    }

    fn check(&self, schema: &SchemaRef) -> Vec<Fault> {
        // As if it were made now: whether one that is there fits is known to the server.
        let (columns, key) = (own_columns(schema), key_with_time(schema, &self.key));
        let made = StreamDef::define(&self.name, None, &columns, &key);
        let fits = made.and_then(|stream| has_columns(&stream, &columns, &key).map(|_| ()));
        let hint = "rename the column, cast it, or write another stream";
        fits.err().map(|error| Fault::new("", error.to_string(), hint)).into_iter().collect()
    }

    fn stream(&self) -> Option<&str> {
        Some(&self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use arrow::datatypes::{DataType, Field, Schema};
    use weir_component::streams::{Revisions, StreamStart};

    use super::*;

    fn read(name: &str, columns: &[&str]) -> ReadStream {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        let (start, revisions) = (StreamStart::Now, Revisions::Final);
        ReadStream { name: name.to_owned(), start, quiet: Duration::ZERO, revisions, columns }
    }

    /// What is built in is known without a server, and what is wrong with a stream is the same as there.
    #[test]
    fn built_in_streams_are_known_everywhere() {
        let streams = DescribedStreams::built_in("p").unwrap();
        let source = streams.source(&read("spans", &["duration_ns"])).unwrap();
        let names: Vec<String> = source.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["time", "received_at", "duration_ns"]);
        assert!(streams.schema("logs").is_some());
        let fault = |read: ReadStream| streams.source(&read).err().unwrap();
        assert_eq!(fault(read("visits", &[])).message, "there is no built-in stream `visits`");
        assert_eq!(fault(read("visits", &[])).hint, HINT);
        assert_eq!(fault(read("spans", &["duration"])).pointer, "/columns/0");
        assert!(fault(read("p_late", &[])).message.contains("is written by this pipeline"));
        let write =
            |name: &str| WriteStream { name: name.to_owned(), key: Vec::new(), delivery: Delivery::ExactlyOnce };
        assert!(streams.sink(&write("spans")).err().unwrap().message.contains("a stream of Weir's own"));
        assert!(streams.sink(&write("a_history")).err().unwrap().message.contains("does not end in"));
        let sink = streams.sink(&write("slow")).unwrap();
        let schema = |data_type| Arc::new(Schema::new(vec![Field::new("a", data_type, true)]));
        assert_eq!(sink.check(&schema(DataType::Int64)), []);
        assert_eq!(sink.check(&schema(DataType::Duration(arrow::datatypes::TimeUnit::Second))).len(), 1);
    }
}
