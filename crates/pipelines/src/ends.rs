//! What plans the sources and sinks of a document, where it runs: with what it may reach, and where rows go that are set
//! aside.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use weir_base::Clock;
use weir_component::sink::PlannedSink;
use weir_component::source::PlannedSource;
use weir_component::spec::{About, Access, Fault, PlanContext};
use weir_engine::JobOptions;

use crate::document::{self, Component, Output};
use crate::plan::COMPONENTS;
use crate::refreshes::Refreshes;

/// What plans sources and sinks: the tables of components, or in a test what stands for them.
pub trait Ends {
    /// Plans the source of a document.
    ///
    /// # Errors
    /// What is wrong with it.
    fn source(&self, component: &Component) -> Result<Arc<dyn PlannedSource>, Vec<Fault>>;

    /// Plans what a table of a document is read from: a source that ends.
    ///
    /// # Errors
    /// What is wrong with it.
    fn table(&self, table: &document::Table) -> Result<Arc<dyn PlannedSource>, Vec<Fault>>;

    /// The most bytes of state the pipeline may have when it runs. The rows of its tables are part of it.
    fn state_bytes_max(&self) -> u64 {
        JobOptions::default().state_bytes_max as u64
    }

    /// Whether tables are read once, whatever the sources are, because they do not change.
    fn are_tables_fixed(&self) -> bool {
        false
    }

    /// The clock by which tables are read again.
    fn clock(&self) -> Arc<dyn Clock>;

    /// By whom tables are asked to be read again, if by anybody.
    fn refreshes(&self) -> Option<Arc<Refreshes>> {
        None
    }

    /// Plans a sink for rows of `schema`. If the document gives it a key, the last columns are those of revisions.
    ///
    /// # Errors
    /// What is wrong with it.
    fn sink(&self, output: &Output, schema: &SchemaRef) -> Result<Arc<dyn PlannedSink>, Vec<Fault>>;

    /// Where late rows go, if anywhere.
    fn late(&self) -> Option<Arc<dyn PlannedSink>>;

    /// Where rows go that can never succeed, if anywhere.
    fn dead(&self) -> Option<Arc<dyn PlannedSink>>;
}

/// The components of this program, and sinks for what is set aside.
pub struct RealEnds {
    /// What components know.
    pub context: PlanContext,
    /// What components may reach.
    pub allowed: Access,
    /// The most bytes of state the pipeline may have when it runs.
    pub state_bytes_max: u64,
    /// Where late rows go.
    pub late: Option<Arc<dyn PlannedSink>>,
    /// Where rows go that can never succeed.
    pub dead: Option<Arc<dyn PlannedSink>>,
    /// By whom tables are asked to be read again before it is time.
    pub refreshes: Option<Arc<Refreshes>>,
}

/// There is no such component.
pub(crate) fn unknown(kind: &str, name: &str) -> Vec<Fault> {
    vec![Fault::new("", format!("there is no {kind} `{name}`"), "")]
}

impl RealEnds {
    /// Refuses a component that reaches more than it may.
    fn admit(&self, about: &About) -> Result<(), Vec<Fault>> {
        let Some(what) = about.access.beyond(self.allowed) else { return Ok(()) };
        let hint = if about.access.terminal {
            "this pipeline runs where there is no terminal; take another component"
        } else {
            "an administrator can apply it for the tenant, or allow it in the configuration"
        };
        Err(vec![Fault::new("", format!("`{}` {what}, which this pipeline may not", about.name), hint)])
    }
}

impl Ends for RealEnds {
    fn source(&self, component: &Component) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
        let spec = COMPONENTS.sources.iter().find(|spec| spec.about.name == component.name);
        let spec = spec.ok_or_else(|| unknown("source", &component.name))?;
        self.admit(&spec.about)?;
        (spec.plan)(component.config(), &self.context)
    }

    fn table(&self, table: &document::Table) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
        let component = &table.component;
        let spec = COMPONENTS.tables.iter().find(|spec| spec.about.name == component.name);
        let spec = spec.ok_or_else(|| unknown("table", &component.name))?;
        self.admit(&spec.about)?;
        (spec.plan)(component.config(), &self.context)
    }

    fn state_bytes_max(&self) -> u64 {
        self.state_bytes_max
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.context.clock)
    }

    fn refreshes(&self) -> Option<Arc<Refreshes>> {
        self.refreshes.clone()
    }

    fn sink(&self, output: &Output, _schema: &SchemaRef) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
        let component = &output.component;
        let spec = COMPONENTS.sinks.iter().find(|spec| spec.about.name == component.name);
        let spec = spec.ok_or_else(|| unknown("sink", &component.name))?;
        self.admit(&spec.about)?;
        (spec.plan)(component.config(), &output.key, &self.context)
    }

    fn late(&self) -> Option<Arc<dyn PlannedSink>> {
        self.late.clone()
    }

    fn dead(&self) -> Option<Arc<dyn PlannedSink>> {
        self.dead.clone()
    }
}
