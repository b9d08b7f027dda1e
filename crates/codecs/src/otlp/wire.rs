//! Reading the protobuf wire format: fields of a message as slices of it, without copying.
//!
//! Strict where a lenient reader would lose data silently: truncated fields, field number 0,
//! reserved wire types, varints past 64 bits and unbalanced groups are errors. Unknown fields are
//! the caller's to ignore; groups (which no OTLP message has) are skipped here.

use std::borrow::Cow;

/// How deep groups of unknown fields may nest.
const GROUPS_MAX: usize = 64;

/// A message whose framing is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The offset within the message.
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Len(&'a [u8]),
    Fixed32(u32),
}

/// A known field with another wire type than its own.
const WIRE_TYPE: &str = "the field has the wrong wire type";

impl<'a> Value<'a> {
    pub(crate) fn varint(self) -> Result<u64, &'static str> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(WIRE_TYPE) }
    }

    /// `uint32` and the counts: longer varints are cut, as the protobuf specification has it.
    #[allow(clippy::cast_possible_truncation, reason = "the specification cuts")]
    pub(crate) fn uint32(self) -> Result<u32, &'static str> {
        self.varint().map(|value| value as u32)
    }

    /// `int32` and enums.
    #[allow(clippy::cast_possible_truncation, reason = "the specification cuts")]
    pub(crate) fn int32(self) -> Result<i32, &'static str> {
        self.varint().map(|value| value as i32)
    }

    pub(crate) fn int64(self) -> Result<i64, &'static str> {
        self.varint().map(u64::cast_signed)
    }

    /// `sint32`, zigzag.
    pub(crate) fn sint32(self) -> Result<i32, &'static str> {
        self.uint32().map(|value| (value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn bool(self) -> Result<bool, &'static str> {
        self.varint().map(|value| value != 0)
    }

    pub(crate) fn fixed64(self) -> Result<u64, &'static str> {
        if let Self::Fixed64(value) = self { Ok(value) } else { Err(WIRE_TYPE) }
    }

    pub(crate) fn double(self) -> Result<f64, &'static str> {
        self.fixed64().map(f64::from_bits)
    }

    pub(crate) fn fixed32(self) -> Result<u32, &'static str> {
        if let Self::Fixed32(value) = self { Ok(value) } else { Err(WIRE_TYPE) }
    }

    pub(crate) fn len(self) -> Result<&'a [u8], &'static str> {
        if let Self::Len(value) = self { Ok(value) } else { Err(WIRE_TYPE) }
    }
}

/// Walks the fields of one message.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One field: its number and its value.
pub(crate) type Field<'a> = (u32, Value<'a>);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes have been read.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    fn broken<T>(&self, what: &'static str) -> Result<T, Broken> {
        Err(Broken { at: self.at, what })
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Broken> {
        match self.bytes.get(self.at) {
            Some(byte) if *byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0u64;
        for n in 0..10 {
            let Some(byte) = self.bytes.get(self.at + n).copied() else {
                return self.broken("a varint is cut off");
            };
            if n == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * n);
            if byte < 0x80 {
                self.at += n + 1;
                return Ok(value);
            }
        }
        self.broken("a varint is longer than 64 bits")
    }

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => self.broken("a fixed-size field is cut off"),
        }
    }

    #[inline(always)]
    fn tag(&mut self) -> Result<(u32, u32), Broken> {
        let begun = self.at;
        let key = self.varint()?;
        let number = key >> 3;
        match u32::try_from(number) {
            Ok(number) if number != 0 && number < 1 << 29 => Ok((number, (key & 7) as u32)),
            _ => Err(Broken { at: begun, what: "a field number is out of range" }),
        }
    }

    #[inline(always)]
    fn value(&mut self, wire_type: u32) -> Result<Value<'a>, Broken> {
        match wire_type {
            0 => self.varint().map(Value::Varint),
            1 => self.take().map(|bytes| Value::Fixed64(u64::from_le_bytes(bytes))),
            2 => {
                let begun = self.at;
                let length = self.varint()?;
                let slice = usize::try_from(length)
                    .ok()
                    .and_then(|length| self.bytes.get(self.at..)?.get(..length))
                    .ok_or(Broken { at: begun, what: "a length goes past the end of its message" })?;
                self.at += slice.len();
                Ok(Value::Len(slice))
            }
            5 => self.take().map(|bytes| Value::Fixed32(u32::from_le_bytes(bytes))),
            _ => self.broken("a wire type is unknown or out of place"),
        }
    }

    /// The next field; `None` at the end of the message.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, Broken> {
        while self.at < self.bytes.len() {
            let (number, wire_type) = self.tag()?;
            if wire_type == 3 {
                self.skip_group(number)?;
                continue;
            }
            return Ok(Some((number, self.value(wire_type)?)));
        }
        Ok(None)
    }

    #[cold]
    fn skip_group(&mut self, number: u32) -> Result<(), Broken> {
        let mut open = vec![number];
        while let Some(innermost) = open.last().copied() {
            match self.tag()? {
                (number, 3) if open.len() < GROUPS_MAX => open.push(number),
                (_, 3) => return self.broken("groups are nested too deep"),
                (number, 4) if number == innermost => {
                    open.pop();
                }
                (_, 4) => return self.broken("a group ends that was not begun"),
                (_, wire_type) => {
                    self.value(wire_type)?;
                }
            }
        }
        Ok(())
    }
}

/// A singular sub-message of a message.
///
/// Protobuf merges repeated occurrences of one, and to merge is the same as to concatenate the
/// bytes; only a sender that uses this pays for the copy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part<'a>(Option<Cow<'a, [u8]>>);

impl<'a> Part<'a> {
    /// Takes one occurrence, and gives how many bytes had to be copied for it.
    pub(crate) fn merge(&mut self, slice: &'a [u8]) -> usize {
        match &mut self.0 {
            None => {
                self.0 = Some(Cow::Borrowed(slice));
                0
            }
            Some(whole) => {
                let copied = if matches!(whole, Cow::Borrowed(_)) { whole.len() + slice.len() } else { slice.len() };
                whole.to_mut().extend_from_slice(slice);
                copied
            }
        }
    }

    /// The bytes, if the sub-message is there at all.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}

/// Calls `each` with every element of a repeated `fixed64` or `double` field, packed or not.
pub(crate) fn each_fixed64<E: From<&'static str>>(
    value: Value<'_>,
    mut each: impl FnMut(u64) -> Result<(), E>,
) -> Result<(), E> {
    match value {
        Value::Fixed64(value) => each(value),
        Value::Len(bytes) => {
            let (chunks, rest) = bytes.as_chunks::<8>();
            if !rest.is_empty() {
                return Err("a packed field ends inside an element".into());
            }
            chunks.iter().try_for_each(|chunk| each(u64::from_le_bytes(*chunk)))
        }
        _ => Err(WIRE_TYPE.into()),
    }
}

/// Calls `each` with every element of a repeated varint field, packed or not.
pub(crate) fn each_varint<E: From<&'static str>>(
    value: Value<'_>,
    mut each: impl FnMut(u64) -> Result<(), E>,
) -> Result<(), E> {
    match value {
        Value::Varint(value) => each(value),
        Value::Len(bytes) => {
            let mut fields = Fields::new(bytes);
            while fields.at < bytes.len() {
                let value = fields.varint().map_err(|broken| broken.what)?;
                each(value)?;
            }
            Ok(())
        }
        _ => Err(WIRE_TYPE.into()),
    }
}
