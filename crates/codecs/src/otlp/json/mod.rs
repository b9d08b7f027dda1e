//! OTLP/JSON, rewritten to protobuf: one pass over the text, guided by the tables of [`schema`].
//!
//! JSON is the encoding of browsers and of `curl`, not of volume. To write the wire format and
//! decode that costs one copy, and leaves a single place where rows are made.
//!
//! Beyond the specification, lenient: original (`snake_case`) names, enums by name, base64 with
//! the URL alphabet or without padding. Strict: a name given twice, two members of a oneof, a
//! lone surrogate, a number that is none or does not fit. What is wrong inside a row refuses the
//! row; a time that cannot be one is kept and flagged, as everywhere in Weir.

mod schema;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use weir_data::RejectCode;

use self::schema::{Field, Guard, Kind, Message};
use super::Signal;
use super::request::{Fault, RowFault, too_large};
use super::value::DEPTH_MAX;
use crate::json_reader::{Reader, Syntax, Value};
use crate::{DecodeError, RowContext};

/// How deep messages may nest: those on the way to a value, and three for every level of it (map,
/// entry, value).
const MESSAGES_MAX: usize = 12 + 3 * DEPTH_MAX;

/// The bytes a length is written in: it is not known yet when its place is left free.
const LENGTH_BYTES: usize = 4;

/// What those bytes can say.
const OUT_MAX: usize = (1 << (7 * LENGTH_BYTES)) - 1;

const BASE64: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64_STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, BASE64);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, BASE64);

/// Protobuf bytes that were JSON: where they come from, and what was wrong with them.
#[derive(Debug)]
pub(super) struct Source<'a> {
    text: &'a str,
    /// In the order of `wire`.
    marks: Vec<Mark>,
}

/// A row, or a group that is faulty.
#[derive(Debug)]
struct Mark {
    /// Where its protobuf begins.
    wire: usize,
    begin: usize,
    end: usize,
    fault: Option<Box<RowFault>>,
}

impl<'a> Source<'a> {
    fn mark_at(&self, offset: usize) -> Option<&Mark> {
        let at = self.marks.binary_search_by_key(&offset, |mark| mark.wire).ok()?;
        self.marks.get(at)
    }

    /// The JSON text of the row at that offset.
    pub(super) fn text_of(&self, offset: usize) -> Option<&'a str> {
        let mark = self.mark_at(offset)?;
        self.text.get(mark.begin..mark.end)
    }

    /// What was wrong with the message at that offset.
    pub(super) fn fault_at(&self, offset: usize) -> Option<&RowFault> {
        self.mark_at(offset)?.fault.as_deref()
    }
}

/// Rewrites a request.
pub(super) fn to_protobuf<'a>(
    signal: Signal,
    body: &'a [u8],
    context: &RowContext<'_>,
) -> Result<(Vec<u8>, Source<'a>), DecodeError> {
    let message = match signal {
        Signal::Logs => &schema::LOGS_REQUEST,
        Signal::Traces => &schema::TRACES_REQUEST,
        Signal::Metrics => &schema::METRICS_REQUEST,
    };
    let reader = Reader::of_bytes(body).map_err(|syntax| malformed(&syntax))?;
    let mut writer = Writer { reader, out: Vec::new(), marks: Vec::new(), n_rows: 0, n_faults: 0, context };
    writer.message(message, 0).and_then(|()| writer.reader.end().map_err(Fault::from)).map_err(
        |fault| match fault {
            Fault::Stop(error) => *error,
            Fault::Row(fault) => DecodeError::Malformed { message: fault.message, place: fault.field },
        },
    )?;
    let Writer { reader, out, marks, .. } = writer;
    Ok((out, Source { text: reader.text(), marks }))
}

#[cold]
fn malformed(syntax: &Syntax) -> DecodeError {
    DecodeError::Malformed { message: syntax.what.to_owned(), place: format!("byte {}", syntax.at) }
}

impl From<Syntax> for Fault {
    #[cold]
    fn from(syntax: Syntax) -> Self {
        malformed(&syntax).into()
    }
}

struct Writer<'a, 'c> {
    reader: Reader<'a>,
    out: Vec<u8>,
    marks: Vec<Mark>,
    n_rows: usize,
    n_faults: usize,
    context: &'c RowContext<'c>,
}

impl Writer<'_, '_> {
    /// Rewrites the object that is next.
    fn message(&mut self, message: &'static Message, depth: usize) -> Result<(), Fault> {
        if self.reader.peek() != Some(b'{') {
            return Err(wrong_type("an object", self.reader.value()?));
        }
        if depth >= MESSAGES_MAX {
            return Err(Fault::row(
                RejectCode::Malformed,
                format!("the value is nested deeper than {DEPTH_MAX} levels"),
            ));
        }
        self.reader.enter();
        let mut seen = 0u32;
        let mut seen_oneof = false;
        let mut first = true;
        while let Some(name) = self.reader.member(&mut first)? {
            let name = name.decode();
            let Some(at) = message.fields.iter().position(|field| is_name(&name, field.name)) else {
                self.reader.value()?;
                continue;
            };
            let field = &message.fields[at];
            if self.reader.peek() == Some(b'n') {
                // Null is the same as absent; any other word is an error here.
                self.reader.value()?;
                continue;
            }
            if seen & (1 << at) != 0 {
                return Err(Fault::from("the field is given twice").under(snake(field.name)));
            }
            if field.in_oneof && seen_oneof {
                return Err(Fault::from("only one of these fields may be given").under(snake(field.name)));
            }
            seen |= 1 << at;
            seen_oneof |= field.in_oneof;
            self.field(field, depth).map_err(|fault| fault.under(snake(field.name)))?;
        }
        Ok(())
    }

    fn field(&mut self, field: &'static Field, depth: usize) -> Result<(), Fault> {
        if self.out.len() > self.context.decoded_bytes_max.min(OUT_MAX - 64) {
            return Err(self.over_budget());
        }
        if !field.repeated {
            return self.element(field, depth, true);
        }
        if self.reader.peek() != Some(b'[') {
            return Err(wrong_type("a list", self.reader.value()?));
        }
        self.reader.enter();
        let packed = match field.kind {
            Kind::Message(_) => None,
            _ => Some(self.begin(field.number)),
        };
        let mut first = true;
        let mut n = 0;
        while self.reader.item(&mut first)? {
            self.element(field, depth, packed.is_none()).map_err(|fault| fault.under(n))?;
            n += 1;
        }
        if let Some(start) = packed {
            self.end(start)?;
        }
        Ok(())
    }

    /// Rewrites one value; with its tag unless it is an element of a packed list.
    fn element(&mut self, field: &'static Field, depth: usize, tagged: bool) -> Result<(), Fault> {
        if let Kind::Message(message) = field.kind {
            let start = self.begin(field.number);
            match message.guard {
                Guard::None => self.message(message, depth + 1)?,
                guard => self.guarded(message, guard, start, depth)?,
            }
            return self.end(start);
        }
        let value = self.reader.value()?;
        if value.has_lone_surrogate() {
            return Err(Fault::from("the text has half of a surrogate pair"));
        }
        match field.kind {
            Kind::Bool => match value {
                Value::Bool(bool) => self.varint_field(field, tagged, u64::from(bool)),
                other => return Err(wrong_type("a boolean", other)),
            },
            Kind::Int64 => {
                let number: i64 = integer(value)?;
                self.varint_field(field, tagged, number.cast_unsigned());
            }
            Kind::Uint32 => {
                let number: u32 = integer(value)?;
                self.varint_field(field, tagged, u64::from(number));
            }
            Kind::Uint64 => {
                let number: u64 = integer(value)?;
                self.varint_field(field, tagged, number);
            }
            Kind::Sint32 => {
                let number: i32 = integer(value)?;
                let zigzag = (number << 1) ^ (number >> 31);
                self.varint_field(field, tagged, u64::from(zigzag.cast_unsigned()));
            }
            Kind::Fixed32 => {
                let number: u32 = integer(value)?;
                self.tag(field, 5, tagged);
                self.out.extend(number.to_le_bytes());
            }
            Kind::Fixed64 => {
                let number: u64 = integer(value)?;
                self.fixed64_field(field, tagged, number);
            }
            Kind::Sfixed64 => {
                let number: i64 = integer(value)?;
                self.fixed64_field(field, tagged, number.cast_unsigned());
            }
            Kind::Time => {
                let time = match integer(value) {
                    Ok(time) => time,
                    Err(fault) if !matches!(value, Value::Text(_) | Value::Number(_)) => return Err(fault),
                    // Beyond every time, so it is flagged as impossible.
                    Err(_) => u64::MAX,
                };
                self.fixed64_field(field, tagged, time);
            }
            Kind::Double => {
                let number = double(value)?;
                self.fixed64_field(field, tagged, number.to_bits());
            }
            Kind::Enum(names) => {
                let number = enumerated(value, names)?;
                self.varint_field(field, tagged, i64::from(number).cast_unsigned());
            }
            Kind::Text => match value {
                Value::Text(text) => self.bytes_field(field, text.decode().as_bytes())?,
                other => return Err(wrong_type("a string", other)),
            },
            Kind::Bytes => match value {
                Value::Text(text) => {
                    let text = text.decode();
                    let bytes = BASE64_STANDARD.decode(text.as_bytes()).or_else(|_| BASE64_URL.decode(text.as_bytes()));
                    self.bytes_field(field, &bytes.map_err(|_| Fault::from("the text is not base64"))?)?;
                }
                other => return Err(wrong_type("base64 in a string", other)),
            },
            Kind::Id => match value {
                Value::Text(text) => {
                    let id =
                        hex::decode(text.decode().as_bytes()).map_err(|_| Fault::from("the id is not hexadecimal"))?;
                    self.bytes_field(field, &id)?;
                }
                other => return Err(wrong_type("hexadecimal in a string", other)),
            },
            Kind::Message(_) => {}
        }
        Ok(())
    }

    /// Rewrites a message whose faults stay with it: it is left empty then, and marked.
    fn guarded(&mut self, message: &'static Message, guard: Guard, start: usize, depth: usize) -> Result<(), Fault> {
        if self.out.len() + self.marks.len() * size_of::<Mark>() > self.context.decoded_bytes_max {
            return Err(self.over_budget());
        }
        self.reader.peek();
        let begin = self.reader.at();
        let (n_marks, n_rows) = (self.marks.len(), self.n_rows);
        if guard == Guard::Row {
            self.count_row()?;
        }
        let result = self.message(message, depth + 1).and_then(|()| {
            let (length, row_bytes_max) = (self.reader.at() - begin, self.context.row_bytes_max);
            if guard == Guard::Row && length > row_bytes_max {
                return Err(too_large("row_bytes_max", row_bytes_max, length));
            }
            Ok(())
        });
        let fault = match result {
            Ok(()) if guard == Guard::Row => None,
            Ok(()) => return Ok(()),
            Err(Fault::Stop(error)) => return Err(Fault::Stop(error)),
            Err(Fault::Row(fault)) => {
                self.reader.rewind(begin);
                self.reader.value()?;
                self.out.truncate(start);
                self.marks.truncate(n_marks);
                self.n_rows = n_rows + 1;
                self.n_faults += 1;
                if self.n_faults > self.context.rows_max {
                    return Err(self.too_many_rows(self.n_faults));
                }
                Some(fault)
            }
        };
        self.marks.push(Mark { wire: start, begin, end: self.reader.at(), fault });
        Ok(())
    }

    fn count_row(&mut self) -> Result<(), Fault> {
        self.n_rows += 1;
        if self.n_rows > self.context.rows_max { Err(self.too_many_rows(self.n_rows)) } else { Ok(()) }
    }

    #[cold]
    fn too_many_rows(&self, rows: usize) -> Fault {
        let value = self.context.rows_max as u64;
        DecodeError::TooLarge { limit: "rows_per_request_max", value, actual: rows as u64 }.into()
    }

    #[cold]
    fn over_budget(&self) -> Fault {
        let value = self.context.decoded_bytes_max.min(OUT_MAX) as u64;
        DecodeError::TooLarge { limit: "decoded_bytes_max", value, actual: self.out.len() as u64 }.into()
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn tag(&mut self, field: &Field, wire_type: u32, tagged: bool) {
        if tagged {
            self.varint(u64::from(field.number << 3 | wire_type));
        }
    }

    fn varint_field(&mut self, field: &Field, tagged: bool, value: u64) {
        self.tag(field, 0, tagged);
        self.varint(value);
    }

    fn fixed64_field(&mut self, field: &Field, tagged: bool, value: u64) {
        self.tag(field, 1, tagged);
        self.out.extend(value.to_le_bytes());
    }

    fn bytes_field(&mut self, field: &Field, bytes: &[u8]) -> Result<(), Fault> {
        let start = self.begin(field.number);
        self.out.extend(bytes);
        self.end(start)
    }

    /// Begins a length-delimited field; gives where its content begins.
    fn begin(&mut self, number: u32) -> usize {
        self.varint(u64::from(number << 3 | 2));
        self.out.extend([0; LENGTH_BYTES]);
        self.out.len()
    }

    /// Writes the length of what began at `start`, in as many bytes as were left for it.
    fn end(&mut self, start: usize) -> Result<(), Fault> {
        let length = self.out.len() - start;
        if self.out.len() > OUT_MAX {
            return Err(self.over_budget());
        }
        for (n, byte) in self.out[start - LENGTH_BYTES..start].iter_mut().enumerate() {
            let more = if n + 1 < LENGTH_BYTES { 0x80 } else { 0 };
            *byte = (length >> (7 * n)) as u8 & 0x7f | more;
        }
        Ok(())
    }
}

/// Whether a member is the field of that lowerCamelCase name, by it or by the original one.
fn is_name(given: &str, name: &str) -> bool {
    if given == name {
        return true;
    }
    let mut rest = given.bytes();
    let matches = name.bytes().all(|byte| match byte {
        b'A'..=b'Z' => rest.next() == Some(b'_') && rest.next() == Some(byte.to_ascii_lowercase()),
        _ => rest.next() == Some(byte),
    });
    matches && rest.next().is_none()
}

/// The original name of a field.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cold]
fn wrong_type(expected: &str, found: Value<'_>) -> Fault {
    Fault::row(RejectCode::WrongType, format!("expected {expected}, found {}", found.describe()))
}

/// A number given as such or, as 64-bit integers should be, in a string.
fn with_number<T>(value: Value<'_>, expected: &str, read: impl FnOnce(&str) -> Result<T, Fault>) -> Result<T, Fault> {
    match value {
        Value::Number(number) => read(number),
        Value::Text(text) => read(&text.decode()),
        other => Err(wrong_type(expected, other)),
    }
}

/// An integer; `1.0` and `1e3` are some too.
fn integer<T: TryFrom<i128>>(value: Value<'_>) -> Result<T, Fault> {
    with_number(value, "an integer", |text| {
        let number = text.parse::<i128>().ok().or_else(|| exact(text));
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| Fault::row(RejectCode::OutOfRange, "the number is not an integer, or does not fit"))
    })
}

/// The integer that a number with a fraction or an exponent stands for.
#[allow(clippy::cast_possible_truncation, reason = "checked: it has no fraction and is small")]
fn exact(text: &str) -> Option<i128> {
    let number = finite(text)?;
    (number.fract() == 0.0 && number.abs() < 1e20).then_some(number as i128)
}

/// A number as JSON writes it; not the other words that the standard library takes for one.
fn finite(text: &str) -> Option<f64> {
    let looks_like_one = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
    text.parse::<f64>().ok().filter(|number| looks_like_one && number.is_finite())
}

fn double(value: Value<'_>) -> Result<f64, Fault> {
    with_number(value, "a number", |text| match text {
        "NaN" => Ok(f64::NAN),
        "Infinity" => Ok(f64::INFINITY),
        "-Infinity" => Ok(f64::NEG_INFINITY),
        _ => finite(text).ok_or_else(|| Fault::row(RejectCode::OutOfRange, "the number is none, or does not fit")),
    })
}

fn enumerated(value: Value<'_>, names: &[(&str, i32)]) -> Result<i32, Fault> {
    if let Value::Text(text) = value {
        let text = text.decode();
        if let Some((_, number)) = names.iter().find(|(name, _)| *name == text) {
            return Ok(*number);
        }
    }
    integer(value)
}
