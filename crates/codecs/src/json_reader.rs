//! A pull reader over JSON text: one pass, no tree, values as slices of the input.
//!
//! It exists because the decoders need what general parsers do not give together: the raw text of
//! every row (for `_rejected`), byte offsets of errors, no recursion whatever the nesting, and no
//! allocation for what goes straight into a column. It accepts exactly RFC 8259; a lone surrogate
//! in a string is syntactically fine there, so it is reported beside the value and left to the
//! caller to refuse.

mod scan;
#[cfg(test)]
mod tests;
mod value;

use scan::string_stop;
use value::hex4;
pub(crate) use value::{Compound, Text, Value};

/// The text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Syntax {
    /// The offset of the offending byte.
    pub(crate) at: usize,
    /// What is wrong there.
    pub(crate) what: &'static str,
}

/// Reads values one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The brackets open while a compound is skipped: a heap stack, bounded by the input.
    open: Vec<u8>,
    /// The name that [`any_member`](Self::any_member) has read.
    name: Text<'a>,
}

/// No name.
const NAMELESS: Text<'static> = Text { quoted: "\"\"", escaped: false, lone_surrogate: false };

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, open: Vec::new(), name: NAMELESS }
    }

    /// A reader that uses the memory of one before, as [`into_stack`](Self::into_stack) gave it.
    pub(crate) fn with_stack(text: &'a str, stack: Vec<u8>) -> Self {
        Self { text, at: 0, open: stack, name: NAMELESS }
    }

    /// The memory a reader of another text can use.
    pub(crate) fn into_stack(self) -> Vec<u8> {
        self.open
    }

    /// A reader of bytes that ought to be UTF-8; a byte order mark is passed over.
    pub(crate) fn of_bytes(bytes: &'a [u8]) -> Result<Self, Syntax> {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
                Ok(Self { text, at, open: Vec::new(), name: NAMELESS })
            }
            Err(error) => Err(Syntax { at: error.valid_up_to(), what: "not valid UTF-8" }),
        }
    }

    /// The offset of the next byte to read.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Goes back to `at`, which [`at`](Self::at) gave before, to read the same again.
    pub(crate) fn rewind(&mut self, at: usize) {
        self.at = at;
    }

    /// The whole input.
    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// The input from `start` up to here.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error<T>(&self, what: &'static str) -> Result<T, Syntax> {
        Err(Syntax { at: self.at, what: if self.at >= self.text.len() { "the text ends too early" } else { what } })
    }

    /// Passes over white space; whether there was any.
    fn space(&mut self) -> bool {
        let begun = self.at;
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
        self.at > begun
    }

    /// The first byte of the next value, which stays unread.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.space();
        self.byte()
    }

    /// That nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), Syntax> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.error("something follows the end of the value"),
        }
    }

    /// Opens the object or list whose bracket [`peek`](Self::peek) has shown.
    pub(crate) fn enter(&mut self) {
        self.at += 1;
    }

    /// The name of the next member of the object entered; `None` closes it. `first` belongs to
    /// the object and begins as `true`.
    ///
    /// What nearly all names and strings are is read without leaving the registers. Returned through
    /// memory, halves of a text are written and the whole is read at once, which the processor has to
    /// wait for: a quarter of the time of decoding events went into that.
    #[inline(always)]
    pub(crate) fn member(&mut self, first: &mut bool) -> Result<Option<Text<'a>>, Syntax> {
        if let Some(quoted) = self.compact_name(*first) {
            *first = false;
            return Ok(Some(Text::of_plain(quoted)));
        }
        if self.any_member(first)? { Ok(Some(self.name)) } else { Ok(None) }
    }

    /// What nearly all names are: nothing escaped, no white space around.
    #[inline(always)]
    fn compact_name(&mut self, begins: bool) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let quote = match bytes.get(self.at) {
            Some(b'"') if begins => self.at,
            Some(b',') if !begins && bytes.get(self.at + 1) == Some(&b'"') => self.at + 1,
            _ => return None,
        };
        let end = string_stop(bytes, quote + 1);
        if bytes.get(end..end + 2) != Some(b"\":".as_slice()) {
            return None;
        }
        let quoted = self.text.get(quote..=end)?;
        self.at = end + 2;
        Some(quoted)
    }

    /// Whether there is another member; its name is then in `self.name`.
    #[inline(never)]
    fn any_member(&mut self, first: &mut bool) -> Result<bool, Syntax> {
        if !self.goes_on(first, b'}', "expected `,` or `}`")? {
            return Ok(false);
        }
        self.name = self.name()?;
        Ok(true)
    }

    /// Whether the next member of the object entered begins with `expected`: its name in quotes and the
    /// colon, without white space; then its value is next. Else nothing was read.
    #[inline]
    pub(crate) fn member_is(&mut self, first: &mut bool, expected: &[u8]) -> bool {
        let mut at = self.at;
        let bytes = self.text.as_bytes();
        if !*first {
            if bytes.get(at) != Some(&b',') {
                return false;
            }
            at += 1;
        }
        let Some(end) = at.checked_add(expected.len()) else { return false };
        if expected.is_empty() || bytes.get(at..end) != Some(expected) {
            return false;
        }
        *first = false;
        self.at = end;
        true
    }

    /// Whether the list entered has another item, which is then next.
    pub(crate) fn item(&mut self, first: &mut bool) -> Result<bool, Syntax> {
        self.goes_on(first, b']', "expected `,` or `]`")
    }

    fn goes_on(&mut self, first: &mut bool, closing: u8, what: &'static str) -> Result<bool, Syntax> {
        let begins = std::mem::replace(first, false);
        match self.peek() {
            Some(byte) if byte == closing => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !begins => {
                self.at += 1;
                // A comma promises another one; `[1,]` fails where its value is read.
                self.space();
                Ok(true)
            }
            Some(_) if begins => Ok(true),
            _ => self.error(what),
        }
    }

    /// A member's name and its colon.
    fn name(&mut self) -> Result<Text<'a>, Syntax> {
        self.space();
        if self.byte() != Some(b'"') {
            return self.error("expected the name of a member in quotes");
        }
        let name = self.string()?;
        self.space();
        if self.byte() != Some(b':') {
            return self.error("expected `:`");
        }
        self.at += 1;
        Ok(name)
    }

    /// The next value, if it is what most are: a string with nothing escaped and no white space before
    /// it. It comes with its quotes. Else nothing was read.
    #[inline(always)]
    pub(crate) fn plain_string(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        let end = string_stop(bytes, self.at + 1);
        if bytes.get(end) != Some(&b'"') {
            return None;
        }
        let quoted = self.text.get(self.at..=end)?;
        self.at = end + 1;
        Some(quoted)
    }

    /// The next value, if it is a number as most are: digits, perhaps with a point among them, and no
    /// white space before them. Else nothing was read.
    #[inline(always)]
    pub(crate) fn plain_number(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let digits = |mut at: usize| {
            while let Some(b'0'..=b'9') = bytes.get(at) {
                at += 1;
            }
            at
        };
        let mut end = digits(self.at);
        let is_padded = bytes.get(self.at) == Some(&b'0') && end > self.at + 1;
        if end == self.at || is_padded {
            return None;
        }
        if bytes.get(end) == Some(&b'.') {
            let fraction = end + 1;
            end = digits(fraction);
            if end == fraction {
                return None;
            }
        }
        if let Some(b'e' | b'E') = bytes.get(end) {
            return None;
        }
        let number = self.text.get(self.at..end)?;
        self.at = end;
        Some(number)
    }

    /// The next value, whatever it is, checked to its end.
    #[inline(always)]
    pub(crate) fn value(&mut self) -> Result<Value<'a>, Syntax> {
        match self.plain_string() {
            Some(quoted) => Ok(Value::Text(Text::of_plain(quoted))),
            None => self.any_value(),
        }
    }

    /// The same where [`plain_string`](Self::plain_string) has read nothing.
    #[inline(never)]
    pub(crate) fn any_value(&mut self) -> Result<Value<'a>, Syntax> {
        self.space();
        match self.byte() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'{') => self.compound().map(Value::Object),
            Some(b'[') => self.compound().map(Value::List),
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) -> Result<Value<'a>, Syntax> {
        let rest = &self.text.as_bytes()[self.at..];
        let (word, value) = match rest.first() {
            Some(b'-' | b'0'..=b'9') => return self.number().map(Value::Number),
            Some(b't') => ("true", Value::Bool(true)),
            Some(b'f') => ("false", Value::Bool(false)),
            Some(b'n') => ("null", Value::Null),
            _ => return self.error("expected a value"),
        };
        if !rest.starts_with(word.as_bytes()) {
            return self.error("expected a value");
        }
        self.at += word.len();
        Ok(value)
    }

    fn digits(&mut self) -> Result<(), Syntax> {
        let begun = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == begun { self.error("expected a digit") } else { Ok(()) }
    }

    fn number(&mut self) -> Result<&'a str, Syntax> {
        let begun = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
            if let Some(b'0'..=b'9') = self.byte() {
                return self.error("a number cannot begin with 0");
            }
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(self.since(begun))
    }

    /// A string whose opening quote is next.
    fn string(&mut self) -> Result<Text<'a>, Syntax> {
        let begun = self.at;
        let (mut escaped, mut lone_surrogate) = (false, false);
        self.at += 1;
        loop {
            self.at = string_stop(self.text.as_bytes(), self.at);
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Text { quoted: self.since(begun), escaped, lone_surrogate });
                }
                Some(b'\\') => {
                    escaped = true;
                    lone_surrogate |= self.escape()?;
                }
                _ => return self.error("a control character in a string must be escaped"),
            }
        }
    }

    /// One escape, or two that are a surrogate pair; whether it is a lone surrogate.
    fn escape(&mut self) -> Result<bool, Syntax> {
        let bytes = self.text.as_bytes();
        match bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(false)
            }
            Some(b'u') => {
                let Some(unit) = hex4(&bytes[self.at + 2..]) else {
                    return self.error("expected four hexadecimal digits after \\u");
                };
                self.at += 6;
                if !(0xd800..=0xdfff).contains(&unit) {
                    return Ok(false);
                }
                let low =
                    bytes.get(self.at..).filter(|next| next.starts_with(b"\\u")).and_then(|next| hex4(&next[2..]));
                if unit < 0xdc00 && low.is_some_and(|low| (0xdc00..=0xdfff).contains(&low)) {
                    self.at += 6;
                    return Ok(false);
                }
                Ok(true)
            }
            _ => self.error("no such escape"),
        }
    }

    /// The object or list whose bracket is next, without recursion.
    fn compound(&mut self) -> Result<Compound<'a>, Syntax> {
        let begun = self.at;
        let (mut depth, mut spaced, mut lone_surrogate) = (0, false, false);
        self.open.clear();
        loop {
            // A value begins here.
            spaced |= self.space();
            match self.byte() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.at += 1;
                    self.open.push(bracket);
                    depth = depth.max(self.open.len());
                    spaced |= self.space();
                    if self.byte() != Some(closing(bracket)) {
                        if bracket == b'{' {
                            let (name_spaced, name) = self.spaced_name()?;
                            spaced |= name_spaced;
                            lone_surrogate |= name.lone_surrogate;
                        }
                        continue;
                    }
                }
                Some(b'"') => lone_surrogate |= self.string()?.lone_surrogate,
                _ => {
                    self.scalar()?;
                }
            }
            // A value has ended: close what ends with it, then go on to the next.
            loop {
                let Some(bracket) = self.open.last().copied() else {
                    return Ok(Compound { raw: self.since(begun), depth, spaced, lone_surrogate });
                };
                spaced |= self.space();
                match self.byte() {
                    Some(b',') => {
                        self.at += 1;
                        if bracket == b'{' {
                            let (name_spaced, name) = self.spaced_name()?;
                            spaced |= name_spaced;
                            lone_surrogate |= name.lone_surrogate;
                        }
                        break;
                    }
                    Some(byte) if byte == closing(bracket) => {
                        self.at += 1;
                        self.open.pop();
                    }
                    _ if bracket == b'{' => return self.error("expected `,` or `}`"),
                    _ => return self.error("expected `,` or `]`"),
                }
            }
        }
    }

    /// A member's name, and whether there was white space before it or before its colon.
    fn spaced_name(&mut self) -> Result<(bool, Text<'a>), Syntax> {
        let begun = self.at;
        let name = self.name()?;
        Ok((self.at - begun > name.quoted.len() + 1, name))
    }
}

const fn closing(bracket: u8) -> u8 {
    if bracket == b'{' { b'}' } else { b']' }
}
