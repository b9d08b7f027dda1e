//! A pipeline after its check: a graph of planned components.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use weir_component::operator::PlannedStep;
use weir_component::revision::with_columns;
use weir_component::sink::PlannedSink;
use weir_component::source::PlannedSource;
use weir_component::table::own_columns;

use crate::breaker::BreakerOptions;

/// A graph of planned components. Steps come after what they read.
#[derive(Clone)]
pub struct Plan {
    /// The name of the pipeline.
    pub pipeline: String,
    /// Where rows come from.
    pub sources: Vec<PlanSource>,
    /// What happens to them.
    pub steps: Vec<PlanStep>,
    /// Where they go.
    pub sinks: Vec<PlanSink>,
    /// Where late rows go, if anywhere; they are counted in any case. Its rows have
    /// [`crate::aside_schema`].
    pub late: Option<PlanAside>,
    /// Where rows go that can never succeed, if anywhere.
    pub dead: Option<PlanAside>,
    /// Into how many instances steps with keys are split; at least 1.
    pub parallelism: usize,
}

/// A source in its place.
#[derive(Clone)]
pub struct PlanSource {
    /// Stable over restarts.
    pub id: String,
    /// The source.
    pub source: Arc<dyn PlannedSource>,
    /// The column with event time: a timestamp. `None`: the time of arrival.
    pub time: Option<usize>,
    /// How far rows of one partition may be out of order.
    pub disorder: Duration,
    /// A partition that gives nothing for so long does not hold back time. `None`: it always does.
    pub idle: Option<Duration>,
    /// How far its time may be ahead of that of the slowest source; it is not read meanwhile. `None`: as far as it comes.
    pub align: Option<Duration>,
}

/// A step in its place.
#[derive(Clone)]
pub struct PlanStep {
    /// Stable over restarts; what a state belongs to.
    pub id: String,
    /// The step.
    pub step: Arc<dyn PlannedStep>,
    /// What it reads, one for each of its inputs.
    pub inputs: Vec<Input>,
}

/// A sink in its place.
#[derive(Clone)]
pub struct PlanSink {
    /// Stable over restarts.
    pub id: String,
    /// The sink.
    pub sink: Arc<dyn PlannedSink>,
    /// What it is given.
    pub input: Input,
    /// The columns a result is known by. With some it is given every revision of results, and the columns that say
    /// which; without it is given final results only.
    pub key: Vec<String>,
    /// When it is tried again after failures.
    pub breaker: BreakerOptions,
}

/// A sink for rows that were set aside.
#[derive(Clone)]
pub struct PlanAside {
    /// Stable over restarts.
    pub id: String,
    /// The sink.
    pub sink: Arc<dyn PlannedSink>,
}

/// Something that gives rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// A source, by its index.
    Source(usize),
    /// An output of a step.
    Step {
        /// The step, by its index.
        step: usize,
        /// The output.
        branch: usize,
    },
}

impl fmt::Debug for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Plan")
            .field("pipeline", &self.pipeline)
            .field("steps", &self.steps.iter().map(|step| step.step.describe()).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// What must be the same for the state of each step to be taken over: step id to text.
    pub(crate) fn fingerprints(&self) -> std::collections::BTreeMap<String, String> {
        let steps = self.steps.iter().filter_map(|step| Some((step.id.clone(), step.step.state_fingerprint()?)));
        // What a sink has prepared belongs to where it writes.
        let sinks = self.sinks.iter().map(|sink| (format!("to {}", sink.id), sink.sink.describe()));
        steps.chain(sinks).collect()
    }

    /// Whether several processes run it at once, each with its share of the input.
    pub fn is_shared(&self) -> bool {
        self.sources.iter().any(|source| source.source.is_shared())
    }

    /// The columns of rows that may wait in a step: for its table, from whose rows they are told by them, or for the watermark.
    pub(crate) fn waiting(&self, step: &PlanStep) -> Option<SchemaRef> {
        let (rows, others) = step.inputs.split_first()?;
        let rows = self.schema_of(*rows);
        if others.is_empty() && step.step.holds_rows() {
            return Some(rows);
        }
        let tables: Vec<SchemaRef> = others.iter().filter_map(|other| own_columns(&self.schema_of(*other))).collect();
        let is_told_apart = tables.iter().all(|table| table.fields() != rows.fields());
        (!tables.is_empty() && is_told_apart).then_some(rows)
    }

    /// The columns of what an input gives.
    pub(crate) fn schema_of(&self, input: Input) -> SchemaRef {
        match input {
            Input::Source(source) => self.sources[source].source.schema(),
            Input::Step { step, branch } => Arc::clone(&self.steps[step].step.outputs()[branch].schema),
        }
    }

    /// The columns a sink is given: with a key, those that say which revision of a result a row is, too.
    pub(crate) fn given(&self, sink: &PlanSink) -> SchemaRef {
        let schema = self.schema_of(sink.input);
        if sink.key.is_empty() { schema } else { with_columns(&schema) }
    }

    /// Whether every source ends by itself.
    pub fn is_bounded(&self) -> bool {
        self.sources.iter().all(|source| source.source.is_bounded())
    }
}
