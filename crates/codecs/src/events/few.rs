//! Requests with few events, whose rows are put into columns together with those of other requests.
//!
//! Columns cost far more to make than one row is to read: about 50 allocations, for a single event
//! three quarters of its decoding. So the rows of small requests are read on their own and share the
//! columns.
//!
//! Deliberately absent: everything that is not a request as it should be. Where a row is bad, or the
//! body is not what it claims to be, [`read_few`] says no more than that, and [`super::decode`] says
//! what.

use weir_base::Timestamp;

use super::{read_envelope, read_event};
use crate::events_row::{EventColumns, EventRow};
use crate::json_reader::Reader;
use crate::{DecodeError, DecodedBatch, RowContext};

/// The most events that are few. Of more, columns of their own cost little a row.
const ROWS_MAX: usize = 8;
/// The largest body of few events: it bounds what one request adds to columns it shares.
pub const FEW_BYTES_MAX: usize = 16 << 10;
/// A tenant whose requests may decode to less than this has them measured by [`super::decode`]: few
/// events of such a body with the longest headers stay below it.
const DECODED_BYTES_MAX: usize = 1 << 20;

/// The events of one small request, all of them good.
#[derive(Debug)]
pub struct FewEvents<'a> {
    rows: Vec<EventRow<'a>>,
    received_at: Timestamp,
}

impl FewEvents<'_> {
    /// How many there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.rows.len()
    }
}

/// The events of a request, if it is small and nothing is wrong with it.
pub fn read_few<'a>(body: &'a [u8], context: &RowContext<'a>) -> Option<FewEvents<'a>> {
    if body.len() > FEW_BYTES_MAX || context.decoded_bytes_max < DECODED_BYTES_MAX {
        return None;
    }
    let rows = read_envelope(body, context, |reader| read_rows(reader, context)).ok()??;
    (!rows.is_empty()).then_some(FewEvents { rows, received_at: context.received_at })
}

/// Reads the rows; any error ends the reading, what it says is nobody's concern.
fn read_rows<'a>(reader: &mut Reader<'a>, context: &RowContext<'a>) -> Result<Vec<EventRow<'a>>, DecodeError> {
    let unsuited = || DecodeError::Unsupported { what: String::new() };
    let mut rows = Vec::with_capacity(1);
    reader.enter();
    let mut first = true;
    while reader.item(&mut first)? {
        if rows.len() >= ROWS_MAX.min(context.rows_max) {
            return Err(unsuited());
        }
        reader.peek();
        let start = reader.at();
        let mut row = EventRow::default();
        row.begin(context);
        read_event(reader, &mut row, context)?;
        if !row.is_good() || reader.since(start).len() > context.row_bytes_max {
            return Err(unsuited());
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Columns that the rows of many small requests go into, one request after the other.
#[derive(Debug)]
pub struct GatheredEvents(EventColumns);

impl Default for GatheredEvents {
    fn default() -> Self {
        // What a commit under load has; fewer rows waste a few kilobytes for a moment.
        const ROWS_HINT: usize = 64;
        Self(EventColumns::new(ROWS_HINT))
    }
}

impl GatheredEvents {
    /// Appends the rows of a request, in their order.
    pub fn push(&mut self, events: FewEvents<'_>) {
        for mut row in events.rows {
            self.0.append(&mut row, events.received_at);
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// About what they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// All rows, if there is one.
    pub fn finish(self) -> Option<DecodedBatch> {
        self.0.finish()
    }
}

#[cfg(test)]
#[path = "few_tests.rs"]
mod tests;
