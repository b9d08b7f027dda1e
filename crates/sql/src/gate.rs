//! The first gate: which texts become a query at all.
//!
//! A text is measured before it is parsed (length, tokens, depth, operators in a row), because a
//! chain of a few thousand operators overflows the stack of any recursive planner, and again
//! afterwards (relations after common table expressions are expanded, grouping sets), because a
//! short text can describe a plan of exponential size. What passes is exactly one `SELECT`,
//! `EXPLAIN`, `SHOW TABLES`, `SHOW COLUMNS` or `DESCRIBE`; everything else is absent, not forbidden
//! case by case.

mod predicate;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::{DFParserBuilder, ExplainStatement, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, GroupByWithModifier, Ident, ObjectName, ObjectNamePart, Query, SelectItem, SetExpr, SetOperator,
    SetQuantifier, ShowStatementIn, ShowStatementOptions, Statement as SqlStatement, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use crate::error::{ErrorContext, SqlError, TextPosition, from_datafusion, nearest};
pub(crate) use predicate::{gate_order, gate_predicate};

/// The longest text of a query.
pub const SQL_BYTES_MAX: usize = 64 * 1024;
/// The most tokens in a query.
const TOKENS_MAX: usize = 20_000;
/// The most `CASE` one inside another: the types of each are looked up several times by the one around it.
const CASES_MAX: usize = 10;
/// The most operators one inside or after another.
const OPERATORS_MAX: usize = 500;
/// The deepest nesting of brackets, and of the parser.
const DEPTH_MAX: usize = 50;
/// The most tables, views and subqueries once every common table expression is written out.
const RELATIONS_MAX: usize = 128;
/// The most `SELECT`s.
const SELECTS_MAX: usize = 128;
/// The most columns inside `CUBE`, which makes 2^n groupings.
const CUBE_MAX: usize = 6;
/// The most `CUBE`, `ROLLUP` and `GROUPING SETS` of one query, which multiply.
const GROUPING_SETS_MAX: usize = 2;
/// The most parameters.
const PARAMETERS_MAX: usize = 1_000;

/// A statement that passed.
#[derive(Debug)]
pub(crate) struct Gated {
    /// What is planned.
    pub(crate) statement: Statement,
    /// Whether it is an `EXPLAIN`.
    pub(crate) explain: bool,
    /// How many parameters it names: the largest `n` of `$n`.
    pub(crate) parameters: usize,
    /// The names of the result's columns, as far as they are the text of an expression.
    pub(crate) names: Option<OutputNames>,
}

/// What the columns of the result are called: the expression as it was written, instead of the
/// planner's spelling of it (`attributes['k']`, not `logs.attributes[Utf8("k")]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutputNames {
    /// Names of the columns before the wildcard, if there is one; `None` keeps the planner's.
    before: Vec<Option<String>>,
    /// Names of the columns after the wildcard; `None` if there is no wildcard.
    after: Option<Vec<Option<String>>>,
}

impl OutputNames {
    /// Takes the names from a query, and makes its columns differ where two would be called the
    /// same, which the planner does not allow.
    fn take(query: &mut Query) -> Option<Self> {
        let mut body = query.body.as_mut();
        let items = loop {
            match body {
                SetExpr::Select(select) => break &mut select.projection,
                SetExpr::Query(query) => body = query.body.as_mut(),
                SetExpr::SetOperation { left, .. } => body = left.as_mut(),
                _ => return None,
            }
        };
        let mut names = Self { before: Vec::new(), after: None };
        let mut seen: HashMap<String, usize> = HashMap::new();
        for item in items {
            let (shown, written) = match item {
                SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) => {
                    (None, expr.to_string())
                }
                SelectItem::UnnamedExpr(expr) => (Some(expr.to_string()), expr.to_string()),
                SelectItem::ExprWithAlias { alias, .. } => (None, ident_key(alias)),
                _ if names.after.is_some() => return None,
                _ => {
                    names.after = Some(Vec::new());
                    continue;
                }
            };
            let count = seen.entry(written.clone()).or_default();
            *count += 1;
            let mut shown = shown;
            if *count > 1 {
                let alias = Ident::with_quote('"', format!("{written} {count}"));
                let expr = match item {
                    SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => expr.clone(),
                    _ => return None,
                };
                shown = Some(shown.unwrap_or_else(|| match &expr {
                    Expr::Identifier(ident) => ident_key(ident),
                    Expr::CompoundIdentifier(parts) => parts.last().map(ident_key).unwrap_or_default(),
                    _ => written,
                }));
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
            names.after.as_mut().unwrap_or(&mut names.before).push(shown);
        }
        Some(names)
    }

    /// The name of column `at` of `columns`, where it differs from the planner's.
    pub(crate) fn name(&self, at: usize, columns: usize) -> Option<&str> {
        if at < self.before.len() {
            return self.before[at].as_deref();
        }
        let after = self.after.as_ref()?;
        let from_end = columns.checked_sub(at + 1)?;
        let index = after.len().checked_sub(from_end + 1)?;
        after[index].as_deref()
    }
}

fn position(location: Location) -> Option<TextPosition> {
    (location.line > 0).then_some(TextPosition { line: location.line, column: location.column })
}

/// Words that continue an expression or a list of relations without a bracket, so that a chain of
/// them becomes a deep tree.
const CHAINING: [Keyword; 24] = [
    Keyword::AND,
    Keyword::OR,
    Keyword::XOR,
    Keyword::NOT,
    Keyword::LIKE,
    Keyword::ILIKE,
    Keyword::SIMILAR,
    Keyword::RLIKE,
    Keyword::REGEXP,
    Keyword::IS,
    Keyword::IN,
    Keyword::BETWEEN,
    Keyword::NOTNULL,
    Keyword::AT,
    Keyword::COLLATE,
    Keyword::DIV,
    Keyword::OVERLAPS,
    Keyword::UNION,
    Keyword::EXCEPT,
    Keyword::INTERSECT,
    Keyword::MINUS,
    Keyword::JOIN,
    Keyword::WHEN,
    Keyword::CASE,
];

/// Measures the text, and counts its parameters.
pub(crate) fn measure(sql: &str) -> Result<usize, SqlError> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(SqlError::TooLarge { what: "bytes", value: sql.len(), max: SQL_BYTES_MAX });
    }
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|error| SqlError::Syntax { message: error.message, position: position(error.location) })?;
    let mut parameters = 0;
    let mut seen = 0;
    // Operators of the brackets that are open, and of the current level since the last comma.
    let mut outer = 0;
    let mut here = 0;
    let mut stack: Vec<usize> = Vec::new();
    let mut cases: usize = 0;
    for token in &tokens {
        match &token.token {
            Token::Whitespace(_) | Token::EOF => continue,
            Token::LParen | Token::LBracket | Token::LBrace => {
                stack.push(here);
                if stack.len() > DEPTH_MAX {
                    return Err(SqlError::Invalid {
                        message: format!("more than {DEPTH_MAX} brackets are open"),
                        position: position(token.span.start),
                    });
                }
                // An index is an operator of the level it stands on.
                let chained = usize::from(token.token == Token::LBracket);
                if let Some(top) = stack.last_mut() {
                    *top += chained;
                }
                outer += here + chained;
                here = 0;
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                if let Some(before) = stack.pop() {
                    outer -= before;
                    here = before;
                }
            }
            Token::Comma => here = 0,
            Token::Word(word) if word.quote_style.is_none() => {
                cases = match word.keyword {
                    Keyword::CASE => cases + 1,
                    Keyword::END => cases.saturating_sub(1),
                    _ => cases,
                };
                if cases > CASES_MAX {
                    return Err(SqlError::TooLarge { what: "CASE within each other", value: cases, max: CASES_MAX });
                }
                here += usize::from(CHAINING.contains(&word.keyword));
            }
            Token::Word(_)
            | Token::Number(..)
            | Token::Char(_)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::Period
            | Token::SemiColon => {}
            Token::Placeholder(text) => {
                let number = text.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
                match number {
                    Some(number) if (1..=PARAMETERS_MAX).contains(&number) => parameters = parameters.max(number),
                    _ => {
                        return Err(SqlError::Invalid {
                            message: format!("parameters are written $1, $2 and so on, not {text}"),
                            position: position(token.span.start),
                        });
                    }
                }
            }
            // Types of nested calls are looked up again on each level, and these break a chain of `+` into calls within calls.
            Token::StringConcat | Token::Div | Token::Mod => here += 3,
            _ => here += 1,
        }
        seen += 1;
        if outer + here > OPERATORS_MAX {
            return Err(SqlError::TooLarge {
                what: "operators in one expression",
                value: outer + here,
                max: OPERATORS_MAX,
            });
        }
    }
    if seen > TOKENS_MAX {
        return Err(SqlError::TooLarge { what: "tokens", value: seen, max: TOKENS_MAX });
    }
    Ok(parameters)
}

/// Counts what makes a plan large.
#[derive(Default)]
struct Size {
    selects: usize,
    grouping_sets: usize,
    problem: Option<SqlError>,
}

impl Size {
    fn refuse(&mut self, message: impl Into<String>) -> ControlFlow<()> {
        self.problem = Some(SqlError::invalid(message));
        ControlFlow::Break(())
    }
}

/// `EXCEPT` or `INTERSECT` with `ALL`, for which it matters how often a row is there: the engine makes joins of them that only ask
/// whether it is there.
fn counting_operator(body: &SetExpr) -> Option<SetOperator> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return None };
    let counts = matches!(op, SetOperator::Except | SetOperator::Minus | SetOperator::Intersect)
        && matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
    if counts { Some(*op) } else { counting_operator(left).or_else(|| counting_operator(right)) }
}

impl Visitor for Size {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(with) = &query.with
            && with.recursive
        {
            return self.refuse("recursive queries are not supported");
        }
        if !query.locks.is_empty() {
            return self.refuse("FOR UPDATE and FOR SHARE are not supported: queries only read");
        }
        match counting_operator(&query.body) {
            Some(op) => self.refuse(format!(
                "{op} ALL is not supported, only {op}, which leaves repeated rows out; number the rows of both sides with \
                 row_number() over (partition by ...) to tell them apart"
            )),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &datafusion::sql::sqlparser::ast::Select) -> ControlFlow<()> {
        self.selects += 1;
        if self.selects > SELECTS_MAX {
            self.problem = Some(SqlError::TooLarge { what: "SELECTs", value: self.selects, max: SELECTS_MAX });
            return ControlFlow::Break(());
        }
        if select.into.is_some() {
            return self.refuse("SELECT INTO is not supported: queries only read");
        }
        let modifiers = match &select.group_by {
            GroupByExpr::All(modifiers) => modifiers,
            GroupByExpr::Expressions(expressions, modifiers) => {
                if modifiers.contains(&GroupByWithModifier::Cube) && expressions.len() > CUBE_MAX {
                    return self.refuse(format!("CUBE over more than {CUBE_MAX} columns is not supported"));
                }
                modifiers
            }
        };
        self.grouping_sets += modifiers.len();
        if self.grouping_sets > GROUPING_SETS_MAX {
            return self
                .refuse(format!("more than {GROUPING_SETS_MAX} CUBE, ROLLUP or GROUPING SETS are not supported"));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { sample: Some(_), .. } => self.refuse("TABLESAMPLE is not supported"),
            TableFactor::Table { args: Some(_), name, .. } => {
                self.refuse(format!("there is no table function `{name}`"))
            }
            TableFactor::Function { name, .. } => self.refuse(format!("there is no table function `{name}`")),
            TableFactor::TableFunction { .. } => self.refuse("table functions are not supported"),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let columns = match expr {
            Expr::Cube(sets) => sets.iter().map(Vec::len).sum(),
            Expr::Rollup(_) | Expr::GroupingSets(_) => 0,
            _ => return ControlFlow::Continue(()),
        };
        if columns > CUBE_MAX {
            return self.refuse(format!("CUBE over more than {CUBE_MAX} columns is not supported"));
        }
        self.grouping_sets += 1;
        if self.grouping_sets > GROUPING_SETS_MAX {
            return self
                .refuse(format!("more than {GROUPING_SETS_MAX} CUBE, ROLLUP or GROUPING SETS are not supported"));
        }
        ControlFlow::Continue(())
    }
}

/// Counts relations as the planner will see them: a common table expression counts wherever it is
/// used, with everything in it, and not where it is defined.
#[derive(Default)]
struct Relations {
    /// The sizes of the common table expressions in scope.
    scopes: Vec<HashMap<String, usize>>,
    /// Definitions that were counted already, by address.
    defined: HashSet<*const Query>,
    /// How many definitions the walk is inside of.
    inside: usize,
    count: usize,
}

fn relation_key(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(ident)] => Some(ident_key(ident)),
        _ => None,
    }
}

fn ident_key(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if self.inside > 0 || self.defined.contains(&std::ptr::from_ref(query)) {
            self.inside += 1;
            return ControlFlow::Continue(());
        }
        let mut scope = HashMap::new();
        for table in query.with.iter().flat_map(|with| &with.cte_tables) {
            let mut inner = Self { scopes: self.scopes.clone(), count: 1, ..Self::default() };
            inner.scopes.push(scope.clone());
            if table.query.visit(&mut inner).is_break() {
                self.count = inner.count;
                return ControlFlow::Break(());
            }
            self.defined.insert(std::ptr::from_ref(table.query.as_ref()));
            scope.insert(ident_key(&table.alias.name), inner.count);
        }
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        if self.inside > 0 {
            self.inside -= 1;
        } else {
            self.scopes.pop();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if self.inside > 0 {
            return ControlFlow::Continue(());
        }
        let size = match factor {
            TableFactor::Table { name, .. } => relation_key(name)
                .and_then(|key| self.scopes.iter().rev().find_map(|scope| scope.get(&key)).copied())
                .unwrap_or(1),
            _ => 1,
        };
        self.count = self.count.saturating_add(size);
        if self.count > RELATIONS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn check_size(query: &Query) -> Result<(), SqlError> {
    let mut size = Size::default();
    let _ = query.visit(&mut size);
    if let Some(problem) = size.problem {
        return Err(problem);
    }
    let mut relations = Relations::default();
    let _ = query.visit(&mut relations);
    if relations.count > RELATIONS_MAX {
        return Err(SqlError::TooLarge { what: "tables and subqueries", value: relations.count, max: RELATIONS_MAX });
    }
    Ok(())
}

/// What a statement is called in a refusal: its first word.
fn first_word(sql: &str) -> String {
    sql.split_whitespace()
        .next()
        .unwrap_or_default()
        .trim_end_matches(';')
        .chars()
        .take(20)
        .collect::<String>()
        .to_uppercase()
}

fn refused(sql: &str) -> SqlError {
    SqlError::invalid(format!(
        "{} is not supported: a query is one SELECT, EXPLAIN, SHOW TABLES, SHOW COLUMNS or DESCRIBE",
        first_word(sql)
    ))
}

pub(crate) fn parse(sql: &str) -> Result<Statement, SqlError> {
    let dialect = GenericDialect {};
    let context = ErrorContext::alone(0);
    let mut statements = DFParserBuilder::new(sql)
        .with_dialect(&dialect)
        .with_recursion_limit(DEPTH_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| from_datafusion(&error, context))?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(SqlError::invalid("the query is empty")),
        _ => Err(SqlError::invalid("a query is one statement; send the others one by one")),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn show_columns(name: &ObjectName, tables: &[String]) -> Result<Statement, SqlError> {
    let table = match name.0.as_slice() {
        [.., ObjectNamePart::Identifier(ident)] => ident_key(ident),
        _ => String::new(),
    };
    if !tables.contains(&table) {
        return Err(SqlError::UnknownTable {
            name: table.clone(),
            suggestion: nearest(&table, tables.iter().map(String::as_str)),
            tables: tables.to_vec(),
        });
    }
    parse(&format!(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_schema = 'public' AND table_name = {} ORDER BY ordinal_position",
        quoted(&table)
    ))
}

fn plain_show(options: &ShowStatementOptions) -> bool {
    options.limit.is_none()
        && options.limit_from.is_none()
        && options.starts_with.is_none()
        && options.filter_position.is_none()
}

fn gate_inner(sql: &str, statement: Statement, tables: &[String]) -> Result<(Statement, bool), SqlError> {
    match statement {
        Statement::Explain(ExplainStatement { options, statement }) => {
            if options.analyze {
                return Err(SqlError::invalid("EXPLAIN ANALYZE is not supported; EXPLAIN shows the plan"));
            }
            match *statement {
                Statement::Statement(ref inner) if matches!(inner.as_ref(), SqlStatement::Query(_)) => {
                    let (statement, _) = gate_inner(sql, *statement, tables)?;
                    Ok((Statement::Explain(ExplainStatement { options, statement: Box::new(statement) }), true))
                }
                _ => Err(SqlError::invalid("EXPLAIN is for SELECT only")),
            }
        }
        Statement::Statement(statement) => match *statement {
            SqlStatement::Query(query) => {
                check_size(&query)?;
                Ok((Statement::Statement(Box::new(SqlStatement::Query(query))), false))
            }
            SqlStatement::ShowTables { ref show_options, .. }
                if plain_show(show_options) && show_options.show_in.is_none() =>
            {
                let statement = parse(
                    "SELECT table_name, summary FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name",
                )?;
                Ok((statement, false))
            }
            SqlStatement::ShowColumns { show_options, .. } if plain_show(&show_options) => match show_options.show_in {
                Some(ShowStatementIn { parent_name: Some(name), .. }) => Ok((show_columns(&name, tables)?, false)),
                _ => Err(refused(sql)),
            },
            SqlStatement::ExplainTable { table_name, .. } => Ok((show_columns(&table_name, tables)?, false)),
            _ => Err(refused(sql)),
        },
        _ => Err(refused(sql)),
    }
}

/// Lets a query pass, or says why not. `tables` are the tenant's.
pub(crate) fn gate(sql: &str, tables: &[String]) -> Result<Gated, SqlError> {
    let parameters = measure(sql)?;
    let mut statement = parse(sql)?;
    let names = match &mut statement {
        Statement::Statement(statement) => match statement.as_mut() {
            SqlStatement::Query(query) => OutputNames::take(query),
            _ => None,
        },
        _ => None,
    };
    let (statement, explain) = gate_inner(sql, statement, tables)?;
    Ok(Gated { statement, explain, parameters, names })
}

/// The values of `$1`, `$2`, ... as the planner takes them.
pub(crate) fn parameters(values: &[serde_json::Value], wanted: usize) -> Result<Vec<ScalarValue>, SqlError> {
    if values.len() != wanted {
        return Err(SqlError::invalid(format!(
            "the query has {wanted} parameters ({}), and {} values were given",
            if wanted == 0 { "none".to_owned() } else { format!("$1 to ${wanted}") },
            values.len()
        )));
    }
    values
        .iter()
        .enumerate()
        .map(|(at, value)| match value {
            serde_json::Value::Null => Ok(ScalarValue::Null),
            serde_json::Value::Bool(value) => Ok(ScalarValue::Boolean(Some(*value))),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(value), ..) => Ok(ScalarValue::Int64(Some(value))),
                (None, Some(value), _) => Ok(ScalarValue::UInt64(Some(value))),
                (None, None, Some(value)) => Ok(ScalarValue::Float64(Some(value))),
                _ => Err(SqlError::invalid(format!("the value of ${} is not a number a query can use", at + 1))),
            },
            serde_json::Value::String(text) => Ok(ScalarValue::Utf8(Some(text.clone()))),
            _ => Err(SqlError::invalid(format!(
                "the value of ${} is a list or an object; parameters are null, booleans, numbers and strings",
                at + 1
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests;
