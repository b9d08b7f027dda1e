#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, TimestampNanosecondType};
use proptest::prelude::*;
use serde_json::{Value, json};
use weir_base::Timestamp;

use super::{BATCH_BYTES_MAX, Call, EVENT_BYTES_MAX, decode, rudder_source_config, settings};
use crate::{DecodeError, Decoded, RowContext};

const NOW: Timestamp = Timestamp(1_700_049_600_000_000_000); // 2023-11-15T12:00:00Z

fn context() -> RowContext<'static> {
    RowContext {
        tenant: "acme",
        received_at: NOW,
        client_ip: Some("192.0.2.7"),
        user_agent: Some("analytics-python/2.4.0"),
        rows_max: 1000,
        row_bytes_max: 64 * 1024,
        value_bytes_max: 16 * 1024,
        decoded_bytes_max: 16 << 20,
    }
}

fn check_invariants(decoded: &Decoded) {
    let stored: usize = decoded.batches.iter().map(|batch| batch.batch.num_rows()).sum();
    assert_eq!(decoded.received, stored + decoded.rejects.len());
    let schema = &weir_data::streams::stream("events").unwrap().schema;
    for batch in &decoded.batches {
        weir_data::batch::conform(&batch.batch, schema).unwrap();
        assert_eq!(batch.batch["event_id"].null_count() + batch.batch["type"].null_count(), 0);
    }
}

/// The rows as JSON, without what every row has, and the rejects as lines.
fn rows(decoded: &Decoded) -> (Vec<Value>, Vec<String>) {
    check_invariants(decoded);
    let mut rows = Vec::new();
    for batch in decoded.batches.iter().map(|batch| &batch.batch) {
        for row in 0..batch.num_rows() {
            let mut object = serde_json::Map::new();
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                if column.is_null(row) || field.name() == "received_at" {
                    continue;
                }
                let value = match field.data_type() {
                    DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
                    DataType::Timestamp(..) => {
                        let time = column.as_primitive::<TimestampNanosecondType>().value(row);
                        json!(jiff::Timestamp::from_nanosecond(i128::from(time)).unwrap().to_string())
                    }
                    _ => {
                        let entries = column.as_map().value(row);
                        let (keys, values) =
                            (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
                        (0..entries.len())
                            .map(|at| {
                                (keys.value(at).to_owned(), serde_json::from_str::<Value>(values.value(at)).unwrap())
                            })
                            .collect()
                    }
                };
                object.insert(field.name().clone(), value);
            }
            rows.push(Value::Object(object));
        }
    }
    let rejects = decoded
        .rejects
        .iter()
        .map(|reject| format!("{} {} {}: {}", reject.index, reject.code.as_str(), reject.field, reject.message))
        .collect();
    (rows, rejects)
}

#[track_caller]
fn check(call: Call, body: &Value, expected: &Value) {
    let decoded = decode(call, body.to_string().as_bytes(), &context()).unwrap();
    let (mut rows, rejects) = rows(&decoded);
    assert_eq!(rejects, Vec::<String>::new());
    let row = rows.remove(0);
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(row.get(name).unwrap_or(&Value::Null), value, "{name} of {body}");
    }
}

/// What the browser library of Segment sends, as recorded from it.
#[test]
fn a_page_of_a_browser() {
    let body = json!({
        "timestamp": "2023-11-15T11:59:50.000Z", "sentAt": "2023-11-15T11:59:55.000Z", "type": "page",
        "integrations": {}, "anonymousId": "anon", "userId": null, "name": "Home", "messageId": "ajs-next-1700-abc",
        "properties": {"path": "/p", "referrer": "", "search": "?a=1", "title": "Title", "url": "https://x.test/p?a=1"},
        "context": {
            "page": {"path": "/c", "referrer": "https://ref.test", "title": "Other", "url": "https://x.test/c"},
            "userAgent": "Mozilla/5.0", "locale": "de-DE", "timezone": "Europe/Berlin",
            "library": {"name": "analytics.js", "version": "next-1.84.3"},
            "screen": {"width": 1920, "height": 1080, "density": 2}, "ip": "198.51.100.1",
        },
        "writeKey": "secret", "_metadata": {"bundled": ["Segment.io"]},
    });
    check(
        Call::Page,
        &body,
        &json!({
            "type": "pageview", "name": "Home", "event_id": "ajs-next-1700-abc", "anonymous_id": "anon", "user_id": null,
            "url": "https://x.test/p?a=1", "path": "/p", "title": "Title", "referrer": "https://ref.test",
            "user_agent": "Mozilla/5.0", "ip": "198.51.100.1", "language": "de-DE", "timezone": "Europe/Berlin",
            "screen": "1920x1080", "viewport": null,
            // Five seconds before it was received.
            "time": "2023-11-15T11:59:55Z", "sent_at": "2023-11-15T11:59:55Z", "time_flag": null,
            "properties": body["properties"],
            "context": {
                "page": body["context"]["page"], "userAgent": "Mozilla/5.0", "locale": "de-DE", "timezone": "Europe/Berlin",
                "library": body["context"]["library"], "screen": body["context"]["screen"], "ip": "198.51.100.1",
                "_metadata": {"bundled": ["Segment.io"]},
            },
        }),
    );
}

#[test]
fn every_call_has_its_type_name_and_properties() {
    let cases = [
        (
            Call::Track,
            json!({"userId": "u", "event": "Bought", "properties": {"price": 1}, "traits": {"t": 1}}),
            json!({"type": "custom", "name": "Bought", "user_id": "u", "properties": {"price": 1}, "context": {"traits": {"t": 1}}}),
        ),
        (
            Call::Screen,
            json!({"anonymousId": "a", "name": "Main", "properties": {"x": [1]}}),
            json!({"type": "screen", "name": "Main", "anonymous_id": "a", "properties": {"x": [1]}}),
        ),
        (
            Call::Identify,
            json!({"userId": 12345678901234567890u64, "traits": {"plan": "pro"}}),
            json!({"type": "identify", "name": null, "user_id": "12345678901234567890", "properties": {"plan": "pro"}}),
        ),
        (
            Call::Identify,
            json!({"userId": "u", "traits": {}, "context": {"traits": {"plan": "free"}}}),
            json!({"type": "identify", "properties": {"plan": "free"}, "context": {"traits": {"plan": "free"}}}),
        ),
        (
            Call::Group,
            json!({"userId": "u", "groupId": "g", "traits": {"size": 3}}),
            json!({"type": "group", "group_id": "g", "properties": {"size": 3}}),
        ),
        (
            Call::Alias,
            json!({"userId": "new", "previousId": "old"}),
            json!({"type": "alias", "user_id": "new", "previous_id": "old", "properties": null}),
        ),
        (
            Call::Track,
            json!({"userId": "", "anonymousId": "a", "event": "e", "integrations": {"All": false}, "channel": "web",
                   "rudderId": "r", "request_ip": "203.0.113.9",
                   "context": {"sessionId": 1700, "groupId": "g", "screen": {"width": 2, "height": 1, "innerWidth": 4, "innerHeight": 3}}}),
            json!({"user_id": null, "session_id": "1700", "group_id": "g", "screen": "2x1", "viewport": "4x3", "ip": "203.0.113.9",
                   "context": {"sessionId": 1700, "groupId": "g", "screen": {"width": 2, "height": 1, "innerWidth": 4, "innerHeight": 3},
                               "integrations": {"All": false}, "channel": "web", "rudderId": "r"}}),
        ),
    ];
    for (call, body, expected) in cases {
        check(call, &body, &expected);
    }
}

#[test]
fn times_are_corrected_by_the_clients_clock() {
    let cases = [
        (json!({}), "2023-11-15T12:00:00Z", None),
        (json!({"timestamp": "2023-11-15T10:00:00Z"}), "2023-11-15T10:00:00Z", None),
        (json!({"timestamp": "2023-11-15"}), "2023-11-15T00:00:00Z", None),
        (json!({"timestamp": 1_700_046_000_000_i64}), "2023-11-15T11:00:00Z", None),
        // A clock two years ahead, an event a minute before it was sent.
        (
            json!({"originalTimestamp": "2025-11-15T11:59:00+0000", "sentAt": "2025-11-15T12:00:00"}),
            "2023-11-15T11:59:00Z",
            None,
        ),
        (
            json!({"originalTimestamp": "2023-11-15T11:59:00Z", "timestamp": "2001-01-01T00:00:00Z", "sentAt": "2023-11-15T12:00:00Z"}),
            "2023-11-15T11:59:00Z",
            None,
        ),
        (json!({"timestamp": "2023-11-15T11:00:00Z", "sentAt": "2023-11-15T11:30:00Z"}), "2023-11-15T11:30:00Z", None),
        (json!({"timestamp": "2023-11-15T11:00:00Z", "sentAt": null}), "2023-11-15T11:00:00Z", None),
        (json!({"timestamp": "2023-11-15T11:00:00Z", "sentAt": "now"}), "2023-11-15T11:00:00Z", None),
        (json!({"sentAt": "2023-11-15T11:30:00Z"}), "2023-11-15T12:00:00Z", None),
        (json!({"timestamp": "2021-11-15T11:00:00Z"}), "2021-11-15T11:00:00Z", Some("late")),
        (json!({"timestamp": "then"}), "2023-11-15T12:00:00Z", Some("impossible")),
        (
            json!({"timestamp": "2262-01-01T00:00:00Z", "sentAt": "1970-01-02T00:00:00Z"}),
            "2023-11-15T12:00:00Z",
            Some("impossible"),
        ),
    ];
    for (times, time, flag) in cases {
        let mut body = times;
        body["userId"] = json!("u");
        body["event"] = json!("e");
        check(Call::Track, &body, &json!({"time": time, "time_flag": flag}));
    }
}

#[test]
fn address_and_agent_of_the_request_are_a_browsers_or_nobodys() {
    let body = br#"{"userId":"u","event":"e"}"#;
    let row = |agent: &'static str| {
        let context = RowContext { user_agent: Some(agent), ..context() };
        rows(&decode(Call::Track, body, &context).unwrap()).0.remove(0)
    };
    assert_eq!(row("Mozilla/5.0 (X11)")["ip"], "192.0.2.7");
    assert_eq!(row("Mozilla/5.0 (X11)")["user_agent"], "Mozilla/5.0 (X11)");
    assert_eq!(row("analytics-node/3").get("ip"), None);
}

#[test]
fn a_batch_lends_its_context() {
    let body = json!({
        "writeKey": "k", "sentAt": "2023-11-15T12:00:10Z",
        "context": {"library": {"name": "lib"}, "locale": "en"}, "integrations": {"All": true},
        "batch": [
            {"type": "track", "event": "a", "userId": "u", "timestamp": "2023-11-15T12:00:00Z", "context": {"locale": "fr"}},
            {"type": "identify", "userId": "u", "sentAt": "2023-11-15T12:00:00Z", "timestamp": "2023-11-15T11:59:59Z", "integrations": {}},
        ],
    });
    let (rows, rejects) = rows(&decode(Call::Batch, body.to_string().as_bytes(), &context()).unwrap());
    assert!(rejects.is_empty());
    assert_eq!(rows[0]["context"], json!({"library": {"name": "lib"}, "locale": "fr", "integrations": {"All": true}}));
    assert_eq!((&rows[0]["language"], &rows[0]["time"]), (&json!("fr"), &json!("2023-11-15T11:59:50Z")));
    assert_eq!(rows[1]["context"], json!({"library": {"name": "lib"}, "locale": "en"}));
    assert_eq!((&rows[1]["language"], &rows[1]["time"]), (&json!("en"), &json!("2023-11-15T11:59:59Z")));
}

#[test]
fn bad_events_are_rejected_one_by_one() {
    let cases = [
        (json!(7), "wrong_type : expected an object, got a number"),
        (json!({"userId": "u"}), "missing_field /type: `type` is missing"),
        (
            json!({"type": "merge", "userId": "u"}),
            "unknown_type /type: unknown type `merge`, expected one of track, identify, page, screen, group, alias",
        ),
        (json!({"type": "track", "userId": "u"}), "missing_field /event: a track call needs an `event`"),
        (json!({"type": "track", "userId": "u", "event": 1}), "wrong_type /event: expected a string, got a number"),
        (json!({"type": "page"}), "missing_field /userId: one of `userId` and `anonymousId` is needed"),
        (json!({"type": "page", "userId": ""}), "missing_field /userId: one of `userId` and `anonymousId` is needed"),
        (json!({"type": "page", "userId": {}}), "wrong_type /userId: expected a string, got an object"),
        (json!({"type": "group", "userId": "u"}), "missing_field /groupId: a group call needs a `groupId`"),
        (json!({"type": "alias", "userId": "u"}), "missing_field /previousId: an alias call needs a `previousId`"),
        (
            json!({"type": "alias", "anonymousId": "a", "previousId": "p"}),
            "missing_field /userId: an alias call needs a `userId`",
        ),
        (json!({"type": "page", "userId": "u", "context": 1}), "wrong_type /context: expected an object, got a number"),
        (
            json!({"type": "page", "userId": "u", "timestamp": true}),
            "wrong_type /timestamp: expected an ISO 8601 text, got a boolean",
        ),
    ];
    for (event, expected) in cases {
        let body = json!({"batch": [{"type": "page", "userId": "u"}, event, {"type": "page", "userId": "u"}]});
        let decoded = decode(Call::Batch, body.to_string().as_bytes(), &context()).unwrap();
        let (rows, rejects) = rows(&decoded);
        assert_eq!((rows.len(), rejects), (2, vec![format!("1 {expected}")]));
        assert_eq!(decoded.rejects[0].payload, event.to_string());
    }
    let decoded = decode(Call::Track, b"{}", &context()).unwrap();
    assert_eq!((decoded.received, decoded.rejects.len()), (1, 1));
}

#[test]
fn envelopes_and_limits() {
    let error = |call: Call, body: &str| decode(call, body.as_bytes(), &context()).unwrap_err();
    for (call, body, place) in [
        (Call::Track, "", "byte 0"),
        (Call::Track, "[]", ""),
        (Call::Batch, "{}", "/batch"),
        (Call::Batch, r#"{"batch":{}}"#, "/batch"),
        (Call::Batch, r#"{"batch":[{]}"#, "byte 11"),
    ] {
        assert!(matches!(error(call, body), DecodeError::Malformed { place: given, .. } if given == place), "{body}");
    }
    let big = format!(r#"{{"userId":"u","event":"e","properties":{{"p":"{}"}}}}"#, "x".repeat(EVENT_BYTES_MAX));
    assert!(matches!(error(Call::Track, &big), DecodeError::TooLarge { limit: "event_bytes_max", .. }));
    let fitting = &" ".repeat(BATCH_BYTES_MAX);
    assert!(matches!(
        error(Call::Batch, &format!("{fitting} ")),
        DecodeError::TooLarge { limit: "batch_bytes_max", .. }
    ));
    assert!(matches!(error(Call::Batch, fitting), DecodeError::Malformed { .. }));
    // A full batch as RudderStack's SDK makes it: 512 KiB of events, and the rest of the body.
    let event = format!(r#"{{"type":"track","messageId":"m","event":"e","userId":"{}"}}"#, "u".repeat(4000));
    let n_events = (512 << 10) / (event.len() + 1);
    let body = format!(
        r#"{{"batch":[{}],"sentAt":"2026-11-21T00:00:00.000Z","writeKey":"{}"}}"#,
        vec![event; n_events].join(","),
        "k".repeat(80)
    );
    assert!(body.len() > 500 * 1024 && decode(Call::Batch, body.as_bytes(), &context()).unwrap().received == n_events);

    let typed = big.replacen('{', r#"{"type":"track","#, 1);
    let body = format!(r#"{{"batch":[{typed},{{"type":"track","userId":"u","event":"e"}}]}}"#);
    let decoded = decode(Call::Batch, body.as_bytes(), &context()).unwrap();
    assert_eq!((decoded.received, decoded.rejects.len()), (2, 1));
    assert_eq!(decoded.rejects[0].code.as_str(), "too_large");

    let many = format!(r#"{{"batch":[{}]}}"#, vec!["1"; 1001].join(","));
    assert!(matches!(error(Call::Batch, &many), DecodeError::TooLarge { limit: "rows_per_request_max", .. }));
    assert_eq!(decode(Call::Batch, br#"{"batch":[]}"#, &context()).unwrap().received, 0);
}

#[test]
fn routes() {
    for (routes, call) in [
        (["track", "t"], Call::Track),
        (["identify", "i"], Call::Identify),
        (["page", "p"], Call::Page),
        (["screen", "s"], Call::Screen),
        (["group", "g"], Call::Group),
        (["alias", "a"], Call::Alias),
        (["batch", "b"], Call::Batch),
    ] {
        assert!(routes.iter().all(|route| Call::of_route(route) == Some(call)));
    }
    assert_eq!(Call::of_route("x"), None);
}

#[test]
fn what_browsers_fetch() {
    let segment: Value = serde_json::from_str(&settings("k\"1", "localhost:8080", false)).unwrap();
    let destination = &segment["integrations"]["Segment.io"];
    assert_eq!(destination["apiKey"], "k\"1");
    assert_eq!((&destination["apiHost"], &destination["protocol"]), (&json!("localhost:8080/v1"), &json!("http")));
    assert_eq!(segment["metrics"]["sampleRate"], 0);
    let rudder: Value = serde_json::from_str(&rudder_source_config("k", "https://x")).unwrap();
    assert_eq!(rudder["source"]["enabled"], true);
    assert!(rudder["source"]["config"].is_object() && rudder["source"]["destinations"].is_array());
}

fn body() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("7".to_owned()),
        Just("\"\"".to_owned()),
        Just("\"track\"".to_owned()),
        Just("\"2023-11-15T12:00:00Z\"".to_owned()),
        Just("\"\\udc00\"".to_owned()),
        Just(r#"{"page":{"url":"u"},"screen":{"width":1,"height":2},"traits":{"a":1}}"#.to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let name = proptest::sample::select(vec![
        "type",
        "event",
        "userId",
        "anonymousId",
        "context",
        "traits",
        "properties",
        "timestamp",
        "sentAt",
        "messageId",
        "x",
    ]);
    let object = |prefix: &'static str| {
        proptest::collection::vec((name.clone(), value.clone()), 0..8).prop_map(move |members| {
            let mut text = format!("{{{prefix}");
            for (name, value) in members {
                text.push_str(&format!(",\"{name}\":{value}"));
            }
            text.push('}');
            text
        })
    };
    (proptest::collection::vec(object(r#""userId":"u""#), 0..5), object(r#""writeKey":"k""#))
        .prop_map(|(events, root)| format!("{},\"batch\":[{}]}}", root.strip_suffix('}').unwrap(), events.join(",")))
}

proptest! {
    #[test]
    fn every_row_is_accounted_for(body in body()) {
        check_invariants(&decode(Call::Batch, body.as_bytes(), &context()).unwrap());
        check_invariants(&decode(Call::Track, body.as_bytes(), &context()).unwrap());
    }

    #[test]
    fn damaged_bodies_are_safe(body in body(), at in any::<proptest::sample::Index>(), new in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = body.into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = new }
        for call in [Call::Batch, Call::Identify] {
            if let Ok(decoded) = decode(call, &bytes, &context()) {
                check_invariants(&decoded);
            }
        }
    }

    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(Call::Batch, &bytes, &context());
    }
}
