//! Segment files: making them, and reading them in full, with everything that may be wrong found.

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_base::disk::{Disk, DiskFile};

use crate::LogError;
use crate::format::{
    ALIGN, BLOCK_HEADER, BlockHeader, BlockKind, Entry, FOOTER_TRAILER, Malformed, SegmentHeader, body_ranges,
    decode_directory, footer_len,
};
use crate::mend;

/// The path of a segment.
pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

/// The number in a segment's file name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// A file made ahead: reserved, zero-filled, without a header and under a temporary name.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
}

impl Spare {
    /// Makes a file of `len` bytes. Zero-filling lets later commits overwrite written blocks, which
    /// halves the price of fdatasync; it is left out when somebody waits.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, len: u64, fill: bool) -> Result<Self, LogError> {
        let made = Self::try_create(disk, path, len, fill);
        if made.is_err() {
            // Best effort: what stays is removed by the next open.
            let _ = disk.remove(path);
        }
        made.map_err(|error| LogError::io("make the segment", path, error))
    }

    fn try_create(disk: &dyn Disk, path: &Path, len: u64, fill: bool) -> io::Result<Self> {
        let file = disk.create(path)?;
        file.allocate(len)?;
        if fill {
            file.fill_with_zeros(len)?;
        }
        Ok(Self { file, path: path.to_owned(), len })
    }

    /// Gives the file its header, the bytes in `blocks` and its name, and makes all of it durable.
    pub(crate) fn promote(
        self,
        disk: &dyn Disk,
        dir: &Path,
        header: &SegmentHeader,
        blocks: &[u8],
    ) -> Result<SegmentFile, LogError> {
        let path = segment_path(dir, header.number);
        let header_len = header.encode().len() as u64;
        let capacity = self.len.max(header_len + blocks.len() as u64);
        let mut bytes = SegmentHeader { capacity, ..header.clone() }.encode();
        bytes.extend_from_slice(blocks);
        let written = self
            .file
            .write_all_at(&bytes, 0)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| disk.rename(&self.path, &path))
            .and_then(|()| disk.sync_dir(dir));
        if let Err(error) = written {
            // Whether the name is durable is not known. The number is not used again, so the file
            // can only ever show up empty; removing it is a courtesy.
            let _ = disk.remove(&self.path);
            let _ = disk.remove(&path);
            return Err(LogError::io("make the segment", &path, error));
        }
        Ok(SegmentFile {
            len: capacity,
            capacity,
            file: self.file,
            path,
            log_id: header.log_id,
            shard: header.shard,
            number: header.number,
            base: header.base,
            header_len,
        })
    }
}

/// An open segment.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) path: PathBuf,
    pub(crate) log_id: u64,
    pub(crate) shard: u16,
    pub(crate) number: u64,
    pub(crate) base: u64,
    pub(crate) header_len: u64,
    /// The length of the file when it was opened.
    pub(crate) len: u64,
    /// The length of the file as made; 0 if that is not known.
    pub(crate) capacity: u64,
}

/// What opening a segment file found.
pub(crate) enum Opened {
    Good(SegmentFile, SegmentHeader),
    /// The header is unreadable; a block inside tells where the segment begins, if there is one.
    BadHeader(Option<SegmentFile>, Malformed),
    /// The header belongs to another file (a copy under a wrong name, or another log).
    Foreign,
}

/// A block as found in a file.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) header: BlockHeader,
    pub(crate) entries: Vec<Entry>,
    pub(crate) bytes: Vec<u8>,
    /// The numbers of the entries whose body does not check out.
    pub(crate) bad: Vec<usize>,
    /// Bits were wrong in it and have been put right.
    pub(crate) mended: bool,
}

impl Block {
    /// The body of an entry; empty if it has none.
    pub(crate) fn body(&self, entry: usize) -> &[u8] {
        body_ranges(&self.header, &self.entries)
            .and_then(|ranges| ranges.get(entry).cloned())
            .and_then(|range| self.bytes.get(range))
            .unwrap_or(&[])
    }
}

/// One thing a scan comes across.
pub(crate) enum Found {
    Block(Block),
    /// No valid block in this range, and one after it.
    Gap {
        from: u64,
        to: u64,
    },
}

/// How a scan ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanEnd {
    /// The first offset without a valid block.
    pub(crate) at: u64,
    /// The highest watermark any block claims, also one in a wrong place.
    pub(crate) watermark: u64,
    /// The highest end any block claims.
    pub(crate) claimed: u64,
    /// The segment was closed with a footer at `at`.
    pub(crate) footer: bool,
    /// There is something at `at` that is not zero.
    pub(crate) leftover: bool,
    /// The file is shorter than it was made, and was not closed: something cut it.
    pub(crate) cut: bool,
    /// Blocks in which wrong bits were put right.
    pub(crate) mended: u64,
}

/// A read-ahead window over a file.
struct Window<'a> {
    segment: &'a SegmentFile,
    bytes: Vec<u8>,
    start: u64,
    /// Unreadable bytes read as zeros (fsck) instead of failing (recovery, which must not take a
    /// passing read error for the end of the log).
    lenient: bool,
}

const WINDOW: usize = 256 << 10;

impl Window<'_> {
    /// `len` bytes at `offset`; `None` past the end of the file.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<Option<&[u8]>, LogError> {
        let at = self.segment.file_offset(offset);
        let Some(end) = at.checked_add(len as u64).filter(|end| *end <= self.segment.len) else { return Ok(None) };
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            let want = (len.max(WINDOW) as u64).min(self.segment.len - at) as usize;
            self.bytes.clear();
            self.bytes.resize(want, 0);
            self.start = at;
            if let Err(error) = self.segment.file.read_exact_at(&mut self.bytes, at) {
                if !self.lenient {
                    return Err(LogError::io("read", &self.segment.path, error));
                }
                self.bytes.fill(0);
            }
        }
        let from = (at - self.start) as usize;
        Ok(self.bytes.get(from..from + len))
    }
}

impl SegmentFile {
    /// Opens the segment of that number.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, number: u64, log_id: u64, shard: u16) -> Result<Opened, LogError> {
        let failed = |error| LogError::io("read", path, error);
        let file = disk.open_read(path).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let mut segment =
            Self { file, path: path.to_owned(), log_id, shard, number, base: 0, header_len: ALIGN, len, capacity: 0 };
        match segment.read_header() {
            Ok(Ok((header, header_len))) => {
                if header.log_id != log_id || header.shard != shard || header.number != number {
                    return Ok(Opened::Foreign);
                }
                segment.base = header.base;
                segment.header_len = header_len;
                segment.capacity = header.capacity;
                Ok(Opened::Good(segment, header))
            }
            Ok(Err(malformed)) => {
                // Every block knows its offset, so the first one tells where the segment begins.
                let mut window = Window { segment: &segment, bytes: Vec::new(), start: 0, lenient: true };
                let mut at = 0;
                let mut found = None;
                while let Some(bytes) = window.bytes(at, BLOCK_HEADER)? {
                    if let Ok(header) = BlockHeader::decode(bytes, log_id, shard) {
                        found = Some((header.offset, ALIGN + at));
                        break;
                    }
                    at += ALIGN;
                }
                let found = found.map(|(base, header_len)| Self { base, header_len, ..segment.clone() });
                Ok(Opened::BadHeader(found, malformed))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn read_header(&self) -> io::Result<Result<(SegmentHeader, u64), Malformed>> {
        let mut bytes = vec![0; (ALIGN.min(self.len)) as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        match SegmentHeader::needs(&bytes) {
            Ok(needs) if needs as u64 > self.len => return Ok(Err(Malformed("ends too early"))),
            Ok(needs) if needs > bytes.len() => {
                bytes.resize(needs, 0);
                self.file.read_exact_at(&mut bytes, 0)?;
            }
            Ok(_) => {}
            Err(malformed) => return Ok(Err(malformed)),
        }
        Ok(SegmentHeader::decode(&bytes))
    }

    /// The schemas in the header; none if it is damaged.
    pub(crate) fn carried_schemas(&self) -> Result<Vec<(u64, Vec<u8>)>, LogError> {
        let header = self.read_header().map_err(|error| LogError::io("read", &self.path, error))?;
        Ok(header.map_or(Vec::new(), |(header, _)| header.schemas))
    }

    /// Where in the file an offset is.
    pub(crate) fn file_offset(&self, offset: u64) -> u64 {
        self.header_len + offset.saturating_sub(self.base)
    }

    /// The offset at which the file ends.
    pub(crate) fn file_end(&self) -> u64 {
        self.base + self.len.saturating_sub(self.header_len)
    }

    /// The footer at the end of the file, if the segment was closed with one.
    pub(crate) fn footer(&self) -> Result<Option<Block>, LogError> {
        let Some(at) = self.len.checked_sub(FOOTER_TRAILER as u64) else { return Ok(None) };
        let mut trailer = [0; FOOTER_TRAILER];
        self.file.read_exact_at(&mut trailer, at).map_err(|error| LogError::io("read", &self.path, error))?;
        let Some(len) = footer_len(&trailer) else { return Ok(None) };
        let Some(offset) =
            self.len.checked_sub(len).and_then(|at| at.checked_sub(self.header_len)).map(|at| self.base + at)
        else {
            return Ok(None);
        };
        let mut window = Window { segment: self, bytes: Vec::new(), start: 0, lenient: false };
        let block = Self::block(&mut window, offset)?;
        Ok(block.filter(|block| block.header.kind == BlockKind::Footer && block.bad.is_empty()))
    }

    /// Header and directory of the block at `offset`, without its bodies.
    pub(crate) fn read_directory(&self, offset: u64) -> Result<Option<(BlockHeader, Vec<Entry>)>, LogError> {
        let failed = |error| LogError::io("read", &self.path, error);
        let at = self.file_offset(offset);
        let mut bytes = vec![0; 4096.min(self.len.saturating_sub(at)) as usize];
        self.file.read_exact_at(&mut bytes, at).map_err(failed)?;
        let header = mend::header_at(&bytes, self.log_id, self.shard, offset);
        let Some(header) = header else { return Ok(None) };
        let end = BLOCK_HEADER + header.directory_len as usize;
        if at + u64::from(header.len) > self.len || header.kind == BlockKind::Hole {
            return Ok(None);
        }
        if end > bytes.len() {
            bytes.resize(end, 0);
            self.file.read_exact_at(&mut bytes, at).map_err(failed)?;
        }
        if let Ok(entries) = decode_directory(&header, &bytes[BLOCK_HEADER..end]) {
            return Ok(Some((header, entries)));
        }
        // Only with all of the block can be said whether it can be put right.
        let mut window = Window { segment: self, bytes: Vec::new(), start: 0, lenient: false };
        Ok(Self::block(&mut window, offset)?.map(|block| (block.header, block.entries)))
    }

    /// The fixed part of the block at `offset`, if one begins there.
    pub(crate) fn read_header_at(&self, offset: u64) -> Result<Option<BlockHeader>, LogError> {
        let at = self.file_offset(offset);
        if at + BLOCK_HEADER as u64 > self.len {
            return Ok(None);
        }
        let mut bytes = [0; BLOCK_HEADER];
        self.file.read_exact_at(&mut bytes, at).map_err(|error| LogError::io("read", &self.path, error))?;
        Ok(mend::header_at(&bytes, self.log_id, self.shard, offset))
    }

    /// Where the hole over `offset` ends that fsck has left, if there is one. It begins where the damage did, which may be
    /// before the place somebody had come to: then it is found by going over the blocks in front of it.
    pub(crate) fn hole_end(&self, offset: u64) -> Result<Option<u64>, LogError> {
        let mut place = offset;
        let mut found = self.read_header_at(place)?;
        if found.is_none() {
            place = self.base;
            found = self.read_header_at(place)?;
        }
        while let Some(header) = found {
            let end = header.end();
            if end > offset {
                return Ok((header.kind == BlockKind::Hole).then_some(end));
            }
            if end <= place {
                break;
            }
            place = end;
            found = self.read_header_at(place)?;
        }
        Ok(None)
    }

    fn block(window: &mut Window<'_>, offset: u64) -> Result<Option<Block>, LogError> {
        let (log_id, shard) = (window.segment.log_id, window.segment.shard);
        let Some(bytes) = window.bytes(offset, BLOCK_HEADER)? else { return Ok(None) };
        let Some(header) = mend::header_at(bytes, log_id, shard, offset) else { return Ok(None) };
        let head = header.encode();
        let mut mended = bytes != head;
        if header.kind == BlockKind::Hole {
            return Ok(Some(Block { header, entries: Vec::new(), bytes: Vec::new(), bad: Vec::new(), mended }));
        }
        let end = BLOCK_HEADER + header.directory_len as usize;
        let Some(read) = window.bytes(offset, end)? else { return Ok(None) };
        let directory = &read[BLOCK_HEADER..];
        let (entries, directory) = match decode_directory(&header, directory) {
            Ok(entries) => (entries, None),
            Err(_) => match mend::directory(&header, directory) {
                Some((entries, directory)) => (entries, Some(directory)),
                None => return Ok(None),
            },
        };
        let Some(ranges) = body_ranges(&header, &entries) else { return Ok(None) };
        let whole = window.bytes(offset, header.len as usize)?;
        // A file cut inside the block: header and directory are there, bodies are not.
        let mut bytes = whole.map(<[u8]>::to_vec).unwrap_or_default();
        let mut bad = Vec::new();
        for (number, (entry, range)) in entries.iter().zip(&ranges).enumerate() {
            let expected = match entry {
                Entry::Rows(rows) => &rows.body,
                Entry::Schema { body, .. } => body,
                Entry::Request(_) | Entry::Lost(_) | Entry::Index(_) => continue,
            };
            let Some(body) = bytes.get_mut(range.clone()) else {
                bad.push(number);
                continue;
            };
            if expected.check(body, offset, number) {
                continue;
            }
            match entry {
                Entry::Schema { id, .. } if mend::schema(body, *id, expected, offset, number) => mended = true,
                _ => bad.push(number),
            }
        }
        if let Some(directory) = directory {
            if !bad.is_empty() {
                return Ok(None);
            }
            mended = true;
            bytes[BLOCK_HEADER..end].copy_from_slice(&directory);
        }
        if let Some(place) = bytes.get_mut(..BLOCK_HEADER) {
            place.copy_from_slice(&head);
        }
        Ok(Some(Block { header, entries, bytes, bad, mended }))
    }

    /// Reads every block from the base up to `limit` (the base of the next segment), or to the end.
    /// After bytes that are no valid block it looks on, at every place where a block may begin.
    pub(crate) fn scan(
        &self,
        limit: Option<u64>,
        lenient: bool,
        visit: &mut dyn FnMut(Found) -> Result<(), LogError>,
    ) -> Result<ScanEnd, LogError> {
        let stop = limit.map_or(self.file_end(), |limit| limit.min(self.file_end()));
        let mut window = Window { segment: self, bytes: Vec::new(), start: 0, lenient };
        let mut end = ScanEnd {
            at: self.base,
            watermark: self.base,
            claimed: self.base,
            footer: false,
            leftover: false,
            cut: false,
            mended: 0,
        };
        end.cut = self.capacity > self.len;
        while end.at < stop {
            if let Some(block) = Self::block(&mut window, end.at)? {
                if block.header.kind == BlockKind::Footer {
                    end.footer = true;
                    end.cut = false;
                    end.watermark = end.watermark.max(end.at);
                    return Ok(end);
                }
                if block.mended {
                    let (file, offset) = (self.path.display(), self.file_offset(end.at));
                    tracing::error!(%file, offset, "a wrong bit in the log was put right: look at the disk");
                    end.mended += 1;
                }
                end.watermark = end.watermark.max(block.header.watermark);
                end.at = block.header.end();
                end.claimed = end.claimed.max(end.at);
                visit(Found::Block(block))?;
                continue;
            }
            end.leftover |=
                window.bytes(end.at, ALIGN as usize)?.is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0));
            match self.next_block(&mut window, end.at + ALIGN, stop, &mut end)? {
                Some(to) => {
                    visit(Found::Gap { from: end.at, to })?;
                    end.at = to;
                }
                None => return Ok(end),
            }
        }
        Ok(end)
    }

    fn next_block(
        &self,
        window: &mut Window<'_>,
        from: u64,
        stop: u64,
        end: &mut ScanEnd,
    ) -> Result<Option<u64>, LogError> {
        let mut at = from;
        // What stands at the place that did not check out counts as evidence too.
        for place in std::iter::once(from - ALIGN).chain(std::iter::from_fn(|| {
            let place = at;
            at += ALIGN;
            (place < stop).then_some(place)
        })) {
            let Some(bytes) = window.bytes(place, BLOCK_HEADER)? else { break };
            let Ok(header) = BlockHeader::decode(bytes, self.log_id, self.shard) else { continue };
            end.watermark = end.watermark.max(header.watermark);
            end.claimed = end.claimed.max(header.end());
            if place >= from && header.offset == place && Self::block(window, place)?.is_some() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}
