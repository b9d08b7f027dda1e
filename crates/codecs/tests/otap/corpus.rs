//! The corpus of the fuzz target, replayed: its first byte is the signal.

use std::path::Path;

use prost::Message;
use weir_codecs::otap::decode;
use weir_codecs::otlp::Signal;

use crate::encode::Encoder;
use crate::equal::context;

const SIGNALS: [Signal; 3] = [Signal::Logs, Signal::Traces, Signal::Metrics];

#[test]
fn otap_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/otap");
    let mut n_files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let Some((first, body)) = bytes.split_first() else { continue };
        let _ = decode(SIGNALS[usize::from(*first) % 3], body, &context());
        n_files += 1;
    }
    assert!(n_files > 0);
}

/// Writes the seeds: `cargo test -p weir-codecs --test otap write_seeds -- --ignored`.
#[test]
#[ignore = "writes files"]
fn write_seeds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/otap");
    std::fs::create_dir_all(&folder).unwrap();
    for seed in [1, 2, 3, 6] {
        let mut encoder = Encoder::new(seed);
        let (logs, spans, metrics) = (encoder.random.logs(), encoder.random.spans(), encoder.random.metrics());
        let batches =
            [Encoder::new(seed).logs(&logs), Encoder::new(seed).spans(&spans), Encoder::new(seed).metrics(&metrics)];
        for (signal, batch) in batches.iter().enumerate() {
            let mut bytes = vec![signal as u8];
            bytes.extend(batch.encode_to_vec());
            std::fs::write(folder.join(format!("seed-{seed}-{signal}")), bytes).unwrap();
        }
    }
}
