//! A source that is being read: a queue for each partition, filled by the library, emptied in turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use weir_base::ErrorKind;
use weir_component::source::{Next, PartitionName, Share, Source, SourceError, SourcePosition, SourceRows};

use super::Plan;
use super::group::{Change, ClaimError, Group, Key};
use super::open::{Client, Places, gone, name, partitions, read_of, write_position};
use super::parked::{Parked, park};
use super::rows::Batcher;
use crate::client::{ANSWER_TIMEOUT, Context, blocking, kind_of, text_of};

/// How long it waits for a message before it says that there is none.
const PATIENCE: Duration = Duration::from_millis(100);

/// A partition that is read.
struct Partition {
    name: PartitionName,
    topic: String,
    number: i32,
    queue: PartitionQueue<Context>,
    /// The offset it began with.
    began: i64,
    /// The offset after the last message that was given.
    next: i64,
    batcher: Batcher,
}

/// What was found out about the topics last: how many partitions each has, or why that is not known.
type Found = Arc<Mutex<Option<Result<BTreeMap<String, i32>, SourceError>>>>;

pub(super) struct KafkaSource {
    plan: Plan,
    client: Arc<Client>,
    partitions: Vec<Partition>,
    names: Arc<[PartitionName]>,
    /// Told whenever a queue is not empty any more.
    ready: Arc<Notify>,
    /// Which partition is asked first.
    first: usize,
    found: Found,
    /// How often in a row a topic was not there.
    missing: u32,
    /// Ends the thread that looks for partitions when it is dropped.
    _looking: Option<SyncSender<()>>,
    /// The share of this process, if it reads together with others.
    group: Option<Group>,
    /// It began at ends that it would not find again, and no checkpoint says where. Until one does it gives nothing, so that
    /// nothing is shown by a pipeline that would begin elsewhere if it were killed now.
    is_unplaced: bool,
}

impl KafkaSource {
    /// Begins to read at `places`, which nobody else knows if it `is_unplaced`. Blocks.
    pub(super) fn new(plan: Plan, client: Client, places: &Places, is_unplaced: bool) -> Result<Self, SourceError> {
        let client = Arc::new(client);
        let found = Found::default();
        let looking = look(plan.clone(), Arc::clone(&client), Arc::clone(&found));
        let looking = looking.map_err(|error| {
            SourceError::new(
                ErrorKind::Transient,
                format!("cannot start the thread that looks for partitions: {error}"),
            )
        })?;
        let mut source = Self::new_empty(plan, client);
        (source.found, source._looking) = (found, Some(looking));
        source.is_unplaced = is_unplaced;
        source.add(places)?;
        Ok(source)
    }

    /// Begins to read together with others: what the group gives, from where it says. `position` is what a
    /// checkpoint knows, which the group must know, too. Blocks.
    pub(super) fn join(plan: Plan, mut client: Client, position: Option<Places>) -> Result<Self, SourceError> {
        let ready = Arc::<Notify>::default();
        let told = Arc::clone(&ready);
        client.set_nonempty_callback(move || told.notify_one());
        let client = Arc::new(client);
        let group = Group::join(&plan, &client, position)?;
        let mut source = Self::new_empty(plan, client);
        (source.ready, source.group) = (ready, Some(group));
        Ok(source)
    }

    /// Goes on as the member that an earlier start has left, from what the group knows. Blocks.
    pub(super) fn resume(plan: Plan, mut parked: Parked) -> Result<Self, SourceError> {
        let places = match &mut parked.group {
            Some(group) => group.resume(&parked.client, &parked.places)?,
            None => Places::new(),
        };
        let mut list = TopicPartitionList::new();
        let mut source = Self::new_empty(plan, Arc::clone(&parked.client));
        source.ready = Arc::clone(&parked.ready);
        for ((topic, number), place) in &places {
            list.add_partition_offset(topic, *number, Offset::Offset(*place)).map_err(|error| source.failed(&error))?;
        }
        let sought = source.client.seek_partitions(list, ANSWER_TIMEOUT).map_err(|error| source.failed(&error))?;
        sought.elements().iter().try_for_each(|it| it.error()).map_err(|error| source.failed(&error))?;
        source.split(&places)?;
        source.name();
        source.group = parked.group.take();
        Ok(source)
    }

    fn new_empty(plan: Plan, client: Arc<Client>) -> Self {
        Self {
            plan,
            client,
            partitions: Vec::new(),
            names: Arc::from([]),
            ready: Arc::default(),
            first: 0,
            found: Found::default(),
            missing: 0,
            _looking: None,
            group: None,
            is_unplaced: false,
        }
    }

    /// Reads more partitions.
    fn add(&mut self, places: &Places) -> Result<(), SourceError> {
        let mut list = TopicPartitionList::new();
        for ((topic, number), place) in places {
            list.add_partition_offset(topic, *number, Offset::Offset(*place)).map_err(|error| self.failed(&error))?;
        }
        // Queues are split off before anything is fetched, so that no message comes through another one.
        self.split(places)?;
        let is_first = self.names.is_empty() && self.group.is_none();
        let assigned = if is_first { self.client.assign(&list) } else { self.client.incremental_assign(&list) };
        assigned.map_err(|error| self.failed(&error))?;
        self.name();
        Ok(())
    }

    /// Takes the queues of partitions.
    fn split(&mut self, places: &Places) -> Result<(), SourceError> {
        for ((topic, number), place) in places {
            let queue = self.client.split_partition_queue(topic, *number);
            let mut queue = queue.ok_or_else(|| {
                SourceError::new(ErrorKind::Internal, format!("there is no queue for {}", name(topic, *number)))
            })?;
            let ready = Arc::clone(&self.ready);
            queue.set_nonempty_callback(move || ready.notify_one());
            let name: PartitionName = name(topic, *number).into();
            let batcher = Batcher::new(&self.plan, topic, *number, Arc::clone(&name));
            self.partitions.push(Partition {
                name,
                topic: topic.clone(),
                number: *number,
                queue,
                began: *place,
                next: *place,
                batcher,
            });
        }
        Ok(())
    }

    /// Says which partitions it reads now.
    fn name(&mut self) {
        self.names = self.partitions.iter().map(|partition| Arc::clone(&partition.name)).collect();
    }

    /// Gives partitions back to the group.
    fn remove(&mut self, keys: &[Key]) -> Result<(), SourceError> {
        let mut list = TopicPartitionList::new();
        for (topic, number) in keys {
            list.add_partition(topic, *number);
        }
        self.partitions.retain(|known| !keys.iter().any(|key| key.0 == known.topic && key.1 == known.number));
        self.name();
        self.client.incremental_unassign(&list).map_err(|error| self.failed(&error))
    }

    /// Does what the group wants.
    fn take_rebalances(&mut self) -> Result<(), SourceError> {
        while let Some(group) = &mut self.group {
            let partitions = &self.partitions;
            let read = |key: &Key| {
                partitions.iter().find(|known| known.topic == key.0 && known.number == key.1).map(|known| known.next)
            };
            match group.change(&self.client, &self.ready, read)? {
                None => break,
                Some(Change::Add(places)) => self.add(&places)?,
                Some(Change::Remove(keys)) => self.remove(&keys)?,
            }
        }
        Ok(())
    }

    /// Commits the offsets of a position to the group, unless a sink has done so.
    async fn commit_share(&mut self, position: &SourcePosition) -> Result<(), SourceError> {
        let Some(group) = &self.group else { return Ok(()) };
        let (member, client, committed) = (Arc::clone(&group.member), Arc::clone(&self.client), position.clone());
        let done = blocking("commit", move || {
            let Some(claim) = member.claim(&committed)? else { return Ok(()) };
            let done = client.commit(&claim.offsets, CommitMode::Sync);
            done.map_err(|error| ClaimError::Unanswered(text_of(&error)))?;
            member.committed(&committed);
            Ok(())
        });
        let done = done.await.map_err(|error| SourceError::new(ErrorKind::Transient, error.to_string()))?;
        done.map_err(|(ClaimError::Lost(reason) | ClaimError::Unanswered(reason))| {
            SourceError::new(ErrorKind::Transient, format!("cannot commit to the group {}: {reason}", self.plan.group))
        })
    }

    fn failed(&self, error: &KafkaError) -> SourceError {
        let place = self.plan.cluster.brokers();
        SourceError::new(kind_of(error), format!("cannot read from Kafka at {place}: {}", text_of(error)))
    }

    /// Takes note of partitions that have come up, and of topics that are gone.
    fn take_found(&mut self) -> Result<(), SourceError> {
        let Some(found) = self.found.lock().take() else { return Ok(()) };
        let counts = match found {
            Ok(counts) => counts,
            // While brokers start again they may not know of a topic for a moment.
            Err(error) if error.kind == ErrorKind::Config && self.missing == 0 => {
                self.missing += 1;
                return Ok(());
            }
            Err(error) if matches!(error.kind, ErrorKind::Transient | ErrorKind::Timeout) => {
                tracing::warn!(%error, "cannot look for new partitions; trying again later");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.missing = 0;
        let is_new = |(topic, number): &(String, i32)| {
            !self.partitions.iter().any(|known| known.topic == *topic && known.number == *number)
        };
        let new: Places = read_of(&self.plan, &counts).into_iter().filter(is_new).map(|key| (key, 0)).collect();
        if !new.is_empty() {
            tracing::info!(topics = %self.plan.topics.join(", "), partitions = new.len(), "found new partitions");
            self.add(&new)?;
        }
        Ok(())
    }

    /// Serves what is not a message.
    fn take_events(&self) -> Result<(), SourceError> {
        while let Some(event) = self.client.poll(Duration::ZERO) {
            match event {
                Ok(message) => {
                    let place = name(message.topic(), message.partition());
                    let message = format!("a message of {place} came through a queue that is not its own");
                    return Err(SourceError::new(ErrorKind::Internal, message));
                }
                Err(error) => self.judge(&error)?,
            }
        }
        Ok(())
    }

    /// What passes by itself is left to the library, which goes on trying.
    fn judge(&self, error: &KafkaError) -> Result<(), SourceError> {
        match kind_of(error) {
            ErrorKind::Transient | ErrorKind::Timeout | ErrorKind::NotFound => {
                tracing::debug!(%error, "Kafka cannot be read at the moment");
                Ok(())
            }
            _ => Err(self.failed(error)),
        }
    }

    /// A batch of the partition that holds back the others, or of the next one that has something.
    fn read(&mut self, behind: Option<&str>) -> Result<Option<SourceRows>, SourceError> {
        self.take_events()?;
        self.take_rebalances()?;
        self.take_found()?;
        if self.is_unplaced {
            return Ok(None);
        }
        let count = self.partitions.len();
        let behind = behind.and_then(|name| self.partitions.iter().position(|known| known.name.as_ref() == name));
        let first = self.first;
        let others = (0..count).map(|step| (first + step) % count);
        for at in behind.into_iter().chain(others) {
            if let Some(rows) = self.read_partition(at)? {
                self.first = (at + 1) % count;
                self.client.client().context().0.well();
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    fn read_partition(&mut self, at: usize) -> Result<Option<SourceRows>, SourceError> {
        let partition = &mut self.partitions[at];
        if self.group.as_ref().is_some_and(|group| group.is_leaving(&partition.topic, partition.number)) {
            return Ok(None);
        }
        while !partition.batcher.is_full() {
            match partition.queue.poll(Duration::ZERO) {
                None => break,
                // Fetched before it was begun anew.
                Some(Ok(message)) if message.offset() < partition.next => {}
                Some(Ok(message)) => {
                    partition.batcher.add(&message);
                    partition.next = message.offset() + 1;
                }
                Some(Err(error)) => {
                    use rdkafka::error::RDKafkaErrorCode as Code;
                    if matches!(error.rdkafka_error_code(), Some(Code::AutoOffsetReset | Code::OffsetOutOfRange)) {
                        return Err(gone(&partition.name, partition.next, None));
                    }
                    self.judge(&error)?;
                    break;
                }
            }
        }
        let partition = &mut self.partitions[at];
        if partition.batcher.is_empty() {
            return Ok(None);
        }
        if partition.batcher.is_full() {
            // What is left there will not be told of again.
            self.ready.notify_one();
        }
        partition.batcher.take().map(Some)
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn next(&mut self, behind: Option<&str>) -> Result<Next, SourceError> {
        if let Some(rows) = self.read(behind)? {
            return Ok(Next::Rows(rows));
        }
        // Whether it was told or time is up: there may be something.
        let _ = tokio::time::timeout(PATIENCE, self.ready.notified()).await;
        Ok(self.read(behind)?.map_or(Next::Nothing(Duration::ZERO), Next::Rows))
    }

    fn position(&self) -> SourcePosition {
        write_position(
            self.plan.part,
            self.partitions.iter().map(|partition| (partition.name.to_string(), partition.next)),
        )
    }

    async fn committed(&mut self, position: &SourcePosition) -> Result<(), SourceError> {
        self.is_unplaced = false;
        // What came meanwhile was told of already.
        self.ready.notify_one();
        if self.group.is_some() {
            return self.commit_share(position).await;
        }
        let mut list = TopicPartitionList::new();
        for (name, place) in &position.partitions {
            let known = self.partitions.iter().find(|known| known.name.as_ref() == name);
            if let (Some(known), Some(offset)) = (known, place.get("offset").and_then(serde_json::Value::as_i64)) {
                let added = list.add_partition_offset(&known.topic, known.number, Offset::Offset(offset));
                added.map_err(|error| self.failed(&error))?;
            }
        }
        self.client.commit(&list, CommitMode::Async).map_err(|error| self.failed(&error))
    }

    fn partitions(&self) -> Option<Arc<[PartitionName]>> {
        Some(Arc::clone(&self.names))
    }

    fn prefers_behind(&self) -> bool {
        true
    }

    fn share(&self) -> Option<Share> {
        let membership = Arc::clone(&self.group.as_ref()?.member);
        Some(Share { membership, position: self.position() })
    }

    fn wants_checkpoint(&self) -> bool {
        self.is_unplaced || self.group.as_ref().is_some_and(Group::wants_checkpoint)
    }

    fn lag_rows(&self) -> Option<u64> {
        // Nothing is known before the first statistics.
        self.client.client().context().0.statistics.lock().as_ref()?;
        Some(self.lags().into_iter().map(|(_, lag)| lag).sum())
    }

    fn lags(&self) -> Vec<(PartitionName, u64)> {
        let told = &self.client.client().context().0;
        let statistics = told.statistics.lock();
        let Some(topics) = statistics.as_ref().map(|statistics| &statistics.topics) else { return Vec::new() };
        let lag = |partition: &Partition| {
            let end = topics.get(&partition.topic)?.partitions.get(&partition.number)?.ls_offset;
            let lag = u64::try_from(end.saturating_sub(partition.next)).ok()?;
            Some((Arc::clone(&partition.name), lag))
        };
        self.partitions.iter().filter_map(lag).collect()
    }
}

impl Drop for KafkaSource {
    /// Leaves the group, if it is in one, so that the others do not have to wait for the end of its session; unless
    /// something has failed, when it may be begun again at once.
    fn drop(&mut self) {
        let Some(mut group) = self.group.take() else { return };
        group.end();
        let is_committed = |it: &Partition| group.knows(&it.topic, it.number, it.next);
        let may_go_on = group.may_park() && !self.partitions.iter().all(is_committed);
        let places = self.partitions.drain(..).map(|it| ((it.topic, it.number), it.began)).collect();
        let (client, ready) = (Arc::clone(&self.client), Arc::clone(&self.ready));
        if may_go_on {
            park(&self.plan, Parked { group: Some(group), client, ready, places });
        } else {
            group.leave(&self.client);
        }
    }
}

/// Looks for partitions every so often, on a thread that ends when what is returned is dropped.
fn look(plan: Plan, client: Arc<Client>, found: Found) -> std::io::Result<SyncSender<()>> {
    let (stop, stopped) = sync_channel(0);
    std::thread::Builder::new().name("kafka-partitions".to_owned()).spawn(move || {
        while stopped.recv_timeout(plan.discover) == Err(RecvTimeoutError::Timeout) {
            let counts = partitions(&plan, &client);
            *found.lock() = Some(counts);
        }
    })?;
    Ok(stop)
}
