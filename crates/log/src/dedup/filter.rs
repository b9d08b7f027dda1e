//! A split-block Bloom filter (the layout of Parquet's), in the order of the keys.
//!
//! The upper bits of a key choose its block, so a filter of sorted keys is written from the first block to the last and
//! never held as a whole. On disk blocks stand in sectors that can be read and checked alone; a look is then one read of
//! 512 bytes, and one miss of the cache if the filter is in memory.

use weir_base::crc::{crc32c, crc32c_append};

const SALTS: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];
const BLOCK_BITS: u64 = 256;
const BLOCK_BYTES: usize = 32;
/// Bits a key of a run that will be merged soon: 0.1 % of the answers are falsely yes. Such runs are
/// small and most of all runs, and each false yes reads blocks for nothing, which costs as much as
/// writing the row.
const FRESH_KEY_BITS: u64 = 16;
/// Bits a key of other runs, of which there are many keys: about 1 %.
const KEY_BITS: u64 = 10;
/// Runs of up to so many keys are small.
const FRESH_KEYS_MAX: u64 = 1 << 20;
/// Bytes of a sector: blocks, zeros, and the checksum of these and of the sector's number (4).
pub(crate) const SECTOR: usize = 512;
/// Blocks in a sector.
const SECTOR_BLOCKS: usize = 15;
const SUM_AT: usize = SECTOR - 4;

/// Blocks that are fetched from memory together.
const FETCHED: usize = 16;

type Block = [u32; 8];

/// How many blocks a filter for so many keys has.
pub(crate) fn blocks_for(keys: u64) -> u32 {
    let key_bits = if keys <= FRESH_KEYS_MAX { FRESH_KEY_BITS } else { KEY_BITS };
    u32::try_from(keys.saturating_mul(key_bits).div_ceil(BLOCK_BITS).max(1)).unwrap_or(u32::MAX)
}

/// How many sectors so many blocks take.
pub(crate) fn sectors_of(n_blocks: u32) -> u64 {
    u64::from(n_blocks).div_ceil(SECTOR_BLOCKS as u64)
}

/// The sector a key belongs to.
pub(crate) fn sector_of(key: u128, n_blocks: u32) -> u64 {
    block_of(key, n_blocks) / SECTOR_BLOCKS as u64
}

/// Keys are hashes already, so their bits are used as they are: the upper ones here, ...
fn block_of(key: u128, n_blocks: u32) -> u64 {
    ((key >> 96) as u64 * u64::from(n_blocks)) >> 32
}

/// ... and the lower ones here.
fn masks(key: u128) -> Block {
    SALTS.map(|salt| 1 << ((key as u32).wrapping_mul(salt) >> 27))
}

fn has(block: &Block, masks: Block) -> bool {
    // All eight without a branch between them.
    block.iter().zip(masks).fold(0, |missing, (word, mask)| missing | (!word & mask)) == 0
}

/// The blocks of a sector, if its checksum is right.
fn blocks_in(sector: &[u8; SECTOR], number: u64) -> Option<impl Iterator<Item = Block>> {
    let (body, sum) = sector.split_at(SUM_AT);
    let is_right = crc32c_append(crc32c(body), &number.to_le_bytes()).to_le_bytes() == sum;
    let (blocks, _) = body[..SECTOR_BLOCKS * BLOCK_BYTES].as_chunks::<BLOCK_BYTES>();
    let word = |bytes: &[u8; BLOCK_BYTES], at: usize| {
        u32::from_le_bytes([bytes[at * 4], bytes[at * 4 + 1], bytes[at * 4 + 2], bytes[at * 4 + 3]])
    };
    is_right.then(|| blocks.iter().map(move |bytes| std::array::from_fn(|at| word(bytes, at))))
}

/// Whether the checksum of a sector is right.
pub(crate) fn sector_is_whole(sector: &[u8; SECTOR], number: u64) -> bool {
    blocks_in(sector, number).is_some()
}

/// What a sector, number `number` of a filter of so many blocks, says of a key that belongs to it: "certainly not" or
/// "perhaps". `None` if the sector is damaged.
pub(crate) fn sector_may_contain(sector: &[u8; SECTOR], number: u64, key: u128, n_blocks: u32) -> Option<bool> {
    let at = (block_of(key, n_blocks) % SECTOR_BLOCKS as u64) as usize;
    blocks_in(sector, number)?.nth(at).map(|block| has(&block, masks(key)))
}

/// A filter in memory.
#[derive(Debug)]
pub(crate) struct Filter {
    blocks: Vec<Block>,
}

impl Filter {
    /// From all sectors of a filter of so many blocks; `None` if one is damaged.
    pub(crate) fn from_sectors(sectors: &[u8], n_blocks: u32) -> Option<Self> {
        let mut blocks = Vec::with_capacity(n_blocks as usize);
        for (number, sector) in (0..).zip(sectors.as_chunks::<SECTOR>().0) {
            let left = n_blocks as usize - blocks.len();
            blocks.extend(blocks_in(sector, number)?.take(left));
        }
        (blocks.len() == n_blocks as usize).then_some(Self { blocks })
    }

    /// Says "certainly not" or "perhaps".
    pub(crate) fn may_contain(&self, key: u128) -> bool {
        let block = block_of(key, self.blocks.len() as u32) as usize;
        has(&self.blocks[block], masks(key))
    }

    /// Tells which of many keys it says "perhaps" of, by their place. Blocks are fetched before they are looked at: each is
    /// a miss of the cache, and those of several keys overlap.
    pub(crate) fn which_perhaps(&self, keys: &[u128], mut perhaps: impl FnMut(usize)) {
        let n_blocks = self.blocks.len() as u32;
        for (first, keys) in (0..).step_by(FETCHED).zip(keys.chunks(FETCHED)) {
            let mut blocks = [Block::default(); FETCHED];
            for (block, key) in blocks.iter_mut().zip(keys) {
                *block = self.blocks[block_of(*key, n_blocks) as usize];
            }
            for (at, (block, key)) in blocks.iter().zip(keys).enumerate() {
                if has(block, masks(*key)) {
                    perhaps(first + at);
                }
            }
        }
    }
}

/// Bytes of memory that a filter of so many blocks takes.
pub(crate) fn memory_of(n_blocks: u32) -> usize {
    n_blocks as usize * BLOCK_BYTES
}

/// Makes the sectors of a filter from sorted keys.
pub(crate) struct SectorWriter {
    n_blocks: u32,
    /// The number of the sector under way.
    number: u64,
    blocks: [Block; SECTOR_BLOCKS],
    /// Finished sectors, for the caller to take away.
    pub(crate) out: Vec<u8>,
}

impl SectorWriter {
    pub(crate) fn new(n_blocks: u32) -> Self {
        Self { n_blocks, number: 0, blocks: Default::default(), out: Vec::new() }
    }

    /// Adds a key, which is not smaller than the one before.
    pub(crate) fn insert(&mut self, key: u128) {
        let block = block_of(key, self.n_blocks);
        while self.number < block / SECTOR_BLOCKS as u64 {
            self.end_sector();
        }
        let at = (block % SECTOR_BLOCKS as u64) as usize;
        for (word, mask) in self.blocks[at].iter_mut().zip(masks(key)) {
            *word |= mask;
        }
    }

    /// Ends the last sector.
    pub(crate) fn finish(&mut self) {
        while self.number < sectors_of(self.n_blocks) {
            self.end_sector();
        }
    }

    fn end_sector(&mut self) {
        let begin = self.out.len();
        self.out.extend(self.blocks.iter().flatten().flat_map(|word| word.to_le_bytes()));
        self.out.resize(begin + SUM_AT, 0);
        let sum = crc32c_append(crc32c(&self.out[begin..]), &self.number.to_le_bytes());
        self.out.extend_from_slice(&sum.to_le_bytes());
        self.blocks = Default::default();
        self.number += 1;
    }
}
