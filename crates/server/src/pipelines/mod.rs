//! Pipelines of tenants, running in this server.
//!
//! What is to run stands in the metadata ([`weir_meta::pipelines`]); here it runs. Each pipeline has a task of its
//! own ([`runner`]) on threads of their own, so that neither requests nor other pipelines wait for one
//! that is busy, fails or panics. What a document may reach depends on who vouches for it ([`prepare`]).
//!
//! Invariant: changes of one pipeline (apply, stop, start, delete) come one after the other, and the
//! metadata are changed only while nothing of the pipeline runs that contradicts them.

mod began;
pub(crate) mod built_in;
mod folder;
mod kinds;
mod letters;
mod prepare;
mod rates;
mod runner;
mod savepoints;

use std::sync::{Arc, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::OwnedMutexGuard;
use weir_base::disk::Disk;
use weir_base::{Clock, ErrorKind, TenantId};
use weir_engine::{JobError, Plan};
use weir_log::Log;
use weir_meta::pipelines::{DocumentSyntax, PipelinePut, PipelineRecord, Trust, Wanted};
use weir_meta::{Meta, MetaError};
use weir_sql::QueryEngine;

use crate::config::settings::SessionsConfig;
use crate::ingest::StorageUse;
use crate::problem::{Problem, Result};
use crate::routes::blocking;
pub(crate) use built_in::Awake;
use built_in::{Arrivals, SESSIONS, is_built_in};
pub(crate) use letters::{Fate, Letters};
pub(crate) use prepare::{Policy, Prepared};
use prepare::{Purpose, prepare};
pub(crate) use rates::{Part, Rates};
use runner::Runner;
pub(crate) use runner::{Failure, Status, View};
pub(crate) use savepoints::{Restore, Savepoint};

/// How long a pipeline that is stopped may take for its last checkpoint. After that it is cut off, as by
/// a crash: it goes on from the checkpoint before.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a pipeline may take to put out what is open in it.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(60);

/// What pipelines need of the server.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) meta: Arc<Meta>,
    pub(crate) log: Arc<Log>,
    /// Who is asked for tables rows are looked up in.
    pub(crate) engine: Arc<QueryEngine>,
    /// The longest a query may take.
    pub(crate) query_time_max: Duration,
    /// How much each tenant stores.
    pub(crate) storage: Arc<StorageUse>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn Disk>,
    /// Where checkpoints and files of pipelines are.
    pub(crate) directory: std::path::PathBuf,
    pub(crate) policy: Policy,
    /// What was done with dead letters.
    pub(crate) letters: Arc<Letters>,
    /// How sessions are made, where tenants do not say.
    pub(crate) sessions: SessionsConfig,
    /// How many of Weir's own pipelines run.
    pub(crate) awake: Awake,
}

/// A document to be applied.
#[derive(Debug)]
pub(crate) struct Application {
    /// The document.
    pub(crate) document: String,
    /// Its language.
    pub(crate) syntax: DocumentSyntax,
    /// What it is called in the places of problems.
    pub(crate) source: String,
    /// Who vouches for it.
    pub(crate) trust: Trust,
    /// The id of the key.
    pub(crate) by: String,
    /// Only say what would happen.
    pub(crate) dry_run: bool,
    /// Where it begins, if there is one before.
    pub(crate) begin: Begin,
}

/// Where a document begins that takes the place of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Where the other one stands, with what its steps keep; not at all if that does not fit.
    GoOn,
    /// Where the other one stands, with nothing, if what its steps keep does not fit: what is open there is put out as final.
    Settled,
    /// As if there had been no other one.
    Anew,
}

/// What came, or would come, of applying a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There was no such pipeline.
    Created,
    /// It goes on where the one before stands.
    Resumed {
        /// The epoch of its checkpoint; `None` if it has none, and has done nothing that counts.
        epoch: Option<u64>,
    },
    /// It begins where the one before stands, and what was open there is final.
    Settled,
    /// It begins anew.
    Restarted,
    /// It is what ran already.
    Unchanged,
}

/// What applying a document gives.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) prepared: Prepared,
    pub(crate) outcome: Outcome,
    /// As it is kept now; `None` after a dry run.
    pub(crate) record: Option<PipelineRecord>,
}

type Key = (TenantId, String);

/// The place of one pipeline.
#[derive(Debug, Default)]
struct Slot {
    /// Held while it is changed.
    changing: Arc<tokio::sync::Mutex<()>>,
    runner: Mutex<Option<Arc<Runner>>>,
}

/// The pipelines of this server.
#[derive(Debug)]
pub(crate) struct Pipelines {
    world: World,
    /// What has come for Weir's own pipelines.
    pub(crate) arrivals: Arc<Arrivals>,
    slots: Arc<Mutex<HashMap<Key, Arc<Slot>>>>,
    threads: Mutex<Option<Runtime>>,
    handle: Handle,
}

impl Pipelines {
    /// Nothing runs yet. `threads` work for all pipelines together; 0 is one for each core.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub(crate) fn new(world: World, arrivals: Arc<Arrivals>, threads: usize) -> std::io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let runtime =
            Builder::new_multi_thread().worker_threads(threads).thread_name("weir-pipeline").enable_all().build()?;
        let handle = runtime.handle().clone();
        let slots = Arc::default();
        handle.spawn(sample(Arc::downgrade(&slots), Arc::clone(&world.clock)));
        Ok(Self { world, arrivals, slots, threads: Mutex::new(Some(runtime)), handle })
    }

    /// Starts what is to run, and removes what is left of pipelines that are gone.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub(crate) fn start_all(&self) -> std::result::Result<(), MetaError> {
        let records = self.world.meta.all_pipelines()?;
        if self.world.meta.damage().is_empty() {
            folder::remove_others(&self.world, &records);
        }
        // Weir's own are woken when there is something for them.
        let records = records.into_iter().filter(|record| !is_built_in(record));
        for record in records.filter(|record| record.wanted == Wanted::Running) {
            self.run(&self.slot(&record.tenant, &record.name), record);
        }
        Ok(())
    }

    /// Lets every pipeline make one more checkpoint and stop; those that take too long are cut off.
    pub(crate) async fn stop_all(&self) {
        let slots: Vec<Arc<Slot>> = self.slots.lock().values().cloned().collect();
        let stops = slots.iter().map(|slot| async {
            let _changing = slot.changing.lock().await;
            let runner = slot.runner.lock().take();
            if let Some(runner) = runner {
                runner.stop(STOP_TIME_MAX).await;
            }
        });
        futures::future::join_all(stops).await;
        if let Some(runtime) = self.threads.lock().take() {
            runtime.shutdown_background();
        }
    }

    fn slot(&self, tenant: &TenantId, name: &str) -> Arc<Slot> {
        let key = (tenant.clone(), name.to_owned());
        Arc::clone(self.slots.lock().entry(key).or_default())
    }

    /// The place of a pipeline, for somebody who is about to change it and is the only one until the guard goes.
    async fn change(&self, tenant: &TenantId, name: &str) -> (Arc<Slot>, OwnedMutexGuard<()>) {
        loop {
            let slot = self.slot(tenant, name);
            let guard = Arc::clone(&slot.changing).lock_owned().await;
            // Whoever had it before may have deleted the pipeline with its place.
            if self.known_slot(tenant, name).is_some_and(|known| Arc::ptr_eq(&known, &slot)) {
                return (slot, guard);
            }
        }
    }

    fn known_slot(&self, tenant: &TenantId, name: &str) -> Option<Arc<Slot>> {
        self.slots.lock().get(&(tenant.clone(), name.to_owned())).cloned()
    }

    fn run(&self, slot: &Slot, record: PipelineRecord) {
        let runner = Runner::spawn(self.world.clone(), record, &self.handle);
        *slot.runner.lock() = Some(runner);
    }

    /// How a pipeline is doing.
    pub(crate) fn view(&self, record: &PipelineRecord) -> View {
        let runner = self.known_slot(&record.tenant, &record.name).and_then(|slot| slot.runner.lock().clone());
        runner.map_or_else(
            || match is_built_in(record) && record.wanted == Wanted::Running && self.may_wake(&record.tenant) {
                true => View { status: Status::Resting, ..View::stopped() },
                false => View::stopped(),
            },
            |runner| runner.view(),
        )
    }

    /// All pipelines that were started or stopped since the server was started, and how they are doing.
    pub(crate) fn views(&self) -> Vec<(TenantId, String, View)> {
        let slots = self.slots.lock();
        let runners = slots.iter().filter_map(|((tenant, name), slot)| {
            Some((tenant.clone(), name.clone(), slot.runner.lock().as_ref()?.view()))
        });
        runners.collect()
    }

    /// How many look at rows that pass in pipelines of a tenant.
    pub(crate) fn taps_open(&self, tenant: &TenantId) -> usize {
        let of_tenant = self.views().into_iter().filter(|(owner, _, _)| owner == tenant);
        let progress = of_tenant.filter_map(|(_, _, view)| view.progress);
        progress
            .map(|progress| {
                let parts = progress.sources.iter().chain(&progress.steps).chain(&progress.sinks);
                parts.map(|(_, stats)| stats.tap.listeners()).sum::<usize>()
            })
            .sum()
    }

    /// The pipelines of a tenant, by name.
    pub(crate) async fn list(&self, tenant: &TenantId) -> Result<Vec<PipelineRecord>> {
        let (meta, tenant) = (Arc::clone(&self.world.meta), tenant.clone());
        blocking(move || meta.pipelines(&tenant)).await
    }

    /// One pipeline of a tenant.
    pub(crate) async fn show(&self, tenant: &TenantId, name: &str) -> Result<PipelineRecord> {
        let (meta, tenant, name) = (Arc::clone(&self.world.meta), tenant.clone(), name.to_owned());
        blocking(move || meta.pipeline(&tenant, &name)).await?.ok_or_else(unknown)
    }

    /// Checks a document and, unless it is only asked what would happen, runs it in place of the one of the same name.
    pub(crate) async fn apply(&self, tenant: &TenantId, application: Application) -> Result<Applied> {
        let world = self.world.clone();
        let draft = {
            let Application { document, syntax, source, trust, .. } = &application;
            let (document, syntax, source, trust) = (document.clone(), *syntax, source.clone(), *trust);
            let (tenant, anew) = (tenant.clone(), application.begin == Begin::Anew);
            move || prepare(&world, &tenant, &source, syntax, &document, trust, Purpose::Check { anew })
        };
        let prepared = spawn(draft).await?.map_err(|problems| {
            Problem::diagnostics(ErrorKind::Input, "the pipeline is not right", &problems).code("pipeline")
        })?;
        let name = prepared.name.clone();
        if name == SESSIONS && application.trust != Trust::Weir {
            let problem = Problem::new(ErrorKind::Conflict, "`sessions` is a pipeline of Weir's own");
            return Err(problem.hint("give this one another name; the tenant's settings say what sessions are made by"));
        }
        let put = PipelinePut {
            tenant: tenant.clone(),
            name: name.clone(),
            document: application.document.clone(),
            syntax: application.syntax,
            anew: false,
            incarnation: None,
            trust: application.trust,
            wanted: Wanted::Running,
            by: application.by.clone(),
        };
        if application.dry_run {
            let before = self.before(tenant, &name).await?;
            let outcome = self.foreseen(before.as_ref(), &prepared, &application, &put).await?;
            return Ok(Applied { prepared, outcome, record: None });
        }
        let (slot, _changing) = self.change(tenant, &name).await;
        let before = self.before(tenant, &name).await?;
        let foreseen = self.foreseen(before.as_ref(), &prepared, &application, &put).await;
        if foreseen.is_err() && before.is_none() {
            self.slots.lock().remove(&(tenant.clone(), name.clone()));
        }
        let foreseen = foreseen?;
        let is_running = slot.runner.lock().as_ref().is_some_and(|runner| !runner.is_over());
        if foreseen == Outcome::Unchanged && is_running {
            return Ok(Applied { prepared, outcome: foreseen, record: before });
        }
        match self.replace(&slot, before.as_ref(), &prepared, &application, put).await {
            Ok((outcome, record)) => Ok(Applied { prepared, outcome, record: Some(record) }),
            Err(problem) => {
                // What ran before runs on.
                self.forget_unless_kept(tenant, &prepared.name, before);
                Err(problem)
            }
        }
    }

    /// What a document takes the place of. A damaged row is replaced, too.
    async fn before(&self, tenant: &TenantId, name: &str) -> Result<Option<PipelineRecord>> {
        match self.show(tenant, name).await {
            Ok(record) => Ok(Some(record)),
            Err(problem) if matches!(problem.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Stops what runs, so that it stands somewhere: sees what of that the new document goes on with, keeps it, and runs it.
    async fn replace(
        &self,
        slot: &Slot,
        before: Option<&PipelineRecord>,
        prepared: &Prepared,
        application: &Application,
        put: PipelinePut,
    ) -> Result<(Outcome, PipelineRecord)> {
        let runner = slot.runner.lock().take();
        if let Some(runner) = runner {
            runner.stop(STOP_TIME_MAX).await;
        }
        let outcome = self.outcome(before, &prepared.plan, application).await?;
        let begins_at = match (before, outcome) {
            (Some(before), Outcome::Settled) => self.settled(before).await?,
            _ => None,
        };
        let put =
            PipelinePut { anew: begins_at.is_some() || outcome == Outcome::Restarted, incarnation: begins_at, ..put };
        let (meta, world) = (Arc::clone(&self.world.meta), self.world.clone());
        let (plan, before) = (prepared.plan.clone(), before.cloned());
        let record = spawn(move || {
            if outcome == Outcome::Restarted {
                letters::abandon(&world, &put.tenant, &put.name);
            } else if let Some(before) = before.as_ref().filter(|_| put.anew) {
                letters::abandon_of(&world, before);
            }
            let keep_began = |record: &PipelineRecord, since| {
                folder::keep_began(&world, record, &plan, since).map_err(|error| {
                    Problem::new(ErrorKind::Transient, format!("cannot keep since when streams are read: {error}"))
                })
            };
            // Before it is forgotten when the one before was applied.
            if let Some(before) = before.as_ref().filter(|before| !put.anew && !folder::has_began(&world, before)) {
                keep_began(before, before.changed_at)?;
            }
            let record = meta.put_pipeline(put)?;
            // Anew is now, also with a document that was applied long ago.
            keep_began(&record, if outcome == Outcome::Restarted { world.clock.now() } else { record.changed_at })?;
            folder::remove_other_incarnations(&world, &record);
            Ok::<_, Problem>(record)
        })
        .await??;
        self.run(slot, record.clone());
        Ok((outcome, record))
    }

    /// Lets a pipeline that does not run close what is open, and prepares an incarnation that begins where it stands. `None` if it
    /// has come to no checkpoint: it has done nothing that counts, and whoever takes its place begins as it did.
    async fn settled(&self, before: &PipelineRecord) -> Result<Option<u64>> {
        let runner = Runner::settle(self.world.clone(), before.clone(), &self.handle);
        let settled = tokio::time::timeout(SETTLE_TIME_MAX, runner.settled()).await;
        runner.stop(STOP_TIME_MAX).await;
        let late = || {
            let message = format!("what was open was not closed after {} s", SETTLE_TIME_MAX.as_secs());
            Problem::new(ErrorKind::Timeout, message)
        };
        match settled.map_err(|_| late())? {
            Ok(()) => {}
            // It will never be closed: it stays as it was last said to be.
            Err(failure) if !JobError::may_pass(failure.kind) && failure.kind != ErrorKind::Internal => {
                tracing::warn!(
                    tenant = %before.tenant, pipeline = before.name, error = failure.message,
                    "what was open cannot be closed; the pipeline goes on without"
                );
            }
            Err(failure) => return Err(Problem::new(failure.kind, failure.message)),
        }
        let (world, before) = (self.world.clone(), before.clone());
        spawn(move || folder::begin_at(&world, &before)).await?.map_err(Problem::from)
    }

    /// After a document could not be kept.
    fn forget_unless_kept(&self, tenant: &TenantId, name: &str, before: Option<PipelineRecord>) {
        match (before, self.known_slot(tenant, name)) {
            (Some(record), Some(slot)) if record.wanted == Wanted::Running => self.run(&slot, record),
            (None, Some(_)) => {
                self.slots.lock().remove(&(tenant.clone(), name.to_owned()));
            }
            _ => {}
        }
    }

    /// What would come of a document, as far as it is known while what it takes the place of runs on: that goes on from a
    /// checkpoint it has yet to make. Fails where that is certain to.
    async fn foreseen(
        &self,
        before: Option<&PipelineRecord>,
        prepared: &Prepared,
        application: &Application,
        put: &PipelinePut,
    ) -> Result<Outcome> {
        let (meta, asked) = (Arc::clone(&self.world.meta), put.clone());
        blocking(move || meta.may_put_pipeline(&asked)).await?;
        let outcome = self.outcome(before, &prepared.plan, application).await?;
        // One that has not opened yet makes none.
        let running = before.map(|before| self.view(before));
        let running = running.filter(|view| matches!(view.status, Status::Running { .. }));
        if matches!(outcome, Outcome::Resumed { .. })
            && let Some(running) = running.and_then(|view| view.plan)
            && let Err(error) = prepared.plan.could_follow(&running)
        {
            return unfit(application, error);
        }
        Ok(outcome)
    }

    /// What comes of a document, by the checkpoints of what it takes the place of.
    async fn outcome(
        &self,
        before: Option<&PipelineRecord>,
        plan: &Plan,
        application: &Application,
    ) -> Result<Outcome> {
        let Some(before) = before else { return Ok(Outcome::Created) };
        if application.begin == Begin::Anew {
            return Ok(Outcome::Restarted);
        }
        let is_same = (&before.document, before.syntax, before.trust)
            == (&application.document, application.syntax, application.trust);
        if is_same && application.begin == Begin::GoOn {
            return Ok(Outcome::Unchanged);
        }
        let (world, before, plan) = (self.world.clone(), before.clone(), plan.clone());
        match spawn(move || folder::resumes(&world, &before, &plan)).await? {
            // One that has closed what was open has come to its end.
            Ok(Some(standing)) if standing.finished && application.begin == Begin::Settled => Ok(Outcome::Settled),
            Ok(standing) => Ok(Outcome::Resumed { epoch: standing.map(|standing| standing.epoch) }),
            Err(error) => unfit(application, error),
        }
    }

    /// Lets a pipeline make one more checkpoint and stop, for good.
    pub(crate) async fn stop(&self, tenant: &TenantId, name: &str) -> Result<PipelineRecord> {
        self.show(tenant, name).await?;
        let (slot, _changing) = self.change(tenant, name).await;
        let record = self.want(tenant, name, Wanted::Stopped).await?;
        let runner = slot.runner.lock().take();
        if let Some(runner) = runner {
            runner.stop(STOP_TIME_MAX).await;
        }
        Ok(record)
    }

    /// Runs a pipeline that is stopped, has failed or waits to be tried again.
    pub(crate) async fn start(&self, tenant: &TenantId, name: &str) -> Result<PipelineRecord> {
        self.show(tenant, name).await?;
        let (slot, _changing) = self.change(tenant, name).await;
        let record = self.want(tenant, name, Wanted::Running).await?;
        let runner = slot.runner.lock().clone();
        if let Some(runner) = runner {
            if matches!(runner.view().status, Status::Running { .. } | Status::Starting) {
                return Ok(record);
            }
            runner.stop(STOP_TIME_MAX).await;
        }
        if is_built_in(&record) {
            self.arrivals.changed(tenant);
        } else {
            self.run(&slot, record.clone());
        }
        Ok(record)
    }

    /// Stops a pipeline and forgets it with its checkpoints. What it has written stays.
    pub(crate) async fn delete(&self, tenant: &TenantId, name: &str) -> Result<()> {
        if self.before(tenant, name).await?.is_some_and(|record| is_built_in(&record)) {
            let problem = Problem::new(ErrorKind::Conflict, format!("`{name}` is a pipeline of Weir's own"));
            return Err(problem.hint("stop it, or switch it off in the tenant's settings"));
        }
        let (slot, _changing) = self.change(tenant, name).await;
        let before = self.before(tenant, name).await?;
        let (meta, owner, doomed) = (Arc::clone(&self.world.meta), tenant.clone(), name.to_owned());
        let deleted = blocking(move || meta.delete_pipeline(&owner, &doomed)).await;
        if deleted.is_ok() {
            let runner = slot.runner.lock().take();
            if let Some(runner) = runner {
                // Nobody will go on from its last checkpoint.
                runner.stop(Duration::ZERO).await;
            }
            let (world, tenant, name) = (self.world.clone(), tenant.clone(), name.to_owned());
            spawn(move || {
                if let Some(record) = before {
                    letters::abandon_of(&world, &record);
                }
                folder::remove(&world, &tenant, &name);
            })
            .await?;
        }
        self.slots.lock().remove(&(tenant.clone(), name.to_owned()));
        deleted
    }

    /// Ends all pipelines of a tenant that was deleted, and removes what is kept of them.
    pub(crate) async fn forget_tenant(&self, tenant: &TenantId) -> Result<()> {
        let slots: Vec<Arc<Slot>> = {
            let mut slots = self.slots.lock();
            let keys: Vec<Key> = slots.keys().filter(|(owner, _)| owner == tenant).cloned().collect();
            keys.iter().filter_map(|key| slots.remove(key)).collect()
        };
        for slot in slots {
            let _changing = slot.changing.lock().await;
            let runner = slot.runner.lock().take();
            if let Some(runner) = runner {
                runner.stop(Duration::ZERO).await;
            }
        }
        self.world.letters.forget_tenant(tenant);
        let (world, tenant) = (self.world.clone(), tenant.clone());
        spawn(move || folder::remove_tenant(&world, &tenant)).await
    }

    async fn want(&self, tenant: &TenantId, name: &str, wanted: Wanted) -> Result<PipelineRecord> {
        let (meta, tenant, name) = (Arc::clone(&self.world.meta), tenant.clone(), name.to_owned());
        blocking(move || meta.want_pipeline(&tenant, &name, wanted)).await
    }
}

/// Keeps the rates of all pipelines up to date, as long as there are any.
async fn sample(slots: Weak<Mutex<HashMap<Key, Arc<Slot>>>>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(rates::SAMPLED_EVERY).await;
        let Some(slots) = slots.upgrade() else { return };
        let runners: Vec<_> = slots.lock().values().filter_map(|slot| slot.runner.lock().clone()).collect();
        let now = clock.monotonic();
        runners.iter().for_each(|runner| runner.sample(now));
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        // A runtime must not be waited for on a thread of another one.
        if let Some(runtime) = self.threads.lock().take() {
            runtime.shutdown_background();
        }
    }
}

/// What comes of a document with which what there is cannot be gone on.
fn unfit(application: &Application, error: JobError) -> Result<Outcome> {
    match error {
        JobError::Changed { .. } if application.begin == Begin::Settled => Ok(Outcome::Settled),
        error @ JobError::Changed { .. } => Err(Problem::new(ErrorKind::Conflict, error.to_string())
            .code("pipeline_changed")
            .hint("apply it so that it begins anew (restart), or give what has changed another name")),
        error => Err(Problem::from(error)),
    }
}

fn unknown() -> Problem {
    Problem::new(ErrorKind::NotFound, "there is no such pipeline")
}

/// Runs work off the I/O threads that has its own kind of result.
async fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(error.to_string()))
}
