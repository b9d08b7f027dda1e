//! The writer's segments: the next one, the end of a full one, and the end of one that cannot be
//! trusted any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use hashbrown::{HashMap, HashSet};
use weir_base::Timestamp;

use super::{Current, Writer, enter_full};
use crate::format::{BlockKind, Entry, SegmentHeader};
use crate::housekeeping::note_newest;
use crate::segment::{Found, Spare};
use crate::shard::{Segment, Shard, distinct};
use crate::stats::add;
use crate::{Damage, LogError};

impl Writer {
    /// Ends the trust in the current file. What was durable in it is read and checked again, for
    /// the kernel may have dropped pages; the next commit goes to a new segment.
    pub(super) fn give_up(&mut self, shard: &Shard, error: std::io::Error) -> LogError {
        let Some(current) = self.current.take() else {
            return LogError::Internal("no segment to give up".to_owned());
        };
        let error = LogError::io("write", &current.file.path, error);
        add(&shard.counters.segments_failed, 1);
        tracing::error!(
            file = %current.file.path.display(),
            error = %weir_base::error::chain(&error),
            "a write to the log failed, the file is not written again"
        );
        if matches!(error, LogError::Full { .. }) {
            enter_full(shard);
        }
        let report = |from: u64, to: u64, streams| {
            shard.report(&Damage {
                file: current.file.path.clone(),
                file_offset: current.file.file_offset(from),
                from: shard.position(from),
                to: shard.position(to),
                streams,
            });
        };
        let checked = current.file.scan(Some(self.end), false, &mut |found| {
            match found {
                Found::Gap { from, to } => report(from, to, None),
                Found::Block(block) if !block.bad.is_empty() => {
                    let streams = distinct(block.bad.iter().filter_map(|number| match &block.entries[*number] {
                        Entry::Rows(rows) => Some((rows.tenant.clone(), rows.stream.clone())),
                        _ => None,
                    }));
                    report(block.header.offset, block.header.end(), Some(streams));
                }
                Found::Block(_) => {}
            }
            Ok(())
        });
        match checked {
            Ok(end) if end.at < self.end => report(end.at, self.end, None),
            Ok(_) => {}
            // It may be readable later; every read checks again.
            Err(error) => tracing::error!(error = %weir_base::error::chain(&error), "cannot check the given up file"),
        }
        error
    }

    /// Closes the current segment and begins one with room for a block of `needed` bytes.
    pub(super) fn roll(&mut self, shard: &Shard, needed: u64) -> Result<(), LogError> {
        self.seal(shard);
        let header = SegmentHeader {
            log_id: shard.log_id,
            shard: shard.number,
            number: self.next_number,
            base: self.end,
            created_at: shard.clock.now().0,
            capacity: 0,
            schemas: Vec::new(),
        };
        let room = needed + crate::format::ALIGN;
        let ready = shard.spare.lock().take();
        let made = match ready {
            Some(spare) if spare.len >= room => Ok(spare),
            too_small => {
                if let Some(spare) = too_small {
                    remove_spare(shard, &spare);
                }
                shard.make_spare(room, false)
            }
        };
        let made = made.and_then(|spare| {
            self.next_number += 1;
            spare.promote(shard.disk.as_ref(), &shard.dir, &header, &[])
        });
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                if matches!(error, LogError::Full { .. }) {
                    enter_full(shard);
                }
                return Err(error);
            }
        };
        let segment = Arc::new(Segment {
            number: file.number,
            base: file.base,
            header_len: file.header_len,
            path: file.path.clone(),
            end: AtomicU64::new(self.end),
            bytes: AtomicU64::new(file.len),
            last_time: AtomicI64::new(shard.clock.now().0),
        });
        shard.segments.write().push(Arc::clone(&segment));
        self.current = Some(Current {
            file,
            segment,
            schemas: HashSet::new(),
            column_sets: HashMap::new(),
            messages: Vec::new(),
            index: BTreeMap::new(),
        });
        // The header says that everything before is durable.
        self.dirty = false;
        note_newest(shard);
        shard.housekeeper.raise();
        Ok(())
    }

    /// Writes the footer of the current segment and gives its unused space back. Only a help for
    /// later opens: if it fails, the segment is read in full then. The footer is durable before the
    /// file gets shorter: a short file without one counts as cut.
    pub(super) fn seal(&mut self, shard: &Shard) {
        let Some(current) = self.current.take() else { return };
        self.builder.clear();
        for (id, message) in &current.messages {
            let write = |out: &mut Vec<u8>| {
                out.extend_from_slice(message);
                Ok::<(), std::convert::Infallible>(())
            };
            let Ok(()) = self.builder.push_body(write, |body| Entry::Schema { body, id: *id });
        }
        for entry in current.index.into_values() {
            self.builder.push(Entry::Index(entry));
        }
        let time = Timestamp(current.segment.last_time.load(Ordering::Acquire));
        self.builder.finish(&self.frame(shard, time, BlockKind::Footer), &mut self.buffer);
        let at = current.file.file_offset(self.end);
        let len = at + self.buffer.len() as u64;
        let file = &current.file.file;
        let written = file
            .write_all_at(&self.buffer, at)
            .and_then(|()| file.sync_all())
            .and_then(|()| file.set_len(len))
            .and_then(|()| file.sync_all());
        match written {
            Ok(()) => current.segment.bytes.store(len, Ordering::Release),
            Err(error) => {
                add(&shard.counters.segments_failed, 1);
                tracing::warn!(file = %current.file.path.display(), %error, "cannot write the footer of a segment");
            }
        }
    }
}

/// Gives the space of a file back that will be no segment.
pub(super) fn remove_spare(shard: &Shard, spare: &Spare) {
    if let Err(error) = shard.disk.remove(&spare.path) {
        tracing::warn!(file = %spare.path.display(), %error, "cannot remove a spare segment");
    }
}
