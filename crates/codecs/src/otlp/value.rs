//! Attribute values: from `AnyValue` and `KeyValue` messages to attribute columns and JSON text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use weir_data::RejectCode;
use weir_data::attributes::AttributesBuilder;
use weir_data::json;

use super::request::{Fault, Request, Under, text, too_large};
use super::wire::{Fields, Part, Value};

/// How deep lists and maps may nest in one value.
pub(super) const DEPTH_MAX: usize = 64;

/// What an attribute is counted as beside its texts: two offsets.
const ATTRIBUTE_BYTES: usize = 16;

/// A value, one level of it.
#[derive(Debug)]
pub(super) enum Any<'a> {
    /// No member of the oneof is set.
    Empty,
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    List(Part<'a>),
    Map(Part<'a>),
    Bytes(&'a [u8]),
}

impl<'a> Any<'a> {
    /// Reads an `AnyValue`.
    pub(super) fn read(message: &'a [u8], request: &mut Request<'_>) -> Result<Self, Fault> {
        let mut any = Any::Empty;
        let mut unchecked: Option<&[u8]> = None;
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            let copied = match number {
                1 => {
                    unchecked = Some(value.len().under("string_value")?);
                    continue;
                }
                2 => {
                    any = Any::Bool(value.bool().under("bool_value")?);
                    0
                }
                3 => {
                    any = Any::Int(value.int64().under("int_value")?);
                    0
                }
                4 => {
                    any = Any::Double(value.double().under("double_value")?);
                    0
                }
                5 => {
                    let slice = value.len().under("array_value")?;
                    if !matches!(any, Any::List(_)) || unchecked.is_some() {
                        any = Any::List(Part::default());
                    }
                    if let Any::List(part) = &mut any { part.merge(slice) } else { 0 }
                }
                6 => {
                    let slice = value.len().under("kvlist_value")?;
                    if !matches!(any, Any::Map(_)) || unchecked.is_some() {
                        any = Any::Map(Part::default());
                    }
                    if let Any::Map(part) = &mut any { part.merge(slice) } else { 0 }
                }
                7 => {
                    any = Any::Bytes(value.len().under("bytes_value")?);
                    0
                }
                8 => {
                    // A place in a table of strings that only profiles have.
                    value.int32().under("string_value_strindex")?;
                    any = Any::Empty;
                    0
                }
                _ => continue,
            };
            unchecked = None;
            if copied > 0 {
                request.charge(copied)?;
            }
        }
        match unchecked {
            Some(bytes) => Ok(Any::Text(text(bytes, "string_value")?)),
            None => Ok(any),
        }
    }

    /// Appends the value as JSON. `depth` is how many lists and maps it stands in.
    pub(super) fn write(&self, out: &mut String, depth: usize, request: &mut Request<'_>) -> Result<(), Fault> {
        match self {
            Any::Empty => out.push_str("null"),
            Any::Text(text) => json::write_string(out, text),
            Any::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Any::Int(value) => json::write_i64(out, *value),
            Any::Double(value) => json::write_f64(out, *value),
            Any::Bytes(bytes) => {
                out.push_str("{\"$bytes\":\"");
                STANDARD.encode_string(bytes, out);
                out.push_str("\"}");
            }
            Any::List(part) => {
                out.push('[');
                write_elements(part, out, depth, request, |slice, out, depth, request| {
                    Any::read(slice, request)?.write(out, depth, request)
                })
                .under("array_value")?;
                out.push(']');
            }
            Any::Map(part) => {
                out.push('{');
                write_elements(part, out, depth, request, write_entry).under("kvlist_value")?;
                out.push('}');
            }
        }
        Ok(())
    }
}

/// Writes the elements of an `ArrayValue` or `KeyValueList`, which both are field 1.
fn write_elements(
    part: &Part<'_>,
    out: &mut String,
    depth: usize,
    request: &mut Request<'_>,
    write: impl Fn(&[u8], &mut String, usize, &mut Request<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if depth >= DEPTH_MAX {
        return Err(Fault::row(RejectCode::Malformed, format!("the value is nested deeper than {DEPTH_MAX} levels")));
    }
    let mut n = 0;
    let mut fields = Fields::new(part.bytes().unwrap_or_default());
    while let Some((number, value)) = fields.next()? {
        if number != 1 {
            continue;
        }
        if n > 0 {
            out.push(',');
        }
        let slice = value.len().under("values")?;
        let begun = out.len();
        write(slice, out, depth + 1, request).map_err(|fault| fault.under(n).under("values"))?;
        // Counted by the outermost level; those below only see that it can be paid.
        let written = out.len() - begun;
        if depth == 0 || written > request.left() {
            request.charge(written)?;
        }
        n += 1;
    }
    Ok(())
}

/// Writes one `KeyValue` as a member of a JSON object.
fn write_entry(message: &[u8], out: &mut String, depth: usize, request: &mut Request<'_>) -> Result<(), Fault> {
    let entry = Entry::read(message, request)?;
    json::write_string(out, text(entry.key, "key")?);
    out.push(':');
    match entry.value.bytes() {
        None => out.push_str("null"),
        Some(bytes) => Any::read(bytes, request).and_then(|any| any.write(out, depth, request)).under("value")?,
    }
    Ok(())
}

/// A `KeyValue`.
struct Entry<'a> {
    key: &'a [u8],
    value: Part<'a>,
}

impl<'a> Entry<'a> {
    #[inline]
    fn read(message: &'a [u8], request: &mut Request<'_>) -> Result<Self, Fault> {
        let mut entry = Self { key: b"", value: Part::default() };
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => entry.key = value.len().under("key")?,
                2 => {
                    let copied = entry.value.merge(value.len().under("value")?);
                    if copied > 0 {
                        request.charge(copied)?;
                    }
                }
                _ => {}
            }
        }
        Ok(entry)
    }
}

/// Adds the attributes of one message, numbering them for the faults.
#[derive(Debug, Default)]
pub(super) struct Numbered(usize);

impl Numbered {
    /// Adds one field `attributes` to the open row of an attribute column.
    #[inline]
    pub(super) fn push(
        &mut self,
        builder: &mut AttributesBuilder,
        value: Value<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), Fault> {
        let n = self.0;
        self.0 += 1;
        value
            .len()
            .map_err(Fault::from)
            .and_then(|message| push_attribute(builder, message, request))
            .map_err(|fault| fault.under(n).under("attributes"))
    }
}

/// A length-delimited field of that tag at the front, with a length of one byte: its content and
/// what follows.
#[inline]
fn short_field(message: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    match message {
        [first, length @ ..0x80, rest @ ..] if *first == tag => rest.split_at_checked(usize::from(*length)),
        _ => None,
    }
}

/// The attribute as nearly all exporters write it: key, then a short value, each once. `false`
/// leaves everything to the general way, errors too.
#[inline]
fn push_plain(builder: &mut AttributesBuilder, message: &[u8], request: &mut Request<'_>) -> Result<bool, Fault> {
    let Some((key, rest)) = short_field(message, 0x0a) else { return Ok(false) };
    let Some((value, [])) = short_field(rest, 0x12) else { return Ok(false) };
    if value.len() > request.context.value_bytes_max {
        return Ok(false);
    }
    match value {
        [0x0a, length @ ..0x80, text @ ..] if text.len() == usize::from(*length) => {
            // Tags and lengths are ASCII here, so one check does for key and value.
            let Ok(whole) = str::from_utf8(message) else { return Ok(false) };
            let (key_end, text_begin) = (2 + key.len(), message.len() - text.len());
            let (Some(key), Some(text)) = (whole.get(2..key_end), whole.get(text_begin..)) else { return Ok(false) };
            let before = builder.text_bytes();
            builder.push_str(key, text);
            request.charge(ATTRIBUTE_BYTES + builder.text_bytes() - before)?;
            return Ok(true);
        }
        [0x10, truth @ ..2] => {
            let Ok(key) = str::from_utf8(key) else { return Ok(false) };
            builder.push_bool(key, *truth == 1);
        }
        [0x18, ..] => {
            let Ok(key) = str::from_utf8(key) else { return Ok(false) };
            let mut fields = Fields::new(value);
            let (Ok(Some((3, Value::Varint(int)))), Ok(None)) = (fields.next(), fields.next()) else {
                return Ok(false);
            };
            builder.push_i64(key, int.cast_signed());
        }
        _ => return Ok(false),
    }
    // An integer has at most 20 digits.
    request.charge(ATTRIBUTE_BYTES + key.len() + 20)?;
    Ok(true)
}

/// Adds one `KeyValue` to the open row of an attribute column.
fn push_attribute(builder: &mut AttributesBuilder, message: &[u8], request: &mut Request<'_>) -> Result<(), Fault> {
    if push_plain(builder, message, request)? { Ok(()) } else { push_any_attribute(builder, message, request) }
}

fn push_any_attribute(builder: &mut AttributesBuilder, message: &[u8], request: &mut Request<'_>) -> Result<(), Fault> {
    let entry = Entry::read(message, request)?;
    let key = text(entry.key, "key")?;
    let Some(bytes) = entry.value.bytes() else {
        builder.push_json(key, "null");
        return Ok(request.charge(ATTRIBUTE_BYTES + key.len() + 4)?);
    };
    let value_bytes_max = request.context.value_bytes_max;
    if bytes.len() > value_bytes_max {
        return Err(too_large("value_bytes_max", value_bytes_max, bytes.len()).under("value"));
    }
    let before = builder.text_bytes();
    request.charge(ATTRIBUTE_BYTES + key.len() + bytes.len())?;
    match Any::read(bytes, request).under("value")? {
        Any::Text(text) => builder.push_str(key, text),
        Any::Bool(value) => builder.push_bool(key, value),
        Any::Int(value) => builder.push_i64(key, value),
        Any::Double(value) => builder.push_f64(key, value),
        Any::Empty => builder.push_json(key, "null"),
        // What it writes is counted there.
        nested => return builder.push_written(key, |out| nested.write(out, 0, request)).under("value"),
    }
    // Escapes make a string up to six times as long.
    let written = builder.text_bytes() - before;
    Ok(request.charge(written.saturating_sub(key.len() + bytes.len()))?)
}

/// Appends the attributes of a nested message (all its fields numbered `field`) as one JSON
/// object; says whether there are any.
pub(super) fn write_attributes(
    message: &[u8],
    field: u32,
    name: &'static str,
    out: &mut String,
    request: &mut Request<'_>,
) -> Result<bool, Fault> {
    let mut n = 0;
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        if number == field {
            out.push(if n == 0 { '{' } else { ',' });
            let begun = out.len();
            value
                .len()
                .map_err(Fault::from)
                .and_then(|slice| write_entry(slice, out, 0, request))
                .map_err(|fault| fault.under(n).under(name))?;
            request.charge(out.len() - begun + 1)?;
            n += 1;
        }
    }
    if n > 0 {
        out.push('}');
    }
    Ok(n > 0)
}
