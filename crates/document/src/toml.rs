//! TOML into a tree. The parser goes on after a syntax error, so one file can show several.

use std::sync::Arc;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use crate::tree::{Key, Node, Parsed, Place, Problem, Value};

struct Reader<'a> {
    source: Arc<str>,
    lines: Lines<'a>,
}

/// Reads a document; after a syntax error, what can be made of the rest.
pub(crate) fn parse(source: &str, text: &str) -> Parsed {
    let reader = Reader { source: source.into(), lines: Lines::of(text) };
    let (table, errors) = DeTable::parse_recoverable(text);
    let problem = |error: &::toml::de::Error| {
        let place = reader.place(error.span().map_or(0, |span| span.start));
        let message = match error.message() {
            "duplicate key" => "this is set twice".to_owned(),
            message => format!("this is not TOML: {message}"),
        };
        Problem::new(&place, message, "")
    };
    let problems = errors.iter().map(problem).collect();
    let start = table.span().start;
    Parsed { root: Node { place: reader.place(start), value: reader.table(table.into_inner()) }, problems }
}

/// Finds line and column of a byte without walking the text for each.
struct Lines<'a> {
    text: &'a str,
    /// Where each line begins.
    starts: Vec<usize>,
    /// Characters before each full [`Self::STRIDE`] of bytes.
    characters: Vec<usize>,
}

impl<'a> Lines<'a> {
    const STRIDE: usize = 1024;

    fn of(text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        let mut characters = vec![0];
        for stride in text.as_bytes().chunks(Self::STRIDE) {
            let before = characters.last().copied().unwrap_or_default();
            characters.push(before + n_characters(stride));
        }
        Self { text, starts, characters }
    }

    /// Both from 1; the column in characters.
    fn line_and_column(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts[line - 1];
        (line, self.characters_before(at) - self.characters_before(start) + 1)
    }

    fn characters_before(&self, at: usize) -> usize {
        let stride = at / Self::STRIDE;
        self.characters[stride] + n_characters(&self.text.as_bytes()[stride * Self::STRIDE..at])
    }
}

/// Characters that begin in these bytes of UTF-8.
fn n_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

impl Reader<'_> {
    fn place(&self, at: usize) -> Place {
        let (line, column) = self.lines.line_and_column(at);
        Place { source: Arc::clone(&self.source), line, column }
    }

    fn table(&self, table: DeTable<'_>) -> Value {
        let entry = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, Spanned<DeValue<'_>>)| {
            let place = self.place(key.span().start);
            (Key { place, name: key.into_inner().into_owned() }, self.node(value))
        };
        let mut entries: Vec<(Key, Node)> = table.into_iter().map(entry).collect();
        entries.sort_by(|(a, _), (b, _)| a.place.cmp(&b.place));
        Value::Map(entries)
    }

    fn node(&self, value: Spanned<DeValue<'_>>) -> Node {
        let place = self.place(value.span().start);
        let value = match value.into_inner() {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Number(number.to_string()),
                Err(_) => Value::Number(number.as_str().to_owned()),
            },
            DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => Value::List(items.into_iter().map(|item| self.node(item)).collect()),
            DeValue::Table(table) => self.table(table),
        };
        Node { place, value }
    }
}
