//! Answers of queries, as they go over the wire.

use std::io::Read;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::net::TcpStream;

use crate::harness::http1_over;
use crate::whole::start;

/// Undoes a content encoding.
#[expect(clippy::disallowed_types, reason = "what the server itself has sent is bounded")]
fn plain(encoding: &str, body: &[u8]) -> Vec<u8> {
    let mut encoded: Box<dyn Read + '_> = match encoding {
        "" => Box::new(body),
        "gzip" => Box::new(flate2::read::GzDecoder::new(body)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(body).unwrap()),
        other => panic!("{other}"),
    };
    let mut plain = Vec::new();
    encoded.read_to_end(&mut plain).unwrap();
    plain
}

/// The writer says so when it gets rows; the status is out by then, if nobody has asked it before.
#[tokio::test]
async fn what_a_format_cannot_hold_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let whole = start(&dir).await;
    let key = whole.tenant_with_key("acme").await;
    let request = Request::builder()
        .method("POST")
        .uri("/api/v1/query")
        .header("content-type", "application/json")
        .header("accept", "application/vnd.apache.parquet")
        .header("x-api-key", &key)
        .body(Full::new(Bytes::from(json!({ "sql": "select interval '1 day' as took" }).to_string())))
        .unwrap();
    let problem = whole.send(request).await.expect(400).json();
    assert_eq!(problem["code"], "input");
    let expected = "Parquet cannot hold the column `took`; cast it, as in cast(took as varchar)";
    assert_eq!(problem["detail"], expected);
}

#[tokio::test]
async fn every_format_is_whole_in_every_encoding() {
    let dir = tempfile::tempdir().unwrap();
    let whole = start(&dir).await;
    let key = whole.tenant_with_key("acme").await;
    let events: Vec<_> = (0..150).map(|n| json!({ "type": "custom", "name": format!("n{n}") })).collect();
    whole.post("/ingest", &key, json!({ "events": events })).await.expect(200);
    let long = "select a.event_id, b.name from events a cross join events b order by 1, 2";
    for (sql, is_long) in [("select 1 as n", false), (long, true)] {
        for format in ["application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"] {
            let ask = async |encodings: &str| {
                let request = Request::builder()
                    .method("POST")
                    .uri("/api/v1/query")
                    .header("content-type", "application/json")
                    .header("accept", format)
                    .header("accept-encoding", encodings)
                    .header("x-api-key", &key)
                    .body(Full::new(Bytes::from(json!({ "sql": sql }).to_string())))
                    .unwrap();
                let reply = whole.send(request).await.expect(200);
                let encoding = reply.headers.get("content-encoding").map_or("", |value| value.to_str().unwrap());
                (encoding.to_owned(), plain(encoding, &reply.body))
            };
            let (_, expected) = ask("identity").await;
            assert!(!is_long || expected.len() > 50_000, "{sql} as {format}");
            for encodings in ["gzip", "zstd", "gzip, deflate, br, zstd"] {
                let (encoding, answer) = ask(encodings).await;
                assert!(!is_long || !encoding.is_empty(), "{sql} as {format} is not compressed for {encodings}");
                // Only how long it took may differ.
                let told = |answer: &[u8]| {
                    let text = String::from_utf8_lossy(answer);
                    text.split("\"stats\"").next().unwrap_or_default().to_owned()
                };
                assert!(told(&answer) == told(&expected), "{sql} as {format} for {encodings}");
            }
        }
    }
    whole.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_cut_says_so_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let whole = start(&dir).await;
    whole.tenant("small", json!({ "limits": { "query_rows_max": 2 } })).await;
    let key = whole.key("small", &["ingest", "query"]).await;
    let events: Vec<_> = (0..3).map(|n| json!({ "type": "custom", "name": format!("n{n}") })).collect();
    whole.post("/ingest", &key, json!({ "events": events })).await.expect(200);
    for format in ["application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.parquet"] {
        for (rows, is_cut) in [(2, false), (3, true)] {
            let socket = TcpStream::connect(&whole.http).await.unwrap();
            let body = json!({ "sql": format!("select name from events order by 1 limit {rows}") }).to_string();
            let request = Request::builder()
                .method("POST")
                .uri("/api/v1/query")
                .header("host", &whole.http)
                .header("content-type", "application/json")
                .header("accept", format)
                .header("te", "trailers")
                .header("x-api-key", &key);
            let response = http1_over(socket)
                .await
                .send_request(request.body(Full::new(Bytes::from(body))).unwrap())
                .await
                .unwrap();
            assert_eq!(response.headers()["x-weir-rows-max"], "2");
            let collected = response.into_body().collect().await.unwrap();
            let said = collected.trailers().and_then(|trailers| trailers.get("x-weir-truncated")).cloned();
            assert_eq!(said.map(|said| said == "true"), is_cut.then_some(true), "{rows} rows as {format}");
        }
    }
    whole.stop().await;
}

#[tokio::test]
async fn a_json_answer_that_an_error_ends_says_so_after_its_last_byte() {
    let dir = tempfile::tempdir().unwrap();
    let whole = start(&dir).await;
    let key = whole.tenant_with_key("acme").await;
    let events: Vec<_> = (0..30).map(|n| json!({ "type": "custom", "name": format!("n{n}") })).collect();
    whole.post("/ingest", &key, json!({ "events": events })).await.expect(200);
    let numbers = "(select row_number() over () as n from events a, events b, events c)";
    for (sql, fails) in [
        (format!("select 10 / (n - 20000) from {numbers}"), true),
        (format!("select 10 / (n + 20000) from {numbers}"), false),
    ] {
        let socket = TcpStream::connect(&whole.http).await.unwrap();
        let request = Request::builder()
            .method("POST")
            .uri("/api/v1/query")
            .header("host", &whole.http)
            .header("content-type", "application/json")
            .header("te", "trailers")
            .header("x-api-key", &key);
        let body = json!({ "sql": sql }).to_string();
        let response =
            http1_over(socket).await.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let collected = response.into_body().collect().await.unwrap();
        let said = collected.trailers().and_then(|trailers| trailers.get("x-weir-error")).cloned();
        let answer: serde_json::Value = serde_json::from_slice(&collected.to_bytes()).unwrap();
        assert_eq!(answer.get("error").is_some(), fails, "{sql}");
        assert_eq!(said.as_ref().map(|code| code.to_str().unwrap()), answer["error"]["code"].as_str(), "{sql}");
        assert!(!answer["rows"].as_array().unwrap().is_empty(), "{sql}");
    }
    whole.stop().await;
}
