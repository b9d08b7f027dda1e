//! What is looked at when a pipeline does not do what is expected: which partition holds back time, and
//! which part waits for which.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// How often a source says anew how its partitions are.
pub(crate) const SAID_EVERY: Duration = Duration::from_millis(250);

/// A partition of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Its name.
    pub name: String,
    /// Its watermark, in nanoseconds since 1970; `None` before its first row.
    pub watermark: Option<i64>,
    /// It has been silent for so long that it does not hold back the others.
    pub idle: bool,
}

/// What a source says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceView {
    /// Its partitions, by name.
    pub partitions: Vec<PartitionView>,
    /// The partition all others wait for.
    pub behind: Option<String>,
    /// Rows it has not read yet, if it knows.
    pub lag_rows: Option<u64>,
}

/// The last word of a source.
#[derive(Debug, Default)]
pub struct SaidOfSource(Mutex<SourceView>);

impl SaidOfSource {
    pub(crate) fn say(&self, view: SourceView) {
        *self.0.lock() = view;
    }

    /// What it said last, at most a quarter of a second ago while rows come.
    pub fn view(&self) -> SourceView {
        self.0.lock().clone()
    }
}

/// How long the instances of a part could not work because what comes after them was full.
#[derive(Debug, Default)]
pub struct Blocked {
    nanos: AtomicU64,
    now: AtomicU64,
}

impl Blocked {
    /// Time so far, without that of instances which are blocked at the moment.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// How many instances are blocked at the moment.
    pub fn instances(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
}

/// One instance's part of [`Blocked`].
#[derive(Debug, Default)]
pub(crate) struct Blocking {
    since: Option<Duration>,
}

impl Blocking {
    /// Takes note that the instance is blocked, or is not any more.
    pub(crate) fn note(&mut self, is_blocked: bool, now: impl FnOnce() -> Duration, blocked: &Blocked) {
        match (is_blocked, self.since) {
            (true, None) => {
                self.since = Some(now());
                blocked.now.fetch_add(1, Ordering::Relaxed);
            }
            (false, Some(since)) => {
                let nanos = u64::try_from(now().saturating_sub(since).as_nanos()).unwrap_or(u64::MAX);
                blocked.nanos.fetch_add(nanos, Ordering::Relaxed);
                blocked.now.fetch_sub(1, Ordering::Relaxed);
                self.since = None;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_while_an_instance_is_blocked() {
        let (blocked, mut one, mut other) = (Blocked::default(), Blocking::default(), Blocking::default());
        let at = |seconds| move || Duration::from_secs(seconds);
        one.note(false, at(0), &blocked);
        one.note(true, at(1), &blocked);
        one.note(true, at(2), &blocked);
        other.note(true, at(2), &blocked);
        assert_eq!((blocked.instances(), blocked.time()), (2, Duration::ZERO));
        one.note(false, at(4), &blocked);
        assert_eq!((blocked.instances(), blocked.time()), (1, Duration::from_secs(3)));
        other.note(false, at(4), &blocked);
        other.note(false, at(9), &blocked);
        assert_eq!((blocked.instances(), blocked.time()), (0, Duration::from_secs(5)));
    }
}
