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
use crate::json_reader::{Reader, Syntax, Text, Value};
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

/// The most events of one request, whatever else the tenant may send.
pub const EVENTS_MAX: usize = 1000;

/// Decodes the body of an ingest request.
pub fn decode(body: &[u8], context: &RowContext<'_>) -> Result<Decoded, DecodeError> {
    let context = &RowContext { rows_max: context.rows_max.min(EVENTS_MAX), ..context.clone() };
    let missing = |message: String| DecodeError::Malformed { message, place: "/events".to_owned() };
    let decoded = read_envelope(body, context, |reader| decode_events(reader, body.len(), context)).map_err(
        |error| match error {
            DecodeError::TooLarge { limit: "rows_per_request_max", value, actual } if value == EVENTS_MAX as u64 => {
                DecodeError::TooLarge { limit: "events_per_request_max", value, actual }
            }
            error => error,
        },
    )?;
    match decoded {
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
    use TextColumn as T;

    if reader.peek() != Some(b'{') {
        let value = reader.value()?;
        row.wrong_type("", "an object", value);
        return Ok(());
    }
    reader.enter();
    let mut first = true;
    let mut given = Given::default();
    let mut has_metadata = false;
    while let Some(written) = reader.member(&mut first)? {
        let unescaped;
        let name = match written.plain() {
            Some(name) => name,
            None => {
                unescaped = written.decode();
                &*unescaped
            }
        };
        // Most members are texts, and most texts have nothing escaped: these go straight to their column.
        if let Some((column, field)) = text_column(name) {
            match reader.plain_string() {
                Some(quoted) => row.set_plain(column, field, quoted),
                None => row.set_text(column, field, reader.any_value()?),
            }
            continue;
        }
        match name {
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
        // Three times the same, so that the first two need no value in memory; see `Reader::member`.
        if let Some(quoted) = reader.plain_string() {
            set_member(row, &mut given, written, name, Value::Text(Text::of_plain(quoted)), context);
        } else if let Some(number) = reader.plain_number() {
            set_member(row, &mut given, written, name, Value::Number(number), context);
        } else {
            let value = reader.any_value()?;
            set_member(row, &mut given, written, name, value, context);
        }
    }
    row.set_time("/timestamp", given.timestamp, context.received_at);
    check_type(row, given.event_type);
    for (column, fallback) in [(T::Ip, context.client_ip), (T::UserAgent, context.user_agent)] {
        if let (None, Some(text)) = (row.text(column), fallback) {
            row.put(column, Some(Cow::Borrowed(text)));
        }
    }
    Ok(())
}

/// What is looked at when the whole event has been read.
#[derive(Default)]
struct Given<'a> {
    event_type: Option<Value<'a>>,
    timestamp: Option<Value<'a>>,
}

/// Takes in a member that is no text column and has no members that are columns.
#[inline(always)]
fn set_member<'a>(
    row: &mut EventRow<'a>,
    given: &mut Given<'a>,
    written: Text<'a>,
    name: &str,
    value: Value<'a>,
    context: &RowContext<'a>,
) {
    use FloatColumn as F;

    match name {
        "type" => given.event_type = Some(value),
        "timestamp" => given.timestamp = Some(value),
        "id" => row.set_uuid("/id", value),
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
            row.add_context("", written.decode(), value);
            row.check_name("", written);
        }
    }
}

/// The text column a member is, and the member's JSON pointer.
#[inline(always)]
fn text_column(name: &str) -> Option<(TextColumn, &'static str)> {
    use TextColumn as T;

    Some(match name {
        "name" => (T::Name, "/name"),
        "session_id" => (T::SessionId, "/session_id"),
        "user_id" => (T::UserId, "/user_id"),
        "anonymous_id" => (T::AnonymousId, "/anonymous_id"),
        "url" => (T::Url, "/url"),
        "path" => (T::Path, "/path"),
        "title" => (T::Title, "/title"),
        "referrer" => (T::Referrer, "/referrer"),
        "selector" => (T::Selector, "/selector"),
        _ => return None,
    })
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
        if let Some(key) = name.plain() {
            if let Some(quoted) = reader.plain_string() {
                row.add_plain_property(field, key, Value::Text(Text::of_plain(quoted)));
                continue;
            }
            if let Some(number) = reader.plain_number() {
                row.add_plain_property(field, key, Value::Number(number));
                continue;
            }
        }
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
        let key = name.decode();
        let known = METADATA.iter().find(|(known, ..)| *known == key);
        if let Some((_, field, column)) = known
            && let Some(quoted) = reader.plain_string()
        {
            row.set_plain(*column, field, quoted);
            continue;
        }
        let value = reader.value()?;
        match known {
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
