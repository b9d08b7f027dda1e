//! How many connections there are, and how many there may be: in all, and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Connections above the bound of an address that are still told so, before they are closed at once.
const TOLD_MAX: usize = 8;

/// The bounds.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) max: usize,
    pub(super) reserve: usize,
    pub(super) per_address_max: usize,
    /// Proxies, which stand for many.
    pub(super) proxies: Vec<IpNet>,
}

/// The places for connections.
#[derive(Debug)]
pub(super) struct Slots {
    open: AtomicUsize,
    bounds: Bounds,
    /// Connections by origin; only of those that have one, so it is bounded by `open`.
    origins: Mutex<HashMap<IpAddr, usize>>,
    refused: AtomicU64,
    refused_of_address: AtomicU64,
    closed: Notify,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Everything.
    Ordinary,
    /// Health probes; the server is full.
    Reserve,
    /// Nothing; its address has as many as it may.
    Crowded,
}

/// A place taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    pub(super) place: Place,
    origin: Option<IpAddr>,
}

impl Slots {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            bounds,
            origins: Mutex::default(),
            refused: AtomicU64::new(0),
            refused_of_address: AtomicU64::new(0),
            closed: Notify::new(),
        })
    }

    /// Takes a place, or none if even the reserve is full.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        let mut slot = Slot { slots: Arc::clone(self), place: Place::Ordinary, origin: None };
        if before >= self.bounds.max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            slot.place = Place::Reserve;
            return (before < self.bounds.max.saturating_add(self.bounds.reserve)).then_some(slot);
        }
        let Some(origin) = self.origin(address) else { return Some(slot) };
        let mut origins = self.origins.lock();
        let open = origins.entry(origin).or_default();
        *open += 1;
        slot.origin = Some(origin);
        let over = open.saturating_sub(self.bounds.per_address_max);
        drop(origins);
        if over > 0 {
            self.refused_of_address.fetch_add(1, Ordering::Relaxed);
            slot.place = Place::Crowded;
        }
        (over <= TOLD_MAX).then_some(slot)
    }

    /// Who is counted as one: an address, or of IPv6 the network that one customer has. `None` for
    /// proxies, and where nobody is counted.
    fn origin(&self, address: IpAddr) -> Option<IpAddr> {
        let address = address.to_canonical();
        if self.bounds.per_address_max == 0 || self.bounds.proxies.iter().any(|network| network.contains(&address)) {
            return None;
        }
        Some(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(whole) => {
                let [a, b, c, d, ..] = whole.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }

    /// Connections open now.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Connections that found the server full, since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections from an address that had as many as it may, since the start.
    pub(super) fn refused_of_address(&self) -> u64 {
        self.refused_of_address.load(Ordering::Relaxed)
    }

    /// Returns once no connection is open.
    pub(super) async fn all_closed(&self) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }

    fn give_back(&self, origin: Option<IpAddr>) {
        if let Some(origin) = origin {
            let mut origins = self.origins.lock();
            if let Some(open) = origins.get_mut(&origin) {
                *open -= 1;
                if *open == 0 {
                    origins.remove(&origin);
                }
            }
        }
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.closed.notify_waiters();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back(self.origin);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn who_is_counted_as_one() {
        let proxies = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let slots =
            |per_address_max| Slots::new(Bounds { max: 10, reserve: 0, per_address_max, proxies: proxies.clone() });
        let origin = |text: &str| slots(1).origin(text.parse().unwrap()).map(|origin| origin.to_string());
        for (address, expected) in [
            ("203.0.113.9", Some("203.0.113.9")),
            ("::ffff:203.0.113.9", Some("203.0.113.9")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::")),
            ("10.1.2.3", None),
            ("::ffff:10.1.2.3", None),
            ("fd00::1", None),
        ] {
            assert_eq!(origin(address).as_deref(), expected, "{address}");
        }
        assert_eq!(slots(0).origin("203.0.113.9".parse().unwrap()), None);
    }

    #[test]
    fn places_are_given_back() {
        let slots = Slots::new(Bounds { max: 30, reserve: 0, per_address_max: 2, proxies: Vec::new() });
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let taken: Vec<_> = (0..30).map_while(|_| slots.take(one)).collect();
        let places: Vec<_> = taken.iter().map(|slot| slot.place).collect();
        assert_eq!(places, [vec![Place::Ordinary; 2], vec![Place::Crowded; TOLD_MAX]].concat());
        assert_eq!((slots.refused(), slots.refused_of_address(), slots.open()), (0, TOLD_MAX as u64 + 1, 2 + TOLD_MAX));
        assert_eq!(slots.take(other).unwrap().place, Place::Ordinary);
        drop(taken);
        assert_eq!((slots.open(), slots.origins.lock().len()), (0, 0));
        assert_eq!(slots.take(one).unwrap().place, Place::Ordinary);
    }
}
