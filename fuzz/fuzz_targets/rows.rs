//! Files of lines: NDJSON and CSV into columns of every type, whole and handed over in pieces. The first
//! byte says how large these are.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use weir_codecs::rows::{
    ColumnType, Columns, CsvDecoder, CsvOptions, DecodedRows, Inference, NdjsonDecoder, Progress, infer_csv,
    infer_ndjson,
};

const RECORD_BYTES_MAX: usize = 100;

fuzz_target!(|body: &[u8]| {
    let Some((step, body)) = body.split_first() else { return };
    let step = usize::from(*step).max(1);
    let names = ["i", "f", "b", "t", "at", "s", "ms", "us", "ns", "j"];
    let columns = names.into_iter().map(str::to_owned).zip(ColumnType::ALL).collect();
    let columns = Arc::new(Columns::new(columns));
    let ndjson = |step: usize| {
        let mut decoder = NdjsonDecoder::new(Arc::clone(&columns), RECORD_BYTES_MAX);
        feed(body, step, |bytes, at_end| Some(decoder.read(bytes, at_end)));
        decoder.take()
    };
    same(&ndjson(step), &ndjson(body.len().max(1)));
    for header in [false, true] {
        let options = CsvOptions { delimiter: b',', header };
        let csv = |step: usize| {
            let mut decoder = CsvDecoder::new(Arc::clone(&columns), options, RECORD_BYTES_MAX);
            feed(body, step, |bytes, at_end| decoder.read(bytes, at_end).ok());
            decoder.take()
        };
        same(&csv(step), &csv(body.len().max(1)));
        infer_csv(&mut Inference::default(), body, options, true, 100);
    }
    infer_ndjson(&mut Inference::default(), body, true, 100);
});

/// Hands over `bytes` in pieces, as a source does.
fn feed(bytes: &[u8], step: usize, mut read: impl FnMut(&[u8], bool) -> Option<Progress>) {
    let (mut start, mut end) = (0, 0);
    loop {
        let at_end = end == bytes.len();
        let Some(progress) = read(&bytes[start..end], at_end) else { return };
        assert!(progress.whole <= progress.bytes && progress.bytes <= end - start);
        start += progress.bytes;
        if at_end {
            // A batch is full before the end only if there are thousands of records.
            assert!(start == bytes.len() || bytes.len() > 8192);
            return;
        }
        end = (end + step).min(bytes.len());
    }
}

fn same(left: &DecodedRows, right: &DecodedRows) {
    let lines = |rows: &DecodedRows| rows.rejects.iter().map(|reject| reject.line).collect::<Vec<_>>();
    if left.rows.num_rows() + left.rejects.len() < 8192 {
        assert_eq!(left.rows, right.rows);
        assert_eq!(lines(left), lines(right));
    }
}
