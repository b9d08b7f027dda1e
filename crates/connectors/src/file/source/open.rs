//! The source while it runs: which file is read, and where each of them stands.
//!
//! Files are read in the order of their names, one to its end before the next, so that rows come in the
//! same order whenever the source is started again; unless the engine says that another one holds back
//! event time, which is then read first. `next` reads and decodes without an await, so there is nothing
//! in it to be dropped.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use weir_base::ErrorKind;
use weir_codecs::inflate::Encoding;
use weir_component::source::{Next, PartitionName, Source, SourceError, SourcePosition, SourceReject, SourceRows};

use super::parquet::ParquetFile;
use super::place::{Place, truncated};
use super::text::{TextFile, TextRows, encoding};
use super::{FilePartitions, Plan, RowShape, disk_error, glob};

/// How often followed files are looked at.
const POLL: Duration = Duration::from_millis(200);
/// How often new files are looked for.
const DISCOVER: Duration = Duration::from_secs(2);
/// Many files are looked at less often, so that looking takes a twentieth of the time at most.
const REST: u32 = 19;
/// The most files that are open at once. One that has to make room is opened again at its place, if it is
/// neither compressed nor Parquet: in those a place is far from the beginning of something.
const OPEN_FILES_MAX: usize = 16;
/// The partition of files that continue one another.
const SINGLE: &str = "files";

/// A source that is being read.
pub(super) struct FileSource {
    plan: Plan,
    files: BTreeMap<Arc<str>, Known>,
    /// Files that have been begun.
    open: BTreeMap<Arc<str>, OpenFile>,
    /// The one being read.
    reading: Option<Arc<str>>,
    /// The file after which the next one is looked for: all before it are done, or were looked at in this
    /// round of followed files.
    after: Option<Arc<str>>,
    /// How long looking for something to read has taken in this round, and when the next one is due.
    looked: Duration,
    due: Duration,
    /// When new files are looked for again.
    discover_due: Duration,
    partitions: Option<Arc<[PartitionName]>>,
    single: PartitionName,
    /// What the first file lacked that was not whole.
    lacks: Option<String>,
    /// A file was whole: then an empty one beside it is one without rows.
    has_whole: bool,
}

/// A file the source knows of.
struct Known {
    path: PathBuf,
    place: Place,
}

enum OpenFile {
    Text(Box<TextFile>),
    Parquet(Box<ParquetFile>),
}

/// What was read of a file.
struct Part {
    rows: Option<RecordBatch>,
    rejects: Vec<SourceReject>,
    bytes: u64,
    /// There is no more, for now at least.
    ended: bool,
    /// The place after it.
    place: Place,
}

impl OpenFile {
    fn read(&mut self, name: &str) -> Result<Part, SourceError> {
        match self {
            Self::Text(file) => {
                let TextRows { decoded, bytes, ended } = file.read()?;
                let rejects = decoded.rejects.into_iter().map(|reject| SourceReject {
                    place: format!("{name}:{}", reject.line),
                    message: reject.message,
                    payload: reject.payload,
                });
                let place = file.place().clone();
                Ok(Part { rows: Some(decoded.rows), rejects: rejects.collect(), bytes, ended, place })
            }
            Self::Parquet(file) => {
                let read = file.read()?;
                let ended = read.is_none();
                let (rows, bytes) = read.map_or((None, 0), |(rows, bytes)| (Some(rows), bytes));
                Ok(Part { rows, rejects: Vec::new(), bytes, ended, place: file.place().clone() })
            }
        }
    }

    /// Whether it was to begin with a header, and none has come.
    fn lacks_header(&self) -> bool {
        matches!(self, Self::Text(file) if file.lacks_header())
    }

    /// Whether going on at its place later costs no more than opening it.
    fn is_cheap_to_reopen(&self) -> bool {
        matches!(self, Self::Text(file) if !file.is_compressed())
    }
}

impl FileSource {
    pub(super) fn open(plan: Plan, position: Option<SourcePosition>) -> Result<Self, SourceError> {
        let now = plan.clock.monotonic();
        let mut places = position.unwrap_or_default().partitions;
        let mut source = Self {
            files: BTreeMap::new(),
            open: BTreeMap::new(),
            reading: None,
            after: None,
            looked: Duration::ZERO,
            due: now,
            discover_due: now + DISCOVER,
            partitions: None,
            single: SINGLE.into(),
            lacks: None,
            has_whole: false,
            plan,
        };
        for (name, path) in source.look()? {
            let place = match places.remove(name.as_str()) {
                Some(place) => serde_json::from_value(place).map_err(|error| {
                    SourceError::new(ErrorKind::Corrupt, format!("the position in {name} makes no sense: {error}"))
                })?,
                None => Place::default(),
            };
            source.files.insert(name.into(), Known { path, place });
        }
        // What was read to its end may be gone, and is then forgotten.
        for (name, place) in places {
            let place: Option<Place> = serde_json::from_value(place).ok();
            if !source.plan.follow && place.is_none_or(|place| !place.done && place.offset > 0) {
                let message = format!("{name} was read in part and is gone; put it back, or start the pipeline anew");
                return Err(SourceError::new(ErrorKind::NotFound, message));
            }
        }
        if source.files.is_empty() && !source.plan.follow {
            let message = format!("no file matches {}", source.plan.patterns.join(", "));
            return Err(SourceError::new(ErrorKind::NotFound, message));
        }
        source.refresh_partitions();
        Ok(source)
    }

    /// The files that match now.
    fn look(&self) -> Result<BTreeMap<String, PathBuf>, SourceError> {
        let Plan { disk, directory, patterns, .. } = &self.plan;
        glob::expand(disk.as_ref(), directory, patterns)
            .map_err(|error| disk_error("look for files that match", &patterns.join(", "), &error))
    }

    fn refresh_partitions(&mut self) {
        if self.plan.partitions == FilePartitions::Single {
            return;
        }
        let open = self.files.iter().filter(|(_, known)| !known.place.done);
        self.partitions = Some(open.map(|(name, _)| Arc::clone(name)).collect());
    }

    /// Finds files that have come, and forgets those that have gone.
    fn discover(&mut self) -> Result<(), SourceError> {
        let mut found = self.look()?;
        let before = self.files.len();
        self.files.retain(|name, _| found.contains_key(&**name));
        let mut changed = self.files.len() != before;
        found.retain(|name, _| !self.files.contains_key(name.as_str()));
        for (name, path) in found {
            if encoding(self.plan.compression, &name) != Encoding::Identity {
                let message =
                    format!("{name} is compressed and cannot be followed; name the files so that it does not match");
                return Err(SourceError::new(ErrorKind::Config, message));
            }
            self.files.insert(name.into(), Known { path, place: Place::default() });
            changed = true;
        }
        if changed {
            self.refresh_partitions();
        }
        Ok(())
    }

    /// Goes on to the next file that has something to read; `false` if there is none.
    fn advance(&mut self) -> Result<bool, SourceError> {
        loop {
            let next = match &self.after {
                Some(after) => {
                    let bounds = (Bound::Excluded(Arc::clone(after)), Bound::Unbounded);
                    self.files.range(bounds).next()
                }
                None => self.files.iter().next(),
            };
            let Some((name, known)) = next else { return Ok(false) };
            let name = Arc::clone(name);
            if !known.place.done && self.begin(&name)? {
                self.reading = Some(name);
                return Ok(true);
            }
            self.after = Some(name);
        }
    }

    /// Makes sure that a file is open; `false` if there is nothing to read in it.
    fn begin(&mut self, name: &Arc<str>) -> Result<bool, SourceError> {
        if self.open.contains_key(name) {
            return Ok(true);
        }
        let Some(known) = self.files.get(name) else { return Ok(false) };
        let file = match self.plan.disk.open_read(&known.path) {
            Ok(file) => file,
            // One that is followed may go.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.plan.follow => return Ok(false),
            Err(error) => return Err(disk_error("open", name, &error)),
        };
        let place = known.place.clone();
        let len = file.len().map_err(|error| disk_error("open", name, &error))?;
        let file = match &self.plan.rows {
            RowShape::Arrow(schema) => OpenFile::Parquet(Box::new(ParquetFile::open(schema, name, &file, place)?)),
            RowShape::Text(columns) => {
                if encoding(self.plan.compression, name) == Encoding::Identity && len < place.offset {
                    return Err(truncated(name, place.offset, len));
                }
                if self.plan.follow && len == place.offset {
                    return Ok(false);
                }
                OpenFile::Text(Box::new(TextFile::open(&self.plan, columns, name, file, place)?))
            }
        };
        self.open.insert(Arc::clone(name), file);
        Ok(true)
    }

    /// Goes over to the file that holds back event time, if that can be had.
    fn prefer(&mut self, behind: Option<&str>) -> Result<(), SourceError> {
        let Some(behind) = behind else { return Ok(()) };
        if self.plan.follow || self.reading.as_deref() == Some(behind) {
            return Ok(());
        }
        let Some((name, known)) = self.files.get_key_value(behind) else { return Ok(()) };
        let name = Arc::clone(name);
        if known.place.done {
            return Ok(());
        }
        if self.open.len() >= OPEN_FILES_MAX && !self.open.contains_key(&name) {
            let cheap = self.open.iter().rfind(|(_, file)| file.is_cheap_to_reopen());
            let Some(cheap) = cheap.map(|(name, _)| Arc::clone(name)) else { return Ok(()) };
            self.open.remove(&cheap);
            if self.reading.as_ref() == Some(&cheap) {
                self.reading = None;
            }
        }
        if self.begin(&name)? {
            self.reading = Some(name);
        }
        Ok(())
    }

    /// Reads on in the open file: rows, or `None` if they have to be looked for elsewhere.
    fn read(&mut self) -> Result<Option<SourceRows>, SourceError> {
        let Some(name) = self.reading.clone() else { return Ok(None) };
        let Some(file) = self.open.get_mut(&name) else {
            self.reading = None;
            return Ok(None);
        };
        let Part { rows, rejects, bytes, ended, place } = match file.read(&name) {
            Ok(part) => part,
            Err(error) => {
                // If it is tried again, then from the last place that is certain.
                self.open.remove(&name);
                self.reading = None;
                return Err(error);
            }
        };
        let done = place.done;
        if done && file.lacks_header() {
            self.lacks.get_or_insert_with(|| format!("{name} has no header: it is empty"));
        } else if done {
            self.has_whole = true;
        }
        if let Some(known) = self.files.get_mut(&name) {
            known.place = place;
        }
        if ended {
            self.open.remove(&name);
            self.reading = None;
            if self.plan.follow {
                self.after = Some(Arc::clone(&name));
            }
        }
        if done {
            self.refresh_partitions();
        }
        let partition = match self.plan.partitions {
            FilePartitions::ByFile => name,
            FilePartitions::Single => Arc::clone(&self.single),
        };
        Ok(rows.map(|rows| SourceRows { partition, rows, arrived: None, rejects, bytes }))
    }

    pub(super) fn step(&mut self, behind: Option<&str>) -> Result<Next, SourceError> {
        let now = self.plan.clock.monotonic();
        if now < self.due {
            return Ok(Next::Nothing(self.due - now));
        }
        self.prefer(behind)?;
        loop {
            if let Some(rows) = self.read()? {
                if rows.rows.num_rows() > 0 || !rows.rejects.is_empty() {
                    return Ok(Next::Rows(rows));
                }
                if self.reading.is_some() {
                    // Much was read and nothing came of it: others may want to go on first.
                    return Ok(Next::Nothing(Duration::ZERO));
                }
            }
            if self.reading.is_none() {
                let before = self.plan.clock.monotonic();
                let found = self.advance()?;
                self.looked += self.plan.clock.monotonic().saturating_sub(before);
                if !found {
                    break;
                }
            }
        }
        if !self.plan.follow {
            return Ok(Next::Done);
        }
        self.after = None;
        if now >= self.discover_due {
            self.discover()?;
            let ended = self.plan.clock.monotonic();
            self.discover_due = ended + DISCOVER.max(ended.saturating_sub(now) * REST);
        }
        let rest = POLL.max(self.looked * REST);
        (self.looked, self.due) = (Duration::ZERO, self.plan.clock.monotonic() + rest);
        Ok(Next::Nothing(rest))
    }
}

#[async_trait]
impl Source for FileSource {
    async fn next(&mut self, behind: Option<&str>) -> Result<Next, SourceError> {
        self.step(behind)
    }

    fn position(&self) -> SourcePosition {
        let begun = self.files.iter().filter(|(_, known)| known.place != Place::default());
        let place = |place: &Place| serde_json::to_value(place).unwrap_or_default();
        SourcePosition { partitions: begun.map(|(name, known)| (name.to_string(), place(&known.place))).collect() }
    }

    fn come_since(&self) -> Result<Option<String>, SourceError> {
        for (name, Known { path, place }) in &self.files {
            if !place.done {
                return Ok(Some(format!("{name} has come since all input was read")));
            }
            let file = match self.plan.disk.open_read(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(disk_error("open", name, &error)),
            };
            place.head.check(name, file.as_ref())?;
            let len = file.len().map_err(|error| disk_error("read", name, &error))?;
            let is_text = matches!(self.plan.rows, RowShape::Text(_));
            if is_text && encoding(self.plan.compression, name) == Encoding::Identity {
                if len < place.offset {
                    return Err(truncated(name, place.offset, len));
                }
                if len > place.offset {
                    return Ok(Some(format!("{name} has grown since all input was read")));
                }
            }
        }
        Ok(None)
    }

    fn partitions(&self) -> Option<Arc<[PartitionName]>> {
        self.partitions.clone()
    }

    fn lacks(&self) -> Option<&str> {
        self.lacks.as_deref().filter(|_| !self.has_whole)
    }
}
