//! A split-block Bloom filter: one cache line a lookup (the layout of Parquet's filters).

const SALTS: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];
const BLOCK_BITS: u64 = 256;
/// Bits a key of a run that will be merged soon: 0.1 % of the answers are falsely yes. Such runs are
/// small and most of all runs, and each false yes reads a block for nothing, which costs as much as
/// writing the row.
const FRESH_KEY_BITS: u64 = 16;
/// Bits a key of other runs, of which there are many keys: about 1 %.
const KEY_BITS: u64 = 10;
/// Runs of up to so many keys are small.
const FRESH_KEYS_MAX: u64 = 1 << 20;

/// Says "certainly not" or "perhaps".
#[derive(Debug)]
pub(crate) struct Filter {
    blocks: Vec<[u32; 8]>,
}

impl Filter {
    /// An empty filter with room for `keys` keys.
    pub(crate) fn new(keys: u64) -> Self {
        let key_bits = if keys <= FRESH_KEYS_MAX { FRESH_KEY_BITS } else { KEY_BITS };
        let n_blocks = (keys * key_bits).div_ceil(BLOCK_BITS).max(1);
        Self { blocks: vec![[0; 8]; n_blocks as usize] }
    }

    /// From the bytes of [`Filter::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || chunks.is_empty() {
            return None;
        }
        let word = |bytes: &[u8; 32], at: usize| {
            u32::from_le_bytes([bytes[at * 4], bytes[at * 4 + 1], bytes[at * 4 + 2], bytes[at * 4 + 3]])
        };
        Some(Self { blocks: chunks.iter().map(|chunk| std::array::from_fn(|at| word(chunk, at))).collect() })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.blocks.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Keys are hashes already, so their bits are used as they are.
    fn place(&self, key: u128) -> (usize, [u32; 8]) {
        let high = (key >> 32) as u32;
        let low = key as u32;
        let block = (u64::from(high) * self.blocks.len() as u64) >> 32;
        (block as usize, SALTS.map(|salt| 1 << (low.wrapping_mul(salt) >> 27)))
    }

    pub(crate) fn insert(&mut self, key: u128) {
        let (block, masks) = self.place(key);
        for (word, mask) in self.blocks[block].iter_mut().zip(masks) {
            *word |= mask;
        }
    }

    pub(crate) fn may_contain(&self, key: u128) -> bool {
        let (block, masks) = self.place(key);
        self.blocks[block].iter().zip(masks).all(|(word, mask)| word & mask != 0)
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.blocks.len() * 32
    }
}
