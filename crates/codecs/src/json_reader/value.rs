//! Values as slices of the input, and what they say.

use std::borrow::Cow;

/// A string as it stands in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    /// The text with its quotes.
    pub(super) quoted: &'a str,
    pub(super) escaped: bool,
    pub(super) lone_surrogate: bool,
}

/// A list or an object as it stands in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compound<'a> {
    /// The text, brackets included.
    pub(crate) raw: &'a str,
    /// How many brackets are open at its deepest point, its own included.
    pub(crate) depth: usize,
    /// Whether it has white space outside its strings.
    pub(super) spaced: bool,
    pub(super) lone_surrogate: bool,
}

/// Any value, as a slice of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Text<'a>),
    List(Compound<'a>),
    Object(Compound<'a>),
}

impl<'a> Text<'a> {
    /// A string of which nothing is escaped, with its quotes.
    #[inline(always)]
    pub(crate) fn of_plain(quoted: &'a str) -> Self {
        Self { quoted, escaped: false, lone_surrogate: false }
    }

    /// What the string says, if nothing of it is escaped.
    #[inline(always)]
    pub(crate) fn plain(self) -> Option<&'a str> {
        if self.escaped { None } else { Some(&self.quoted[1..self.quoted.len() - 1]) }
    }

    /// What the string says, with escapes resolved. A lone surrogate becomes U+FFFD.
    #[inline(always)]
    pub(crate) fn decode(self) -> Cow<'a, str> {
        let inner = &self.quoted[1..self.quoted.len() - 1];
        if self.escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) }
    }

    /// The string as it stands there, with its quotes.
    pub(crate) fn quoted(self) -> &'a str {
        self.quoted
    }

    pub(crate) fn has_lone_surrogate(self) -> bool {
        self.lone_surrogate
    }
}

impl<'a> Value<'a> {
    /// The value as it stands in the input.
    pub(crate) fn raw(self) -> &'a str {
        match self {
            Self::Null => "null",
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
            Self::Number(number) => number,
            Self::Text(text) => text.quoted,
            Self::List(compound) | Self::Object(compound) => compound.raw,
        }
    }

    /// What the value is, for messages.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    pub(crate) fn depth(self) -> usize {
        match self {
            Self::List(compound) | Self::Object(compound) => compound.depth,
            _ => 0,
        }
    }

    pub(crate) fn has_lone_surrogate(self) -> bool {
        match self {
            Self::Text(text) => text.lone_surrogate,
            Self::List(compound) | Self::Object(compound) => compound.lone_surrogate,
            _ => false,
        }
    }

    /// The value as compact JSON, in `scratch` where the input is not compact already. Strings
    /// that need no escapes lose them, so that equal strings have equal texts.
    pub(crate) fn compact<'s>(self, scratch: &'s mut String) -> &'s str
    where
        'a: 's,
    {
        match self {
            Self::Text(text) if text.escaped => {
                scratch.clear();
                weir_data::json::write_string(scratch, &text.decode());
                scratch
            }
            Self::List(compound) | Self::Object(compound) if compound.spaced => {
                scratch.clear();
                strip_white_space(compound.raw, scratch);
                scratch
            }
            _ => self.raw(),
        }
    }
}

/// Appends valid JSON without the white space between its tokens.
fn strip_white_space(raw: &str, out: &mut String) {
    let bytes = raw.as_bytes();
    let (mut kept, mut at, mut in_string) = (0, 0, false);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            // The escaped byte cannot end the string.
            b'\\' => at += 1,
            b' ' | b'\n' | b'\r' | b'\t' if !in_string => {
                out.push_str(&raw[kept..at]);
                kept = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    out.push_str(&raw[kept..]);
}

/// Resolves the escapes of a valid string without its quotes.
fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        let mut used = at + 2;
        match escape {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let unit = hex4(&rest.as_bytes()[at + 2..]).unwrap_or(0xfffd);
                used = at + 6;
                let low = rest
                    .as_bytes()
                    .get(used..)
                    .filter(|next| next.starts_with(b"\\u"))
                    .and_then(|next| hex4(&next[2..]));
                let character = match (unit, low) {
                    (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                        used += 6;
                        char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
                    }
                    _ => char::from_u32(unit),
                };
                out.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            other => out.push(char::from(other)),
        }
        rest = &rest[used..];
    }
    out.push_str(rest);
    out
}

pub(super) fn hex4(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..4)?;
    digits.iter().try_fold(0, |value, digit| Some(value * 16 + char::from(*digit).to_digit(16)?))
}
