//! `filter`: keeps the rows for which a condition is true.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::or;
use arrow::datatypes::SchemaRef;
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_component::Batch;
use weir_component::operator::{Branch, Distribution, Identity, Operator, OperatorError, Output, PlannedStep};
use weir_component::spec::{Fault, Stability};
use weir_sql::expressions::Scalar;

use crate::failing;
use crate::step::{StepContext, StepSpec, fault, no_other_inputs, parse};

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "filter",
    summary: "Keeps the rows for which a condition is true.",
    stability: Stability::Stable,
    example: "filter: \"severity_number >= 17 and attributes['http.route'] = '/checkout'\"",
    schema: || schema_for!(Config),
    reads: no_other_inputs,
    plan,
};

/// The condition, an SQL expression over the columns of a row. A row for which it is not known,
/// because it compares with null, is not kept. A result of a window that was put out before and does not pass any more
/// is retracted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Config(#[schemars(extend("format" = "expression"))] String);

struct Planned {
    text: String,
    schema: SchemaRef,
    condition: Scalar,
    /// Rows for which it is not true are kept.
    when: Option<Scalar>,
    /// All revisions of a result pass, or none.
    is_fixed: bool,
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    let Config(text) = parse(config)?;
    let mut faults = Vec::new();
    let condition = context.language.condition(&context.input, &text);
    let condition = condition.map_err(|error| faults.push(fault("", &error))).ok();
    let when = compile_when(context, &mut faults);
    match condition {
        Some(condition) if faults.is_empty() => {
            let is_fixed = context.are_fixed(std::iter::once(&condition).chain(&when));
            Ok(Arc::new(Planned { text, schema: Arc::clone(&context.input), condition, when, is_fixed }))
        }
        _ => Err(faults),
    }
}

/// The condition under which rows take a step.
pub(crate) fn compile_when(context: &StepContext, faults: &mut Vec<Fault>) -> Option<Scalar> {
    let compiled = context.language.condition(&context.input, context.when?);
    compiled.map_err(|error| faults.push(fault("/when", &error))).ok()
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.schema) }]
    }

    fn distribution(&self, _input: usize) -> Distribution {
        Distribution::Any
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        let (condition, when) = (self.condition.clone(), self.when.clone());
        Ok(Box::new(Filter { condition, when, is_fixed: self.is_fixed }))
    }

    fn describe(&self) -> String {
        format!("keeps rows where {}", self.text)
    }

    fn identities(&self, inputs: &[Option<Identity>]) -> Vec<Option<Identity>> {
        inputs.to_vec()
    }

    fn takes_revisions(&self) -> bool {
        true
    }
}

struct Filter {
    condition: Scalar,
    when: Option<Scalar>,
    is_fixed: bool,
}

impl Operator for Filter {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let kept = failing::apply(batch, output, &mut |batch| {
            let keep = self.condition.is_true(&batch.rows)?;
            let Some(when) = &self.when else { return Ok(keep) };
            let passes_by = negated(&when.is_true(&batch.rows)?);
            Ok(or(&keep, &passes_by).unwrap_or(keep))
        })?;
        for (batch, keep) in kept {
            let kept = match keep.false_count() {
                0 => Ok(batch),
                _ if self.is_fixed => batch.filter(&keep),
                _ => batch.keep(&keep),
            };
            let kept = kept.map_err(OperatorError::internal)?;
            if !kept.is_empty() {
                output.batch(0, kept);
            }
        }
        Ok(())
    }
}

/// What is true where `mask`, which has no nulls, is not.
pub(crate) fn negated(mask: &BooleanArray) -> BooleanArray {
    BooleanArray::new(!mask.values(), None)
}
