//! Pipelines of tenants, running in this server.
//!
//! What is to run stands in the metadata ([`weir_meta::pipelines`]); here it runs. Each pipeline has a task of its
//! own ([`runner`]) on threads of their own, so that neither requests nor other pipelines wait for one
//! that is busy, fails or panics. What a document may reach depends on who vouches for it ([`prepare`]).
//!
//! Invariant: changes of one pipeline (apply, stop, start, delete) come one after the other, and the
//! metadata are changed only while nothing of the pipeline runs that contradicts them.

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
use weir_engine::JobError;
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
    /// Begin anew, whatever checkpoints there are.
    pub(crate) anew: bool,
}

/// What came, or would come, of applying a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There was no such pipeline.
    Created,
    /// It goes on from the checkpoint of the one before.
    Resumed {
        /// The epoch.
        epoch: u64,
    },
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
            let (tenant, anew) = (tenant.clone(), application.anew);
            move || prepare(&world, &tenant, &source, syntax, &document, trust, Purpose::Check { anew })
        };
        let prepared = spawn(draft).await?.map_err(|problems| {
            Problem::diagnostics(ErrorKind::Input, "the pipeline is not right", &problems).code("pipeline")
        })?;
        let name = prepared.name.clone();
        if name == SESSIONS && application.trust != Trust::Weir {
            let problem = Problem::new(ErrorKind::Conflict, "`sessions` is a pipeline of Weir's own");
            return Err(
                problem.hint("give this one another name; what sessions are made by is in the tenant's settings")
            );
        }
        if application.dry_run {
            let before = self.before(tenant, &name).await?;
            let outcome = self.outcome(before.as_ref(), &prepared, &application).await?;
            return Ok(Applied { prepared, outcome, record: None });
        }
        let (slot, _changing) = self.change(tenant, &name).await;
        let before = self.before(tenant, &name).await?;
        let outcome = self.outcome(before.as_ref(), &prepared, &application).await?;
        let put = PipelinePut {
            tenant: tenant.clone(),
            name,
            document: application.document,
            syntax: application.syntax,
            anew: outcome == Outcome::Restarted,
            incarnation: None,
            trust: application.trust,
            wanted: Wanted::Running,
            by: application.by,
        };
        let is_running = slot.runner.lock().as_ref().is_some_and(|runner| !runner.is_over());
        if outcome == Outcome::Unchanged && is_running {
            return Ok(Applied { prepared, outcome, record: before });
        }
        let record = self.replace(&slot, put).await;
        let record = match record {
            Ok(record) => record,
            Err(problem) => {
                // What ran before runs on.
                self.forget_unless_kept(tenant, &prepared.name, before);
                return Err(problem);
            }
        };
        Ok(Applied { prepared, outcome, record: Some(record) })
    }

    /// What a document takes the place of. A damaged row is replaced, too.
    async fn before(&self, tenant: &TenantId, name: &str) -> Result<Option<PipelineRecord>> {
        match self.show(tenant, name).await {
            Ok(record) => Ok(Some(record)),
            Err(problem) if matches!(problem.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Stops what runs, keeps the new document, and runs it.
    async fn replace(&self, slot: &Slot, put: PipelinePut) -> Result<PipelineRecord> {
        let runner = slot.runner.lock().take();
        if let Some(runner) = runner {
            runner.stop(STOP_TIME_MAX).await;
        }
        let (meta, world) = (Arc::clone(&self.world.meta), self.world.clone());
        let record = blocking(move || {
            if put.anew {
                letters::abandon(&world, &put.tenant, &put.name);
            }
            let record = meta.put_pipeline(put)?;
            folder::remove_other_incarnations(&world, &record);
            Ok::<_, MetaError>(record)
        })
        .await?;
        self.run(slot, record.clone());
        Ok(record)
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

    async fn outcome(
        &self,
        before: Option<&PipelineRecord>,
        prepared: &Prepared,
        application: &Application,
    ) -> Result<Outcome> {
        let Some(before) = before else { return Ok(Outcome::Created) };
        if application.anew {
            return Ok(Outcome::Restarted);
        }
        if (&before.document, before.syntax, before.trust)
            == (&application.document, application.syntax, application.trust)
        {
            return Ok(Outcome::Unchanged);
        }
        let (world, before, plan) = (self.world.clone(), before.clone(), prepared.plan.clone());
        let resumes = spawn(move || folder::resumes(&world, &before, &plan)).await?;
        match resumes {
            Ok(Some(epoch)) => Ok(Outcome::Resumed { epoch }),
            // It has not come to its first checkpoint.
            Ok(None) => Ok(Outcome::Restarted),
            Err(error @ JobError::Changed { .. }) => Err(Problem::new(ErrorKind::Conflict, error.to_string())
                .code("pipeline_changed")
                .hint("apply it so that it begins anew (restart), or give what has changed another name")),
            Err(error) => Err(Problem::from(error)),
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

fn unknown() -> Problem {
    Problem::new(ErrorKind::NotFound, "there is no such pipeline")
}

/// Runs work off the I/O threads that has its own kind of result.
async fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(error.to_string()))
}
