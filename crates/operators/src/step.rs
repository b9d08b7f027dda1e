//! What a step is before it runs.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use weir_base::quantity::Span;
use weir_component::operator::{Bounds, Identity, Part, PlannedStep};
use weir_component::spec::{Fault, Stability};
use weir_sql::SqlError;
use weir_sql::expressions::{Language, NamedExpression, Scalar};

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
    /// The other things a step with such a configuration reads, beside the step above it.
    pub reads: fn(&Json) -> Vec<Read>,
    /// Checks a configuration against the columns the step will get.
    pub plan: fn(&Json, &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>>,
}

/// What a step knows while it is checked.
#[derive(Debug)]
pub struct StepContext<'a> {
    /// The columns at its input.
    pub input: SchemaRef,
    /// The columns of the other things it reads, in the order of [`StepSpec::reads`].
    pub others: Vec<SchemaRef>,
    /// What its expressions are written in.
    pub language: &'a Language,
    /// The condition under which rows take the step; others pass by it.
    pub when: Option<&'a str>,
    /// By what the rows at its input are told apart, if they are results of a window.
    pub identity: Option<&'a Identity>,
}

impl StepContext<'_> {
    /// Whether these conditions are the same for all revisions of a result.
    pub(crate) fn are_fixed<'b>(&self, conditions: impl IntoIterator<Item = &'b Scalar>) -> bool {
        let Some(identity) = self.identity else { return false };
        let is_fixed = |part: Part| match part {
            Part::By(_) | Part::Start => true,
            // The end of a session may change, and whether that makes it another result depends on who reads it.
            Part::Window | Part::End => identity.bounds != Bounds::Start,
            Part::Value => false,
        };
        conditions.into_iter().flat_map(Scalar::columns).all(|column| is_fixed(identity.part(column)))
    }

    /// Refuses a condition, for a step whose rows cannot pass by it.
    pub(crate) fn no_condition(&self, step: &str) -> Result<(), Vec<Fault>> {
        match self.when {
            None => Ok(()),
            Some(_) => Err(vec![
                Fault::new(
                    "/when",
                    format!("rows cannot pass by a {step} step: its output has other columns"),
                    "put a filter before it",
                )
                .of_itself(),
            ]),
        }
    }
}

/// Something a step reads beside the step above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where that is said in its configuration, as a JSON pointer.
    pub pointer: String,
    /// The name of an input, a step or a branch; or of a table.
    pub name: String,
    /// Whether it is a table.
    pub is_table: bool,
    /// Whether its rows are added to those of the step above it, so that they may not be among them already.
    pub is_added: bool,
}

/// For steps that read one thing.
pub(crate) fn no_other_inputs(_: &Json) -> Vec<Read> {
    Vec::new()
}

/// Whether something may be called so: `[a-z][a-z0-9_]*`, at most 64 characters.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name.len() <= 64
}

/// A length of time as a number.
pub(crate) fn nanos(duration: Duration, pointer: &str, faults: &mut Vec<Fault>) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or_else(|_| {
        faults.push(Fault::new(pointer, "more than 292 years are not supported", ""));
        1
    })
}

/// A number of nanoseconds for people.
pub(crate) fn span(nanos: i64) -> Span {
    Span(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

/// Reads a configuration that was checked against its schema.
pub(crate) fn parse<'a, T: Deserialize<'a>>(config: &'a Json) -> Result<T, Vec<Fault>> {
    T::deserialize(config).map_err(|error| vec![Fault::new("", error.to_string(), "").of_itself()])
}

/// An expression that does not compile.
pub(crate) fn fault(pointer: &str, error: &SqlError) -> Fault {
    let fault = Fault::new(pointer, error.clone().without_position().to_string(), "");
    let fault = if error.is_of_the_text() { fault.of_itself() } else { fault };
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
