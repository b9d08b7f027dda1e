//! OTAP, the Arrow form of OpenTelemetry: record batches in a star schema, to the same rows as OTLP.
//!
//! A sender keeps a stream of `BatchArrowRecords`; each has up to 27 payloads, every one an Arrow
//! table: log records, spans or metrics, and tables of their attributes, events, data points. Ids
//! tie them together. Schemas and dictionaries are sent once a stream.
//!
//! **One place makes rows.** The tables are joined into OTLP protobuf, which our OTLP decoder
//! reads, as it does with JSON. So the rows, their series and what refuses a row are those of OTLP
//! by construction, at the price of one copy.
//!
//! **Nothing foreign reads a sender's bytes.** [`ipc`] is a reader of its own for what OTAP uses of
//! the Arrow format; see there, and docs/decisions/2026-11-21-otap-decoder.md.
//!
//! **What is refused.** Arrow or CBOR that is broken refuses the batch, and the stream with it,
//! since schema and dictionaries may be lost. What is wrong in a row (text that is not UTF-8, an
//! id of the wrong length, a value too long) refuses the row.
//!
//! **Budgets.** One batch takes at most `decoded_bytes_max` three times: for what is decompressed
//! and the ids of its rows, for the protobuf, and for the columns; a stream keeps at most 16 MiB of
//! dictionaries.

mod cbor;
mod column;
mod flatbuffer;
mod ipc;
mod logs;
mod metrics;
mod payload;
mod protobuf;
pub mod response;
mod spans;
mod star;
mod stream;

pub use payload::batch_id;

use self::ipc::Budget;
use self::payload::Batch;
use self::protobuf::Writer;
use self::stream::Readers;
use crate::otlp::{self, Encoding, Signal};
use crate::{DecodeError, Decoded, RowContext};

/// The decoder of one stream of `BatchArrowRecords`.
#[derive(Debug)]
pub struct Stream {
    signal: Signal,
    readers: Readers,
    is_broken: bool,
    batches: u64,
}

impl Stream {
    /// A stream that nothing was received of.
    pub fn new(signal: Signal) -> Self {
        Self { signal, readers: Readers::new(), is_broken: false, batches: 0 }
    }

    /// Decodes the next batch.
    pub fn decode(&mut self, body: &[u8], context: &RowContext<'_>) -> Result<Decoded, DecodeError> {
        if self.is_broken {
            return Err(ipc::broken("the stream cannot go on after a batch that could not be read"));
        }
        // Until the schemas and dictionaries are known to be read.
        self.is_broken = true;
        let batch = Batch::read(self.signal, body)?;
        // Half of what Arrow's offsets reach, as for the columns.
        let bytes_max = context.decoded_bytes_max.min(1 << 30);
        let mut budget = Budget::new("decoded_bytes_max", bytes_max);
        let tables = self.readers.read(&batch, &mut budget)?;
        self.is_broken = false;
        self.batches += 1;
        let mut out = Writer::new(bytes_max);
        match self.signal {
            Signal::Logs => logs::write(&tables, &mut budget, &mut out)?,
            Signal::Traces => spans::write(&tables, &mut budget, &mut out)?,
            Signal::Metrics => metrics::write(&tables, &mut budget, &mut out)?,
        }
        drop(tables);
        otlp::decode(self.signal, Encoding::Protobuf, &out.into_bytes(), context)
    }

    /// Whether the stream has to end: its next batch would be refused whatever it is.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// How many batches were read so far that the next one can follow, stored or not.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// What is kept between batches, in bytes.
    pub fn bytes(&self) -> usize {
        self.readers.bytes()
    }
}

/// Decodes a batch that needs no other, as it comes over HTTP.
pub fn decode(signal: Signal, body: &[u8], context: &RowContext<'_>) -> Result<Decoded, DecodeError> {
    Stream::new(signal).decode(body, context)
}
