//! From plan to job: which steps share a task, how many instances a task has, and the lanes between.
//!
//! A step joins the task of the step before it if it is the only reader of that step's only output, and
//! takes rows as they come. A task has one instance if its first step wants all rows in one place, as
//! many as the plan's parallelism if it spreads them by key, else as many as what it reads from.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_base::Clock;
use weir_component::checkpoint::CheckpointStore;
use weir_component::operator::{Distribution, Share};
use weir_component::sink::{Opening, PlannedSink};

use crate::align::Alignment;
use crate::aside::aside_schema;
use crate::board::Board;
use crate::breaker::{Breaker, BreakerOptions};
use crate::chain::{ChainTask, Link, Outlet, Outlets, Spread, StateBudget};
use crate::check::check;
use crate::coordinator::{Coordinator, Deciding};
use crate::error::JobError;
use crate::idleness::{self, Idleness};
use crate::insight::Blocking;
use crate::job::{Backoff, Job, JobOptions, Replays, World};
use crate::kept::Kept;
use crate::lane::{Inlets, Lane, REPLAYS, Waker};
use crate::moments::Moments;
use crate::outbox::{Outbox, OutboxState, columns_of};
use crate::outbox_task::OutboxTask;
use crate::plan::{Input, Plan, PlanStep};
use crate::recovery::{Decided, Recovered, newest, owner, recover, take_over_sink};
use crate::replay::{Doors, REPLAY_ID, ReplayTask, Way, sink_door};
use crate::sink_end::SinkEnd;
use crate::sink_task::{SinkState, SinkTask};
use crate::sink_work::{Opener, may_come};
use crate::source_task::SourceTask;
use crate::stats::{NodeStats, Progress};
use crate::time::SourceTime;

/// Rows that are kept for sinks in memory, of those that were given and of those that wait, are each at most one part in so many
/// of what states may take.
const KEPT_SHARE: usize = 16;

/// Steps that share a task.
struct Group {
    steps: Vec<usize>,
    instances: usize,
}

/// A writer or reader of lanes, before it becomes a task.
#[derive(Default)]
struct Ends {
    waker: Waker,
    outlets: Outlets,
    inlets: Vec<(Arc<Lane>, usize)>,
    doors: Doors,
}

impl Job {
    /// Takes over the pipeline where its newest checkpoint in `store` ends, and opens what it reads and writes.
    ///
    /// # Errors
    /// If the checkpoint is damaged or not one of this plan, or something cannot be opened.
    pub async fn open(
        plan: &Plan,
        store: Arc<dyn CheckpointStore>,
        clock: Arc<dyn Clock>,
        options: JobOptions,
    ) -> Result<Self, JobError> {
        let owner = owner(store.as_ref(), plan, &options).await?;
        let decided = take_over_sink(plan, &owner, &options.opening).await?;
        let recovered = recover(store.as_ref(), plan, &options, (&owner, decided.as_ref()), clock.now()).await?;
        let world = World { store, clock, options };
        let groups = groups(plan);
        let ends = connect(plan, &groups, world.options.lane_rows_max, world.options.replays.is_some());
        assemble(plan, world, groups, ends, recovered, decided).await
    }
}

impl Plan {
    /// The epoch a job of this plan would go on from; `None` if nothing has been done yet. Whoever runs the
    /// pipeline at the moment does not notice.
    ///
    /// # Errors
    /// [`JobError::Changed`] if the checkpoint is not one of this plan; another one if it cannot be read.
    pub async fn resumes(&self, store: &dyn CheckpointStore) -> Result<Option<u64>, JobError> {
        let Some(manifest) = newest(store).await? else { return Ok(None) };
        check(self, &manifest)?;
        // Every start writes a manifest before it has done anything.
        Ok((manifest.prepared > 0).then_some(manifest.prepared))
    }
}

/// All sinks of a plan, those of rows set aside last: id, sink, what it reads.
fn sinks(plan: &Plan) -> Vec<(&str, &Arc<dyn PlannedSink>, Option<Input>)> {
    let ordinary = plan.sinks.iter().map(|sink| (sink.id.as_str(), &sink.sink, Some(sink.input)));
    let aside = plan.late.iter().chain(&plan.dead).map(|aside| (aside.id.as_str(), &aside.sink, None));
    ordinary.chain(aside).collect()
}

fn readers(plan: &Plan, input: Input) -> usize {
    let steps = plan.steps.iter().flat_map(|step| &step.inputs).filter(|read| **read == input).count();
    steps + plan.sinks.iter().filter(|sink| sink.input == input).count()
}

fn groups(plan: &Plan) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, step) in plan.steps.iter().enumerate() {
        let previous = match step.inputs.as_slice() {
            [Input::Step { step: before, branch: 0 }]
                if matches!(step.step.distribution(0), Distribution::Any)
                    && plan.steps[*before].step.outputs().len() == 1
                    && readers(plan, step.inputs[0]) == 1 =>
            {
                groups.iter_mut().find(|group| group.steps.last() == Some(before))
            }
            _ => None,
        };
        if let Some(group) = previous {
            group.steps.push(at);
            continue;
        }
        let wants: Vec<Distribution> = (0..step.inputs.len()).map(|input| step.step.distribution(input)).collect();
        let instances = if wants.iter().any(|want| matches!(want, Distribution::Single)) {
            1
        } else if wants.iter().any(|want| matches!(want, Distribution::ByKey(_))) {
            plan.parallelism.max(1)
        } else {
            step.inputs.iter().map(|input| instances(&groups, *input)).max().unwrap_or(1)
        };
        groups.push(Group { steps: vec![at], instances });
    }
    groups
}

/// How many instances write an input.
fn instances(groups: &[Group], input: Input) -> usize {
    match input {
        Input::Source(_) => 1,
        Input::Step { step, .. } => {
            groups.iter().find(|group| group.steps.contains(&step)).map_or(1, |group| group.instances)
        }
    }
}

/// A task, before it is one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Source(usize),
    Replay,
    Chain { group: usize, instance: usize },
    Sink(usize),
}

fn writers(groups: &[Group], input: Input) -> Vec<Node> {
    match input {
        Input::Source(source) => vec![Node::Source(source)],
        Input::Step { step, .. } => {
            let group = groups.iter().position(|group| group.steps.contains(&step)).unwrap_or(0);
            (0..groups[group].instances).map(|instance| Node::Chain { group, instance }).collect()
        }
    }
}

fn connect(plan: &Plan, groups: &[Group], rows_max: usize, has_replays: bool) -> BTreeMap<Node, Ends> {
    let mut ends: BTreeMap<Node, Ends> = BTreeMap::new();
    let sinks = sinks(plan);
    let nodes = (0..plan.sources.len()).map(Node::Source).chain((0..sinks.len()).map(Node::Sink)).chain(
        groups
            .iter()
            .enumerate()
            .flat_map(|(group, shape)| (0..shape.instances).map(move |instance| Node::Chain { group, instance })),
    );
    for node in nodes.chain(has_replays.then_some(Node::Replay)) {
        ends.insert(node, Ends::default());
    }
    // Every reader with what it reads.
    let mut edges: Vec<(Input, usize, Vec<Node>, Distribution)> = Vec::new();
    for (group, shape) in groups.iter().enumerate() {
        let first = &plan.steps[shape.steps[0]];
        for (at, input) in first.inputs.iter().enumerate() {
            let readers = (0..shape.instances).map(|instance| Node::Chain { group, instance }).collect();
            edges.push((*input, at, readers, first.step.distribution(at)));
        }
    }
    for (at, (_, _, input)) in sinks.iter().enumerate() {
        if let Some(input) = input {
            edges.push((*input, 0, vec![Node::Sink(at)], Distribution::Single));
        }
    }
    if has_replays {
        connect_replays(plan, groups, &mut ends, rows_max);
    }
    for (input, at, readers, distribution) in edges {
        for (number, writer) in writers(groups, input).into_iter().enumerate() {
            let lanes: Vec<Arc<Lane>> =
                readers.iter().map(|reader| lane(&mut ends, (writer, *reader), at, rows_max)).collect();
            let spread = match &distribution {
                Distribution::ByKey(keys) => Spread::ByKey(Arc::clone(keys)),
                Distribution::Any => Spread::To(number % lanes.len()),
                Distribution::Single => Spread::To(0),
            };
            let branch = match input {
                Input::Source(_) => 0,
                Input::Step { branch, .. } => branch,
            };
            if let Some(end) = ends.get_mut(&writer) {
                end.outlets.outlets.push(Outlet { branch, lanes, spread });
            }
        }
    }
    // Everybody who may set rows aside; nothing is late for a sink.
    let mut at = plan.sinks.len();
    let all: Vec<Node> = ends.keys().copied().collect();
    for (is_there, is_late) in [(plan.late.is_some(), true), (plan.dead.is_some(), false)] {
        if !is_there {
            continue;
        }
        let may = |writer: &&Node| match writer {
            Node::Sink(sink) => !is_late && *sink < plan.sinks.len(),
            _ => true,
        };
        for writer in all.iter().filter(may) {
            let lane = lane(&mut ends, (*writer, Node::Sink(at)), 0, rows_max);
            if let Some(end) = ends.get_mut(writer) {
                let outlet = if is_late { &mut end.outlets.late } else { &mut end.outlets.dead };
                *outlet = Some(lane);
            }
        }
        at += 1;
    }
    ends
}

/// What runs rows again reaches every step and every sink.
fn connect_replays(plan: &Plan, groups: &[Group], ends: &mut BTreeMap<Node, Ends>, rows_max: usize) {
    let mut doors = Doors::default();
    let mut of_source = vec![Vec::new(); plan.sources.len()];
    for (group, shape) in groups.iter().enumerate() {
        let nodes = (0..shape.instances).map(|instance| Node::Chain { group, instance });
        let lanes: Vec<Arc<Lane>> = nodes.map(|node| lane(ends, (Node::Replay, node), REPLAYS, rows_max)).collect();
        doors.lanes.extend(lanes.iter().cloned());
        for (link, step) in shape.steps.iter().enumerate() {
            let PlanStep { id, step, inputs } = &plan.steps[*step];
            let way = |input: usize| Way {
                lanes: lanes.clone(),
                to: Some((link, input)),
                keys: match step.distribution(input) {
                    Distribution::ByKey(keys) if link == 0 => Some(keys),
                    _ => None,
                },
            };
            for (at, input) in inputs.iter().enumerate() {
                if let Input::Source(source) = input {
                    of_source[*source].push(way(at));
                }
            }
            let inputs = inputs.iter().enumerate().map(|(at, input)| (plan.schema_of(*input), way(at)));
            doors.steps.insert(id.clone(), inputs.collect());
        }
    }
    for (at, sink) in plan.sinks.iter().enumerate() {
        let lane = lane(ends, (Node::Replay, Node::Sink(at)), REPLAYS, rows_max);
        doors.lanes.push(Arc::clone(&lane));
        let way = Way { lanes: vec![lane], to: None, keys: None };
        if let Input::Source(source) = sink.input {
            of_source[source].push(way.clone());
        }
        doors.steps.insert(sink_door(&sink.id), vec![(plan.schema_of(sink.input), way)]);
    }
    for (source, ways) in plan.sources.iter().zip(of_source) {
        doors.sources.insert(source.id.clone(), (source.clone(), ways));
    }
    if let Some(end) = ends.get_mut(&Node::Replay) {
        end.doors = doors;
    }
}

/// A lane between two tasks.
fn lane(ends: &mut BTreeMap<Node, Ends>, (writer, reader): (Node, Node), input: usize, rows_max: usize) -> Arc<Lane> {
    let waker = |node: &Node| ends.get(node).map(|end| end.waker.clone()).unwrap_or_default();
    let lane = Lane::new(waker(&writer), waker(&reader), rows_max);
    if let Some(end) = ends.get_mut(&reader) {
        end.inlets.push((Arc::clone(&lane), input));
    }
    lane
}

async fn assemble(
    plan: &Plan,
    world: World,
    groups: Vec<Group>,
    mut ends: BTreeMap<Node, Ends>,
    recovered: Recovered,
    decided: Option<Decided>,
) -> Result<Job, JobError> {
    let World { store, clock, options } = world;
    let Recovered { manifest, states } = recovered;
    let (generation, epoch) = (manifest.generation, manifest.epoch);
    let sinks_of_plan = sinks(plan);
    let board = Arc::new(Board::new(sinks_of_plan.len(), plan.sinks.len()));
    let stats = |ids: Vec<String>| ids.into_iter().map(|id| (id, NodeStats::new())).collect::<Vec<_>>();
    let progress = Arc::new(Progress {
        sources: stats(plan.sources.iter().map(|source| source.id.clone()).collect()),
        steps: stats(plan.steps.iter().map(|step| step.id.clone()).collect()),
        sinks: stats(sinks_of_plan.iter().map(|(id, _, _)| (*id).to_owned()).collect()),
        ..Progress::default()
    });
    progress.epoch.store(epoch, std::sync::atomic::Ordering::Relaxed);
    let backoff =
        |seed: usize| Backoff::new(Arc::clone(&clock), options.retry_time_max, generation << 16 | seed as u64);

    let deciding = decided.as_ref().map(|decided| Deciding {
        sink: decided.sink.clone(),
        last: decided.taken.decided().cloned(),
        forgotten: manifest.forgotten.clone(),
    });
    let mut decided = decided;

    let budget = Arc::new(StateBudget::new(options.state_bytes_max));
    let kept_bytes_max = options.kept_bytes_max.min(options.state_bytes_max / (KEPT_SHARE * plan.sinks.len().max(1)));

    // Sinks before sources: what an unfinished epoch left there is settled first.
    let (mut sinks, mut outboxes) = (Vec::new(), Vec::new());
    let mut is_left = false;
    for (at, (id, planned, input)) in sinks_of_plan.iter().enumerate() {
        let Ends { waker, inlets, outlets, .. } = ends.remove(&Node::Sink(at)).unwrap_or_default();
        let owed = manifest.outboxes.get(*id);
        let called = owed.map_or(manifest.prepared, |owed| owed.prepared);
        let last = manifest.sinks.get(*id).map(|receipt| (called, receipt.clone()));
        let schema = match input {
            None => aside_schema(),
            Some(input) => plan.schema_of(*input),
        };
        let revised = plan.sinks.get(at).filter(|sink| !sink.key.is_empty()).map(|sink| plan.given(sink));
        let given = revised.as_ref().map_or_else(|| Arc::clone(&schema), Arc::clone);
        let taken = decided.take_if(|decided| decided.sink == *id);
        let time_max = options.retry_time_max;
        let tuned = plan
            .sinks
            .get(at)
            .map_or(BreakerOptions { budget: time_max, ..BreakerOptions::default() }, |sink| sink.breaker);
        board.add_task(waker.clone());
        let end = SinkEnd {
            index: at,
            id: (*id).to_owned(),
            inlets: Inlets::new(inlets, i64::MIN),
            outlets,
            board: Arc::clone(&board),
            waker,
            stats: Arc::clone(&progress.sinks[at].1),
            backoff: Backoff::new(Arc::clone(&clock), tuned.budget, generation << 16 | at as u64),
            breaker: Breaker::new(tuned),
            clock: Arc::clone(&clock),
            epoch,
            is_shown_by_commit: planned.commit_interval().is_some(),
            revised,
            schema,
            backlog: 0,
        };
        let failed = |error| JobError::sink(id, error);
        options.opening.say(planned.describe());
        let opening = Opening { generation, last: last.clone() };
        if let Some(decided) = taken {
            let mut sink = decided.taken.open(given, opening).await.map_err(failed)?;
            let refused = sink.refused();
            is_left |= !refused.is_empty();
            sinks.push(SinkTask { end, sink, state: SinkState::new(refused), decides: true });
            continue;
        }
        let columns = columns_of(&given);
        let kept = Arc::new(Kept::new(&store, id));
        let opener = Opener { planned: Arc::clone(planned), schema: given, opening, kept };
        let is_beside_others = plan.sinks.len() > 1 && at < plan.sinks.len() && !plan.is_shared();
        let is_owed = owed.is_some_and(OutboxState::is_owed);
        is_left |= is_owed;
        let was_open = last.is_some() || owed.is_some();
        let opened = if (is_beside_others || is_owed) && was_open && !manifest.finished {
            // One that has been open before does not hold up the others if it cannot be now, or takes long.
            Err(opener)
        } else {
            match opener.open().await {
                Ok(mut sink) => {
                    let refused = sink.refused();
                    // Of the epochs before: there is one more to come, whatever else is at its end.
                    is_left |= !refused.is_empty();
                    Ok((sink, refused))
                }
                Err(error) if (is_beside_others || is_owed) && manifest.finished && may_come(&error) => {
                    tracing::warn!(sink = id, %error, "a sink cannot be opened, and is tried again");
                    is_left = true;
                    Err(opener)
                }
                Err(error) => return Err(failed(error)),
            }
        };
        match opened {
            Ok((sink, refused)) if !(is_beside_others || is_owed) => {
                sinks.push(SinkTask { end, sink, state: SinkState::new(refused), decides: false });
            }
            opened => {
                let outbox = Outbox::new(
                    Arc::clone(&store),
                    (generation, &options.writer),
                    (id, columns),
                    owed.cloned(),
                    (tuned.backlog_bytes_max.min(options.backlog_bytes_max), kept_bytes_max),
                );
                let budget = Arc::clone(&budget);
                outboxes.push(OutboxTask::new(end, (outbox, budget), backoff(300 + at), opened, last));
            }
        }
    }

    let mut chains = Vec::new();
    for (group, shape) in groups.iter().enumerate() {
        for instance in 0..shape.instances {
            let Ends { waker, outlets, inlets, .. } = ends.remove(&Node::Chain { group, instance }).unwrap_or_default();
            let mut links = Vec::new();
            for step in &shape.steps {
                let planned = &plan.steps[*step];
                let failed = |error| JobError::operator(&planned.id, error);
                let mut operator = planned.step.make().map_err(failed)?;
                let own = states.get(&planned.id).map_or(&[][..], Vec::as_slice);
                operator.restore(own, Share { index: instance, count: shape.instances }).map_err(failed)?;
                let stats = Arc::clone(&progress.steps[*step].1);
                links.push(Link {
                    id: planned.id.clone(),
                    operator,
                    stats,
                    takes_revisions: planned.step.takes_revisions(),
                    moments: Moments::new(planned.step.early()),
                    waiting: plan.waiting(planned),
                    told: i64::MIN,
                });
            }
            board.add_task(waker.clone());
            let last = shape.steps.last().map(|step| plan.steps[*step].id.as_str()).unwrap_or_default();
            let watermark = manifest.steps.get(last);
            let first = shape.steps.first().and_then(|step| manifest.steps.get(&plan.steps[*step].id));
            let reached = first.and_then(|state| state.reached).unwrap_or(i64::MIN);
            chains.push(ChainTask {
                index: group,
                instance,
                links,
                inlets: Inlets::new(inlets, reached),
                outlets,
                board: Arc::clone(&board),
                waker,
                clock: Arc::clone(&clock),
                budget: Arc::clone(&budget),
                measured: 0,
                messages: 0,
                watermark: watermark.map_or(i64::MIN, |state| state.watermark),
                told: i64::MIN,
                blocking: Blocking::default(),
            });
        }
    }

    let alignment = Arc::new(Alignment::new(plan.sources.len()));
    let idleness = Arc::new(Idleness::new(&idleness::groups(plan)));
    let names: Arc<[String]> = plan.sources.iter().map(|source| source.id.clone()).collect();
    let mut sources = Vec::new();
    for (at, planned) in plan.sources.iter().enumerate() {
        let Ends { waker, outlets, .. } = ends.remove(&Node::Source(at)).unwrap_or_default();
        let state = manifest.sources.get(&planned.id).cloned();
        let (position, mut time) = match state {
            Some(state) => (Some(state.position), state.time),
            None => (None, SourceTime::default()),
        };
        options.opening.say(planned.source.describe());
        let source = planned.source.open(position).await.map_err(|error| JobError::source(&planned.id, error))?;
        if let Some(names) = source.partitions() {
            time.set_partitions(&names);
        }
        board.add_task(waker.clone());
        let at_barrier = source.position();
        sources.push(SourceTask {
            index: at,
            id: planned.id.clone(),
            source,
            time_column: planned.time,
            disorder: i64::try_from(planned.disorder.as_nanos()).unwrap_or(i64::MAX),
            idle: planned.idle,
            align: planned.align.map(|most| i64::try_from(most.as_nanos()).unwrap_or(i64::MAX)),
            alignment: Arc::clone(&alignment),
            idleness: Arc::clone(&idleness),
            names: Arc::clone(&names),
            time,
            outlets,
            board: Arc::clone(&board),
            waker,
            clock: Arc::clone(&clock),
            stats: Arc::clone(&progress.sources[at].1),
            backoff: backoff(100 + at),
            budget: Arc::clone(&budget),
            held: 0,
            lost: 0,
            partitions: None,
            has_told: false,
            told_idle: false,
            silent_since: None,
            behind_since: None,
            arrived: i64::MIN,
            is_ending: false,
            is_done: false,
            epoch,
            committed: epoch,
            blocking: Blocking::default(),
            said: None,
            at_barrier,
            looked: None,
        });
    }
    let (mut replay, mut has_more) = (None, false);
    if let Some(Replays(planned)) = &options.replays {
        let Ends { waker, outlets, doors, .. } = ends.remove(&Node::Replay).unwrap_or_default();
        let position = manifest.sources.get(REPLAY_ID).map(|state| state.position.clone());
        let source = planned.open(position).await.map_err(|error| JobError::source(REPLAY_ID, error))?;
        has_more = source.lag_rows().is_some_and(|rows| rows > 0);
        board.add_task(waker.clone());
        replay = Some(ReplayTask {
            index: sources.len(),
            source,
            doors,
            outlets,
            board: Arc::clone(&board),
            waker,
            backoff: backoff(150),
            progress: Arc::clone(&progress),
            is_ending: false,
            has_said_done: false,
            epoch,
            committed: epoch,
        });
    }
    let source_ids = plan.sources.iter().map(|source| source.id.clone());
    let mut coordinator = Coordinator::new(
        plan.pipeline.clone(),
        generation,
        options.writer,
        epoch,
        plan.fingerprints(),
        source_ids.chain(replay.as_ref().map(|_| REPLAY_ID.to_owned())).collect(),
        sinks_of_plan.iter().map(|(id, _, _)| (*id).to_owned()).collect(),
        chains.len(),
        (options.checkpoint_interval, sinks_of_plan.iter().map(|(_, sink, _)| sink.commit_interval()).collect()),
        store,
        Arc::clone(&clock),
        Arc::clone(&board),
        Arc::clone(&progress),
        backoff(200),
        deciding,
    );
    coordinator.source_parts = plan.sources.iter().map(|source| source.source.part()).collect();
    coordinator.member = manifest.member;
    coordinator.lineage = manifest.lineage;
    coordinator.read_before = manifest.read;
    coordinator.shown_before = manifest.shown;
    coordinator.unsure = manifest.unsure;
    Ok(Job {
        sources,
        replay,
        chains,
        sinks,
        outboxes,
        coordinator,
        board,
        progress,
        generation,
        is_finished: manifest.finished && !has_more && !is_left,
        resumed: (manifest.prepared > 0).then_some(manifest.prepared),
    })
}
