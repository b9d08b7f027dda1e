//! From the JSON schema of a struct to its shape. Read is what `schemars` makes of structs, enums and
//! options; `x-min`, `x-max`, `x-weir-shape` and most values of `format` are our own additions to it.

use serde_json::Value as Json;

use crate::shape::{Field, Format, NAME_CHARACTERS_MAX, Names, Shape};
use crate::tree::{Key, Node, Value};
use crate::yaml;

/// What a schema does not know of its struct.
#[derive(Clone, Copy, Debug)]
pub struct Defaults<'a> {
    /// The default value as JSON text, which has the order of the struct.
    pub text: &'a str,
    /// The order of names that are not in it.
    pub order: &'a [&'a str],
}

/// References are followed to this depth; what is deeper, for example what contains itself, may be
/// anything.
const DEPTH_MAX: usize = 12;

/// The shape a schema describes.
pub fn of_schema(schema: &Json) -> Shape {
    Reader { root: schema, order: &[] }.shape(schema, None, None, 0)
}

/// The shape a schema describes, with defaults and order of a whole value.
pub fn of_schema_with(schema: &Json, defaults: Defaults<'_>) -> Shape {
    let order = yaml::parse("", defaults.text, "JSON").root;
    // Those of the whole: a section by itself does not know, for example, its listener's port.
    let values = defaults.text.parse().unwrap_or(Json::Null);
    Reader { root: schema, order: defaults.order }.shape(schema, Some(&order), Some(&values), 0)
}

struct Reader<'a> {
    root: &'a Json,
    order: &'a [&'a str],
}

impl<'a> Reader<'a> {
    /// What the schema refers to, if it does.
    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let mut at = schema;
        for _ in 0..DEPTH_MAX {
            let Some(reference) = at.get("$ref").and_then(Json::as_str) else { break };
            match reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)) {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }

    fn shape(&self, schema: &'a Json, order: Option<&Node>, defaults: Option<&Json>, depth: usize) -> Shape {
        let schema = self.resolve(schema);
        if depth > DEPTH_MAX {
            return Shape::Any;
        }
        let text = |name: &str| schema.get(name).and_then(Json::as_str).map(str::to_owned);
        let (min, max) = (text("x-min"), text("x-max"));
        let format = schema.get("format").and_then(Json::as_str).unwrap_or_default();
        match format {
            "byte-size" => return Shape::Size { min, max },
            "span" => return Shape::Span { min, max },
            _ => {}
        }
        if schema.get("x-weir-shape").and_then(Json::as_str) == Some("expressions") {
            return Shape::Expressions;
        }
        if let Some(format) = format_of(format) {
            return Shape::Text(format);
        }
        // Of an enum with its tags outside `oneOf` is made, of one without tags `anyOf`.
        let tagged = schema.get("oneOf").and_then(Json::as_array);
        let untagged = schema.get("anyOf").and_then(Json::as_array);
        let fields = || self.fields(schema, order, defaults, depth);
        match (tagged.or(untagged), schema.get("properties").is_some()) {
            // An enum flattened into a struct.
            (Some(variants), true)
                if tagged.is_some() && self.tags(variants, depth).is_some_and(|tags| !tags.is_empty()) =>
            {
                let tags = self.tags(variants, depth).unwrap_or_default();
                return Shape::Tagged { noun: String::new(), tags, others: fields() };
            }
            (_, true) => return Shape::Section(fields()),
            (Some(variants), false) => {
                return self.variants(variants, tagged.is_some(), (order, defaults), depth);
            }
            (None, false) => {}
        }
        if let Some(words) = schema.get("enum").and_then(Json::as_array) {
            let words = words.iter().filter_map(Json::as_str).map(|word| (word.to_owned(), String::new()));
            return Shape::Choice(words.collect());
        }
        if let Some(word) = word(schema) {
            return Shape::Choice(vec![word]);
        }
        if let Some(items) = schema.get("items") {
            return Shape::List(Box::new(self.shape(items, None, None, depth + 1)));
        }
        if let Some(values) = schema.get("additionalProperties").filter(|values| **values != Json::Bool(false)) {
            return Shape::Map { names: Names::Any, values: Box::new(self.shape(values, None, None, depth + 1)) };
        }
        self.scalar(schema, format)
    }

    fn scalar(&self, schema: &Json, format: &str) -> Shape {
        let is = |name: &str| match schema.get("type") {
            Some(Json::String(kind)) => kind == name,
            Some(Json::Array(kinds)) => kinds.iter().any(|kind| kind == name),
            _ => false,
        };
        if is("integer") {
            let bound = |name: &str| schema.get(name).and_then(Json::as_i64).map(i128::from);
            let least = if format.starts_with("int") { i128::from(i64::MIN) } else { 0 };
            Shape::Integer {
                min: bound("minimum").unwrap_or(least),
                max: bound("maximum").unwrap_or(i128::from(i64::MAX)),
            }
        } else if is("number") {
            let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
            Shape::Number {
                min: bound("minimum").unwrap_or(f64::NEG_INFINITY),
                max: bound("maximum").unwrap_or(f64::INFINITY),
            }
        } else if is("boolean") {
            Shape::Bool
        } else if is("string") {
            Shape::Text(Format::Plain)
        } else if is("object") {
            // A struct without fields.
            Shape::Section(Vec::new())
        } else {
            Shape::Any
        }
    }

    /// The variants of an enum: words, sections with one name, or anything else.
    fn variants(
        &self,
        variants: &'a [Json],
        is_tagged: bool,
        (order, defaults): (Option<&Node>, Option<&Json>),
        depth: usize,
    ) -> Shape {
        let mut words = Vec::new();
        let mut tags = Vec::new();
        let mut shapes = Vec::new();
        for variant in variants.iter().filter(|variant| variant.get("type") != Some(&Json::String("null".to_owned()))) {
            let resolved = self.resolve(variant);
            if let Some(word) = word(resolved) {
                words.push(word);
            } else if let Some(list) = resolved.get("enum").and_then(Json::as_array) {
                words.extend(list.iter().filter_map(Json::as_str).map(|word| (word.to_owned(), description(resolved))));
            } else if let Some(tag) = self.tag(resolved, depth).filter(|_| is_tagged) {
                tags.push(tag);
            } else {
                match self.shape(resolved, order, defaults, depth + 1) {
                    Shape::Either(inner) => shapes.extend(inner),
                    shape => shapes.push(shape),
                }
            }
        }
        if !tags.is_empty() {
            shapes.insert(0, Shape::Tagged { noun: String::new(), tags, others: Vec::new() });
        }
        if !words.is_empty() {
            shapes.insert(0, Shape::Choice(words));
        }
        match shapes.pop() {
            None => Shape::Any,
            Some(shape) if shapes.is_empty() => shape,
            Some(shape) => {
                shapes.push(shape);
                Shape::Either(shapes)
            }
        }
    }

    /// The names of an enum whose variants are all sections with one name.
    fn tags(&self, variants: &'a [Json], depth: usize) -> Option<Vec<Field>> {
        variants.iter().map(|variant| self.tag(self.resolve(variant), depth)).collect()
    }

    /// A section that must have exactly one name: a variant of an enum.
    fn tag(&self, schema: &'a Json, depth: usize) -> Option<Field> {
        let properties = schema.get("properties")?.as_object()?;
        let required = schema.get("required")?.as_array()?;
        let is_one = properties.len() == 1 && required.len() == 1;
        let (name, property) = properties.iter().next().filter(|_| is_one)?;
        // A discriminator with a fixed value is not a name.
        if property.get("const").is_some() {
            return None;
        }
        let mut doc = description(schema);
        if doc.is_empty() {
            doc = self.doc(property);
        }
        Some(Field::new(name, &doc, self.shape(property, None, None, depth + 1)))
    }

    fn fields(&self, schema: &'a Json, order: Option<&Node>, defaults: Option<&Json>, depth: usize) -> Vec<Field> {
        let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return Vec::new() };
        let required: Vec<&str> =
            schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
        let ordered: &[(Key, Node)] = match order.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries,
            _ => &[],
        };
        let mut names: Vec<&str> = Vec::new();
        let known = ordered.iter().map(|(key, _)| key.name.as_str()).chain(required.iter().copied());
        let known = known.chain(self.order.iter().copied());
        for name in known.chain(properties.keys().map(String::as_str)) {
            if properties.contains_key(name) && !names.contains(&name) {
                names.push(name);
            }
        }
        let field = |name: &str| {
            let property = &properties[name];
            let inner_order = ordered.iter().find(|(key, _)| key.name == name).map(|(_, node)| node);
            let default = match defaults {
                Some(defaults) => defaults.get(name),
                None => property.get("default"),
            };
            let inner_defaults = defaults.map(|defaults| defaults.get(name).unwrap_or(&Json::Null));
            Field {
                name: name.to_owned(),
                doc: self.doc(property),
                shape: self.shape(property, inner_order, inner_defaults, depth + 1),
                required: required.contains(&name),
                default: default.cloned().unwrap_or(Json::Null),
                example: property.get("examples").and_then(|examples| examples.get(0)).cloned(),
            }
        };
        names.into_iter().map(field).collect()
    }

    /// What is said of a setting, or else of its type.
    fn doc(&self, schema: &'a Json) -> String {
        let own = description(schema);
        if own.is_empty() { description(self.resolve(schema)) } else { own }
    }
}

fn format_of(name: &str) -> Option<Format> {
    Some(match name {
        "path" => Format::Path,
        "file" => Format::File,
        "address" => Format::Address,
        "cidr" => Format::Cidr,
        "url" => Format::Url,
        "expression" => Format::Expression,
        "query" => Format::Query,
        "name" => Format::Name(NAME_CHARACTERS_MAX),
        "column" => Format::Column,
        _ => return None,
    })
}

/// The word of a variant without anything, with what it means.
fn word(schema: &Json) -> Option<(String, String)> {
    let word = schema.get("const")?.as_str()?.to_owned();
    Some((word, description(schema)))
}

fn description(schema: &Json) -> String {
    let text = schema.get("description").and_then(Json::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
