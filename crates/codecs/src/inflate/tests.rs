#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::{Encoding, MEMBERS_MAX, decompress};
use crate::DecodeError;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 3).unwrap()
}

type Compress = fn(&[u8]) -> Vec<u8>;
const ALL: [(Encoding, Compress); 3] = [(Encoding::Gzip, gzip), (Encoding::Deflate, zlib), (Encoding::Zstd, zstd)];
/// Those whose bodies may have several members.
const BOTH: [(Encoding, Compress); 2] = [(Encoding::Gzip, gzip), (Encoding::Zstd, zstd)];

fn limit_of(result: Result<bytes::Bytes, DecodeError>) -> &'static str {
    match result.unwrap_err() {
        DecodeError::TooLarge { limit, .. } => limit,
        DecodeError::Malformed { .. } => "malformed",
        other => panic!("{other}"),
    }
}

#[test]
fn the_output_stops_at_the_limit() {
    let text = b"all work and no play ".repeat(100);
    assert_eq!(decompress(Encoding::Identity, &text, 2100).unwrap(), text);
    assert_eq!(limit_of(decompress(Encoding::Identity, &text, 2099)), "decoded_bytes_max");
    for (encoding, compress) in ALL {
        let packed = compress(&text);
        assert_eq!(decompress(encoding, &packed, 2100).unwrap(), text);
        assert_eq!(limit_of(decompress(encoding, &packed, 2099)), "decoded_bytes_max");
        assert_eq!(limit_of(decompress(encoding, &packed, 0)), "decoded_bytes_max");
    }
}

#[test]
fn members_add_up_and_are_counted() {
    for (encoding, compress) in BOTH {
        let one = compress(b"abc");
        assert_eq!(decompress(encoding, &one.repeat(3), 9).unwrap(), "abcabcabc");
        assert_eq!(limit_of(decompress(encoding, &one.repeat(3), 8)), "decoded_bytes_max");
        let nothing = compress(b"").repeat(MEMBERS_MAX as usize);
        assert_eq!(decompress(encoding, &nothing, 10).unwrap(), "");
        let more = [nothing, one].concat();
        assert_eq!(limit_of(decompress(encoding, &more, 10)), "compressed_members_max");
    }
}

#[test]
fn bombs_stop_at_the_ratio() {
    let zeros = vec![0; 32 << 20];
    for (encoding, compress) in ALL {
        assert_eq!(limit_of(decompress(encoding, &compress(&zeros), 1 << 30)), "compression_ratio_max");
        // Up to a MiB repeats as it likes.
        assert_eq!(decompress(encoding, &compress(&zeros[..1 << 20]), 1 << 30).unwrap().len(), 1 << 20);
    }
}

#[test]
fn windows_are_bounded() {
    let text: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
    for (log, accepted) in [(23, true), (24, false)] {
        let mut encoder = ::zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&text).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(decompress(Encoding::Zstd, &packed, 1 << 20).is_ok(), accepted, "{log}");
    }
}

#[test]
fn damage_is_an_error() {
    for (encoding, compress) in ALL {
        let packed = compress(b"all work and no play makes jack a dull boy");
        assert_eq!(limit_of(decompress(encoding, b"", 100)), "malformed", "{encoding:?}: nothing is not a frame");
        assert_eq!(limit_of(decompress(encoding, b"plain text", 100)), "malformed");
        for cut in 1..packed.len() {
            assert_eq!(limit_of(decompress(encoding, &packed[..cut], 100)), "malformed", "{encoding:?} {cut}");
        }
        let trailing = [packed.as_slice(), b"garbage"].concat();
        assert_eq!(limit_of(decompress(encoding, &trailing, 100)), "malformed");
    }
}

#[test]
fn a_wrong_checksum_is_an_error() {
    for (encoding, from_end) in [(Encoding::Gzip, 8), (Encoding::Deflate, 4)] {
        let mut packed = if encoding == Encoding::Gzip { gzip(b"checked") } else { zlib(b"checked") };
        let at = packed.len() - from_end;
        packed[at] ^= 1;
        assert_eq!(limit_of(decompress(encoding, &packed, 100)), "malformed", "{encoding:?}");
    }
}

#[test]
fn only_one_layer_is_undone() {
    let packed = gzip(b"inner");
    assert_eq!(decompress(Encoding::Gzip, &gzip(&packed), 1000).unwrap(), packed);
}

#[test]
fn the_output_never_reserves_more_than_it_may_hold() {
    let text: Vec<u8> = (0..50_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for (encoding, compress) in ALL {
        let output = decompress(encoding, &compress(&text), text.len() + 10).unwrap();
        let output = output.try_into_mut().unwrap();
        assert!(output.capacity() <= text.len() + 10, "{encoding:?} {}", output.capacity());
    }
}

proptest! {
    #[test]
    fn round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        for (encoding, compress) in ALL {
            prop_assert_eq!(&decompress(encoding, &compress(&bytes), 5000).unwrap()[..], &bytes[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_or_exceed(bytes in proptest::collection::vec(any::<u8>(), 0..300), flip in any::<usize>()) {
        for (encoding, compress) in ALL {
            let _ = decompress(encoding, &bytes, 1000);
            let mut packed = compress(&bytes.repeat(20));
            let at = flip % packed.len();
            packed[at] ^= 1 << (flip % 8);
            if let Ok(output) = decompress(encoding, &packed, 1000) {
                prop_assert!(output.len() <= 1000);
            }
        }
    }
}
