//! A shop in time: sessions begin and go on, their requests run through the services, and what
//! there is to send piles up until it is taken.
//!
//! Time is given, never read, so that the same seed and start make the same rows.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;
use weir_base::Timestamp;

use super::Incident;
use super::services::{self, Answer, Ask, Backend, Route};
use super::session::{Action, Page, Session};
use super::world::{Shop, Visitor, log_normal, mix, rng};

/// How long sessions run before the first row counts, so that traffic does not begin with
/// everybody on their first page.
const WARM_UP: Duration = Duration::from_secs(600);

/// One in so many scroll events comes from a broken tracker and is refused by the server.
const BROKEN_SCROLL_EVERY: u64 = 300;

/// An SDK event, ready to send.
#[derive(Debug)]
pub(super) struct WebEvent {
    pub(super) json: String,
    /// Whether the server has to refuse it.
    pub(super) is_broken: bool,
}

/// What makes a shop.
#[derive(Clone, Debug)]
pub(super) struct ShopOptions {
    pub(super) tenant: String,
    pub(super) number: usize,
    pub(super) tenants: usize,
    pub(super) seed: u64,
    pub(super) start: Timestamp,
    pub(super) sessions_per_second: f64,
    /// Whether the time of day matters.
    pub(super) has_rhythm: bool,
    pub(super) incident: Option<Incident>,
}

#[derive(Debug)]
struct Visit {
    session: Session,
    visitor: Visitor,
    session_id: String,
    /// How long the server took for the page, for the browser's report.
    page_took: Duration,
}

/// Something due: when, in which session, and what. Earlier things, then lower numbers, go first.
#[derive(Debug, PartialEq)]
struct Due {
    at: Timestamp,
    session: u64,
    action: Action,
}

impl Eq for Due {}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.session).cmp(&(other.at, other.session))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A shop with everything going on in it.
#[derive(Debug)]
pub(super) struct ShopTraffic {
    shop: Shop,
    options: ShopOptions,
    pub(super) backend: Backend,
    /// Events to send.
    pub(super) events: Vec<WebEvent>,
    visits: HashMap<u64, Visit>,
    due: BinaryHeap<Reverse<Due>>,
    arrivals: ChaCha8Rng,
    next_arrival: Timestamp,
    sessions: u64,
    /// How many visitors have been here; the next new one gets this number.
    known_visitors: u64,
    /// The seed of what must differ between runs: ids.
    run_seed: u64,
    made: u64,
    is_live: bool,
    /// How much later things happen for the world outside than in here: time the shop slept
    /// through, since what it had made could not be sent.
    pub(super) skipped: Duration,
}

impl ShopTraffic {
    pub(super) fn new(options: ShopOptions) -> Self {
        let shop = Shop::new(options.seed, &options.tenant, options.number, options.tenants);
        let seed = mix(options.seed, &[options.number as u64]);
        let run_seed = mix(seed, &[options.start.0 as u64]);
        let begin = options.start.minus(WARM_UP);
        let mut traffic = Self {
            backend: Backend::new(run_seed, options.start, options.incident),
            events: Vec::new(),
            visits: HashMap::new(),
            due: BinaryHeap::new(),
            arrivals: rng(mix(seed, &[8])),
            next_arrival: begin,
            sessions: 0,
            known_visitors: 2000,
            run_seed,
            made: 0,
            is_live: false,
            skipped: Duration::ZERO,
            shop,
            options,
        };
        traffic.advance(traffic.options.start);
        traffic.is_live = true;
        traffic
    }

    /// Lets everything happen up to `until`.
    pub(super) fn advance(&mut self, until: Timestamp) {
        loop {
            let due = self.due.peek().map_or(Timestamp(i64::MAX), |Reverse(due)| due.at);
            let next = due.min(self.next_arrival);
            if next > until {
                return;
            }
            if next == self.next_arrival {
                self.arrive(next);
            } else if let Some(Reverse(due)) = self.due.pop() {
                self.act(&due);
            }
        }
    }

    fn arrive(&mut self, now: Timestamp) {
        let busy = if self.options.has_rhythm { self.shop.rhythm(now) } else { 1.0 };
        let per_second = (self.options.sessions_per_second * busy).max(1e-6);
        let share: f64 = self.arrivals.random();
        let gap = Duration::from_secs_f64((-(1.0 - share).ln() / per_second).min(3600.0));
        self.next_arrival = now.plus(gap.max(Duration::from_nanos(1)));

        let returns = self.arrivals.random_bool(0.4);
        let visitor_number = if returns {
            let share: f64 = self.arrivals.random();
            (share * share * self.known_visitors as f64) as u64
        } else {
            self.known_visitors += 1;
            self.known_visitors - 1
        };
        let visitor = self.shop.visitor(visitor_number);
        let number = self.sessions;
        self.sessions += 1;
        let session = Session::new(&self.shop, self.run_seed, number, visitor.is_bot);
        let session_id = Uuid::from_u128(rng(mix(self.run_seed, &[5, number])).random()).hyphenated().to_string();
        self.visits.insert(number, Visit { session, visitor, session_id, page_took: Duration::from_millis(40) });
        self.go_on(number, now);
    }

    /// Schedules what a session does next, or ends it.
    fn go_on(&mut self, number: u64, now: Timestamp) {
        let Some(visit) = self.visits.get_mut(&number) else { return };
        match visit.session.next(&self.shop) {
            Some((pause, action)) => {
                self.due.push(Reverse(Due { at: now.plus(pause), session: number, action }));
            }
            None => {
                self.visits.remove(&number);
            }
        }
    }

    fn act(&mut self, due: &Due) {
        let Some(mut visit) = self.visits.remove(&due.session) else { return };
        if self.is_live {
            self.render(&mut visit, due);
        } else if due.action == Action::Purchase {
            visit.session.order_answered(true);
        }
        self.visits.insert(due.session, visit);
        self.go_on(due.session, due.at);
    }

    fn ask(&mut self, visit: &Visit, route: Route, now: Timestamp) -> Answer {
        let cents = |at: &usize| u64::from(self.shop.products[*at].price_cents);
        let ask = Ask {
            route,
            path: services::path_of(route, &self.shop, visit.session.product, visit.session.number),
            user_agent: visit.visitor.user_agent,
            client_ip: visit.visitor.ip.clone(),
            amount_cents: visit.session.cart.iter().map(cents).sum(),
            items: visit.session.cart.len(),
        };
        self.backend.answer(&ask, now)
    }

    /// Turns an action into requests and events.
    fn render(&mut self, visit: &mut Visit, due: &Due) {
        let product = &self.shop.products[visit.session.product];
        let product_facts = json!({
            "product_id": product.id, "category": product.category, "price": f64::from(product.price_cents) / 100.0,
        });
        let (query, results) = (product.name.to_lowercase(), product.id % 37);
        let now = due.at.plus(self.skipped);
        match due.action {
            Action::Open => {
                let answer = self.ask(visit, route_of(visit.session.page), now);
                visit.page_took = answer.took;
                let mut properties = match visit.session.page {
                    Page::Product => product_facts,
                    Page::Search => json!({"query": query, "results": results}),
                    Page::Cart | Page::Checkout => json!({"items": visit.session.cart.len()}),
                    _ => json!({}),
                };
                properties["trace_id"] = json!(answer.trace_id);
                if let (None, Some(campaign)) = (visit.session.came_from, visit.session.campaign) {
                    properties["utm_campaign"] = json!(campaign);
                }
                self.emit(visit, now, Kind { kind: "pageview", properties: Some(properties), ..Kind::default() });
            }
            Action::Performance => {
                let mut rng = self.fresh_rng(9);
                let slow = visit.visitor.slowness;
                let ttfb = visit.visitor.network_ms + visit.page_took.as_secs_f64() * 1000.0;
                let fcp = ttfb + log_normal(&mut rng, 220.0, 1.5) * slow;
                let lcp = fcp + log_normal(&mut rng, 350.0, 1.7) * slow;
                let kind = Kind {
                    kind: "performance",
                    ttfb_ms: Some(tenth(ttfb)),
                    fcp_ms: Some(tenth(fcp)),
                    lcp_ms: Some(tenth(lcp)),
                    inp_ms: Some(tenth(log_normal(&mut rng, 70.0, 1.8) * slow)),
                    load_ms: Some(tenth(lcp + log_normal(&mut rng, 250.0, 1.5) * slow)),
                    cls: Some((log_normal(&mut rng, 0.03, 2.2) * 1000.0).round() / 1000.0),
                    ..Kind::default()
                };
                self.emit(visit, now, kind);
            }
            Action::Scroll(depth) => {
                let is_broken = mix(self.run_seed, &[10, self.made]).is_multiple_of(BROKEN_SCROLL_EVERY);
                let depth = if is_broken { depth + 250.0 } else { depth };
                self.emit(visit, now, Kind { kind: "scroll", depth: Some(depth), is_broken, ..Kind::default() });
            }
            Action::Click(selector) => {
                let mut rng = self.fresh_rng(11);
                let (width, height) = visit.visitor.viewport;
                let kind = Kind {
                    kind: "click",
                    selector: Some(selector),
                    x: Some(f64::from(rng.random_range(0..width))),
                    y: Some(f64::from(rng.random_range(0..height))),
                    ..Kind::default()
                };
                self.emit(visit, now, kind);
            }
            Action::AddToCart => {
                let answer = self.ask(visit, services::ADD_TO_CART, now);
                let mut properties = product_facts;
                properties["quantity"] = json!(1);
                properties["trace_id"] = json!(answer.trace_id);
                let kind =
                    Kind { kind: "custom", name: Some("add_to_cart"), properties: Some(properties), ..Kind::default() };
                self.emit(visit, now, kind);
            }
            Action::Purchase => self.purchase(visit, now),
            Action::Leave => {}
        }
    }

    fn purchase(&mut self, visit: &mut Visit, now: Timestamp) {
        let answer = self.ask(visit, services::PLACE_ORDER, now);
        let placed = answer.status == 201;
        let cents: u64 = visit.session.cart.iter().map(|at| u64::from(self.shop.products[*at].price_cents)).sum();
        let mut properties = json!({
            "total": cents as f64 / 100.0, "items": visit.session.cart.len(), "currency": "EUR",
            "trace_id": answer.trace_id,
        });
        if placed {
            properties["order_id"] = json!(visit.session.number);
        } else {
            properties["status"] = json!(answer.status);
        }
        let name = if placed { "purchase" } else { "payment_failed" };
        self.emit(
            visit,
            now,
            Kind { kind: "custom", name: Some(name), properties: Some(properties), ..Kind::default() },
        );
        visit.session.order_answered(placed);
    }

    fn fresh_rng(&mut self, purpose: u64) -> ChaCha8Rng {
        rng(mix(self.run_seed, &[purpose, self.made]))
    }

    fn emit(&mut self, visit: &Visit, now: Timestamp, kind: Kind) {
        self.made += 1;
        let mut random = [0; 10];
        rng(mix(self.run_seed, &[6, self.made])).fill(&mut random);
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        let path =
            |page: Page| services::path_of(route_of(page), &self.shop, visit.session.product, visit.session.number);
        let own_path = path(visit.session.page);
        let referrer = match (visit.session.came_from, visit.session.campaign) {
            (Some(page), _) => Some(format!("https://{}{}", self.shop.host, path(page))),
            (None, Some("search-ads")) => Some("https://www.google.com/".to_owned()),
            (None, Some("newsletter")) => Some("https://mail.example/".to_owned()),
            _ => None,
        };
        let (screen, viewport) = (visit.visitor.screen, visit.visitor.viewport);
        let event = Sdk {
            id: uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().hyphenated().to_string(),
            session_id: &visit.session_id,
            user_id: visit.visitor.user_id.as_deref(),
            anonymous_id: &visit.visitor.anonymous_id,
            timestamp: millis,
            url: format!("https://{}{own_path}", self.shop.host),
            path: own_path,
            title: title_of(visit.session.page),
            referrer,
            metadata: Metadata {
                user_agent: visit.visitor.user_agent,
                ip: &visit.visitor.ip,
                screen: format!("{}x{}", screen.0, screen.1),
                viewport: format!("{}x{}", viewport.0, viewport.1),
                timezone: visit.visitor.timezone,
                language: visit.visitor.language,
            },
            what: &kind,
        };
        // Texts and finite numbers only: this cannot fail.
        let json = serde_json::to_string(&event).unwrap_or_default();
        self.events.push(WebEvent { json, is_broken: kind.is_broken });
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn route_of(page: Page) -> Route {
    match page {
        Page::Home => services::HOME,
        Page::Category => services::CATEGORY,
        Page::Search => services::SEARCH,
        Page::Product => services::PRODUCT,
        Page::Cart => services::VIEW_CART,
        Page::Checkout => services::VIEW_CHECKOUT,
        Page::Confirmation => services::VIEW_ORDER,
    }
}

fn title_of(page: Page) -> &'static str {
    match page {
        Page::Home => "Welcome",
        Page::Category => "Browse",
        Page::Search => "Search",
        Page::Product => "Product",
        Page::Cart => "Your cart",
        Page::Checkout => "Checkout",
        Page::Confirmation => "Thank you",
    }
}

/// What differs between kinds of events.
#[derive(Debug, Default, Serialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttfb_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fcp_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lcp_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inp_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cls: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Value>,
    #[serde(skip)]
    is_broken: bool,
}

/// The event as `POST /ingest` takes it.
#[derive(Debug, Serialize)]
struct Sdk<'a> {
    id: String,
    #[serde(flatten)]
    what: &'a Kind,
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    anonymous_id: &'a str,
    timestamp: u64,
    url: String,
    path: String,
    title: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    referrer: Option<String>,
    metadata: Metadata<'a>,
}

#[derive(Debug, Serialize)]
struct Metadata<'a> {
    user_agent: &'a str,
    ip: &'a str,
    screen: String,
    viewport: String,
    timezone: &'a str,
    language: &'a str,
}

/// How many rows one session makes on average, metrics apart: found by letting some run.
pub(super) fn rows_per_session(options: &ShopOptions) -> f64 {
    const SECONDS: u64 = 600;
    let mut traffic = ShopTraffic::new(ShopOptions {
        sessions_per_second: 1.0,
        has_rhythm: false,
        incident: None,
        ..options.clone()
    });
    let before = traffic.sessions;
    traffic.advance(options.start.plus(Duration::from_secs(SECONDS)));
    let sessions = traffic.sessions - before;
    (traffic.events.len() + traffic.backend.waiting()) as f64 / sessions.max(1) as f64
}
