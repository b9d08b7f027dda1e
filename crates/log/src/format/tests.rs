#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::{BlockHeader, Cursor, Entry, IndexEntry, RequestEntry, SegmentHeader, decode_directory, footer_len};
use crate::ProducerSequence;
use weir_base::{StreamName, TenantId};

fn tenant() -> TenantId {
    TenantId::new("a-tenant").unwrap()
}

#[test]
fn entries_read_back() {
    let entries = [
        Entry::Request(RequestEntry {
            tenant: tenant(),
            producer: Some(ProducerSequence { producer: u128::MAX, epoch: 3, sequence: 9 }),
            idempotency: None,
        }),
        Entry::Request(RequestEntry { tenant: tenant(), producer: None, idempotency: Some(7) }),
        Entry::Index(IndexEntry {
            tenant: tenant(),
            stream: StreamName::new("_rejected").unwrap(),
            first: 1,
            last: 2,
            records: 3,
            rows: 4,
        }),
    ];
    for entry in entries {
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        let mut cursor = Cursor(&bytes);
        assert_eq!(Entry::decode(&mut cursor).unwrap(), entry);
        assert!(cursor.0.is_empty());
        for len in 0..bytes.len() {
            assert!(Entry::decode(&mut Cursor(&bytes[..len])).is_err());
        }
    }
}

#[test]
fn segment_headers_carry_schemas() {
    for schemas in [vec![], vec![(5, vec![1; 30]), (6, vec![2; 3000])]] {
        let header = SegmentHeader { log_id: 1, shard: 2, number: 3, base: 1024, created_at: 5, capacity: 6, schemas };
        let bytes = header.encode();
        assert!(bytes.len().is_multiple_of(512));
        assert_eq!(SegmentHeader::decode(&bytes).unwrap(), (header.clone(), bytes.len() as u64));
        let needs = SegmentHeader::needs(&bytes).unwrap();
        for at in 0..needs {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(SegmentHeader::decode(&damaged).is_err(), "byte {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No bytes make a decoder panic or ask for much memory.
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600), n_entries in any::<u32>()) {
        let _ = SegmentHeader::decode(&bytes);
        let _ = BlockHeader::decode(&bytes, 0, 0);
        let _ = Entry::decode(&mut Cursor(&bytes));
        if let Some(trailer) = bytes.first_chunk() {
            let _ = footer_len(trailer);
        }
        let header = BlockHeader {
            log_id: 0,
            offset: 0,
            watermark: 0,
            time: 0,
            len: 1024,
            directory_len: bytes.len() as u32,
            n_entries,
            shard: 0,
            kind: super::BlockKind::Commit,
            directory_crc: weir_base::crc::crc32c(&bytes),
        };
        let _ = decode_directory(&header, &bytes);
    }
}
