//! Queries and their clauses: what they read from, which rows, which columns.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, ExprWithAlias, GroupByExpr, LimitClause, ObjectName, ObjectNamePart, OrderByKind, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, SetOperator, SetQuantifier, Spanned, TableAlias, TableFactor,
    Visit, Visitor, WildcardAdditionalOptions,
};

use super::combining::{UNNESTED, take_unnested};
use super::ranks::{Rank, rank_of};
use super::rewrite::{
    Relations, bare, column_of, expression, function_name, is_aggregate, name_of, normalise, position, position_of,
};
use super::times::{NOT_NAMED, Time, WINDOWED};
use super::windows::{is_window_name, window_function};
use super::{GO_ON, INPUT, Input, JoinTime, Named, Place, Placed, STOP, StreamProblem, StreamStep};
use crate::error::{TextPosition, nearest};

/// What a query reads from.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// What may stand before the name of a column.
    pub(super) relations: Relations,
    /// The columns, if they are known.
    pub(super) columns: Option<Vec<String>>,
    pub(super) time: Time,
    /// The column with the window, where rows are results of windows.
    pub(super) window: Option<String>,
    /// Whether something was put beside results of windows, or made of them, which are rows like others to a step then.
    pub(super) is_passed_on: bool,
    /// The rank that rows are to be chosen by.
    pub(super) rank: Option<Rank>,
}

impl Scope {
    pub(super) fn new(relations: Relations, columns: Option<Vec<String>>, time: Time) -> Self {
        Self { relations, columns, time, window: None, is_passed_on: false, rank: None }
    }

    /// What windows can be cut from: the event time, or the window that rows are results of, just before whose end they are.
    pub(super) fn cut(&self) -> Time {
        match &self.window {
            Some(window) if self.time.is_of_windows() => Time::Column(window.clone()),
            _ => self.time.clone(),
        }
    }
}

/// A part of a select list.
pub(super) struct Item {
    /// The name of the column.
    pub(super) name: String,
    /// As it stands in the query.
    pub(super) written: Expr,
    /// In the one spelling.
    pub(super) expr: Expr,
}

/// A select list.
pub(super) struct Projection {
    /// Columns left out of `*`, if there is one.
    pub(super) wildcard: Option<Vec<String>>,
    items: Vec<Item>,
    /// What is unnested, as it stands in the query.
    unnested: Option<Expr>,
    rank: Option<Rank>,
}

/// A query that was given a name.
pub(super) type Common<'q> = (String, &'q Query);

pub(super) struct Translator<'q> {
    pub(super) sql: &'q str,
    pub(super) inputs: &'q [Input<'q>],
    pub(super) steps: Vec<Placed>,
    /// What the next step reads.
    pub(super) at: Place,
    pub(super) problems: Vec<StreamProblem>,
    /// The time the rows of a join have, by its step, where somebody has asked for it.
    pub(super) settled: BTreeMap<usize, JoinTime>,
}

pub(super) fn translate(sql: &str, query: &Query, inputs: &[Input<'_>]) -> Result<Vec<Placed>, Vec<StreamProblem>> {
    let first = Place::Input(inputs.first().map_or(INPUT, |input| input.name).to_owned());
    let mut translator = Translator {
        sql,
        inputs,
        steps: Vec::new(),
        at: first.clone(),
        problems: Vec::new(),
        settled: BTreeMap::new(),
    };
    let scope = translator.query(query, &[]);
    if let Some(rank) = scope.as_ref().and_then(|scope| scope.rank.as_ref()) {
        translator.refuse_rank(rank);
    }
    let is_first = translator.steps.is_empty() && translator.at == first;
    if let Some(Scope { columns: Some(columns), .. }) = &scope
        && !is_first
        && translator.at != Place::Step(translator.steps.len().wrapping_sub(1))
    {
        // The result is not what the last step gives, but an input.
        translator.push(StreamStep::Keep(columns.clone()));
    }
    let Translator { steps, mut problems, .. } = translator;
    if scope.is_none() && problems.is_empty() {
        problems.push(StreamProblem::new("the query has no meaning for a stream", "", None));
    }
    if problems.is_empty() { Ok(steps) } else { Err(problems) }
}

impl<'q> Translator<'q> {
    /// A step that reads what was there before it.
    pub(super) fn push(&mut self, step: StreamStep) {
        let reads = std::mem::replace(&mut self.at, Place::Step(self.steps.len()));
        self.steps.push(Placed { step, reads });
    }

    pub(super) fn problem(
        &mut self,
        message: impl Into<String>,
        hint: impl Into<String>,
        position: Option<TextPosition>,
    ) {
        self.problems.push(StreamProblem::new(message, hint, position));
    }

    pub(super) fn query(&mut self, query: &'q Query, common: &[Common<'q>]) -> Option<Scope> {
        let mut common = common.to_vec();
        if let Some(with) = &query.with {
            if with.recursive {
                self.problem("recursive queries never end over a stream", "", position(with.with_token.0.span));
            }
            for table in &with.cte_tables {
                self.refuse_column_names(&table.alias);
                common.push((name_of(&table.alias.name), &table.query));
            }
        }
        self.refuse_order(query);
        match query.body.as_ref() {
            SetExpr::Select(select) => self.select(select, &common),
            SetExpr::Query(query) => self.query(query, &common),
            SetExpr::SetOperation { op: SetOperator::Union, set_quantifier: SetQuantifier::All, left, right } => {
                self.union(left, right, &common)
            }
            SetExpr::SetOperation { op, left, .. } => {
                let (message, hint) = match op {
                    SetOperator::Union => (
                        "UNION has to remember every row there ever was, to leave out the same one later",
                        "write UNION ALL, and take out repeats with the step dedupe",
                    ),
                    _ => ("EXCEPT and INTERSECT need all rows of both sides, and a stream never has all its rows", ""),
                };
                self.problem(message, hint, position(left.span()));
                None
            }
            other => {
                self.problem("the SQL of a pipeline is one SELECT", "", position(other.span()));
                None
            }
        }
    }

    fn refuse_order(&mut self, query: &Query) {
        if let Some(order) = &query.order_by {
            let here = match &order.kind {
                OrderByKind::Expressions(list) => list.first().and_then(|first| position_of(&first.expr)),
                OrderByKind::All(_) => None,
            };
            self.problem(
                "ORDER BY has to see the last row first, and a stream has no last row",
                "leave it out, and sort where the results are read",
                here,
            );
        }
        let limit = match &query.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                Some(limit.as_ref().or(offset.as_ref().map(|offset| &offset.value)).and_then(position_of))
            }
            Some(LimitClause::OffsetCommaLimit { limit, .. }) => Some(position_of(limit)),
            None => query.fetch.is_some().then_some(None),
        };
        if let Some(here) = limit {
            self.problem(
                "LIMIT, OFFSET and FETCH count rows from the beginning, and results of a stream have no first row after a restart",
                "leave it out, or filter rows by what is in them",
                here,
            );
        }
        let others = [
            ("FOR", query.for_clause.is_some() || !query.locks.is_empty()),
            ("SETTINGS", query.settings.is_some()),
            ("FORMAT", query.format_clause.is_some()),
            ("|>", !query.pipe_operators.is_empty()),
        ];
        for (clause, _) in others.into_iter().filter(|(_, is_there)| *is_there) {
            self.problem(format!("{clause} is not supported in the SQL of a pipeline"), "", None);
        }
    }

    pub(super) fn select(&mut self, select: &'q Select, common: &[Common<'q>]) -> Option<Scope> {
        self.refuse_clauses(select);
        let from = match select.from.as_slice() {
            [from] => from,
            [] => {
                self.problem(
                    format!("there is no FROM: the rows of the pipeline are called `{INPUT}`"),
                    format!("SELECT ... FROM {INPUT}"),
                    position(select.select_token.0.span),
                );
                return None;
            }
            [_, second, ..] => {
                let hint = "write a JOIN b ON ... with the keys, and how far the times may be apart";
                self.problem("rows of all inputs with rows of all others have no end", hint, position(second.span()));
                return None;
            }
        };
        let mut scope = self.relation(&from.relation, common)?;
        for join in &from.joins {
            scope = self.join(scope, join, common)?;
        }
        let rank = scope.rank.take();
        let conditions = match &rank {
            Some(rank) => self.choose(rank, select, &mut scope),
            None => select.selection.iter().collect(),
        };
        for condition in conditions {
            self.filter(condition, condition, &scope);
        }
        let mut projection = self.projection(select, &scope);
        if let Some(rank) = &rank {
            Self::leave_out(rank, &scope, &mut projection);
        }
        if let Some(list) = projection.unnested.take() {
            self.unnest(&list, &mut projection, &mut scope);
        }
        let is_grouped = match &select.group_by {
            GroupByExpr::All(_) => true,
            GroupByExpr::Expressions(list, modifiers) => !list.is_empty() || !modifiers.is_empty(),
        };
        let aggregate = projection.items.iter().find_map(|item| aggregate_in(&item.expr));
        if is_grouped || aggregate.is_some() || select.having.is_some() {
            if projection.wildcard.is_some() {
                let hint = "write out the columns of GROUP BY and the aggregates";
                self.problem("* has no meaning beside GROUP BY", hint, position(select.select_token.0.span));
                return None;
            }
            if let Some(rank) = &projection.rank {
                self.refuse_rank(rank);
            }
            return self.grouped(select, projection.items, &scope);
        }
        for item in &projection.items {
            if let Some(function) = window_in(&item.expr) {
                let message = "a window of time belongs into GROUP BY";
                self.problem(message, "GROUP BY it, and aggregate what is selected beside it", function);
            }
        }
        Some(self.project(projection, scope))
    }

    fn refuse_clauses(&mut self, select: &Select) {
        let here = position(select.select_token.0.span);
        match &select.distinct {
            None | Some(Distinct::All) => {}
            Some(_) => self.problem(
                "DISTINCT over a stream without end has to remember every row there ever was",
                "group by the columns within windows of time: GROUP BY tumble(...), a, b",
                here,
            ),
        }
        let clauses = [
            ("TOP", select.top.is_some()),
            ("EXCLUDE after the list", select.exclude.is_some()),
            ("INTO", select.into.is_some()),
            ("LATERAL VIEW", !select.lateral_views.is_empty()),
            ("PREWHERE", select.prewhere.is_some()),
            ("CONNECT BY", !select.connect_by.is_empty()),
            ("CLUSTER BY", !select.cluster_by.is_empty()),
            ("DISTRIBUTE BY", !select.distribute_by.is_empty()),
            ("SORT BY", !select.sort_by.is_empty()),
            ("WINDOW", !select.named_window.is_empty()),
            ("QUALIFY", select.qualify.is_some()),
            ("AS STRUCT or AS VALUE", select.value_table_mode.is_some()),
        ];
        for (clause, _) in clauses.into_iter().filter(|(_, is_there)| *is_there) {
            self.problem(format!("{clause} is not supported in the SQL of a pipeline"), "", here);
        }
    }

    fn refuse_column_names(&mut self, alias: &TableAlias) {
        if !alias.columns.is_empty() {
            let hint = "name the columns in its select list, with AS";
            self.problem("names of columns behind a name are not supported", hint, position(alias.name.span));
        }
    }

    pub(super) fn relation(&mut self, factor: &'q TableFactor, common: &[Common<'q>]) -> Option<Scope> {
        match factor {
            TableFactor::Table { name, alias, args: None, sample: None, .. } => {
                if let Some(alias) = alias {
                    self.refuse_column_names(alias);
                }
                let alias = alias.as_ref().map(|alias| name_of(&alias.name));
                self.table(name, alias, common)
            }
            TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
                if let Some(alias) = alias {
                    self.refuse_column_names(alias);
                }
                let scope = self.query(subquery, common)?;
                let names = alias.iter().map(|alias| name_of(&alias.name));
                Some(Scope { relations: Relations::of(names), ..scope })
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } if table_with_joins.joins.is_empty() => {
                self.relation(&table_with_joins.relation, common)
            }
            other => {
                let name = match other {
                    TableFactor::Table { name, .. } | TableFactor::Function { name, .. } => last_name(name),
                    TableFactor::TableFunction { expr: Expr::Function(function), .. } => function_name(function),
                    TableFactor::UNNEST { .. } => "unnest".to_owned(),
                    _ => String::new(),
                };
                let (message, hint) = match name.as_str() {
                    name if is_window_name(name) => (
                        format!("`{name}` is called in GROUP BY, not in FROM"),
                        format!("SELECT ... FROM {INPUT} GROUP BY tumble(time, interval '1 minute'), ..."),
                    ),
                    "unnest" => (
                        "unnest is called in the select list of a pipeline, not in FROM".to_owned(),
                        format!("SELECT *, unnest(items) AS item FROM {INPUT}"),
                    ),
                    _ => (
                        "this is not something a pipeline can read from".to_owned(),
                        format!("the rows of the pipeline are called `{INPUT}`"),
                    ),
                };
                self.problem(message, hint, position(other.span()));
                None
            }
        }
    }

    fn table(&mut self, name: &ObjectName, alias: Option<String>, common: &[Common<'q>]) -> Option<Scope> {
        let here = position(name.span());
        let table = last_name(name);
        let is_plain = name.0.len() == 1;
        // A common table expression sees those before it, not itself.
        if let Some(at) = common.iter().rposition(|(known, _)| is_plain && *known == table) {
            let scope = self.query(common[at].1, &common[..at])?;
            return Some(Scope { relations: Relations::of([alias.unwrap_or(table)]), ..scope });
        }
        let inputs = self.inputs;
        if let Some(input) = inputs.iter().find(|input| is_plain && table == input.name) {
            if input.is_table {
                let hint = format!("FROM {INPUT} JOIN {table} ON {table}.key = {INPUT}.key");
                self.problem(format!("`{table}` is a table that rows are looked up in, and gives none"), hint, here);
                return None;
            }
            self.at = Place::Input(input.name.to_owned());
            let time = input.time.map_or(NOT_NAMED, |time| Time::Column(time.to_owned()));
            let columns = input.columns.map(<[String]>::to_vec);
            let relations = Relations::of([alias.unwrap_or(table)]);
            return Some(Scope::new(relations, columns, time));
        }
        let known = common.iter().map(|(name, _)| name.as_str()).chain(inputs.iter().map(|input| input.name));
        let hint = match nearest(&table, known) {
            Some(known) => format!("did you mean `{known}`?"),
            None => String::new(),
        };
        let names: Vec<String> = inputs.iter().map(|input| format!("`{}`", input.name)).collect();
        let names = names.join(" and ");
        self.problem(format!("there is no table `{name}`: the rows of the pipeline are called {names}"), hint, here);
        None
    }

    /// Keeps the rows for which `condition` is true, which stands in `written`.
    pub(super) fn filter(&mut self, written: &Expr, condition: &Expr, scope: &Scope) {
        let mut expr = condition.clone();
        normalise(&mut expr, &scope.relations, &mut self.problems);
        if let Some(here) = aggregate_in(&expr) {
            self.problem("WHERE is asked before anything is aggregated", "use HAVING", here);
        }
        if let Some(here) = window_in(&expr) {
            let hint = "compare the event time itself, or use HAVING";
            self.problem("WHERE is asked before rows belong to a window", hint, here);
        }
        self.push(StreamStep::Filter(expression(self.sql, written, &expr)));
    }

    fn projection(&mut self, select: &Select, scope: &Scope) -> Projection {
        let mut projection = Projection { wildcard: None, items: Vec::new(), unnested: None, rank: None };
        let mut seen = BTreeSet::new();
        for (at, item) in select.projection.iter().enumerate() {
            let (written, alias) = match item {
                SelectItem::UnnamedExpr(expr) => (expr, None),
                SelectItem::ExprWithAlias { expr, alias } => (expr, Some(name_of(alias))),
                SelectItem::Wildcard(options) => {
                    self.wildcard_of_join(scope, position(item.span()));
                    self.wildcard(&mut projection, options, at);
                    continue;
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options)
                    if scope.relations.contains(&last_name(name)) =>
                {
                    if scope.relations.are_several() {
                        let message = format!("which columns `{name}.*` are is not known behind a join");
                        self.problem(message, "write out the columns", position(item.span()));
                    }
                    self.wildcard(&mut projection, options, at);
                    continue;
                }
                other => {
                    let message = format!("`{other}` is not supported in the SQL of a pipeline");
                    self.problem(message, "write out the columns", position(other.span()));
                    continue;
                }
            };
            let mut expr = written.clone();
            if let Some(call) = rank_of(written) {
                if projection.rank.is_some() {
                    let message = "there is more than one ROW_NUMBER, RANK or DENSE_RANK";
                    self.problem(message, "keep one of them", position_of(written));
                }
                projection.rank = self.rank(call, alias, position_of(written), scope);
                continue;
            }
            take_unnested(&mut expr, &mut projection.unnested);
            normalise(&mut expr, &scope.relations, &mut self.problems);
            let name = alias.unwrap_or_else(|| natural_name(&expr, written));
            if !seen.insert(name.clone()) {
                let message = format!("two columns are called `{name}`");
                self.problem(message, "name one of them with AS", position_of(written));
            }
            projection.items.push(Item { name, written: written.clone(), expr });
        }
        projection
    }

    fn wildcard_of_join(&mut self, scope: &Scope, here: Option<TextPosition>) {
        if scope.relations.has_ambiguous() {
            self.problem("both sides of the join have columns of one name", "write out the columns", here);
        }
    }

    fn wildcard(&mut self, projection: &mut Projection, options: &WildcardAdditionalOptions, at: usize) {
        let here = position(options.wildcard_token.0.span);
        if at > 0 {
            self.problem("* must be the first of the select list", "", here);
        }
        let is_plain = options.opt_ilike.is_none() && options.opt_replace.is_none() && options.opt_rename.is_none();
        if !is_plain || options.opt_alias.is_some() {
            let hint = "use EXCEPT, and name what is to be different: SELECT * EXCEPT (a), f(a) AS a";
            self.problem("ILIKE, REPLACE and RENAME behind * are not supported", hint, here);
        }
        let mut except = Vec::new();
        if let Some(list) = &options.opt_except {
            except.extend(std::iter::once(&list.first_element).chain(&list.additional_elements).map(name_of));
        }
        if let Some(list) = &options.opt_exclude {
            use datafusion::sql::sqlparser::ast::ExcludeSelectItem;
            match list {
                ExcludeSelectItem::Single(name) => except.push(last_name(name)),
                ExcludeSelectItem::Multiple(names) => except.extend(names.iter().map(last_name)),
            }
        }
        projection.wildcard = Some(except);
    }

    /// The select list of a query that groups nothing.
    fn project(&mut self, projection: Projection, scope: Scope) -> Scope {
        let Projection { wildcard, items, mut rank, .. } = projection;
        let computed: Vec<Named> = items
            .iter()
            .filter(|item| column_of(&item.expr).as_ref() != Some(&item.name))
            .map(|item| Named { name: item.name.clone(), value: expression(self.sql, &item.written, &item.expr) })
            .collect();
        let is_set: BTreeSet<String> = computed.iter().map(|named| named.name.clone()).collect();
        if !computed.is_empty() {
            self.push(StreamStep::Set(computed));
        }
        let Some(except) = wildcard else {
            let names: Vec<String> = items.iter().map(|item| item.name.clone()).collect();
            let time = scope.time.selected(&items, &|_| false);
            let window = items.iter().find(|item| scope.window.is_some() && column_of(&item.expr) == scope.window);
            let window = window.map(|item| item.name.clone());
            if !is_set.is_empty() || scope.columns.as_ref() != Some(&names) {
                self.push(StreamStep::Keep(names.clone()));
                if let Some(rank) = &mut rank {
                    rank.keep = Some(self.steps.len() - 1);
                }
            }
            return Scope { columns: Some(names), time, window, rank, ..scope };
        };
        let dropped: Vec<String> = except.into_iter().filter(|name| !is_set.contains(name)).collect();
        let columns = scope.columns.map(|columns| {
            let mut columns: Vec<String> = columns.into_iter().filter(|name| !dropped.contains(name)).collect();
            columns.extend(
                items.iter().map(|item| &item.name).filter(|name| !columns.contains(name)).cloned().collect::<Vec<_>>(),
            );
            columns
        });
        let time = scope.time.selected(&items, &|time| !is_set.contains(time) && !dropped.contains(time));
        let window = scope.window.filter(|window| !is_set.contains(window) && !dropped.contains(window));
        if !dropped.is_empty() {
            self.push(StreamStep::Drop(dropped));
        }
        Scope { columns, time, window, rank, ..scope }
    }

    /// The scope behind an aggregation.
    pub(super) fn grouped_scope(names: Vec<String>, relations: Relations, window: Option<String>) -> Scope {
        Scope { window, ..Scope::new(relations, Some(names), WINDOWED) }
    }
}

/// The name of a column that was given none: that of the column it is, or else its text.
fn natural_name(expr: &Expr, written: &Expr) -> String {
    match bare(expr) {
        Expr::Identifier(ident) if ident.value == UNNESTED => {
            ExprWithAlias { expr: written.clone(), alias: None }.to_string()
        }
        // A column of a join may have another name meanwhile.
        Expr::Identifier(ident) => match bare(written) {
            Expr::CompoundIdentifier(parts) => parts.last().map_or_else(|| name_of(ident), name_of),
            _ => name_of(ident),
        },
        Expr::CompoundIdentifier(parts) => parts.last().map(name_of).unwrap_or_default(),
        _ if window_function(expr).is_some() => "window".to_owned(),
        _ => ExprWithAlias { expr: written.clone(), alias: None }.to_string(),
    }
}

pub(super) fn last_name(name: &ObjectName) -> String {
    match name.0.last() {
        Some(ObjectNamePart::Identifier(ident)) => name_of(ident),
        _ => String::new(),
    }
}

/// Where the first aggregate is, if there is one.
pub(super) fn aggregate_in(expr: &Expr) -> Option<Option<TextPosition>> {
    find(expr, |expr| matches!(expr, Expr::Function(function) if is_aggregate(function)))
}

/// Where the first function of windows is, if there is one.
pub(super) fn window_in(expr: &Expr) -> Option<Option<TextPosition>> {
    find(expr, |expr| window_function(expr).is_some())
}

fn find(expr: &Expr, is_it: fn(&Expr) -> bool) -> Option<Option<TextPosition>> {
    struct Finder {
        is_it: fn(&Expr) -> bool,
        found: Option<Option<TextPosition>>,
    }
    impl Visitor for Finder {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> std::ops::ControlFlow<()> {
            if (self.is_it)(expr) {
                self.found = Some(position_of(expr));
                return STOP;
            }
            GO_ON
        }
    }
    let mut finder = Finder { is_it, found: None };
    let _ = expr.visit(&mut finder);
    finder.found
}
