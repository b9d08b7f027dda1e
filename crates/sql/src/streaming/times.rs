//! The event time of rows where a query stands: a column; or, behind a join of streams, one of several.
//!
//! Rows of a join have two times. Which of them is the event time says whoever asks first, such as a window over one of
//! them: the join gives its rows that time from then on, and so no row comes too late behind it, however late it was
//! found. An expression that is null in some rows cannot be the event time.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::Expr;

use super::rewrite::{Relations, bare, column_of, function_name, identifier, position_of};
use super::select::{Item, Scope, Translator};
use super::windows::{arguments, first_argument, read};
use super::{JoinKind, JoinTime, StreamProblem, StreamStep, Timing, Windows};

/// The event time where a query reads.
#[derive(Clone, Debug)]
pub(super) enum Time {
    Column(String),
    /// Rows of joins have one of these.
    OneOf(Vec<Choice>),
    /// Why there is none, and what to do about it.
    None(&'static str, &'static str),
}

/// What may be the event time of rows of joins.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) value: Value,
    /// As it is called in messages.
    pub(super) shown: String,
    /// The time these joins give their rows then; or why it cannot be the event time, and what to do about it.
    pub(super) joins: Result<Vec<(usize, JoinTime)>, (String, String)>,
}

/// An expression that is the time of rows.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Column(String),
    /// The first of them that is not null.
    Coalesce(Box<[Self; 2]>),
    /// The later one.
    Greatest(Box<[Self; 2]>),
}

pub(super) const NOT_NAMED: Time =
    Time::None("windows need the column with the event time, and it is not named", "name it with `time:` in `from`");
pub(super) const NOT_KEPT: Time = Time::None(
    "the event time is not a column here: the query inside does not keep it as it is",
    "select the column there, under any name",
);
pub(super) const WINDOWED: Time = Time::None(
    RESULTS,
    "select the window in the query inside, under any name, and cut it: tumble(w, interval '1 hour')",
);
const RESULTS: &str = "the time of results of windows is that of their window, which is not a column here";

impl Time {
    /// Whether rows are results of windows.
    pub(super) fn is_of_windows(&self) -> bool {
        matches!(self, Self::None(RESULTS, _))
    }

    fn of(choices: Vec<Choice>) -> Self {
        match choices.as_slice() {
            [] => NOT_KEPT,
            [Choice { value: Value::Column(column), joins: Ok(joins), .. }] if joins.is_empty() => {
                Self::Column(column.clone())
            }
            _ => Self::OneOf(choices),
        }
    }

    /// What it is behind a select list. Beside the columns of the list there are those for which `is_kept`.
    pub(super) fn selected(&self, items: &[Item], is_kept: &dyn Fn(&String) -> bool) -> Self {
        let choices = match self {
            Self::None(..) => return self.clone(),
            Self::Column(time) if is_kept(time) => return self.clone(),
            Self::Column(time) => {
                let item = items.iter().find(|item| column_of(&item.expr).as_ref() == Some(time));
                return item.map_or(NOT_KEPT, |item| Self::Column(item.name.clone()));
            }
            Self::OneOf(choices) => choices,
        };
        let of = |choice: &Choice| {
            let values = choice.value.selected(items, is_kept);
            let joins = choice.joins.clone();
            values.into_iter().map(move |value| Choice { shown: value.shown(), value, joins: joins.clone() })
        };
        Self::of(choices.iter().flat_map(of).collect())
    }

    /// The same for the rows of two queries, whose columns go by their place; they have the names of the first.
    pub(super) fn of_both(&self, columns: &[String], other: &Self, others: &[String]) -> Self {
        let place = |choice: &Choice, columns: &[String]| match &choice.value {
            Value::Column(name) => columns.iter().position(|column| column == name),
            _ => None,
        };
        let mut both = Vec::new();
        for choice in self.choices(None) {
            for same in other.choices(None) {
                let at = place(&choice, columns);
                if at.is_some() && at == place(&same, others) {
                    let joins = choice.joins.clone().and_then(|mut joins| {
                        joins.extend(same.joins?);
                        Ok(joins)
                    });
                    both.push(Choice { joins, ..choice.clone() });
                }
            }
        }
        Self::of(both)
    }

    /// What it may be, of rows that are called like that.
    fn choices(&self, relation: Option<&str>) -> Vec<Choice> {
        let mut choices = match self {
            Self::Column(column) => {
                let value = Value::Column(column.clone());
                vec![Choice { shown: column.clone(), value, joins: Ok(Vec::new()) }]
            }
            Self::OneOf(choices) => choices.clone(),
            Self::None(..) => Vec::new(),
        };
        if let Some(relation) = relation {
            for Choice { value, shown, .. } in &mut choices {
                if let Value::Column(column) = value {
                    *shown = format!("{relation}.{column}");
                }
            }
        }
        choices
    }

    /// The times of a side of a join, whose columns have other names now.
    pub(super) fn side(
        &self,
        relations: &Relations,
        now: &dyn Fn(&String) -> String,
    ) -> Result<Vec<Choice>, (&'static str, &'static str)> {
        if let Self::None(message, hint) = *self {
            return Err((message, hint));
        }
        let mut choices = self.choices(relations.only());
        choices.iter_mut().for_each(|choice| choice.value.rename(now));
        Ok(choices)
    }

    /// Whether rows have that time, or may have it.
    pub(super) fn check(&self, function: &str, asked: &Expr, relations: &Relations) -> Result<(), StreamProblem> {
        let here = position_of(asked);
        let problem = |message: &str, hint: &str| Err(StreamProblem::new(message, hint, here));
        let choices = match self {
            Self::Column(time) if column_of(asked).as_ref() == Some(time) => return Ok(()),
            Self::Column(time) => {
                let (time, asked) = (relations.called(time), relations.written(asked));
                let message = format!("{function} cuts the event time, which is the column `{time}`, not {asked}");
                let hint = format!("write {function}({time}, ...), or name another column with `time:` in `from`");
                return problem(&message, &hint);
            }
            Self::None(message, hint) => return problem(message, hint),
            Self::OneOf(choices) => choices,
        };
        match choices.iter().find(|choice| choice.value.is(asked)) {
            Some(Choice { joins: Err((message, hint)), .. }) => return problem(message, hint),
            Some(_) => return Ok(()),
            None => {}
        }
        let usable = choices.iter().filter(|choice| choice.joins.is_ok());
        let (columns, others): (Vec<&Choice>, Vec<&Choice>) =
            usable.partition(|choice| matches!(choice.value, Value::Column(_)));
        let names: BTreeSet<&str> =
            if columns.is_empty() { others } else { columns }.into_iter().map(|choice| choice.shown.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        match (names.as_slice(), choices.first()) {
            ([], Some(Choice { joins: Err((message, hint)), .. })) => problem(message, hint),
            _ => {
                let (all, asked) = (names.join("` or `"), relations.written(asked));
                let message =
                    format!("{function} cuts the event time, which of rows of the join is `{all}`, not {asked}");
                let hint = names.first().map_or_else(String::new, |first| format!("write {function}({first}, ...)"));
                problem(&message, &hint)
            }
        }
    }
}

impl Value {
    /// Whether an expression is that.
    pub(super) fn is(&self, expr: &Expr) -> bool {
        let (name, parts) = match self {
            Self::Column(column) => return column_of(expr).as_ref() == Some(column),
            Self::Coalesce(parts) => ("coalesce", parts),
            Self::Greatest(parts) => ("greatest", parts),
        };
        let Expr::Function(function) = bare(expr) else { return false };
        let [one, other] = parts.as_ref();
        match arguments(function).as_deref() {
            Some([a, b]) if function_name(function) == name => {
                one.is(a) && other.is(b) || name == "greatest" && one.is(b) && other.is(a)
            }
            _ => false,
        }
    }

    /// As an expression.
    pub(super) fn text(&self) -> String {
        let (name, parts) = match self {
            Self::Column(column) => return identifier(column).to_string(),
            Self::Coalesce(parts) => ("coalesce", parts),
            Self::Greatest(parts) => ("greatest", parts),
        };
        format!("{name}({}, {})", parts[0].text(), parts[1].text())
    }

    /// As it is called in messages.
    fn shown(&self) -> String {
        self.text().replace('"', "")
    }

    fn rename(&mut self, now: &dyn Fn(&String) -> String) {
        match self {
            Self::Column(column) => *column = now(column),
            Self::Coalesce(parts) | Self::Greatest(parts) => parts.iter_mut().for_each(|part| part.rename(now)),
        }
    }

    /// What it is behind a select list: the columns that are it, or the same of columns that are its parts.
    fn selected(&self, items: &[Item], is_kept: &dyn Fn(&String) -> bool) -> Vec<Self> {
        let same = items.iter().filter(|item| self.is(&item.expr)).map(|item| Self::Column(item.name.clone()));
        let mut found: Vec<Self> = same.collect();
        let (parts, make): (_, fn(Box<[Self; 2]>) -> Self) = match self {
            Self::Column(column) => {
                found.extend(is_kept(column).then(|| self.clone()));
                return found;
            }
            Self::Coalesce(parts) => (parts, Self::Coalesce),
            Self::Greatest(parts) => (parts, Self::Greatest),
        };
        let [one, other] = [0, 1].map(|part: usize| parts[part].selected(items, is_kept).into_iter().next());
        found.extend(one.zip(other).map(|(one, other)| make(Box::new([one, other]))));
        found
    }
}

/// What may be the time of rows of the join that is this step.
pub(super) fn behind_join(step: usize, kind: JoinKind, [left, right]: [&Choice; 2]) -> Time {
    let of_both = |make: fn(Box<[Value; 2]>) -> Value, name: &str, [one, other]: [&Choice; 2], time| Choice {
        value: make(Box::new([one.value.clone(), other.value.clone()])),
        shown: format!("{name}({}, {})", one.shown, other.shown),
        joins: Ok(vec![(step, time)]),
    };
    let of_one = |of: &Choice, side: &str, is_missing: bool, time| {
        let joins = if is_missing {
            let other = match kind {
                JoinKind::Left => left.shown.clone(),
                JoinKind::Right => right.shown.clone(),
                JoinKind::Inner | JoinKind::Full => format!("coalesce({}, {})", left.shown, right.shown),
            };
            let message =
                format!("rows of the {} for which there was none on the {side} have no `{}`", kind.shown(), of.shown);
            Err((message, format!("take `{other}`, which every row has")))
        } else {
            Ok(vec![(step, time)])
        };
        Choice { joins, ..of.clone() }
    };
    let mut choices = vec![
        of_one(left, "left", kind.keeps_right(), JoinTime::Left),
        of_one(right, "right", kind.keeps_left(), JoinTime::Right),
        of_both(Value::Coalesce, "coalesce", [left, right], JoinTime::Left),
        of_both(Value::Coalesce, "coalesce", [right, left], JoinTime::Right),
    ];
    if kind == JoinKind::Inner {
        choices.push(of_both(Value::Greatest, "greatest", [left, right], JoinTime::Later));
    }
    Time::OneOf(choices)
}

impl Translator<'_> {
    /// Reads a call of a function of windows, whose time is the event time of the rows from then on.
    pub(super) fn read_window(&mut self, call: &Expr, scope: &Scope) -> Result<(Windows, Timing), StreamProblem> {
        let time = scope.cut();
        let windows = read(call, &time, &scope.relations)?;
        if let Some(asked) = first_argument(call) {
            self.go_by(&time, asked)?;
        }
        Ok(windows)
    }

    /// Makes a value the event time of rows.
    fn go_by(&mut self, time: &Time, asked: &Expr) -> Result<(), StreamProblem> {
        let Time::OneOf(choices) = time else { return Ok(()) };
        match choices.iter().find(|choice| choice.value.is(asked)) {
            Some(choice) => {
                self.settle(choice).map_err(|(message, hint)| StreamProblem::new(message, hint, position_of(asked)))
            }
            None => Ok(()),
        }
    }

    /// The same of one that was chosen; or why it cannot be, and what to do about it.
    pub(super) fn settle(&mut self, choice: &Choice) -> Result<(), (String, String)> {
        for (step, time) in choice.joins.clone()? {
            if *self.settled.entry(step).or_insert(time) != time {
                let message = format!("rows of the join go by another time than `{}` already", choice.shown);
                return Err((message, "what reads them goes by the same time everywhere".to_owned()));
            }
            if let Some(StreamStep::Join(joined)) = self.steps.get_mut(step).map(|placed| &mut placed.step) {
                joined.time = time;
            }
        }
        Ok(())
    }

    /// Whether an expression is the event time of rows, as far as that is settled.
    pub(super) fn is_event_time(&self, expr: &Expr, time: &Time) -> bool {
        let is_settled = |choice: &Choice| {
            let is = |(step, time): &(usize, JoinTime)| self.settled.get(step) == Some(time);
            choice.joins.as_ref().is_ok_and(|joins| joins.iter().all(is))
        };
        match time {
            Time::Column(time) => column_of(expr).as_ref() == Some(time),
            Time::OneOf(choices) => choices.iter().any(|choice| choice.value.is(expr) && is_settled(choice)),
            Time::None(..) => false,
        }
    }
}
