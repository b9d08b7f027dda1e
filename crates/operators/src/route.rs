//! `route`: rows take the branch of the first condition that is true for them.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::SchemaRef;
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_component::Batch;
use weir_component::operator::{Branch, Distribution, Identity, Operator, OperatorError, Output, PlannedStep};
use weir_component::spec::{Fault, Stability};
use weir_sql::expressions::Scalar;

use crate::failing;
use crate::filter::{compile_when, negated};
use crate::step::{Expressions, StepContext, StepSpec, fault, is_name, no_other_inputs, parse};

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "route",
    summary: "Sends rows into branches, each by a condition; steps and sinks read a branch with `from`.",
    stability: Stability::Preview,
    example: "route: { errors: \"status >= 500\", slow: \"duration_ms > 1000\" }",
    schema: || schema_for!(Config),
    reads: no_other_inputs,
    plan,
};

/// Branch to condition. A row takes the first branch, in the order written, whose condition is true for it. Rows
/// that take none go on to the next step. A result of a window that takes another branch than before is retracted in
/// the others.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Config(Expressions);

struct Planned {
    text: String,
    schema: SchemaRef,
    branches: Vec<(String, Scalar)>,
    when: Option<Scalar>,
    /// All revisions of a result take the same branch.
    is_fixed: bool,
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    let Config(Expressions(expressions)) = parse(config)?;
    let mut faults = Vec::new();
    if expressions.is_empty() {
        faults.push(Fault::new("", "there is no branch", "give a name and a condition"));
    }
    let when = compile_when(context, &mut faults);
    let mut branches = Vec::new();
    for named in &expressions {
        let pointer = format!("/{}", named.name);
        if !is_name(&named.name) {
            let message = format!("`{}` is not the name of a branch", named.name);
            faults.push(Fault::new(&pointer, message, "use lower-case letters, digits and _, beginning with a letter"));
        }
        match context.language.condition(&context.input, &named.text) {
            Ok(condition) => branches.push((named.name.clone(), condition)),
            Err(error) => faults.push(fault(&pointer, &error)),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let written: Vec<String> = expressions.iter().map(|named| format!("{} where {}", named.name, named.text)).collect();
    let is_fixed = context.are_fixed(branches.iter().map(|(_, condition)| condition).chain(&when));
    let (text, schema) = (written.join(", "), Arc::clone(&context.input));
    Ok(Arc::new(Planned { text, schema, branches, when, is_fixed }))
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        let names = std::iter::once("").chain(self.branches.iter().map(|(name, _)| name.as_str()));
        names.map(|name| Branch { name: name.to_owned(), schema: Arc::clone(&self.schema) }).collect()
    }

    fn distribution(&self, _input: usize) -> Distribution {
        Distribution::Any
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        let conditions = self.branches.iter().map(|(_, condition)| condition.clone()).collect();
        Ok(Box::new(Route { conditions, when: self.when.clone(), is_fixed: self.is_fixed }))
    }

    fn describe(&self) -> String {
        format!("routes {}", self.text)
    }

    fn identities(&self, inputs: &[Option<Identity>]) -> Vec<Option<Identity>> {
        inputs.iter().flat_map(|input| vec![input.clone(); 1 + self.branches.len()]).collect()
    }

    fn takes_revisions(&self) -> bool {
        true
    }
}

struct Route {
    conditions: Vec<Scalar>,
    when: Option<Scalar>,
    is_fixed: bool,
}

impl Operator for Route {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let mut left = match &self.when {
            None => vec![batch],
            Some(when) => {
                let (takes, passes) = divide(vec![batch], when, output)?;
                for batch in passes {
                    self.put_out(0, batch, output)?;
                }
                takes
            }
        };
        // A condition is not asked for rows that have taken a branch: it might fail on them.
        for (condition, branch) in self.conditions.iter().zip(1..) {
            let (takes, rest) = divide(left, condition, output)?;
            for batch in takes {
                self.put_out(branch, batch, output)?;
            }
            left = rest;
        }
        for batch in left {
            self.put_out(0, batch, output)?;
        }
        Ok(())
    }
}

impl Route {
    /// Puts rows out at a branch; they may have taken another one when they were put out before.
    fn put_out(&self, branch: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        if batch.revisions.is_some() && !self.is_fixed {
            let none = BooleanArray::new(BooleanBuffer::new_unset(batch.len()), None);
            let gone = batch.keep(&none).map_err(OperatorError::internal)?;
            let others = (0..=self.conditions.len()).filter(|other| *other != branch && !gone.is_empty());
            for other in others {
                output.batch(other, gone.clone());
            }
        }
        output.batch(branch, batch);
        Ok(())
    }
}

/// The rows for which a condition is true, and the others. No batch is empty.
pub(crate) fn divide(
    batches: Vec<Batch>,
    condition: &Scalar,
    output: &mut dyn Output,
) -> Result<(Vec<Batch>, Vec<Batch>), OperatorError> {
    let (mut yes, mut no) = (Vec::new(), Vec::new());
    for batch in batches {
        for (batch, mask) in failing::apply(batch, output, &mut |batch| condition.is_true(&batch.rows))? {
            let part = |mask: &BooleanArray| batch.filter(mask).map_err(OperatorError::internal);
            match mask.true_count() {
                0 => no.push(batch),
                all if all == batch.len() => yes.push(batch),
                _ => {
                    yes.push(part(&mask)?);
                    no.push(part(&negated(&mask))?);
                }
            }
        }
    }
    yes.retain(|batch| !batch.is_empty());
    no.retain(|batch| !batch.is_empty());
    Ok((yes, no))
}
