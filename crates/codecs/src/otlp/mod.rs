//! OTLP: logs, traces and metrics of OpenTelemetry, from protobuf or JSON to rows.
//!
//! Rows are written straight from the bytes of the request into Arrow columns; there is no object
//! per record in between (generated structs cost 960 ns a log record before a single column is
//! filled). JSON is rewritten to protobuf first and takes the same way, so both encodings give the
//! same rows by construction.
//!
//! **What is refused.** A message on the way to the rows (request, resource group, scope group)
//! whose framing is broken refuses the request: nothing after it can be trusted. Anything wrong
//! inside one row (broken framing, a known field of the wrong wire type, an id of the wrong
//! length, text that is not UTF-8, a value nested deeper than 64) refuses that row; inside a
//! resource or scope, the rows below it. Unknown fields are ignored.
//!
//! **Absent.** Protobuf cannot tell a default from an absent field, so empty text, empty or
//! all-zero ids, times of 0, and zero in `severity_number`, `flags` and the `dropped_*_count`s
//! are null. Numbers that are measured (counts, scale, sums) keep their zero.
//!
//! **Repeated singular fields.** The last one wins; sub-messages are merged, as protobuf says.
//! In JSON a repeated name is an error.
//!
//! **Enums** are lower-case text. A number the specification does not know is kept as decimal
//! text. Unspecified is null, but for the status of a span, which is `unset`: so
//! `status_code <> 'error'` finds what it says.

mod columns;
pub mod encode;
mod json;
mod logs;
mod metrics;
mod origin;
mod request;
pub mod response;
mod rows;
mod series;
mod spans;
mod value;
pub(crate) mod wire;

use crate::{DecodeError, Decoded, RowContext};

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `ExportLogsServiceRequest`.
    Logs,
    /// `ExportTraceServiceRequest`.
    Traces,
    /// `ExportMetricsServiceRequest`.
    Metrics,
}

impl Signal {
    /// The stream its rows belong to.
    pub const fn stream(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Traces => "spans",
            Self::Metrics => "metrics",
        }
    }
}

/// How a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf` and gRPC.
    Protobuf,
    /// `application/json`.
    Json,
}

/// Decodes a request. `body` is decompressed and within the limit of body sizes already.
pub fn decode(
    signal: Signal,
    encoding: Encoding,
    body: &[u8],
    context: &RowContext<'_>,
) -> Result<Decoded, DecodeError> {
    match encoding {
        Encoding::Protobuf => decode_protobuf(signal, body, None, context),
        Encoding::Json => {
            let (protobuf, source) = json::to_protobuf(signal, body, context)?;
            decode_protobuf(signal, &protobuf, Some(&source), context)
        }
    }
}

fn decode_protobuf(
    signal: Signal,
    body: &[u8],
    source: Option<&json::Source<'_>>,
    context: &RowContext<'_>,
) -> Result<Decoded, DecodeError> {
    match signal {
        Signal::Logs => rows::decode::<logs::Logs>(body, source, context),
        Signal::Traces => rows::decode::<spans::Spans>(body, source, context),
        Signal::Metrics => rows::decode::<metrics::Metrics>(body, source, context),
    }
}
