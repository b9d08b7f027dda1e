//! The source `generator`: rows made up on the spot, the same ones for the same seed.
//!
//! Each value is a function of the seed, its column and the number of its row, so a position is a count
//! and batches may be cut anywhere.

mod values;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use weir_base::quantity::Span;
use weir_base::{Clock, ErrorKind, Timestamp};
use weir_codecs::rows::BATCH_ROWS_MAX;
use weir_component::source::{Next, PartitionName, PlannedSource, Source, SourceError, SourcePosition, SourceRows};
use weir_component::spec::{About, Access, Fault, PlanContext, SourceSpec, Stability};

use crate::config;
use values::Values;

/// The entry of the table.
pub const SPEC: SourceSpec = SourceSpec {
    about: About {
        name: "generator",
        summary: "Makes up rows, for trying out and for measuring.",
        stability: Stability::Preview,
        access: Access { connects: false, files: false, credentials: false, terminal: false },
        example: "rate: 100\ncolumns:\n  time: { timestamp: { disorder: 2s } }\n  user: { uniform: { min: 1, max: 1000 } }\n  kind: { choice: [view, click, buy] }\n",
        schema: || schemars::schema_for!(GeneratorConfig),
    },
    plan,
};

/// The name of the only partition.
const PARTITION: &str = "generator";
/// Rows of so much time are given at once, so that a high rate does not make tiny batches.
const TICK: Duration = Duration::from_millis(10);
/// The fastest rate.
const RATE_MAX: u64 = 1_000_000_000;

/// Makes up rows. The same seed and columns give the same rows, also after a restart.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeneratorConfig {
    /// Rows a second. Without it: as many as the pipeline takes.
    pub rate: Option<u64>,
    /// How many rows there are in all. Without it there is no end.
    pub count: Option<u64>,
    /// What the made-up values depend on. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// The columns: name to what is in them.
    pub columns: BTreeMap<String, ColumnGenerator>,
}

/// What is in a column.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnGenerator {
    /// Whole numbers, one after another.
    Sequence(Sequence),
    /// Numbers between two others, each as likely: whole ones if both are whole, then including both.
    Uniform(Uniform),
    /// One of these values, each as likely: all texts, all numbers or all booleans; null is allowed among them.
    Choice(Vec<Json>),
    /// Moments that go forward.
    Timestamp(Moments),
}

/// Whole numbers, one after another.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sequence {
    /// The first one. Default: 0.
    pub start: i64,
    /// What is added for each row. Default: 1.
    pub step: i64,
}

impl Default for Sequence {
    fn default() -> Self {
        Self { start: 0, step: 1 }
    }
}

/// Numbers between two others.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uniform {
    /// The smallest.
    pub min: serde_json::Number,
    /// The largest.
    pub max: serde_json::Number,
}

/// Moments that go forward.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Moments {
    /// The first: RFC 3339, or `now` for the moment the pipeline is started for the first time. Default:
    /// 2026-01-01T00:00:00Z.
    pub start: Option<String>,
    /// From one row to the next. Default: as `rate` has it, or 1ms.
    pub every: Option<Span>,
    /// Each moment is made earlier by up to this, so that rows are out of order. Default: 0s.
    pub disorder: Span,
}

#[derive(Clone, Debug)]
struct Plan {
    rate: Option<u64>,
    count: Option<u64>,
    columns: Vec<Values>,
    schema: SchemaRef,
    clock: Arc<dyn Clock>,
}

fn plan(config: &Json, context: &PlanContext) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
    let config: GeneratorConfig = config::parse(config)?;
    let mut faults = Vec::new();
    if config.columns.is_empty() {
        faults.push(Fault::new(
            "/columns",
            "there are no columns",
            "name at least one, such as `id: { sequence: {} }`",
        ));
    }
    if config.rate.is_some_and(|rate| rate == 0 || rate > RATE_MAX) {
        faults.push(Fault::new(
            "/rate",
            format!("not between 1 and {RATE_MAX}"),
            "leave it out for as fast as possible",
        ));
    }
    let (mut columns, mut fields) = (Vec::new(), Vec::new());
    for (at, (name, generator)) in config.columns.iter().enumerate() {
        let place = format!("/columns/{}", config::escaped(name));
        match Values::new(generator, config.seed, at as u64, config.rate) {
            Ok(values) => {
                fields.push(values.field(name));
                columns.push(values);
            }
            Err(fault) => faults.push(Fault { pointer: format!("{place}{}", fault.pointer), ..fault }),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Arc::new(Plan {
        rate: config.rate,
        count: config.count,
        columns,
        schema: Arc::new(Schema::new(fields)),
        clock: Arc::clone(&context.clock),
    }))
}

#[async_trait]
impl PlannedSource for Plan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn is_bounded(&self) -> bool {
        self.count.is_some()
    }

    async fn open(&self, position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        let place = position.as_ref().and_then(|position| position.partitions.get(PARTITION));
        let (given, began) = match place {
            None => (0, self.clock.now()),
            Some(place) => match (place["count"].as_u64(), place["began"].as_i64()) {
                (Some(count), Some(began)) => (count, Timestamp(began)),
                _ => return Err(SourceError::new(ErrorKind::Corrupt, "the position of a generator makes no sense")),
            },
        };
        Ok(Box::new(Generator {
            plan: self.clone(),
            partition: PARTITION.into(),
            given,
            began,
            opened: self.clock.monotonic(),
            given_before: given,
        }))
    }

    fn describe(&self) -> String {
        let rate = self.rate.map_or_else(|| "as many as are taken".to_owned(), |rate| format!("{rate} a second"));
        match self.count {
            Some(count) => format!("makes up {count} rows, {rate}"),
            None => format!("makes up rows, {rate}"),
        }
    }
}

struct Generator {
    plan: Plan,
    partition: PartitionName,
    /// Rows given in all.
    given: u64,
    /// When the first start was.
    began: Timestamp,
    opened: Duration,
    given_before: u64,
}

impl Generator {
    /// How many rows may be given by now, in all; how long it is until the next ones.
    fn due(&self) -> (u64, Duration) {
        let all = self.plan.count.unwrap_or(u64::MAX);
        let Some(rate) = self.plan.rate else { return (all, Duration::ZERO) };
        let elapsed = self.plan.clock.monotonic().saturating_sub(self.opened);
        let due = u128::from(rate) * elapsed.as_nanos() / 1_000_000_000;
        let due = self.given_before.saturating_add(u64::try_from(due).unwrap_or(u64::MAX));
        (due.min(all), TICK.max(Duration::from_nanos(1_000_000_000 / rate)))
    }

    fn rows(&self, first: u64, count: usize) -> Result<RecordBatch, SourceError> {
        let columns = self.plan.columns.iter().map(|values| values.rows(first, count, self.began)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(Arc::clone(&self.plan.schema), columns, &options)
            .map_err(|error| SourceError::new(ErrorKind::Internal, format!("cannot make up rows: {error}")))
    }
}

#[async_trait]
impl Source for Generator {
    async fn next(&mut self, _behind: Option<&str>) -> Result<Next, SourceError> {
        if self.plan.count.is_some_and(|count| self.given >= count) {
            return Ok(Next::Done);
        }
        let (due, wait) = self.due();
        let count = due.saturating_sub(self.given).min(BATCH_ROWS_MAX as u64);
        let tick = self.plan.rate.map_or(1, |rate| (rate / 100).clamp(1, BATCH_ROWS_MAX as u64));
        if count < tick && self.plan.count.is_none_or(|all| due < all) {
            return Ok(Next::Nothing(wait));
        }
        let rows = self.rows(self.given, usize::try_from(count).unwrap_or(BATCH_ROWS_MAX))?;
        self.given += count;
        let bytes = rows.get_array_memory_size() as u64;
        Ok(Next::Rows(SourceRows {
            partition: Arc::clone(&self.partition),
            rows,
            arrived: None,
            rejects: Vec::new(),
            bytes,
        }))
    }

    fn position(&self) -> SourcePosition {
        let place = json!({ "count": self.given, "began": self.began.0 });
        SourcePosition { partitions: [(PARTITION.to_owned(), place)].into() }
    }

    fn lag_rows(&self) -> Option<u64> {
        self.plan.rate.map(|_| self.due().0.saturating_sub(self.given))
    }
}

#[cfg(test)]
mod tests;
