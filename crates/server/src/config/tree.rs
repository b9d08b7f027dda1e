//! What was written, with the place of every part. The file formats are read into this, so that
//! problems are found and reported in one way, all at once, with line and column.

use std::fmt;
use std::sync::Arc;

use weir_base::Diagnostic;

/// Where something was written: a position in a file, or the name of a variable or flag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) source: Arc<str>,
    /// From 1; 0 if the source has no lines.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
}

impl Place {
    /// A source that is one value.
    pub(super) fn named(name: &str) -> Self {
        Self { source: name.into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            formatter.write_str(&self.source)
        } else {
            write!(formatter, "{}:{}:{}", self.source, self.line, self.column)
        }
    }
}

/// A problem and its place, before it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Problem {
    pub(super) fn new(place: &Place, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { place: place.clone(), message: message.into(), hint: hint.into() }
    }

    pub(super) fn shown(self) -> Diagnostic {
        Diagnostic { message: self.message, place: self.place.to_string(), hint: self.hint }
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a value can be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Nothing: the default stays.
    Null,
    Bool(bool),
    /// A number as it was written.
    Number(String),
    Text(String),
    /// Text of a variable or flag, which has no type of its own.
    Loose(String),
    List(Vec<Node>),
    /// Keys with their places, in order; a key may be there twice.
    Map(Vec<(Key, Node)>),
    /// Something no setting takes, for example a date.
    Other(&'static str),
}

/// A name in a map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) name: String,
}

/// The most characters of a value that are repeated in a message.
const SHOWN_MAX: usize = 40;

/// Text cut to what fits a message.
pub(super) fn cut(text: &str) -> String {
    if text.chars().count() <= SHOWN_MAX {
        return text.to_owned();
    }
    let begin: String = text.chars().take(SHOWN_MAX).collect();
    format!("{begin}...")
}

impl Value {
    /// The value in a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => format!("the number {}", cut(number)),
            Self::Text(text) | Self::Loose(text) if text.is_empty() => "an empty text".to_owned(),
            Self::Text(text) | Self::Loose(text) => format!("`{}`", cut(text)),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a section".to_owned(),
            Self::Other(what) => (*what).to_owned(),
        }
    }
}

/// What a file was read into.
#[derive(Debug)]
pub(super) struct Parsed {
    /// As much as could be read.
    pub(super) root: Node,
    /// Where it is not even well formed.
    pub(super) problems: Vec<Problem>,
}
