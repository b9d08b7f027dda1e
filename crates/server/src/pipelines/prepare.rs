//! From a document to a plan, with what its owner may reach.

use std::sync::Arc;

use serde_json::json;
use weir_base::{Clock, Diagnostic, TenantId};
use weir_component::sink::PlannedSink;
use weir_component::spec::{Access, PlanContext};
use weir_document::{Fills, NoFills, ProcessFills, Syntax};
use weir_engine::Plan;
use weir_meta::pipelines::{DocumentSyntax, Trust};
use weir_pipelines::plan::{COMPONENTS, GRAMMAR, RealEnds, plan};
use weir_sql::expressions::{Language, NoKinds};

use super::{World, folder};

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

/// Reads, checks and plans a document. May read files as far as needed to know their columns.
pub(super) fn prepare(
    world: &World,
    tenant: &TenantId,
    source: &str,
    syntax: DocumentSyntax,
    text: &str,
    trust: Trust,
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
    let context = PlanContext {
        directory,
        pipeline: document.name.clone(),
        disk: Arc::clone(&world.disk),
        clock: Arc::clone(&world.clock),
        streams: None,
    };
    let (late, dead) = (aside(&context, "late"), aside(&context, "dead"));
    let ends = RealEnds { allowed: world.policy.allowed(trust), late, dead, context };
    let language = Language::new(Arc::new(NoKinds), Arc::clone(&world.clock) as Arc<dyn Clock>);
    let parallelism = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let plan = plan(&document, &ends, &language, parallelism)?;
    let checkpoint_interval = document.checkpoint_interval.map(|interval| interval.0);
    Ok(Prepared { name: document.name, plan, checkpoint_interval })
}

/// A file for rows that were set aside.
fn aside(context: &PlanContext, name: &str) -> Option<Arc<dyn PlannedSink>> {
    let spec = COMPONENTS.sinks.iter().find(|spec| spec.about.name == "file")?;
    let path = context.directory.join(format!("{}_{name}.ndjson", context.pipeline));
    (spec.plan)(&json!({ "path": path, "format": "ndjson", "existing": "append" }), context).ok()
}
