//! The one checksum of everything Weir stores: CRC32C (Castagnoli, RFC 3720 appendix B.4).

/// The checksum of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// The checksum of what `crc` already covers, followed by `bytes`.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}

/// The generator, lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Which bit of `len` bytes is wrong, counted from the lowest of the first byte, if one wrong bit explains why their
/// checksum differs from the one that was kept. `difference` is the exclusive or of the two, and `behind` how many more
/// bytes the checksum covers after them.
///
/// Two wrong bits are never taken for one at any length below 256 MiB, nor up to four in less than 650 bytes. Of anything
/// else one in 2^32 divided by the number of bits is, so what was put right has to be checked by something else, too.
pub fn wrong_bit(difference: u32, len: usize, behind: usize) -> Option<usize> {
    let n_bits = len.checked_mul(8)?;
    let mut of_bit = POLYNOMIAL;
    for _ in 0..behind * 8 {
        of_bit = before(of_bit);
    }
    for bit in (0..n_bits).rev() {
        if of_bit == difference {
            return Some(bit);
        }
        of_bit = before(of_bit);
    }
    None
}

/// What the bit in front of one changes in a checksum.
fn before(of_bit: u32) -> u32 {
    (of_bit >> 1) ^ if of_bit & 1 == 1 { POLYNOMIAL } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{crc32c, wrong_bit};

    #[test]
    fn one_wrong_bit_is_found_and_more_are_not() {
        let whole: Vec<u8> = (0..200u32).map(|byte| (byte * 37 % 251) as u8).collect();
        let kept = crc32c(&whole);
        let flip = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
        for (len, behind) in [(200, 0), (150, 50), (1, 199)] {
            for bit in 0..200 * 8 {
                let mut bytes = whole.clone();
                flip(&mut bytes, bit);
                let expected = (bit < len * 8).then_some(bit);
                assert_eq!(
                    wrong_bit(crc32c(&bytes) ^ kept, len, behind),
                    expected,
                    "bit {bit} of {len}, {behind} behind"
                );
                for second in [0, 77, 801, 1599].into_iter().filter(|second| *second != bit) {
                    let mut bytes = bytes.clone();
                    flip(&mut bytes, second);
                    assert_eq!(wrong_bit(crc32c(&bytes) ^ kept, 200, 0), None, "bits {bit} and {second}");
                }
            }
        }
        assert_eq!(wrong_bit(0, 200, 0), None);
    }
}
