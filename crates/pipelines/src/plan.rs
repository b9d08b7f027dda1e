//! From a document to a plan: every component is checked against what it will really get, and all that is
//! wrong is reported at once, with its place.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use weir_base::Diagnostic;
use weir_component::revision;
use weir_component::sink::{Computed, Delivery, PlannedSink};
use weir_component::spec::{Fault, SinkSpec, SourceSpec};
use weir_engine::{Input, Plan, PlanAside, PlanSink, PlanSource, PlanStep};
use weir_operators::{STEPS, StepContext};
use weir_sql::expressions::Language;

use crate::document::{self, Component, Document, Entry, Grammar, Output, Step};
use crate::ends::{Ends, unknown};
use crate::graph::{Graph, Readable};
use crate::keyed::{Identities, Revised, identity_of, may_be_revised, never_final};
use crate::sql;
use crate::tables::{TableOptions, TableSource, bounds_of, own_names};

/// How far rows may be out of order, where the document does not say.
const DISORDER_DEFAULT: Duration = Duration::from_secs(5);
/// What names the source in checkpoints.
const SOURCE_ID: &str = "from";
/// What names a table.
const TABLE_ID: &str = "table";

/// The sources and sinks there are.
#[derive(Clone, Debug)]
pub struct Components {
    /// Sources.
    pub sources: &'static [SourceSpec],
    /// Sources that can be tables.
    pub tables: &'static [SourceSpec],
    /// Sinks.
    pub sinks: &'static [SinkSpec],
}

/// The components of this program.
pub static COMPONENTS: LazyLock<Components> = LazyLock::new(|| {
    let sources = [
        weir_connectors::SOURCES,
        #[cfg(feature = "kafka")]
        weir_connect_kafka::SOURCES,
    ];
    let sinks = [
        weir_connectors::SINKS,
        #[cfg(feature = "kafka")]
        weir_connect_kafka::SINKS,
    ];
    let tables = weir_connectors::TABLES;
    Components { sources: sources.concat().leak(), tables, sinks: sinks.concat().leak() }
});

/// What may be written in a document that runs with [`COMPONENTS`].
pub static GRAMMAR: LazyLock<Grammar> = LazyLock::new(|| COMPONENTS.grammar());

impl Components {
    /// The grammar of documents with these components.
    fn grammar(&self) -> Grammar {
        let of_steps = STEPS.iter().map(|step| Entry { name: step.name, summary: step.summary, schema: step.schema });
        let of_sources = self.sources.iter().map(|spec| Entry::from(&spec.about));
        let of_tables = self.tables.iter().map(|spec| Entry::from(&spec.about));
        let of_sinks = self.sinks.iter().map(|spec| Entry::from(&spec.about));
        Grammar::new(
            &of_sources.collect::<Vec<_>>(),
            &of_tables.collect::<Vec<_>>(),
            &of_steps.collect::<Vec<_>>(),
            &of_sinks.collect::<Vec<_>>(),
        )
    }
}

/// Plans a document. Its steps are spread over `parallelism` instances unless it says otherwise.
///
/// # Errors
/// Everything that is wrong, in the order of the document.
pub fn plan(
    document: &Document,
    ends: &dyn Ends,
    language: &Language,
    parallelism: usize,
) -> Result<Plan, Vec<Diagnostic>> {
    let mut planner = Planner { document, problems: Vec::new() };
    let plan = planner.plan(ends, language, parallelism);
    match plan {
        Some(plan) if planner.problems.is_empty() => Ok(plan),
        _ => Err(planner.problems),
    }
}

struct Planner<'a> {
    document: &'a Document,
    problems: Vec<Diagnostic>,
}

impl Planner<'_> {
    fn faults(&mut self, component: &Component, faults: Vec<Fault>) {
        let problems = faults.into_iter().map(|fault| self.document.diagnostic(component, fault));
        self.problems.extend(problems);
    }

    /// `None` once something is wrong that everything after it depends on.
    fn plan(&mut self, ends: &dyn Ends, language: &Language, parallelism: usize) -> Option<Plan> {
        let document = self.document;
        let language = match sql::functions(document) {
            Ok(functions) => &language.with(functions),
            Err(problems) => {
                self.problems.extend(problems);
                return None;
            }
        };
        let mut graph = Graph::default();
        let mut sources = Vec::with_capacity(document.from.len());
        for (at, input) in document.from.iter().enumerate() {
            let Some(source) = self.source(ends, input) else { continue };
            graph.add_source(&input.id, at, source.source.schema(), input.pointer.clone());
            sources.push(source);
        }
        if sources.len() < document.from.len() {
            return None;
        }
        let names = |source: &PlanSource| -> Vec<String> {
            source.source.schema().fields().iter().map(|field| field.name().clone()).collect()
        };
        let columns: Vec<Vec<String>> = sources.iter().map(names).collect();
        let known = document.from.iter().zip(&sources).zip(&columns).map(|((input, source), columns)| {
            let time = input.time.as_deref().or_else(|| source.source.time());
            weir_sql::streaming::Input { name: &input.id, time, columns: Some(columns), is_table: false }
        });
        let mut known: Vec<_> = known.collect();
        // At the end of its rows everything is final, and nobody waits for a table to change.
        let may_end = sources.iter().all(|source| source.source.is_bounded());
        let tables = self.tables(ends, &mut graph, sources.len(), may_end)?;
        let columns_of: Vec<Vec<String>> = tables.iter().map(|table| own_names(&table.source.schema())).collect();
        known.extend(document.tables.iter().zip(&columns_of).map(|(table, columns)| weir_sql::streaming::Input {
            name: &table.id,
            time: None,
            columns: Some(columns),
            is_table: true,
        }));
        let of_query = match sql::steps(document, &known) {
            Ok(steps) => steps,
            Err(problems) => {
                self.problems.extend(problems);
                return None;
            }
        };
        let mut steps: Vec<PlanStep> = Vec::new();
        let mut identities: Identities = Vec::new();
        for step in of_query.iter().chain(&document.steps) {
            let planned = self.step(step, &mut graph, &identities, language)?;
            let taken = graph.add_step(&step.id, steps.len(), planned.step.outputs(), step.component.whole());
            for name in taken {
                let message = format!("two things are called `{name}`: an input, a step or a branch");
                self.faults(&step.component, vec![Fault::new("", message, "give one of them another name")]);
            }
            self.moves(&sources, step, &planned);
            let read: Vec<_> = planned.inputs.iter().map(|read| identity_of(&identities, *read).cloned()).collect();
            let is_endless = read.iter().flatten().any(|identity| identity.is_endless);
            if is_endless && !may_end && !planned.step.takes_revisions() {
                self.faults(&step.component, vec![never_final(&format!("the step `{}`", step.id))]);
            }
            identities.push(planned.step.identities(&read));
            steps.push(planned);
        }
        let mut revised = Revised::default();
        let mut sinks: Vec<PlanSink> = Vec::new();
        for (at, output) in document.to.iter().enumerate() {
            let read = match graph.read(output.from.as_deref()) {
                Ok(read) => read,
                Err((message, hint)) => {
                    self.problems.push(document.problem(&format!("/to/{at}/from"), None, &message, &hint));
                    continue;
                }
            };
            let mut schema = read.schema();
            let identity = identity_of(&identities, read.input);
            if output.key.is_empty() && !may_end && identity.is_some_and(|identity| identity.is_endless) {
                self.faults(&output.component, vec![never_final("a sink without `key`")]);
            }
            if !output.key.is_empty() {
                let faults = revised.add(output, read.input, &schema, &steps, identity);
                let is_right = faults.is_empty();
                for Fault { pointer, message, hint, .. } in faults {
                    let pointer = format!("/to/{at}/key{pointer}");
                    self.problems.push(document.problem(&pointer, None, &message, &hint));
                }
                if !is_right {
                    continue;
                }
                schema = revision::with_columns(&schema);
            }
            match ends.sink(output, &schema) {
                Ok(sink) => {
                    let (mut input, mut schema) = (read.input, schema);
                    if let Some(computed) = sink.computes(&schema) {
                        let step = match computing(&computed, output, (input, &read.schema), language) {
                            Ok(step) => step,
                            Err(faults) => {
                                self.faults(&output.component, faults);
                                continue;
                            }
                        };
                        let outputs = step.step.outputs();
                        input = Input::Step { step: steps.len(), branch: 0 };
                        steps.push(step);
                        if let Some(branch) = outputs.first() {
                            let is_keyed = !output.key.is_empty();
                            let with_it = &branch.schema;
                            schema = if is_keyed { revision::with_columns(with_it) } else { Arc::clone(with_it) };
                        }
                    }
                    let mut faults = sink.check(&schema);
                    let is_revised =
                        identity.is_some_and(|identity| identity.is_endless) || may_be_revised(&steps, read.input);
                    if !output.key.is_empty() && is_revised && sink.delivery() == Delivery::AtLeastOnce {
                        let message = "after a failure results are put out again with other numbers of revisions, so which \
                                       of them is the newest could not be told";
                        let hint = "give them to a sink that delivers exactly once, such as a file, or leave `early` and `lateness` out";
                        faults.push(Fault::new("/delivery", message, hint));
                    }
                    faults.extend(self.loops(&sources, &sinks, sink.stream()));
                    self.faults(&output.component, faults);
                    let (id, key) = (output.id.clone(), output.key.clone());
                    sinks.push(PlanSink { id, sink, input, key, breaker: output.breaker });
                }
                Err(faults) => self.faults(&output.component, faults),
            }
        }
        if self.problems.is_empty() {
            // What a step of the query leaves out is meant to be lost.
            for (pointer, message) in graph.unread().filter(|(pointer, _)| !pointer.is_empty()) {
                let hint = "let a step or a sink read it with `from`; what is not wanted can go to the sink `discard`";
                self.problems.push(document.problem(pointer, None, &message, hint));
            }
        }
        self.one_decides(&sinks);
        self.is_shareable(&sources, &sinks);
        let early = revised.apply(&mut steps);
        if self.problems.is_empty() {
            let components = of_query.iter().chain(&document.steps).map(|step| &step.component).enumerate();
            for (_, component) in components.filter(|(at, _)| early.contains(at)) {
                let hint = "give a sink that reads its results a `key`, or leave `early` out";
                self.faults(component, vec![Fault::new("/early", "nobody gets early results", hint)]);
            }
        }
        let aside =
            |id: &str, sink: Option<Arc<dyn PlannedSink>>| sink.map(|sink| PlanAside { id: id.to_owned(), sink });
        sources.extend(tables);
        Some(Plan {
            pipeline: document.name.clone(),
            sources,
            steps,
            sinks,
            late: aside("_late", ends.late()),
            dead: aside("_dead", ends.dead()),
            parallelism: document.parallelism.unwrap_or(parallelism),
        })
    }

    /// A source with what is known of its time.
    fn source(&mut self, ends: &dyn Ends, input: &document::Input) -> Option<PlanSource> {
        let source = match ends.source(&input.component) {
            Ok(source) => source,
            Err(faults) => {
                self.faults(&input.component, faults);
                return None;
            }
        };
        let time = self.time(&source.schema(), input, input.time.as_deref().or_else(|| source.time()));
        let disorder = if time.is_some() { DISORDER_DEFAULT } else { Duration::ZERO };
        Some(PlanSource {
            id: if self.document.from.len() == 1 { SOURCE_ID.to_owned() } else { format!("{SOURCE_ID}_{}", input.id) },
            source,
            time,
            disorder: input.watermark.map_or(disorder, |watermark| watermark.0),
            idle: input.idle.map(|idle| idle.0),
            align: input.align.map(|align| align.0),
        })
    }

    /// The tables, as sources that come after the others. `None` if one is wrong.
    fn tables(
        &mut self,
        ends: &dyn Ends,
        graph: &mut Graph,
        n_sources: usize,
        is_read_once: bool,
    ) -> Option<Vec<PlanSource>> {
        let mut tables = Vec::with_capacity(self.document.tables.len());
        let bounds: Vec<_> = self.document.tables.iter().map(|table| table.bytes_max).collect();
        let bounds = match bounds_of(&bounds, ends.state_bytes_max(), is_read_once) {
            Ok(bounds) => bounds,
            Err(fault) => {
                self.problems.push(self.document.problem("/tables", None, &fault.message, &fault.hint));
                return None;
            }
        };
        for (at, (table, bytes_max)) in self.document.tables.iter().zip(bounds).enumerate() {
            let planned = ends.table(table).and_then(|source| {
                let options = TableOptions::new(table.refresh, is_read_once, bytes_max);
                TableSource::plan(&table.id, source, options, ends.clock(), ends.refreshes())
            });
            match planned {
                Ok(source) => {
                    graph.add_table(&table.id, n_sources + at, source.schema(), table.pointer.clone());
                    tables.push(PlanSource {
                        id: format!("{TABLE_ID}_{}", table.id),
                        source,
                        time: None,
                        disorder: Duration::ZERO,
                        idle: None,
                        align: None,
                    });
                }
                Err(faults) => self.faults(&table.component, faults),
            }
        }
        (tables.len() == self.document.tables.len()).then_some(tables)
    }

    /// A step in its place. `None` if it is wrong: without its columns nothing can be said of the steps after
    /// it.
    fn step(
        &mut self,
        step: &Step,
        graph: &mut Graph,
        identities: &Identities,
        language: &Language,
    ) -> Option<PlanStep> {
        let Some(spec) = STEPS.iter().find(|spec| spec.name == step.component.name) else {
            self.faults(&step.component, unknown("step", &step.component.name));
            return None;
        };
        let mut read = Vec::new();
        match graph.read(step.from.as_deref()) {
            Ok(found) => read.push(found),
            Err((message, hint)) => {
                let pointer = format!("{}/from", step.component.whole());
                self.problems.push(self.document.problem(&pointer, None, &message, &hint));
            }
        }
        let others = (spec.reads)(step.component.config());
        for other in &others {
            match graph.read_other(other, &read, step.component.is_of_query()) {
                Ok(found) => read.push(found),
                Err((message, hint)) => self.faults(&step.component, vec![Fault::new(&other.pointer, message, hint)]),
            }
        }
        if read.len() < 1 + others.len() {
            return None;
        }
        let mut schemas = read.iter().map(Readable::schema);
        let context = StepContext {
            input: schemas.next()?,
            others: schemas.collect(),
            language,
            when: step.when.as_deref(),
            identity: identity_of(identities, read[0].input),
        };
        match (spec.plan)(step.component.config(), &context) {
            Ok(planned) => {
                let inputs = read.iter().map(|read| read.input).collect();
                Some(PlanStep { id: step.id.clone(), step: planned, inputs })
            }
            Err(faults) => {
                self.faults(&step.component, faults);
                None
            }
        }
    }

    /// What is wrong with writing a stream besides what the sink knows.
    fn loops(&self, sources: &[PlanSource], sinks: &[PlanSink], written: Option<&str>) -> Option<Fault> {
        let written = written?;
        if sources.iter().any(|source| source.source.stream() == Some(written)) {
            let message = format!("the pipeline reads the stream `{written}`: its results would be its input again");
            return Some(Fault::new("", message, "write another stream"));
        }
        let is_twice = sinks.iter().any(|sink| sink.sink.stream() == Some(written));
        let message = format!("two sinks write the stream `{written}`");
        is_twice.then(|| Fault::new("", message, "put what both get together with `union`, and give that to one"))
    }

    /// The commits of two sinks cannot be one decision.
    fn one_decides(&mut self, sinks: &[PlanSink]) {
        let mut deciding = sinks.iter().enumerate().filter(|(_, sink)| sink.sink.decider().is_some());
        let Some((_, first)) = deciding.next() else { return };
        for (at, sink) in deciding {
            let message = format!("`{}` delivers exactly once by its own commit, and so does `{}`", sink.id, first.id);
            let hint = "one sink of a pipeline can; give the other one `delivery: at_least_once`, or its own pipeline";
            self.problems.push(self.document.problem(&format!("/to/{at}"), None, &message, hint));
        }
    }

    /// Partitions that go from one process to another would leave the state of their rows behind.
    fn moves(&mut self, sources: &[PlanSource], step: &Step, planned: &PlanStep) {
        if !is_shared(sources) || planned.step.state_fingerprint().is_none() {
            return;
        }
        let message = format!(
            "the step `{}` remembers rows, and cannot where the source is shared: a partition that moves to another \
             process would leave what is remembered of its rows behind",
            planned.id
        );
        let hint = "let the shared pipeline write a topic that a pipeline of one process reads (its `parallelism` \
                    uses all cores), or leave out `shared` and give each process a `part` of the partitions";
        self.faults(&step.component, vec![Fault::new("", message, hint)]);
    }

    /// What else a shared source cannot be together with.
    fn is_shareable(&mut self, sources: &[PlanSource], sinks: &[PlanSink]) {
        if !is_shared(sources) {
            return;
        }
        if sources.len() > 1 {
            let message =
                "a shared source must be the only one of its pipeline: every process would read the others as a whole";
            let hint = "give each source a pipeline, or leave out `shared`";
            self.problems.push(self.document.problem("/from", None, message, hint));
        }
        for (at, sink) in sinks.iter().enumerate() {
            if sink.sink.keeps_rows() {
                let message = format!(
                    "`{}` delivers exactly once by the checkpoints of one process, and those know nothing of partitions \
                     that have moved to another one",
                    sink.id
                );
                let hint = "write to Kafka, which commits what was read together with the rows, or give the sink \
                            `delivery: at_least_once` where it has that, or leave out `shared`";
                self.problems.push(self.document.problem(&format!("/to/{at}"), None, &message, hint));
            }
        }
    }

    /// The column with the event time.
    fn time(&mut self, schema: &SchemaRef, input: &document::Input, name: Option<&str>) -> Option<usize> {
        let name = name?;
        let pointer = format!("{}/time", input.pointer);
        let problem = |message: String, hint: &str| self.document.problem(&pointer, None, &message, hint);
        let Ok(at) = schema.index_of(name) else {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let hint = format!("the columns are {}", names.join(", "));
            self.problems.push(problem(format!("the source has no column `{name}`"), &hint));
            return None;
        };
        let data_type = schema.field(at).data_type();
        if !matches!(data_type, DataType::Timestamp(..)) {
            let message = format!("the column `{name}` is {data_type}, not a timestamp");
            self.problems.push(problem(message, "give the column the type timestamp in the source's `schema`"));
            return None;
        }
        Some(at)
    }
}

/// The step that computes a column for a sink which reads `input`.
fn computing(
    computed: &Computed,
    output: &Output,
    (input, schema): (Input, &SchemaRef),
    language: &Language,
) -> Result<PlanStep, Vec<Fault>> {
    let Computed { pointer, column, expression } = computed;
    let spec = STEPS.iter().find(|spec| spec.name == "set");
    let spec = spec.ok_or_else(|| unknown("step", "set"))?;
    let config = serde_json::json!({ *column: expression });
    let context = StepContext { input: Arc::clone(schema), others: Vec::new(), language, when: None, identity: None };
    let planned = (spec.plan)(&config, &context);
    let step = planned.map_err(|faults| {
        let place = |fault: Fault| Fault { pointer: (*pointer).to_owned(), ..fault };
        faults.into_iter().map(place).collect::<Vec<_>>()
    })?;
    let setting = pointer.trim_start_matches('/');
    Ok(PlanStep { id: format!("{setting}_of_{}", output.id), step, inputs: vec![input] })
}

fn is_shared(sources: &[PlanSource]) -> bool {
    sources.iter().any(|source| source.source.is_shared())
}

/// What each sink of a plan promises, by its id.
pub fn deliveries(plan: &Plan) -> BTreeMap<String, &'static str> {
    plan.sinks.iter().map(|sink| (sink.id.clone(), sink.sink.delivery().as_str())).collect()
}
