//! From a document to a plan: every component is checked against what it will really get, and all that is
//! wrong is reported at once, with its place.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use weir_base::Diagnostic;
use weir_component::revision;
use weir_component::sink::{Computed, Delivery, PlannedSink};
use weir_component::spec::{Fault, SinkSpec, SourceSpec};
use weir_engine::{Input, Plan, PlanAside, PlanSink, PlanSource, PlanStep};
use weir_operators::{STEPS, StepContext};
use weir_sql::expressions::{Defined, Language};
use weir_sql::streaming::INPUT;

use crate::document::{self, Component, Document, Entry, Grammar, Output, Step};
use crate::doubt::{Doubt, names_in, words};
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
/// Behind so many steps that are wrong no others are looked at.
const WRONG_STEPS_MAX: usize = 100;

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
    let mut planner =
        Planner { document, problems: document.flaws(), functions: Doubt::default(), is_any_function: false };
    let plan = planner.plan(ends, language, parallelism);
    match plan {
        Some(plan) if planner.problems.is_empty() => Ok(plan),
        _ => Err(in_order(planner.problems)),
    }
}

/// Problems in the order of their places, each once.
fn in_order(mut problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let place = |problem: &Diagnostic| {
        let mut parts = problem.place.rsplit(':').map(str::parse::<usize>);
        match (parts.next(), parts.next()) {
            (Some(Ok(column)), Some(Ok(line))) => (line, column),
            _ => (usize::MAX, 0),
        }
    };
    problems.sort_by_key(place);
    problems.dedup();
    problems
}

struct Planner<'a> {
    document: &'a Document,
    problems: Vec<Diagnostic>,
    /// The functions of the document, if something is wrong with them.
    functions: Doubt,
    /// There may be other functions, in what could not be read.
    is_any_function: bool,
}

impl Planner<'_> {
    fn faults(&mut self, component: &Component, faults: Vec<Fault>) {
        let problems = faults.into_iter().map(|fault| self.document.diagnostic(component, fault));
        self.problems.extend(problems);
    }

    /// Tells of what is wrong with something whose rows are in doubt, unless that may only follow from what was told.
    fn faults_in_doubt(&mut self, component: &Component, when: Option<&str>, doubt: &Doubt, faults: Vec<Fault>) {
        let config = component.config();
        let told = faults.into_iter().filter(|fault| {
            let of_functions = Fault { is_of_itself: false, ..fault.clone() };
            let is_unknown_function = self.is_any_function && fault.message.starts_with("invalid function");
            !is_unknown_function
                && !self.functions.explains(&of_functions, config, when)
                && !doubt.explains(fault, config, when)
        });
        let told = told.map(|fault| doubt.told(fault)).collect();
        self.faults(component, told);
    }

    /// The functions expressions may call. If something is wrong with one, none is known.
    fn functions(&mut self) -> Defined {
        let document = self.document;
        let is_flawed = ["/functions", "/aggregates"].into_iter().any(|section| document.is_flawed(section));
        let calls = document.functions.iter().map(|(call, _)| call);
        let calls = calls.chain(document.aggregates.iter().map(|aggregate| &aggregate.call));
        let names = Doubt::of(calls.filter_map(|call| words(call).next()).map(str::to_owned));
        self.is_any_function = is_flawed;
        match sql::functions(document) {
            Ok(functions) => functions,
            Err(problems) => {
                self.problems.extend(problems);
                self.functions = names;
                Defined::default()
            }
        }
    }

    /// The plan, of which some is missing if there are problems.
    fn plan(&mut self, ends: &dyn Ends, language: &Language, parallelism: usize) -> Option<Plan> {
        let document = self.document;
        let functions = self.functions();
        let language = &language.with(functions.clone());
        let mut graph = Graph::default();
        let mut sources = Vec::with_capacity(document.from.len());
        let mut columns: Vec<Option<Vec<String>>> = Vec::with_capacity(document.from.len());
        let names = |schema: SchemaRef| schema.fields().iter().map(|field| field.name().clone()).collect();
        for (at, input) in document.from.iter().enumerate() {
            let is_flawed = document.is_flawed("/from") || document.is_flawed(&input.pointer);
            match (!is_flawed).then(|| self.source(ends, input)).flatten() {
                Some(source) => {
                    graph.add_source(&input.id, at, source.source.schema(), input.pointer.clone());
                    columns.push(Some(names(source.source.schema())));
                    sources.push(source);
                }
                None => {
                    graph.add_unknown(&input.id, at, &input.pointer, false);
                    columns.push(None);
                }
            }
        }
        if document.from.is_empty() {
            graph.add_unknown(INPUT, 0, "", false);
        }
        let mut planned = sources.iter();
        let known = document.from.iter().zip(&columns).map(|(input, columns)| {
            let source = columns.as_ref().and_then(|_| planned.next());
            let time = input.time.as_deref().or_else(|| source.and_then(|source| source.source.time()));
            weir_sql::streaming::Input { name: &input.id, time, columns: columns.as_deref(), is_table: false }
        });
        let mut known: Vec<_> = known.collect();
        // At the end of its rows everything is final, and nobody waits for a table to change.
        let may_end = sources.iter().all(|source| source.source.is_bounded());
        let tables = self.tables(ends, &mut graph, document.from.len(), may_end);
        let columns_of: Vec<Option<Vec<String>>> =
            tables.iter().map(|table| table.as_ref().map(|table| own_names(&table.source.schema()))).collect();
        known.extend(document.tables.iter().zip(&columns_of).map(|(table, columns)| weir_sql::streaming::Input {
            name: &table.id,
            time: None,
            columns: columns.as_deref(),
            is_table: true,
        }));
        let in_doubt = graph.is_in_doubt() || document.is_flawed("/tables");
        let of_query = match document.is_flawed("/sql") {
            true => Err(Vec::new()),
            false => sql::steps_with(
                document,
                &known,
                &functions,
                in_doubt || self.is_any_function || !self.functions.is_none(),
            ),
        };
        let of_query = of_query.unwrap_or_else(|problems| {
            self.problems.extend(problems);
            let unknown = graph.unknown();
            graph.add_wrong(unknown.schema, unknown.doubt, Some(BTreeSet::new()));
            Vec::new()
        });
        let mut steps: Vec<PlanStep> = Vec::new();
        let mut identities: Identities = Vec::new();
        let written: &[Step] = if document.is_flawed("/steps") { &[] } else { &document.steps };
        let mut n_wrong = 0;
        for step in of_query.iter().chain(written) {
            if n_wrong == WRONG_STEPS_MAX {
                let unknown = graph.unknown();
                graph.add_wrong(unknown.schema, unknown.doubt, None);
                break;
            }
            if !step.component.is_of_query() && document.is_flawed(step.component.whole()) {
                let unknown = graph.unknown();
                graph.add_wrong(unknown.schema, unknown.doubt, None);
                n_wrong += 1;
                continue;
            }
            let (planned, doubt) = match self.step(step, &mut graph, &identities, language) {
                Ok(planned) => planned,
                Err((schema, doubt)) => {
                    let mut names = names_in(step.component.config());
                    names.extend([step.id.clone(), format!("{}_over", step.id)]);
                    graph.add_wrong(schema, doubt, Some(names));
                    n_wrong += 1;
                    continue;
                }
            };
            let taken = graph.add_step(&step.id, steps.len(), planned.step.outputs(), step.component.whole(), &doubt);
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
        if document.is_flawed("/steps") {
            let unknown = graph.unknown();
            graph.add_wrong(unknown.schema, unknown.doubt, None);
        }
        let mut revised = Revised::default();
        let mut sinks: Vec<PlanSink> = Vec::new();
        let written: &[Output] = if document.is_flawed("/to") { &[] } else { &document.to };
        for (at, output) in written.iter().enumerate() {
            if document.is_flawed(&format!("/to/{at}")) {
                continue;
            }
            let read = match graph.read(output.from.as_deref()) {
                Ok(read) => read,
                Err((message, hint)) => {
                    self.problems.push(document.problem(&format!("/to/{at}/from"), None, &message, &hint));
                    graph.unknown()
                }
            };
            let doubt = read.doubt.clone();
            let mut schema = read.schema();
            let identity = identity_of(&identities, read.input);
            let mut is_key_right = true;
            if output.key.is_empty() && !may_end && identity.is_some_and(|identity| identity.is_endless) {
                self.faults(&output.component, vec![never_final("a sink without `key`")]);
            }
            if !output.key.is_empty() {
                let faults = revised.add(output, read.input, &schema, &steps, identity);
                let key = serde_json::json!(output.key);
                is_key_right = faults.is_empty();
                for fault in faults.into_iter().filter(|fault| !doubt.explains(fault, &key, None)) {
                    let Fault { pointer, message, hint, .. } = doubt.told(fault);
                    let pointer = format!("/to/{at}/key{pointer}");
                    self.problems.push(document.problem(&pointer, None, &message, &hint));
                }
                schema = revision::with_columns(&schema);
            }
            let sink = match ends.sink(output, &schema) {
                Ok(sink) => sink,
                Err(faults) => {
                    self.faults(&output.component, faults);
                    continue;
                }
            };
            let mut input = read.input;
            if let Some(computed) = sink.computes(&schema) {
                let columns = doubt.columns([&read.schema]);
                match computing(&computed, output, (input, &columns), language) {
                    Ok(step) => {
                        let outputs = step.step.outputs();
                        input = Input::Step { step: steps.len(), branch: 0 };
                        steps.push(step);
                        if let Some(branch) = outputs.first() {
                            let is_keyed = !output.key.is_empty();
                            let with_it = &branch.schema;
                            schema = if is_keyed { revision::with_columns(with_it) } else { Arc::clone(with_it) };
                        }
                    }
                    Err(faults) => {
                        self.faults_in_doubt(&output.component, None, &doubt, faults);
                        continue;
                    }
                }
            }
            // Of columns in doubt nobody knows whether the sink can take them.
            let mut faults = if doubt.is_none() && is_key_right { sink.check(&schema) } else { Vec::new() };
            let is_revised = identity.is_some_and(|identity| identity.is_endless) || may_be_revised(&steps, read.input);
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
        if self.problems.is_empty() {
            // What a step of the query leaves out is meant to be lost.
            for (pointer, message, hint) in graph.unread().filter(|(pointer, ..)| !pointer.is_empty()) {
                self.problems.push(document.problem(pointer, None, &message, &hint));
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
        if !self.problems.is_empty() {
            return None;
        }
        sources.extend(tables.into_iter().flatten());
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

    /// The tables, as sources that come after the others; `None` for one that is wrong.
    fn tables(
        &mut self,
        ends: &dyn Ends,
        graph: &mut Graph,
        n_sources: usize,
        is_read_once: bool,
    ) -> Vec<Option<PlanSource>> {
        let mut tables = Vec::with_capacity(self.document.tables.len());
        let bounds: Vec<_> = self.document.tables.iter().map(|table| table.bytes_max).collect();
        let bounds = match bounds_of(&bounds, ends.state_bytes_max(), is_read_once) {
            Ok(bounds) => bounds,
            Err(fault) => {
                self.problems.push(self.document.problem("/tables", None, &fault.message, &fault.hint));
                // Of no use but for looking at the others.
                vec![ends.state_bytes_max(); self.document.tables.len()]
            }
        };
        for (at, (table, bytes_max)) in self.document.tables.iter().zip(bounds).enumerate() {
            if self.document.is_flawed(&table.pointer) || self.document.is_flawed("/tables") {
                graph.add_unknown(&table.id, n_sources + at, &table.pointer, true);
                tables.push(None);
                continue;
            }
            let planned = ends.table(table).and_then(|source| {
                let is_read_once = is_read_once || ends.are_tables_fixed();
                let options = TableOptions::new(table.refresh, is_read_once, bytes_max);
                TableSource::plan(&table.id, source, options, ends.clock(), ends.refreshes())
            });
            match planned {
                Ok(source) => {
                    graph.add_table(&table.id, n_sources + at, source.schema(), table.pointer.clone());
                    tables.push(Some(PlanSource {
                        id: format!("{TABLE_ID}_{}", table.id),
                        source,
                        time: None,
                        disorder: Duration::ZERO,
                        idle: None,
                        align: None,
                    }));
                }
                Err(faults) => {
                    self.faults(&table.component, faults);
                    graph.add_unknown(&table.id, n_sources + at, &table.pointer, true);
                    tables.push(None);
                }
            }
        }
        tables
    }

    /// A step in its place, and what is in doubt of its rows. If it is wrong: what may be known of them all the same.
    fn step(
        &mut self,
        step: &Step,
        graph: &mut Graph,
        identities: &Identities,
        language: &Language,
    ) -> Result<(PlanStep, Doubt), (SchemaRef, Doubt)> {
        let Some(spec) = STEPS.iter().find(|spec| spec.name == step.component.name) else {
            self.faults(&step.component, unknown("step", &step.component.name));
            let unknown = graph.unknown();
            return Err((unknown.schema, unknown.doubt));
        };
        let config = step.component.config();
        let mut read = Vec::new();
        match graph.read(step.from.as_deref()) {
            Ok(found) => read.push(found),
            Err((message, hint)) => {
                let pointer = format!("{}/from", step.component.whole());
                self.problems.push(self.document.problem(&pointer, None, &message, &hint));
                read.push(graph.unknown());
            }
        }
        for other in &(spec.reads)(config) {
            match graph.read_other(other, &read, step.component.is_of_query()) {
                Ok(found) => read.push(found),
                Err((message, hint)) => {
                    self.faults(&step.component, vec![Fault::new(&other.pointer, message, hint)]);
                    read.push(graph.unknown());
                }
            }
        }
        let mut doubt = Doubt::default();
        read.iter().for_each(|read| doubt.add(&read.doubt));
        let columns = |read: &Readable| read.doubt.columns([&read.schema]);
        let context = StepContext {
            input: columns(&read[0]),
            others: read[1..].iter().map(columns).collect(),
            language,
            when: step.when.as_deref(),
            identity: identity_of(identities, read[0].input),
        };
        match (spec.plan)(config, &context) {
            Ok(planned) => {
                doubt.add_planned(config);
                let inputs = read.iter().map(|read| read.input).collect();
                Ok((PlanStep { id: step.id.clone(), step: planned, inputs }, doubt))
            }
            Err(faults) => {
                let before = doubt.clone();
                doubt.add_wrong(config, &faults);
                self.faults_in_doubt(&step.component, context.when, &before, faults);
                let schema = Doubt::default().columns(read.iter().map(|read| &read.schema));
                Err((schema, doubt))
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

/// What each sink of a plan promises, by its id.
pub fn deliveries(plan: &Plan) -> BTreeMap<String, &'static str> {
    plan.sinks.iter().map(|sink| (sink.id.clone(), sink.sink.delivery().as_str())).collect()
}
