//! What a commit will hold: which rows of which requests are new, and to which record they belong.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use hashbrown::HashMap;
use weir_base::{StreamName, TenantId};

use super::Writer;
use crate::dedup::{KeySet, Lookup};
use crate::format::RequestEntry;
use crate::producers::{self, Verdict};
use crate::queue::Pending;
use crate::rows;
use crate::shard::Shard;
use crate::stats::add;
use crate::{Append, Appended, LogError, PartOutcome};

/// The rows of one record.
pub(super) struct Group {
    pub(super) tenant: TenantId,
    pub(super) stream: StreamName,
    pub(super) id_column: Option<&'static str>,
    /// The schema under which the batches are merged; `None` means there is one batch.
    pub(super) schema: Option<SchemaRef>,
    pub(super) batches: Vec<RecordBatch>,
}

/// The ids of one request.
struct Ids<'a> {
    keys: &'a [u128],
    /// Of each, whether it was stored before.
    known: &'a [bool],
}

/// What a commit will hold, and the answers.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) groups: Vec<Group>,
    pub(super) requests: Vec<RequestEntry>,
    pub(super) keys: KeySet,
    pub(super) producers: producers::Pending,
    /// One a request; `None` if it was refused and answered.
    pub(super) outcomes: Vec<Option<Appended>>,
}

impl Writer {
    /// Decides what is new. Refused requests are answered here.
    pub(super) fn plan(&self, shard: &Shard, requests: &mut [Pending]) -> Plan {
        let mut plan = Plan::default();
        let mut places: HashMap<(TenantId, StreamName), Vec<usize>> = HashMap::new();
        let lookup = self.dedup.lookup();
        let ids: Vec<Vec<u128>> = requests.iter().map(|request| self.ids(&request.append)).collect();
        let all = ids.concat();
        plan.keys.reserve(all.len());
        let known = lookup.which(&all);
        let mut known = known.as_slice();
        for (request, ids) in requests.iter_mut().zip(ids) {
            let (own, rest) = known.split_at(ids.len());
            known = rest;
            let ids = Ids { keys: &ids, known: own };
            let outcome = self.plan_request(shard, &lookup, &ids, &mut plan, &mut places, request);
            plan.outcomes.push(match outcome {
                Ok(outcome) => Some(outcome),
                Err(error) => {
                    request.answer(Err(error));
                    None
                }
            });
        }
        plan
    }

    /// The keys of all ids of a request, in the order of its rows.
    fn ids(&self, append: &Append) -> Vec<u128> {
        let mut keys = Vec::new();
        for part in &append.parts {
            if let Some(column) = part.id_column {
                let scope = self.hasher.ids(&append.tenant, &part.stream);
                rows::for_each_id(&part.batch, column, |_, id| keys.push(scope.hash(id.as_bytes())));
            }
        }
        keys
    }

    fn plan_request(
        &self,
        shard: &Shard,
        lookup: &Lookup<'_>,
        ids: &Ids<'_>,
        plan: &mut Plan,
        places: &mut HashMap<(TenantId, StreamName), Vec<usize>>,
        request: &Pending,
    ) -> Result<Appended, LogError> {
        let append = &request.append;
        let repeated = || {
            add(&shard.counters.appends_repeated, 1);
            let parts = append
                .parts
                .iter()
                .map(|part| PartOutcome { stored: 0, duplicates: (0..part.batch.num_rows() as u32).collect() })
                .collect();
            Ok(Appended { parts, repeated: true, end: shard.position(self.end) })
        };
        if let Some(sequence) = append.producer {
            match self.producers.judge(&plan.producers, &append.tenant, sequence) {
                Verdict::New => {}
                Verdict::Repeated => return repeated(),
                Verdict::Fenced { current } => return Err(LogError::Fenced { epoch: sequence.epoch, current }),
            }
        }
        let idempotency = append.idempotency_key.as_ref().map(|key| self.hasher.idempotency(&append.tenant, key));
        if let Some(keys) = idempotency {
            let is_known = |key: u128| plan.keys.contains(&key) || lookup.contains(key);
            if is_known(keys.request) || is_known(keys.before_bodies) {
                return repeated();
            }
            if is_known(keys.key) {
                return Err(LogError::KeyReused);
            }
        }
        let mut parts = Vec::with_capacity(append.parts.len());
        let mut seen = 0;
        for (part, schema) in append.parts.iter().zip(&request.schemas) {
            let n_rows = part.batch.num_rows();
            let mut duplicates = Vec::new();
            if let Some(column) = part.id_column {
                rows::for_each_id(&part.batch, column, |row, _| {
                    if ids.known[seen] || !plan.keys.insert(ids.keys[seen]) {
                        duplicates.push(row as u32);
                    }
                    seen += 1;
                });
            }
            let stored = n_rows - duplicates.len();
            let batch = if duplicates.is_empty() {
                part.batch.clone()
            } else {
                add(&shard.counters.rows_deduplicated, duplicates.len() as u64);
                let mut keep = vec![true; n_rows];
                for row in &duplicates {
                    keep[*row as usize] = false;
                }
                arrow::compute::filter_record_batch(&part.batch, &BooleanArray::from(keep))
                    .map_err(|error| LogError::Internal(error.to_string()))?
            };
            if stored > 0 {
                Self::place(plan, places, append.tenant.clone(), part, schema.as_ref(), batch);
            }
            parts.push(PartOutcome { stored, duplicates });
        }
        if let Some(sequence) = append.producer {
            plan.producers.insert((append.tenant.clone(), sequence.producer), sequence);
        }
        let entry = |producer, idempotency| RequestEntry { tenant: append.tenant.clone(), producer, idempotency };
        if append.producer.is_some() || idempotency.is_some() {
            plan.requests.push(entry(append.producer, idempotency.map(|keys| keys.key)));
        }
        if let Some(keys) = idempotency {
            plan.requests.push(entry(None, Some(keys.request)));
            plan.keys.extend([keys.key, keys.request]);
        }
        Ok(Appended { parts, repeated: false, end: shard.position(self.end) })
    }

    /// Adds a batch to the record it belongs to. Batches of one stream are merged if they fit its
    /// known schema; others stay alone. Order within (tenant, stream) is kept either way.
    fn place(
        plan: &mut Plan,
        places: &mut HashMap<(TenantId, StreamName), Vec<usize>>,
        tenant: TenantId,
        part: &crate::AppendPart,
        schema: Option<&SchemaRef>,
        batch: RecordBatch,
    ) {
        let numbers = places.entry((tenant.clone(), part.stream.clone())).or_default();
        if let Some(schema) = schema
            && let Some(last) = numbers.last()
        {
            let group = &mut plan.groups[*last];
            if group.schema.as_ref().is_some_and(|other| Arc::ptr_eq(other, schema))
                && group.id_column == part.id_column
            {
                group.batches.push(batch);
                return;
            }
        }
        numbers.push(plan.groups.len());
        plan.groups.push(Group {
            tenant,
            stream: part.stream.clone(),
            id_column: part.id_column,
            schema: schema.cloned(),
            batches: vec![batch],
        });
    }
}
