//! Sessions: the rows of a key between which there is no gap.
//!
//! A session is from its first row to the gap after its last one, like every window without its end: a
//! row that comes exactly the gap after another begins the next session. Sessions are what the rows that
//! were taken make of them, in whatever order they come: a row between two sessions makes them one. A row is
//! taken if it is at most the lateness behind the watermark of its own partition, so the rows that are taken
//! do not depend on how partitions are interleaved; and as all rows to come are later than that, a session
//! whose end the watermark has passed by the lateness is final.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{Moment, Operator, OperatorError, OperatorState, Output, Share, Waiting};
use weir_component::revision::Revision;
use weir_sql::expressions::{Aggregation, Arguments};

use super::open::{NONE, OpenWindows};
use super::results::{About, Shape};
use super::retold::{self, Retelling};
use crate::{clock, failing, late};

/// Sessions are put out so many at a time.
const BATCH_ROWS: usize = 8192;
/// So many entries are always kept as they are.
const DUE_MIN: usize = 1024;

/// When to look at a window: its end as it was once, the window, its generation. It may end later by now.
pub(super) type Due = Reverse<(i64, u32, u32)>;

pub(super) struct Sessions {
    gap: i64,
    lateness: i64,
    aggregation: Arc<Aggregation>,
    shape: Shape,
    open: OpenWindows,
    /// One entry for each window, and some for windows that are part of others now.
    due: BinaryHeap<Due>,
    /// The latest watermark, less the lateness.
    watermark: i64,
    /// What was put out before it was final, if that is wanted.
    retelling: Option<Retelling>,
    /// How many sessions became final.
    expired: u64,
    keys: Vec<u32>,
    of_row: Vec<usize>,
}

impl Sessions {
    pub(super) fn new(
        gap: i64,
        lateness: i64,
        shape: Shape,
        retelling: Option<Retelling>,
    ) -> Result<Self, OperatorError> {
        let aggregation = Arc::clone(&shape.aggregation);
        Ok(Self {
            gap,
            lateness,
            open: OpenWindows::new(Arc::clone(&aggregation))?,
            aggregation,
            shape,
            retelling,
            expired: 0,
            due: BinaryHeap::new(),
            watermark: i64::MIN,
            keys: Vec::new(),
            of_row: Vec::new(),
        })
    }

    fn take_in(&mut self, batch: &Batch, arguments: &Arguments) -> Result<(), OperatorError> {
        let mut keys = std::mem::take(&mut self.keys);
        self.open.keys_of(arguments, &mut keys)?;
        let mut of_row = std::mem::take(&mut self.of_row);
        of_row.clear();
        for (key, time) in keys.iter().zip(batch.times.iter()) {
            let window = self.session_of(*key, *time);
            if let Some(retelling) = &mut self.retelling {
                retelling.touched(&self.open, window);
            }
            of_row.push(self.open.slot(window));
        }
        self.open.update(arguments, &of_row)?;
        (self.keys, self.of_row) = (keys, of_row);
        Ok(())
    }

    /// The session a row belongs to, which it may make longer, or one with the session before. The newest one that
    /// a row fits is looked at first, so it cannot make one of that and of a newer one.
    fn session_of(&mut self, key: u32, time: i64) -> u32 {
        let (mut newer, mut at) = (NONE, self.open.newest(key));
        while at != NONE {
            let session = self.open.window_mut(at);
            if time.saturating_sub(session.last) >= self.gap {
                break;
            }
            if session.first.saturating_sub(time) < self.gap {
                session.rows += 1;
                session.last = session.last.max(time);
                // Only a row before all others brings it nearer to the one before.
                if time < session.first {
                    session.first = time;
                    self.meet_older(at);
                }
                return at;
            }
            (newer, at) = (at, session.older);
        }
        let session = self.open.begin(key, time, newer, at);
        self.open.window_mut(session).rows = 1;
        self.due.push(Reverse((time + self.gap, session, self.open.window(session).generation)));
        if let Some(retelling) = &mut self.retelling {
            retelling.begun(&self.open, session);
        }
        session
    }

    /// Makes one session of one and the next older one of its key, if they are near enough now.
    fn meet_older(&mut self, session: u32) {
        let (first, older) = (self.open.window(session).first, self.open.window(session).older);
        if older != NONE && first.saturating_sub(self.open.window(older).last) < self.gap {
            if let Some(retelling) = &mut self.retelling {
                retelling.absorbed(&self.open, older, session);
            }
            self.open.absorb_older(session);
        }
    }

    /// How many sessions there are that would be final but for the lateness.
    fn windows_for_late_rows(&self) -> usize {
        if self.lateness == 0 {
            return 0;
        }
        let now = self.watermark.saturating_add(self.lateness);
        self.open.all().filter(|session| self.open.window(*session).last + self.gap <= now).count()
    }

    /// The sessions that are over, at most so many as are put out at a time.
    fn over(&mut self) -> Vec<u32> {
        let mut over = Vec::new();
        while let Some(Reverse((due, session, generation))) = self.due.peek().copied()
            && due <= self.watermark
            && over.len() < BATCH_ROWS
        {
            self.due.pop();
            if !self.open.has(session, generation) {
                continue;
            }
            let end = self.open.window(session).last + self.gap;
            if end <= self.watermark {
                over.push(session);
            } else {
                self.due.push(Reverse((end, session, generation)));
            }
        }
        over
    }

    /// Puts out what sessions come to so far; the last time, they are gone then.
    fn put_out(&mut self, sessions: &[u32], is_final: bool, output: &mut dyn Output) -> Result<(), OperatorError> {
        let windows = || sessions.iter().map(|session| self.open.window(*session));
        let starts = windows().map(|session| session.first).collect();
        let ends: Vec<i64> = windows().map(|session| session.last + self.gap).collect();
        let times = ends.iter().map(|end| end - 1).collect();
        let revisions = match &mut self.retelling {
            Some(retelling) => {
                retelling.take_back(&self.open, &self.shape, sessions, output)?;
                retelling.revise(&self.open, sessions, is_final)
            }
            None => vec![Revision { number: 1, is_final, is_retracted: false }; sessions.len()],
        };
        let finished = if is_final { self.open.finish(sessions)? } else { self.open.results(sessions)? };
        self.shape.put_out(&About { starts, ends, times, revisions }, &finished, output)
    }
}

impl Operator for Sessions {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let batch = late::on_time(batch, self.lateness, self.watermark, self.gap, output)?;
        if batch.is_empty() {
            return Ok(());
        }
        let aggregation = Arc::clone(&self.aggregation);
        let computed = failing::apply(batch, output, &mut |batch| aggregation.arguments(&batch.rows))?;
        for (batch, arguments) in computed {
            self.take_in(&batch, &arguments)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.watermark = self.watermark.max(clock::less(watermark, self.lateness));
        loop {
            let over = self.over();
            if over.is_empty() {
                break;
            }
            self.expired += over.len() as u64;
            self.put_out(&over, true, output)?;
        }
        if let Some(retelling) = &mut self.retelling {
            retelling.advance(&self.open, watermark.0);
            retelling.tidy(&self.open, DUE_MIN);
        }
        // Windows that became part of others leave entries behind.
        if self.due.len() > 2 * self.open.len() + DUE_MIN {
            let open = &self.open;
            self.due.retain(|Reverse((_, session, generation))| open.has(*session, *generation));
            self.due.shrink_to(2 * self.due.len());
        }
        Ok(Timestamp(self.watermark))
    }

    fn waiting(&self) -> Waiting {
        self.retelling.as_ref().map_or_else(Waiting::default, Retelling::waiting)
    }

    fn on_moment(&mut self, moment: Moment, output: &mut dyn Output) -> Result<(), OperatorError> {
        let Some(retelling) = &mut self.retelling else { return Ok(()) };
        let due = retelling.due(&self.open, moment == Moment::Early);
        if retelling.takes_back_at(moment) {
            retelling.take_back(&self.open, &self.shape, &[], output)?;
        }
        for sessions in due.chunks(BATCH_ROWS) {
            self.put_out(sessions, false, output)?;
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        self.open.snapshot(&mut state)?;
        let mut times = vec![("watermark", self.watermark)];
        if let Some(retelling) = &self.retelling {
            retelling.snapshot(&self.open, &mut state)?;
            times.push((retold::NOW, retelling.now));
        }
        clock::put(&mut state, &times)?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
            let here = self.open.restore(state, share)?;
            if let Some(retelling) = &mut self.retelling {
                retelling.restore(&mut self.open, &self.shape, (state, &here), share)?;
            }
        }
        if let Some(retelling) = &mut self.retelling {
            retelling.restored(&self.open);
        }
        let due = |session: u32| {
            let known = self.open.window(session);
            Reverse((known.last + self.gap, session, known.generation))
        };
        self.due = self.open.all().map(due).collect();
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        let own = self.open.bytes() + self.due.capacity() * size_of::<Due>();
        own + self.retelling.as_ref().map_or(0, Retelling::bytes)
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let (windows, keys, parts) = (self.open.len(), self.open.n_keys(), self.open.n_parts());
        let late = self.windows_for_late_rows() as u64;
        let windows_and_keys = [("open_windows", windows as u64), ("keys", keys as u64)];
        windows_and_keys.into_iter().chain([("parts", parts as u64), ("windows_open_for_late_rows", late)]).collect()
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        vec![("expired_windows", self.expired)]
    }
}
