//! What rows are told apart by, in steps that keep something for each key.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use weir_component::Batch;
use weir_component::operator::{Distribution, KeyHash, OperatorError};
use weir_component::spec::Fault;
use weir_sql::SqlError;
use weir_sql::expressions::{Language, NamedExpression, Scalar, key_hashes};

use crate::failing::{fatal, is_of_a_row};
use crate::keys::are_supported;
use crate::step::{Expressions, fault};

/// Columns, or names with expressions.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the variants describe what may be written; both are read into the second")]
pub(crate) enum Keys {
    /// Columns.
    Columns(Vec<String>),
    /// Name to expression.
    Named(Expressions),
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Columns(Vec<String>),
            Named(Expressions),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Columns(columns) => Self::Named(Expressions(
                columns.into_iter().map(|name| NamedExpression { text: quoted(&name), name }).collect(),
            )),
            Written::Named(expressions) => Self::Named(expressions),
        })
    }
}

impl Keys {
    /// The expressions, each with its name.
    pub(crate) fn expressions(keys: Option<Self>) -> Vec<NamedExpression> {
        match keys {
            Some(Self::Named(Expressions(keys))) => keys,
            _ => Vec::new(),
        }
    }
}

/// What people call a key: the name it was given, or what it is, where a query has none for it.
pub(crate) fn called(key: &NamedExpression) -> String {
    if key.name.starts_with("__") { key.text.clone() } else { key.name.clone() }
}

/// A column in an expression, whatever its name.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Keys of rows, compiled.
#[derive(Debug)]
pub(crate) struct By {
    values: Vec<Scalar>,
    pub(crate) schema: SchemaRef,
    /// The expressions, for people.
    pub(crate) text: String,
    /// What they mean, for telling whether they are still the same.
    pub(crate) meaning: String,
}

impl By {
    /// Compiles keys that are written at `pointer`.
    pub(crate) fn compile(
        language: &Language,
        input: &SchemaRef,
        keys: &[NamedExpression],
        pointer: &str,
        faults: &mut Vec<Fault>,
    ) -> Option<Arc<Self>> {
        let before = faults.len();
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            match language.scalar(input, &key.name, &key.text) {
                Ok(value) => values.push(value),
                Err(error) => faults.push(fault(&format!("{pointer}/{}", key.name), &error)),
            }
        }
        let fields: Vec<FieldRef> = values.iter().map(|value| Arc::clone(value.field())).collect();
        let schema = Arc::new(Schema::new(fields));
        if faults.len() == before && !are_supported(&schema) {
            faults.push(Fault::new(pointer, "rows cannot be told apart by a value of that type", ""));
        }
        let texts: Vec<&str> = keys.iter().map(|key| key.text.as_str()).collect();
        let meaning = texts.iter().map(|text| language.written_out(text)).collect::<Vec<_>>().join(", ");
        (faults.len() == before).then(|| Arc::new(Self { values, schema, text: texts.join(", "), meaning }))
    }

    /// The keys of rows, one array a key.
    pub(crate) fn columns(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, SqlError> {
        self.values.iter().map(|value| value.evaluate(rows)).collect()
    }

    /// The column each key is, if it is nothing but one.
    pub(crate) fn columns_of_input(&self) -> impl Iterator<Item = Option<usize>> {
        self.values.iter().map(Scalar::column)
    }

    /// How rows must be spread so that those with the same keys meet.
    pub(crate) fn distribution(self: &Arc<Self>) -> Distribution {
        match self.values.is_empty() {
            true => Distribution::Single,
            false => Distribution::ByKey(Arc::clone(self) as Arc<dyn KeyHash>),
        }
    }

    /// What state is spread by; `None` if all of it is in one place.
    pub(crate) fn key_hash(&self) -> Option<&dyn KeyHash> {
        (!self.values.is_empty()).then_some(self as &dyn KeyHash)
    }
}

impl KeyHash for By {
    fn hashes(&self, batch: &Batch) -> Result<Vec<u64>, OperatorError> {
        hashes(batch, &|rows| self.columns(rows))
    }
}

/// A hash of the keys of each row. A row whose keys cannot be computed has some hash.
pub(crate) fn hashes(
    batch: &Batch,
    keys: &dyn Fn(&RecordBatch) -> Result<Vec<ArrayRef>, SqlError>,
) -> Result<Vec<u64>, OperatorError> {
    match keys(&batch.rows) {
        Ok(keys) => key_hashes(&keys, batch.len()).map_err(|error| fatal(&error)),
        Err(error) if !is_of_a_row(&error) => Err(fatal(&error)),
        // Which row it is finds the step that sets it aside; until then it may be anywhere.
        Err(_) if batch.len() <= 1 => Ok(vec![0; batch.len()]),
        Err(_) => {
            let half = batch.len() / 2;
            let mut found = hashes(&batch.slice(0, half), keys)?;
            found.extend(hashes(&batch.slice(half, batch.len() - half), keys)?);
            Ok(found)
        }
    }
}
