//! SDK events: the body of `POST /ingest`.
//!
//! `{"events": [...], "tenant_id"?, "write_key"?}`. A row that is wrong becomes a reject and the
//! others go on; only an envelope that is not JSON, or not that shape, refuses the request.
//!
//! What is lenient, so that nothing is lost: fields of one event type are taken on any other;
//! members Weir does not know go to `context` under their own name, those of `metadata` as
//! `metadata.<name>`; `properties` that are no object are kept under the key `value`. A field that
//! is null counts as absent, and of a member given twice the last one counts.

use std::borrow::Cow;

use weir_data::RejectCode;

use crate::events_row::{EventRow, EventRows, FloatColumn, TextColumn};
use crate::json_reader::{Reader, Syntax, Value};
use crate::{DecodeError, Decoded, RowContext};

pub use few::{FEW_BYTES_MAX, FewEvents, GatheredEvents, read_few};

mod few;
#[cfg(test)]
mod tests;

/// The event types of this protocol. The others (`identify`, `screen`, ...) are Segment's.
const TYPES: [&str; 5] = ["pageview", "click", "scroll", "performance", "custom"];

/// How far into a body [`write_key`] looks. A `sendBeacon` carries 64 KiB at most.
pub const WRITE_KEY_SCAN_BYTES_MAX: usize = 1 << 20;

/// The longest write key, in bytes.
const WRITE_KEY_BYTES_MAX: usize = 256;

impl From<Syntax> for DecodeError {
    fn from(syntax: Syntax) -> Self {
        Self::Malformed {
            message: format!("the body is not JSON: {}", syntax.what),
            place: format!("byte {}", syntax.at),
        }
    }
}

/// A refusal of the envelope at a JSON pointer.
pub(crate) fn misshapen(place: &str, expected: &str, value: Value<'_>) -> DecodeError {
    DecodeError::Malformed {
        message: format!("expected {expected}, got {}", value.describe()),
        place: place.to_owned(),
    }
}

/// Decodes the body of an ingest request.
pub fn decode(body: &[u8], context: &RowContext<'_>) -> Result<Decoded, DecodeError> {
    let missing = |message: String| DecodeError::Malformed { message, place: "/events".to_owned() };
    match read_envelope(body, context, |reader| decode_events(reader, body.len(), context))? {
        None => Err(missing("`events` is missing".to_owned())),
        Some(decoded) if decoded.received == 0 => {
            Err(missing(format!("expected 1 to {} events, got none", context.rows_max)))
        }
        Some(decoded) => Ok(decoded),
    }
}

/// Reads what is around the events, and those with `read`; `None` if there are none.
fn read_envelope<'a, T>(
    body: &'a [u8],
    context: &RowContext<'a>,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    let mut reader = Reader::of_bytes(body)?;
    if reader.peek() != Some(b'{') {
        let value = reader.value()?;
        return Err(misshapen("", "an object with `events`", value));
    }
    reader.enter();
    let mut first = true;
    let mut events = None;
    let mut wrong_tenant = false;
    while let Some(name) = reader.member(&mut first)? {
        match &*name.decode() {
            // Repeated members: the last one counts.
            "events" if reader.peek() == Some(b'[') => events = Some(read(&mut reader)?),
            "events" => return Err(misshapen("/events", "a list", reader.value()?)),
            "tenant_id" => match reader.value()? {
                Value::Text(tenant) => wrong_tenant = tenant.decode() != context.tenant,
                Value::Null => wrong_tenant = false,
                other => return Err(misshapen("/tenant_id", "a string", other)),
            },
            _ => {
                reader.value()?;
            }
        }
    }
    reader.end()?;
    if wrong_tenant { Err(DecodeError::WrongTenant) } else { Ok(events) }
}

fn decode_events<'a>(
    reader: &mut Reader<'a>,
    body_bytes: usize,
    context: &RowContext<'a>,
) -> Result<Decoded, DecodeError> {
    let mut rows = EventRows::new(context, body_bytes);
    let mut row = EventRow::default();
    reader.enter();
    let mut first = true;
    while reader.item(&mut first)? {
        rows.admit_row()?;
        reader.peek();
        let start = reader.at();
        row.begin(context);
        read_event(reader, &mut row, context)?;
        rows.push(&mut row, reader.since(start))?;
    }
    Ok(rows.finish())
}

/// Reads one event to its end, whatever is wrong with it.
fn read_event<'a>(reader: &mut Reader<'a>, row: &mut EventRow<'a>, context: &RowContext<'a>) -> Result<(), Syntax> {
    use FloatColumn as F;
    use TextColumn as T;

    if reader.peek() != Some(b'{') {
        let value = reader.value()?;
        row.wrong_type("", "an object", value);
        return Ok(());
    }
    reader.enter();
    let mut first = true;
    let mut event_type = None;
    let mut timestamp = None;
    let mut has_metadata = false;
    while let Some(written) = reader.member(&mut first)? {
        let name = written.decode();
        match &*name {
            "properties" => {
                row.forget_problems("/properties");
                row.forget_properties();
                read_properties(reader, row, "/properties")?;
                continue;
            }
            "metadata" => {
                if std::mem::replace(&mut has_metadata, true) {
                    forget_metadata(row);
                }
                read_metadata(reader, row)?;
                continue;
            }
            _ => {}
        }
        let value = reader.value()?;
        match &*name {
            "type" => event_type = Some(value),
            "timestamp" => timestamp = Some(value),
            "id" => row.set_uuid("/id", value),
            "name" => row.set_text(T::Name, "/name", value),
            "session_id" => row.set_text(T::SessionId, "/session_id", value),
            "user_id" => row.set_text(T::UserId, "/user_id", value),
            "anonymous_id" => row.set_text(T::AnonymousId, "/anonymous_id", value),
            "url" => row.set_text(T::Url, "/url", value),
            "path" => row.set_text(T::Path, "/path", value),
            "title" => row.set_text(T::Title, "/title", value),
            "referrer" => row.set_text(T::Referrer, "/referrer", value),
            "selector" => row.set_text(T::Selector, "/selector", value),
            "x" => row.set_float(F::X, "/x", FINITE, value),
            "y" => row.set_float(F::Y, "/y", FINITE, value),
            "depth" => row.set_float(F::Depth, "/depth", 0.0..=100.0, value),
            "ttfb_ms" => row.set_float(F::TtfbMs, "/ttfb_ms", FINITE, value),
            "fcp_ms" => row.set_float(F::FcpMs, "/fcp_ms", FINITE, value),
            "lcp_ms" => row.set_float(F::LcpMs, "/lcp_ms", FINITE, value),
            "inp_ms" => row.set_float(F::InpMs, "/inp_ms", FINITE, value),
            "load_ms" => row.set_float(F::LoadMs, "/load_ms", FINITE, value),
            "cls" => row.set_float(F::Cls, "/cls", FINITE, value),
            "tenant_id" => row.check_tenant("/tenant_id", value, context.tenant),
            _ => {
                row.add_context("", name, value);
                row.check_name("", written);
            }
        }
    }
    row.set_time("/timestamp", timestamp, context.received_at);
    check_type(row, event_type);
    for (column, fallback) in [(T::Ip, context.client_ip), (T::UserAgent, context.user_agent)] {
        if let (None, Some(text)) = (row.text(column), fallback) {
            row.put(column, Some(Cow::Borrowed(text)));
        }
    }
    Ok(())
}

/// Every number a double holds.
const FINITE: std::ops::RangeInclusive<f64> = f64::MIN..=f64::MAX;

fn check_type<'a>(row: &mut EventRow<'a>, event_type: Option<Value<'a>>) {
    let Some(given) = event_type.filter(|given| *given != Value::Null) else {
        return row.problem(RejectCode::MissingField, "/type", "`type` is missing");
    };
    let Some(text) = row.read_text("/type", given) else { return };
    if !TYPES.contains(&&*text) {
        let shown: String = text.chars().take(80).collect();
        let message = format!("unknown type `{shown}`, expected one of {}", TYPES.join(", "));
        return row.problem(RejectCode::UnknownType, "/type", message);
    }
    if text == "custom" && row.text(TextColumn::Name).is_none_or(str::is_empty) {
        row.problem(RejectCode::MissingField, "/name", "a custom event needs a `name`");
    }
    row.put(TextColumn::Type, Some(text));
}

/// Reads any JSON into `properties`: an object by its members, anything else under `value`.
pub(crate) fn read_properties<'a>(reader: &mut Reader<'a>, row: &mut EventRow<'a>, field: &str) -> Result<(), Syntax> {
    if reader.peek() != Some(b'{') {
        match reader.value()? {
            Value::Null => {}
            other => row.add_property(field, Cow::Borrowed("value"), other),
        }
        return Ok(());
    }
    reader.enter();
    let mut first = true;
    while let Some(name) = reader.member(&mut first)? {
        let value = reader.value()?;
        row.add_property(field, name.decode(), value);
        row.check_name(field, name);
    }
    Ok(())
}

/// The members of `metadata` that are columns.
const METADATA: [(&str, &str, TextColumn); 6] = [
    ("user_agent", "/metadata/user_agent", TextColumn::UserAgent),
    ("ip", "/metadata/ip", TextColumn::Ip),
    ("screen", "/metadata/screen", TextColumn::Screen),
    ("viewport", "/metadata/viewport", TextColumn::Viewport),
    ("timezone", "/metadata/timezone", TextColumn::Timezone),
    ("language", "/metadata/language", TextColumn::Language),
];

fn read_metadata<'a>(reader: &mut Reader<'a>, row: &mut EventRow<'a>) -> Result<(), Syntax> {
    if reader.peek() != Some(b'{') {
        match reader.value()? {
            Value::Null => {}
            other => row.wrong_type("/metadata", "an object", other),
        }
        return Ok(());
    }
    reader.enter();
    let mut first = true;
    while let Some(name) = reader.member(&mut first)? {
        let value = reader.value()?;
        let key = name.decode();
        match METADATA.iter().find(|(known, ..)| *known == key) {
            Some((_, field, column)) => row.set_text(*column, field, value),
            None => row.add_context("/metadata", Cow::Owned(format!("metadata.{key}")), value),
        }
        row.check_name("/metadata", name);
    }
    Ok(())
}

fn forget_metadata(row: &mut EventRow<'_>) {
    row.forget_problems("/metadata");
    row.forget_context("metadata.");
    for (.., column) in METADATA {
        row.put(column, None);
    }
}

/// The `write_key` (or Segment's `writeKey`) of a body, without decoding it: for requests that
/// cannot carry headers. `None` if there is none, or the body is not an object, or the key does
/// not begin within the first [`WRITE_KEY_SCAN_BYTES_MAX`] bytes.
pub fn write_key(body: &[u8]) -> Option<String> {
    let mut end = body.len().min(WRITE_KEY_SCAN_BYTES_MAX);
    // A character cut in two is not the sender's fault.
    while end < body.len() && end > 0 && body[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    let mut reader = Reader::of_bytes(&body[..end]).ok()?;
    if reader.peek() != Some(b'{') {
        return None;
    }
    reader.enter();
    let mut first = true;
    while let Some(name) = reader.member(&mut first).ok()? {
        let value = reader.value().ok()?;
        if let ("write_key" | "writeKey", Value::Text(key)) = (&*name.decode(), value) {
            let key = key.decode();
            return (!key.is_empty() && key.len() <= WRITE_KEY_BYTES_MAX).then(|| key.into_owned());
        }
    }
    None
}
