//! From a text to a document, with all problems at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value as Json};
use weir_base::Diagnostic;
use weir_base::quantity::{ByteSize, Span};
use weir_base::secret::Secret;
use weir_document::fill::fill;
use weir_document::read::text_of_file;
use weir_document::{Checked, Fills, Key, Node, Place, Problem, Syntax, Value};
use weir_engine::BreakerOptions;
use weir_sql::expressions::DefinedAggregate;

use super::{Component, Document, Flaws, Grammar, Input, Output, RESERVED_ENDINGS, Step, TABLES_MAX, Table, Written};

impl Grammar {
    /// Reads a file.
    ///
    /// # Errors
    /// Every problem, in the order of the file.
    pub fn read_file(&self, path: &Path, fills: &dyn Fills) -> Result<Document, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        match text_of_file(path, "pipeline file", &mut problems) {
            Some((syntax, text)) => self.read(&path.display().to_string(), syntax, &text, fills),
            None => Err(Problem::all_shown(problems)),
        }
    }

    /// Reads a text. `source` is the name of it in the places of problems.
    ///
    /// # Errors
    /// Every problem, in the order of the text.
    pub fn read(
        &self,
        source: &str,
        syntax: Syntax,
        text: &str,
        fills: &dyn Fills,
    ) -> Result<Document, Vec<Diagnostic>> {
        let document = self.read_as_far(source, syntax, text, fills)?;
        match document.flaws.problems.is_empty() {
            true => Ok(document),
            false => Err(Problem::all_shown(document.flaws.problems)),
        }
    }

    /// Reads a file as far as that can be done: see [`Grammar::read_as_far`].
    ///
    /// # Errors
    /// Every problem, in the order of the file, if it is not well formed.
    pub fn read_file_as_far(&self, path: &Path, fills: &dyn Fills) -> Result<Document, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        match text_of_file(path, "pipeline file", &mut problems) {
            Some((syntax, text)) => self.read_as_far(&path.display().to_string(), syntax, &text, fills),
            None => Err(Problem::all_shown(problems)),
        }
    }

    /// Reads a text as far as that can be done, so that planning finds what is wrong with the other parts, too. A
    /// document with parts of a wrong shape is never planned: all problems are given then, those found here among them.
    ///
    /// # Errors
    /// Every problem, in the order of the text, if it is not well formed.
    pub fn read_as_far(
        &self,
        source: &str,
        syntax: Syntax,
        text: &str,
        fills: &dyn Fills,
    ) -> Result<Document, Vec<Diagnostic>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut parsed = syntax.parse(source, text);
        let is_well_formed = parsed.problems.is_empty();
        let mut problems = Vec::new();
        let secrets = fill(&mut parsed.root, fills, &mut problems);
        let Checked { value, places } = self.schema.check(&parsed, &mut problems);
        let nowhere = Place { source: source.into(), line: 1, column: 1 };
        let mut reading = Reading { places: &places, nowhere, problems };

        let name = value.get("pipeline").and_then(Json::as_str).unwrap_or_default().to_owned();
        reading.check_name(&name);
        let from = match value.get("from") {
            None => unread_inputs(&parsed.root),
            written => reading.inputs(written, &self.sources),
        };
        let tables = reading.tables(items(&value, "tables"), &self.tables, &from);
        let steps = reading.steps(items(&value, "steps"), &self.steps);
        let to = reading.outputs(items(&value, "to"), &self.sinks);
        let checkpoint = value.get("checkpoint").and_then(Json::as_object);
        let problems = reading.problems;
        if !is_well_formed {
            return Err(Problem::all_shown(problems));
        }
        let root = parsed.root;
        let mut parts = parts_of(&root, &problems);
        // A wrong item that is left out moves those behind it.
        let lists = [("tables", tables.len()), ("steps", steps.len()), ("to", to.len())];
        let moved = lists.into_iter().filter(|(name, n_read)| n_items(&root, name) != *n_read);
        parts.extend(moved.map(|(name, _)| format!("/{name}")));
        if value.get("from").is_none() {
            parts.insert("/from".to_owned());
        }
        Ok(Document {
            // What plans it may need a name.
            name: if name.is_empty() { "pipeline".to_owned() } else { name },
            from,
            tables,
            functions: expressions_of(&value, "functions"),
            aggregates: aggregates_of(&value),
            sql: text_of(&value, "sql"),
            steps,
            to,
            parallelism: value.get("parallelism").and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok()),
            checkpoint_interval: checkpoint.and_then(|checkpoint| span_of(checkpoint, "interval")),
            written: Written { source: source.to_owned(), syntax, text: text.to_owned(), root, secrets },
            flaws: Flaws { problems, parts },
        })
    }
}

/// The sections whose items are parts of their own.
const LISTS: [&str; 4] = ["from", "tables", "steps", "to"];

fn entries_of(node: &Node) -> &[(Key, Node)] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

fn n_items(root: &Node, name: &str) -> usize {
    let list = entries_of(root).iter().find(|(key, _)| key.name == name).map(|(_, node)| &node.value);
    if let Some(Value::List(items)) = list { items.len() } else { 0 }
}

/// The parts of a document that problems are in: each goes to what begins last before it.
fn parts_of(root: &Node, problems: &[Problem]) -> BTreeSet<String> {
    let mut begins: Vec<((usize, usize), String)> = Vec::new();
    for (key, node) in entries_of(root) {
        let pointer = format!("/{}", key.name);
        begins.push(((key.place.line, key.place.column), pointer.clone()));
        if let Value::List(items) = &node.value
            && LISTS.contains(&key.name.as_str())
        {
            let begin = |(at, item): (usize, &Node)| ((item.place.line, item.place.column), format!("{pointer}/{at}"));
            begins.extend(items.iter().enumerate().map(begin));
        }
    }
    begins.sort();
    let part = |problem: &Problem| {
        let place = (problem.place.line, problem.place.column);
        let n_before = begins.partition_point(|(begin, _)| *begin <= place);
        n_before.checked_sub(1).map_or_else(String::new, |last| begins[last].1.clone())
    };
    problems.iter().map(part).collect()
}

/// The inputs of a section that is wrong, by what they are called.
fn unread_inputs(root: &Node) -> Vec<Input> {
    let Some((_, from)) = entries_of(root).iter().find(|(key, _)| key.name == "from") else { return Vec::new() };
    let written: Vec<(String, &Node)> = match &from.value {
        Value::List(items) => items.iter().enumerate().map(|(at, item)| (format!("/from/{at}"), item)).collect(),
        _ => vec![("/from".to_owned(), from)],
    };
    let text = |node: &Node, name: &str| {
        let value = entries_of(node).iter().find(|(key, _)| key.name == name)?.1.value.as_text()?;
        Some(value.to_owned())
    };
    let mut ids = Ids(written.iter().filter_map(|(_, node)| text(node, "id")).collect());
    let input = |(pointer, node): (String, &Node)| Input {
        id: text(node, "id").unwrap_or_else(|| ids.next(INPUT)),
        component: Component::unread(&pointer),
        time: text(node, "time"),
        watermark: None,
        idle: None,
        align: None,
        pointer,
    };
    written.into_iter().map(input).collect()
}

/// What an input is called that is given no name; the query knows it by this.
const INPUT: &str = weir_sql::streaming::INPUT;

/// What is checked beyond the schema.
struct Reading<'a> {
    places: &'a BTreeMap<String, Place>,
    nowhere: Place,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn problem(&mut self, pointer: &str, message: String, hint: &str) {
        let place = self.places.get(pointer).unwrap_or(&self.nowhere);
        self.problems.push(Problem::new(place, message, hint));
    }

    fn check_name(&mut self, name: &str) {
        if let Some(ending) = RESERVED_ENDINGS.into_iter().find(|ending| name.ends_with(ending)) {
            let message = format!("a pipeline's name does not end in `{ending}`: streams made for pipelines do");
            self.problem("/pipeline", message, "choose another name");
        }
    }

    fn inputs(&mut self, written: Option<&Json>, names: &[&str]) -> Vec<Input> {
        let written: Vec<(String, &Json)> = match written {
            Some(Json::Array(list)) => {
                list.iter().enumerate().map(|(at, input)| (format!("/from/{at}"), input)).collect()
            }
            Some(one) => vec![("/from".to_owned(), one)],
            None => Vec::new(),
        };
        if written.is_empty() && self.problems.is_empty() {
            self.problem("/from", "there are no rows".to_owned(), "give at least one source");
        }
        let given = written.iter().filter_map(|(_, input)| input.get("id")?.as_str());
        let mut ids = Ids(given.map(str::to_owned).collect());
        let mut inputs: Vec<Input> = Vec::with_capacity(written.len());
        for (pointer, input) in written {
            let Some(input) = input.as_object() else { continue };
            let component = component(input, names, &pointer);
            let id = text_of(input, "id").unwrap_or_else(|| ids.next(INPUT));
            if inputs.iter().any(|other| other.id == id) {
                self.problem(&format!("{pointer}/id"), format!("two inputs have the id `{id}`"), "");
            }
            inputs.push(Input {
                id,
                component,
                time: text_of(input, "time"),
                watermark: span_of(input, "watermark"),
                idle: span_of(input, "idle"),
                align: span_of(input, "align"),
                pointer,
            });
        }
        inputs
    }

    fn tables(&mut self, written: &[Json], names: &[&str], inputs: &[Input]) -> Vec<Table> {
        if written.len() > TABLES_MAX {
            let message = format!("{} tables, and a pipeline has at most {TABLES_MAX}", written.len());
            self.problem("/tables", message, "look rows up in fewer tables, or in several pipelines");
            return Vec::new();
        }
        let mut tables: Vec<Table> = Vec::with_capacity(written.len());
        for (at, table) in written.iter().enumerate() {
            let pointer = format!("/tables/{at}");
            let Some(table) = table.as_object() else { continue };
            let component = component(table, names, &pointer);
            let id = text_of(table, "id").unwrap_or_default();
            let is_taken = inputs.iter().any(|input| input.id == id) || tables.iter().any(|other| other.id == id);
            if is_taken {
                let message = format!("there is an input or a table `{id}` already");
                self.problem(&format!("{pointer}/id"), message, "give it another id");
            }
            let bytes_max = text_of(table, "bytes_max").and_then(|text| text.parse::<ByteSize>().ok());
            tables.push(Table { id, pointer, component, refresh: span_of(table, "refresh"), bytes_max });
        }
        tables
    }

    fn steps(&mut self, written: &[Json], names: &[&str]) -> Vec<Step> {
        let mut steps = Vec::with_capacity(written.len());
        for (at, step) in written.iter().enumerate() {
            let pointer = format!("/steps/{at}");
            let Some(step) = step.as_object() else { continue };
            let component = component(step, names, &pointer);
            let (when, from) = (text_of(step, "when"), text_of(step, "from"));
            steps.push((Step { component, id: String::new(), when, from }, text_of(step, "id")));
        }
        let mut ids: BTreeMap<String, usize> = BTreeMap::new();
        for (at, (_, id)) in steps.iter().enumerate() {
            let Some(id) = id else { continue };
            if let Some(first) = ids.insert(id.clone(), at) {
                let message = format!("two steps have the id `{id}`");
                let hint = self.places.get(&format!("/steps/{first}/id")).map(|place| format!("first at {place}"));
                self.problem(&format!("/steps/{at}/id"), message, &hint.unwrap_or_default());
            }
        }
        let mut ids: Ids = Ids(ids.into_keys().collect());
        let named = |(step, id): (Step, Option<String>)| {
            let id = id.unwrap_or_else(|| ids.next(&step.component.name));
            Step { id, ..step }
        };
        steps.into_iter().map(named).collect()
    }

    fn outputs(&mut self, written: &[Json], names: &[&str]) -> Vec<Output> {
        if written.is_empty() && self.problems.is_empty() {
            self.problem("/to", "the results go nowhere".to_owned(), "give at least one sink");
        }
        let mut ids = Ids(Vec::new());
        let mut outputs = Vec::with_capacity(written.len());
        for (at, sink) in written.iter().enumerate() {
            let pointer = format!("/to/{at}");
            let Some(sink) = sink.as_object() else { continue };
            let component = component(sink, names, &pointer);
            let key: Vec<String> = match sink.get("key") {
                Some(Json::String(column)) => vec![column.clone()],
                Some(Json::Array(columns)) => columns.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
                _ => Vec::new(),
            };
            for (place, column) in key.iter().enumerate() {
                if key[..place].contains(column) {
                    let message = format!("the column `{column}` is in the key twice");
                    self.problem(&format!("{pointer}/key/{place}"), message, "");
                }
            }
            if key.is_empty() && sink.contains_key("key") {
                self.problem(&format!("{pointer}/key"), "a key has at least one column".to_owned(), "");
            }
            let (id, breaker) = (ids.next(&component.name), breaker_of(sink));
            outputs.push(Output { id, component, key, from: text_of(sink, "from"), breaker });
        }
        outputs
    }
}

/// Ids that are taken.
pub(crate) struct Ids(pub(crate) Vec<String>);

impl Ids {
    /// The name, or with a number if it is taken.
    pub(crate) fn next(&mut self, name: &str) -> String {
        let mut id = name.to_owned();
        let mut number = 1;
        while self.0.contains(&id) {
            number += 1;
            id = format!("{name}_{number}");
        }
        self.0.push(id.clone());
        id
    }
}

fn items<'a>(value: &'a Map<String, Json>, name: &str) -> &'a [Json] {
    value.get(name).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

fn breaker_of(sink: &Map<String, Json>) -> BreakerOptions {
    let defaults = BreakerOptions::default();
    let Some(written) = sink.get("breaker").and_then(Json::as_object) else { return defaults };
    let failures = written.get("failures").and_then(Json::as_u64).and_then(|failures| u32::try_from(failures).ok());
    BreakerOptions {
        failures: failures.unwrap_or(defaults.failures),
        open: span_of(written, "open").map_or(defaults.open, |open| open.0),
        budget: span_of(written, "budget").map_or(defaults.budget, |budget| budget.0),
        backlog_bytes_max: size_of(written, "backlog").map_or(defaults.backlog_bytes_max, |backlog| backlog.0),
    }
}

/// Expressions by name, in their order.
fn expressions_of(value: &Map<String, Json>, name: &str) -> Vec<(String, String)> {
    let pair = |named: &Json| Some((named.get("name")?.as_str()?.to_owned(), named.get("text")?.as_str()?.to_owned()));
    items(value, name).iter().filter_map(pair).collect()
}

fn aggregates_of(value: &Map<String, Json>) -> Vec<DefinedAggregate> {
    let aggregates = value.get("aggregates").and_then(Json::as_object).into_iter().flatten();
    let aggregate = |(call, written): (&String, &Json)| {
        let written = written.as_object()?;
        Some(DefinedAggregate {
            call: call.clone(),
            state: expressions_of(written, "state"),
            merge: expressions_of(written, "merge"),
            finish: text_of(written, "finish")?,
        })
    };
    aggregates.filter_map(aggregate).collect()
}

fn text_of(value: &Map<String, Json>, name: &str) -> Option<String> {
    value.get(name).and_then(Json::as_str).map(str::to_owned)
}

fn size_of(value: &Map<String, Json>, name: &str) -> Option<ByteSize> {
    value.get(name).and_then(Json::as_str).and_then(|text| text.parse().ok())
}

fn span_of(value: &Map<String, Json>, name: &str) -> Option<Span> {
    value.get(name).and_then(Json::as_str).and_then(|text| text.parse().ok())
}

/// The one entry that is a component. Where there is none a problem was reported.
fn component(value: &Map<String, Json>, names: &[&str], pointer: &str) -> Component {
    let Some((name, config)) = value.iter().find(|(name, _)| names.contains(&name.as_str())) else {
        return Component::unread(pointer);
    };
    Component {
        name: name.clone(),
        config: Secret::new(config.clone()),
        pointer: format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")),
        query: None,
    }
}
