//! The document that describes a pipeline: `pipeline`, `from`, `sql`, `steps`, `to` and how it is to run.
//!
//! [`Grammar`] says what may be written, [`Document`] is what was. A document that was read is right as
//! far as its components' schemas go; what a component finds wrong when it is planned is turned into a
//! problem with its line by [`Document::diagnostic`].
//!
//! Invariant: what `${env:NAME}` and `${file:PATH}` put into a document is in no message and no `Debug`
//! of it.

mod grammar;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value as Json;
use weir_base::Diagnostic;
use weir_base::quantity::{ByteSize, Span};
use weir_base::secret::Secret;
use weir_component::spec::Fault;
use weir_document::inside::inside;
use weir_document::{Node, Place, Problem, Syntax, Value};
use weir_engine::BreakerOptions;
use weir_sql::expressions::DefinedAggregate;

pub use grammar::{Entry, Grammar};
pub(crate) use reading::Ids;

/// Endings that a pipeline's own streams have: late rows, dead letters, all revisions.
pub const RESERVED_ENDINGS: [&str; 3] = ["_late", "_dead", "_history"];
/// The longest name of a pipeline, so that it is still a stream's name with any of the endings.
pub const NAME_CHARACTERS_MAX: usize = 56;
/// The most tables of a pipeline.
pub const TABLES_MAX: usize = 16;

/// The description of a pipeline.
#[derive(Debug)]
pub struct Document {
    /// The name of the pipeline.
    pub name: String,
    /// Where rows come from; at least one.
    pub from: Vec<Input>,
    /// Tables that rows are looked up in.
    pub tables: Vec<Table>,
    /// Functions that expressions and the query may call: each a name with its arguments, and an expression.
    pub functions: Vec<(String, String)>,
    /// Aggregates with a state of their own.
    pub aggregates: Vec<DefinedAggregate>,
    /// A query over the rows that come, before the steps.
    pub sql: Option<String>,
    /// What happens to the rows, one after another.
    pub steps: Vec<Step>,
    /// Where the results go; at least one.
    pub to: Vec<Output>,
    /// Into how many parts keys are spread, if that is said.
    pub parallelism: Option<usize>,
    /// How often a checkpoint is made, if that is said.
    pub checkpoint_interval: Option<Span>,
    written: Written,
    flaws: Flaws,
}

/// What is wrong with the shape of a document. Such parts are not planned, and what depends on them is not judged.
#[derive(Debug, Default)]
struct Flaws {
    problems: Vec<Problem>,
    /// The inputs, tables, steps and outputs, and the sections of other things, that something is wrong in: JSON pointers.
    parts: BTreeSet<String>,
}

/// Where rows come from, and what is known of their time.
#[derive(Debug)]
pub struct Input {
    /// What steps and the query call it: `input`, if that is not said.
    pub id: String,
    /// Where it is in the document, as a JSON pointer.
    pub pointer: String,
    /// The source.
    pub component: Component,
    /// The column with the event time; without it a row's time is its arrival.
    pub time: Option<String>,
    /// How much rows may be out of order.
    pub watermark: Option<Span>,
    /// After how much silence a partition no longer holds back time.
    pub idle: Option<Span>,
    /// How far it may be ahead of the slowest source.
    pub align: Option<Span>,
}

/// A table that rows are looked up in.
#[derive(Debug)]
pub struct Table {
    /// What steps and the query call it.
    pub id: String,
    /// Where it is in the document, as a JSON pointer.
    pub pointer: String,
    /// What is read.
    pub component: Component,
    /// How often it is looked whether it has changed, if that is said.
    pub refresh: Option<Span>,
    /// The most bytes its rows may take, if that is said.
    pub bytes_max: Option<ByteSize>,
}

/// Something that happens to rows.
#[derive(Debug)]
pub struct Step {
    /// What it is.
    pub component: Component,
    /// The name of its state in checkpoints. Without an own one: the name of the step, and a number
    /// from the second of a name on.
    pub id: String,
    /// Rows for which this is not true pass by the step.
    pub when: Option<String>,
    /// What it reads: an input, a step or a branch; the step above, if that is not said.
    pub from: Option<String>,
}

/// Where results go.
#[derive(Debug)]
pub struct Output {
    /// The sink.
    pub component: Component,
    /// Made like the id of a step.
    pub id: String,
    /// The columns a result is known by; empty if only final results go there.
    pub key: Vec<String>,
    /// What it is given: an input, a step or a branch; the last step, if that is not said.
    pub from: Option<String>,
    /// When it is tried again after failures.
    pub breaker: BreakerOptions,
}

/// A source, step or sink with its configuration.
#[derive(Debug)]
pub struct Component {
    /// Its name in the table.
    pub name: String,
    config: Secret<Json>,
    pointer: String,
    /// Where its parts are in the query, if it was made of that.
    query: Option<QueryPlaces>,
}

/// Where the parts of a step are in the query it was made of.
#[derive(Debug, Default)]
pub(crate) struct QueryPlaces {
    /// The step itself: line and column.
    pub(crate) whole: Option<(usize, usize)>,
    /// Its expressions, by pointer without escapes.
    pub(crate) parts: BTreeMap<String, QueryPlace>,
}

/// Where an expression is in a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryPlace {
    /// Where it begins.
    pub(crate) begin: (usize, usize),
    /// Whether a place in the expression is a place in the query.
    pub(crate) is_verbatim: bool,
}

impl QueryPlaces {
    /// The place in the query of a place in the step.
    fn find(&self, pointer: &str, inside: Option<(usize, usize)>) -> Option<(usize, usize)> {
        let Some(place) = self.parts.get(&pointer.replace("~1", "/").replace("~0", "~")) else { return self.whole };
        let (line, column) = place.begin;
        match inside.filter(|_| place.is_verbatim) {
            Some((1, further)) => Some((line, column + further.saturating_sub(1))),
            Some((lines, column)) => Some((line + lines.saturating_sub(1), column)),
            None => Some((line, column)),
        }
    }
}

impl Component {
    /// In the place of one that could not be read.
    fn unread(pointer: &str) -> Self {
        Self { name: String::new(), config: Secret::new(Json::Null), pointer: format!("{pointer}/"), query: None }
    }

    /// A step that was made of the query.
    pub(crate) fn of_query(name: &str, config: Json, query: QueryPlaces) -> Self {
        Self { name: name.to_owned(), config: Secret::new(config), pointer: "/sql".to_owned(), query: Some(query) }
    }

    /// Whether it was made of the query.
    pub(crate) fn is_of_query(&self) -> bool {
        self.query.is_some()
    }

    /// Where the step, source or sink is that it belongs to, as a JSON pointer.
    pub(crate) fn whole(&self) -> &str {
        self.pointer.rsplit_once('/').map_or("", |(whole, _)| whole)
    }

    /// The configuration as it matched the schema. It may hold secrets.
    pub fn config(&self) -> &Json {
        self.config.expose()
    }
}

/// What was read, kept for the places of problems that are found later.
struct Written {
    source: String,
    syntax: Syntax,
    text: String,
    root: Node,
    secrets: Vec<Secret<String>>,
}

impl fmt::Debug for Written {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Written").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Shorter values are not taken for secrets: every message would be full of stars.
const SECRET_BYTES_MIN: usize = 3;

impl Document {
    /// The name of the file it was read from.
    pub fn source(&self) -> &str {
        &self.written.source
    }

    /// What is wrong with its shape; none of a document that was read to run.
    pub(crate) fn flaws(&self) -> Vec<Diagnostic> {
        Problem::all_shown(self.flaws.problems.clone())
    }

    /// Whether the shape of an input, table, step or output is wrong, or of another section.
    pub(crate) fn is_flawed(&self, pointer: &str) -> bool {
        self.flaws.parts.contains(pointer)
    }

    /// A problem that a component found in its configuration, with its place in the document.
    pub fn diagnostic(&self, component: &Component, fault: Fault) -> Diagnostic {
        let Fault { pointer, message, hint, inside, .. } = fault;
        if let Some(query) = &component.query {
            return self.problem("/sql", query.find(&pointer, inside), &message, &hint);
        }
        let mut whole = format!("{}{pointer}", component.pointer);
        if pointer == "/when" {
            // It stands beside the step's configuration, not in it.
            whole = format!("{}/when", component.whole());
        }
        self.problem(&whole, inside, &message, &hint)
    }

    /// A problem with what stands at a JSON pointer of the document, or at a line and column of the text
    /// there.
    pub fn problem(&self, pointer: &str, at: Option<(usize, usize)>, message: &str, hint: &str) -> Diagnostic {
        let (node, is_exact) = self.find(pointer);
        let place = match (at, &node.value) {
            (Some((line, column)), Value::Text(text)) if is_exact => {
                let Written { syntax, text: document, .. } = &self.written;
                inside(document, *syntax, &node.place, text, line, column)
            }
            _ => node.place.clone(),
        };
        Problem::new(&place, self.without_secrets(message), self.without_secrets(hint)).shown()
    }

    /// Where something stands; where it should, if it is not there.
    pub fn place(&self, pointer: &str) -> Place {
        self.find(pointer).0.place.clone()
    }

    /// What stands at a pointer, or the nearest thing around it.
    fn find(&self, pointer: &str) -> (&Node, bool) {
        let mut node = &self.written.root;
        for name in pointer.split('/').skip(1) {
            let name = name.replace("~1", "/").replace("~0", "~");
            let child = match &node.value {
                Value::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, child)| child),
                Value::List(items) => name.parse::<usize>().ok().and_then(|at| items.get(at)),
                _ => None,
            };
            match child {
                Some(child) => node = child,
                None => return (node, false),
            }
        }
        (node, true)
    }

    fn without_secrets(&self, text: &str) -> String {
        // A list is written as one text, so each part of it is one, too.
        let secrets = self.written.secrets.iter().map(|secret| secret.expose().as_str());
        let secrets = secrets.flat_map(|secret| std::iter::once(secret).chain(secret.split(',').map(str::trim)));
        secrets
            .filter(|secret| secret.len() >= SECRET_BYTES_MIN)
            .fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

#[cfg(test)]
mod tests;
