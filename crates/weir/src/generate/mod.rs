//! The simulator: shops with visitors and the services behind them, sending what such shops send
//! through the protocols they would use, and checking every reply.
//!
//! `world` knows who visits, `session` what a visit is, `services` and `measures` what the request
//! does behind the scenes, `shop` lets all of it happen in time; `parcel` packs, `courier`
//! delivers, `tally` counts. Everything up to the parcels is a function of the seed and the start.
//!
//! It is not a benchmark: it makes rows that mean something, at the cost of making them.

mod courier;
mod measures;
mod parcel;
mod services;
mod session;
mod shop;
mod tally;
mod world;

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use weir_base::clock::SystemClock;
use weir_base::shutdown::Shutdown;
use weir_base::{Clock, Timestamp};

use courier::{Courier, Receipt};
use parcel::Parcel;
use shop::{ShopOptions, ShopTraffic};
use tally::Tally;

pub(crate) use tally::Summary;

#[cfg(test)]
mod tests;

/// A tenant to send as.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its id.
    pub(crate) tenant: String,
    /// A key of its own that may ingest.
    pub(crate) key: String,
}

/// A time in which the payment provider is slow and fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incident {
    /// How long after the simulator begins.
    pub(crate) start: Duration,
    /// How long it lasts.
    pub(crate) duration: Duration,
}

impl Default for Incident {
    fn default() -> Self {
        Self { start: Duration::from_secs(60), duration: Duration::from_secs(180) }
    }
}

/// What to simulate, and where to send it.
#[derive(Clone, Debug)]
pub(crate) struct GenerateOptions {
    /// Who sends; a shop each.
    pub(crate) targets: Vec<Target>,
    /// The server's main address, such as `http://127.0.0.1:8080`.
    pub(crate) http_url: String,
    /// Its address for OTLP over HTTP.
    pub(crate) otlp_http_url: String,
    /// Its address for OTLP over gRPC, with `http://` or `https://`.
    pub(crate) otlp_grpc_url: String,
    /// PEM file of a certificate authority to trust.
    pub(crate) ca_file: Option<PathBuf>,
    /// Rows a second over all tenants, as the simulator begins; later it follows the hour.
    pub(crate) rate: f64,
    /// When to stop; without it only when told to.
    pub(crate) duration: Option<Duration>,
    /// The same seed makes the same people do the same.
    pub(crate) seed: u64,
    /// When the payment provider fails.
    pub(crate) incident: Option<Incident>,
    /// Whether to keep quiet about the progress and the outcome.
    pub(crate) quiet: bool,
}

/// How often what happened is sent.
const TICK: Duration = Duration::from_millis(250);

/// Requests under way at once; with all of them waiting, time in the shops stands still.
const IN_FLIGHT_MAX: usize = 32;

/// How far the shops may be behind before they skip what they missed.
const BEHIND_MAX: Duration = Duration::from_secs(5);

/// How often services export metrics, and how often in shops so small that it would be most of
/// their rows.
const EXPORT_EVERY: Duration = Duration::from_secs(10);
const EXPORT_EVERY_IF_SMALL: Duration = Duration::from_secs(60);
const SMALL_ROWS_PER_SECOND: f64 = 100.0;

/// How often a line is written, on a terminal and elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(1);
const LINE_EVERY_IF_LOGGED: Duration = Duration::from_secs(10);

/// Simulates until `duration` is over or `shutdown` begins, then sends what is left. Progress goes
/// to standard error. The summary says whether every row was accounted for
/// ([`Summary::is_clean`]); an error means that nothing could be sent at all.
pub(crate) async fn run(options: GenerateOptions, shutdown: Shutdown) -> anyhow::Result<Summary> {
    anyhow::ensure!(!options.targets.is_empty(), "there is no tenant to send as");
    anyhow::ensure!(options.rate > 0.0 && options.rate.is_finite(), "the rate has to be above 0");
    let clock: Arc<dyn Clock> = SystemClock::new();
    let courier = Arc::new(Courier::new(&options, options.ca_file.as_deref(), Arc::clone(&clock), shutdown.clone())?);
    let start = clock.now();
    let shops = open_shops(&options, start);
    Run { shops, courier, clock: Arc::clone(&clock), start, options, shutdown }.play().await
}

/// The shops of all tenants at `start`, busy enough for the rate.
fn open_shops(options: &GenerateOptions, start: Timestamp) -> Vec<ShopTraffic> {
    let tenants = options.targets.len();
    let shop_options = |number: usize, sessions_per_second: f64| ShopOptions {
        tenant: options.targets[number].tenant.clone(),
        number,
        tenants,
        seed: options.seed,
        start,
        sessions_per_second,
        has_rhythm: true,
        incident: options.incident,
    };
    let rows_per_session = shop::rows_per_session(&shop_options(0, 1.0)).max(1.0);
    // The rate is that of now: the hour decides how the shops share it, and what comes later.
    let busy: f64 = (0..tenants)
        .map(|number| world::Shop::new(options.seed, "", number, tenants).rhythm(start))
        .sum::<f64>()
        .max(0.1);
    let sessions_per_second = options.rate / rows_per_session / busy;
    (0..tenants).map(|number| ShopTraffic::new(shop_options(number, sessions_per_second))).collect()
}

struct Run {
    shops: Vec<ShopTraffic>,
    courier: Arc<Courier>,
    clock: Arc<dyn Clock>,
    start: Timestamp,
    options: GenerateOptions,
    shutdown: Shutdown,
}

impl Run {
    async fn play(mut self) -> anyhow::Result<Summary> {
        let begun = self.clock.monotonic();
        let mut tally = Tally::new(begun);
        let mut progress = Progress::new(self.options.quiet, begun);
        let mut in_flight = JoinSet::new();
        let mut sequence = 0_u64;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let small = self.options.rate / (self.shops.len() as f64) < SMALL_ROWS_PER_SECOND;
        let export_every = if small { EXPORT_EVERY_IF_SMALL } else { EXPORT_EVERY };
        let mut exported = Duration::ZERO;
        // Time in the shops since they opened, and how much of the wall clock's they have skipped.
        let (mut lived, mut skipped) = (Duration::ZERO, Duration::ZERO);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.shutdown.begun() => {}
            }
            let elapsed = self.clock.monotonic().saturating_sub(begun);
            let is_over = self.shutdown.has_begun() || self.options.duration.is_some_and(|end| elapsed >= end);
            let wanted = elapsed.min(self.options.duration.unwrap_or(elapsed)).saturating_sub(skipped);
            if wanted.saturating_sub(lived) > BEHIND_MAX {
                skipped += wanted.saturating_sub(lived).saturating_sub(TICK);
                lived += TICK;
            } else {
                lived = lived.max(wanted);
            }
            let mut parcels = VecDeque::new();
            let exports = is_over || lived.saturating_sub(exported) >= export_every;
            for (target, shop) in self.shops.iter_mut().enumerate() {
                shop.skipped = skipped;
                shop.advance(self.start.plus(lived));
                parcels.extend(parcel::pack(target, shop));
                if exports {
                    parcels.extend(parcel::pack_metrics(target, shop, self.start.plus(lived + skipped)));
                }
            }
            if exports {
                exported = lived;
            }
            for parcel in parcels {
                if in_flight.len() >= IN_FLIGHT_MAX {
                    settle(&mut tally, in_flight.join_next().await);
                    progress.show(&mut tally, self.clock.monotonic(), in_flight.len());
                }
                sequence += 1;
                let key = format!("generate-{:x}-{:x}-{sequence}", self.start.0, self.options.seed);
                in_flight.spawn(deliver(Arc::clone(&self.courier), parcel, key));
            }
            while let Some(done) = in_flight.try_join_next() {
                settle(&mut tally, Some(done));
            }
            progress.show(&mut tally, self.clock.monotonic(), in_flight.len());
            if is_over {
                break;
            }
        }
        // Also where only the time is up: what cannot be delivered is not waited for as long as while it runs.
        self.shutdown.begin();
        while let Some(done) = in_flight.join_next().await {
            settle(&mut tally, Some(done));
            progress.show(&mut tally, self.clock.monotonic(), in_flight.len());
        }
        let summary = tally.finish(self.clock.monotonic().saturating_sub(begun));
        progress.end(&summary);
        Ok(summary)
    }
}

type Delivered = Result<(u64, Receipt), tokio::task::JoinError>;

async fn deliver(courier: Arc<Courier>, parcel: Parcel, key: String) -> (u64, Receipt) {
    let rows = parcel.rows;
    (rows, courier.deliver(parcel, &key).await)
}

fn settle(tally: &mut Tally, done: Option<Delivered>) {
    match done {
        Some(Ok((rows, receipt))) => tally.add(rows, receipt),
        Some(Err(error)) => {
            tally.add(0, Receipt { complaint: Some(format!("a delivery failed: {error}")), ..Receipt::default() });
        }
        None => {}
    }
}

/// The line that says how it goes: refreshed in place on a terminal, now and then elsewhere.
struct Progress {
    quiet: bool,
    in_place: bool,
    shown: Duration,
}

impl Progress {
    fn new(quiet: bool, now: Duration) -> Self {
        Self { quiet, in_place: std::io::stderr().is_terminal(), shown: now }
    }

    fn show(&mut self, tally: &mut Tally, now: Duration, waiting: usize) {
        let every = if self.in_place { LINE_EVERY } else { LINE_EVERY_IF_LOGGED };
        if self.quiet || now.saturating_sub(self.shown) < every {
            return;
        }
        self.shown = now;
        let line = tally.line(now, waiting);
        // Nobody left to read it is no reason to stop.
        let _ = if self.in_place {
            write!(std::io::stderr(), "\r\x1b[2K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }

    fn end(&self, summary: &Summary) {
        if self.quiet {
            return;
        }
        let begin = if self.in_place { "\r\x1b[2K" } else { "" };
        let _ = writeln!(std::io::stderr(), "{begin}{summary}");
    }
}
