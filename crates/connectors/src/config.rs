//! What configurations of several components have in common.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use weir_codecs::rows::{ColumnType, Columns};
use weir_component::spec::Fault;

/// How the rows of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// A JSON object a line.
    Ndjson,
    /// Comma-separated values (RFC 4180).
    Csv,
    /// Apache Parquet.
    Parquet,
}

impl FileFormat {
    /// The word for people and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// Columns by name, or, where their order matters, as a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DeclaredColumns {
    /// Column to type.
    ByName(BTreeMap<String, String>),
    /// Maps of one column to its type each.
    InOrder(Vec<BTreeMap<String, String>>),
}

impl JsonSchema for DeclaredColumns {
    fn schema_name() -> Cow<'static, str> {
        "Columns".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut names: Vec<&str> = ColumnType::ALL.into_iter().map(ColumnType::as_str).collect();
        names.push("string");
        json_schema!({
            "anyOf": [
                { "type": "object", "additionalProperties": { "enum": names } },
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": { "enum": names },
                        "minProperties": 1,
                        "maxProperties": 1,
                    },
                },
            ],
        })
    }
}

impl DeclaredColumns {
    /// Whether the columns have the order in which they were written.
    pub fn is_ordered(&self) -> bool {
        match self {
            Self::ByName(columns) => columns.len() < 2,
            Self::InOrder(_) => true,
        }
    }

    /// The columns; `pointer` is where they stand in the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn columns(&self, pointer: &str) -> Result<Columns, Vec<Fault>> {
        let written: Vec<(String, &String, &String)> = match self {
            Self::ByName(columns) => {
                columns.iter().map(|(name, kind)| (format!("{pointer}/{}", escaped(name)), name, kind)).collect()
            }
            Self::InOrder(list) => list
                .iter()
                .enumerate()
                .flat_map(|(at, one)| {
                    one.iter().map(move |(name, kind)| (format!("{pointer}/{at}/{}", escaped(name)), name, kind))
                })
                .collect(),
        };
        let mut faults = Vec::new();
        let mut columns = Vec::new();
        let mut names = BTreeSet::new();
        if written.is_empty() {
            faults.push(Fault::new(pointer, "there are no columns", "name at least one, such as `id: int64`"));
        }
        for (place, name, kind) in written {
            if !names.insert(name) {
                faults.push(Fault::new(&place, format!("column `{name}` is declared twice"), ""));
            }
            match ColumnType::of_name(kind) {
                Some(kind) => columns.push((name.clone(), kind)),
                None => {
                    let known: Vec<&str> = ColumnType::ALL.into_iter().map(ColumnType::as_str).collect();
                    let hint = format!("one of {}", known.join(", "));
                    faults.push(Fault::new(&place, format!("there is no type `{kind}`"), hint));
                }
            }
        }
        if faults.is_empty() { Ok(Columns::new(columns)) } else { Err(faults) }
    }
}

/// A part of a JSON pointer.
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A configuration as its struct; what is wrong with it is said of the whole.
///
/// # Errors
/// If it has unknown fields, or values of the wrong kind.
pub fn parse<T: DeserializeOwned>(config: &Json) -> Result<T, Vec<Fault>> {
    // Nothing written is an empty configuration: `console:`.
    let empty = Json::Object(serde_json::Map::new());
    let config = if config.is_null() { &empty } else { config };
    if !config.is_object() {
        return Err(vec![Fault::new("", "settings are expected, as `name: value`", "")]);
    }
    T::deserialize(config).map_err(|error| vec![Fault::new("", error.to_string(), "")])
}

/// The delimiter of a CSV file.
pub(crate) fn delimiter(text: &str, pointer: &str) -> Result<u8, Fault> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err(Fault::new(
            pointer,
            format!("`{text}` cannot separate cells"),
            "one ASCII character, such as \",\", \";\" or \"\\t\"",
        )),
    }
}

/// What is true unless it is said to be false.
pub(crate) const fn yes() -> bool {
    true
}

/// A comma, the delimiter nobody has to write.
pub(crate) fn comma() -> String {
    ",".to_owned()
}
