#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

#[test]
fn names() {
    let check = |time: i64, day: &str, hour: &str| {
        assert_eq!(Width::Day.name(Width::Day.number(time)), day);
        assert_eq!(Width::Hour.name(Width::Hour.number(time)), hour);
    };
    check(0, "1970-01-01", "1970-01-01T00");
    check(-1, "1969-12-31", "1969-12-31T23");
    check(951_782_400_000_000_000, "2000-02-29", "2000-02-29T00");
    check(1_795_266_000_000_000_000, "2026-11-21", "2026-11-21T13");
    check(i64::MAX, "2262-04-11", "2262-04-11T23");
    check(i64::MIN, "1677-09-21", "1677-09-21T00");
}

#[test]
fn unbelievable_times_go_by_arrival() {
    let received = 1_795_266_000_000_000_000;
    let check = |time: i64, expected: i64| assert_eq!(effective_time(time, received), expected, "{time}");
    check(received, received);
    check(received + HOUR, received + HOUR);
    check(received + HOUR + 1, received);
    check(received - 30 * DAY, received - 30 * DAY);
    check(received - 30 * DAY - 1, received);
    check(i64::MIN, received);
    check(i64::MAX, received);
    assert_eq!(effective_time(i64::MAX, i64::MAX), i64::MAX);
}

#[test]
fn ends() {
    assert_eq!(end_of("1970-01-01"), Some(Timestamp(DAY)));
    assert_eq!(end_of("1970-01-01T00"), Some(Timestamp(HOUR)));
    assert_eq!(end_of("1970-01-01T23"), Some(Timestamp(DAY)));
    for wrong in ["", "1970", "1970-01", "x-y-z", "1970-01-01Tx"] {
        assert_eq!(end_of(wrong), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn a_time_lies_before_the_end_of_its_partition(time in any::<i64>()) {
        for width in [Width::Day, Width::Hour] {
            let end = end_of(&width.name(width.number(time))).unwrap();
            prop_assert!(end.0 > time || end.0 == i64::MAX);
            prop_assert!(end.0.saturating_sub(time) <= width.nanos());
        }
    }
}
