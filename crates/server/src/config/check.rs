//! A tree against the schema: every problem, and a JSON value of what is right.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value as Json};
use weir_base::quantity::{ByteSize, Span};

use super::schema::{Field, Format, Shape, root};
use super::settings::Cidr;
use super::tree::{Node, Place, Problem, Value};

/// What is right in one source.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) value: Map<String, Json>,
    /// Where each value and section was written, wrong ones too, by JSON pointer.
    pub(super) places: BTreeMap<String, Place>,
}

impl Checked {
    /// Puts `other` on top: its values win.
    pub(super) fn overlay(&mut self, other: Self) {
        merge(&mut self.value, other.value);
        self.places.extend(other.places);
    }

    /// Looks for what must be given with what is given. Only once all sources are merged: the
    /// certificate may be in the file and its key in a variable. Sections that are not complete are
    /// taken out.
    pub(super) fn complete(&mut self, problems: &mut Vec<Problem>) {
        let Self { value, places } = self;
        complete(value, root(), &mut Vec::new(), places, problems);
    }
}

/// Returns whether the section is complete.
fn complete(
    value: &mut Map<String, Json>,
    shape: &Shape,
    path: &mut Vec<String>,
    places: &BTreeMap<String, Place>,
    problems: &mut Vec<Problem>,
) -> bool {
    let Shape::Section(fields) = shape else { return true };
    let here = pointer(path);
    let mut is_complete = true;
    for field in fields {
        path.push(field.name.clone());
        match value.get_mut(&field.name) {
            Some(Json::Object(inner)) => {
                let is_whole = complete(inner, &field.shape, path, places, problems);
                if !is_whole {
                    value.remove(&field.name);
                }
            }
            Some(_) => {}
            None if field.required => {
                is_complete = false;
                // One that is there and wrong has been reported.
                if let (Some(place), None) = (places.get(&here), places.get(&pointer(path))) {
                    let message = format!("`{}` needs `{}`", path[..path.len() - 1].join("."), field.name);
                    problems.push(Problem::new(place, message, field.doc.trim_end_matches('.')));
                }
            }
            None => {}
        }
        path.pop();
    }
    is_complete
}

fn merge(base: &mut Map<String, Json>, over: Map<String, Json>) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(Json::Object(below)), Json::Object(above)) => merge(below, above),
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
}

/// Checks a whole source.
pub(super) fn check(node: &Node, problems: &mut Vec<Problem>) -> Checked {
    let mut checker = Checker { problems, places: BTreeMap::new() };
    let value = match checker.value(node, root(), &mut Vec::new()) {
        Some(Json::Object(value)) => value,
        _ => Map::new(),
    };
    Checked { value, places: checker.places }
}

struct Checker<'a> {
    problems: &'a mut Vec<Problem>,
    places: BTreeMap<String, Place>,
}

impl Checker<'_> {
    fn problem(&mut self, place: &Place, message: String, hint: String) {
        self.problems.push(Problem::new(place, message, hint));
    }

    fn wrong(&mut self, node: &Node, shape: &Shape, path: &[String]) -> Option<Json> {
        let message = format!("{} must be {}, not {}", named(path), shape.expected(), node.value.describe());
        self.problem(&node.place, message, hint_for(shape, &node.value));
        None
    }

    /// The value if it is right.
    fn value(&mut self, node: &Node, shape: &Shape, path: &mut Vec<String>) -> Option<Json> {
        if node.value == Value::Null {
            return None;
        }
        self.places.insert(pointer(path), node.place.clone());
        let value = match shape {
            Shape::Section(fields) => self.section(node, fields, shape, path)?,
            Shape::Map(values) => self.map(node, values, shape, path)?,
            Shape::List(items) => self.list(node, items, shape, path)?,
            Shape::Bool => match &node.value {
                Value::Bool(value) => Json::Bool(*value),
                Value::Loose(text) if text == "true" || text == "false" => Json::Bool(text == "true"),
                _ => return self.wrong(node, shape, path),
            },
            Shape::Integer { min, max } => match &node.value {
                Value::Number(text) | Value::Loose(text) => match text.parse::<i128>() {
                    Ok(number) if (*min..=*max).contains(&number) => Json::from(i64::try_from(number).ok()?),
                    _ => return self.wrong(node, shape, path),
                },
                _ => return self.wrong(node, shape, path),
            },
            Shape::Size { min, max } => self.quantity::<ByteSize>(node, shape, path, (min, max))?,
            Shape::Span { min, max } => self.quantity::<Span>(node, shape, path, (min, max))?,
            Shape::Choice(words) => match &node.value {
                Value::Text(text) | Value::Loose(text) if words.iter().any(|(word, _)| word == text) => {
                    Json::String(text.clone())
                }
                _ => return self.wrong(node, shape, path),
            },
            Shape::Text(format) => self.text(node, *format, shape, path)?,
        };
        Some(value)
    }

    fn section(&mut self, node: &Node, fields: &[Field], shape: &Shape, path: &mut Vec<String>) -> Option<Json> {
        let Value::Map(entries) = &node.value else { return self.wrong(node, shape, path) };
        let mut value = Map::new();
        let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
        for (key, child) in entries {
            let Some(field) = fields.iter().find(|field| field.name == key.name) else {
                let hint = hint_for_unknown(&key.name, fields);
                let section = if path.is_empty() { String::new() } else { format!(" in `{}`", path.join(".")) };
                self.problem(&key.place, format!("unknown field `{}`{section}", super::tree::cut(&key.name)), hint);
                continue;
            };
            path.push(key.name.clone());
            if let Some(first) = seen.insert(&field.name, &key.place) {
                self.problem(&key.place, format!("{} is set twice", named(path)), format!("first at {first}"));
            }
            if let Some(child) = self.value(child, &field.shape, path) {
                value.insert(field.name.clone(), child);
            }
            path.pop();
        }
        Some(Json::Object(value))
    }

    fn map(&mut self, node: &Node, values: &Shape, shape: &Shape, path: &mut Vec<String>) -> Option<Json> {
        let Value::Map(entries) = &node.value else { return self.wrong(node, shape, path) };
        let mut value = Map::new();
        for (key, child) in entries {
            path.push(key.name.clone());
            if value.contains_key(&key.name) {
                self.problem(&key.place, format!("{} is set twice", named(path)), String::new());
            }
            // The one map there is has streams as names.
            if let Err(error) = weir_base::StreamName::new(&key.name) {
                self.problem(&key.place, error.to_string(), String::new());
            } else if let Some(child) = self.value(child, values, path) {
                value.insert(key.name.clone(), child);
            }
            path.pop();
        }
        Some(Json::Object(value))
    }

    fn list(&mut self, node: &Node, items: &Shape, shape: &Shape, path: &mut Vec<String>) -> Option<Json> {
        let split: Vec<Node>;
        let nodes = match &node.value {
            Value::List(nodes) => nodes,
            Value::Loose(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                split = parts
                    .map(|part| Node { place: node.place.clone(), value: Value::Loose(part.to_owned()) })
                    .collect();
                &split
            }
            _ => return self.wrong(node, shape, path),
        };
        let mut value = Vec::with_capacity(nodes.len());
        for (at, item) in nodes.iter().enumerate() {
            path.push(at.to_string());
            if item.value == Value::Null {
                self.wrong(item, items, path);
            }
            value.extend(self.value(item, items, path));
            path.pop();
        }
        Some(Json::Array(value))
    }

    fn quantity<Q: std::str::FromStr + PartialOrd>(
        &mut self,
        node: &Node,
        shape: &Shape,
        path: &[String],
        (min, max): (&Option<String>, &Option<String>),
    ) -> Option<Json> {
        let (Value::Number(text) | Value::Text(text) | Value::Loose(text)) = &node.value else {
            return self.wrong(node, shape, path);
        };
        let Ok(quantity) = text.parse::<Q>() else { return self.wrong(node, shape, path) };
        let parse = |bound: &Option<String>| bound.as_ref().and_then(|text| text.parse::<Q>().ok());
        let broken = if parse(min).is_some_and(|min| quantity < min) {
            min.as_ref().map(|min| ("at least", min))
        } else if parse(max).is_some_and(|max| quantity > max) {
            max.as_ref().map(|max| ("at most", max))
        } else {
            None
        };
        if let Some((relation, bound)) = broken {
            let message = format!("{} must be {relation} {bound}, not {}", named(path), super::tree::cut(text));
            self.problem(&node.place, message, String::new());
            return None;
        }
        Some(Json::String(text.trim().to_owned()))
    }

    fn text(&mut self, node: &Node, format: Format, shape: &Shape, path: &[String]) -> Option<Json> {
        let (Value::Text(text) | Value::Loose(text)) = &node.value else { return self.wrong(node, shape, path) };
        let is_right = match format {
            Format::Plain => true,
            Format::Path | Format::File => !text.is_empty() && !text.contains('\0'),
            Format::Address => is_address(text),
            Format::Cidr => Cidr::parse(text).is_some(),
            Format::Url => is_url(text),
        };
        if !is_right {
            return self.wrong(node, shape, path);
        }
        if format == Format::File {
            let reason = match fs::metadata(text) {
                Ok(metadata) if metadata.is_file() => match fs::File::open(text) {
                    Ok(_) => None,
                    Err(error) => Some(error.to_string()),
                },
                Ok(_) => Some("it is not a file".to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("it does not exist".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = reason {
                let message = format!("{}: `{}` cannot be read: {reason}", named(path), super::tree::cut(text));
                self.problem(&node.place, message, "a relative path starts at the working directory".to_owned());
                return None;
            }
        }
        Some(Json::String(text.clone()))
    }
}

/// A path in a message.
fn named(path: &[String]) -> String {
    if path.is_empty() { "a configuration".to_owned() } else { format!("`{}`", path.join(".")) }
}

/// The JSON pointer of a path.
pub(super) fn pointer(path: &[String]) -> String {
    path.iter().map(|name| format!("/{name}")).collect()
}

fn is_address(text: &str) -> bool {
    if text.parse::<std::net::SocketAddr>().is_ok() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        // `1.2.3:80` is a mistyped address, not a name.
        && host.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name && port.parse::<u16>().is_ok()
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace))
}

fn hint_for(shape: &Shape, value: &Value) -> String {
    match (shape, value) {
        (Shape::Bool, Value::Text(text)) if matches!(text.as_str(), "yes" | "on" | "no" | "off" | "true" | "false") => {
            "write true or false, without quotes".to_owned()
        }
        (Shape::Integer { .. }, Value::Text(text)) if text.parse::<i128>().is_ok() => "remove the quotes".to_owned(),
        (Shape::Span { .. }, Value::Number(number)) => format!("a duration needs a unit: {number}s, {number}ms, ..."),
        (Shape::Text(Format::Address), Value::Number(port)) => format!("127.0.0.1:{port}?"),
        (Shape::List(_), Value::Text(text)) => format!("[{}]?", super::tree::cut(text)),
        (Shape::Choice(words), Value::Text(text) | Value::Loose(text)) => {
            nearest(text, words.iter().map(|(word, _)| word.as_str())).map_or_else(String::new, did_you_mean)
        }
        _ => String::new(),
    }
}

fn hint_for_unknown(name: &str, fields: &[Field]) -> String {
    if let Some(known) = nearest(name, fields.iter().map(|field| field.name.as_str())) {
        return did_you_mean(known);
    }
    let elsewhere: Vec<String> = root()
        .paths()
        .into_iter()
        .filter(|path| path.last().is_some_and(|last| last == name) && path[0] != "tiers")
        .map(|path| path.join("."))
        .collect();
    if !elsewhere.is_empty() && elsewhere.len() <= 3 {
        return format!("it belongs to {}", elsewhere.join(" or "));
    }
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    format!("known are {}", names.join(", "))
}

fn did_you_mean(known: &str) -> String {
    format!("did you mean `{known}`?")
}

/// The known name that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    known
        .map(|known| (strsim::damerau_levenshtein(&name, known), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= (name.len().max(known.len()) / 3).max(1))
        .map(|(_, known)| known)
}
