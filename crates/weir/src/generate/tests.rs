#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::Value;
use weir_base::{Clock, Timestamp, shutdown::Shutdown};
use weir_codecs::RowContext;
use weir_codecs::inflate::{Encoding, decompress};

use super::courier::Courier;
use super::parcel::{Parcel, Protocol, Signal, pack, pack_metrics};
use super::services::{GATEWAY, PAYMENTS, SERVICES};
use super::shop::{ShopOptions, ShopTraffic};
use super::world::Shop;
use super::{GenerateOptions, Incident, Run, Target, open_shops};

const START: Timestamp = Timestamp(1_700_049_600_000_000_000);

fn options() -> ShopOptions {
    ShopOptions {
        tenant: "acme".to_owned(),
        number: 0,
        tenants: 1,
        seed: 7,
        start: START,
        sessions_per_second: 2.0,
        has_rhythm: true,
        incident: None,
    }
}

fn after(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn lived(options: ShopOptions, seconds: u64) -> ShopTraffic {
    let mut traffic = ShopTraffic::new(options);
    traffic.advance(after(seconds));
    traffic
}

fn events_of(traffic: &ShopTraffic) -> Vec<Value> {
    traffic.events.iter().map(|event| serde_json::from_str(&event.json).unwrap()).collect()
}

fn count(events: &[Value], wanted: impl Fn(&Value) -> bool) -> usize {
    events.iter().filter(|event| wanted(event)).count()
}

#[test]
fn the_same_seed_and_start_make_the_same_requests() {
    let parcels = |options: ShopOptions| -> Vec<Bytes> {
        let mut traffic = lived(options, 30);
        let mut parcels = pack(0, &mut traffic);
        parcels.extend(pack_metrics(0, &mut traffic, after(30)));
        parcels.into_iter().map(|parcel| parcel.body).collect()
    };
    let first = parcels(options());
    assert!(first.len() > 10);
    assert_eq!(first, parcels(options()));
    assert_ne!(first, parcels(ShopOptions { seed: 8, ..options() }));
}

/// Time given in small steps or at once makes the same rows.
#[test]
fn steps_do_not_matter() {
    let mut small = ShopTraffic::new(options());
    for step in 1..=200 {
        small.advance(START.plus(Duration::from_millis(step * 100)));
    }
    assert_eq!(events_of(&small), events_of(&lived(options(), 20)));
}

/// Another run has the same people, but not the same events.
#[test]
fn visitors_return_and_ids_do_not() {
    let column = |traffic: &ShopTraffic, name: &str| -> BTreeSet<String> {
        events_of(traffic).iter().map(|event| event[name].as_str().unwrap().to_owned()).collect()
    };
    let first = lived(options(), 120);
    let second = lived(ShopOptions { start: START.plus(Duration::from_secs(3600)), ..options() }, 120 + 3600);
    let both = |name: &str| column(&first, name).intersection(&column(&second, name)).count();
    assert!(both("anonymous_id") > 10);
    assert_eq!((both("id"), both("session_id")), (0, 0));
    let events = events_of(&first);
    assert_eq!(column(&first, "id").len(), events.len());
}

#[test]
fn fewer_people_reach_every_next_step_of_the_funnel() {
    let events = events_of(&lived(options(), 600));
    let sessions = |wanted: &dyn Fn(&Value) -> bool| -> usize {
        let sessions: BTreeSet<&str> =
            events.iter().filter(|event| wanted(event)).map(|event| event["session_id"].as_str().unwrap()).collect();
        sessions.len()
    };
    let page = |prefix: &'static str| {
        sessions(&move |event: &Value| {
            event["type"] == "pageview" && event["path"].as_str().unwrap().starts_with(prefix)
        })
    };
    let named = |name: &'static str| sessions(&move |event: &Value| event["name"] == name);
    let funnel = [sessions(&|_| true), page("/products/"), named("add_to_cart"), page("/checkout"), named("purchase")];
    assert!(funnel.windows(2).all(|step| step[0] > step[1]), "{funnel:?}");
    assert!(funnel[4] * 100 > funnel[0] && funnel[4] * 12 < funnel[0], "{funnel:?}");
    for kind in ["pageview", "click", "scroll", "performance", "custom"] {
        assert!(count(&events, |event| event["type"] == kind) > 50, "{kind}");
    }
    let bots = count(&events, |event| event["metadata"]["user_agent"].as_str().unwrap().contains("bot"));
    assert!(bots > 100 && bots < events.len() / 2, "{bots} of {}", events.len());
}

/// The server's own decoder takes every event but those broken on purpose.
#[test]
fn events_are_what_the_server_takes() {
    let mut traffic = lived(options(), 400);
    let context = RowContext {
        tenant: "acme",
        received_at: after(400),
        client_ip: None,
        user_agent: None,
        rows_max: 1000,
        row_bytes_max: 64 << 10,
        value_bytes_max: 8 << 10,
        decoded_bytes_max: 64 << 20,
    };
    let mut broken = 0;
    for parcel in pack(0, &mut traffic).iter().filter(|parcel| parcel.protocol == Protocol::Ingest) {
        let decoded = weir_codecs::events::decode(&parcel.body, &context).unwrap();
        assert_eq!(decoded.received as u64, parcel.rows);
        assert_eq!(decoded.rejects.len() as u64, parcel.broken, "{:?}", decoded.rejects);
        assert!(decoded.rejects.iter().all(|reject| reject.field == "/depth"));
        let batch = &decoded.batches[0].batch;
        assert!(batch.column_by_name("time_flag").is_none());
        broken += parcel.broken;
    }
    assert!(broken > 0);
}

/// Spans, log lines, metrics and events tell the same story.
#[test]
fn signals_agree() {
    let mut traffic = lived(ShopOptions { sessions_per_second: 5.0, ..options() }, 120);
    let events = events_of(&traffic);
    let spans: Vec<(usize, Span)> = traffic
        .backend
        .spans
        .iter()
        .enumerate()
        .flat_map(|(at, spans)| spans.iter().map(move |span| (at, span.clone())))
        .collect();
    let by_id: HashMap<&[u8], &Span> = spans.iter().map(|(_, span)| (&*span.span_id, span)).collect();
    assert_eq!(by_id.len(), spans.len());
    for (_, span) in &spans {
        assert!(span.start_time_unix_nano < span.end_time_unix_nano);
        if !span.parent_span_id.is_empty() {
            let parent = by_id[&*span.parent_span_id];
            assert_eq!(parent.trace_id, span.trace_id);
            assert!(parent.start_time_unix_nano <= span.start_time_unix_nano);
            assert!(parent.end_time_unix_nano >= span.end_time_unix_nano);
        }
    }
    let traces: BTreeSet<&[u8]> = spans.iter().map(|(_, span)| &*span.trace_id).collect();

    // Log lines point to spans of their own service.
    let mut access_lines = 0;
    for (service, records) in traffic.backend.logs.iter().enumerate() {
        for record in records {
            let span = by_id[&*record.span_id];
            assert_eq!(span.trace_id, record.trace_id);
            assert!((span.start_time_unix_nano..=span.end_time_unix_nano).contains(&record.time_unix_nano));
            access_lines += usize::from(service == GATEWAY);
        }
    }

    // Metrics count each server span once.
    let served = |service: usize| {
        spans.iter().filter(|(at, span)| *at == service && span.kind == SpanKind::Server as i32).count() as u64
    };
    assert_eq!(access_lines as u64, served(GATEWAY));
    let mut counted = BTreeMap::new();
    let mut orders = BTreeMap::new();
    for (service, metrics, rows) in traffic.backend.measures.export(after(120)) {
        let mut points = 0;
        for metric in metrics {
            match metric.data.unwrap() {
                Data::Histogram(histogram) => {
                    points += histogram.data_points.len();
                    for point in histogram.data_points {
                        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                        assert!(traces.contains(&*point.exemplars[0].trace_id));
                        *counted.entry(service).or_insert(0) += point.count;
                    }
                }
                Data::Sum(sum) => {
                    points += sum.data_points.len();
                    for point in sum.data_points.iter().filter(|_| metric.name == "shop.orders") {
                        let Some(number_data_point::Value::AsInt(count)) = point.value else { panic!("an integer") };
                        orders.insert(format!("{:?}", point.attributes[0].value), count);
                    }
                }
                Data::ExponentialHistogram(histogram) => points += histogram.data_points.len(),
                Data::Gauge(gauge) => points += gauge.data_points.len(),
                Data::Summary(_) => panic!("none is made"),
            }
        }
        assert_eq!(points as u64, rows, "{}", SERVICES[service].name);
    }
    for (at, service) in SERVICES.iter().enumerate() {
        assert_eq!(counted.get(&at).copied().unwrap_or(0), served(at), "{}", service.name);
    }

    // Orders of visitors are orders of the checkout.
    let placed: i64 = orders.iter().filter(|(outcome, _)| outcome.contains("placed")).map(|(_, count)| count).sum();
    let tried: i64 = orders.values().sum();
    assert_eq!(placed as usize, count(&events, |event| event["name"] == "purchase"));
    assert_eq!((tried - placed) as usize, count(&events, |event| event["name"] == "payment_failed"));
    assert!(placed > 3);
    for event in events.iter().filter(|event| event["type"] == "pageview") {
        let id = u128::from_str_radix(event["properties"]["trace_id"].as_str().unwrap(), 16).unwrap().to_be_bytes();
        assert!(traces.contains(&id[..]));
    }
}

#[test]
fn an_incident_raises_errors_and_latency_of_payments() {
    let incident = Incident { start: Duration::from_secs(100), duration: Duration::from_secs(100) };
    let traffic = lived(ShopOptions { sessions_per_second: 5.0, incident: Some(incident), ..options() }, 300);
    let payments = |from: u64, to: u64| {
        let spans: Vec<&Span> = traffic.backend.spans[PAYMENTS]
            .iter()
            .filter(|span| span.kind == SpanKind::Server as i32)
            .filter(|span| (after(from).0..after(to).0).contains(&(span.end_time_unix_nano as i64)))
            .collect();
        let errors = spans.iter().filter(|span| span.status.as_ref().is_some_and(|status| status.code == 2)).count();
        let mut took: Vec<u64> = spans.iter().map(|span| span.end_time_unix_nano - span.start_time_unix_nano).collect();
        took.sort_unstable();
        (errors as f64 / spans.len() as f64, took[took.len() / 2] / 1_000_000)
    };
    // The last answers of the incident arrive seconds after its end.
    let (before, during, later) = (payments(0, 100), payments(101, 199), payments(206, 300));
    assert!(before.0 < 0.05 && later.0 < 0.05 && during.0 > 0.3, "{before:?} {during:?} {later:?}");
    assert!(during.1 > 5 * before.1 && later.1 < 2 * before.1, "{before:?} {during:?} {later:?}");
}

#[test]
fn days_have_a_rhythm_and_shops_their_own_hour() {
    let shop = |number: usize| Shop::new(1, "t", number, 3);
    let hours = |shop: &Shop| -> Vec<f64> { (0..24).map(|hour| shop.rhythm(after(hour * 3600))).collect() };
    let first = hours(&shop(0));
    let mean = first.iter().sum::<f64>() / 24.0;
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
    assert!(first.iter().all(|busy| (0.2..2.0).contains(busy)));
    let (quiet, busy) = (first.iter().copied().fold(9.0, f64::min), first.iter().copied().fold(0.0, f64::max));
    assert!(busy > 2.5 * quiet);
    let second = hours(&shop(1));
    assert!((0..24).all(|hour| (second[hour] - first[(hour + 8) % 24]).abs() < 1e-6));
}

#[test]
fn the_rate_is_kept() {
    for (tenants, rate) in [(1, 200.0), (3, 400.0)] {
        let options = generate_options("http://127.0.0.1:1", tenants, rate);
        let mut shops = open_shops(&options, START);
        let mut rows = 0;
        for (target, shop) in shops.iter_mut().enumerate() {
            shop.advance(after(30));
            rows += pack(target, shop).iter().map(|parcel| parcel.rows).sum::<u64>();
        }
        let made = rows as f64 / 30.0;
        assert!((made / rate - 1.0).abs() < 0.25, "{made} instead of {rate}");
    }
}

fn generate_options(url: &str, tenants: usize, rate: f64) -> GenerateOptions {
    let target = |number: usize| Target { tenant: format!("demo-{number}"), key: format!("key-{number}") };
    GenerateOptions {
        targets: (0..tenants).map(target).collect(),
        http_url: url.to_owned(),
        otlp_http_url: url.to_owned(),
        otlp_grpc_url: url.to_owned(),
        ca_file: None,
        rate,
        duration: Some(Duration::from_secs(4)),
        seed: 1,
        incident: None,
        quiet: true,
    }
}

/// A monotonic clock that runs ahead by 200 ms whenever it is read, so that nothing waits long.
#[derive(Debug, Default)]
struct HastyClock(AtomicU64);

impl Clock for HastyClock {
    fn now(&self) -> Timestamp {
        START
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(200 * self.0.fetch_add(1, Ordering::SeqCst))
    }
}

/// What a server of the tests saw and how it misbehaves.
#[derive(Debug, Default)]
struct Seen {
    /// Rows taken by protocol, once for every idempotency key.
    rows: BTreeMap<String, u64>,
    keys: BTreeMap<String, u64>,
    requests: u64,
    /// Refuse every second request for now.
    is_busy: bool,
    /// Count one row too few.
    miscounts: bool,
    /// Say that one log record was refused.
    refuses_a_record: bool,
    /// Know no key.
    forbids: bool,
}

type Reply = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

fn reply(status: u16, body: impl Into<Bytes>, headers: &[(&'static str, &'static str)]) -> Reply {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

fn grpc_reply(message: Option<Vec<u8>>, status: &'static str) -> Reply {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    let mut frames = Vec::new();
    if let Some(message) = message {
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        frames.push(Ok(Frame::data(Bytes::from(framed))));
    }
    frames.push(Ok(Frame::trailers(trailers)));
    Response::new(StreamBody::new(futures::stream::iter(frames)).boxed())
}

fn otlp_rows(path: &str, message: &[u8]) -> u64 {
    let path = path.to_lowercase();
    let rows: usize = if path.contains("logs") {
        let request = ExportLogsServiceRequest::decode(message).unwrap();
        request.resource_logs.iter().flat_map(|one| &one.scope_logs).map(|one| one.log_records.len()).sum()
    } else if path.contains("trace") {
        let request = ExportTraceServiceRequest::decode(message).unwrap();
        request.resource_spans.iter().flat_map(|one| &one.scope_spans).map(|one| one.spans.len()).sum()
    } else {
        let request = ExportMetricsServiceRequest::decode(message).unwrap();
        let metrics = request.resource_metrics.iter().flat_map(|one| &one.scope_metrics).flat_map(|one| &one.metrics);
        metrics
            .map(|metric| match metric.data.as_ref().unwrap() {
                Data::Gauge(data) => data.data_points.len(),
                Data::Sum(data) => data.data_points.len(),
                Data::Histogram(data) => data.data_points.len(),
                Data::ExponentialHistogram(data) => data.data_points.len(),
                Data::Summary(data) => data.data_points.len(),
            })
            .sum()
    };
    rows as u64
}

async fn answer(request: Request<Incoming>, seen: Arc<Mutex<Seen>>) -> Result<Reply, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| head.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let path = head.uri.path().to_owned();
    let is_grpc = header("content-type") == "application/grpc";
    let mut seen = seen.lock().unwrap();
    seen.requests += 1;
    assert!(header("authorization").starts_with("Bearer key-"));
    let key = header("idempotency-key");
    let tries = seen.keys.entry(key).or_default();
    *tries += 1;
    let tries = *tries;
    if seen.forbids {
        return Ok(if is_grpc { grpc_reply(None, "16") } else { reply(401, "unknown key", &[]) });
    }
    if seen.is_busy && tries == 1 {
        return Ok(match (is_grpc, seen.requests % 2) {
            (true, _) => {
                let mut reply = grpc_reply(None, "14");
                reply.headers_mut().insert("retry-after", "0".parse().unwrap());
                reply
            }
            (false, 0) => reply(429, "slow down", &[("retry-after", "0")]),
            (false, _) => reply(503, "later", &[("retry-after", "0")]),
        });
    }
    let (rows, broken) = if path == "/ingest" {
        assert_eq!(header("content-type"), "application/json");
        let body: Value = serde_json::from_slice(&body).unwrap();
        let events = body["events"].as_array().unwrap();
        let broken = count(events, |event| event["depth"].as_f64().is_some_and(|depth| depth > 100.0));
        (events.len() as u64, broken as u64)
    } else if is_grpc {
        assert_eq!((header("te"), body[0]), ("trailers".to_owned(), 0));
        assert_eq!(u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize, body.len() - 5);
        (otlp_rows(&path, &body[5..]), 0)
    } else {
        assert_eq!(header("content-encoding"), "gzip");
        let message = decompress(Encoding::Gzip, &body, 64 << 20).unwrap();
        (otlp_rows(&path, &message), 0)
    };
    *seen.rows.entry(path.clone()).or_default() += rows;
    let refused = u64::from(seen.refuses_a_record && path.contains("logs"));
    let message = if refused > 0 {
        let partial = ExportLogsPartialSuccess { rejected_log_records: 1, error_message: "no".to_owned() };
        ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
    } else {
        Vec::new()
    };
    Ok(if is_grpc {
        grpc_reply(Some(message), "0")
    } else if path == "/ingest" {
        let received = rows - u64::from(seen.miscounts);
        let stored = received - broken;
        let status = if stored == 0 { 422 } else { 200 };
        let body =
            format!(r#"{{"received":{received},"stored":{stored},"deduplicated":0,"rejected":{broken},"errors":[]}}"#);
        reply(status, body, &[])
    } else {
        reply(200, message, &[])
    })
}

/// Starts a server that checks what it gets; its address.
async fn serve(seen: Arc<Mutex<Seen>>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    format!("http://{address}")
}

async fn simulate(seen: Seen) -> (super::Summary, Seen) {
    let seen = Arc::new(Mutex::new(seen));
    let url = serve(Arc::clone(&seen)).await;
    let options = generate_options(&url, 2, 400.0);
    let clock: Arc<dyn Clock> = Arc::new(HastyClock::default());
    let shutdown = Shutdown::default();
    let courier = Arc::new(Courier::new(&options, None, Arc::clone(&clock), shutdown.clone()).unwrap());
    let shops = open_shops(&options, START);
    let summary = Run { shops, courier, clock, start: START, options, shutdown }.play().await.unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (summary, seen)
}

#[tokio::test]
async fn everything_sent_is_accounted_for() {
    let (summary, seen) = simulate(Seen::default()).await;
    assert!(summary.is_clean(), "{summary}");
    assert_eq!(summary.sent, seen.rows.values().sum::<u64>());
    assert_eq!(summary.sent, summary.stored + summary.rejected);
    assert!(summary.sent > 800, "{summary}");
    // All three signals over both protocols, and events.
    assert_eq!(seen.rows.len(), 7, "{:?}", seen.rows);
    assert_eq!((summary.requests, summary.retries), (seen.requests, 0));
}

#[tokio::test]
async fn a_busy_server_gets_the_same_request_again() {
    let (summary, seen) = simulate(Seen { is_busy: true, ..Seen::default() }).await;
    assert!(summary.is_clean(), "{summary}");
    assert_eq!(summary.retries, summary.requests);
    assert!(seen.keys.values().all(|tries| *tries == 2));
    assert_eq!(summary.sent, seen.rows.values().sum::<u64>());
}

#[tokio::test]
async fn replies_that_do_not_add_up_are_complaints() {
    let (summary, _) = simulate(Seen { miscounts: true, ..Seen::default() }).await;
    assert!(!summary.is_clean() && summary.unaccounted > 0, "{summary}");
    let (summary, seen) = simulate(Seen { refuses_a_record: true, ..Seen::default() }).await;
    assert!(!summary.is_clean(), "{summary}");
    assert!(summary.complaints[0].contains("1 rows were rejected where 0 were broken"), "{summary}");
    assert!(seen.rows.len() > 1);
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let seen = Arc::new(Mutex::new(Seen { forbids: true, ..Seen::default() }));
    let url = serve(Arc::clone(&seen)).await;
    let options = generate_options(&url, 1, 100.0);
    let courier = Courier::new(&options, None, Arc::new(HastyClock::default()), Shutdown::default()).unwrap();
    for (protocol, why) in [
        (Protocol::Ingest, "answered 401: unknown key"),
        (Protocol::OtlpHttp(Signal::Logs), "answered 401: unknown key"),
        (Protocol::OtlpGrpc(Signal::Traces), "answered gRPC status 16"),
    ] {
        let parcel = Parcel { target: 0, protocol, body: Bytes::from_static(b"x"), rows: 1, broken: 0 };
        let receipt = courier.deliver(parcel, "k").await;
        assert_eq!((receipt.retries, receipt.stored), (0, 0));
        assert!(receipt.complaint.unwrap().contains(why));
    }
    assert_eq!(seen.lock().unwrap().requests, 3);
}
