//! `set`: adds columns, or gives columns other values.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_component::Batch;
use weir_component::operator::{Branch, Distribution, Identity, Operator, OperatorError, Output, Part, PlannedStep};
use weir_component::spec::{Fault, Stability};
use weir_sql::SqlError;
use weir_sql::expressions::Scalar;

use crate::failing;
use crate::filter::compile_when;
use crate::step::{Expressions, StepContext, StepSpec, fault, no_other_inputs, parse};
use crate::template;

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "set",
    summary: "Adds columns, or gives columns other values.",
    stability: Stability::Stable,
    example: "set: { region: \"coalesce(attributes['cloud.region'], 'unknown')\" }",
    schema: || schema_for!(Config),
    reads: no_other_inputs,
    plan,
};

/// Column to SQL expression, or to a text with expressions in it, such as `${service}-${date_part('year', time)}`,
/// where null is nothing. All expressions see the row as it was before the step; new columns stand behind the others,
/// in the order written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Config(Expressions);

#[derive(Clone)]
struct Assignment {
    /// The column it replaces.
    replaces: Option<usize>,
    value: Scalar,
}

struct Planned {
    text: String,
    schema: SchemaRef,
    assignments: Vec<Assignment>,
    /// The columns whose values are those of another column, or of a bound of a window that is one.
    copies: Vec<(usize, Copied)>,
    when: Option<Scalar>,
}

/// What a column is a copy of.
#[derive(Clone, Copy, Debug)]
struct Copied {
    column: usize,
    bound: Option<Part>,
}

/// The column, or bound of a window, that an expression is, written as `window.start` or `window['start']`.
fn copied(text: &str, value: &Scalar, schema: &Schema) -> Option<Copied> {
    if let Some(column) = value.column() {
        return Some(Copied { column, bound: None });
    }
    let (window, bound) = text.trim().trim_end_matches([']', '\'']).rsplit_once(['.', '\''])?;
    let bound = match bound.trim_matches('"') {
        "start" => Part::Start,
        "end" => Part::End,
        _ => return None,
    };
    let window = window.trim_end_matches('[').trim();
    // A name without quotes is in lower case whatever is written.
    let name = window.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(window);
    let is_plain = name.len() < window.len() || !name.chars().any(char::is_uppercase);
    let column = schema.index_of(name).ok().filter(|_| is_plain)?;
    Some(Copied { column, bound: Some(bound) })
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    let Config(Expressions(expressions)) = parse(config)?;
    let mut faults = Vec::new();
    if expressions.is_empty() {
        faults.push(Fault::new("", "there is nothing to set", "give a column and an expression"));
    }
    let mut fields: Vec<FieldRef> = context.input.fields().to_vec();
    let when = compile_when(context, &mut faults);
    let mut assignments = Vec::new();
    for named in &expressions {
        let pointer = format!("/{}", named.name);
        let template = template::expression(&named.text).map_err(|message| Fault::new(&pointer, message, ""));
        let value = template.and_then(|template| {
            let text = template.as_ref().unwrap_or(&named.text);
            let value = context.language.scalar(&context.input, &named.name, text);
            // A place in what was made of a template is none in the template.
            let place = |fault: Fault| if template.is_some() { Fault { inside: None, ..fault } } else { fault };
            value.map_err(|error| place(fault(&pointer, &error)))
        });
        let value = match value {
            Ok(value) => value,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let replaces = context.input.index_of(&named.name).ok();
        match replaces {
            Some(at) => {
                if context.when.is_some() && fields[at].data_type() != value.field().data_type() {
                    faults.push(Fault::new(
                        &pointer,
                        format!(
                            "{} is {} in rows that pass by and would be {} in the others",
                            named.name,
                            fields[at].data_type(),
                            value.field().data_type()
                        ),
                        "cast the expression to the type of the column",
                    ));
                }
                fields[at] = Arc::clone(value.field());
            }
            None => fields.push(Arc::clone(value.field())),
        }
        assignments.push(Assignment { replaces, value });
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    // What is set under a condition is null in the other rows.
    let fields: Vec<FieldRef> = fields.iter().map(nullable).collect();
    let written: Vec<String> = expressions.iter().map(|named| format!("{} = {}", named.name, named.text)).collect();
    let schema = Arc::new(Schema::new(fields));
    // Under a condition a value comes from here or from there.
    let plain = expressions.iter().zip(&assignments).filter(|_| when.is_none());
    let copies = plain.filter_map(|(named, assignment)| {
        Some((schema.index_of(&named.name).ok()?, copied(&named.text, &assignment.value, &context.input)?))
    });
    let copies = copies.collect();
    Ok(Arc::new(Planned { text: written.join(", "), copies, schema, assignments, when }))
}

fn nullable(field: &FieldRef) -> FieldRef {
    if field.is_nullable() { Arc::clone(field) } else { Arc::new(Field::clone(field).with_nullable(true)) }
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.schema) }]
    }

    fn distribution(&self, _input: usize) -> Distribution {
        Distribution::Any
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Set {
            schema: Arc::clone(&self.schema),
            assignments: self.assignments.clone(),
            when: self.when.clone(),
        }))
    }

    fn describe(&self) -> String {
        format!("sets {}", self.text)
    }

    fn identities(&self, inputs: &[Option<Identity>]) -> Vec<Option<Identity>> {
        let of_columns = |identity: &Identity| {
            let mut parts = identity.parts.clone();
            parts.resize(self.schema.fields().len(), Part::Value);
            for replaced in self.assignments.iter().filter_map(|assignment| assignment.replaces) {
                parts[replaced] = Part::Value;
            }
            for (to, Copied { column, bound }) in &self.copies {
                parts[*to] = match (identity.part(*column), bound) {
                    (Part::Window, Some(bound)) => *bound,
                    (part, None) => part,
                    _ => Part::Value,
                };
            }
            Identity { parts, ..identity.clone() }
        };
        inputs.iter().map(|input| input.as_ref().map(of_columns)).collect()
    }

    fn takes_revisions(&self) -> bool {
        true
    }
}

struct Set {
    schema: SchemaRef,
    assignments: Vec<Assignment>,
    when: Option<Scalar>,
}

impl Operator for Set {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let computed = failing::apply(batch, output, &mut |batch| self.values(&batch.rows))?;
        for (batch, values) in computed {
            let mut columns: Vec<ArrayRef> = batch.rows.columns().to_vec();
            for (assignment, value) in self.assignments.iter().zip(values) {
                match assignment.replaces {
                    Some(at) => columns[at] = value,
                    None => columns.push(value),
                }
            }
            let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(OperatorError::internal)?;
            output.batch(0, batch.with_rows(rows));
        }
        Ok(())
    }
}

impl Set {
    fn values(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, SqlError> {
        let Some(when) = &self.when else {
            return self.assignments.iter().map(|assignment| assignment.value.evaluate(rows)).collect();
        };
        let takes = when.is_true(rows)?;
        // An expression is not computed for rows it was not meant for: it might fail on them.
        let chosen = arrow::compute::filter_record_batch(rows, &takes).map_err(SqlError::from_arrow)?;
        let mut at = 0_u64;
        let places: arrow::array::UInt64Array = takes
            .values()
            .iter()
            .map(|takes| {
                takes.then(|| {
                    at += 1;
                    at - 1
                })
            })
            .collect();
        self.assignments
            .iter()
            .map(|assignment| {
                let value = assignment.value.evaluate(&chosen)?;
                let spread = arrow::compute::take(&value, &places, None).map_err(SqlError::from_arrow)?;
                let otherwise = match assignment.replaces {
                    Some(column) => Arc::clone(rows.column(column)),
                    None => new_null_array(value.data_type(), rows.num_rows()),
                };
                zip(&takes, &spread, &otherwise).map_err(SqlError::from_arrow)
            })
            .collect()
    }
}
