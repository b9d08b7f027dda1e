//! The parts of a running server and how they come up and go down.
//!
//! Order of the start: lock the data directory, metadata, tables, log (which replays into the
//! tables), queries, listeners; `addresses.json` is written last, so whoever reads it finds a
//! server that answers. Order of the end: stop accepting, finish requests, store what Weir still
//! has to say about itself, close the log, let go of the directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use weir_api::health::Addresses;
use weir_base::disk::{Disk, DiskLock, RealDisk};
use weir_base::shutdown::Shutdown;
use weir_base::{Clock, ErrorKind, Kinded, TenantId};
use weir_log::{Log, LogError, LogOptions, Subscriber};
use weir_meta::{Meta, MetaError, pepper};
use weir_sql::{QueryEngine, SqlError};
use weir_store::{Store, StoreError};

use crate::admission::{Admission, AdmissionOptions};
use crate::auth::Authenticator;
use crate::client_address::{ForwardedHeader, TrustedProxies};
use crate::config::Config;
use crate::config::settings::ListenerConfig;
use crate::ingest::{Ingest, StorageUse};
use crate::live::Live;
use crate::lost_log;
use crate::net::body::{BodyOptions, BodyReader};
use crate::net::tls::{Tls, TlsFiles};
use crate::net::{Listener, NetError, NetOptions, Server as NetServer};
use crate::pipelines::built_in::{self, Arrivals};
use crate::pipelines::{Awake, Letters, Pipelines, World};
use crate::problem::Problem;
use crate::routes;
use crate::telemetry::Telemetry;
use crate::telemetry::feed::Feed;
use crate::telemetry::logs::LineBuffer;
use crate::work::Workers;

/// Everything a request may need.
#[derive(Debug)]
pub struct App {
    /// The configuration the server was started with.
    pub config: Config,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Tenants, keys, limits, catalogue.
    pub meta: Arc<Meta>,
    /// The log.
    pub log: Arc<Log>,
    /// The tables.
    pub store: Arc<Store>,
    /// SQL.
    pub engine: Arc<QueryEngine>,
    /// The way in for rows.
    pub ingest: Arc<Ingest>,
    /// Live subscriptions.
    pub live: Arc<Live>,
    /// Pipelines of tenants.
    pub(crate) pipelines: Pipelines,
    /// Who is asking.
    pub authenticator: Authenticator,
    /// Who may send how much.
    pub admission: Admission,
    /// Reads bodies within what all requests may hold together.
    pub bodies: Arc<BodyReader>,
    /// Threads for decoding.
    pub workers: Arc<Workers>,
    /// Whose word on client addresses is believed.
    pub proxies: TrustedProxies,
    /// What is counted.
    pub telemetry: Arc<Telemetry>,
    /// Log lines on their way into tenant `system`.
    pub lines: Arc<LineBuffer>,
    /// Connections.
    pub net: NetServer,
    /// The end.
    pub shutdown: Shutdown,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("preparing the data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process serves this directory.
    #[error("the data directory {} is in use by another weir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The metadata database.
    #[error("opening the metadata database {}", path.display())]
    MetaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MetaError,
    },
    /// What is in the metadata database, or belongs to it.
    #[error("reading the metadata")]
    Meta(#[from] MetaError),
    /// There is a log, and no metadata: not a first start.
    #[error(
        "the metadata database {} is missing or empty, and there is a log of it beside: without it nobody knows whose \
         table files are which, and they would be taken for leftovers; restore it from a backup, or move the \
         whole data directory away to begin anew",
        path.display()
    )]
    MetaLost {
        /// The file.
        path: PathBuf,
    },
    /// There was a log, and it or a part of it is not there.
    #[error(
        "{} is missing or empty, and the metadata knows of a log there: rows that were acknowledged may be in it and \
         nowhere else; bring it back (is its disk mounted?), or give up what was only in it by \
         `weir log fsck --repair`",
        path.display()
    )]
    LogLost {
        /// The directory.
        path: PathBuf,
    },
    /// There is a log, and it is not the one the metadata belongs to.
    #[error(
        "the log in {} is not the one that belongs to this metadata; bring that back, or take this one for it \
         by `weir log fsck --repair`",
        path.display()
    )]
    LogIsAnother {
        /// The directory.
        path: PathBuf,
    },
    /// The tables.
    #[error("opening the tables")]
    Store(#[from] StoreError),
    /// The log.
    #[error("opening the log")]
    Log(#[from] LogError),
    /// The query engine.
    #[error("starting the query engine")]
    Sql(#[from] SqlError),
    /// The threads of pipelines.
    #[error("starting the threads of pipelines")]
    Pipelines(#[source] io::Error),
    /// A listener.
    #[error("starting the listeners")]
    Net(#[from] NetError),
}

impl Kinded for StartError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::DataDir { .. } => ErrorKind::Config,
            Self::InUse { .. } => ErrorKind::Conflict,
            Self::MetaFile { source, .. } => source.kind(),
            Self::MetaLost { .. } | Self::LogLost { .. } | Self::LogIsAnother { .. } => ErrorKind::Corrupt,
            Self::Meta(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::Sql(error) => error.kind(),
            Self::Pipelines(_) => ErrorKind::Transient,
            Self::Net(error) => error.kind(),
        }
    }
}

/// A server that listens and has not begun to serve.
#[derive(Debug)]
pub struct Running {
    app: Arc<App>,
    listeners: Vec<(Listener, axum::Router)>,
    addresses: Addresses,
    addresses_path: PathBuf,
    feed: Feed,
    storage: Arc<StorageUse>,
    table_workers: weir_store::Workers,
    /// Held until the end.
    _lock: Box<dyn DiskLock>,
}

/// What the running server is given from outside.
#[derive(Debug)]
pub struct Environment {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where the process's log lines are collected.
    pub lines: Arc<LineBuffer>,
    /// The end.
    pub shutdown: Shutdown,
}

/// Opens everything and binds the listeners.
pub async fn start(config: Config, environment: Environment) -> Result<Running, StartError> {
    let Environment { clock, lines, shutdown } = environment;
    let dir = config.data_dir.clone();
    let (opening, parts_clock) = (config.clone(), Arc::clone(&clock));
    let telemetry = Telemetry::new(clock.now());
    let live = Arc::new(Live::default());
    let arrivals = Arc::new(Arrivals::default());
    let watching: Vec<Arc<dyn Subscriber>> = vec![Arc::clone(&live) as _, Arc::clone(&arrivals) as _];
    // Opening reads and replays files: not on an I/O thread.
    let parts = tokio::task::spawn_blocking(move || open(&opening, parts_clock, watching))
        .await
        .map_err(|error| StartError::DataDir { path: dir.clone(), source: io::Error::other(error) })??;
    let Parts { lock, meta, store, log, engine, letters } = parts;

    let net = NetServer::new(NetOptions::from(&config));
    let storage = Arc::new(StorageUse::default());
    let ingest = Arc::new(Ingest::new(
        Arc::clone(&meta),
        Arc::clone(&log),
        Arc::clone(&clock),
        Arc::clone(&telemetry),
        Arc::clone(&store),
        Arc::clone(&storage),
        Vec::new(),
    ));
    let world = World {
        meta: Arc::clone(&meta),
        log: Arc::clone(&log),
        engine: Arc::clone(&engine),
        query_time_max: config.queries.time_max.0,
        storage: Arc::clone(&storage),
        clock: Arc::clone(&clock),
        disk: RealDisk::new(),
        directory: config.data_dir.clone(),
        policy: config.pipelines_policy(),
        letters,
        sessions: config.sessions.clone(),
        awake: Awake::default(),
    };
    let pipelines = Pipelines::new(world, arrivals, config.pipelines.threads).map_err(StartError::Pipelines)?;
    let http = listen("http", &config.http).await?;
    let otlp_grpc = listen("otlp_grpc", &config.otlp_grpc).await?;
    let otlp_http = listen("otlp_http", &config.otlp_http).await?;
    let addresses = Addresses {
        http: http.address().to_string(),
        otlp_grpc: otlp_grpc.address().to_string(),
        otlp_http: otlp_http.address().to_string(),
    };
    let workers = Workers::new();
    let app = Arc::new(App {
        authenticator: Authenticator::new(Arc::clone(&meta), Arc::clone(&clock), AUTH_FAILURES_PER_MINUTE_MAX),
        admission: Admission::new(Arc::clone(&clock), &admission_options(&config)),
        bodies: BodyReader::new(body_options(&config), Arc::clone(&workers)),
        workers,
        proxies: TrustedProxies::new(
            config.trusted_proxies.iter().map(|cidr| cidr.0).collect(),
            ForwardedHeader::XForwardedFor,
        ),
        config,
        clock: Arc::clone(&clock),
        meta,
        log: Arc::clone(&log),
        store: Arc::clone(&store),
        engine,
        ingest,
        live,
        pipelines,
        telemetry: Arc::clone(&telemetry),
        lines: Arc::clone(&lines),
        net,
        shutdown: shutdown.clone(),
    });
    let sampled = Arc::clone(&app);
    let feed = Feed {
        log,
        clock,
        telemetry,
        lines,
        samples: Arc::new(move || routes::metrics::samples(&sampled)),
        metrics_every: app.config.telemetry.metrics_interval.0,
        usage_every: app.config.telemetry.usage_interval.0,
    };
    let table_workers = store.run(&shutdown)?;
    let listeners =
        vec![(http, routes::http(&app)), (otlp_grpc, routes::otlp_grpc(&app)), (otlp_http, routes::otlp_http(&app))];
    let addresses_path = app.config.data_dir.join("addresses.json");
    Ok(Running { app, listeners, addresses, addresses_path, feed, storage, table_workers, _lock: lock })
}

async fn listen(name: &'static str, config: &ListenerConfig) -> Result<Listener, NetError> {
    let tls = match &config.tls {
        Some(files) => {
            let files = TlsFiles { certificate: files.certificate.clone(), key: files.key.clone() };
            Some(Tls::load(files, CERTIFICATE_POLL_INTERVAL)?)
        }
        None => None,
    };
    Listener::bind(name, &config.address, tls).await
}

/// Says which streams of the configuration nobody has. It may be that a pipeline will write them.
fn warn_of_unknown_streams(config: &Config, meta: &Meta) -> Result<(), StartError> {
    let tenants = meta.tenants()?;
    for (tier, limits) in &config.tiers {
        for stream in limits.retention_by_stream.iter().flat_map(|by_stream| by_stream.keys()) {
            let is_known = weir_data::streams::stream(stream.as_str()).is_some()
                || tenants.iter().any(|tenant| meta.streams().get(&tenant.id, stream.as_str()).is_some());
            if !is_known {
                tracing::warn!(%tier, %stream, "retention_by_stream names a stream that no tenant has");
            }
        }
    }
    Ok(())
}

/// How often certificate files are looked at for changes.
const CERTIFICATE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How many invalid keys one address may try a minute before it is told to wait.
const AUTH_FAILURES_PER_MINUTE_MAX: u32 = 120;

fn admission_options(config: &Config) -> AdmissionOptions {
    let limits = &config.limits;
    AdmissionOptions {
        rows_per_second: limits.rows_per_second,
        rows_burst: limits.rows_burst,
        bytes_per_second: limits.bytes_per_second.0,
        bytes_burst: limits.bytes_burst.0,
        ..AdmissionOptions::default()
    }
}

fn body_options(config: &Config) -> BodyOptions {
    let limits = &config.limits;
    BodyOptions {
        idle_timeout: limits.body_timeout.0,
        bytes_per_second_min: limits.body_bytes_per_second_min.0,
        in_flight_bytes_max: limits.decoded_bytes_in_flight_max.as_usize(),
        in_flight_wait: limits.decoded_bytes_wait.0,
    }
}

struct Parts {
    lock: Box<dyn DiskLock>,
    meta: Arc<Meta>,
    store: Arc<Store>,
    log: Arc<Log>,
    engine: Arc<QueryEngine>,
    letters: Arc<Letters>,
}

fn open(config: &Config, clock: Arc<dyn Clock>, watching: Vec<Arc<dyn Subscriber>>) -> Result<Parts, StartError> {
    let dir = &config.data_dir;
    let disk: Arc<dyn Disk> = RealDisk::new();
    disk.create_dir_all(dir).map_err(|source| StartError::DataDir { path: dir.clone(), source })?;
    let lock = lock(disk.as_ref(), dir)?;
    let pepper = pepper::load_or_create(&dir.join("pepper"))?;
    let path = dir.join("meta.db");
    // The log is made after the database, and a database that was used is never empty.
    let is_empty = std::fs::metadata(&path).map_or(true, |found| found.len() == 0);
    let log_exists = disk.list(&config.log_options().dir).is_ok_and(|entries| !entries.is_empty());
    if is_empty && log_exists {
        return Err(StartError::MetaLost { path });
    }
    let meta = Meta::open(&path, pepper, Arc::clone(&clock)).map_err(|source| StartError::MetaFile { path, source })?;
    meta.set_tier_overrides(config.tiers.clone());
    warn_of_unknown_streams(config, &meta)?;
    meta.ensure_admin_key(&dir.join("admin.key"))?;

    let log_options = LogOptions { floors: lost_log::floors(&meta)?, ..config.log_options() };
    lost_log::check(&meta, disk.as_ref(), &log_options)?;
    let store = Store::open(config.store_options(), Arc::clone(&disk), Arc::clone(&clock), Arc::clone(&meta) as _)?;
    let mut subscribers: Vec<Arc<dyn Subscriber>> = vec![Arc::clone(&store) as _];
    subscribers.extend(watching);
    let letters = Arc::new(Letters::new(Arc::clone(&disk), dir));
    let log = Log::open(log_options, disk, Arc::clone(&clock), subscribers)?;
    // Before anything is acknowledged, and after the log is whole: a first start may be killed anywhere.
    lost_log::note(&meta, &log)?;
    store.attach(Arc::clone(&log) as _);
    finish_deletions(&meta, &store, &log);
    let hides = Arc::clone(&letters) as _;
    let engine = QueryEngine::hiding(Arc::clone(&store), Arc::clone(&meta), hides, clock, config.query_options())?;
    Ok(Parts { lock, meta, store, log, engine, letters })
}

/// Goes on with deletions of tenants that were interrupted, so that nobody finds anything of them. Retention tries again.
fn finish_deletions(meta: &Meta, store: &Store, log: &Log) {
    let tenants = meta.tenants_to_purge();
    // A deletion may be what makes room on a full disk.
    let _room = (!tenants.is_empty()).then(|| log.room());
    for tenant in tenants {
        let done = store.drop_tenant(&tenant).map_err(StartError::from);
        if let Err(error) = done.and_then(|()| Ok(meta.purge_tenant(&tenant)?)) {
            warn!(%tenant, error = %weir_base::error::chain(&error), "the deletion of a tenant cannot be finished now");
        }
    }
}

/// Takes the directory for this process, or says that another one has it.
pub(crate) fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>, StartError> {
    disk.lock(&dir.join("weir.lock")).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => StartError::InUse { path: dir.to_owned() },
        _ => StartError::DataDir { path: dir.to_owned(), source },
    })
}

impl Running {
    /// Where the server listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The parts, for those who run the server inside their process.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Serves until the shutdown begins, then ends in good order.
    pub async fn serve(self) {
        let Self { app, listeners, addresses, addresses_path, feed, storage, table_workers, _lock } = self;
        let shutdown = app.shutdown.clone();
        let feeding = tokio::spawn(feed.run(shutdown.clone()));
        let watching = tokio::spawn(watch_storage(Arc::clone(&app.store), storage, shutdown.clone()));
        let serving = {
            let (net, shutdown) = (app.net.clone(), shutdown.clone());
            tokio::spawn(async move { net.serve(listeners, shutdown).await })
        };
        let starting = Arc::clone(&app);
        // Reads what is to run, and folders that may be left of what is gone.
        match tokio::task::spawn_blocking(move || starting.pipelines.start_all()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the pipelines cannot be read, and none runs"),
            Err(error) => warn!(%error, "the pipelines were not started"),
        }
        let keeping = tokio::spawn(built_in::keep(Arc::clone(&app)));
        match serde_json::to_vec_pretty(&addresses) {
            Ok(text) => {
                if let Err(error) = RealDisk.replace(&addresses_path, &text) {
                    warn!(%error, path = %addresses_path.display(), "the addresses were not written");
                }
            }
            Err(error) => warn!(%error, "the addresses were not written"),
        }
        info!(http = addresses.http, otlp_grpc = addresses.otlp_grpc, otlp_http = addresses.otlp_http, "weir serves");
        shutdown.begun().await;
        info!("weir stops");
        app.live.end_all();
        // A task that panicked has logged it; there is nothing else to be done here.
        let _ = serving.await;
        let _ = keeping.await;
        app.pipelines.stop_all().await;
        let _ = feeding.await;
        let _ = watching.await;
        let _ = std::fs::remove_file(&addresses_path);
        let log = Arc::clone(&app.log);
        let closed = tokio::task::spawn_blocking(move || {
            table_workers.join();
            if let Err(error) = app.meta.flush_last_used() {
                warn!(%error, "the last use of keys was not stored");
            }
            log.close();
        });
        let _ = closed.await;
        info!("weir has stopped");
    }
}

/// How often it is looked how much each tenant stores.
const STORAGE_INTERVAL: Duration = Duration::from_secs(5);

async fn watch_storage(store: Arc<Store>, storage: Arc<StorageUse>, shutdown: Shutdown) {
    loop {
        let (store, storage) = (Arc::clone(&store), Arc::clone(&storage));
        // A look that panicked has logged it; the next one comes.
        let _ = tokio::task::spawn_blocking(move || storage.refresh(&store)).await;
        tokio::select! {
            () = tokio::time::sleep(STORAGE_INTERVAL) => {}
            () = shutdown.begun() => return,
        }
    }
}

impl App {
    /// Removes what is kept of a deleted tenant.
    pub async fn forget_tenant(self: &Arc<Self>, tenant: &TenantId) -> Result<(), Problem> {
        self.live.end_tenant(tenant);
        self.telemetry.forget_tenant(tenant);
        self.engine.forget_tenant(tenant);
        self.pipelines.forget_tenant(tenant).await?;
        let (app, tenant) = (Arc::clone(self), tenant.clone());
        routes::blocking(move || {
            let _room = app.log.room();
            app.store.drop_tenant(&tenant)?;
            app.meta.purge_tenant(&tenant)?;
            Ok::<_, StartError>(())
        })
        .await
    }
}
