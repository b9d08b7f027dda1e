//! Rows of small requests, gathered by tenant: while one batch is being committed, the requests that
//! arrive meanwhile put their rows into the next.
//!
//! A batch of one row is fifty allocations to make, and as many again for the log to merge with
//! others; both were most of what a request with one event cost. Gathered rows are one batch, one
//! append, and one answer of the log, which is then shared out on the threads that serve
//! connections.
//!
//! Invariant: a request is answered with what became of its own rows, once they are durable.
//! Invariant: a tenant with rows that wait has exactly one task that sees to them.
//!
//! Deliberately absent: requests with an idempotency key, with bad rows, or of a tenant for whom
//! [`Ingest::gathers`] says no. They go to the log by themselves.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use weir_base::TenantId;
use weir_codecs::events::{FewEvents, GatheredEvents};
use weir_log::{Append, AppendPart, Appended, Appending, Durability, LogError, PartOutcome};
use weir_meta::tenants::Tenant;

use super::{Ingest, IngestError, Outcome, builtin, id_column};
use crate::net::budget::Reservation;
use crate::problem::Problem;

/// A batch that has this many bytes takes no more rows: what comes then goes to the log by itself,
/// which has a bound on what waits.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Tenants are spread over so many locks.
const LOCKS: usize = 16;

/// What waits, by tenant.
#[derive(Debug, Default)]
pub(super) struct Gatherings {
    by_tenant: [Mutex<HashMap<TenantId, Gathering>>; LOCKS],
}

/// The rows of one tenant that wait, and who waits for them. There as long as a task sees to it.
#[derive(Debug, Default)]
struct Gathering {
    /// None only if adding a row panicked: what it held is lost, and so are those who wait for it.
    rows: Option<Box<GatheredEvents>>,
    waiting: Vec<Waiting>,
}

/// A request whose rows are in a batch.
#[derive(Debug)]
struct Waiting {
    rows: usize,
    answer: oneshot::Sender<Result<usize, Problem>>,
    /// Its bytes, until the log has counted the rows.
    reservation: Option<Reservation>,
}

/// What the log said, and to whom it matters.
struct Done {
    waiting: Vec<Waiting>,
    result: Result<Appended, IngestError>,
}

impl Gatherings {
    fn of(&self, tenant: &TenantId) -> &Mutex<HashMap<TenantId, Gathering>> {
        let sum = tenant.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        &self.by_tenant[sum % LOCKS]
    }

    /// Takes what waits. If there is nothing, the task of this tenant is over.
    fn take(&self, tenant: &TenantId) -> Option<(GatheredEvents, Vec<Waiting>)> {
        let mut gatherings = self.of(tenant).lock();
        let gathering = gatherings.get_mut(tenant)?;
        let (rows, waiting) = (gathering.rows.take(), std::mem::take(&mut gathering.waiting));
        match rows {
            Some(rows) if !rows.is_empty() => Some((*rows, waiting)),
            _ => {
                gatherings.remove(tenant);
                None
            }
        }
    }
}

impl Ingest {
    /// Makes the rows of a small request durable and queryable, together with those of others. Gives
    /// the reservation back if they have to go by themselves.
    pub(crate) async fn gather(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        events: FewEvents<'_>,
        reservation: Reservation,
    ) -> Result<Result<Outcome, Problem>, Reservation> {
        let received = events.len();
        if let Err(error) = self.check_storage(tenant) {
            return Ok(Err(error.into()));
        }
        let answer = self.join(tenant, events, reservation)?;
        let stored = match answer.await {
            Ok(stored) => stored,
            Err(_) => Err(Problem::internal("the rows were lost on their way to the log")),
        };
        Ok(stored.map(|stored| Outcome { received, stored, deduplicated: received - stored, ..Outcome::default() }))
    }

    /// Puts rows into the batch of a tenant that waits, and sees that there is a task for it.
    fn join(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        events: FewEvents<'_>,
        reservation: Reservation,
    ) -> Result<oneshot::Receiver<Result<usize, Problem>>, Reservation> {
        let mut gatherings = self.gatherings.of(&tenant.id).lock();
        let (gathering, is_new) = match gatherings.get_mut(&tenant.id) {
            Some(gathering) => (gathering, false),
            None => (gatherings.entry(tenant.id.clone()).or_default(), true),
        };
        let rows = gathering.rows.take();
        if rows.is_none() {
            gathering.waiting.clear();
        }
        let mut rows = rows.unwrap_or_default();
        if rows.bytes() >= BATCH_BYTES_MAX {
            gathering.rows = Some(rows);
            return Err(reservation);
        }
        let n_rows = events.len();
        rows.push(events);
        gathering.rows = Some(rows);
        let (answer, receiver) = oneshot::channel();
        gathering.waiting.push(Waiting { rows: n_rows, answer, reservation: Some(reservation) });
        drop(gatherings);
        if is_new {
            tokio::spawn(Arc::clone(self).commit_gathered(Arc::clone(tenant)));
        }
        Ok(receiver)
    }

    /// Appends what waits of a tenant, batch after batch, until nothing does.
    async fn commit_gathered(self: Arc<Self>, tenant: Arc<Tenant>) {
        let watch = Watch { gatherings: &self.gatherings, tenant: &tenant.id };
        let mut done: Option<Done> = None;
        while let Some((rows, mut waiting)) = self.gatherings.take(&tenant.id) {
            let appending = match self.begin(&tenant, rows, &mut done).await {
                Ok(appending) => appending,
                Err(error) => {
                    share_out(done.replace(Done { waiting, result: Err(error) }));
                    continue;
                }
            };
            for request in &mut waiting {
                request.reservation = None;
            }
            // Only now, with the log at work again.
            share_out(done.take());
            let result = appending.await;
            let result = result.map_err(|source| IngestError::Log { tenant: tenant.id.clone(), source });
            done = Some(Done { waiting, result });
        }
        // Nothing is left, and the next request begins a task of its own.
        std::mem::forget(watch);
        share_out(done);
    }

    /// Hands a batch to the log.
    async fn begin(
        &self,
        tenant: &Arc<Tenant>,
        rows: GatheredEvents,
        done: &mut Option<Done>,
    ) -> Result<Appending, IngestError> {
        let no_rows = || IngestError::Log { tenant: tenant.id.clone(), source: LogError::Closed };
        let decoded = rows.finish().ok_or_else(no_rows)?;
        let decoded = [decoded];
        let fresh = self.undeclared(tenant, &decoded);
        if !fresh.is_empty() {
            // The database is slow, and who has an answer should not wait for it.
            share_out(done.take());
            self.declare(tenant, fresh).await?;
        }
        let [decoded] = decoded;
        let part =
            AppendPart { stream: builtin(decoded.stream), batch: decoded.batch, id_column: id_column(decoded.stream) };
        self.check_damage(tenant, &part.stream)?;
        Ok(self.log.append(Append {
            tenant: tenant.id.clone(),
            parts: vec![part],
            idempotency_key: None,
            producer: None,
            durability: Durability::Disk,
        }))
    }
}

/// Ends a gathering whose task ends before its time: by a panic, or with the process. Otherwise requests
/// would wait for nobody from then on.
struct Watch<'a> {
    gatherings: &'a Gatherings,
    tenant: &'a TenantId,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.gatherings.of(self.tenant).lock().remove(self.tenant);
    }
}

/// Tells each request how many of its rows were stored.
fn share_out(done: Option<Done>) {
    let Some(Done { waiting, result }) = done else { return };
    let outcome = match result {
        Ok(Appended { mut parts, .. }) => Ok(parts.pop().unwrap_or_default()),
        Err(error) => Err(Problem::from(error)),
    };
    let mut first = 0;
    for request in waiting {
        let stored = outcome.as_ref().map(|outcome| stored_of(outcome, first, request.rows)).map_err(Problem::clone);
        first += request.rows;
        // The sender may have gone away; the rows are stored all the same.
        let _ = request.answer.send(stored);
    }
}

/// How many of `count` rows from `first` on were stored.
fn stored_of(outcome: &PartOutcome, first: usize, count: usize) -> usize {
    let before = |row: usize| outcome.duplicates.partition_point(|duplicate| (*duplicate as usize) < row);
    count - (before(first + count) - before(first))
}

#[cfg(test)]
mod tests;
