//! When a step puts out results that are not final.
//!
//! Only the clock of the wall says when, and only while something waits: what changes meanwhile is put out together, so
//! that a result that changes often costs no more than one that changes now and then.

use std::time::Duration;

use weir_component::operator::{Moment, Waiting};

/// How long results wait that have changed, or are due and not yet final.
const CHANGED_AFTER: Duration = Duration::from_millis(100);

/// The moments of one step.
#[derive(Debug, Default)]
pub(crate) struct Moments {
    /// How often early results are wanted.
    early: Option<Duration>,
    changed_at: Option<Duration>,
    early_at: Option<Duration>,
}

impl Moments {
    /// Those of a step that gives early results so often.
    pub(crate) fn new(early: Option<Duration>) -> Self {
        Self { early, ..Self::default() }
    }

    /// The moments that have come, of those something waits for.
    pub(crate) fn come(&mut self, waiting: Waiting, now: Duration) -> impl Iterator<Item = Moment> + use<> {
        let changed = has_come(&mut self.changed_at, waiting.changed.then_some(CHANGED_AFTER), now);
        let early = has_come(&mut self.early_at, self.early.filter(|_| waiting.early), now);
        [changed.then_some(Moment::Changed), early.then_some(Moment::Early)].into_iter().flatten()
    }

    /// When the next one comes.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.changed_at.into_iter().chain(self.early_at).min()
    }
}

fn has_come(at: &mut Option<Duration>, after: Option<Duration>, now: Duration) -> bool {
    let Some(after) = after else {
        *at = None;
        return false;
    };
    let is_due = now >= *at.get_or_insert(now.saturating_add(after));
    if is_due {
        *at = None;
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_comes_after_its_time_and_not_before() {
        let mut moments = Moments::new(Some(Duration::from_secs(10)));
        let at = Duration::from_millis;
        let none = Waiting::default();
        let both = Waiting { changed: true, early: true };
        let mut come = |waiting, now| (moments.come(waiting, at(now)).collect::<Vec<_>>(), moments.next());
        assert_eq!(come(none, 5), (vec![], None));
        assert_eq!(come(both, 10), (vec![], Some(at(110))));
        // More changes do not put it off.
        assert_eq!(come(both, 109), (vec![], Some(at(110))));
        assert_eq!(come(both, 110), (vec![Moment::Changed], Some(at(10_010))));
        assert_eq!(come(Waiting { early: true, changed: false }, 10_010), (vec![Moment::Early], None));
        // What has become final meanwhile is not waited for any more.
        assert_eq!(come(both, 20_000), (vec![], Some(at(20_100))));
        assert_eq!(come(none, 20_050), (vec![], None));
        // Without early results nothing is ever early.
        assert_eq!(Moments::new(None).come(both, at(0)).count(), 0);
    }
}
