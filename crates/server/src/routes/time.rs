//! Times in requests and replies: RFC 3339, UTC.

use weir_base::{ErrorKind, Timestamp};

use crate::problem::Problem;

/// The time as RFC 3339 with as many fractional digits as it needs.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time.0)).map_or_else(|_| String::new(), |time| time.to_string())
}

/// What to write for a time.
pub(crate) const TIME_HINT: &str = "write RFC 3339, as in 2027-01-31T12:00:00Z, until April 2262 at most";

/// Reads an RFC 3339 time.
pub(crate) fn read(text: &str) -> Option<Timestamp> {
    let time = text.parse::<jiff::Timestamp>().ok()?;
    i64::try_from(time.as_nanosecond()).ok().map(Timestamp)
}

/// What is said of something that is no time.
pub(crate) fn no_time(text: &str) -> String {
    format!("`{}` is not a time", text.chars().take(60).collect::<String>())
}

/// Reads an RFC 3339 time; `pointer` names the field.
pub(crate) fn parse(text: &str, pointer: &str) -> Result<Timestamp, Problem> {
    let problem = || Problem::new(ErrorKind::Input, no_time(text)).pointer(pointer).hint(TIME_HINT);
    read(text).ok_or_else(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_too_late_is_told_the_last_one() {
        let Err(late) = parse("9999-12-31T23:59:59Z", "/expires_at") else { panic!("it is taken") };
        assert!(late.message().contains("until April 2262"), "{}", late.message());
        assert_eq!(
            parse("2262-04-11T23:47:16Z", "/expires_at").ok().map(rfc3339).as_deref(),
            Some("2262-04-11T23:47:16Z")
        );
    }
}
