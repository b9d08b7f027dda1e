//! What may be written, made from the structs: names, kinds, bounds, documentation, defaults.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use weir_meta::limits::{Limits, Tier};

use super::settings::Config;
use super::tree::{self, Node};
use super::yaml;

/// What a setting can be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// Named settings.
    Section(Vec<Field>),
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer { min: i128, max: i128 },
    /// A size in bytes.
    Size { min: Option<String>, max: Option<String> },
    /// A length of time.
    Span { min: Option<String>, max: Option<String> },
    /// Text of some form.
    Text(Format),
    /// One of these words.
    Choice(Vec<(String, String)>),
    /// Any number of them.
    List(Box<Shape>),
    /// Any names.
    Map(Box<Shape>),
}

/// The form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    /// A path that need not exist.
    Path,
    /// A file that must exist.
    File,
    /// Host and port.
    Address,
    /// A network.
    Cidr,
    /// `http://` or `https://`.
    Url,
}

/// A setting within a section.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) shape: Shape,
    /// Must be given if its section is.
    pub(super) required: bool,
    pub(super) default: Json,
    pub(super) example: Option<Json>,
}

/// The whole configuration.
pub(super) fn root() -> &'static Shape {
    static ROOT: LazyLock<Shape> = LazyLock::new(make);
    &ROOT
}

fn make() -> Shape {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Config>();
    // JSON objects here have no order; the text of the defaults has the order of the structs.
    let defaults = serde_json::to_string(&Config::default()).unwrap_or_default();
    let order = yaml::parse("", &defaults).root;
    // Those of the whole: a section by itself does not know, for example, its listener's port.
    let defaults = defaults.parse().unwrap_or(Json::Null);
    let mut root = shape_of(schema.as_value(), Some(&order), &defaults);
    fill_tier_defaults(&mut root);
    root
}

fn shape_of(schema: &Json, order: Option<&Node>, defaults: &Json) -> Shape {
    if let Some(choices) = choices(schema) {
        return Shape::Choice(choices);
    }
    let text = |name: &str| schema.get(name).and_then(Json::as_str).map(str::to_owned);
    let (min, max) = (text("x-min"), text("x-max"));
    match schema.get("format").and_then(Json::as_str) {
        Some("byte-size") => return Shape::Size { min, max },
        Some("span") => return Shape::Span { min, max },
        Some("path") => return Shape::Text(Format::Path),
        Some("file") => return Shape::Text(Format::File),
        Some("address") => return Shape::Text(Format::Address),
        Some("cidr") => return Shape::Text(Format::Cidr),
        Some("url") => return Shape::Text(Format::Url),
        _ => {}
    }
    if schema.get("properties").is_some() {
        return Shape::Section(fields(schema, order, defaults));
    }
    if let Some(items) = schema.get("items") {
        return Shape::List(Box::new(shape_of(items, None, &Json::Null)));
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        return Shape::Map(Box::new(shape_of(values, None, &Json::Null)));
    }
    let is = |name: &str| match schema.get("type") {
        Some(Json::String(kind)) => kind == name,
        Some(Json::Array(kinds)) => kinds.iter().any(|kind| kind == name),
        _ => false,
    };
    let bound = |name: &str| schema.get(name).and_then(Json::as_i64).map(i128::from);
    if is("integer") {
        Shape::Integer { min: bound("minimum").unwrap_or(0), max: bound("maximum").unwrap_or(i128::from(i64::MAX)) }
    } else if is("boolean") {
        Shape::Bool
    } else {
        Shape::Text(Format::Plain)
    }
}

/// The words of an enumeration, with what they mean.
fn choices(schema: &Json) -> Option<Vec<(String, String)>> {
    let variants = schema.get("oneOf")?.as_array()?;
    let word = |variant: &Json| {
        let word = variant.get("const")?.as_str()?.to_owned();
        Some((word, description(variant)))
    };
    variants.iter().map(word).collect()
}

fn description(schema: &Json) -> String {
    let text = schema.get("description").and_then(Json::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn fields(schema: &Json, order: Option<&Node>, defaults: &Json) -> Vec<Field> {
    let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return Vec::new() };
    let required: Vec<&str> =
        schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let ordered: &[(tree::Key, Node)] = match order.map(|node| &node.value) {
        Some(tree::Value::Map(entries)) => entries,
        _ => &[],
    };
    let mut names: Vec<&str> = Vec::new();
    let known = ordered.iter().map(|(key, _)| key.name.as_str()).chain(required.iter().copied());
    let known = known.chain(Tier::ALL.map(Tier::as_str)).chain(Limits::NAMES.iter().copied());
    for name in known.chain(properties.keys().map(String::as_str)) {
        if properties.contains_key(name) && !names.contains(&name) {
            names.push(name);
        }
    }
    let field = |name: &str| {
        let property = &properties[name];
        let inner_order = ordered.iter().find(|(key, _)| key.name == name).map(|(_, node)| node);
        Field {
            name: name.to_owned(),
            doc: description(property),
            shape: shape_of(property, inner_order, defaults.get(name).unwrap_or(&Json::Null)),
            required: required.contains(&name),
            default: defaults.get(name).cloned().unwrap_or(Json::Null),
            example: property.get("examples").and_then(|examples| examples.get(0)).cloned(),
        }
    };
    names.into_iter().map(field).collect()
}

/// A limit without an override has its tier's default, which the schema cannot know.
fn fill_tier_defaults(root: &mut Shape) {
    for tier in Tier::ALL {
        let Ok(limits) = serde_json::to_value(Limits::of_tier(tier)) else { continue };
        let Some(Shape::Section(fields)) =
            section_mut(root, "tiers").and_then(|tiers| section_mut(tiers, tier.as_str()))
        else {
            continue;
        };
        for field in fields {
            field.default = limits.get(&field.name).cloned().unwrap_or(Json::Null);
        }
    }
}

fn section_mut<'a>(shape: &'a mut Shape, name: &str) -> Option<&'a mut Shape> {
    let Shape::Section(fields) = shape else { return None };
    fields.iter_mut().find(|field| field.name == name).map(|field| &mut field.shape)
}

impl Shape {
    /// The setting at a path of names, if there is one.
    pub(super) fn find(&self, path: &[String]) -> Option<&Shape> {
        let Some((name, rest)) = path.split_first() else { return Some(self) };
        match self {
            Self::Section(fields) => fields.iter().find(|field| field.name == *name)?.shape.find(rest),
            Self::Map(values) => values.find(rest),
            _ => None,
        }
    }

    /// The paths of all settings that are not sections.
    pub(super) fn paths(&self) -> Vec<Vec<String>> {
        let Self::Section(fields) = self else { return vec![Vec::new()] };
        let mut paths = Vec::new();
        for field in fields {
            for rest in field.shape.paths() {
                let mut path = vec![field.name.clone()];
                path.extend(rest);
                paths.push(path);
            }
        }
        paths
    }

    /// What is expected, for messages: "must be ...".
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Section(_) => "a section with settings of its own".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max } if *max >= i128::from(i64::MAX) => format!("a whole number of at least {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Size { .. } => "a size such as 512KiB, 32MiB or 4GiB".to_owned(),
            Self::Span { .. } => "a duration such as 250ms, 10s, 5m, 24h or 30d".to_owned(),
            Self::Text(format) => format.expected().to_owned(),
            Self::Choice(words) => {
                let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
                format!("one of {}", words.join(", "))
            }
            Self::List(items) => format!("a list, each {}", items.expected()),
            Self::Map(values) => format!("a section of names, each with {}", values.expected()),
        }
    }

    /// The kind in a word, for the reference.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::Section(_) => "section".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Integer { .. } => "number".to_owned(),
            Self::Size { .. } => "size".to_owned(),
            Self::Span { .. } => "duration".to_owned(),
            Self::Text(Format::Plain) => "text".to_owned(),
            Self::Text(Format::Path | Format::File) => "path".to_owned(),
            Self::Text(Format::Address) => "address".to_owned(),
            Self::Text(Format::Cidr) => "network".to_owned(),
            Self::Text(Format::Url) => "URL".to_owned(),
            Self::Choice(words) => {
                let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
                words.join(", ")
            }
            Self::List(items) => format!("list of {}s", items.kind()),
            Self::Map(values) => format!("{} by name", values.kind()),
        }
    }
}

impl Format {
    fn expected(self) -> &'static str {
        match self {
            Self::Plain => "text",
            Self::Path => "a path",
            Self::File => "the path of a file",
            Self::Address => "an address such as 127.0.0.1:8080, [::1]:8080 or localhost:8080",
            Self::Cidr => "a network such as 10.0.0.0/8 or fd00::/8, or one address",
            Self::Url => "a URL such as http://collector:4318",
        }
    }
}
