//! Bytes that mean harm: none makes the decoder panic, take more than its budget, or lose count.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, RecordBatch, StringArray, StructArray, UInt8Array, UInt16Array, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, UInt16Type};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{DictionaryHandling, IpcWriteOptions, StreamWriter};
use proptest::prelude::*;
use prost::Message;
use weir_codecs::otap::{Stream, batch_id, decode};
use weir_codecs::otlp::Signal;
use weir_codecs::{DecodeError, Decoded, RowContext};

use crate::encode::{ArrowPayload, BatchArrowRecords, Encoder};
use crate::equal::context;
use crate::memory::peak_of;

/// What a decoder may take in these tests.
const BUDGET: usize = 1 << 20;

fn tight() -> RowContext<'static> {
    RowContext { decoded_bytes_max: BUDGET, ..context() }
}

/// Decodes within [`BUDGET`] and checks what must hold of every outcome.
fn attack(signal: Signal, body: &[u8]) -> Result<Decoded, DecodeError> {
    let (peak, outcome) = peak_of(|| decode(signal, body, &tight()));
    // Three times the budget, as promised, a copy of what is sent, and what growing by doubling
    // and the decompressors' chunks add.
    let allowed = 8 * BUDGET + 2 * body.len();
    assert!(peak <= allowed, "{peak} bytes taken, and {allowed} allowed");
    if let Ok(decoded) = &outcome {
        let n_rows: usize = decoded.batches.iter().map(|batch| batch.batch.num_rows()).sum();
        assert_eq!(decoded.received, n_rows + decoded.rejects.len());
    }
    outcome
}

/// A batch of each signal that decodes, as it goes out.
fn samples(seed: u64) -> [(Signal, BatchArrowRecords); 3] {
    let mut encoder = Encoder::new(seed);
    let (logs, spans, metrics) = (encoder.random.logs(), encoder.random.spans(), encoder.random.metrics());
    [
        (Signal::Logs, Encoder::new(seed).logs(&logs)),
        (Signal::Traces, Encoder::new(seed).spans(&spans)),
        (Signal::Metrics, Encoder::new(seed).metrics(&metrics)),
    ]
}

fn batch_of(kind: i32, record: Vec<u8>) -> Vec<u8> {
    let payload = ArrowPayload { schema_id: "1".to_owned(), kind, record };
    BatchArrowRecords { batch_id: 7, arrow_payloads: vec![payload] }.encode_to_vec()
}

fn ipc(columns: Vec<(&str, ArrayRef)>, compression: Option<CompressionType>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn message(error: DecodeError) -> String {
    error.to_string()
}

fn limit(outcome: Result<Decoded, DecodeError>) -> &'static str {
    match outcome {
        Err(DecodeError::TooLarge { limit, .. }) => limit,
        other => panic!("no limit refused it: {other:?}"),
    }
}

/// Arrow's own reader makes 2 GiB of this.
#[test]
fn eight_bytes_that_announce_two_gigabytes() {
    let record = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(limit(attack(Signal::Logs, &batch_of(30, record))), "arrow_metadata_bytes_max");
}

/// Body lengths, offsets and lengths of buffers, lengths of what is compressed, row counts: all of
/// them are aligned words.
#[test]
fn every_word_replaced_by_a_hostile_one() {
    let words = [-1, i64::MIN, i64::MAX, 1 << 46, 1 << 40, 1 << 31, 0x7fff_ffff_7fff_ffff, 0];
    for seed in [3, 4, 9] {
        for (signal, batch) in samples(seed) {
            for (at_payload, payload) in batch.arrow_payloads.iter().enumerate() {
                for at in (0..payload.record.len().saturating_sub(7)).step_by(8) {
                    let mut record = payload.record.clone();
                    let word = words[(at / 8 + at_payload) % words.len()];
                    record[at..at + 8].copy_from_slice(&word.to_le_bytes());
                    let _ = attack(signal, &batch_of(payload.kind, record));
                }
            }
        }
    }
}

#[test]
fn truncated_at_every_byte() {
    for (signal, batch) in samples(5) {
        let body = batch.encode_to_vec();
        for end in 0..body.len() {
            let _ = attack(signal, &body[..end]);
            batch_id(&body[..end]);
        }
        // And within the payloads, with the protobuf around them intact.
        for payload in &batch.arrow_payloads {
            for end in (0..payload.record.len()).step_by(7) {
                let _ = attack(signal, &batch_of(payload.kind, payload.record[..end].to_vec()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn mutations(seed in 0u64..60, changes in prop::collection::vec((any::<u32>(), any::<u8>()), 1..6)) {
        for (signal, batch) in samples(seed) {
            let mut body = batch.encode_to_vec();
            if body.is_empty() {
                continue;
            }
            for (at, byte) in &changes {
                let at = *at as usize % body.len();
                body[at] ^= (*byte).max(1);
            }
            let _ = attack(signal, &body);
        }
    }

    #[test]
    fn any_bytes(body in prop::collection::vec(any::<u8>(), 0..300)) {
        for signal in [Signal::Logs, Signal::Traces, Signal::Metrics] {
            let _ = attack(signal, &body);
            let _ = attack(signal, &batch_of(1, body.clone()));
        }
    }
}

/// A few kilobytes that would be a gigabyte of zeros.
#[test]
fn bombs_are_refused_before_they_are_unpacked() {
    for compression in [CompressionType::ZSTD, CompressionType::LZ4_FRAME] {
        let zeros: ArrayRef = Arc::new(UInt32Array::from(vec![0u32; 4 << 20]));
        let record = ipc(vec![("flags", zeros)], Some(compression));
        assert!(record.len() < 200_000, "it packs well");
        assert_eq!(limit(attack(Signal::Logs, &batch_of(30, record))), "decoded_bytes_max");
    }
}

/// Every row refers to the same long text: small to send, and large as rows.
#[test]
fn one_dictionary_entry_for_every_row() {
    let text = "x".repeat(60_000);
    let keys = UInt16Array::from(vec![0u16; 5000]);
    let texts = DictionaryArray::<UInt16Type>::new(keys, Arc::new(StringArray::from(vec![text])));
    let record = ipc(vec![("severity_text", Arc::new(texts) as ArrayRef)], None);
    assert_eq!(limit(attack(Signal::Logs, &batch_of(30, record))), "decoded_bytes_max");
}

/// All rows have the id 0, and so the same thousand attributes each.
#[test]
fn rows_that_share_attributes() {
    let ids: ArrayRef = Arc::new(UInt16Array::from(vec![0u16; 5000]));
    let logs = ipc(vec![("id", ids)], None);
    let n = 1000;
    let attributes = ipc(
        vec![
            ("parent_id", Arc::new(UInt16Array::from(vec![0u16; n])) as ArrayRef),
            ("key", Arc::new(StringArray::from_iter_values((0..n).map(|n| n.to_string())))),
            ("type", Arc::new(UInt8Array::from(vec![1u8; n]))),
            ("str", Arc::new(StringArray::from(vec!["v"; n]))),
        ],
        None,
    );
    let payload = |kind: i32, record| ArrowPayload { schema_id: kind.to_string(), kind, record };
    let batch = BatchArrowRecords { batch_id: 1, arrow_payloads: vec![payload(30, logs), payload(31, attributes)] };
    assert_eq!(limit(attack(Signal::Logs, &batch.encode_to_vec())), "decoded_bytes_max");
}

#[test]
fn schemas_that_are_too_wide_or_too_deep() {
    let wide: Vec<Field> = (0..501).map(|n| Field::new(format!("c{n}"), DataType::UInt8, true)).collect();
    let record = schema_only(Schema::new(wide));
    assert_eq!(limit(attack(Signal::Logs, &batch_of(30, record))), "arrow_fields_max");
    let record = schema_only(Schema::new(vec![Field::new("x".repeat(257), DataType::UInt8, true)]));
    assert_eq!(limit(attack(Signal::Logs, &batch_of(30, record))), "arrow_name_bytes_max");
    let mut deep = Field::new("leaf", DataType::UInt8, true);
    for _ in 0..16 {
        deep = Field::new("level", DataType::Struct(vec![deep].into()), true);
    }
    let refused = attack(Signal::Logs, &batch_of(30, schema_only(Schema::new(vec![deep]))));
    assert!(message(refused.unwrap_err()).contains("nested deeper than 16"));
    let other = Schema::new(vec![Field::new("huge", DataType::Decimal128(10, 2), true)]);
    let refused = attack(Signal::Logs, &batch_of(30, schema_only(other)));
    assert!(message(refused.unwrap_err()).contains("OTAP does not use"));
}

fn schema_only(schema: Schema) -> Vec<u8> {
    StreamWriter::try_new(Vec::new(), &schema).unwrap().into_inner().unwrap()
}

/// A dictionary that grows with every batch, until the stream has had enough; a new schema begins
/// anew.
#[test]
fn growing_dictionaries_are_bounded() {
    let mut stream = Stream::new(Signal::Logs);
    let mut send = GrowingDictionary::new();
    let mut refused = None;
    for n in 0..40 {
        let outcome = stream.decode(&batch_of(30, send.next(1 << 20)), &context());
        assert!(stream.bytes() <= 16 << 20, "{} bytes are kept", stream.bytes());
        if let Err(error) = outcome {
            refused = Some((n, error));
            break;
        }
    }
    let (n, error) = refused.unwrap();
    assert!(n >= 10, "{n} batches were taken: {error:?}");
    assert_eq!(limit(Err(error)), "otap_dictionary_bytes_max");
    // What the sender takes for known was not read.
    assert!(stream.is_broken());
    assert!(message(stream.decode(&batch_of(30, send.next(1)), &context()).unwrap_err()).contains("cannot go on"));
}

/// The dictionaries of one column, each with a value more than the one before.
struct GrowingDictionary {
    values: Vec<String>,
    writer: Option<StreamWriter<Vec<u8>>>,
}

impl GrowingDictionary {
    fn new() -> Self {
        Self { values: Vec::new(), writer: None }
    }

    fn next(&mut self, bytes: usize) -> Vec<u8> {
        self.values.push(char::from(b'a' + self.values.len() as u8).to_string().repeat(bytes));
        let keys = UInt16Array::from(vec![self.values.len() as u16 - 1]);
        let texts = DictionaryArray::<UInt16Type>::new(keys, Arc::new(StringArray::from(self.values.clone())));
        let batch = RecordBatch::try_from_iter([("severity_text", Arc::new(texts) as ArrayRef)]).unwrap();
        let writer = self.writer.get_or_insert_with(|| {
            let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
            StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options).unwrap()
        });
        writer.write(&batch).unwrap();
        std::mem::take(writer.get_mut())
    }
}

/// Only the new values go over the wire, and old keys keep their meaning.
#[test]
fn dictionaries_grow() {
    let mut stream = Stream::new(Signal::Logs);
    let mut send = GrowingDictionary::new();
    let mut before = 0;
    for expected in ["aaaa", "bbbb", "cccc"] {
        let decoded = stream.decode(&batch_of(30, send.next(4)), &context()).unwrap();
        let rows = crate::equal::all_rows(&decoded);
        assert_eq!(rows[0]["severity_text"], expected);
        // Four of text, and what says where it ends.
        assert!(before == 0 || stream.bytes() == before + 4 + 5);
        before = stream.bytes();
    }
}

/// A new schema id in every batch takes the place of the one before.
#[test]
fn schema_ids_do_not_pile_up() {
    let mut stream = Stream::new(Signal::Logs);
    for n in 0..200 {
        let record = GrowingDictionary::new().next(1000);
        let payload = ArrowPayload { schema_id: n.to_string(), kind: 30, record };
        let batch = BatchArrowRecords { batch_id: n, arrow_payloads: vec![payload] };
        stream.decode(&batch.encode_to_vec(), &context()).unwrap();
        assert!(stream.bytes() < 2000);
    }
}

/// Replaces the last occurrence of some bytes.
fn replaced(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).rposition(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// What points nowhere is refused, and not read as absent.
#[test]
fn keys_and_offsets_that_point_nowhere() {
    let values = StringArray::from_iter_values((0..300).map(|n| n.to_string()));
    let texts = DictionaryArray::<UInt16Type>::new(UInt16Array::from(vec![0x0103; 4]), Arc::new(values));
    let record = ipc(vec![("severity_text", Arc::new(texts) as ArrayRef)], None);
    assert!(attack(Signal::Logs, &batch_of(30, record.clone())).is_ok());
    let changed = replaced(record, &[3, 1, 3, 1, 3, 1, 3, 1], &[3, 1, 0x2c, 1]);
    let refused = attack(Signal::Logs, &batch_of(30, changed));
    assert!(message(refused.unwrap_err()).contains("a key is not in the dictionary"));
    let texts = StringArray::from(vec!["abc", "def", "ghi"]);
    let record = ipc(vec![("severity_text", Arc::new(texts) as ArrayRef)], None);
    let offsets = [3, 0, 0, 0, 6, 0, 0, 0, 9, 0, 0, 0];
    for (to, expected) in [
        ([3, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0], "offsets go backward"),
        ([3, 0, 0, 0, 6, 0, 0, 0, 9, 1, 0, 0], "offsets end outside"),
        ([3, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0x80], "offsets go backward"),
    ] {
        let refused = attack(Signal::Logs, &batch_of(30, replaced(record.clone(), &offsets, &to)));
        assert!(refused.is_err(), "{to:?}");
        let message = message(refused.unwrap_err());
        assert!(message.contains(expected), "{message}");
    }
}

/// A dictionary that is sent again and again within one payload.
#[test]
fn messages_of_a_payload_are_counted() {
    let first = GrowingDictionary::new().next(1);
    let mut rest = first.as_slice();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*rest[4..].first_chunk().unwrap()) as usize;
        // The body of these has no length of its own to read here: up to the next marker.
        let next = rest[8 + length..].windows(4).position(|window| window == [0xff; 4]);
        let (message, after) = rest.split_at(next.map_or(rest.len(), |at| at + 8 + length));
        messages.push(message);
        rest = after;
    }
    let record = [messages[0], &messages[1].repeat(1024)].concat();
    assert_eq!(limit(attack(Signal::Logs, &batch_of(30, record))), "arrow_messages_max");
}

#[test]
fn what_a_batch_may_not_be() {
    let good = || ipc(vec![("id", Arc::new(UInt16Array::from(vec![0u16])) as ArrayRef)], None);
    let payload = |kind, schema_id: &str, record| ArrowPayload { schema_id: schema_id.to_owned(), kind, record };
    let mut without_schema = GrowingDictionary::new();
    without_schema.next(1);
    let cases = [
        (vec![payload(30, "1", good()), payload(30, "1", good())], "two payloads LOGS"),
        (vec![payload(40, "1", good())], "does not belong to this signal"),
        (vec![payload(99, "1", good())], "payload type 99 is not known"),
        (vec![payload(30, "2", without_schema.next(1))], "does not begin with a schema"),
        (vec![payload(30, "1", Vec::new())], "no record batch"),
        (vec![payload(30, "1", [good(), good()].concat())], ""),
    ];
    for (arrow_payloads, expected) in cases {
        let outcome =
            decode(Signal::Logs, &BatchArrowRecords { batch_id: 1, arrow_payloads }.encode_to_vec(), &context());
        match outcome {
            Err(error) => assert!(message(error.clone()).contains(expected), "{error}, not {expected}"),
            // The end of a stream of messages ends the payload.
            Ok(_) => assert_eq!(expected, ""),
        }
    }
    let multivariate = BatchArrowRecords { batch_id: 1, arrow_payloads: vec![payload(25, "1", good())] };
    let refused = decode(Signal::Metrics, &multivariate.encode_to_vec(), &context());
    assert!(matches!(refused, Err(DecodeError::Unsupported { .. })));
}

/// A row with text that is not UTF-8 is refused, and the others are stored.
#[test]
fn a_bad_row_is_refused_alone() {
    let record = ipc(vec![("severity_text", Arc::new(StringArray::from(vec!["good", "baaad"])) as ArrayRef)], None);
    let at = record.windows(5).position(|window| window == b"baaad").unwrap();
    let mut changed = record.clone();
    changed[at] = 0xff;
    let decoded = decode(Signal::Logs, &batch_of(30, changed), &context()).unwrap();
    assert_eq!((decoded.received, decoded.rejects.len()), (2, 1));
    assert_eq!(decoded.rejects[0].index, 1);
}

/// CBOR that goes on for ever, is cut off, or is no attribute.
#[test]
fn cbor() {
    let log = |bytes: &[u8]| {
        let types: ArrayRef = Arc::new(UInt8Array::from(vec![6u8]));
        let nested: ArrayRef = Arc::new(arrow::array::BinaryArray::from(vec![bytes]));
        let fields = vec![
            (Arc::new(Field::new("type", DataType::UInt8, true)), types),
            (Arc::new(Field::new("ser", DataType::Binary, true)), nested),
        ];
        let record = ipc(vec![("body", Arc::new(StructArray::from(fields)) as ArrayRef)], None);
        attack(Signal::Logs, &batch_of(30, record))
    };
    let body = |bytes: &[u8]| crate::equal::all_rows(&log(bytes).unwrap()).remove(0).remove("body");
    assert_eq!(body(&[0x83, 1, 0x20, 0xf9, 0x3c, 0x00]).unwrap(), "[1,-1,1.0]");
    assert_eq!(body(&[0x9f, 0x61, b'x', 0xf4, 0xf7, 0xff]).unwrap(), "[\"x\",false,null]");
    assert_eq!(body(&[0xa1, 0xf6, 0xfa, 0x3f, 0, 0, 0]).unwrap(), "{\"\":0.5}");
    for bad in [
        &[][..],
        &[0x82, 1],
        &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x9f],
        &[0xff],
        &[0x81, 0xff],
        &[0x01, 0x01],
        &[0xc1, 0x01],
        &[0xa1, 1, 1],
        &[0x1c],
        &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ] {
        assert!(log(bad).is_err(), "{bad:?}");
    }
    // Too deep for a row, and far too deep for the stack.
    assert_eq!(log(&[[0x81; 64].as_slice(), &[1]].concat()).unwrap().rejects.len(), 0);
    assert_eq!(log(&[[0x81; 65].as_slice(), &[1]].concat()).unwrap().rejects.len(), 1);
    assert!(log(&[0x81; 100_000]).is_err());
}
