//! `ROW_NUMBER() OVER (PARTITION BY ..., ... ORDER BY ...)` with a condition on it around: the first rows in some
//! order, of each window of time, of each window whose results are read, or of all rows so far. With `RANK` and
//! `DENSE_RANK` rows that are equal in the order share a place.
//!
//! By the event time, from the first on, rows are known as they come, and a step that counts them is enough. Every
//! other order is known at the end of the window. Of all rows so far the first ones change, so a sink has to know
//! by which key; of every key there ever was they would have to be remembered for ever, so that is refused. So are places
//! that rows share, of all rows so far: there may be any number of rows in one, and no key tells them apart.

use std::ops::ControlFlow;
use std::time::Duration;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ExcludeSelectItem, Expr, ObjectName, ObjectNamePart, OrderByExpr, Select, SelectItem, Value,
    WildcardAdditionalOptions, WindowSpec, WindowType, visit_expressions,
};

use super::rewrite::{bare, column_of, expression, function_name, name_of, normalise, position_of};
use super::select::{Projection, Scope, Translator};
use super::windows::window_function;
use super::{Expression, First, Named, StreamStep, Stretches, Ties, Top, Windows};
use crate::error::TextPosition;

/// A rank in a select list, whose condition is in the query around it.
#[derive(Clone, Debug)]
pub(super) struct Rank {
    /// What it is called.
    pub(super) column: String,
    /// The step that keeps the first rows, which does not know yet how many.
    step: usize,
    /// The step behind it that names all columns, if there is one.
    pub(super) keep: Option<usize>,
    /// Whether the order is that of event time, from the first row on, and no two rows share a place.
    is_by_time: bool,
    position: Option<TextPosition>,
}

/// A call of a function that gives rows places.
#[derive(Clone, Copy)]
pub(super) struct RankCall<'e> {
    /// The function, as it is written in messages.
    name: &'static str,
    ties: Ties,
    spec: &'e WindowSpec,
}

/// The call of `ROW_NUMBER()`, `RANK()` or `DENSE_RANK()`, if an expression is that.
pub(super) fn rank_of(expr: &Expr) -> Option<RankCall<'_>> {
    let Expr::Function(function) = bare(expr) else { return None };
    let (name, ties) = match function_name(function).as_str() {
        "row_number" => ("ROW_NUMBER", Ties::Broken),
        "rank" => ("RANK", Ties::Shared),
        "dense_rank" => ("DENSE_RANK", Ties::Dense),
        _ => return None,
    };
    match &function.over {
        Some(WindowType::WindowSpec(spec)) => Some(RankCall { name, ties, spec }),
        _ => None,
    }
}

const USAGE: &str = "ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3";

impl Translator<'_> {
    /// The step for a rank.
    pub(super) fn rank(
        &mut self,
        call: RankCall<'_>,
        alias: Option<String>,
        position: Option<TextPosition>,
        scope: &Scope,
    ) -> Option<Rank> {
        let RankCall { name, ties, spec } = call;
        let Some(column) = alias else {
            self.problem(format!("{name} needs a name"), USAGE, position);
            return None;
        };
        if spec.order_by.is_empty() || spec.window_frame.is_some() || spec.window_name.is_some() {
            self.problem("which rows are the first is said by ORDER BY, and by nothing else", USAGE, position);
            return None;
        }
        let mut keys: Vec<(Expr, Expr)> = Vec::new();
        for written in &spec.partition_by {
            let mut expr = written.clone();
            normalise(&mut expr, &scope.relations, &mut self.problems);
            keys.push((written.clone(), expr));
        }
        let per = self.stretches(&keys, position, scope)?;
        let by = keys.iter().filter(|(_, expr)| window_function(expr).is_none()).enumerate();
        let by = by.map(|(at, (written, expr))| Named {
            name: column_of(expr).unwrap_or_else(|| format!("__key_{}", at + 1)),
            value: expression(self.sql, written, expr),
        });
        let by = by.collect();
        let (order, is_by_time) = self.order(&spec.order_by, scope);
        if ties != Ties::Broken && per.is_none() && !scope.time.is_of_windows() {
            let message = format!("of all rows so far there may be any number in a place of {name}");
            let hint = "use ROW_NUMBER, or PARTITION BY a window: tumble(time, interval '1 hour')";
            self.problem(message, hint, position);
            return None;
        }
        let plain = per.is_some_and(|per| per.offset.is_zero() && per.lateness.is_none()) && ties == Ties::Broken;
        let top = Top { rows: 0, order, ties, per, by, rank: None, position };
        self.push(StreamStep::Top(Box::new(top)));
        Some(Rank { column, step: self.steps.len() - 1, keep: None, is_by_time: is_by_time && plain, position })
    }

    /// Of which windows the first rows are wanted; the outer `None` is a problem.
    fn stretches(
        &mut self,
        keys: &[(Expr, Expr)],
        position: Option<TextPosition>,
        scope: &Scope,
    ) -> Option<Option<Stretches>> {
        let windows = keys.iter().map(|(_, expr)| expr).filter(|expr| window_function(expr).is_some());
        let windows: Vec<_> = windows.map(|expr| self.read_window(expr, scope)).collect();
        match windows.as_slice() {
            [Ok((Windows::Tumbling { size, offset }, timing))] if timing.early.is_none() => {
                Some(Some(Stretches { size: *size, offset: *offset, lateness: timing.lateness }))
            }
            [Err(problem)] => {
                self.problems.push(problem.clone());
                None
            }
            // Results of windows: each window has its own, whether it is said or not.
            [] if keys.iter().any(|(_, expr)| is_window(expr, scope)) => Some(scope.is_passed_on.then_some(MOMENT)),
            [] if scope.time.is_of_windows() => {
                let message = "the first results of all windows so far are of no window: it is not in PARTITION BY";
                self.problem(message, "PARTITION BY the window, and what else there is", position);
                None
            }
            // One group is remembered as long as it wants.
            [] if keys.is_empty() => Some(None),
            [] => {
                let message = "the ranks of every key there ever was have to be remembered for ever";
                let hint = format!("{USAGE}; or use the step `top` with `keep` after the query");
                self.problem(message, hint, position);
                None
            }
            _ => {
                let hint = "aggregate within the windows first, and rank their results";
                self.problem("rows are ranked in windows of tumble(time, size)", hint, position);
                None
            }
        }
    }

    /// The order as text, and whether it is that of event time.
    fn order(&mut self, order_by: &[OrderByExpr], scope: &Scope) -> (Expression, bool) {
        let mut parts = Vec::new();
        for part in order_by {
            let mut expr = part.expr.clone();
            normalise(&mut expr, &scope.relations, &mut self.problems);
            parts.push((part, expr));
        }
        let is_by_time = match parts.as_slice() {
            [(part, expr)] => self.is_event_time(expr, &scope.time) && part.options.asc != Some(false),
            _ => false,
        };
        let texts = parts.iter().map(|(part, expr)| {
            let options = part.options.to_string();
            let text = expression(self.sql, &part.expr, expr).text;
            if options.trim().is_empty() { text } else { format!("{text} {}", options.trim()) }
        });
        let text = texts.collect::<Vec<_>>().join(", ");
        let position = order_by.first().and_then(|part| position_of(&part.expr));
        (Expression { text, position, is_verbatim: false }, is_by_time)
    }

    pub(super) fn refuse_rank(&mut self, rank: &Rank) {
        let message = format!("nothing says how many rows are wanted by `{}`", rank.column);
        self.problem(message, USAGE, rank.position);
    }

    /// Reads the condition of the query around a rank. Gives what of it is left.
    pub(super) fn choose<'q>(&mut self, rank: &Rank, select: &'q Select, scope: &mut Scope) -> Vec<&'q Expr> {
        let mut rows: Option<u64> = None;
        let mut others = Vec::new();
        for part in select.selection.iter().flat_map(conjuncts) {
            let mut expr = part.clone();
            normalise(&mut expr, &scope.relations, &mut self.problems);
            match rows_of(&expr, &rank.column) {
                Some(Limit { limit, is_exact }) => {
                    rows = Some(rows.map_or(limit, |known| known.min(limit)));
                    if is_exact {
                        others.push(part);
                    }
                }
                None => others.push(part),
            }
        }
        let Some(rows) = rows.filter(|rows| *rows > 0) else {
            self.refuse_rank(rank);
            return Vec::new();
        };
        let is_wanted = is_wanted(select, &others, &rank.column);
        let Some(StreamStep::Top(top)) = self.steps.get_mut(rank.step).map(|placed| &mut placed.step) else {
            return others;
        };
        top.rows = rows;
        if is_wanted {
            top.rank = Some(rank.column.clone());
            if let Some(columns) = &mut scope.columns {
                columns.push(rank.column.clone());
            }
            if let Some(StreamStep::Keep(columns)) = rank.keep.map(|keep| &mut self.steps[keep].step) {
                columns.push(rank.column.clone());
            }
        } else if let (true, Some(per)) = (rank.is_by_time, top.per) {
            let (by, position) = (std::mem::take(&mut top.by), top.position);
            self.steps[rank.step].step = StreamStep::First(Box::new(First { rows, per: per.size, by, position }));
        } else if top.per.is_none() && !scope.time.is_of_windows() {
            let message =
                "which row is in which place changes with the rows, so the place has to be a column of the result";
            self.problem(message, format!("select {}, and make it the `key` of the sink", rank.column), rank.position);
        }
        // Windows have no results behind it, only rows that were such.
        scope.window = None;
        others
    }

    /// Takes the rank out of what `*` leaves out, if it is no column.
    pub(super) fn leave_out(rank: &Rank, scope: &Scope, projection: &mut Projection) {
        let is_column = scope.columns.as_ref().is_some_and(|columns| columns.contains(&rank.column));
        if let (Some(except), false) = (&mut projection.wildcard, is_column) {
            except.retain(|column| *column != rank.column);
        }
    }
}

/// All results of a window have the time just before its end.
const MOMENT: Stretches = Stretches { size: Duration::from_nanos(1), offset: Duration::ZERO, lateness: None };

/// Whether an expression is the window of the results that are read, or tells it.
fn is_window(expr: &Expr, scope: &Scope) -> bool {
    column_of(expr).is_some() && column_of(expr) == scope.window
}

/// Whether the query around a rank makes something of it.
fn is_wanted(select: &Select, others: &[&Expr], rank: &str) -> bool {
    let mentions = |expr: &Expr| match expr {
        Expr::Identifier(ident) if name_of(ident) == rank => ControlFlow::Break(()),
        Expr::CompoundIdentifier(parts) if parts.last().is_some_and(|last| name_of(last) == rank) => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    let mut is_wanted = others.iter().any(|part| visit_expressions(*part, mentions).is_break());
    for item in &select.projection {
        is_wanted |= match item {
            SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => !excludes(options, rank),
            item => visit_expressions(item, mentions).is_break(),
        };
    }
    is_wanted || visit_expressions(&select.group_by, mentions).is_break()
}

/// Whether all columns but some leaves out the column `name`.
fn excludes(options: &WildcardAdditionalOptions, name: &str) -> bool {
    let of_except = options
        .opt_except
        .iter()
        .flat_map(|except| std::iter::once(&except.first_element).chain(&except.additional_elements).map(name_of));
    let of_exclude = options.opt_exclude.iter().flat_map(|exclude| match exclude {
        ExcludeSelectItem::Single(column) => std::slice::from_ref(column),
        ExcludeSelectItem::Multiple(columns) => columns.as_slice(),
    });
    let last = |column: &ObjectName| column.0.last().and_then(ObjectNamePart::as_ident).map(name_of);
    of_except.chain(of_exclude.filter_map(last)).any(|column| column == name)
}

/// The parts of a condition that must all be true.
pub(super) fn conjuncts(expr: &Expr) -> Vec<&Expr> {
    match bare(expr) {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => [conjuncts(left), conjuncts(right)].concat(),
        other => vec![other],
    }
}

/// How many of the first rows a condition on the rank leaves.
struct Limit {
    limit: u64,
    /// Only the last of them.
    is_exact: bool,
}

fn rows_of(expr: &Expr, rank: &str) -> Option<Limit> {
    let Expr::BinaryOp { left, op, right } = bare(expr) else { return None };
    let Expr::Value(value) = bare(right) else { return None };
    let Value::Number(number, _) = &value.value else { return None };
    if column_of(left).as_deref() != Some(rank) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    let limit = |limit, is_exact| Some(Limit { limit, is_exact });
    match op {
        BinaryOperator::Eq => limit(number, number != 1),
        BinaryOperator::LtEq => limit(number, false),
        BinaryOperator::Lt => limit(number.checked_sub(1)?, false),
        _ => None,
    }
}
