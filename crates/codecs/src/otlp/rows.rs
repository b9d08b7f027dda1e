//! From the top of a request down to its rows: what the three signals have in common.
//!
//! All three number the fields of their upper messages alike: a request is a list of resources, a
//! resource a list of scopes, a scope a list of items. An item is a log record, a span, or a
//! metric with its points.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampNanosecondArray};
use weir_base::Timestamp;
use weir_data::{batch, streams};

use super::columns::{Column, Text, Times};
use super::json::Source;
use super::origin::{Group, Origin};
use super::request::{Fault, Request};
use super::wire::{Broken, Fields, Part};
use crate::{DecodeError, Decoded, DecodedBatch, IMPOSSIBLE, RowContext, time_flag};

/// The columns of one signal.
pub(super) trait Table: Default {
    const STREAM: &'static str;
    /// What an item is called, for people.
    const NOUN: &'static str;

    /// Decodes one item; rows that are bad are refused, not an error.
    fn item(
        &mut self,
        message: &[u8],
        origin: &mut Origin,
        groups: [&Group; 2],
        request: &mut Request<'_>,
    ) -> Result<(), DecodeError>;

    /// Forgets the rows from `rows` on.
    fn truncate(&mut self, rows: usize);

    /// All columns in the order of the schema; `origin` are those of [`Origin::finish`].
    fn finish(self, origin: Vec<Option<ArrayRef>>, request: &Request<'_>) -> Vec<Option<ArrayRef>>;
}

/// Decodes a whole request.
pub(super) fn decode<T: Table>(
    body: &[u8],
    source: Option<&Source<'_>>,
    context: &RowContext<'_>,
) -> Result<Decoded, DecodeError> {
    let mut request = Request::new(context, body, source, T::NOUN);
    let mut table = T::default();
    let mut origin = Origin::new(body.len());
    let mut fields = Fields::new(body);
    while let Some((number, value)) = fields.next().map_err(|broken| request.malformed(body, broken))? {
        if number == 1 {
            let message = value.len().map_err(|what| request.malformed(body, Broken { at: fields.at(), what }))?;
            resource(message, &mut table, &mut origin, &mut request)?;
        }
    }
    let mut decoded = Decoded { received: request.received, ..Decoded::default() };
    if request.rows > 0 {
        let (columns, observed) = origin.finish(request.rows);
        let columns = table.finish(columns, &request);
        let stream = streams::stream(T::STREAM).ok_or_else(|| unexpected(&"the stream is not known"))?;
        let batch = batch::sparse(&stream.schema, columns, request.rows).map_err(|error| unexpected(&error))?;
        decoded.batches.push(DecodedBatch { stream: T::STREAM, batch, observed });
    }
    decoded.rejects = request.rejects;
    Ok(decoded)
}

/// Columns that do not fit their schema: a bug, answered as a refusal of the request.
#[cold]
fn unexpected(what: &dyn std::fmt::Display) -> DecodeError {
    DecodeError::Malformed { message: format!("the rows do not make a batch: {what}"), place: String::new() }
}

/// The fields that the messages `ResourceX` and `ScopeX` have in common.
struct Head<'a> {
    part: Part<'a>,
    schema_url: &'a [u8],
    source_fault: Result<(), Fault>,
}

/// Reads everything of a `ResourceX` or `ScopeX` but the list in it, which may come first.
fn head<'a>(message: &'a [u8], request: &mut Request<'_>) -> Result<Head<'a>, DecodeError> {
    let mut head = Head { part: Part::default(), schema_url: b"", source_fault: Ok(()) };
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next().map_err(|broken| request.malformed(message, broken))? {
        if matches!(number, 1..=3) {
            let slice = value.len().map_err(|what| request.malformed(message, Broken { at: fields.at(), what }))?;
            if number == 1 {
                let copied = head.part.merge(slice);
                request.charge(copied)?;
                head.source_fault = head.source_fault.and_then(|()| request.check_source(slice));
            } else if number == 3 {
                head.schema_url = slice;
            }
        }
    }
    Ok(head)
}

/// Calls `each` with every element of the list of a message that [`head`] found well framed.
fn each_element<'a>(
    message: &'a [u8],
    mut each: impl FnMut(&'a [u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut fields = Fields::new(message);
    while let Ok(Some((number, value))) = fields.next() {
        if let (2, Ok(slice)) = (number, value.len()) {
            each(slice)?;
        }
    }
    Ok(())
}

fn resource<T: Table>(
    message: &[u8],
    table: &mut T,
    origin: &mut Origin,
    request: &mut Request<'_>,
) -> Result<(), DecodeError> {
    let Head { part, schema_url, source_fault } = head(message, request)?;
    let group = origin.begin_resource(&part, schema_url, source_fault, request)?;
    each_element(message, |slice| scope(slice, table, origin, &group, request))?;
    origin.end_resource(&group, request.rows);
    Ok(())
}

fn scope<T: Table>(
    message: &[u8],
    table: &mut T,
    origin: &mut Origin,
    resource: &Group,
    request: &mut Request<'_>,
) -> Result<(), DecodeError> {
    let Head { part, schema_url, source_fault } = head(message, request)?;
    let group = origin.begin_scope(&part, schema_url, source_fault, request)?;
    each_element(message, |slice| table.item(slice, origin, [resource, &group], request))?;
    origin.end_scope(&group, request.rows);
    Ok(())
}

/// Decodes an item that is one row.
pub(super) fn single<T: Table>(
    table: &mut T,
    message: &[u8],
    origin: &mut Origin,
    groups: [&Group; 2],
    request: &mut Request<'_>,
    read: fn(&mut T, &[u8], &mut Origin, &mut Request<'_>) -> Result<(), Fault>,
) -> Result<(), DecodeError> {
    request.receive()?;
    let [resource, scope] = groups;
    if let Some(fault) = resource.fault.as_ref().or(scope.fault.as_ref()) {
        return request.refuse(message, fault);
    }
    request.charge(resource.row_bytes + scope.row_bytes)?;
    match read(table, message, origin, request) {
        Ok(()) => {
            origin.attributes.end_row();
            request.rows += 1;
            Ok(())
        }
        Err(Fault::Stop(error)) => Err(*error),
        Err(Fault::Row(fault)) => {
            origin.truncate(request.rows);
            table.truncate(request.rows);
            request.refuse(message, &fault)
        }
    }
}

/// The columns `time`, `received_at` and `time_flag`.
#[derive(Debug, Default)]
pub(super) struct RowTimes {
    time: Times,
    flag: Text,
}

impl RowTimes {
    /// Sets the time of `row`; 0 means that the sender gave none.
    pub(super) fn set(&mut self, row: usize, given: u64, received_at: Timestamp) {
        let (time, flag) = match i64::try_from(given) {
            Ok(0) => (received_at, None),
            Ok(time) => (Timestamp(time), time_flag(Timestamp(time), received_at)),
            Err(_) => (received_at, Some(IMPOSSIBLE)),
        };
        self.time.set(row, time.0);
        if let Some(flag) = flag {
            self.flag.set(row, flag);
        }
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        self.time.truncate(rows);
        self.flag.truncate(rows);
    }

    pub(super) fn finish(&mut self, rows: usize, received_at: Timestamp) -> Vec<Option<ArrayRef>> {
        let received = TimestampNanosecondArray::from_value(received_at.0, rows).with_timezone("UTC");
        vec![self.time.finish(rows), Some(Arc::new(received)), self.flag.finish(rows)]
    }
}

/// A time that is not the row's own: null if it was not given or cannot be a time.
pub(super) fn other_time(given: u64) -> Option<i64> {
    i64::try_from(given).ok().filter(|time| *time != 0)
}

/// Sets `row` to the name of an enum's number: decimal text if the specification knows none.
pub(super) fn set_named(column: &mut Text, row: usize, names: &[&str], number: i32) {
    match usize::try_from(number).ok().and_then(|number| names.get(number)) {
        Some(&"") => {}
        Some(name) => column.set(row, name),
        None => column.set(row, &number.to_string()),
    }
}

/// Sets a trace or span id. None at all and one of zeros, which the specification calls invalid,
/// are null; another length is an error.
pub(super) fn set_id(column: &mut Text, row: usize, id: &[u8], length: usize) -> Result<(), Fault> {
    if id.len() != length {
        return if id.is_empty() { Ok(()) } else { Err(wrong_length(id.len(), length)) };
    }
    if id.iter().any(|byte| *byte != 0) {
        column.set_hex(row, id);
    }
    Ok(())
}

#[cold]
fn wrong_length(actual: usize, length: usize) -> Fault {
    Fault::row(weir_data::RejectCode::Malformed, format!("the id has {actual} bytes, not {length}"))
}
