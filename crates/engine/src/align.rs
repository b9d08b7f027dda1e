//! Sources that do not run ahead of one another: one whose event time is too far before that of the slowest is not
//! read until that has come nearer.
//!
//! What steps must remember for two inputs is what one is ahead of the other. Without this a source that is quick, or
//! begins anew with old rows, fills the state with what nobody can use yet. A source that has given no row, has nothing but
//! idle partitions, or has ended holds up nobody. While a source waits nobody asks it, so it is not silent.
//!
//! Invariant: the slowest source is never held up, so somebody always goes on.

use parking_lot::Mutex;

/// How far the sources of a pipeline have come.
#[derive(Debug, Default)]
pub(crate) struct Alignment(Mutex<Vec<Option<i64>>>);

impl Alignment {
    /// For so many sources, of which none has given a row.
    pub(crate) fn new(sources: usize) -> Self {
        Self(Mutex::new(vec![None; sources]))
    }

    /// A source has come so far; `None`: nobody has to wait for it.
    pub(crate) fn note(&self, source: usize, time: Option<i64>) {
        if let Some(known) = self.0.lock().get_mut(source) {
            *known = time;
        }
    }

    /// The slowest source, if this one is ahead of it by more than `most`.
    pub(crate) fn waits_for(&self, source: usize, most: i64) -> Option<usize> {
        let times = self.0.lock();
        let own = times.get(source).copied().flatten()?;
        let others = times.iter().enumerate().filter(|(other, _)| *other != source);
        let (slowest, time) =
            others.filter_map(|(other, time)| Some((other, (*time)?))).min_by_key(|(_, time)| *time)?;
        (own.saturating_sub(time) > most).then_some(slowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ahead_waits_for_the_slowest() {
        let alignment = Alignment::new(3);
        let waiting = |alignment: &Alignment| [0, 1, 2].map(|source| alignment.waits_for(source, 10));
        assert_eq!(waiting(&alignment), [None; 3]);
        alignment.note(0, Some(100));
        assert_eq!(waiting(&alignment), [None; 3], "nobody is waited for who has not begun");
        alignment.note(1, Some(90));
        assert_eq!(waiting(&alignment), [None; 3], "as far as it may be");
        alignment.note(2, Some(89));
        assert_eq!(waiting(&alignment), [Some(2), None, None]);
        alignment.note(1, Some(i64::MAX));
        assert_eq!(waiting(&alignment), [Some(2), Some(2), None]);
        alignment.note(2, None);
        assert_eq!(waiting(&alignment), [None, Some(0), None], "it is idle, or has ended");
    }
}
