//! Columns of a record batch as they lie in the message, read value by value.

use std::borrow::Cow;
use std::ops::Range;

use super::ipc::{Field, Int, Kind};

/// A column; see [`super::ipc`] for what holds of it.
#[derive(Debug)]
pub(super) struct Column<'a> {
    field: &'a Field,
    rows: usize,
    valid: Option<Cow<'a, [u8]>>,
    data: Data<'a>,
}

#[derive(Debug)]
pub(super) enum Data<'a> {
    /// Booleans.
    Bits(Cow<'a, [u8]>),
    /// Values of so many bytes.
    Values(usize, Cow<'a, [u8]>),
    /// Offsets and what they point into.
    Texts(Cow<'a, [u8]>, Cow<'a, [u8]>),
    Keys(Keys<'a>),
    /// Offsets and the elements they point to.
    List(Cow<'a, [u8]>, Box<Column<'a>>),
    Struct(Vec<Column<'a>>),
}

/// Values that are in a dictionary.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    pub(super) int: Int,
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) values: &'a Dictionary,
}

fn bit(bits: &[u8], row: usize) -> bool {
    bits.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
}

fn offset(offsets: &[u8], row: usize) -> Option<usize> {
    let chunk = offsets.get(row * 4..)?.first_chunk()?;
    usize::try_from(i32::from_le_bytes(*chunk)).ok()
}

fn range(offsets: &[u8], row: usize) -> Option<Range<usize>> {
    Some(offset(offsets, row)?..offset(offsets, row + 1)?)
}

/// The value of up to eight little-endian bytes, as the bits of an `i64`.
fn integer(bytes: &[u8], signed: bool) -> Option<i64> {
    let mut wide = [0; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let shift = 64 - 8 * u32::try_from(bytes.len()).ok()?;
    let value = i64::from_le_bytes(wide);
    Some(if signed && shift > 0 { value.checked_shl(shift)?.checked_shr(shift)? } else { value })
}

impl Keys<'_> {
    fn key(&self, row: usize) -> Option<usize> {
        let bytes = self.bytes.get(row * self.int.bytes..)?.get(..self.int.bytes)?;
        usize::try_from(integer(bytes, self.int.signed)?).ok()
    }
}

impl<'a> Column<'a> {
    pub(super) fn new(field: &'a Field, rows: usize, valid: Option<Cow<'a, [u8]>>, data: Data<'a>) -> Self {
        Self { field, rows, valid, data }
    }

    pub(super) fn name(&self) -> &str {
        &self.field.name
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn kind(&self) -> Kind {
        self.field.kind
    }

    /// What its metadata key `encoding` says.
    pub(super) fn encoding(&self) -> Option<&str> {
        self.field.encoding.as_deref()
    }

    /// Whether every key that is not null is in the dictionary.
    pub(super) fn keys_fit(&self) -> bool {
        let Data::Keys(keys) = &self.data else { return true };
        (0..self.rows).all(|row| !self.is_valid(row) || keys.key(row).is_some_and(|key| key < keys.values.len()))
    }

    fn is_valid(&self, row: usize) -> bool {
        row < self.rows && self.valid.as_ref().is_none_or(|valid| bit(valid, row))
    }

    /// The bytes of a value that has some.
    pub(super) fn bytes(&self, row: usize) -> Option<&[u8]> {
        if !self.is_valid(row) {
            return None;
        }
        match &self.data {
            Data::Values(width, bytes) => bytes.get(row * width..)?.get(..*width),
            Data::Texts(offsets, bytes) => bytes.get(range(offsets, row)?),
            Data::Keys(keys) => keys.values.get(keys.key(row)?),
            Data::Bits(_) | Data::List(..) | Data::Struct(_) => None,
        }
    }

    /// An integer, a time or a duration; unsigned ones of 64 bits by their bits.
    pub(super) fn int(&self, row: usize) -> Option<i64> {
        let signed = match self.field.kind {
            Kind::Int(int) => int.signed,
            _ => true,
        };
        integer(self.bytes(row)?, signed)
    }

    pub(super) fn double(&self, row: usize) -> Option<f64> {
        self.bytes(row)?.first_chunk().map(|bytes| f64::from_le_bytes(*bytes))
    }

    pub(super) fn bool(&self, row: usize) -> Option<bool> {
        match &self.data {
            Data::Bits(bits) if self.is_valid(row) => Some(bit(bits, row)),
            _ => None,
        }
    }

    /// The elements of a list, and which of them are the row's.
    pub(super) fn list(&self, row: usize) -> Option<(&Column<'a>, Range<usize>)> {
        match &self.data {
            Data::List(offsets, item) if self.is_valid(row) => Some((item, range(offsets, row)?)),
            _ => None,
        }
    }

    /// The columns of a struct.
    pub(super) fn columns(&self) -> &[Column<'a>] {
        match &self.data {
            Data::Struct(columns) => columns,
            _ => &[],
        }
    }

    /// Whether a struct is there at all.
    pub(super) fn is_some(&self, row: usize) -> bool {
        self.is_valid(row)
    }
}

/// The values of a dictionary, copied, because it outlives the message it came in.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    valid: Vec<bool>,
}

static EMPTY: Dictionary = Dictionary { bytes: Vec::new(), ends: Vec::new(), valid: Vec::new() };

impl Dictionary {
    pub(super) fn empty() -> &'static Self {
        &EMPTY
    }

    /// What a column costs when it is copied.
    pub(super) fn cost(column: &Column<'_>) -> usize {
        let texts: usize = (0..column.rows).map(|row| column.bytes(row).map_or(0, <[u8]>::len)).sum();
        texts + column.rows * (size_of::<u32>() + size_of::<bool>())
    }

    pub(super) fn of(column: &Column<'_>) -> Self {
        let mut dictionary = Self::default();
        dictionary.extend(column);
        dictionary
    }

    /// Appends the values of a column.
    pub(super) fn extend(&mut self, column: &Column<'_>) {
        for row in 0..column.rows {
            let value = column.bytes(row);
            self.bytes.extend_from_slice(value.unwrap_or_default());
            self.valid.push(value.is_some());
            // The budget of live dictionaries is far below.
            self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * (size_of::<u32>() + size_of::<bool>())
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, key: usize) -> Option<&[u8]> {
        if !*self.valid.get(key)? {
            return None;
        }
        let begin = if key == 0 { 0 } else { *self.ends.get(key - 1)? as usize };
        self.bytes.get(begin..*self.ends.get(key)? as usize)
    }
}
