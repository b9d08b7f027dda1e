//! From a document to a plan, with what its owner may reach.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use weir_base::{Clock, Diagnostic, ErrorKind, TenantId, Timestamp};
use weir_component::sink::SinkError;
use weir_component::spec::{Access, PlanContext};
use weir_connectors::checkpoints::CheckpointFolder;
use weir_data::defined::StreamRegistry;
use weir_data::streams::StreamDef;
use weir_document::{Fills, NoFills, ProcessFills, Syntax};
use weir_engine::{JobOptions, Plan};
use weir_meta::Meta;
use weir_meta::pipelines::{DocumentSyntax, PipelineRecord, Trust};
use weir_pipelines::plan::{GRAMMAR, RealEnds, plan};
use weir_pipelines::streams::{Definitions, Resume, StreamsOptions, TenantStreams};
use weir_sql::expressions::{Language, NoKinds};

use super::{World, folder};
use crate::ingest::StorageUse;

/// What documents of tenants may reach. What an administrator applies may reach everything but a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// What those that a tenant's own key has applied may reach.
    pub(crate) tenants: Access,
}

impl Policy {
    fn allowed(self, trust: Trust) -> Access {
        match trust {
            Trust::Tenant => Access { terminal: false, files: false, ..self.tenants },
            Trust::Administrator => Access { terminal: false, ..Access::ALL },
        }
    }
}

/// A document that can run.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// The name of the pipeline.
    pub(crate) name: String,
    /// The plan.
    pub(crate) plan: Plan,
    /// How often it makes a checkpoint, if the document says so.
    pub(crate) checkpoint_interval: Option<std::time::Duration>,
}

/// How long a source waits for rows of a stream before it looks whether there is something else to do.
const STREAM_WAIT: Duration = Duration::from_millis(250);

/// The streams of a tenant, for the pipeline of a name. Without a record it is only checked, and never opened.
fn streams(world: &World, tenant: &TenantId, pipeline: &str, record: Option<&PipelineRecord>) -> TenantStreams {
    let folder = match record {
        Some(record) => folder::of_incarnation(world, record).join("checkpoints"),
        None => world.directory.join("pipelines"),
    };
    let options = StreamsOptions {
        tenant: tenant.clone(),
        pipeline: pipeline.to_owned(),
        incarnation: record.map_or(0, |record| record.incarnation),
        since: record.map_or(Timestamp(i64::MAX), |record| record.changed_at),
        resume: Resume::Position,
        wait: STREAM_WAIT,
    };
    let store = Arc::new(CheckpointFolder::watch(&folder, Arc::clone(&world.disk)));
    let known = Arc::new(Known { meta: Arc::clone(&world.meta), storage: Arc::clone(&world.storage) });
    TenantStreams::new(Arc::clone(&world.log), known, store, Arc::clone(&world.clock), options)
}

/// What there is, and how much more there may be.
struct Known {
    meta: Arc<Meta>,
    storage: Arc<StorageUse>,
}

impl Definitions for Known {
    fn registry(&self) -> Arc<StreamRegistry> {
        self.meta.registry()
    }

    fn define(&self, tenant: &TenantId, name: &str, columns: &Schema) -> Result<Arc<StreamDef>, SinkError> {
        self.meta.define(tenant, name, columns)
    }

    fn admit(&self, tenant: &TenantId) -> Result<(), SinkError> {
        // A tenant that is gone takes its pipelines along.
        let Ok(Some(owner)) = self.meta.tenant(tenant) else { return Ok(()) };
        let (max, stored) = (owner.limits.storage_bytes_max.0, self.storage.bytes(tenant));
        if max == 0 || stored < max {
            return Ok(());
        }
        let message = format!("the tenant stores {stored} bytes, and may store {max} (limit storage_bytes_max)");
        Err(SinkError::new(ErrorKind::Limit, message))
    }
}

/// Reads, checks and plans a document; the one of `record`, if it is to run. May read files as far as needed to know
/// their columns.
pub(super) fn prepare(
    world: &World,
    tenant: &TenantId,
    source: &str,
    syntax: DocumentSyntax,
    text: &str,
    trust: Trust,
    record: Option<&PipelineRecord>,
) -> Result<Prepared, Vec<Diagnostic>> {
    let syntax = match syntax {
        DocumentSyntax::Yaml => Syntax::Yaml,
        DocumentSyntax::Toml => Syntax::Toml,
        DocumentSyntax::Json => Syntax::Json,
    };
    let directory = folder::files(world, tenant);
    let fills: Box<dyn Fills> = match trust {
        Trust::Tenant => Box::new(NoFills),
        Trust::Administrator => Box::new(ProcessFills { directory: directory.clone() }),
    };
    let document = GRAMMAR.read(source, syntax, text, fills.as_ref())?;
    let streams = streams(world, tenant, &document.name, record);
    let context = PlanContext {
        directory,
        pipeline: document.name.clone(),
        tenant: Some(tenant.as_str().to_owned()),
        checkpoint_interval: document
            .checkpoint_interval
            .map_or(JobOptions::default().checkpoint_interval, |interval| interval.0),
        disk: Arc::clone(&world.disk),
        clock: Arc::clone(&world.clock),
        streams: Some(Arc::new(streams.clone())),
    };
    let (late, dead) = (Some(streams.late()), Some(streams.dead()));
    let ends = RealEnds { allowed: world.policy.allowed(trust), late, dead, context };
    let language = Language::new(Arc::new(NoKinds), Arc::clone(&world.clock) as Arc<dyn Clock>);
    let parallelism = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let plan = plan(&document, &ends, &language, parallelism)?;
    let checkpoint_interval = document.checkpoint_interval.map(|interval| interval.0);
    Ok(Prepared { name: document.name, plan, checkpoint_interval })
}
