//! Runs a job one turn at a time, in an order the caller chooses: for tests and simulations, where every
//! interleaving has to be tried and repeated at will, and where nothing may really wait.

use std::time::Duration;

use futures::FutureExt;

use crate::chain::ChainTask;
use crate::coordinator::Coordinator;
use crate::error::JobError;
use crate::job::{End, Job, Turn};
use crate::outbox_task::OutboxTask;
use crate::replay::ReplayTask;
use crate::run::Control;
use crate::sink_task::SinkTask;
use crate::source_task::SourceTask;

enum Task {
    Source(SourceTask),
    Replay(Box<ReplayTask>),
    Chain(ChainTask),
    Sink(SinkTask),
    Outbox(Box<OutboxTask>),
    Coordinator(Box<Coordinator>),
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Something.
    Worked,
    /// Nothing, until another task has done something.
    Waits,
    /// Nothing, until so much time has passed.
    Sleeps(Duration),
    /// The task has ended, now or before.
    Ended,
}

/// The tasks of a job.
pub struct Steps {
    tasks: Vec<(Task, bool)>,
    control: Control,
    end: Option<End>,
}

impl Steps {
    /// The tasks of a job, none of which has begun.
    pub fn new(job: Job) -> Self {
        let control = job.control();
        let Job { sources, replay, chains, sinks, outboxes, coordinator, .. } = job;
        let tasks = std::iter::once(Task::Coordinator(Box::new(coordinator)))
            .chain(sources.into_iter().map(Task::Source))
            .chain(replay.map(|task| Task::Replay(Box::new(task))))
            .chain(chains.into_iter().map(Task::Chain))
            .chain(sinks.into_iter().map(Task::Sink))
            .chain(outboxes.into_iter().map(|task| Task::Outbox(Box::new(task))));
        Self { tasks: tasks.map(|task| (task, false)).collect(), control, end: None }
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is none; there always is.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// What stops the job.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// How the job ended, once all its tasks have.
    pub fn end(&self) -> Option<End> {
        self.end.filter(|_| self.tasks.iter().all(|(_, ended)| *ended))
    }

    /// Lets a task do one thing. What it uses must never really wait: a future that is not ready at
    /// once is dropped, and the task waits.
    ///
    /// # Errors
    /// Those of the task; the job is of no use then.
    pub fn step(&mut self, task: usize) -> Result<Stepped, JobError> {
        let (task, ended) = &mut self.tasks[task];
        if *ended {
            return Ok(Stepped::Ended);
        }
        let turn = match task {
            Task::Source(task) => task.turn().now_or_never(),
            Task::Replay(task) => task.turn().now_or_never(),
            Task::Chain(task) => Some(task.turn()),
            Task::Sink(task) => task.turn().now_or_never(),
            Task::Outbox(task) => task.turn().now_or_never(),
            Task::Coordinator(task) => {
                let turn = task.turn().now_or_never();
                self.end = task.end();
                turn
            }
        };
        Ok(match turn.transpose()? {
            Some(Turn::Worked) => Stepped::Worked,
            Some(Turn::Wait) | None => Stepped::Waits,
            Some(Turn::Sleep(time)) => Stepped::Sleeps(time),
            Some(Turn::Finished) => {
                *ended = true;
                Stepped::Ended
            }
        })
    }
}
