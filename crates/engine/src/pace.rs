//! When the next checkpoint begins: a decision of what has come since the last one, what checkpoints cost, and for how long
//! there was none, and of nothing else.
//!
//! Results that wait to be shown are shown by a checkpoint, so it comes soon after them; rows that only went into a state
//! make it worth while by and by, and where nothing has come there is none. How soon depends on what one costs: a small one is
//! made five times a second, a large one as seldom as every ten seconds.

use std::time::Duration;

/// The longest time from one checkpoint to the next, where the document does not say how long, while there is something new.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(10);

/// So long after a checkpoint the next one begins, if there is nothing new but a place further on in a log.
const MOVED_INTERVAL: Duration = Duration::from_secs(60);
/// Making states takes at most one part in so many of the time of a thread.
const WORK_SHARE: u32 = 20;
/// Waiting until they are written takes at most one part in so many of the time.
const WRITING_SHARE: u32 = 4;
/// Bytes of state that are written in a second, at most.
const BYTES_PER_SECOND: u64 = 8 << 20;

/// What has come since the last checkpoint began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing.
    Nothing,
    /// No row, but sources are further on than they were.
    Moved,
    /// Rows, of which nothing waits in a sink.
    Rows,
    /// Rows wait in sinks, one of which wants so much time from one commit to the next.
    Results(Duration),
}

/// What a checkpoint took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Work: taking states out of steps, and encoding them.
    pub(crate) work: Duration,
    /// Writing it.
    pub(crate) writing: Duration,
    /// Bytes of state.
    pub(crate) bytes: u64,
}

/// How often checkpoints are made.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// As often as somebody wants; `None`: as their cost allows.
    fixed: Option<Duration>,
    /// What one costs, the last ones most.
    cost: Cost,
}

impl Pace {
    pub(crate) fn new(fixed: Option<Duration>) -> Self {
        Self { fixed, cost: Cost::default() }
    }

    /// How long after the last checkpoint ([`Pace::since`]) the next one begins; `None`: not before something comes.
    pub(crate) fn interval(&self, news: News) -> Option<Duration> {
        let wanted = |otherwise: Duration| self.fixed.unwrap_or(otherwise);
        match news {
            News::Nothing => None,
            News::Moved => Some(wanted(Duration::ZERO).max(MOVED_INTERVAL)),
            News::Rows => Some(wanted(LONGEST_INTERVAL)),
            News::Results(least) => Some(wanted(self.affordable().max(least).min(LONGEST_INTERVAL))),
        }
    }

    /// From when on that counts, of a checkpoint that began and ended at these times. What one takes is part of what it costs,
    /// so it is not added to it; an interval somebody has named is one between checkpoints.
    pub(crate) fn since(&self, began: Duration, ended: Duration) -> Duration {
        if self.fixed.is_some() { ended } else { began }
    }

    /// Takes note of what one has cost. One slow write is not taken for a rule, nor is it forgotten at once.
    pub(crate) fn made(&mut self, cost: Cost) {
        self.cost = Cost {
            work: (self.cost.work + cost.work) / 2,
            writing: (self.cost.writing + cost.writing) / 2,
            bytes: self.cost.bytes.midpoint(cost.bytes),
        };
    }

    fn affordable(&self) -> Duration {
        let Cost { work, writing, bytes } = self.cost;
        let written = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_SECOND);
        written.max(work.saturating_mul(WORK_SHARE)).max(writing.saturating_mul(WRITING_SHARE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn paced(cost: Cost) -> Pace {
        let mut pace = Pace::new(None);
        for _ in 0..20 {
            pace.made(cost);
        }
        pace
    }

    #[test]
    fn results_wait_as_long_as_checkpoints_are_dear_and_at_most_ten_seconds() {
        let none = Cost::default();
        for (cost, ms_least, ms_most) in [
            (none, 200, 200),
            (Cost { writing: ms(20), ..none }, 200, 200),
            (Cost { writing: ms(200), ..none }, 790, 800),
            (Cost { work: ms(100), ..none }, 1990, 2000),
            (Cost { bytes: 24 << 20, ..none }, 2990, 3000),
            (Cost { work: ms(3000), writing: ms(3000), bytes: 1 << 40 }, 10_000, 10_000),
        ] {
            let interval = paced(cost).interval(News::Results(ms(200))).unwrap_or_default();
            assert!(interval >= ms(ms_least) && interval <= ms(ms_most), "{cost:?}: {interval:?}");
        }
        let slow_sink = paced(none).interval(News::Results(ms(5000)));
        assert_eq!(slow_sink, Some(ms(5000)), "a sink may want more time");
    }

    #[test]
    fn what_nobody_waits_for_is_made_safe_by_and_by_and_nothing_costs_nothing() {
        let pace = Pace::new(None);
        assert_eq!(pace.interval(News::Rows), Some(LONGEST_INTERVAL));
        assert_eq!(pace.interval(News::Moved), Some(MOVED_INTERVAL));
        assert_eq!(pace.interval(News::Nothing), None);
    }

    #[test]
    fn an_interval_that_is_named_holds_whatever_one_costs_except_that_nothing_is_nothing() {
        let mut pace = Pace::new(Some(ms(50)));
        pace.made(Cost { work: ms(9000), ..Cost::default() });
        for news in [News::Rows, News::Results(ms(5000))] {
            assert_eq!(pace.interval(news), Some(ms(50)), "{news:?}");
        }
        assert_eq!(pace.interval(News::Moved), Some(MOVED_INTERVAL));
        assert_eq!(pace.interval(News::Nothing), None);
        assert_eq!((pace.since(ms(1), ms(2)), Pace::new(None).since(ms(1), ms(2))), (ms(2), ms(1)));
        assert_eq!(Pace::new(Some(ms(90_000))).interval(News::Moved), Some(ms(90_000)));
    }

    #[test]
    fn a_dear_one_is_forgotten_after_some_that_are_not() {
        let mut pace = Pace::new(None);
        pace.made(Cost { work: ms(2000), ..Cost::default() });
        assert_eq!(pace.interval(News::Results(ms(200))), Some(LONGEST_INTERVAL));
        for _ in 0..7 {
            pace.made(Cost::default());
        }
        assert_eq!(pace.interval(News::Results(ms(200))), Some(ms(200)));
    }
}
