//! Each format read back by somebody else's reader.

use std::io::Cursor;

use arrow::array::{Array, AsArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use weir_sql::output::Format;

use crate::support::{NOON, SECOND, World, batch, file, logs, request, texts, times};

fn world() -> World {
    let world = World::new();
    world.tail(
        "acme",
        "logs",
        logs(&[
            (NOON, 9, "plain", r#"{"n":1.0,"s":"a\"b","o":{"x":[1,null]}}"#),
            (NOON + 1, 17, "with, comma and \"quotes\"\nand lines", "{}"),
            (NOON + SECOND / 10, 17, "=1+1", "{}"),
        ]),
    );
    world
}

#[tokio::test]
async fn json_values_have_one_form_each() {
    let world = world();
    let check = async |expression: &str, expected: &str| {
        assert_eq!(
            world.rows("acme", &format!("select {expression}")).await,
            format!("[[{expected}]]"),
            "{expression}"
        );
    };
    check("1", "1").await;
    check("9223372036854775807", "9223372036854775807").await;
    check("18446744073709551615", "18446744073709551615").await;
    check("1.5", "1.5").await;
    check("1e300", "1e+300").await;
    check("cast('NaN' as double), cast('-inf' as double)", "null,null").await;
    check("true, null, ''", r#"true,null,"""#).await;
    check("'a\"b\\c\u{1}'", r#""a\"b\\c\u0001""#).await;
    check("[1, 2, null]", "[1,2,null]").await;
    check("[['a'], []]", r#"[["a"],[]]"#).await;
    check("named_struct('a', 1, 'b', 'x')", r#"{"a":1,"b":"x"}"#).await;
    check("map(['k'], [1])", r#"{"k":1}"#).await;
    check("cast('2026-02-28' as date)", r#""2026-02-28""#).await;
    check("to_timestamp('1969-12-31T23:59:59.5Z')", r#""1969-12-31T23:59:59.5Z""#).await;
    check("to_timestamp('2024-02-29T00:00:00.000001Z')", r#""2024-02-29T00:00:00.000001Z""#).await;
    check("cast(1.25 as decimal(10, 3))", "1.25").await;
    check("decode('00ff', 'hex')", r#""AP8=""#).await;
    check("1, 1, 2 as x, 3 as x, x.y from (values (4)) as x(y)", "1,1,2,3,4").await;
    check("interval '1 day'", r#""1 days""#).await;
}

#[tokio::test]
async fn attributes_are_embedded_as_json() {
    let world = world();
    assert_eq!(
        world.rows("acme", "select attributes from logs order by time").await,
        r#"[[{"n":1.0,"o":{"x":[1,null]},"s":"a\"b"}],[null],[null]]"#
    );
    let mut builder = weir_data::attributes::AttributesBuilder::with_capacity(1);
    builder.push_f64("nan", f64::NAN);
    builder.push_json("list", "[NaN,-Infinity,\"NaN\",1]");
    builder.push_json("broken", "{not json");
    builder.end_row();
    let rows = batch(
        "events",
        vec![("time", times([NOON])), ("received_at", times([NOON])), ("properties", builder.finish().0)],
    );
    world.tail("acme", "events", rows);
    assert_eq!(
        world.rows("acme", "select properties from events").await,
        r#"[[{"broken":"{not json","list":[null,null,"NaN",1],"nan":null}]]"#
    );
}

#[tokio::test]
async fn ndjson_is_an_object_a_line() {
    let world = world();
    let sql = "select a.body, b.body, 1 as body_2 from logs a join logs b on a.time = b.time order by a.time limit 1";
    let bytes = world.run("acme", request(sql), Format::NdJson).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].as_object().unwrap().len(), 3, "{text}");
    assert_eq!(lines[0]["body"], "plain");
    assert_eq!(lines[0]["body_3"], "plain");
    assert_eq!(lines[0]["body_2"], 1);
}

#[tokio::test]
async fn csv_is_read_back_by_others() {
    let world = world();
    let bytes = world.run(
        "acme",
        request("select body, severity_number, time_flag, attributes from logs order by time"),
        Format::Csv,
    );
    let text = String::from_utf8(bytes.await.unwrap()).unwrap();
    assert_eq!(
        text,
        "body,severity_number,time_flag,attributes\r\n\
         plain,9,,\"{\"\"n\"\":1.0,\"\"o\"\":{\"\"x\"\":[1,null]},\"\"s\"\":\"\"a\\\"\"b\"\"}\"\r\n\
         \"with, comma and \"\"quotes\"\"\nand lines\",17,,\r\n\
         \"'=1+1\",17,,\r\n"
    );
}

/// Null is the one thing they are not. Who wants JSON has no word for them, unless it is asked for.
#[tokio::test]
async fn numbers_that_are_none_are_told_from_null() {
    let world = World::new();
    let sql = "select cast('NaN' as double) as a, cast('inf' as float) as b, -cast('inf' as double) as c, \
               cast(null as double) as d, 1.5 as e, 'nan' as f";
    let text = async |format| String::from_utf8(world.run("acme", request(sql), format).await.unwrap()).unwrap();
    assert_eq!(text(Format::Csv).await, "a,b,c,d,e,f\r\nnan,inf,-inf,,1.5,nan\r\n");
    let rows = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap()["rows"].to_string();
    assert_eq!(rows(text(Format::Json).await), r#"[[null,null,null,null,1.5,"nan"]]"#);
    assert_eq!(rows(text(Format::JsonAllNumbers).await), r#"[["nan","inf","-inf",null,1.5,"nan"]]"#);
}

#[tokio::test]
async fn arrow_and_parquet_hold_the_same_rows() {
    let world = world();
    let sql = "select * from logs order by time";
    let bytes = world.run("acme", request(sql), Format::Arrow).await.unwrap();
    let batches: Vec<_> =
        arrow_ipc::reader::StreamReader::try_new(Cursor::new(bytes), None).unwrap().map(Result::unwrap).collect();
    let stream = weir_data::streams::stream("logs").unwrap();
    assert_eq!(batches[0].schema().as_ref(), stream.schema.as_ref());
    let arrow = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    assert_eq!(arrow.num_rows(), 3);
    let bytes = world.run("acme", request(sql), Format::Parquet).await.unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap().build().unwrap();
    let parquet: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(parquet[0].columns(), arrow.columns());
    let body = arrow.column_by_name("body").unwrap();
    assert_eq!(body.as_string::<i32>().value(0), "plain");
    assert_eq!(body.null_count(), 0);
}

#[tokio::test]
async fn an_empty_answer_is_whole_in_every_format() {
    let world = World::new();
    for format in Format::ALL.into_iter().chain([Format::JsonAllNumbers]) {
        let bytes = world.run("acme", request("select * from logs"), format).await.unwrap();
        match format {
            Format::Json | Format::JsonAllNumbers => {
                let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(answer["rows"], serde_json::json!([]));
                assert_eq!(answer["columns"].as_array().unwrap().len(), 20);
            }
            Format::NdJson => assert!(bytes.is_empty()),
            Format::Csv => assert!(bytes.starts_with(b"time,received_at,") && bytes.ends_with(b"\r\n")),
            Format::Arrow => {
                assert_eq!(arrow_ipc::reader::StreamReader::try_new(Cursor::new(bytes), None).unwrap().count(), 0);
            }
            Format::Parquet => {
                let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
                assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
            }
        }
    }
}

/// The first rows come from a good file, then a damaged one is met.
#[tokio::test]
async fn an_error_midway_leaves_json_valid() {
    let world = World::with(|options| options.partitions = 1);
    let stream = weir_data::streams::stream("logs").unwrap();
    world.file("acme", "logs", file(2, stream, &logs(&[(NOON + SECOND, 9, "good", "{}")]), 10));
    let mut broken = file(1, stream, &logs(&[(NOON, 9, "bad", "{}"), (NOON, 9, "worse", "{}")]), 10);
    broken.broken = true;
    world.file("acme", "logs", broken);
    let bytes = world.run("acme", request("select body from logs"), Format::Json).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(answer["rows"], serde_json::json!([["good"]]));
    assert_eq!(answer["error"]["code"], "corrupt");
    assert_eq!(answer["error"]["status"], 500);
    assert!(answer["error"]["detail"].as_str().unwrap().contains("file 7, byte 65536"), "{answer}");
    let error = world.run("acme", request("select body from logs"), Format::Csv).await.unwrap_err();
    assert!(error.to_string().contains("file 7, byte 65536"), "{error}");
    let early = world.run("acme", request("select max(body) from logs"), Format::Json).await.unwrap_err();
    assert!(early.to_string().contains("file 7, byte 65536"), "{early}");
}

#[tokio::test]
async fn text_that_only_looks_null_is_kept() {
    let world = World::new();
    let rows = batch(
        "logs",
        vec![
            ("time", times([NOON, NOON])),
            ("received_at", times([NOON, NOON])),
            ("body", texts([Some("null"), None])),
        ],
    );
    world.tail("acme", "logs", rows);
    let bytes = world.run("acme", request("select body, 1 from logs"), Format::Csv).await.unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), "body,1\r\nnull,1\r\n,1\r\n");
}

/// The writer says so only when it gets rows.
#[tokio::test]
async fn what_parquet_cannot_hold_is_refused_before_the_first_byte() {
    let world = world();
    let run = async |sql: &str| world.run("acme", request(sql), Format::Parquet).await;
    for sql in ["select 1 as n, interval '1 day' as v", "select [interval '1 day'] as v"] {
        let error = run(sql).await.unwrap_err();
        let expected = "Parquet cannot hold the column `v`; cast it, as in cast(v as varchar)";
        assert_eq!(error.to_string(), expected, "{sql}");
    }
    run("select cast(interval '1 day' as varchar) as v").await.unwrap();
}

/// Every type an expression can have, in every format: an answer, or a refusal before its first byte that helps.
#[tokio::test]
async fn every_type_is_written_or_refused_with_a_reason() {
    let world = world();
    for (expression, in_parquet) in [
        ("null", true),
        ("interval '1 month'", false),
        ("interval '1 day'", false),
        ("interval '1 second'", false),
        ("now() - time", true),
        ("cast('12:30:00' as time)", true),
        ("cast('2026-02-28' as date)", true),
        ("cast(time as timestamp)", true),
        ("cast(time as timestamp(0))", true),
        ("cast(1 as tinyint unsigned)", true),
        ("cast(1.5 as real)", true),
        ("cast(1.25 as decimal(60, 3))", true),
        ("cast('a' as bytea)", true),
        ("cast(1.25 as decimal(10, 3))", true),
        ("decode('00ff', 'hex')", true),
        ("[body]", true),
        ("[[body], []]", true),
        ("[interval '1 day']", false),
        ("[null]", true),
        ("named_struct('a', body, 'b', [1])", true),
        ("named_struct('a', interval '1 day')", false),
        ("[named_struct('a', body)]", true),
        ("map(['k'], [body])", true),
        ("map(['k'], [interval '1 day'])", false),
        ("attributes", true),
        ("[attributes]", true),
    ] {
        for format in Format::ALL {
            let sql = format!("select {expression} as v from logs");
            let outcome = world.run("acme", request(&sql), format).await;
            if format == Format::Parquet && !in_parquet {
                let said = outcome.expect_err(&sql).to_string();
                if said.contains("what is in the column `v`; cast the values in it to varchar") {
                    assert!(expression.contains('('), "{sql}: {said}");
                    continue;
                }
                assert!(said.contains("the column `v`; cast it, as in cast(v as varchar)"), "{sql}: {said}");
                // What is said helps.
                let cast = request(&format!("select cast(v as varchar) from ({sql})"));
                world.run("acme", cast, format).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
                continue;
            }
            let bytes = outcome.unwrap_or_else(|error| panic!("{sql} as {format:?}: {error}"));
            let rows = match format {
                Format::Json => {
                    let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                    assert_eq!(answer.get("error"), None, "{sql}");
                    answer["rows"].as_array().unwrap().len()
                }
                Format::NdJson => String::from_utf8(bytes).unwrap().lines().count(),
                // Texts may have lines of their own.
                Format::Csv => 3.min(String::from_utf8(bytes).unwrap().matches("\r\n").count() - 1),
                Format::Arrow => {
                    let read = arrow_ipc::reader::StreamReader::try_new(Cursor::new(bytes), None).unwrap();
                    read.map(|batch| batch.unwrap().num_rows()).sum()
                }
                Format::Parquet => {
                    let read = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
                    read.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum()
                }
                Format::JsonAllNumbers => unreachable!("it has no media type of its own"),
            };
            assert_eq!(rows, 3, "{sql} as {format:?}");
        }
    }
}
