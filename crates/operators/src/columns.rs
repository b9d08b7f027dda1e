//! `drop`, `keep` and `rename`: which columns there are, and what they are called.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_component::Batch;
use weir_component::operator::{Branch, Distribution, Identity, Operator, OperatorError, Output, PlannedStep};
use weir_component::spec::{Fault, Stability};

use crate::step::{StepContext, StepSpec, no_other_inputs, parse};

pub(crate) const DROP: StepSpec = StepSpec {
    name: "drop",
    summary: "Removes columns.",
    stability: Stability::Stable,
    example: "drop: [ip, user_agent]",
    schema: || schema_for!(DropConfig),
    reads: no_other_inputs,
    plan: plan_drop,
};

pub(crate) const KEEP: StepSpec = StepSpec {
    name: "keep",
    summary: "Keeps the named columns, in that order, and removes all others.",
    stability: Stability::Stable,
    example: "keep: [time, service_name, body]",
    schema: || schema_for!(KeepConfig),
    reads: no_other_inputs,
    plan: plan_keep,
};

pub(crate) const RENAME: StepSpec = StepSpec {
    name: "rename",
    summary: "Gives columns other names.",
    stability: Stability::Stable,
    example: "rename: { service_name: service }",
    schema: || schema_for!(RenameConfig),
    reads: no_other_inputs,
    plan: plan_rename,
};

/// The columns to remove.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct DropConfig(Vec<String>);

/// The columns to keep, in the order they are to have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct KeepConfig(Vec<String>);

/// Old name to new name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct RenameConfig(BTreeMap<String, String>);

struct Planned {
    /// What people are told of it: as it was written.
    description: String,
    columns: Vec<usize>,
    schema: SchemaRef,
}

/// The place of a column.
pub(crate) fn column(schema: &Schema, pointer: &str, name: &str) -> Result<usize, Fault> {
    schema.index_of(name).map_err(|_| {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        Fault::new(
            pointer,
            format!("there is no column `{name}`"),
            format!("the columns here are {}", names.join(", ")),
        )
    })
}

fn all_columns(schema: &Schema, names: &[String]) -> Result<Vec<usize>, Vec<Fault>> {
    let (mut found, mut faults, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (at, name) in names.iter().enumerate() {
        let pointer = format!("/{at}");
        match column(schema, &pointer, name) {
            Ok(index) => found.push(index),
            Err(fault) => faults.push(fault),
        }
        if !seen.insert(name) {
            faults.push(Fault::new(&pointer, format!("`{name}` is there twice"), ""));
        }
    }
    if names.is_empty() {
        faults.push(Fault::new("", "no column is named", ""));
    }
    if faults.is_empty() { Ok(found) } else { Err(faults) }
}

fn planned(verb: &str, names: &[String], input: &Schema, columns: Vec<usize>) -> Arc<dyn PlannedStep> {
    let fields: Vec<FieldRef> = columns.iter().map(|at| Arc::clone(&input.fields()[*at])).collect();
    let description = format!("{verb}: {}", names.join(", "));
    Arc::new(Planned { description, columns, schema: Arc::new(Schema::new(fields)) })
}

fn plan_drop(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    context.no_condition("drop")?;
    let DropConfig(names) = parse(config)?;
    let gone = all_columns(&context.input, &names)?;
    let kept: Vec<usize> = (0..context.input.fields().len()).filter(|at| !gone.contains(at)).collect();
    if kept.is_empty() {
        return Err(vec![Fault::new("", "no column would be left", "")]);
    }
    Ok(planned("drops columns", &names, &context.input, kept))
}

fn plan_keep(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    context.no_condition("keep")?;
    let KeepConfig(names) = parse(config)?;
    Ok(planned("keeps columns", &names, &context.input, all_columns(&context.input, &names)?))
}

fn plan_rename(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    context.no_condition("rename")?;
    let RenameConfig(names) = parse(config)?;
    let mut faults = Vec::new();
    let mut fields: Vec<FieldRef> = context.input.fields().to_vec();
    for (old, new) in &names {
        match column(&context.input, &format!("/{old}"), old) {
            Ok(at) => fields[at] = Arc::new(Field::clone(&fields[at]).with_name(new)),
            Err(fault) => faults.push(fault),
        }
    }
    let mut seen = HashSet::new();
    for field in &fields {
        if !seen.insert(field.name()) {
            faults.push(Fault::new("", format!("two columns would be called `{}`", field.name()), ""));
        }
    }
    if names.is_empty() {
        faults.push(Fault::new("", "no column is named", ""));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let columns = (0..fields.len()).collect();
    let pairs: Vec<String> = names.iter().map(|(old, new)| format!("{old} to {new}")).collect();
    let description = format!("renames columns: {}", pairs.join(", "));
    Ok(Arc::new(Planned { description, columns, schema: Arc::new(Schema::new(fields)) }))
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.schema) }]
    }

    fn distribution(&self, _input: usize) -> Distribution {
        Distribution::Any
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Columns { columns: self.columns.clone(), schema: Arc::clone(&self.schema) }))
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn identities(&self, inputs: &[Option<Identity>]) -> Vec<Option<Identity>> {
        let of_columns = |identity: &Identity| {
            let parts = self.columns.iter().map(|at| identity.part(*at)).collect();
            Identity { parts, ..identity.clone() }
        };
        inputs.iter().map(|input| input.as_ref().map(of_columns)).collect()
    }

    fn takes_revisions(&self) -> bool {
        true
    }
}

struct Columns {
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl Operator for Columns {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let rows = chosen(&batch.rows, &self.columns, &self.schema)?;
        output.batch(0, batch.with_rows(rows));
        Ok(())
    }
}

/// The rows with these of their columns, under the names of a schema.
pub(crate) fn chosen(rows: &RecordBatch, columns: &[usize], schema: &SchemaRef) -> Result<RecordBatch, OperatorError> {
    let columns = columns.iter().map(|at| Arc::clone(rows.column(*at))).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(OperatorError::internal)
}
