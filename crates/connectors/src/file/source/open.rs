//! The source while it runs: which file is read, and where each of them stands.
//!
//! One file at a time, in the order of names, so that the rows come in the same order whenever it is
//! started again. `next` reads and decodes without an await, so there is nothing in it to be dropped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use weir_base::ErrorKind;
use weir_component::source::{Next, PartitionName, Source, SourceError, SourcePosition, SourceReject, SourceRows};

use super::parquet::ParquetFile;
use super::place::{Place, truncated};
use super::text::{TextFile, TextRows, encoding};
use super::{FilePartitions, Plan, RowShape, disk_error, glob};

/// How often followed files are looked at.
const POLL: Duration = Duration::from_millis(200);
/// How often new files are looked for.
const DISCOVER: Duration = Duration::from_secs(2);
/// The partition of files that continue one another.
const SINGLE: &str = "files";

/// A source that is being read.
pub(super) struct FileSource {
    plan: Plan,
    files: BTreeMap<Arc<str>, Known>,
    /// The file being read.
    reading: Option<Reading>,
    /// The file after which the next one is looked for, in the round of followed files.
    after: Option<Arc<str>>,
    /// When all followed files had been read to their ends, and when files were looked for.
    polled: Option<Duration>,
    discovered: Duration,
    partitions: Option<Arc<[PartitionName]>>,
    single: PartitionName,
}

/// A file the source knows of.
struct Known {
    path: PathBuf,
    place: Place,
}

struct Reading {
    name: Arc<str>,
    file: OpenFile,
}

enum OpenFile {
    Text(Box<TextFile>),
    Parquet(Box<ParquetFile>),
}

impl FileSource {
    pub(super) fn open(plan: Plan, position: Option<SourcePosition>) -> Result<Self, SourceError> {
        let now = plan.clock.monotonic();
        let mut places = position.unwrap_or_default().partitions;
        let mut source = Self {
            files: BTreeMap::new(),
            reading: None,
            after: None,
            polled: None,
            discovered: now,
            partitions: None,
            single: SINGLE.into(),
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
            if encoding(self.plan.compression, &name) != weir_codecs::inflate::Encoding::Identity {
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

    /// Opens the next file that has something to read; `false` if there is none.
    fn advance(&mut self) -> Result<bool, SourceError> {
        loop {
            let next = match &self.after {
                Some(after) => {
                    let bounds = (std::ops::Bound::Excluded(Arc::clone(after)), std::ops::Bound::Unbounded);
                    self.files.range(bounds).next()
                }
                None => self.files.iter().next(),
            };
            let Some((name, known)) = next else { return Ok(false) };
            let name = Arc::clone(name);
            if known.place.done {
                self.after = Some(name);
                continue;
            }
            let file = match self.plan.disk.open_read(&known.path) {
                Ok(file) => Some(file),
                // A finished file may go; so may one that is followed.
                Err(error)
                    if error.kind() == std::io::ErrorKind::NotFound && (known.place.done || self.plan.follow) =>
                {
                    None
                }
                Err(error) => return Err(disk_error("open", &name, &error)),
            };
            let place = known.place.clone();
            self.after = Some(Arc::clone(&name));
            let Some(file) = file else { continue };
            let len = file.len().map_err(|error| disk_error("open", &name, &error))?;
            let file = match &self.plan.rows {
                RowShape::Arrow(schema) => OpenFile::Parquet(Box::new(ParquetFile::open(schema, &name, &file, place)?)),
                RowShape::Text(columns) => {
                    let plain = encoding(self.plan.compression, &name) == weir_codecs::inflate::Encoding::Identity;
                    if plain && len < place.offset {
                        return Err(truncated(&name, place.offset, len));
                    }
                    if self.plan.follow && len == place.offset {
                        continue;
                    }
                    OpenFile::Text(Box::new(TextFile::open(&self.plan, columns, &name, file, place)?))
                }
            };
            self.reading = Some(Reading { name, file });
            return Ok(true);
        }
    }

    /// Reads on in the open file: rows, or `None` if they have to be looked for elsewhere.
    fn read(&mut self) -> Result<Option<SourceRows>, SourceError> {
        let Some(reading) = &mut self.reading else { return Ok(None) };
        let name = Arc::clone(&reading.name);
        let (rows, rejects, bytes, ended, place) = match &mut reading.file {
            OpenFile::Text(file) => {
                let TextRows { decoded, bytes, ended } = file.read()?;
                let rejects = decoded.rejects.into_iter().map(|reject| SourceReject {
                    place: format!("{name}:{}", reject.line),
                    message: reject.message,
                    payload: reject.payload,
                });
                (Some(decoded.rows), rejects.collect(), bytes, ended, file.place())
            }
            OpenFile::Parquet(file) => match file.read()? {
                Some((rows, bytes)) => (Some(rows), Vec::new(), bytes, false, file.place()),
                None => (None, Vec::new(), 0, true, file.place()),
            },
        };
        let done = place.done;
        if let Some(known) = self.files.get_mut(&name) {
            known.place = place.clone();
        }
        if ended {
            self.reading = None;
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

    fn step(&mut self) -> Result<Next, SourceError> {
        let now = self.plan.clock.monotonic();
        if let Some(polled) = self.polled {
            let due = polled + POLL;
            if now < due {
                return Ok(Next::Nothing(due - now));
            }
            self.polled = None;
        }
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
            if self.reading.is_none() && !self.advance()? {
                break;
            }
        }
        if !self.plan.follow {
            return Ok(Next::Done);
        }
        self.after = None;
        if now.saturating_sub(self.discovered) >= DISCOVER {
            self.discovered = now;
            self.discover()?;
        }
        self.polled = Some(now);
        Ok(Next::Nothing(POLL))
    }
}

#[async_trait]
impl Source for FileSource {
    async fn next(&mut self) -> Result<Next, SourceError> {
        self.step()
    }

    fn position(&self) -> SourcePosition {
        let begun = self.files.iter().filter(|(_, known)| known.place != Place::default());
        let place = |place: &Place| serde_json::to_value(place).unwrap_or_default();
        SourcePosition { partitions: begun.map(|(name, known)| (name.to_string(), place(&known.place))).collect() }
    }

    fn partitions(&self) -> Option<Arc<[PartitionName]>> {
        self.partitions.clone()
    }
}
