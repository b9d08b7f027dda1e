//! Writing the protobuf wire format into one buffer.

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        self.put_varint(u64::from(field << 3 | wire_type));
    }

    /// A number, zero too.
    pub(super) fn varint(&mut self, field: u32, value: u64) {
        self.tag(field, 0);
        self.put_varint(value);
    }

    /// A number; zero is the same as none.
    pub(super) fn nonzero(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(field, value);
        }
    }

    /// A `sint32`, zigzag; zero is the same as none.
    pub(super) fn sint32(&mut self, field: u32, value: i32) {
        let zigzag = (value << 1) ^ (value >> 31);
        self.nonzero(field, u64::from(zigzag.cast_unsigned()));
    }

    /// Eight bytes, zero too.
    pub(super) fn fixed64(&mut self, field: u32, value: u64) {
        self.tag(field, 1);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A time; zero is none.
    pub(super) fn time(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.fixed64(field, value);
        }
    }

    /// A double, zero too.
    pub(super) fn double(&mut self, field: u32, value: f64) {
        self.fixed64(field, value.to_bits());
    }

    /// A packed list of numbers.
    pub(super) fn varints(&mut self, field: u32, values: &[u64]) {
        self.message(field, |out| values.iter().for_each(|value| out.put_varint(*value)));
    }

    /// Four bytes; zero is the same as none.
    pub(super) fn fixed32(&mut self, field: u32, value: u32) {
        if value != 0 {
            self.tag(field, 5);
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Bytes, empty ones too.
    pub(super) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.tag(field, 2);
        self.put_varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// A text or an id; an empty one is the same as none.
    pub(super) fn some_bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.bytes(field, value);
        }
    }

    /// A text, if there is one; an empty one is the same as none.
    pub(super) fn text(&mut self, field: u32, value: Option<&str>) {
        self.some_bytes(field, value.unwrap_or_default().as_bytes());
    }

    /// A message, an empty one too. What is written into it is moved if its length takes more than a byte.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        self.tag(field, 2);
        let at = self.bytes.len();
        self.bytes.push(0);
        write(self);
        let end = self.bytes.len();
        let length = end - at - 1;
        if length < 0x80 {
            self.bytes[at] = length as u8;
            return;
        }
        let mut digits = [0_u8; 10];
        let (mut rest, mut count) = (length as u64, 0);
        while rest > 0 {
            digits[count] = (rest & 0x7f) as u8 | 0x80;
            rest >>= 7;
            count += 1;
        }
        digits[count - 1] &= 0x7f;
        self.bytes.resize(end + count - 1, 0);
        self.bytes.copy_within(at + 1..end, at + count);
        self.bytes[at..at + count].copy_from_slice(&digits[..count]);
    }
}
