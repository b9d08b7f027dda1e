//! What tasks send each other, and through what.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_component::Batch;

/// What flows from task to task.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// Rows.
    Rows(Batch),
    /// A row that is run again.
    Replay(Box<Replay>),
    /// No row older than this comes any more, in nanoseconds since 1970.
    Watermark(i64),
    /// Everything before belongs to this epoch.
    Barrier(u64),
    /// Nothing comes any more.
    End,
}

/// A row that failed before, on its way to where it did.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    /// Which step of the task.
    pub(crate) link: usize,
    /// At which of its inputs.
    pub(crate) input: usize,
    pub(crate) batch: Batch,
    /// How often it has failed at this step.
    pub(crate) attempts: u64,
}

/// Stands for the input of a lane along which rows are run again. Such a lane says nothing of time, and what is in it
/// waits for all others: rows that are run again disturb none.
pub(crate) const REPLAYS: usize = usize::MAX;

impl Message {
    /// The rows in it, if it has any.
    fn rows(&self) -> Option<&Batch> {
        match self {
            Self::Rows(batch) => Some(batch),
            Self::Replay(replay) => Some(&replay.batch),
            Self::Watermark(_) | Self::Barrier(_) | Self::End => None,
        }
    }
}

/// A lane with so many bytes is full.
const BYTES_MAX: usize = 16 << 20;

/// Tells a task that there may be something to do. In a simulation nobody listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waker(Arc<Notify>);

impl Waker {
    pub(crate) fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits until somebody has called [`Waker::wake`] since the last time.
    pub(crate) async fn wait(&self) {
        self.0.notified().await;
    }
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    rows: usize,
    bytes: usize,
}

/// A queue from one task instance to another. It is bounded by its writer, who must not begin new work
/// while it is full, so what is in it is at most its bound and the results of one piece of work.
#[derive(Debug)]
pub(crate) struct Lane {
    queue: Mutex<Queue>,
    is_full: AtomicBool,
    rows_max: usize,
    reader: Waker,
    writer: Waker,
}

impl Lane {
    pub(crate) fn new(writer: Waker, reader: Waker, rows_max: usize) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), is_full: AtomicBool::new(false), rows_max, reader, writer })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    pub(crate) fn push(&self, message: Message) {
        let mut queue = self.queue.lock();
        if let Some(batch) = message.rows() {
            queue.rows += batch.len();
            queue.bytes += batch.bytes();
        }
        match (queue.messages.back_mut(), &message) {
            // Only the newest one says anything, however slow the reader is.
            (Some(Message::Watermark(before)), Message::Watermark(time)) => *before = *time,
            _ => queue.messages.push_back(message),
        }
        self.note(&queue);
        drop(queue);
        self.reader.wake();
    }

    pub(crate) fn pop(&self) -> Option<Message> {
        let mut queue = self.queue.lock();
        let message = queue.messages.pop_front()?;
        if let Some(batch) = message.rows() {
            queue.rows -= batch.len();
            queue.bytes -= batch.bytes();
        }
        let was_full = self.is_full();
        self.note(&queue);
        drop(queue);
        if was_full && !self.is_full() {
            self.writer.wake();
        }
        Some(message)
    }

    fn note(&self, queue: &Queue) {
        // One message always fits, however large.
        let is_full = queue.messages.len() > 1 && (queue.rows >= self.rows_max || queue.bytes >= BYTES_MAX);
        self.is_full.store(is_full, Ordering::Release);
    }
}

/// The reading end of a lane: what a task knows of it.
#[derive(Debug)]
pub(crate) struct Inlet {
    pub(crate) lane: Arc<Lane>,
    /// Which input of the task's first step it belongs to.
    pub(crate) input: usize,
    pub(crate) watermark: i64,
    /// The epoch whose barrier has come and not yet through all others.
    waits: bool,
    ended: bool,
}

/// What came of looking at the inlets.
#[derive(Debug)]
pub(crate) enum Arrival {
    Rows {
        input: usize,
        batch: Batch,
    },
    /// A row that is run again.
    Replay(Box<Replay>),
    /// The smallest watermark of all inlets has risen to this.
    Watermark(i64),
    /// The barrier has come through all inlets.
    Barrier(u64),
    /// All inlets have ended.
    End,
    /// A message was taken that changes nothing for the task.
    Nothing,
    /// There is no message.
    Empty,
}

/// All inlets of a task: takes their messages in turn, and aligns barriers and watermarks.
///
/// Time is that of the slowest inlet. What one says of time is the same for all instances of a task, also between which
/// barriers it says it.
///
/// Invariant: at a barrier, all instances of a task have come equally far, which who goes on from the checkpoint relies
/// on.
#[derive(Debug)]
pub(crate) struct Inlets {
    inlets: Vec<Inlet>,
    next: usize,
    watermark: i64,
    /// How far time had come at the checkpoint that is gone on from: not all have said again how far they are.
    reached: i64,
    epoch: Option<u64>,
}

impl Inlets {
    /// `reached` is how far time had come at the checkpoint that is gone on from.
    pub(crate) fn new(lanes: Vec<(Arc<Lane>, usize)>, reached: i64) -> Self {
        let inlet = |(lane, input)| {
            let watermark = if input == REPLAYS { i64::MAX } else { i64::MIN };
            Inlet { lane, input, watermark, waits: false, ended: false }
        };
        let inlets = lanes.into_iter().map(inlet).collect();
        Self { inlets, next: 0, watermark: i64::MIN, reached, epoch: None }
    }

    /// Takes the next message of an inlet that does not wait for others.
    pub(crate) fn take(&mut self) -> Arrival {
        let first = self.take_of(|inlet| inlet.input != REPLAYS);
        if matches!(first, Arrival::Empty) { self.take_of(|inlet| inlet.input == REPLAYS) } else { first }
    }

    /// The same of some of the inlets.
    fn take_of(&mut self, wanted: fn(&Inlet) -> bool) -> Arrival {
        let count = self.inlets.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            let inlet = &mut self.inlets[at];
            if inlet.waits || inlet.ended || !wanted(inlet) {
                continue;
            }
            let Some(message) = inlet.lane.pop() else { continue };
            self.next = (at + 1) % count;
            return match message {
                Message::Rows(batch) => {
                    // One that has not said yet how far it is, or is new and behind, has nothing to add to what is over.
                    let is_ahead = inlet.watermark >= self.reached;
                    let batch = if is_ahead { batch } else { with_watermark(batch, self.reached) };
                    Arrival::Rows { input: inlet.input, batch }
                }
                Message::Replay(replay) => Arrival::Replay(replay),
                Message::Watermark(time) => {
                    inlet.watermark = inlet.watermark.max(time);
                    self.risen()
                }
                Message::Barrier(epoch) => {
                    assert!(self.epoch.is_none_or(|other| other == epoch), "one epoch at a time is under way");
                    self.epoch = Some(epoch);
                    inlet.waits = true;
                    self.aligned()
                }
                Message::End => {
                    inlet.ended = true;
                    inlet.watermark = i64::MAX;
                    if self.inlets.iter().all(|inlet| inlet.ended) { Arrival::End } else { self.aligned() }
                }
            };
        }
        Arrival::Empty
    }

    /// Whether somebody waits because one of the lanes is full.
    pub(crate) fn is_full(&self) -> bool {
        self.inlets.iter().any(|inlet| inlet.lane.is_full())
    }

    /// How far time has come in all inlets.
    pub(crate) fn watermark(&self) -> i64 {
        self.watermark.max(self.reached)
    }

    fn risen(&mut self) -> Arrival {
        let smallest = self.inlets.iter().map(|inlet| inlet.watermark).min().unwrap_or(i64::MAX);
        if smallest <= self.watermark {
            return Arrival::Nothing;
        }
        self.watermark = smallest;
        Arrival::Watermark(smallest)
    }

    fn aligned(&mut self) -> Arrival {
        let Some(epoch) = self.epoch else { return Arrival::Nothing };
        if !self.inlets.iter().all(|inlet| inlet.waits || inlet.ended) {
            return Arrival::Nothing;
        }
        self.epoch = None;
        for inlet in &mut self.inlets {
            inlet.waits = false;
        }
        Arrival::Barrier(epoch)
    }
}

/// The rows, of which none knows less of time than `reached`.
fn with_watermark(batch: Batch, reached: i64) -> Batch {
    if batch.times.iter().all(|time| *time >= reached) {
        return batch;
    }
    let watermarks: Vec<i64> = (0..batch.len()).map(|row| batch.watermark(row).max(reached)).collect();
    Batch { watermarks: Some(watermarks.into()), ..batch }
}

#[cfg(test)]
mod tests;
