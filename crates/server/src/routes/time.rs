//! Times in requests and replies: RFC 3339, UTC.

use weir_base::{ErrorKind, Timestamp};

use crate::problem::Problem;

/// The time as RFC 3339 with as many fractional digits as it needs.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time.0)).map_or_else(|_| String::new(), |time| time.to_string())
}

/// Reads an RFC 3339 time; `pointer` names the field.
pub(crate) fn parse(text: &str, pointer: &str) -> Result<Timestamp, Problem> {
    text.parse::<jiff::Timestamp>()
        .ok()
        .and_then(|time| i64::try_from(time.as_nanosecond()).ok())
        .map(Timestamp)
        .ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            Problem::new(ErrorKind::Input, format!("`{shown}` is not a time"))
                .pointer(pointer)
                .hint("write RFC 3339, as in 2027-01-31T12:00:00Z")
        })
}
