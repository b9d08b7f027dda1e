//! Dead letters of tenants' pipelines: what was done with them, and how they get into their pipeline again.
//!
//! What was done is kept in `deadletters/TENANT/NAME` of the data directory, and stays when the pipeline is deleted: the rows do,
//! too. What is to be run again is kept with the checkpoints of the incarnation that will do it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use weir_base::disk::Disk;
use weir_base::{ErrorKind, Kinded, TenantId};
use weir_component::checkpoint::CheckpointError;
use weir_connectors::checkpoints::CheckpointFolder;
use weir_meta::pipelines::{PipelineRecord, Wanted};
use weir_pipelines::letters::book::{Book, Marks};
use weir_pipelines::letters::queue::{Queue, Queued};
use weir_pipelines::letters::{LetterId, LetterSet};
use weir_sql::{HiddenRows, Hides};

use super::prepare::{Purpose, prepare};
use super::{Pipelines, Prepared, Status, World, folder, spawn};
use crate::problem::{Problem, Result};

/// Where what was done with a tenant's dead letters is kept.
pub(super) fn folder(directory: &Path, tenant: &TenantId) -> PathBuf {
    directory.join("deadletters").join(tenant.as_str())
}

/// What was done with the dead letters of all pipelines.
#[derive(Debug)]
pub(crate) struct Letters {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    books: Mutex<HashMap<(TenantId, String), Arc<Book>>>,
}

impl Letters {
    /// Those of the server with that data directory.
    pub(crate) fn new(disk: Arc<dyn Disk>, directory: &Path) -> Self {
        Self { disk, directory: directory.to_owned(), books: Mutex::default() }
    }

    /// The book of one pipeline.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn book(&self, tenant: &TenantId, pipeline: &str) -> io::Result<Arc<Book>> {
        let mut books = self.books.lock();
        let key = (tenant.clone(), pipeline.to_owned());
        if let Some(book) = books.get(&key) {
            return Ok(Arc::clone(book));
        }
        let path = folder(&self.directory, tenant).join(pipeline);
        let book = Arc::new(Book::open(Arc::clone(&self.disk), &path)?);
        books.insert(key, Arc::clone(&book));
        Ok(book)
    }

    /// After a tenant was deleted.
    pub(super) fn forget_tenant(&self, tenant: &TenantId) {
        self.books.lock().retain(|(owner, _), _| owner != tenant);
    }
}

#[derive(Debug)]
struct Purged(Marks);

impl HiddenRows for Purged {
    fn column(&self) -> &str {
        weir_pipelines::letters::identified::ID
    }

    fn hides(&self, value: &str) -> bool {
        LetterId::parse(value).is_some_and(|id| self.0.is_purged(id))
    }
}

/// The ending of the streams of dead letters.
const ENDING: &str = "_dead";

impl Hides for Letters {
    fn hidden(&self, tenant: &TenantId, stream: &str) -> io::Result<Option<Arc<dyn HiddenRows>>> {
        let Some(pipeline) = stream.strip_suffix(ENDING) else { return Ok(None) };
        let marks = self.book(tenant, pipeline)?.marks();
        Ok(marks.hides_any().then(|| Arc::new(Purged(marks)) as _))
    }
}

/// What became of dead letters so far.
#[derive(Clone, Debug)]
pub(crate) struct Fates {
    waiting: LetterSet,
    marks: Marks,
}

/// What became of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Open,
    /// It is to be run again.
    Waiting,
    /// It was run again.
    Replayed,
}

impl Fates {
    pub(crate) fn of(&self, id: LetterId) -> Fate {
        if self.marks.is_replayed(id) {
            Fate::Replayed
        } else if self.waiting.contains(id) {
            Fate::Waiting
        } else {
            Fate::Open
        }
    }
}

/// What came of asking for letters to be run again.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// Those that will be.
    pub(crate) taken: Vec<LetterId>,
    /// Those that cannot be, with the reason.
    pub(crate) refused: Vec<(String, String)>,
}

fn failed(error: &io::Error) -> Problem {
    Problem::new(ErrorKind::Transient, "what was done with the dead letters cannot be read or written at the moment")
        .cause(error.to_string())
}

fn of_store(error: CheckpointError) -> Problem {
    Problem::new(error.kind(), "the dead letters to be run again cannot be read or written").cause(error.message)
}

/// Notes what a pipeline has run again before it begins anew. What it has not is open again.
pub(super) fn abandon(world: &World, tenant: &TenantId, name: &str) {
    if let Ok(Some(record)) = world.meta.pipeline(tenant, name) {
        abandon_of(world, &record);
    }
}

/// The same, before it is deleted.
pub(super) fn abandon_of(world: &World, record: &PipelineRecord) {
    let of_incarnation = folder::of_incarnation(world, record);
    if !of_incarnation.join("replays").is_dir() {
        return;
    }
    let work = async {
        let checkpoints = CheckpointFolder::watch(&of_incarnation.join("checkpoints"), Arc::clone(&world.disk));
        let position = weir_engine::replayed(&checkpoints).await.map_err(|error| error.to_string())?;
        let queue = queue(world, record).map_err(|problem| problem.message())?;
        queue.abandon(position.as_ref()).await.map_err(|error| error.to_string())
    };
    if let Err(error) = Handle::current().block_on(work) {
        tracing::warn!(
            tenant = %record.tenant, pipeline = record.name, error,
            "which dead letters a pipeline has run again cannot be noted before it goes"
        );
    }
}

/// The queue of a pipeline. Nobody else may be putting letters in.
fn queue(world: &World, record: &PipelineRecord) -> Result<Queue> {
    let book = world.letters.book(&record.tenant, &record.name).map_err(|error| failed(&error))?;
    let store = folder::replays(world, record).map_err(of_store)?;
    Ok(Queue::new(Arc::new(store), book))
}

/// Checks letters against the pipeline as it is now, and puts those in its queue that are open and fit.
fn put(world: &World, record: &PipelineRecord, letters: Vec<Queued>, dry_run: bool) -> Result<Replayed> {
    let PipelineRecord { tenant, name, syntax, document, trust, .. } = record;
    let Prepared { plan, .. } = prepare(world, tenant, name, *syntax, document, *trust, Purpose::Check { anew: false })
        .map_err(|problems| {
            Problem::diagnostics(ErrorKind::Conflict, "the pipeline is not right any more", &problems).code("pipeline")
        })?;
    let queue = queue(world, record)?;
    let waiting = Handle::current().block_on(queue.waiting()).map_err(of_store)?;
    let marks = world.letters.book(tenant, name).map_err(|error| failed(&error))?.marks();
    let fates = Fates { waiting, marks };
    let (mut taken, mut fitting, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for letter in letters {
        let Some(id) = LetterId::parse(&letter.id) else { continue };
        if fates.of(id) != Fate::Open {
            continue;
        }
        let can = letter.letter().ok_or_else(|| "its class is unknown".to_owned());
        match can.and_then(|letter| plan.can_replay(&letter)) {
            Ok(()) => {
                taken.push(id);
                fitting.push(letter);
            }
            Err(reason) => refused.push((letter.id, reason)),
        }
    }
    if !dry_run && !fitting.is_empty() {
        Handle::current().block_on(queue.put(&fitting)).map_err(of_store)?;
    }
    Ok(Replayed { taken, refused })
}

impl Pipelines {
    /// What became of the dead letters of a pipeline.
    pub(crate) async fn fates(&self, record: &PipelineRecord) -> Result<Fates> {
        let (world, record) = (self.world.clone(), record.clone());
        spawn(move || {
            let book = world.letters.book(&record.tenant, &record.name).map_err(|error| failed(&error))?;
            let store = folder::replays_read(&world, &record).map_err(|error| failed(&error))?;
            let queue = Queue::new(Arc::new(store), Arc::clone(&book));
            let waiting = Handle::current().block_on(queue.waiting()).map_err(of_store)?;
            // Afterwards: what has left the queue meanwhile is noted.
            Ok(Fates { waiting, marks: book.marks() })
        })
        .await?
    }

    /// Lets a pipeline run letters again: each of them once, however often it is asked for.
    pub(crate) async fn replay(
        &self,
        tenant: &TenantId,
        name: &str,
        letters: Vec<Queued>,
        dry_run: bool,
    ) -> Result<Replayed> {
        let (slot, _changing) = self.change(tenant, name).await;
        let record = self.show(tenant, name).await?;
        let (world, of) = (self.world.clone(), record.clone());
        let replayed = spawn(move || put(&world, &of, letters, dry_run)).await??;
        // One that has come to its end has something to do again.
        let runner = slot.runner.lock().clone();
        let has_finished = runner.is_some_and(|runner| matches!(runner.view().status, Status::Finished));
        if has_finished && record.wanted == Wanted::Running && !dry_run && !replayed.taken.is_empty() {
            self.run(&slot, record);
        }
        Ok(replayed)
    }

    /// Shows letters no more.
    pub(crate) async fn purge(&self, tenant: &TenantId, name: &str, ids: Vec<LetterId>) -> Result<()> {
        let (world, tenant, name) = (self.world.clone(), tenant.clone(), name.to_owned());
        spawn(move || {
            let book = world.letters.book(&tenant, &name).map_err(|error| failed(&error))?;
            book.note_purged(ids).map_err(|error| failed(&error))
        })
        .await?
    }
}
