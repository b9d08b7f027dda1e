//! Whether a sink that fails is tried again, and when: a decision of what has happened and what time it is, and of nothing else.
//!
//! A sink works, and its circuit is closed. A failure that may pass is tried again, after waits that double; after so many in a
//! row the circuit opens, and nothing is tried for a while: what is down is not kept down by those who wait for it. Then one
//! attempt is made, half-open: if it goes well the circuit is closed, if not it is open again. Once all of that has gone on for
//! longer than the budget, the failure is one of the pipeline.

use std::time::Duration;

use parking_lot::Mutex;

/// How a circuit is tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerOptions {
    /// So many failures in a row open it; at least 1.
    pub failures: u32,
    /// How long nothing is tried then.
    pub open: Duration,
    /// How long a sink may fail before the pipeline does.
    pub budget: Duration,
    /// How many bytes of rows are kept beside the checkpoints for a sink that does not take them, where there are others.
    pub backlog_bytes_max: u64,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self {
            failures: 8,
            open: Duration::from_secs(10),
            budget: Duration::from_secs(300),
            backlog_bytes_max: 256 << 20,
        }
    }
}

/// How a circuit stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Circuit {
    /// Rows go through.
    #[default]
    Closed,
    /// Nothing is tried.
    Open,
    /// One attempt is made.
    HalfOpen,
}

impl Circuit {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What is to be done after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again after the usual wait.
    Again,
    /// Try again after so long.
    After(Duration),
    /// It has gone on for too long.
    GiveUp,
}

/// The circuit of one sink. Times are those of a clock that never goes back.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    options: BreakerOptions,
    /// Failures since it last went well, and when the first was.
    failures: u32,
    since: Option<Duration>,
    /// Nothing is tried before this.
    open_until: Option<Duration>,
    is_half_open: bool,
}

impl Breaker {
    pub(crate) fn new(options: BreakerOptions) -> Self {
        Self { options, failures: 0, since: None, open_until: None, is_half_open: false }
    }

    pub(crate) fn circuit(&self) -> Circuit {
        match (self.open_until, self.is_half_open) {
            (Some(_), _) => Circuit::Open,
            (None, true) => Circuit::HalfOpen,
            (None, false) => Circuit::Closed,
        }
    }

    /// Whether it has failed since it last went well.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// It went well.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::new(self.options);
    }

    /// It failed at `now`.
    pub(crate) fn failed(&mut self, now: Duration) -> Verdict {
        let since = *self.since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        if now.saturating_sub(since) > self.options.budget {
            return Verdict::GiveUp;
        }
        if !self.is_half_open && self.failures < self.options.failures.max(1) {
            return Verdict::Again;
        }
        Verdict::After(self.open(now))
    }

    /// Opens it at `now`, and says for how long.
    pub(crate) fn open(&mut self, now: Duration) -> Duration {
        self.is_half_open = false;
        self.open_until = Some(now + self.options.open);
        self.options.open
    }

    /// Whether something may be tried at `now`; one attempt, if the circuit was open until then.
    pub(crate) fn may_try(&mut self, now: Duration) -> bool {
        match self.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                self.open_until = None;
                self.is_half_open = true;
                true
            }
            None => true,
        }
    }
}

/// What can be seen of a circuit.
#[derive(Debug, Default)]
pub struct CircuitView(Mutex<Seen>);

/// How a circuit was when it last changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How it stands.
    pub circuit: Circuit,
    /// How often it has opened.
    pub opened: u64,
    /// The last failure, while it is not closed.
    pub error: Option<String>,
}

impl CircuitView {
    /// How it is.
    pub fn seen(&self) -> Seen {
        self.0.lock().clone()
    }

    pub(crate) fn note(&self, circuit: Circuit, error: Option<&dyn std::fmt::Display>) {
        let mut seen = self.0.lock();
        if circuit == Circuit::Open && seen.circuit != Circuit::Open {
            seen.opened += 1;
        }
        seen.circuit = circuit;
        match error {
            Some(error) => seen.error = Some(error.to_string()),
            None if circuit == Circuit::Closed => seen.error = None,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: BreakerOptions = BreakerOptions {
        failures: 3,
        open: Duration::from_secs(10),
        budget: Duration::from_secs(60),
        backlog_bytes_max: 0,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_tries_once_when_its_time_is_over() {
        let mut breaker = Breaker::new(OPTIONS);
        assert_eq!((breaker.failed(at(0)), breaker.failed(at(1))), (Verdict::Again, Verdict::Again));
        assert_eq!(breaker.circuit(), Circuit::Closed);
        assert_eq!(breaker.failed(at(2)), Verdict::After(at(10)));
        assert_eq!((breaker.circuit(), breaker.may_try(at(11))), (Circuit::Open, false));
        assert!(breaker.may_try(at(12)));
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
        // One failure is enough now.
        assert_eq!(breaker.failed(at(12)), Verdict::After(at(10)));
        assert!(!breaker.may_try(at(21)) && breaker.may_try(at(22)));
        breaker.succeeded();
        assert_eq!((breaker.circuit(), breaker.failed(at(23))), (Circuit::Closed, Verdict::Again));
    }

    #[test]
    fn successes_in_between_keep_it_closed() {
        let mut breaker = Breaker::new(OPTIONS);
        for second in 0..100 {
            assert_eq!(breaker.failed(at(second)), Verdict::Again);
            breaker.succeeded();
        }
    }

    #[test]
    fn it_gives_up_when_the_budget_is_spent_whatever_its_state() {
        let mut breaker = Breaker::new(BreakerOptions { budget: at(15), ..OPTIONS });
        for second in 0..3 {
            breaker.failed(at(second));
        }
        assert!(breaker.may_try(at(12)));
        assert_eq!(breaker.failed(at(12)), Verdict::After(at(10)));
        assert!(breaker.may_try(at(22)));
        assert_eq!(breaker.failed(at(22)), Verdict::GiveUp);
        // With room for none the first one opens it.
        let mut strict = Breaker::new(BreakerOptions { failures: 0, ..OPTIONS });
        assert_eq!(strict.failed(at(0)), Verdict::After(at(10)));
    }
}
