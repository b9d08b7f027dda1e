//! Dead letters and savepoints of a pipeline that `weir run` runs: what is in its folder, while it does not run.
//!
//! A pipeline that runs has its book of dead letters and its checkpoints in memory, and nobody but its process may change
//! them: so all of this takes the lock of the state, and says so if somebody has it. Lists only look.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use weir_api::deadletter::{DeadLetterFilter, DeadLetterReason};
use weir_component::checkpoint::CheckpointStore;
use weir_connectors::checkpoints::CheckpointFolder;
use weir_engine::{Saved, keep, restore_savepoint, saved};
use weir_pipelines::letters::book::{Book, Marks};
use weir_pipelines::letters::queue::Queued;
use weir_pipelines::letters::{LetterId, LetterSet};

use super::run::{Prepared, RESTORING, prepare};
use super::say;
use crate::failure::bad_arguments;

/// Whether a name is that of a file, and not of a pipeline in a server: those have neither dots nor slashes.
pub(super) fn is_file(name: &str) -> bool {
    name.contains(['.', '/', std::path::MAIN_SEPARATOR])
}

/// The longest name of a savepoint.
const LABEL_BYTES_MAX: usize = 63;

/// A pipeline with its state.
pub(super) struct Local {
    prepared: Prepared,
}

/// A line of the file of dead letters.
struct Line {
    id: LetterId,
    letter: Value,
}

/// What became of dead letters.
struct Fates {
    marks: Marks,
    waiting: LetterSet,
}

impl Fates {
    fn of(&self, id: LetterId) -> &'static str {
        if self.marks.is_replayed(id) {
            "replayed"
        } else if self.waiting.contains(id) {
            "waiting"
        } else {
            "open"
        }
    }
}

impl Local {
    pub(super) fn open(file: &str, state: Option<&Path>) -> anyhow::Result<Self> {
        let prepared = prepare(Path::new(file), state)?;
        anyhow::ensure!(
            prepared.state.is_dir(),
            "there is no state in {}: the pipeline has not run yet, or keeps it elsewhere (--state)",
            prepared.state.display()
        );
        Ok(Self { prepared })
    }

    fn dead(&self) -> PathBuf {
        self.prepared.state.join("dead.ndjson")
    }

    /// All dead letters a filter means, oldest first.
    fn lines(&self, filter: &DeadLetterFilter) -> anyhow::Result<Vec<Line>> {
        let DeadLetterFilter { since, class, step, ids } = filter;
        if since.is_some() {
            let message =
                "--since: a file of dead letters does not say when they were set aside; take --class, --step or --id";
            return Err(bad_arguments(message));
        }
        let path = self.dead();
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut lines = Vec::new();
        let is = |letter: &Value, name: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| letter[name].as_str() == Some(wanted))
        };
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            let letter: Value = serde_json::from_str(&line).with_context(|| format!("{}: {line}", path.display()))?;
            // Those of a Weir that gave no ids cannot be named.
            let Some(id) = letter["id"].as_str().and_then(LetterId::parse) else { continue };
            let is_named = ids.is_empty() || ids.iter().any(|other| *other == id.to_string());
            if is_named && is(&letter, "reason", class) && is(&letter, "step", step) {
                lines.push(Line { id, letter });
            }
        }
        Ok(lines)
    }

    /// Only looks: the pipeline may run.
    async fn fates(&self) -> anyhow::Result<Fates> {
        let disk = &self.prepared.disk;
        let marks = Book::open(Arc::clone(disk), &self.prepared.state.join("letters"))?.marks();
        let folder = self.prepared.state.join("replays");
        let mut waiting = LetterSet::default();
        if folder.is_dir() {
            let store = CheckpointFolder::watch(&folder, Arc::clone(disk));
            for name in store.list().await? {
                let bytes = store.read(&name).await?.unwrap_or_else(|| b"[]".to_vec());
                let letters: Vec<Queued> =
                    serde_json::from_slice(&bytes).with_context(|| format!("{name} makes no sense"))?;
                waiting.extend(letters.iter().filter_map(|letter| LetterId::parse(&letter.id)));
            }
        }
        Ok(Fates { marks, waiting })
    }

    /// Dead letters, newest first.
    pub(super) async fn letters(&self, filter: &DeadLetterFilter, all: bool, limit: u64) -> anyhow::Result<Vec<Value>> {
        let fates = self.fates().await?;
        let lines = self.lines(filter)?.into_iter().rev().filter(|line| !fates.marks.is_purged(line.id));
        let shown = lines.filter_map(|Line { id, letter }| {
            let state = fates.of(id);
            (all || state != "replayed").then(|| {
                json!({
                    "id": id.to_string(),
                    "state": state,
                    "time": letter["time"],
                    "step": letter["step"],
                    "class": letter["reason"],
                    "attempts": letter["attempts"],
                    "error": letter["message"],
                    "row": letter["row"],
                })
            })
        });
        Ok(shown.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    /// Puts letters in the queue of the next run; how many, and why others cannot be.
    pub(super) async fn replay(
        &self,
        filter: &DeadLetterFilter,
        dry_run: bool,
    ) -> anyhow::Result<(usize, Vec<DeadLetterReason>)> {
        let _lock = self.prepared.lock()?;
        let fates = self.fates().await?;
        let (mut taken, mut reasons) = (Vec::new(), Vec::<DeadLetterReason>::new());
        for Line { id, letter } in self.lines(filter)? {
            if fates.of(id) != "open" || fates.marks.is_purged(id) {
                continue;
            }
            let text = |name: &str| letter[name].as_str().unwrap_or_default().to_owned();
            let queued = Queued {
                id: id.to_string(),
                step: text("step"),
                reason: text("reason"),
                input: letter["input"].as_u64().and_then(|input| usize::try_from(input).ok()),
                attempts: letter["attempts"].as_u64().unwrap_or(1),
                time: time_of(&letter),
                row: text("row"),
            };
            let can = queued.letter().ok_or_else(|| "its class is unknown".to_owned());
            match can.and_then(|letter| self.prepared.plan.can_replay(&letter)) {
                Ok(()) => taken.push(queued),
                Err(reason) => match reasons.iter_mut().find(|known| known.reason == reason) {
                    Some(known) => known.count += 1,
                    None => reasons.push(DeadLetterReason { reason, count: 1, example: queued.id }),
                },
            }
        }
        if !dry_run {
            self.prepared.letters()?.1.put(&taken).await?;
        }
        Ok((taken.len(), reasons))
    }

    /// Notes that nobody wants to see letters any more; how many, and where they are.
    pub(super) async fn purge(&self, filter: &DeadLetterFilter) -> anyhow::Result<(usize, PathBuf)> {
        let _lock = self.prepared.lock()?;
        let (book, queue) = self.prepared.letters()?;
        let (marks, waiting) = (book.marks(), queue.waiting().await?);
        // What is to be run again is wanted by somebody.
        let ids = self.lines(filter)?.into_iter().map(|line| line.id);
        let ids: Vec<LetterId> = ids.filter(|id| !marks.is_purged(*id) && !waiting.contains(*id)).collect();
        book.note_purged(ids.iter().copied())?;
        Ok((ids.len(), self.dead()))
    }

    fn savepoint_folder(&self, label: &str) -> anyhow::Result<PathBuf> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        if label.is_empty() || label.len() > LABEL_BYTES_MAX || !label.bytes().all(known) {
            return Err(bad_arguments(format!("`{label}` is not the name of a savepoint: a-z, 0-9, _ and -")));
        }
        Ok(self.prepared.state.join("savepoints").join(label))
    }

    /// A place for one more savepoint.
    async fn place(&self, label: &str) -> anyhow::Result<CheckpointFolder> {
        let to = CheckpointFolder::open(&self.savepoint_folder(label)?, Arc::clone(&self.prepared.disk))?;
        anyhow::ensure!(saved(&to).await?.is_none(), "there is a savepoint {label} already");
        Ok(to)
    }

    /// Keeps the last checkpoint, once sinks have done what it had promised them: the process that made it may not have lived
    /// to see to it.
    pub(super) async fn savepoint(&self, label: Option<String>) -> anyhow::Result<(String, Saved)> {
        let _lock = self.prepared.lock()?;
        self.is_whole()?;
        let from = CheckpointFolder::open(&self.prepared.checkpoints(), Arc::clone(&self.prepared.disk))?;
        self.prepared.plan.resumes(&from).await?.context("there is no checkpoint yet")?;
        anyhow::ensure!(
            !self.prepared.plan.is_shared(),
            "it is run by several processes, and a checkpoint of one of them is not one of the whole"
        );
        let named = match &label {
            Some(label) => Some(self.place(label).await?),
            None => None,
        };
        let job = self.prepared.open(Arc::new(from)).await?;
        let label = label.unwrap_or_else(|| format!("checkpoint-{}", job.to_keep()));
        let to = match named {
            Some(to) => to,
            None => self.place(&label).await?,
        };
        let saved = keep(job, Arc::new(to)).await?;
        Ok((label, saved))
    }

    /// All savepoints, by name.
    pub(super) async fn savepoints(&self) -> anyhow::Result<Vec<Value>> {
        let folder = self.prepared.state.join("savepoints");
        let mut labels = Vec::new();
        if folder.is_dir() {
            for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
                labels.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        labels.sort_unstable();
        let mut list = Vec::new();
        for label in labels {
            let store = CheckpointFolder::watch(&folder.join(&label), Arc::clone(&self.prepared.disk));
            // One without a manifest was not completed.
            if let Some(Saved { epoch, created_at, state_bytes, finished, .. }) = saved(&store).await? {
                let created_at = jiff::Timestamp::from_nanosecond(i128::from(created_at))?.to_string();
                list.push(json!({
                    "label": label, "epoch": epoch, "created_at": created_at, "state_bytes": state_bytes, "finished": finished,
                }));
            }
        }
        Ok(list)
    }

    pub(super) fn delete_savepoint(&self, label: &str) -> anyhow::Result<()> {
        let _lock = self.prepared.lock()?;
        let folder = self.savepoint_folder(label)?;
        anyhow::ensure!(folder.is_dir(), "there is no savepoint {label}");
        // As long as its manifest is there, so is what it names.
        let mut names: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            names.push(entry?.path());
        }
        names.sort_by_key(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("epoch-")));
        for path in names {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        std::fs::remove_dir(&folder).with_context(|| format!("cannot remove {}", folder.display()))
    }

    fn is_whole(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.prepared.state.join(RESTORING).exists(),
            "a restore from a savepoint did not come to its end; do it again"
        );
        Ok(())
    }

    /// Lets the next run go on from a savepoint.
    pub(super) async fn restore(&self, label: &str, dry_run: bool, write_again: bool) -> anyhow::Result<()> {
        let _lock = self.prepared.lock()?;
        let Prepared { plan, disk, state, .. } = &self.prepared;
        let from = CheckpointFolder::watch(&self.savepoint_folder(label)?, Arc::clone(disk));
        let savepoint = plan.fits(&from).await.with_context(|| format!("cannot go on from {label}"))?;
        let mut sinks = Vec::new();
        for sink in &plan.sinks {
            let describe = sink.sink.describe();
            let begins = sink.sink.begins_anew().await;
            sinks.push((begins.with_context(|| format!("{describe} cannot be begun anew"))?, describe));
        }
        let checkpoints = CheckpointFolder::open(&self.prepared.checkpoints(), Arc::clone(disk))?;
        let is_interrupted = state.join(RESTORING).exists();
        let now = saved(&checkpoints).await?;
        let writes_again = is_interrupted || now.is_none_or(|now| now.positions != savepoint.positions);
        if writes_again && !write_again && !dry_run {
            anyhow::bail!(
                "the pipeline has read on since {label}, so the rows after it would be written again; say that this is \
                 wanted with --write-again"
            );
        }
        if !dry_run {
            let marker = state.join(RESTORING);
            disk.replace(&marker, label.as_bytes())?;
            self.prepared.forget().await?;
            restore_savepoint(&from, &checkpoints).await?;
            disk.remove(&marker)?;
            disk.sync_dir(state)?;
        }
        let goes = if dry_run { "would go on" } else { "goes on" };
        say(format_args!("{}: the next run {goes} from {label}, checkpoint {}", plan.pipeline, savepoint.epoch))?;
        say(if writes_again { "  the rows after it are written again" } else { "  it has read nothing since" })?;
        for (begins, describe) in sinks {
            say(format_args!("  {describe}: {begins}"))?;
        }
        Ok(())
    }
}

/// The event time of a letter, in nanoseconds since 1970; 0 if it has none.
fn time_of(letter: &Value) -> i64 {
    let time = letter["time"].as_str().and_then(weir_codecs::rows::timestamp);
    time.map_or(0, |time| time.0)
}
