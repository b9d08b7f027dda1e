//! What an answer means, by the tables of the OTLP specification (1.9, "Failures"), and of nothing else.
//!
//! Sent again is what the specification lists; what it says must not be is not, and then the question is who is wrong. If it
//! is the address or a credential, the pipeline stops and keeps its rows: somebody has to act. Else it is the rows.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use weir_base::ErrorKind;
use weir_base::error::grpc as code;
use weir_codecs::otlp::response::{read_export, read_status};
use weir_component::sink::SinkError;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// All rows were taken.
    Taken,
    /// So many rows of it will never be taken; the others were.
    Partly { refused: u64, message: String },
    /// None of it will ever be taken.
    Refused(String),
    /// Less at once may be taken.
    TooLarge(String),
    /// It has not come to its end.
    Failed(SinkError),
}

/// Statuses of gRPC that [`code`] does not name.
const UNKNOWN: u8 = 2;
const ABORTED: u8 = 10;
const OUT_OF_RANGE: u8 = 11;

/// The longest message of a receiver that is kept, in characters.
const MESSAGE_CHARACTERS_MAX: usize = 2000;

fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_CHARACTERS_MAX).collect()
}

/// What the body of a success says.
fn taken(body: &[u8]) -> Answer {
    // Who answers with something else has said success nevertheless.
    let (refused, message) = read_export(body).unwrap_or_default();
    if refused > 0 {
        return Answer::Partly { refused, message: cut(&message) };
    }
    if !message.is_empty() {
        tracing::warn!(message = cut(&message), "an OTLP receiver warns");
    }
    Answer::Taken
}

fn failed(kind: ErrorKind, message: String, after: Option<Duration>) -> Answer {
    let error = SinkError::new(kind, message);
    Answer::Failed(if let Some(after) = after { error.after(after) } else { error })
}

/// The answer of a receiver over HTTP.
pub(super) fn of_http(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
    if status.is_success() {
        return taken(if is_protobuf(headers) { body } else { &[] });
    }
    let told = if is_protobuf(headers) { read_status(body) } else { None };
    let (words, retry) = match told {
        Some(told) => (told.message, told.retry_after),
        None => (String::from_utf8_lossy(body).trim().to_owned(), None),
    };
    let after = retry_after(headers).or(retry);
    let words = if words.is_empty() { status.canonical_reason().unwrap_or_default().to_owned() } else { words };
    let message = format!("the receiver answers {}: {}", status.as_u16(), cut(&words));
    match status {
        StatusCode::TOO_MANY_REQUESTS => failed(ErrorKind::Limit, message, after),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => failed(ErrorKind::Transient, message, after),
        StatusCode::GATEWAY_TIMEOUT => failed(ErrorKind::Timeout, message, after),
        StatusCode::PAYLOAD_TOO_LARGE => Answer::TooLarge(message),
        StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            failed(ErrorKind::Unauthenticated, message, None)
        }
        StatusCode::FORBIDDEN => failed(ErrorKind::Forbidden, message, None),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => {
            failed(ErrorKind::NotFound, format!("{message}; is it the address of an OTLP receiver?"), None)
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE | StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
            failed(ErrorKind::Config, message, None)
        }
        status if status.is_redirection() || status.is_informational() => failed(ErrorKind::Config, message, None),
        _ => Answer::Refused(message),
    }
}

fn is_protobuf(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    // Nothing said is what was asked for.
    kind.is_none_or(|kind| kind.trim().to_ascii_lowercase().starts_with("application/x-protobuf"))
}

/// The seconds of `Retry-After`. A date is not taken: the clocks of two machines differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Nobody is waited for longer at a time.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(10);

/// The answer of a receiver over gRPC: the status of HTTP, the headers, and the trailers if there were any.
pub(super) fn of_grpc(status: StatusCode, headers: &HeaderMap, trailers: Option<&HeaderMap>, body: &[u8]) -> Answer {
    if status != StatusCode::OK {
        // Somebody on the way who does not speak gRPC.
        return of_http(status, headers, body);
    }
    let field = |name: &str| trailers.and_then(|trailers| trailers.get(name)).or_else(|| headers.get(name));
    let Some(number) = field("grpc-status").and_then(|value| value.to_str().ok()?.parse::<u8>().ok()) else {
        return failed(ErrorKind::Transient, "the receiver ended the call without a status".to_owned(), None);
    };
    if number == code::OK {
        return match body {
            [0, length @ ..] if length.len() >= 4 => taken(&length[4..]),
            _ => Answer::Taken,
        };
    }
    let details = field("grpc-status-details-bin").map(|value| decoded(value.as_bytes()));
    let retry = details.as_deref().and_then(read_status).and_then(|told| told.retry_after);
    let retry = retry.map(|after| after.min(RETRY_AFTER_MAX));
    let words = field("grpc-message").map(|value| percent_decoded(value.as_bytes())).unwrap_or_default();
    let message = format!("the receiver answers with gRPC status {number}: {}", cut(&words));
    match number {
        code::RESOURCE_EXHAUSTED if retry.is_some() => failed(ErrorKind::Limit, message, retry),
        // Without a word about trying again it is the request: it is how messages are refused that are too large.
        code::RESOURCE_EXHAUSTED => Answer::TooLarge(message),
        code::CANCELLED | code::UNAVAILABLE | code::DATA_LOSS | ABORTED | OUT_OF_RANGE => {
            failed(ErrorKind::Transient, message, retry)
        }
        code::DEADLINE_EXCEEDED => failed(ErrorKind::Timeout, message, retry),
        code::UNAUTHENTICATED => failed(ErrorKind::Unauthenticated, message, None),
        code::PERMISSION_DENIED => failed(ErrorKind::Forbidden, message, None),
        code::NOT_FOUND | code::UNIMPLEMENTED => {
            failed(ErrorKind::NotFound, format!("{message}; is it the address of an OTLP receiver?"), None)
        }
        // INVALID_ARGUMENT, ALREADY_EXISTS, FAILED_PRECONDITION, INTERNAL and what is not known.
        UNKNOWN.. | code::OK..UNKNOWN => Answer::Refused(message),
    }
}

/// Binary metadata, with its padding or without.
fn decoded(value: &[u8]) -> Vec<u8> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let end = value.iter().rposition(|byte| *byte != b'=').map_or(0, |at| at + 1);
    STANDARD_NO_PAD.decode(&value[..end]).unwrap_or_default()
}

/// A message of gRPC, in which bytes that are not printable are written as `%` and two digits.
fn percent_decoded(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        if let (b'%', [high, low, ..]) = (first, after)
            && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
        {
            bytes.push((high * 16 + low) as u8);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use weir_codecs::otlp::{Encoding, Signal, response};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn kind(answer: &Answer) -> String {
        match answer {
            Answer::Failed(error) => match error.after {
                Some(after) => format!("{:?} after {after:?}", error.kind),
                None => format!("{:?}", error.kind),
            },
            Answer::Partly { refused, message } => format!("partly {refused} {message}"),
            Answer::Refused(_) => "refused".to_owned(),
            Answer::TooLarge(_) => "too large".to_owned(),
            Answer::Taken => "taken".to_owned(),
        }
    }

    #[test]
    fn statuses_of_http() {
        let none = headers(&[]);
        for (status, expected) in [
            (200, "taken"),
            (202, "taken"),
            (301, "Config"),
            (400, "refused"),
            (401, "Unauthenticated"),
            (403, "Forbidden"),
            (404, "NotFound"),
            (413, "too large"),
            (415, "Config"),
            (422, "refused"),
            (429, "Limit"),
            (500, "refused"),
            (502, "Transient"),
            (503, "Transient"),
            (504, "Timeout"),
        ] {
            assert_eq!(kind(&of_http(StatusCode::from_u16(status).unwrap(), &none, b"")), expected, "{status}");
        }
        let later = headers(&[("retry-after", "7")]);
        assert_eq!(kind(&of_http(StatusCode::SERVICE_UNAVAILABLE, &later, b"")), "Transient after 7s");
        // As Weir and others say it in the body.
        let body = response::status(Encoding::Protobuf, 8, "slower", Some(Duration::from_millis(1500)));
        let answer = of_http(StatusCode::TOO_MANY_REQUESTS, &none, &body);
        assert_eq!(kind(&answer), "Limit after 1.5s");
        assert!(matches!(answer, Answer::Failed(error) if error.message == "the receiver answers 429: slower"));
    }

    #[test]
    fn rows_that_are_refused_are_counted() {
        for signal in [Signal::Logs, Signal::Traces, Signal::Metrics] {
            let body = response::export(signal, Encoding::Protobuf, 3, "no");
            assert_eq!(kind(&of_http(StatusCode::OK, &headers(&[]), &body)), "partly 3 no");
            let mut message = vec![0, 0, 0, 0, body.len() as u8];
            message.extend_from_slice(&body);
            let ok = headers(&[("grpc-status", "0")]);
            assert_eq!(kind(&of_grpc(StatusCode::OK, &headers(&[]), Some(&ok), &message)), "partly 3 no");
        }
        // A warning without rows, and what is no protobuf at all.
        let warning = response::export(Signal::Logs, Encoding::Protobuf, 0, "old client");
        assert_eq!(of_http(StatusCode::OK, &headers(&[]), &warning), Answer::Taken);
        assert_eq!(of_http(StatusCode::OK, &headers(&[("content-type", "text/html")]), b"<p>"), Answer::Taken);
        assert_eq!(of_http(StatusCode::OK, &headers(&[]), b"{}"), Answer::Taken);
    }

    #[test]
    fn statuses_of_grpc() {
        let none = headers(&[]);
        for (status, expected) in [
            ("0", "taken"),
            ("1", "Transient"),
            ("2", "refused"),
            ("3", "refused"),
            ("4", "Timeout"),
            ("5", "NotFound"),
            ("7", "Forbidden"),
            ("8", "too large"),
            ("9", "refused"),
            ("10", "Transient"),
            ("11", "Transient"),
            ("12", "NotFound"),
            ("13", "refused"),
            ("14", "Transient"),
            ("15", "Transient"),
            ("16", "Unauthenticated"),
            ("99", "refused"),
            ("x", "Transient"),
        ] {
            let trailers = headers(&[("grpc-status", status)]);
            assert_eq!(kind(&of_grpc(StatusCode::OK, &none, Some(&trailers), b"")), expected, "{status}");
            // An answer without a body has it in its headers.
            assert_eq!(kind(&of_grpc(StatusCode::OK, &trailers, None, b"")), expected, "{status}");
        }
        assert_eq!(kind(&of_grpc(StatusCode::OK, &none, None, b"")), "Transient");
        assert_eq!(kind(&of_grpc(StatusCode::BAD_GATEWAY, &none, None, b"")), "Transient");
        use base64::Engine;
        let details = response::status(Encoding::Protobuf, 8, "slower", Some(Duration::from_secs(2)));
        for engine in [base64::engine::general_purpose::STANDARD, base64::engine::general_purpose::STANDARD_NO_PAD] {
            let details = engine.encode(&details);
            let trailers = headers(&[
                ("grpc-status", "8"),
                ("grpc-message", "at%20100%25 %zz%"),
                ("grpc-status-details-bin", &details),
            ]);
            let answer = of_grpc(StatusCode::OK, &none, Some(&trailers), b"");
            assert_eq!(kind(&answer), "Limit after 2s");
            let said = "the receiver answers with gRPC status 8: at 100% %zz%";
            assert!(matches!(answer, Answer::Failed(error) if error.message == said));
        }
    }
}
