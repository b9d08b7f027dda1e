//! `window`: aggregates the rows of each stretch of time.

mod assign;
mod operator;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use weir_base::quantity::Span;
use weir_component::Batch;
use weir_component::operator::{Branch, Distribution, KeyHash, Operator, OperatorError, PlannedStep};
use weir_component::spec::{Fault, Stability};
use weir_sql::expressions::{Aggregation, NamedExpression, key_hashes};

use crate::failing::{fatal, is_of_a_row};
use crate::step::{Expressions, StepContext, StepSpec, fault, parse};
use assign::Windows;

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "window",
    summary: "Aggregates the rows of each stretch of event time.",
    stability: Stability::Preview,
    example: "window: { tumbling: 1m, by: [region], select: { orders: \"count(*)\" } }",
    schema: || schema_for!(Config),
    plan,
};

/// The column a window step puts first.
const WINDOW_COLUMN: &str = "window";

/// Which windows, and what of their rows. A window's result has the columns `window`
/// (`start` and `end`), then those of `by`, then those of `select`; it comes once no more rows are
/// expected for the window. Exactly one of `tumbling` and `hopping` is given.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Windows of this length, one after the other.
    #[serde(default)]
    tumbling: Option<Span>,
    /// Windows of one length that begin at another distance, so that they overlap or have gaps between.
    #[serde(default)]
    hopping: Option<Hopping>,
    /// Where windows begin, counted from 1970-01-01T00:00:00Z. Default 0s.
    #[serde(default)]
    offset: Option<Span>,
    /// How long after its end, by the watermark, a window still takes rows. Results come that much later.
    /// Default 0s.
    #[serde(default)]
    lateness: Option<Span>,
    /// Columns, or names with expressions: there is one result for each of their values. Default none:
    /// one result a window.
    #[serde(default)]
    by: Option<Keys>,
    /// Column to aggregate expression.
    #[serde(default)]
    select: Expressions,
}

/// Windows that overlap, or have gaps between.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Hopping {
    /// The length of a window.
    size: Span,
    /// How far the next one begins after the beginning of the one before.
    every: Span,
}

/// Columns, or names with expressions.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the variants describe what may be written; both are read into the second")]
enum Keys {
    /// Columns.
    Columns(Vec<String>),
    /// Name to expression.
    Named(Expressions),
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Columns(Vec<String>),
            Named(Expressions),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Columns(columns) => Self::Named(Expressions(
                columns.into_iter().map(|name| NamedExpression { text: quoted(&name), name }).collect(),
            )),
            Written::Named(expressions) => Self::Named(expressions),
        })
    }
}

/// A column in an expression, whatever its name.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the instances of a window step share.
struct Planned {
    windows: Windows,
    lateness: i64,
    aggregation: Arc<Aggregation>,
    describe: String,
    fingerprint: String,
}

fn nanos(duration: Duration, pointer: &str, faults: &mut Vec<Fault>) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or_else(|_| {
        faults.push(Fault::new(pointer, "more than 292 years are not supported", ""));
        1
    })
}

fn window_field() -> FieldRef {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let bounds = Fields::from(vec![Field::new("start", time.clone(), false), Field::new("end", time, false)]);
    Arc::new(Field::new(WINDOW_COLUMN, DataType::Struct(bounds), false))
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    context.no_condition("window")?;
    let config: Config = parse(config)?;
    let mut faults = Vec::new();
    let (size, every, pointer) = match (&config.tumbling, &config.hopping) {
        (Some(size), None) => (size.0, size.0, "/tumbling"),
        (None, Some(hopping)) => (hopping.size.0, hopping.every.0, "/hopping"),
        (None, None) => {
            faults.push(Fault::new("", "it is not said which windows", "give tumbling or hopping"));
            (Duration::from_secs(1), Duration::from_secs(1), "")
        }
        (Some(_), Some(_)) => {
            faults.push(Fault::new("/hopping", "windows are tumbling or hopping, not both", ""));
            (Duration::from_secs(1), Duration::from_secs(1), "")
        }
    };
    if size.is_zero() || every.is_zero() {
        faults.push(Fault::new(pointer, "a window must have a length", "for example 1m"));
    }
    let size = nanos(size, pointer, &mut faults).max(1);
    let every = nanos(every, pointer, &mut faults).max(1);
    let offset = nanos(config.offset.map_or(Duration::ZERO, |span| span.0), "/offset", &mut faults);
    let lateness = nanos(config.lateness.map_or(Duration::ZERO, |span| span.0), "/lateness", &mut faults);
    if size / every > WINDOWS_OF_ROW_MAX {
        faults.push(Fault::new(
            pointer,
            format!("each row would be in {} windows; {WINDOWS_OF_ROW_MAX} are the most", size / every),
            "let windows begin at a larger distance",
        ));
    }
    let keys = match config.by {
        Some(Keys::Named(Expressions(keys))) => keys,
        _ => Vec::new(),
    };
    let select = config.select.0;
    if select.is_empty() {
        faults.push(Fault::new("/select", "nothing is selected", "for example n: \"count(*)\""));
    }
    let names: Vec<&str> =
        std::iter::once(WINDOW_COLUMN).chain(keys.iter().chain(&select).map(|named| named.name.as_str())).collect();
    for (at, name) in names.iter().enumerate().skip(1) {
        if names[..at].contains(name) {
            let part = if at <= keys.len() { "/by" } else { "/select" };
            faults.push(Fault::new(part, format!("two columns of the result would be called `{name}`"), ""));
        }
    }
    let aggregation = context.language.aggregation(&context.input, &[window_field()], &keys, &select);
    let aggregation = match aggregation {
        Ok(aggregation) if faults.is_empty() => Arc::new(aggregation),
        Ok(_) => return Err(faults),
        Err((at, error)) => {
            let pointer = match at.checked_sub(keys.len()) {
                None => format!("/by/{}", keys[at].name),
                Some(at) => format!("/select/{}", select.get(at).map_or("", |named| named.name.as_str())),
            };
            faults.push(fault(&pointer, &error));
            return Err(faults);
        }
    };
    let windows = Windows::new(size, every, offset);
    if windows.size / windows.pane > PANES_OF_WINDOW_MAX {
        let message = format!(
            "a window would be put together from {} pieces, more than {PANES_OF_WINDOW_MAX}",
            windows.size / windows.pane
        );
        return Err(vec![Fault::new(pointer, message, "choose lengths with a larger common divisor")]);
    }
    let texts: Vec<&str> = keys.iter().chain(&select).map(|named| named.text.as_str()).collect();
    Ok(Arc::new(Planned {
        describe: describe(&windows, &keys, &select),
        fingerprint: format!(
            "{windows} from {}, {} late, by {} of: {}",
            Span(Duration::from_nanos(u64::try_from(offset).unwrap_or(0))),
            Span(Duration::from_nanos(u64::try_from(lateness).unwrap_or(0))),
            keys.len(),
            texts.join(", ")
        ),
        windows,
        lateness,
        aggregation,
    }))
}

/// Windows of more pieces would be slow to put together.
const PANES_OF_WINDOW_MAX: i64 = 10_000;
/// A row in more windows than that is a mistake.
const WINDOWS_OF_ROW_MAX: i64 = 100_000;

fn describe(windows: &Windows, keys: &[NamedExpression], select: &[NamedExpression]) -> String {
    let list = |named: &[NamedExpression]| named.iter().map(|named| named.name.clone()).collect::<Vec<_>>().join(", ");
    let by = if keys.is_empty() { String::new() } else { format!(" by {}", list(keys)) };
    format!("{windows}{by}: {}", list(select))
}

/// The keys of a window step, for spreading rows over instances.
struct Keyed(Arc<Aggregation>);

impl KeyHash for Keyed {
    fn hashes(&self, batch: &Batch) -> Result<Vec<u64>, OperatorError> {
        match self.0.keys(&batch.rows) {
            Ok(keys) => key_hashes(&keys, batch.len()).map_err(|error| fatal(&error)),
            Err(error) if !is_of_a_row(&error) => Err(fatal(&error)),
            // Which row it is finds the step that sets it aside; until then it may be anywhere.
            Err(_) if batch.len() <= 1 => Ok(vec![0; batch.len()]),
            Err(_) => {
                let half = batch.len() / 2;
                let mut hashes = self.hashes(&batch.slice(0, half))?;
                hashes.extend(self.hashes(&batch.slice(half, batch.len() - half))?);
                Ok(hashes)
            }
        }
    }
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(self.aggregation.output_schema()) }]
    }

    fn distribution(&self, _input: usize) -> Distribution {
        if self.aggregation.n_keys() == 0 {
            Distribution::Single
        } else {
            Distribution::ByKey(Arc::new(Keyed(Arc::clone(&self.aggregation))))
        }
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(operator::Window::new(self.windows, self.lateness, Arc::clone(&self.aggregation))))
    }

    fn state_fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }

    fn describe(&self) -> String {
        self.describe.clone()
    }
}

#[cfg(test)]
mod tests;
