//! `window`: aggregates the rows of each stretch of time.

mod assign;
mod count;
mod open;
mod operator;
mod pane;
mod places;
mod results;
mod retold;
mod revised;
mod session;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef, TimeUnit};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_base::quantity::Span;
use weir_component::Batch;
use weir_component::operator::{
    Bounds, Branch, Distribution, Identity, KeyHash, KnownBy, Operator, OperatorError, Part, PlannedStep,
};
use weir_component::spec::{Fault, Stability};
use weir_sql::expressions::{Aggregation, NamedExpression};

use crate::by::{self, Keys};
use crate::step::{Expressions, StepContext, StepSpec, fault, nanos, no_other_inputs, parse, span};
use crate::{keys, sorted};
use assign::Windows;
use results::Shape;
use retold::Retelling;
use revised::Revising;

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "window",
    summary: "Aggregates the rows of each stretch of event time.",
    stability: Stability::Preview,
    example: "window: { session: { gap: 30m }, by: [user], select: { pages: \"count(*)\" } }",
    schema: || schema_for!(Config),
    reads: no_other_inputs,
    plan,
};

/// The column a window step puts first.
const WINDOW_COLUMN: &str = "window";

/// Which windows, and what of their rows. A window's result has the columns `window`
/// (`start` and `end`), then those of `by`, then those of `select`; it comes once no more rows are
/// expected for the window. Exactly one of `tumbling`, `hopping`, `cumulative`, `session` and `count` is
/// given.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Windows of this length, one after the other.
    #[serde(default)]
    tumbling: Option<Span>,
    /// Windows of one length that begin at another distance, so that they overlap or have gaps between.
    #[serde(default)]
    hopping: Option<Hopping>,
    /// Windows that begin together and end one after another, so that each has all that the one before had:
    /// what there was since the beginning of the day, every hour.
    #[serde(default)]
    cumulative: Option<Cumulative>,
    /// Windows that end when no row of a key comes for some time.
    #[serde(default)]
    session: Option<Session>,
    /// Windows of so many rows of a key, in the order of event time; those of the same time in the order of
    /// their values. Rows wait until no earlier one is expected. `start` and `end` are the times of
    /// the first and the last row.
    #[serde(default)]
    count: Option<Count>,
    /// Where windows begin, counted from 1970-01-01T00:00:00Z. Not for `session` and `count`. Default 0s.
    #[serde(default)]
    offset: Option<Span>,
    /// How long after its end, by the watermark, a window still takes rows; with `session` and `count`, how far
    /// a row may be behind the watermark. Only then results are final. A sink with a `key` gets them at the end of the
    /// window, and again when a late row changes them; one without gets final ones only, so that much later. Results
    /// of `count` are never revised. Default 0s.
    #[serde(default)]
    lateness: Option<Span>,
    /// How often sinks with a `key` get the results of windows that still take rows, of those that have changed since.
    /// Not for `count`. Default: not before the end of the window.
    #[serde(default)]
    early: Option<Span>,
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

/// Windows that begin together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cumulative {
    /// The length of the last and longest of them, after which the next ones begin.
    size: Span,
    /// How far one ends after the other. `size` is a multiple of it.
    every: Span,
}

/// Windows between gaps.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Session {
    /// A row that comes so long after the one before, or later, begins the next session. The session before
    /// ends so long after its last row.
    gap: Span,
}

/// Windows of so many rows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Count {
    /// How many rows.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    rows: i64,
    /// A window that is not full so long after its first row comes as it is. Default 1d.
    #[serde(default)]
    within: Option<Span>,
}

/// Which windows.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Windows that all keys have at the same time.
    Panes(Windows),
    /// Windows that end after a gap.
    Session { gap: i64 },
    /// Windows of so many rows, within some time.
    Count { rows: i64, within: i64 },
}

/// What the instances of a window step share.
#[derive(Clone)]
struct Planned {
    kind: Kind,
    lateness: i64,
    /// How often results are put out that are not final, if at all.
    early: Option<Duration>,
    /// By what readers know results who want all revisions of them; `None` if nobody does.
    revising: Option<KnownBy>,
    input: SchemaRef,
    shape: Shape,
    /// What results are grouped by, for people.
    by: Vec<String>,
    describe: String,
    fingerprint: String,
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
    let kind = kind(&config, &mut faults);
    let early = config.early.map(|early| early.0);
    if early.is_some_and(|early| early.is_zero()) {
        faults.push(Fault::new("/early", "results come after some time at the earliest", "for example 10s"));
    }
    if early.is_some() && matches!(kind, Some(Kind::Count { .. })) {
        let message = "which rows are in a window of so many is known only when all earlier ones have come";
        faults.push(Fault::new("/early", message, "leave it out"));
    }
    let lateness = nanos(config.lateness.map_or(Duration::ZERO, |span| span.0), "/lateness", &mut faults);
    let keys = Keys::expressions(config.by);
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
        Err(wrong) => {
            faults.extend(wrong.into_iter().map(|(at, error)| {
                let pointer = match at.checked_sub(keys.len()) {
                    None => format!("/by/{}", keys[at].name),
                    Some(at) => format!("/select/{}", select.get(at).map_or("", |named| named.name.as_str())),
                };
                fault(&pointer, &error)
            }));
            return Err(faults);
        }
    };
    let Some(kind) = kind else { return Err(faults) };
    let needs_keys = !matches!(kind, Kind::Panes(_)) || early.is_some();
    if needs_keys && !keys::are_supported(aggregation.key_schema()) {
        return Err(vec![Fault::new("/by", "a key of such a window is a plain value, not a map or union", "")]);
    }
    if matches!(kind, Kind::Count { .. }) {
        sorted::check(&context.input, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
    }
    let may_be_revised = !matches!(kind, Kind::Count { .. }) && (early.is_some() || lateness > 0);
    let texts = keys.iter().chain(&select).map(|named| context.language.written_out(&named.text));
    let texts: Vec<String> = texts.collect();
    Ok(Arc::new(Planned {
        describe: describe(kind, &keys, &select, lateness, early),
        fingerprint: format!("{}, {} late, by {} of: {}", shown(kind), span(lateness), keys.len(), texts.join(", ")),
        kind,
        lateness,
        early,
        revising: None,
        input: Arc::clone(&context.input),
        by: keys.iter().map(by::called).collect(),
        shape: Shape::new(aggregation, may_be_revised),
    }))
}

/// Which windows a configuration asks for; `None` if that is wrong.
fn kind(config: &Config, faults: &mut Vec<Fault>) -> Option<Kind> {
    let given: Vec<&str> = [
        ("tumbling", config.tumbling.is_some()),
        ("hopping", config.hopping.is_some()),
        ("cumulative", config.cumulative.is_some()),
        ("session", config.session.is_some()),
        ("count", config.count.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, is_given)| is_given.then_some(name))
    .collect();
    let [name] = given.as_slice() else {
        match given.as_slice() {
            [] => {
                let hint = "give tumbling, hopping, cumulative, session or count";
                faults.push(Fault::new("", "it is not said which windows", hint));
            }
            [first, second, ..] => {
                let message = format!("windows are {first} or {second}, not both");
                faults.push(Fault::new(&format!("/{second}"), message, ""));
            }
            [_] => {}
        }
        return None;
    };
    let pointer = format!("/{name}");
    let before = faults.len();
    let mut length = |span: Span| {
        if span.0.is_zero() {
            faults.push(Fault::new(&pointer, "a window must have a length", "for example 1m"));
        }
        nanos(span.0, &pointer, faults).max(1)
    };
    let kind = if let Some(Session { gap }) = config.session {
        Kind::Session { gap: length(gap) }
    } else if let Some(Count { rows, within }) = config.count {
        Kind::Count { rows, within: length(within.unwrap_or(Span(WITHIN))) }
    } else {
        let (size, every, is_cumulative) = match (&config.tumbling, &config.hopping, &config.cumulative) {
            (Some(size), _, _) => (*size, *size, false),
            (_, Some(Hopping { size, every }), _) => (*size, *every, false),
            (_, _, Some(Cumulative { size, every })) => (*size, *every, true),
            (None, None, None) => return None,
        };
        let size = length(size);
        let every = if config.tumbling.is_some() { size } else { length(every) };
        let offset = nanos(config.offset.map_or(Duration::ZERO, |span| span.0), "/offset", faults);
        if is_cumulative && size % every != 0 {
            let message = format!("the last window of {} would be cut short", span(size));
            faults.push(Fault::new(&pointer, message, "let `size` be a multiple of `every`"));
        }
        match is_cumulative {
            true => Kind::Panes(Windows::cumulative(size, every, offset)),
            false => Kind::Panes(Windows::new(size, every, offset)),
        }
    };
    if let Kind::Panes(windows) = &kind {
        check_pieces(windows, &pointer, faults);
    } else if config.offset.is_some() {
        let message = format!("where {name} windows begin depends on the rows alone");
        faults.push(Fault::new("/offset", message, "leave it out"));
    }
    if let Kind::Count { rows: ..1, .. } = kind {
        faults.push(Fault::new("/count/rows", "a window has at least one row", ""));
    }
    (faults.len() == before).then_some(kind)
}

fn check_pieces(windows: &Windows, pointer: &str, faults: &mut Vec<Fault>) {
    let n_windows = windows.size / windows.every;
    if n_windows > WINDOWS_OF_ROW_MAX {
        faults.push(Fault::new(
            pointer,
            format!("each row would be in {n_windows} windows; {WINDOWS_OF_ROW_MAX} are the most"),
            "let windows begin at a larger distance",
        ));
    } else if windows.size / windows.pane > PANES_OF_WINDOW_MAX {
        let message = format!(
            "a window would be put together from {} pieces, more than {PANES_OF_WINDOW_MAX}",
            windows.size / windows.pane
        );
        faults.push(Fault::new(pointer, message, "choose lengths with a larger common divisor"));
    }
}

/// How long a window of so many rows waits for them, where that is not said.
const WITHIN: Duration = Duration::from_secs(86_400);
/// Windows of more pieces would be slow to put together.
const PANES_OF_WINDOW_MAX: i64 = 10_000;
/// A row in more windows than that is a mistake.
const WINDOWS_OF_ROW_MAX: i64 = 100_000;

/// Which windows, with all that makes a difference.
fn shown(kind: Kind) -> String {
    match kind {
        Kind::Panes(windows) => format!("{windows} from {}", span(windows.offset)),
        Kind::Session { gap } => format!("sessions with gaps of {}", span(gap)),
        Kind::Count { rows, within } => format!("windows of {rows} rows within {}", span(within)),
    }
}

fn describe(
    kind: Kind,
    keys: &[NamedExpression],
    select: &[NamedExpression],
    lateness: i64,
    early: Option<Duration>,
) -> String {
    let list = |named: &[NamedExpression]| named.iter().map(|named| named.name.clone()).collect::<Vec<_>>().join(", ");
    let by = if keys.is_empty() { String::new() } else { format!(" by {}", list(keys)) };
    let windows = match kind {
        Kind::Panes(windows) => windows.to_string(),
        kind => shown(kind),
    };
    let late = if lateness > 0 { format!(", {} for late rows", span(lateness)) } else { String::new() };
    let early = early.map_or_else(String::new, |early| format!(", early results every {}", Span(early)));
    format!("{windows}{by}: {}{late}{early}", list(select))
}

/// The keys of a window step, for spreading rows over instances.
struct Keyed(Arc<Aggregation>);

impl KeyHash for Keyed {
    fn hashes(&self, batch: &Batch) -> Result<Vec<u64>, OperatorError> {
        by::hashes(batch, &|rows| self.0.keys(rows))
    }
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.shape.schema) }]
    }

    fn distribution(&self, _input: usize) -> Distribution {
        if self.shape.aggregation.n_keys() == 0 {
            Distribution::Single
        } else {
            Distribution::ByKey(Arc::new(Keyed(Arc::clone(&self.shape.aggregation))))
        }
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        let (lateness, shape) = (self.lateness, self.shape.clone());
        let is_early = self.early.is_some();
        Ok(match self.kind {
            Kind::Panes(windows) => {
                let revising = self.revising.map(|_| Revising::new(Arc::clone(&shape.aggregation), is_early));
                Box::new(operator::Window::new(windows, lateness, shape, revising))
            }
            Kind::Session { gap } => {
                let retelling = self.revising.map(|known_by| Retelling::new(gap, lateness, is_early, known_by));
                Box::new(session::Sessions::new(gap, lateness, shape, retelling)?)
            }
            Kind::Count { rows, within } => {
                let input = Arc::clone(&self.input);
                Box::new(count::Counts::new(rows, within, lateness, input, shape)?)
            }
        })
    }

    fn state_fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }

    fn describe(&self) -> String {
        self.describe.clone()
    }

    fn identities(&self, _inputs: &[Option<Identity>]) -> Vec<Option<Identity>> {
        let bounds = match self.kind {
            Kind::Panes(windows) if windows.is_cumulative => Bounds::End,
            Kind::Panes(_) => Bounds::Either,
            Kind::Session { .. } => Bounds::Start,
            // Two of a key may have the same bounds.
            Kind::Count { .. } => return vec![None],
        };
        let mut parts = vec![Part::Window];
        parts.extend((0..self.by.len()).map(Part::By));
        parts.resize(self.shape.schema.fields().len(), Part::Value);
        vec![Some(Identity { parts, by: self.by.clone(), bounds, is_endless: false })]
    }

    fn revising(&self, known_by: KnownBy) -> Option<Arc<dyn PlannedStep>> {
        let may_be_revised = self.early.is_some() || self.lateness > 0;
        let is_counting = matches!(self.kind, Kind::Count { .. });
        let has_keys = keys::are_supported(self.shape.aggregation.key_schema());
        if is_counting || !may_be_revised || !has_keys {
            return None;
        }
        Some(Arc::new(Self { revising: Some(known_by), ..self.clone() }))
    }

    fn early(&self) -> Option<Duration> {
        self.early
    }

    fn holds_rows(&self) -> bool {
        matches!(self.kind, Kind::Count { .. })
    }
}

#[cfg(test)]
mod tests;
