//! The index of one column as it is in a file.
//!
//! Its segments, of [`SEGMENT_ROWS`] rows each, stand one after the other between the last row group
//! and the page index. An entry of the footer, which other readers of Parquet pass over, says where:
//!
//! ```text
//! weir.search.2.<column> = <rows> <offset> <length>,<length>,...
//! ```
//!
//! A segment is, in little endian:
//!
//! | bytes | |
//! |---|---|
//! | 4 | CRC32C of what follows |
//! | 1 | number of blocks, 1 to 32 |
//! | 1 | form: 0 for a list, 1 for a bitmap |
//! | 4 | number of slots that occur |
//! | 2 for each slot, or 8192 | the slots, ascending; or a bit for each of the 65,536 |
//! | 0, 1, 2 or 4 for each slot | the blocks it occurs in, a bit each; nothing if there is one block, one byte up to 8, two up to 16 |

use std::ops::Range;

use parquet::file::metadata::ParquetMetaData;
use weir_base::crc::crc32c;

use super::{BLOCK_ROWS, Condition, SEGMENT_BLOCKS, SEGMENT_ROWS, SLOTS};

/// Bytes of a segment before its slots.
pub(super) const HEADER_BYTES: usize = 10;
/// Bytes of a bitmap of all slots.
pub(super) const BITMAP_BYTES: usize = SLOTS / 8;

/// Bytes of each slot's mask in a segment of so many blocks. Of a single block there is nothing to tell
/// apart.
pub(super) fn mask_bytes(blocks: u64) -> usize {
    match blocks {
        0 | 1 => 0,
        2..=8 => 1,
        9..=16 => 2,
        _ => 4,
    }
}

/// How a segment says which slots occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    List = 0,
    Bitmap = 1,
}

/// The entry of the footer. Another version of the format has another number, and is passed over.
pub(super) fn key(column: &str) -> String {
    format!("weir.search.2.{column}")
}

/// Where the index of a column is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchIndex {
    segments: Vec<Range<u64>>,
}

impl SearchIndex {
    /// The index of a column, if the file has one. One that cannot be right is none.
    #[must_use]
    pub fn of(metadata: &ParquetMetaData, column: &str) -> Option<Self> {
        let key = key(column);
        let file = metadata.file_metadata();
        let entry = file.key_value_metadata()?.iter().find(|entry| entry.key == key)?;
        let rows = u64::try_from(file.num_rows()).ok()?;
        let index = Self::parse(entry.value.as_deref()?, rows);
        if index.is_none() {
            tracing::warn!(column, "the search index of a file cannot be used");
        }
        index
    }

    fn parse(value: &str, rows_of_file: u64) -> Option<Self> {
        let [rows, offset, lengths] = value.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let rows: u64 = rows.parse().ok()?;
        let mut at: u64 = offset.parse().ok()?;
        let mut segments = Vec::new();
        for length in lengths.split(',').filter(|length| !length.is_empty()) {
            let end = at.checked_add(length.parse().ok()?)?;
            segments.push(at..end);
            at = end;
        }
        let expected = usize::try_from(rows.div_ceil(SEGMENT_ROWS)).ok()?;
        (rows == rows_of_file && segments.len() == expected).then_some(Self { segments })
    }

    /// How many segments there are: of [`SEGMENT_ROWS`] rows each, the last perhaps shorter.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The bytes of a segment.
    #[must_use]
    pub fn bytes(&self, segment: usize) -> Option<Range<u64>> {
        self.segments.get(segment).cloned()
    }

    /// All bytes of the index.
    #[must_use]
    pub fn all_bytes(&self) -> u64 {
        self.segments.iter().map(|bytes| bytes.end - bytes.start).sum()
    }
}

/// A segment that was read.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    blocks: u8,
    form: Form,
    slots: &'a [u8],
    masks: &'a [u8],
    mask_bytes: usize,
}

impl<'a> Segment<'a> {
    /// Takes a segment apart. `None` if it is not whole: then nothing is known of its blocks.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (crc, rest) = bytes.split_first_chunk::<4>()?;
        if crc32c(rest) != u32::from_le_bytes(*crc) {
            return None;
        }
        let ([blocks, form], rest) = rest.split_first_chunk::<2>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let form = match form {
            0 => Form::List,
            1 => Form::Bitmap,
            _ => return None,
        };
        if *blocks == 0 || u64::from(*blocks) > SEGMENT_BLOCKS || count > SLOTS {
            return None;
        }
        let slots = if form == Form::List { count * 2 } else { BITMAP_BYTES };
        let (slots, masks) = rest.split_at_checked(slots)?;
        let mask_bytes = mask_bytes(u64::from(*blocks));
        let ones = || slots.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
        let fits = masks.len() == count * mask_bytes && (form == Form::List || ones() == count);
        fits.then_some(Self { blocks: *blocks, form, slots, masks, mask_bytes })
    }

    fn all(&self) -> u32 {
        u32::MAX >> (SEGMENT_BLOCKS as u32 - u32::from(self.blocks))
    }

    /// The place of a slot among those that occur.
    fn find(&self, slot: u16) -> Option<usize> {
        match self.form {
            Form::List => {
                let (slots, _) = self.slots.as_chunks::<2>();
                slots.binary_search_by_key(&slot, |bytes| u16::from_le_bytes(*bytes)).ok()
            }
            Form::Bitmap => {
                let (byte, bit) = (usize::from(slot) / 8, slot % 8);
                if self.slots[byte] & 1 << bit == 0 {
                    return None;
                }
                let (words, rest) = self.slots[..byte].as_chunks::<8>();
                let before = words.iter().map(|word| u64::from_le_bytes(*word).count_ones()).sum::<u32>()
                    + rest.iter().map(|byte| byte.count_ones()).sum::<u32>()
                    + (self.slots[byte] & ((1 << bit) - 1)).count_ones();
                usize::try_from(before).ok()
            }
        }
    }

    fn blocks_of(&self, slot: u16) -> u32 {
        let Some(place) = self.find(slot) else { return 0 };
        if self.mask_bytes == 0 {
            return self.all();
        }
        let mask = &self.masks[place * self.mask_bytes..][..self.mask_bytes];
        mask.iter().rev().fold(0, |blocks, byte| blocks << 8 | u32::from(*byte))
    }

    /// The blocks that may have a row for which the condition holds, a bit each.
    #[must_use]
    pub fn candidates(&self, condition: &Condition) -> u32 {
        match condition {
            Condition::Anything => self.all(),
            Condition::Slots(slots) => {
                let mut blocks = self.all();
                for slot in slots {
                    blocks &= self.blocks_of(*slot);
                    if blocks == 0 {
                        break;
                    }
                }
                blocks
            }
            Condition::All(parts) => parts.iter().fold(self.all(), |blocks, part| blocks & self.candidates(part)),
            Condition::Either(parts) => parts.iter().fold(0, |blocks, part| blocks | self.candidates(part)),
        }
    }
}

/// The rows of a file that lie in a block of a segment; the last block may have fewer.
#[must_use]
pub fn rows_of_block(segment: usize, block: u32) -> Range<u64> {
    let first = segment as u64 * SEGMENT_ROWS + u64::from(block) * BLOCK_ROWS;
    first..first + BLOCK_ROWS
}
