#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::AsArray;
use weir_base::Timestamp;

use super::{FEW_BYTES_MAX, GatheredEvents, ROWS_MAX, read_few};
use crate::RowContext;
use crate::events::decode;

fn context(received_at: i64) -> RowContext<'static> {
    RowContext {
        tenant: "acme",
        received_at: Timestamp(received_at),
        client_ip: Some("192.0.2.7"),
        user_agent: Some("agent/1"),
        rows_max: 1000,
        row_bytes_max: 2048,
        value_bytes_max: 1024,
        decoded_bytes_max: 16 << 20,
    }
}

const A_DAY: i64 = 1_700_049_600_000_000_000;

fn event(number: usize, more: &str) -> String {
    format!(r#"{{"id":"0190b2a4-0000-7000-8000-{number:012}","type":"click","x":{number}{more}}}"#)
}

fn body(events: &[String]) -> Vec<u8> {
    format!(r#"{{"tenant_id":"acme","events":[{}],"write_key":"k"}}"#, events.join(",")).into_bytes()
}

/// Gathered rows are those that each request decodes to by itself, one after the other.
#[test]
fn gathered_rows_are_those_of_each_request() {
    let bodies = [
        body(&[event(1, r#","properties":{"plan":"pro","n":1},"user_id":"u1""#)]),
        body(&[event(2, r#","metadata":{"ip":"203.0.113.9","odd":true},"timestamp":1700049500000"#), event(3, "")]),
        body(&[event(4, r#","title":"\u00fcber \"x\"","properties":{"plan":null},"timestamp":-5"#)]),
        body(&[event(5, r#","custom_field":[1,2],"depth":50"#)]),
    ];
    let mut gathered = GatheredEvents::default();
    let mut apart = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        let context = context(A_DAY + number as i64);
        gathered.push(read_few(body, &context).unwrap());
        apart.extend(decode(body, &context).unwrap().batches);
    }
    assert_eq!(gathered.len(), 5);
    assert!(gathered.bytes() > 0);
    let gathered = gathered.finish().unwrap();
    let schema = &weir_data::streams::stream("events").unwrap().schema;
    let apart: Vec<_> = apart.iter().map(|batch| weir_data::batch::conform(&batch.batch, schema).unwrap()).collect();
    assert_eq!(
        weir_data::batch::conform(&gathered.batch, schema).unwrap(),
        arrow::compute::concat_batches(schema, &apart).unwrap()
    );
    let mut keys: Vec<_> =
        gathered.observed.iter().flat_map(|(column, keys)| keys.iter().map(|key| (*column, key.key.clone()))).collect();
    keys.sort();
    let expected = [("context", "custom_field"), ("context", "metadata.odd"), ("context", "timestamp")]
        .into_iter()
        .chain([("properties", "n"), ("properties", "plan")]);
    assert_eq!(keys, expected.map(|(column, key)| (column, key.to_owned())).collect::<Vec<_>>());
}

/// Rows of different requests without ids get different ones.
#[test]
fn made_ids_differ_between_requests() {
    let body = br#"{"events":[{"type":"pageview"}]}"#;
    let mut gathered = GatheredEvents::default();
    for _ in 0..3 {
        gathered.push(read_few(body, &context(A_DAY)).unwrap());
    }
    let batch = gathered.finish().unwrap().batch;
    let ids: std::collections::BTreeSet<_> = batch["event_id"].as_string::<i32>().iter().flatten().collect();
    assert_eq!(ids.len(), 3);
}

/// What is not a small request as it should be is left to the decoder that says what is wrong.
#[test]
fn whatever_is_unusual_is_not_few() {
    let few = |body: &[u8]| read_few(body, &context(A_DAY)).map(|few| few.len());
    let events = |count: usize| (0..count).map(|number| event(number, "")).collect::<Vec<_>>();
    assert_eq!(few(&body(&events(ROWS_MAX))), Some(ROWS_MAX));
    assert_eq!(few(&body(&events(ROWS_MAX + 1))), None);
    assert_eq!(few(&body(&[])), None);
    let long = format!(r#","title":"{}""#, "x".repeat(900));
    assert_eq!(few(&body(&[event(1, &long)])), Some(1));
    for bad in [
        r#"{"events":[{"type":"nonsense"}]}"#,
        r#"{"events":[{"type":"pageview"},{"type":"scroll","depth":101}]}"#,
        r#"{"events":[{"type":"pageview"}],"tenant_id":"other"}"#,
        r#"{"events":[{"type":"pageview","tenant_id":"other"}]}"#,
        r#"{"events":[{"type":"pageview"}]"#,
        r#"{"events":{"type":"pageview"}}"#,
        r#"{"events":[{"type":"pageview"},]}"#,
        r#"[{"type":"pageview"}]"#,
        r#"{"event":[{"type":"pageview"}]}"#,
        "",
        "{",
        "\u{0}",
    ] {
        assert_eq!(few(bad.as_bytes()), None, "{bad}");
    }
    // Nine bad events, an open list, and a good one behind: it is not JSON, and not one event.
    let open = format!(r#"{{"events":[{},"events":[{{"type":"pageview"}}]}}"#, events(ROWS_MAX + 1).join(","));
    assert_eq!(few(open.as_bytes()), None);
    let long = format!(r#"{{"events":[{{"type":"pageview","title":"{}"}}]}}"#, "x".repeat(1025));
    assert_eq!(few(long.as_bytes()), None);
    let wide: String = (0..300).map(|number| format!(r#""key{number}":1,"#)).collect();
    assert_eq!(few(format!(r#"{{"events":[{{{wide}"type":"pageview"}}]}}"#).as_bytes()), None, "row_bytes_max");
    let large = format!(r#"{{"events":[{{"type":"pageview"}}],"x":"{}"}}"#, "x".repeat(FEW_BYTES_MAX));
    assert_eq!(few(large.as_bytes()), None);
    let strict = RowContext { decoded_bytes_max: 1000, ..context(A_DAY) };
    assert!(read_few(br#"{"events":[{"type":"pageview"}]}"#, &strict).is_none());
    let strict = RowContext { rows_max: 1, ..context(A_DAY) };
    assert!(read_few(&body(&events(2)), &strict).is_none());
}
