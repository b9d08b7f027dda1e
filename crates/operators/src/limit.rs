//! `limit_rate`: at most so many rows in each stretch of event time.
//!
//! Which rows are the first ones goes by event time, and for rows of the same time by their values, as in
//! every step that depends on an order; so rows wait until no earlier one is expected.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_base::Timestamp;
use weir_base::quantity::Span;
use weir_component::Batch;
use weir_component::operator::{
    Aside, AsideNotes, AsideReason, Branch, Distribution, Operator, OperatorError, OperatorState, Output, PlannedStep,
    Share,
};
use weir_component::spec::{Fault, Stability};
use weir_sql::expressions::{Scalar, key_hashes};

use crate::by::{By, Keys};
use crate::clock;
use crate::failing::{self, fatal};
use crate::filter::{compile_when, negated};
use crate::keys::KeyTable;
use crate::route::divide;
use crate::sorted::{self, Sorter};
use crate::step::{StepContext, StepSpec, is_name, nanos, no_other_inputs, parse, span};

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "limit_rate",
    summary: "Lets at most so many rows pass in each stretch of event time.",
    stability: Stability::Preview,
    example: "limit_rate: { rows: 100, per: 1s, by: [service_name] }",
    schema: || schema_for!(Config),
    reads: no_other_inputs,
    plan,
};

/// How many rows pass. They pass in the order of event time, and those of the same time in the order of their
/// values; so rows wait until no earlier one is expected, and those that are behind the watermark of their
/// partition are late. The rows over the limit are dead letters with the reason `over_limit`, or a
/// branch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How many rows pass in each stretch of time.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    rows: i64,
    /// The length of a stretch. Stretches follow one another, counted from 1970-01-01T00:00:00Z.
    per: Span,
    /// Columns, or names with expressions: so many rows pass for each of their values. Default none: so many
    /// in all.
    #[serde(default)]
    by: Option<Keys>,
    /// A name for the branch of the rows over the limit. Default none: they are dead letters.
    #[serde(default)]
    over: Option<String>,
    /// How far a row may be behind the watermark of its partition. Rows wait that much longer. Default 0s.
    #[serde(default)]
    lateness: Option<Span>,
}

struct Planned {
    rows_max: i64,
    per: i64,
    lateness: i64,
    by: Arc<By>,
    over: Option<String>,
    when: Option<Scalar>,
    when_meaning: String,
    schema: SchemaRef,
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    let config: Config = parse(config)?;
    let mut faults = Vec::new();
    if config.rows < 1 {
        faults.push(Fault::new("/rows", "no row would pass", "use a filter for that"));
    }
    if config.per.0.is_zero() {
        faults.push(Fault::new("/per", "a stretch of time has a length", "for example 1s"));
    }
    let per = nanos(config.per.0, "/per", &mut faults).max(1);
    let lateness = nanos(config.lateness.map_or(Duration::ZERO, |span| span.0), "/lateness", &mut faults);
    if let Some(over) = config.over.as_ref().filter(|over| !is_name(over)) {
        let message = format!("`{over}` is not the name of a branch");
        faults.push(Fault::new("/over", message, "use lower-case letters, digits and _, beginning with a letter"));
    }
    let keys = Keys::expressions(config.by);
    let by = By::compile(context.language, &context.input, &keys, "/by", &mut faults);
    let when = compile_when(context, &mut faults);
    sorted::check(&context.input, &mut faults);
    match by {
        Some(by) if faults.is_empty() => Ok(Arc::new(Planned {
            rows_max: config.rows,
            per,
            lateness,
            by,
            over: config.over,
            when,
            when_meaning: context.when.map_or_else(String::new, |when| context.language.written_out(when)),
            schema: Arc::clone(&context.input),
        })),
        _ => Err(faults),
    }
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        let names = std::iter::once("").chain(self.over.as_deref());
        names.map(|name| Branch { name: name.to_owned(), schema: Arc::clone(&self.schema) }).collect()
    }

    fn distribution(&self, _input: usize) -> Distribution {
        self.by.distribution()
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Limit {
            rows_max: self.rows_max,
            per: self.per,
            lateness: self.lateness,
            by: Arc::clone(&self.by),
            has_branch: self.over.is_some(),
            when: self.when.clone(),
            waiting: Sorter::new(Arc::clone(&self.schema))?,
            keys: KeyTable::new(Arc::clone(&self.by.schema))?,
            passed: Vec::new(),
            stretch: i64::MIN,
            watermark: i64::MIN,
            numbers: Vec::new(),
        }))
    }

    fn state_fingerprint(&self) -> Option<String> {
        let Self { rows_max, per, lateness, when_meaning, .. } = self;
        let (per, lateness) = (span(*per), span(*lateness));
        Some(format!("{rows_max} rows per {per}, {lateness} late, by {}, when {when_meaning}", self.by.meaning))
    }

    fn holds_rows(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        let by = if self.by.text.is_empty() { String::new() } else { format!(" by {}", self.by.text) };
        format!("lets {} rows pass per {}{by}", self.rows_max, span(self.per))
    }
}

struct Limit {
    rows_max: i64,
    per: i64,
    lateness: i64,
    by: Arc<By>,
    has_branch: bool,
    when: Option<Scalar>,
    waiting: Sorter,
    keys: KeyTable,
    /// By key: how many rows have passed in this stretch.
    passed: Vec<i64>,
    /// Where the stretch of the last row begins.
    stretch: i64,
    /// The latest watermark, less the lateness.
    watermark: i64,
    numbers: Vec<u32>,
}

const WAITING: &str = "waiting";
const PASSED: &str = "passed";
/// The column with a number, in a state. No name of a user has a space in front.
const NUMBER: &str = " passed";

impl Limit {
    /// Counts rows, which are in order.
    fn count(&mut self, batch: &Batch, keys: &[ArrayRef], output: &mut dyn Output) -> Result<(), OperatorError> {
        let mut passes = Vec::with_capacity(batch.len());
        let mut from = 0;
        while from < batch.len() {
            // Rows of one stretch at a time: the counts of the one before are of no use any more.
            let stretch = batch.times[from].saturating_sub(batch.times[from].rem_euclid(self.per));
            let end = stretch.saturating_add(self.per);
            let n_rows = batch.times[from..].partition_point(|time| *time < end);
            if stretch != self.stretch {
                self.begin(stretch)?;
            }
            let part: Vec<ArrayRef> = keys.iter().map(|key| key.slice(from, n_rows)).collect();
            let mut numbers = std::mem::take(&mut self.numbers);
            self.keys.numbers(&part, n_rows, &mut numbers)?;
            self.passed.resize(self.keys.bound(), 0);
            for number in &numbers {
                let passed = &mut self.passed[*number as usize];
                passes.push(*passed < self.rows_max);
                *passed += i64::from(*passed < self.rows_max);
            }
            self.numbers = numbers;
            from += n_rows;
        }
        let passes = BooleanArray::from(passes);
        let part = |mask: &BooleanArray| batch.filter(mask).map_err(OperatorError::internal);
        if passes.true_count() > 0 {
            output.batch(0, part(&passes)?);
        }
        if passes.true_count() < batch.len() {
            let over = part(&negated(&passes))?;
            if self.has_branch {
                output.batch(1, over);
            } else {
                let notes = AsideNotes::None;
                let reason = AsideReason::OverLimit;
                output.aside(Aside { reason, rows: over.rows, times: Some(over.times), notes });
            }
        }
        Ok(())
    }

    fn begin(&mut self, stretch: i64) -> Result<(), OperatorError> {
        self.stretch = stretch;
        self.keys = KeyTable::new(Arc::clone(&self.by.schema))?;
        self.passed.clear();
        Ok(())
    }
}

impl Operator for Limit {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let batches = match &self.when {
            None => vec![batch],
            Some(when) => {
                let (takes, passes) = divide(vec![batch], when, output)?;
                for batch in passes {
                    output.batch(0, batch);
                }
                takes
            }
        };
        for batch in batches {
            let batch = crate::late::on_time(batch, self.lateness, self.watermark, self.per, output)?;
            self.waiting.push(batch);
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.watermark = self.watermark.max(clock::less(watermark, self.lateness));
        let by = Arc::clone(&self.by);
        for batch in self.waiting.release(self.watermark)? {
            for (batch, keys) in failing::apply(batch, output, &mut |batch| by.columns(&batch.rows))? {
                self.count(&batch, &keys, output)?;
            }
        }
        if self.keys.len() > 0 && self.stretch.saturating_add(self.per) <= self.watermark {
            self.begin(self.stretch)?;
        }
        Ok(Timestamp(self.watermark))
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        state.tables.insert(WAITING.to_owned(), self.waiting.snapshot()?);
        if self.keys.len() > 0 {
            // Until the stretch is over no number is given out twice.
            let numbers = 0..u32::try_from(self.keys.bound()).unwrap_or(u32::MAX);
            let keys = self.keys.columns(numbers)?;
            let passed: ArrayRef = Arc::new(Int64Array::from(self.passed.clone()));
            let fields = self.by.schema.fields().iter().map(|field| field.name().as_str()).chain([NUMBER]);
            let table = RecordBatch::try_from_iter(fields.zip(keys.into_iter().chain([passed])));
            state.tables.insert(PASSED.to_owned(), vec![table.map_err(OperatorError::internal)?]);
        }
        clock::put(&mut state, &[("watermark", self.watermark), ("stretch", self.stretch)])?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        // Instances may be in different stretches: the one before the newest is over for all of them, because
        // rows wait for the watermark, which is the same for all.
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
            self.stretch = self.stretch.max(clock::get(state, "stretch")?);
        }
        for state in states {
            self.waiting.restore(state.table(WAITING), self.by.key_hash(), share)?;
            if clock::get(state, "stretch")? != self.stretch {
                continue;
            }
            for table in state.table(PASSED) {
                let n_keys = self.by.schema.fields().len();
                if table.num_columns() != n_keys + 1 {
                    return Err(OperatorError::state("the counts have other keys"));
                }
                let hashes = key_hashes(&table.columns()[..n_keys], table.num_rows()).map_err(|error| fatal(&error))?;
                // What others own is not even known here, or it would be in the next state of both.
                let own: BooleanArray = hashes.into_iter().map(|hash| Some(share.owns(hash))).collect();
                let own = filter_record_batch(table, &own).map_err(OperatorError::internal)?;
                let passed = own.column(n_keys).as_primitive_opt::<Int64Type>();
                let passed = passed.ok_or_else(|| OperatorError::state("the counts are no numbers"))?;
                if own.num_rows() == 0 {
                    continue;
                }
                let mut numbers = Vec::new();
                self.keys.numbers(&own.columns()[..n_keys], own.num_rows(), &mut numbers)?;
                self.passed.resize(self.keys.bound(), 0);
                for (number, passed) in numbers.into_iter().zip(passed.values()) {
                    self.passed[number as usize] = *passed;
                }
            }
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.waiting.bytes() + self.keys.bytes() + self.passed.capacity() * size_of::<i64>()
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        vec![("waiting_rows", self.waiting.len() as u64), ("keys", self.keys.len() as u64)]
    }
}

#[cfg(test)]
mod tests;
