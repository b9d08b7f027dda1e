//! Writing the protobuf of OTLP, within a budget.

use super::ipc::Budget;
use crate::DecodeError;

pub(super) type Result<T = ()> = std::result::Result<T, DecodeError>;

/// Protobuf bytes being written. What is absent is not written: the methods for optional values
/// take options.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    budget: Budget,
}

/// The bytes of the length of a group, which is not known when its place is left free.
const GROUP_LENGTH_BYTES: usize = 5;

impl Writer {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), budget: Budget::new("decoded_bytes_max", bytes_max) }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn put(&mut self, bytes: &[u8]) -> Result {
        self.budget.charge(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn put_varint(&mut self, value: u64) -> Result {
        let (bytes, length) = varint(value);
        self.put(&bytes[..length])
    }

    fn tag(&mut self, field: u32, wire_type: u32) -> Result {
        self.put_varint(u64::from(field << 3 | wire_type))
    }

    pub(super) fn varint(&mut self, field: u32, value: Option<i64>) -> Result {
        let Some(value) = value else { return Ok(()) };
        self.tag(field, 0)?;
        self.put_varint(value.cast_unsigned())
    }

    /// `sint32`.
    pub(super) fn zigzag(&mut self, field: u32, value: Option<i64>) -> Result {
        self.varint(field, value.map(|value| (value << 1) ^ (value >> 63)))
    }

    pub(super) fn bool(&mut self, field: u32, value: Option<bool>) -> Result {
        self.varint(field, value.map(i64::from))
    }

    pub(super) fn fixed64(&mut self, field: u32, value: Option<i64>) -> Result {
        let Some(value) = value else { return Ok(()) };
        self.tag(field, 1)?;
        self.put(&value.to_le_bytes())
    }

    pub(super) fn double(&mut self, field: u32, value: Option<f64>) -> Result {
        self.fixed64(field, value.map(|value| value.to_bits().cast_signed()))
    }

    /// The lower half of `value`.
    pub(super) fn fixed32(&mut self, field: u32, value: Option<i64>) -> Result {
        let Some(value) = value else { return Ok(()) };
        self.tag(field, 5)?;
        let [a, b, c, d, ..] = value.to_le_bytes();
        self.put(&[a, b, c, d])
    }

    pub(super) fn bytes(&mut self, field: u32, value: Option<&[u8]>) -> Result {
        let Some(value) = value else { return Ok(()) };
        self.tag(field, 2)?;
        self.put_varint(value.len() as u64)?;
        self.put(value)
    }

    /// A message in as few bytes as possible, as other encoders write it: what limits count is
    /// the same then.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self) -> Result) -> Result {
        self.tag(field, 2)?;
        self.put(&[0])?;
        let begin = self.bytes.len();
        write(self)?;
        let (bytes, length) = varint((self.bytes.len() - begin) as u64);
        if length > 1 {
            let end = self.bytes.len();
            self.put(&[0; 10][..length - 1])?;
            self.bytes.copy_within(begin..end, begin + length - 1);
        }
        self.bytes[begin - 1..begin - 1 + length].copy_from_slice(&bytes[..length]);
        Ok(())
    }

    /// A message that may be long, whose bytes need not be moved when it ends.
    pub(super) fn group(&mut self, field: u32, write: impl FnOnce(&mut Self) -> Result) -> Result {
        self.tag(field, 2)?;
        let begin = self.bytes.len();
        self.put(&[0; GROUP_LENGTH_BYTES])?;
        write(self)?;
        let mut length = self.bytes.len() - begin - GROUP_LENGTH_BYTES;
        for (n, byte) in self.bytes[begin..begin + GROUP_LENGTH_BYTES].iter_mut().enumerate() {
            let more = if n + 1 < GROUP_LENGTH_BYTES { 0x80 } else { 0 };
            *byte = (length & 0x7f) as u8 | more;
            length >>= 7;
        }
        Ok(())
    }
}

fn varint(mut value: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut length = 0;
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        bytes[length] = if value == 0 { low } else { low | 0x80 };
        length += 1;
        if value == 0 {
            return (bytes, length);
        }
    }
}
