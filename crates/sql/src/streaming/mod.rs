//! The SQL of a pipeline: a query over rows that never end, as steps that a stream engine can run.
//!
//! A query has a meaning over a stream if what it has to remember is bounded: rows one by one, and
//! groups within windows of time. Everything else is refused with its place and the reason. Nothing is
//! planned here: the steps hold expressions as text, which are compiled against the columns of each
//! step later; names of columns are not known yet, except where the caller gives them.
//!
//! `tumble(time, size [, offset])`, `hop(time, every, size [, offset])`, `cumulate(time, every, size [, offset])`
//! and `session(time, gap)` are called in `GROUP BY`; where they stand in the select list they are the window, a
//! struct of `start` and `end`. Each takes `lateness => interval '1 minute'` and `early => interval '10 seconds'`, too:
//! how long windows take late rows, and how often their results come before they end.
//!
//! `UNION ALL`, interval joins, joins with tables, `unnest` in a select list and the first rows by `ROW_NUMBER`, `RANK` or `DENSE_RANK` are steps, too. So the steps are a graph: each says what it reads.

mod combining;
mod grouping;
mod joining;
mod lookups;
mod ranks;
mod rewrite;
mod select;
mod times;
mod windows;

use std::ops::ControlFlow;
use std::time::Duration;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};

use crate::error::{SqlError, TextPosition};
use crate::expressions::Defined;
use crate::gate::{measure, parse};
pub(crate) use windows::is_window_name;

/// The name of the rows of the pipeline in its SQL.
pub const INPUT: &str = "input";

/// What is known of an input of the pipeline.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What it is called in the query.
    pub name: &'a str,
    /// The column with the event time.
    pub time: Option<&'a str>,
    /// All columns, if they are known.
    pub columns: Option<&'a [String]>,
    /// Whether it is a table, which rows are looked up in.
    pub is_table: bool,
}

impl Default for Input<'_> {
    fn default() -> Self {
        Self { name: INPUT, time: None, columns: None, is_table: false }
    }
}

/// Something a step reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An input, by its name.
    Input(String),
    /// A step, by its index.
    Step(usize),
}

/// A step, and what it reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The step.
    pub step: StreamStep,
    /// What it reads.
    pub reads: Place,
}

/// A part of the query that has a meaning for a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamStep {
    /// Keeps the rows for which this is true.
    Filter(Expression),
    /// Gives columns values, all of them computed from the row as it was before.
    Set(Vec<Named>),
    /// Keeps these columns, in this order.
    Keep(Vec<String>),
    /// Removes these columns.
    Drop(Vec<String>),
    /// Gives columns other names: from, to.
    Rename(Vec<(String, String)>),
    /// Aggregates the rows of each window. The result has the column `window`, then `by`, then
    /// `select`.
    Window(Box<Windowed>),
    /// Makes a row for each element of a list.
    Explode {
        /// The column with the list.
        column: String,
        /// The new column with the element.
        element: String,
    },
    /// Adds the rows of other steps, which have the same columns.
    Union(Vec<Place>),
    /// Puts rows beside those with the same keys and nearly the same time.
    Join(Box<Joined>),
    /// Puts what a table has under the same key beside rows.
    Lookup(Box<LookedUp>),
    /// Keeps the first rows of each window of time.
    First(Box<First>),
    /// Keeps the first rows in some order.
    Top(Box<Top>),
}

/// See [`StreamStep::Join`].
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// The right side. It has no column the left one has.
    pub with: Place,
    /// What is equal: an expression over a left row, and one over a right row.
    pub on: Vec<(Expression, Expression)>,
    /// How long before the left row the right one may be.
    pub before: Duration,
    /// How long after the left row the right one may be.
    pub after: Duration,
    /// Which rows come.
    pub kind: JoinKind,
    /// Which time they have.
    pub time: JoinTime,
    /// Where the join is asked for.
    pub position: Option<TextPosition>,
}

/// Which rows a join gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// Pairs.
    Inner,
    /// And left rows without a right one.
    Left,
    /// And right rows without a left one.
    Right,
    /// And rows of both sides without one of the other.
    Full,
}

impl JoinKind {
    /// Whether left rows come for which there is no right one.
    pub fn keeps_left(self) -> bool {
        matches!(self, Self::Left | Self::Full)
    }

    /// Whether right rows come for which there is no left one.
    pub fn keeps_right(self) -> bool {
        matches!(self, Self::Right | Self::Full)
    }

    /// As it is written in a query.
    fn shown(self) -> &'static str {
        match self {
            Self::Inner => "JOIN",
            Self::Left => "LEFT JOIN",
            Self::Right => "RIGHT JOIN",
            Self::Full => "FULL JOIN",
        }
    }
}

/// Which time the rows of a join have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JoinTime {
    /// The later one of both.
    #[default]
    Later,
    /// That of the left row; of the right one where there is none.
    Left,
    /// That of the right row; of the left one where there is none.
    Right,
}

/// See [`StreamStep::Lookup`].
#[derive(Clone, Debug, PartialEq)]
pub struct LookedUp {
    /// The table, by its name.
    pub table: String,
    /// What is equal: an expression over a row, and one over a row of the table.
    pub on: Vec<(Expression, Expression)>,
    /// The columns of the table, each with what it is called in the result.
    pub select: Vec<(String, String)>,
    /// Whether rows come that find nothing.
    pub is_left: bool,
    /// Where it is asked for.
    pub position: Option<TextPosition>,
}

/// See [`StreamStep::First`].
#[derive(Clone, Debug, PartialEq)]
pub struct First {
    /// How many rows.
    pub rows: u64,
    /// The length of a window; windows follow one another from 1970-01-01T00:00:00Z.
    pub per: Duration,
    /// So many rows for each of their values.
    pub by: Vec<Named>,
    /// Where they are asked for.
    pub position: Option<TextPosition>,
}

/// See [`StreamStep::Top`].
#[derive(Clone, Debug, PartialEq)]
pub struct Top {
    /// How many rows.
    pub rows: u64,
    /// In which order: what may stand behind `ORDER BY`.
    pub order: Expression,
    /// What becomes of rows that are equal in the order.
    pub ties: Ties,
    /// Of which windows of time, if rows are not results of windows.
    pub per: Option<Stretches>,
    /// So many rows for each of their values.
    pub by: Vec<Named>,
    /// The column with the place of a row, if it is wanted.
    pub rank: Option<String>,
    /// Where they are asked for.
    pub position: Option<TextPosition>,
}

/// What becomes of rows that are equal in an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ties {
    /// They have places one after the other, by their times and values.
    #[default]
    Broken,
    /// They share a place, and as many behind it are left out.
    Shared,
    /// They share a place, and the next one is the one behind it.
    Dense,
}

/// Windows of time one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretches {
    /// The length of each.
    pub size: Duration,
    /// Where they begin, counted from 1970-01-01T00:00:00Z.
    pub offset: Duration,
    /// How far a row may be behind the watermark, if that is said.
    pub lateness: Option<Duration>,
}

/// See [`StreamStep::Window`].
#[derive(Clone, Debug, PartialEq)]
pub struct Windowed {
    /// Which windows.
    pub windows: Windows,
    /// When their results come.
    pub timing: Timing,
    /// What rows are grouped by beside the window.
    pub by: Vec<Named>,
    /// Aggregates.
    pub select: Vec<Named>,
    /// Where the window is asked for.
    pub position: Option<TextPosition>,
}

/// When the results of windows come, beside their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// How long after its end a window still takes rows, if that is said.
    pub lateness: Option<Duration>,
    /// How often results come before the end, if at all.
    pub early: Option<Duration>,
}

/// Windows of time. An `offset` is where they begin, counted from 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// One after the other.
    Tumbling {
        /// The length of each.
        size: Duration,
        /// Where they begin.
        offset: Duration,
    },
    /// They overlap, or have gaps between.
    Hopping {
        /// The length of each.
        size: Duration,
        /// How far one begins after the other.
        every: Duration,
        /// Where they begin.
        offset: Duration,
    },
    /// They begin together and end one after another.
    Cumulative {
        /// The length of the longest.
        size: Duration,
        /// How far one ends after the other.
        every: Duration,
        /// Where they begin.
        offset: Duration,
    },
    /// They end when no row comes for some time.
    Session {
        /// How long.
        gap: Duration,
    },
}

/// An expression as text.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    /// The text.
    pub text: String,
    /// Where it begins in the query.
    pub position: Option<TextPosition>,
    /// Whether it stands there like this, so that a place in it is a place in the query.
    pub is_verbatim: bool,
}

/// An expression and the column it is the value of.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// The column.
    pub name: String,
    /// Its value.
    pub value: Expression,
}

/// Why a query has no meaning for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamProblem {
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Where.
    pub position: Option<TextPosition>,
}

impl StreamProblem {
    fn new(message: impl Into<String>, hint: impl Into<String>, position: Option<TextPosition>) -> Self {
        Self { message: message.into(), hint: hint.into(), position }
    }

    /// Whether it is wrong whatever the columns of the inputs are, and their times.
    pub fn is_of_the_text(&self) -> bool {
        ["there is no table", "this is not SQL", "the SQL of a pipeline"].iter().any(|so| self.message.starts_with(so))
    }
}

impl From<SqlError> for StreamProblem {
    fn from(error: SqlError) -> Self {
        let position = error.position();
        let message = match error {
            // The place is said beside the message.
            SqlError::Syntax { message, .. } => format!("this is not SQL: {message}"),
            SqlError::Invalid { message, .. } => message,
            other => other.to_string(),
        };
        Self { message, hint: String::new(), position }
    }
}

/// The steps that are the same as the query; the result is what the last of them gives, or the first input if
/// there are none.
///
/// # Errors
/// Everything in the query that has no bounded meaning over a stream.
pub fn translate(sql: &str, inputs: &[Input<'_>]) -> Result<Vec<Placed>, Vec<StreamProblem>> {
    translate_with(sql, inputs, &Defined::default())
}

/// The same for a query that may call functions of its document.
///
/// # Errors
/// As [`translate`].
pub fn translate_with(sql: &str, inputs: &[Input<'_>], defined: &Defined) -> Result<Vec<Placed>, Vec<StreamProblem>> {
    let mut query = parse_query(sql).map_err(|problem| vec![problem])?;
    defined.expand_query(&mut query).map_err(|error| vec![error.into()])?;
    select::translate(sql, &query, inputs)
}

/// One `SELECT`, under the same measures as any query.
fn parse_query(sql: &str) -> Result<Box<Query>, StreamProblem> {
    if measure(sql)? > 0 {
        return Err(StreamProblem::new("the SQL of a pipeline has no parameters", "", None));
    }
    match parse(sql)? {
        Statement::Statement(statement) => match *statement {
            SqlStatement::Query(query) => Ok(query),
            _ => Err(StreamProblem::new("the SQL of a pipeline is one SELECT", "", None)),
        },
        _ => Err(StreamProblem::new("the SQL of a pipeline is one SELECT", "", None)),
    }
}

/// The rest of a walk is of no use.
const STOP: ControlFlow<()> = ControlFlow::Break(());
/// The walk goes on.
const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

#[cfg(test)]
mod tests;
