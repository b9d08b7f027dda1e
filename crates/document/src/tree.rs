//! What was written, with the place of every part. The file formats are read into this, so that
//! problems are found and reported in one way, all at once, with line and column.

use std::fmt;
use std::sync::Arc;

use weir_base::Diagnostic;
use weir_base::secret::Secret;

/// Where something was written: a position in a file, or the name of a variable or flag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, variable or flag.
    pub source: Arc<str>,
    /// From 1; 0 if the source has no lines.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Place {
    /// A source that is one value.
    pub fn named(name: &str) -> Self {
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
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// More problems than this are counted, not listed.
const PROBLEMS_MAX: usize = 100;

impl Problem {
    /// Something wrong at `place`.
    pub fn new(place: &Place, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { place: place.clone(), message: message.into(), hint: hint.into() }
    }

    /// As it is shown to the user.
    pub fn shown(self) -> Diagnostic {
        Diagnostic { message: self.message, place: self.place.to_string(), hint: self.hint }
    }

    /// All of them as they are shown: those with a line first, in order; the others stay in the order
    /// of their sources.
    pub fn all_shown(mut problems: Vec<Self>) -> Vec<Diagnostic> {
        problems.sort_by_key(|problem| (problem.place.line == 0, problem.place.line, problem.place.column));
        let n_more = problems.len().saturating_sub(PROBLEMS_MAX);
        let last = problems.get(PROBLEMS_MAX).map(|problem| problem.place.clone());
        let mut shown: Vec<Diagnostic> = problems.into_iter().take(PROBLEMS_MAX).map(Self::shown).collect();
        if let Some(place) = last {
            shown.push(Self::new(&place, format!("{n_more} more problems from here on"), "").shown());
        }
        shown
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What was written.
    pub value: Value,
}

/// What a value can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: the default stays.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it was written.
    Number(String),
    /// Text.
    Text(String),
    /// Text of a variable or flag, which has no type of its own.
    Loose(String),
    /// Text with something from outside put into it (see [`crate::fill`]), which has no type of its own.
    Filled(Filled),
    /// A list.
    List(Vec<Node>),
    /// Keys with their places, in order; a key may be there twice.
    Map(Vec<(Key, Node)>),
    /// Something no setting takes, for example a date.
    Other(&'static str),
    /// Something a problem has been reported of already.
    Wrong,
}

/// Text with something from outside in it, which may be a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// As it was written, which may be shown.
    pub written: String,
    /// What it became, which may not.
    pub text: Secret<String>,
}

/// A name in a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Where it begins.
    pub place: Place,
    /// The name.
    pub name: String,
}

/// The most characters of a value that are repeated in a message.
const SHOWN_MAX: usize = 40;

/// Text cut to what fits a message.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

impl Value {
    /// The value in a message.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => format!("the number {}", cut(number)),
            Self::Text(text) | Self::Loose(text) if text.is_empty() => "an empty text".to_owned(),
            Self::Text(text) | Self::Loose(text) => format!("`{}`", cut(text)),
            Self::Filled(filled) => format!("the value of `{}`", cut(&filled.written)),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a section".to_owned(),
            Self::Other(what) => (*what).to_owned(),
            Self::Wrong => "something wrong".to_owned(),
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Loose(text) => Some(text),
            Self::Filled(filled) => Some(filled.text.expose()),
            _ => None,
        }
    }

    /// The text, if it may be of any type.
    pub fn as_loose(&self) -> Option<&str> {
        match self {
            Self::Loose(text) => Some(text),
            Self::Filled(filled) => Some(filled.text.expose()),
            _ => None,
        }
    }
}

/// What a file was read into.
#[derive(Debug)]
pub struct Parsed {
    /// As much as could be read.
    pub root: Node,
    /// Where it is not even well formed.
    pub problems: Vec<Problem>,
}
