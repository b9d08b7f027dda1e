//! The pipeline that ships with Weir and is run for every tenant: `sessions`.
//!
//! It is a pipeline like any other, with a document in the metadata, checkpoints and a runner; only who applies it and when
//! it runs is different. A tenant's is made when its first event comes, and runs while events come. When none has come
//! for [`REST_AFTER`] it makes a checkpoint and rests: nothing of it is in memory then but its place in a list. It is
//! woken by the next event, and once its open sessions must have come to an end. So a server with many tenants pays
//! for those that send.
//!
//! One that has failed stays failed, with the reason, until it is woken: that it has nothing to do would not be true.
//!
//! Invariant: a tenant with events the pipeline has not read is awake or about to be woken. [`Arrivals`] hears of every
//! commit; those of before a restart are covered by waking everybody once.

mod sessions;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_base::{StreamName, TenantId};
use weir_log::{Commit, Damage, Position, Subscriber};
use weir_meta::pipelines::{DocumentSyntax, PipelineRecord, Trust, Wanted};

use super::{Application, Begin, Pipelines, STOP_TIME_MAX, Status, folder};
use crate::app::App;
use crate::problem::Result;
use sessions::Chosen;

/// The name of the pipeline, and of the stream it writes.
pub(crate) const SESSIONS: &str = "sessions";
/// The stream it reads.
const READ: &str = "events";
/// Who has applied it.
const WEIR: &str = "weir";

/// A pipeline rests when so long nothing has come.
const REST_AFTER: Duration = Duration::from_secs(20);
/// One that was not woken by an event rests when it has had so long to look.
const LOOK_FOR: Duration = Duration::from_secs(5);
/// It is looked at most so often who has sent events.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// So many are woken at a time that nobody is waiting for.
const WOKEN_AT_ONCE: usize = 16;
/// A pipeline that could not be woken, or has failed, is tried again after so long, if events come.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Sessions are over so long after their end by the clock of the log, at the latest.
const SETTLED_AFTER: Duration = Duration::from_secs(20);
/// The clocks of visitors may be fast by so much: their sessions come to an end that much later.
const FAST_CLOCKS: Duration = Duration::from_secs(3_600);

/// The more of them run, the longer it is from one checkpoint of each to the next, so that all together make no more than
/// twenty a second.
pub(super) const CHECKPOINT_EACH: Duration = Duration::from_millis(50);

/// How many of Weir's own pipelines run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awake(Arc<AtomicU32>);

/// One that runs.
pub(super) struct OneAwake(Awake);

impl Awake {
    pub(super) fn one_more(&self) -> OneAwake {
        self.0.fetch_add(1, Ordering::Relaxed);
        OneAwake(self.clone())
    }

    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for OneAwake {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which tenants have something new for Weir's own pipelines.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    news: Mutex<HashMap<TenantId, News>>,
    changed: Notify,
}

/// What is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    /// Events have come.
    Events,
    /// It is to be made by something else, or to run where it did not.
    Settings,
}

impl Arrivals {
    /// What a tenant has set has changed, or whether its pipeline is to run.
    pub(crate) fn changed(&self, tenant: &TenantId) {
        self.tell(tenant, News::Settings);
    }

    fn tell(&self, tenant: &TenantId, news: News) {
        let mut all = self.news.lock();
        match all.get_mut(tenant) {
            Some(known) => *known = news.max(*known),
            None => {
                all.insert(tenant.clone(), news);
                self.changed.notify_one();
            }
        }
    }

    fn take(&self) -> HashMap<TenantId, News> {
        std::mem::take(&mut *self.news.lock())
    }
}

impl Subscriber for Arrivals {
    fn wants(&self, _: &TenantId, _: &StreamName, _: Position) -> bool {
        false
    }

    fn committed(&self, commit: &Commit) {
        for record in commit.records.iter().filter(|record| record.stream.as_str() == READ) {
            self.tell(&record.tenant, News::Events);
        }
    }

    fn damaged(&self, _: &Damage) {}
}

/// Whether a pipeline is Weir's own, by what is kept of it.
pub(crate) fn is_built_in(record: &PipelineRecord) -> bool {
    record.trust == Trust::Weir
}

/// What is known of a tenant's pipeline. Times are those of the clock that only goes on.
#[derive(Clone, Debug, Default)]
struct Known {
    /// When it was last woken, if it is not at rest.
    woken: Option<Duration>,
    /// When events last came, since it was woken.
    came: Option<Duration>,
    /// It may have sessions that are open, and it is not settled when they are over.
    is_open: bool,
    /// When it is to be woken though nothing comes, because open sessions are over.
    due: VecDeque<Duration>,
}

/// What a pipeline that is awake does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It works, or is about to.
    Working,
    /// It has read all there is.
    Waiting,
    /// Nothing: it does not run, or has failed.
    Nothing,
}

/// What is to be done with a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    Wake,
    Rest,
}

impl Known {
    fn act(&self, now: Duration, news: Option<News>, doing: Doing) -> Act {
        let since = |time: Duration| now.saturating_sub(time);
        let Some(woken) = self.woken else {
            let is_due = self.due.front().is_some_and(|due| *due <= now);
            return if news.is_some() || is_due { Act::Wake } else { Act::Nothing };
        };
        if let Some(news) = news {
            let is_down = doing == Doing::Nothing && since(woken) >= AGAIN_AFTER;
            return if news == News::Settings || is_down { Act::Wake } else { Act::Nothing };
        }
        let is_quiet = self.came.is_none_or(|came| since(came) >= REST_AFTER) && since(woken) >= LOOK_FOR;
        if is_quiet && doing != Doing::Working { Act::Rest } else { Act::Nothing }
    }

    fn wake(&mut self, now: Duration) {
        self.woken = Some(now);
        self.due.retain(|due| *due > now);
    }

    /// `settled`: how long after its last event all that is open has come to an end.
    fn rest(&mut self, settled: Duration) {
        let last = self.came.take().or(self.woken.take()).unwrap_or_default();
        self.woken = None;
        if std::mem::take(&mut self.is_open) {
            self.due = [last + settled, last + settled + FAST_CLOCKS].into();
        }
    }

    /// When to look at it again, if nothing comes.
    fn look(&self, now: Duration) -> Option<Duration> {
        let Some(woken) = self.woken else { return self.due.front().copied() };
        let quiet = self.came.map_or(Duration::ZERO, |came| came + REST_AFTER).max(woken + LOOK_FOR);
        Some(quiet.max(now + LOOK_EVERY))
    }
}

/// Wakes the pipelines of tenants and lets them rest.
struct Keeper {
    app: Arc<App>,
    /// Those that are awake, or have something open.
    known: HashMap<TenantId, Known>,
    /// Tenants of before the start that have not been woken since.
    unseen: VecDeque<TenantId>,
}

/// Keeps Weir's own pipelines until the shutdown begins.
pub(crate) async fn keep(app: Arc<App>) {
    let (shutdown, clock) = (app.shutdown.clone(), Arc::clone(&app.clock));
    let mut keeper = Keeper { unseen: begun(&app), known: HashMap::new(), app };
    loop {
        let now = clock.monotonic();
        let look = keeper.turn(now).map_or(Duration::MAX, |look| look.saturating_sub(now));
        let arrivals = Arc::clone(&keeper.app.pipelines.arrivals);
        tokio::select! {
            () = shutdown.begun() => return,
            () = arrivals.changed.notified() => {}
            () = tokio::time::sleep(look) => {}
        }
        // The first event after a quiet time is looked at at once; where they come all the time, not each of them is.
        let looked = clock.monotonic().saturating_sub(now);
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(LOOK_EVERY.saturating_sub(looked)) => {}
        }
    }
}

/// The tenants that have the pipeline.
fn begun(app: &App) -> VecDeque<TenantId> {
    match app.meta.all_pipelines() {
        Ok(records) => records.into_iter().filter(is_built_in).map(|record| record.tenant).collect(),
        Err(error) => {
            tracing::warn!(%error, "sessions that were open are gone on with when events come");
            VecDeque::new()
        }
    }
}

impl Keeper {
    /// Wakes and lays to rest; says when there is something to do next.
    fn turn(&mut self, now: Duration) -> Option<Duration> {
        let pipelines = &self.app.pipelines;
        let news = pipelines.arrivals.take();
        for tenant in news.keys() {
            self.known.entry(tenant.clone()).or_default();
        }
        for tenant in self.unseen.drain(..self.unseen.len().min(WOKEN_AT_ONCE)) {
            self.known.entry(tenant).or_insert_with(|| Known { is_open: true, due: [now].into(), ..Known::default() });
        }
        let mut next: Option<Duration> = (!self.unseen.is_empty()).then_some(now);
        let app = &self.app;
        self.known.retain(|tenant, known| {
            let news = news.get(tenant).copied();
            let act = known.act(now, news, pipelines.doing(tenant));
            if news == Some(News::Events) {
                (known.came, known.is_open) = (Some(now), true);
            }
            match act {
                Act::Nothing => {}
                Act::Wake => {
                    known.wake(now);
                    tokio::spawn(wake(Arc::clone(app), tenant.clone()));
                }
                Act::Rest => {
                    let settled =
                        pipelines.chosen(tenant).map_or(Duration::ZERO, |chosen| chosen.gap.0 + chosen.lateness.0);
                    known.rest(settled + SETTLED_AFTER);
                    tokio::spawn(rest(Arc::clone(app), tenant.clone()));
                }
            }
            let look = known.look(now);
            next = next.into_iter().chain(look).min();
            look.is_some()
        });
        next
    }
}

async fn wake(app: Arc<App>, tenant: TenantId) {
    if let Err(problem) = app.pipelines.wake(&tenant).await {
        tracing::warn!(%tenant, pipeline = SESSIONS, error = ?problem, "cannot run the pipeline");
    }
}

async fn rest(app: Arc<App>, tenant: TenantId) {
    app.pipelines.rest(&tenant).await;
}

impl Pipelines {
    /// What a tenant's sessions are made by; nothing if there is no such tenant.
    fn chosen(&self, tenant: &TenantId) -> Option<Chosen> {
        let owner = self.world.meta.tenant(tenant).ok().flatten()?;
        Some(Chosen::new(&self.world.sessions, &owner.settings.sessions))
    }

    /// Whether Weir's own pipeline of a tenant runs when there is something for it.
    pub(super) fn may_wake(&self, tenant: &TenantId) -> bool {
        self.chosen(tenant).is_some_and(|chosen| chosen.is_on)
    }

    /// What the pipeline of a tenant does.
    fn doing(&self, tenant: &TenantId) -> Doing {
        let runner = self.known_slot(tenant, SESSIONS).and_then(|slot| slot.runner.lock().clone());
        let Some(runner) = runner.filter(|runner| !runner.is_over()) else { return Doing::Nothing };
        let view = runner.view();
        let lag =
            view.progress.iter().flat_map(|progress| &progress.sources).map(|(_, stats)| stats.source.view().lag_rows);
        match view.status {
            Status::Running { .. } if lag.flatten().all(|rows| rows == 0) => Doing::Waiting,
            _ => Doing::Working,
        }
    }

    /// Runs the pipeline of a tenant as it is to be now, if it is to run.
    async fn wake(&self, tenant: &TenantId) -> Result<()> {
        let Some(chosen) = self.chosen(tenant) else { return Ok(()) };
        if !chosen.is_on {
            self.put_away(tenant).await;
            return Ok(());
        }
        let before = self.before(tenant, SESSIONS).await?;
        if before.as_ref().is_some_and(|before| !is_built_in(before) || before.wanted == Wanted::Stopped) {
            return Ok(());
        }
        let document = chosen.document();
        if before.is_some_and(|before| before.document == document) {
            let (slot, _changing) = self.change(tenant, SESSIONS).await;
            let runs = slot.runner.lock().as_ref().is_some_and(|runner| !runner.is_over());
            // It may have been stopped while it was waited for.
            let record = self.show(tenant, SESSIONS).await?;
            if runs || record.wanted != Wanted::Running {
                return Ok(());
            }
            let (world, of) = (self.world.clone(), record.clone());
            if !super::spawn(move || folder::is_finished(&world, &of)).await?? {
                self.run(&slot, record);
                return Ok(());
            }
            // It was to go by other rules, and was killed between closing what was open and that.
        }
        let application = Application {
            document,
            syntax: DocumentSyntax::Yaml,
            source: format!("{SESSIONS}.yaml"),
            trust: Trust::Weir,
            by: WEIR.to_owned(),
            dry_run: false,
            // What is open cannot be gone on with by other rules.
            begin: Begin::Settled,
        };
        self.apply(tenant, application).await?;
        Ok(())
    }

    /// Lets the pipeline of a tenant make one more checkpoint and rest. What made it fail stays to be seen.
    async fn rest(&self, tenant: &TenantId) {
        let runner = self.known_slot(tenant, SESSIONS).and_then(|slot| slot.runner.lock().clone());
        let status = runner.filter(|runner| runner.is_over()).map(|runner| runner.view().status);
        if !matches!(status, Some(Status::Failed(_) | Status::Overrun(_))) {
            self.put_away(tenant).await;
        }
    }

    async fn put_away(&self, tenant: &TenantId) {
        let Some(slot) = self.known_slot(tenant, SESSIONS) else { return };
        let _changing = slot.changing.lock().await;
        let runner = slot.runner.lock().take();
        if let Some(runner) = runner {
            runner.stop(STOP_TIME_MAX).await;
        }
        self.slots.lock().remove(&(tenant.clone(), SESSIONS.to_owned()));
    }
}

#[cfg(test)]
mod tests;
