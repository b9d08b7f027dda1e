//! What is looked at when a pipeline does not do what is expected: which partition holds back time, and
//! which part waits for which.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use weir_component::source::Trouble;

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
    /// Rows of it that were not read yet, if the source knows.
    pub lag_rows: Option<u64>,
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
    /// The source it is too far ahead of, so that it is not read.
    pub waits_for: Option<String>,
}

/// The last word of a source.
#[derive(Debug, Default)]
pub struct SaidOfSource {
    view: Mutex<SourceView>,
    trouble: Mutex<Option<Trouble>>,
}

impl SaidOfSource {
    pub(crate) fn say(&self, view: SourceView) {
        *self.view.lock() = view;
    }

    /// What it said last, at most a quarter of a second ago while rows come.
    pub fn view(&self) -> SourceView {
        self.view.lock().clone()
    }

    pub(crate) fn say_trouble(&self, trouble: Option<Trouble>) {
        *self.trouble.lock() = trouble;
    }

    /// Attempts to read that have failed, and that it goes on without.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().clone()
    }
}

/// What the states of a step's instances hold, and what became of them: names and counts, summed up over all of them.
#[derive(Debug, Default)]
pub struct Held(Mutex<BTreeMap<usize, HeldBy>>);

/// Gauges and totals of one instance.
#[derive(Debug, Default)]
pub(crate) struct HeldBy {
    pub(crate) gauges: Vec<(&'static str, u64)>,
    pub(crate) totals: Vec<(&'static str, u64)>,
}

impl Held {
    pub(crate) fn say(&self, instance: usize, held: HeldBy) {
        self.0.lock().insert(instance, held);
    }

    /// What is there now, such as `open_windows`; as it was looked at last, which is now and then.
    pub fn gauges(&self) -> BTreeMap<&'static str, u64> {
        self.sum(|held| &held.gauges)
    }

    /// What has been since the start, such as `expired_windows`.
    pub fn totals(&self) -> BTreeMap<&'static str, u64> {
        self.sum(|held| &held.totals)
    }

    fn sum(&self, of: fn(&HeldBy) -> &Vec<(&'static str, u64)>) -> BTreeMap<&'static str, u64> {
        let mut sum = BTreeMap::new();
        for (name, count) in self.0.lock().values().flat_map(of) {
            *sum.entry(*name).or_default() += count;
        }
        sum
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
    fn what_instances_hold_is_summed_up() {
        let held = Held::default();
        held.say(0, HeldBy { gauges: vec![("open_windows", 9)], totals: vec![("expired_windows", 1)] });
        held.say(1, HeldBy { gauges: vec![("open_windows", 2), ("keys", 1)], totals: vec![("expired_windows", 4)] });
        held.say(0, HeldBy { gauges: vec![("open_windows", 3)], totals: vec![("expired_windows", 7)] });
        assert_eq!(held.gauges().into_iter().collect::<Vec<_>>(), [("keys", 1), ("open_windows", 5)]);
        assert_eq!(held.totals().into_iter().collect::<Vec<_>>(), [("expired_windows", 11)]);
    }

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
