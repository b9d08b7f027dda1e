//! How long others wait for a sink. One that is late now and then is waited for, which costs less than to do without it; one that
//! is late each time is hardly waited for, and it is noticed when that changes.

use std::time::Duration;

/// As long as a sink that works may need.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);
/// After so many times in vain, the time is not worth while any more.
const IN_VAIN_MAX: u32 = 7;

/// How long something a sink does is waited for: half as long each time that was in vain.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    in_vain: u32,
}

impl Patience {
    /// So long.
    pub(crate) fn time(&self) -> Duration {
        if self.in_vain < IN_VAIN_MAX { PATIENCE / (1 << self.in_vain) } else { Duration::ZERO }
    }

    /// It was waited for in vain.
    pub(crate) fn in_vain(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// It took so long, whether or not anybody waited.
    pub(crate) fn took(&mut self, time: Duration) {
        if time <= PATIENCE / 2 {
            self.in_vain = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_each_time_is_waited_for_less_and_less_until_it_is_quick_again() {
        let mut patience = Patience::default();
        let mut waited = Duration::ZERO;
        for _ in 0..100 {
            waited += patience.time();
            patience.took(PATIENCE * 2);
            patience.in_vain();
        }
        assert!(waited < PATIENCE * 2, "{waited:?} in all");
        assert_eq!(patience.time(), Duration::ZERO);
        patience.took(PATIENCE);
        assert_eq!(patience.time(), Duration::ZERO, "not quick enough to count on it");
        patience.took(PATIENCE / 2);
        assert_eq!(patience.time(), PATIENCE);
    }
}
