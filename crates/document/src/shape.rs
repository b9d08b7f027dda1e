//! What may be written: names, kinds, bounds, documentation, defaults.

use serde_json::Value as Json;

pub use crate::shape_of::{Defaults, of_schema, of_schema_with};

/// The most characters of a name, where nothing else is made of it.
pub const NAME_CHARACTERS_MAX: usize = 64;

/// What a value can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Named settings.
    Section(Vec<Field>),
    /// Exactly one of the `tags`, and any of the `others`.
    Tagged {
        /// What the tags are, in a word for messages; may be empty.
        noun: String,
        /// One of these must be there.
        tags: Vec<Field>,
        /// These may be there beside it.
        others: Vec<Field>,
    },
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer {
        /// The smallest.
        min: i128,
        /// The largest.
        max: i128,
    },
    /// Any number.
    Number {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// A size in bytes.
    Size {
        /// The smallest, as it is written.
        min: Option<String>,
        /// The largest, as it is written.
        max: Option<String>,
    },
    /// A length of time.
    Span {
        /// The shortest, as it is written.
        min: Option<String>,
        /// The longest, as it is written.
        max: Option<String>,
    },
    /// Text of some form.
    Text(Format),
    /// One of these words, each with what it means.
    Choice(Vec<(String, String)>),
    /// Any number of them.
    List(Box<Shape>),
    /// Any names of some form, each with a value.
    Map {
        /// Which names.
        names: Names,
        /// What each has.
        values: Box<Shape>,
    },
    /// Names with SQL expressions, in the order they were written: as JSON, a list of `{"name", "text"}`,
    /// because JSON maps here forget the order. The places are those of a map.
    Expressions,
    /// The first of these that fits; they are told apart by what is written: text, list or section.
    Either(Vec<Shape>),
    /// Anything.
    Any,
}

/// The form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Any text.
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
    /// An SQL expression. A number or boolean is one, too. Nothing can be filled in (see
    /// [`crate::fill`]), because expressions are shown in plans and messages.
    Expression,
    /// An SQL query. Nothing can be filled in, either.
    Query,
    /// A name of a pipeline, step or stream: `[a-z][a-z0-9_]*`, at most so many characters.
    Name(usize),
    /// The name of a column: not empty.
    Column,
}

/// The names of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Any but the empty one.
    Any,
    /// Streams.
    Stream,
}

/// A setting within a section.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The name.
    pub name: String,
    /// What it is for.
    pub doc: String,
    /// What it may be.
    pub shape: Shape,
    /// Must be given if its section is.
    pub required: bool,
    /// What it is if it is not given.
    pub default: Json,
    /// An example.
    pub example: Option<Json>,
}

impl Field {
    /// A setting without a default.
    pub fn new(name: &str, doc: &str, shape: Shape) -> Self {
        Self { name: name.to_owned(), doc: doc.to_owned(), shape, required: false, default: Json::Null, example: None }
    }

    /// The same, but it must be given.
    #[must_use]
    pub fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

impl Shape {
    /// The settings of a section, tags first.
    pub fn fields(&self) -> Vec<&Field> {
        match self {
            Self::Section(fields) => fields.iter().collect(),
            Self::Tagged { tags, others, .. } => tags.iter().chain(others).collect(),
            _ => Vec::new(),
        }
    }

    /// The setting at a path of names, if there is one.
    pub fn find(&self, path: &[String]) -> Option<&Shape> {
        let Some((name, rest)) = path.split_first() else { return Some(self) };
        match self {
            Self::Map { values, .. } => values.find(rest),
            _ => self.fields().into_iter().find(|field| field.name == *name)?.shape.find(rest),
        }
    }

    /// The paths of all settings that are not sections.
    pub fn paths(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        match self {
            Self::Section(_) | Self::Tagged { .. } => {
                for field in self.fields() {
                    for rest in field.shape.paths() {
                        let mut path = vec![field.name.clone()];
                        path.extend(rest);
                        paths.push(path);
                    }
                }
            }
            _ => paths.push(Vec::new()),
        }
        paths
    }

    /// What is expected, for messages: "must be ...".
    pub fn expected(&self) -> String {
        match self {
            Self::Section(_) => "a section with settings of its own".to_owned(),
            Self::Tagged { tags, .. } => format!("a section with one of {}", names(tags)),
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max } => match (*min <= i128::from(i64::MIN), *max >= i128::from(i64::MAX)) {
                (true, true) => "a whole number".to_owned(),
                (true, false) => format!("a whole number of at most {max}"),
                (false, true) => format!("a whole number of at least {min}"),
                (false, false) => format!("a whole number from {min} to {max}"),
            },
            Self::Number { min, max } => match (min.is_finite(), max.is_finite()) {
                (false, false) => "a number".to_owned(),
                (false, true) => format!("a number of at most {max}"),
                (true, false) => format!("a number of at least {min}"),
                (true, true) => format!("a number from {min} to {max}"),
            },
            Self::Size { .. } => "a size such as 512KiB, 32MiB or 4GiB".to_owned(),
            Self::Span { .. } => "a duration such as 250ms, 10s, 5m, 24h or 30d".to_owned(),
            Self::Text(format) => format.expected(),
            Self::Choice(words) => {
                let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
                format!("one of {}", words.join(", "))
            }
            Self::List(items) => format!("a list, each {}", items.expected()),
            Self::Map { values, .. } => format!("a section of names, each with {}", values.expected()),
            Self::Expressions => "a section of names, each with an SQL expression".to_owned(),
            Self::Either(shapes) => {
                let shapes: Vec<String> = shapes.iter().map(Self::expected).collect();
                shapes.join(", or ")
            }
            Self::Any => "a value".to_owned(),
        }
    }

    /// The kind in a word, for the reference.
    pub fn kind(&self) -> String {
        match self {
            Self::Section(_) | Self::Tagged { .. } => "section".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Integer { .. } | Self::Number { .. } => "number".to_owned(),
            Self::Size { .. } => "size".to_owned(),
            Self::Span { .. } => "duration".to_owned(),
            Self::Text(Format::Plain) => "text".to_owned(),
            Self::Text(Format::Path | Format::File) => "path".to_owned(),
            Self::Text(Format::Address) => "address".to_owned(),
            Self::Text(Format::Cidr) => "network".to_owned(),
            Self::Text(Format::Url) => "URL".to_owned(),
            Self::Text(Format::Expression) => "expression".to_owned(),
            Self::Text(Format::Query) => "query".to_owned(),
            Self::Text(Format::Name(_)) => "name".to_owned(),
            Self::Text(Format::Column) => "column".to_owned(),
            Self::Choice(words) => {
                let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
                words.join(", ")
            }
            Self::List(items) => format!("list of {}s", items.kind()),
            Self::Map { values, .. } => format!("{} by name", values.kind()),
            Self::Expressions => "expressions by name".to_owned(),
            Self::Either(shapes) => {
                let shapes: Vec<String> = shapes.iter().map(Self::kind).collect();
                shapes.join(" or ")
            }
            Self::Any => "any value".to_owned(),
        }
    }
}

impl Format {
    fn expected(self) -> String {
        let text = match self {
            Self::Name(most) => {
                return format!(
                    "a name of lower-case letters, digits and _ that begins with a letter (at most {most})"
                );
            }
            Self::Plain => "text",
            Self::Path => "a path",
            Self::File => "the path of a file",
            Self::Address => "an address such as 127.0.0.1:8080, [::1]:8080 or localhost:8080",
            Self::Cidr => "a network such as 10.0.0.0/8 or fd00::/8, or one address",
            Self::Url => "a URL such as http://collector:4318",
            Self::Expression => "an SQL expression",
            Self::Query => "an SQL query",
            Self::Column => "the name of a column",
        };
        text.to_owned()
    }
}

/// The names of fields, for messages.
pub(crate) fn names(fields: &[Field]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    names.join(", ")
}
