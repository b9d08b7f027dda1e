//! Functions that a pipeline's document defines: a name with arguments, and an expression over them in whose place a call
//! of it stands.
//!
//! A call is written out before anything is planned, so a defined function is whatever its expression is: an aggregate,
//! if it calls aggregates, with all that holds for those (it merges, its state is bounded, it is the same in any order),
//! or else a function of one row. A function sees those before it and not itself, so writing out comes to an end;
//! how large and how deep it may become is counted before anything is put in its place.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart,
    Query, Select, SelectItem, SetExpr, Value, Visit, VisitMut, Visitor, VisitorMut, visit_expressions,
    visit_expressions_mut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::aggregates::fold::{FOLD, Merge};
use crate::error::{SqlError, nearest};
use crate::functions::FUNCTIONS;
use crate::gate::gate_predicate;
use crate::streaming::is_window_name;

mod aggregates;

pub use aggregates::DefinedAggregate;

/// So many parts all calls of an expression or a query may become, together.
const PARTS_MAX: usize = 10_000;
/// So deep what a call becomes may nest: as deep as a chain of operators may be that is written out by hand.
const DEPTH_MAX: usize = 500;
/// The most arguments of a function.
const ARGUMENTS_MAX: usize = 16;

/// What reads like a call and is none: the parser takes it for something else.
const OF_SQL: &[&str] = &[
    "array",
    "case",
    "cast",
    "ceiling",
    "convert",
    "cube",
    "current_timestamp",
    "date",
    "exists",
    "extract",
    "floor",
    "grouping_sets",
    "if",
    "in",
    "interval",
    "localtime",
    "localtimestamp",
    "not",
    "position",
    "rollup",
    "row",
    "safe_cast",
    "substring",
    "time",
    "timestamp",
    "trim",
    "try_cast",
    "unnest",
    "values",
];

/// The functions of a document.
#[derive(Clone, Debug, Default)]
pub struct Defined {
    functions: BTreeMap<String, Definition>,
    /// How states of its aggregates are put together.
    merges: Vec<Merge>,
}

#[derive(Clone, Debug)]
struct Definition {
    arguments: Vec<String>,
    /// Nothing in it is a defined function any more.
    body: Expr,
    is_aggregate: bool,
}

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq)]
pub struct WrongDefinition {
    /// Which one, by its place.
    pub at: usize,
    /// Which part of it, as a JSON pointer; empty for the whole.
    pub part: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Where in the expression, if that is known: line and column.
    pub inside: Option<(u64, u64)>,
}

impl Defined {
    /// Reads definitions: each a name with its arguments, such as `error_rate(status)`, and an expression.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(definitions: &[(String, String)]) -> Result<Self, Vec<WrongDefinition>> {
        let mut defined = Self::default();
        let mut wrong = Vec::new();
        let names: Vec<Option<String>> = definitions.iter().map(|(call, _)| Some(signature(call).ok()?.0)).collect();
        for (at, (call, body)) in definitions.iter().enumerate() {
            match defined.define(call, body, &names[at..]) {
                Ok((name, _)) if defined.functions.contains_key(&name) => {
                    wrong.push(WrongDefinition::new(at, format!("the function {name} is defined twice"), ""));
                }
                Ok((name, definition)) => {
                    defined.functions.insert(name, definition);
                }
                Err(found) => wrong.push(WrongDefinition { at, ..found }),
            }
        }
        if wrong.is_empty() { Ok(defined) } else { Err(wrong) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// How states of its aggregates are put together.
    pub(crate) fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// Whether a name is free.
    fn check_name(name: &str) -> Result<(), WrongDefinition> {
        let taken = if FUNCTIONS.has(name) || is_window_name(name) {
            format!("there is a function {name} already")
        } else if OF_SQL.contains(&name) {
            format!("{name} is a word of SQL itself")
        } else {
            return Ok(());
        };
        Err(WrongDefinition::new(0, taken, "give it another name"))
    }

    /// Reads one definition; `later` are the names of it and of those after it.
    fn define(
        &self,
        call: &str,
        body: &str,
        later: &[Option<String>],
    ) -> Result<(String, Definition), WrongDefinition> {
        let refuse = |message: String, hint: &str| Err(WrongDefinition::new(0, message, hint));
        let (name, arguments) = signature(call)?;
        Self::check_name(&name)?;
        let mut expr = gate_predicate(body).map_err(WrongDefinition::of)?.expr;
        if let Some(problem) = self.wrong_in(&expr, &arguments, later) {
            return Err(problem);
        }
        self.expand(&mut expr).map_err(WrongDefinition::of)?;
        let is_aggregate = calls_aggregates(&expr);
        if let Some(argument) = outside(&expr, &arguments).filter(|_| is_aggregate) {
            let message =
                format!("the rows of a group may differ in `{argument}`, which is no argument of an aggregate here");
            return refuse(message, "put it into an aggregate such as max(...)");
        }
        Ok((name, Definition { arguments, body: without_places(expr), is_aggregate }))
    }

    /// The first thing that is wrong in an expression.
    fn wrong_in(&self, expr: &Expr, arguments: &[String], later: &[Option<String>]) -> Option<WrongDefinition> {
        let mut problem = None;
        let _ = visit_expressions(expr, |part| {
            problem = self.wrong_part(part, arguments, later);
            if problem.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        problem
    }

    /// What is wrong with a part of an expression.
    fn wrong_part(&self, part: &Expr, arguments: &[String], later: &[Option<String>]) -> Option<WrongDefinition> {
        let wrong = |message: String, hint: String, span: Span| {
            let inside = (span.start.line > 0).then_some((span.start.line, span.start.column));
            Some(WrongDefinition { at: 0, part: String::new(), message, hint, inside })
        };
        match part {
            Expr::Identifier(ident) if !arguments.contains(&name_of(ident)) => {
                let hint = match nearest(&name_of(ident), arguments.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if arguments.is_empty() => "it has no arguments".to_owned(),
                    None => format!("its arguments are {}", arguments.join(", ")),
                };
                wrong(format!("`{}` is no argument of the function", ident.value), hint, ident.span)
            }
            Expr::CompoundIdentifier(parts) => {
                let hint = "a part of an argument is written argument['part']".to_owned();
                let span = parts.first().map_or_else(Span::empty, |first| first.span);
                wrong("a function knows its arguments, and no tables".to_owned(), hint, span)
            }
            Expr::Function(function) => {
                let name = function_name(function);
                let is_later = later.iter().flatten().any(|later| *later == name);
                let span = function.name.0.first().map_or_else(Span::empty, |part| match part {
                    ObjectNamePart::Identifier(ident) => ident.span,
                    ObjectNamePart::Function(_) => Span::empty(),
                });
                if !is_later {
                    return None;
                }
                if later.first() == Some(&Some(name.clone())) {
                    let hint = "say what it is without it".to_owned();
                    return wrong(format!("{name} calls itself, which would never end"), hint, span);
                }
                wrong(format!("{name} is defined after it"), "define it before".to_owned(), span)
            }
            _ => None,
        }
    }

    /// Writes out the calls in an expression.
    ///
    /// # Errors
    /// If one has other arguments than the function, or what comes of it is too long.
    pub(crate) fn expand(&self, expr: &mut Expr) -> Result<(), SqlError> {
        if self.is_empty() {
            return Ok(());
        }
        let mut expander = Expander { defined: self, parts: 0, problem: None };
        let _ = expr.visit(&mut expander);
        expander.problem.map_or(Ok(()), Err)
    }

    /// Writes out the calls in a query; columns without a name keep the one they would have.
    ///
    /// # Errors
    /// As [`Defined::expand`].
    pub(crate) fn expand_query(&self, query: &mut Query) -> Result<(), SqlError> {
        if self.is_empty() {
            return Ok(());
        }
        let _ = query.visit(&mut Names(self));
        let mut expander = Expander { defined: self, parts: 0, problem: None };
        let _ = query.visit(&mut expander);
        expander.problem.map_or(Ok(()), Err)
    }

    /// Whether an expression calls one of them.
    pub(crate) fn is_called_in(&self, expr: &Expr) -> bool {
        let found = visit_expressions(expr, |part| match part {
            Expr::Function(function) if self.find(function).is_some() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        found.is_break()
    }

    fn find(&self, function: &Function) -> Option<&Definition> {
        self.functions.get(&function_name(function)).filter(|_| function.name.0.len() == 1)
    }
}

impl WrongDefinition {
    fn new(at: usize, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { at, part: String::new(), message: message.into(), hint: hint.into(), inside: None }
    }

    fn of(error: SqlError) -> Self {
        let inside = error.position().map(|position| (position.line, position.column));
        Self { inside, ..Self::new(0, error.without_position().to_string(), "") }
    }
}

fn name_of(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn function_name(function: &Function) -> String {
    match function.name.0.last() {
        Some(ObjectNamePart::Identifier(ident)) => ident.value.to_lowercase(),
        _ => String::new(),
    }
}

/// The name of a function and of its arguments.
fn signature(call: &str) -> Result<(String, Vec<String>), WrongDefinition> {
    let usage = "write a name with its arguments, such as error_rate(status)";
    let wrong = || WrongDefinition::new(0, format!("`{call}` is not the name of a function with its arguments"), usage);
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && name.len() <= 64
    };
    let (name, rest) = call.trim().split_once('(').ok_or_else(wrong)?;
    let inner = rest.strip_suffix(')').ok_or_else(wrong)?;
    let arguments: Vec<String> = match inner.trim() {
        "" => Vec::new(),
        inner => inner.split(',').map(|argument| argument.trim().to_owned()).collect(),
    };
    let name = name.trim().to_owned();
    if !is_name(&name) || !arguments.iter().all(|argument| is_name(argument)) {
        return Err(wrong());
    }
    if arguments.len() > ARGUMENTS_MAX {
        return Err(WrongDefinition::new(0, format!("a function has at most {ARGUMENTS_MAX} arguments"), ""));
    }
    match arguments.iter().enumerate().find(|(at, argument)| arguments[..*at].contains(argument)) {
        Some((_, twice)) => Err(WrongDefinition::new(0, format!("two arguments are called `{twice}`"), "")),
        None => Ok((name, arguments)),
    }
}

fn is_aggregate(function: &Function) -> bool {
    let name = function_name(function);
    let mut known = FUNCTIONS.aggregate_of_pipelines.iter();
    function.over.is_none()
        && (name.starts_with(FOLD) || known.any(|known| known.name() == name || known.aliases().contains(&name)))
}

fn calls_aggregates(expr: &Expr) -> bool {
    let found = visit_expressions(expr, |part| match part {
        Expr::Function(function) if is_aggregate(function) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// An argument that stands outside of all aggregates.
fn outside(expr: &Expr, arguments: &[String]) -> Option<String> {
    let mut rest = expr.clone();
    let _ = visit_expressions_mut(&mut rest, |part| {
        if matches!(part, Expr::Function(function) if is_aggregate(function)) {
            *part = Expr::Value(Value::Null.with_empty_span());
        }
        ControlFlow::<()>::Continue(())
    });
    let mut found = None;
    let _ = visit_expressions(&rest, |part| match part {
        Expr::Identifier(ident) if arguments.contains(&name_of(ident)) => {
            found = Some(name_of(ident));
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    found
}

/// Places in a definition are none in what calls it.
fn without_places(mut expr: Expr) -> Expr {
    let _ = visit_expressions_mut(&mut expr, |part| {
        match part {
            Expr::Identifier(ident) => ident.span = Span::empty(),
            Expr::Value(value) => value.span = Span::empty(),
            Expr::Function(function) => {
                let ObjectName(parts) = &mut function.name;
                for part in parts {
                    if let ObjectNamePart::Identifier(ident) = part {
                        ident.span = Span::empty();
                    }
                }
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    expr
}

/// How many parts an expression has, and how deep they nest.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    parts: usize,
    depth: usize,
}

impl Size {
    fn of(expr: &Expr) -> Self {
        let mut measuring = Measuring::default();
        let _ = expr.visit(&mut measuring);
        measuring.size
    }
}

#[derive(Default)]
struct Measuring {
    size: Size,
    depth: usize,
}

impl Visitor for Measuring {
    type Break = ();

    fn pre_visit_expr(&mut self, _expr: &Expr) -> ControlFlow<()> {
        self.depth += 1;
        self.size.parts += 1;
        self.size.depth = self.size.depth.max(self.depth);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _expr: &Expr) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

struct Expander<'a> {
    defined: &'a Defined,
    /// Parts that calls have become.
    parts: usize,
    problem: Option<SqlError>,
}

impl VisitorMut for Expander<'_> {
    type Break = ();

    // Arguments have been written out when their call is.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Function(function) = &*expr else { return ControlFlow::Continue(()) };
        let Some(definition) = self.defined.find(function) else { return ControlFlow::Continue(()) };
        match written_out(function, definition, &mut self.parts) {
            Ok(written_out) => {
                *expr = Expr::Nested(Box::new(written_out));
                ControlFlow::Continue(())
            }
            Err(error) => {
                self.problem = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// What a call stands for.
fn written_out(call: &Function, definition: &Definition, so_far: &mut usize) -> Result<Expr, SqlError> {
    let name = function_name(call);
    let usage = format!("{name}({})", definition.arguments.join(", "));
    let FunctionArguments::List(list) = &call.args else {
        return Err(SqlError::invalid(format!("{name} is called as {usage}")));
    };
    let mut values = Vec::with_capacity(list.args.len());
    for argument in &list.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => values.push(value),
            _ => return Err(SqlError::invalid(format!("{name} is called with expressions, as {usage}"))),
        }
    }
    let is_plain = list.duplicate_treatment.is_none() && list.clauses.is_empty() && call.within_group.is_empty();
    if !is_plain || call.over.is_some() || call.null_treatment.is_some() {
        return Err(SqlError::invalid(format!("{name} is called as {usage}, without DISTINCT, ORDER BY or OVER")));
    }
    if call.filter.is_some() && !definition.is_aggregate {
        return Err(SqlError::invalid(format!("{name} calls no aggregates, so there is nothing to FILTER")));
    }
    if values.len() != definition.arguments.len() {
        let (wanted, given) = (definition.arguments.len(), values.len());
        return Err(SqlError::invalid(format!("{name} takes {wanted} arguments and was given {given}: {usage}")));
    }
    let own = Size::of(&definition.body);
    let sizes: Vec<Size> = values.iter().map(|value| Size::of(value)).collect();
    // Each argument as often as it stands in the body, and a condition as often as there can be aggregates.
    let mut parts = own.parts;
    let _ = visit_expressions(&definition.body, |part| {
        if let Expr::Identifier(ident) = part
            && let Some(at) = definition.arguments.iter().position(|argument| *argument == name_of(ident))
        {
            parts = parts.saturating_add(sizes[at].parts + 1);
        } else if let (Expr::Function(_), Some(condition)) = (part, &call.filter) {
            parts = parts.saturating_add(Size::of(condition).parts + 3);
        }
        ControlFlow::<()>::Continue(())
    });
    let inner = sizes.iter().copied().chain(call.filter.as_deref().map(Size::of)).map(|size| size.depth).max();
    let depth = own.depth + inner.unwrap_or(0) + 3;
    *so_far = so_far.saturating_add(parts);
    if *so_far > PARTS_MAX || depth > DEPTH_MAX {
        let message = format!(
            "calls of defined functions become more than {PARTS_MAX} parts, or nest deeper than {DEPTH_MAX}, with {name}"
        );
        return Err(SqlError::invalid(message));
    }
    let mut expr = definition.body.clone();
    let _ = visit_expressions_mut(&mut expr, |part| {
        match part {
            Expr::Identifier(ident) => {
                let at = definition.arguments.iter().position(|argument| *argument == name_of(ident));
                if let Some(at) = at {
                    *part = Expr::Nested(Box::new(values[at].clone()));
                }
            }
            // What is left out of the group is left out of all its aggregates.
            Expr::Function(function) if is_aggregate(function) => {
                if let Some(condition) = &call.filter {
                    let own = function.filter.take();
                    function.filter = Some(match own {
                        None => condition.clone(),
                        Some(own) => {
                            let nested = |expr: Box<Expr>| Box::new(Expr::Nested(expr));
                            let (left, right) = (nested(own), nested(condition.clone()));
                            Box::new(Expr::BinaryOp { left, op: BinaryOperator::And, right })
                        }
                    });
                }
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    Ok(expr)
}

/// Names the columns of all queries in a query.
struct Names<'a>(&'a Defined);

impl VisitorMut for Names<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        name_columns(&mut query.body, self.0);
        ControlFlow::Continue(())
    }
}

/// A column is called as the call that it was, not as what that stands for.
fn name_columns(body: &mut SetExpr, defined: &Defined) {
    match body {
        SetExpr::Select(select) => {
            let Select { projection, .. } = select.as_mut();
            for item in projection {
                let SelectItem::UnnamedExpr(expr) = item else { continue };
                if defined.is_called_in(expr) {
                    let alias = Ident::with_quote('"', expr.to_string());
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            }
        }
        SetExpr::SetOperation { left, right, .. } => {
            name_columns(left, defined);
            name_columns(right, defined);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
