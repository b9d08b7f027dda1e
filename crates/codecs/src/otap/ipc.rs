//! The gate: encapsulated Arrow IPC messages, from bytes nobody trusts to columns within bounds.
//!
//! Arrow's own reader trusts the lengths in a message (eight bytes make it reserve 2 GiB, a
//! changed `bodyLength` aborts the process), so no byte of a sender reaches it: what OTAP needs of
//! the format is read here. Columns are slices of the message; memory is only taken to decompress
//! buffers and to keep dictionaries, and both are paid from a [`Budget`] before they are made.
//!
//! A column is checked when it is loaded: its buffers are as long as its rows need, offsets go
//! upward and end inside their data, and keys stay inside their dictionary. Reading a value can
//! therefore not fail.

use std::borrow::Cow;

use super::column::{Column, Data, Dictionary, Keys};
use super::flatbuffer::{self, Table, Vector};
use crate::{DecodeError, inflate};

/// The most bytes of the metadata of one message.
pub(super) const METADATA_BYTES_MAX: usize = 1 << 20;
/// The most fields of one schema, nested ones counted. The widest of OTAP has about 40.
pub(super) const FIELDS_MAX: usize = 500;
/// How deep fields may nest.
pub(super) const NESTING_MAX: usize = 16;
/// The most bytes of the name of a field, and of what its metadata says of its encoding. Many fields
/// can share the bytes of one name.
const NAME_BYTES_MAX: usize = 256;
/// The most entries of one field's metadata.
const FIELD_METADATA_MAX: usize = 64;
/// What every decompressed buffer is counted as, beside its bytes: what it costs to set up a
/// decompressor, so that many tiny buffers are no way around the budget.
const DECOMPRESSOR_BYTES: usize = 4096;

/// Bytes that may still be made out of what was sent.
#[derive(Debug)]
pub(super) struct Budget {
    limit: &'static str,
    left: usize,
    max: usize,
}

impl Budget {
    pub(super) fn new(limit: &'static str, max: usize) -> Self {
        Self { limit, left: max, max }
    }

    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(DecodeError::TooLarge {
                limit: self.limit,
                value: self.max as u64,
                actual: (self.max - self.left).saturating_add(bytes) as u64,
            }),
        }
    }

    /// Gives back what is no longer held.
    pub(super) fn release(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes).min(self.max);
    }

    pub(super) fn used(&self) -> usize {
        self.max - self.left
    }
}

#[cold]
pub(super) fn broken(message: impl Into<String>) -> DecodeError {
    DecodeError::Malformed { message: message.into(), place: String::new() }
}

impl From<flatbuffer::Broken> for DecodeError {
    fn from(flatbuffer::Broken(what): flatbuffer::Broken) -> Self {
        broken(what)
    }
}

/// One message, its parts not looked into yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) header: Header<'a>,
    pub(super) body: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Header<'a> {
    Schema(Table<'a>),
    Dictionary(Table<'a>),
    Record(Table<'a>),
}

/// Takes the next message off `rest`; `None` at the end of the stream.
pub(super) fn next_message<'a>(rest: &mut &'a [u8]) -> Result<Option<Message<'a>>, DecodeError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let cut_off = || broken("an Arrow message is cut off");
    let Some((prefix, after)) = rest.split_first_chunk::<8>() else { return Err(cut_off()) };
    let (marker, length) = prefix.split_at(4);
    if marker != [0xff; 4] {
        return Err(broken("an Arrow message does not begin with the marker of one"));
    }
    let length = length.first_chunk().map_or(-1, |length| i32::from_le_bytes(*length));
    if length == 0 {
        *rest = &[];
        return Ok(None);
    }
    let length =
        usize::try_from(length).map_err(|_| broken("the metadata of an Arrow message has a negative length"))?;
    if length > METADATA_BYTES_MAX {
        return Err(DecodeError::TooLarge {
            limit: "arrow_metadata_bytes_max",
            value: METADATA_BYTES_MAX as u64,
            actual: length as u64,
        });
    }
    let (metadata, after) = after.split_at_checked(length).ok_or_else(cut_off)?;
    let message = Table::root(metadata)?;
    let version = message.i16(0, 0)?;
    if !matches!(version, 3 | 4) {
        return Err(broken(format!("the Arrow message has format version {version}, not 3 or 4")));
    }
    let header = message.table(2)?.ok_or_else(|| broken("an Arrow message has no header"))?;
    let body_length =
        usize::try_from(message.i64(3)?).map_err(|_| broken("an Arrow message has a negative body length"))?;
    let (body, after) = after.split_at_checked(body_length).ok_or_else(cut_off)?;
    *rest = after;
    let header = match message.u8(1)? {
        1 => Header::Schema(header),
        2 => Header::Dictionary(header),
        3 => Header::Record(header),
        kind => return Err(broken(format!("an Arrow message is of kind {kind}, which OTAP does not use"))),
    };
    Ok(Some(Message { header, body }))
}

/// The types of Arrow that OTAP uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int(Int),
    Double,
    Text,
    Binary,
    /// Bytes of this length.
    Fixed(usize),
    /// Nanoseconds since the epoch.
    Time,
    /// Nanoseconds.
    Duration,
    List,
    Struct,
}

/// An integer type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Int {
    pub(super) bytes: usize,
    pub(super) signed: bool,
}

impl Kind {
    /// The bytes of a value, where they are the same for all.
    fn width(self) -> Option<usize> {
        match self {
            Self::Int(int) => Some(int.bytes),
            Self::Double | Self::Time | Self::Duration => Some(8),
            Self::Fixed(bytes) => Some(bytes),
            Self::Bool | Self::Text | Self::Binary | Self::List | Self::Struct => None,
        }
    }
}

/// A column of a schema.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The dictionary its values are in.
    dictionary: Option<Encoded>,
    pub(super) children: Vec<Field>,
    /// What the metadata key `encoding` says.
    pub(super) encoding: Option<String>,
}

impl Field {
    /// What it takes to remember it and its children.
    pub(super) fn bytes(&self) -> usize {
        let children: usize = self.children.iter().map(Self::bytes).sum();
        size_of::<Self>() + self.name.len() + self.encoding.as_ref().map_or(0, String::len) + children
    }
}

/// How a column refers to a dictionary.
#[derive(Clone, Copy, Debug)]
struct Encoded {
    id: i64,
    keys: Int,
}

fn read_int(table: Table<'_>) -> Result<Int, DecodeError> {
    let bytes = match table.i32(0)? {
        8 => 1,
        16 => 2,
        32 => 4,
        64 => 8,
        bits => return Err(broken(format!("an integer of {bits} bits"))),
    };
    Ok(Int { bytes, signed: table.bool(1)? })
}

/// Reads a schema.
pub(super) fn read_schema(table: Table<'_>) -> Result<Vec<Field>, DecodeError> {
    if table.i16(0, 0)? != 0 {
        return Err(broken("the Arrow schema is big endian"));
    }
    let mut n_fields = 0;
    read_fields(table.vector(1, 4)?, 1, &mut n_fields)
}

fn read_fields(vector: Vector<'_>, depth: usize, n_fields: &mut usize) -> Result<Vec<Field>, DecodeError> {
    *n_fields = n_fields.saturating_add(vector.len());
    if *n_fields > FIELDS_MAX {
        return Err(DecodeError::TooLarge {
            limit: "arrow_fields_max",
            value: FIELDS_MAX as u64,
            actual: *n_fields as u64,
        });
    }
    if depth > NESTING_MAX {
        return Err(broken(format!("the Arrow schema is nested deeper than {NESTING_MAX} levels")));
    }
    (0..vector.len()).map(|n| read_field(vector.table(n)?, depth, n_fields)).collect()
}

fn short(text: &str) -> Result<String, DecodeError> {
    if text.len() <= NAME_BYTES_MAX {
        return Ok(text.to_owned());
    }
    Err(DecodeError::TooLarge {
        limit: "arrow_name_bytes_max",
        value: NAME_BYTES_MAX as u64,
        actual: text.len() as u64,
    })
}

fn read_field(table: Table<'_>, depth: usize, n_fields: &mut usize) -> Result<Field, DecodeError> {
    let name = short(table.string(0)?)?;
    let refuse = |what: &str| broken(format!("the column {name:?} is {what}, which OTAP does not use"));
    let kind_table = table.table(3)?.ok_or_else(|| broken(format!("the column {name:?} has no type")))?;
    let kind = match table.u8(2)? {
        2 => Kind::Int(read_int(kind_table)?),
        3 if kind_table.i16(0, 0)? == 2 => Kind::Double,
        4 => Kind::Binary,
        5 => Kind::Text,
        6 => Kind::Bool,
        10 if kind_table.i16(0, 0)? == 3 => Kind::Time,
        12 => Kind::List,
        13 => Kind::Struct,
        15 => match usize::try_from(kind_table.i32(0)?) {
            Ok(bytes @ 1..=64) => Kind::Fixed(bytes),
            _ => return Err(refuse("of fixed-size values that are not 1 to 64 bytes long")),
        },
        // The unit that is not written is milliseconds.
        18 if kind_table.i16(0, 1)? == 3 => Kind::Duration,
        number => return Err(refuse(&format!("of Arrow type {number}, or in a unit"))),
    };
    let children = read_fields(table.vector(5, 4)?, depth + 1, n_fields)?;
    let children_fit = match kind {
        Kind::List => children.len() == 1,
        Kind::Struct => true,
        _ => children.is_empty(),
    };
    if !children_fit {
        return Err(broken(format!("the column {name:?} has {} children", children.len())));
    }
    let dictionary = match table.table(4)? {
        None => None,
        Some(_) if matches!(kind, Kind::Bool | Kind::List | Kind::Struct) => {
            return Err(refuse("a dictionary of values that are no single bytes"));
        }
        Some(encoding) => {
            let keys = encoding.table(1)?.map_or(Ok(Int { bytes: 4, signed: true }), read_int)?;
            Some(Encoded { id: encoding.i64(0)?, keys })
        }
    };
    let metadata = table.vector(6, 4)?;
    if metadata.len() > FIELD_METADATA_MAX {
        return Err(broken(format!("the column {name:?} has more than {FIELD_METADATA_MAX} entries of metadata")));
    }
    let mut encoding = None;
    for n in 0..metadata.len() {
        let entry = metadata.table(n)?;
        if entry.string(0)? == "encoding" {
            encoding = Some(short(entry.string(1)?)?);
        }
    }
    Ok(Field { name, kind, dictionary, children, encoding })
}

/// The dictionaries of one stream of messages, by id.
#[derive(Debug, Default)]
pub(super) struct Dictionaries(Vec<(i64, Dictionary)>);

impl Dictionaries {
    pub(super) fn get(&self, id: i64) -> Option<&Dictionary> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, dictionary)| dictionary)
    }

    /// What they hold, as charged.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, dictionary)| dictionary.bytes()).sum()
    }

    /// Takes in a dictionary message: a new dictionary, one in place of another, or more values.
    pub(super) fn read(
        &mut self,
        table: Table<'_>,
        body: &[u8],
        fields: &[Field],
        budget: &mut Budget,
        live: &mut Budget,
    ) -> Result<(), DecodeError> {
        let id = table.i64(0)?;
        let field = find_encoded(fields, id).ok_or_else(|| broken("a dictionary belongs to no column"))?;
        let values = Field { dictionary: None, ..field.clone() };
        let batch = table.table(1)?.ok_or_else(|| broken("a dictionary has no values"))?;
        let no_dictionaries = Self::default();
        let columns = read_record(batch, body, std::slice::from_ref(&values), &no_dictionaries, budget)?;
        let Some(column) = columns.columns.first() else { return Err(broken("a dictionary has no values")) };
        let place = self.0.iter().position(|(known, _)| *known == id);
        let adds = Dictionary::cost(column);
        live.charge(adds)?;
        match place {
            Some(place) if table.bool(2)? => self.0[place].1.extend(column),
            Some(place) => {
                live.release(self.0[place].1.bytes());
                self.0[place].1 = Dictionary::of(column);
            }
            None => self.0.push((id, Dictionary::of(column))),
        }
        Ok(())
    }
}

fn find_encoded(fields: &[Field], id: i64) -> Option<&Field> {
    fields.iter().find_map(|field| match field.dictionary {
        Some(encoded) if encoded.id == id => Some(field),
        _ => find_encoded(&field.children, id),
    })
}

/// The columns of a record batch.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    pub(super) rows: usize,
    pub(super) columns: Vec<Column<'a>>,
}

/// Reads a record batch.
pub(super) fn read_record<'a>(
    table: Table<'_>,
    body: &'a [u8],
    fields: &'a [Field],
    dictionaries: &'a Dictionaries,
    budget: &mut Budget,
) -> Result<Columns<'a>, DecodeError> {
    let rows = usize::try_from(table.i64(0)?).map_err(|_| broken("a record batch has a negative number of rows"))?;
    let codec = match table.table(3)? {
        None => None,
        Some(compression) => Some(match (compression.u8(0)?, compression.u8(1)?) {
            (0, 0) => Codec::Lz4,
            (1, 0) => Codec::Zstd,
            _ => return Err(broken("the buffers are compressed in an unknown way")),
        }),
    };
    let (nodes, buffers) = (table.vector(1, 16)?, table.vector(2, 16)?);
    let mut walk = Walk { nodes, buffers, node: 0, buffer: 0, body, codec, dictionaries, budget };
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let column = walk.column(field).map_err(|error| in_column(error, &field.name))?;
        if column.rows() != rows {
            return Err(broken(format!(
                "the column {:?} has {} rows, and its batch {rows}",
                field.name,
                column.rows()
            )));
        }
        columns.push(column);
    }
    if walk.node != nodes.len() || walk.buffer != buffers.len() {
        return Err(broken("a record batch has more buffers than its columns need"));
    }
    if columns.is_empty() && rows > 0 {
        return Err(broken("a record batch has rows and no columns"));
    }
    Ok(Columns { rows, columns })
}

#[cold]
fn in_column(error: DecodeError, name: &str) -> DecodeError {
    match error {
        DecodeError::Malformed { message, place } if !message.starts_with("the column") => {
            DecodeError::Malformed { message: format!("the column {name:?}: {message}"), place }
        }
        error => error,
    }
}

#[derive(Clone, Copy, Debug)]
enum Codec {
    Lz4,
    Zstd,
}

/// Nodes and buffers are numbered in the order in which the fields are walked.
struct Walk<'a, 'b> {
    nodes: Vector<'b>,
    buffers: Vector<'b>,
    node: usize,
    buffer: usize,
    body: &'a [u8],
    codec: Option<Codec>,
    dictionaries: &'a Dictionaries,
    budget: &'b mut Budget,
}

impl<'a> Walk<'a, '_> {
    fn next_buffer(&mut self) -> Result<Cow<'a, [u8]>, DecodeError> {
        let (offset, length) = self.buffers.pair(self.buffer)?;
        self.buffer += 1;
        let slice = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(length).ok())
            .and_then(|(offset, length)| self.body.get(offset..)?.get(..length))
            .ok_or_else(|| broken("a buffer lies outside of its message"))?;
        let Some(codec) = self.codec.filter(|_| !slice.is_empty()) else { return Ok(Cow::Borrowed(slice)) };
        let (declared, packed) = slice
            .split_first_chunk()
            .map(|(declared, packed)| (i64::from_le_bytes(*declared), packed))
            .ok_or_else(|| broken("a compressed buffer is cut off"))?;
        if declared == -1 {
            return Ok(Cow::Borrowed(packed));
        }
        let declared = usize::try_from(declared).map_err(|_| broken("a buffer has a negative length"))?;
        if declared == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        self.budget.charge(declared.saturating_add(DECOMPRESSOR_BYTES))?;
        let bytes = match codec {
            Codec::Lz4 => inflate::lz4_frame(packed, declared)?,
            Codec::Zstd => inflate::decompress(inflate::Encoding::Zstd, packed, declared)?,
        };
        if bytes.len() != declared {
            return Err(broken(format!("a buffer says that it has {declared} bytes, and has {}", bytes.len())));
        }
        Ok(Cow::Owned(bytes.into()))
    }

    /// A buffer of at least so many bytes.
    fn buffer_of(&mut self, bytes: Option<usize>) -> Result<Cow<'a, [u8]>, DecodeError> {
        let buffer = self.next_buffer()?;
        if bytes.is_none_or(|bytes| buffer.len() < bytes) {
            return Err(broken("a buffer is too short for its rows"));
        }
        Ok(buffer)
    }

    /// Offsets that go upward within `end` bytes or elements; empty for no rows.
    fn offsets(&mut self, rows: usize) -> Result<Cow<'a, [u8]>, DecodeError> {
        if rows == 0 {
            return self.next_buffer();
        }
        self.buffer_of(rows.checked_add(1).and_then(|n| n.checked_mul(4)))
    }

    fn column(&mut self, field: &'a Field) -> Result<Column<'a>, DecodeError> {
        let (rows, nulls) = self.nodes.pair(self.node)?;
        self.node += 1;
        let rows = usize::try_from(rows).map_err(|_| broken("a negative number of rows"))?;
        let valid = self.next_buffer()?;
        let valid = if valid.is_empty() {
            if nulls != 0 && rows > 0 {
                return Err(broken("nulls without a buffer that says where"));
            }
            None
        } else if valid.len() < rows.div_ceil(8) {
            return Err(broken("a buffer is too short for its rows"));
        } else {
            (nulls != 0).then_some(valid)
        };
        let data = if let Some(encoded) = field.dictionary {
            self.keys(rows, encoded)?
        } else if let Some(width) = field.kind.width() {
            Data::Values(width, self.buffer_of(rows.checked_mul(width))?)
        } else {
            match field.kind {
                Kind::Bool => Data::Bits(self.buffer_of(Some(rows.div_ceil(8)))?),
                Kind::List => {
                    let offsets = self.offsets(rows)?;
                    let Some(child) = field.children.first() else { return Err(broken("a list of nothing")) };
                    let item = self.column(child)?;
                    check_offsets(&offsets, rows, item.rows())?;
                    Data::List(offsets, Box::new(item))
                }
                Kind::Struct => {
                    let mut columns = Vec::with_capacity(field.children.len());
                    for child in &field.children {
                        let column = self.column(child).map_err(|error| in_column(error, &child.name))?;
                        if column.rows() != rows {
                            return Err(broken("a struct whose columns differ in their number of rows"));
                        }
                        columns.push(column);
                    }
                    if columns.is_empty() && rows > 0 {
                        return Err(broken("a struct of nothing"));
                    }
                    Data::Struct(columns)
                }
                _ => {
                    let offsets = self.offsets(rows)?;
                    let bytes = self.next_buffer()?;
                    check_offsets(&offsets, rows, bytes.len())?;
                    Data::Texts(offsets, bytes)
                }
            }
        };
        let column = Column::new(field, rows, valid, data);
        if !column.keys_fit() {
            return Err(broken("a key is not in the dictionary"));
        }
        Ok(column)
    }

    fn keys(&mut self, rows: usize, encoded: Encoded) -> Result<Data<'a>, DecodeError> {
        let keys = self.buffer_of(rows.checked_mul(encoded.keys.bytes))?;
        // A column that is all null needs none; keys into nothing are refused with the others.
        let values = self.dictionaries.get(encoded.id).unwrap_or(Dictionary::empty());
        Ok(Data::Keys(Keys { int: encoded.keys, bytes: keys, values }))
    }
}

fn check_offsets(offsets: &[u8], rows: usize, end: usize) -> Result<(), DecodeError> {
    if rows == 0 {
        return Ok(());
    }
    let mut before = 0;
    for chunk in offsets.as_chunks::<4>().0.iter().take(rows + 1) {
        let offset = i32::from_le_bytes(*chunk);
        if offset < before {
            return Err(broken("offsets go backward"));
        }
        before = offset;
    }
    if usize::try_from(before).is_ok_and(|last| last <= end) {
        Ok(())
    } else {
        Err(broken("offsets end outside of their data"))
    }
}
