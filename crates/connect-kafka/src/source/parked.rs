//! Members of groups between two starts of a pipeline in one process.
//!
//! A commit that meets a rebalancing is refused, since the group has just counted on, and the pipeline has to be
//! opened again. If it left the group for that and joined it anew, the others would have to rebalance twice more, and
//! their commits would be refused in turn: with short checkpoints nobody would get anywhere. So a source that
//! ends before what it has read is committed leaves its client here, as the member it is, and the next one goes on with
//! it from what the group knows. If none comes soon, the member leaves.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Plan;
use super::group::Group;
use super::open::{Client, Places};

/// How long the next start may take to come.
const PARKED_MAX: Duration = Duration::from_secs(30);

/// A member that nobody reads with.
pub(super) struct Parked {
    pub(super) group: Option<Group>,
    pub(super) client: Arc<Client>,
    /// What is told when the client has something.
    pub(super) ready: Arc<Notify>,
    /// The partitions it has, and where each began to be read.
    pub(super) places: Places,
}

impl Drop for Parked {
    fn drop(&mut self) {
        if let Some(group) = &mut self.group {
            group.leave(&self.client);
        }
    }
}

/// What names a member: there is one of a group in a pipeline.
type Name = (String, String, Vec<String>);

/// Members by name, with a number of their own. Of the process and not of a pipeline, because a pipeline of a server
/// is planned anew each time it is started.
static PARKED: Mutex<Vec<(Name, u64, Arc<Mutex<Option<Parked>>>)>> = Mutex::new(Vec::new());

fn name(plan: &Plan) -> Name {
    (plan.cluster.brokers().to_owned(), plan.group.clone(), plan.topics.clone())
}

/// Leaves a member here.
pub(super) fn park(plan: &Plan, parked: Parked) {
    let slot = Arc::new(Mutex::new(Some(parked)));
    let mut all = PARKED.lock();
    let number = all.last().map_or(1, |(_, number, _)| number + 1);
    all.push((name(plan), number, Arc::clone(&slot)));
    drop(all);
    let thread = std::thread::Builder::new().name("kafka-parked".to_owned()).spawn(move || {
        std::thread::sleep(PARKED_MAX);
        PARKED.lock().retain(|(_, other, _)| *other != number);
        let late = slot.lock().take();
        drop(late);
    });
    if let Err(error) = thread {
        tracing::debug!(%error, "a member of a group cannot be kept");
        PARKED.lock().retain(|(_, other, _)| *other != number);
    }
}

/// The member an earlier start has left, if there is one.
pub(super) fn take(plan: &Plan) -> Option<Parked> {
    let name = name(plan);
    let mut all = PARKED.lock();
    let at = all.iter().rposition(|(other, _, _)| *other == name)?;
    let (_, _, slot) = all.remove(at);
    drop(all);
    slot.lock().take()
}
