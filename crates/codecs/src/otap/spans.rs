//! Spans with their events and links.

use super::ipc::{Budget, Columns};
use super::payload::PayloadType;
use super::protobuf::{Result, Writer};
use super::star::{Attributes, Cells, Ids, Index, Origins, Want, cells, ids, run_ids_by, table};
use super::stream::Tables;

/// Writes an `ExportTraceServiceRequest`.
pub(super) fn write(tables: &Tables<'_>, budget: &mut Budget, out: &mut Writer) -> Result {
    let main = table(tables, PayloadType::Spans, budget)?;
    let Columns { rows, columns } = main;
    let get = |name, want| cells(columns, name, want);
    let status = get("status", Want::Struct)?;
    let spans = Spans {
        trace_id: get("trace_id", Want::Bytes)?,
        span_id: get("span_id", Want::Bytes)?,
        trace_state: get("trace_state", Want::Text)?,
        parent_span_id: get("parent_span_id", Want::Bytes)?,
        name: get("name", Want::Text)?,
        kind: get("kind", Want::Int)?,
        start_time: get("start_time_unix_nano", Want::Time)?,
        duration: get("duration_time_unix_nano", Want::Duration)?,
        dropped_attributes_count: get("dropped_attributes_count", Want::Int)?,
        dropped_events_count: get("dropped_events_count", Want::Int)?,
        dropped_links_count: get("dropped_links_count", Want::Int)?,
        flags: get("flags", Want::Int)?,
        status,
        status_code: cells(status.fields(), "code", Want::Int)?,
        status_message: cells(status.fields(), "status_message", Want::Text)?,
    };
    let ids = ids(get("id", Want::Int)?, *rows);
    let attributes = Attributes::new(tables, PayloadType::SpanAttrs, budget)?;
    let events = Events::new(tables, budget)?;
    let links = Links::new(tables, budget)?;
    Origins::new(main, tables, budget)?.write(out, |row, out| {
        out.message(2, |out| {
            spans.write(row, out)?;
            attributes.write(9, ids[row], out)?;
            events.write(ids[row], out)?;
            links.write(ids[row], out)
        })
    })
}

/// The columns of the table `SPANS`.
struct Spans<'t> {
    trace_id: Cells<'t>,
    span_id: Cells<'t>,
    trace_state: Cells<'t>,
    parent_span_id: Cells<'t>,
    name: Cells<'t>,
    kind: Cells<'t>,
    start_time: Cells<'t>,
    duration: Cells<'t>,
    dropped_attributes_count: Cells<'t>,
    dropped_events_count: Cells<'t>,
    dropped_links_count: Cells<'t>,
    flags: Cells<'t>,
    status: Cells<'t>,
    status_code: Cells<'t>,
    status_message: Cells<'t>,
}

impl Spans<'_> {
    fn write(&self, row: usize, out: &mut Writer) -> Result {
        let start = self.start_time.int(row);
        // The end is sent as its distance from the start; both wrap as the sender's did.
        let end = self.duration.int(row).map(|duration| start.unwrap_or_default().wrapping_add(duration));
        out.bytes(1, self.trace_id.bytes(row))?;
        out.bytes(2, self.span_id.bytes(row))?;
        out.bytes(3, self.trace_state.bytes(row))?;
        out.bytes(4, self.parent_span_id.bytes(row))?;
        out.bytes(5, self.name.bytes(row))?;
        out.varint(6, self.kind.int(row))?;
        out.fixed64(7, start)?;
        out.fixed64(8, end)?;
        out.varint(10, self.dropped_attributes_count.int(row))?;
        out.varint(12, self.dropped_events_count.int(row))?;
        out.varint(14, self.dropped_links_count.int(row))?;
        if self.status.is_some(row) {
            out.message(15, |out| {
                out.bytes(2, self.status_message.bytes(row))?;
                out.varint(3, self.status_code.int(row))
            })?;
        }
        out.fixed32(16, self.flags.int(row))
    }
}

/// The table `SPAN_EVENTS`.
struct Events<'t> {
    ids: Ids,
    index: Index,
    time: Cells<'t>,
    name: Cells<'t>,
    dropped_attributes_count: Cells<'t>,
    attributes: Attributes<'t>,
}

impl<'t> Events<'t> {
    fn new(tables: &'t Tables<'t>, budget: &mut Budget) -> Result<Self> {
        let Columns { rows, columns } = table(tables, PayloadType::SpanEvents, budget)?;
        let name = cells(columns, "name", Want::Text)?;
        let parents = run_ids_by(cells(columns, "parent_id", Want::Int)?, *rows, &[name]);
        Ok(Self {
            ids: ids(cells(columns, "id", Want::Int)?, *rows),
            index: Index::new(&parents),
            time: cells(columns, "time_unix_nano", Want::Time)?,
            name,
            dropped_attributes_count: cells(columns, "dropped_attributes_count", Want::Int)?,
            attributes: Attributes::new(tables, PayloadType::SpanEventAttrs, budget)?,
        })
    }

    fn write(&self, span: Option<u32>, out: &mut Writer) -> Result {
        for row in self.index.of(span) {
            out.message(11, |out| {
                out.fixed64(1, self.time.int(row))?;
                out.bytes(2, self.name.bytes(row))?;
                self.attributes.write(3, self.ids[row], out)?;
                out.varint(4, self.dropped_attributes_count.int(row))
            })?;
        }
        Ok(())
    }
}

/// The table `SPAN_LINKS`.
struct Links<'t> {
    ids: Ids,
    index: Index,
    trace_id: Cells<'t>,
    span_id: Cells<'t>,
    trace_state: Cells<'t>,
    dropped_attributes_count: Cells<'t>,
    flags: Cells<'t>,
    attributes: Attributes<'t>,
}

impl<'t> Links<'t> {
    fn new(tables: &'t Tables<'t>, budget: &mut Budget) -> Result<Self> {
        let Columns { rows, columns } = table(tables, PayloadType::SpanLinks, budget)?;
        let trace_id = cells(columns, "trace_id", Want::Bytes)?;
        let parents = run_ids_by(cells(columns, "parent_id", Want::Int)?, *rows, &[trace_id]);
        Ok(Self {
            ids: ids(cells(columns, "id", Want::Int)?, *rows),
            index: Index::new(&parents),
            trace_id,
            span_id: cells(columns, "span_id", Want::Bytes)?,
            trace_state: cells(columns, "trace_state", Want::Text)?,
            dropped_attributes_count: cells(columns, "dropped_attributes_count", Want::Int)?,
            flags: cells(columns, "flags", Want::Int)?,
            attributes: Attributes::new(tables, PayloadType::SpanLinkAttrs, budget)?,
        })
    }

    fn write(&self, span: Option<u32>, out: &mut Writer) -> Result {
        for row in self.index.of(span) {
            out.message(13, |out| {
                out.bytes(1, self.trace_id.bytes(row))?;
                out.bytes(2, self.span_id.bytes(row))?;
                out.bytes(3, self.trace_state.bytes(row))?;
                self.attributes.write(4, self.ids[row], out)?;
                out.varint(5, self.dropped_attributes_count.int(row))?;
                out.fixed32(6, self.flags.int(row))
            })?;
        }
        Ok(())
    }
}
