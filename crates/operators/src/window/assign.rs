//! Which windows a time belongs to. All times are nanoseconds since 1970, also before 1970; a window is
//! half open, from its start up to and without its end.
//!
//! Windows of length `size` begin at `offset + k * every`. They are made of panes of length
//! `gcd(size, every)`, which begin at `offset + k * gcd`: every window is a whole number of panes,
//! so rows are aggregated once, in their pane, however many windows it is part of. (The idea of
//! slicing is that of "On-the-fly sharing for streamed aggregation", Krishnamurthy and others, 2006.)
//!
//! Cumulative windows begin at `offset + k * size` and end after each `every` of it, up to `size`.
//! Either way ends are `every` apart, so a window is known by its end.

use std::fmt;

use crate::step::span;

/// How time is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Windows {
    pub(super) size: i64,
    pub(super) every: i64,
    /// Less than `every`; of cumulative windows, less than `size`.
    pub(super) offset: i64,
    /// The length of a pane.
    pub(super) pane: i64,
    /// All windows of one `size` begin where it begins.
    pub(super) is_cumulative: bool,
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The largest number not above `time` that is `offset` more than a multiple of `step`.
fn floor(time: i64, step: i64, offset: i64) -> i128 {
    let (time, step, offset) = (i128::from(time), i128::from(step), i128::from(offset));
    time - (time - offset).rem_euclid(step)
}

impl Windows {
    /// `size` and `every` are at least 1.
    pub(super) fn new(size: i64, every: i64, offset: i64) -> Self {
        Self { size, every, offset: offset.rem_euclid(every), pane: gcd(size, every), is_cumulative: false }
    }

    /// Windows that grow by `every`, of which `size` is a multiple, and begin anew after `size`.
    pub(super) fn cumulative(size: i64, every: i64, offset: i64) -> Self {
        Self { size, every, offset: offset.rem_euclid(size), pane: every, is_cumulative: true }
    }

    /// Times for which no start or end of a window leaves the range of times.
    pub(super) fn is_in_range(&self, time: i64) -> bool {
        let margin = i128::from(self.size) + i128::from(self.every);
        let time = i128::from(time);
        time - margin >= i128::from(i64::MIN) && time + margin <= i128::from(i64::MAX)
    }

    /// The start of the pane of a time in range.
    pub(super) fn pane_of(&self, time: i64) -> i64 {
        narrow(floor(time, self.pane, self.offset))
    }

    /// The end of the first window that contains a pane, or of the next one if none does.
    pub(super) fn first_end_of_pane(&self, pane: i64) -> i64 {
        if self.is_cumulative {
            return pane + self.pane;
        }
        // The smallest start above `pane + pane length - size - 1`.
        let before = i128::from(pane) + i128::from(self.pane) - i128::from(self.size) - 1;
        let step = i128::from(self.every);
        narrow(before - (before - i128::from(self.offset)).rem_euclid(step) + step + i128::from(self.size))
    }

    /// The end of the last window that contains a time in range; `None` if it lies in a gap.
    pub(super) fn last_end_of_time(&self, time: i64) -> Option<i64> {
        let step = if self.is_cumulative { self.size } else { self.every };
        let end = narrow(floor(time, step, self.offset)) + self.size;
        (time < end).then_some(end)
    }

    /// Where the window with such an end begins.
    pub(super) fn start_of(&self, end: i64) -> i64 {
        if self.is_cumulative { narrow(floor(end - 1, self.size, self.offset)) } else { end - self.size }
    }

    /// The end of the first window that contains `time` and ends after `watermark`.
    pub(super) fn first_open_end(&self, time: i64, watermark: i64) -> i64 {
        let first = i128::from(self.first_end_of_pane(self.pane_of(time)));
        if first > i128::from(watermark) {
            return narrow(first);
        }
        let steps = (i128::from(watermark) - first) / i128::from(self.every) + 1;
        narrow(first + steps * i128::from(self.every))
    }
}

/// Exact for times in range.
fn narrow(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Windows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_cumulative {
            write!(formatter, "cumulative windows of {} every {}", span(self.size), span(self.every))
        } else if self.size == self.every {
            write!(formatter, "tumbling windows of {}", span(self.size))
        } else {
            write!(formatter, "windows of {} every {}", span(self.size), span(self.every))
        }
    }
}
