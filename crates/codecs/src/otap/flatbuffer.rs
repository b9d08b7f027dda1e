//! Reading flatbuffers that nobody has verified: every offset is checked where it is followed.
//!
//! There is no verification in advance, so nothing is walked that is not read, and a table that
//! is shared by many offsets costs nothing but where the caller follows them: callers bound how
//! many they follow and how deep.

/// A flatbuffer that cannot be read, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// What every broken offset is answered with.
const BROKEN: Broken = Broken("the metadata of an Arrow message points outside of itself");

pub(super) type Result<T> = std::result::Result<T, Broken>;

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(BROKEN)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize> {
    Ok(u32::from_le_bytes(take(bytes, at)?) as usize)
}

/// A position and what it points to, relative to itself.
fn follow(bytes: &[u8], at: usize) -> Result<usize> {
    at.checked_add(u32_at(bytes, at)?).ok_or(BROKEN)
}

/// A table: fields by number, any of which may be absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    vtable: usize,
    vtable_bytes: usize,
}

impl<'a> Table<'a> {
    /// The table that a buffer begins with.
    pub(super) fn root(bytes: &'a [u8]) -> Result<Self> {
        Self::at(bytes, follow(bytes, 0)?)
    }

    fn at(bytes: &'a [u8], at: usize) -> Result<Self> {
        let back = i64::from(i32::from_le_bytes(take(bytes, at)?));
        let vtable = i64::try_from(at).ok().and_then(|at| usize::try_from(at - back).ok()).ok_or(BROKEN)?;
        let vtable_bytes = usize::from(u16::from_le_bytes(take(bytes, vtable)?));
        if vtable_bytes < 4 || vtable.checked_add(vtable_bytes).is_none_or(|end| end > bytes.len()) {
            return Err(BROKEN);
        }
        Ok(Self { bytes, at, vtable, vtable_bytes })
    }

    /// Where a field lies; `None` if it is absent.
    fn field(&self, number: usize) -> Result<Option<usize>> {
        let slot = 4 + 2 * number;
        if slot + 2 > self.vtable_bytes {
            return Ok(None);
        }
        let offset = usize::from(u16::from_le_bytes(take(self.bytes, self.vtable + slot)?));
        Ok((offset != 0).then_some(self.at + offset))
    }

    fn scalar<const N: usize>(&self, number: usize) -> Result<Option<[u8; N]>> {
        self.field(number)?.map(|at| take(self.bytes, at)).transpose()
    }

    pub(super) fn u8(&self, number: usize) -> Result<u8> {
        Ok(self.scalar::<1>(number)?.map_or(0, |[byte]| byte))
    }

    pub(super) fn bool(&self, number: usize) -> Result<bool> {
        Ok(self.u8(number)? != 0)
    }

    pub(super) fn i16(&self, number: usize, absent: i16) -> Result<i16> {
        Ok(self.scalar(number)?.map_or(absent, i16::from_le_bytes))
    }

    pub(super) fn i32(&self, number: usize) -> Result<i32> {
        Ok(self.scalar(number)?.map_or(0, i32::from_le_bytes))
    }

    pub(super) fn i64(&self, number: usize) -> Result<i64> {
        Ok(self.scalar(number)?.map_or(0, i64::from_le_bytes))
    }

    pub(super) fn table(&self, number: usize) -> Result<Option<Table<'a>>> {
        self.field(number)?.map(|at| Self::at(self.bytes, follow(self.bytes, at)?)).transpose()
    }

    /// A vector of elements of `width` bytes; an absent one is empty.
    pub(super) fn vector(&self, number: usize, width: usize) -> Result<Vector<'a>> {
        let Some(at) = self.field(number)? else {
            return Ok(Vector { bytes: self.bytes, begin: 0, length: 0, width });
        };
        let at = follow(self.bytes, at)?;
        let length = u32_at(self.bytes, at)?;
        let begin = at + 4;
        let fits =
            length.checked_mul(width).and_then(|n| n.checked_add(begin)).is_some_and(|end| end <= self.bytes.len());
        if fits { Ok(Vector { bytes: self.bytes, begin, length, width }) } else { Err(BROKEN) }
    }

    pub(super) fn string(&self, number: usize) -> Result<&'a str> {
        let vector = self.vector(number, 1)?;
        let bytes = self.bytes.get(vector.begin..vector.begin + vector.length).ok_or(BROKEN)?;
        std::str::from_utf8(bytes).map_err(|_| Broken("a name in an Arrow schema is not valid UTF-8"))
    }
}

/// A vector that lies within its buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vector<'a> {
    bytes: &'a [u8],
    begin: usize,
    length: usize,
    width: usize,
}

impl<'a> Vector<'a> {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    fn place(&self, index: usize) -> Result<usize> {
        if index < self.length { Ok(self.begin + index * self.width) } else { Err(BROKEN) }
    }

    /// An element that is a table.
    pub(super) fn table(&self, index: usize) -> Result<Table<'a>> {
        Table::at(self.bytes, follow(self.bytes, self.place(index)?)?)
    }

    /// An element that is a struct of two 64-bit integers.
    pub(super) fn pair(&self, index: usize) -> Result<(i64, i64)> {
        let at = self.place(index)?;
        Ok((i64::from_le_bytes(take(self.bytes, at)?), i64::from_le_bytes(take(self.bytes, at + 8)?)))
    }
}
