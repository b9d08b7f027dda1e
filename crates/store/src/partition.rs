//! Which partition a row belongs to, and when a partition ends.
//!
//! A row goes by its `time` if that is believable, else by when it was received: so a phone with a
//! wrong clock cannot scatter rows over the centuries.

use weir_base::Timestamp;

const HOUR: i64 = 3_600_000_000_000;
const DAY: i64 = 24 * HOUR;
/// A time is believed up to this long before it was received.
const LATE: i64 = 30 * DAY;
/// A time is believed up to this long after it was received.
const EARLY: i64 = HOUR;

/// The time a row is partitioned and expired by, in nanoseconds since 1970.
pub(crate) fn effective_time(time: i64, received_at: i64) -> i64 {
    let believable = received_at.saturating_sub(LATE)..=received_at.saturating_add(EARLY);
    if believable.contains(&time) { time } else { received_at }
}

/// The latest time any row received at `received_at` is partitioned by.
pub(crate) fn effective_time_max(received_at: i64) -> i64 {
    received_at.saturating_add(EARLY)
}

/// How long one partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Day,
    Hour,
}

impl Width {
    fn nanos(self) -> i64 {
        match self {
            Self::Day => DAY,
            Self::Hour => HOUR,
        }
    }

    /// The number of the partition a time lies in.
    pub(crate) fn number(self, time: i64) -> i64 {
        time.div_euclid(self.nanos())
    }

    /// The name of the partition of that number: `2026-11-21` or `2026-11-21T13`.
    pub(crate) fn name(self, number: i64) -> String {
        match self {
            Self::Day => day_name(number),
            Self::Hour => format!("{}T{:02}", day_name(number.div_euclid(24)), number.rem_euclid(24)),
        }
    }
}

/// The first moment after the partition of that name.
pub(crate) fn end_of(name: &str) -> Option<Timestamp> {
    let (day, hour) = match name.split_once('T') {
        Some((day, hour)) => (day, Some(hour.parse::<i64>().ok()?)),
        None => (name, None),
    };
    // Years before 0 begin with a minus sign; the last two dashes separate month and day.
    let (rest, day) = day.rsplit_once('-')?;
    let (year, month) = rest.rsplit_once('-')?;
    let number = days_from_civil(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
    let end = match hour {
        Some(hour) => number.checked_mul(DAY)?.checked_add((hour + 1) * HOUR),
        None => number.checked_add(1)?.checked_mul(DAY),
    };
    // The last partition of the representable range ends past it.
    Some(Timestamp(end.unwrap_or(i64::MAX)))
}

fn day_name(days: i64) -> String {
    let (year, month, day) = civil_from_days(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The Gregorian date of a day counted from 1970-01-01, by counting in 400-year eras that begin in
/// March, so that the leap day is the last of its year.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests;
