//! The last sequence of every producer. Outlives the segments through the checkpoint.

use hashbrown::HashMap;
use weir_base::TenantId;

use crate::ProducerSequence;
use crate::state::ProducerState;

/// What a producer's sequence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    New,
    Repeated,
    Fenced { current: u32 },
}

/// The last sequence of every producer, and those of the commit being built.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    map: HashMap<(TenantId, u128), (ProducerSequence, i64)>,
}

/// Sequences decided in the commit being built.
pub(crate) type Pending = HashMap<(TenantId, u128), ProducerSequence>;

impl Producers {
    pub(crate) fn judge(&self, pending: &Pending, tenant: &TenantId, sequence: ProducerSequence) -> Verdict {
        let key = (tenant.clone(), sequence.producer);
        let last = pending.get(&key).or_else(|| self.map.get(&key).map(|(last, _)| last));
        match last {
            None => Verdict::New,
            Some(last) if sequence.epoch < last.epoch => Verdict::Fenced { current: last.epoch },
            Some(last) if sequence.epoch == last.epoch && sequence.sequence <= last.sequence => Verdict::Repeated,
            Some(_) => Verdict::New,
        }
    }

    /// Takes in a durable sequence. A smaller one than known changes nothing.
    pub(crate) fn insert(&mut self, tenant: &TenantId, sequence: ProducerSequence, time: i64) {
        let (last, last_time) = self.map.entry((tenant.clone(), sequence.producer)).or_insert((sequence, time));
        if (sequence.epoch, sequence.sequence) >= (last.epoch, last.sequence) {
            *last = sequence;
            *last_time = time;
        }
    }

    /// Forgets the longest silent producers past the bound, a tenth at a time.
    pub(crate) fn shrink(&mut self, producers_max: usize) {
        if self.map.len() <= producers_max {
            return;
        }
        let mut times: Vec<i64> = self.map.values().map(|(_, time)| *time).collect();
        let keep = producers_max - producers_max / 10;
        let at = times.len() - keep;
        let (_, horizon, _) = times.select_nth_unstable(at.min(self.map.len() - 1));
        let horizon = *horizon;
        self.map.retain(|_, (_, time)| *time >= horizon);
        if self.map.len() > producers_max {
            // All silent since the same moment: any of them may go.
            let mut left = keep;
            self.map.retain(|_, _| {
                left = left.saturating_sub(1);
                left > 0
            });
        }
    }

    pub(crate) fn states(&self) -> Vec<ProducerState> {
        let mut states: Vec<ProducerState> = self
            .map
            .iter()
            .map(|((tenant, _), (last, time))| ProducerState { tenant: tenant.clone(), last: *last, time: *time })
            .collect();
        states.sort_by(|left, right| (&left.tenant, left.last.producer).cmp(&(&right.tenant, right.last.producer)));
        states
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}
