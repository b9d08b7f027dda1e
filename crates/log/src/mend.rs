//! Puts one wrong bit right in what a block says about itself: in its header, in its directory, in a schema. A checksum says
//! which bit it was, and something beside it whether that is so.
//!
//! Without it one bit would cost every tenant: with a directory the names are lost of those whose rows a block holds, and
//! a schema is needed by all who have rows of its stream. Rows themselves are not mended: they are so long that of
//! other damage too much would look like one wrong bit, and nothing beside their checksum could tell.

use weir_base::crc::{crc32c, wrong_bit};

use crate::format::{BLOCK_HEADER, BlockHeader, Body, Entry, body_crc, decode_directory};
use crate::rows::schema_id;

/// The bytes of its place that follow a body in its checksum.
const PLACE: usize = 12;

/// The header of the block at `offset`. Of one that was put right the magic, the log, the shard and the offset, which are
/// known, say that it is one; its encoding is not what was read.
pub(crate) fn header_at(bytes: &[u8], log_id: u64, shard: u16, offset: u64) -> Option<BlockHeader> {
    let header = match BlockHeader::decode(bytes, log_id, shard) {
        Ok(header) => header,
        Err(_) => {
            let mut fixed = *bytes.first_chunk::<BLOCK_HEADER>()?;
            let crc = crc32c(&fixed[..60]);
            let difference = crc ^ u32::from_le_bytes(*fixed.last_chunk()?);
            if difference.is_power_of_two() {
                fixed[60..].copy_from_slice(&crc.to_le_bytes());
            } else {
                flip(&mut fixed, wrong_bit(difference, 60, 0)?);
            }
            BlockHeader::decode(&fixed, log_id, shard).ok()?
        }
    };
    Some(header).filter(|header| header.offset == offset)
}

/// The entries of a directory of which one bit is wrong, and its bytes as they were. Whether it is so the bodies must say,
/// whose checksums are in it.
pub(crate) fn directory(header: &BlockHeader, bytes: &[u8]) -> Option<(Vec<Entry>, Vec<u8>)> {
    let mut bytes = bytes.to_vec();
    let bit = wrong_bit(crc32c(&bytes) ^ header.directory_crc, bytes.len(), 0)?;
    flip(&mut bytes, bit);
    Some((decode_directory(header, &bytes).ok()?, bytes))
}

/// Puts a schema right of which one bit is wrong. Its id says whether it is so.
pub(crate) fn schema(message: &mut [u8], id: u64, body: &Body, offset: u64, entry: usize) -> bool {
    let Some(bit) = wrong_bit(body_crc(message, offset, entry) ^ body.crc, message.len(), PLACE) else { return false };
    flip(message, bit);
    schema_id(message) == id
}

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}
