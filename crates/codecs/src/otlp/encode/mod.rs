//! The other way round: rows of `logs`, `spans` and `metrics` as OTLP requests in protobuf.
//!
//! Rows with the same resource are put under one `ResourceX`, those with the same scope of it under one `ScopeX`, in the
//! order in which they come; of metrics, neighbours that differ only in their points become one `Metric`. Messages are
//! written straight into one buffer ([`wire`]).
//!
//! What is decoded again is what was encoded, but for `received_at` and `time_flag`, which are the receiver's own, and
//! for what protobuf cannot tell from an absent value (empty text, a time of 0). A `body` is sent as text, also where it
//! is JSON: whether it was a text before cannot be told.
//!
//! **Columns** are found by name, and may be missing. `service_name` becomes `service.name` of the resource, and
//! counts where that says something else. A span without `end_time` gets one from its `duration_ns`. `series` is left
//! out: it follows from the rest. Columns a stream does not have become attributes.
//!
//! **What cannot be said in OTLP** (an id that is not hexadecimal digits of the right number, a kind of metric that does not
//! exist) costs its row only: [`Encoded::unfit`].

mod logs;
mod metrics;
mod spans;
mod value;
mod wire;

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, MapArray, RecordBatch, StringArray};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float64Type, Int32Type, Int64Type, Schema, TimestampNanosecondType,
};
use arrow::error::ArrowError;
use weir_data::attributes::as_text;
use weir_data::json_rows::{self, Cell};
use weir_data::streams::{self, StreamDef};

use super::Signal;
use wire::Writer;

/// Rows as a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The request.
    pub body: Vec<u8>,
    /// Which row each record, span or point of the request is.
    pub order: Vec<usize>,
    /// Rows that are not in it, with the reason: lower case, no full stop.
    pub unfit: Vec<(usize, String)>,
}

/// Something about a row that cannot be said in OTLP.
type Unfit = String;

fn definition(signal: Signal) -> Option<&'static StreamDef> {
    streams::stream(signal.stream()).map(AsRef::as_ref)
}

/// Columns that cannot be sent as what their names say: each with what is wrong with it.
pub fn misfits(signal: Signal, schema: &Schema) -> Vec<(String, String)> {
    let Some(stream) = definition(signal) else { return Vec::new() };
    let misfit = |field: &arrow::datatypes::FieldRef| {
        let own = stream.schema.field_with_name(field.name()).ok()?;
        let (is, wanted) = (field.data_type(), own.data_type());
        let fits = is == wanted || (!wanted.is_nested() && !is.is_nested() && can_cast_types(is, wanted));
        (!fits).then(|| (field.name().clone(), format!("{is}, where `{}` has {wanted}", stream.name)))
    };
    schema.fields().iter().filter_map(misfit).collect()
}

/// Encodes rows. Their columns fit ([`misfits`]).
///
/// # Errors
/// If a column does not.
pub fn encode(signal: Signal, rows: &RecordBatch) -> Result<Encoded, ArrowError> {
    let columns = Columns::new(signal, rows)?;
    match signal {
        Signal::Logs => encode_all(&columns, &logs::Logs::new(&columns)?),
        Signal::Traces => encode_all(&columns, &spans::Spans::new(&columns)?),
        Signal::Metrics => encode_all(&columns, &metrics::Metrics::new(&columns)?),
    }
}

/// What the items of a signal are made of.
trait Items {
    /// Whether a row can be said at all.
    fn check(&self, row: usize) -> Result<(), Unfit>;

    /// Writes the items of the rows of one scope, as field 2 of it.
    fn write(&self, rows: &[usize], columns: &Columns<'_>, out: &mut Writer);
}

fn encode_all(columns: &Columns<'_>, items: &dyn Items) -> Result<Encoded, ArrowError> {
    let origin = Origin::new(columns)?;
    let mut encoded = Encoded::default();
    let mut fit = Vec::with_capacity(columns.rows);
    for row in 0..columns.rows {
        match items.check(row) {
            Ok(()) => fit.push(row),
            Err(reason) => encoded.unfit.push((row, reason)),
        }
    }
    let mut out = Writer::default();
    for resource in groups(&fit, |row, key| origin.resource_key(row, key)) {
        out.message(1, |out| {
            let first = resource[0];
            out.message(1, |out| origin.write_resource(first, out));
            for scope in groups(&resource, |row, key| origin.scope_key(row, key)) {
                out.message(2, |out| {
                    let first = scope[0];
                    out.message(1, |out| origin.write_scope(first, out));
                    items.write(&scope, columns, out);
                    out.text(3, origin.scope_schema_url.get(first));
                    encoded.order.extend(&scope);
                });
            }
            out.text(3, origin.schema_url.get(first));
        });
    }
    encoded.body = out.finish();
    Ok(encoded)
}

/// Rows with the same key together, in the order in which keys first come.
fn groups(rows: &[usize], write_key: impl Fn(usize, &mut Vec<u8>)) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
    let (mut key, mut last) = (Vec::new(), None::<(Vec<u8>, usize)>);
    for row in rows {
        key.clear();
        write_key(*row, &mut key);
        // Neighbours mostly come from the same place.
        if let Some((same, group)) = &last
            && *same == key
        {
            groups[*group].push(*row);
            continue;
        }
        let group = *known.entry(key.clone()).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(*row);
        last = Some((key.clone(), group));
    }
    groups
}

/// Appends a text to a key, so that no two lists of texts give the same key.
fn put_key(key: &mut Vec<u8>, text: Option<&str>) {
    // One more than the length: nothing is not the same as an empty text.
    let length = text.map_or(0, |text| text.len() + 1);
    key.extend_from_slice(&length.to_le_bytes());
    key.extend_from_slice(text.unwrap_or_default().as_bytes());
}

/// The columns of rows, by name and as their stream has them.
struct Columns<'a> {
    rows: usize,
    of: HashMap<&'static str, ArrayRef>,
    /// Columns the stream does not have: their names, and what writes their values as JSON.
    extra: Vec<(&'a str, &'a ArrayRef, Cell<'a>)>,
}

impl<'a> Columns<'a> {
    fn new(signal: Signal, rows: &'a RecordBatch) -> Result<Self, ArrowError> {
        let stream =
            definition(signal).ok_or_else(|| ArrowError::InvalidArgumentError("there is no such stream".to_owned()))?;
        let mut of = HashMap::new();
        let mut extra = Vec::new();
        let schema = rows.schema_ref();
        for (at, cell) in json_rows::cells(rows).into_iter().enumerate() {
            let (name, column) = (schema.field(at).name(), rows.column(at));
            match stream.schema.fields().iter().find(|field| field.name() == name) {
                Some(field) => {
                    let column = if column.data_type() == field.data_type() {
                        ArrayRef::clone(column)
                    } else {
                        cast(column, field.data_type())?
                    };
                    of.insert(field.name().as_str(), column);
                }
                None => extra.push((name.as_str(), column, cell)),
            }
        }
        Ok(Self { rows: rows.num_rows(), of, extra })
    }

    fn array(&self, name: &str) -> Option<&ArrayRef> {
        self.of.get(name).filter(|column| column.null_count() < column.len())
    }

    fn text(&self, name: &str) -> Texts {
        Texts(self.array(name).and_then(|column| column.as_string_opt::<i32>()).cloned())
    }

    fn numbers<T: ArrowPrimitiveType>(&self, name: &str) -> Numbers<T> {
        Numbers(self.array(name).and_then(|column| column.as_primitive_opt::<T>()).cloned())
    }

    fn attributes(&self, name: &str) -> Attributes {
        Attributes(self.array(name).and_then(|column| column.as_map_opt()).cloned())
    }

    /// Writes the attributes of a row as fields `field`: those of the map, and the columns a stream does not have.
    fn write_attributes(&self, attributes: &Attributes, row: usize, field: u32, out: &mut Writer) {
        let is_extra = |key: &str| self.extra.iter().any(|(name, column, _)| *name == key && column.is_valid(row));
        for (key, value) in attributes.of(row).filter(|(key, _)| !is_extra(key)) {
            value::write_attribute(field, key, value, out);
        }
        let mut text = String::new();
        for (name, column, cell) in &self.extra {
            if column.is_valid(row) {
                text.clear();
                cell(&mut text, row);
                // A whole number among doubles is a double.
                if column.data_type().is_floating() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
                    text.push_str(".0");
                }
                value::write_attribute(field, name, &text, out);
            }
        }
    }
}

/// A column of text, if there is one.
struct Texts(Option<StringArray>);

impl Texts {
    fn get(&self, row: usize) -> Option<&str> {
        self.0.as_ref().filter(|texts| texts.is_valid(row)).map(|texts| texts.value(row))
    }
}

/// A column of numbers, if there is one.
struct Numbers<T: ArrowPrimitiveType>(Option<arrow::array::PrimitiveArray<T>>);

impl<T: ArrowPrimitiveType> Numbers<T> {
    fn get(&self, row: usize) -> Option<T::Native> {
        self.0.as_ref().filter(|numbers| numbers.is_valid(row)).map(|numbers| numbers.value(row))
    }
}

type Ints = Numbers<Int64Type>;
type Ints32 = Numbers<Int32Type>;
type Floats = Numbers<Float64Type>;
type Times = Numbers<TimestampNanosecondType>;

impl Times {
    /// As OTLP has it: 0 is no time, and none is before 1970.
    fn unix_nano(&self, row: usize) -> u64 {
        self.get(row).map_or(0, unix_nano)
    }
}

fn unix_nano(time: i64) -> u64 {
    u64::try_from(time).unwrap_or(0)
}

/// A count that OTLP has as `uint32`.
fn count32(count: Option<i64>) -> u64 {
    count.map_or(0, |count| u64::from(u32::try_from(count.max(0)).unwrap_or(u32::MAX)))
}

/// A column of attributes, if there is one.
struct Attributes(Option<MapArray>);

impl Attributes {
    fn of(&self, row: usize) -> impl Iterator<Item = (&str, &str)> {
        let map = self.0.as_ref().filter(|map| map.is_valid(row));
        let entries = map.and_then(|map| {
            let (keys, values) = (map.keys().as_string_opt::<i32>()?, map.values().as_string_opt::<i32>()?);
            let ends = map.value_offsets();
            let range = usize::try_from(ends[row]).ok()?..usize::try_from(ends[row + 1]).ok()?;
            Some(range.map(move |at| (keys.value(at), values.value(at))))
        });
        entries.into_iter().flatten()
    }

    fn key(&self, row: usize, key: &mut Vec<u8>) {
        for (name, value) in self.of(row) {
            put_key(key, Some(name));
            put_key(key, Some(value));
        }
        // Where the attributes end: no text has this length.
        key.extend_from_slice(&usize::MAX.to_le_bytes());
    }
}

/// Resource and scope of rows.
struct Origin {
    service_name: Texts,
    resource: Attributes,
    schema_url: Texts,
    scope_name: Texts,
    scope_version: Texts,
    scope_attributes: Attributes,
    scope_schema_url: Texts,
}

/// The attribute of a resource that says which service it is.
const SERVICE_NAME: &str = "service.name";

impl Origin {
    fn new(columns: &Columns<'_>) -> Result<Self, ArrowError> {
        Ok(Self {
            service_name: columns.text("service_name"),
            resource: columns.attributes("resource"),
            schema_url: columns.text("schema_url"),
            scope_name: columns.text("scope_name"),
            scope_version: columns.text("scope_version"),
            scope_attributes: columns.attributes("scope_attributes"),
            scope_schema_url: columns.text("scope_schema_url"),
        })
    }

    fn resource_key(&self, row: usize, key: &mut Vec<u8>) {
        put_key(key, self.service_name.get(row));
        put_key(key, self.schema_url.get(row));
        self.resource.key(row, key);
    }

    fn scope_key(&self, row: usize, key: &mut Vec<u8>) {
        put_key(key, self.scope_name.get(row));
        put_key(key, self.scope_version.get(row));
        put_key(key, self.scope_schema_url.get(row));
        self.scope_attributes.key(row, key);
    }

    fn write_resource(&self, row: usize, out: &mut Writer) {
        let said = || self.resource.of(row).find(|(key, _)| *key == SERVICE_NAME).and_then(|(_, value)| as_text(value));
        let service =
            self.service_name.get(row).filter(|service| !service.is_empty() && said().as_deref() != Some(*service));
        if let Some(service) = service {
            value::write_text_attribute(1, SERVICE_NAME, service, out);
        }
        for (key, value) in self.resource.of(row).filter(|(key, _)| service.is_none() || *key != SERVICE_NAME) {
            value::write_attribute(1, key, value, out);
        }
    }

    fn write_scope(&self, row: usize, out: &mut Writer) {
        out.text(1, self.scope_name.get(row));
        out.text(2, self.scope_version.get(row));
        for (key, value) in self.scope_attributes.of(row) {
            value::write_attribute(3, key, value, out);
        }
    }
}

/// An id as bytes: `length` of them, in hexadecimal digits.
fn id(text: Option<&str>, length: usize) -> Result<Vec<u8>, Unfit> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    match hex::decode(text) {
        Ok(bytes) if bytes.len() == length => Ok(bytes),
        _ => {
            let shown: String = text.chars().take(64).collect();
            Err(format!("`{shown}` is not an id of {length} bytes in hexadecimal digits"))
        }
    }
}

/// The number of an enum's name, or of the number it is.
fn enum_number(text: Option<&str>, names: &[&str], what: &str) -> Result<u64, Unfit> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(0) };
    if let Some(number) = names.iter().position(|name| *name == text) {
        return Ok(number as u64);
    }
    // Negative ones are as long as protobuf has them: 64 bits.
    text.parse::<i32>().map(|number| i64::from(number).cast_unsigned()).map_err(|_| {
        let names: Vec<&str> = names.iter().filter(|name| !name.is_empty()).copied().collect();
        let shown: String = text.chars().take(64).collect();
        format!("{what} is `{shown}`, not one of {}", names.join(", "))
    })
}

/// The list of a row: its elements as an array of their own.
fn elements(list: Option<&ArrayRef>, row: usize) -> Option<ArrayRef> {
    let list = list?.as_list_opt::<i32>()?;
    list.is_valid(row).then(|| list.value(row))
}

/// A field of a struct, if it is there and of this type.
fn member<'a>(structs: &'a dyn Array, name: &str, data_type: &DataType) -> Option<&'a ArrayRef> {
    structs.as_struct_opt()?.column_by_name(name).filter(|column| column.data_type() == data_type)
}

#[cfg(test)]
mod tests;
