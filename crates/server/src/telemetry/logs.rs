//! Weir's own log lines, collected as rows for tenant `system`.
//!
//! A [`tracing`] layer puts each line into a bounded buffer, which the feed empties. Lines made
//! while feeding are not collected, so that the feed cannot feed itself.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use weir_base::{Clock, Timestamp};

use crate::middleware::request_fields;

/// The most lines that wait to be stored; later ones are counted and dropped.
pub const LINES_MAX: usize = 10_000;
/// The most bytes of lines that wait to be stored.
pub const LINES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most bytes kept of a message or a field.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// One log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was written.
    pub time: Timestamp,
    /// `TRACE` to `ERROR`.
    pub level: Level,
    /// The module it came from.
    pub target: &'static str,
    /// The message.
    pub message: String,
    /// Fields of the line and of the request it belongs to.
    pub fields: Vec<(&'static str, String)>,
}

/// Lines waiting to be stored.
#[derive(Debug)]
pub struct LineBuffer {
    clock: Arc<dyn Clock>,
    waiting: Mutex<Waiting>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Line>,
    bytes: usize,
}

thread_local! {
    static FEEDING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` with this thread's log lines left out of the buffer.
pub fn without_collecting<T>(work: impl FnOnce() -> T) -> T {
    FEEDING.with(|feeding| {
        let before = feeding.replace(true);
        let result = work();
        feeding.set(before);
        result
    })
}

impl LineBuffer {
    /// An empty buffer.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, waiting: Mutex::default(), dropped: AtomicU64::new(0) })
    }

    /// Takes at most `max` of the oldest lines.
    pub fn take(&self, max: usize) -> Vec<Line> {
        let mut waiting = self.waiting.lock();
        let count = waiting.lines.len().min(max);
        let taken: Vec<Line> = waiting.lines.drain(..count).collect();
        waiting.bytes -= taken.iter().map(Line::bytes).sum::<usize>();
        taken
    }

    /// How many lines found the buffer full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn push(&self, mut line: Line) {
        cut(&mut line.message);
        line.fields.iter_mut().for_each(|(_, value)| cut(value));
        let bytes = line.bytes();
        let mut waiting = self.waiting.lock();
        if waiting.lines.len() < LINES_MAX && waiting.bytes + bytes <= LINES_BYTES_MAX {
            waiting.bytes += bytes;
            waiting.lines.push_back(line);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Line {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.message.len() + self.fields.iter().map(|(_, value)| 32 + value.len()).sum::<usize>()
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
}

/// The layer that fills a [`LineBuffer`].
#[derive(Debug)]
pub struct CollectLayer(pub Arc<LineBuffer>);

#[derive(Default)]
struct Fields {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push((field.name(), format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.push((field.name(), value.to_owned()));
        }
    }
}

impl<S: Subscriber> Layer<S> for CollectLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if FEEDING.with(Cell::get) || *event.metadata().level() > Level::INFO {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        request_fields(|name, value| {
            if !fields.fields.iter().any(|(known, _)| *known == name) {
                fields.fields.push((name, value.to_owned()));
            }
        });
        self.0.push(Line {
            time: self.0.clock.now(),
            level: *event.metadata().level(),
            target: event.metadata().target(),
            message: fields.message,
            fields: fields.fields,
        });
    }
}
