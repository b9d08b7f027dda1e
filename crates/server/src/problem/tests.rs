#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use axum::response::IntoResponse;
use serde_json::{Value, json};
use weir_base::{Diagnostic, ErrorKind, Kinded};
use weir_codecs::DecodeError;

use super::{Problem, parse_json};

#[derive(Debug, thiserror::Error)]
#[error("writing the record")]
struct Failed(ErrorKind, #[source] std::io::Error);

impl Kinded for Failed {
    fn kind(&self) -> ErrorKind {
        self.0
    }
}

fn failed(kind: ErrorKind) -> Problem {
    Problem::from(Failed(kind, std::io::Error::other("/var/lib/weir/log/1: broken")))
}

fn check(problem: &Problem, expected: Value) {
    assert_eq!(serde_json::to_value(problem.body(None)).unwrap(), expected);
}

#[test]
fn a_limit_on_things_is_named_and_waiting_is_not_advised() {
    let problem = Problem::from(weir_meta::MetaError::Limit { name: "keys_max", value: 5, current: 5 });
    let body = serde_json::to_value(problem.body(None)).unwrap();
    assert_eq!(body["limit"], json!({ "name": "keys_max", "value": 5, "current": 5 }));
    let headers = problem.into_response().headers().clone();
    assert!(!headers.contains_key("retry-after"), "{headers:?}");
}

#[test]
fn every_kind_has_the_status_and_code_of_the_table() {
    for kind in ErrorKind::ALL {
        let problem = Problem::new(kind, "x");
        assert_eq!(problem.http_status().as_u16(), kind.http_status(), "{kind:?}");
        assert_eq!(problem.code_text(), kind.code());
        let waits = matches!(kind, ErrorKind::Limit | ErrorKind::Full | ErrorKind::Transient);
        assert_eq!(problem.clone().into_response().headers().contains_key("retry-after"), waits, "{kind:?}");
        assert_eq!(
            problem.into_response().headers().contains_key("www-authenticate"),
            kind == ErrorKind::Unauthenticated
        );
    }
}

#[test]
fn only_the_users_own_errors_show_their_causes() {
    assert_eq!(failed(ErrorKind::Input).message(), "writing the record: /var/lib/weir/log/1: broken");
    assert_eq!(failed(ErrorKind::Transient).message(), "writing the record");
    let full = failed(ErrorKind::Full).message();
    assert!(full.starts_with("writing the record: no space is left on the server's disk; "), "{full}");
    assert!(full.contains("by itself"), "{full}");
    assert_eq!(failed(ErrorKind::Full).cause_text(), Some("writing the record: /var/lib/weir/log/1: broken"));
    let internal = failed(ErrorKind::Internal);
    assert!(!internal.message().contains("record"), "{}", internal.message());
    assert!(internal.cause_text().unwrap().contains("broken"));
}

#[test]
fn decoding_errors_keep_their_place_and_limit() {
    check(
        &DecodeError::Malformed { message: "expected an array".into(), place: "/events".into() }.into(),
        json!({"type": "urn:weir:problem:input", "title": "Bad Request", "status": 400, "code": "input",
            "detail": "expected an array", "pointer": "/events"}),
    );
    check(
        &DecodeError::TooLarge { limit: "rows_per_request_max", value: 1000, actual: 1001 }.into(),
        json!({"type": "urn:weir:problem:too_large", "title": "Payload Too Large", "status": 413,
            "code": "too_large", "detail": "rows_per_request_max is 1000, and the request has 1001 or more",
            "limit": {"name": "rows_per_request_max", "value": 1000, "current": 1001}}),
    );
}

#[test]
fn diagnostics_are_all_listed() {
    let diagnostics = [
        Diagnostic { message: "unknown field".into(), place: "/a".into(), hint: "did you mean b?".into() },
        Diagnostic { message: "missing".into(), place: "/c".into(), hint: String::new() },
    ];
    check(
        &Problem::diagnostics(ErrorKind::Config, "2 problems", &diagnostics),
        json!({"type": "urn:weir:problem:config", "title": "Bad Request", "status": 400, "code": "config",
            "detail": "2 problems", "errors": [
                {"pointer": "/a", "detail": "unknown field", "hint": "did you mean b?"},
                {"pointer": "/c", "detail": "missing"}]}),
    );
}

#[test]
fn waiting_times_are_rounded_up() {
    for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (90_000, "90")] {
        let response = Problem::new(ErrorKind::Limit, "x").retry_after(Duration::from_millis(millis)).into_response();
        assert_eq!(response.headers()["retry-after"], seconds);
    }
}

#[test]
fn otlp_clients_are_told_what_they_repeat() {
    assert_eq!(failed(ErrorKind::Full).for_otlp().http_status().as_u16(), 503);
    assert_eq!(failed(ErrorKind::Timeout).for_otlp().http_status().as_u16(), 504);
    assert_eq!(failed(ErrorKind::Input).for_otlp().http_status().as_u16(), 400);
    let slow = failed(ErrorKind::Timeout).status(http::StatusCode::REQUEST_TIMEOUT).for_otlp();
    assert_eq!((slow.http_status().as_u16(), slow.retry_delay()), (503, Some(Duration::from_secs(1))));
}

#[test]
fn json_errors_name_line_and_column() {
    let problem = parse_json::<weir_api::query::QueryRequest>(b"{\"sql\":\n1}").unwrap_err();
    check(
        &problem,
        json!({"type": "urn:weir:problem:input", "title": "Bad Request", "status": 400, "code": "input",
            "detail": "the body is not what this route takes: invalid type: integer `1`, expected a string",
            "pointer": "line 2 column 1"}),
    );
}
