//! From a document to a plan, with what its owner may reach.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use async_trait::async_trait;
use futures::StreamExt;
use weir_base::{Clock, Diagnostic, ErrorKind, Kinded, TenantId, Timestamp};
use weir_component::sink::{PlannedSink, SinkError};
use weir_component::source::SourceError;
use weir_component::spec::{Access, PlanContext};
use weir_connectors::checkpoints::CheckpointFolder;
use weir_data::defined::StreamRegistry;
use weir_data::streams::StreamDef;
use weir_document::{Fills, NoFills, ProcessFills, Syntax};
use weir_engine::{JobOptions, LONGEST_INTERVAL, Plan};
use weir_meta::Meta;
use weir_meta::pipelines::{DocumentSyntax, PipelineRecord, Trust};
use weir_pipelines::ends::RealEnds;
use weir_pipelines::letters::identified::Identified;
use weir_pipelines::plan::{GRAMMAR, plan};
use weir_pipelines::refreshes::Refreshes;
use weir_pipelines::streams::table::{Answer, Queries};
use weir_pipelines::streams::{Definitions, Resume, StreamsOptions, TenantStreams};
use weir_sql::expressions::Language;
use weir_sql::{QueryEngine, QueryRequest, SqlError};

use super::began::Began;
use super::kinds::FrozenKinds;
use super::{World, folder};
use crate::ingest::StorageUse;
use crate::routes::query::query_limits;

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
            Trust::Weir => Access { connects: false, files: false, credentials: false, terminal: false },
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
    /// What asks its tables to be read again.
    pub(crate) refreshes: Arc<Refreshes>,
    /// How often it makes a checkpoint, if the document says so.
    pub(crate) checkpoint_interval: Option<std::time::Duration>,
}

/// How often at least a source says how far time has come while it has no rows: by so much windows may end late, those
/// of rows of several sources if one of them is quiet, ...
const WAIT: Duration = Duration::from_millis(250);
/// ... and where they end many minutes after their rows anyway, and every tenant has such a pipeline.
const WAIT_BUILT_IN: Duration = Duration::from_secs(5);

/// How long rows are gathered that a pipeline reads, ...
const LINGER: Duration = Duration::from_millis(10);
/// ... and where nobody looks at its results as soon as they are there, and every tenant has such a pipeline: of 200 tenants
/// with some events each second, each turn of each costs more than its few rows.
const LINGER_BUILT_IN: Duration = Duration::from_secs(1);

/// The streams of a tenant, for the pipeline of a name. Without a record it is only checked, and never opened.
fn streams(
    world: &World,
    tenant: &TenantId,
    pipeline: &str,
    trust: Trust,
    record: Option<&PipelineRecord>,
    began: Began,
) -> TenantStreams {
    let folder = match record {
        Some(record) => folder::of_incarnation(world, record).join("checkpoints"),
        None => world.directory.join("pipelines"),
    };
    let options = StreamsOptions {
        tenant: tenant.clone(),
        pipeline: pipeline.to_owned(),
        incarnation: record.map_or(0, |record| record.incarnation),
        since: record.map_or(Timestamp(i64::MAX), |record| record.changed_at),
        began: began.0,
        // Nobody is asked where Weir's own go on, and one that rests for long has missed nothing by it.
        resume: if trust == Trust::Weir { Resume::Oldest } else { Resume::Position },
        is_built_in: trust == Trust::Weir,
        wait: if trust == Trust::Weir { WAIT_BUILT_IN } else { WAIT },
        linger: if trust == Trust::Weir { LINGER_BUILT_IN } else { LINGER },
    };
    let store = Arc::new(CheckpointFolder::watch(&folder, Arc::clone(&world.disk)));
    let known = Arc::new(Known { meta: Arc::clone(&world.meta), storage: Arc::clone(&world.storage) });
    let queries =
        Asked { engine: Arc::clone(&world.engine), meta: Arc::clone(&world.meta), time_max: world.query_time_max };
    let streams = TenantStreams::new(Arc::clone(&world.log), known, store, Arc::clone(&world.clock), options);
    streams.asking(Arc::new(queries))
}

/// Asks for rows as the tenant itself would, in a session that holds the tenant's tables and nothing else.
struct Asked {
    engine: Arc<QueryEngine>,
    meta: Arc<Meta>,
    time_max: Duration,
}

#[async_trait]
impl Queries for Asked {
    async fn rows(&self, tenant: &TenantId, sql: &str) -> Result<Answer, SourceError> {
        let owner = self.meta.tenant(tenant);
        let owner = owner.map_err(|error| SourceError::new(error.kind(), weir_base::error::chain(&error)))?;
        let gone = || SourceError::new(ErrorKind::NotFound, "the tenant is gone");
        let limits = query_limits(&owner.ok_or_else(gone)?.limits, self.time_max);
        let request = QueryRequest { sql: sql.to_owned(), params: Vec::new(), limits };
        let result = self.engine.query(tenant, request).await.map_err(|error| unread(&error))?;
        let cut = result.stats_handle();
        let rows = result.map(|rows| rows.map_err(|error| unread(&error)));
        // Whether rows were left out is known behind the last one.
        let end = futures::stream::once(async move {
            let message = "the table has more rows than a query may have";
            cut().truncated.then(|| Err(SourceError::new(ErrorKind::TooLarge, message)))
        });
        Ok(rows.chain(end.filter_map(std::future::ready)).boxed())
    }
}

fn unread(error: &SqlError) -> SourceError {
    let kind = match error.kind() {
        // Others of the tenant's queries are in the way, or something that may pass.
        ErrorKind::Limit | ErrorKind::Full | ErrorKind::Timeout | ErrorKind::Transient => ErrorKind::Transient,
        kind => kind,
    };
    SourceError::new(kind, format!("cannot read a table: {error}"))
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

    fn define(
        &self,
        tenant: &TenantId,
        name: &str,
        columns: &Schema,
        key: &[String],
    ) -> Result<Arc<StreamDef>, SinkError> {
        self.meta.define(tenant, name, columns, key)
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

/// What a document is planned for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose<'a> {
    /// To say what is wrong with it, and what it would do.
    Check {
        /// It would begin anew.
        anew: bool,
    },
    /// To run it.
    Run(&'a PipelineRecord),
}

/// Reads, checks and plans a document. May read files as far as needed to know
/// their columns.
pub(super) fn prepare(
    world: &World,
    tenant: &TenantId,
    source: &str,
    syntax: DocumentSyntax,
    text: &str,
    trust: Trust,
    purpose: Purpose<'_>,
) -> Result<Prepared, Vec<Diagnostic>> {
    let syntax = match syntax {
        DocumentSyntax::Yaml => Syntax::Yaml,
        DocumentSyntax::Toml => Syntax::Toml,
        DocumentSyntax::Json => Syntax::Json,
    };
    let directory = folder::files(world, tenant);
    let fills: Box<dyn Fills> = match trust {
        Trust::Tenant | Trust::Weir => Box::new(NoFills),
        Trust::Administrator => Box::new(ProcessFills { directory: directory.clone() }),
    };
    // What is wrong with its shape is told by the plan, together with all else.
    let document = GRAMMAR.read_as_far(source, syntax, text, fills.as_ref())?;
    let record = match purpose {
        Purpose::Run(record) => Some(record),
        Purpose::Check { .. } => None,
    };
    let unreadable = |what: &str, error: &dyn std::error::Error| {
        let message = format!("{what} cannot be read: {}", weir_base::error::chain(error));
        vec![document.problem("", None, &message, "")]
    };
    let before = match purpose {
        Purpose::Check { anew: false } => world.meta.pipeline(tenant, &document.name).ok().flatten(),
        Purpose::Check { anew: true } | Purpose::Run(_) => None,
    };
    let kinds =
        world.meta.attribute_kinds(tenant).map_err(|error| unreadable("the kinds of attribute keys", &error))?;
    let kinds = match record.or(before.as_ref()) {
        None => FrozenKinds::new(kinds),
        Some(of) => FrozenKinds::load(kinds, world.disk.as_ref(), &folder::of_incarnation(world, of))
            .map_err(|error| unreadable("how attribute keys read in this pipeline", &error))?,
    };
    let kinds = Arc::new(kinds);
    let began = record.map_or_else(
        || Ok(Began::default()),
        |record| Began::load(world.disk.as_ref(), &folder::of_incarnation(world, record)),
    );
    let began = began.map_err(|error| unreadable("since when its streams are read", &error))?;
    let streams = streams(world, tenant, &document.name, trust, record, began);
    let context = PlanContext {
        directory,
        pipeline: document.name.clone(),
        tenant: Some(tenant.as_str().to_owned()),
        checkpoint_interval: document.checkpoint_interval.map_or(LONGEST_INTERVAL, |interval| interval.0),
        disk: Arc::clone(&world.disk),
        clock: Arc::clone(&world.clock),
        streams: Some(Arc::new(streams.clone())),
    };
    let dead: Arc<dyn PlannedSink> = Arc::new(Identified(streams.dead()));
    let (late, dead) = (Some(streams.late()), Some(dead));
    let owner = world.meta.tenant(tenant).map_err(|error| unreadable("the limits of the tenant", &error))?;
    let of_nobody = JobOptions::default().state_bytes_max as u64;
    let state_bytes_max = owner.map_or(of_nobody, |owner| owner.limits.pipeline_state_bytes_max.0);
    let refreshes = Arc::new(Refreshes::default());
    let allowed = world.policy.allowed(trust);
    let ends = RealEnds { allowed, state_bytes_max, late, dead, refreshes: Some(Arc::clone(&refreshes)), context };
    let language = Language::new(Arc::clone(&kinds) as _, Arc::clone(&world.clock) as Arc<dyn Clock>);
    let parallelism = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let plan = plan(&document, &ends, &language, parallelism)?;
    if let Some(record) = record {
        // Before any row is read: what it reads as must be the same after a crash.
        kinds.save(world.disk.as_ref(), &folder::of_incarnation(world, record)).map_err(|error| {
            let message = format!("how attribute keys read cannot be kept: {error}");
            vec![document.problem("", None, &message, "")]
        })?;
        folder::keep_began(world, record, &plan, record.changed_at).map_err(|error| {
            let message = format!("since when its streams are read cannot be kept: {error}");
            vec![document.problem("", None, &message, "")]
        })?;
    }
    let checkpoint_interval = document.checkpoint_interval.map(|interval| interval.0);
    Ok(Prepared { name: document.name, plan, refreshes, checkpoint_interval })
}
