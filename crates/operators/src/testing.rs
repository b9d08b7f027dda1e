//! What the tests of steps share.

pub(crate) mod driven;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches;
use serde_json::Value as Json;
use weir_base::clock::SystemClock;
use weir_component::Batch;
use weir_component::operator::{Aside, Output, PlannedStep};
use weir_component::spec::Fault;
use weir_sql::expressions::{Language, NoKinds};

use crate::{STEPS, StepContext};

/// Keeps what a step puts out.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) batches: Vec<Batch>,
    pub(crate) asides: Vec<Aside>,
    /// The branch of each batch.
    pub(crate) branches: Vec<usize>,
}

impl Output for Kept {
    fn batch(&mut self, branch: usize, batch: Batch) {
        assert!(!batch.is_empty(), "steps put out no empty batches");
        self.branches.push(branch);
        self.batches.push(batch);
    }

    fn aside(&mut self, aside: Aside) {
        self.asides.push(aside);
    }
}

/// Plans a step over `input`.
pub(crate) fn plan(
    name: &str,
    config: &Json,
    input: &SchemaRef,
    when: Option<&str>,
) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    plan_with(name, config, input, &[], when)
}

/// Plans a step over `input` that reads others, too.
pub(crate) fn plan_with(
    name: &str,
    config: &Json,
    input: &SchemaRef,
    others: &[SchemaRef],
    when: Option<&str>,
) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    let language = Language::new(Arc::new(NoKinds), SystemClock::new());
    let context =
        StepContext { input: Arc::clone(input), others: others.to_vec(), language: &language, when, identity: None };
    let spec = STEPS.iter().find(|spec| spec.name == name);
    (spec.expect("the step exists").plan)(config, &context)
}

/// The cells of batches, a line a row, sorted.
pub(crate) fn lines<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        let text = pretty_format_batches(std::slice::from_ref(batch)).expect("a batch can be shown").to_string();
        let rows = text.lines().skip(3).filter(|line| line.starts_with('|'));
        lines.extend(rows.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()));
    }
    lines.sort();
    lines
}
