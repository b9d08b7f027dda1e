//! What a document may contain, made from the tables of components.

use schemars::Schema as JsonSchema;
use serde_json::{Value as Json, json};
use weir_component::spec::About;
use weir_document::Schema;
use weir_document::shape::{Field, Format, NAME_CHARACTERS_MAX, Names, Shape, of_schema};

/// In the schema of a component: the setting that may be written in the place of all of them.
const SHORT: &str = "x-weir-short";

/// A component as far as documents have to know it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// One sentence: what it does.
    pub summary: &'static str,
    /// The JSON schema of its configuration.
    pub schema: fn() -> JsonSchema,
}

impl From<&About> for Entry {
    fn from(about: &About) -> Self {
        Self { name: about.name, summary: about.summary, schema: about.schema }
    }
}

impl Entry {
    fn field(&self) -> Field {
        let schema = (self.schema)();
        let mut shape = of_schema(schema.as_value());
        // Where one setting says it all, it may stand alone.
        let short = schema.get(SHORT).and_then(Json::as_str);
        let short = short.and_then(|short| shape.fields().into_iter().find(|field| field.name == short).cloned());
        if let Some(short) = short {
            shape = Shape::Either(vec![short.shape, shape]);
        }
        Field::new(self.name, self.summary, shape)
    }
}

/// What may be written in a document. Making one takes a moment; it serves for any number of documents.
#[derive(Debug)]
pub struct Grammar {
    pub(super) schema: Schema,
    pub(super) sources: Vec<&'static str>,
    pub(super) tables: Vec<&'static str>,
    pub(super) steps: Vec<&'static str>,
    pub(super) sinks: Vec<&'static str>,
}

impl Grammar {
    /// The grammar with these components.
    pub fn new(sources: &[Entry], tables: &[Entry], steps: &[Entry], sinks: &[Entry]) -> Self {
        let names = |entries: &[Entry]| entries.iter().map(|entry| entry.name).collect();
        Self {
            schema: Schema { root: root(sources, tables, steps, sinks), noun: "a pipeline", unsuggested: &[] },
            sources: names(sources),
            tables: names(tables),
            steps: names(steps),
            sinks: names(sinks),
        }
    }

    /// All that may be written, with what it is for.
    pub fn shape(&self) -> &Shape {
        &self.schema.root
    }

    /// The JSON schema of a document, for editors.
    pub fn json_schema(&self) -> Json {
        let mut schema = self.schema.root.json_schema();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
            schema.insert("title".to_owned(), json!("Pipeline of Weir"));
        }
        schema
    }
}

fn span(min: &str) -> Shape {
    Shape::Span { min: Some(min.to_owned()), max: None }
}

fn tagged(noun: &str, entries: &[Entry], others: Vec<Field>) -> Shape {
    Shape::Tagged { noun: noun.to_owned(), tags: entries.iter().map(Entry::field).collect(), others }
}

fn root(sources: &[Entry], tables: &[Entry], steps: &[Entry], sinks: &[Entry]) -> Shape {
    let column = Shape::Text(Format::Column);
    let from = tagged(
        "source",
        sources,
        vec![
            Field::new(
                "time",
                "The column with the event time. Without it a row's time is that of its arrival.",
                column.clone(),
            ),
            Field::new("watermark", "How much rows may be out of order; what comes later is late.", span("0s")),
            Field::new(
                "idle",
                "After so much silence a partition, or the whole source, no longer holds back time.",
                span("1ms"),
            ),
            Field::new(
                "align",
                "How far its event time may be ahead of that of the slowest source; it is not read meanwhile. Default: as far as it comes.",
                span("0s"),
            ),
            Field::new(
                "id",
                "What steps and the query call it. Default: `input`, and `input_2` and so on where there are several.",
                Shape::Text(Format::Name(NAME_CHARACTERS_MAX)),
            ),
        ],
    );
    let from = Shape::Either(vec![from.clone(), Shape::List(Box::new(from))]);
    let table = tagged(
        "table",
        tables,
        vec![
            Field::new("id", "What steps and the query call it.", Shape::Text(Format::Name(NAME_CHARACTERS_MAX)))
                .required(),
            Field::new(
                "refresh",
                "How often it is read again; if it has changed, the new version counts. Default: 1m. A pipeline whose sources end reads its tables once.",
                span("100ms"),
            ),
            Field::new(
                "bytes_max",
                "The most memory its rows may take; a larger one stops the pipeline. All tables of a pipeline together: 1GiB, and no more than half of the state the pipeline may have (in a server the tenant's `pipeline_state_bytes_max`), because two versions are there while they are read again. Default: 64MiB, or less where there are so many tables or so little state.",
                Shape::Size { min: Some("1KiB".to_owned()), max: Some("1GiB".to_owned()) },
            ),
        ],
    );
    let read = |what: &str| Field::new("from", what, Shape::Text(Format::Name(NAME_CHARACTERS_MAX)));
    let step = tagged(
        "step",
        steps,
        vec![
            Field::new(
                "id",
                "The name of the step's state in checkpoints. Give one to steps that keep state, so that the state is found again when steps are added.",
                Shape::Text(Format::Name(NAME_CHARACTERS_MAX)),
            ),
            Field::new(
                "when",
                "Only rows for which this is true take the step; the others pass by it.",
                Shape::Text(Format::Expression),
            ),
            read("What the step reads: an input, a step or a branch above it, by its name. Default: the step above."),
        ],
    );
    let breaker = Shape::Section(vec![
        Field::new(
            "failures",
            "After so many failures in a row the circuit opens. Default: 8.",
            Shape::Integer { min: 1, max: 1000 },
        ),
        Field::new("open", "How long nothing is tried then; after it one attempt is made. Default: 10s.", span("10ms")),
        Field::new("budget", "How long the sink may fail before the pipeline does. Default: 5m.", span("100ms")),
        Field::new(
            "backlog",
            "How much is kept on disk for the sink while it does not take it and there are others; then all wait. Default: 256MiB.",
            Shape::Size { min: Some("1MiB".to_owned()), max: None },
        ),
    ]);
    let to = tagged(
        "sink",
        sinks,
        vec![
            Field::new(
                "key",
                "The column, or columns, that a result is known by. With a key the sink gets revisions of results, without it only final ones.",
                Shape::Either(vec![column.clone(), Shape::List(Box::new(column))]),
            ),
            Field::new(
                "breaker",
                "What becomes of failures that may pass: the circuit of the sink opens after some of them, and nothing is tried for a while.",
                breaker,
            ),
            read("What the sink is given: an input, a step or a branch, by its name. Default: the last step."),
        ],
    );
    let aggregate = Shape::Section(vec![
        Field::new(
            "state",
            "The fields of the state, each with its value for one row: an expression over the arguments.",
            Shape::Expressions,
        )
        .required(),
        Field::new(
            "merge",
            "The same fields, each with its value for two states put together: an expression over the fields of one and of the other, `other.field`. It must be the same whichever two of many are put together first.",
            Shape::Expressions,
        )
        .required(),
        Field::new(
            "finish",
            "The result: an expression over the fields of what all rows of a group come to; they are null if there are none.",
            Shape::Text(Format::Expression),
        )
        .required(),
    ]);
    let checkpoint = Shape::Section(vec![Field::new("interval", "How often a checkpoint is made.", span("10ms"))]);
    Shape::Section(vec![
        Field::new(
            "pipeline",
            "The name of the pipeline: lower-case letters, digits and _, beginning with a letter, at most 56 characters, because streams are named after it.",
            Shape::Text(Format::Name(super::NAME_CHARACTERS_MAX)),
        )
        .required(),
        Field::new("from", "Where rows come from: a source, or a list of several.", from).required(),
        Field::new(
            "tables",
            "Tables that rows are looked up in, by the step `lookup` or by a join of the query. They are read when the pipeline starts, and again when they change.",
            Shape::List(Box::new(table)),
        ),
        Field::new(
            "functions",
            "Functions that every expression and the query may call: a name with its arguments, such as `error_rate(status)`, and an expression over them in whose place a call stands. With aggregates in it, it is an aggregate.",
            Shape::Expressions,
        ),
        Field::new(
            "aggregates",
            "Aggregates with a state of their own that every expression and the query may call: a name with its arguments, such as `geometric_mean(x)`.",
            Shape::Map { names: Names::Any, values: Box::new(aggregate) },
        ),
        Field::new(
            "sql",
            "A query over the rows, which are the table `input`. Steps come after it.",
            Shape::Text(Format::Query),
        ),
        Field::new("steps", "What happens to the rows, one step after another.", Shape::List(Box::new(step))),
        Field::new("to", "Where the results go.", Shape::List(Box::new(to))).required(),
        Field::new(
            "parallelism",
            "Into how many parts the rows are spread by their keys. Results do not depend on it.",
            Shape::Integer { min: 1, max: 1024 },
        ),
        Field::new("checkpoint", "How often the state is made safe.", checkpoint),
    ])
}
