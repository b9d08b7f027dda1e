//! Attribute values: from the JSON text they are stored as to `AnyValue` messages.
//!
//! The text is JSON with what [`weir_data::attributes`] adds to it: doubles that are not finite stand bare, and bytes are
//! `{"$bytes":"<base64>"}`. A number is an integer if it is written as one and fits, as it was when it was decoded. Text that is
//! none of this (a pipeline may put anything into a map) is sent as it is, as a string.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::wire::Writer;
use crate::otlp::value::DEPTH_MAX;

/// Writes one attribute as a `KeyValue`, field `field` of the message that is open.
pub(super) fn write_attribute(field: u32, key: &str, value: &str, out: &mut Writer) {
    out.message(field, |out| {
        out.text(1, Some(key));
        out.message(2, |out| write_value(value, out));
    });
}

/// The same for a value that is a plain text.
pub(super) fn write_text_attribute(field: u32, key: &str, value: &str, out: &mut Writer) {
    out.message(field, |out| {
        out.text(1, Some(key));
        out.message(2, |out| out.bytes(1, value.as_bytes()));
    });
}

/// Writes the members of an object as `KeyValue`s, each field `field`; nothing of a text that is no object.
pub(super) fn write_object(field: u32, object: &str, out: &mut Writer) {
    if let Some(Json::Object(members)) = parse(object) {
        for (key, value) in &members {
            write_member(field, key, value, out);
        }
    }
}

fn write_member(field: u32, key: &str, value: &Json, out: &mut Writer) {
    out.message(field, |out| {
        out.text(1, Some(key));
        out.message(2, |out| value.write(out));
    });
}

/// Writes the members of an `AnyValue`.
fn write_value(text: &str, out: &mut Writer) {
    // Most values are short strings without escapes.
    if let [b'"', inner @ .., b'"'] = text.as_bytes()
        && !inner.contains(&b'\\')
        && !inner.contains(&b'"')
    {
        return out.bytes(1, inner);
    }
    match parse(text) {
        Some(value) => value.write(out),
        None => out.bytes(1, text.as_bytes()),
    }
}

/// A value, in the order in which it is written; names may come twice, as they may in OTLP.
#[derive(Debug, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn write(&self, out: &mut Writer) {
        match self {
            // No member of the oneof is set.
            Self::Null => {}
            Self::Text(text) => out.bytes(1, text.as_bytes()),
            Self::Bool(value) => out.varint(2, u64::from(*value)),
            Self::Int(value) => out.varint(3, value.cast_unsigned()),
            Self::Double(value) => out.double(4, *value),
            Self::List(items) => out.message(5, |out| {
                for item in items {
                    out.message(1, |out| item.write(out));
                }
            }),
            Self::Object(members) => out.message(6, |out| {
                for (key, value) in members {
                    write_member(1, key, value, out);
                }
            }),
            Self::Bytes(bytes) => out.bytes(7, bytes),
        }
    }
}

fn parse(text: &str) -> Option<Json> {
    let mut parser = Parser { rest: text };
    let value = parser.value(0)?;
    parser.blank();
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn blank(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn eat(&mut self, token: &str) -> Option<()> {
        self.blank();
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        self.blank();
        match self.rest.as_bytes().first()? {
            b'"' => self.string().map(Json::Text),
            b'[' => self.list(depth),
            b'{' => self.object(depth),
            _ => self.bare(),
        }
    }

    /// A number or a name.
    fn bare(&mut self) -> Option<Json> {
        let end = self.rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(match token {
            "null" => Json::Null,
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            "NaN" => Json::Double(f64::NAN),
            "Infinity" => Json::Double(f64::INFINITY),
            "-Infinity" => Json::Double(f64::NEG_INFINITY),
            _ => {
                let is_number =
                    token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
                if !is_number {
                    return None;
                }
                match token.parse::<i64>() {
                    // A plus is no JSON, and minus zero is a double.
                    Ok(int) if !token.starts_with('+') && token != "-0" => Json::Int(int),
                    _ => Json::Double(token.parse().ok()?),
                }
            }
        })
    }

    fn string(&mut self) -> Option<String> {
        let text: &'a str = self.rest;
        let bytes = text.as_bytes();
        let mut end = 1;
        loop {
            match bytes.get(end)? {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        let (token, rest) = text.split_at_checked(end + 1)?;
        self.rest = rest;
        if token.contains('\\') {
            return serde_json::from_str(token).ok();
        }
        Some(token[1..token.len() - 1].to_owned())
    }

    fn list(&mut self, depth: usize) -> Option<Json> {
        self.eat("[")?;
        let mut items = Vec::new();
        if depth >= DEPTH_MAX {
            return None;
        }
        if self.eat("]").is_some() {
            return Some(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.eat(",").is_none() {
                self.eat("]")?;
                return Some(Json::List(items));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        self.eat("{")?;
        let mut members: Vec<(String, Json)> = Vec::new();
        if depth >= DEPTH_MAX {
            return None;
        }
        if self.eat("}").is_some() {
            return Some(Json::Object(members));
        }
        loop {
            self.blank();
            if !self.rest.starts_with('"') {
                return None;
            }
            let key = self.string()?;
            self.eat(":")?;
            members.push((key, self.value(depth + 1)?));
            if self.eat(",").is_none() {
                self.eat("}")?;
                break;
            }
        }
        if let [(key, Json::Text(text))] = members.as_slice()
            && key == "$bytes"
            && let Ok(bytes) = STANDARD.decode(text)
        {
            return Some(Json::Bytes(bytes));
        }
        Some(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_were_before_they_were_text() {
        let text = |text: &str| Some(Json::Text(text.to_owned()));
        for (written, value) in [
            ("\"a\\n\\u00e9\"", text("a\né")),
            ("\"\"", text("")),
            ("12", Some(Json::Int(12))),
            ("-9223372036854775808", Some(Json::Int(i64::MIN))),
            ("9223372036854775808", Some(Json::Double(9_223_372_036_854_775_808.0))),
            ("1.0", Some(Json::Double(1.0))),
            ("-0", Some(Json::Double(-0.0))),
            ("1e300", Some(Json::Double(1e300))),
            ("Infinity", Some(Json::Double(f64::INFINITY))),
            ("null", Some(Json::Null)),
            (
                "[1, [true], {}]",
                Some(Json::List(vec![Json::Int(1), Json::List(vec![Json::Bool(true)]), Json::Object(vec![])])),
            ),
            ("{\"$bytes\":\"AAE=\"}", Some(Json::Bytes(vec![0, 1]))),
            (
                "{\"$bytes\":\"no base64!\"}",
                Some(Json::Object(vec![("$bytes".to_owned(), Json::Text("no base64!".to_owned()))])),
            ),
            // None of it is JSON: it is sent as it is.
            ("", None),
            ("hello", None),
            ("\"a", None),
            ("\"a\\\"", None),
            ("[1", None),
            ("[1,]", None),
            ("{\"a\"}", None),
            ("{a:1}", None),
            ("1 2", None),
            ("+1.", Some(Json::Double(1.0))),
        ] {
            assert_eq!(parse(written), value, "{written}");
        }
        assert!(parse(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_some());
        assert!(parse(&format!("{}{}", "[".repeat(65), "]".repeat(65))).is_none());
        assert!(parse(&"[".repeat(1 << 20)).is_none());
    }
}
