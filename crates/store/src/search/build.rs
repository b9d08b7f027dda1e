//! Making the index of one column while its file is written.
//!
//! About a nanosecond a byte of text: a store into a table of 64 KiB for each trigram. Values that
//! repeat, as those of URLs and span names do, are looked at once a block.

use arrow::array::{Array, StringArray};
use parquet::file::metadata::KeyValue;
use weir_base::crc::crc32c;

use super::index::{BITMAP_BYTES, Form, HEADER_BYTES, key, mask_bytes};
use super::{BLOCK_ROWS, SEGMENT_BLOCKS, SLOTS, each_slot, has_other_case, replace_other_case};

/// Values remembered to recognise those that repeat.
const RECENT: usize = 512;
/// No row.
const NOBODY: u32 = u32::MAX;

/// The index of one column under construction.
pub(crate) struct Builder {
    column: String,
    /// One byte a slot: storing is cheaper than setting bits.
    seen: Box<[u8; SLOTS]>,
    /// The blocks of the present segment each slot occurs in.
    blocks_of: Box<[u32; SLOTS]>,
    rows_in_block: u64,
    blocks: u64,
    rows: u64,
    segments: Vec<Vec<u8>>,
    recent: Box<[u32; RECENT]>,
}

impl Builder {
    pub(crate) fn new(column: &str) -> Self {
        Self {
            column: column.to_owned(),
            seen: Box::new([0; SLOTS]),
            blocks_of: Box::new([0; SLOTS]),
            rows_in_block: 0,
            blocks: 0,
            rows: 0,
            segments: Vec::new(),
            recent: Box::new([NOBODY; RECENT]),
        }
    }

    /// Takes the next rows.
    pub(crate) fn add(&mut self, values: &StringArray) {
        self.recent.fill(NOBODY);
        for row in 0..values.len() {
            if values.is_valid(row) && !self.is_recent(values, row) {
                let text = values.value(row);
                if has_other_case(text) {
                    self.see(replace_other_case(text).as_bytes());
                } else {
                    self.see(text.as_bytes());
                }
            }
            self.rows_in_block += 1;
            if self.rows_in_block == BLOCK_ROWS {
                self.end_block();
            }
        }
    }

    fn see(&mut self, text: &[u8]) {
        let seen = &mut self.seen;
        each_slot(text, |slot| seen[usize::from(slot)] = 1);
    }

    /// Whether an equal value of this block and of these values was seen before; not whether none
    /// was.
    fn is_recent(&mut self, values: &StringArray, row: usize) -> bool {
        let value = values.value(row).as_bytes();
        let edge = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let mixed = edge(value.first_chunk()).rotate_left(17) ^ edge(value.last_chunk()) ^ value.len() as u64;
        let place = (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize % RECENT;
        let row = row as u32;
        let before = std::mem::replace(&mut self.recent[place], row);
        before != NOBODY && values.value(before as usize).as_bytes() == value
    }

    fn end_block(&mut self) {
        let place = self.blocks % SEGMENT_BLOCKS;
        for (blocks, seen) in self.blocks_of.iter_mut().zip(self.seen.iter_mut()) {
            *blocks |= u32::from(*seen) << place;
            *seen = 0;
        }
        self.recent.fill(NOBODY);
        self.rows += self.rows_in_block;
        self.rows_in_block = 0;
        self.blocks += 1;
        if self.blocks.is_multiple_of(SEGMENT_BLOCKS) {
            self.end_segment(SEGMENT_BLOCKS);
        }
    }

    fn end_segment(&mut self, blocks: u64) {
        let present: Vec<u16> = (0..=u16::MAX).filter(|slot| self.blocks_of[usize::from(*slot)] != 0).collect();
        let form = if present.len() * 2 < BITMAP_BYTES { Form::List } else { Form::Bitmap };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + BITMAP_BYTES + present.len() * 2);
        bytes.extend([0; 4]);
        bytes.push(blocks as u8);
        bytes.push(form as u8);
        bytes.extend((present.len() as u32).to_le_bytes());
        match form {
            Form::List => bytes.extend(present.iter().flat_map(|slot| slot.to_le_bytes())),
            Form::Bitmap => {
                let mut bitmap = [0_u8; BITMAP_BYTES];
                for slot in &present {
                    bitmap[usize::from(*slot) / 8] |= 1 << (slot % 8);
                }
                bytes.extend(bitmap);
            }
        }
        for slot in &present {
            let mask = self.blocks_of[usize::from(*slot)].to_le_bytes();
            bytes.extend_from_slice(&mask[..mask_bytes(blocks)]);
        }
        let crc = crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        self.segments.push(bytes);
        self.blocks_of.fill(0);
    }

    /// Ends the index: its bytes, and the entry of the footer that finds them at `offset`.
    pub(crate) fn finish(mut self, offset: u64) -> (Vec<u8>, KeyValue) {
        if self.rows_in_block > 0 {
            self.end_block();
        }
        let left = self.blocks % SEGMENT_BLOCKS;
        if left > 0 {
            self.end_segment(left);
        }
        let lengths: Vec<String> = self.segments.iter().map(|segment| segment.len().to_string()).collect();
        let value = format!("{} {offset} {}", self.rows, lengths.join(","));
        (self.segments.concat(), KeyValue::new(key(&self.column), value))
    }
}
