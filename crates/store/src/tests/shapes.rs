//! Every column of every stream, nested ones included, through flush, merge and the asynchronous
//! reader.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::json::ReaderBuilder;
use parquet::arrow::async_reader::AsyncFileReader;
use weir_data::streams::STREAMS;

use crate::testing::{Bench, read_all};

/// A JSON value that fits a type.
fn sample(kind: &DataType, row: usize) -> String {
    match kind {
        DataType::Timestamp(..) => format!("\"2026-11-21T13:00:{:02}.000000001Z\"", row % 60),
        DataType::Utf8 => format!("\"text {}\"", row % 3),
        DataType::Boolean => (row.is_multiple_of(2)).to_string(),
        DataType::Int64 | DataType::Int32 => row.to_string(),
        DataType::Float64 => format!("{row}.25"),
        DataType::List(item) => match row % 3 {
            0 => "[]".to_owned(),
            1 => format!("[{}]", sample(item.data_type(), row)),
            _ => format!("[{},null]", sample(item.data_type(), row)),
        },
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("\"{}\":{}", field.name(), sample(field.data_type(), row))).collect();
            format!("{{{}}}", fields.join(","))
        }
        DataType::Map(..) => format!("{{\"k{}\":\"{row}\"}}", row % 4),
        other => panic!("no sample of {other}"),
    }
}

fn rows(schema: &Arc<Schema>, from: usize, n_rows: usize) -> RecordBatch {
    let mut text = String::new();
    for row in from..from + n_rows {
        let mut fields = Vec::new();
        for (at, field) in schema.fields().iter().enumerate() {
            // Nullable columns are null in some rows.
            if !field.is_nullable() || (row + at) % 5 != 0 {
                fields.push(format!("\"{}\":{}", field.name(), sample(field.data_type(), row)));
            }
        }
        text.push_str(&format!("{{{}}}\n", fields.join(",")));
    }
    let mut decoder = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(n_rows).build_decoder().unwrap();
    assert_eq!(decoder.decode(text.as_bytes()).unwrap(), text.len());
    decoder.flush().unwrap().unwrap()
}

/// Rows as text, in no particular order.
fn show(batches: &[RecordBatch]) -> Vec<String> {
    let mut out = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values: Vec<String> = batch
                .columns()
                .iter()
                .map(|column| arrow::util::display::array_value_to_string(column, row).unwrap())
                .collect();
            out.push(values.join("|"));
        }
    }
    out.sort();
    out
}

#[test]
fn every_column_comes_back() {
    let bench = Bench::new(|options| {
        options.compaction_files_max = 2;
        options.row_group_rows_max = 10;
    });
    for definition in STREAMS.iter() {
        let mut expected = Vec::new();
        for part in 0..2 {
            let batch = rows(&definition.schema, part * 25, 25);
            bench.append("acme", definition.name, batch.clone());
            expected.push(batch);
            assert_eq!(show(&read_all(&bench.snapshot("acme", definition.name)).unwrap()), show(&expected));
            bench.store.flush_all().unwrap();
            assert_eq!(show(&read_all(&bench.snapshot("acme", definition.name)).unwrap()), show(&expected));
        }
        let name = definition.name;
        assert_eq!(bench.store.compact_once().unwrap().merges, 1, "{name}");
        let snapshot = bench.snapshot("acme", name);
        let [file] = snapshot.files.as_slice() else { panic!("{name} has one file") };
        assert_eq!(show(&read_all(&snapshot).unwrap()), show(&expected), "{name}");
        // Sorted as declared, so far as texts and times show it.
        let sort: Vec<usize> =
            definition.sort.iter().map(|column| definition.schema.index_of(column).unwrap()).collect();
        let mut keys = Vec::new();
        for batch in crate::testing::read_file(file).unwrap() {
            let columns: Vec<_> = sort.iter().map(|at| batch.column(*at).clone()).collect();
            for row in 0..batch.num_rows() {
                let key: Vec<String> = columns
                    .iter()
                    .map(|column| arrow::util::display::array_value_to_string(column, row).unwrap())
                    .collect();
                keys.push(key);
            }
        }
        assert!(keys.is_sorted(), "{name}");
        assert!(file.entry.bytes < 64 << 10, "{name}: {} bytes for 50 rows", file.entry.bytes);
        // Bloom filters where they are promised.
        let metadata = file.metadata().unwrap();
        for column in metadata.row_group(0).columns() {
            let promised = definition.bloom_columns.contains(&column.column_path().string().as_str());
            assert_eq!(column.bloom_filter_offset().is_some(), promised, "{name} {}", column.column_path());
        }
    }
}

#[test]
fn the_reader_serves_exactly_the_ranges_asked_for() {
    let bench = Bench::new(|_| {});
    let definition = &STREAMS[1];
    for part in 0..8 {
        bench.append("acme", definition.name, rows(&definition.schema, part * 2000, 2000));
    }
    bench.store.flush_all().unwrap();
    let snapshot = bench.snapshot("acme", definition.name);
    let file = &snapshot.files[0];
    let bytes = bench.disk.read(file.path(), 1 << 30).unwrap();
    let len = bytes.len() as u64;
    assert!(len > 2 * 65_536, "the file has several blocks: {len}");
    let ranges = vec![100..200, 0..4, len - 8..len, 65_530..65_540, 65_536..131_072, 7..7, 190..70_000, len - 1..len];
    let mut reader = file.reader();
    let check = |range: &std::ops::Range<u64>, found: &[u8]| {
        assert_eq!(found, &bytes[range.start as usize..range.end as usize], "{range:?}");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // With and without a runtime.
    let found = runtime.block_on(reader.get_byte_ranges(ranges.clone())).unwrap();
    for (range, found) in ranges.iter().zip(&found) {
        check(range, found);
        check(range, &futures::executor::block_on(reader.get_bytes(range.clone())).unwrap());
    }
    let metadata = futures::executor::block_on(reader.get_metadata(None)).unwrap();
    assert_eq!(metadata.file_metadata().num_rows(), 16_000);
    assert!(bench.store.stats().metadata_bytes > 0, "the footer is kept");
    let beyond = futures::executor::block_on(reader.get_bytes(len - 1..len + 1)).unwrap_err();
    assert!(matches!(crate::StoreError::within(&beyond), Some(crate::StoreError::Corrupt { .. })), "{beyond:?}");
}

#[test]
fn footers_are_forgotten_past_their_budget() {
    let bench = Bench::new(|options| options.metadata_bytes_max = 60_000);
    for id in 0..12 {
        bench.append("acme", "logs", crate::testing::log_rows(&[(id, id)]));
        bench.store.flush_all().unwrap();
    }
    for _ in 0..2 {
        assert_eq!(bench.ids("acme"), (0..12).collect::<Vec<_>>());
        let kept = bench.store.stats().metadata_bytes;
        assert!(kept > 0 && kept <= 60_000, "{kept}");
    }
}
