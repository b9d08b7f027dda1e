//! The services behind a shop: every request becomes a trace, log lines that carry its ids, and
//! counts in the metrics, all of one and the same happening.
//!
//! Invariant: each span of kind server is counted exactly once in its service's
//! `http.server.request.duration`, and each request of the gateway writes exactly one access line.

use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, KeyValueList, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use weir_base::Timestamp;

use super::Incident;
use super::measures::Measures;
use super::world::{Shop, log_normal, mix, pick, rng};

/// A service of the shop.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) language: &'static str,
    pub(super) version: &'static str,
    /// Whether it exports over gRPC; the others use HTTP with protobuf.
    pub(super) uses_grpc: bool,
}

pub(super) const SERVICES: [Service; 6] = [
    Service { name: "gateway", language: "go", version: "2.14.0", uses_grpc: true },
    Service { name: "catalog", language: "java", version: "5.3.1", uses_grpc: false },
    Service { name: "cart", language: "nodejs", version: "1.9.4", uses_grpc: false },
    Service { name: "checkout", language: "java", version: "3.7.0", uses_grpc: true },
    Service { name: "payments", language: "python", version: "4.0.2", uses_grpc: false },
    Service { name: "inventory", language: "rust", version: "0.8.6", uses_grpc: true },
];

pub(super) const GATEWAY: usize = 0;
pub(super) const CATALOG: usize = 1;
pub(super) const CART: usize = 2;
pub(super) const CHECKOUT: usize = 3;
pub(super) const PAYMENTS: usize = 4;
pub(super) const INVENTORY: usize = 5;

/// A route of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    pub(super) service: usize,
    pub(super) method: &'static str,
    pub(super) template: &'static str,
}

const fn route(service: usize, method: &'static str, template: &'static str) -> Route {
    Route { service, method, template }
}

pub(super) const HOME: Route = route(GATEWAY, "GET", "/");
pub(super) const CATEGORY: Route = route(GATEWAY, "GET", "/categories/{category}");
pub(super) const SEARCH: Route = route(GATEWAY, "GET", "/search");
pub(super) const PRODUCT: Route = route(GATEWAY, "GET", "/products/{id}");
pub(super) const VIEW_CART: Route = route(GATEWAY, "GET", "/cart");
pub(super) const ADD_TO_CART: Route = route(GATEWAY, "POST", "/cart/items");
pub(super) const VIEW_CHECKOUT: Route = route(GATEWAY, "GET", "/checkout");
pub(super) const PLACE_ORDER: Route = route(GATEWAY, "POST", "/checkout");
pub(super) const VIEW_ORDER: Route = route(GATEWAY, "GET", "/orders/{id}");

const CATALOG_FEATURED: Route = route(CATALOG, "GET", "/featured");
const CATALOG_LIST: Route = route(CATALOG, "GET", "/products");
const CATALOG_SEARCH: Route = route(CATALOG, "GET", "/search");
const CATALOG_PRODUCT: Route = route(CATALOG, "GET", "/products/{id}");
const CART_GET: Route = route(CART, "GET", "/carts/{id}");
const CART_ADD: Route = route(CART, "POST", "/carts/{id}/items");
const STOCK: Route = route(INVENTORY, "GET", "/stock/{id}");
const RESERVE: Route = route(INVENTORY, "POST", "/reservations");
const ORDER: Route = route(CHECKOUT, "POST", "/orders");
const ORDER_GET: Route = route(CHECKOUT, "GET", "/orders/{id}");
const CHARGE: Route = route(PAYMENTS, "POST", "/charges");

/// What a route does, one after the other.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// Thinks, for a median of so many milliseconds.
    Compute(f64),
    /// Asks a database.
    Query { system: &'static str, statement: &'static str, table: &'static str, median_ms: f64 },
    /// Calls another route; its failure is the caller's.
    Call(Route),
    /// Asks the provider of card payments, outside.
    Provider,
    /// Hands a message to whoever ships.
    Ship,
}

const fn query(statement: &'static str, table: &'static str, median_ms: f64) -> Work {
    Work::Query { system: "postgresql", statement, table, median_ms }
}

const fn redis(statement: &'static str) -> Work {
    Work::Query { system: "redis", statement, table: "carts", median_ms: 0.4 }
}

fn work_of(route: Route) -> &'static [Work] {
    match route {
        HOME => &[Work::Compute(1.2), Work::Call(CATALOG_FEATURED)],
        CATEGORY => &[Work::Call(CATALOG_LIST)],
        SEARCH => &[Work::Compute(0.5), Work::Call(CATALOG_SEARCH)],
        PRODUCT => &[Work::Call(CATALOG_PRODUCT), Work::Call(STOCK)],
        VIEW_CART | VIEW_CHECKOUT => &[Work::Call(CART_GET), Work::Compute(1.0)],
        ADD_TO_CART => &[Work::Call(CART_ADD)],
        PLACE_ORDER => &[Work::Compute(0.8), Work::Call(ORDER)],
        VIEW_ORDER => &[Work::Call(ORDER_GET)],
        CATALOG_FEATURED => &[Work::Compute(2.0)],
        CATALOG_LIST => {
            &[const { query("SELECT id, name, price FROM products WHERE category = $1 LIMIT 24", "products", 5.0) }]
        }
        CATALOG_SEARCH => {
            &[const { query("SELECT id, name FROM products WHERE tsv @@ to_tsquery($1) LIMIT 24", "products", 18.0) }]
        }
        CATALOG_PRODUCT => &[const { query("SELECT * FROM products WHERE id = $1", "products", 2.0) }],
        CART_GET => &[const { redis("HGETALL") }],
        CART_ADD => &[const { redis("HSET") }, const { redis("EXPIRE") }],
        STOCK => &[const { query("SELECT available FROM stock WHERE product_id = $1", "stock", 1.2) }],
        RESERVE => {
            &[const { query("UPDATE stock SET available = available - $1 WHERE product_id = $2", "stock", 3.0) }]
        }
        ORDER => &[
            Work::Call(RESERVE),
            Work::Call(CHARGE),
            const { query("INSERT INTO orders (id, cart, total) VALUES ($1, $2, $3)", "orders", 3.5) },
            Work::Ship,
        ],
        ORDER_GET => &[const { query("SELECT * FROM orders WHERE id = $1", "orders", 1.6) }],
        CHARGE => &[
            Work::Compute(1.5),
            Work::Provider,
            const { query("INSERT INTO charges (id, amount) VALUES ($1, $2)", "charges", 2.2) },
        ],
        _ => &[],
    }
}

/// What a visitor asks the shop for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) route: Route,
    /// The path as asked for.
    pub(super) path: String,
    pub(super) user_agent: &'static str,
    pub(super) client_ip: String,
    /// The sum of the order, where there is one.
    pub(super) amount_cents: u64,
    pub(super) items: usize,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) took: Duration,
    pub(super) trace_id: String,
}

/// The services of one shop, with what they have to export.
#[derive(Debug)]
pub(super) struct Backend {
    /// Spans by service.
    pub(super) spans: [Vec<Span>; SERVICES.len()],
    /// Log records by service.
    pub(super) logs: [Vec<LogRecord>; SERVICES.len()],
    pub(super) measures: Measures,
    seed: u64,
    requests: u64,
    /// The incident's beginning and end.
    incident: Option<(Timestamp, Timestamp)>,
}

pub(super) fn text(value: impl Into<String>) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(value.into())) }
}

pub(super) fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

pub(super) fn attribute(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, text(value))
}

pub(super) fn int_attribute(key: &str, value: i64) -> KeyValue {
    pair(key, AnyValue { value: Some(any_value::Value::IntValue(value)) })
}

fn float_attribute(key: &str, value: f64) -> KeyValue {
    pair(key, AnyValue { value: Some(any_value::Value::DoubleValue(value)) })
}

impl Backend {
    /// `seed` is one of this run, since ids of traces must not repeat between runs.
    pub(super) fn new(seed: u64, start: Timestamp, incident: Option<Incident>) -> Self {
        let incident = incident.map(|incident| {
            let begin = start.plus(incident.start);
            (begin, begin.plus(incident.duration))
        });
        Self {
            spans: Default::default(),
            logs: Default::default(),
            measures: Measures::new(start),
            seed,
            requests: 0,
            incident,
        }
    }

    /// Whether the payment provider is in trouble.
    fn is_troubled(&self, time: Timestamp) -> bool {
        self.incident.is_some_and(|(begin, end)| time >= begin && time < end)
    }

    /// Answers a request whose answer arrives at `ended`.
    pub(super) fn answer(&mut self, ask: &Ask, ended: Timestamp) -> Answer {
        self.requests += 1;
        let mut rng = rng(mix(self.seed, &[4, self.requests]));
        let trace_id: u128 = rng.random();
        let mut trace = Trace {
            trace_id: trace_id.to_be_bytes().to_vec(),
            troubled: self.is_troubled(ended),
            ask,
            rng,
            now_ns: 0,
            spans: Vec::new(),
            logs: Vec::new(),
            counted: Vec::new(),
            order: trace_id as u32 % 9_000_000 + 1_000_000,
        };
        let (status, _) = trace.serve(ask.route, Vec::new());
        let took_ns = trace.now_ns;
        // Times were counted from the beginning; what matters is when the answer was there.
        let begun = u64::try_from(ended.0).unwrap_or(0).saturating_sub(took_ns);
        for (service, mut span) in trace.spans {
            span.start_time_unix_nano += begun;
            span.end_time_unix_nano += begun;
            for event in &mut span.events {
                event.time_unix_nano += begun;
            }
            self.spans[service].push(span);
        }
        for (service, mut record) in trace.logs {
            record.time_unix_nano += begun;
            record.observed_time_unix_nano = record.time_unix_nano + 50_000;
            self.logs[service].push(record);
        }
        for counted in trace.counted {
            let time = Timestamp(i64::try_from(begun + counted.end_ns).unwrap_or(i64::MAX));
            self.measures.count_request(
                counted.route,
                counted.status,
                counted.took_ns,
                time,
                &trace.trace_id,
                &counted.span_id,
            );
        }
        if ask.route == PLACE_ORDER {
            self.measures.count_order(status, ask.amount_cents);
        }
        Answer { status, took: Duration::from_nanos(took_ns), trace_id: format!("{trace_id:032x}") }
    }

    /// How many spans and log records wait to be exported.
    pub(super) fn waiting(&self) -> usize {
        self.spans.iter().map(Vec::len).sum::<usize>() + self.logs.iter().map(Vec::len).sum::<usize>()
    }
}

/// A server span that ended, for the metrics.
struct Counted {
    route: Route,
    status: u16,
    took_ns: u64,
    end_ns: u64,
    span_id: Vec<u8>,
}

/// One request on its way through the services. Time is counted from its beginning.
struct Trace<'a> {
    trace_id: Vec<u8>,
    troubled: bool,
    ask: &'a Ask,
    rng: ChaCha8Rng,
    now_ns: u64,
    spans: Vec<(usize, Span)>,
    logs: Vec<(usize, LogRecord)>,
    counted: Vec<Counted>,
    order: u32,
}

impl Trace<'_> {
    fn wait(&mut self, median_ms: f64) {
        let millis = log_normal(&mut self.rng, median_ms, 1.6).clamp(0.01, 60_000.0);
        self.now_ns += (millis * 1e6) as u64;
    }

    fn open(&mut self, service: usize, name: String, kind: SpanKind, parent: Vec<u8>) -> (usize, Span) {
        let span_id: u64 = self.rng.random();
        let span = Span {
            trace_id: self.trace_id.clone(),
            span_id: span_id.to_be_bytes().to_vec(),
            parent_span_id: parent,
            name,
            kind: kind as i32,
            start_time_unix_nano: self.now_ns,
            flags: 1,
            ..Span::default()
        };
        (service, span)
    }

    fn close(&mut self, (service, mut span): (usize, Span), error: Option<&str>) {
        span.end_time_unix_nano = self.now_ns;
        if let Some(message) = error {
            span.status = Some(Status { message: message.to_owned(), code: StatusCode::Error as i32 });
        }
        self.spans.push((service, span));
    }

    fn log(
        &mut self,
        service: usize,
        severity: SeverityNumber,
        span_id: &[u8],
        body: AnyValue,
        attributes: Vec<KeyValue>,
    ) {
        let text = match severity {
            SeverityNumber::Debug => "DEBUG",
            SeverityNumber::Warn => "WARN",
            SeverityNumber::Error => "ERROR",
            _ => "INFO",
        };
        let record = LogRecord {
            time_unix_nano: self.now_ns,
            severity_number: severity as i32,
            severity_text: text.to_owned(),
            body: Some(body),
            attributes,
            flags: 1,
            trace_id: self.trace_id.clone(),
            span_id: span_id.to_vec(),
            ..LogRecord::default()
        };
        self.logs.push((service, record));
    }

    /// A request at its server: the status, and what went wrong if the server is to blame.
    fn serve(&mut self, route: Route, parent: Vec<u8>) -> (u16, Option<&'static str>) {
        let begun = self.now_ns;
        let mut open =
            self.open(route.service, format!("{} {}", route.method, route.template), SpanKind::Server, parent);
        let span_id = open.1.span_id.clone();
        self.wait(0.3);
        let (mut status, mut error) = (if route.method == "POST" { 201 } else { 200 }, None);
        for work in work_of(route) {
            (status, error) = match self.work(*work, route, &span_id) {
                (0, _) => continue,
                failed => failed,
            };
            break;
        }
        self.wait(0.2);
        open.1.attributes = vec![
            attribute("http.request.method", route.method),
            attribute("http.route", route.template),
            int_attribute("http.response.status_code", i64::from(status)),
            attribute("url.scheme", "https"),
        ];
        if route.service == GATEWAY {
            open.1.attributes.push(attribute("url.path", self.ask.path.as_str()));
            open.1.attributes.push(attribute("user_agent.original", self.ask.user_agent));
            open.1.attributes.push(attribute("client.address", self.ask.client_ip.as_str()));
        }
        if let Some(error) = error {
            open.1.events.push(Event {
                time_unix_nano: self.now_ns,
                name: "exception".to_owned(),
                attributes: vec![attribute("exception.type", "UpstreamError"), attribute("exception.message", error)],
                dropped_attributes_count: 0,
            });
        }
        self.note(route, status, error, &span_id, self.now_ns - begun);
        self.counted.push(Counted { route, status, took_ns: self.now_ns - begun, end_ns: self.now_ns, span_id });
        self.close(open, error);
        (status, error)
    }

    /// The log lines of a request.
    fn note(&mut self, route: Route, status: u16, error: Option<&'static str>, span_id: &[u8], took_ns: u64) {
        let took_ms = took_ns as f64 / 1e6;
        if route.service == GATEWAY {
            let severity = if status >= 500 { SeverityNumber::Error } else { SeverityNumber::Info };
            let body = format!("{} {} {status} {took_ms:.1}ms", route.method, self.ask.path);
            let attributes = vec![
                attribute("http.request.method", route.method),
                attribute("http.route", route.template),
                int_attribute("http.response.status_code", i64::from(status)),
                float_attribute("duration_ms", (took_ms * 1000.0).round() / 1000.0),
                attribute("client.address", self.ask.client_ip.as_str()),
            ];
            return self.log(route.service, severity, span_id, text(body), attributes);
        }
        if let Some(error) = error {
            let attributes = vec![
                attribute("exception.type", "UpstreamError"),
                attribute("exception.message", error),
                attribute("http.route", route.template),
            ];
            return self.log(route.service, SeverityNumber::Error, span_id, text(error), attributes);
        }
        let amount = self.ask.amount_cents as f64 / 100.0;
        match route {
            ORDER if status == 201 => {
                let body = format!("order {} placed: {} items, {amount:.2} EUR", self.order, self.ask.items);
                let attributes = vec![
                    int_attribute("order.id", i64::from(self.order)),
                    int_attribute("order.items", self.ask.items as i64),
                    float_attribute("order.total", amount),
                ];
                self.log(CHECKOUT, SeverityNumber::Info, span_id, text(body), attributes);
            }
            CHARGE if status == 402 => {
                let body = format!("charge of {amount:.2} EUR declined: insufficient funds");
                let attributes =
                    vec![attribute("charge.outcome", "declined"), float_attribute("charge.amount", amount)];
                self.log(PAYMENTS, SeverityNumber::Warn, span_id, text(body), attributes);
            }
            RESERVE => {
                // Structured, as some libraries send it.
                let values = vec![attribute("event", "reserved"), int_attribute("items", self.ask.items as i64)];
                let body = AnyValue { value: Some(any_value::Value::KvlistValue(KeyValueList { values })) };
                self.log(INVENTORY, SeverityNumber::Info, span_id, body, Vec::new());
            }
            CATALOG_PRODUCT if self.rng.random_bool(0.3) => {
                let body = format!("cache miss for {}", self.ask.path);
                self.log(CATALOG, SeverityNumber::Debug, span_id, text(body), vec![attribute("cache", "products")]);
            }
            _ => {}
        }
    }

    /// One piece of work: status 0 if it went well.
    fn work(&mut self, work: Work, route: Route, parent: &[u8]) -> (u16, Option<&'static str>) {
        match work {
            Work::Compute(median_ms) => {
                self.wait(median_ms);
                (0, None)
            }
            Work::Query { system, statement, table, median_ms } => {
                let verb = statement.split(' ').next().unwrap_or_default();
                let mut open = self.open(route.service, format!("{verb} {table}"), SpanKind::Client, parent.to_vec());
                open.1.attributes = vec![
                    attribute("db.system.name", system),
                    attribute("db.query.text", statement),
                    attribute("db.collection.name", table),
                ];
                self.wait(median_ms);
                if self.rng.random_bool(0.0003) {
                    self.wait(800.0);
                    self.close(open, Some("canceling statement due to statement timeout"));
                    return (500, Some("database did not answer in time"));
                }
                self.close(open, None);
                (0, None)
            }
            Work::Call(callee) => {
                let name = format!("{} {}", callee.method, SERVICES[callee.service].name);
                let mut open = self.open(route.service, name, SpanKind::Client, parent.to_vec());
                let span_id = open.1.span_id.clone();
                self.wait(0.3);
                let (status, error) = self.serve(callee, span_id);
                self.wait(0.3);
                open.1.attributes = vec![
                    attribute("http.request.method", callee.method),
                    attribute("server.address", SERVICES[callee.service].name),
                    int_attribute("http.response.status_code", i64::from(status)),
                ];
                self.close(open, error);
                match status {
                    200..400 => (0, None),
                    402 => (402, None),
                    _ => (502, error),
                }
            }
            Work::Provider => self.charge(parent),
            Work::Ship => {
                self.ship(parent);
                (0, None)
            }
        }
    }

    /// The card payment: declined now and then, slow and failing in the incident.
    fn charge(&mut self, parent: &[u8]) -> (u16, Option<&'static str>) {
        let mut open = self.open(PAYMENTS, "POST /v1/charges".to_owned(), SpanKind::Client, parent.to_vec());
        self.wait(if self.troubled { 1500.0 } else { 110.0 });
        let outcome = if self.troubled {
            *pick(&mut self.rng, &[(45, 504), (53, 200), (2, 402)])
        } else {
            *pick(&mut self.rng, &[(2, 504), (958, 200), (40, 402)])
        };
        let (answer, error) = match outcome {
            504 => {
                self.now_ns += 3_000_000_000;
                ((504, Some("payment provider timed out")), Some("deadline exceeded"))
            }
            402 => ((402, None), None),
            _ => ((0, None), None),
        };
        open.1.attributes = vec![
            attribute("server.address", "api.cardprovider.example"),
            int_attribute("http.response.status_code", outcome),
            float_attribute("charge.amount", self.ask.amount_cents as f64 / 100.0),
        ];
        self.close(open, error);
        answer
    }

    /// Hands the order to those who ship it: a message, and a trace of its own linked to this one.
    fn ship(&mut self, parent: &[u8]) {
        let mut open = self.open(CHECKOUT, "send orders".to_owned(), SpanKind::Producer, parent.to_vec());
        let sent_by = open.1.span_id.clone();
        self.wait(1.0);
        open.1.attributes = vec![
            attribute("messaging.system", "kafka"),
            attribute("messaging.destination.name", "orders"),
            attribute("messaging.operation.type", "send"),
        ];
        self.close(open, None);

        let own: u128 = self.rng.random();
        let mut consumer = self.open(INVENTORY, "process orders".to_owned(), SpanKind::Consumer, Vec::new());
        let begun = consumer.1.start_time_unix_nano;
        consumer.1.trace_id = own.to_be_bytes().to_vec();
        consumer.1.links =
            vec![Link { trace_id: self.trace_id.clone(), span_id: sent_by, flags: 1, ..Link::default() }];
        consumer.1.attributes = vec![
            attribute("messaging.system", "kafka"),
            attribute("messaging.destination.name", "orders"),
            attribute("messaging.operation.type", "process"),
        ];
        consumer.1.end_time_unix_nano = begun + self.rng.random_range(2_000_000..20_000_000);
        self.spans.push(consumer);
    }
}

/// The path a visitor's browser asks for.
pub(super) fn path_of(route: Route, shop: &Shop, product: usize, order: u64) -> String {
    let product = &shop.products[product % shop.products.len()];
    match route {
        CATEGORY => format!("/categories/{}", product.category),
        PRODUCT => format!("/products/{}", product.id),
        VIEW_ORDER => format!("/orders/{order}"),
        other => other.template.to_owned(),
    }
}
