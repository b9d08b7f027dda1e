//! What the OpenTelemetry project's own library sends, replayed: `tests/data/otap`.
//!
//! The library sorts rows, attributes, events, links and exemplars as packs best, so here rows are
//! compared without regard to their order, and such columns without regard to the order in them.

use std::path::Path;

use weir_codecs::Decoded;
use weir_codecs::otap::Stream;
use weir_codecs::otlp::{self, Encoding, Signal};

use crate::equal::{all_rows, context};

/// Columns whose elements may change places.
const UNORDERED: [&str; 7] =
    ["attributes", "resource", "scope_attributes", "metadata", "span_events", "links", "exemplars"];

/// Rows as text that does not depend on any order.
fn canonical(decoded: &Decoded) -> Vec<String> {
    let mut rows: Vec<String> = all_rows(decoded)
        .into_iter()
        .map(|mut row| {
            // The library takes a negative zero for a value left out.
            row.values_mut().for_each(|cell| *cell = cell.replace("-0.0", "0.0"));
            for column in UNORDERED {
                if let Some(cell) = row.get_mut(column) {
                    let mut characters: Vec<char> = cell.chars().collect();
                    characters.sort_unstable();
                    *cell = characters.into_iter().collect();
                }
            }
            format!("{row:?}")
        })
        .collect();
    rows.sort_unstable();
    rows
}

#[test]
fn a_real_producer_is_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/otap");
    let (mut n_batches, mut n_rows) = (0, 0);
    for (name, signal) in [("logs", Signal::Logs), ("traces", Signal::Traces), ("metrics", Signal::Metrics)] {
        for seed in 0..3 {
            let mut stream = Stream::new(signal);
            for n in 0..3 {
                let file = |ending: &str| folder.join(format!("{name}-{seed}-{n}.{ending}"));
                let (otap, otlp) = (std::fs::read(file("otap")).unwrap(), std::fs::read(file("otlp")).unwrap());
                let expected = otlp::decode(signal, Encoding::Protobuf, &otlp, &context()).unwrap();
                let actual = stream.decode(&otap, &context()).unwrap();
                assert_eq!(actual.received, expected.received, "{name}-{seed}-{n}");
                let (actual, expected) = (canonical(&actual), canonical(&expected));
                for (actual, expected) in actual.iter().zip(&expected) {
                    assert_eq!(actual, expected, "{name}-{seed}-{n}");
                }
                assert_eq!(actual.len(), expected.len(), "{name}-{seed}-{n}");
                n_batches += 1;
                n_rows += actual.len();
            }
        }
    }
    assert_eq!(n_batches, 27);
    assert!(n_rows > 200, "{n_rows} rows");
}
