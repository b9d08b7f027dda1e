//! What a step is before it runs.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use weir_component::operator::PlannedStep;
use weir_component::spec::{Fault, Stability};
use weir_sql::SqlError;
use weir_sql::expressions::{Language, NamedExpression};

/// A kind of step, as an entry of a table.
#[derive(Clone, Copy, Debug)]
pub struct StepSpec {
    /// The name in a pipeline: a verb, or `window`.
    pub name: &'static str,
    /// One sentence: what it does.
    pub summary: &'static str,
    /// How finished it is.
    pub stability: Stability,
    /// An example of a step, as YAML.
    pub example: &'static str,
    /// The JSON schema of its configuration.
    pub schema: fn() -> Schema,
    /// Checks a configuration against the columns the step will get.
    pub plan: fn(&Json, &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>>,
}

/// What a step knows while it is checked.
#[derive(Debug)]
pub struct StepContext<'a> {
    /// The columns at its input.
    pub input: SchemaRef,
    /// What its expressions are written in.
    pub language: &'a Language,
    /// The condition under which rows take the step; others pass by it.
    pub when: Option<&'a str>,
}

impl StepContext<'_> {
    /// Refuses a condition, for a step whose rows cannot pass by it.
    pub(crate) fn no_condition(&self, step: &str) -> Result<(), Vec<Fault>> {
        match self.when {
            None => Ok(()),
            Some(_) => Err(vec![Fault::new(
                "/when",
                format!("rows cannot pass by a {step} step: its output has other columns"),
                "put a filter before it",
            )]),
        }
    }
}

/// Reads a configuration that was checked against its schema.
pub(crate) fn parse<'a, T: Deserialize<'a>>(config: &'a Json) -> Result<T, Vec<Fault>> {
    T::deserialize(config).map_err(|error| vec![Fault::new("", error.to_string(), "")])
}

/// An expression that does not compile.
pub(crate) fn fault(pointer: &str, error: &SqlError) -> Fault {
    let fault = Fault::new(pointer, error.clone().without_position().to_string(), "");
    let place = error.position().map(|at| (usize::try_from(at.line), usize::try_from(at.column)));
    match place {
        Some((Ok(line), Ok(column))) => fault.at(line, column),
        _ => fault,
    }
}

/// Expressions with the names of their values, in the order they were written.
///
/// Written as a map from name to expression. What reads a document hands it over as a list of
/// `{"name", "text"}`, because the maps of JSON values here forget the order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expressions(pub Vec<NamedExpression>);

impl<'de> Deserialize<'de> for Expressions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Named {
            name: String,
            text: String,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            List(Vec<Named>),
            Map(std::collections::BTreeMap<String, String>),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::List(list) => {
                list.into_iter().map(|named| NamedExpression { name: named.name, text: named.text }).collect()
            }
            Written::Map(map) => map.into_iter().map(|(name, text)| NamedExpression { name, text }).collect(),
        }))
    }
}

impl JsonSchema for Expressions {
    fn schema_name() -> Cow<'static, str> {
        "Expressions".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": { "type": "string" },
            "x-weir-shape": "expressions",
        })
    }
}
