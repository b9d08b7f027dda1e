//! TOML into a tree. The parser goes on after a syntax error, so one file can show several.

use std::sync::Arc;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use super::tree::{Key, Node, Parsed, Place, Problem, Value};

struct Reader<'a> {
    source: Arc<str>,
    text: &'a str,
}

/// Reads a document; after a syntax error, what can be made of the rest.
pub(super) fn parse(source: &str, text: &str) -> Parsed {
    let reader = Reader { source: source.into(), text };
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

impl Reader<'_> {
    fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            source: Arc::clone(&self.source),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
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
