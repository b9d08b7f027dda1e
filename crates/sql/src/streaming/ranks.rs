//! `ROW_NUMBER() OVER (PARTITION BY tumble(...), keys ORDER BY time)` with a condition on it around: the first rows
//! of each window of time.
//!
//! A rank over a whole stream changes with every row, and one by something else than time is known at the end
//! of the window only, so both are refused.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value, WindowSpec, WindowType};

use super::rewrite::{bare, column_of, expression, function_name, normalise};
use super::select::{Scope, Time, Translator};
use super::windows::{read, window_function};
use super::{First, Named, StreamStep, Timing, Windows};
use crate::error::TextPosition;

/// A rank in a select list, whose condition is in the query around it.
#[derive(Clone, Debug)]
pub(super) struct Rank {
    /// What it is called.
    pub(super) column: String,
    /// The step that keeps the first rows, which does not know yet how many.
    step: usize,
    position: Option<TextPosition>,
}

/// The window of `ROW_NUMBER()`, if an expression is that.
pub(super) fn rank_of(expr: &Expr) -> Option<&WindowSpec> {
    match bare(expr) {
        Expr::Function(function) if function_name(function) == "row_number" => match &function.over {
            Some(WindowType::WindowSpec(spec)) => Some(spec),
            _ => None,
        },
        _ => None,
    }
}

const USAGE: &str = "ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY time) AS n, and around it WHERE n = 1";

impl Translator<'_> {
    /// The step for a rank.
    pub(super) fn rank(
        &mut self,
        spec: &WindowSpec,
        alias: Option<String>,
        position: Option<TextPosition>,
        scope: &Scope,
    ) -> Option<Rank> {
        let Some(column) = alias else {
            self.problem("ROW_NUMBER needs a name", USAGE, position);
            return None;
        };
        let mut keys: Vec<(Expr, Expr)> = Vec::new();
        for written in &spec.partition_by {
            let mut expr = written.clone();
            normalise(&mut expr, &scope.relations, &mut self.problems);
            keys.push((written.clone(), expr));
        }
        let windows = keys.iter().filter_map(|(_, expr)| Some((expr, window_function(expr)?)));
        let windows: Vec<_> = windows.map(|(expr, function)| read(expr, function, &scope.time)).collect();
        let per = match windows.as_slice() {
            [Ok((Windows::Tumbling { size, offset }, timing))] if offset.is_zero() && *timing == Timing::default() => {
                *size
            }
            [Err(problem)] => {
                self.problems.push(problem.clone());
                return None;
            }
            [] => {
                let message = "the ranks of a stream without end have to be remembered forever";
                self.problem(message, USAGE, position);
                return None;
            }
            _ => {
                self.problem("ranks are counted in windows of tumble(time, size)", USAGE, position);
                return None;
            }
        };
        let is_by_time = match (spec.order_by.as_slice(), &scope.time) {
            ([order], Time::Column(time)) => {
                let mut expr = order.expr.clone();
                normalise(&mut expr, &scope.relations, &mut self.problems);
                column_of(&expr).as_ref() == Some(time) && order.options.asc != Some(false)
            }
            _ => false,
        };
        if !is_by_time || spec.window_frame.is_some() || spec.window_name.is_some() {
            let message = "only the first rows by the event time are known before the window is over";
            self.problem(message, USAGE, position);
            return None;
        }
        let by = keys.iter().filter(|(_, expr)| window_function(expr).is_none()).enumerate();
        let by = by.map(|(at, (written, expr))| Named {
            name: column_of(expr).unwrap_or_else(|| format!("__key_{}", at + 1)),
            value: expression(self.sql, written, expr),
        });
        let by = by.collect();
        self.push(StreamStep::First(Box::new(First { rows: 0, per, by, position })));
        Some(Rank { column, step: self.steps.len() - 1, position })
    }

    pub(super) fn refuse_rank(&mut self, rank: &Rank) {
        let message = format!("nothing says how many rows are wanted by `{}`", rank.column);
        self.problem(message, USAGE, rank.position);
    }

    /// Reads the condition of the query around a rank.
    pub(super) fn choose(&mut self, rank: &Rank, condition: Option<&Expr>, scope: &Scope) {
        let mut rows = None;
        let mut others = Vec::new();
        for part in condition.into_iter().flat_map(conjuncts) {
            let mut expr = part.clone();
            normalise(&mut expr, &scope.relations, &mut self.problems);
            match rows_of(&expr, &rank.column) {
                Some(limit) if rows.is_none() => rows = Some(limit),
                _ => others.push(part),
            }
        }
        let Some(rows) = rows.filter(|rows| *rows > 0) else {
            self.refuse_rank(rank);
            return;
        };
        if let StreamStep::First(first) = &mut self.steps[rank.step].step {
            first.rows = rows;
        }
        for part in others {
            self.filter(part, part, scope);
        }
    }
}

/// The parts of a condition that must all be true.
pub(super) fn conjuncts(expr: &Expr) -> Vec<&Expr> {
    match bare(expr) {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => [conjuncts(left), conjuncts(right)].concat(),
        other => vec![other],
    }
}

/// How many of the first rows a condition on the rank leaves.
fn rows_of(expr: &Expr, rank: &str) -> Option<u64> {
    let Expr::BinaryOp { left, op, right } = bare(expr) else { return None };
    let Expr::Value(value) = bare(right) else { return None };
    let Value::Number(number, _) = &value.value else { return None };
    if column_of(left).as_deref() != Some(rank) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match op {
        BinaryOperator::Eq if number == 1 => Some(1),
        BinaryOperator::LtEq => Some(number),
        BinaryOperator::Lt => number.checked_sub(1),
        _ => None,
    }
}
