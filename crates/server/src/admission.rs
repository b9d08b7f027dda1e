//! How much may be sent: token buckets for each tenant and for the server as a whole.
//!
//! A bucket holds up to `burst` tokens and gains `rate` of them a second. A request takes what it
//! needs from every bucket it touches, or nothing at all. The tenant's own buckets are asked first,
//! so that a tenant over its limits takes nothing from the others.
//!
//! Invariant: a bucket that is full again equals one that was never there, so the table of tenants
//! only has those that sent something lately.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use weir_base::{Clock, ErrorKind, Kinded, TenantId};
use weir_meta::limits::Limits;

use crate::problem::Problem;

/// The bounds of the server as a whole. A rate of 0 is no bound.
#[derive(Clone, Debug, Default)]
pub struct AdmissionOptions {
    /// Requests that send rows, each second.
    pub requests_per_second: u64,
    /// Requests at once after a quiet time.
    pub requests_burst: u64,
    /// Rows each second.
    pub rows_per_second: u64,
    /// Rows at once after a quiet time.
    pub rows_burst: u64,
    /// Bytes of bodies each second.
    pub bytes_per_second: u64,
    /// Bytes of bodies at once after a quiet time.
    pub bytes_burst: u64,
}

/// What a request takes. A request may be admitted in parts: its bytes when they are known, its
/// rows once they are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Requests: 1, or 0 for a further part.
    pub requests: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of the body, as sent.
    pub bytes: u64,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// Too much lately; later it fits.
    #[error("{}{name} is {value}, and {current} came in the last second", scope(*is_whole))]
    Rate {
        /// The limit.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What was accepted in the last second.
        current: u64,
        /// When what was asked for fits.
        retry_after: Duration,
        /// Whether it is the server's limit rather than the tenant's.
        is_whole: bool,
    },
    /// It never fits.
    #[error("{}{name} is {value}, and the request has {wanted}", scope(*is_whole))]
    Burst {
        /// The limit.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What was asked for.
        wanted: u64,
        /// Whether it is the server's limit rather than the tenant's.
        is_whole: bool,
    },
}

fn scope(is_whole: bool) -> &'static str {
    if is_whole { "for all tenants together, " } else { "" }
}

impl Kinded for AdmissionError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Rate { .. } => ErrorKind::Limit,
            Self::Burst { .. } => ErrorKind::TooLarge,
        }
    }
}

impl AdmissionError {
    /// What [`Problem`] says beyond the kind and the message.
    pub(crate) fn describe(&self, problem: Problem) -> Problem {
        match self {
            Self::Rate { name, value, current, retry_after, .. } => {
                problem.limit(*name, *value, Some(*current)).retry_after(*retry_after)
            }
            Self::Burst { name, value, wanted, .. } => {
                problem.limit(*name, *value, Some(*wanted)).hint("send fewer rows in a request")
            }
        }
    }
}

/// Decides about every request.
#[derive(Debug)]
pub struct Admission {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    whole: Buckets,
    tenants: HashMap<TenantId, TenantBuckets>,
    /// When the table is next rid of tenants whose buckets are full.
    tidy_at: usize,
}

#[derive(Debug)]
struct TenantBuckets {
    limits: Arc<Limits>,
    buckets: Buckets,
}

/// The table is tidied when it has grown to this, and then whenever it has doubled.
const TIDY_TENANTS_MIN: usize = 64;

impl Admission {
    /// Admits within `options`; every bucket is full.
    pub fn new(clock: Arc<dyn Clock>, options: &AdmissionOptions) -> Self {
        let now = clock.monotonic();
        let whole = Buckets {
            requests: Bucket::new("requests_per_second", "requests_burst", now)
                .with(options.requests_per_second, options.requests_burst),
            rows: Bucket::new("rows_per_second", "rows_burst", now).with(options.rows_per_second, options.rows_burst),
            bytes: Bucket::new("bytes_per_second", "bytes_burst", now)
                .with(options.bytes_per_second, options.bytes_burst),
        };
        let state = State { whole, tenants: HashMap::new(), tidy_at: TIDY_TENANTS_MIN };
        Self { clock, state: Mutex::new(state) }
    }

    /// Takes `cost` for a tenant under `limits`, or says why not and takes nothing.
    pub fn admit(&self, tenant: &TenantId, limits: &Arc<Limits>, cost: Cost) -> Result<(), AdmissionError> {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        let State { whole, tenants, tidy_at } = &mut *state;
        if !tenants.contains_key(tenant) {
            if tenants.len() >= *tidy_at {
                tenants.retain(|_, tenant| !tenant.buckets.are_full(now));
                *tidy_at = (tenants.len() * 2).max(TIDY_TENANTS_MIN);
            }
            tenants.insert(tenant.clone(), TenantBuckets::new(limits, now));
        }
        if let Some(own) = tenants.get_mut(tenant) {
            own.follow(limits, now);
            own.buckets.check(now, cost, false)?;
            whole.check(now, cost, true)?;
            own.buckets.take(now, cost);
        }
        whole.take(now, cost);
        Ok(())
    }

    /// Gives back what was taken for something that was not stored in the end, through no fault of
    /// the sender.
    pub fn refund(&self, tenant: &TenantId, cost: Cost) {
        let mut state = self.state.lock();
        if let Some(own) = state.tenants.get_mut(tenant) {
            own.buckets.give_back(cost);
        }
        state.whole.give_back(cost);
    }

    /// Tenants in the table, to look at.
    pub fn tenants_tracked(&self) -> usize {
        self.state.lock().tenants.len()
    }
}

impl TenantBuckets {
    fn new(limits: &Arc<Limits>, now: Duration) -> Self {
        let buckets = Buckets {
            requests: Bucket::new("requests_per_second", "requests_burst", now),
            rows: Bucket::new("rows_per_second", "rows_burst", now).with(limits.rows_per_second, limits.rows_burst),
            bytes: Bucket::new("bytes_per_second", "bytes_burst", now)
                .with(limits.bytes_per_second.0, limits.bytes_burst.0),
        };
        Self { limits: Arc::clone(limits), buckets }
    }

    /// Takes over limits that have changed, keeping what has been used.
    fn follow(&mut self, limits: &Arc<Limits>, now: Duration) {
        if Arc::ptr_eq(&self.limits, limits) {
            return;
        }
        self.buckets.rows.change(limits.rows_per_second, limits.rows_burst, now);
        self.buckets.bytes.change(limits.bytes_per_second.0, limits.bytes_burst.0, now);
        self.limits = Arc::clone(limits);
    }
}

#[derive(Debug)]
struct Buckets {
    requests: Bucket,
    rows: Bucket,
    bytes: Bucket,
}

impl Buckets {
    fn each(&mut self, cost: Cost) -> [(&mut Bucket, u64); 3] {
        [(&mut self.requests, cost.requests), (&mut self.rows, cost.rows), (&mut self.bytes, cost.bytes)]
    }

    fn check(&mut self, now: Duration, cost: Cost, is_whole: bool) -> Result<(), AdmissionError> {
        for (bucket, count) in self.each(cost) {
            bucket.check(now, count, is_whole)?;
        }
        Ok(())
    }

    fn take(&mut self, now: Duration, cost: Cost) {
        for (bucket, count) in self.each(cost) {
            bucket.take(now, count);
        }
    }

    fn give_back(&mut self, cost: Cost) {
        for (bucket, count) in self.each(cost) {
            bucket.give_back(count);
        }
    }

    fn are_full(&mut self, now: Duration) -> bool {
        self.each(Cost::default()).into_iter().all(|(bucket, _)| {
            bucket.refill(now);
            bucket.tokens >= bucket.burst as f64 && now.saturating_sub(bucket.second) >= Duration::from_secs(2)
        })
    }
}

/// One bucket, and how much went through it in the last second.
#[derive(Debug)]
struct Bucket {
    rate_name: &'static str,
    burst_name: &'static str,
    rate: u64,
    burst: u64,
    tokens: f64,
    filled_at: Duration,
    /// The second that `this_second` counts began here.
    second: Duration,
    this_second: u64,
    last_second: u64,
}

const SECOND: Duration = Duration::from_secs(1);

impl Bucket {
    /// A bucket without bounds.
    fn new(rate_name: &'static str, burst_name: &'static str, now: Duration) -> Self {
        Self {
            rate_name,
            burst_name,
            rate: 0,
            burst: 0,
            tokens: 0.0,
            filled_at: now,
            second: now,
            this_second: 0,
            last_second: 0,
        }
    }

    /// With bounds, full. A burst below the rate would make the rate unreachable.
    fn with(mut self, rate: u64, burst: u64) -> Self {
        self.rate = rate;
        self.burst = if rate == 0 { 0 } else { burst.max(1) };
        self.tokens = self.burst as f64;
        self
    }

    fn change(&mut self, rate: u64, burst: u64, now: Duration) {
        self.refill(now);
        let used = self.burst as f64 - self.tokens;
        self.rate = rate;
        self.burst = if rate == 0 { 0 } else { burst.max(1) };
        self.tokens = (self.burst as f64 - used).max(0.0);
    }

    fn refill(&mut self, now: Duration) {
        let gained = now.saturating_sub(self.filled_at).as_secs_f64() * self.rate as f64;
        self.tokens = (self.tokens + gained).min(self.burst as f64);
        self.filled_at = now.max(self.filled_at);
    }

    fn check(&mut self, now: Duration, count: u64, is_whole: bool) -> Result<(), AdmissionError> {
        if self.rate == 0 || count == 0 {
            return Ok(());
        }
        if count > self.burst {
            return Err(AdmissionError::Burst { name: self.burst_name, value: self.burst, wanted: count, is_whole });
        }
        self.refill(now);
        let missing = count as f64 - self.tokens;
        // Less than a thousandth of a token is rounding.
        if missing <= 0.001 {
            return Ok(());
        }
        Err(AdmissionError::Rate {
            name: self.rate_name,
            value: self.rate,
            current: self.lately(now),
            retry_after: Duration::from_secs_f64(missing / self.rate as f64),
            is_whole,
        })
    }

    fn take(&mut self, now: Duration, count: u64) {
        if self.rate == 0 || count == 0 {
            return;
        }
        self.tokens = (self.tokens - count as f64).max(0.0);
        self.turn(now);
        self.this_second += count;
    }

    fn give_back(&mut self, count: u64) {
        self.tokens = (self.tokens + count as f64).min(self.burst as f64);
        self.this_second = self.this_second.saturating_sub(count);
    }

    /// Begins a new second if the current one is over.
    fn turn(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.second);
        if passed >= SECOND {
            self.last_second = if passed < 2 * SECOND { self.this_second } else { 0 };
            self.this_second = 0;
            self.second = now;
        }
    }

    /// What went through in the last second, taking the one before as even.
    fn lately(&mut self, now: Duration) -> u64 {
        self.turn(now);
        let rest = 1.0 - now.saturating_sub(self.second).as_secs_f64().min(1.0);
        self.this_second + (self.last_second as f64 * rest) as u64
    }
}

#[cfg(test)]
mod tests;
