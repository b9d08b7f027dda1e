//! What OTLP senders are answered: `ExportXServiceResponse`, and `google.rpc.Status` for errors.
//!
//! These are a handful of fields, written by hand; both encodings of each say the same. Weir as a sender reads the
//! protobuf of them.

use std::time::Duration;

use weir_data::json;

use super::wire::{Fields, Part};
use super::{Encoding, Signal};

/// The answer to an export of which everything, or all but `rejected` rows, was stored.
///
/// `message` says why rows were rejected. Without rejected rows it is a warning, and without
/// either the response is empty, as the specification asks.
pub fn export(signal: Signal, encoding: Encoding, rejected: u64, message: &str) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => {
            let mut partial = Vec::new();
            put_varint(&mut partial, 1, rejected);
            put_bytes(&mut partial, 2, message.as_bytes());
            let mut out = Vec::new();
            put_bytes(&mut out, 1, &partial);
            out
        }
        Encoding::Json => {
            let mut fields = Vec::new();
            if rejected > 0 {
                let name = match signal {
                    Signal::Logs => "rejectedLogRecords",
                    Signal::Traces => "rejectedSpans",
                    Signal::Metrics => "rejectedDataPoints",
                };
                // 64-bit integers are strings in protobuf's JSON.
                fields.push(format!("\"{name}\":\"{rejected}\""));
            }
            if !message.is_empty() {
                fields.push(format!("\"errorMessage\":{}", quoted(message)));
            }
            if fields.is_empty() {
                return b"{}".to_vec();
            }
            format!("{{\"partialSuccess\":{{{}}}}}", fields.join(",")).into_bytes()
        }
    }
}

/// The type of the detail that tells a sender when to try again.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// A `google.rpc.Status`: the body of an HTTP error, and, in protobuf, the value of
/// `grpc-status-details-bin`. `code` is the gRPC status; `retry_after` becomes a `RetryInfo`.
pub fn status(encoding: Encoding, code: u8, message: &str, retry_after: Option<Duration>) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => {
            let mut out = Vec::new();
            put_varint(&mut out, 1, u64::from(code));
            put_bytes(&mut out, 2, message.as_bytes());
            if let Some(delay) = retry_after {
                let mut any = Vec::new();
                put_bytes(&mut any, 1, RETRY_INFO.as_bytes());
                put_bytes(&mut any, 2, &retry_info(delay));
                put_bytes(&mut out, 3, &any);
            }
            out
        }
        Encoding::Json => {
            let details = retry_after.map_or_else(String::new, |delay| {
                format!(",\"details\":[{{\"@type\":\"{RETRY_INFO}\",\"retryDelay\":\"{}\"}}]", seconds(delay))
            });
            format!("{{\"code\":{code},\"message\":{}{details}}}", quoted(message)).into_bytes()
        }
    }
}

/// What a `google.rpc.Status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The gRPC status.
    pub code: i32,
    /// For people.
    pub message: String,
    /// When to try again, if there is a `RetryInfo`.
    pub retry_after: Option<Duration>,
}

/// Reads a `google.rpc.Status`; `None` if it is none.
pub fn read_status(bytes: &[u8]) -> Option<Told> {
    let mut told = Told::default();
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next().ok()? {
        match number {
            1 => told.code = value.int32().ok()?,
            2 => told.message = String::from_utf8_lossy(value.len().ok()?).into_owned(),
            3 => told.retry_after = read_retry_info(value.len().ok()?).or(told.retry_after),
            _ => {}
        }
    }
    Some(told)
}

/// The delay in an `Any`, if it is a `RetryInfo`.
fn read_retry_info(any: &[u8]) -> Option<Duration> {
    let [kind, value] = two_texts(any)?;
    if kind != RETRY_INFO.as_bytes() {
        return None;
    }
    let [duration, _] = two_texts(value)?;
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Fields::new(duration);
    while let Some((number, value)) = fields.next().ok()? {
        match number {
            1 => seconds = value.int64().ok()?,
            2 => nanos = value.int32().ok()?,
            _ => {}
        }
    }
    // A negative delay is none.
    let (seconds, nanos) = (u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
    Some(Duration::new(seconds, nanos.min(999_999_999)))
}

/// Fields 1 and 2 of a message, both with a length.
fn two_texts(message: &[u8]) -> Option<[&[u8]; 2]> {
    let mut found: [&[u8]; 2] = [b"", b""];
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next().ok()? {
        match number {
            1 => found[0] = value.len().ok()?,
            2 => found[1] = value.len().ok()?,
            _ => {}
        }
    }
    Some(found)
}

/// Reads the answer to an export: how many rows were rejected, and what is said about it. `None` if it is none.
pub fn read_export(bytes: &[u8]) -> Option<(u64, String)> {
    let mut partial = Part::default();
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next().ok()? {
        if number == 1 {
            partial.merge(value.len().ok()?);
        }
    }
    let (mut rejected, mut message) = (0, String::new());
    let mut fields = Fields::new(partial.bytes().unwrap_or_default());
    while let Some((number, value)) = fields.next().ok()? {
        match number {
            1 => rejected = u64::try_from(value.int64().ok()?).unwrap_or(0),
            2 => message = String::from_utf8_lossy(value.len().ok()?).into_owned(),
            _ => {}
        }
    }
    Some((rejected, message))
}

/// A `google.rpc.RetryInfo`.
fn retry_info(delay: Duration) -> Vec<u8> {
    let mut duration = Vec::new();
    put_varint(&mut duration, 1, delay.as_secs().min(i64::MAX.unsigned_abs()));
    put_varint(&mut duration, 2, u64::from(delay.subsec_nanos()));
    let mut out = Vec::new();
    put_message(&mut out, 1, &duration);
    out
}

/// A duration as protobuf's JSON writes it: seconds with a fraction where there is one.
fn seconds(delay: Duration) -> String {
    match delay.subsec_nanos() {
        0 => format!("{}s", delay.as_secs()),
        nanos if nanos % 1_000_000 == 0 => format!("{}.{:03}s", delay.as_secs(), nanos / 1_000_000),
        nanos => format!("{}.{nanos:09}s", delay.as_secs()),
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    json::write_string(&mut out, text);
    out
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Zero is left out, as everywhere in protobuf.
pub(crate) fn put_varint(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        write_varint(out, u64::from(field << 3));
        write_varint(out, value);
    }
}

/// Empty is left out.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_message(out, field, bytes);
    }
}

/// Empty stays: a message that is there says something by that.
fn put_message(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    write_varint(out, u64::from(field << 3 | 2));
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
