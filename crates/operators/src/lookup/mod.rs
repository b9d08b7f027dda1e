//! `lookup`: rows with what a table has under the same key, as the table is when they come.
//!
//! The table is an input like any other ([`weir_component::table`]), so nothing is waited for and nothing read here.
//! Rows that come before its first version wait; all others go on at once.
//!
//! What a row finds depends on when it comes, and that is the one thing here that is not a function of the rows: the
//! table is not part of a checkpoint, and rows that are read again after a failure find it as it is then.

mod failed;
mod index;
mod operator;

use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use weir_component::Batch;
use weir_component::operator::{Branch, Distribution, KeyHash, Operator, OperatorError, PlannedStep};
use weir_component::spec::{Fault, Stability};
use weir_component::table::{Part, own_columns};
use weir_sql::expressions::{NamedExpression, Scalar, key_hashes};

use crate::by::{By, Keys, quoted};
use crate::failing::fatal;
use crate::step::{Expressions, Read, StepContext, StepSpec, fault, parse};

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "lookup",
    summary: "Puts columns of a table beside rows, where a key is equal.",
    stability: Stability::Preview,
    example: "lookup: { table: customers, on: { customer_id: id }, select: [name, tier], kind: left }",
    schema: || schema_for!(Config),
    reads,
    plan,
};

/// What is looked up, in one of the `tables` of the document. A row comes once for each row of the table with the same
/// key, with the columns of both; a column of the table whose name is taken has the name of the table in front, such as
/// `customers_name`. The table counts as it is when the row comes. Null is equal to nothing. A row that finds more than 100
/// rows of the table is set aside as a dead letter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The `id` of the table.
    table: String,
    /// What is equal: columns that both have, or expressions over a row, each with one over a row of the table.
    on: On,
    /// Columns of the table, or names with expressions over its rows: what is put beside a row. Default: all columns.
    #[serde(default)]
    select: Option<Keys>,
    /// `left` also puts out rows that find nothing, with null in the place of the columns of the table, `required` sets them
    /// aside as dead letters, which can be run again once the table has what they look for. Default `inner`: only those that find
    /// something.
    #[serde(default)]
    kind: Kind,
}

/// What is equal.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum On {
    /// Columns that both have.
    Columns(Vec<String>),
    /// Expression over a row to expression over a row of the table.
    Expressions(Expressions),
}

/// Which rows come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Those that find something.
    #[default]
    Inner,
    /// All.
    Left,
    /// Those that find something; all others have failed.
    Required,
}

/// What the instances of a step share.
#[derive(Debug)]
struct Lookup {
    kind: Kind,
    /// The name of the table.
    table: String,
    input: SchemaRef,
    /// The keys of rows, and of rows of the table.
    rows_by: Arc<By>,
    table_by: Arc<By>,
    /// What is kept of a row of the table.
    select: Vec<Scalar>,
    selected: SchemaRef,
    output: SchemaRef,
}

struct Planned {
    lookup: Arc<Lookup>,
}

fn reads(config: &Json) -> Vec<Read> {
    let table = config.get("table").and_then(Json::as_str);
    let read =
        |name: &str| Read { pointer: "/table".to_owned(), name: name.to_owned(), is_table: true, is_added: false };
    table.map(read).into_iter().collect()
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    context.no_condition("lookup")?;
    let config: Config = parse(config)?;
    let Some(table) = context.others.first().and_then(own_columns) else {
        return Err(vec![Fault::new("/table", "it is not said what is looked up", "name one of the `tables`")]);
    };
    let mut faults = Vec::new();
    let (row_keys, table_keys) = match config.on {
        On::Columns(columns) => {
            let keys: Vec<NamedExpression> =
                columns.iter().map(|name| NamedExpression::new(name, quoted(name))).collect();
            (keys.clone(), keys)
        }
        On::Expressions(Expressions(pairs)) => {
            (pairs.iter().map(|pair| NamedExpression::new(&pair.name, &pair.name)).collect(), pairs)
        }
    };
    if row_keys.is_empty() {
        let hint = "name a column, or give an expression for each side";
        faults.push(Fault::new("/on", "every row would find the whole table", hint));
    }
    let rows_by = By::compile(context.language, &context.input, &row_keys, "/on", &mut faults);
    let table_by = By::compile(context.language, &table, &table_keys, "/on", &mut faults);
    if let (Some(rows), Some(table)) = (&rows_by, &table_by) {
        for (own, other) in rows.schema.fields().iter().zip(table.schema.fields()) {
            if own.data_type() != other.data_type() {
                let message = format!(
                    "it is {} in the rows and {} in the table, which are never equal",
                    own.data_type(),
                    other.data_type()
                );
                faults.push(Fault::new(&format!("/on/{}", own.name()), message, "cast one of them"));
            }
        }
    }
    let select = match config.select {
        Some(select) => Keys::expressions(Some(select)),
        None => table.fields().iter().map(|field| NamedExpression::new(field.name(), quoted(field.name()))).collect(),
    };
    let mut values = Vec::with_capacity(select.len());
    for named in &select {
        match context.language.scalar(&table, &named.name, &named.text) {
            Ok(value) => values.push(value),
            Err(error) => faults.push(fault(&format!("/select/{}", named.name), &error)),
        }
    }
    let selected: Vec<FieldRef> = values.iter().map(|value| Arc::clone(value.field())).collect();
    let output = output(&context.input, &selected, &config.table, &mut faults);
    match (rows_by, table_by) {
        (Some(rows_by), Some(table_by)) if faults.is_empty() => {
            let lookup = Lookup {
                kind: config.kind,
                table: config.table,
                input: Arc::clone(&context.input),
                rows_by,
                table_by,
                select: values,
                selected: Arc::new(Schema::new(selected)),
                output,
            };
            Ok(Arc::new(Planned { lookup: Arc::new(lookup) }))
        }
        _ => Err(faults),
    }
}

/// The columns of rows with those of the table.
fn output(input: &SchemaRef, selected: &[FieldRef], name: &str, faults: &mut Vec<Fault>) -> SchemaRef {
    let mut fields: Vec<FieldRef> = input.fields().to_vec();
    for field in selected {
        let is_taken = |fields: &[FieldRef], name: &str| fields.iter().any(|other| other.name() == name);
        let mut own = field.name().clone();
        if is_taken(&fields, &own) {
            own = format!("{name}_{own}");
        }
        if is_taken(&fields, &own) {
            let message = format!("rows and table have a column `{}`, and there is one `{own}`, too", field.name());
            faults.push(Fault::new("/select", message, "select it under another name: { new_name: column }"));
        }
        fields.push(Arc::new(Field::clone(field).with_name(own).with_nullable(true)));
    }
    Arc::new(Schema::new(fields))
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.lookup.output) }]
    }

    fn distribution(&self, input: usize) -> Distribution {
        match input {
            0 => self.lookup.rows_by.distribution(),
            _ => Distribution::ByKey(Arc::new(TableHash(Arc::clone(&self.lookup.table_by)))),
        }
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(operator::LookUp::new(Arc::clone(&self.lookup))?))
    }

    fn state_fingerprint(&self) -> Option<String> {
        // What is kept are rows that wait for the table, whatever that is called.
        Some(format!("lookup by {}", self.lookup.rows_by.meaning))
    }

    fn describe(&self) -> String {
        let Lookup { kind, table, rows_by, table_by, .. } = self.lookup.as_ref();
        let what = match kind {
            Kind::Inner => "looks up",
            Kind::Left => "looks up, also without a match,",
            Kind::Required => "looks up, and fails without a match,",
        };
        format!("{what} {table} where {} is its {}", rows_by.text, table_by.text)
    }
}

/// Rows of the table go to the instance that has the rows with their keys; marks go to all.
struct TableHash(Arc<By>);

impl KeyHash for TableHash {
    fn hashes(&self, batch: &Batch) -> Result<Vec<u64>, OperatorError> {
        let part = Part::of(&batch.rows).ok_or_else(|| OperatorError::internal("a table without its versions"))?;
        // A row whose key cannot be computed is found by nobody, wherever it is.
        let keys = self.0.columns(&part.rows);
        let mut hashes = match keys {
            Ok(keys) => key_hashes(&keys, batch.len()).map_err(|error| fatal(&error))?,
            Err(_) => {
                crate::by::hashes(&Batch { rows: part.rows.clone(), ..batch.clone() }, &|rows| self.0.columns(rows))?
            }
        };
        for (row, hash) in hashes.iter_mut().enumerate() {
            if let Some(mark) = part.hash_of_mark(row) {
                *hash = mark;
            }
        }
        Ok(hashes)
    }
}

#[cfg(test)]
mod tests;
