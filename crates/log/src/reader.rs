//! Reads the rows of one (tenant, stream) in their order, from any position the log still has.
//!
//! What belongs to others is passed by its headers: a closed segment without a row of the stream by its footer, a
//! block by its directory; nothing of it is decoded. Near the end all readers share what the writer had decoded
//! anyway.
//!
//! A reader holds nothing in the log. Who is slower than retention is told so ([`LogError::Overrun`]), with what it
//! has missed.
//!
//! Invariant: no row is passed in silence. What cannot be read is an error, again and again; only rows that fsck
//! took away are passed, for an operator has decided that, and who reads is told of them ([`Read::Lost`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use weir_base::{StreamName, TenantId, Timestamp};

use crate::format::{ALIGN, BlockHeader, Entry};
use crate::log::Log;
use crate::recent::{Held, after};
use crate::segment::SegmentFile;
use crate::shard::{Segment, Shard};
use crate::watch::Watch;
use crate::{LogError, Position, Record};

/// Blocks of others that are passed before a call returns.
const BLOCKS_MAX: usize = 1024;

/// With fewer segments the log has removed nothing yet that anybody could miss.
const SEGMENTS_MIN: usize = 4;

/// Reads one stream of one tenant.
pub struct LogReader {
    shard: Arc<Shard>,
    tenant: TenantId,
    stream: StreamName,
    watch: Arc<Watch>,
    /// Everything before this was given or is not wanted.
    at: u64,
    /// The segment that was read last.
    open: Option<Open>,
}

/// A segment that is being read.
struct Open {
    segment: Arc<Segment>,
    file: SegmentFile,
    /// The length of the file when it was opened.
    len: u64,
}

/// What a reader finds.
#[derive(Debug)]
pub enum Read {
    /// The next rows.
    Record(Box<Record>),
    /// Rows that fsck took away are passed.
    Lost(Lost),
    /// Only rows of others so far; there is more to look at.
    More,
    /// Nothing up to the durable end.
    Nothing,
}

/// A part of the log that is not there any more, because it was damaged and an operator had it taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where it begins, as far as it was not read.
    pub from: Position,
    /// Where the log goes on.
    pub to: Position,
    /// How many rows of the stream were in it; `None` if nobody can say whose rows were.
    pub rows: Option<u64>,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LogReader")
            .field("tenant", &self.tenant)
            .field("stream", &self.stream)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.shard.watched.end(&self.tenant, &self.stream, &self.watch);
        self.shard.recent.end_reader();
    }
}

impl Log {
    /// A reader of a stream that begins at `position`, or with the oldest rows there are. `None` if the position
    /// is one of a shard that does not exist.
    pub fn reader(&self, tenant: &TenantId, stream: &StreamName, position: Option<Position>) -> Option<LogReader> {
        let number = position.map_or_else(|| self.shard_of(tenant), |position| position.shard);
        let shard = Arc::clone(self.shard(number)?);
        let at = position.map_or_else(|| shard.oldest(), |position| position.offset);
        shard.recent.begin_reader();
        let watch = shard.watched.begin(tenant, stream);
        Some(LogReader { shard, tenant: tenant.clone(), stream: stream.clone(), watch, at, open: None })
    }

    /// The position of the first commit made at `time` or later; the end if there is none.
    ///
    /// # Errors
    /// If the log cannot be read there.
    pub fn position_at(&self, shard: u16, time: Timestamp) -> Result<Position, LogError> {
        let Some(found) = self.shard(shard) else { return Ok(Position { shard, offset: 0 }) };
        found.offset_at(time).map(|offset| Position { shard, offset })
    }

    /// The oldest position that can still be read.
    pub fn oldest(&self, shard: u16) -> Position {
        Position { shard, offset: self.shard(shard).map_or(0, |shard| shard.oldest()) }
    }

    /// A time before which no later commit is made, if nobody puts the clock back.
    pub fn time(&self, shard: u16) -> Timestamp {
        self.shard(shard).map_or(Timestamp(i64::MIN), |shard| {
            // The clock first: a commit that begins after the second look has a later time.
            let now = shard.clock.now();
            now.min(Timestamp(shard.committing.load(Ordering::SeqCst)))
        })
    }
}

impl Shard {
    fn oldest(&self) -> u64 {
        let segments = self.segments.read();
        segments.first().map_or_else(|| self.durable.load(Ordering::Acquire), |segment| segment.base)
    }

    /// The segment that holds `block`.
    fn segment_with(&self, block: u64) -> Result<Arc<Segment>, LogError> {
        let segments = self.segments.read();
        let after = segments.partition_point(|segment| segment.base <= block);
        // Several segments may begin at one offset; all but one of them are empty.
        let held = segments[..after].iter().rev().find(|segment| block < segment.end.load(Ordering::Acquire));
        match (held, after.checked_sub(1).and_then(|last| segments.get(last))) {
            (Some(segment), _) => Ok(Arc::clone(segment)),
            (None, None) => {
                let oldest = segments.first().map_or(block, |segment| segment.base);
                Err(LogError::Overrun { shard: self.number, offset: block, oldest })
            }
            // Damage: recovery has gone on behind it.
            (None, Some(before)) => Err(LogError::Corrupt {
                file: before.path.clone(),
                offset: before.header_len + block.saturating_sub(before.base),
                what: "rows that were durable are missing".to_owned(),
            }),
        }
    }

    fn offset_at(&self, time: Timestamp) -> Result<u64, LogError> {
        let end = self.durable.load(Ordering::Acquire);
        let first = {
            let segments = self.segments.read();
            let found = segments.iter().find(|segment| segment.last_time.load(Ordering::Acquire) >= time.0);
            found.cloned()
        };
        let Some(segment) = first else { return Ok(end) };
        let file = self.open_segment(&segment)?;
        let mut at = segment.base;
        while at < segment.end.load(Ordering::Acquire).min(end) {
            match file.read_header_at(at)? {
                Some(header) if header.time < time.0 => at = header.end(),
                // What does not check out is told to whoever reads it.
                _ => break,
            }
        }
        Ok(at)
    }
}

impl LogReader {
    /// The place after what was given last.
    pub fn position(&self) -> Position {
        self.shard.position(self.at)
    }

    /// How many bytes of the log it is behind, whomever they belong to.
    pub fn behind_bytes(&self) -> u64 {
        self.shard.durable.load(Ordering::Acquire).saturating_sub(self.at)
    }

    /// How many rows it is behind, if they are among the newest.
    pub fn behind_rows(&self) -> Option<u64> {
        if self.behind_bytes() == 0 {
            return Some(0);
        }
        self.shard.recent.rows(&self.tenant, &self.stream, self.at)
    }

    /// How much of what the log keeps is still before it: 1 at its end, 0 where it begins, and where rows go next. At its
    /// end in a log that has only begun.
    pub fn headroom(&self) -> f64 {
        let (oldest, end) = (self.shard.oldest(), self.shard.durable.load(Ordering::Acquire));
        if self.shard.segments.read().len() < SEGMENTS_MIN || end <= oldest {
            return 1.0;
        }
        self.at.saturating_sub(oldest) as f64 / (end - oldest) as f64
    }

    /// The next rows. Looks at some of the log and then returns, also if there was nothing for it. Reads files: not
    /// for a thread that must not block.
    ///
    /// # Errors
    /// [`LogError::Overrun`] if what comes next is gone, [`LogError::Corrupt`] if it is damaged; the reader stays
    /// where it is.
    pub fn read(&mut self) -> Result<Read, LogError> {
        for _ in 0..BLOCKS_MAX {
            let durable = self.shard.durable.load(Ordering::Acquire);
            if self.at == durable {
                return Ok(Read::Nothing);
            }
            if self.at > durable {
                return Err(LogError::Gone { shard: self.shard.number, offset: self.at });
            }
            if self.watch.has_none(self.at) {
                self.at = durable;
                return Ok(Read::Nothing);
            }
            match self.shard.recent.find(&self.tenant, &self.stream, self.at) {
                Held::Record(record, after) => {
                    self.at = after;
                    return Ok(Read::Record(record));
                }
                Held::Passed(end) => {
                    self.at = end;
                    continue;
                }
                Held::Elsewhere => {}
            }
            if let Some(found) = self.read_block()? {
                return Ok(found);
            }
        }
        Ok(Read::More)
    }

    /// Waits until there is more of the stream than was read.
    pub async fn wait(&self) {
        let appended = self.watch.appended.notified();
        tokio::pin!(appended);
        // Told of everything that comes from here on; only then is it looked.
        appended.as_mut().enable();
        if self.shard.durable.load(Ordering::Acquire) <= self.at || self.watch.has_none(self.at) {
            appended.await;
        }
    }

    /// Looks at the block at the position, in its file, and goes past it or past its next record.
    fn read_block(&mut self) -> Result<Option<Read>, LogError> {
        let block = self.at / ALIGN * ALIGN;
        let holds = |open: &Open| (open.segment.base..open.segment.end.load(Ordering::Acquire)).contains(&block);
        let mut open = match self.open.take().filter(holds) {
            Some(open) => open,
            None => {
                let segment = self.shard.segment_with(block)?;
                let file = self.shard.open_segment(&segment)?;
                let open = Open { segment, len: file.len, file };
                if let Some(skipped) = self.skip_by_footer(&open.segment, &open.file, block)? {
                    self.at = skipped;
                    self.open = Some(open);
                    return Ok(None);
                }
                open
            }
        };
        // Not behind the last commit: that space is given back when the segment is closed.
        let end = open.file.file_offset(open.segment.end.load(Ordering::Acquire));
        open.file.len = open.len.min(end);
        let found = self.record_in(&open.segment, &open.file, block);
        self.open = Some(open);
        found
    }

    /// Where to go on, if the footer of a closed segment says that nothing is wanted here.
    fn skip_by_footer(&self, segment: &Segment, file: &SegmentFile, block: u64) -> Result<Option<u64>, LogError> {
        let Some(footer) = file.footer()? else { return Ok(None) };
        // What is behind it is told by its base; a footer elsewhere is one of an older end.
        if footer.header.offset != segment.end.load(Ordering::Acquire) {
            return Ok(None);
        }
        let own = footer.entries.iter().find_map(|entry| match entry {
            Entry::Index(index) if index.stream == self.stream && index.tenant == self.tenant => Some(index),
            _ => None,
        });
        Ok(match own {
            Some(index) if index.last >= self.at => {
                let first = index.first / ALIGN * ALIGN;
                (first > block).then_some(first)
            }
            _ => Some(footer.header.offset),
        })
    }

    fn record_in(&mut self, segment: &Segment, file: &SegmentFile, block: u64) -> Result<Option<Read>, LogError> {
        let Some((header, entries)) = file.read_directory(block)? else {
            if let Some(end) = file.hole_end(block)? {
                let lost = Lost { from: self.position(), to: self.shard.position(end), rows: None };
                self.at = end;
                return Ok(Some(Read::Lost(lost)));
            }
            return Err(LogError::Corrupt {
                file: segment.path.clone(),
                offset: file.file_offset(block),
                what: "the block does not check out".to_owned(),
            });
        };
        let mut wanted = wanted(&header, &entries, &self.tenant, &self.stream).filter(|(offset, _)| *offset >= self.at);
        let Some((offset, entry)) = wanted.next() else {
            self.at = header.end();
            return Ok(None);
        };
        let next = if wanted.next().is_some() { after(offset, header.end()) } else { header.end() };
        let found = match entries.get(entry) {
            Some(Entry::Lost(rows)) => {
                let (from, to) = (self.shard.position(offset), self.shard.position(next));
                Read::Lost(Lost { from, to, rows: Some(u64::from(rows.rows)) })
            }
            _ => Read::Record(Box::new(self.shard.record(segment, file, (&header, &entries), entry, offset)?)),
        };
        self.at = next;
        Ok(Some(found))
    }
}

/// Position and number of the entries of a stream in a block, those included that are lost.
fn wanted<'a>(
    header: &BlockHeader,
    entries: &'a [Entry],
    tenant: &'a TenantId,
    stream: &'a StreamName,
) -> impl Iterator<Item = (u64, usize)> + 'a {
    let offset = header.offset;
    let records = entries.iter().enumerate().filter_map(|(at, entry)| match entry {
        Entry::Rows(rows) | Entry::Lost(rows) => Some((at, rows)),
        _ => None,
    });
    let numbered = records.enumerate().map(move |(number, (at, rows))| (offset + number as u64, at, rows));
    numbered.filter(|(_, _, rows)| rows.stream == *stream && rows.tenant == *tenant).map(|(offset, at, _)| (offset, at))
}
