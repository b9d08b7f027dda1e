//! Every column of every stream, nested ones included, through flush, merge and the asynchronous
//! reader.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::ReaderBuilder;
use parquet::arrow::async_reader::AsyncFileReader;
use weir_data::streams::{STREAMS, StreamDef, attributes_type, timestamp_type};

use crate::testing::{Bench, read_all, read_file_of, tenant};

/// A JSON value that fits a type.
fn sample(kind: &DataType, row: usize) -> String {
    match kind {
        DataType::Timestamp(..) => format!("\"2026-11-21T13:00:{:02}.000000001Z\"", row % 60),
        DataType::Utf8 => format!("\"text {}\"", row % 3),
        DataType::Boolean => (row.is_multiple_of(2)).to_string(),
        DataType::Int64 | DataType::Int32 => row.to_string(),
        DataType::UInt64 | DataType::UInt8 => (row % 200).to_string(),
        DataType::Float64 | DataType::Float32 => format!("{row}.25"),
        DataType::Date32 => format!("\"2026-11-{:02}\"", 1 + row % 28),
        DataType::Decimal128(..) => format!("\"{row}.50\""),
        DataType::Binary => format!("\"{:02x}\"", row % 256),
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
    // One that a tenant has defined, with what is in none of the others.
    let window = vec![Field::new("start", timestamp_type(), true), Field::new("end", timestamp_type(), true)];
    let columns = Schema::new(vec![
        Field::new("window", DataType::Struct(window.into()), true),
        Field::new("region", DataType::Utf8, true),
        Field::new("n", DataType::UInt64, true),
        Field::new("small", DataType::UInt8, true),
        Field::new("share", DataType::Float32, true),
        Field::new("day", DataType::Date32, true),
        Field::new("price", DataType::Decimal128(12, 2), true),
        Field::new("bytes", DataType::Binary, true),
        Field::new("attributes", attributes_type(), true),
    ]);
    let own = Arc::new(StreamDef::define("slow_checkouts", None, &columns, &[]).unwrap());
    bench.catalogue.streams.lock().set(&tenant("acme"), Arc::clone(&own));
    for definition in STREAMS.iter().chain([&own]) {
        let mut expected = Vec::new();
        for part in 0..2 {
            let batch = rows(&definition.schema, part * 25, 25);
            bench.append("acme", &definition.name, batch.clone());
            expected.push(batch);
            assert_eq!(show(&read_all(&bench.snapshot("acme", &definition.name)).unwrap()), show(&expected));
            bench.store.flush_all().unwrap();
            assert_eq!(show(&read_all(&bench.snapshot("acme", &definition.name)).unwrap()), show(&expected));
        }
        let name = definition.name.as_ref();
        assert_eq!(bench.store.compact_once().unwrap().merges, 1, "{name}");
        let snapshot = bench.snapshot("acme", name);
        let [file] = snapshot.files.as_slice() else { panic!("{name} has one file") };
        assert_eq!(show(&read_all(&snapshot).unwrap()), show(&expected), "{name}");
        // Sorted as declared, so far as texts and times show it.
        let sort: Vec<usize> =
            definition.sort.iter().map(|column| definition.schema.index_of(column).unwrap()).collect();
        let mut keys = Vec::new();
        for batch in read_file_of(file, definition).unwrap() {
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
        bench.append("acme", &definition.name, rows(&definition.schema, part * 2000, 2000));
    }
    bench.store.flush_all().unwrap();
    let snapshot = bench.snapshot("acme", &definition.name);
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

fn own(before: Option<&StreamDef>, columns: &[&str]) -> Arc<StreamDef> {
    let columns: Vec<Field> = columns.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
    Arc::new(StreamDef::define("slow", before, &Schema::new(columns), &[]).unwrap())
}

/// A stream gets a column while rows of it are in files, in the tail, and on their way.
#[test]
fn a_stream_of_a_tenant_grows_while_it_is_written() {
    let mut bench = Bench::new(|options| options.compaction_files_max = 2);
    let registry = Arc::clone(&bench.catalogue.streams.lock());
    let narrow = own(None, &["a"]);
    registry.set(&tenant("acme"), Arc::clone(&narrow));
    let columns = |bench: &Bench| bench.snapshot("acme", "slow").stream.schema.fields().len();
    bench.append("acme", "slow", rows(&narrow.schema, 0, 10));
    bench.store.flush_all().unwrap();
    bench.append("acme", "slow", rows(&narrow.schema, 10, 10));
    assert_eq!(columns(&bench), 4);
    let wide = own(Some(&narrow), &["b", "a"]);
    registry.set(&tenant("acme"), Arc::clone(&wide));
    assert_eq!(columns(&bench), 5, "also before a row has the column");
    for part in 2..40 {
        bench.append("acme", "slow", rows(&wide.schema, part * 10, 10));
    }
    let count = |bench: &Bench| -> usize {
        read_all(&bench.snapshot("acme", "slow")).unwrap().iter().map(RecordBatch::num_rows).sum()
    };
    bench.store.merge_tails();
    assert_eq!(count(&bench), 400);
    bench.reopen().unwrap();
    assert_eq!((count(&bench), columns(&bench)), (400, 5));
    bench.store.flush_all().unwrap();
    while bench.store.compact_once().unwrap().merges > 0 {}
    assert_eq!((count(&bench), bench.snapshot("acme", "slow").files.len()), (400, 1));
    // Another tenant does not have it.
    assert!(bench.store.snapshot(&tenant("blue"), &crate::testing::stream("slow")).is_err());
}

/// Rows whose columns nobody knows any more are not served, not flushed and not let go.
#[test]
fn a_lost_definition_costs_its_table_and_no_row() {
    let mut bench = Bench::new(|_| {});
    let narrow = own(None, &["a"]);
    let registry = Arc::clone(&bench.catalogue.streams.lock());
    registry.set(&tenant("acme"), Arc::clone(&narrow));
    bench.append("acme", "slow", rows(&narrow.schema, 0, 10));
    bench.append("acme", "logs", crate::testing::log_rows(&[(1, 1)]));
    *bench.catalogue.streams.lock() = Arc::default();
    bench.reopen().unwrap();
    let error = bench.store.snapshot(&tenant("acme"), &crate::testing::stream("slow")).unwrap_err();
    assert_eq!(weir_base::Kinded::kind(&error), weir_base::ErrorKind::Corrupt, "{error}");
    let _ = bench.store.flush_all();
    bench.store.release();
    assert_eq!(bench.ids("acme"), [1], "other tables are as they were");
    // It comes back, from a backup for example.
    *bench.catalogue.streams.lock() = registry;
    bench.reopen().unwrap();
    assert_eq!(read_all(&bench.snapshot("acme", "slow")).unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 10);
    // Of a tenant that is gone nothing is missed.
    *bench.catalogue.streams.lock() = Arc::default();
    bench.catalogue.delete(&tenant("acme"));
    bench.reopen().unwrap();
    assert!(bench.store.damage(&tenant("acme"), &crate::testing::stream("slow")).is_none());
}
