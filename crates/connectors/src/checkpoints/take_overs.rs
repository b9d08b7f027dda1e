//! How many may wait for a disk at a time while other threads take over from them.
//!
//! Who takes over works on a thread of its own, and every thread keeps some of the memory that it has used: the
//! pipelines of 200 tenants had a hundred threads and 900 MB without a bound. Mostly few have to wait at a time, for a
//! disk answers in milliseconds. One that hangs, as a network drive may, must not hold up those who have another: who has
//! waited for [`PATIENCE`] while the same ones were at it the whole time lets one more begin, and whoever hangs is counted
//! apart from then on. That is bounded, too: where all disks hang nobody gains anything by more threads.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// So many may wait for a disk that answers.
pub(super) const TAKE_OVERS_MAX: usize = 4;
/// So many more that have waited for too long.
pub(super) const OVERDUE_MAX: usize = 28;
/// How long that is.
pub(super) const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(2) };

/// Those who wait for a disk.
#[derive(Debug)]
pub(super) struct TakeOvers {
    free: Semaphore,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// The number of the next one.
    next: u64,
    /// By number: whether it has given its place to another one, because it hangs.
    places: BTreeMap<u64, bool>,
}

/// A place among them.
#[derive(Debug)]
pub(super) struct TakeOver<'a> {
    of: &'a TakeOvers,
    number: u64,
}

impl TakeOvers {
    pub(super) const fn new() -> Self {
        let held = Mutex::new(Held { next: 0, places: BTreeMap::new() });
        Self { free: Semaphore::const_new(TAKE_OVERS_MAX), held }
    }

    /// Waits for a place.
    pub(super) async fn take(&self) -> TakeOver<'_> {
        if let Ok(permit) = self.free.try_acquire() {
            return self.begin(permit);
        }
        let free = self.free.acquire();
        tokio::pin!(free);
        loop {
            let begun = self.held.lock().next;
            tokio::select! {
                biased;
                // It is never closed.
                Ok(permit) = &mut free => return self.begin(permit),
                () = tokio::time::sleep(PATIENCE) => self.let_one_more_begin(begun),
            }
        }
    }

    fn begin(&self, permit: SemaphorePermit<'_>) -> TakeOver<'_> {
        // It is given back by the place, which may have given it to another one meanwhile.
        permit.forget();
        let mut held = self.held.lock();
        let number = held.next;
        held.next += 1;
        held.places.insert(number, false);
        TakeOver { of: self, number }
    }

    /// Takes its place from one that was there already when somebody began to wait, and is still.
    fn let_one_more_begin(&self, before: u64) {
        let mut held = self.held.lock();
        if held.places.values().filter(|is_overdue| **is_overdue).count() >= OVERDUE_MAX {
            return;
        }
        let hangs = held.places.range_mut(..before).find(|(_, is_overdue)| !**is_overdue);
        if let Some((_, is_overdue)) = hangs {
            *is_overdue = true;
            self.free.add_permits(1);
        }
    }
}

impl Drop for TakeOver<'_> {
    fn drop(&mut self) {
        if self.of.held.lock().places.remove(&self.number) == Some(false) {
            self.of.free.add_permits(1);
        }
    }
}
