//! The rows of several queries as one, and of one row several.

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, SetExpr, SetOperator, SetQuantifier, Spanned, visit_expressions_mut,
};

use super::rewrite::{Relations, column_of, expression, function_name, normalise, position};
use super::select::{Common, Projection, Scope, Translator};
use super::windows::arguments;
use super::{GO_ON, Named, StreamStep};

impl<'q> Translator<'q> {
    /// The rows of both queries, with the columns of the first.
    pub(super) fn union(&mut self, left: &'q SetExpr, right: &'q SetExpr, common: &[Common<'q>]) -> Option<Scope> {
        let scope = self.side(left, common);
        let at = self.at.clone();
        let other = self.side(right, common);
        let (scope, other) = (scope?, other?);
        let here = position(right.span());
        let (Some(columns), Some(others)) = (&scope.columns, &other.columns) else {
            self.problem("the columns of both sides of UNION ALL must be known", "write them out", here);
            return None;
        };
        if columns.len() != others.len() {
            let message = format!("one side of UNION ALL has {} columns and the other {}", columns.len(), others.len());
            self.problem(message, "", here);
            return None;
        }
        let time = scope.time.of_both(columns, &other.time, others);
        let renamed = others.iter().zip(columns).filter(|(from, to)| from != to);
        let renamed: Vec<(String, String)> = renamed.map(|(from, to)| (from.clone(), to.clone())).collect();
        if !renamed.is_empty() {
            self.push(StreamStep::Rename(renamed));
        }
        let added = std::mem::replace(&mut self.at, at);
        self.push(StreamStep::Union(vec![added]));
        Some(Scope::new(Relations::default(), scope.columns, time))
    }

    /// One side of a union.
    fn side(&mut self, side: &'q SetExpr, common: &[Common<'q>]) -> Option<Scope> {
        match side {
            SetExpr::Select(select) => self.select(select, common),
            SetExpr::Query(query) => self.query(query, common),
            SetExpr::SetOperation { op: SetOperator::Union, set_quantifier: SetQuantifier::All, left, right } => {
                self.union(left, right, common)
            }
            other => {
                self.problem("a side of UNION ALL is a SELECT", "", position(other.span()));
                None
            }
        }
    }

    /// A row for each element of a list.
    pub(super) fn unnest(&mut self, list: &Expr, projection: &mut Projection, scope: &mut Scope) {
        let mut expr = list.clone();
        normalise(&mut expr, &scope.relations, &mut self.problems);
        let mut made = vec![UNNESTED.to_owned()];
        let column = column_of(&expr).unwrap_or_else(|| {
            self.push(StreamStep::Set(vec![Named { name: LIST.to_owned(), value: expression(self.sql, list, &expr) }]));
            made.push(LIST.to_owned());
            LIST.to_owned()
        });
        self.push(StreamStep::Explode { column, element: UNNESTED.to_owned() });
        scope.is_passed_on |= scope.window.is_some();
        if let Some(columns) = &mut scope.columns {
            columns.extend(made.iter().cloned());
        }
        if let Some(except) = &mut projection.wildcard {
            except.extend(made);
        }
    }
}

/// The columns of what is unnested, and of its elements. No name of a user begins so.
const LIST: &str = "__list";
pub(super) const UNNESTED: &str = "__element";

/// Puts the column of the elements in the place of `unnest(...)`; further calls are left, and refused.
pub(super) fn take_unnested(expr: &mut Expr, unnested: &mut Option<Expr>) {
    let _ = visit_expressions_mut(expr, |expr| {
        if let Expr::Function(function) = &*expr
            && function_name(function) == "unnest"
            && unnested.is_none()
            && let Some([list]) = arguments(function).as_deref()
        {
            *unnested = Some((*list).clone());
            *expr = Expr::Identifier(Ident { span: function.name.span(), ..Ident::new(UNNESTED) });
        }
        GO_ON
    });
}
