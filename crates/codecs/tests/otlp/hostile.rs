//! Bytes that no exporter sends: never a panic, every row accounted for, and whatever prost can
//! read either gives the same row or is refused.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::prelude::*;
use prost::Message;
use weir_codecs::otlp::{Encoding, Signal, decode};
use weir_codecs::{DecodeError, Decoded};

use crate::cells::Row;
use crate::equal::{all_rows, context};
use crate::generate::Random;
use crate::oracle;

const SIGNALS: [Signal; 3] = [Signal::Logs, Signal::Traces, Signal::Metrics];

/// What holds of every outcome.
pub(crate) fn check_sane(signal: Signal, encoding: Encoding, body: &[u8]) -> Result<Decoded, DecodeError> {
    let decoded = decode(signal, encoding, body, &context())?;
    let n_rows: usize = decoded.batches.iter().map(|batch| batch.batch.num_rows()).sum();
    assert_eq!(decoded.received, n_rows + decoded.rejects.len());
    assert!(decoded.batches.iter().all(|batch| batch.batch.num_rows() > 0));
    assert!(decoded.rejects.iter().map(|reject| reject.index).is_sorted());
    Ok(decoded)
}

fn valid(signal: Signal, mut random: Random) -> Vec<u8> {
    match signal {
        Signal::Logs => random.logs().encode_to_vec(),
        Signal::Traces => random.spans().encode_to_vec(),
        Signal::Metrics => random.metrics().encode_to_vec(),
    }
}

/// The rows as the oracle has them, if prost can read the bytes.
fn expected(signal: Signal, body: &[u8]) -> Option<Vec<Row>> {
    Some(match signal {
        Signal::Logs => oracle::logs(&ExportLogsServiceRequest::decode(body).ok()?),
        Signal::Traces => oracle::spans(&ExportTraceServiceRequest::decode(body).ok()?),
        Signal::Metrics => oracle::metrics(&ExportMetricsServiceRequest::decode(body).ok()?),
    })
}

fn mutate(body: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if body.is_empty() {
            return;
        }
        let at = random.below(body.len() as u64) as usize;
        match random.below(6) {
            0 => body[at] = random.next() as u8,
            1 => body[at] ^= 1 << random.below(8),
            2 => body.truncate(at),
            3 => {
                body.remove(at);
            }
            4 => body.insert(at, random.next() as u8),
            _ => {
                let end = body.len().min(at + random.below(40) as usize);
                let copy = body[at..end].to_vec();
                let to = random.below(body.len() as u64) as usize;
                body.splice(to..to, copy);
            }
        }
    }
}

#[test]
fn mutated_requests_give_the_rows_of_prost_or_are_refused() {
    let (mut n_read, mut n_refused) = (0, 0);
    for seed in 0..6000 {
        let signal = SIGNALS[seed as usize % 3];
        let random = if seed % 2 == 0 { Random::new(seed / 30) } else { Random::sloppy(seed / 30) };
        let mut body = valid(signal, random);
        mutate(&mut body, &mut Random::new(seed));
        let actual = check_sane(signal, Encoding::Protobuf, &body);
        let Some(expected) = expected(signal, &body) else { continue };
        let decoded = actual.unwrap_or_else(|error| panic!("seed {seed}: prost reads what we refuse: {error}"));
        assert_eq!(decoded.received, expected.len(), "seed {seed}");
        let rejected = |index: usize| decoded.rejects.iter().any(|reject| reject.index == index);
        let kept = expected.into_iter().enumerate().filter(|(index, _)| !rejected(*index)).map(|(_, row)| row);
        assert_eq!(all_rows(&decoded), kept.collect::<Vec<_>>(), "seed {seed}");
        n_read += 1;
        n_refused += usize::from(!decoded.rejects.is_empty());
    }
    // The mutations do what they are for.
    assert!(n_read > 500 && n_refused > 50, "{n_read} {n_refused}");
}

#[test]
fn mutated_json_never_panics() {
    for seed in 0..3000 {
        let signal = SIGNALS[seed as usize % 3];
        let mut random = Random::finite(seed / 30);
        let mut body = match signal {
            Signal::Logs => serde_json::to_vec(&random.logs()).unwrap(),
            Signal::Traces => serde_json::to_vec(&random.spans()).unwrap(),
            Signal::Metrics => serde_json::to_vec(&random.metrics()).unwrap(),
        };
        mutate(&mut body, &mut Random::new(seed));
        let _ = check_sane(signal, Encoding::Json, &body);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for signal in SIGNALS {
            for encoding in [Encoding::Protobuf, Encoding::Json] {
                let _ = check_sane(signal, encoding, &bytes);
            }
            // As the content of a record or metric, so that the way there is well framed.
            let _ = check_sane(signal, Encoding::Protobuf, &crate::wire::request(std::slice::from_ref(&bytes)));
        }
    }
}
