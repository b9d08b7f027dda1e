//! An encoder of OTAP for tests, from the structs that prost generates: naive, and with every
//! liberty that senders take. Dictionaries or not, columns of nothing left out or not, ids plain
//! or encoded for transport, buffers compressed or not.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, DurationNanosecondArray, FixedSizeBinaryArray, Float64Array,
    Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampNanosecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{DictionaryHandling, IpcWriteOptions, StreamWriter};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, exemplar, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use prost::Message;

use crate::generate::Random;

/// `BatchArrowRecords`, as the published protobuf file has it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BatchArrowRecords {
    #[prost(int64, tag = "1")]
    pub(crate) batch_id: i64,
    #[prost(message, repeated, tag = "2")]
    pub(crate) arrow_payloads: Vec<ArrowPayload>,
}

/// `ArrowPayload`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ArrowPayload {
    #[prost(string, tag = "1")]
    pub(crate) schema_id: String,
    #[prost(int32, tag = "2")]
    pub(crate) kind: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) record: Vec<u8>,
}

/// How ids are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdEncoding {
    /// As they are, and the metadata says so.
    Plain,
    /// Encoded for transport, and the metadata says nothing.
    Transport,
}

/// The sender's end of one stream.
pub(crate) struct Encoder {
    pub(crate) random: Random,
    ids: IdEncoding,
    compression: Option<CompressionType>,
    writers: HashMap<i32, (SchemaRef, String, StreamWriter<Vec<u8>>)>,
    n_schemas: usize,
    batch_id: i64,
    payloads: Vec<ArrowPayload>,
}

/// A table being built.
#[derive(Default)]
struct Table {
    columns: Vec<(Field, ArrayRef)>,
}

impl Table {
    fn fields(&self) -> Fields {
        self.columns.iter().map(|(field, _)| field.clone()).collect()
    }

    fn arrays(&self) -> Vec<ArrayRef> {
        self.columns.iter().map(|(_, array)| Arc::clone(array)).collect()
    }

    fn into_struct(self, valid: Option<Vec<bool>>) -> Option<ArrayRef> {
        if self.columns.is_empty() {
            return None;
        }
        Some(Arc::new(StructArray::new(self.fields(), self.arrays(), valid.map(NullBuffer::from))))
    }
}

/// The number of a value's type, and bytes that are equal where values are.
fn comparable(value: Option<&AnyValue>) -> (u8, Vec<u8>) {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => (1, text.clone().into_bytes()),
        Some(Value::IntValue(value)) => (2, value.to_be_bytes().to_vec()),
        Some(Value::DoubleValue(value)) => (3, value.to_bits().to_be_bytes().to_vec()),
        Some(Value::BoolValue(value)) => (4, vec![u8::from(*value)]),
        Some(Value::KvlistValue(_)) => (5, Vec::new()),
        Some(Value::ArrayValue(_)) => (6, Vec::new()),
        Some(Value::BytesValue(bytes)) => (7, bytes.clone()),
        _ => (0, Vec::new()),
    }
}

fn by_value(a: &KeyValue, b: &KeyValue) -> Ordering {
    let key = |entry: &KeyValue| {
        let (kind, bytes) = comparable(entry.value.as_ref());
        (kind, entry.key.clone(), bytes)
    };
    key(a).cmp(&key(b))
}

fn by_exemplar(a: &Exemplar, b: &Exemplar) -> Ordering {
    let key = |exemplar: &Exemplar| match exemplar.value {
        Some(exemplar::Value::AsInt(int)) => (0, int.cast_unsigned()),
        Some(exemplar::Value::AsDouble(double)) => (1, double.to_bits()),
        None => (2, 0),
    };
    key(a).cmp(&key(b))
}

/// Attributes in the order in which they are sent when their ids are encoded.
fn sort_attributes(attributes: &mut [KeyValue]) {
    attributes.sort_by(by_value);
}

fn sort_origin(resource: Option<&mut Resource>, scope: Option<&mut InstrumentationScope>) {
    if let Some(resource) = resource {
        sort_attributes(&mut resource.attributes);
    }
    if let Some(scope) = scope {
        sort_attributes(&mut scope.attributes);
    }
}

/// Brings what has no order of its own into the order that the encoder gives it.
pub(crate) fn normalize_logs(request: &mut ExportLogsServiceRequest) {
    for resource in &mut request.resource_logs {
        sort_origin(resource.resource.as_mut(), None);
        for scope in &mut resource.scope_logs {
            sort_origin(None, scope.scope.as_mut());
            scope.log_records.iter_mut().for_each(|log| sort_attributes(&mut log.attributes));
        }
    }
}

/// See [`normalize_logs`].
pub(crate) fn normalize_spans(request: &mut ExportTraceServiceRequest) {
    for resource in &mut request.resource_spans {
        sort_origin(resource.resource.as_mut(), None);
        for scope in &mut resource.scope_spans {
            sort_origin(None, scope.scope.as_mut());
            for span in &mut scope.spans {
                sort_attributes(&mut span.attributes);
                span.events.sort_by(|a, b| a.name.cmp(&b.name));
                span.events.iter_mut().for_each(|event| sort_attributes(&mut event.attributes));
                span.links.sort_by(|a, b| a.trace_id.cmp(&b.trace_id));
                span.links.iter_mut().for_each(|link| sort_attributes(&mut link.attributes));
            }
        }
    }
}

fn normalize_exemplars(exemplars: &mut [Exemplar]) {
    exemplars.sort_by(by_exemplar);
    exemplars.iter_mut().for_each(|exemplar| sort_attributes(&mut exemplar.filtered_attributes));
}

/// See [`normalize_logs`].
pub(crate) fn normalize_metrics(request: &mut ExportMetricsServiceRequest) {
    for resource in &mut request.resource_metrics {
        sort_origin(resource.resource.as_mut(), None);
        for scope in &mut resource.scope_metrics {
            sort_origin(None, scope.scope.as_mut());
            for metric in &mut scope.metrics {
                sort_attributes(&mut metric.metadata);
                macro_rules! points {
                    ($points:expr $(, $exemplars:ident)?) => {
                        for point in $points {
                            sort_attributes(&mut point.attributes);
                            $( normalize_exemplars(&mut point.$exemplars); )?
                        }
                    };
                }
                match &mut metric.data {
                    Some(Data::Gauge(gauge)) => points!(&mut gauge.data_points, exemplars),
                    Some(Data::Sum(sum)) => points!(&mut sum.data_points, exemplars),
                    Some(Data::Histogram(data)) => points!(&mut data.data_points, exemplars),
                    Some(Data::ExponentialHistogram(data)) => points!(&mut data.data_points, exemplars),
                    Some(Data::Summary(data)) => points!(&mut data.data_points),
                    None => {}
                }
            }
        }
    }
}

/// Attributes of rows, by the ids of those.
#[derive(Default)]
struct Attributes<'a>(Vec<(u32, &'a KeyValue)>);

impl<'a> Attributes<'a> {
    fn add(&mut self, parent: usize, attributes: &'a [KeyValue]) {
        self.0.extend(attributes.iter().map(|attribute| (parent as u32, attribute)));
    }
}

/// Resources and scopes of the rows of a main table.
#[derive(Default)]
struct Origins<'a> {
    resources: Vec<(u16, &'a str)>,
    scopes: Vec<(u16, Option<&'a InstrumentationScope>, &'a str)>,
    resource_attributes: Attributes<'a>,
    scope_attributes: Attributes<'a>,
    n_resources: usize,
    n_scopes: usize,
}

impl<'a> Origins<'a> {
    fn resource(&mut self, resource: Option<&'a Resource>) {
        if let Some(resource) = resource {
            self.resource_attributes.add(self.n_resources, &resource.attributes);
        }
        self.n_resources += 1;
    }

    fn scope(&mut self, scope: Option<&'a InstrumentationScope>) {
        if let Some(scope) = scope {
            self.scope_attributes.add(self.n_scopes, &scope.attributes);
        }
        self.n_scopes += 1;
    }

    fn row(&mut self, resource_url: &'a str, scope: Option<&'a InstrumentationScope>, scope_url: &'a str) {
        self.resources.push((self.n_resources as u16 - 1, resource_url));
        self.scopes.push((self.n_scopes as u16 - 1, scope, scope_url));
    }
}

fn nonempty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn text<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn fixed(length: i32, values: Vec<&[u8]>) -> ArrayRef {
    let values = values.into_iter().map(|value| (!value.is_empty()).then_some(value));
    Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, length).unwrap())
}

fn time(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from_iter_values(values.map(u64::cast_signed)))
}

fn u32s(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(values.collect::<UInt32Array>())
}

fn lists(item: DataType, lengths: impl Iterator<Item = usize>, items: ArrayRef) -> ArrayRef {
    let field = Arc::new(Field::new("item", item, true));
    Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), items, None))
}

fn count_lists(values: &[&[u64]]) -> ArrayRef {
    let items: UInt64Array = values.iter().flat_map(|list| list.iter().copied()).collect();
    lists(DataType::UInt64, values.iter().map(|list| list.len()), Arc::new(items))
}

fn double_lists(values: &[&[f64]]) -> ArrayRef {
    let items: Float64Array = values.iter().flat_map(|list| list.iter().copied()).collect();
    lists(DataType::Float64, values.iter().map(|list| list.len()), Arc::new(items))
}

/// Differences to the row before.
fn delta(ids: &[u32]) -> Vec<u32> {
    ids.iter().enumerate().map(|(at, id)| if at == 0 { *id } else { id - ids[at - 1] }).collect()
}

/// Differences to the row before, where `same` says that the row is like it.
fn run_delta(ids: &[u32], same: impl Fn(usize, usize) -> bool) -> Vec<u32> {
    (0..ids.len()).map(|at| if at > 0 && same(at - 1, at) { ids[at] - ids[at - 1] } else { ids[at] }).collect()
}

/// A value in CBOR.
fn cbor(value: &AnyValue, out: &mut Vec<u8>) {
    let head = |major: u8, argument: u64, out: &mut Vec<u8>| match argument {
        0..=23 => out.push(major << 5 | argument as u8),
        24..=0xff => out.extend([major << 5 | 24, argument as u8]),
        _ => {
            out.push(major << 5 | 27);
            out.extend(argument.to_be_bytes());
        }
    };
    match &value.value {
        Some(Value::StringValue(text)) => {
            head(3, text.len() as u64, out);
            out.extend(text.as_bytes());
        }
        Some(Value::BytesValue(bytes)) => {
            head(2, bytes.len() as u64, out);
            out.extend(bytes);
        }
        Some(Value::IntValue(value)) if *value >= 0 => head(0, value.unsigned_abs(), out),
        Some(Value::IntValue(value)) => head(1, (-1 - value).unsigned_abs(), out),
        Some(Value::DoubleValue(value)) => {
            out.push(0xfb);
            out.extend(value.to_be_bytes());
        }
        Some(Value::BoolValue(value)) => out.push(0xf4 + u8::from(*value)),
        Some(Value::ArrayValue(list)) => {
            head(4, list.values.len() as u64, out);
            list.values.iter().for_each(|value| cbor(value, out));
        }
        Some(Value::KvlistValue(map)) => {
            // Of a length that is not known in advance, which is allowed.
            out.push(0xbf);
            for entry in &map.values {
                head(3, entry.key.len() as u64, out);
                out.extend(entry.key.as_bytes());
                cbor(entry.value.as_ref().unwrap_or(&AnyValue::default()), out);
            }
            out.push(0xff);
        }
        _ => out.push(0xf6),
    }
}

impl Encoder {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let ids = random.pick(&[IdEncoding::Plain, IdEncoding::Transport]);
        let compression = random.pick(&[None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)]);
        Self { random, ids, compression, writers: HashMap::new(), n_schemas: 0, batch_id: 0, payloads: Vec::new() }
    }

    /// Adds a column; one that is all null may be left out, and one that may have a dictionary
    /// may get one.
    fn add(&mut self, table: &mut Table, name: &str, array: ArrayRef, may_encode: bool) {
        if array.null_count() == array.len() && self.random.one_in(2) {
            return;
        }
        let key = match self.random.below(3) {
            _ if !may_encode => None,
            0 => None,
            1 => Some(DataType::UInt8),
            _ => Some(DataType::UInt16),
        };
        let encoded = key.and_then(|key| {
            let kind = DataType::Dictionary(Box::new(key), Box::new(array.data_type().clone()));
            cast(&array, &kind).ok()
        });
        let array = encoded.unwrap_or(array);
        table.columns.push((Field::new(name, array.data_type().clone(), true), array));
    }

    /// Adds ids, already encoded if they are.
    fn add_ids(&mut self, table: &mut Table, name: &str, ids: ArrayRef, may_encode: bool) {
        let before = table.columns.len();
        self.add(table, name, ids, may_encode);
        if self.ids == IdEncoding::Plain {
            for (field, _) in &mut table.columns[before..] {
                field.set_metadata(HashMap::from([("encoding".to_owned(), "plain".to_owned())]));
            }
        }
    }

    fn add_delta_u16(&mut self, table: &mut Table, name: &str, ids: &[u32]) {
        let ids = if self.ids == IdEncoding::Plain { ids.to_vec() } else { delta(ids) };
        let array: UInt16Array = ids.iter().map(|id| *id as u16).collect();
        self.add_ids(table, name, Arc::new(array), false);
    }

    fn add_delta_u32(&mut self, table: &mut Table, name: &str, ids: &[u32]) {
        let ids = if self.ids == IdEncoding::Plain { ids.to_vec() } else { delta(ids) };
        self.add_ids(table, name, u32s(ids.into_iter()), false);
    }

    /// Serializes a table as a payload, unless it has no rows.
    fn send(&mut self, kind: i32, table: &Table) {
        let rows = table.columns.first().map_or(0, |(_, array)| array.len());
        if rows == 0 {
            return;
        }
        let schema = Arc::new(Schema::new(table.fields()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), table.arrays()).unwrap();
        let is_new = self.writers.get(&kind).is_none_or(|(known, ..)| *known != schema);
        if is_new {
            let handling = self.random.pick(&[DictionaryHandling::Resend, DictionaryHandling::Delta]);
            let options = IpcWriteOptions::default()
                .try_with_compression(self.compression)
                .unwrap()
                .with_dictionary_handling(handling);
            let writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
            self.n_schemas += 1;
            self.writers.insert(kind, (schema, self.n_schemas.to_string(), writer));
        }
        let (_, schema_id, writer) = self.writers.get_mut(&kind).unwrap();
        writer.write(&batch).unwrap();
        writer.flush().unwrap();
        let record = std::mem::take(writer.get_mut());
        self.payloads.push(ArrowPayload { schema_id: schema_id.clone(), kind, record });
    }

    fn finish(&mut self) -> BatchArrowRecords {
        self.batch_id += 1;
        BatchArrowRecords { batch_id: self.batch_id, arrow_payloads: std::mem::take(&mut self.payloads) }
    }

    /// The columns of values: a type, and a column for each.
    fn add_values(&mut self, table: &mut Table, values: &[Option<&AnyValue>]) -> Vec<bool> {
        let leaves_out = self.random.one_in(2);
        let value = |at: usize| values[at].and_then(|value| value.value.as_ref());
        let rows = || 0..values.len();
        let types: UInt8Array = rows().map(|at| comparable(values[at]).0).collect();
        let texts: StringArray = rows()
            .map(|at| match value(at) {
                Some(Value::StringValue(text)) => Some(text.as_str()).filter(|text| !leaves_out || !text.is_empty()),
                _ => None,
            })
            .collect();
        let ints: Int64Array = rows()
            .map(|at| match value(at) {
                Some(Value::IntValue(value)) => Some(*value).filter(|value| !leaves_out || *value != 0),
                _ => None,
            })
            .collect();
        let doubles: Float64Array = rows()
            .map(|at| match value(at) {
                Some(Value::DoubleValue(value)) => Some(*value).filter(|value| !leaves_out || value.to_bits() != 0),
                _ => None,
            })
            .collect();
        let bools: BooleanArray = rows()
            .map(|at| match value(at) {
                Some(Value::BoolValue(value)) => Some(*value).filter(|value| !leaves_out || *value),
                _ => None,
            })
            .collect();
        let bytes: Vec<Option<&[u8]>> = rows()
            .map(|at| match value(at) {
                Some(Value::BytesValue(bytes)) => {
                    Some(bytes.as_slice()).filter(|bytes| !leaves_out || !bytes.is_empty())
                }
                _ => None,
            })
            .collect();
        let nested: Vec<Option<Vec<u8>>> = rows()
            .map(|at| match value(at) {
                Some(Value::ArrayValue(_) | Value::KvlistValue(_)) => {
                    let mut out = Vec::new();
                    cbor(values[at].unwrap(), &mut out);
                    Some(out)
                }
                _ => None,
            })
            .collect();
        let present = rows()
            .map(|at| {
                texts.is_valid(at)
                    || ints.is_valid(at)
                    || doubles.is_valid(at)
                    || bools.is_valid(at)
                    || bytes[at].is_some()
            })
            .collect();
        self.add(table, "type", Arc::new(types), false);
        self.add(table, "str", Arc::new(texts), true);
        self.add(table, "int", Arc::new(ints), true);
        self.add(table, "double", Arc::new(doubles), false);
        self.add(table, "bool", Arc::new(bools), false);
        self.add(table, "bytes", Arc::new(bytes.into_iter().collect::<BinaryArray>()), true);
        self.add(table, "ser", Arc::new(nested.iter().map(|bytes| bytes.as_deref()).collect::<BinaryArray>()), true);
        present
    }

    fn send_attributes(&mut self, kind: i32, mut attributes: Attributes<'_>, is_wide: bool) {
        let rows = &mut attributes.0;
        rows.sort_by(|(a_parent, a), (b_parent, b)| by_value(a, b).then(a_parent.cmp(b_parent)));
        let mut table = Table::default();
        let mut values = Table::default();
        let list: Vec<_> = rows.iter().map(|(_, entry)| entry.value.as_ref()).collect();
        let present = self.add_values(&mut values, &list);
        let parents: Vec<u32> = rows.iter().map(|(parent, _)| *parent).collect();
        let parents = match self.ids {
            IdEncoding::Plain => parents,
            IdEncoding::Transport => run_delta(&parents, |a, b| {
                present[a] && present[b] && by_value(rows[a].1, rows[b].1) == Ordering::Equal
            }),
        };
        let parents: ArrayRef = if is_wide {
            u32s(parents.into_iter())
        } else {
            Arc::new(parents.iter().map(|parent| *parent as u16).collect::<UInt16Array>())
        };
        self.add_ids(&mut table, "parent_id", parents, is_wide);
        self.add(&mut table, "key", text(rows.iter().map(|(_, entry)| Some(entry.key.as_str()))), true);
        table.columns.append(&mut values.columns);
        self.send(kind, &table);
    }

    fn add_origins(&mut self, table: &mut Table, origins: &Origins<'_>) {
        let mut resource = Table::default();
        let ids: Vec<u32> = origins.resources.iter().map(|(id, _)| u32::from(*id)).collect();
        self.add_delta_u16(&mut resource, "id", &ids);
        self.add(&mut resource, "schema_url", text(origins.resources.iter().map(|(_, url)| nonempty(url))), true);
        if let Some(array) = resource.into_struct(None) {
            table.columns.push((Field::new("resource", array.data_type().clone(), true), array));
        }
        let mut scope = Table::default();
        let ids: Vec<u32> = origins.scopes.iter().map(|(id, ..)| u32::from(*id)).collect();
        self.add_delta_u16(&mut scope, "id", &ids);
        let scopes = || origins.scopes.iter().map(|(_, scope, _)| *scope);
        self.add(&mut scope, "name", text(scopes().map(|scope| nonempty(&scope?.name))), true);
        self.add(&mut scope, "version", text(scopes().map(|scope| nonempty(&scope?.version))), true);
        if let Some(array) = scope.into_struct(None) {
            table.columns.push((Field::new("scope", array.data_type().clone(), true), array));
        }
        self.add(table, "schema_url", text(origins.scopes.iter().map(|(.., url)| nonempty(url))), true);
    }

    fn send_origins(&mut self, origins: Origins<'_>) {
        self.send_attributes(1, origins.resource_attributes, false);
        self.send_attributes(2, origins.scope_attributes, false);
    }

    fn row_ids(rows: usize) -> Vec<u32> {
        (0..rows as u32).collect()
    }

    pub(crate) fn logs(&mut self, request: &ExportLogsServiceRequest) -> BatchArrowRecords {
        let (mut origins, mut logs, mut attributes) = (Origins::default(), Vec::new(), Attributes::default());
        for resource in &request.resource_logs {
            origins.resource(resource.resource.as_ref());
            for scope in &resource.scope_logs {
                origins.scope(scope.scope.as_ref());
                for log in &scope.log_records {
                    origins.row(&resource.schema_url, scope.scope.as_ref(), &scope.schema_url);
                    attributes.add(logs.len(), &log.attributes);
                    logs.push(log);
                }
            }
        }
        let mut table = Table::default();
        self.add_delta_u16(&mut table, "id", &Self::row_ids(logs.len()));
        self.add_origins(&mut table, &origins);
        let all = || logs.iter();
        self.add(&mut table, "time_unix_nano", time(all().map(|log| log.time_unix_nano)), false);
        self.add(&mut table, "observed_time_unix_nano", time(all().map(|log| log.observed_time_unix_nano)), false);
        let severities: Int32Array = all().map(|log| Some(log.severity_number).filter(|number| *number != 0)).collect();
        self.add(&mut table, "severity_number", Arc::new(severities), true);
        self.add(&mut table, "severity_text", text(all().map(|log| nonempty(&log.severity_text))), true);
        let mut body = Table::default();
        let bodies: Vec<_> = all().map(|log| log.body.as_ref()).collect();
        self.add_values(&mut body, &bodies);
        let valid = bodies.iter().map(Option::is_some).collect();
        if let Some(array) = body.into_struct(Some(valid)) {
            table.columns.push((Field::new("body", array.data_type().clone(), true), array));
        }
        self.add(&mut table, "dropped_attributes_count", u32s(all().map(|log| log.dropped_attributes_count)), false);
        self.add(&mut table, "event_name", text(all().map(|log| nonempty(&log.event_name))), true);
        self.add(&mut table, "flags", u32s(all().map(|log| log.flags)), false);
        self.add(&mut table, "trace_id", fixed(16, all().map(|log| log.trace_id.as_slice()).collect()), true);
        self.add(&mut table, "span_id", fixed(8, all().map(|log| log.span_id.as_slice()).collect()), true);
        self.send(30, &table);
        self.send_attributes(31, attributes, false);
        self.send_origins(origins);
        self.finish()
    }

    pub(crate) fn spans(&mut self, request: &ExportTraceServiceRequest) -> BatchArrowRecords {
        let (mut origins, mut spans, mut attributes) = (Origins::default(), Vec::new(), Attributes::default());
        let (mut events, mut links): (Vec<(u32, &Event)>, Vec<(u32, &Link)>) = (Vec::new(), Vec::new());
        for resource in &request.resource_spans {
            origins.resource(resource.resource.as_ref());
            for scope in &resource.scope_spans {
                origins.scope(scope.scope.as_ref());
                for span in &scope.spans {
                    origins.row(&resource.schema_url, scope.scope.as_ref(), &scope.schema_url);
                    let id = spans.len() as u32;
                    attributes.add(spans.len(), &span.attributes);
                    events.extend(span.events.iter().map(|event| (id, event)));
                    links.extend(span.links.iter().map(|link| (id, link)));
                    spans.push(span);
                }
            }
        }
        let mut table = Table::default();
        self.add_delta_u16(&mut table, "id", &Self::row_ids(spans.len()));
        self.add_origins(&mut table, &origins);
        let all = || spans.iter();
        self.add(&mut table, "start_time_unix_nano", time(all().map(|span| span.start_time_unix_nano)), false);
        let durations = DurationNanosecondArray::from_iter_values(
            all().map(|span| span.end_time_unix_nano.wrapping_sub(span.start_time_unix_nano).cast_signed()),
        );
        self.add(&mut table, "duration_time_unix_nano", Arc::new(durations), true);
        self.add(&mut table, "trace_id", fixed(16, all().map(|span| span.trace_id.as_slice()).collect()), true);
        self.add(&mut table, "span_id", fixed(8, all().map(|span| span.span_id.as_slice()).collect()), true);
        self.add(
            &mut table,
            "parent_span_id",
            fixed(8, all().map(|span| span.parent_span_id.as_slice()).collect()),
            true,
        );
        self.add(&mut table, "name", text(all().map(|span| Some(span.name.as_str()))), true);
        let kinds: Int32Array = all().map(|span| Some(span.kind)).collect();
        self.add(&mut table, "kind", Arc::new(kinds), true);
        self.add(&mut table, "dropped_attributes_count", u32s(all().map(|span| span.dropped_attributes_count)), false);
        self.add(&mut table, "dropped_events_count", u32s(all().map(|span| span.dropped_events_count)), false);
        self.add(&mut table, "dropped_links_count", u32s(all().map(|span| span.dropped_links_count)), false);
        self.add(&mut table, "trace_state", text(all().map(|span| nonempty(&span.trace_state))), true);
        self.add(&mut table, "flags", u32s(all().map(|span| span.flags)), false);
        let mut status = Table::default();
        let codes: Int32Array = all().map(|span| Some(span.status.as_ref()?.code)).collect();
        self.add(&mut status, "code", Arc::new(codes), true);
        let messages = text(all().map(|span| nonempty(&span.status.as_ref()?.message)));
        self.add(&mut status, "status_message", messages, true);
        if let Some(array) = status.into_struct(Some(all().map(|span| span.status.is_some()).collect())) {
            table.columns.push((Field::new("status", array.data_type().clone(), true), array));
        }
        self.send(40, &table);
        self.send_attributes(41, attributes, false);
        self.send_events(events);
        self.send_links(links);
        self.send_origins(origins);
        self.finish()
    }

    fn add_run_ids(&mut self, table: &mut Table, parents: &[u32], is_wide: bool, same: impl Fn(usize, usize) -> bool) {
        let parents = if self.ids == IdEncoding::Plain { parents.to_vec() } else { run_delta(parents, same) };
        let array: ArrayRef = if is_wide {
            u32s(parents.into_iter())
        } else {
            Arc::new(parents.iter().map(|parent| *parent as u16).collect::<UInt16Array>())
        };
        self.add_ids(table, "parent_id", array, is_wide);
    }

    fn send_events(&mut self, mut events: Vec<(u32, &Event)>) {
        events.sort_by(|(a_span, a), (b_span, b)| a.name.cmp(&b.name).then(a_span.cmp(b_span)));
        let mut table = Table::default();
        let parents: Vec<u32> = events.iter().map(|(span, _)| *span).collect();
        self.add_run_ids(&mut table, &parents, false, |a, b| events[a].1.name == events[b].1.name);
        self.add_delta_u32(&mut table, "id", &Self::row_ids(events.len()));
        let all = || events.iter().map(|(_, event)| *event);
        self.add(&mut table, "name", text(all().map(|event| Some(event.name.as_str()))), true);
        self.add(&mut table, "time_unix_nano", time(all().map(|event| event.time_unix_nano)), false);
        self.add(
            &mut table,
            "dropped_attributes_count",
            u32s(all().map(|event| event.dropped_attributes_count)),
            false,
        );
        let mut attributes = Attributes::default();
        all().enumerate().for_each(|(id, event)| attributes.add(id, &event.attributes));
        self.send(42, &table);
        self.send_attributes(44, attributes, true);
    }

    fn send_links(&mut self, mut links: Vec<(u32, &Link)>) {
        links.sort_by(|(a_span, a), (b_span, b)| a.trace_id.cmp(&b.trace_id).then(a_span.cmp(b_span)));
        let mut table = Table::default();
        let parents: Vec<u32> = links.iter().map(|(span, _)| *span).collect();
        self.add_run_ids(&mut table, &parents, false, |a, b| links[a].1.trace_id == links[b].1.trace_id);
        self.add_delta_u32(&mut table, "id", &Self::row_ids(links.len()));
        let all = || links.iter().map(|(_, link)| *link);
        self.add(&mut table, "trace_id", fixed(16, all().map(|link| link.trace_id.as_slice()).collect()), true);
        self.add(&mut table, "span_id", fixed(8, all().map(|link| link.span_id.as_slice()).collect()), true);
        self.add(&mut table, "trace_state", text(all().map(|link| nonempty(&link.trace_state))), true);
        self.add(&mut table, "dropped_attributes_count", u32s(all().map(|link| link.dropped_attributes_count)), false);
        self.add(&mut table, "flags", u32s(all().map(|link| link.flags)), false);
        let mut attributes = Attributes::default();
        all().enumerate().for_each(|(id, link)| attributes.add(id, &link.attributes));
        self.send(43, &table);
        self.send_attributes(45, attributes, true);
    }

    pub(crate) fn metrics(&mut self, request: &ExportMetricsServiceRequest) -> BatchArrowRecords {
        let (mut origins, mut metrics, mut metadata) = (Origins::default(), Vec::new(), Attributes::default());
        for resource in &request.resource_metrics {
            origins.resource(resource.resource.as_ref());
            for scope in &resource.scope_metrics {
                origins.scope(scope.scope.as_ref());
                for metric in &scope.metrics {
                    origins.row(&resource.schema_url, scope.scope.as_ref(), &scope.schema_url);
                    metadata.add(metrics.len(), &metric.metadata);
                    metrics.push(metric);
                }
            }
        }
        let mut table = Table::default();
        self.add_delta_u16(&mut table, "id", &Self::row_ids(metrics.len()));
        self.add_origins(&mut table, &origins);
        let all = || metrics.iter();
        let types: UInt8Array = all()
            .map(|metric| match metric.data {
                None => 0,
                Some(Data::Gauge(_)) => 1,
                Some(Data::Sum(_)) => 2,
                Some(Data::Histogram(_)) => 3,
                Some(Data::ExponentialHistogram(_)) => 4,
                Some(Data::Summary(_)) => 5,
            })
            .collect();
        self.add(&mut table, "metric_type", Arc::new(types), false);
        self.add(&mut table, "name", text(all().map(|metric| Some(metric.name.as_str()))), true);
        self.add(&mut table, "description", text(all().map(|metric| nonempty(&metric.description))), true);
        self.add(&mut table, "unit", text(all().map(|metric| nonempty(&metric.unit))), true);
        let temporalities: Int32Array = all()
            .map(|metric| match &metric.data {
                Some(Data::Sum(sum)) => Some(sum.aggregation_temporality),
                Some(Data::Histogram(data)) => Some(data.aggregation_temporality),
                Some(Data::ExponentialHistogram(data)) => Some(data.aggregation_temporality),
                _ => None,
            })
            .collect();
        self.add(&mut table, "aggregation_temporality", Arc::new(temporalities), true);
        let monotonic: BooleanArray = all()
            .map(|metric| match &metric.data {
                Some(Data::Sum(sum)) => Some(sum.is_monotonic),
                _ => None,
            })
            .collect();
        self.add(&mut table, "is_monotonic", Arc::new(monotonic), false);
        self.send(10, &table);
        self.send_attributes(26, metadata, false);
        self.send_origins(origins);
        self.send_numbers(&metrics_of(&metrics, |data| match data {
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Sum(sum) => &sum.data_points,
            _ => &[],
        }));
        self.send_histograms(&metrics_of(&metrics, |data| match data {
            Data::Histogram(data) => &data.data_points,
            _ => &[],
        }));
        self.send_exponentials(&metrics_of(&metrics, |data| match data {
            Data::ExponentialHistogram(data) => &data.data_points,
            _ => &[],
        }));
        self.send_summaries(&metrics_of(&metrics, |data| match data {
            Data::Summary(data) => &data.data_points,
            _ => &[],
        }));
        self.finish()
    }

    /// What all tables of points begin with.
    fn begin_points<P>(&mut self, points: &[(u32, &P)], times: impl Fn(&P) -> (u64, u64, u32)) -> Table {
        let mut table = Table::default();
        let parents: Vec<u32> = points.iter().map(|(metric, _)| *metric).collect();
        self.add_delta_u16(&mut table, "parent_id", &parents);
        self.add_delta_u32(&mut table, "id", &Self::row_ids(points.len()));
        let all = || points.iter().map(|(_, point)| times(point));
        self.add(&mut table, "start_time_unix_nano", time(all().map(|(start, ..)| start)), false);
        self.add(&mut table, "time_unix_nano", time(all().map(|(_, time, _)| time)), false);
        self.add(&mut table, "flags", u32s(all().map(|(.., flags)| flags)), false);
        table
    }

    fn add_doubles(&mut self, table: &mut Table, name: &str, values: impl Iterator<Item = Option<f64>>) {
        self.add(table, name, Arc::new(values.collect::<Float64Array>()), false);
    }

    fn add_counts(&mut self, table: &mut Table, name: &str, values: impl Iterator<Item = u64>) {
        self.add(table, name, Arc::new(values.collect::<UInt64Array>()), false);
    }

    fn send_numbers(&mut self, points: &[(u32, &opentelemetry_proto::tonic::metrics::v1::NumberDataPoint)]) {
        let mut table =
            self.begin_points(points, |point| (point.start_time_unix_nano, point.time_unix_nano, point.flags));
        let all = || points.iter().map(|(_, point)| *point);
        self.add_doubles(
            &mut table,
            "double_value",
            all().map(|point| match point.value {
                Some(number_data_point::Value::AsDouble(value)) => Some(value),
                _ => None,
            }),
        );
        let ints: Int64Array = all()
            .map(|point| match point.value {
                Some(number_data_point::Value::AsInt(value)) => Some(value),
                _ => None,
            })
            .collect();
        self.add(&mut table, "int_value", Arc::new(ints), false);
        self.send(11, &table);
        self.send_point_attributes(15, all().map(|point| point.attributes.as_slice()));
        self.send_exemplars(19, 22, all().map(|point| point.exemplars.as_slice()));
    }

    fn send_histograms(&mut self, points: &[(u32, &opentelemetry_proto::tonic::metrics::v1::HistogramDataPoint)]) {
        let mut table =
            self.begin_points(points, |point| (point.start_time_unix_nano, point.time_unix_nano, point.flags));
        let all = || points.iter().map(|(_, point)| *point);
        self.add_counts(&mut table, "count", all().map(|point| point.count));
        self.add_doubles(&mut table, "sum", all().map(|point| point.sum));
        self.add_doubles(&mut table, "min", all().map(|point| point.min));
        self.add_doubles(&mut table, "max", all().map(|point| point.max));
        let counts: Vec<&[u64]> = all().map(|point| point.bucket_counts.as_slice()).collect();
        self.add(&mut table, "bucket_counts", count_lists(&counts), false);
        let bounds: Vec<&[f64]> = all().map(|point| point.explicit_bounds.as_slice()).collect();
        self.add(&mut table, "explicit_bounds", double_lists(&bounds), false);
        self.send(13, &table);
        self.send_point_attributes(17, all().map(|point| point.attributes.as_slice()));
        self.send_exemplars(20, 23, all().map(|point| point.exemplars.as_slice()));
    }

    fn add_buckets(&mut self, table: &mut Table, name: &str, buckets: Vec<Option<&Buckets>>) {
        let mut inner = Table::default();
        let offsets: Int32Array = buckets.iter().map(|buckets| Some(buckets.as_ref()?.offset)).collect();
        self.add(&mut inner, "offset", Arc::new(offsets), false);
        let counts: Vec<&[u64]> =
            buckets.iter().map(|buckets| buckets.map_or(&[][..], |buckets| &buckets.bucket_counts)).collect();
        self.add(&mut inner, "bucket_counts", count_lists(&counts), false);
        if let Some(array) = inner.into_struct(Some(buckets.iter().map(Option::is_some).collect())) {
            table.columns.push((Field::new(name, array.data_type().clone(), true), array));
        }
    }

    fn send_exponentials(
        &mut self,
        points: &[(u32, &opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint)],
    ) {
        let mut table =
            self.begin_points(points, |point| (point.start_time_unix_nano, point.time_unix_nano, point.flags));
        let all = || points.iter().map(|(_, point)| *point);
        self.add_counts(&mut table, "count", all().map(|point| point.count));
        self.add_doubles(&mut table, "sum", all().map(|point| point.sum));
        self.add_doubles(&mut table, "min", all().map(|point| point.min));
        self.add_doubles(&mut table, "max", all().map(|point| point.max));
        let scales: Int32Array = all().map(|point| Some(point.scale)).collect();
        self.add(&mut table, "scale", Arc::new(scales), false);
        self.add_counts(&mut table, "zero_count", all().map(|point| point.zero_count));
        self.add_doubles(&mut table, "zero_threshold", all().map(|point| Some(point.zero_threshold)));
        self.add_buckets(&mut table, "positive", all().map(|point| point.positive.as_ref()).collect());
        self.add_buckets(&mut table, "negative", all().map(|point| point.negative.as_ref()).collect());
        self.send(14, &table);
        self.send_point_attributes(18, all().map(|point| point.attributes.as_slice()));
        self.send_exemplars(21, 24, all().map(|point| point.exemplars.as_slice()));
    }

    fn send_summaries(&mut self, points: &[(u32, &opentelemetry_proto::tonic::metrics::v1::SummaryDataPoint)]) {
        let mut table =
            self.begin_points(points, |point| (point.start_time_unix_nano, point.time_unix_nano, point.flags));
        let all = || points.iter().map(|(_, point)| *point);
        self.add_counts(&mut table, "count", all().map(|point| point.count));
        self.add_doubles(&mut table, "sum", all().map(|point| Some(point.sum)));
        let quantiles = || all().flat_map(|point| &point.quantile_values);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(quantiles().map(|quantile| Some(quantile.quantile)).collect::<Float64Array>()),
            Arc::new(quantiles().map(|quantile| Some(quantile.value)).collect::<Float64Array>()),
        ];
        let fields: Fields =
            ["quantile", "value"].map(|name| Field::new(name, DataType::Float64, true)).into_iter().collect();
        let items = StructArray::new(fields.clone(), columns, None);
        let array = lists(DataType::Struct(fields), all().map(|point| point.quantile_values.len()), Arc::new(items));
        self.add(&mut table, "quantile", array, false);
        self.send(12, &table);
        self.send_point_attributes(16, all().map(|point| point.attributes.as_slice()));
    }

    fn send_point_attributes<'a>(&mut self, kind: i32, points: impl Iterator<Item = &'a [KeyValue]>) {
        let mut attributes = Attributes::default();
        points.enumerate().for_each(|(id, of_point)| attributes.add(id, of_point));
        self.send_attributes(kind, attributes, true);
    }

    fn send_exemplars<'a>(&mut self, kind: i32, attributes_kind: i32, points: impl Iterator<Item = &'a [Exemplar]>) {
        let mut exemplars: Vec<(u32, &Exemplar)> =
            points.zip(0u32..).flat_map(|(of_point, id)| of_point.iter().map(move |exemplar| (id, exemplar))).collect();
        exemplars.sort_by(|(a_point, a), (b_point, b)| by_exemplar(a, b).then(a_point.cmp(b_point)));
        let mut table = Table::default();
        let parents: Vec<u32> = exemplars.iter().map(|(point, _)| *point).collect();
        self.add_run_ids(&mut table, &parents, true, |a, b| {
            by_exemplar(exemplars[a].1, exemplars[b].1) == Ordering::Equal
        });
        self.add_delta_u32(&mut table, "id", &Self::row_ids(exemplars.len()));
        let all = || exemplars.iter().map(|(_, exemplar)| *exemplar);
        self.add(&mut table, "time_unix_nano", time(all().map(|exemplar| exemplar.time_unix_nano)), false);
        let doubles = all().map(|exemplar| match exemplar.value {
            Some(exemplar::Value::AsDouble(value)) => Some(value),
            _ => None,
        });
        self.add_doubles(&mut table, "double_value", doubles);
        let ints: Int64Array = all()
            .map(|exemplar| match exemplar.value {
                Some(exemplar::Value::AsInt(value)) => Some(value),
                _ => None,
            })
            .collect();
        self.add(&mut table, "int_value", Arc::new(ints), true);
        self.add(&mut table, "span_id", fixed(8, all().map(|exemplar| exemplar.span_id.as_slice()).collect()), true);
        self.add(&mut table, "trace_id", fixed(16, all().map(|exemplar| exemplar.trace_id.as_slice()).collect()), true);
        let mut attributes = Attributes::default();
        all().enumerate().for_each(|(id, exemplar)| attributes.add(id, &exemplar.filtered_attributes));
        self.send(kind, &table);
        self.send_attributes(attributes_kind, attributes, true);
    }
}

/// The points of all metrics that have points of one kind, with the ids of the metrics.
fn metrics_of<'a, P>(
    metrics: &[&'a opentelemetry_proto::tonic::metrics::v1::Metric],
    points: impl Fn(&'a Data) -> &'a [P],
) -> Vec<(u32, &'a P)> {
    let with_id = metrics.iter().zip(0u32..);
    with_id
        .filter_map(|(metric, id)| Some((metric.data.as_ref()?, id)))
        .flat_map(|(data, id)| points(data).iter().map(move |point| (id, point)))
        .collect()
}
