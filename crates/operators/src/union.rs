//! `union`: the rows of several steps or branches as one.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_component::Batch;
use weir_component::operator::{Branch, Distribution, Operator, OperatorError, Output, PlannedStep};
use weir_component::spec::{Fault, Stability};

use crate::columns::chosen;
use crate::step::{Read, StepContext, StepSpec, parse};

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "union",
    summary: "Adds the rows of other inputs, steps or branches to those of the step above.",
    stability: Stability::Preview,
    example: "union: [errors, slow]",
    schema: || schema_for!(Config),
    reads,
    plan,
};

/// What is added: names of inputs, of steps by their `id`, or of branches. They have the same columns, in any
/// order.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Config(Vec<String>);

fn reads(config: &Json) -> Vec<Read> {
    let names = Config::deserialize(config).map_or_else(|_| Vec::new(), |Config(names)| names);
    let read = |(at, name)| Read { pointer: format!("/{at}"), name, is_table: false, is_added: true };
    names.into_iter().enumerate().map(read).collect()
}

struct Planned {
    names: Vec<String>,
    schema: SchemaRef,
    /// For each input, which of its columns stands at each place.
    columns: Vec<Vec<usize>>,
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    context.no_condition("union")?;
    let Config(names) = parse(config)?;
    let mut faults = Vec::new();
    if names.is_empty() {
        faults.push(Fault::new("", "nothing is added", "name an input, a step or a branch"));
    }
    let schema = Arc::clone(&context.input);
    let mut columns = vec![(0..schema.fields().len()).collect::<Vec<usize>>()];
    for (at, other) in context.others.iter().enumerate() {
        let mut places = Vec::with_capacity(schema.fields().len());
        let mut problems = Vec::new();
        for field in schema.fields() {
            match other.index_of(field.name()) {
                Err(_) => problems.push(format!("it has no column `{}`", field.name())),
                Ok(place) if other.field(place).data_type() != field.data_type() => problems.push(format!(
                    "its column `{}` is {} instead of {}",
                    field.name(),
                    other.field(place).data_type(),
                    field.data_type()
                )),
                Ok(place) => places.push(place),
            }
        }
        let more = other.fields().iter().filter(|field| schema.index_of(field.name()).is_err());
        problems.extend(more.map(|field| format!("it has a column `{}`, which the others do not have", field.name())));
        if !problems.is_empty() {
            let name = names.get(at).map_or("", String::as_str);
            let message = format!("{name} cannot be added: {}", problems.join("; "));
            faults.push(Fault::new(&format!("/{at}"), message, "make the columns the same with set, rename or keep"));
        }
        columns.push(places);
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    // What may be null in one of them may be null.
    let fields = schema.fields().iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
    let schema = Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
    Ok(Arc::new(Planned { names, schema, columns }))
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.schema) }]
    }

    fn distribution(&self, _input: usize) -> Distribution {
        Distribution::Any
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Union { schema: Arc::clone(&self.schema), columns: self.columns.clone() }))
    }

    fn describe(&self) -> String {
        format!("adds {}", self.names.join(", "))
    }
}

struct Union {
    schema: SchemaRef,
    columns: Vec<Vec<usize>>,
}

impl Operator for Union {
    fn on_batch(&mut self, input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let rows = chosen(&batch.rows, &self.columns[input], &self.schema)?;
        output.batch(0, batch.with_rows(rows));
        Ok(())
    }
}
