#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use weir_base::Timestamp;

use super::{Notation, parse, parse_millis};

#[test]
fn texts() {
    let noon = 1_700_049_600_000_000_000; // 2023-11-15T12:00:00Z
    // (text, RFC 3339, ISO 8601)
    let cases = [
        ("2023-11-15T12:00:00Z", Some(noon), Some(noon)),
        ("2023-11-15t12:00:00z", Some(noon), Some(noon)),
        ("2023-11-15 14:00:00+02:00", Some(noon), Some(noon)),
        ("2023-11-15T06:30:00.000-05:30", Some(noon), Some(noon)),
        ("2023-11-15T12:00:00.123456789123Z", Some(noon + 123_456_789), Some(noon + 123_456_789)),
        ("2023-11-15T12:00:00.5Z", Some(noon + 500_000_000), Some(noon + 500_000_000)),
        ("2023-11-15T11:59:60Z", Some(noon), Some(noon)),
        ("2023-11-15T12:00:00", None, Some(noon)),
        ("2023-11-15T12:00", None, Some(noon)),
        ("2023-11-15T14:00:00+0200", None, Some(noon)),
        ("2023-11-15T14:00:00+02", None, Some(noon)),
        ("2023-11-15", None, Some(noon - 12 * 3_600_000_000_000)),
        ("1970-01-01T00:00:00Z", Some(0), Some(0)),
        ("1969-12-31T23:59:59.999999999Z", Some(-1), Some(-1)),
        ("2000-02-29T00:00:00Z", Some(951_782_400_000_000_000), Some(951_782_400_000_000_000)),
        ("2262-04-11T23:47:16.854775807Z", Some(i64::MAX), Some(i64::MAX)),
        ("2262-04-11T23:47:16.854775808Z", None, None),
        ("2100-02-29T00:00:00Z", None, None),
        ("2023-11-31T00:00:00Z", None, None),
        ("2023-13-01T00:00:00Z", None, None),
        ("2023-11-15T24:00:00Z", None, None),
        ("2023-11-15T12:00:00.Z", None, None),
        ("2023-11-15T12:00:00Z ", None, None),
        ("2023-11-15T12:00:00+99:00", None, None),
        ("9999-12-31T23:59:59Z", None, None),
        ("0000-01-01T00:00:00Z", None, None),
        ("yesterday", None, None),
        ("1700049600000", None, None),
        ("", None, None),
        ("２０２３-11-15T12:00:00Z", None, None),
    ];
    for (text, strict, lenient) in cases {
        assert_eq!(parse(text, Notation::Rfc3339), strict.map(Timestamp), "{text}");
        assert_eq!(parse(text, Notation::Iso8601), lenient.map(Timestamp), "{text}");
    }
}

#[test]
fn milliseconds() {
    let cases = [
        ("1700049600000", Some(1_700_049_600_000_000_000)),
        ("1.7000496e12", Some(1_700_049_600_000_000_000)),
        ("1700049600000.5", Some(1_700_049_600_000_500_000)),
        ("0", None),
        ("-1", None),
        ("-0.5", None),
        ("0.5", Some(500_000)),
        ("1700049600000.1234567", Some(1_700_049_600_000_123_456)),
        ("9223372036854", Some(9_223_372_036_854_000_000)),
        ("9223372036855", None),
        ("9223372036854775809", None),
        ("1e400", None),
    ];
    for (number, nanos) in cases {
        assert_eq!(parse_millis(number), nanos.map(Timestamp), "{number}");
    }
}

proptest! {
    /// jiff is the oracle of the calendar.
    #[test]
    fn agrees_with_jiff(nanos in any::<i64>()) {
        let text = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap().to_string();
        prop_assert_eq!(parse(&text, Notation::Rfc3339), Some(Timestamp(nanos)), "{}", text);
    }

    #[test]
    fn any_text_is_safe(text in "\\PC{0,40}|[0-9TZ:+.-]{0,40}") {
        let strict = parse(&text, Notation::Rfc3339);
        if strict.is_some() {
            prop_assert_eq!(strict, parse(&text, Notation::Iso8601));
        }
    }

    #[test]
    fn any_number_is_safe(number in "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,4})?") {
        let _ = parse_millis(&number);
    }
}
