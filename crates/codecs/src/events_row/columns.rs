//! The columns of events, one row after the other: of one request, or of many small ones.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampNanosecondArray};
use arrow::datatypes::{Float64Type, TimestampNanosecondType};
use uuid::Uuid;
use weir_base::Timestamp;
use weir_data::attributes::AttributesBuilder;

use super::lazy::{Lazy, LazyText};
use super::{ENRICHED_COLUMNS, EventRow, FLOAT_COLUMNS, TEXT_COLUMNS, TextColumn, keep_last};
use crate::DecodedBatch;

/// Makes UUIDs of version 7 that share their random bits within a batch and count up: one draw of
/// randomness a batch instead of one a row, unique and in the order of the rows.
#[derive(Debug, Default)]
pub(super) struct IdMaker {
    pub(super) next: Option<u128>,
}

impl IdMaker {
    pub(super) fn make(&mut self, at: Timestamp) -> Uuid {
        let bits = self.next.unwrap_or_else(|| u128::from_le_bytes(weir_base::random::bytes()));
        self.next = Some(bits.wrapping_add(1));
        let mut random = [0; 10];
        random.copy_from_slice(&bits.to_be_bytes()[6..]);
        let millis = u64::try_from(at.as_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

/// Rows gathered column by column.
#[derive(Debug)]
pub(crate) struct EventColumns {
    rows: usize,
    rows_hint: usize,
    bytes: usize,
    ids: IdMaker,
    time: Vec<i64>,
    received_at: Vec<i64>,
    flag: LazyText,
    texts: [LazyText; TEXT_COLUMNS],
    floats: [Lazy<Float64Type>; FLOAT_COLUMNS],
    sent_at: Lazy<TimestampNanosecondType>,
    properties: AttributesBuilder,
    row_context: AttributesBuilder,
    scratch: String,
}

impl EventColumns {
    /// Room for about so many rows.
    pub(crate) fn new(rows_hint: usize) -> Self {
        Self {
            rows: 0,
            rows_hint,
            bytes: 0,
            ids: IdMaker::default(),
            time: Vec::with_capacity(rows_hint),
            received_at: Vec::with_capacity(rows_hint),
            flag: LazyText::default(),
            texts: Default::default(),
            floats: Default::default(),
            sent_at: Lazy::default(),
            properties: AttributesBuilder::with_capacity(rows_hint),
            row_context: AttributesBuilder::with_capacity(0),
            scratch: String::new(),
        }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// About what they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a row without problems, of a request that arrived then.
    pub(crate) fn append(&mut self, row: &mut EventRow<'_>, received_at: Timestamp) {
        let (at, hint) = (self.rows, self.rows_hint);
        let mut buffer = Uuid::encode_buffer();
        if row.text(TextColumn::EventId).is_none() {
            let made = &*self.ids.make(received_at).hyphenated().encode_lower(&mut buffer);
            self.texts[TextColumn::EventId as usize].append(at, hint, made);
            self.bytes += made.len();
        }
        for (column, text) in self.texts.iter_mut().zip(&row.texts) {
            if let Some(text) = text {
                column.append(at, hint, text);
                self.bytes += text.len() + 4;
            }
        }
        for (column, float) in self.floats.iter_mut().zip(row.floats) {
            if let Some(float) = float {
                column.append(at, hint, float);
                self.bytes += 8;
            }
        }
        if let Some(sent_at) = row.sent_at {
            self.sent_at.append(at, hint, sent_at.0);
            self.bytes += 8;
        }
        self.time.push(row.time.unwrap_or(received_at).0);
        self.received_at.push(received_at.0);
        if let Some(flag) = row.flag {
            self.flag.append(at, hint, flag);
        }
        for (entries, column) in
            [(&mut row.properties, &mut self.properties), (&mut row.context, &mut self.row_context)]
        {
            keep_last(entries);
            for (key, value) in entries.iter() {
                let value = value.compact(&mut self.scratch);
                column.push_json(key, value);
                self.bytes += key.len() + value.len() + 8;
            }
            column.end_row();
        }
        // Both time columns, the flag's offset and the two maps' offsets.
        self.bytes += 32;
        self.rows += 1;
    }

    /// The rows, if there is one.
    pub(crate) fn finish(self) -> Option<DecodedBatch> {
        let rows = self.rows;
        if rows == 0 {
            return None;
        }
        let stamps = |values: Vec<i64>| -> Option<ArrayRef> {
            Some(Arc::new(TimestampNanosecondArray::from(values).with_timezone("UTC")))
        };
        let mut columns = vec![stamps(self.time), stamps(self.received_at), self.flag.finish(rows)];
        columns.extend(self.texts.into_iter().map(|column| column.finish(rows)));
        columns.extend(self.floats.into_iter().map(|column| Some(Arc::new(column.finish(rows)?) as ArrayRef)));
        columns.extend(std::iter::repeat_n(None, ENRICHED_COLUMNS));
        columns.push(self.sent_at.finish(rows).map(|column| Arc::new(column.with_timezone("UTC")) as ArrayRef));
        let mut observed = Vec::new();
        for (name, builder) in [("properties", self.properties), ("context", self.row_context)] {
            if builder.is_all_null() {
                columns.push(None);
                continue;
            }
            let (column, keys) = builder.finish();
            columns.push(Some(column));
            observed.push((name, keys));
        }
        #[expect(clippy::expect_used, reason = "the columns are those of the schema; a test compares them")]
        let stream = weir_data::streams::stream("events").expect("events is built in");
        #[expect(clippy::expect_used, reason = "all columns have one entry a row")]
        let batch = weir_data::batch::sparse(&stream.schema, columns, rows).expect("columns match the schema");
        Some(DecodedBatch { stream: "events", batch, observed })
    }
}
