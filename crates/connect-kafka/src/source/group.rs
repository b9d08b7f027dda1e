//! A share of the partitions, beside other processes of the same pipeline: what the group gives and takes away.
//!
//! The offsets of the group say how far has been read, for all members, and a member commits them in the
//! transaction of its rows. So a partition can go on anywhere:
//! - One that is taken away is not read any more, and is given back once a checkpoint has committed what was read
//!   of it. The next member is told of it only then, and asks for its offset only then.
//! - One that is given is read from the offset of the group, which is asked for as "stable": the brokers do not
//!   answer while a transaction that may change it is open, as that of a member that has died.
//! - A member that was taken for dead loses everything it has. What it has not committed counts no more; it
//!   begins again like a new one.
//!
//! Invariant: offsets are committed by the member the group knows ([`Member::claim`]), so the brokers refuse those
//! of one that was shut out. The library forgets who it was when it learns that it is shut out, and brokers take
//! offsets from a client that says nothing of itself; therefore nothing is committed once an assignment is lost.
//! Beside that, the offsets that are replaced must be those this member knows: two members that both believe to
//! own a partition notice it there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use weir_base::ErrorKind;
use weir_component::source::{SourceError, SourcePosition};

use super::open::{Client, Places, check_place, name, read_position};
use super::{Plan, Start};
use crate::client::{ANSWER_TIMEOUT, Context, LEADER_TIMEOUT, Told, ask_for, kind_of, text_of};

/// How long one question for offsets may take before it is asked again.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// What is wrong once a member is none any more.
const GONE: &str = "the group has given the partitions to others";

/// A partition: topic and number.
pub(super) type Key = (String, i32);

/// What the group gives or takes away. It has to be answered by assigning or unassigning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rebalance {
    /// These as well.
    Given(Vec<Key>),
    /// These no more.
    Taken(Vec<Key>),
    /// Everything is gone: the group has gone on without this member.
    Lost(Vec<Key>),
}

/// What the group has said and is not answered.
#[derive(Debug, Default)]
pub(crate) struct Rebalances {
    said: Mutex<VecDeque<Rebalance>>,
    /// The client is being closed: everything is answered at once.
    is_closing: AtomicBool,
}

impl Rebalances {
    /// Takes note of what the group says.
    pub(crate) fn note(&self, consumer: &BaseConsumer<Context>, code: RDKafkaRespErr, list: &TopicPartitionList) {
        let is_given = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.is_closing.load(Ordering::Acquire) {
            let answered =
                if is_given { consumer.incremental_assign(list) } else { consumer.incremental_unassign(list) };
            if let Err(error) = answered {
                tracing::debug!(%error, "a group could not be answered when it was left");
            }
            return;
        }
        let keys = list.elements().iter().map(|it| (it.topic().to_owned(), it.partition())).collect();
        self.said.lock().push_back(match (is_given, consumer.assignment_lost()) {
            (true, _) => Rebalance::Given(keys),
            (false, false) => Rebalance::Taken(keys),
            (false, true) => Rebalance::Lost(keys),
        });
    }

    fn next(&self) -> Option<Rebalance> {
        self.said.lock().pop_front()
    }

    fn has_lost(&self) -> bool {
        self.said.lock().iter().any(|said| matches!(said, Rebalance::Lost(_)))
    }
}

/// One member of the group, for the sink that commits its offsets.
#[derive(Debug)]
pub(crate) struct Member {
    client: Weak<Client>,
    /// The cluster of the group, as it calls itself.
    pub(crate) cluster: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// It has lost its partitions, or has left.
    is_over: bool,
    /// What the group knows of each partition it has; `None`: nothing yet.
    committed: BTreeMap<Key, Option<i64>>,
}

/// Offsets that are to be committed, and who says so.
pub(crate) struct Claim {
    pub(crate) offsets: TopicPartitionList,
    pub(crate) metadata: ConsumerGroupMetadata,
}

/// Why offsets cannot be committed.
#[derive(Debug)]
pub(crate) enum ClaimError {
    /// It has lost its partitions.
    Lost(String),
    /// The brokers do not say what is committed at the moment.
    Unanswered(String),
}

impl Member {
    fn new(client: &Arc<Client>, cluster: Option<String>) -> Self {
        Self { client: Arc::downgrade(client), cluster, state: Mutex::default() }
    }

    /// What is to be committed of `position`; `None` if the group knows all of it. Blocks.
    pub(crate) fn claim(&self, position: &SourcePosition) -> Result<Option<Claim>, ClaimError> {
        let lost = |what: &str| ClaimError::Lost(what.to_owned());
        let places = read_position(position).map_err(|error| lost(&error.message))?;
        let (client, expected) = {
            let state = self.state.lock();
            let client = self.client.upgrade().filter(|_| !state.is_over).ok_or_else(|| lost(GONE))?;
            let expected: BTreeMap<Key, Option<i64>> = places
                .iter()
                .filter_map(|(key, place)| Some((key, place, state.committed.get(key)?)))
                .filter(|(_, place, committed)| **committed != Some(**place))
                .map(|(key, _, committed)| (key.clone(), *committed))
                .collect();
            if expected.is_empty() {
                return Ok(None);
            }
            (client, expected)
        };
        let found = committed(&client, expected.keys()).map_err(|error| ClaimError::Unanswered(text_of(&error)))?;
        let mut offsets = TopicPartitionList::new();
        for (key, before) in &expected {
            let now = found.get(key).copied().flatten();
            if now != *before {
                let shown = |offset: Option<i64>| offset.map_or_else(|| "nothing".to_owned(), |it| it.to_string());
                return Err(ClaimError::Lost(format!(
                    "somebody else has read {}: the group knows of {} where this process left {}",
                    name(&key.0, key.1),
                    shown(now),
                    shown(*before)
                )));
            }
            if let Some(place) = places.get(key) {
                let added = offsets.add_partition_offset(&key.0, key.1, Offset::Offset(*place));
                added.map_err(|error| ClaimError::Lost(text_of(&error)))?;
            }
        }
        // Last, because each rebalancing makes it old. Whoever lets go of the partitions waits for the lock, so what
        // is asked for is of the time before.
        let state = self.state.lock();
        if state.is_over {
            return Err(lost(GONE));
        }
        let metadata = client.group_metadata().ok_or_else(|| lost("it is no member of the group"))?;
        if client.assignment_lost() {
            return Err(lost("the group has gone on without it"));
        }
        Ok(Some(Claim { offsets, metadata }))
    }

    /// The offsets of `position` are committed.
    pub(crate) fn committed(&self, position: &SourcePosition) {
        let Ok(places) = read_position(position) else { return };
        let mut state = self.state.lock();
        for (key, place) in places {
            if let Some(committed) = state.committed.get_mut(&key) {
                *committed = Some(place);
            }
        }
    }

    /// Nothing is committed from here on.
    fn end(&self) {
        self.state.lock().is_over = true;
    }
}

/// What the group knows of partitions; only what no open transaction may change. Blocks.
fn committed<'a>(
    client: &Client,
    keys: impl Iterator<Item = &'a Key>,
) -> Result<BTreeMap<Key, Option<i64>>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (topic, number) in keys {
        list.add_partition(topic, *number);
    }
    let found = client.committed_offsets(list, ASK_TIMEOUT)?;
    let mut offsets = BTreeMap::new();
    for element in found.elements() {
        element.error()?;
        let offset = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        offsets.insert((element.topic().to_owned(), element.partition()), offset);
    }
    Ok(offsets)
}

/// A place, and what the group knows of it.
type Found = BTreeMap<Key, (i64, Option<i64>)>;

/// What a share is waiting for.
enum Waits {
    Nothing,
    /// Partitions were given; a thread finds out where they are read from.
    Places(Arc<Mutex<Option<Result<Found, SourceError>>>>),
    /// Partitions are to be given back once what was read of them is committed.
    Commit(Vec<Key>),
}

/// The share of this process.
pub(super) struct Group {
    pub(super) member: Arc<Member>,
    told: Arc<Told>,
    plan: Plan,
    /// The position of the checkpoint it began with: what it names, the group must know.
    before: Option<Places>,
    waits: Waits,
}

/// What a source has to do because of the group.
pub(super) enum Change {
    /// Read these as well.
    Add(Places),
    /// Give these back.
    Remove(Vec<Key>),
}

impl Group {
    /// Becomes a member. Blocks.
    pub(super) fn join(plan: &Plan, client: &Arc<Client>, before: Option<Places>) -> Result<Self, SourceError> {
        let told = Arc::clone(&client.client().context().0);
        let topics: Vec<&str> = plan.topics.iter().map(String::as_str).collect();
        client.subscribe(&topics).map_err(|error| failed(plan, &told, "join the group at", &error))?;
        let cluster = client.client().fetch_cluster_id(ANSWER_TIMEOUT);
        let member = Arc::new(Member::new(client, cluster));
        Ok(Self { member, told, plan: plan.clone(), before, waits: Waits::Nothing })
    }

    /// Whether a checkpoint is waited for.
    pub(super) fn wants_checkpoint(&self) -> bool {
        matches!(self.waits, Waits::Commit(_))
    }

    /// Whether a partition is about to be given back.
    pub(super) fn is_leaving(&self, topic: &str, number: i32) -> bool {
        matches!(&self.waits, Waits::Commit(keys) if keys.iter().any(|key| key.0 == topic && key.1 == number))
    }

    /// What is to be done, if anything; `read` says how far a partition has been read.
    pub(super) fn change(
        &mut self,
        client: &Arc<Client>,
        wake: &Arc<tokio::sync::Notify>,
        read: impl Fn(&Key) -> Option<i64>,
    ) -> Result<Option<Change>, SourceError> {
        if self.told.rebalances.has_lost() {
            self.member.end();
            let group = &self.plan.group;
            return Err(SourceError::lost(format!(
                "the group {group} has given the partitions to others, since nothing was heard of this process"
            )));
        }
        match &self.waits {
            Waits::Places(places) => {
                let Some(found) = places.lock().take() else { return Ok(None) };
                let found = found?;
                self.waits = Waits::Nothing;
                let mut state = self.member.state.lock();
                state.committed.extend(found.iter().map(|(key, (_, committed))| (key.clone(), *committed)));
                Ok(Some(Change::Add(found.into_iter().map(|(key, (place, _))| (key, place)).collect())))
            }
            Waits::Commit(keys) => {
                let mut state = self.member.state.lock();
                if !may_go(keys, &state.committed, &read) {
                    return Ok(None);
                }
                let keys = keys.clone();
                state.committed.retain(|key, _| !keys.contains(key));
                drop(state);
                self.waits = Waits::Nothing;
                tracing::info!(group = %self.plan.group, partitions = keys.len(), "gave partitions back to the group");
                Ok(Some(Change::Remove(keys)))
            }
            Waits::Nothing => {
                match self.told.rebalances.next() {
                    None => return Ok(None),
                    // It is answered all the same: the group goes on then.
                    Some(Rebalance::Given(keys)) if keys.is_empty() => return Ok(Some(Change::Add(Places::new()))),
                    Some(Rebalance::Given(keys)) => {
                        tracing::info!(group = %self.plan.group, partitions = keys.len(), "was given partitions");
                        self.ask_for_places(client, wake, keys)?;
                    }
                    Some(Rebalance::Taken(keys) | Rebalance::Lost(keys)) => self.waits = Waits::Commit(keys),
                }
                // It may be done at once.
                self.change(client, wake, read)
            }
        }
    }

    /// Asks on a thread of its own: a transaction of the member before may have to come to its end first.
    fn ask_for_places(
        &mut self,
        client: &Arc<Client>,
        wake: &Arc<tokio::sync::Notify>,
        keys: Vec<Key>,
    ) -> Result<(), SourceError> {
        let slot = Arc::new(Mutex::new(None));
        let (told, plan, before) = (Arc::clone(&self.told), self.plan.clone(), self.before.clone());
        let (client, wake, filled) = (Arc::downgrade(client), Arc::clone(wake), Arc::clone(&slot));
        let thread = std::thread::Builder::new().name("kafka-places".to_owned()).spawn(move || {
            let found = loop {
                let Some(client) = client.upgrade().filter(|_| !told.rebalances.is_closing.load(Ordering::Acquire))
                else {
                    return;
                };
                match places(&plan, &client, &keys, before.as_ref()) {
                    Err(error) if matches!(error.kind, ErrorKind::Transient | ErrorKind::Timeout) => {
                        tracing::info!(%error, group = %plan.group, "cannot see yet where partitions are read from");
                        std::thread::sleep(Duration::from_millis(200));
                    }
                    found => break found,
                }
            };
            *filled.lock() = Some(found);
            wake.notify_one();
        });
        thread.map_err(|error| SourceError::new(ErrorKind::Transient, format!("cannot start a thread: {error}")))?;
        self.waits = Waits::Places(slot);
        Ok(())
    }

    /// Whether it can stay as it is for a while: nothing is to be answered.
    pub(super) fn may_park(&self) -> bool {
        matches!(self.waits, Waits::Nothing) && self.told.rebalances.said.lock().is_empty()
    }

    /// Whether the group knows that a partition was read so far.
    pub(super) fn knows(&self, topic: &str, number: i32, next: i64) -> bool {
        let key = (topic.to_owned(), number);
        self.member.state.lock().committed.get(&key) == Some(&Some(next))
    }

    /// Nothing is committed any more of what was read until now.
    pub(super) fn end(&self) {
        self.member.end();
    }

    /// Goes on after [`Group::end`], from what the group knows of these partitions, or from `places` where it knows
    /// nothing. Blocks.
    pub(super) fn resume(&mut self, client: &Arc<Client>, places: &Places) -> Result<Places, SourceError> {
        let found = ask_for(LEADER_TIMEOUT, || committed(client, places.keys()));
        let found = found.map_err(|error| failed(&self.plan, &self.told, "ask for offsets of", &error))?;
        let now: Places = places.iter().map(|(key, place)| (key.clone(), found[key].unwrap_or(*place))).collect();
        let member = Member::new(client, self.member.cluster.clone());
        member.state.lock().committed = found;
        self.member = Arc::new(member);
        Ok(now)
    }

    /// Lets go of everything, so that the client can be closed.
    pub(super) fn leave(&mut self, client: &Client) {
        self.member.end();
        let rebalances = &self.told.rebalances;
        rebalances.is_closing.store(true, Ordering::Release);
        let mut given = TopicPartitionList::new();
        let mut taken = TopicPartitionList::new();
        let add = |list: &mut TopicPartitionList, keys: &[Key]| {
            for (topic, number) in keys {
                list.add_partition(topic, *number);
            }
        };
        let mut unanswered: Vec<Rebalance> = std::mem::take(&mut *rebalances.said.lock()).into();
        let mut is_given = matches!(self.waits, Waits::Places(_));
        if let Waits::Commit(keys) = &self.waits {
            unanswered.push(Rebalance::Taken(keys.clone()));
        }
        for said in &unanswered {
            match said {
                Rebalance::Given(keys) => {
                    is_given = true;
                    add(&mut given, keys);
                }
                Rebalance::Taken(keys) | Rebalance::Lost(keys) => add(&mut taken, keys),
            }
        }
        // What was given is not taken, which answers as well.
        let given = if is_given { client.incremental_assign(&TopicPartitionList::new()) } else { Ok(()) };
        let taken = if taken.count() > 0 { client.incremental_unassign(&taken) } else { Ok(()) };
        for error in given.err().into_iter().chain(taken.err()) {
            tracing::debug!(%error, group = %self.plan.group, "the group could not be answered when it was left");
        }
    }
}

/// Whether partitions may be given back: what was read of each of them is committed. Of one that was not read nothing has
/// to be.
pub(super) fn may_go(keys: &[Key], committed: &BTreeMap<Key, Option<i64>>, read: impl Fn(&Key) -> Option<i64>) -> bool {
    keys.iter().all(|key| read(key).is_none_or(|read| committed.get(key) == Some(&Some(read))))
}

fn failed(plan: &Plan, told: &Told, doing: &str, error: &KafkaError) -> SourceError {
    let (kind, reason) = told.explain(error);
    let message = format!("cannot {doing} Kafka at {} (group {}): {reason}", plan.cluster.brokers(), plan.group);
    SourceError::new(kind, message)
}

/// Where partitions are read from. Blocks.
fn places(plan: &Plan, client: &Client, keys: &[Key], before: Option<&Places>) -> Result<Found, SourceError> {
    let told = &client.client().context().0;
    let unanswered = |error: &KafkaError| match kind_of(error) {
        // Also that a transaction is open which may change it.
        ErrorKind::Transient | ErrorKind::Timeout => {
            SourceError::new(ErrorKind::Transient, failed(plan, told, "ask for offsets of", error).message)
        }
        _ => failed(plan, told, "ask for offsets of", error),
    };
    let mut known = committed(client, keys.iter()).map_err(|error| unanswered(&error))?;
    let is_begun = |key: &Key| before.is_some_and(|before| before.contains_key(key));
    let is_unknown = |known: &BTreeMap<Key, Option<i64>>, key: &Key| known.get(key).copied().flatten().is_none();
    if plan.start == Start::Latest && keys.iter().any(|key| is_unknown(&known, key) && !is_begun(key)) {
        let wait = |what: &str| {
            let message = format!("{what} the group {} begins, with `start: latest`", plan.group);
            Err(SourceError::new(ErrorKind::Transient, message))
        };
        let beginning = begin_at_ends(plan, client, keys).map_err(|error| unanswered(&error))?;
        if beginning == Beginning::OfAnother {
            return wait("another process has the first partition, and says where");
        }
        known = committed(client, keys.iter()).map_err(|error| unanswered(&error))?;
        // The brokers may have taken some of the offsets and not all.
        if beginning == Beginning::Said && keys.iter().any(|key| is_unknown(&known, key)) {
            return wait("the brokers do not know yet where");
        }
    }
    let mut found = Found::new();
    for key in keys {
        let (topic, number) = (&key.0, key.1);
        let ends = client.fetch_watermarks(topic, number, ASK_TIMEOUT);
        let (oldest, end) = ends.map_err(|error| unanswered(&error))?;
        let place = match known.get(key).copied().flatten() {
            Some(place) => {
                check_place(&name(topic, number), place, oldest, end)?;
                place
            }
            None if is_begun(key) => {
                return Err(SourceError::new(
                    ErrorKind::NotFound,
                    format!(
                        "the group {} does not know any more how far {} was read; the brokers forget what nobody \
                         reads after a while (offsets.retention.minutes)",
                        plan.group,
                        name(topic, number)
                    ),
                ));
            }
            // With `latest`, one that has come up since others were read, which is new as a whole.
            None => oldest,
        };
        found.insert(key.clone(), (place, known.get(key).copied().flatten()));
    }
    Ok(found)
}

/// Who says where a group begins that has read nothing yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// It has begun.
    Known,
    /// This process has just said so.
    Said,
    /// The process with the first partition will.
    OfAnother,
}

/// Lets a group that knows nothing of any partition of the topics begin with what comes now. The group is told before
/// anything is read: whoever is killed from then on goes on from there. Of several processes that come at the same time the
/// one with the first partition tells it, for all: the ends that others see are later ones or earlier ones.
fn begin_at_ends(plan: &Plan, client: &Client, keys: &[Key]) -> Result<Beginning, KafkaError> {
    let mut all = Vec::new();
    for topic in &plan.topics {
        let metadata = client.fetch_metadata(Some(topic), ASK_TIMEOUT)?;
        let numbers = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
        all.extend(numbers.map(|number| (topic.clone(), number)));
    }
    if committed(client, all.iter())?.values().any(Option::is_some) {
        return Ok(Beginning::Known);
    }
    if all.iter().min().is_none_or(|first| !keys.contains(first)) {
        return Ok(Beginning::OfAnother);
    }
    let mut ends = TopicPartitionList::new();
    for (topic, number) in &all {
        let (_, end) = client.fetch_watermarks(topic, *number, ASK_TIMEOUT)?;
        ends.add_partition_offset(topic, *number, Offset::Offset(end))?;
    }
    client.commit(&ends, CommitMode::Sync)?;
    Ok(Beginning::Said)
}
