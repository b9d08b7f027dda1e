//! Spans to rows of `spans`.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use weir_data::streams::{span_event_fields, span_link_fields};

use super::columns::{Column, Ints, Lists, Text, Times, structs};
use super::origin::{Group, Origin};
use super::request::{Fault, Request, Under};
use super::rows::{RowTimes, Table, other_time, set_id, set_named, single};
use super::value::{Numbered, write_attributes};
use super::wire::{Fields, Part, Value};
use crate::DecodeError;

/// What one event or link is counted as beside its texts.
const ELEMENT_BYTES: usize = 48;

/// `SpanKind`, by number; unspecified is null.
pub(super) const KINDS: [&str; 6] = ["", "internal", "server", "client", "producer", "consumer"];

/// `StatusCode`, by number.
pub(super) const STATUS_CODES: [&str; 3] = ["unset", "ok", "error"];

/// The columns of `spans` that are the span's own.
#[derive(Debug, Default)]
pub(super) struct Spans {
    times: RowTimes,
    end_time: Times,
    duration_ns: Ints,
    trace_id: Text,
    span_id: Text,
    parent_span_id: Text,
    trace_state: Text,
    name: Text,
    kind: Text,
    status_code: Text,
    status_message: Text,
    span_events: Lists<Events>,
    links: Lists<Links>,
    dropped_events_count: Ints,
    dropped_links_count: Ints,
    flags: Ints,
    scratch: String,
}

impl Spans {
    fn read(&mut self, message: &[u8], origin: &mut Origin, request: &mut Request<'_>) -> Result<(), Fault> {
        request.check_row(message)?;
        let row = request.rows;
        let (mut start, mut end, mut kind, mut flags) = (0, 0, 0, 0);
        let (mut dropped_attributes, mut dropped_events, mut dropped_links) = (0, 0, 0);
        let (mut trace_id, mut span_id, mut parent_span_id): (&[u8], &[u8], &[u8]) = (b"", b"", b"");
        let (mut name, mut trace_state): (&[u8], &[u8]) = (b"", b"");
        let mut status = Part::default();
        let mut attributes = Numbered::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => trace_id = value.len().under("trace_id")?,
                2 => span_id = value.len().under("span_id")?,
                3 => trace_state = value.len().under("trace_state")?,
                4 => parent_span_id = value.len().under("parent_span_id")?,
                5 => name = value.len().under("name")?,
                6 => kind = value.int32().under("kind")?,
                7 => start = value.fixed64().under("start_time_unix_nano")?,
                8 => end = value.fixed64().under("end_time_unix_nano")?,
                9 => attributes.push(&mut origin.attributes, value, request)?,
                10 => dropped_attributes = value.uint32().under("dropped_attributes_count")?,
                11 => {
                    let n = self.span_events.open_len();
                    self.push_event(value, request).map_err(|fault| fault.under(n).under("events"))?;
                }
                12 => dropped_events = value.uint32().under("dropped_events_count")?,
                13 => {
                    let n = self.links.open_len();
                    self.push_link(value, request).map_err(|fault| fault.under(n).under("links"))?;
                }
                14 => dropped_links = value.uint32().under("dropped_links_count")?,
                15 => {
                    let copied = status.merge(value.len().under("status")?);
                    request.charge(copied)?;
                }
                16 => flags = value.fixed32().under("flags")?,
                _ => {}
            }
        }
        request.charge(
            2 * (trace_id.len() + span_id.len() + parent_span_id.len())
                + name.len()
                + trace_state.len()
                + status.bytes().map_or(0, <[u8]>::len),
        )?;
        set_id(&mut self.trace_id, row, trace_id, 16).under("trace_id")?;
        set_id(&mut self.span_id, row, span_id, 8).under("span_id")?;
        set_id(&mut self.parent_span_id, row, parent_span_id, 8).under("parent_span_id")?;
        self.trace_state.set_some(row, trace_state).under("trace_state")?;
        self.name.set_some(row, name).under("name")?;
        set_named(&mut self.kind, row, &KINDS, kind);
        self.set_status(row, &status).under("status")?;
        self.set_times(row, start, end, request);
        self.flags.set_nonzero(row, flags);
        origin.dropped_attributes_count.set_nonzero(row, dropped_attributes);
        self.dropped_events_count.set_nonzero(row, dropped_events);
        self.dropped_links_count.set_nonzero(row, dropped_links);
        self.span_events.end_row(row);
        self.links.end_row(row);
        Ok(())
    }

    /// The duration is null unless both ends are known; it is negative if the clocks were wrong.
    fn set_times(&mut self, row: usize, start: u64, end: u64, request: &Request<'_>) {
        self.times.set(row, start, request.context.received_at);
        let end = other_time(end);
        self.end_time.set_some(row, end);
        if let (Some(start), Some(end)) = (other_time(start), end) {
            // Both are positive, so the difference cannot overflow.
            self.duration_ns.set(row, end - start);
        }
    }

    fn set_status(&mut self, row: usize, status: &Part<'_>) -> Result<(), Fault> {
        let (mut code, mut message): (i32, &[u8]) = (0, b"");
        let mut fields = Fields::new(status.bytes().unwrap_or_default());
        while let Some((number, value)) = fields.next()? {
            match number {
                2 => message = value.len().under("message")?,
                3 => code = value.int32().under("code")?,
                _ => {}
            }
        }
        self.status_message.set_some(row, message).under("message")?;
        set_named(&mut self.status_code, row, &STATUS_CODES, code);
        Ok(())
    }

    fn push_event(&mut self, value: Value<'_>, request: &mut Request<'_>) -> Result<(), Fault> {
        let message = value.len()?;
        request.charge(ELEMENT_BYTES)?;
        let (element, events) = (self.span_events.elements(), &mut self.span_events.items);
        let (mut time, mut dropped, mut name): (u64, u32, &[u8]) = (0, 0, b"");
        let mut has_attributes = false;
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => time = value.fixed64().under("time_unix_nano")?,
                2 => name = value.len().under("name")?,
                3 => has_attributes = true,
                4 => dropped = value.uint32().under("dropped_attributes_count")?,
                _ => {}
            }
        }
        request.charge(name.len())?;
        events.time.set_some(element, other_time(time));
        events.name.set_some(element, name).under("name")?;
        events.dropped_attributes_count.set_nonzero(element, dropped);
        if has_attributes {
            self.scratch.clear();
            write_attributes(message, 3, "attributes", &mut self.scratch, request)?;
            events.attributes.set(element, &self.scratch);
        }
        self.span_events.end_element();
        Ok(())
    }

    fn push_link(&mut self, value: Value<'_>, request: &mut Request<'_>) -> Result<(), Fault> {
        let message = value.len()?;
        request.charge(ELEMENT_BYTES)?;
        let (element, links) = (self.links.elements(), &mut self.links.items);
        let (mut dropped, mut flags) = (0, 0);
        let (mut trace_id, mut span_id, mut trace_state): (&[u8], &[u8], &[u8]) = (b"", b"", b"");
        let mut has_attributes = false;
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => trace_id = value.len().under("trace_id")?,
                2 => span_id = value.len().under("span_id")?,
                3 => trace_state = value.len().under("trace_state")?,
                4 => has_attributes = true,
                5 => dropped = value.uint32().under("dropped_attributes_count")?,
                6 => flags = value.fixed32().under("flags")?,
                _ => {}
            }
        }
        request.charge(2 * (trace_id.len() + span_id.len()) + trace_state.len())?;
        set_id(&mut links.trace_id, element, trace_id, 16).under("trace_id")?;
        set_id(&mut links.span_id, element, span_id, 8).under("span_id")?;
        links.trace_state.set_some(element, trace_state).under("trace_state")?;
        links.dropped_attributes_count.set_nonzero(element, dropped);
        links.flags.set_nonzero(element, flags);
        if has_attributes {
            self.scratch.clear();
            write_attributes(message, 4, "attributes", &mut self.scratch, request)?;
            links.attributes.set(element, &self.scratch);
        }
        self.links.end_element();
        Ok(())
    }
}

impl Table for Spans {
    const STREAM: &'static str = "spans";
    const NOUN: &'static str = "span";

    fn item(
        &mut self,
        message: &[u8],
        origin: &mut Origin,
        groups: [&Group; 2],
        request: &mut Request<'_>,
    ) -> Result<(), DecodeError> {
        single(self, message, origin, groups, request, Self::read)
    }

    fn truncate(&mut self, rows: usize) {
        self.times.truncate(rows);
        self.end_time.truncate(rows);
        self.duration_ns.truncate(rows);
        self.trace_id.truncate(rows);
        self.span_id.truncate(rows);
        self.parent_span_id.truncate(rows);
        self.trace_state.truncate(rows);
        self.name.truncate(rows);
        self.kind.truncate(rows);
        self.status_code.truncate(rows);
        self.status_message.truncate(rows);
        self.span_events.truncate(rows);
        self.links.truncate(rows);
        self.dropped_events_count.truncate(rows);
        self.dropped_links_count.truncate(rows);
        self.flags.truncate(rows);
    }

    fn finish(mut self, origin: Vec<Option<ArrayRef>>, request: &Request<'_>) -> Vec<Option<ArrayRef>> {
        let rows = request.rows;
        let mut columns = self.times.finish(rows, request.context.received_at);
        columns.extend([
            self.end_time.finish(rows),
            self.duration_ns.finish(rows),
            self.trace_id.finish(rows),
            self.span_id.finish(rows),
            self.parent_span_id.finish(rows),
            self.trace_state.finish(rows),
            self.name.finish(rows),
            self.kind.finish(rows),
            self.status_code.finish(rows),
            self.status_message.finish(rows),
            self.span_events.finish(rows, DataType::Struct(span_event_fields())),
            self.links.finish(rows, DataType::Struct(span_link_fields())),
        ]);
        columns.extend(origin);
        columns.extend([
            self.dropped_events_count.finish(rows),
            self.dropped_links_count.finish(rows),
            self.flags.finish(rows),
        ]);
        columns
    }
}

/// Elements of `span_events`.
#[derive(Debug, Default)]
struct Events {
    time: Times,
    name: Text,
    attributes: Text,
    dropped_attributes_count: Ints,
}

impl Column for Events {
    fn truncate(&mut self, rows: usize) {
        self.time.truncate(rows);
        self.name.truncate(rows);
        self.attributes.truncate(rows);
        self.dropped_attributes_count.truncate(rows);
    }

    fn finish(&mut self, rows: usize) -> Option<ArrayRef> {
        let columns = vec![
            self.time.finish(rows),
            self.name.finish(rows),
            self.attributes.finish(rows),
            self.dropped_attributes_count.finish(rows),
        ];
        Some(structs(span_event_fields(), columns, rows))
    }
}

/// Elements of `links`.
#[derive(Debug, Default)]
struct Links {
    trace_id: Text,
    span_id: Text,
    trace_state: Text,
    attributes: Text,
    dropped_attributes_count: Ints,
    flags: Ints,
}

impl Column for Links {
    fn truncate(&mut self, rows: usize) {
        self.trace_id.truncate(rows);
        self.span_id.truncate(rows);
        self.trace_state.truncate(rows);
        self.attributes.truncate(rows);
        self.dropped_attributes_count.truncate(rows);
        self.flags.truncate(rows);
    }

    fn finish(&mut self, rows: usize) -> Option<ArrayRef> {
        let columns = vec![
            self.trace_id.finish(rows),
            self.span_id.finish(rows),
            self.trace_state.finish(rows),
            self.attributes.finish(rows),
            self.dropped_attributes_count.finish(rows),
            self.flags.finish(rows),
        ];
        Some(structs(span_link_fields(), columns, rows))
    }
}
