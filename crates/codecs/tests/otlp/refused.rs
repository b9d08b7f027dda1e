//! What is refused, how it is named, and that it costs nothing else.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use weir_codecs::DecodeError;
use weir_codecs::otlp::{Encoding, Signal, decode};
use weir_data::reject::PAYLOAD_BYTES_MAX;

use crate::cells::rows;
use crate::equal::{all_rows, context};
use crate::wire::{attribute, fixed64, gauge, int, len, request, tag, varint};

/// `["code field: message"]` of the rejects.
fn rejects(signal: Signal, encoding: Encoding, body: &[u8]) -> Vec<String> {
    let decoded = decode(signal, encoding, body, &context()).unwrap();
    let n_rows: usize = decoded.batches.iter().map(|batch| batch.batch.num_rows()).sum();
    assert_eq!(decoded.received, n_rows + decoded.rejects.len());
    let texts = decoded.rejects.iter();
    texts
        .map(|reject| format!("{} {} {}: {}", reject.index, reject.code.as_str(), reject.field, reject.message))
        .collect()
}

/// A bad item between two good ones is refused alone.
fn check_item(signal: Signal, good: &[u8], bad: &[u8], expected: &str) {
    let body = request(&[good.to_vec(), bad.to_vec(), good.to_vec()]);
    assert_eq!(rejects(signal, Encoding::Protobuf, &body), [format!("1 {expected}")]);
    let alone = request(&[good.to_vec(), good.to_vec()]);
    let (with, without) =
        (decode(signal, Encoding::Protobuf, &body, &context()), decode(signal, Encoding::Protobuf, &alone, &context()));
    let (with, without) = (with.unwrap(), without.unwrap());
    assert_eq!(all_rows(&with), all_rows(&without), "{expected}");
    assert_eq!(with.batches[0].observed, without.batches[0].observed, "{expected}");
}

/// An `AnyValue` in that many lists.
fn nested(levels: usize) -> Vec<u8> {
    (0..levels).fold(len(1, "x"), |value, _| len(5, len(1, value)))
}

#[test]
fn a_bad_log_record_is_refused_alone() {
    let good = [len(3, "INFO"), len(5, len(1, "body")), len(6, attribute("k", "v")), len(9, [7; 16])].concat();
    let check = |bad: &[u8], expected: &str| {
        // With good fields before it, so that there is something to take back.
        check_item(Signal::Logs, &good, &[&good[..], bad].concat(), expected);
        check_item(Signal::Logs, &good, bad, expected);
    };
    check(&len(9, [1; 15]), "malformed /trace_id: the id has 15 bytes, not 16");
    check(&len(10, [1; 9]), "malformed /span_id: the id has 9 bytes, not 8");
    check(&len(3, b"\xff"), "malformed /severity_text: the text is not valid UTF-8");
    check(&len(12, b"\xc3"), "malformed /event_name: the text is not valid UTF-8");
    check(&len(5, len(1, b"a\x80")), "malformed /body/string_value: the text is not valid UTF-8");
    check(&len(5, int(1, 1)), "malformed /body/string_value: the field has the wrong wire type");
    check(
        &len(5, len(6, len(1, int(1, 1)))),
        "malformed /body/kvlist_value/values/0/key: the field has the wrong wire type",
    );
    check(&int(5, 1), "malformed /body: the field has the wrong wire type");
    check(&len(2, ""), "malformed /severity_number: the field has the wrong wire type");
    check(&int(1, 5), "malformed /time_unix_nano: the field has the wrong wire type");
    let deep = len(6, [len(1, "deep"), len(2, nested(65))].concat());
    let decoded = decode(Signal::Logs, Encoding::Protobuf, &request(&[deep]), &context()).unwrap();
    assert_eq!(decoded.rejects[0].message, "the value is nested deeper than 64 levels");
    assert!(decoded.rejects[0].field.starts_with("/attributes/0/value/array_value/values/0/array_value/"));
    let deep = len(6, [len(1, "deep"), len(2, nested(64))].concat());
    assert_eq!(rejects(Signal::Logs, Encoding::Protobuf, &request(&[deep])), [""; 0]);
}

/// As much as is kept of any payload.
#[test]
fn the_bytes_of_what_is_refused_are_kept() {
    for filler in [0, 100_000] {
        let bad = [len(9, [1; 15]), len(5, len(1, "x".repeat(filler)))].concat();
        let body = request(&[len(3, "INFO"), bad.clone()]);
        let decoded = decode(Signal::Logs, Encoding::Protobuf, &body, &context()).unwrap();
        let payload = &decoded.rejects[0].payload;
        let (what, bytes) = payload.split_once(", base64: ").unwrap();
        assert_eq!(what, format!("log record of {} bytes at byte {}", bad.len(), body.len() - bad.len()));
        let bytes = BASE64_STANDARD.decode(bytes).unwrap();
        assert!(bad.starts_with(&bytes) && payload.len() <= PAYLOAD_BYTES_MAX, "{what}");
        assert_eq!(bytes.len() == bad.len(), filler == 0);
        assert!(payload.len() > PAYLOAD_BYTES_MAX - 8 || filler == 0, "no more is cut than has to be");
    }
}

/// A metric that is refused as many rows is kept once, and many refused rows do not take what a good one needs.
#[test]
fn little_is_kept_of_much_that_is_refused() {
    let points = (0..500).flat_map(|_| len(1, [])).collect::<Vec<u8>>();
    let metric = [len(1, [0xff]), len(2, "x".repeat(10_000)), len(5, points)].concat();
    let decoded = decode(Signal::Metrics, Encoding::Protobuf, &request(&[metric]), &context()).unwrap();
    let kept = decoded.rejects.iter().filter(|reject| reject.payload.contains("base64")).count();
    assert_eq!((decoded.rejects.len(), kept), (500, 1));

    let bad = [len(9, [1; 15]), len(5, len(1, "x".repeat(40_000)))].concat();
    let mut records = vec![bad; 100];
    records.push(len(3, "INFO"));
    let decoded = decode(Signal::Logs, Encoding::Protobuf, &request(&records), &context()).unwrap();
    let bytes: usize = decoded.rejects.iter().map(|reject| reject.payload.len()).sum();
    assert_eq!((decoded.rejects.len(), decoded.batches[0].batch.num_rows()), (100, 1));
    assert!(bytes < (1 << 20) + 100 * 100, "{bytes} bytes");
}

#[test]
fn the_place_of_a_bad_attribute_is_named() {
    let good = len(6, attribute("k", "v"));
    let check = |bad: &[u8], expected: &str| {
        check_item(
            Signal::Logs,
            &good,
            &[&good[..], &len(6, bad)].concat(),
            &format!("malformed /attributes/1{expected}"),
        );
    };
    check(&attribute(b"\xf0", "v"), "/key: the text is not valid UTF-8");
    check(&attribute("k", b"\xf0"), "/value/string_value: the text is not valid UTF-8");
    check(&[len(1, "k"), len(2, len(2, ""))].concat(), "/value/bool_value: the field has the wrong wire type");
    check(
        &[len(1, "k"), len(2, [0x0a, 5, b'x'])].concat(),
        "/value: a length goes past the end of its message, at byte 1 of the message",
    );
    check(&[0x0a], ": a varint is cut off, at byte 1 of the message");
    check_item(
        Signal::Logs,
        &good,
        &[good.clone(), int(6, 1)].concat(),
        "malformed /attributes/1: the field has the wrong wire type",
    );
}

#[test]
fn broken_framing_inside_a_record_is_refused_alone() {
    let good = len(5, len(1, "body"));
    let check = |bad: &[u8], expected: &str| {
        check_item(Signal::Logs, &good, bad, &format!("malformed : {expected} of the message"));
    };
    check(&[0x0a, 0x80], "a varint is cut off, at byte 1");
    check(&[0x09, 1, 2], "a fixed-size field is cut off, at byte 1");
    check(&[0x0d, 1, 2], "a fixed-size field is cut off, at byte 1");
    check(&[0x00, 1], "a field number is out of range, at byte 0");
    check(&[0x0e], "a wire type is unknown or out of place, at byte 1");
    check(&[0x0c], "a wire type is unknown or out of place, at byte 1");
    check(
        &[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        "a varint is longer than 64 bits, at byte 1",
    );
    check(&[0x7b, 0x0c], "a group ends that was not begun, at byte 2");
    check(&[0x7b, 0x08, 1], "a varint is cut off, at byte 3");
    check(&tag(15, 3).repeat(65), "groups are nested too deep, at byte 65");
}

#[test]
fn bad_spans_and_points_are_refused_alone() {
    let event = |bytes: &[u8]| len(11, bytes);
    let link = |bytes: &[u8]| len(13, bytes);
    let good = [len(5, "GET /"), event(&len(2, "e")), link(&len(1, [1; 16])), len(9, attribute("k", "v"))].concat();
    let check = |bad: Vec<u8>, expected: &str| check_item(Signal::Traces, &good, &[&good[..], &bad].concat(), expected);
    check(len(4, [1]), "malformed /parent_span_id: the id has 1 bytes, not 8");
    check(event(&len(2, b"\xff")), "malformed /events/1/name: the text is not valid UTF-8");
    check(event(&len(3, int(1, 1))), "malformed /events/1/attributes/0/key: the field has the wrong wire type");
    check(link(&len(2, [1; 7])), "malformed /links/1/span_id: the id has 7 bytes, not 8");
    check(len(15, len(2, b"\xff")), "malformed /status/message: the text is not valid UTF-8");
    check(int(16, 1), "malformed /flags: the field has the wrong wire type");

    let good = gauge("g", &[[fixed64(4, 0), len(7, attribute("k", "v")), len(5, "")].concat()]);
    let check = |bad: Vec<u8>, expected: &str| check_item(Signal::Metrics, &good, &bad, expected);
    check(gauge("g", &[len(5, len(5, [1; 3]))]), "malformed /exemplars/0/trace_id: the id has 3 bytes, not 16");
    check(
        gauge("g", &[[len(7, attribute("a", "b")), len(7, attribute("k", b"\xff"))].concat()]),
        "malformed /attributes/1/value/string_value: the text is not valid UTF-8",
    );
    check(gauge(b"\xff", &[fixed64(4, 0)]), "malformed /name: the text is not valid UTF-8");
    check([len(1, "m"), len(5, [0x0a])].concat(), "malformed /gauge: a varint is cut off, at byte 1 of the message");
    check([len(1, "m"), int(5, 1)].concat(), "malformed /gauge: the field has the wrong wire type");
    check(vec![0x0a], "malformed : a varint is cut off, at byte 1 of the message");
    let big = i64::MAX as u64 + 1;
    let histogram = |point: Vec<u8>| [len(1, "h"), len(9, len(1, point))].concat();
    check(histogram(fixed64(4, big)), &format!("out_of_range /count: {big} is above {}", i64::MAX));
    check(
        histogram([fixed64(6, 1), fixed64(6, big)].concat()),
        &format!("out_of_range /bucket_counts: {big} is above {}", i64::MAX),
    );
    check(histogram(len(7, [0; 9])), "malformed /explicit_bounds: a packed field ends inside an element");
    let exponential = |point: Vec<u8>| [len(1, "e"), len(10, len(1, point))].concat();
    check(
        exponential(len(8, len(2, varint(big)))),
        &format!("out_of_range /positive/bucket_counts: {big} is above {}", i64::MAX),
    );
    check(exponential(len(9, len(2, [0x80]))), "malformed /negative/bucket_counts: a varint is cut off");
}

#[test]
fn a_metric_that_cannot_be_read_counts_its_points() {
    let body = request(&[gauge(b"\xff", &[vec![], vec![], vec![]]), gauge("good", &[vec![]])]);
    let expected = |index| format!("{index} malformed /name: the text is not valid UTF-8");
    assert_eq!(rejects(Signal::Metrics, Encoding::Protobuf, &body), [0, 1, 2].map(expected));
}

#[test]
fn a_bad_resource_or_scope_refuses_the_rows_below_it() {
    let record = |body: &str| len(2, len(5, len(1, body)));
    let scope = |head: Vec<u8>, records: &[&str]| {
        len(2, [head, records.iter().flat_map(|body| record(body)).collect()].concat())
    };
    let bad_scope = scope(len(1, len(1, b"\xff")), &["a", "b"]);
    let good_scope = scope(len(1, len(1, "s")), &["c"]);
    let bad_resource = len(1, [len(1, len(1, attribute("k", b"\xff"))), scope(vec![], &["d"])].concat());
    let bad_url = len(1, [len(3, b"\xff"), scope(vec![], &["e"])].concat());
    let body =
        [len(1, [bad_scope, good_scope].concat()), bad_resource, bad_url, len(1, scope(vec![], &["f"]))].concat();
    assert_eq!(
        rejects(Signal::Logs, Encoding::Protobuf, &body),
        [
            "0 malformed /scope/name: the text is not valid UTF-8",
            "1 malformed /scope/name: the text is not valid UTF-8",
            "3 malformed /resource/attributes/0/value/string_value: the text is not valid UTF-8",
            "4 malformed /schema_url: the text is not valid UTF-8",
        ]
    );
    let decoded = decode(Signal::Logs, Encoding::Protobuf, &body, &context()).unwrap();
    let kept: Vec<_> = rows(&decoded.batches[0].batch)
        .iter()
        .map(|row| (row["body"].clone(), row.get("scope_name").cloned()))
        .collect();
    assert_eq!(kept, [("c".to_owned(), Some("s".to_owned())), ("f".to_owned(), None)]);
    assert!(decoded.batches[0].observed.is_empty(), "keys of refused resources are not observed");
}

#[test]
fn a_request_that_cannot_be_walked_is_refused_with_the_place() {
    let check = |body: &[u8], expected: &str| {
        for signal in [Signal::Logs, Signal::Traces, Signal::Metrics] {
            match decode(signal, Encoding::Protobuf, body, &context()) {
                Err(DecodeError::Malformed { message, place }) => assert_eq!(format!("{place}: {message}"), expected),
                other => panic!("{other:?}"),
            }
        }
    };
    check(b"{\"resourceLogs\":[]}", "byte 2: a length goes past the end of its message");
    check(&[0x0a, 3, 0x12], "byte 1: a length goes past the end of its message");
    check(&int(1, 1), "byte 2: the field has the wrong wire type");
    check(&len(1, len(2, [0x12, 9])), "byte 5: a length goes past the end of its message");
    check(&len(1, int(2, 7)), "byte 4: the field has the wrong wire type");
    check(&len(1, int(3, 7)), "byte 4: the field has the wrong wire type");
}

#[test]
fn unknown_fields_are_ignored() {
    let group = [tag(90, 3), int(1, 1), tag(91, 3), tag(91, 4), len(2, "x"), tag(90, 4)].concat();
    let unknown =
        [group, int(88, u64::MAX), fixed64(89, 1), len(536_870_911, "x"), [&tag(87, 5)[..], &[0; 4]].concat()].concat();
    let wrap = |bytes: &[u8]| [&unknown[..], bytes, &unknown].concat();
    let attribute = wrap(&[len(1, "k"), len(2, wrap(&len(1, "v")))].concat());
    let record = wrap(&[len(5, wrap(&len(1, "body"))), len(6, attribute)].concat());
    let body = wrap(&len(1, wrap(&len(2, wrap(&len(2, record))))));
    let decoded = decode(Signal::Logs, Encoding::Protobuf, &body, &context()).unwrap();
    let rows = rows(&decoded.batches[0].batch);
    assert_eq!((rows[0]["body"].as_str(), rows[0]["attributes"].as_str()), ("body", "\"k\": \"v\""));
    assert!(decoded.rejects.is_empty());
}

#[test]
fn repeated_singular_fields_merge_as_protobuf_says() {
    let list = |value: &str| len(5, len(1, len(1, value)));
    let cases: &[(Vec<u8>, &str)] = &[
        ([len(5, len(1, "a")), len(5, len(1, "b"))].concat(), "b"),
        ([len(5, list("a")), len(5, list("b"))].concat(), r#"["a","b"]"#),
        ([len(5, list("a")), len(5, len(1, "b")), len(5, list("c"))].concat(), r#"["c"]"#),
        (len(5, [list("a"), int(3, 7), list("c")].concat()), r#"["c"]"#),
        ([len(5, list("a")), len(5, "")].concat(), r#"["a"]"#),
    ];
    for (record, expected) in cases {
        let decoded =
            decode(Signal::Logs, Encoding::Protobuf, &request(std::slice::from_ref(record)), &context()).unwrap();
        assert_eq!(rows(&decoded.batches[0].batch)[0]["body"], *expected);
    }
    // A resource in two parts, with the rows between them.
    let part = |key: &str| len(1, len(1, attribute(key, "v")));
    let body = len(1, [part("a"), len(2, len(2, "")), part("service.name")].concat());
    let decoded = decode(Signal::Logs, Encoding::Protobuf, &body, &context()).unwrap();
    let row = &rows(&decoded.batches[0].batch)[0];
    assert_eq!((row["resource"].as_str(), row["service_name"].as_str()), (r#""a": "v"; "service.name": "v""#, "v"));
}

#[test]
fn rows_and_values_have_limits_of_their_own() {
    let mut context = context();
    context.row_bytes_max = 100;
    context.value_bytes_max = 20;
    let big_value = len(6, attribute("k", "v".repeat(21)));
    let big_row = len(5, len(1, "b".repeat(120)));
    let body = request(&[big_value, vec![], big_row]);
    let decoded = decode(Signal::Logs, Encoding::Protobuf, &body, &context).unwrap();
    let texts: Vec<_> = decoded
        .rejects
        .iter()
        .map(|reject| format!("{} {} {}: {}", reject.index, reject.code.as_str(), reject.field, reject.message))
        .collect();
    assert_eq!(
        texts,
        [
            "0 too_large /attributes/0/value: value_bytes_max is 20, and this has 23 bytes",
            "2 too_large : row_bytes_max is 100, and this has 124 bytes",
        ]
    );
    let text = format!(
        r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"severityText":"{}"}},{{}}]}}]}}]}}"#,
        "x".repeat(100)
    );
    let decoded = decode(Signal::Logs, Encoding::Json, text.as_bytes(), &context).unwrap();
    assert_eq!(decoded.rejects[0].message, "row_bytes_max is 100, and this has 119 bytes");
    assert_eq!(decoded.received, 2);
}

fn json_logs(records: &str) -> String {
    format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{records}]}}]}}]}}"#)
}

#[test]
fn a_bad_json_record_is_refused_alone_with_its_text() {
    let cases = [
        (r#"5"#, "wrong_type : expected an object, found a number"),
        (r#"{"traceId":"xyz"}"#, "malformed /trace_id: the id is not hexadecimal"),
        (r#"{"traceId":"abcd"}"#, "malformed /trace_id: the id has 2 bytes, not 16"),
        (r#"{"traceId":5}"#, "wrong_type /trace_id: expected hexadecimal in a string, found a number"),
        (r#"{"severityText":["x"]}"#, "wrong_type /severity_text: expected a string, found a list"),
        (r#"{"severityText":"\ud800"}"#, "malformed /severity_text: the text has half of a surrogate pair"),
        (
            r#"{"severityNumber":"LOUD"}"#,
            "out_of_range /severity_number: the number is not an integer, or does not fit",
        ),
        (r#"{"severityNumber":1.5}"#, "out_of_range /severity_number: the number is not an integer, or does not fit"),
        (r#"{"flags":-1}"#, "out_of_range /flags: the number is not an integer, or does not fit"),
        (r#"{"flags":true}"#, "wrong_type /flags: expected an integer, found a boolean"),
        (r#"{"timeUnixNano":{}}"#, "wrong_type /time_unix_nano: expected an integer, found an object"),
        (r#"{"attributes":{}}"#, "wrong_type /attributes: expected a list, found an object"),
        (r#"{"attributes":[{"key":"a"},7]}"#, "wrong_type /attributes/1: expected an object, found a number"),
        (
            r#"{"attributes":[{"key":"a","value":{"intValue":"9223372036854775808"}}]}"#,
            "out_of_range /attributes/0/value/int_value: the number is not an integer, or does not fit",
        ),
        (
            r#"{"attributes":[{"key":"a","value":{"boolValue":"true"}}]}"#,
            "wrong_type /attributes/0/value/bool_value: expected a boolean, found a string",
        ),
        (
            r#"{"attributes":[{"key":"a","value":{"doubleValue":1e999}}]}"#,
            "out_of_range /attributes/0/value/double_value: the number is none, or does not fit",
        ),
        (
            r#"{"attributes":[{"key":"a","value":{"doubleValue":"inf"}}]}"#,
            "out_of_range /attributes/0/value/double_value: the number is none, or does not fit",
        ),
        (
            r#"{"attributes":[{"key":"a","value":{"bytesValue":"?"}}]}"#,
            "malformed /attributes/0/value/bytes_value: the text is not base64",
        ),
        (
            r#"{"body":{"stringValue":"a","intValue":1}}"#,
            "malformed /body/int_value: only one of these fields may be given",
        ),
        (r#"{"body":{"stringValue":"a"},"body":{}}"#, "malformed /body: the field is given twice"),
        (r#"{"severityText":"a","severity_text":"b"}"#, "malformed /severity_text: the field is given twice"),
    ];
    for (record, expected) in cases {
        let body = json_logs(&format!(r#"{{"severityText":"good"}},{record},{{"severityText":"good"}}"#));
        assert_eq!(rejects(Signal::Logs, Encoding::Json, body.as_bytes()), [format!("1 {expected}")]);
        let decoded = decode(Signal::Logs, Encoding::Json, body.as_bytes(), &context()).unwrap();
        assert_eq!(decoded.rejects[0].payload, record);
        assert_eq!(decoded.batches[0].batch.num_rows(), 2);
    }
    let (open, close) = (r#"{"arrayValue":{"values":["#, "]}}");
    for (levels, refused) in [(64, 0), (65, 1), (1000, 1)] {
        let value = format!("{}{{}}{}", open.repeat(levels), close.repeat(levels));
        let body = json_logs(&format!(r#"{{}},{{"body":{value}}}"#));
        assert_eq!(rejects(Signal::Logs, Encoding::Json, body.as_bytes()).len(), refused, "{levels}");
    }
}

#[test]
fn bad_json_groups_and_points_are_refused_with_their_rows() {
    let body = r#"{"resourceMetrics":[
        {"scopeMetrics":[{"scope":{"name":1},"metrics":[{"name":"a","gauge":{"dataPoints":[{},{}]}}]}]},
        {"scopeMetrics":[{"metrics":[
            {"name":["bad"],"gauge":{"dataPoints":[{},{}]}},
            {"name":"b","gauge":{"dataPoints":[{"asInt":"x"},{"asInt":"7"}]}},
            {"name":"c","gauge":{},"sum":{}}
        ]}]},
        {"scopeMetrics":[{"metrics":[{"name":"d","sum":{"dataPoints":[{}]}}]}],"resource":[]}
    ]}"#;
    assert_eq!(
        rejects(Signal::Metrics, Encoding::Json, body.as_bytes()),
        [
            "0 wrong_type /scope/name: expected a string, found a number",
            "1 wrong_type /scope/name: expected a string, found a number",
            "2 wrong_type /name: expected a string, found a list",
            "3 out_of_range /as_int: the number is not an integer, or does not fit",
            "5 malformed /sum: only one of these fields may be given",
            "6 wrong_type /resource: expected an object, found a list",
        ]
    );
    let decoded = decode(Signal::Metrics, Encoding::Json, body.as_bytes(), &context()).unwrap();
    let payloads: Vec<_> = decoded.rejects.iter().map(|reject| reject.payload.as_str()).collect();
    assert_eq!(
        payloads,
        [
            "{}",
            "{}",
            r#"{"name":["bad"],"gauge":{"dataPoints":[{},{}]}}"#,
            r#"{"asInt":"x"}"#,
            r#"{"name":"c","gauge":{},"sum":{}}"#,
            "{}"
        ]
    );
    let row = &rows(&decoded.batches[0].batch)[0];
    assert_eq!((row["name"].as_str(), row["value"].as_str(), row["value_int"].as_str()), ("b", "7.0", "7"));
}

#[test]
fn json_that_cannot_be_walked_is_refused_with_the_place() {
    let check = |body: &[u8], expected: &str| match decode(Signal::Logs, Encoding::Json, body, &context()) {
        Err(DecodeError::Malformed { message, place }) => assert_eq!(format!("{place}: {message}"), expected),
        other => panic!("{other:?}"),
    };
    check(b"", "byte 0: the text ends too early");
    check(b"[]", ": expected an object, found a list");
    check(b"{} {}", "byte 3: something follows the end of the value");
    check(b"{\"resourceLogs\":{}}", "/resource_logs: expected a list, found an object");
    check(
        br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":{}}]}]}"#,
        "/resource_logs/0/scope_logs/0/log_records: expected a list, found an object",
    );
    check(br#"{"resourceLogs":[{"schemaUrl":7}]}"#, "/resource_logs/0/schema_url: expected a string, found a number");
    check(br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":]}]}]}"#, "byte 54: expected a value");
    check(
        br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"flags":true,]}]}"#,
        "byte 60: expected the name of a member in quotes",
    );
    check(b"{\"a\":\"\xff\"}", "byte 6: not valid UTF-8");
    check("[".repeat(1_000_000).as_bytes(), "byte 1000000: the text ends too early");
}

#[test]
fn json_is_taken_in_all_its_spellings() {
    let spellings = [
        r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"1700000000000000000","severityNumber":9,"traceId":"0AF7651916CD43DD8448EB211C80319C","body":{"doubleValue":"NaN"},"attributes":[{"key":"b","value":{"bytesValue":"+/8="}},{"key":"i","value":{"intValue":"1000"}}]}]}]}]}"#,
        r#"{"unknown":[{"deep":[1,{}]}],"resource_logs":[{"scope_logs":[{"log_records":[{"time_unix_nano":1700000000000000000,"severity_number":"SEVERITY_NUMBER_INFO","trace_id":"0af7651916cd43dd8448eb211c80319c","body":{"double_value":"NaN","unknown":null},"attributes":[{"key":"b","value":{"bytes_value":"-_8"}},{"key":"i","value":{"int_value":1e3}}],"observed_time_unix_nano":null}]}],"resource":null}]}"#,
        "\u{feff}{\"resourceLogs\": [ {\"scopeLogs\":[{\"logRecords\":[{\"timeUnixNano\":1.7e18,\"severityNumber\":\"9\",\"\\u0074raceId\":\"0af7651916cd43dd8448eb211c80319\\u0063\",\"body\":{\"doubleValue\":\"NaN\"},\"attributes\":[{\"key\":\"b\",\"value\":{\"bytesValue\":\"+/8\"}},{\"value\":{\"intValue\":1000.0},\"key\":\"i\"}]}]}]}]}\n",
    ];
    let read = |text: &str| all_rows(&decode(Signal::Logs, Encoding::Json, text.as_bytes(), &context()).unwrap());
    let first = read(spellings[0]);
    assert_eq!(first[0]["body"], "NaN");
    assert_eq!(first[0]["attributes"], r#""b": {"$bytes":"+/8="}; "i": 1000"#);
    for spelling in spellings {
        assert_eq!(read(spelling), first, "{spelling}");
    }
}

#[test]
fn a_json_time_that_cannot_be_one_is_flagged() {
    for time in [r#""-5""#, "-5", r#""yesterday""#, "1.5", "9223372036854775808", "1e30", r#""18446744073709551615""#] {
        let body = json_logs(&format!(r#"{{"timeUnixNano":{time}}}"#));
        let decoded = decode(Signal::Logs, Encoding::Json, body.as_bytes(), &context()).unwrap();
        let row = &rows(&decoded.batches[0].batch)[0];
        assert_eq!((row["time_flag"].as_str(), &row["time"]), ("impossible", &row["received_at"]), "{time}");
    }
}
