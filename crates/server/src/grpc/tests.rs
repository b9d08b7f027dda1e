#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use weir_base::ErrorKind;

use super::call::deadline;
use super::{Status, is_grpc};
use crate::problem::Problem;

#[test]
fn deadlines() {
    let cases = [
        ("1H", Some(Duration::from_secs(3600))),
        ("2M", Some(Duration::from_secs(120))),
        ("10S", Some(Duration::from_secs(10))),
        ("99999999m", Some(Duration::from_millis(99_999_999))),
        ("5u", Some(Duration::from_micros(5))),
        ("7n", Some(Duration::from_nanos(7))),
        ("999999999m", None),
        ("S", None),
        ("", None),
        ("-1S", None),
        ("1", None),
        ("1s", None),
    ];
    for (text, expected) in cases {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", HeaderValue::from_static(text));
        assert_eq!(deadline(&headers), expected, "{text}");
    }
}

#[test]
fn content_types() {
    for (text, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc; charset=utf-8", true),
        ("application/grpc+json", false),
        ("application/grpc-web", false),
        ("application/x-protobuf", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(text));
        assert_eq!(is_grpc(&headers), expected, "{text}");
    }
}

#[test]
fn trailers_carry_what_a_client_needs() {
    let trailers = Status::new(3, "50 % é\n").trailers();
    assert_eq!(trailers["grpc-status"], "3");
    assert_eq!(trailers["grpc-message"], "50 %25 %C3%A9%0A");
    assert!(!trailers.contains_key("grpc-status-details-bin"));
    let long = Status::new(3, "é".repeat(5000)).trailers();
    assert!(long["grpc-message"].len() <= 3 * 2048);
}

/// The bytes are those `google.rpc.Status` of the published protobuf files has.
#[test]
fn details_say_when_to_come_back() {
    let problem = Problem::new(ErrorKind::Limit, "slow down")
        .limit("rows_per_second", 300, Some(301))
        .retry_after(Duration::from_millis(1500));
    let status = Status::from(&problem);
    assert_eq!(status.code, 8);
    let encoded = status.encode();
    let mut expected = vec![0x08, 8, 0x12, 9];
    expected.extend(b"slow down");
    let mut info = vec![0x0a, 5];
    info.extend(b"LIMIT");
    info.extend([0x12, 4]);
    info.extend(b"weir");
    info.extend([0x1a, 24, 0x0a, 5]);
    info.extend(b"limit");
    info.extend([0x12, 15]);
    info.extend(b"rows_per_second");
    info.extend([0x1a, 12, 0x0a, 5]);
    info.extend(b"value");
    info.extend([0x12, 3]);
    info.extend(b"300");
    let url = b"type.googleapis.com/google.rpc.ErrorInfo";
    expected.extend([0x1a, (url.len() + info.len() + 4) as u8, 0x0a, url.len() as u8]);
    expected.extend(url);
    expected.extend([0x12, info.len() as u8]);
    expected.extend(&info);
    // RetryInfo { retry_delay: Duration { seconds: 1, nanos: 500000000 } }
    let retry = [0x0a, 8, 0x08, 1, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01];
    let url = b"type.googleapis.com/google.rpc.RetryInfo";
    expected.extend([0x1a, (url.len() + retry.len() + 4) as u8, 0x0a, url.len() as u8]);
    expected.extend(url);
    expected.extend([0x12, retry.len() as u8]);
    expected.extend(retry);
    assert_eq!(encoded, expected);
    assert_eq!(status.trailers()["grpc-status"], "8");
    assert!(status.trailers().contains_key("grpc-status-details-bin"));
}
