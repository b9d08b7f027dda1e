//! Joins with tables: a condition with keys, and no time. Rows keep theirs.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, JoinConstraint, TableFactor};

use super::joining::{Side, Sides};
use super::ranks::conjuncts;
use super::rewrite::{Relations, bare, expression, name_of, normalise, position_of};
use super::select::{Common, Scope, Translator, last_name};
use super::times::Value;
use super::{Expression, Input, LookedUp, StreamStep};
use crate::error::TextPosition;

const USAGE: &str = "a JOIN table ON table.key = a.key";

impl<'q> Translator<'q> {
    /// The table a relation is, if it is one, and what it is called.
    pub(super) fn table_of(&self, factor: &TableFactor, common: &[Common<'q>]) -> Option<(&'q Input<'q>, String)> {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return None };
        let table = last_name(name);
        if name.0.len() != 1 || common.iter().any(|(known, _)| *known == table) {
            return None;
        }
        let input = self.inputs.iter().find(|input| input.is_table && input.name == table)?;
        Some((input, alias.as_ref().map_or(table, |alias| name_of(&alias.name))))
    }

    /// Puts what a table has beside the rows that were read so far.
    pub(super) fn look_up(
        &mut self,
        left: Scope,
        (table, name): (&Input<'_>, String),
        constraint: &JoinConstraint,
        is_left: bool,
        here: Option<TextPosition>,
    ) -> Option<Scope> {
        let JoinConstraint::On(condition) = constraint else {
            self.problem("a join with a table says with ON what is equal", USAGE, here);
            return None;
        };
        if let Some(rank) = &left.rank {
            self.refuse_rank(rank);
            return None;
        }
        let (Some(left_columns), Some(columns)) = (&left.columns, table.columns) else {
            self.problem("the columns of both sides of a join must be known", "write them out", here);
            return None;
        };
        let prefix = self.steps.len();
        let taken = columns.iter().filter(|column| left_columns.contains(column));
        let renamed: BTreeMap<String, String> =
            taken.map(|column| (column.clone(), format!("__{prefix}_{column}"))).collect();
        let now = |column: &String| renamed.get(column).unwrap_or(column).clone();
        let own = Relations::of([name]);
        let relations = left.relations.clone().and(own.clone(), &renamed);
        let no_time = Value::Column(String::new());
        let sides = Sides { left: left_columns.iter().collect(), times: (&no_time, &no_time) };
        let (mut on, mut rest) = (Vec::new(), Vec::new());
        for part in conjuncts(condition) {
            let mut expr = part.clone();
            let before = self.problems.len();
            normalise(&mut expr, &relations, &mut self.problems);
            if self.problems.len() > before {
                continue;
            }
            match self.equal(part, &expr, &sides, &own) {
                Some(pair) => on.push(pair),
                None => rest.push(part),
            }
        }
        if on.is_empty() {
            let message = "a join with a table has a key: something that is equal in the rows and in the table";
            self.problem(message, USAGE, position_of(condition));
            return None;
        }
        if let Some(part) = rest.first().filter(|_| is_left) {
            let hint = "put it into WHERE, or join without LEFT";
            self.problem("ON of a LEFT JOIN with a table has keys and nothing else", hint, position_of(part));
        }
        let all: Vec<String> = left_columns.iter().cloned().chain(columns.iter().map(now)).collect();
        let select = columns.iter().map(|column| (column.clone(), now(column))).collect();
        let table = table.name.to_owned();
        self.push(StreamStep::Lookup(Box::new(LookedUp { table, on, select, is_left, position: here })));
        // Rows keep their time, and the window they are results of.
        let is_passed_on = left.window.is_some();
        let scope = Scope { window: left.window, is_passed_on, ..Scope::new(relations, Some(all), left.time) };
        for part in rest {
            self.filter(part, part, &scope);
        }
        Some(scope)
    }

    /// Expressions over a row and over a row of the table, whose relation is `own`, that a part of the condition says are
    /// equal.
    fn equal(
        &mut self,
        written: &Expr,
        expr: &Expr,
        sides: &Sides<'_>,
        own: &Relations,
    ) -> Option<(Expression, Expression)> {
        let (Expr::BinaryOp { left, op: BinaryOperator::Eq, right }, Expr::BinaryOp { left: a, right: b, .. }) =
            (bare(expr), bare(written))
        else {
            return None;
        };
        let (row, row_written, of_table) = match (sides.side(left)?, sides.side(right)?) {
            (Side::Left, Side::Right) => (left, a, b),
            (Side::Right, Side::Left) => (right, b, a),
            _ => return None,
        };
        // In the table its columns have the names they always had.
        let mut in_table = (**of_table).clone();
        normalise(&mut in_table, own, &mut self.problems);
        Some((expression(self.sql, row_written, row), expression(self.sql, of_table, &in_table)))
    }
}
