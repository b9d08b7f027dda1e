//! `explode`: a row for each element of a list.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Int64Array, ListArray, RecordBatch, StringBuilder, UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use weir_component::Batch;
use weir_component::operator::{
    Aside, AsideNotes, AsideReason, Branch, Distribution, Operator, OperatorError, Output, PlannedStep,
};
use weir_component::spec::{Fault, Stability};

use crate::columns::column;
use crate::step::{StepContext, StepSpec, no_other_inputs, parse};

pub(crate) const SPEC: StepSpec = StepSpec {
    name: "explode",
    summary: "Makes a row for each element of a list.",
    stability: Stability::Preview,
    example: "explode: { column: items, as: item, index: place }",
    schema: || schema_for!(Config),
    reads: no_other_inputs,
    plan,
};

/// Results are put out in batches of about so many rows.
const BATCH_ROWS: usize = 8192;

/// The column with the list: a list, or text that is a JSON array. Elements of a JSON array are text again: a text
/// without its quotes, anything else as JSON; what is not an array is a dead letter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column.
    column: String,
    /// The column of the element. Default: the same, so that the list is gone.
    #[serde(default, rename = "as")]
    element: Option<String>,
    /// A column for the place of the element in the list, from 0. Default none.
    #[serde(default)]
    index: Option<String>,
    /// Keep rows whose list is null or empty, with null as the element. Default false: they are gone.
    #[serde(default)]
    keep_empty: bool,
}

#[derive(Clone)]
struct Planned {
    text: String,
    schema: SchemaRef,
    column: usize,
    /// Where the element stands in the result.
    element: usize,
    has_index: bool,
    keep_empty: bool,
    is_json: bool,
}

fn plan(config: &Json, context: &StepContext) -> Result<Arc<dyn PlannedStep>, Vec<Fault>> {
    context.no_condition("explode")?;
    let config: Config = parse(config)?;
    let mut faults = Vec::new();
    let place = column(&context.input, "/column", &config.column).map_err(|fault| vec![fault])?;
    let field = context.input.field(place);
    let (element_type, is_json) = match field.data_type() {
        DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => {
            (element.data_type().clone(), false)
        }
        DataType::Utf8 => (DataType::Utf8, true),
        other => {
            let message = format!("the column `{}` is {other}, not a list", config.column);
            return Err(vec![Fault::new("/column", message, "a list, or text that is a JSON array, can be exploded")]);
        }
    };
    let mut fields: Vec<FieldRef> = context.input.fields().to_vec();
    let name = config.element.as_ref().unwrap_or(&config.column);
    let element_field = Arc::new(Field::new(name, element_type, true));
    let element = if *name == config.column {
        fields[place] = element_field;
        place
    } else {
        fields.push(element_field);
        fields.len() - 1
    };
    if let Some(index) = &config.index {
        fields.push(Arc::new(Field::new(index, DataType::Int64, true)));
    }
    for (at, field) in fields.iter().enumerate().skip(context.input.fields().len().min(element)) {
        if fields[..at].iter().any(|other| other.name() == field.name()) {
            let pointer = if at == element { "/as" } else { "/index" };
            faults.push(Fault::new(pointer, format!("there is a column `{}` already", field.name()), ""));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Arc::new(Planned {
        text: config.column,
        schema: Arc::new(Schema::new(fields)),
        column: place,
        element,
        has_index: config.index.is_some(),
        keep_empty: config.keep_empty,
        is_json,
    }))
}

impl PlannedStep for Planned {
    fn outputs(&self) -> Vec<Branch> {
        vec![Branch { name: String::new(), schema: Arc::clone(&self.schema) }]
    }

    fn distribution(&self, _input: usize) -> Distribution {
        Distribution::Any
    }

    fn make(&self) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Explode(self.clone())))
    }

    fn describe(&self) -> String {
        format!("explodes {}", self.text)
    }
}

struct Explode(Planned);

/// The elements of all rows, one after the other, and where those of each row end. Rows that are not lists have
/// none, and a message.
struct Elements {
    values: ArrayRef,
    ends: Vec<usize>,
    bad: Vec<(u32, String)>,
}

impl Operator for Explode {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let list = batch.rows.column(self.0.column);
        let elements = if self.0.is_json { of_json(list) } else { of_lists(list)? };
        if !elements.bad.is_empty() {
            let rows: Vec<u32> = elements.bad.iter().map(|(row, _)| *row).collect();
            let failed = batch.take(&UInt32Array::from(rows)).map_err(OperatorError::internal)?;
            let messages = elements.bad.iter().map(|(_, message)| message.clone()).collect();
            output.aside(Aside {
                reason: AsideReason::Failed,
                rows: failed.rows,
                times: Some(failed.times),
                notes: AsideNotes::Messages(messages),
            });
        }
        let mut bad = elements.bad.iter().map(|(row, _)| *row as usize).peekable();
        let (mut rows, mut values, mut index) = (Vec::new(), Vec::new(), Vec::new());
        let mut from = 0;
        for (row, end) in elements.ends.iter().enumerate() {
            let is_bad = bad.next_if_eq(&row).is_some();
            for (place, value) in (from..*end).enumerate() {
                rows.push(number(row));
                values.push(Some(number(value)));
                index.push(i64::try_from(place).ok());
            }
            if from == *end && self.0.keep_empty && !is_bad {
                rows.push(number(row));
                values.push(None);
                index.push(None);
            }
            from = *end;
            if rows.len() >= BATCH_ROWS {
                self.put_out(&batch, &elements.values, (&mut rows, &mut values, &mut index), output)?;
            }
        }
        self.put_out(&batch, &elements.values, (&mut rows, &mut values, &mut index), output)
    }
}

impl Explode {
    fn put_out(
        &self,
        batch: &Batch,
        elements: &ArrayRef,
        (rows, values, index): (&mut Vec<u32>, &mut Vec<Option<u32>>, &mut Vec<Option<i64>>),
        output: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        if rows.is_empty() {
            return Ok(());
        }
        let taken = batch.take(&UInt32Array::from(std::mem::take(rows))).map_err(OperatorError::internal)?;
        let values = UInt32Array::from(std::mem::take(values));
        let values = take(elements, &values, None).map_err(OperatorError::internal)?;
        let index = std::mem::take(index);
        let mut columns: Vec<ArrayRef> = taken.rows.columns().to_vec();
        if self.0.element < columns.len() {
            columns[self.0.element] = values;
        } else {
            columns.push(values);
        }
        if self.0.has_index {
            columns.push(Arc::new(Int64Array::from(index)));
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.0.schema), columns).map_err(OperatorError::internal)?;
        output.batch(0, taken.with_rows(rows));
        Ok(())
    }
}

fn number(at: usize) -> u32 {
    // A batch with so many elements does not fit into memory.
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn of_lists(list: &ArrayRef) -> Result<Elements, OperatorError> {
    let list: ArrayRef = match list.data_type() {
        DataType::List(_) => Arc::clone(list),
        DataType::LargeList(element) => {
            cast(list, &DataType::List(Arc::clone(element))).map_err(OperatorError::internal)?
        }
        _ => {
            let list: &FixedSizeListArray = list.as_fixed_size_list();
            Arc::new(ListArray::from(list.clone()))
        }
    };
    let list: &ListArray = list.as_list();
    // A null may have elements behind it, so places are counted anew.
    let mut places = Vec::with_capacity(list.values().len());
    let mut ends = Vec::with_capacity(list.len());
    for (row, bounds) in list.value_offsets().windows(2).enumerate() {
        if list.is_valid(row) {
            places.extend((bounds[0]..bounds[1]).map(i32::cast_unsigned));
        }
        ends.push(places.len());
    }
    let values = take(list.values(), &UInt32Array::from(places), None).map_err(OperatorError::internal)?;
    Ok(Elements { values, ends, bad: Vec::new() })
}

fn of_json(texts: &ArrayRef) -> Elements {
    let texts = texts.as_string::<i32>();
    let mut values = StringBuilder::new();
    let mut ends = Vec::with_capacity(texts.len());
    let mut bad = Vec::new();
    let mut n_values = 0;
    for (row, text) in texts.iter().enumerate() {
        match text.map(serde_json::from_str::<Option<Vec<&RawValue>>>) {
            Some(Ok(Some(elements))) => {
                n_values += elements.len();
                for element in elements {
                    match element.get() {
                        "null" => values.append_null(),
                        quoted if quoted.starts_with('"') => {
                            values.append_option(serde_json::from_str::<String>(quoted).ok());
                        }
                        other => values.append_value(other),
                    }
                }
            }
            None | Some(Ok(None)) => {}
            Some(Err(error)) => bad.push((number(row), format!("its text is not a JSON array: {error}"))),
        }
        ends.push(n_values);
    }
    Elements { values: Arc::new(values.finish()), ends, bad }
}
