//! `top`: the rows that come first in some order, of each stretch of time, of each window, or of all rows so far.
//!
//! Which rows are first depends on the rows alone: those that are equal in the order are taken by event time, and
//! then by their values. So only the first rows of a group have to be remembered, however many come; or, where rows
//! that are equal share a place, those that are in the first places.

mod changes;
mod first;
mod groups;
mod held;
mod ranking;
mod stretch;
mod windows;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_base::quantity::Span;
use weir_component::operator::{Bounds, Branch, Distribution, Identity, Operator, OperatorError, Part, PlannedStep};
use weir_component::spec::{Fault, Stability};
use weir_sql::expressions::NamedExpression;

use crate::by::{By, Keys, called, quoted};
use crate::sorted;
use crate::step::{StepContext, StepSpec, fault, nanos, no_other_inputs, parse, span};
use changes::Changes;
use ranking::Ranking;
use windows::{Stretches, TopOfWindows};

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "top",
    summary: "Keeps the first rows in some order, of each stretch of time, window or key.",
    stability: Stability::Preview,
    example: "top: { rows: 3, order_by: \"bytes DESC\", per: 1m, by: [service_name], rank: place }",
    schema: || schema_for!(Config),
    reads: no_other_inputs,
    plan,
};

/// Which rows are kept. They are known once the watermark has passed the end of their stretch of time (`per`) or of
/// their window, if the rows are results of windows. Without either they are the first of all rows so far: a sink with
/// a `key` of `by` and `rank` is told each time the row in a place changes. Rows that are equal in the order are taken by
/// event time, and then by their values.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How many rows are kept of each group, or how many places where rows share them (`ties`).
    #[schemars(range(min = 1, max = 10_000))]
    rows: i64,
    /// In which order, as in `ORDER BY`: expressions, each with `ASC` or `DESC`, and `NULLS FIRST` or `NULLS LAST`. Null
    /// is larger than any value where that is not said.
    #[schemars(extend("format" = "expression"))]
    order_by: String,
    /// What becomes of rows that are equal in the order. Default `broken`: they are taken by event time, and then by their
    /// values, and there are never more than `rows`.
    #[serde(default)]
    ties: Ties,
    /// Columns, or names with expressions: so many rows are kept for each of their values. Default none: so many in
    /// all. Of results of windows, so many of each window.
    #[serde(default)]
    by: Option<Keys>,
    /// The length of a stretch of event time, of each of which so many rows are kept. Default none: rows of windows are
    /// kept by window, others of all rows so far.
    #[serde(default)]
    per: Option<Span>,
    /// Where stretches begin, counted from 1970-01-01T00:00:00Z. Default 0s.
    #[serde(default)]
    offset: Option<Span>,
    /// A column for the place of a row, from 1. Default none, which is possible with `per` and behind windows only.
    #[serde(default)]
    rank: Option<String>,
    /// Of the first of all rows so far: a key for which no row came for so long, by event time, is forgotten, and its rows
    /// are final. Should it come again, it begins anew. Needed where there is a `by`.
    #[serde(default)]
    keep: Option<Span>,
    /// How far a row may be behind the watermark of its partition. Results come that much later. Default 0s.
    #[serde(default)]
    lateness: Option<Span>,
}

/// What becomes of rows that are equal in the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Ties {
    /// They have places one after the other, as `ROW_NUMBER` has it.
    #[default]
    Broken,
    /// They share a place, and as many behind it are left out, as `RANK` has it. All rows of the first `rows` places are
    /// kept, so as many as are equal: with `per` or behind windows only.
    Shared,
    /// They share a place, and the next row has the one behind it, as `DENSE_RANK` has it. All rows of the first `rows`
    /// places are kept, so as many as are equal: with `per` or behind windows only.
    Dense,
}

/// Of what the first rows are kept.
#[derive(Clone, Copy, Debug)]
enum Of {
    /// Of each stretch of time, or of each window.
    Windows(Stretches),
    /// Of all rows so far; keys are forgotten after so long.
    All { keep: Option<i64> },
}

struct Planned {
    of: Of,
    lateness: i64,
    ranking: Arc<Ranking>,
    output: SchemaRef,
    /// By what results are told apart that may change.
    identity: Option<Identity>,
    fingerprint: String,
    describe: String,
}

/// A key that is forgotten sooner would be forgotten between two rows of one burst; and the numbers of revisions are
/// microseconds.
const KEEP_MIN: Duration = Duration::from_millis(1);

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    context.no_condition("top")?;
    let config: Config = parse(config)?;
    let mut faults = Vec::new();
    if !(1..=10_000).contains(&config.rows) {
        faults.push(Fault::new("/rows", "1 to 10000 rows of a group can be kept", ""));
    }
    let lateness = nanos(config.lateness.map_or(Duration::ZERO, |span| span.0), "/lateness", &mut faults);
    let mut keys = Keys::expressions(config.by);
    let window = context.identity.filter(|identity| identity.bounds != Bounds::None);
    let of = match (config.per, window) {
        (Some(per), _) => {
            if per.0.is_zero() {
                faults.push(Fault::new("/per", "a stretch of time has a length", "for example 10s"));
            }
            let per = nanos(per.0, "/per", &mut faults).max(1);
            let offset = nanos(config.offset.map_or(Duration::ZERO, |span| span.0), "/offset", &mut faults);
            Of::Windows(Stretches { length: per, offset: offset.rem_euclid(per) })
        }
        (None, Some(identity)) => {
            // All results of a window have the time just before its end; sessions may end together.
            let window = identity.parts.iter().position(|part| *part == Part::Window);
            let window = window.map(|at| context.input.field(at).name().clone());
            if let Some(window) = window.filter(|window| keys.iter().all(|key| key.text != quoted(window))) {
                keys.insert(0, NamedExpression::new(&window, quoted(&window)));
            }
            Of::Windows(Stretches { length: 1, offset: 0 })
        }
        (None, None) => all_rows(config.keep, &keys, config.rank.is_some(), &mut faults),
    };
    if config.offset.is_some() && config.per.is_none() {
        faults.push(Fault::new("/offset", "without `per` nothing begins anywhere", "leave it out, or give `per`"));
    }
    if config.keep.is_some() && matches!(of, Of::Windows(_)) {
        let message = "what is kept of a stretch of time or a window is forgotten at its end";
        faults.push(Fault::new("/keep", message, "leave it out"));
    }
    if config.ties != Ties::Broken && matches!(of, Of::All { .. }) {
        let message = "of all rows so far any number may be in one place, and nothing tells them apart";
        faults.push(Fault::new("/ties", message, "leave it out, or give `per`"));
    }
    if let Some(rank) = config.rank.as_ref().filter(|rank| context.input.index_of(rank).is_ok()) {
        faults.push(Fault::new("/rank", format!("there is a column `{rank}` already"), "give it another name"));
    }
    let by = By::compile(context.language, &context.input, &keys, "/by", &mut faults);
    let order = context.language.order(&context.input, &config.order_by);
    let order = order.map_err(|error| faults.push(fault("/order_by", &error))).ok();
    sorted::check(&context.input, &mut faults);
    let (Some(by), Some(order)) = (by, order) else { return Err(faults) };
    if !Ranking::is_supported(&order) {
        let message = "rows cannot be put in order by a value of that type";
        faults.push(Fault::new("/order_by", message, "order by numbers, texts or times"));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut fields = context.input.fields().to_vec();
    fields.extend(config.rank.iter().map(|rank| Arc::new(Field::new(rank, DataType::Int64, false))));
    let output: SchemaRef = Arc::new(Schema::new(fields));
    let identity = match of {
        Of::All { keep } => config.rank.as_ref().map(|rank| identity(&output, &by, &keys, rank, keep.is_none())),
        Of::Windows(_) => None,
    };
    let shown = match of {
        Of::Windows(Stretches { length: 1, .. }) => "of each window".to_owned(),
        Of::Windows(Stretches { length, offset }) => format!("per {} from {}", span(length), span(offset)),
        Of::All { keep: Some(keep) } => format!("of all, keys forgotten after {}", span(keep)),
        Of::All { keep: None } => "of all".to_owned(),
    };
    let Config { rows, order_by, ties, .. } = config;
    let text = &by.text;
    let of_keys = if text.is_empty() { String::new() } else { format!(" by {text}") };
    let (counted, ranked) = match ties {
        Ties::Broken => ("rows", ""),
        Ties::Shared => ("places", ", those that are equal in one place"),
        Ties::Dense => ("places", ", those that are equal in one place and none left out"),
    };
    Ok(Arc::new(Planned {
        // What is kept of shared places may be rows that would not be kept otherwise, and the other way round.
        fingerprint: format!(
            "{rows} rows {shown} by {} in order of {}{ranked}, {} late{}",
            by.meaning,
            context.language.written_out_order(&order_by),
            span(lateness),
            // Once the state was each group's rows with what is known of it.
            if matches!(of, Of::All { .. }) { ", groups apart" } else { "" }
        ),
        describe: format!("the first {rows} {counted} {shown}{of_keys} in order of {order_by}{ranked}"),
        of,
        lateness,
        ranking: Arc::new(Ranking {
            rows_max: usize::try_from(rows).unwrap_or(1),
            ties,
            order,
            by,
            schema: Arc::clone(&context.input),
            output: Arc::clone(&output),
        }),
        output,
        identity,
    }))
}

/// The first of all rows so far are known if what has to be remembered for them is.
fn all_rows(keep: Option<Span>, keys: &[NamedExpression], has_rank: bool, faults: &mut Vec<Fault>) -> Of {
    if !has_rank {
        let message = "which row is in which place changes with the rows, so it has to be said in a column";
        let hint = "give it a name: rank: place; or give `per`, for the first rows of each stretch of time";
        faults.push(Fault::new("", message, hint));
    }
    if keep.is_none() && !keys.is_empty() {
        let message = "the first rows of every key there ever was would have to be remembered for ever";
        let hint = "say with `keep` how long a key without rows is remembered, or give `per`";
        faults.push(Fault::new("", message, hint));
    }
    if keep.is_some_and(|keep| keep.0 < KEEP_MIN) {
        faults.push(Fault::new("/keep", "a key is kept for a millisecond at least", "for example 1d"));
    }
    Of::All { keep: keep.map(|keep| nanos(keep.0, "/keep", faults)) }
}

/// A place is told from others by its number and by the keys, as far as these are columns.
fn identity(output: &SchemaRef, by: &By, keys: &[NamedExpression], rank: &str, is_endless: bool) -> Identity {
    let mut parts = vec![Part::Value; output.fields().len()];
    for (at, column) in by.columns_of_input().enumerate() {
        if let Some(column) = column {
            parts[column] = Part::By(at);
        }
    }
    if let Some(last) = parts.last_mut() {
        *last = Part::By(keys.len());
    }
    let names = keys.iter().map(called).chain([rank.to_owned()]);
    Identity { parts, by: names.collect(), bounds: Bounds::None, is_endless }
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.output) }]
    }

    fn distribution(&self, _input: usize) -> Distribution {
        self.ranking.by.distribution()
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        let ranking = Arc::clone(&self.ranking);
        Ok(match self.of {
            Of::Windows(stretches) => Box::new(TopOfWindows::new(stretches, self.lateness, ranking)?),
            Of::All { keep } => Box::new(Changes::new(keep, self.lateness, ranking)?),
        })
    }

    fn state_fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }

    fn describe(&self) -> String {
        self.describe.clone()
    }

    fn identities(&self, _inputs: &[Option<Identity>]) -> Vec<Option<Identity>> {
        vec![self.identity.clone()]
    }
}

#[cfg(test)]
mod tests;
