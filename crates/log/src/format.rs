//! The bytes of a segment file. All numbers are little-endian; all checksums are CRC32C.
//!
//! A shard is a sequence of segment files, `shard-<n>/<number as 20 digits>.seg`. A segment is a
//! header, then blocks one after another, then zeros (space reserved ahead), or a footer when it
//! was closed in good order. Everything begins at a multiple of 512 bytes. The *offset* of a block
//! counts from the beginning of the shard; in the file it stands at
//! `header length + offset - base`.
//!
//! ```text
//! segment header
//!   0   8  magic "WEIRSEG1"
//!   8   2  format version, 1
//!  10   2  shard
//!  12   4  header length, a multiple of 512
//!  16   8  log id, random, the same in all files of one log
//!  24   8  segment number; equals the file name
//!  32   8  base: the offset of the first block. Everything before it was durable when this
//!          segment was made, so it bounds the segment before
//!  40   8  creation time, nanoseconds since 1970
//!  48   4  number of carried schemas (only after a recovery that moved blocks here)
//!  52   4  bytes of carried schemas
//!  56   8  length of the file as made. A shorter last file without a footer was cut
//!  64   4  checksum of bytes 0..64 and of the carried schemas
//!  68   n  carried schemas: id (8), length (4), Arrow IPC schema message
//!
//! block: one commit, written and synced as a whole
//!   0   8  magic "WEIRBLK1"
//!   8   8  log id
//!  16   8  offset of this block
//!  24   8  watermark: everything before this offset was durable when the block was built; of a
//!          hole: the offset after it
//!  32   8  time of the commit, nanoseconds since 1970
//!  40   4  length of the block with its padding, a multiple of 512
//!  44   4  length of the directory
//!  48   4  number of directory entries
//!  52   2  shard
//!  54   1  kind: 0 commit, 1 footer, 2 hole (what fsck leaves where it took damage away)
//!  55   1  0
//!  56   4  checksum of the directory
//!  60   4  checksum of bytes 0..60
//!  64      directory, then the bodies in the order of their entries, each padded to 8 bytes
//!
//! directory entry: kind (1), then
//!  1 rows     body length (4), body checksum (4), schema id (8), rows (4), min time (8), max time (8),
//!             tenant, stream, id column (each: length (1), text; no id column: length 0)
//!  2 schema   body length (4), body checksum (4), schema id (8)
//!  3 request  flags (1: producer, 2: idempotency), tenant, producer (16), epoch (4), sequence (8),
//!             idempotency hash (16)
//!  4 lost     as rows, but fsck moved the damaged body away
//!  5 index    tenant, stream, first and last record position (8, 8), records (4), rows (8); footer only
//! ```
//!
//! A body's checksum covers the body, then the block's offset (8) and the entry's number (4), so a
//! body in the wrong place does not check out. The body of a rows entry is the length of the
//! metadata (4), the form of the buffers (4), the metadata padded to 8, and the buffers of an Arrow batch
//! message, as they are (0) or as length (4), 0 (4), LZ4 block (1). A schema's id is the first 8 bytes of a
//! SipHash of its message; schemas are repeated at first use in every segment: it decodes on its own.
//!
//! The position of a record is its block's offset plus its number among the rows and lost entries
//! of the block; a block holds at most 512 of them, so block and number can be told apart.
//!
//! The footer begins where the next segment's base is. Its last 16 bytes are "WEIRFOOT", its
//! length (4) and the checksum of these 12 bytes, so it is found from the end of the file.

#[cfg(test)]
mod tests;

use weir_base::crc::{crc32c, crc32c_append};
use weir_base::{StreamName, TenantId};

/// Blocks begin at multiples of this.
pub(crate) const ALIGN: u64 = 512;
/// The fixed part of a block.
pub(crate) const BLOCK_HEADER: usize = 64;
/// Records in a block; their numbers are the low bits of their positions.
pub(crate) const RECORDS_MAX: usize = ALIGN as usize;
/// The version this code writes and the only one it reads.
pub(crate) const VERSION: u16 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"WEIRSEG1";
pub(crate) const BLOCK_MAGIC: [u8; 8] = *b"WEIRBLK1";
pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"WEIRFOOT";
/// The trailer of a footer.
pub(crate) const FOOTER_TRAILER: usize = 16;
const SEGMENT_HEADER: usize = 68;
/// A carried schema is at most this long; more is damage.
const CARRIED_BYTES_MAX: usize = 16 << 20;

/// The next multiple of [`ALIGN`].
pub(crate) fn align(len: u64) -> u64 {
    len.div_ceil(ALIGN) * ALIGN
}

/// Why bytes were refused; where they are is known to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads numbers and texts off the front of a slice, never past its end.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        match self.0.split_at_checked(len) {
            Some((head, tail)) => {
                self.0 = tail;
                Ok(head)
            }
            None => Err(Malformed("ends too early")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self.0.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.0 = tail;
                Ok(*head)
            }
            None => Err(Malformed("ends too early")),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        let len = usize::from(self.u8()?);
        std::str::from_utf8(self.take(len)?).map_err(|_| Malformed("text is not UTF-8"))
    }

    pub(crate) fn tenant(&mut self) -> Result<TenantId, Malformed> {
        TenantId::new(self.text()?).map_err(|_| Malformed("not a tenant id"))
    }

    fn stream(&mut self) -> Result<StreamName, Malformed> {
        StreamName::new(self.text()?).map_err(|_| Malformed("not a stream name"))
    }
}

/// Appends a text of at most 255 bytes (ids are at most 64).
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.push(len);
    out.extend_from_slice(&bytes[..usize::from(len)]);
}

/// The header of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u64,
    pub(crate) shard: u16,
    pub(crate) number: u64,
    pub(crate) base: u64,
    pub(crate) created_at: i64,
    /// The length of the file as made.
    pub(crate) capacity: u64,
    /// Schemas that blocks moved here refer to: id and message.
    pub(crate) schemas: Vec<(u64, Vec<u8>)>,
}

impl SegmentHeader {
    /// The bytes, padded to a multiple of 512.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut carried = Vec::new();
        for (id, message) in &self.schemas {
            carried.extend_from_slice(&id.to_le_bytes());
            carried.extend_from_slice(&(message.len() as u32).to_le_bytes());
            carried.extend_from_slice(message);
        }
        let len = align((SEGMENT_HEADER + carried.len()) as u64);
        let mut out = Vec::with_capacity(len as usize);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.shard.to_le_bytes());
        out.extend_from_slice(&(len as u32).to_le_bytes());
        out.extend_from_slice(&self.log_id.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.created_at.to_le_bytes());
        out.extend_from_slice(&(self.schemas.len() as u32).to_le_bytes());
        out.extend_from_slice(&(carried.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.capacity.to_le_bytes());
        let crc = crc32c_append(crc32c(&out), &carried);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&carried);
        out.resize(len as usize, 0);
        out
    }

    /// The bytes of a header without carried schemas, in the place of one that was `len` bytes long.
    pub(crate) fn encode_padded(&self, len: u64) -> Vec<u8> {
        let mut out = self.encode();
        out.resize(len as usize, 0);
        out[12..16].copy_from_slice(&(len as u32).to_le_bytes());
        let crc = crc32c(&out[..64]);
        out[64..68].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// How many bytes [`SegmentHeader::decode`] needs, from the first 64 or more of the file.
    pub(crate) fn needs(bytes: &[u8]) -> Result<usize, Malformed> {
        let mut cursor = Cursor(bytes);
        if cursor.array::<8>()? != SEGMENT_MAGIC {
            return Err(Malformed("not the header of a segment"));
        }
        if cursor.u16()? != VERSION {
            return Err(Malformed("a format version this program does not know"));
        }
        cursor.take(42)?;
        let carried = cursor.u32()? as usize;
        if carried > CARRIED_BYTES_MAX {
            return Err(Malformed("the header of a segment is too long"));
        }
        Ok(SEGMENT_HEADER + carried)
    }

    /// Checks and reads a header; also says how long it is.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, u64), Malformed> {
        let needs = Self::needs(bytes)?;
        let fixed = bytes.get(..SEGMENT_HEADER).ok_or(Malformed("ends too early"))?;
        let carried = bytes.get(SEGMENT_HEADER..needs).ok_or(Malformed("ends too early"))?;
        let mut cursor = Cursor(&fixed[10..]);
        let shard = cursor.u16()?;
        let len = u64::from(cursor.u32()?);
        let log_id = cursor.u64()?;
        let number = cursor.u64()?;
        let base = cursor.u64()?;
        let created_at = cursor.i64()?;
        let (n_schemas, _, capacity) = (cursor.u32()?, cursor.u32()?, cursor.u64()?);
        if cursor.u32()? != crc32c_append(crc32c(&fixed[..64]), carried) {
            return Err(Malformed("the checksum of the segment header does not match"));
        }
        let lens = needs as u64..=align((SEGMENT_HEADER + CARRIED_BYTES_MAX) as u64);
        let is_aligned = len.is_multiple_of(ALIGN) && base.is_multiple_of(ALIGN);
        if !is_aligned || !lens.contains(&len) || base > crate::types::OFFSET_MAX {
            return Err(Malformed("the segment header contradicts itself"));
        }
        let mut cursor = Cursor(carried);
        let mut schemas = Vec::new();
        for _ in 0..n_schemas {
            let id = cursor.u64()?;
            let len = cursor.u32()? as usize;
            schemas.push((id, cursor.take(len)?.to_vec()));
        }
        Ok((Self { log_id, shard, number, base, created_at, capacity, schemas }, len))
    }
}

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    Commit,
    Footer,
    Hole,
}

/// The fixed part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) log_id: u64,
    pub(crate) offset: u64,
    pub(crate) watermark: u64,
    pub(crate) time: i64,
    pub(crate) len: u32,
    pub(crate) directory_len: u32,
    pub(crate) n_entries: u32,
    pub(crate) shard: u16,
    pub(crate) kind: BlockKind,
    pub(crate) directory_crc: u32,
}

impl BlockHeader {
    pub(crate) fn encode(&self) -> [u8; BLOCK_HEADER] {
        let mut out = [0; BLOCK_HEADER];
        out[0..8].copy_from_slice(&BLOCK_MAGIC);
        out[8..16].copy_from_slice(&self.log_id.to_le_bytes());
        out[16..24].copy_from_slice(&self.offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.watermark.to_le_bytes());
        out[32..40].copy_from_slice(&self.time.to_le_bytes());
        out[40..44].copy_from_slice(&self.len.to_le_bytes());
        out[44..48].copy_from_slice(&self.directory_len.to_le_bytes());
        out[48..52].copy_from_slice(&self.n_entries.to_le_bytes());
        out[52..54].copy_from_slice(&self.shard.to_le_bytes());
        out[54] = match self.kind {
            BlockKind::Commit => 0,
            BlockKind::Footer => 1,
            BlockKind::Hole => 2,
        };
        out[56..60].copy_from_slice(&self.directory_crc.to_le_bytes());
        let crc = crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Checks and reads the fixed part. That it stands in the right place is for the caller to see:
    /// a block in the wrong place still tells what was durable once.
    pub(crate) fn decode(bytes: &[u8], log_id: u64, shard: u16) -> Result<Self, Malformed> {
        let fixed = bytes.first_chunk::<BLOCK_HEADER>().ok_or(Malformed("ends too early"))?;
        let mut cursor = Cursor(fixed);
        if cursor.array::<8>()? != BLOCK_MAGIC {
            return Err(Malformed("no block begins here"));
        }
        let header = Self {
            log_id: cursor.u64()?,
            offset: cursor.u64()?,
            watermark: cursor.u64()?,
            time: cursor.i64()?,
            len: cursor.u32()?,
            directory_len: cursor.u32()?,
            n_entries: cursor.u32()?,
            shard: cursor.u16()?,
            kind: match cursor.u8()? {
                0 => BlockKind::Commit,
                1 => BlockKind::Footer,
                2 => BlockKind::Hole,
                _ => return Err(Malformed("a kind of block this program does not know")),
            },
            directory_crc: {
                cursor.u8()?;
                cursor.u32()?
            },
        };
        if cursor.u32()? != crc32c(&fixed[..60]) {
            return Err(Malformed("the checksum of the block header does not match"));
        }
        if header.log_id != log_id || header.shard != shard {
            return Err(Malformed("the block belongs to another log"));
        }
        let room = u64::from(header.len);
        if room == 0
            || !room.is_multiple_of(ALIGN)
            || !(header.offset | header.watermark).is_multiple_of(ALIGN)
            || header.offset.max(header.watermark) > crate::types::OFFSET_MAX
            || BLOCK_HEADER as u64 + u64::from(header.directory_len) > room
            || (header.kind == BlockKind::Hole && header.watermark <= header.offset)
        {
            return Err(Malformed("the block header contradicts itself"));
        }
        Ok(header)
    }

    /// The offset after the block.
    pub(crate) fn end(&self) -> u64 {
        match self.kind {
            BlockKind::Hole => self.watermark,
            BlockKind::Commit | BlockKind::Footer => self.offset + u64::from(self.len),
        }
    }
}

/// Length and checksum of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) len: u32,
    pub(crate) crc: u32,
}

impl Body {
    /// Whether `bytes` is this body, in this place.
    pub(crate) fn check(&self, bytes: &[u8], offset: u64, entry: usize) -> bool {
        bytes.len() == self.len as usize && body_crc(bytes, offset, entry) == self.crc
    }
}

pub(crate) fn body_crc(bytes: &[u8], offset: u64, entry: usize) -> u32 {
    let mut place = [0; 12];
    place[..8].copy_from_slice(&offset.to_le_bytes());
    place[8..].copy_from_slice(&(entry as u32).to_le_bytes());
    crc32c_append(crc32c(bytes), &place)
}

/// Rows of one (tenant, stream).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowsEntry {
    pub(crate) body: Body,
    pub(crate) schema: u64,
    pub(crate) rows: u32,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    pub(crate) tenant: TenantId,
    pub(crate) stream: StreamName,
    pub(crate) id_column: Option<String>,
}

/// What one request brought besides its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestEntry {
    pub(crate) tenant: TenantId,
    pub(crate) producer: Option<crate::ProducerSequence>,
    pub(crate) idempotency: Option<u128>,
}

/// Where the records of one (tenant, stream) are in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) tenant: TenantId,
    pub(crate) stream: StreamName,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) records: u32,
    pub(crate) rows: u64,
}

/// An entry of a block's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Rows(RowsEntry),
    Schema { body: Body, id: u64 },
    Request(RequestEntry),
    Lost(RowsEntry),
    Index(IndexEntry),
}

impl Entry {
    /// The body, if the entry has one.
    pub(crate) fn body(&self) -> Option<Body> {
        match self {
            Self::Rows(rows) | Self::Lost(rows) => Some(rows.body),
            Self::Schema { body, .. } => Some(*body),
            Self::Request(_) | Self::Index(_) => None,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Rows(rows) | Self::Lost(rows) => {
                out.push(if matches!(self, Self::Rows(_)) { 1 } else { 4 });
                out.extend_from_slice(&rows.body.len.to_le_bytes());
                out.extend_from_slice(&rows.body.crc.to_le_bytes());
                out.extend_from_slice(&rows.schema.to_le_bytes());
                out.extend_from_slice(&rows.rows.to_le_bytes());
                out.extend_from_slice(&rows.min_time.to_le_bytes());
                out.extend_from_slice(&rows.max_time.to_le_bytes());
                put_text(out, rows.tenant.as_str());
                put_text(out, rows.stream.as_str());
                put_text(out, rows.id_column.as_deref().unwrap_or(""));
            }
            Self::Schema { body, id } => {
                out.push(2);
                out.extend_from_slice(&body.len.to_le_bytes());
                out.extend_from_slice(&body.crc.to_le_bytes());
                out.extend_from_slice(&id.to_le_bytes());
            }
            Self::Request(request) => {
                out.push(3);
                out.push(u8::from(request.producer.is_some()) | u8::from(request.idempotency.is_some()) << 1);
                put_text(out, request.tenant.as_str());
                let producer =
                    request.producer.unwrap_or(crate::ProducerSequence { producer: 0, epoch: 0, sequence: 0 });
                out.extend_from_slice(&producer.producer.to_le_bytes());
                out.extend_from_slice(&producer.epoch.to_le_bytes());
                out.extend_from_slice(&producer.sequence.to_le_bytes());
                out.extend_from_slice(&request.idempotency.unwrap_or(0).to_le_bytes());
            }
            Self::Index(index) => {
                out.push(5);
                put_text(out, index.tenant.as_str());
                put_text(out, index.stream.as_str());
                out.extend_from_slice(&index.first.to_le_bytes());
                out.extend_from_slice(&index.last.to_le_bytes());
                out.extend_from_slice(&index.records.to_le_bytes());
                out.extend_from_slice(&index.rows.to_le_bytes());
            }
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let kind = cursor.u8()?;
        Ok(match kind {
            1 | 4 => {
                let rows = RowsEntry {
                    body: Body { len: cursor.u32()?, crc: cursor.u32()? },
                    schema: cursor.u64()?,
                    rows: cursor.u32()?,
                    min_time: cursor.i64()?,
                    max_time: cursor.i64()?,
                    tenant: cursor.tenant()?,
                    stream: cursor.stream()?,
                    id_column: Some(cursor.text()?.to_owned()).filter(|column| !column.is_empty()),
                };
                if kind == 1 { Self::Rows(rows) } else { Self::Lost(rows) }
            }
            2 => Self::Schema { body: Body { len: cursor.u32()?, crc: cursor.u32()? }, id: cursor.u64()? },
            3 => {
                let flags = cursor.u8()?;
                let tenant = cursor.tenant()?;
                let producer =
                    crate::ProducerSequence { producer: cursor.u128()?, epoch: cursor.u32()?, sequence: cursor.u64()? };
                let idempotency = cursor.u128()?;
                Self::Request(RequestEntry {
                    tenant,
                    producer: (flags & 1 != 0).then_some(producer),
                    idempotency: (flags & 2 != 0).then_some(idempotency),
                })
            }
            5 => Self::Index(IndexEntry {
                tenant: cursor.tenant()?,
                stream: cursor.stream()?,
                first: cursor.u64()?,
                last: cursor.u64()?,
                records: cursor.u32()?,
                rows: cursor.u64()?,
            }),
            _ => return Err(Malformed("a kind of entry this program does not know")),
        })
    }
}

/// The directory of a block, checked.
pub(crate) fn decode_directory(header: &BlockHeader, bytes: &[u8]) -> Result<Vec<Entry>, Malformed> {
    if bytes.len() != header.directory_len as usize || crc32c(bytes) != header.directory_crc {
        return Err(Malformed("the checksum of the block directory does not match"));
    }
    let mut cursor = Cursor(bytes);
    let mut entries = Vec::new();
    for _ in 0..header.n_entries {
        entries.push(Entry::decode(&mut cursor)?);
    }
    if !cursor.0.is_empty() {
        return Err(Malformed("the block directory is longer than its entries"));
    }
    Ok(entries)
}

/// Where in the block the bodies are: one range an entry, empty for entries without a body. `None`
/// if they do not fit into the block.
pub(crate) fn body_ranges(header: &BlockHeader, entries: &[Entry]) -> Option<Vec<std::ops::Range<usize>>> {
    let mut at = pad(BLOCK_HEADER + header.directory_len as usize);
    let mut ranges = Vec::with_capacity(entries.len());
    for entry in entries {
        let len = entry.body().map_or(0, |body| body.len as usize);
        let end = at.checked_add(len)?;
        if end > header.len as usize {
            return None;
        }
        ranges.push(at..end);
        at = pad(end);
    }
    Some(ranges)
}

fn pad(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// What a block says about itself besides its entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockFrame {
    pub(crate) log_id: u64,
    pub(crate) shard: u16,
    pub(crate) kind: BlockKind,
    pub(crate) offset: u64,
    pub(crate) watermark: u64,
    pub(crate) time: i64,
}

/// Collects entries and bodies, then lays out a block.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    entries: Vec<Entry>,
    bodies: Vec<u8>,
}

impl BlockBuilder {
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bodies.clear();
    }

    /// Adds an entry that has no body.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Adds an entry whose body `write` appends to the buffer it is given; `entry` is told the
    /// length. The checksum is filled in when the block is laid out, because it covers the place.
    pub(crate) fn push_body<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
        entry: impl FnOnce(Body) -> Entry,
    ) -> Result<(), E> {
        let start = self.bodies.len();
        if let Err(error) = write(&mut self.bodies) {
            self.bodies.truncate(start);
            return Err(error);
        }
        let len = self.bodies.len() - start;
        self.bodies.resize(pad(self.bodies.len()), 0);
        self.entries.push(entry(Body { len: len as u32, crc: 0 }));
        Ok(())
    }

    /// Lays the block out in `out` (which is cleared).
    pub(crate) fn finish(&mut self, frame: &BlockFrame, out: &mut Vec<u8>) {
        let mut at = 0;
        for (number, entry) in self.entries.iter_mut().enumerate() {
            if let Entry::Rows(RowsEntry { body, .. })
            | Entry::Lost(RowsEntry { body, .. })
            | Entry::Schema { body, .. } = entry
            {
                let end = at + body.len as usize;
                body.crc = body_crc(&self.bodies[at..end], frame.offset, number);
                at = pad(end);
            }
        }
        out.clear();
        out.resize(BLOCK_HEADER, 0);
        for entry in &self.entries {
            entry.encode(out);
        }
        let directory_len = out.len() - BLOCK_HEADER;
        let directory_crc = crc32c(&out[BLOCK_HEADER..]);
        out.resize(pad(out.len()), 0);
        out.extend_from_slice(&self.bodies);
        let trailer = if frame.kind == BlockKind::Footer { FOOTER_TRAILER } else { 0 };
        let len = align((out.len() + trailer) as u64) as usize;
        out.resize(len, 0);
        if frame.kind == BlockKind::Footer {
            let trailer = &mut out[len - FOOTER_TRAILER..];
            trailer[..8].copy_from_slice(&FOOTER_MAGIC);
            trailer[8..12].copy_from_slice(&(len as u32).to_le_bytes());
            let crc = crc32c(&trailer[..12]);
            trailer[12..].copy_from_slice(&crc.to_le_bytes());
        }
        let header = BlockHeader {
            log_id: frame.log_id,
            offset: frame.offset,
            watermark: frame.watermark,
            time: frame.time,
            len: len as u32,
            directory_len: directory_len as u32,
            n_entries: self.entries.len() as u32,
            shard: frame.shard,
            kind: frame.kind,
            directory_crc,
        };
        out[..BLOCK_HEADER].copy_from_slice(&header.encode());
    }
}

/// The length of the footer that ends with `trailer`.
pub(crate) fn footer_len(trailer: &[u8; FOOTER_TRAILER]) -> Option<u64> {
    let mut cursor = Cursor(trailer);
    let magic = cursor.array::<8>().ok()?;
    let len = cursor.u32().ok()?;
    let crc = cursor.u32().ok()?;
    (magic == FOOTER_MAGIC && crc == crc32c(&trailer[..12])).then_some(u64::from(len))
}

/// A block of kind hole over `[offset, end)`: all of it that matters.
pub(crate) fn hole(log_id: u64, shard: u16, offset: u64, end: u64, time: i64) -> [u8; BLOCK_HEADER] {
    BlockHeader {
        log_id,
        offset,
        watermark: end,
        time,
        len: ALIGN as u32,
        directory_len: 0,
        n_entries: 0,
        shard,
        kind: BlockKind::Hole,
        directory_crc: crc32c(&[]),
    }
    .encode()
}

/// Rewrites header and directory of a block after entries changed in place (their encodings keep
/// their lengths).
pub(crate) fn reencode_head(header: &BlockHeader, entries: &[Entry]) -> Vec<u8> {
    let mut out = vec![0; BLOCK_HEADER];
    for entry in entries {
        entry.encode(&mut out);
    }
    let header = BlockHeader { directory_crc: crc32c(&out[BLOCK_HEADER..]), ..*header };
    out[..BLOCK_HEADER].copy_from_slice(&header.encode());
    out
}
