//! Streams of the log as sources and sinks of a tenant's pipeline.
//!
//! [`TenantStreams`] is the handle of one pipeline. [`source`] reads a stream from the log, [`sink`] appends to one, each
//! row once, and [`rows`] says how the columns of results become those of a stream.
//!
//! The rows late and failing rows of a pipeline become are streams, too: [`TenantStreams::late`] and
//! [`TenantStreams::dead`].

pub mod described;
mod rows;
mod sink;
mod source;
pub mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use weir_base::{Clock, Kinded, StreamName, TenantId, Timestamp};
use weir_component::checkpoint::CheckpointStore;
use weir_component::sink::{Delivery, PlannedSink, SinkError};
use weir_component::source::PlannedSource;
use weir_component::spec::Fault;
use weir_component::streams::{ReadStream, ReadTable, Streams, WriteStream};
use weir_data::defined::StreamRegistry;
use weir_data::streams::{self, StreamDef};
use weir_log::{Append, Appended, Log, LogError};
use weir_meta::Meta;
use weir_sql::expressions::stream_schema;
use weir_sql::nearest;

use crate::document::RESERVED_ENDINGS;
use sink::StreamSinkPlan;
use source::StreamSourcePlan;
use table::{Queries, TablePlan};

/// Who knows which streams there are, and adds to them.
pub trait Definitions: Send + Sync {
    /// All streams.
    fn registry(&self) -> Arc<StreamRegistry>;

    /// Sees to it that a tenant has a stream with these columns and this key; durable when it returns.
    ///
    /// # Errors
    /// If it cannot have one.
    fn define(
        &self,
        tenant: &TenantId,
        name: &str,
        columns: &Schema,
        key: &[String],
    ) -> Result<Arc<StreamDef>, SinkError>;

    /// Whether a tenant may store more rows.
    ///
    /// # Errors
    /// Why not, which may pass.
    fn admit(&self, tenant: &TenantId) -> Result<(), SinkError> {
        let _ = tenant;
        Ok(())
    }
}

impl Definitions for Meta {
    fn registry(&self) -> Arc<StreamRegistry> {
        Arc::clone(self.streams())
    }

    fn define(
        &self,
        tenant: &TenantId,
        name: &str,
        columns: &Schema,
        key: &[String],
    ) -> Result<Arc<StreamDef>, SinkError> {
        self.define_stream(tenant, name, columns, key).map_err(|error| {
            let message = format!("cannot define the stream `{name}`: {}", weir_base::error::chain(&error));
            SinkError::new(error.kind(), message)
        })
    }
}

/// Appends to the log. A seam, because the simulator has no thread that would commit.
#[async_trait]
pub trait Appends: Send + Sync {
    /// Appends, and returns once that is durable.
    ///
    /// # Errors
    /// Those of the log.
    async fn append(&self, append: Append) -> Result<Appended, LogError>;
}

#[async_trait]
impl Appends for Log {
    async fn append(&self, append: Append) -> Result<Appended, LogError> {
        Self::append(self, append).await
    }
}

/// Where a source goes on that was overrun: whose position the log does not have any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Nowhere: it fails until somebody has decided.
    #[default]
    Position,
    /// With the oldest rows there are.
    Oldest,
    /// With the rows that come from now on, also where it was not overrun: to get past damage.
    Now,
}

/// What the streams of a pipeline have to know of it.
#[derive(Clone, Debug)]
pub struct StreamsOptions {
    /// The owner.
    pub tenant: TenantId,
    /// The name of the pipeline.
    pub pipeline: String,
    /// Another number whenever the pipeline begins anew: what it has written belongs to it.
    pub incarnation: u64,
    /// When it was applied: of a stream that is not in `began`, rows that came before are not read unless the document says so.
    pub since: Timestamp,
    /// Since when it reads streams, by their names, where that is longer.
    pub began: BTreeMap<String, Timestamp>,
    /// Where a source goes on that was overrun.
    pub resume: Resume,
    /// It ships with Weir, and may write those of Weir's own streams that pipelines write.
    pub is_built_in: bool,
    /// How long at most a source that has no rows waits until it says again how far time has come: soon after rows it is
    /// less. Zero: not at all, as a simulation needs it.
    pub wait: Duration,
    /// How long after it looked for rows a source gathers more before it looks again, unless there are many: each look
    /// and each batch has a cost beside that of its rows. Zero: not at all.
    pub linger: Duration,
}

/// What the parts of one pipeline share.
struct Shared {
    log: Arc<Log>,
    appends: Arc<dyn Appends>,
    definitions: Arc<dyn Definitions>,
    store: Arc<dyn CheckpointStore>,
    clock: Arc<dyn Clock>,
    options: StreamsOptions,
    /// Who is asked for rows of tables.
    queries: Option<Arc<dyn Queries>>,
}

/// The streams of a tenant, for one of its pipelines.
#[derive(Clone)]
pub struct TenantStreams(Arc<Shared>);

impl fmt::Debug for TenantStreams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TenantStreams").field("options", &self.0.options).finish_non_exhaustive()
    }
}

/// The ending of the stream of late rows.
const LATE: &str = "_late";
/// The ending of the stream of dead letters.
const DEAD: &str = "_dead";

impl TenantStreams {
    /// Streams in `log`. `store` is where the pipeline's checkpoints are: what is not appended yet is kept there, too.
    pub fn new(
        log: Arc<Log>,
        definitions: Arc<dyn Definitions>,
        store: Arc<dyn CheckpointStore>,
        clock: Arc<dyn Clock>,
        options: StreamsOptions,
    ) -> Self {
        let appends: Arc<dyn Appends> = Arc::clone(&log) as _;
        Self(Arc::new(Shared { log, appends, definitions, store, clock, options, queries: None }))
    }

    /// The same, which appends in another way.
    #[must_use]
    pub fn appending(&self, appends: Arc<dyn Appends>) -> Self {
        let Shared { log, definitions, store, clock, options, queries, .. } = self.0.as_ref();
        Self(Arc::new(Shared {
            log: Arc::clone(log),
            appends,
            definitions: Arc::clone(definitions),
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            options: options.clone(),
            queries: queries.clone(),
        }))
    }

    /// The same, which asks for rows of tables there.
    #[must_use]
    pub fn asking(&self, queries: Arc<dyn Queries>) -> Self {
        let Shared { log, appends, definitions, store, clock, options, .. } = self.0.as_ref();
        Self(Arc::new(Shared {
            log: Arc::clone(log),
            appends: Arc::clone(appends),
            definitions: Arc::clone(definitions),
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            options: options.clone(),
            queries: Some(queries),
        }))
    }

    /// The stream of the pipeline's late rows.
    pub fn late(&self) -> Arc<dyn PlannedSink> {
        self.of_pipeline(LATE)
    }

    /// The stream of the pipeline's dead letters.
    pub fn dead(&self) -> Arc<dyn PlannedSink> {
        self.of_pipeline(DEAD)
    }

    fn of_pipeline(&self, ending: &str) -> Arc<dyn PlannedSink> {
        let name = format!("{}{ending}", self.0.options.pipeline);
        Arc::new(StreamSinkPlan::new(&self.0, name, Vec::new(), Delivery::ExactlyOnce))
    }

    fn definition(&self, name: &str) -> Option<Arc<StreamDef>> {
        self.0.definitions.registry().get(&self.0.options.tenant, name)
    }
}

impl Streams for TenantStreams {
    fn schema(&self, stream: &str) -> Option<SchemaRef> {
        self.definition(stream).map(|stream| stream_schema(&stream))
    }

    fn source(&self, read: &ReadStream) -> Result<Arc<dyn PlannedSource>, Fault> {
        let Shared { definitions, options, .. } = self.0.as_ref();
        let (name, definition) = readable(read, &definitions.registry(), &options.tenant, &options.pipeline)?;
        Ok(Arc::new(StreamSourcePlan::new(&self.0, name, &definition, read)))
    }

    fn table(&self, read: &ReadTable) -> Result<Arc<dyn PlannedSource>, Fault> {
        let Shared { definitions, options, clock, queries, .. } = self.0.as_ref();
        let registry = definitions.registry();
        let Some(definition) = registry.get(&options.tenant, &read.name) else {
            let streams = registry.all(&options.tenant);
            let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_ref()).collect();
            let message = format!("there is no table `{}`", read.name);
            return Err(Fault::new("/name", message, format!("there are {}", names.join(", "))));
        };
        Ok(Arc::new(TablePlan::new(&options.tenant, &definition, read, Arc::clone(clock), queries.clone())?))
    }

    fn sink(&self, write: &WriteStream) -> Result<Arc<dyn PlannedSink>, Fault> {
        let is_kept = streams::stream(&write.name).is_some_and(|stream| stream.is_keyed());
        if !is_kept || !self.0.options.is_built_in {
            check_writable(&write.name)?;
        }
        Ok(Arc::new(StreamSinkPlan::new(&self.0, write.name.clone(), write.key.clone(), write.delivery)))
    }
}

/// The stream that a pipeline of a tenant is to read.
///
/// # Errors
/// What is wrong with reading it; the pointer is relative to the settings of the source.
fn readable(
    read: &ReadStream,
    registry: &StreamRegistry,
    tenant: &TenantId,
    pipeline: &str,
) -> Result<(StreamName, Arc<StreamDef>), Fault> {
    if is_set_aside(&read.name, pipeline) {
        let message = format!("`{}` is written by this pipeline: what it sets aside would be its input", read.name);
        return Err(Fault::new("/name", message, "read it in another pipeline"));
    }
    let Some((definition, name)) = registry.get(tenant, &read.name).zip(StreamName::new(&read.name).ok()) else {
        let streams = registry.all(tenant);
        let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_ref()).collect();
        let hint = format!("there are {}; a stream that a pipeline writes is there once it has run", names.join(", "));
        return Err(Fault::new("/name", format!("there is no stream `{}`", read.name), hint));
    };
    for (at, column) in read.columns.iter().enumerate() {
        if definition.schema.field_with_name(column).is_err() {
            let message = format!("the stream `{name}` has no column `{column}`");
            let names: Vec<&str> = definition.schema.fields().iter().map(|field| field.name().as_str()).collect();
            let hint = match nearest(column, names.iter().copied()) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("the columns are {}", names.join(", ")),
            };
            return Err(Fault::new(&format!("/columns/{at}"), message, hint));
        }
    }
    Ok((name, definition))
}

/// Whether a stream is what a pipeline sets aside.
fn is_set_aside(stream: &str, pipeline: &str) -> bool {
    [LATE, DEAD].iter().any(|ending| stream.strip_suffix(ending) == Some(pipeline))
}

/// Refuses names of streams that pipelines of tenants do not write.
///
/// # Errors
/// Why not; the pointer is relative to the settings of the sink.
fn check_writable(name: &str) -> Result<(), Fault> {
    if streams::stream(name).is_some() {
        let message = format!("`{name}` is a stream of Weir's own, which pipelines do not write");
        return Err(Fault::new("/name", message, "choose another name"));
    }
    if let Some(ending) = RESERVED_ENDINGS.into_iter().find(|ending| name.ends_with(ending)) {
        let message = format!("the name of a stream does not end in `{ending}`: streams made for pipelines do");
        return Err(Fault::new("/name", message, "choose another name"));
    }
    match StreamDef::define(name, None, &Schema::empty(), &[]) {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::new("/name", error.to_string(), "")),
    }
}

#[cfg(test)]
mod tests;
