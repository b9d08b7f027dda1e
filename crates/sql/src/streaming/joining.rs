//! Joins of two streams: a condition with keys, and with how far the times may be apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Join, JoinConstraint, JoinOperator, Spanned, Visit, Visitor,
};

use super::ranks::conjuncts;
use super::rewrite::{bare, expression, name_of, normalise, position, position_of};
use super::select::{Common, Scope, Translator};
use super::times::{Choice, Value, behind_join};
use super::windows::nanos;
use super::{Expression, GO_ON, JoinKind, JoinTime, Joined, StreamStep};

const USAGE: &str = "a JOIN b ON a.key = b.key AND b.time BETWEEN a.time AND a.time + interval '10 minutes'";
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// What a condition says of the times: the right one less the left one is at least, at most.
#[derive(Default)]
struct Bounds {
    least: Option<i128>,
    most: Option<i128>,
}

impl Bounds {
    fn at_least(&mut self, nanos: i128) {
        self.least = Some(self.least.map_or(nanos, |known| known.max(nanos)));
    }

    fn at_most(&mut self, nanos: i128) {
        self.most = Some(self.most.map_or(nanos, |known| known.min(nanos)));
    }
}

impl<'q> Translator<'q> {
    /// Joins what was read so far with one more relation.
    pub(super) fn join(&mut self, left: Scope, join: &'q Join, common: &[Common<'q>]) -> Option<Scope> {
        let here = position(join.relation.span());
        let (constraint, kind) = match &join.join_operator {
            JoinOperator::Join(constraint) | JoinOperator::Inner(constraint) => (constraint, JoinKind::Inner),
            JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => (constraint, JoinKind::Left),
            JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => (constraint, JoinKind::Right),
            JoinOperator::FullOuter(constraint) => (constraint, JoinKind::Full),
            _ => {
                self.problem("there are JOIN, LEFT JOIN, RIGHT JOIN and FULL JOIN of streams", USAGE, here);
                return None;
            }
        };
        if let Some((table, name)) = self.table_of(&join.relation, common) {
            if kind.keeps_right() {
                let message = "rows of a table that nobody looks up have no time, so they are in no stream";
                self.problem(message, "write JOIN, or LEFT JOIN where rows come that find nothing", here);
                return None;
            }
            return self.look_up(left, (table, name), constraint, kind.keeps_left(), here);
        }
        let JoinConstraint::On(condition) = constraint else {
            self.problem("a join of streams says with ON what is equal and how near the times are", USAGE, here);
            return None;
        };
        let at = self.at.clone();
        let right = self.relation(&join.relation, common)?;
        if let Some(rank) = left.rank.as_ref().or(right.rank.as_ref()) {
            self.refuse_rank(rank);
            return None;
        }
        let (Some(left_columns), Some(right_columns)) = (&left.columns, &right.columns) else {
            self.problem("the columns of both sides of a join must be known", "write them out", here);
            return None;
        };
        let taken = right_columns.iter().filter(|column| left_columns.contains(column));
        let prefix = self.steps.len();
        let renamed: BTreeMap<String, String> =
            taken.map(|column| (column.clone(), format!("__{prefix}_{column}"))).collect();
        if !renamed.is_empty() {
            let names = renamed.iter().map(|(from, to)| (from.clone(), to.clone())).collect();
            self.push(StreamStep::Rename(names));
        }
        let now = |column: &String| renamed.get(column).unwrap_or(column).clone();
        let all: Vec<String> = left_columns.iter().cloned().chain(right_columns.iter().map(now)).collect();
        let relations = left.relations.clone().and(right.relations.clone(), &renamed);
        let with = std::mem::replace(&mut self.at, at);

        let mut parts = Vec::new();
        for part in conjuncts(condition) {
            let mut expr = part.clone();
            let before = self.problems.len();
            normalise(&mut expr, &relations, &mut self.problems);
            if self.problems.len() == before {
                parts.push((part, expr));
            }
        }
        let times = [left.time.side(&left.relations, &String::clone), right.time.side(&right.relations, &now)];
        let [Ok(left_times), Ok(right_times)] = times else {
            for (message, hint) in times.into_iter().filter_map(Result::err) {
                self.problem(message, hint, here);
            }
            return None;
        };
        let columns: BTreeSet<&String> = left_columns.iter().collect();
        let (left_time, right_time) = times_of(&columns, &left_times, &right_times, &parts)?;
        for choice in [left_time, right_time] {
            if let Err((message, hint)) = self.settle(choice) {
                self.problem(message, hint, position_of(condition));
                return None;
            }
        }
        let sides = Sides { left: columns, times: (&left_time.value, &right_time.value) };
        let (mut on, mut bounds, mut rest) = (Vec::new(), Bounds::default(), Vec::new());
        for (part, expr) in &parts {
            if sides.bound(expr, &mut bounds) {
                continue;
            }
            match self.pair(part, expr, &sides) {
                Some(pair) => on.push(pair),
                None => rest.push(*part),
            }
        }
        if on.is_empty() {
            self.problem(
                "a join of streams has a key: something that is equal on both sides",
                USAGE,
                position_of(condition),
            );
            return None;
        }
        let (Some(least), Some(most)) = (bounds.least, bounds.most) else {
            let message = "how far the times of both sides may be apart, before and after, is not said";
            self.problem(message, USAGE, position_of(condition));
            return None;
        };
        if least > most {
            let hint = "say from when to when, as in b.time BETWEEN a.time AND a.time + interval '10 minutes'";
            self.problem("no two rows have times that are so far apart", hint, position_of(condition));
            return None;
        }
        let apart = apart(sides.times, least, most);
        if kind != JoinKind::Inner && apart.is_some() {
            let message = format!("in a {} rows of the same time are near enough", kind.shown());
            let hint = format!(
                "write >= and <=, or BETWEEN; a JOIN that is not {} may leave the same time out",
                kind.shown().trim_end_matches(" JOIN")
            );
            self.problem(message, hint, position_of(condition));
            return None;
        }
        let (least, most) = (least.min(0), most.max(0));
        if let Some(part) = rest.first().filter(|_| kind != JoinKind::Inner) {
            let message = format!("ON of a {} has keys and times and nothing else", kind.shown());
            let hint = "put what belongs to one side into a query of its own";
            self.problem(message, hint, position_of(part));
        }
        let duration = |nanos: i128| Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let (before, after) = (duration(-least), duration(most));
        let time = behind_join(self.steps.len(), kind, [left_time, right_time]);
        let joined = Joined { with, on, before, after, kind, time: JoinTime::default(), position: here };
        self.push(StreamStep::Join(Box::new(joined)));
        let scope = Scope::new(relations, Some(all), time);
        if let Some(text) = apart {
            let position = position_of(condition);
            self.push(StreamStep::Filter(Expression { text, position, is_verbatim: false }));
        }
        for part in rest {
            self.filter(part, part, &scope);
        }
        Some(scope)
    }

    /// Expressions over the left and the right side that a part of the condition says are equal.
    fn pair(&self, written: &Expr, expr: &Expr, sides: &Sides<'_>) -> Option<(Expression, Expression)> {
        let (Expr::BinaryOp { left, op: BinaryOperator::Eq, right }, Expr::BinaryOp { left: a, right: b, .. }) =
            (bare(expr), bare(written))
        else {
            return None;
        };
        let text = |written: &Expr, expr: &Expr| expression(self.sql, written, expr);
        match (sides.side(left)?, sides.side(right)?) {
            (Side::Left, Side::Right) => Some((text(a, left), text(b, right))),
            (Side::Right, Side::Left) => Some((text(b, right), text(a, left))),
            _ => None,
        }
    }
}

/// Of the times that rows of both sides may have those by which the condition says how far they are apart.
fn times_of<'c>(
    columns: &BTreeSet<&String>,
    left: &'c [Choice],
    right: &'c [Choice],
    parts: &[(&Expr, Expr)],
) -> Option<(&'c Choice, &'c Choice)> {
    let pairs = || left.iter().flat_map(|left| right.iter().map(move |right| (left, right)));
    let is_bounded = |(left, right): &(&Choice, &Choice)| {
        let sides = Sides { left: columns.clone(), times: (&left.value, &right.value) };
        let mut bounds = Bounds::default();
        for (_, expr) in parts {
            sides.bound(expr, &mut bounds);
        }
        bounds.least.is_some() && bounds.most.is_some()
    };
    let is_usable = |(left, right): &(&Choice, &Choice)| left.joins.is_ok() && right.joins.is_ok();
    let bounded = || pairs().filter(is_bounded);
    bounded()
        .find(is_usable)
        .or_else(|| bounded().next())
        .or_else(|| pairs().find(is_usable))
        .or_else(|| pairs().next())
}

/// What rows of a join must be as well if their times may not be the same: the step looks from a row's own time on, both
/// ways, and what lies between is left out behind it.
fn apart((left, right): (&Value, &Value), least: i128, most: i128) -> Option<String> {
    let (left, right) = (left.text(), right.text());
    match (least, most) {
        (1, _) => Some(format!("{right} > {left}")),
        (2.., _) => Some(format!("{right} >= {left} + interval '{least} nanoseconds'")),
        (_, -1) => Some(format!("{right} < {left}")),
        (_, ..-1) => Some(format!("{right} <= {left} - interval '{} nanoseconds'", -most)),
        _ => None,
    }
}

/// Which columns are on which side, as they are called now, and the times among them.
pub(super) struct Sides<'a> {
    pub(super) left: BTreeSet<&'a String>,
    pub(super) times: (&'a Value, &'a Value),
}

impl Sides<'_> {
    /// The one side all columns of an expression are on.
    pub(super) fn side(&self, expr: &Expr) -> Option<Side> {
        struct Columns<'a, 'b> {
            sides: &'a Sides<'b>,
            found: (bool, bool),
        }
        impl Visitor for Columns<'_, '_> {
            type Break = ();

            fn pre_visit_expr(&mut self, expr: &Expr) -> std::ops::ControlFlow<()> {
                let column = match expr {
                    Expr::Identifier(ident) => Some(ident),
                    Expr::CompoundIdentifier(parts) => parts.first(),
                    _ => None,
                };
                if let Some(column) = column {
                    let is_left = self.sides.left.contains(&name_of(column));
                    self.found = (self.found.0 || is_left, self.found.1 || !is_left);
                }
                GO_ON
            }
        }
        let mut columns = Columns { sides: self, found: (false, false) };
        let _ = expr.visit(&mut columns);
        match columns.found {
            (true, false) => Some(Side::Left),
            (false, true) => Some(Side::Right),
            _ => None,
        }
    }

    /// Takes note of what a part of a condition says of the times; `false` if it says nothing of them.
    fn bound(&self, expr: &Expr, bounds: &mut Bounds) -> bool {
        match bare(expr) {
            Expr::Between { expr, negated: false, low, high } => {
                // Both or none: a half of it would be lost.
                let mut both = Bounds::default();
                let is_bound = self.compare(expr, &BinaryOperator::GtEq, low, &mut both)
                    && self.compare(expr, &BinaryOperator::LtEq, high, &mut both);
                if is_bound {
                    both.least.into_iter().for_each(|least| bounds.at_least(least));
                    both.most.into_iter().for_each(|most| bounds.at_most(most));
                }
                is_bound
            }
            Expr::BinaryOp { left, op, right } => self.compare(left, op, right, bounds),
            _ => false,
        }
    }

    fn compare(&self, a: &Expr, op: &BinaryOperator, b: &Expr, bounds: &mut Bounds) -> bool {
        let (Some((a_side, a)), Some((b_side, b))) = (self.time(a), self.time(b)) else { return false };
        // The right time less the left one, compared with this.
        let (difference, op) = match (a_side, b_side) {
            (Side::Right, Side::Left) => (b - a, op.clone()),
            (Side::Left, Side::Right) => (a - b, mirrored(op)),
            _ => return false,
        };
        match op {
            BinaryOperator::GtEq => bounds.at_least(difference),
            BinaryOperator::Gt => bounds.at_least(difference + 1),
            BinaryOperator::LtEq => bounds.at_most(difference),
            BinaryOperator::Lt => bounds.at_most(difference - 1),
            BinaryOperator::Eq => {
                bounds.at_least(difference);
                bounds.at_most(difference);
            }
            _ => return false,
        }
        true
    }

    /// The time of a side and what is added to it.
    fn time(&self, expr: &Expr) -> Option<(Side, i128)> {
        match bare(expr) {
            Expr::BinaryOp { left, op: BinaryOperator::Plus, right } => match self.time(left) {
                Some((side, added)) => Some((side, added + nanos(right).ok()?)),
                None => self.time(right).and_then(|(side, added)| Some((side, added + nanos(left).ok()?))),
            },
            Expr::BinaryOp { left, op: BinaryOperator::Minus, right } => {
                let (side, added) = self.time(left)?;
                Some((side, added - nanos(right).ok()?))
            }
            time => match self.times {
                (left, _) if left.is(time) => Some((Side::Left, 0)),
                (_, right) if right.is(time) => Some((Side::Right, 0)),
                _ => None,
            },
        }
    }
}

fn mirrored(op: &BinaryOperator) -> BinaryOperator {
    match op {
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        BinaryOperator::Lt => BinaryOperator::Gt,
        other => other.clone(),
    }
}
