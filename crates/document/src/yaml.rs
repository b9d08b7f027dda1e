//! YAML into a tree. Anchors, aliases, tags and several documents are refused: no document here
//! needs them, and each has surprised somebody.

use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::tree::{Key, Node, Parsed, Place, Problem, Value};

/// A collection whose end was not seen yet.
enum Open {
    List(Place, Vec<Node>),
    /// The key waits for its value.
    Map(Place, Vec<(Key, Node)>, Option<Key>),
}

struct Reader {
    source: Arc<str>,
    stack: Vec<Open>,
    root: Option<Node>,
    problems: Vec<Problem>,
}

/// Deeper than this nothing is read: a tree is walked, and dropped, by recursion.
const DEPTH_MAX: usize = 64;

/// Reads a document; after a syntax error, as much as was read before. `language` is what the text
/// is called in messages.
pub(crate) fn parse(source: &str, text: &str, language: &str) -> Parsed {
    let mut reader = Reader { source: source.into(), stack: Vec::new(), root: None, problems: Vec::new() };
    let mut n_documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let marker = error.marker();
                let place = reader.at(marker.line(), marker.col());
                reader.problems.push(Problem::new(&place, format!("this is not {language}: {}", error.info()), ""));
                break;
            }
        };
        if matches!(event, Event::DocumentStart(..)) {
            n_documents += 1;
            if n_documents > 1 {
                let place = reader.place(&span);
                reader.problems.push(Problem::new(&place, "a second document begins here", "keep one in a file"));
                break;
            }
        }
        reader.event(event, &span);
        if reader.stack.len() > DEPTH_MAX {
            let place = reader.place(&span);
            reader.problems.push(Problem::new(&place, format!("more than {DEPTH_MAX} levels are nested here"), ""));
            break;
        }
    }
    reader.finish()
}

impl Reader {
    /// `column` counts from 0.
    fn at(&self, line: usize, column: usize) -> Place {
        Place { source: Arc::clone(&self.source), line: line.max(1), column: column + 1 }
    }

    fn place(&self, span: &Span) -> Place {
        self.at(span.start.line(), span.start.col())
    }

    fn event(&mut self, event: Event<'_>, span: &Span) {
        let place = self.place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(&place, anchor, tag.is_some());
                let is_key = matches!(self.stack.last(), Some(Open::Map(_, _, None)));
                let value = match style {
                    ScalarStyle::Plain if !is_key => plain(&text),
                    _ => Value::Text(text.into_owned()),
                };
                self.add(Node { place, value });
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_extras(&place, anchor, tag.is_some());
                self.stack.push(Open::List(place, Vec::new()));
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_extras(&place, anchor, tag.is_some());
                self.stack.push(Open::Map(place, Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.problems.push(Problem::new(&place, "aliases are not supported", "write the value out"));
                self.add(Node { place, value: Value::Null });
            }
            _ => {}
        }
    }

    fn refuse_extras(&mut self, place: &Place, anchor: usize, has_tag: bool) {
        if anchor != 0 {
            self.problems.push(Problem::new(
                place,
                "anchors are not supported",
                "write the value out where it is needed",
            ));
        }
        if has_tag {
            self.problems.push(Problem::new(place, "tags are not supported", "remove the `!...`"));
        }
    }

    fn close(&mut self) {
        let node = match self.stack.pop() {
            Some(Open::List(place, items)) => Node { place, value: Value::List(items) },
            Some(Open::Map(place, entries, _)) => Node { place, value: Value::Map(entries) },
            None => return,
        };
        self.add(node);
    }

    fn add(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, key)) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let Node { place, value } = node;
                    let name = match value {
                        Value::Text(name) => name,
                        other => {
                            self.problems.push(Problem::new(&place, "a name must be text", ""));
                            other.describe()
                        }
                    };
                    *key = Some(Key { place, name });
                }
            },
        }
    }

    fn finish(mut self) -> Parsed {
        while !self.stack.is_empty() {
            self.close();
        }
        let nothing = Node { place: self.at(1, 0), value: Value::Null };
        Parsed { root: self.root.unwrap_or(nothing), problems: self.problems }
    }
}

/// A scalar without quotes, by YAML 1.2's core schema.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            let is_number = digits.starts_with(|first: char| first.is_ascii_digit()) && text.parse::<f64>().is_ok();
            if is_number { Value::Number(text.to_owned()) } else { Value::Text(text.to_owned()) }
        }
    }
}
