//! `GROUP BY` with a window of time: a window step, and what the select list makes of its results.
//!
//! The step has the columns `window`, then one for each key, then one for each aggregate. Where the select
//! list has a key or an aggregate as it is, the column has the name it has there; all others have names
//! with two underscores and do not outlive the query.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Function, GroupByExpr, Select, Value, VisitMut, VisitorMut};

use super::rewrite::{
    Relations, bare, column_of, expression, identifier, is_aggregate, name_of, normalise, position, position_of,
};
use super::select::{Item, Scope, Translator, aggregate_in};
use super::times::Time;
use super::windows::window_function;
use super::{GO_ON, Named, STOP, StreamProblem, StreamStep, Timing, Windowed, Windows};
use crate::error::TextPosition;

/// The column with the window.
const WINDOW: &str = "window";

/// An expression rows are grouped by.
struct Key {
    written: Expr,
    expr: Expr,
    /// The column of the window step.
    column: String,
    /// If it is the window: its names in the select list, by which its parts may be taken there, too.
    aliases: Vec<String>,
}

struct Aggregate {
    written: Expr,
    expr: Expr,
    /// The column of the window step.
    column: String,
}

impl<'q> Translator<'q> {
    pub(super) fn grouped(&mut self, select: &'q Select, items: Vec<Item>, scope: &Scope) -> Option<Scope> {
        let keys = self.keys(select, &items, scope)?;
        let ((windows, timing), position) = self.window(&keys, select, &items, scope)?;
        let mut names = Names::of(&items);
        let mut groups = Groups {
            keys: Vec::new(),
            aggregates: Vec::new(),
            names: &mut names,
            relations: &scope.relations,
            columns: scope.columns.as_deref(),
            problems: &mut self.problems,
        };
        groups.name_keys(keys, &items);
        for item in &items {
            groups.name_aggregate(item);
        }

        let having = select.having.as_ref().map(|having| {
            let mut expr = having.clone();
            normalise(&mut expr, &scope.relations, groups.problems);
            let mut aliases = Aliases { items: &items, keys: &groups.keys, aggregates: 0 };
            let _ = expr.visit(&mut aliases);
            let _ = expr.visit(&mut groups);
            (having, expr)
        });
        let outputs: Vec<(&Item, Expr)> = items
            .iter()
            .map(|item| {
                let mut expr = item.expr.clone();
                let _ = expr.visit(&mut groups);
                (item, expr)
            })
            .collect();
        let Groups { keys, aggregates, .. } = groups;

        let named = |column: &String, written: &Expr, expr: &Expr| Named {
            name: column.clone(),
            value: expression(self.sql, written, expr),
        };
        let by: Vec<Named> = keys
            .iter()
            .filter(|key| window_function(&key.expr).is_none())
            .map(|key| named(&key.column, &key.written, &key.expr))
            .collect();
        let aggregated: Vec<Named> =
            aggregates.iter().map(|aggregate| named(&aggregate.column, &aggregate.written, &aggregate.expr)).collect();
        let columns: Vec<String> = std::iter::once(WINDOW.to_owned())
            .chain(by.iter().chain(&aggregated).map(|named| named.name.clone()))
            .collect();
        self.push(StreamStep::Window(Box::new(Windowed { windows, timing, by, select: aggregated, position })));
        if let Some((written, expr)) = having {
            self.push(StreamStep::Filter(expression(self.sql, written, &expr)));
        }
        let names = self.results(&outputs, columns);
        let window = outputs.iter().find(|(_, expr)| column_of(expr).as_deref() == Some(WINDOW));
        let window = window.map(|(item, _)| item.name.clone());
        Some(Self::grouped_scope(names, scope.relations.clone(), window))
    }

    /// What the select list makes of the columns of the window step.
    fn results(&mut self, outputs: &[(&Item, Expr)], mut columns: Vec<String>) -> Vec<String> {
        let names: Vec<String> = outputs.iter().map(|(item, _)| item.name.clone()).collect();
        // The first column that is the window, if it can simply be called something else.
        let renamed = outputs.iter().find(|(_, expr)| column_of(expr).as_deref() == Some(WINDOW));
        let renamed = renamed.map(|(item, _)| item.name.clone());
        let renamed = renamed.filter(|name| name != WINDOW && !names.iter().any(|name| name == WINDOW));
        let mut computed = Vec::new();
        for (item, expr) in outputs {
            let is_direct = column_of(expr).as_ref() == Some(&item.name) || renamed.as_ref() == Some(&item.name);
            if !is_direct {
                computed.push(Named { name: item.name.clone(), value: expression(self.sql, &item.written, expr) });
            }
        }
        for named in &computed {
            if !columns.contains(&named.name) {
                columns.push(named.name.clone());
            }
        }
        if !computed.is_empty() {
            self.push(StreamStep::Set(computed));
        }
        if let Some(name) = renamed {
            columns[0].clone_from(&name);
            self.push(StreamStep::Rename(vec![(WINDOW.to_owned(), name)]));
        }
        if columns != names {
            self.push(StreamStep::Keep(names.clone()));
        }
        names
    }

    /// What is grouped by, as it stands and in the one spelling; none of them twice.
    fn keys(&mut self, select: &Select, items: &[Item], scope: &Scope) -> Option<Vec<(Expr, Expr)>> {
        let mut keys: Vec<(Expr, Expr)> = Vec::new();
        let list = match &select.group_by {
            GroupByExpr::All(modifiers) if modifiers.is_empty() => {
                let plain = items.iter().filter(|item| aggregate_in(&item.expr).is_none());
                return Some(plain.map(|item| (item.written.clone(), item.expr.clone())).collect());
            }
            GroupByExpr::Expressions(list, modifiers) if modifiers.is_empty() => list,
            _ => {
                let hint = "one pipeline for each grouping";
                self.problem("WITH ROLLUP, CUBE or TOTALS is not supported in the SQL of a pipeline", hint, None);
                return None;
            }
        };
        let n_problems = self.problems.len();
        for written in list {
            let parts: &[Expr] = match bare(written) {
                Expr::Tuple(parts) => parts,
                _ => std::slice::from_ref(written),
            };
            for part in parts {
                let mut expr = part.clone();
                normalise(&mut expr, &scope.relations, &mut self.problems);
                let Some(item) = self.key_item(part, &expr, items, scope) else { continue };
                let key = item.map_or_else(|| (part.clone(), expr), |item| (item.written.clone(), item.expr.clone()));
                if let Some(here) = aggregate_in(&key.1) {
                    self.problem("an aggregate is computed for each group, so nothing can be grouped by it", "", here);
                } else if !keys.iter().any(|(_, known)| bare(known) == bare(&key.1)) {
                    keys.push(key);
                }
            }
        }
        (self.problems.len() == n_problems).then_some(keys)
    }

    /// The item of the select list that an expression of `GROUP BY` stands for: by its number or its
    /// name. The outer `None` is a problem.
    fn key_item<'i>(
        &mut self,
        written: &Expr,
        expr: &Expr,
        items: &'i [Item],
        scope: &Scope,
    ) -> Option<Option<&'i Item>> {
        if let Expr::Value(value) = bare(expr)
            && let Value::Number(number, _) = &value.value
        {
            let item = number.parse::<usize>().ok().and_then(|number| items.get(number.checked_sub(1)?));
            if item.is_none() {
                let message = format!("GROUP BY {number}: the select list has {} columns", items.len());
                self.problem(message, "", position_of(written));
            }
            return item.map(Some);
        }
        // `input.path` is a column of the input, whatever the names in the select list.
        let (Some(_), Some(name)) = (column_of(written), column_of(expr)) else { return Some(None) };
        // A column of the input goes before a name of the select list. What the expressions of the select
        // list use is one, and nobody groups by an aggregate.
        let item = items.iter().find(|item| item.name == name);
        let is_column = match &scope.columns {
            Some(columns) => columns.contains(&name),
            None if item.is_some_and(|item| window_function(&item.expr).is_some()) => false,
            None => {
                items.iter().any(|item| mentions(&item.expr, &name))
                    || item.is_some_and(|item| aggregate_in(&item.expr).is_some())
            }
        };
        Some(item.filter(|_| !is_column))
    }

    /// The one window among the keys.
    fn window(
        &mut self,
        keys: &[(Expr, Expr)],
        select: &Select,
        items: &[Item],
        scope: &Scope,
    ) -> Option<((Windows, Timing), Option<TextPosition>)> {
        let mut windows = keys.iter().filter_map(|(_, expr)| Some((expr, window_function(expr)?)));
        let Some((expr, _)) = windows.next() else {
            self.no_window(keys, select, items, scope);
            return None;
        };
        if let Some((second, _)) = windows.next() {
            self.problem("there is more than one window in GROUP BY", "keep one of them", position_of(second));
            return None;
        }
        match self.read_window(expr, scope) {
            Ok(windows) => Some((windows, position_of(expr))),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn no_window(&mut self, keys: &[(Expr, Expr)], select: &Select, items: &[Item], scope: &Scope) {
        let time = match scope.cut() {
            Time::Column(time) => scope.relations.called(&time),
            Time::OneOf(_) | Time::None(..) => "time".to_owned(),
        };
        let here = keys.first().map(|(written, _)| position_of(written));
        let here = here.or_else(|| items.iter().find_map(|item| aggregate_in(&item.expr)));
        self.problem(
            "groups of a stream without end are never complete: there is no window of time in GROUP BY",
            format!("GROUP BY tumble({time}, interval '1 minute'), ..."),
            here.unwrap_or_else(|| position(select.select_token.0.span)),
        );
    }
}

/// Whether a column is used in an expression.
fn mentions(expr: &Expr, name: &str) -> bool {
    use datafusion::sql::sqlparser::ast::visit_expressions;
    let found = visit_expressions(expr, |expr| match expr {
        Expr::Identifier(ident) if name_of(ident) == name => ControlFlow::Break(()),
        Expr::CompoundIdentifier(parts) if parts.first().is_some_and(|first| name_of(first) == name) => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// Names of columns that are taken.
struct Names(BTreeSet<String>);

impl Names {
    fn of(items: &[Item]) -> Self {
        Self(items.iter().map(|item| item.name.clone()).chain([WINDOW.to_owned()]).collect())
    }

    /// The name that is wished for, or one made of `prefix`.
    fn take(&mut self, wished: Option<String>, prefix: &str) -> String {
        let mut number = 0;
        let mut name = wished;
        loop {
            match name {
                Some(name) if self.0.insert(name.clone()) => return name,
                _ => {
                    number += 1;
                    name = Some(format!("__{prefix}_{number}"));
                }
            }
        }
    }
}

/// Puts the columns of the window step in the place of keys and aggregates.
struct Groups<'a> {
    keys: Vec<Key>,
    aggregates: Vec<Aggregate>,
    names: &'a mut Names,
    relations: &'a Relations,
    /// The columns that are grouped, if they are known.
    columns: Option<&'a [String]>,
    problems: &'a mut Vec<StreamProblem>,
}

impl Groups<'_> {
    fn name_keys(&mut self, keys: Vec<(Expr, Expr)>, items: &[Item]) {
        for (written, expr) in keys {
            let mut aliases = Vec::new();
            let column = if window_function(&expr).is_some() {
                let same = items.iter().filter(|item| bare(&item.expr) == bare(&expr));
                aliases.extend(same.map(|item| item.name.clone()));
                WINDOW.to_owned()
            } else {
                let same = items.iter().find(|item| bare(&item.expr) == bare(&expr) && item.name != WINDOW);
                match same {
                    // Aggregates would see the key in the place of the column.
                    Some(item) if self.hides(&item.name, &expr) => self.names.take(None, "key"),
                    Some(item) => item.name.clone(),
                    None => self.names.take(column_of(&expr), "key"),
                }
            };
            self.keys.push(Key { written, expr, column, aliases });
        }
    }

    /// Whether a key that is called so would hide a column.
    fn hides(&self, name: &str, key: &Expr) -> bool {
        let is_column = match self.columns {
            Some(columns) => columns.iter().any(|column| column == name),
            None => mentions(key, name),
        };
        is_column && column_of(key).as_deref() != Some(name)
    }

    /// An item that is an aggregate and nothing else gives it its name.
    fn name_aggregate(&mut self, item: &Item) {
        let is_known = self.aggregates.iter().any(|known| known.expr == *bare(&item.expr));
        if let Expr::Function(function) = bare(&item.expr)
            && is_aggregate(function)
            && !is_known
            && item.name != WINDOW
        {
            let (written, expr) = (item.written.clone(), bare(&item.expr).clone());
            self.aggregates.push(Aggregate { written, expr, column: item.name.clone() });
        }
    }

    /// The column of an aggregate.
    fn aggregate(&mut self, expr: &Expr) -> String {
        if let Some(known) = self.aggregates.iter().find(|known| known.expr == *expr) {
            return known.column.clone();
        }
        let column = self.names.take(None, "aggregate");
        self.aggregates.push(Aggregate { written: expr.clone(), expr: expr.clone(), column: column.clone() });
        column
    }

    fn refuse(&mut self, message: String, hint: &str, position: Option<TextPosition>) -> ControlFlow<()> {
        self.problems.push(StreamProblem::new(message, hint, position));
        STOP
    }
}

impl VisitorMut for Groups<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(key) = self.keys.iter().find(|key| bare(&key.expr) == bare(expr)) {
            *expr = Expr::Identifier(identifier(&key.column));
            return GO_ON;
        }
        let here = position_of(expr);
        match expr {
            Expr::Function(function) if is_aggregate(function) => {
                if let Some(inner) = inner_aggregate(function) {
                    let message = "an aggregate inside an aggregate has no meaning".to_owned();
                    return self.refuse(message, "aggregate in a query inside, and then again", inner);
                }
                let column = self.aggregate(expr);
                *expr = Expr::Identifier(identifier(&column));
            }
            Expr::Function(_) if window_function(expr).is_some() => {
                let message = format!("{} is not the window of GROUP BY", self.relations.written(expr));
                return self.refuse(message, "write it like there, or give it a name and group by the name", here);
            }
            Expr::Identifier(ident) => {
                let column = self.relations.called(&name_of(ident));
                let message = format!("the column `{column}` is neither in GROUP BY nor inside an aggregate");
                return self.refuse(message, "group by it, too, or take max(...) of it", here);
            }
            Expr::CompoundIdentifier(parts) => {
                let first = parts.first().map(name_of).unwrap_or_default();
                let is_key = |key: &&Key| {
                    column_of(&key.expr).as_ref() == Some(&first) || key.column == first || key.aliases.contains(&first)
                };
                match self.keys.iter().find(is_key) {
                    Some(key) => parts[0] = identifier(&key.column),
                    None => {
                        let column = self.relations.called(&first);
                        let message = format!("the column `{column}` is neither in GROUP BY nor inside an aggregate");
                        return self.refuse(message, "group by it, too, or take max(...) of it", here);
                    }
                }
            }
            _ => {}
        }
        GO_ON
    }
}

/// Where an aggregate stands among the arguments of another, if one does.
fn inner_aggregate(function: &Function) -> Option<Option<TextPosition>> {
    use datafusion::sql::sqlparser::ast::{FunctionArg, FunctionArgExpr, FunctionArguments};
    let FunctionArguments::List(list) = &function.args else { return None };
    list.args.iter().find_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => aggregate_in(expr),
        _ => None,
    })
}

/// Puts the expression in the place of its name, in `HAVING`. Inside an aggregate names are columns of the
/// input.
struct Aliases<'a> {
    items: &'a [Item],
    keys: &'a [Key],
    /// How many aggregates the walk is inside of.
    aggregates: usize,
}

impl VisitorMut for Aliases<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.aggregates += usize::from(matches!(expr, Expr::Function(function) if is_aggregate(function)));
        GO_ON
    }

    // After what is inside, so that what was put there is not looked at again.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) if is_aggregate(function) => self.aggregates -= 1,
            _ if self.aggregates > 0 => {}
            Expr::Identifier(ident) => {
                let name = name_of(ident);
                let is_key = self.keys.iter().any(|key| column_of(&key.expr).as_ref() == Some(&name));
                if let Some(item) = self.items.iter().find(|item| item.name == name && !is_key) {
                    *expr = match bare(&item.expr) {
                        simple @ (Expr::Function(_) | Expr::Identifier(_)) => simple.clone(),
                        other => Expr::Nested(Box::new(other.clone())),
                    };
                }
            }
            Expr::CompoundIdentifier(parts) => {
                let first = parts.first().map(name_of).unwrap_or_default();
                let item = self.items.iter().find(|item| item.name == first);
                let key = item.and_then(|item| self.keys.iter().find(|key| bare(&key.expr) == bare(&item.expr)));
                if let Some(key) = key {
                    parts[0] = identifier(&key.column);
                }
            }
            _ => {}
        }
        GO_ON
    }
}
