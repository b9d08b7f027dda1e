//! Small bodies that would become large: refused by a limit with a name, before they are.

use weir_codecs::otlp::{Encoding, Signal, decode};
use weir_codecs::{DecodeError, RowContext};

use crate::equal::context;
use crate::memory::peak_of;
use crate::wire::{attribute, gauge, len, request, varint};

const MIB: usize = 1024 * 1024;

/// Decodes within the budget: memory never exceeds it by more than the growth of vectors and the
/// body itself explain. Gives the name of the limit, or "fits".
fn check(name: &str, signal: Signal, encoding: Encoding, body: &[u8], context: &RowContext<'_>) -> &'static str {
    let (peak, result) = peak_of(|| decode(signal, encoding, body, context));
    // Vectors double when they grow, and hold both sizes for a moment.
    let allowed = 3 * context.decoded_bytes_max + 4 * body.len();
    assert!(peak <= allowed, "{name}: {} KiB held, {} allowed", peak >> 10, allowed >> 10);
    match result {
        Ok(_) => "fits",
        Err(DecodeError::TooLarge { limit, .. }) => limit,
        Err(other) => panic!("{name}: {other}"),
    }
}

fn small() -> RowContext<'static> {
    RowContext {
        rows_max: 10_000,
        row_bytes_max: 8 * MIB,
        decoded_bytes_max: 8 * MIB,
        value_bytes_max: 8 * MIB,
        ..context()
    }
}

#[test]
fn two_million_empty_spans_are_refused_cheaply() {
    let body = len(1, len(2, len(2, "").repeat(2 * MIB)));
    assert!(body.len() > 4 * MIB);
    let (peak, result) = peak_of(|| decode(Signal::Traces, Encoding::Protobuf, &body, &small()));
    assert!(matches!(
        result,
        Err(DecodeError::TooLarge { limit: "rows_per_request_max", value: 10_000, actual: 10_001 })
    ));
    assert!(peak < 2 * MIB, "{peak}");
    let text = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}{{}}]}}]}}]}}"#, "{},".repeat(MIB));
    let (peak, result) = peak_of(|| decode(Signal::Traces, Encoding::Json, text.as_bytes(), &small()));
    assert!(matches!(result, Err(DecodeError::TooLarge { limit: "rows_per_request_max", .. })));
    assert!(peak < 2 * MIB, "{peak}");
    // Without a limit on rows, that on bytes holds.
    let context = RowContext { rows_max: usize::MAX, ..small() };
    assert_eq!(check("spans", Signal::Traces, Encoding::Protobuf, &body, &context), "decoded_bytes_max");
    assert_eq!(check("spans", Signal::Traces, Encoding::Json, text.as_bytes(), &context), "decoded_bytes_max");
}

#[test]
fn amplification_is_refused_by_the_budget() {
    let many = |part: Vec<u8>| part.repeat(2 * MIB / part.len());
    let nested_copies = (0..40).fold(len(1, "x".repeat(MIB)), |value, _| {
        // Every level is given in two parts, so that each must be put together.
        len(6, len(1, [len(1, "k"), len(2, value), len(2, "")].concat()))
    });
    let wide_resource = len(1, len(1, attribute("k", "v".repeat(MIB))));
    let cases: Vec<(&str, Signal, Vec<u8>)> = vec![
        ("span events", Signal::Traces, request(&[many(len(11, ""))])),
        ("span links", Signal::Traces, request(&[many(len(13, ""))])),
        ("event attributes", Signal::Traces, request(&[len(11, many(len(3, "")))])),
        ("exemplars", Signal::Metrics, request(&[gauge("g", &[many(len(5, ""))])])),
        ("quantiles", Signal::Metrics, request(&[[len(1, "s"), len(11, len(1, many(len(6, ""))))].concat()])),
        (
            "buckets",
            Signal::Metrics,
            request(&[[len(1, "e"), len(10, len(1, len(8, len(2, vec![1; 2 * MIB]))))].concat()]),
        ),
        ("attributes", Signal::Logs, request(&[many(len(6, ""))])),
        ("list elements", Signal::Logs, request(&[len(5, len(5, many(len(1, ""))))])),
        ("control characters", Signal::Logs, request(&[len(6, attribute("k", vec![1; 2 * MIB]))])),
        ("a body of control characters", Signal::Logs, request(&[len(5, len(5, len(1, len(1, vec![1; 2 * MIB]))))])),
        ("merged parts", Signal::Logs, request(&[len(5, nested_copies)])),
        (
            "a wide resource on many rows",
            Signal::Logs,
            len(1, [wide_resource, len(2, len(2, "").repeat(100))].concat()),
        ),
        ("a wide metric name on many points", Signal::Metrics, request(&[gauge("n".repeat(MIB), &vec![vec![]; 100])])),
        ("rejects", Signal::Logs, request(&vec![vec![0x0a]; 9_000])),
        ("resources", Signal::Logs, many(len(1, len(1, len(1, attribute("k", "v")))))),
        ("metrics without points", Signal::Metrics, request(&[many(len(1, ""))])),
        ("groups", Signal::Logs, [vec![0x7b; 64], many(vec![0x08, 1])].concat()),
        ("long varints", Signal::Logs, request(&[[vec![0x10], vec![0x80; 9]].concat().repeat(1000)])),
    ];
    for (name, signal, body) in cases {
        let mut context = small();
        if name == "rejects" {
            context.decoded_bytes_max = MIB;
        }
        let (peak, result) = peak_of(|| decode(signal, Encoding::Protobuf, &body, &context));
        let allowed = 3 * context.decoded_bytes_max + 4 * body.len();
        assert!(peak <= allowed, "{name}: {} KiB held, {} allowed", peak >> 10, allowed >> 10);
        match name {
            "resources" | "metrics without points" | "long varints" => {
                assert!(result.is_ok(), "{name}: {result:?}");
            }
            "groups" => assert!(matches!(result, Err(DecodeError::Malformed { .. })), "{name}"),
            _ => assert!(
                matches!(result, Err(DecodeError::TooLarge { limit: "decoded_bytes_max", .. })),
                "{name}: {:?} with {} KiB",
                result.map(|decoded| decoded.received),
                peak >> 10
            ),
        }
    }
}

#[test]
fn json_amplification_is_refused_by_the_budget() {
    let point = |field: &str, element: &str| {
        let list = vec![element; 2 * MIB / (element.len() + 1)].join(",");
        format!(
            r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"name":"m","histogram":{{"dataPoints":[{{"{field}":[{list}]}}]}}}}]}}]}}]}}"#
        )
    };
    let cases = [
        ("buckets", point("bucketCounts", "1"), "decoded_bytes_max"),
        ("bounds", point("explicitBounds", "1"), "decoded_bytes_max"),
        ("exemplars", point("exemplars", "{}"), "decoded_bytes_max"),
        ("attributes", point("attributes", "{}"), "decoded_bytes_max"),
        (
            "faulty metrics",
            format!(r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{}]}}]}}]}}"#, vec!["1"; MIB].join(",")),
            "rows_per_request_max",
        ),
        (
            "faulty resources",
            format!(r#"{{"resourceMetrics":[{}]}}"#, vec![r#"{"resource":1}"#; 100_000].join(",")),
            "rows_per_request_max",
        ),
    ];
    for (name, body, limit) in cases {
        assert_eq!(check(name, Signal::Metrics, Encoding::Json, body.as_bytes(), &small()), limit, "{name}");
    }
}

#[test]
fn what_fits_is_decoded_and_one_byte_less_is_refused() {
    let body = request(&vec![len(5, len(1, "some text")); 100]);
    let context = |decoded_bytes_max| RowContext { decoded_bytes_max, ..small() };
    let fits = |max| decode(Signal::Logs, Encoding::Protobuf, &body, &context(max)).is_ok();
    let smallest = (0..100_000).find(|max| fits(*max)).unwrap();
    // At least the text, and not more than three times the rows' own size.
    assert!((900..30_000).contains(&smallest), "{smallest}");
    assert!(!fits(smallest - 1));
    let rows = |rows_max| decode(Signal::Logs, Encoding::Protobuf, &body, &RowContext { rows_max, ..small() });
    assert!(rows(100).is_ok() && rows(99).is_err());
    let huge = varint(u64::MAX);
    assert!(decode(Signal::Logs, Encoding::Protobuf, &[&[0x0a][..], &huge].concat(), &small()).is_err());
}
