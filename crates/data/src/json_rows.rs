//! Rows as JSON, for answers, files and messages alike.
//!
//! Timestamps are RFC 3339 in UTC with as many digits as they have; integers are numbers; NaN and
//! infinities are null; maps and structs are objects; text that is known to be JSON is embedded, with
//! null for numbers that no double holds; bytes are base64.

use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Field, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use serde::de::IgnoredAny;

use crate::json::write_string;
use crate::streams::{JSON_MARK, is_attributes};

/// The rows as objects, one a line.
pub fn lines(batch: &RecordBatch, names: &[String]) -> Vec<u8> {
    let cells = cells(batch);
    let names: Vec<String> = names
        .iter()
        .map(|name| {
            let mut quoted = String::new();
            write_string(&mut quoted, name);
            quoted
        })
        .collect();
    let mut out = String::with_capacity(batch.num_rows() * batch.num_columns() * 20);
    for row in 0..batch.num_rows() {
        out.push('{');
        for (at, (cell, name)) in cells.iter().zip(&names).enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(name);
            out.push(':');
            cell(&mut out, row);
        }
        out.push_str("}\n");
    }
    out.into_bytes()
}

/// Whether a column's text is JSON.
pub fn is_json(field: &Field) -> bool {
    field.metadata().contains_key(JSON_MARK)
        && matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Writes the value of a row.
pub type Cell<'a> = Box<dyn Fn(&mut String, usize) + Send + 'a>;

/// How the values of each column of a batch are written.
pub fn cells(batch: &RecordBatch) -> Vec<Cell<'_>> {
    batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| cell(field, column)).collect()
}

/// How the values of a column are written, decided once.
pub fn cell<'a>(field: &Field, array: &'a ArrayRef) -> Cell<'a> {
    let value = value(field, array);
    if array.null_count() == 0 && array.data_type() != &DataType::Null {
        return value;
    }
    match array.logical_nulls() {
        Some(nulls) => Box::new(move |out, row| {
            if nulls.is_null(row) {
                out.push_str("null");
            } else {
                value(out, row);
            }
        }),
        None => value,
    }
}

/// Which number of a column JSON has no way to write, for formats that tell it from null; `None` if the column has no
/// such numbers. The names are those that DuckDB and ClickHouse write into CSV, and read.
pub fn not_finite(array: &ArrayRef) -> Option<Box<dyn Fn(usize) -> Option<&'static str> + Send + '_>> {
    fn name(value: f64) -> Option<&'static str> {
        match value {
            value if value.is_finite() => None,
            value if value.is_nan() => Some("nan"),
            value if value > 0.0 => Some("inf"),
            _ => Some("-inf"),
        }
    }
    macro_rules! named {
        ($kind:ty) => {{
            let array = array.as_primitive::<$kind>();
            Some(Box::new(move |row| if array.is_null(row) { None } else { name(f64::from(array.value(row))) }))
        }};
    }
    match array.data_type() {
        DataType::Float16 => named!(Float16Type),
        DataType::Float32 => named!(Float32Type),
        DataType::Float64 => named!(Float64Type),
        _ => None,
    }
}

macro_rules! integers {
    ($array:expr, $kind:ty) => {{
        let array = $array.as_primitive::<$kind>();
        Box::new(move |out, row| out.push_str(itoa::Buffer::new().format(array.value(row))))
    }};
}

fn write_float(out: &mut String, value: f64) {
    if value.is_finite() {
        // Whole numbers within reach of an integer are written without a fraction, as JavaScript does.
        if value == value.trunc() && value.abs() < 1e15 {
            if value == 0.0 && value.is_sign_negative() {
                out.push_str("-0.0");
            } else {
                let _ = write!(out, "{value:.0}");
            }
        } else {
            out.push_str(ryu::Buffer::new().format_finite(value));
        }
    } else {
        out.push_str("null");
    }
}

fn value<'a>(field: &Field, array: &'a ArrayRef) -> Cell<'a> {
    match array.data_type() {
        DataType::Null => Box::new(|out, _| out.push_str("null")),
        DataType::Boolean => {
            let array = array.as_boolean();
            Box::new(move |out, row| out.push_str(if array.value(row) { "true" } else { "false" }))
        }
        DataType::Int8 => integers!(array, Int8Type),
        DataType::Int16 => integers!(array, Int16Type),
        DataType::Int32 => integers!(array, Int32Type),
        DataType::Int64 => integers!(array, Int64Type),
        DataType::UInt8 => integers!(array, UInt8Type),
        DataType::UInt16 => integers!(array, UInt16Type),
        DataType::UInt32 => integers!(array, UInt32Type),
        DataType::UInt64 => integers!(array, UInt64Type),
        DataType::Float16 => {
            let array = array.as_primitive::<Float16Type>();
            Box::new(move |out, row| write_float(out, f64::from(array.value(row))))
        }
        DataType::Float32 => {
            let array = array.as_primitive::<Float32Type>();
            Box::new(move |out, row| {
                let value = array.value(row);
                if value.is_finite() {
                    out.push_str(ryu::Buffer::new().format_finite(value));
                } else {
                    out.push_str("null");
                }
            })
        }
        DataType::Float64 => {
            let array = array.as_primitive::<Float64Type>();
            Box::new(move |out, row| write_float(out, array.value(row)))
        }
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            let formatted = formatted(array);
            Box::new(move |out, row| formatted(out, row))
        }
        DataType::Utf8 => {
            let array = array.as_string::<i32>();
            texts(is_json(field), move |row| array.value(row))
        }
        DataType::LargeUtf8 => {
            let array = array.as_string::<i64>();
            texts(is_json(field), move |row| array.value(row))
        }
        DataType::Utf8View => {
            let array = array.as_string_view();
            texts(is_json(field), move |row| array.value(row))
        }
        DataType::Binary => {
            let array = array.as_binary::<i32>();
            Box::new(move |out, row| write_base64(out, array.value(row)))
        }
        DataType::LargeBinary => {
            let array = array.as_binary::<i64>();
            Box::new(move |out, row| write_base64(out, array.value(row)))
        }
        DataType::BinaryView => {
            let array = array.as_binary_view();
            Box::new(move |out, row| write_base64(out, array.value(row)))
        }
        DataType::FixedSizeBinary(_) => {
            let array = array.as_fixed_size_binary();
            Box::new(move |out, row| write_base64(out, array.value(row)))
        }
        DataType::Timestamp(unit, _) => timestamps(*unit, array),
        DataType::Date32 => {
            let array = array.as_primitive::<Date32Type>();
            Box::new(move |out, row| {
                out.push('"');
                write_date(out, i64::from(array.value(row)));
                out.push('"');
            })
        }
        DataType::Date64 => {
            let array = array.as_primitive::<Date64Type>();
            Box::new(move |out, row| {
                out.push('"');
                write_date(out, array.value(row).div_euclid(86_400_000));
                out.push('"');
            })
        }
        DataType::List(item) => {
            let array = array.as_list::<i32>();
            let items = cell(item, array.values());
            let offsets = array.value_offsets();
            lists(items, move |row| (offsets[row] as usize, offsets[row + 1] as usize))
        }
        DataType::LargeList(item) => {
            let array = array.as_list::<i64>();
            let items = cell(item, array.values());
            let offsets = array.value_offsets();
            lists(items, move |row| (offsets[row] as usize, offsets[row + 1] as usize))
        }
        DataType::FixedSizeList(item, size) => {
            let array = array.as_fixed_size_list();
            let items = cell(item, array.values());
            let size = usize::try_from(*size).unwrap_or(0);
            lists(items, move |row| (row * size, (row + 1) * size))
        }
        DataType::Struct(fields) => {
            let array = array.as_struct();
            let members: Vec<(String, Cell<'a>)> = fields
                .iter()
                .zip(array.columns())
                .map(|(field, column)| {
                    let mut name = String::new();
                    write_string(&mut name, field.name());
                    (name, cell(field, column))
                })
                .collect();
            Box::new(move |out, row| {
                out.push('{');
                for (at, (name, member)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    out.push_str(name);
                    out.push(':');
                    member(out, row);
                }
                out.push('}');
            })
        }
        DataType::Map(entries, _) => {
            let array = array.as_map();
            let keys = plain_keys(array.keys());
            // By the type as well, because what an expression computes has lost the mark.
            let is_open = field.metadata().contains_key(JSON_MARK) || is_attributes(array.data_type());
            let values = match (is_open, array.values().data_type(), entries.data_type()) {
                (true, DataType::Utf8, _) => {
                    let values = array.values().as_string::<i32>();
                    texts(true, move |row| values.value(row))
                }
                (_, _, DataType::Struct(fields)) if fields.len() == 2 => cell(&fields[1], array.values()),
                _ => formatted_text(array.values()),
            };
            let offsets = array.value_offsets();
            Box::new(move |out, row| {
                out.push('{');
                let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
                for at in start..end {
                    if at > start {
                        out.push(',');
                    }
                    keys(out, at);
                    out.push(':');
                    values(out, at);
                }
                out.push('}');
            })
        }
        DataType::Dictionary(_, of) => match arrow::compute::cast(array, of) {
            // The values are copied out once; the writer keeps them.
            Ok(plain) => owned(field.clone(), plain),
            Err(_) => formatted_text(array),
        },
        _ => formatted_text(array),
    }
}

/// A writer that keeps its own array, for values that had to be converted first.
fn owned<'a>(field: Field, array: ArrayRef) -> Cell<'a> {
    Box::new(move |out, row| cell(&field, &array.slice(row, 1))(out, 0))
}

fn texts<'a>(embedded: bool, text: impl Fn(usize) -> &'a str + Send + 'a) -> Cell<'a> {
    if embedded {
        Box::new(move |out, row| embed(out, text(row)))
    } else {
        Box::new(move |out, row| write_string(out, text(row)))
    }
}

fn lists<'a>(items: Cell<'a>, range: impl Fn(usize) -> (usize, usize) + Send + 'a) -> Cell<'a> {
    Box::new(move |out, row| {
        out.push('[');
        let (start, end) = range(row);
        for at in start..end {
            if at > start {
                out.push(',');
            }
            items(out, at);
        }
        out.push(']');
    })
}

/// The keys of a map are texts in JSON, whatever they are here.
fn plain_keys(keys: &ArrayRef) -> Cell<'_> {
    match keys.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => cell(&Field::new("", DataType::Utf8, true), keys),
        _ => formatted_text(keys),
    }
}

fn formatted<'a>(array: &'a ArrayRef) -> impl Fn(&mut String, usize) + Send + 'a {
    let options = FormatOptions::default();
    let array = ArrayHandle(array);
    move |out, row| {
        if let Ok(formatter) = ArrayFormatter::try_new(array.0.as_ref(), &options) {
            let _ = write!(out, "{}", formatter.value(row));
        }
    }
}

struct ArrayHandle<'a>(&'a ArrayRef);

/// What has no form of its own in JSON: as Arrow writes it, in quotes.
fn formatted_text(array: &ArrayRef) -> Cell<'_> {
    let formatted = formatted(array);
    Box::new(move |out, row| {
        let mut text = String::new();
        formatted(&mut text, row);
        write_string(out, &text);
    })
}

fn write_base64(out: &mut String, bytes: &[u8]) {
    out.push('"');
    base64::engine::general_purpose::STANDARD.encode_string(bytes, out);
    out.push('"');
}

/// A number of so many digits without an exponent is finite.
const FINITE_BYTES: usize = 300;

/// The length of the number at the start of `text`, and whether a double holds it: most clients refuse the whole
/// answer if it has one that none does.
fn number_at(text: &str) -> (usize, bool) {
    let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = text.bytes().take_while(part).count();
    let number = &text[..length];
    let is_suspect = length > FINITE_BYTES || number.bytes().any(|byte| matches!(byte, b'e' | b'E'));
    (length, !is_suspect || !number.parse::<f64>().is_ok_and(f64::is_infinite))
}

/// Appends text that is JSON, with numbers JSON does not have, or that no double holds, as null; text that is no JSON
/// after all is quoted, so that the answer stays valid whatever is stored.
fn embed(out: &mut String, text: &str) {
    match text {
        "NaN" | "Infinity" | "-Infinity" => return out.push_str("null"),
        "true" | "false" | "null" => return out.push_str(text),
        _ => {}
    }
    let start = out.len();
    let mut quoted = false;
    let mut escaped = false;
    let mut copied = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
        } else if byte == b'"' {
            quoted = true;
        } else if matches!(byte, b'N' | b'I' | b'-' | b'0'..=b'9') {
            let rest = &text[at..];
            let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word));
            let (length, is_held) = word.map_or_else(|| number_at(rest), |word| (word.len(), false));
            if !is_held {
                out.push_str(&text[copied..at]);
                out.push_str("null");
                copied = at + length;
            }
            at += length.max(1);
            continue;
        }
        at += 1;
    }
    out.push_str(&text[copied..]);
    if serde_json::from_str::<IgnoredAny>(&out[start..]).is_err() {
        out.truncate(start);
        write_string(out, text);
    }
}

fn timestamps(unit: TimeUnit, array: &ArrayRef) -> Cell<'_> {
    macro_rules! writer {
        ($kind:ty, $per_second:expr) => {{
            let array = array.as_primitive::<$kind>();
            Box::new(move |out, row| {
                let value = array.value(row);
                let nanos = value.rem_euclid($per_second) * (1_000_000_000 / $per_second);
                out.push('"');
                write_timestamp(out, value.div_euclid($per_second), nanos);
                out.push('"');
            })
        }};
    }
    match unit {
        TimeUnit::Second => writer!(TimestampSecondType, 1),
        TimeUnit::Millisecond => writer!(TimestampMillisecondType, 1_000),
        TimeUnit::Microsecond => writer!(TimestampMicrosecondType, 1_000_000),
        TimeUnit::Nanosecond => writer!(TimestampNanosecondType, 1_000_000_000),
    }
}

/// Appends a moment as RFC 3339 in UTC, with as many digits as it has.
pub fn write_timestamp(out: &mut String, seconds: i64, nanos: i64) {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    write_date(out, days);
    // Digit by digit, because formatting took 6 % of the CPU time of a pipeline from Kafka to Kafka.
    let mut text = *b"T00:00:00.000000000Z";
    for (place, part) in [(1, second / 3600), (4, second / 60 % 60), (7, second % 60)] {
        write_digits(&mut text[place..place + 2], part);
    }
    let mut length = 9;
    if nanos > 0 {
        write_digits(&mut text[10..19], nanos);
        length = text[..19].iter().rposition(|digit| *digit != b'0').map_or(19, |last| last + 1);
    }
    text[length] = b'Z';
    out.push_str(std::str::from_utf8(&text[..=length]).unwrap_or_default());
}

/// Fills `text` with the last digits of a number.
fn write_digits(text: &mut [u8], mut number: i64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

/// Appends the date that is `days` after 1970-01-01 in the Gregorian calendar.
fn write_date(out: &mut String, days: i64) {
    // Years are counted from March, in eras of 400 years (146,097 days), so that the leap day is
    // the last of its year.
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if (0..=9999).contains(&year) {
        let mut text = *b"0000-00-00";
        for (place, part) in [(0..4, year), (5..7, month), (8..10, day)] {
            write_digits(&mut text[place], part);
        }
        out.push_str(std::str::from_utf8(&text).unwrap_or_default());
    } else {
        let _ = write!(out, "{year:+05}-{month:02}-{day:02}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Strict readers refuse all of an answer with such a number in it.
    #[test]
    fn embedded_numbers_are_such_as_clients_can_read() {
        let long = "9".repeat(400);
        let (of_long, fraction) = (format!("[{long},\"{long}\"]"), format!("0.{long}"));
        for (stored, expected) in [
            ("1e400", "null"),
            ("-1E+999", "null"),
            ("1e308", "1e308"),
            ("-0", "-0"),
            ("1e-400", "1e-400"),
            ("9007199254740993", "9007199254740993"),
            (&fraction, &fraction),
            (&of_long, &format!("[null,\"{long}\"]")),
            (
                r#"{"a":1e400,"b":[-1.5e999,2],"1e400":"1e400\"1e400","c":-Infinity}"#,
                r#"{"a":null,"b":[null,2],"1e400":"1e400\"1e400","c":null}"#,
            ),
            // What is no JSON stays what it is, in quotes.
            ("1e", "\"1e\""),
            ("-", "\"-\""),
            ("1e400x", "\"1e400x\""),
        ] {
            let mut text = String::new();
            embed(&mut text, stored);
            assert_eq!(text, expected, "{stored}");
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }

    /// What an expression makes of open columns has no metadata, and neither have the items of a list.
    #[test]
    fn open_columns_are_known_by_their_type() {
        use crate::attributes::AttributesBuilder;
        use crate::streams::attributes_type;
        let mut builder = AttributesBuilder::with_capacity(1);
        builder.push_json("a", "7");
        builder.push_str("b", "x");
        builder.end_row();
        let map: ArrayRef = builder.finish().0;
        let write = |data_type: &DataType, array: &ArrayRef| {
            let mut text = String::new();
            cell(&Field::new("d", data_type.clone(), true), array)(&mut text, 0);
            text
        };
        assert_eq!(write(&attributes_type(), &map), r#"{"a":7,"b":"x"}"#);
        let item = std::sync::Arc::new(Field::new("item", attributes_type(), true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([1]);
        let list: ArrayRef = std::sync::Arc::new(
            arrow::array::ListArray::try_new(std::sync::Arc::clone(&item), offsets, map, None).unwrap(),
        );
        assert_eq!(write(&DataType::List(item), &list), r#"[{"a":7,"b":"x"}]"#);
        // The texts of another map are texts, also such as look like numbers.
        let mut other =
            arrow::array::MapBuilder::new(None, arrow::array::StringBuilder::new(), arrow::array::StringBuilder::new());
        other.keys().append_value("a");
        other.values().append_value("7");
        other.append(true).unwrap();
        let other: ArrayRef = std::sync::Arc::new(other.finish());
        assert_eq!(write(&other.data_type().clone(), &other), r#"{"a":"7"}"#);
    }

    #[test]
    fn a_moment_has_as_many_digits_as_it_needs() {
        for (seconds, nanos, expected) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_767_225_599, 999_999_999, "2025-12-31T23:59:59.999999999Z"),
            (1_767_225_600, 100_000_000, "2026-01-01T00:00:00.1Z"),
            (1_709_210_096, 50_000, "2024-02-29T12:34:56.00005Z"),
            (1_709_210_096, 1, "2024-02-29T12:34:56.000000001Z"),
            (-1, 0, "1969-12-31T23:59:59Z"),
            (-62_167_219_200, 0, "0000-01-01T00:00:00Z"),
            (-62_167_219_201, 0, "-0001-12-31T23:59:59Z"),
            (253_402_300_800, 0, "+10000-01-01T00:00:00Z"),
        ] {
            let mut text = String::new();
            write_timestamp(&mut text, seconds, nanos);
            assert_eq!(text, expected);
        }
    }
}
