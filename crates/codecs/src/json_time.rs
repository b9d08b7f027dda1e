//! Points in time as clients write them in JSON.

use weir_base::Timestamp;

#[cfg(test)]
mod tests;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// How much of ISO 8601 a text may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notation {
    /// RFC 3339: date, time and offset are all there.
    Rfc3339,
    /// What the official tracking libraries of several languages send: the time or the offset may
    /// be missing (then it is midnight, or UTC), and the offset may lack its colon.
    Iso8601,
}

/// The time a text names; `None` if it is none or lies outside 1677 to 2262.
pub(crate) fn parse(text: &str, notation: Notation) -> Option<Timestamp> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    expect(&mut rest, b"-")?;
    let month = digits(&mut rest, 2)?;
    expect(&mut rest, b"-")?;
    let day = digits(&mut rest, 2)?;
    if !(1..=12).contains(&month) || day < 1 || day > days_of_month(year, month) {
        return None;
    }
    let midnight = days_since_1970(year, month, day) * 86_400;
    if rest.is_empty() && notation == Notation::Iso8601 {
        return Some(Timestamp(midnight.checked_mul(NANOS_PER_SECOND)?));
    }

    expect(&mut rest, b"Tt ")?;
    let hour = digits(&mut rest, 2)?;
    expect(&mut rest, b":")?;
    let minute = digits(&mut rest, 2)?;
    let second = match notation {
        Notation::Iso8601 if rest.first() != Some(&b':') => 0,
        _ => {
            expect(&mut rest, b":")?;
            digits(&mut rest, 2)?
        }
    };
    // 60 is a leap second, which counts as the first of the next minute.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let nanos = fraction(&mut rest, notation)?;
    let offset = offset_seconds(&mut rest, notation)?;
    if !rest.is_empty() {
        return None;
    }
    let seconds = midnight + hour * 3600 + minute * 60 + second - offset;
    // In 128 bits, since the first and last second of the range are not whole.
    let total = i128::from(seconds) * i128::from(NANOS_PER_SECOND) + i128::from(nanos);
    Some(Timestamp(i64::try_from(total).ok()?))
}

/// The time a JSON number of milliseconds since 1970 names; `None` if it is not positive or lies
/// beyond 2262. Fractions count down to the nanosecond.
pub(crate) fn parse_millis(number: &str) -> Option<Timestamp> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let nanos = if number.contains(['e', 'E']) {
        let nanos = number.parse::<f64>().ok()? * 1e6;
        if !(0.0..9.2e18).contains(&nanos) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked above")]
        let nanos = nanos.round() as i64;
        nanos
    } else {
        // By its digits: a double of today's milliseconds is exact to about 250 ns only.
        let mut nanos = 0;
        for place in 0..6 {
            nanos = nanos * 10 + i64::from(fraction.as_bytes().get(place).map_or(0, |digit| digit - b'0'));
        }
        whole.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(nanos)?
    };
    (nanos > 0 && !number.starts_with('-')).then_some(Timestamp(nanos))
}

fn expect(rest: &mut &[u8], any_of: &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    if !any_of.contains(first) {
        return None;
    }
    *rest = tail;
    Some(*first)
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let taken = rest.get(..count)?;
    let mut value = 0;
    for byte in taken {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    *rest = &rest[count..];
    Some(value)
}

/// Nanoseconds of an optional fraction; digits past the ninth are cut.
fn fraction(rest: &mut &[u8], notation: Notation) -> Option<i64> {
    match rest.first() {
        Some(b'.') => {}
        Some(b',') if notation == Notation::Iso8601 => {}
        _ => return Some(0),
    }
    let tail = &rest[1..];
    let count = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let mut nanos = 0;
    for place in 0..9 {
        nanos = nanos * 10 + tail[..count].get(place).map_or(0, |digit| i64::from(digit - b'0'));
    }
    *rest = &tail[count..];
    Some(nanos)
}

fn offset_seconds(rest: &mut &[u8], notation: Notation) -> Option<i64> {
    let lenient = notation == Notation::Iso8601;
    if rest.is_empty() && lenient {
        return Some(0);
    }
    let sign = match expect(rest, b"Zz+-")? {
        b'+' => 1,
        b'-' => -1,
        _ => return Some(0),
    };
    let hours = digits(rest, 2)?;
    let minutes = if rest.first() == Some(&b':') {
        *rest = &rest[1..];
        digits(rest, 2)?
    } else if lenient && rest.is_empty() {
        0
    } else if lenient {
        digits(rest, 2)?
    } else {
        return None;
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar. Years are counted from
/// March, so that the leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}
