//! Savepoints of tenants' pipelines: checkpoints that are kept under a name, and gone back to.
//!
//! They are in `pipelines/TENANT/NAME/savepoints/LABEL` of the data directory, each complete by itself, and go with the
//! pipeline. Going back to one makes a new incarnation of the pipeline whose first checkpoint is the savepoint: it is
//! there before the metadata name the incarnation, so a crash in between leaves the old one.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use weir_base::{ErrorKind, Kinded, TenantId};
use weir_component::checkpoint::CheckpointStore;
use weir_component::sink::Delivery;
use weir_connectors::checkpoints::CheckpointFolder;
use weir_engine::{JobError, Saved, Since};
use weir_meta::pipelines::{DocumentSyntax, PipelinePut, PipelineRecord, Trust, Wanted};

use super::prepare::{Purpose, prepare};
use super::runner::{Runner, Status};
use super::{Pipelines, Prepared, STOP_TIME_MAX, World, folder, letters, spawn};
use crate::problem::{Problem, Result};
use crate::routes::blocking;

/// Savepoints of one pipeline.
const SAVEPOINTS_MAX: usize = 100;
/// The longest label.
const LABEL_CHARACTERS_MAX: usize = 64;
/// How long a savepoint may take, its barrier included.
const SAVEPOINT_TIME_MAX: Duration = Duration::from_secs(120);
/// How often it is looked whether a pipeline that starts has started.
const LOOKED_EVERY: Duration = Duration::from_millis(50);

/// A savepoint.
#[derive(Clone, Debug)]
pub(crate) struct Savepoint {
    /// Its name.
    pub(crate) label: String,
    /// What is in it.
    pub(crate) saved: Saved,
}

/// How to go back to a savepoint.
#[derive(Debug)]
pub(crate) struct Restore {
    /// With another document: its text, its language, what it is called in the places of problems, and who vouches for it.
    pub(crate) document: Option<(String, DocumentSyntax, String, Trust)>,
    /// Also if rows are written again.
    pub(crate) write_again: bool,
    /// Only say what would happen.
    pub(crate) dry_run: bool,
    /// The id of the key.
    pub(crate) by: String,
}

/// What came, or would come, of going back.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) saved: Saved,
    /// Whether the pipeline has read on since the savepoint, so that rows are written again.
    pub(crate) writes_again: bool,
    /// Whether that is known: what a pipeline that runs has read since its last checkpoint is not.
    pub(crate) is_certain: bool,
    /// What becomes of what is there, for each sink.
    pub(crate) sinks: Vec<(String, String)>,
    /// As it is kept now; `None` after a dry run.
    pub(crate) record: Option<PipelineRecord>,
}

fn check_label(label: &str) -> Result<()> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    if !label.is_empty() && label.len() <= LABEL_CHARACTERS_MAX && label.bytes().all(known) {
        return Ok(());
    }
    let shown: String = label.chars().take(80).collect();
    Err(Problem::new(ErrorKind::Input, format!("`{shown}` is not the name of a savepoint"))
        .pointer("/label")
        .hint(format!("1 to {LABEL_CHARACTERS_MAX} of a-z, 0-9, _ and -")))
}

fn unknown(label: &str) -> Problem {
    Problem::new(ErrorKind::NotFound, format!("there is no savepoint {label} of this pipeline"))
}

fn changed(error: JobError) -> Problem {
    match error {
        JobError::Changed { reason } => {
            Problem::new(ErrorKind::Conflict, format!("the savepoint does not fit the pipeline: {reason}"))
                .code("pipeline_changed")
                .hint("give the document in which it does, or what has changed another name")
        }
        error => Problem::from(error),
    }
}

/// The savepoints of a pipeline, the newest last.
fn all(world: &World, tenant: &TenantId, name: &str) -> Result<Vec<Savepoint>> {
    let path = folder::savepoints(world, tenant, name);
    let mut savepoints = Vec::new();
    for entry in world.disk.list(&path).unwrap_or_default() {
        let store = CheckpointFolder::watch(&path.join(&entry.name), Arc::clone(&world.disk));
        // One without a manifest was never completed.
        if let Some(saved) = Handle::current().block_on(weir_engine::saved(&store)).map_err(Problem::from)? {
            savepoints.push(Savepoint { label: entry.name, saved });
        }
    }
    savepoints.sort_by_key(|savepoint| (savepoint.saved.created_at, savepoint.saved.epoch));
    Ok(savepoints)
}

/// A place for one more savepoint.
fn place(world: &World, record: &PipelineRecord, label: &str) -> Result<CheckpointFolder> {
    let there = all(world, &record.tenant, &record.name)?;
    if there.iter().any(|savepoint| savepoint.label == label) {
        return Err(Problem::new(ErrorKind::Conflict, format!("there is a savepoint {label} already"))
            .hint("delete it, or take another name"));
    }
    if there.len() >= SAVEPOINTS_MAX {
        return Err(Problem::new(ErrorKind::Limit, format!("there are {SAVEPOINTS_MAX} savepoints of this pipeline"))
            .hint("delete one"));
    }
    let path = folder::savepoint(world, &record.tenant, &record.name, label);
    folder::remove_path(world, &path);
    CheckpointFolder::open(&path, Arc::clone(&world.disk)).map_err(|error| Problem::from(JobError::from(error)))
}

impl Pipelines {
    /// Keeps a checkpoint of a pipeline: the next one if it runs, one more if it is stopped.
    pub(crate) async fn savepoint(&self, tenant: &TenantId, name: &str, label: &str) -> Result<Savepoint> {
        check_label(label)?;
        let (slot, _changing) = self.change(tenant, name).await;
        let record = self.show(tenant, name).await?;
        let (world, of, wanted) = (self.world.clone(), record.clone(), label.to_owned());
        let store: Arc<dyn CheckpointStore> = Arc::new(spawn(move || place(&world, &of, &wanted)).await??);
        let runner = slot.runner.lock().clone();
        let made = tokio::time::timeout(SAVEPOINT_TIME_MAX, self.keep(&record, runner, &store)).await;
        let made = made.unwrap_or_else(|_| {
            let message = format!("the savepoint was not complete after {} s", SAVEPOINT_TIME_MAX.as_secs());
            Err(Problem::new(ErrorKind::Timeout, message))
        });
        let (world, of, wanted) = (self.world.clone(), record, label.to_owned());
        match made {
            Ok(saved) => {
                blocking(move || folder::save_kinds(&world, &of, &wanted).map_err(JobError::from)).await?;
                Ok(Savepoint { label: label.to_owned(), saved })
            }
            Err(problem) => {
                let path = folder::savepoint(&world, &of.tenant, &of.name, &wanted);
                spawn(move || folder::remove_path(&world, &path)).await?;
                Err(problem)
            }
        }
    }

    async fn keep(
        &self,
        record: &PipelineRecord,
        runner: Option<Arc<Runner>>,
        store: &Arc<dyn CheckpointStore>,
    ) -> Result<Saved> {
        loop {
            let status = runner.as_ref().map_or(Status::Stopped, |runner| runner.view().status);
            match (status, &runner) {
                (Status::Running { .. }, Some(runner)) => {
                    if let Some(saving) = runner.savepoint(Arc::clone(store)) {
                        return saving.await.map_err(Problem::from);
                    }
                }
                (Status::Starting, _) => {}
                // All its sinks have committed.
                (Status::Finished, _) => {
                    let checkpoints = folder::checkpoints(&self.world, record).map_err(JobError::from)?;
                    return weir_engine::savepoint(&checkpoints, store.as_ref()).await.map_err(Problem::from);
                }
                (Status::Stopped | Status::Resting, _) => {
                    // Its sinks may not have committed what was decided: only starting it does that.
                    let runner = Runner::once(self.world.clone(), record.clone(), &self.handle, Arc::clone(store));
                    let saved = runner.saved().await;
                    runner.stop(STOP_TIME_MAX).await;
                    return saved.map_err(|error| match error {
                        Ok(error) => Problem::from(error),
                        Err(failure) => Problem::new(failure.kind, failure.message),
                    });
                }
                (Status::Waiting { failure, .. } | Status::Failed(failure) | Status::Overrun(failure), _) => {
                    let message = format!("the pipeline does not run: {}", failure.message);
                    return Err(Problem::new(ErrorKind::Conflict, message).code("pipeline_failed"));
                }
                (Status::Running { .. }, None) => {}
            }
            tokio::time::sleep(LOOKED_EVERY).await;
        }
    }

    /// The savepoints of a pipeline, the newest last.
    pub(crate) async fn savepoints(&self, tenant: &TenantId, name: &str) -> Result<Vec<Savepoint>> {
        self.show(tenant, name).await?;
        let (world, tenant, name) = (self.world.clone(), tenant.clone(), name.to_owned());
        spawn(move || all(&world, &tenant, &name)).await?
    }

    /// Removes a savepoint.
    pub(crate) async fn delete_savepoint(&self, tenant: &TenantId, name: &str, label: &str) -> Result<()> {
        let (_slot, _changing) = self.change(tenant, name).await;
        self.one(tenant, name, label).await?;
        let (world, path) = (self.world.clone(), folder::savepoint(&self.world, tenant, name, label));
        spawn(move || folder::remove_path(&world, &path)).await
    }

    async fn one(&self, tenant: &TenantId, name: &str, label: &str) -> Result<Savepoint> {
        let savepoints = self.savepoints(tenant, name).await?;
        savepoints.into_iter().find(|savepoint| savepoint.label == label).ok_or_else(|| unknown(label))
    }

    /// Lets a pipeline go on from a savepoint.
    pub(crate) async fn restore(
        &self,
        tenant: &TenantId,
        name: &str,
        label: &str,
        restore: Restore,
    ) -> Result<Restored> {
        let (slot, _changing) = self.change(tenant, name).await;
        let record = self.show(tenant, name).await?;
        if super::built_in::is_built_in(&record) {
            let problem = Problem::new(ErrorKind::Conflict, format!("`{name}` is a pipeline of Weir's own"));
            return Err(problem.hint("what it has written stands; it goes on by itself"));
        }
        let savepoint = self.one(tenant, name, label).await?;
        let put = PipelinePut {
            tenant: tenant.clone(),
            name: name.to_owned(),
            document: record.document.clone(),
            syntax: record.syntax,
            anew: true,
            incarnation: Some(PipelinePut::new_incarnation()),
            trust: record.trust,
            wanted: Wanted::Running,
            by: restore.by,
        };
        let has_other_document = restore.document.is_some();
        let (put, source) = match restore.document {
            None => (put, name.to_owned()),
            Some((document, syntax, source, trust)) => (PipelinePut { document, syntax, trust, ..put }, source),
        };
        let prepared = {
            let (world, put) = (self.world.clone(), put.clone());
            spawn(move || {
                let purpose = Purpose::Check { anew: false };
                prepare(&world, &put.tenant, &source, put.syntax, &put.document, put.trust, purpose)
            })
            .await?
            .map_err(|problems| {
                Problem::diagnostics(ErrorKind::Input, "the pipeline is not right", &problems).code("pipeline")
            })?
        };
        if prepared.name != name {
            let message =
                format!("the document is that of the pipeline {}, and the savepoint one of {name}", prepared.name);
            return Err(Problem::new(ErrorKind::Conflict, message));
        }
        let from = folder::savepoint(&self.world, tenant, name, label);
        let store: Arc<dyn CheckpointStore> = Arc::new(CheckpointFolder::watch(&from, Arc::clone(&self.world.disk)));
        let sinks = check(&prepared, &savepoint, store.as_ref()).await?;
        // Who has written what was read since the savepoint; the new ones if it was not planned since the server was started.
        let ran = self.view(&record).plan;
        let is_exact = ran
            .as_deref()
            .unwrap_or(&prepared.plan)
            .sinks
            .iter()
            .all(|sink| sink.sink.delivery() == Delivery::ExactlyOnce)
            && (ran.is_some() || !has_other_document);
        let runner = slot.runner.lock().clone().filter(|runner| !runner.is_over());
        if restore.dry_run {
            let since = self.since(&record, &store).await?;
            // What it has read since its last checkpoint is in none yet.
            let is_known = runner.is_none() || since == Since::ReadOn;
            let (writes_again, is_certain) = (is_known && is_written_again(since, is_exact), is_known);
            return Ok(Restored { saved: savepoint.saved, writes_again, is_certain, sinks, record: None });
        }
        // Where it stands is known once it does: a checkpoint that was made before says nothing of what came after it.
        let was_there = slot.runner.lock().take();
        if let Some(runner) = was_there {
            runner.stop(STOP_TIME_MAX).await;
        }
        let stopped = self.restorable(&record, &prepared, &savepoint, &store, (is_exact, restore.write_again)).await;
        let (writes_again, sinks) = match stopped {
            Ok(stopped) => stopped,
            Err(problem) => {
                // What ran before runs on.
                if record.wanted == Wanted::Running {
                    self.run(&slot, record);
                }
                return Err(problem);
            }
        };
        let (meta, world, label) = (Arc::clone(&self.world.meta), self.world.clone(), label.to_owned());
        let restored = spawn(move || -> Result<PipelineRecord> {
            let next = PipelineRecord { incarnation: put.incarnation.unwrap_or_default(), ..record.clone() };
            let to = folder::checkpoints(&world, &next).map_err(JobError::from)?;
            folder::restore_kinds(&world, &next, &label).map_err(JobError::from)?;
            Handle::current().block_on(weir_engine::restore_savepoint(store.as_ref(), &to))?;
            letters::abandon_of(&world, &record);
            let record = meta.put_pipeline(put)?;
            folder::remove_other_incarnations(&world, &record);
            Ok(record)
        })
        .await
        .and_then(|restored| restored);
        let record = match restored {
            Ok(record) => record,
            Err(problem) => {
                // What ran before runs on.
                let before = self.show(tenant, name).await?;
                self.forget_unless_kept(tenant, name, Some(before));
                return Err(problem);
            }
        };
        self.run(&slot, record.clone());
        Ok(Restored { saved: savepoint.saved, writes_again, is_certain: true, sinks, record: Some(record) })
    }

    /// Whether a pipeline that does not run any more may go back to a savepoint: whether that writes rows again, and what becomes of
    /// what is there for each sink.
    async fn restorable(
        &self,
        record: &PipelineRecord,
        prepared: &Prepared,
        savepoint: &Savepoint,
        store: &Arc<dyn CheckpointStore>,
        (is_exact, write_again): (bool, bool),
    ) -> Result<(bool, Vec<(String, String)>)> {
        // Its last checkpoint may have written what is in the way.
        let sinks = check(prepared, savepoint, store.as_ref()).await?;
        let writes_again = is_written_again(self.since(record, store).await?, is_exact);
        if !writes_again || write_again {
            return Ok((writes_again, sinks));
        }
        let sinks: Vec<String> = sinks.iter().map(|(sink, what)| format!("{sink}: {what}")).collect();
        Err(Problem::new(
            ErrorKind::Conflict,
            format!(
                "the pipeline has read on since the savepoint {}, so the rows after it are written again ({})",
                savepoint.label,
                sinks.join("; ")
            ),
        )
        .code("writes_again")
        .hint("say that this is wanted (write_again, --write-again)"))
    }

    /// What a pipeline has done since a savepoint, by its newest checkpoint.
    async fn since(&self, record: &PipelineRecord, savepoint: &Arc<dyn CheckpointStore>) -> Result<Since> {
        let path = folder::of_incarnation(&self.world, record).join("checkpoints");
        if !path.is_dir() {
            return Ok(Since::ReadOn);
        }
        let now = CheckpointFolder::watch(&path, Arc::clone(&self.world.disk));
        weir_engine::since(savepoint.as_ref(), &now).await.map_err(Problem::from)
    }
}

/// Whether a pipeline could go on from a savepoint: its steps and sources fit, what it would read is there, and what it writes
/// can be begun anew. Says what becomes of what is there for each sink.
async fn check(
    prepared: &Prepared,
    savepoint: &Savepoint,
    store: &dyn CheckpointStore,
) -> Result<Vec<(String, String)>> {
    prepared.plan.fits(store).await.map_err(changed)?;
    for source in &prepared.plan.sources {
        let position = savepoint.saved.positions.iter().find(|(id, _)| *id == source.id);
        // Reading a stream touches nothing; of others it shows when they are opened.
        if let (Some((_, position)), true) = (position, source.source.stream().is_some())
            && let Err(error) = source.source.open(Some(position.clone())).await
        {
            let message = format!("the rows after the savepoint cannot be read any more: {error}");
            return Err(Problem::new(ErrorKind::Conflict, message).code("overrun"));
        }
    }
    let mut sinks = Vec::new();
    for sink in &prepared.plan.sinks {
        let begins = sink.sink.begins_anew().await.map_err(|error| {
            Problem::new(error.kind(), format!("{} cannot be begun anew: {error}", sink.sink.describe()))
        })?;
        sinks.push((sink.sink.describe(), begins));
    }
    Ok(sinks)
}

/// Whether sinks get rows again that come after the savepoint. Those that deliver exactly once have shown nothing of what was read
/// after the last checkpoint.
fn is_written_again(since: Since, is_exact: bool) -> bool {
    match since {
        Since::Nothing => false,
        Since::Unknown => !is_exact,
        Since::ReadOn => true,
    }
}
