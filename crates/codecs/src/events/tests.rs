#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float64Type, TimestampNanosecondType};
use proptest::prelude::*;
use weir_base::Timestamp;

use super::{decode, write_key};
use crate::{DecodeError, Decoded, RowContext};

const NOW: Timestamp = Timestamp(1_700_049_600_000_000_000); // 2023-11-15T12:00:00Z
const ID: &str = "0190b2a4-0000-7000-8000-0123456789ab";

fn context() -> RowContext<'static> {
    RowContext {
        tenant: "acme",
        received_at: NOW,
        client_ip: Some("192.0.2.7"),
        user_agent: Some("agent/1"),
        rows_max: 1000,
        row_bytes_max: 64 * 1024,
        value_bytes_max: 8 * 1024,
        decoded_bytes_max: 16 << 20,
    }
}

fn decode_rows(events: &str) -> Decoded {
    let decoded = decode(format!("{{\"events\":[{events}]}}").as_bytes(), &context()).unwrap();
    check_invariants(&decoded);
    decoded
}

/// Row accounting, and that the batch is what the log takes.
fn check_invariants(decoded: &Decoded) {
    let stored: usize = decoded.batches.iter().map(|batch| batch.batch.num_rows()).sum();
    assert_eq!(decoded.received, stored + decoded.rejects.len());
    let schema = &weir_data::streams::stream("events").unwrap().schema;
    for batch in &decoded.batches {
        assert!(batch.batch.num_rows() > 0);
        weir_data::batch::conform(&batch.batch, schema).unwrap();
        assert_eq!(batch.batch["event_id"].null_count(), 0);
    }
    let mut last = None;
    for reject in &decoded.rejects {
        assert!(last < Some(reject.index) && reject.index < decoded.received);
        last = Some(reject.index);
    }
}

/// Every value of every row, `column=value`, without the columns every row has.
fn show(decoded: &Decoded) -> String {
    let mut out = String::new();
    for batch in &decoded.batches {
        for row in 0..batch.batch.num_rows() {
            let mut parts = Vec::new();
            for (field, column) in batch.batch.schema().fields().iter().zip(batch.batch.columns()) {
                let boring = ["received_at", "event_id", "ip", "user_agent"].contains(&field.name().as_str());
                if boring || column.is_null(row) {
                    continue;
                }
                let value = match field.data_type() {
                    DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
                    DataType::Float64 => column.as_primitive::<Float64Type>().value(row).to_string(),
                    DataType::Timestamp(..) => {
                        let time = column.as_primitive::<TimestampNanosecondType>().value(row);
                        if time == NOW.0 {
                            continue;
                        }
                        jiff::Timestamp::from_nanosecond(i128::from(time)).unwrap().to_string()
                    }
                    _ => {
                        let entries = column.as_map().value(row);
                        let (keys, values) =
                            (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
                        let pairs: Vec<String> =
                            (0..entries.len()).map(|at| format!("{}:{}", keys.value(at), values.value(at))).collect();
                        format!("{{{}}}", pairs.join(" "))
                    }
                };
                parts.push(format!("{}={value}", field.name()));
            }
            writeln!(out, "{}", parts.join(" ")).unwrap();
        }
    }
    for reject in &decoded.rejects {
        writeln!(out, "reject {} {} {}: {}", reject.index, reject.code.as_str(), reject.field, reject.message).unwrap();
    }
    out.trim_end().to_owned()
}

#[track_caller]
fn check(events: &str, expected: &str) {
    assert_eq!(show(&decode_rows(events)), expected, "{events}");
}

#[test]
fn every_field_reaches_its_column() {
    check(
        r#"{"type":"pageview","name":"home","session_id":"s","user_id":"u","anonymous_id":"a","timestamp":"2023-11-15T11:00:00.5Z",
            "url":"https://x/?q","path":"/","title":"T","referrer":"r","properties":{"plan":"pro","n":1,"deep":{"a":[1, 2]}},
            "metadata":{"screen":"1x1","viewport":"2x2","timezone":"UTC","language":"en"}}"#,
        "time=2023-11-15T11:00:00.5Z type=pageview name=home session_id=s user_id=u anonymous_id=a url=https://x/?q path=/ \
         title=T referrer=r screen=1x1 viewport=2x2 timezone=UTC language=en properties={plan:\"pro\" n:1 deep:{\"a\":[1,2]}}",
    );
    check(r##"{"type":"click","selector":"#buy","x":1,"y":-2.5}"##, "type=click selector=#buy x=1 y=-2.5");
    check(r#"{"type":"scroll","depth":100}"#, "type=scroll depth=100");
    check(
        r#"{"type":"performance","ttfb_ms":1,"fcp_ms":2,"lcp_ms":3,"cls":0.1,"inp_ms":4,"load_ms":5e0}"#,
        "type=performance ttfb_ms=1 fcp_ms=2 lcp_ms=3 inp_ms=4 load_ms=5 cls=0.1",
    );
    check(r#"{"type":"custom","name":"Signed Up"}"#, "type=custom name=Signed Up");
}

#[test]
fn times() {
    let cases = [
        ("1700046000000", "time=2023-11-15T11:00:00Z type=click"),
        ("1700046000000.25", "time=2023-11-15T11:00:00.00025Z type=click"),
        ("null", "type=click"),
        ("\"2023-11-15T13:00:00Z\"", "time=2023-11-15T13:00:00Z type=click"),
        ("\"2023-11-15T13:00:01Z\"", "time=2023-11-15T13:00:01Z time_flag=early type=click"),
        ("\"2023-10-16T12:00:00Z\"", "time=2023-10-16T12:00:00Z type=click"),
        ("\"2023-10-16T11:59:59Z\"", "time=2023-10-16T11:59:59Z time_flag=late type=click"),
        ("0", "time_flag=impossible type=click context={timestamp:0}"),
        ("-5", "time_flag=impossible type=click context={timestamp:-5}"),
        ("1e300", "time_flag=impossible type=click context={timestamp:1e300}"),
        ("\"soon\"", "time_flag=impossible type=click context={timestamp:\"soon\"}"),
        ("\"1960-01-01T00:00:00Z\"", "time_flag=impossible type=click context={timestamp:\"1960-01-01T00:00:00Z\"}"),
        ("true", "reject 0 wrong_type /timestamp: expected an RFC 3339 text or milliseconds since 1970, got a boolean"),
    ];
    for (timestamp, expected) in cases {
        check(&format!(r#"{{"type":"click","timestamp":{timestamp}}}"#), expected);
    }
}

#[test]
fn ids() {
    let stored = |event: &str| {
        let decoded = decode_rows(event);
        decoded.batches[0].batch["event_id"].as_string::<i32>().value(0).to_owned()
    };
    assert_eq!(stored(&format!(r#"{{"type":"click","id":"{ID}"}}"#)), ID);
    assert_eq!(stored(&format!(r#"{{"type":"click","id":"{}"}}"#, ID.to_uppercase())), ID);
    assert_eq!(stored(&format!(r#"{{"type":"click","id":"{}"}}"#, ID.replace('-', ""))), ID);
    let made = uuid::Uuid::try_parse(&stored(r#"{"type":"click"}"#)).unwrap();
    assert_eq!(made.get_version_num(), 7);
    assert_eq!(made.get_timestamp().unwrap().to_unix().0, 1_700_049_600);
}

#[test]
fn address_and_agent_come_from_the_event_or_the_request() {
    let decoded = decode_rows(r#"{"type":"click"},{"type":"click","metadata":{"ip":"10.0.0.1","user_agent":"own"}}"#);
    let batch = &decoded.batches[0].batch;
    let column = |name: &str| -> Vec<String> {
        batch[name].as_string::<i32>().iter().map(|text| text.unwrap_or("-").to_owned()).collect()
    };
    assert_eq!(column("ip"), ["192.0.2.7", "10.0.0.1"]);
    assert_eq!(column("user_agent"), ["agent/1", "own"]);
}

#[test]
fn bad_rows_are_rejected_and_the_others_go_on() {
    let cases = [
        ("7", "wrong_type : expected an object, got a number"),
        ("[{}]", "wrong_type : expected an object, got a list"),
        ("{}", "missing_field /type: `type` is missing"),
        (r#"{"type":null}"#, "missing_field /type: `type` is missing"),
        (r#"{"type":1}"#, "wrong_type /type: expected a string, got a number"),
        (r#"{"type":"custom"}"#, "missing_field /name: a custom event needs a `name`"),
        (r#"{"type":"custom","name":""}"#, "missing_field /name: a custom event needs a `name`"),
        (
            r#"{"type":"identify"}"#,
            "unknown_type /type: unknown type `identify`, expected one of pageview, click, scroll, performance, custom",
        ),
        (r#"{"type":"click","id":"x"}"#, "wrong_type /id: expected a UUID, got `x`"),
        (r#"{"type":"click","id":7}"#, "wrong_type /id: expected a string, got a number"),
        (r#"{"type":"click","user_id":{}}"#, "wrong_type /user_id: expected a string, got an object"),
        (r#"{"type":"click","x":"1"}"#, "wrong_type /x: expected a number, got a string"),
        (r#"{"type":"click","y":1e999}"#, "out_of_range /y: expected a number a double can hold"),
        (r#"{"type":"scroll","depth":100.5}"#, "out_of_range /depth: expected a number from 0 to 100"),
        (r#"{"type":"scroll","depth":-1}"#, "out_of_range /depth: expected a number from 0 to 100"),
        (r#"{"type":"click","metadata":[]}"#, "wrong_type /metadata: expected an object, got a list"),
        (r#"{"type":"click","metadata":{"ip":1}}"#, "wrong_type /metadata/ip: expected a string, got a number"),
        (
            r#"{"type":"click","tenant_id":"other"}"#,
            "wrong_tenant /tenant_id: the row names another tenant than the key's",
        ),
        (r#"{"type":"click","tenant_id":1}"#, "wrong_type /tenant_id: expected a string, got a number"),
        (
            r#"{"type":"click","title":"\ud83d"}"#,
            "malformed /title: a surrogate without its other half is not a character",
        ),
        (
            r#"{"type":"click","properties":{"a/b":["\udc00"]}}"#,
            "malformed /properties/a~1b: a surrogate without its other half is not a character",
        ),
        (
            r#"{"type":"click","properties":{"\udc00":1}}"#,
            "malformed /properties/\u{fffd}: a surrogate without its other half is not a character",
        ),
    ];
    for (event, expected) in cases {
        let decoded = decode_rows(&format!(r#"{{"type":"click"}}, {event} ,{{"type":"scroll"}}"#));
        assert_eq!(show(&decoded), format!("type=click\ntype=scroll\nreject 1 {expected}"), "{event}");
        assert_eq!(decoded.rejects[0].payload, event);
    }
}

#[test]
fn open_members() {
    let cases = [
        (r#"{"type":"click","properties":[1, 2]}"#, "type=click properties={value:[1,2]}"),
        (r#"{"type":"click","properties":"text"}"#, "type=click properties={value:\"text\"}"),
        (r#"{"type":"click","properties":null}"#, "type=click"),
        (r#"{"type":"click","properties":{}}"#, "type=click"),
        (r#"{"type":"click","properties":{"a":null}}"#, "type=click properties={a:null}"),
        (r#"{"type":"click","plan":"pro","n":[ ]}"#, "type=click context={plan:\"pro\" n:[]}"),
        (r#"{"type":"click","metadata":{"dpr":2}}"#, "type=click context={metadata.dpr:2}"),
        (r#"{"type":"click","tenant_id":"acme"}"#, "type=click"),
        (r#"{"type":"click","properties":{"s":"\u0041\u0000"}}"#, "type=click properties={s:\"A\\u0000\"}"),
        (
            r#"{"type":"click","properties":{"big":9223372036854775809}}"#,
            "type=click properties={big:9223372036854775809}",
        ),
        // Members given twice: the last one counts, and so do its mistakes.
        (r#"{"type":"click","properties":{"a":1,"b":2,"a":3}}"#, "type=click properties={b:2 a:3}"),
        (r#"{"type":"click","properties":{"a":1},"properties":{"b":2}}"#, "type=click properties={b:2}"),
        (r#"{"type":"nothing","type":"click","x":"1","x":2}"#, "type=click x=2"),
        (r#"{"type":"click","metadata":{"screen":1,"a":1},"metadata":{"language":"de"}}"#, "type=click language=de"),
        (r#"{"type":"click","title":"a","title":null}"#, "type=click"),
        (r#"{"ty\u0070e":"click"}"#, "type=click"),
    ];
    for (event, expected) in cases {
        check(event, expected);
    }
}

#[test]
fn observed_keys_carry_kinds() {
    let decoded = decode_rows(
        r#"{"type":"click","properties":{"n":1,"s":"x","b":true,"z":null}},{"type":"click","properties":{"n":"two"},"extra":1}"#,
    );
    let observed = &decoded.batches[0].observed;
    let (column, keys) = &observed[0];
    let keys: Vec<String> = keys.iter().map(|key| format!("{}:{}:{}", key.key, key.kind.as_str(), key.count)).collect();
    assert_eq!((*column, keys), ("properties", vec!["n:number:2".into(), "s:text:1".into(), "b:bool:1".into()]));
    assert_eq!(observed[1].0, "context");
}

#[test]
fn envelopes() {
    let malformed = |body: &[u8]| match decode(body, &context()) {
        Err(DecodeError::Malformed { message, place }) => format!("{place}: {message}"),
        other => panic!("{other:?}"),
    };
    let cases: [(&[u8], &str); 12] = [
        (b"", "byte 0: the body is not JSON: the text ends too early"),
        (b"{\"events\":[{\"type\":\"click\"}", "byte 27: the body is not JSON: the text ends too early"),
        (b"{\"events\":[{\"type\":\"click\"} {}]}", "byte 28: the body is not JSON: expected `,` or `]`"),
        (b"{\"events\":[{\"type\":\xff}]}", "byte 19: the body is not JSON: not valid UTF-8"),
        (b"{\"events\":[1]} x", "byte 15: the body is not JSON: something follows the end of the value"),
        (b"[]", ": expected an object with `events`, got a list"),
        (b"{}", "/events: `events` is missing"),
        (b"{\"events\":{}}", "/events: expected a list, got an object"),
        (b"{\"events\":null}", "/events: expected a list, got null"),
        (b"{\"events\":[]}", "/events: expected 1 to 1000 events, got none"),
        (b"{\"events\":[1,]}", "byte 13: the body is not JSON: expected a value"),
        (b"{\"tenant_id\":1,\"events\":[1]}", "/tenant_id: expected a string, got a number"),
    ];
    for (body, expected) in cases {
        assert_eq!(malformed(body), expected, "{}", String::from_utf8_lossy(body));
    }
    let wrong = decode(br#"{"events":[{"type":"click"}],"tenant_id":"other"}"#, &context());
    assert_eq!(wrong.unwrap_err(), DecodeError::WrongTenant);
    let right =
        b"\xef\xbb\xbf{\"tenant_id\":\"acme\",\"write_key\":\"k\",\"more\":[{}],\"events\":[{\"type\":\"click\"}]}";
    assert_eq!(decode(right, &context()).unwrap().received, 1);
}

#[test]
fn limits() {
    let limited = |rows: usize, limits: RowContext<'_>| {
        let body = format!("{{\"events\":[{}]}}", vec![r#"{"type":"click"}"#; rows].join(","));
        decode(body.as_bytes(), &limits)
    };
    assert_eq!(limited(1000, context()).unwrap().received, 1000);
    let error = limited(1001, context()).unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { limit: "events_per_request_max", value: 1000, actual: 1001 });
    let error = limited(1000, RowContext { decoded_bytes_max: 10_000, ..context() }).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { limit: "decoded_bytes_max", .. }));

    let long = "x".repeat(8 * 1024 + 1);
    let cases = [
        (
            format!(r#"{{"type":"click","title":"{long}"}}"#),
            "/title",
            "value_bytes_max is 8192, and the value has 8193 bytes",
        ),
        (
            format!(r#"{{"type":"click","properties":{{"p":"{long}"}}}}"#),
            "/properties/p",
            "value_bytes_max is 8192, and the value has 8195 bytes",
        ),
        (
            format!(r#"{{"type":"click","other":"{long}"}}"#),
            "/other",
            "value_bytes_max is 8192, and the value has 8195 bytes",
        ),
        (
            format!(r#"{{"type":"click","properties":{{"{long}":1}}}}"#),
            &*format!("/properties/{}", "x".repeat(128)),
            "value_bytes_max is 8192, and the value has 8193 bytes",
        ),
        (
            format!(r#"{{"type":"click","properties":[{}]}}"#, vec!["1"; 40_000].join(",")),
            "",
            "row_bytes_max is 65536, and the row has 80031 bytes",
        ),
        (
            format!(r#"{{"type":"click","properties":{{"d":{}{}}}}}"#, "[".repeat(64), "]".repeat(64)),
            "/properties/d",
            "nested deeper than 64 levels",
        ),
    ];
    for (event, field, message) in cases {
        let decoded = decode_rows(&format!("{event},{{\"type\":\"click\"}}"));
        assert_eq!(show(&decoded), format!("type=click\nreject 0 too_large {field}: {message}"));
    }
    let deep = format!(r#"{{"type":"click","properties":{{"d":{}{}}}}}"#, "[".repeat(63), "]".repeat(63));
    assert!(decode_rows(&deep).rejects.is_empty());
}

/// A million open brackets in one row cost that row, not the stack.
#[test]
fn bottomless_rows() {
    let deep = 1_000_000;
    let event = format!(r#"{{"type":"click","properties":{}{}}}"#, "[".repeat(deep), "]".repeat(deep));
    let decoded = decode_rows(&format!("{event},{{\"type\":\"click\"}}"));
    assert_eq!(decoded.rejects[0].code.as_str(), "too_large");
    assert_eq!(decoded.rejects[0].payload.len(), weir_data::reject::PAYLOAD_BYTES_MAX);
}

#[test]
fn write_keys() {
    let cases: [(&[u8], Option<&str>); 9] = [
        (br#"{"write_key":"k1","events":[]}"#, Some("k1")),
        (br#"{"events":[{"write_key":"inner"}],"write_key":"k2"}"#, Some("k2")),
        (br#"{"batch":[{}],"writeKey":"k3","rest": nonsense"#, Some("k3")),
        (br#"{"write_key":7,"events":[]}"#, None),
        (br#"{"write_key":""}"#, None),
        (br#"[{"write_key":"k"}]"#, None),
        (b"{\"a\":\"\xff\",\"write_key\":\"k\"}", None),
        (br#"{"events":["#, None),
        (b"", None),
    ];
    for (body, expected) in cases {
        assert_eq!(write_key(body).as_deref(), expected, "{}", String::from_utf8_lossy(body));
    }
    let far = format!(r#"{{"a":"{}","write_key":"k"}}"#, "é".repeat(super::WRITE_KEY_SCAN_BYTES_MAX));
    assert_eq!(write_key(far.as_bytes()), None);
    assert_eq!(write_key(format!(r#"{{"write_key":"{}"}}"#, "k".repeat(1000)).as_bytes()), None);
}

/// Bodies with all shapes of mistakes in them.
fn body() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-1".to_owned()),
        Just("1e999".to_owned()),
        Just("1700046000000".to_owned()),
        Just("\"click\"".to_owned()),
        Just("\"custom\"".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        Just(format!("\"{ID}\"")),
        Just("{\"a\":[{}],\"a\":1}".to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let name = prop_oneof![
        5 => proptest::sample::select(vec![
            "type", "id", "name", "timestamp", "properties", "metadata", "x", "depth", "url", "tenant_id", "user_id",
        ])
        .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let member = (name, value).prop_map(|(name, value)| format!("{}:{value}", serde_json::to_string(&name).unwrap()));
    let event = proptest::collection::vec(member, 0..8).prop_map(|members| {
        format!("{{\"type\":\"click\"{}{}}}", if members.is_empty() { "" } else { "," }, members.join(","))
    });
    proptest::collection::vec(event, 1..6).prop_map(|events| format!("{{\"events\":[{}]}}", events.join(",")))
}

proptest! {
    #[test]
    fn every_row_is_accounted_for(body in body()) {
        let decoded = decode(body.as_bytes(), &context()).unwrap();
        check_invariants(&decoded);
        let given: serde_json::Map<String, serde_json::Value> = {
            // Numbers no double can hold are valid JSON that serde_json's values refuse.
            serde_json::from_str(&body.replace("1e999", "1").replace("\\ud800", "")).unwrap()
        };
        prop_assert_eq!(decoded.received, given["events"].as_array().unwrap().len());
    }

    /// One byte changed or the end cut off: an answer, whatever it is, and never a lost row.
    #[test]
    fn damaged_bodies_are_safe(body in body(), at in any::<proptest::sample::Index>(), new in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = body.into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = new }
        if let Ok(decoded) = decode(&bytes, &context()) {
            check_invariants(&decoded);
        }
        let _ = write_key(&bytes);
    }

    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes, &context());
        let _ = write_key(&bytes);
    }
}
