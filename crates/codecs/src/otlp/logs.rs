//! Log records to rows of `logs`.

use arrow::array::ArrayRef;

use super::columns::{Column, Ints, Ints32, Text, Times};
use super::origin::{Group, Origin};
use super::request::{Fault, Request, Under};
use super::rows::{RowTimes, Table, other_time, set_id, single};
use super::value::{Any, Numbered};
use super::wire::{Fields, Part};
use crate::DecodeError;

/// The columns of `logs` that are the record's own.
#[derive(Debug, Default)]
pub(super) struct Logs {
    times: RowTimes,
    observed_time: Times,
    severity_number: Ints32,
    severity_text: Text,
    body: Text,
    event_name: Text,
    trace_id: Text,
    span_id: Text,
    flags: Ints,
    scratch: String,
}

impl Logs {
    fn read(&mut self, message: &[u8], origin: &mut Origin, request: &mut Request<'_>) -> Result<(), Fault> {
        request.check_row(message)?;
        let row = request.rows;
        let (mut time, mut observed_time) = (0, 0);
        let (mut severity_number, mut dropped_attributes_count, mut flags) = (0, 0, 0);
        let (mut severity_text, mut event_name): (&[u8], &[u8]) = (b"", b"");
        let (mut trace_id, mut span_id): (&[u8], &[u8]) = (b"", b"");
        let mut body = Part::default();
        let mut attributes = Numbered::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => time = value.fixed64().under("time_unix_nano")?,
                2 => severity_number = value.int32().under("severity_number")?,
                3 => severity_text = value.len().under("severity_text")?,
                5 => {
                    let copied = body.merge(value.len().under("body")?);
                    if copied > 0 {
                        request.charge(copied)?;
                    }
                }
                6 => attributes.push(&mut origin.attributes, value, request)?,
                7 => dropped_attributes_count = value.uint32().under("dropped_attributes_count")?,
                8 => flags = value.fixed32().under("flags")?,
                9 => trace_id = value.len().under("trace_id")?,
                10 => span_id = value.len().under("span_id")?,
                11 => observed_time = value.fixed64().under("observed_time_unix_nano")?,
                12 => event_name = value.len().under("event_name")?,
                _ => {}
            }
        }
        request.charge(severity_text.len() + event_name.len() + 2 * (trace_id.len() + span_id.len()))?;
        set_id(&mut self.trace_id, row, trace_id, 16).under("trace_id")?;
        set_id(&mut self.span_id, row, span_id, 8).under("span_id")?;
        self.severity_text.set_some(row, severity_text).under("severity_text")?;
        self.event_name.set_some(row, event_name).under("event_name")?;
        if let Some(message) = body.bytes() {
            self.set_body(row, message, request).under("body")?;
        }
        if severity_number != 0 {
            self.severity_number.set(row, severity_number);
        }
        self.flags.set_nonzero(row, flags);
        origin.dropped_attributes_count.set_nonzero(row, dropped_attributes_count);
        self.observed_time.set_some(row, other_time(observed_time));
        let given = if time == 0 { observed_time } else { time };
        self.times.set(row, given, request.context.received_at);
        Ok(())
    }

    /// A text body as it is, any other as JSON.
    fn set_body(&mut self, row: usize, message: &[u8], request: &mut Request<'_>) -> Result<(), Fault> {
        match Any::read(message, request)? {
            Any::Empty => {}
            Any::Text(text) => {
                request.charge(text.len())?;
                self.body.set(row, text);
            }
            other => {
                self.scratch.clear();
                other.write(&mut self.scratch, 0, request)?;
                request.charge(self.scratch.len())?;
                self.body.set(row, &self.scratch);
            }
        }
        Ok(())
    }
}

impl Table for Logs {
    const STREAM: &'static str = "logs";
    const NOUN: &'static str = "log record";

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
        self.observed_time.truncate(rows);
        self.severity_number.truncate(rows);
        self.severity_text.truncate(rows);
        self.body.truncate(rows);
        self.event_name.truncate(rows);
        self.trace_id.truncate(rows);
        self.span_id.truncate(rows);
        self.flags.truncate(rows);
    }

    fn finish(mut self, origin: Vec<Option<ArrayRef>>, request: &Request<'_>) -> Vec<Option<ArrayRef>> {
        let rows = request.rows;
        let mut columns = self.times.finish(rows, request.context.received_at);
        columns.extend([
            self.observed_time.finish(rows),
            self.severity_number.finish(rows),
            self.severity_text.finish(rows),
            self.body.finish(rows),
            self.event_name.finish(rows),
            self.trace_id.finish(rows),
            self.span_id.finish(rows),
            self.flags.finish(rows),
        ]);
        columns.extend(origin);
        columns
    }
}
