//! `dedupe`: one row of those that are the same.
//!
//! Which of them is the first goes by event time, and for rows of the same time by their values, as in every
//! step that depends on an order; so rows wait until no earlier one is expected. A key is known for the
//! time in which other rows of it would be repeats, and no longer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_base::Timestamp;
use weir_base::quantity::Span;
use weir_component::Batch;
use weir_component::batch::bytes_of;
use weir_component::operator::{
    Branch, Distribution, Operator, OperatorError, OperatorState, Output, PlannedStep, Share,
};
use weir_component::spec::{Fault, Stability};
use weir_sql::expressions::{Scalar, key_hashes};

use crate::by::{By, Keys};
use crate::clock;
use crate::failing::{self, fatal};
use crate::filter::compile_when;
use crate::keys::KeyTable;
use crate::route::divide;
use crate::sorted::{self, Sorter};
use crate::step::{StepContext, StepSpec, nanos, no_other_inputs, parse, span};

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "dedupe",
    summary: "Keeps the first of rows with the same key, within some time.",
    stability: Stability::Preview,
    example: "dedupe: { by: [event_id], within: 1h }",
    schema: || schema_for!(Config),
    reads: no_other_inputs,
    plan,
};

/// What is the same, and for how long. A row is kept if no row with its key was kept less than `within` before it,
/// by event time. Rows are taken in the order of event time, and those of the same time in the order of
/// their values; so rows wait until no earlier one is expected, and those that are behind the watermark of
/// their partition are late.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Columns, or names with expressions: rows with the same values are the same. Null is the same as null: of rows without
    /// a value one is kept, unless a `when` lets them pass by.
    by: Keys,
    /// For how long after a row others of its key are repeats of it.
    within: Span,
    /// How far a row may be behind the watermark of its partition. Rows wait that much longer. Default 0s.
    #[serde(default)]
    lateness: Option<Span>,
}

struct Planned {
    within: i64,
    lateness: i64,
    by: Arc<By>,
    when: Option<Scalar>,
    when_meaning: String,
    schema: SchemaRef,
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    let config: Config = parse(config)?;
    let mut faults = Vec::new();
    if config.within.0.is_zero() {
        faults.push(Fault::new("/within", "within no time there are no repeats", "for example 1h"));
    }
    let within = nanos(config.within.0, "/within", &mut faults).max(1);
    let lateness = nanos(config.lateness.map_or(Duration::ZERO, |span| span.0), "/lateness", &mut faults);
    let keys = Keys::expressions(Some(config.by));
    if keys.is_empty() {
        faults.push(Fault::new("/by", "it is not said what is the same", "name a column"));
    }
    let by = By::compile(context.language, &context.input, &keys, "/by", &mut faults);
    let when = compile_when(context, &mut faults);
    sorted::check(&context.input, &mut faults);
    match by {
        Some(by) if faults.is_empty() => Ok(Arc::new(Planned {
            within,
            lateness,
            by,
            when,
            when_meaning: context.when.map_or_else(String::new, |when| context.language.written_out(when)),
            schema: Arc::clone(&context.input),
        })),
        _ => Err(faults),
    }
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.schema) }]
    }

    fn distribution(&self, _input: usize) -> Distribution {
        self.by.distribution()
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        let fields = self.by.schema.fields().iter().map(Arc::clone);
        let time = Arc::new(Field::new(TIME, DataType::Int64, false));
        Ok(Box::new(Dedupe {
            within: self.within,
            lateness: self.lateness,
            by: Arc::clone(&self.by),
            when: self.when.clone(),
            waiting: Sorter::new(Arc::clone(&self.schema))?,
            keys: KeyTable::new(Arc::clone(&self.by.schema))?,
            since: Vec::new(),
            kept: VecDeque::new(),
            n_fresh: 0,
            sealed: VecDeque::new(),
            state_schema: Arc::new(Schema::new(fields.chain([time]).collect::<Vec<_>>())),
            watermark: i64::MIN,
            numbers: Vec::new(),
        }))
    }

    fn state_fingerprint(&self) -> Option<String> {
        let Self { within, lateness, when_meaning, .. } = self;
        let (within, lateness) = (span(*within), span(*lateness));
        Some(format!("first within {within}, {lateness} late, by {}, when {when_meaning}", self.by.meaning))
    }

    fn holds_rows(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("keeps the first row within {} by {}", span(self.within), self.by.text)
    }
}

struct Dedupe {
    within: i64,
    lateness: i64,
    by: Arc<By>,
    when: Option<Scalar>,
    waiting: Sorter,
    keys: KeyTable,
    /// By key: when its last row was kept.
    since: Vec<i64>,
    /// The rows that were kept, in order: time and key.
    kept: VecDeque<(i64, u32)>,
    /// How many of them, at the end, are in no sealed batch yet.
    n_fresh: usize,
    /// The same rows as they are in checkpoints, each batch with its last time.
    sealed: VecDeque<(i64, RecordBatch)>,
    state_schema: SchemaRef,
    /// The latest watermark, less the lateness.
    watermark: i64,
    numbers: Vec<u32>,
}

const WAITING: &str = "waiting";
const KEPT: &str = "kept";
/// The column with a time, in a state. No name of a user has a space in front.
const TIME: &str = " time";

impl Dedupe {
    /// Keeps the first rows; they are in order.
    fn keep(&mut self, batch: Batch, keys: &[ArrayRef], output: &mut dyn Output) -> Result<(), OperatorError> {
        let mut numbers = std::mem::take(&mut self.numbers);
        self.keys.numbers(keys, batch.len(), &mut numbers)?;
        self.since.resize(self.keys.bound(), i64::MIN);
        let mut is_first = Vec::with_capacity(batch.len());
        for (number, time) in numbers.iter().zip(batch.times.iter()) {
            let since = &mut self.since[*number as usize];
            let first = *since == i64::MIN || time.saturating_sub(*since) >= self.within;
            if first {
                *since = *time;
                self.kept.push_back((*time, *number));
                self.n_fresh += 1;
            }
            is_first.push(first);
        }
        self.numbers = numbers;
        let is_first = BooleanArray::from(is_first);
        match is_first.true_count() {
            0 => {}
            all if all == batch.len() => output.batch(0, batch),
            _ => output.batch(0, batch.filter(&is_first).map_err(OperatorError::internal)?),
        }
        Ok(())
    }

    /// Forgets the keys of which no repeat can come any more.
    fn forget(&mut self) {
        while let Some((time, number)) = self.kept.front().copied()
            && time.saturating_add(self.within) <= self.watermark
        {
            self.kept.pop_front();
            // It may have been kept again since.
            if self.since[number as usize] == time {
                self.since[number as usize] = i64::MIN;
                self.keys.remove(number);
            }
        }
        self.n_fresh = self.n_fresh.min(self.kept.len());
        while self.sealed.front().is_some_and(|(last, _)| last.saturating_add(self.within) <= self.watermark) {
            self.sealed.pop_front();
        }
        if self.kept.is_empty() {
            self.since = Vec::new();
            self.kept = VecDeque::new();
        }
    }

    /// Makes a batch of what was kept since the last time.
    fn seal(&mut self) -> Result<(), OperatorError> {
        let fresh = self.kept.len() - std::mem::take(&mut self.n_fresh);
        let Some((last, _)) = self.kept.back().copied().filter(|_| fresh < self.kept.len()) else { return Ok(()) };
        let mut columns = self.keys.columns(self.kept.range(fresh..).map(|(_, number)| *number))?;
        columns.push(Arc::new(self.kept.range(fresh..).map(|(time, _)| *time).collect::<Int64Array>()));
        let batch = RecordBatch::try_new(Arc::clone(&self.state_schema), columns).map_err(OperatorError::internal)?;
        self.sealed.push_back((last, batch));
        Ok(())
    }
}

impl Operator for Dedupe {
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
            let batch = crate::late::on_time(batch, self.lateness, self.watermark, self.within, output)?;
            self.waiting.push(batch);
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.watermark = self.watermark.max(clock::less(watermark, self.lateness));
        let by = Arc::clone(&self.by);
        for batch in self.waiting.release(self.watermark)? {
            for (batch, keys) in failing::apply(batch, output, &mut |batch| by.columns(&batch.rows))? {
                self.keep(batch, &keys, output)?;
            }
        }
        self.forget();
        Ok(Timestamp(self.watermark))
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        self.seal()?;
        let mut state = OperatorState::default();
        state.tables.insert(WAITING.to_owned(), self.waiting.snapshot()?);
        state.tables.insert(KEPT.to_owned(), self.sealed.iter().map(|(_, batch)| batch.clone()).collect());
        clock::put(&mut state, &[("watermark", self.watermark)])?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
        }
        let n_keys = self.by.schema.fields().len();
        let mut all = Vec::new();
        for state in states {
            self.waiting.restore(state.table(WAITING), self.by.key_hash(), share)?;
            for table in state.table(KEPT) {
                let times = table.columns().get(n_keys).and_then(|column| column.as_primitive_opt::<Int64Type>());
                let times = times.filter(|_| table.schema_ref() == &self.state_schema);
                let times = times.ok_or_else(|| OperatorError::state("the keys that are known are of other types"))?;
                let hashes = key_hashes(&table.columns()[..n_keys], table.num_rows()).map_err(|error| fatal(&error))?;
                let is_own = |(hash, time): (&u64, &i64)| {
                    Some(share.owns(*hash) && time.saturating_add(self.within) > self.watermark)
                };
                let own: BooleanArray = hashes.iter().zip(times.values()).map(is_own).collect();
                let own = arrow::compute::filter_record_batch(table, &own).map_err(OperatorError::internal)?;
                if own.num_rows() == 0 {
                    continue;
                }
                let mut numbers = Vec::new();
                self.keys.numbers(&own.columns()[..n_keys], own.num_rows(), &mut numbers)?;
                let times = own.column(n_keys).as_primitive::<Int64Type>().values().to_vec();
                all.extend(times.into_iter().zip(numbers));
            }
        }
        all.sort_unstable();
        self.since.resize(self.keys.bound(), i64::MIN);
        for (time, number) in &all {
            self.since[*number as usize] = *time;
        }
        self.n_fresh = all.len();
        self.kept = all.into();
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        let sealed: usize = self.sealed.iter().map(|(_, batch)| bytes_of(batch)).sum();
        let kept = self.kept.capacity() * size_of::<(i64, u32)>() + self.since.capacity() * size_of::<i64>();
        self.waiting.bytes() + self.keys.bytes() + kept + sealed
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let sealed: usize = self.sealed.iter().map(|(_, batch)| batch.num_rows()).sum();
        vec![
            ("waiting_rows", self.waiting.len() as u64),
            ("keys", self.keys.len() as u64),
            ("sealed_keys", sealed as u64),
        ]
    }
}

#[cfg(test)]
mod tests;
