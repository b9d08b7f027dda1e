//! A bound, in bytes, on what all requests together hold in memory before their rows are in the
//! log.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use weir_base::{ErrorKind, Kinded};

/// The bytes that may be held, and how long a request waits for some of them.
#[derive(Debug)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    name: &'static str,
    total: usize,
    wait: Duration,
}

/// Bytes of a budget, given back when dropped. It must live as long as what it stands for.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<ByteBudget>,
    permit: Option<OwnedSemaphorePermit>,
}

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
        Arc::new(Self { semaphore: Arc::new(Semaphore::new(total)), name, total, wait })
    }

    /// Its size.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes taken now.
    pub fn in_use(&self) -> usize {
        self.total.saturating_sub(self.semaphore.available_permits())
    }

    /// A reservation of nothing yet.
    pub fn empty(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), permit: None }
    }

    async fn acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BudgetError> {
        let busy = || BudgetError::Busy { name: self.name, total: self.total, in_use: self.in_use() };
        let count = u32::try_from(bytes).map_err(|_| busy())?;
        if let Ok(permit) = Arc::clone(&self.semaphore).try_acquire_many_owned(count) {
            return Ok(permit);
        }
        match timeout(self.wait, Arc::clone(&self.semaphore).acquire_many_owned(count)).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed; if it were, there would be no bytes either.
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Grows to `bytes` in all, waiting shortly if others hold too many. What is held stays held
    /// in any case; never shrinks.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), BudgetError> {
        let more = bytes.saturating_sub(self.bytes());
        if more == 0 {
            return Ok(());
        }
        if bytes > self.budget.total {
            return Err(BudgetError::Never { name: self.budget.name, total: self.budget.total, wanted: bytes });
        }
        let permit = self.budget.acquire(more).await?;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        Ok(())
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.bytes().saturating_sub(bytes);
        if let Some(held) = &mut self.permit {
            drop(held.split(excess));
        }
    }
}

#[cfg(test)]
mod tests;
