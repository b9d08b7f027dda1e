//! The sink while it runs: which file rows go to, and what was staged for whom.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use weir_base::disk::DiskLock;
use weir_base::{ErrorKind, Timestamp};
use weir_codecs::rows::{csv_header, write_csv_header};
use weir_component::sink::{Opening, Receipt, Sink, SinkError};

use super::stage::{Piece, Stage};
use super::version::{Shown, Versions, gone, measure, other};
use super::{Existing, Plan, disk_error, encode, parquet, place};
use crate::config::FileFormat;

/// How much of a file is looked at for its header.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// A sink that is being written.
pub(super) struct FileSink {
    plan: Plan,
    schema: SchemaRef,
    generation: u64,
    /// The file rows go to, as it will be when everything staged is committed.
    current: Current,
    /// Stages of the epoch that is being written; rows go to the last one that has not ended.
    stages: Vec<Stage>,
    staged: u64,
    /// Files to be removed by the first commit.
    replaced: Vec<String>,
    versions: Versions,
    /// What the file has that rows went to last, as far as it can be seen.
    shown: Current,
    lock: Box<dyn DiskLock>,
}

/// A file, as it is after an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Current {
    /// The number in its name; 0 if files are not rolled.
    number: u64,
    /// Whether it was begun, if only by an empty stage.
    begun: bool,
    /// Bytes it has, or rows of Parquet.
    has: u64,
    /// Bytes it has, roughly if it is Parquet.
    bytes: u64,
    /// When its first row was written, in nanoseconds since 1970.
    since: i64,
    /// What tells its columns from others.
    columns: u32,
}

impl Current {
    /// It has what was staged.
    fn count(&mut self, stage: &Stage) {
        self.bytes += stage.bytes();
        self.has = stage.after();
        self.begun = true;
    }
}

/// What is to be known to commit an epoch, and to go on after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Committed {
    pieces: Vec<Piece>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    removes: Vec<String>,
    current: Current,
}

impl Committed {
    /// Whether there is nothing to be done.
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.removes.is_empty()
    }

    /// Whether there is a file, or was one.
    fn has_written(&self) -> bool {
        self.current.begun || self.current.number > 1 || !self.pieces.is_empty()
    }

    /// The file that rows become whose own was taken away before they were shown. Nothing else has the number, so that
    /// files that were taken away never have the same name.
    fn spare(&self) -> u64 {
        self.current.number + 1
    }

    /// Where rows go on after that.
    fn past(&self) -> u64 {
        self.spare() + 1
    }

    fn of(receipt: &Receipt) -> Result<Self, SinkError> {
        serde_json::from_value(receipt.0.clone()).map_err(|error| {
            SinkError::new(ErrorKind::Corrupt, format!("a receipt of a file sink makes no sense: {error}"))
        })
    }
}

/// The files there are, by their numbers; regular ones, or it is an error.
pub(super) fn existing(plan: &Plan) -> Result<Vec<(u64, String)>, SinkError> {
    let Plan { names, disk, .. } = plan;
    let folder = &names.folder;
    let entries = match disk.list(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        entries => entries.map_err(|error| disk_error("list", folder, &error))?,
    };
    let mut existing: Vec<(u64, String)> =
        entries.into_iter().filter_map(|entry| Some((names.number_of(&entry.name)?, entry.name))).collect();
    existing.sort();
    for (_, name) in &existing {
        place::check_regular(disk.as_ref(), &folder.join(name))?;
    }
    Ok(existing)
}

/// Why a file that exists is not written by a pipeline that begins: whoever wrote it.
pub(super) fn refused(plan: &Plan, name: &str) -> SinkError {
    let message = format!(
        "{} exists already, and a pipeline that begins writes into no file that is there: move it away, or say `existing: append` or `existing: replace`",
        plan.names.folder.join(name).display()
    );
    SinkError::new(ErrorKind::Conflict, message)
}

impl FileSink {
    pub(super) fn open(plan: Plan, schema: SchemaRef, opened: Opening) -> Result<Self, SinkError> {
        encode::check(&plan, &schema)?;
        match opened.last {
            Some((_, receipt)) => {
                let committed = Committed::of(&receipt)?;
                Self::again(plan, schema, opened.generation, &committed).map_err(place::passing)
            }
            None => {
                // Before anything is put beside what is there.
                existing(&plan)?;
                let mut sink = Self::made(plan, schema, opened.generation)?;
                sink.begin()?;
                sink.sweep()?;
                Ok(sink)
            }
        }
    }

    /// Opens it after a decided epoch.
    fn again(plan: Plan, schema: SchemaRef, generation: u64, committed: &Committed) -> Result<Self, SinkError> {
        if committed.has_written() {
            place::check_known(&plan)?;
        }
        let mut sink = Self::made(plan, schema, generation)?;
        let columns = sink.current.columns;
        sink.resume(committed, columns)?;
        sink.sweep()?;
        Ok(sink)
    }

    /// One that knows of no file.
    fn made(plan: Plan, schema: SchemaRef, generation: u64) -> Result<Self, SinkError> {
        let folder = &plan.names.folder;
        plan.disk.create_dir_all(folder).map_err(|error| disk_error("create the folder", folder, &error))?;
        let lock = place::lock(&plan)?;
        let columns = fingerprint(&schema);
        Ok(Self {
            versions: Versions::new(generation),
            generation,
            current: Current { columns, number: u64::from(plan.roll.is_some()), ..Current::default() },
            stages: Vec::new(),
            staged: 0,
            replaced: Vec::new(),
            shown: Current::default(),
            plan,
            schema,
            lock,
        })
    }

    /// That rows go where they went before.
    fn check_place(&mut self) -> Result<(), SinkError> {
        let Self { plan, shown, .. } = &*self;
        let has_file = || match shown.has {
            0 => Ok(true),
            expected => {
                let target = plan.names.folder.join(plan.names.target(shown.number));
                let has = measure(plan, &target)?;
                // Whoever takes rolled files away may have taken this one.
                Ok(has.map_or(plan.roll.is_some(), |has| has >= expected))
            }
        };
        if let Some(lock) = place::check(plan, self.lock.as_ref(), has_file)? {
            self.lock = lock;
        }
        Ok(())
    }

    /// That what was staged is where it was staged: the place may have changed between a look at it and the making of a file.
    fn check_staged(&self) -> Result<(), SinkError> {
        let Plan { names, disk, .. } = &self.plan;
        for piece in self.stages.iter().map(Stage::piece) {
            let path = names.folder.join(&piece.stage);
            let len = disk.open_read(&path).and_then(|file| file.len());
            let next = piece.next.as_ref().map_or(Ok(true), |next| disk.is_regular(&names.folder.join(next)));
            match next.and(len) {
                Ok(len) if len == piece.bytes => {}
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(disk_error("read", &path, &error));
                }
                Ok(_) | Err(_) => {
                    let message = format!(
                        "{} is not what was written; the rows since the last checkpoint have to be computed again",
                        path.display()
                    );
                    return Err(SinkError::undecided(ErrorKind::Transient, message));
                }
            }
        }
        Ok(())
    }

    /// Goes on after a decided epoch.
    fn resume(&mut self, committed: &Committed, columns: u32) -> Result<(), SinkError> {
        let rolled = self.plan.roll.is_some();
        let shown = self.publish(committed, true)?;
        self.current = committed.current.clone();
        if rolled != (self.current.number > 0) {
            let message = format!(
                "{} was written {} `roll` so far; change that with a fresh start",
                self.plan.shown,
                if rolled { "without" } else { "with" }
            );
            return Err(SinkError::new(ErrorKind::Conflict, message));
        }
        if shown == Shown::Apart {
            let past = committed.past().max(existing(&self.plan)?.last().map_or(0, |(last, _)| last + 1));
            self.go_past(past)?;
        }
        // Files behind it are of a later time, if this is an older one that was gone back to, or somebody else's.
        let last = if rolled { existing(&self.plan)?.last().map_or(0, |(last, _)| *last) } else { 0 };
        if last > self.current.number {
            let (from, to) = (self.current.number, last + 1);
            tracing::warn!(sink = %self.plan.shown, from, to, "there are rolled files after the last one of this checkpoint: going on behind them");
            self.current = Current { number: to, columns, ..Current::default() };
        }
        if self.current.has > 0 {
            let target = self.target();
            match measure(&self.plan, &target)? {
                Some(has) if has == self.current.has => {}
                Some(has) => return Err(other(&self.plan, &target, has, self.current.has)),
                // Whoever takes rolled files away may take this one.
                None if rolled => self.roll(),
                None => return Err(gone(&target, self.current.has)),
            }
        }
        if self.current.columns != columns && self.plan.format != FileFormat::Ndjson {
            if self.current.has > 0 && !rolled {
                let message = format!(
                    "{} has other columns than the pipeline now: write to another file, or start it anew",
                    self.plan.shown
                );
                return Err(SinkError::new(ErrorKind::Conflict, message));
            }
            if self.current.has > 0 {
                self.roll();
            }
        }
        self.current.columns = columns;
        Ok(())
    }

    /// Looks at what is there before the first start.
    fn begin(&mut self) -> Result<(), SinkError> {
        let existing = existing(&self.plan)?;
        let Some((last, name)) = existing.last() else { return Ok(()) };
        match self.plan.existing {
            Existing::Refuse => Err(refused(&self.plan, name)),
            Existing::Replace => {
                self.replaced = existing.into_iter().map(|(_, name)| name).collect();
                Ok(())
            }
            Existing::Append if self.plan.roll.is_some() => {
                self.current.number = last + 1;
                Ok(())
            }
            Existing::Append => self.append(),
        }
    }

    /// Goes on after the last row of a file of somebody else's.
    fn append(&mut self) -> Result<(), SinkError> {
        let target = self.target();
        let refuse = |what: String| {
            SinkError::new(ErrorKind::Conflict, format!("cannot append to {}: {what}", target.display()))
        };
        let failed = |error: std::io::Error| disk_error("read", &target, &error);
        let file = self.plan.disk.open_read(&target).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        if len == 0 {
            return Ok(());
        }
        match self.plan.format {
            FileFormat::Parquet => {
                let schema = parquet::schema(&file).map_err(failed)?;
                if fingerprint(&schema) != fingerprint(&self.schema) {
                    return Err(refuse("it has other columns".to_owned()));
                }
            }
            FileFormat::Ndjson | FileFormat::Csv => {
                let mut last = [0];
                file.read_exact_at(&mut last, len - 1).map_err(failed)?;
                if last != *b"\n" {
                    return Err(refuse("its last line has no end".to_owned()));
                }
            }
        }
        if self.plan.format == FileFormat::Csv && self.plan.csv_header {
            let mut bytes = vec![0; usize::try_from(len.min(HEADER_BYTES_MAX)).unwrap_or(0)];
            file.read_exact_at(&mut bytes, 0).map_err(failed)?;
            let mut ours = Vec::new();
            write_csv_header(&mut ours, &self.schema, self.plan.csv_delimiter);
            let header = |bytes: &[u8]| csv_header(bytes, self.plan.csv_delimiter, true);
            if header(&bytes) != header(&ours) {
                return Err(refuse("its first line does not name the same columns".to_owned()));
            }
        }
        let Some(has) = measure(&self.plan, &target)? else { return Ok(()) };
        self.current.has = has;
        self.current.begun = true;
        self.current.bytes = len;
        self.current.since = self.plan.clock.now().0;
        Ok(())
    }

    /// Removes what was staged and never decided, and all versions.
    fn sweep(&mut self) -> Result<(), SinkError> {
        let Plan { names, disk, .. } = &self.plan;
        self.versions.keep_none(disk.as_ref());
        let failed = |error| disk_error("clean up", &names.folder, &error);
        for entry in disk.list(&names.folder).map_err(failed)? {
            if names.is_scrap(&entry.name) {
                disk.remove(&names.folder.join(&entry.name)).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn target(&self) -> std::path::PathBuf {
        self.plan.names.folder.join(self.plan.names.target(self.current.number))
    }

    /// Goes on in the next file.
    fn roll(&mut self) {
        self.current = Current { number: self.current.number + 1, columns: self.current.columns, ..Current::default() };
    }

    /// Whatever is not prepared yet goes into files from this number on: those before may have been taken away.
    fn go_past(&mut self, number: u64) -> Result<(), SinkError> {
        let first = self.stages.first().map_or(self.current.number, Stage::number);
        let Some(by) = number.checked_sub(first).filter(|by| *by > 0) else { return Ok(()) };
        if self.current.number == first {
            self.current = Current { columns: self.current.columns, number: first, ..Current::default() };
            self.current.since = self.plan.clock.now().0;
        }
        for stage in &mut self.stages {
            let was = stage.number();
            stage.begin_file(&self.plan, was + by);
            if was == self.current.number && stage.has_ended() {
                self.current.count(stage);
            }
        }
        self.current.number += by;
        Ok(())
    }

    /// Makes the next version of the file that goes on, or leaves it if somebody has taken it away. Whether there is a new
    /// name.
    fn foresee(&mut self) -> Result<bool, SinkError> {
        let Some(stage) = self.stages.first_mut().filter(|_| self.plan.roll.is_some()) else { return Ok(false) };
        let piece = stage.piece();
        if piece.before == 0 {
            return Ok(false);
        }
        let target = self.plan.names.folder.join(&piece.file);
        match measure(&self.plan, &target)? {
            Some(has) if has == piece.before => {
                let (next, is_new) = self.versions.foresee(&self.plan, &piece)?;
                stage.set_next(next);
                Ok(is_new)
            }
            Some(has) => Err(other(&self.plan, &target, has, piece.before)),
            None => {
                let past = stage.number() + 1;
                if let Some(next) = &piece.next {
                    self.versions.forget(self.plan.disk.as_ref(), &self.plan.names.folder.join(next));
                }
                self.go_past(past)?;
                Ok(false)
            }
        }
    }

    /// Begins the next file if the current one is full or old enough.
    fn roll_if_due(&mut self) -> Result<(), SinkError> {
        let mut ending = self.stages.last().is_some_and(Stage::is_ending);
        if ending {
            self.end_stage()?;
        }
        let Some(roll) = self.plan.roll else { return Ok(()) };
        // One that was ended to be prepared, which failed: no file has two stages in an epoch.
        ending |= self.stages.last().is_some_and(|stage| stage.has_ended() && stage.number() == self.current.number);
        let staged = self.stages.last().filter(|_| self.is_staging()).map_or(0, Stage::bytes);
        let has = self.current.bytes + staged;
        let age = self.plan.clock.now().since(Timestamp(self.current.since));
        let begun = self.current.has > 0 || staged > 0;
        let due = roll.bytes.is_some_and(|bytes| has >= bytes.0) || roll.every.is_some_and(|every| age >= every.0);
        if begun && (due || ending) {
            if self.is_staging() {
                self.end_stage()?;
            }
            self.roll();
        }
        Ok(())
    }

    /// Begins the next file if somebody has taken away the current one, all of which could be seen.
    fn roll_if_taken(&mut self) -> Result<(), SinkError> {
        if self.plan.roll.is_none() || self.current.has == 0 || self.current != self.shown {
            return Ok(());
        }
        let target = self.target();
        match self.plan.disk.is_regular(&target) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.roll();
                Ok(())
            }
            Err(error) => Err(disk_error("look at", &target, &error)),
            Ok(_) => Ok(()),
        }
    }

    /// Whether rows go to a stage that is there.
    fn is_staging(&self) -> bool {
        let target = self.plan.names.target(self.current.number);
        self.stages.last().is_some_and(|stage| stage.is_open_for(&target))
    }

    fn begin_stage(&mut self) -> Result<(), SinkError> {
        self.staged += 1;
        let name = self.plan.names.stage(self.generation, self.staged);
        let stage = Stage::begin(&self.plan, &self.schema, name, self.current.number, self.current.has)?;
        self.stages.push(stage);
        if self.current.has == 0 {
            self.current.since = self.plan.clock.now().0;
        }
        Ok(())
    }

    /// Ends the stage rows go to, and counts it to its file.
    fn end_stage(&mut self) -> Result<(), SinkError> {
        let disk = Arc::clone(&self.plan.disk);
        if let Some(stage) = self.stages.last_mut() {
            stage.end(disk.as_ref())?;
            self.current.count(stage);
        }
        Ok(())
    }

    fn publish(&mut self, committed: &Committed, verify: bool) -> Result<Shown, SinkError> {
        let disk = Arc::clone(&self.plan.disk);
        let folder = self.plan.names.folder.clone();
        if committed.removes.iter().any(|name| !committed.pieces.iter().any(|piece| piece.file == *name)) {
            for name in &committed.removes {
                // What is written under the same name is replaced in one step.
                if !committed.pieces.iter().any(|piece| piece.file == *name) {
                    remove(disk.as_ref(), &folder.join(name))?;
                }
            }
            self.sync_folder()?;
        }
        let spare = self.plan.names.target(committed.spare());
        let mut shown = Shown::There;
        for piece in &committed.pieces {
            if self.versions.publish(&self.plan, piece, &spare, verify)? == Shown::Apart {
                shown = Shown::Apart;
            }
        }
        // A version before helps only a file that goes on.
        self.versions.keep_only(disk.as_ref(), &self.plan.names.target(committed.current.number));
        self.shown = if shown == Shown::There { committed.current.clone() } else { Current::default() };
        Ok(shown)
    }
}

fn remove(disk: &dyn weir_base::disk::Disk, path: &Path) -> Result<(), SinkError> {
    match disk.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk_error("remove", path, &error)),
        _ => Ok(()),
    }
}

/// What tells columns from others: their names and types, in order.
fn fingerprint(schema: &SchemaRef) -> u32 {
    let columns = schema.fields().iter().map(|field| format!("{}\u{0}{}\u{0}", field.name(), field.data_type()));
    crc32c::crc32c(columns.collect::<String>().as_bytes())
}

impl FileSink {
    fn take(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        self.check_place()?;
        self.roll_if_due()?;
        if !self.is_staging() {
            self.roll_if_taken()?;
            self.begin_stage()?;
        }
        let disk = Arc::clone(&self.plan.disk);
        match self.stages.last_mut() {
            Some(stage) => stage.write(disk.as_ref(), rows),
            None => Ok(()),
        }
    }

    /// Makes visible what was staged for an epoch.
    fn show(&mut self, committed: &Committed) -> Result<(), SinkError> {
        if !committed.is_empty() {
            self.check_place()?;
        }
        if self.publish(committed, false)? == Shown::Apart {
            // The place may have changed between a look at it and at the files.
            self.check_place()?;
            self.go_past(committed.past())?;
        }
        Ok(())
    }

    fn sync_folder(&self) -> Result<(), SinkError> {
        let folder = &self.plan.names.folder;
        self.plan.disk.sync_dir(folder).map_err(|error| disk_error("make names durable in", folder, &error))
    }

    /// Makes stages durable, where they will be looked for.
    fn stage(&mut self) -> Result<Committed, SinkError> {
        let is_fresh = !self.current.begun && self.plan.roll.is_none();
        if is_fresh || !self.stages.is_empty() {
            self.check_place()?;
        }
        if self.stages.is_empty() && is_fresh {
            // A pipeline without results has a file without rows.
            self.begin_stage()?;
        }
        if self.is_staging() {
            self.end_stage()?;
        }
        for stage in &mut self.stages {
            stage.sync()?;
        }
        if !self.stages.is_empty() {
            // Also that the stages before are gone, whose versions are written to now.
            self.sync_folder()?;
            if self.foresee()? {
                self.sync_folder()?;
            }
            self.check_place()?;
            self.check_staged()?;
        }
        Ok(Committed {
            pieces: self.stages.iter().map(Stage::piece).collect(),
            removes: self.replaced.clone(),
            current: self.current.clone(),
        })
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.take(rows).map_err(place::passing)
    }

    async fn prepare(&mut self, _epoch: u64) -> Result<Receipt, SinkError> {
        let committed = self.stage().map_err(place::passing)?;
        let receipt = serde_json::to_value(&committed)
            .map_err(|error| SinkError::new(ErrorKind::Internal, format!("cannot write a receipt: {error}")))?;
        self.stages.clear();
        self.replaced.clear();
        Ok(Receipt(receipt))
    }

    async fn commit(&mut self, _epoch: u64, receipt: &Receipt) -> Result<(), SinkError> {
        let committed = Committed::of(receipt)?;
        self.show(&committed).map_err(place::passing)
    }
}
