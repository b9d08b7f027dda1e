//! A tree against its schema: every problem, and a JSON value of what is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Map, Value as Json};
use weir_base::quantity::{ByteSize, Span};

use crate::formats;
use crate::hints;
pub use crate::hints::nearest;
use crate::shape::{Field, Format, Names, Shape};
use crate::tree::{Filled, Key, Node, Parsed, Place, Problem, Value, cut};

/// What a document must look like.
#[derive(Clone, Debug)]
pub struct Schema {
    /// All of it.
    pub root: Shape,
    /// What the whole is called in messages: "a configuration".
    pub noun: &'static str,
    /// Sections that a setting in the wrong place is never said to belong to.
    pub unsuggested: &'static [&'static str],
}

/// What is right in a document, or in one source of several.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// The values.
    pub value: Map<String, Json>,
    /// Where each value and section was written, wrong ones too, by JSON pointer.
    pub places: BTreeMap<String, Place>,
}

impl Schema {
    /// Checks a whole document. Where it is not well formed the reader had to guess, so on such a line
    /// only that is reported.
    pub fn check(&self, parsed: &Parsed, problems: &mut Vec<Problem>) -> Checked {
        self.check_parsed(parsed, Whole::Yes, problems)
    }

    /// Checks what was read of a file that is one of several sources: what is missing may be in another
    /// (see [`Checked::complete`]).
    pub fn check_file(&self, parsed: &Parsed, problems: &mut Vec<Problem>) -> Checked {
        self.check_parsed(parsed, Whole::No, problems)
    }

    /// Checks one of several sources.
    pub fn check_source(&self, node: &Node, problems: &mut Vec<Problem>) -> Checked {
        self.check_node(node, Whole::No, problems)
    }

    fn check_parsed(&self, parsed: &Parsed, whole: Whole, problems: &mut Vec<Problem>) -> Checked {
        let mut found = Vec::new();
        let checked = self.check_node(&parsed.root, whole, &mut found);
        let lines: BTreeSet<usize> = parsed.problems.iter().map(|problem| problem.place.line).collect();
        problems.extend(parsed.problems.iter().cloned());
        problems.extend(found.into_iter().filter(|problem| !lines.contains(&problem.place.line)));
        checked
    }

    fn check_node(&self, node: &Node, whole: Whole, problems: &mut Vec<Problem>) -> Checked {
        let mut checker = Checker { schema: self, whole, problems, places: BTreeMap::new() };
        let value = match checker.value(node, &self.root, &mut Vec::new()) {
            Some(Json::Object(value)) => value,
            // A document without anything in it lacks what it needs.
            None if node.value == Value::Null => {
                checker.require(&node.place, &Map::new(), &self.root.fields(), &[], &[]);
                Map::new()
            }
            _ => Map::new(),
        };
        Checked { value, places: checker.places }
    }
}

impl Checked {
    /// Puts `other` on top: its values win.
    pub fn overlay(&mut self, other: Self) {
        merge(&mut self.value, other.value);
        self.places.extend(other.places);
    }

    /// Looks for what must be given with what is given. Only once all sources are merged: the
    /// certificate may be in the file and its key in a variable. Sections that are not complete are
    /// taken out.
    pub fn complete(&mut self, schema: &Schema, problems: &mut Vec<Problem>) {
        let Self { value, places } = self;
        complete(value, &schema.root, &mut Vec::new(), places, problems);
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
                    problems.push(missing(place, &format!("`{}`", path[..path.len() - 1].join(".")), field));
                }
            }
            None => {}
        }
        path.pop();
    }
    is_complete
}

fn missing(place: &Place, section: &str, field: &Field) -> Problem {
    Problem::new(place, format!("{section} needs `{}`", field.name), field.doc.trim_end_matches('.'))
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

/// Whether what is not there is missing, or may come from another source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

/// After so many problems nothing is suggested any more: they are not shown either.
const HINTS_MAX: usize = 1_000;

struct Checker<'a> {
    schema: &'a Schema,
    whole: Whole,
    problems: &'a mut Vec<Problem>,
    places: BTreeMap<String, Place>,
}

impl Checker<'_> {
    fn problem(&mut self, place: &Place, message: String, hint: String) {
        self.problems.push(Problem::new(place, message, hint));
    }

    fn wrong(&mut self, node: &Node, shape: &Shape, path: &[String]) -> Option<Json> {
        let message = format!("{} must be {}, not {}", self.named(path), shape.expected(), node.value.describe());
        self.problem(&node.place, message, hints::for_value(shape, &node.value));
        None
    }

    /// A path in a message.
    fn named(&self, path: &[String]) -> String {
        if path.is_empty() { self.schema.noun.to_owned() } else { format!("`{}`", path.join(".")) }
    }

    /// The value if it is right.
    fn value(&mut self, node: &Node, shape: &Shape, path: &mut Vec<String>) -> Option<Json> {
        if node.value == Value::Null {
            return None;
        }
        self.places.insert(pointer(path), node.place.clone());
        if node.value == Value::Wrong {
            return None;
        }
        let value = match shape {
            Shape::Section(fields) => {
                let Value::Map(entries) = &node.value else { return self.wrong(node, shape, path) };
                let fields: Vec<&Field> = fields.iter().collect();
                let value = self.entries(entries, &fields, &[], path);
                self.require(&node.place, &value, &fields, entries, path);
                Json::Object(value)
            }
            Shape::Tagged { noun, tags, others } => self.tagged(node, (noun, tags, others), shape, path)?,
            Shape::Map { names, values } => self.map(node, (*names, values), shape, path)?,
            Shape::Expressions => self.expressions(node, shape, path)?,
            Shape::List(items) => self.list(node, items, shape, path)?,
            Shape::Either(shapes) => self.either(node, shapes, shape, path)?,
            Shape::Any => self.any(node, path)?,
            Shape::Bool => match (&node.value, node.value.as_loose()) {
                (Value::Bool(value), _) => Json::Bool(*value),
                (_, Some(text)) if text == "true" || text == "false" => Json::Bool(text == "true"),
                _ => return self.wrong(node, shape, path),
            },
            Shape::Integer { min, max } => match number(&node.value).and_then(|text| text.parse::<i128>().ok()) {
                Some(number) if (*min..=*max).contains(&number) => Json::from(i64::try_from(number).ok()?),
                _ => return self.wrong(node, shape, path),
            },
            Shape::Number { min, max } => match number(&node.value).and_then(|text| text.parse::<f64>().ok()) {
                Some(value) if (*min..=*max).contains(&value) => number_of(&node.value)?,
                _ => return self.wrong(node, shape, path),
            },
            Shape::Size { min, max } => self.quantity::<ByteSize>(node, shape, path, (min, max))?,
            Shape::Span { min, max } => self.quantity::<Span>(node, shape, path, (min, max))?,
            Shape::Choice(words) => match node.value.as_text() {
                Some(text) if words.iter().any(|(word, _)| word == text) => Json::String(text.to_owned()),
                _ => return self.wrong(node, shape, path),
            },
            Shape::Text(format) => self.text(node, *format, shape, path)?,
        };
        Some(value)
    }

    /// The entries of a section with these fields. A field that is one of the `tags` may be empty.
    fn entries(
        &mut self,
        entries: &[(Key, Node)],
        fields: &[&Field],
        tags: &[Field],
        path: &mut Vec<String>,
    ) -> Map<String, Json> {
        let mut value = Map::new();
        let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
        for (key, child) in entries {
            let Some(field) = fields.iter().find(|field| field.name == key.name) else {
                let inside = entries.iter().find_map(|(other, _)| {
                    let tag = tags.iter().find(|tag| tag.name == other.name)?;
                    hints::is_inside(&key.name, &tag.shape).then_some(tag)
                });
                let hint = match inside {
                    _ if self.problems.len() >= HINTS_MAX => String::new(),
                    Some(tag) => format!("it belongs into the {0}: {0}: {{ ..., {1}: ... }}", tag.name, cut(&key.name)),
                    None => hints::for_unknown(&key.name, fields, &self.schema.root, self.schema.unsuggested),
                };
                let section = if path.is_empty() { String::new() } else { format!(" in `{}`", path.join(".")) };
                self.problem(&key.place, format!("unknown field `{}`{section}", cut(&key.name)), hint);
                continue;
            };
            path.push(key.name.clone());
            if let Some(first) = seen.insert(&field.name, &key.place) {
                self.problem(&key.place, format!("{} is set twice", self.named(path)), format!("first at {first}"));
            }
            let empty = Node { place: child.place.clone(), value: Value::Map(Vec::new()) };
            let is_tag = tags.iter().any(|tag| tag.name == field.name);
            let child = if is_tag && child.value == Value::Null { &empty } else { child };
            if let Some(child) = self.value(child, &field.shape, path) {
                value.insert(field.name.clone(), child);
            }
            path.pop();
        }
        value
    }

    /// Reports what must be in a section and is not, if nothing can come from elsewhere.
    fn require(
        &mut self,
        place: &Place,
        value: &Map<String, Json>,
        fields: &[&Field],
        entries: &[(Key, Node)],
        path: &[String],
    ) {
        if self.whole == Whole::No {
            return;
        }
        for field in fields.iter().filter(|field| field.required && !value.contains_key(&field.name)) {
            // One that is there and wrong has been reported.
            let written = entries.iter().find(|(key, _)| key.name == field.name);
            if written.is_none_or(|(_, child)| child.value == Value::Null) {
                self.problems.push(missing(place, &self.named(path), field));
            }
        }
    }

    fn tagged(
        &mut self,
        node: &Node,
        (noun, tags, others): (&str, &[Field], &[Field]),
        shape: &Shape,
        path: &mut Vec<String>,
    ) -> Option<Json> {
        let Value::Map(entries) = &node.value else { return self.wrong(node, shape, path) };
        let fields: Vec<&Field> = tags.iter().chain(others).collect();
        let value = self.entries(entries, &fields, tags, path);
        self.require(&node.place, &value, &fields, entries, path);
        let mut found = entries.iter().map(|(key, _)| key).filter(|key| tags.iter().any(|tag| tag.name == key.name));
        let is_all_known = entries.iter().all(|(key, _)| fields.iter().any(|field| field.name == key.name));
        let noun = if noun.is_empty() { String::new() } else { format!("a {noun}: ") };
        match (found.next(), found.find(|key| value.contains_key(&key.name))) {
            // An unknown name has been reported, and was probably meant to be it.
            (None, _) if is_all_known => {
                let message = format!("{} needs {noun}one of {}", self.named(path), crate::shape::names(tags));
                self.problem(&node.place, message, String::new());
            }
            (Some(first), Some(second)) if first.name != second.name => {
                let message = format!("{} has both `{}` and `{}`", self.named(path), first.name, second.name);
                self.problem(&second.place, message, "keep one of them".to_owned());
            }
            _ => {}
        }
        Some(Json::Object(value))
    }

    fn map(
        &mut self,
        node: &Node,
        (names, values): (Names, &Shape),
        shape: &Shape,
        path: &mut Vec<String>,
    ) -> Option<Json> {
        let Value::Map(entries) = &node.value else { return self.wrong(node, shape, path) };
        let mut value = Map::new();
        for (key, child) in entries {
            path.push(key.name.clone());
            if value.contains_key(&key.name) {
                self.problem(&key.place, format!("{} is set twice", self.named(path)), String::new());
            }
            let wrong_name = match names {
                Names::Stream => weir_base::StreamName::new(&key.name).err().map(|error| error.to_string()),
                Names::Any => key.name.is_empty().then(|| "a name must not be empty".to_owned()),
            };
            if let Some(message) = wrong_name {
                self.problem(&key.place, message, String::new());
            } else if let Some(child) = self.value(child, values, path) {
                value.insert(key.name.clone(), child);
            }
            path.pop();
        }
        Some(Json::Object(value))
    }

    fn expressions(&mut self, node: &Node, shape: &Shape, path: &mut Vec<String>) -> Option<Json> {
        let Value::Map(entries) = &node.value else { return self.wrong(node, shape, path) };
        let mut seen = BTreeSet::new();
        let mut list = Vec::with_capacity(entries.len());
        for (key, child) in entries {
            path.push(key.name.clone());
            if key.name.is_empty() {
                self.problem(&key.place, "a name must not be empty".to_owned(), String::new());
            } else if !seen.insert(&key.name) {
                self.problem(&key.place, format!("{} is set twice", self.named(path)), String::new());
            }
            if child.value == Value::Null {
                self.wrong(child, &Shape::Text(Format::Expression), path);
            } else if let Some(text) = self.value(child, &Shape::Text(Format::Expression), path) {
                list.push(serde_json::json!({ "name": key.name, "text": text }));
            }
            path.pop();
        }
        Some(Json::Array(list))
    }

    fn list(&mut self, node: &Node, items: &Shape, shape: &Shape, path: &mut Vec<String>) -> Option<Json> {
        let split: Vec<Node>;
        let nodes = match &node.value {
            Value::List(nodes) => nodes,
            Value::Loose(text) => {
                split = parts(text).map(|part| Node { place: node.place.clone(), value: Value::Loose(part) }).collect();
                &split
            }
            Value::Filled(Filled { written, text }) => {
                let filled = |part| {
                    Value::Filled(Filled { written: written.clone(), text: weir_base::secret::Secret::new(part) })
                };
                let item = |part| Node { place: node.place.clone(), value: filled(part) };
                split = parts(text.expose()).map(item).collect();
                &split
            }
            _ => return self.wrong(node, shape, path),
        };
        let mut value = Vec::with_capacity(nodes.len());
        for (at, item) in nodes.iter().enumerate() {
            path.push(at.to_string());
            match (&item.value, items) {
                // One of the values, as `null` in a choice of values.
                (Value::Null, Shape::Any) => value.push(Json::Null),
                (Value::Null, _) => drop(self.wrong(item, items, path)),
                _ => value.extend(self.value(item, items, path)),
            }
            path.pop();
        }
        Some(Json::Array(value))
    }

    /// The first shape that fits; or the problems of the one that comes nearest.
    fn either(&mut self, node: &Node, shapes: &[Shape], shape: &Shape, path: &mut Vec<String>) -> Option<Json> {
        let mut nearest: Option<(Vec<Problem>, BTreeMap<String, Place>)> = None;
        let mut n_tried = 0;
        for shape in shapes.iter().filter(|shape| takes(shape, &node.value)) {
            let mut problems = Vec::new();
            let mut checker =
                Checker { schema: self.schema, whole: self.whole, problems: &mut problems, places: BTreeMap::new() };
            let value = checker.value(node, shape, path);
            let places = checker.places;
            if let Some(value) = value.filter(|_| problems.is_empty()) {
                self.places.extend(places);
                return Some(value);
            }
            n_tried += 1;
            if nearest.as_ref().is_none_or(|(other, _)| problems.len() < other.len()) {
                nearest = Some((problems, places));
            }
        }
        match nearest {
            Some((problems, places)) if n_tried == 1 || matches!(node.value, Value::Map(_) | Value::List(_)) => {
                self.problems.extend(problems);
                self.places.extend(places);
                None
            }
            _ => self.wrong(node, shape, path),
        }
    }

    /// Anything, as JSON.
    fn any(&mut self, node: &Node, path: &mut Vec<String>) -> Option<Json> {
        Some(match &node.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(_) => number_of(&node.value)?,
            Value::Text(text) | Value::Loose(text) => Json::String(text.clone()),
            Value::Filled(filled) => Json::String(filled.text.expose().clone()),
            Value::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (at, item) in items.iter().enumerate() {
                    path.push(at.to_string());
                    list.push(self.value(item, &Shape::Any, path).unwrap_or(Json::Null));
                    path.pop();
                }
                Json::Array(list)
            }
            Value::Map(entries) => {
                let mut object = Map::new();
                for (key, child) in entries {
                    path.push(key.name.clone());
                    let child = self.value(child, &Shape::Any, path).unwrap_or(Json::Null);
                    if object.insert(key.name.clone(), child).is_some() {
                        self.problem(&key.place, format!("{} is set twice", self.named(path)), String::new());
                    }
                    path.pop();
                }
                Json::Object(object)
            }
            Value::Other(_) | Value::Wrong => return self.wrong(node, &Shape::Any, path),
        })
    }

    fn quantity<Q: std::str::FromStr + PartialOrd>(
        &mut self,
        node: &Node,
        shape: &Shape,
        path: &[String],
        (min, max): (&Option<String>, &Option<String>),
    ) -> Option<Json> {
        let text = match &node.value {
            Value::Number(text) => text,
            value => match value.as_text() {
                Some(text) => text,
                None => return self.wrong(node, shape, path),
            },
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
            let shown = match &node.value {
                Value::Filled(_) => node.value.describe(),
                _ => cut(text),
            };
            let message = format!("{} must be {relation} {bound}, not {shown}", self.named(path));
            self.problem(&node.place, message, String::new());
            return None;
        }
        Some(Json::String(text.trim().to_owned()))
    }

    fn text(&mut self, node: &Node, format: Format, shape: &Shape, path: &[String]) -> Option<Json> {
        let text = match (&node.value, format) {
            (Value::Filled(filled), Format::Expression | Format::Query) => {
                let message = format!("`{}` cannot be used in SQL", cut(&filled.written));
                let hint = "SQL is shown in plans and messages, and what is filled in must not be";
                self.problem(&node.place, message, hint.to_owned());
                return None;
            }
            (Value::Number(number), Format::Expression) => number.clone(),
            (Value::Bool(value), Format::Expression) => value.to_string(),
            (value, _) => match value.as_text() {
                Some(text) => text.to_owned(),
                None => return self.wrong(node, shape, path),
            },
        };
        let is_right = match format {
            Format::Plain => true,
            Format::Path | Format::File => !text.is_empty() && !text.contains('\0'),
            Format::Address => formats::is_address(&text),
            Format::Cidr => formats::is_network(&text),
            Format::Url => formats::is_url(&text),
            Format::Expression | Format::Query => !text.trim().is_empty(),
            Format::Name(most) => formats::is_name(&text, most),
            Format::Column => !text.is_empty(),
        };
        if !is_right {
            return self.wrong(node, shape, path);
        }
        if format == Format::File
            && let Some(reason) = unreadable(&text)
        {
            let message = format!("{}: {} cannot be read: {reason}", self.named(path), node.value.describe());
            self.problem(&node.place, message, "a relative path starts at the working directory".to_owned());
            return None;
        }
        Some(Json::String(text))
    }
}

/// Whether a shape takes that kind of value, whatever is in it.
fn takes(shape: &Shape, value: &Value) -> bool {
    match shape {
        Shape::Any => true,
        Shape::Either(shapes) => shapes.iter().any(|shape| takes(shape, value)),
        Shape::Section(_) | Shape::Tagged { .. } | Shape::Map { .. } | Shape::Expressions => {
            matches!(value, Value::Map(_))
        }
        Shape::List(_) => matches!(value, Value::List(_) | Value::Loose(_) | Value::Filled(_)),
        _ => !matches!(value, Value::Map(_) | Value::List(_)),
    }
}

/// The parts of a list that is written as one text.
fn parts(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned)
}

/// A number as it was written.
fn number(value: &Value) -> Option<&str> {
    match value {
        Value::Number(text) => Some(text),
        value => value.as_loose().map(str::trim),
    }
}

/// A number as JSON: whole if it is.
fn number_of(value: &Value) -> Option<Json> {
    let text = number(value)?;
    if let Ok(whole) = text.parse::<i64>() {
        return Some(Json::from(whole));
    }
    serde_json::Number::from_f64(text.parse().ok()?).map(Json::Number)
}

/// Why a file cannot be read, if it cannot.
fn unreadable(path: &str) -> Option<String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => fs::File::open(path).err().map(|error| error.to_string()),
        Ok(_) => Some("it is not a file".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("it does not exist".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// The JSON pointer of a path.
pub fn pointer(path: &[String]) -> String {
    path.iter().map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1"))).collect()
}

#[cfg(test)]
mod tests;
