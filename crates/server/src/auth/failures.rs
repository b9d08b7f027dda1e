//! Invalid keys, counted by address, so that guessing and broken clients slow down.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;

/// Addresses remembered: two generations of this many, the older of which is forgotten when the
/// younger one is full. So those remembered are the ones seen last, without a list to keep in order.
const ADDRESSES_MAX: usize = 50_000;

#[derive(Debug)]
pub(super) struct Failures {
    per_minute: u32,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<IpAddr, Bucket>,
    old: HashMap<IpAddr, Bucket>,
}

/// Failures an address may still have at once.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Duration,
}

impl Failures {
    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute, generations: Mutex::default() }
    }

    pub(super) fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Counts a failure. How long to wait if there were too many.
    pub(super) fn count(&self, address: IpAddr, now: Duration) -> Option<Duration> {
        if self.per_minute == 0 {
            return None;
        }
        let most = f64::from(self.per_minute);
        let per_second = most / 60.0;
        let address = group(address);
        let mut generations = self.generations.lock();
        let known = generations.young.get(&address).or_else(|| generations.old.get(&address)).copied();
        let mut bucket = known.unwrap_or(Bucket { left: most, at: now });
        let gained = now.saturating_sub(bucket.at).as_secs_f64() * per_second;
        bucket = Bucket { left: (bucket.left + gained).min(most), at: now };
        let wait = if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            None
        } else {
            Some(Duration::from_secs_f64((1.0 - bucket.left) / per_second))
        };
        if generations.young.len() >= ADDRESSES_MAX && !generations.young.contains_key(&address) {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(address, bucket);
        wait
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.len() + generations.old.len()
    }
}

/// One subscriber has at least 2^64 addresses of IPv6.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}
