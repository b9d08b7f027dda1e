//! Expressions: one spelling for the same thing, a text for each, and what may not be in any.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArguments, Ident, ObjectName, ObjectNamePart, Spanned, Subscript, Value,
    VisitMut, VisitorMut, visit_expressions_mut,
};
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;
use datafusion::sql::sqlparser::tokenizer::Span;

use super::{Expression, GO_ON, STOP, StreamProblem};
use crate::aggregates::fold::FOLD;
use crate::error::TextPosition;
use crate::functions::FUNCTIONS;
use crate::gate::gate_predicate;

/// The beginning of something in the query.
pub(super) fn position(span: Span) -> Option<TextPosition> {
    (span.start.line > 0).then_some(TextPosition { line: span.start.line, column: span.start.column })
}

/// The beginning of an expression in the query.
pub(super) fn position_of(expr: &Expr) -> Option<TextPosition> {
    match expr {
        Expr::Nested(inner) => position_of(inner),
        // The span of a call does not always begin at its name.
        Expr::Function(function) => position(function.name.span()),
        _ => position(expr.span()),
    }
}

/// The name an identifier stands for.
pub(super) fn name_of(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The identifier of a column, in quotes where it needs them.
pub(super) fn identifier(name: &str) -> Ident {
    let is_simple = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && ALL_KEYWORDS.binary_search(&name.to_ascii_uppercase().as_str()).is_err();
    if is_simple { Ident::new(name) } else { Ident::with_quote('"', name) }
}

/// An expression without brackets around it.
pub(super) fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => bare(inner),
        expr => expr,
    }
}

/// The column an expression is, if it is nothing more.
pub(super) fn column_of(expr: &Expr) -> Option<String> {
    match bare(expr) {
        Expr::Identifier(ident) => Some(name_of(ident)),
        _ => None,
    }
}

/// The name of a function, without what may stand before it.
pub(super) fn function_name(function: &Function) -> String {
    match function.name.0.last() {
        Some(ObjectNamePart::Identifier(ident)) => ident.value.to_lowercase(),
        _ => String::new(),
    }
}

/// Whether a call aggregates.
pub(super) fn is_aggregate(function: &Function) -> bool {
    let name = function_name(function);
    let mut known = FUNCTIONS.aggregate.iter();
    function.over.is_none()
        && (name.starts_with(FOLD) || known.any(|known| known.name() == name || known.aliases().contains(&name)))
}

/// What may stand before the name of a column.
#[derive(Clone, Debug, Default)]
pub(super) struct Relations {
    /// Each with those of its columns that have another name by now.
    names: Vec<(String, BTreeMap<String, String>)>,
    /// Columns that more than one of them has.
    ambiguous: BTreeSet<String>,
}

impl Relations {
    /// Relations whose columns have the names they always had.
    pub(super) fn of(names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().map(|name| (name, BTreeMap::new())).collect();
        Self { names, ambiguous: BTreeSet::new() }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.iter().any(|(known, _)| known == name)
    }

    /// The only one of them.
    pub(super) fn only(&self) -> Option<&str> {
        match self.names.as_slice() {
            [(name, _)] => Some(name),
            _ => None,
        }
    }

    /// What a column is called in the query, as far as it has another name now.
    pub(super) fn called(&self, column: &str) -> String {
        let before = self.names.iter().find_map(|(relation, renamed)| {
            let (before, _) = renamed.iter().find(|(_, now)| *now == column)?;
            Some(format!("{relation}.{before}"))
        });
        before.unwrap_or_else(|| column.to_owned())
    }

    /// An expression with its columns as they are called in the query.
    pub(super) fn written(&self, expr: &Expr) -> String {
        let mut expr = expr.clone();
        let _ = visit_expressions_mut(&mut expr, |expr| {
            if let Expr::Identifier(ident) = expr {
                // Nobody looks into it; it is only shown.
                let called = self.called(&name_of(ident));
                if called != name_of(ident) {
                    *ident = Ident::new(called);
                }
            }
            GO_ON
        });
        expr.to_string()
    }

    /// Whether they are those of a join.
    pub(super) fn are_several(&self) -> bool {
        self.names.len() > 1
    }

    pub(super) fn is_ambiguous(&self, column: &str) -> bool {
        self.ambiguous.contains(column)
    }

    /// Whether some column can only be named with its relation.
    pub(super) fn has_ambiguous(&self) -> bool {
        !self.ambiguous.is_empty()
    }

    /// The names of both, of which the columns of the other have other names now.
    pub(super) fn and(mut self, other: Self, renamed: &BTreeMap<String, String>) -> Self {
        self.ambiguous.extend(other.ambiguous);
        self.ambiguous.extend(renamed.keys().cloned());
        for (name, mut before) in other.names {
            for now in before.values_mut() {
                if let Some(other) = renamed.get(now) {
                    now.clone_from(other);
                }
            }
            for (column, now) in renamed {
                before.entry(column.clone()).or_insert_with(|| now.clone());
            }
            self.names.push((name, before));
        }
        self
    }

    /// The column a relation's column is now, if that is the name of a relation.
    fn column(&self, relation: &Ident, column: &Ident) -> Option<Ident> {
        let (_, renamed) = self.names.iter().find(|(known, _)| *known == name_of(relation))?;
        Some(match renamed.get(&name_of(column)) {
            Some(now) => Ident { span: column.span, ..identifier(now) },
            None => spelled(column),
        })
    }
}

/// Brings an expression into the one spelling in which equal ones compare as equal: names in lower case
/// unless they are quoted, and columns without the name of the relation, which is one of `relations`.
/// What may not be in any expression is a problem.
pub(super) fn normalise(expr: &mut Expr, relations: &Relations, problems: &mut Vec<StreamProblem>) {
    let mut normaliser = Normaliser { relations, user: User::Column, problems };
    let _ = expr.visit(&mut normaliser);
}

/// What `user` without brackets is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum User {
    /// A column, to everybody who writes it.
    Column,
    /// A function, to the parser.
    Function,
}

struct Normaliser<'a> {
    relations: &'a Relations,
    user: User,
    problems: &'a mut Vec<StreamProblem>,
}

impl Normaliser<'_> {
    fn refuse(&mut self, message: &str, hint: &str, position: Option<TextPosition>) -> ControlFlow<()> {
        self.problems.push(StreamProblem::new(message, hint, position));
        STOP
    }
}

impl VisitorMut for Normaliser<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let here = position_of(expr);
        match expr {
            Expr::Identifier(ident) => {
                if self.relations.is_ambiguous(&name_of(ident)) {
                    let message = format!("both sides of the join have a column `{}`", name_of(ident));
                    return self.refuse(&message, "write the name of one before it", here);
                }
                *ident = spelled(ident);
            }
            Expr::CompoundIdentifier(parts) => {
                let of_relation = match parts.as_slice() {
                    [relation, column, ..] => self.relations.column(relation, column),
                    _ => None,
                };
                let skipped = if of_relation.is_some() { 2 } else { 0 };
                let others = parts.iter().skip(skipped).map(spelled);
                let mut rest: Vec<Ident> = of_relation.into_iter().chain(others).collect();
                *expr = match (rest.pop(), rest.is_empty()) {
                    (Some(last), true) => Expr::Identifier(last),
                    (last, _) => {
                        rest.extend(last);
                        Expr::CompoundIdentifier(rest)
                    }
                };
            }
            // The name of a field is not a column, and is not to look like one.
            Expr::CompoundFieldAccess { access_chain, .. } => {
                for access in access_chain {
                    if let AccessExpr::Dot(Expr::Identifier(field)) = access {
                        let name = Value::SingleQuotedString(name_of(field)).with_span(field.span);
                        *access = AccessExpr::Subscript(Subscript::Index { index: Expr::Value(name) });
                    }
                }
            }
            Expr::Function(function)
                if self.user == User::Column
                    && function.args == FunctionArguments::None
                    && function_name(function) == "user" =>
            {
                // It may stand behind the name of a relation.
                let relation = match function.name.0.as_slice() {
                    [ObjectNamePart::Identifier(relation), _] => Some(relation),
                    _ => None,
                };
                let user = Ident { span: function.name.span(), ..Ident::with_quote('"', "user") };
                if relation.is_none() && self.relations.is_ambiguous("user") {
                    let message = "both sides of the join have a column `user`";
                    return self.refuse(message, "write the name of one before it", here);
                }
                let of_relation = relation.and_then(|relation| self.relations.column(relation, &user));
                *expr = Expr::Identifier(of_relation.unwrap_or(user));
            }
            Expr::Function(function) => {
                function.name = lower(&function.name);
                match function_name(function).as_str() {
                    "unnest" => {
                        let message = "unnest is called once, in a select list";
                        return self.refuse(message, "unnest in a query inside, and go on from there", here);
                    }
                    "row_number" | "rank" | "dense_rank" if function.over.is_some() => {
                        let hint = "the first rows of a window of time: SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(time, '1h'), key ORDER BY time) AS n FROM input) WHERE n = 1";
                        return self.refuse("a rank over a stream changes with every row", hint, here);
                    }
                    _ if function.over.is_some() => {
                        let hint = "aggregate within windows of time: GROUP BY tumble(...) or hop(...)";
                        return self.refuse(
                            "functions with OVER are not supported in the SQL of a pipeline",
                            hint,
                            here,
                        );
                    }
                    _ => {}
                }
            }
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                return self.refuse(
                    "subqueries inside expressions are not supported in the SQL of a pipeline",
                    "",
                    here,
                );
            }
            Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => {
                let hint = "one pipeline for each grouping";
                return self.refuse(
                    "GROUPING SETS, CUBE and ROLLUP are not supported in the SQL of a pipeline",
                    hint,
                    here,
                );
            }
            Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
                return self.refuse("the SQL of a pipeline has no parameters", "", here);
            }
            _ => {}
        }
        GO_ON
    }
}

fn spelled(ident: &Ident) -> Ident {
    match ident.quote_style {
        Some(_) => ident.clone(),
        None => Ident { value: ident.value.to_lowercase(), ..ident.clone() },
    }
}

fn lower(name: &ObjectName) -> ObjectName {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(ident) if ident.quote_style.is_none() => ObjectNamePart::Identifier(spelled(ident)),
        part => part.clone(),
    };
    ObjectName(name.0.iter().map(part).collect())
}

/// The text of `expr`, which was `written` in the query: as the user wrote it where that means the same.
pub(super) fn expression(sql: &str, written: &Expr, expr: &Expr) -> Expression {
    let (written, expr) = (bare(written), bare(expr));
    let position = position_of(written);
    for slice in slices(sql, position, written.span()) {
        if let Ok(mut again) = gate_predicate(slice) {
            // It is planned as it stands there.
            let mut problems = Vec::new();
            let relations = Relations::default();
            let mut normaliser = Normaliser { relations: &relations, user: User::Function, problems: &mut problems };
            let _ = again.expr.visit(&mut normaliser);
            if again.expr == *expr {
                return Expression { text: slice.to_owned(), position, is_verbatim: true };
            }
        }
    }
    Expression { text: expr.to_string(), position, is_verbatim: false }
}

/// How far behind the end of its span an expression is looked for: spans leave out closing brackets
/// and words at the end.
const SLICES_MAX: usize = 6;

/// The texts that may be an expression at that place, shortest first.
fn slices(sql: &str, position: Option<TextPosition>, span: Span) -> Vec<&str> {
    let start = position.and_then(|position| offset(sql, position.line, position.column));
    let (Some(start), Some(end)) = (start, offset(sql, span.end.line, span.end.column)) else { return Vec::new() };
    let Some(rest) = sql.get(end..) else { return Vec::new() };
    let is_end = |c: char| matches!(c, ')' | ']' | '\'') || c.is_whitespace();
    let ends = rest.char_indices().filter(|(_, c)| is_end(*c)).flat_map(|(at, c)| {
        let after = at + c.len_utf8();
        if c.is_whitespace() { [at, at] } else { [at, after] }
    });
    let mut ends: Vec<usize> = std::iter::once(0).chain(ends.take(2 * SLICES_MAX)).collect();
    ends.push(rest.len().min(256));
    ends.dedup();
    ends.into_iter().filter_map(|length| sql.get(start..end + length)).collect()
}

fn offset(sql: &str, line: u64, column: u64) -> Option<usize> {
    let line = usize::try_from(line).ok()?;
    let column = usize::try_from(column).ok()?.checked_sub(1)?;
    let start = match line {
        0 => return None,
        1 => 0,
        _ => sql.match_indices('\n').nth(line - 2)?.0 + 1,
    };
    let rest = &sql[start..];
    Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at))
}
