//! Rows of `logs` as log records.

use arrow::error::ArrowError;

use super::{Attributes, Columns, Ints, Ints32, Items, Texts, Times, Unfit, count32, id};
use crate::otlp::encode::wire::Writer;

/// The columns of `logs` that are the record's own.
pub(super) struct Logs {
    time: Times,
    observed_time: Times,
    severity_number: Ints32,
    severity_text: Texts,
    body: Texts,
    event_name: Texts,
    trace_id: Texts,
    span_id: Texts,
    flags: Ints,
    attributes: Attributes,
    dropped_attributes_count: Ints,
}

impl Logs {
    pub(super) fn new(columns: &Columns<'_>) -> Result<Self, ArrowError> {
        Ok(Self {
            time: columns.numbers("time"),
            observed_time: columns.numbers("observed_time"),
            severity_number: columns.numbers("severity_number"),
            severity_text: columns.text("severity_text"),
            body: columns.text("body"),
            event_name: columns.text("event_name"),
            trace_id: columns.text("trace_id"),
            span_id: columns.text("span_id"),
            flags: columns.numbers("flags"),
            attributes: columns.attributes("attributes"),
            dropped_attributes_count: columns.numbers("dropped_attributes_count"),
        })
    }
}

impl Items for Logs {
    fn check(&self, row: usize) -> Result<(), Unfit> {
        id(self.trace_id.get(row), 16).map_err(|reason| format!("trace_id: {reason}"))?;
        id(self.span_id.get(row), 8).map_err(|reason| format!("span_id: {reason}"))?;
        Ok(())
    }

    fn write(&self, rows: &[usize], columns: &Columns<'_>, out: &mut Writer) {
        for row in rows.iter().copied() {
            out.message(2, |out| {
                out.time(1, self.time.unix_nano(row));
                let severity = self.severity_number.get(row).unwrap_or(0);
                out.nonzero(2, i64::from(severity).cast_unsigned());
                out.text(3, self.severity_text.get(row));
                if let Some(body) = self.body.get(row) {
                    out.message(5, |out| out.bytes(1, body.as_bytes()));
                }
                columns.write_attributes(&self.attributes, row, 6, out);
                out.nonzero(7, count32(self.dropped_attributes_count.get(row)));
                out.fixed32(8, u32::try_from(self.flags.get(row).unwrap_or(0)).unwrap_or(0));
                out.some_bytes(9, &id(self.trace_id.get(row), 16).unwrap_or_default());
                out.some_bytes(10, &id(self.span_id.get(row), 8).unwrap_or_default());
                out.time(11, self.observed_time.unix_nano(row));
                out.text(12, self.event_name.get(row));
            });
        }
    }
}
