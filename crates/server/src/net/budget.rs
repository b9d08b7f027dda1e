//! A bound, in bytes, on what all requests together hold in memory before their rows are in the
//! log.
//!
//! A part is kept for small requests: large ones, of which a few take everything, leave that part
//! alone, and small ones do not queue behind them. So a flood of bombs from one tenant costs another
//! one's events nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use weir_base::{ErrorKind, Kinded};

/// The bytes that may be held, and how long a request waits for some of them.
#[derive(Debug)]
pub struct ByteBudget {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
    small_total: usize,
    name: &'static str,
    total: usize,
    wait: Duration,
}

/// Bytes of a budget, given back when dropped. It must live as long as what it stands for.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<ByteBudget>,
    large: Option<OwnedSemaphorePermit>,
    small: Option<OwnedSemaphorePermit>,
}

/// Reservations up to this are small. It covers a body of a few kilobytes with what it may
/// decompress to, and the columns made of it.
const SMALL_BYTES_MAX: usize = 256 << 10;
/// The part of a budget that is for small reservations only; a budget with room for just a few of
/// them has no such part.
const SMALL_PART: usize = 8;
const SMALL_MIN: usize = 8;

/// Why there are no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Others hold them; later there may be some.
    #[error("{name} is {total}, of which {in_use} are in use")]
    Busy {
        /// The name of the budget.
        name: &'static str,
        /// Its size.
        total: usize,
        /// What is taken.
        in_use: usize,
    },
    /// It is more than there ever can be.
    #[error("{name} is {total}, and the request needs {wanted}")]
    Never {
        /// The name of the budget.
        name: &'static str,
        /// Its size.
        total: usize,
        /// What was asked for.
        wanted: usize,
    },
}

impl Kinded for BudgetError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy { .. } => ErrorKind::Limit,
            Self::Never { .. } => ErrorKind::TooLarge,
        }
    }
}

impl ByteBudget {
    /// A budget of `total` bytes (at most 4 GiB). `name` is the limit's name in refusals.
    pub fn new(name: &'static str, total: usize, wait: Duration) -> Arc<Self> {
        let total = total.min(u32::MAX as usize);
        let small_total = if total / SMALL_PART < SMALL_MIN * SMALL_BYTES_MAX { 0 } else { total / SMALL_PART };
        let large = Arc::new(Semaphore::new(total - small_total));
        Arc::new(Self { large, small: Arc::new(Semaphore::new(small_total)), small_total, name, total, wait })
    }

    /// Its size, as far as one reservation can have it.
    pub fn total(&self) -> usize {
        self.total - self.small_total
    }

    /// Bytes taken now.
    pub fn in_use(&self) -> usize {
        self.total.saturating_sub(self.large.available_permits() + self.small.available_permits())
    }

    /// A reservation of nothing yet.
    pub fn empty(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), large: None, small: None }
    }

    async fn acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BudgetError> {
        let busy = || BudgetError::Busy { name: self.name, total: self.total, in_use: self.in_use() };
        let count = u32::try_from(bytes).map_err(|_| busy())?;
        if let Ok(permit) = Arc::clone(&self.large).try_acquire_many_owned(count) {
            return Ok(permit);
        }
        match timeout(self.wait, Arc::clone(&self.large).acquire_many_owned(count)).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed; if it were, there would be no bytes either.
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let held = |permit: &Option<OwnedSemaphorePermit>| permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        held(&self.large) + held(&self.small)
    }

    /// Grows to `bytes` in all, waiting shortly if others hold too many. What is held stays held
    /// in any case; never shrinks.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), BudgetError> {
        let more = bytes.saturating_sub(self.bytes());
        if more == 0 {
            return Ok(());
        }
        let total = self.budget.total();
        if bytes > total {
            return Err(BudgetError::Never { name: self.budget.name, total, wanted: bytes });
        }
        if bytes <= SMALL_BYTES_MAX
            && let Ok(count) = u32::try_from(more)
            && let Ok(permit) = Arc::clone(&self.budget.small).try_acquire_many_owned(count)
        {
            add(&mut self.small, permit);
            return Ok(());
        }
        let permit = self.budget.acquire(more).await?;
        add(&mut self.large, permit);
        Ok(())
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let mut excess = self.bytes().saturating_sub(bytes);
        for held in [&mut self.large, &mut self.small].into_iter().flatten() {
            let part = excess.min(held.num_permits());
            drop(held.split(part));
            excess -= part;
        }
    }
}

fn add(held: &mut Option<OwnedSemaphorePermit>, permit: OwnedSemaphorePermit) {
    match held {
        Some(held) => held.merge(permit),
        None => *held = Some(permit),
    }
}

#[cfg(test)]
mod tests;
