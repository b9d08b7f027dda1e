//! Rows of `spans` as spans.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimestampNanosecondType};
use arrow::error::ArrowError;
use weir_data::streams::timestamp_type;

use super::value::write_object;
use super::wire::Writer;
use super::{
    Attributes, Columns, Ints, Items, Texts, Times, Unfit, count32, elements, enum_number, id, member, unix_nano,
};
use crate::otlp::spans::{KINDS, STATUS_CODES};

/// The columns of `spans` that are the span's own.
pub(super) struct Spans {
    time: Times,
    end_time: Times,
    duration_ns: Ints,
    trace_id: Texts,
    span_id: Texts,
    parent_span_id: Texts,
    trace_state: Texts,
    name: Texts,
    kind: Texts,
    status_code: Texts,
    status_message: Texts,
    span_events: Option<ArrayRef>,
    links: Option<ArrayRef>,
    attributes: Attributes,
    dropped_attributes_count: Ints,
    dropped_events_count: Ints,
    dropped_links_count: Ints,
    flags: Ints,
}

/// What of a span may be wrong, read.
struct Checked {
    trace_id: Vec<u8>,
    span_id: Vec<u8>,
    parent_span_id: Vec<u8>,
    kind: u64,
    status_code: u64,
}

impl Spans {
    pub(super) fn new(columns: &Columns<'_>) -> Result<Self, ArrowError> {
        Ok(Self {
            time: columns.numbers("time"),
            end_time: columns.numbers("end_time"),
            duration_ns: columns.numbers("duration_ns"),
            trace_id: columns.text("trace_id"),
            span_id: columns.text("span_id"),
            parent_span_id: columns.text("parent_span_id"),
            trace_state: columns.text("trace_state"),
            name: columns.text("name"),
            kind: columns.text("kind"),
            status_code: columns.text("status_code"),
            status_message: columns.text("status_message"),
            span_events: columns.array("span_events").cloned(),
            links: columns.array("links").cloned(),
            attributes: columns.attributes("attributes"),
            dropped_attributes_count: columns.numbers("dropped_attributes_count"),
            dropped_events_count: columns.numbers("dropped_events_count"),
            dropped_links_count: columns.numbers("dropped_links_count"),
            flags: columns.numbers("flags"),
        })
    }

    fn checked(&self, row: usize) -> Result<Checked, Unfit> {
        let named = |name: &'static str| move |reason: Unfit| format!("{name}: {reason}");
        Ok(Checked {
            trace_id: id(self.trace_id.get(row), 16).map_err(named("trace_id"))?,
            span_id: id(self.span_id.get(row), 8).map_err(named("span_id"))?,
            parent_span_id: id(self.parent_span_id.get(row), 8).map_err(named("parent_span_id"))?,
            kind: enum_number(self.kind.get(row), &KINDS, "kind")?,
            status_code: enum_number(self.status_code.get(row), &STATUS_CODES, "status_code")?,
        })
    }

    fn end(&self, row: usize) -> u64 {
        let from_duration = || Some(self.time.get(row)?.saturating_add(self.duration_ns.get(row)?));
        self.end_time.get(row).or_else(from_duration).map_or(0, unix_nano)
    }
}

impl Items for Spans {
    fn check(&self, row: usize) -> Result<(), Unfit> {
        self.checked(row)?;
        for link in (0..).zip(elements(self.links.as_ref(), row).iter().flat_map(|links| link_ids(links.as_ref()))) {
            link.1.map_err(|reason| format!("links/{}: {reason}", link.0))?;
        }
        Ok(())
    }

    fn write(&self, rows: &[usize], columns: &Columns<'_>, out: &mut Writer) {
        for row in rows.iter().copied() {
            let Ok(checked) = self.checked(row) else { continue };
            out.message(2, |out| {
                out.some_bytes(1, &checked.trace_id);
                out.some_bytes(2, &checked.span_id);
                out.text(3, self.trace_state.get(row));
                out.some_bytes(4, &checked.parent_span_id);
                out.text(5, self.name.get(row));
                out.nonzero(6, checked.kind);
                out.time(7, self.time.unix_nano(row));
                out.time(8, self.end(row));
                columns.write_attributes(&self.attributes, row, 9, out);
                out.nonzero(10, count32(self.dropped_attributes_count.get(row)));
                if let Some(events) = elements(self.span_events.as_ref(), row) {
                    write_events(events.as_ref(), out);
                }
                out.nonzero(12, count32(self.dropped_events_count.get(row)));
                if let Some(links) = elements(self.links.as_ref(), row) {
                    write_links(links.as_ref(), out);
                }
                out.nonzero(14, count32(self.dropped_links_count.get(row)));
                let message = self.status_message.get(row).filter(|message| !message.is_empty());
                if message.is_some() || checked.status_code != 0 {
                    out.message(15, |out| {
                        out.text(2, message);
                        out.nonzero(3, checked.status_code);
                    });
                }
                out.fixed32(16, u32::try_from(self.flags.get(row).unwrap_or(0)).unwrap_or(0));
            });
        }
    }
}

pub(super) fn text_of<'a>(structs: &'a dyn Array, name: &str, at: usize) -> Option<&'a str> {
    let texts = member(structs, name, &DataType::Utf8)?.as_string_opt::<i32>()?;
    texts.is_valid(at).then(|| texts.value(at))
}

pub(super) fn int_of(structs: &dyn Array, name: &str, at: usize) -> Option<i64> {
    let numbers = member(structs, name, &DataType::Int64)?.as_primitive_opt::<Int64Type>()?;
    numbers.is_valid(at).then(|| numbers.value(at))
}

pub(super) fn time_of(structs: &dyn Array, name: &str, at: usize) -> u64 {
    let times = member(structs, name, &timestamp_type());
    let times = times.and_then(|times| times.as_primitive_opt::<TimestampNanosecondType>());
    times.filter(|times| times.is_valid(at)).map_or(0, |times| unix_nano(times.value(at)))
}

fn write_events(events: &dyn Array, out: &mut Writer) {
    for at in 0..events.len() {
        out.message(11, |out| {
            out.time(1, time_of(events, "time", at));
            out.text(2, text_of(events, "name", at));
            if let Some(attributes) = text_of(events, "attributes", at) {
                write_object(3, attributes, out);
            }
            out.nonzero(4, count32(int_of(events, "dropped_attributes_count", at)));
        });
    }
}

fn link_ids(links: &dyn Array) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), Unfit>> {
    (0..links.len()).map(|at| Ok((id(text_of(links, "trace_id", at), 16)?, id(text_of(links, "span_id", at), 8)?)))
}

fn write_links(links: &dyn Array, out: &mut Writer) {
    for (at, ids) in link_ids(links).enumerate() {
        let (trace_id, span_id) = ids.unwrap_or_default();
        out.message(13, |out| {
            out.some_bytes(1, &trace_id);
            out.some_bytes(2, &span_id);
            out.text(3, text_of(links, "trace_state", at));
            if let Some(attributes) = text_of(links, "attributes", at) {
                write_object(4, attributes, out);
            }
            out.nonzero(5, count32(int_of(links, "dropped_attributes_count", at)));
            out.fixed32(6, u32::try_from(int_of(links, "flags", at).unwrap_or(0)).unwrap_or(0));
        });
    }
}
