//! The corpus of the fuzz targets, replayed.

use std::path::Path;

use weir_codecs::inflate::{Encoding as Compression, decompress};
use weir_codecs::otlp::{Encoding, Signal};
use weir_codecs::segment::Call;
use weir_codecs::{events, segment};

use crate::equal::context;
use crate::hostile::check_sane;

/// Calls `run` with every file of a corpus; there is at least one.
fn replay(target: &str, mut run: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut n_files = 0;
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        n_files += 1;
    }
    assert!(n_files > 0, "{target}");
}

#[test]
fn otlp_corpora() {
    for (target, signal) in
        [("otlp_logs", Signal::Logs), ("otlp_traces", Signal::Traces), ("otlp_metrics", Signal::Metrics)]
    {
        replay(target, |body| {
            let _ = check_sane(signal, Encoding::Protobuf, body);
        });
    }
    replay("otlp_json", |body| {
        for signal in [Signal::Logs, Signal::Traces, Signal::Metrics] {
            let _ = check_sane(signal, Encoding::Json, body);
        }
    });
}

#[test]
fn inflate_corpus() {
    replay("inflate", |body| {
        for encoding in [Compression::Gzip, Compression::Deflate, Compression::Zstd] {
            if let Ok(out) = decompress(encoding, body, 1 << 20) {
                assert!(out.len() <= 1 << 20);
            }
        }
    });
}

#[test]
fn events_and_segment_corpora() {
    replay("events", |body| {
        let _ = events::decode(body, &context());
    });
    replay("segment", |body| {
        for call in [Call::Track, Call::Batch] {
            let _ = segment::decode(call, body, &context());
        }
    });
}
