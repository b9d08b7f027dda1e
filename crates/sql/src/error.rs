//! What can go wrong with a query, in words that are safe to show to the tenant who asked.
//!
//! Invariant: no message holds a path of this machine, the text of a plan that was not asked for,
//! or the name of anything that belongs to another tenant. What cannot be classified becomes
//! [`SqlError::Internal`], and its text goes to the log only.

use std::fmt;
use std::time::Duration;

use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;
use parquet::errors::ParquetError;
use serde_json::{Value, json};
use weir_base::{ErrorKind, Kinded};
use weir_store::StoreError;

use crate::functions::FUNCTIONS;
use crate::store_tables::from_store;

/// A place in the text of a query; both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPosition {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl fmt::Display for TextPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

/// Why a query has no answer, or not all of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SqlError {
    /// The text is not SQL.
    #[error("{message}{}", at(*.position))]
    Syntax {
        /// What is wrong.
        message: String,
        /// Where.
        position: Option<TextPosition>,
    },
    /// The SQL asks for something that cannot be done: wrong types, wrong arguments, a statement
    /// that is not a query.
    #[error("{message}{}", at(*.position))]
    Invalid {
        /// What is wrong, and what to do about it.
        message: String,
        /// Where.
        position: Option<TextPosition>,
    },
    /// There is no such table.
    #[error("there is no table `{name}`{}; the tables are {}", did_you_mean(.suggestion.as_deref()), .tables.join(", "))]
    UnknownTable {
        /// As it was written.
        name: String,
        /// The table that was probably meant.
        suggestion: Option<String>,
        /// All tables of the tenant.
        tables: Vec<String>,
    },
    /// There is no such column where it was used.
    #[error(
        "there is no column `{name}`{}{}; the columns here are {}",
        at(*.position),
        did_you_mean(.suggestion.as_deref()),
        listed(.columns)
    )]
    UnknownColumn {
        /// As it was written.
        name: String,
        /// The column that was probably meant.
        suggestion: Option<String>,
        /// The columns that can be used there.
        columns: Vec<String>,
        /// Where.
        position: Option<TextPosition>,
    },
    /// The query is larger than a query may be.
    #[error("the query has {value} {what}, more than {max}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        value: usize,
        /// How much there may be.
        max: usize,
    },
    /// Too many queries of the tenant are running and waiting.
    #[error("{limit} queries are running already (limit queries_concurrent_max)")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The query alone needs more memory, or more room on disk to make up for it, than it may have: it fails however
    /// often it is tried.
    #[error(
        "the query needs more than the {bytes} bytes of memory it may have (limit query_memory_bytes_max, and queries.memory_bytes of the server); narrow it by time, or select fewer columns or groups"
    )]
    Memory {
        /// The limit.
        bytes: usize,
    },
    /// What the query needs and may have is held by others at the moment.
    #[error(
        "other queries hold the memory this one needs (limit query_memory_bytes_max of {bytes} bytes for all of the tenant's); try again when they are done, or run fewer at a time"
    )]
    MemoryHeld {
        /// The limit.
        bytes: usize,
    },
    /// One function would make more than its part of the query's memory.
    #[error(
        "the result of {function} would be larger than {bytes} bytes, its part of the query's memory (limit query_memory_bytes_max); make shorter values, or fewer of them in one query"
    )]
    ResultTooLarge {
        /// The function.
        function: String,
        /// Its part.
        bytes: usize,
    },
    /// What the query computes before it looks at rows is too large.
    #[error(
        "the constants of the query would be larger than {bytes} bytes together (part of the limit query_memory_bytes_max); make shorter ones"
    )]
    ConstantsTooLarge {
        /// How large they may be.
        bytes: usize,
    },
    /// The query took too long.
    #[error("the query took longer than {} s (limit query_time_max)", .limit.as_secs_f64())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// Nobody waits for the answer any more.
    #[error("the query was cancelled")]
    Cancelled,
    /// Stored bytes are damaged.
    #[error("{message}")]
    Corrupt {
        /// What is damaged.
        message: String,
    },
    /// Something failed that may work when tried again.
    #[error("{message}")]
    Transient {
        /// What failed.
        message: String,
    },
    /// A bug in Weir.
    #[error("the query failed for a reason that is not its own; the server's log has the details")]
    Internal,
}

fn at(position: Option<TextPosition>) -> String {
    position.map(|position| format!(" at {position}")).unwrap_or_default()
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// At most this many columns are named in a message.
const COLUMNS_LISTED_MAX: usize = 80;

fn listed(columns: &[String]) -> String {
    let mut text = columns.iter().take(COLUMNS_LISTED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    if columns.len() > COLUMNS_LISTED_MAX {
        text.push_str(", ...");
    }
    text
}

impl Kinded for SqlError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Syntax { .. } | Self::Invalid { .. } | Self::UnknownTable { .. } | Self::UnknownColumn { .. } => {
                ErrorKind::Input
            }
            Self::TooLarge { .. }
            | Self::Memory { .. }
            | Self::ResultTooLarge { .. }
            | Self::ConstantsTooLarge { .. } => ErrorKind::TooLarge,
            Self::Busy { .. } | Self::MemoryHeld { .. } => ErrorKind::Limit,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Transient { .. } => ErrorKind::Transient,
            Self::Internal => ErrorKind::Internal,
        }
    }
}

impl SqlError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), position: None }
    }

    /// What went wrong in a kernel of Arrow, while an expression of a pipeline was computed.
    pub fn from_arrow(error: arrow::error::ArrowError) -> Self {
        from_arrow(&error, ErrorContext::alone(0))
    }

    /// Whether it is wrong whatever the columns are.
    pub fn is_of_the_text(&self) -> bool {
        match self {
            Self::Syntax { .. } | Self::TooLarge { .. } => true,
            Self::Invalid { message, .. } => message.starts_with(UNKNOWN_FUNCTION),
            _ => false,
        }
    }

    /// The place in the query the error points at.
    pub fn position(&self) -> Option<TextPosition> {
        match self {
            Self::Syntax { position, .. } | Self::Invalid { position, .. } | Self::UnknownColumn { position, .. } => {
                *position
            }
            _ => None,
        }
    }

    /// The name of the tenant's limit that was met, and its value; of what is a part of a limit, the part.
    pub fn limit(&self) -> Option<(&'static str, u64)> {
        let (name, value) = match self {
            Self::Busy { limit } => ("queries_concurrent_max", *limit),
            Self::Memory { bytes }
            | Self::MemoryHeld { bytes }
            | Self::ResultTooLarge { bytes, .. }
            | Self::ConstantsTooLarge { bytes } => ("query_memory_bytes_max", *bytes),
            _ => return None,
        };
        Some((name, u64::try_from(value).unwrap_or(u64::MAX)))
    }

    /// The same without its place, for one who shows places in another way.
    #[must_use]
    pub fn without_position(mut self) -> Self {
        if let Self::Syntax { position, .. } | Self::Invalid { position, .. } | Self::UnknownColumn { position, .. } =
            &mut self
        {
            *position = None;
        }
        self
    }

    /// The error as a problem object: `code`, `status`, `detail`, and `position` where it is known.
    pub fn problem(&self) -> Value {
        let kind = self.kind();
        let mut problem = json!({
            "code": kind.code(),
            "status": kind.http_status(),
            "detail": self.to_string(),
        });
        if let (Some(position), Some(object)) = (self.position(), problem.as_object_mut()) {
            object.insert("position".to_owned(), json!({"line": position.line, "column": position.column}));
        }
        problem
    }

    /// Wraps the error so that it passes through DataFusion and comes out again in
    /// [`from_datafusion`].
    pub(crate) fn into_datafusion(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }
}

/// The name in `names` that `wanted` was probably meant to be.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let wanted = wanted.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wanted, &name.to_lowercase()), name))
        .filter(|(distance, name)| {
            *distance <= 1 + wanted.chars().count() / 4 || (wanted.len() >= 4 && name.starts_with(wanted.as_str()))
        })
        // Of those that are as near, the first by name: names come in any order.
        .min()
        .map(|(_, name)| name.to_owned())
}

/// What the translation of an engine's error has to know of the query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorContext {
    /// The most bytes it could have alone.
    pub(crate) memory_bytes: usize,
    /// What it was refused is held by others.
    pub(crate) crowded: bool,
}

impl ErrorContext {
    /// Of what has its memory for itself.
    pub(crate) const fn alone(memory_bytes: usize) -> Self {
        Self { memory_bytes, crowded: false }
    }

    fn memory(self) -> SqlError {
        let bytes = self.memory_bytes;
        if self.crowded { SqlError::MemoryHeld { bytes } } else { SqlError::Memory { bytes } }
    }
}

/// Looks for an error of ours, or of the store's, that travelled through DataFusion, Parquet or
/// Arrow as a source.
fn own_error(error: &(dyn std::error::Error + 'static)) -> Option<SqlError> {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    for _ in 0..16 {
        let here = at?;
        if let Some(own) = here.downcast_ref::<SqlError>() {
            return Some(own.clone());
        }
        if let Some(store) = here.downcast_ref::<StoreError>() {
            return Some(from_store(store));
        }
        if let Some(ParquetError::External(inner)) = here.downcast_ref::<ParquetError>()
            && let Some(own) = own_error(inner.as_ref())
        {
            return Some(own);
        }
        if let Some(error) = here.downcast_ref::<std::io::Error>()
            && let Some(inner) = error.get_ref()
            && let Some(own) = own_error(inner)
        {
            return Some(own);
        }
        at = here.source();
    }
    None
}

/// Cuts what DataFusion puts in front of and behind a message.
fn clean(message: &str) -> String {
    let mut text = message.trim();
    if let Some(at) = text.find("No function matches the given name and argument types") {
        // What the function itself has to say is worth more than the list of its types.
        text = match text.split_once("coercion failed with: ") {
            Some((_, own)) => own.split("No function matches").next().unwrap_or(own).trim().trim_end_matches('.'),
            None => text[at..].split(". You might").next().unwrap_or(text),
        };
    }
    text = text.split(". This issue was likely caused by a bug").next().unwrap_or(text);
    // A backtrace, where one was collected.
    if let Some(end) = text.find("\n\nbacktrace:") {
        text = &text[..end];
    }
    loop {
        let before = text;
        // "Function 'max' user-defined coercion failed with: ": what the function has to say comes behind it.
        if text.starts_with("Function '")
            && let Some((_, own)) = text.split_once("coercion failed with: ")
        {
            text = own;
        }
        for prefix in [
            "Error during planning: ",
            "Execution error: ",
            "Optimizer rule ",
            "Arrow error: ",
            "Schema error: ",
            "This feature is not implemented: ",
            "Invalid argument error: ",
            "type_coercion\ncaused by\n",
            "SQL error: ",
            "Internal error: ",
            "While expanding wildcard, ",
            "Column in SELECT must be in GROUP BY or an aggregate function: ",
        ] {
            text = text.strip_prefix(prefix).unwrap_or(text);
        }
        if let Some(at) = text.find("\ncaused by\n") {
            text = &text[at + "\ncaused by\n".len()..];
        }
        if text == before {
            break;
        }
    }
    if text.contains("Location(") || text.contains(": None") {
        // The engine shows the parser's own structures where it has no words.
        let what: String = text.chars().take_while(|c| !matches!(c, '{' | '(' | ':')).collect();
        return format!("this form of SQL is not supported ({})", what.trim().to_lowercase());
    }
    let text =
        text.replace("weir.public.", "").replace('\n', " ").replace("Utf8View", "string").replace("Utf8", "string");
    let mut characters = text.chars();
    match characters.next() {
        // Sentences begin small here; names and types keep their case.
        Some(first) if characters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => text,
    }
}

/// How it begins.
const UNKNOWN_FUNCTION: &str = "invalid function";

/// What is said of a call of a function there is not. The engine always suggests one, however far it is from what was
/// written, and of those that are as near any.
fn unknown_function(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("Invalid function '")?;
    let (name, _) = rest.split_once("'.\nDid you mean '")?;
    let near = nearest(name, FUNCTIONS.names()).map(|near| format!(". Did you mean '{near}'?"));
    Some(format!("{UNKNOWN_FUNCTION} '{name}'{}", near.unwrap_or_default()))
}

/// `... at Line: 2, Column: 7` as the parser writes it.
fn parser_position(message: &str) -> (String, Option<TextPosition>) {
    let Some(start) = message.rfind(" at Line: ") else { return (message.to_owned(), None) };
    let mut numbers = message[start..].split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let position = match (numbers.next().and_then(|n| n.parse().ok()), numbers.next().and_then(|n| n.parse().ok())) {
        (Some(line), Some(column)) => Some(TextPosition { line, column }),
        _ => None,
    };
    (message[..start].to_owned(), position)
}

pub(crate) fn from_parser(error: &ParserError) -> SqlError {
    match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
            let (message, position) = parser_position(message);
            SqlError::Syntax { message: clean(&message), position }
        }
        ParserError::RecursionLimitExceeded => SqlError::invalid("the query is nested too deeply"),
    }
}

fn unknown_column(field: &Column, valid: &[Column], position: Option<TextPosition>) -> SqlError {
    let mut columns: Vec<String> = Vec::with_capacity(valid.len());
    for column in valid {
        if !columns.contains(&column.name) {
            columns.push(column.name.clone());
        }
    }
    let name = match &field.relation {
        Some(relation) => format!("{}.{}", relation.table(), field.name),
        None => field.name.clone(),
    };
    SqlError::UnknownColumn {
        suggestion: nearest(&field.name, columns.iter().map(String::as_str)),
        name,
        columns,
        position,
    }
}

/// Classifies what DataFusion says.
pub(crate) fn from_datafusion(error: &DataFusionError, context: ErrorContext) -> SqlError {
    classify(error, context, None)
}

fn classify(error: &DataFusionError, context: ErrorContext, position: Option<TextPosition>) -> SqlError {
    if let Some(own) = own_error(error) {
        return own;
    }
    match error {
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let position = diagnostic
                .span
                .filter(|span| span.start.line > 0)
                .map(|span| TextPosition { line: span.start.line, column: span.start.column })
                .or(position);
            classify(inner, context, position)
        }
        DataFusionError::Context(_, inner) => classify(inner, context, position),
        DataFusionError::Shared(inner) => classify(inner, context, position),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => classify(first, context, position),
            None => SqlError::Internal,
        },
        DataFusionError::SQL(error, _) => from_parser(error),
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => unknown_column(field, valid_fields, position),
            SchemaError::AmbiguousReference { field } => SqlError::Invalid {
                message: format!(
                    "`{}` could be a column of several tables; write it as table.{}",
                    field.name, field.name
                ),
                position,
            },
            SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
                SqlError::Invalid {
                    message: format!("two columns are called `{name}`; name one of them with AS"),
                    position,
                }
            }
        },
        DataFusionError::Plan(message)
        | DataFusionError::NotImplemented(message)
        | DataFusionError::Execution(message)
        | DataFusionError::Configuration(message) => {
            SqlError::Invalid { message: unknown_function(message).unwrap_or_else(|| clean(message)), position }
        }
        DataFusionError::ArrowError(arrow, _) => from_arrow(arrow, context),
        DataFusionError::ResourcesExhausted(_) => context.memory(),
        DataFusionError::ExecutionJoin(join) if join.is_cancelled() => SqlError::Cancelled,
        DataFusionError::External(inner) => of_foreign(inner.as_ref()),
        DataFusionError::IoError(error) if weir_base::disk::is_full(error) => no_room(),
        // The cap on what is spilled.
        DataFusionError::IoError(error) if error.to_string().contains("during the spilling process") => {
            context.memory()
        }
        other => {
            tracing::error!(error = %other, "query failed inside the engine");
            SqlError::Internal
        }
    }
}

/// The disk itself is full, which is nobody's query's fault.
fn no_room() -> SqlError {
    SqlError::Transient { message: "there is no room for intermediate results at the moment".to_owned() }
}

/// Libraries below the engine say by their text alone whose fault it is.
fn of_foreign(error: &(dyn std::error::Error + 'static)) -> SqlError {
    let text = error.to_string();
    if text.starts_with("regex parse error") || text.starts_with("Compiled regex exceeds size limit") {
        return SqlError::invalid(text.to_lowercase().replace('\n', " "));
    }
    tracing::error!(%error, "query failed inside the engine");
    SqlError::Internal
}

fn from_arrow(error: &arrow::error::ArrowError, context: ErrorContext) -> SqlError {
    use arrow::error::ArrowError;
    match error {
        ArrowError::ExternalError(inner) => match inner.downcast_ref::<DataFusionError>() {
            Some(error) => from_datafusion(error, context),
            None => own_error(inner.as_ref()).unwrap_or_else(|| of_foreign(inner.as_ref())),
        },
        ArrowError::CastError(message)
        | ArrowError::ParseError(message)
        | ArrowError::ComputeError(message)
        | ArrowError::InvalidArgumentError(message)
        | ArrowError::ArithmeticOverflow(message)
        | ArrowError::NotYetImplemented(message) => SqlError::invalid(clean(message)),
        ArrowError::IoError(_, error) if weir_base::disk::is_full(error) => no_room(),
        ArrowError::IoError(message, _) if message.contains("during the spilling process") => context.memory(),
        ArrowError::DivideByZero => SqlError::invalid("division by zero"),
        other => {
            tracing::error!(error = %other, "query failed inside the engine");
            SqlError::Internal
        }
    }
}

#[cfg(test)]
mod tests;
