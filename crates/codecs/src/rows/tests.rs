#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type, Schema, TimestampNanosecondType};
use proptest::prelude::*;
use weir_data::json_rows;

use super::*;

const RECORD_BYTES_MAX: usize = 200;
const COMMA: CsvOptions = CsvOptions { delimiter: b',', header: true };

fn columns(columns: &[(&str, &str)]) -> Arc<Columns> {
    let columns = columns.iter().map(|(name, kind)| ((*name).to_owned(), ColumnType::of_name(kind).unwrap()));
    Arc::new(Columns::new(columns.collect()))
}

/// Reads everything, handed over in pieces of `step` bytes, as a source does.
fn read_all(bytes: &[u8], step: usize, mut read: impl FnMut(&[u8], bool) -> Progress, mut full: impl FnMut(bool)) {
    let (mut start, mut end) = (0, 0);
    loop {
        let progress = read(&bytes[start..end], end == bytes.len());
        assert!(progress.whole <= progress.bytes && progress.bytes <= end - start);
        start += progress.bytes;
        full(start == bytes.len());
        if start == bytes.len() {
            return;
        }
        end = (end + step).min(bytes.len());
    }
}

fn ndjson(columns: &Arc<Columns>, bytes: &[u8], step: usize) -> (Vec<RecordBatch>, Vec<RejectedRecord>) {
    let decoder = std::cell::RefCell::new(NdjsonDecoder::new(Arc::clone(columns), RECORD_BYTES_MAX));
    let (mut batches, mut rejects) = (Vec::new(), Vec::new());
    read_all(
        bytes,
        step,
        |bytes, at_end| decoder.borrow_mut().read(bytes, at_end),
        |done| {
            if decoder.borrow().is_full() || done {
                let taken = decoder.borrow_mut().take();
                batches.push(taken.rows);
                rejects.extend(taken.rejects);
            }
        },
    );
    (batches, rejects)
}

fn csv(
    columns: &Arc<Columns>,
    options: CsvOptions,
    bytes: &[u8],
    step: usize,
) -> (Vec<RecordBatch>, Vec<RejectedRecord>) {
    let decoder = std::cell::RefCell::new(CsvDecoder::new(Arc::clone(columns), options, RECORD_BYTES_MAX));
    let (mut batches, mut rejects) = (Vec::new(), Vec::new());
    read_all(
        bytes,
        step,
        |bytes, at_end| decoder.borrow_mut().read(bytes, at_end).unwrap(),
        |done| {
            if decoder.borrow().is_full() || done {
                let taken = decoder.borrow_mut().take();
                batches.push(taken.rows);
                rejects.extend(taken.rejects);
            }
        },
    );
    (batches, rejects)
}

fn shown(batches: &[RecordBatch]) -> String {
    let lines = batches.iter().map(|batch| {
        let names: Vec<String> = batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        String::from_utf8(json_rows::lines(batch, &names)).unwrap()
    });
    lines.collect()
}

/// One line of NDJSON into one column `c`: how the value is written again, or the message.
fn value(kind: &str, json: &str) -> String {
    let columns = columns(&[("c", kind)]);
    let (batches, rejects) = ndjson(&columns, format!("{{\"c\":{json}}}").as_bytes(), 1000);
    match rejects.first() {
        Some(reject) => reject.message.clone(),
        None => shown(&batches).trim_end().trim_start_matches("{\"c\":").trim_end_matches('}').to_owned() + "",
    }
}

#[test]
fn json_values_become_their_columns_type() {
    for (kind, json, expected) in [
        ("int64", "12", "12"),
        ("int64", "-9223372036854775808", "-9223372036854775808"),
        ("int64", "2.0", "2"),
        ("int64", "1e3", "1000"),
        ("int64", "1.5", "column `c`: expected an int64, got `1.5`"),
        ("int64", "9223372036854775808", "column `c`: expected an int64, got `9223372036854775808`"),
        ("int64", "\"12\"", "column `c`: expected an int64, got a string"),
        ("int64", "null", "null"),
        ("float64", "1", "1"),
        ("float64", "-0.25", "-0.25"),
        ("float64", "1e999", "column `c`: 1e999 is out of range"),
        ("float64", "true", "column `c`: expected a number, got a boolean"),
        ("bool", "true", "true"),
        ("bool", "1", "column `c`: expected true or false, got a number"),
        ("text", r#""a\u00e9\n""#, r#""aé\n""#),
        ("text", "12.50", "\"12.50\""),
        ("text", r#"{"a": [1]}"#, r#""{\"a\":[1]}""#),
        ("text", r#""\ud800""#, "column `c`: half of a surrogate pair is no text"),
        ("json", r#" {"a" : [1, "x y"]} "#, r#"{"a":[1,"x y"]"#),
        ("json", "\"t\"", "\"t\""),
        ("json", "null", "null"),
        ("timestamp", "\"2026-01-02T03:04:05.000000006Z\"", "\"2026-01-02T03:04:05.000000006Z\""),
        ("timestamp", "\"2026-01-02T03:04:05+01:00\"", "\"2026-01-02T02:04:05Z\""),
        ("timestamp", "\"2026-01-02 03:04:05\"", "\"2026-01-02T03:04:05Z\""),
        ("timestamp", "1700000000123", "\"2023-11-14T22:13:20.123Z\""),
        ("timestamp", "1700000000123.5", "\"2023-11-14T22:13:20.1235Z\""),
        ("timestamp", "1700000000123456", "\"2023-11-14T22:13:20.123456Z\""),
        ("timestamp", "1700000000123456789", "\"2023-11-14T22:13:20.123456789Z\""),
        ("timestamp", "-1", "\"1969-12-31T23:59:59.999Z\""),
        ("timestamp", "-0.5", "\"1969-12-31T23:59:59.9995Z\""),
        ("timestamp_s", "1700000000", "\"2023-11-14T22:13:20Z\""),
        ("timestamp_s", "1700000000.25", "\"2023-11-14T22:13:20.25Z\""),
        ("timestamp_us", "1", "\"1970-01-01T00:00:00.000001Z\""),
        ("timestamp_ns", "1", "\"1970-01-01T00:00:00.000000001Z\""),
        (
            "timestamp_s",
            "99999999999",
            "column `c`: expected a timestamp (RFC 3339, or a number since 1970), got `99999999999`",
        ),
        ("timestamp", "\"soon\"", "column `c`: expected a timestamp (RFC 3339, or a number since 1970), got `soon`"),
    ] {
        assert_eq!(value(kind, json), expected.trim_end_matches('}'), "{kind} {json}");
    }
}

#[test]
fn a_bad_line_costs_itself_alone_and_says_where_it_is() {
    let columns = columns(&[("a", "int64"), ("b", "text")]);
    let long = format!("{{\"a\":5,\"b\":\"{}\"}}", "x".repeat(RECORD_BYTES_MAX));
    let text = format!(
        "\u{feff}{{\"a\":1,\"b\":\"x\"}}\n\n{{\"a\":2,\n[1]\n{long}\n{{\"b\":\"y\",\"z\":{{\"q\":[]}},\"a\":3}}\r\n{{\"a\":\"n\",\"b\":\"z\"}}\n{{\"a\":4,\"a\":6}}"
    );
    let expected_rows = "{\"a\":1,\"b\":\"x\"}\n{\"a\":3,\"b\":\"y\"}\n{\"a\":6,\"b\":null}\n";
    for step in [1, 2, 7, 64, 100_000] {
        let (batches, rejects) = ndjson(&columns, text.as_bytes(), step);
        assert_eq!(shown(&batches), expected_rows, "{step}");
        let told: Vec<(u64, &str)> = rejects.iter().map(|reject| (reject.line, reject.message.as_str())).collect();
        let expected = [
            (2, "not valid JSON: the text ends too early at byte 7"),
            (3, "expected an object, got a list"),
            (4, "the line has more than 200 bytes (record_bytes_max)"),
            (6, "column `a`: expected an int64, got a string"),
        ];
        assert_eq!(told, expected, "{step}");
        assert!(rejects[2].payload.starts_with("{\"a\":5,\"b\":\"xx"));
        assert_eq!(rejects[3].payload, "{\"a\":\"n\",\"b\":\"z\"}");
    }
    let (_, rejects) = ndjson(&columns, b"{\"a\":1}\n\xff\n", 3);
    assert_eq!((rejects[0].line, rejects[0].message.as_str()), (1, "not valid UTF-8 at byte 0"));
}

/// Names are expected where they stood in the line before, which must never matter.
#[test]
fn members_may_come_in_any_order_and_spacing() {
    let columns = columns(&[("a", "int64"), ("ab", "int64"), ("b", "int64")]);
    let lines = [
        r#"{"a":1,"ab":2,"x":0,"b":3}"#,
        r#"{"a":1,"ab":2,"x":0,"b":3}"#,
        r#"{ "a" : 1 , "ab" : 2 , "x" : 0 , "b" : 3 }"#,
        r#"{"ab":2,"b":3,"a":1}"#,
        r#"{"x":[{"a":9}],"b":3,"a":1,"ab":2}"#,
        r#"{"a":1,"ab":2,"b":3}"#,
        r#"{"a":7,"ab":2,"b":3,"a":1}"#,
    ];
    let (batches, rejects) = ndjson(&columns, lines.join("\n").as_bytes(), 10_000);
    assert_eq!(rejects, []);
    assert_eq!(shown(&batches), "{\"a\":1,\"ab\":2,\"b\":3}\n".repeat(lines.len()));
    for (line, message) in [
        (r#"{"a":1"ab":2}"#, "not valid JSON: expected `,` or `}` at byte 6"),
        (r#"{,"a":1}"#, "not valid JSON: expected the name of a member in quotes at byte 1"),
        (r#"{"a":1,}"#, "not valid JSON: expected the name of a member in quotes at byte 7"),
        (r#"{"a":1,,"ab":2}"#, "not valid JSON: expected the name of a member in quotes at byte 7"),
        (r#"{"a":1}{"a":1}"#, "not valid JSON: something follows the end of the value at byte 7"),
        (r#"{"a":}"#, "not valid JSON: expected a value at byte 5"),
    ] {
        let text = format!("{}\n{line}\n", lines[0]);
        let (_, rejects) = ndjson(&columns, text.as_bytes(), 10_000);
        assert_eq!(rejects[0].message, message, "{line}");
    }
}

#[test]
fn csv_is_read_as_it_is_met() {
    let columns = columns(&[("a", "int64"), ("b", "text"), ("t", "timestamp")]);
    let text = "\u{feff}b,t,x,a\r\n\
        one,2026-01-02T00:00:00Z,,1\n\
        \"a \"\"b\"\"\nc,\",,\"\",2\n\
        \n\
        \"\",1000,y,\r\n\
        too,few\n\
        it's 5\" long,,,4\n\
        \"a\"b,,,5\n\
        x,,,six\n\
        \"never closed,,,7\n\
        last,,,8";
    let expected = "{\"a\":1,\"b\":\"one\",\"t\":\"2026-01-02T00:00:00Z\"}\n\
        {\"a\":2,\"b\":\"a \\\"b\\\"\\nc,\",\"t\":null}\n\
        {\"a\":null,\"b\":\"\",\"t\":\"1970-01-01T00:00:01Z\"}\n\
        {\"a\":4,\"b\":\"it's 5\\\" long\",\"t\":null}\n\
        {\"a\":8,\"b\":\"last\",\"t\":null}\n";
    for step in [1, 2, 3, 50, 100_000] {
        let (batches, rejects) = csv(&columns, COMMA, text.as_bytes(), step);
        assert_eq!(shown(&batches), expected, "{step}");
        let told: Vec<(u64, &str)> = rejects.iter().map(|reject| (reject.line, reject.message.as_str())).collect();
        let expected = [
            (6, "expected 4 cells, got 2"),
            (8, "something follows the closing quote of a cell"),
            (9, "column `a`: expected an int64, got `six`"),
            (10, "a quote is never closed"),
        ];
        assert_eq!(told, expected, "{step}");
    }
}

#[test]
fn a_quote_that_is_never_closed_costs_one_line_of_a_long_file() {
    let columns = columns(&[("a", "text")]);
    let text = format!("a\n\"open\n{}", "row\n".repeat(1000));
    for step in [1, 300, 100_000] {
        let (batches, rejects) = csv(&columns, COMMA, text.as_bytes(), step);
        assert_eq!(rejects.len(), 1, "{step}: {:?}", rejects[0]);
        assert_eq!(rejects[0].payload, "\"open");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1000);
    }
}

#[test]
fn a_header_has_every_column_once() {
    let columns = columns(&[("a", "int64"), ("b", "text")]);
    for (header, expected) in [
        ("a,c\n", "the header has no column `b`, only `a`, `c`"),
        ("a,b,b\n", "the header has several columns `b`"),
        ("\"\",\n", "the header has no column `a`, only ``, ``"),
    ] {
        let mut decoder = CsvDecoder::new(Arc::clone(&columns), COMMA, RECORD_BYTES_MAX);
        assert_eq!(decoder.read(header.as_bytes(), true).unwrap_err().message, expected);
    }
}

#[test]
fn batches_are_full_at_their_bounds() {
    let columns = columns(&[("a", "int64")]);
    let mut decoder = NdjsonDecoder::new(Arc::clone(&columns), RECORD_BYTES_MAX);
    let text = "{\"a\":1}\nbad\n".repeat(BATCH_ROWS_MAX);
    let progress = decoder.read(text.as_bytes(), true);
    assert_eq!((progress.lines, progress.bytes), (BATCH_ROWS_MAX as u64, text.len() / 2));
    assert!(decoder.is_full());
    assert_eq!(decoder.read(&text.as_bytes()[progress.bytes..], true), Progress::default());
    let taken = decoder.take();
    assert_eq!((taken.rows.num_rows(), taken.rejects.len()), (BATCH_ROWS_MAX / 2, BATCH_ROWS_MAX / 2));
    assert!(!decoder.is_full());
    assert_eq!(decoder.read(&text.as_bytes()[progress.bytes..], true).lines, BATCH_ROWS_MAX as u64);

    let many = (0..4096).map(|n| (format!("c{n}"), ColumnType::Int64)).collect();
    let mut decoder = NdjsonDecoder::new(Arc::new(Columns::new(many)), RECORD_BYTES_MAX);
    assert_eq!(decoder.read("{\"c7\":1}\n".repeat(1000).as_bytes(), true).lines, 512, "two million cells fill a batch");

    let wide = Arc::new(Columns::new(vec![("t".to_owned(), ColumnType::Text)]));
    let mut decoder = NdjsonDecoder::new(wide, 1 << 20);
    let line = format!("{{\"t\":\"{}\"}}\n", "x".repeat(1 << 19));
    let text = line.repeat(40);
    let progress = decoder.read(text.as_bytes(), true);
    assert_eq!(progress.lines, 32, "16 MiB of text fill a batch");
}

fn inferred(columns: &[(String, ColumnType)]) -> String {
    columns.iter().map(|(name, kind)| format!("{name}:{}", kind.as_str())).collect::<Vec<_>>().join(" ")
}

#[test]
fn columns_are_guessed_from_the_first_rows() {
    let mut guess = Inference::default();
    let text = "{\"z\":1,\"f\":1,\"t\":\"2026-01-02T03:04:05Z\",\"n\":null}\n\
        not json\n\
        {\"z\":2,\"f\":1.5,\"t\":\"2026-01-02T03:04:05Z\",\"j\":{\"a\":1},\"m\":1}\n\
        {\"m\":\"x\",\"b\":true,\"j\":1,\"d\":\"2026-01-02\"}\n\
        {\"cut\":";
    infer_ndjson(&mut guess, text.as_bytes(), false, 100);
    assert_eq!(guess.n_rows(), 3);
    assert_eq!(inferred(&guess.columns()), "z:int64 f:float64 t:timestamp n:text j:json m:text b:bool d:text");

    let mut guess = Inference::default();
    let text = "id,zip,price,at,ok,none,name\n1,01234,2.50,2026-01-02T03:04:05Z,true,,\"a\nb\"\n2,98765,3,,FALSE,,\n\n";
    infer_csv(&mut guess, text.as_bytes(), COMMA, true, 100);
    assert_eq!(guess.n_rows(), 2);
    assert_eq!(inferred(&guess.columns()), "id:int64 zip:text price:float64 at:timestamp ok:bool none:text name:text");

    let mut guess = Inference::default();
    infer_csv(&mut guess, b"1;a\n2;b\n", CsvOptions { delimiter: b';', header: false }, true, 1);
    assert_eq!((guess.n_rows(), inferred(&guess.columns()).as_str()), (1, "column_1:int64 column_2:text"));
}

/// Rows of every type.
fn arbitrary_rows() -> impl Strategy<Value = RecordBatch> {
    let float =
        prop_oneof![any::<f64>().prop_filter("JSON has no others", |value| value.is_finite()), Just(1.0), Just(-0.0)];
    let text = prop_oneof![
        any::<String>(),
        Just(String::new()),
        Just(" a,\"b\"\r\n".to_owned()),
        Just("\u{feff}x".to_owned())
    ];
    let json = prop_oneof![
        Just("{\"a\":[1,{\"b\":null}],\"é\":\"\\u0001\"}".to_owned()),
        Just("\"text\"".to_owned()),
        Just("[]".to_owned()),
        Just("1.50".to_owned()),
    ];
    let row = (
        proptest::option::of(any::<i64>()),
        proptest::option::of(float),
        proptest::option::of(any::<bool>()),
        proptest::option::of(text),
        proptest::option::of(any::<i64>()),
        proptest::option::of(json),
    );
    proptest::collection::vec(row, 0..20).prop_map(|rows| {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0))),
            Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.1))),
            Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.2))),
            Arc::new(StringArray::from_iter(rows.iter().map(|row| row.3.clone()))),
            Arc::new(TimestampNanosecondArray::from_iter(rows.iter().map(|row| row.4)).with_timezone("UTC")),
            Arc::new(StringArray::from_iter(rows.iter().map(|row| row.5.clone()))),
        ];
        RecordBatch::try_new(Arc::clone(every_type().schema()), arrays).unwrap()
    })
}

fn every_type() -> Arc<Columns> {
    columns(&[("i", "int64"), ("f", "float64"), ("b", "bool"), ("t", "text"), ("at", "timestamp"), ("j", "json")])
}

fn joined(schema: &Arc<Schema>, batches: &[RecordBatch]) -> RecordBatch {
    arrow::compute::concat_batches(schema, batches).unwrap()
}

fn same(left: &RecordBatch, right: &RecordBatch) {
    assert_eq!(left.num_rows(), right.num_rows());
    assert_eq!(left.column(0).as_primitive::<Int64Type>(), right.column(0).as_primitive::<Int64Type>());
    let bits = |batch: &RecordBatch| -> Vec<Option<u64>> {
        batch.column(1).as_primitive::<Float64Type>().iter().map(|value| value.map(f64::to_bits)).collect()
    };
    assert_eq!(bits(left), bits(right));
    assert_eq!(left.column(2), right.column(2));
    assert_eq!(left.column(3), right.column(3));
    let times = |batch: &RecordBatch| batch.column(4).as_primitive::<TimestampNanosecondType>().clone();
    assert_eq!(times(left), times(right));
    assert_eq!(left.column(5), right.column(5));
}

proptest! {
    #[test]
    fn ndjson_round_trips(rows in arbitrary_rows(), step in 1_usize..400) {
        let columns = every_type();
        let names: Vec<String> = columns.columns().iter().map(|(name, _)| name.clone()).collect();
        let mut bytes = json_rows::lines(&rows, &names);
        // What is too long for this test's bound is another test's.
        bytes = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.len() <= RECORD_BYTES_MAX).flatten().copied().collect();
        let kept = bytes.iter().filter(|byte| **byte == b'\n').count();
        prop_assume!(kept == rows.num_rows());
        let (batches, rejects) = ndjson(&columns, &bytes, step);
        prop_assert_eq!(rejects, vec![]);
        same(&rows, &joined(columns.schema(), &batches));
    }

    #[test]
    fn csv_round_trips(rows in arbitrary_rows(), step in 1_usize..400, delimiter in prop_oneof![Just(b','), Just(b'\t'), Just(b';')]) {
        let columns = every_type();
        let mut bytes = Vec::new();
        write_csv_header(&mut bytes, columns.schema(), delimiter);
        write_csv_rows(&mut bytes, &rows, delimiter);
        let (batches, rejects) = csv(&columns, CsvOptions { delimiter, header: true }, &bytes, step);
        prop_assume!(rejects.iter().all(|reject| !reject.message.contains("record_bytes_max")));
        prop_assert_eq!(rejects, vec![]);
        same(&rows, &joined(columns.schema(), &batches));
    }

    #[test]
    fn one_column_round_trips_through_csv(texts in proptest::collection::vec(proptest::option::of("[a-c\"\n ]{0,4}"), 0..10)) {
        let columns = columns(&[("t", "text")]);
        let rows = RecordBatch::try_new(Arc::clone(columns.schema()), vec![Arc::new(StringArray::from_iter(texts))]).unwrap();
        let mut bytes = Vec::new();
        write_csv_header(&mut bytes, columns.schema(), b',');
        write_csv_rows(&mut bytes, &rows, b',');
        let (batches, rejects) = csv(&columns, COMMA, &bytes, 7);
        prop_assert_eq!(rejects, vec![]);
        prop_assert_eq!(&rows, &joined(columns.schema(), &batches));
    }

    /// Every line is a row or a reject, whatever the bytes and however they are cut.
    #[test]
    fn hostile_ndjson_is_accounted_for(bytes in hostile(), step in 1_usize..300) {
        let columns = every_type();
        let (batches, rejects) = ndjson(&columns, &bytes, step);
        let (whole_batches, whole_rejects) = ndjson(&columns, &bytes, bytes.len().max(1));
        prop_assert_eq!(&rejects, &whole_rejects);
        prop_assert_eq!(joined(columns.schema(), &batches), joined(columns.schema(), &whole_batches));
        let lines = bytes.split(|byte| *byte == b'\n');
        let blank = |line: &[u8]| line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
        let records = lines.filter(|line| !blank(line) || line.len() > RECORD_BYTES_MAX).count();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        // A byte order mark alone is a blank line too.
        let marked = usize::from(bytes.starts_with(b"\xef\xbb\xbf"));
        prop_assert!(records - marked <= rows + rejects.len() && rows + rejects.len() <= records);
    }

    #[test]
    fn hostile_csv_never_panics_and_does_not_depend_on_cuts(bytes in hostile(), step in 1_usize..300) {
        let columns = columns(&[("i", "int64"), ("t", "text")]);
        let options = CsvOptions { delimiter: b',', header: false };
        let (batches, rejects) = csv(&columns, options, &bytes, step);
        let (whole_batches, whole_rejects) = csv(&columns, options, &bytes, bytes.len().max(1));
        prop_assert_eq!(joined(columns.schema(), &batches), joined(columns.schema(), &whole_batches));
        let lines = |rejects: &[RejectedRecord]| rejects.iter().map(|reject| reject.line).collect::<Vec<_>>();
        prop_assert_eq!(lines(&rejects), lines(&whole_rejects));
        let mut guess = Inference::default();
        infer_csv(&mut guess, &bytes, COMMA, true, 100);
        infer_ndjson(&mut guess, &bytes, true, 100);
    }
}

/// Bytes that look like the formats, and bytes that do not.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"{\"i\":1,\"t\":\"x\",\"f\":2.5,\"b\":true,\"at\":1000,\"j\":[1]}\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\"".to_vec()),
        Just(b",".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"{\"i\":".to_vec()),
        Just(b"[[[[".to_vec()),
        Just(vec![b'x'; 150]),
        Just("\u{feff}".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

#[test]
fn nulls_are_counted_where_a_row_was_undone() {
    let columns = columns(&[("a", "int64"), ("b", "int64")]);
    let (batches, rejects) = ndjson(&columns, b"{\"a\":null,\"b\":\"x\"}\n{\"a\":1,\"a\":null,\"a\":2,\"b\":3}\n", 100);
    assert_eq!((batches[0].num_rows(), rejects.len()), (1, 1));
    assert_eq!(batches[0].column(0).null_count(), 0);
}

/// The corpus of the fuzz target, replayed: the first byte of an input says how it is cut.
#[test]
fn the_corpus_is_read_the_same_however_it_is_cut() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/rows");
    let columns = every_type();
    let options = CsvOptions { delimiter: b',', header: false };
    let mut n_files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let (step, body) = bytes.split_first().unwrap();
        let step = usize::from(*step).max(1);
        assert_eq!(ndjson(&columns, body, step), ndjson(&columns, body, body.len()));
        let lines = |rejects: &[RejectedRecord]| rejects.iter().map(|reject| reject.line).collect::<Vec<_>>();
        let (cut, whole) = (csv(&columns, options, body, step), csv(&columns, options, body, body.len()));
        assert_eq!((cut.0, lines(&cut.1)), (whole.0, lines(&whole.1)));
        n_files += 1;
    }
    assert!(n_files > 0);
}
