//! Log records.

use super::ipc::{Budget, Columns};
use super::payload::PayloadType;
use super::protobuf::{Result, Writer};
use super::star::{Attributes, Cells, Origins, Values, Want, cells, ids, table};
use super::stream::Tables;

/// Writes an `ExportLogsServiceRequest`.
pub(super) fn write(tables: &Tables<'_>, budget: &mut Budget, out: &mut Writer) -> Result {
    let main = table(tables, PayloadType::Logs, budget)?;
    let Columns { rows, columns } = main;
    let get = |name, want| cells(columns, name, want);
    let logs = Logs {
        time: get("time_unix_nano", Want::Time)?,
        observed_time: get("observed_time_unix_nano", Want::Time)?,
        severity_number: get("severity_number", Want::Int)?,
        severity_text: get("severity_text", Want::Text)?,
        body: get("body", Want::Struct)?,
        dropped_attributes_count: get("dropped_attributes_count", Want::Int)?,
        event_name: get("event_name", Want::Text)?,
        flags: get("flags", Want::Int)?,
        trace_id: get("trace_id", Want::Bytes)?,
        span_id: get("span_id", Want::Bytes)?,
    };
    let ids = ids(get("id", Want::Int)?, *rows);
    let bodies = Values::new(logs.body.fields())?;
    let attributes = Attributes::new(tables, PayloadType::LogAttrs, budget)?;
    Origins::new(main, tables, budget)?.write(out, |row, out| {
        out.message(2, |out| {
            logs.write(row, &bodies, out)?;
            attributes.write(6, ids[row], out)
        })
    })
}

/// The columns of the table `LOGS`.
struct Logs<'t> {
    time: Cells<'t>,
    observed_time: Cells<'t>,
    severity_number: Cells<'t>,
    severity_text: Cells<'t>,
    body: Cells<'t>,
    dropped_attributes_count: Cells<'t>,
    event_name: Cells<'t>,
    flags: Cells<'t>,
    trace_id: Cells<'t>,
    span_id: Cells<'t>,
}

impl Logs<'_> {
    fn write(&self, row: usize, bodies: &Values<'_>, out: &mut Writer) -> Result {
        out.fixed64(1, self.time.int(row))?;
        out.varint(2, self.severity_number.int(row))?;
        out.bytes(3, self.severity_text.bytes(row))?;
        if self.body.is_some(row) {
            out.message(5, |out| bodies.write(row, out))?;
        }
        out.varint(7, self.dropped_attributes_count.int(row))?;
        out.fixed32(8, self.flags.int(row))?;
        out.bytes(9, self.trace_id.bytes(row))?;
        out.bytes(10, self.span_id.bytes(row))?;
        out.fixed64(11, self.observed_time.int(row))?;
        out.bytes(12, self.event_name.bytes(row))
    }
}
