//! `join`: rows of two inputs with the same key and nearly the same time.

mod operator;
mod pile;
mod side;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_base::quantity::Span;
use weir_component::operator::{Branch, Distribution, Operator, OperatorError, PlannedStep};
use weir_component::spec::{Fault, Stability};
use weir_sql::expressions::NamedExpression;

use crate::by::{By, quoted};
use crate::step::{Expressions, Read, StepContext, StepSpec, nanos, parse, span};

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "join",
    summary: "Puts rows of another input beside rows with the same key and nearly the same time.",
    stability: Stability::Preview,
    example: "join: { with: payments, on: [order_id], within: { after: 10m } }",
    schema: || schema_for!(Config),
    reads,
    plan,
};

/// What is joined: the rows of the step above, which are the left ones, with those of another input, step or
/// branch, which are the right ones. A result has the columns of both, and the later one of their times, unless
/// `time` says otherwise; a column of the right side whose name is taken has the name of that side in front, such as
/// `payments_time`. A row that is behind the watermark of its partition is late. A row is remembered as long as
/// others can find it, by event time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The right side: the name of an input, a step or a branch.
    with: String,
    /// What is equal: columns that both have, or expressions over a left row, each with one over a right row. Null
    /// is equal to nothing.
    on: On,
    /// How far their times may be apart.
    within: Within,
    /// `left` also puts out left rows for which no right row came, with null in the place of its columns, `right` the
    /// right rows for which no left row came, and `full` both. They come once no other row can come for them. Default
    /// `inner`: only pairs.
    #[serde(default)]
    kind: Kind,
    /// The time of a result. `left` and `right`: that of the row on that side, or of the other one where there is none.
    /// Steps behind it then wait longer for results, by what the times may be apart. Default `later`: the later one of
    /// both, and of a row for which none came the last time at which one could have come.
    #[serde(default)]
    time: Time,
    /// How far a row may be behind the watermark of its partition. Rows are remembered that much longer. Default
    /// 0s.
    #[serde(default)]
    lateness: Option<Span>,
}

/// What is equal.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum On {
    /// Columns that both have.
    Columns(Vec<String>),
    /// Expression over a left row to expression over a right row.
    Expressions(Expressions),
}

/// How far times may be apart.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Within {
    /// How long before the left row the right one may be. Default 0s.
    #[serde(default)]
    before: Option<Span>,
    /// How long after the left row the right one may be. Default 0s.
    #[serde(default)]
    after: Option<Span>,
}

/// Which rows come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Pairs.
    #[default]
    Inner,
    /// Pairs, and left rows without a right one.
    Left,
    /// Pairs, and right rows without a left one.
    Right,
    /// Pairs, and rows of both sides without one of the other.
    Full,
}

impl Kind {
    /// Of the left side and of the right: whether its rows come also where none was found for them.
    fn keeps(self) -> [bool; 2] {
        [matches!(self, Self::Left | Self::Full), matches!(self, Self::Right | Self::Full)]
    }
}

/// Which time a result has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Time {
    /// The later one of both.
    #[default]
    Later,
    /// That of the left row.
    Left,
    /// That of the right row.
    Right,
}

impl Time {
    /// The time of a pair: a row of this side, and one of the other.
    fn of(self, side: usize, own: i64, other: i64) -> i64 {
        match (self, side) {
            (Self::Later, _) => own.max(other),
            (Self::Left, 0) | (Self::Right, 1) => own,
            (Self::Left | Self::Right, _) => other,
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Later => "",
            Self::Left => ", at the time of the left",
            Self::Right => ", at the time of the right",
        }
    }
}

/// What is on a side of the join.
#[derive(Clone, Debug)]
struct Half {
    schema: SchemaRef,
    by: Arc<By>,
    /// How long after its time a row can be found by one of the other side.
    remembered: i64,
}

/// What the instances of a join share.
struct Planned {
    name: String,
    /// Left and right.
    halves: [Half; 2],
    lateness: i64,
    kind: Kind,
    time: Time,
    output: SchemaRef,
}

fn reads(config: &Json) -> Vec<Read> {
    let with = config.get("with").and_then(Json::as_str);
    let read =
        |name: &str| Read { pointer: "/with".to_owned(), name: name.to_owned(), is_table: false, is_added: false };
    with.map(read).into_iter().collect()
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    context.no_condition("join")?;
    let config: Config = parse(config)?;
    let [right] = context.others.as_slice() else {
        return Err(vec![Fault::new("/with", "it is not said what is joined", "name an input, a step or a branch")]);
    };
    let mut faults = Vec::new();
    let (left_keys, right_keys) = match config.on {
        On::Columns(columns) => {
            let keys = |columns: &[String]| {
                columns.iter().map(|name| NamedExpression::new(name, quoted(name))).collect::<Vec<_>>()
            };
            (keys(&columns), keys(&columns))
        }
        On::Expressions(Expressions(pairs)) => {
            (pairs.iter().map(|pair| NamedExpression::new(&pair.name, &pair.name)).collect(), pairs)
        }
    };
    if left_keys.is_empty() {
        let hint = "name a column, or give an expression for each side";
        faults.push(Fault::new("/on", "every row would be joined with every other", hint));
    }
    let left_by = By::compile(context.language, &context.input, &left_keys, "/on", &mut faults);
    let right_by = By::compile(context.language, right, &right_keys, "/on", &mut faults);
    if let (Some(left), Some(right)) = (&left_by, &right_by) {
        for (left, right) in left.schema.fields().iter().zip(right.schema.fields()) {
            if left.data_type() != right.data_type() {
                let message = format!(
                    "the left side is {} and the right one {}, which are never equal",
                    left.data_type(),
                    right.data_type()
                );
                faults.push(Fault::new(&format!("/on/{}", left.name()), message, "cast one of them"));
            }
        }
    }
    let nanos_of = |given: Option<Span>, pointer: &str, faults: &mut Vec<Fault>| {
        nanos(given.map_or(Duration::ZERO, |span| span.0), pointer, faults)
    };
    let before = nanos_of(config.within.before, "/within/before", &mut faults);
    let after = nanos_of(config.within.after, "/within/after", &mut faults);
    let lateness = nanos_of(config.lateness, "/lateness", &mut faults);
    if config.within.before.is_none() && config.within.after.is_none() {
        let message = "it is not said how far the times may be apart";
        faults.push(Fault::new("/within", message, "for example after: 10m"));
    }
    let output = joined(&context.input, right, (&config.with, config.kind), &mut faults);
    match (left_by, right_by) {
        (Some(left_by), Some(right_by)) if faults.is_empty() => Ok(Arc::new(Planned {
            name: config.with,
            halves: [
                Half { schema: Arc::clone(&context.input), by: left_by, remembered: after },
                Half { schema: Arc::clone(right), by: right_by, remembered: before },
            ],
            lateness,
            kind: config.kind,
            time: config.time,
            output,
        })),
        _ => Err(faults),
    }
}

/// The columns of both sides.
fn joined(left: &SchemaRef, right: &SchemaRef, (name, kind): (&str, Kind), faults: &mut Vec<Fault>) -> SchemaRef {
    let [_, has_right_alone] = kind.keeps();
    let of_left = |field: &FieldRef| match has_right_alone {
        true => Arc::new(Field::clone(field).with_nullable(true)),
        false => Arc::clone(field),
    };
    let mut fields: Vec<FieldRef> = left.fields().iter().map(of_left).collect();
    for field in right.fields() {
        let is_taken = |fields: &[FieldRef], name: &str| fields.iter().any(|other| other.name() == name);
        let mut own = field.name().clone();
        if is_taken(&fields, &own) {
            own = format!("{name}_{own}");
        }
        if is_taken(&fields, &own) {
            let message = format!("both sides have a column `{}`, and there is one `{own}`, too", field.name());
            faults.push(Fault::new("/with", message, "rename one of them before"));
        }
        fields.push(Arc::new(Field::clone(field).with_name(own).with_nullable(true)));
    }
    Arc::new(Schema::new(fields))
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.output) }]
    }

    fn distribution(&self, input: usize) -> Distribution {
        self.halves[input].by.distribution()
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        let halves = self.halves.clone();
        let output = Arc::clone(&self.output);
        let settings = operator::Settings { lateness: self.lateness, keeps: self.kind.keeps(), time: self.time };
        Ok(Box::new(operator::Join::new(halves, settings, output)?))
    }

    fn state_fingerprint(&self) -> Option<String> {
        let [left, right] = &self.halves;
        // What was told to be over behind one that has another time would be too late there.
        Some(format!(
            "{:?} join of {} with {} {}, from {} before to {} after, {} late{}",
            self.kind,
            left.by.meaning,
            self.name,
            right.by.meaning,
            span(right.remembered),
            span(left.remembered),
            span(self.lateness),
            self.time.shown()
        ))
    }

    fn describe(&self) -> String {
        let [left, right] = &self.halves;
        let what = match self.kind {
            Kind::Inner => "joins",
            Kind::Left => "joins, also without a match,",
            Kind::Right => "joins, with what has no match there,",
            Kind::Full => "joins, both also without a match,",
        };
        let (before, after) = (span(right.remembered), span(left.remembered));
        format!(
            "{what} {} from {before} before to {after} after, where {} is its {}{}",
            self.name,
            left.by.text,
            right.by.text,
            self.time.shown()
        )
    }
}

#[cfg(test)]
mod tests;
