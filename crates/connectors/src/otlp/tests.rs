use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use weir_base::disk::{Disk, RealDisk};
use weir_base::{Timestamp, clock::SystemClock};
use weir_codecs::inflate::Encoding as Coding;
use weir_codecs::otlp::{Encoding, decode, response};
use weir_codecs::{RowContext, inflate};
use weir_component::sink::Receipt;

use super::*;
use crate::checkpoints::CheckpointFolder;

/// A request as a receiver gets it.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    headers: HeaderMap,
    key: String,
    /// The bodies of its log records.
    bodies: Vec<String>,
}

/// What a receiver answers.
#[derive(Clone, Debug)]
enum Reply {
    Ok,
    Partly(u64, &'static str),
    Status(u16),
    Retry(u16, u64),
    Hang,
}

type Script = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;

struct Receiver {
    address: SocketAddr,
    asked: Mutex<Vec<Asked>>,
    script: Mutex<Script>,
}

impl Receiver {
    async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = Arc::new(Self { address, asked: Mutex::default(), script: Mutex::new(Box::new(script)) });
        let serving = Arc::clone(&receiver);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let receiver = Arc::clone(&serving);
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| answer(Arc::clone(&receiver), request));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        receiver
    }

    fn says(&self, script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        *self.script.lock() = Box::new(script);
    }

    fn keys(&self) -> Vec<String> {
        self.asked.lock().iter().map(|asked| asked.key.clone()).collect()
    }

    /// The rows that were taken, each key once: as a receiver stores them that knows keys.
    fn stored(&self) -> Vec<String> {
        let by_key: BTreeMap<String, Vec<String>> =
            self.asked.lock().iter().map(|asked| (asked.key.clone(), asked.bodies.clone())).collect();
        let mut all: Vec<String> = by_key.into_values().flatten().collect();
        all.sort();
        all
    }
}

fn opened(headers: &HeaderMap, name: &str, body: &[u8]) -> Bytes {
    let coding = match headers.get(name).map(|value| value.to_str().unwrap()) {
        None => Coding::Identity,
        Some("gzip") => Coding::Gzip,
        Some("zstd") => Coding::Zstd,
        Some(other) => panic!("{other}"),
    };
    inflate::decompress(coding, body, 64 << 20).unwrap()
}

async fn answer(
    receiver: Arc<Receiver>,
    request: http::Request<Incoming>,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let is_grpc = parts.headers[http::header::CONTENT_TYPE] == "application/grpc";
    let body = if is_grpc {
        assert_eq!(parts.version, http::Version::HTTP_2);
        assert_eq!(u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize, body.len() - 5);
        let coding = if body[0] == 1 { "grpc-encoding" } else { "none" };
        opened(&parts.headers, coding, &body[5..])
    } else {
        opened(&parts.headers, "content-encoding", &body)
    };
    let context = RowContext {
        tenant: "acme",
        received_at: Timestamp(1),
        client_ip: None,
        user_agent: None,
        rows_max: 1_000_000,
        row_bytes_max: 1 << 20,
        value_bytes_max: 1 << 20,
        decoded_bytes_max: 64 << 20,
    };
    let decoded = decode(Signal::Logs, Encoding::Protobuf, &body, &context).unwrap();
    let text = |batch: &RecordBatch| batch.column_by_name("body").unwrap().as_string::<i32>().clone();
    let bodies = decoded.batches.iter().flat_map(|batch| {
        let texts = text(&batch.batch);
        (0..texts.len()).map(move |row| texts.value(row).to_owned()).collect::<Vec<_>>()
    });
    let asked = Asked {
        path: parts.uri.path().to_owned(),
        key: parts.headers["idempotency-key"].to_str().unwrap().to_owned(),
        bodies: bodies.collect(),
        headers: parts.headers,
    };
    let reply = (receiver.script.lock())(&asked);
    if matches!(reply, Reply::Ok | Reply::Partly(..)) {
        receiver.asked.lock().push(asked);
    }
    let export = |refused, message| response::export(Signal::Logs, Encoding::Protobuf, refused, message);
    let (status, retry, body) = match reply {
        Reply::Ok => (200, None, export(0, "")),
        Reply::Partly(refused, message) => (200, None, export(refused, message)),
        Reply::Status(status) => (status, None, Vec::new()),
        Reply::Retry(status, after) => (status, Some(after), Vec::new()),
        Reply::Hang => std::future::pending().await,
    };
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = Vec::new();
    let mut reply = Response::builder();
    if is_grpc {
        let mut trailers = HeaderMap::new();
        if status == 200 {
            let mut message = vec![0];
            message.extend_from_slice(&(body.len() as u32).to_be_bytes());
            message.extend_from_slice(&body);
            frames.push(Ok(Frame::data(message.into())));
        }
        // Statuses in the script are those of gRPC then.
        trailers.insert("grpc-status", if status == 200 { 0.into() } else { status.into() });
        frames.push(Ok(Frame::trailers(trailers)));
    } else {
        reply = reply.status(StatusCode::from_u16(status).unwrap());
        if let Some(after) = retry {
            reply = reply.header("retry-after", after);
        }
        frames.push(Ok(Frame::data(body.into())));
    }
    let body = StreamBody::new(futures::stream::iter(frames));
    Ok(reply.body(BodyExt::boxed(body)).unwrap())
}

struct Desk {
    dir: tempfile::TempDir,
    config: Json,
}

impl Desk {
    fn new(receiver: &Receiver, more: Json) -> Self {
        let mut config = json!({ "endpoint": format!("http://{}", receiver.address), "signal": "logs" });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Self { dir: tempfile::tempdir().unwrap(), config }
    }

    fn kept(&self) -> Arc<dyn CheckpointStore> {
        let disk: Arc<dyn Disk> = RealDisk::new();
        Arc::new(CheckpointFolder::open(self.dir.path(), disk).unwrap())
    }

    async fn names(&self) -> Vec<String> {
        self.kept().list().await.unwrap()
    }

    async fn open(&self, last: Option<(u64, Receipt)>) -> Result<Box<dyn Sink>, SinkError> {
        let planned = planned(&self.config).unwrap();
        planned.open_with(rows(0..0).schema(), Opening { generation: 1, last }, self.kept()).await
    }
}

fn planned(config: &Json) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
    let context = PlanContext {
        directory: ".".into(),
        pipeline: "p".to_owned(),
        tenant: None,
        checkpoint_interval: Duration::from_secs(1),
        disk: RealDisk::new(),
        clock: SystemClock::new(),
        streams: None,
    };
    plan(config, &[], &context)
}

fn rows(range: std::ops::Range<usize>) -> RecordBatch {
    let bodies: ArrayRef = Arc::new(StringArray::from_iter_values(range.map(|number| format!("{number:04}"))));
    RecordBatch::try_from_iter([("body", bodies)]).unwrap()
}

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{number:04}")).collect()
}

/// What was refused: each row as it is told, with the message.
fn refused(sink: &mut dyn Sink) -> Vec<(String, String)> {
    let mut told = Vec::new();
    for aside in sink.refused() {
        let weir_component::operator::AsideNotes::Messages(messages) = aside.notes else { panic!("no messages") };
        for (row, message) in messages.into_iter().enumerate() {
            let body = aside.rows.column_by_name("body");
            told.push((body.map_or("?".to_owned(), |body| body.as_string::<i32>().value(row).to_owned()), message));
        }
    }
    told
}

#[tokio::test]
async fn rows_are_sent_when_they_are_committed_by_either_protocol_and_compression() {
    for (protocol, path) in
        [("grpc", "/opentelemetry.proto.collector.logs.v1.LogsService/Export"), ("http", "/v1/logs")]
    {
        for compression in ["none", "gzip", "zstd"] {
            let receiver = Receiver::start(|_| Reply::Ok).await;
            let more = json!({
                "protocol": protocol, "compression": compression, "request_rows_max": 30,
                "headers": { "Authorization": "Bearer secret" },
            });
            let desk = Desk::new(&receiver, more);
            let mut sink = desk.open(None).await.unwrap();
            sink.write_timed(&rows(0..100), &vec![5; 100].into()).await.unwrap();
            let receipt = sink.prepare(1).await.unwrap();
            assert_eq!(receiver.keys(), Vec::<String>::new());
            sink.commit(1, &receipt).await.unwrap();
            assert_eq!(receiver.stored(), texts(0..100), "{protocol} {compression}");
            assert_eq!(receiver.keys().len(), 4);
            let asked = receiver.asked.lock()[0].clone();
            assert_eq!(
                (asked.path.as_str(), &asked.headers["authorization"]),
                (path, &HeaderValue::from_static("Bearer secret"))
            );
            // Nothing is left, and doing it twice is the same as once.
            assert_eq!(desk.names().await, Vec::<String>::new());
            sink.commit(1, &receipt).await.unwrap();
            assert_eq!(receiver.keys().len(), 4);
        }
    }
}

/// A process that dies while it sends, or before anybody has noted that it did: the next one sends under the same keys.
#[tokio::test]
async fn whoever_takes_over_sends_under_the_same_keys() {
    let receiver =
        Receiver::start(|asked| if *asked.bodies[0] < *"0040" { Reply::Ok } else { Reply::Status(503) }).await;
    let desk = Desk::new(&receiver, json!({ "protocol": "http", "request_rows_max": 10, "requests_max": 1 }));
    let mut sink = desk.open(None).await.unwrap();
    sink.write(&rows(0..60)).await.unwrap();
    let receipt = sink.prepare(1).await.unwrap();
    let error = sink.commit(1, &receipt).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    let first = receiver.keys();
    assert_eq!(first.len(), 4);
    // Tried again in this process, what was answered is not sent again.
    receiver.says(|asked| if *asked.bodies[0] < *"0050" { Reply::Ok } else { Reply::Retry(429, 3) });
    let error = sink.commit(1, &receipt).await.unwrap_err();
    assert_eq!((error.kind, error.after), (ErrorKind::Limit, Some(Duration::from_secs(3))));
    assert_eq!(receiver.keys().len(), 5);
    // Rows of an epoch that is never decided.
    sink.write(&rows(100..110)).await.unwrap();
    sink.prepare(2).await.unwrap();
    drop(sink);

    receiver.says(|_| Reply::Ok);
    let mut sink = desk.open(Some((1, receipt.clone()))).await.unwrap();
    assert_eq!(receiver.stored(), texts(0..60));
    let keys = receiver.keys();
    assert_eq!(&keys[5..9], &keys[..4], "the same rows under the same keys");
    assert_eq!(desk.names().await, Vec::<String>::new());
    // Another time nothing is left to be sent.
    let n_keys = receiver.keys().len();
    sink.write(&rows(60..61)).await.unwrap();
    let next = sink.prepare(2).await.unwrap();
    drop(sink);
    drop(desk.open(Some((2, next))).await.unwrap());
    assert_eq!((receiver.keys().len(), receiver.stored()), (n_keys + 1, texts(0..61)));
}

#[tokio::test]
async fn what_is_refused_is_said_until_it_is_part_of_a_checkpoint() {
    let receiver = Receiver::start(|asked| match asked.bodies[0].as_str() {
        "0010" => Reply::Status(400),
        "0020" => Reply::Partly(10, "too old"),
        "0030" => Reply::Partly(2, "some are too old"),
        _ => Reply::Ok,
    })
    .await;
    let desk = Desk::new(&receiver, json!({ "protocol": "http", "request_rows_max": 10, "requests_max": 1 }));
    let mut sink = desk.open(None).await.unwrap();
    sink.write(&rows(0..50)).await.unwrap();
    let first = sink.prepare(1).await.unwrap();
    sink.commit(1, &first).await.unwrap();
    let check = |told: Vec<(String, String)>| {
        let named: Vec<&str> = told.iter().filter(|(row, _)| row != "?").map(|(row, _)| row.as_str()).collect();
        assert_eq!(named, texts(10..30));
        assert_eq!(told.len(), 22, "two of which nobody knows which");
        assert!(told[0].1.contains("400") && told[10].1 == "too old", "{told:?}");
        assert!(told[20].1.starts_with("one of 2 rows of a request of 10"), "{told:?}");
    };
    check(refused(sink.as_mut()));
    // It was said, and the process dies before that is part of a checkpoint.
    drop(sink);
    let mut sink = desk.open(Some((1, first))).await.unwrap();
    check(refused(sink.as_mut()));
    let second = sink.prepare(2).await.unwrap();
    // Decided, and dead again before it could be committed.
    drop(sink);
    let mut sink = desk.open(Some((2, second))).await.unwrap();
    assert_eq!(refused(sink.as_mut()), []);
    assert_eq!(desk.names().await, Vec::<String>::new());
}

/// Refused in an object of which not all was sent: it is found out again, and said once.
#[tokio::test]
async fn what_is_refused_before_a_failure_is_said_once() {
    let receiver = Receiver::start(|asked| match asked.bodies[0].as_str() {
        "0000" => Reply::Status(400),
        _ => Reply::Status(503),
    })
    .await;
    let desk = Desk::new(&receiver, json!({ "protocol": "http", "request_rows_max": 10, "requests_max": 1 }));
    let mut sink = desk.open(None).await.unwrap();
    sink.write(&rows(0..20)).await.unwrap();
    let receipt = sink.prepare(1).await.unwrap();
    assert!(sink.commit(1, &receipt).await.is_err());
    assert_eq!(desk.names().await.len(), 2);
    drop(sink);
    receiver.says(|asked| if asked.bodies[0] == "0000" { Reply::Status(400) } else { Reply::Ok });
    let mut sink = desk.open(Some((1, receipt))).await.unwrap();
    let told: Vec<String> = refused(sink.as_mut()).into_iter().map(|(row, _)| row).collect();
    assert_eq!((told, receiver.stored()), (texts(0..10), texts(10..20)));
}

#[tokio::test]
async fn a_request_that_is_too_large_is_halved() {
    for (protocol, too_large) in [("http", 413), ("grpc", 8)] {
        let receiver = Receiver::start(move |asked| {
            let is_large = asked.bodies.len() > 4 || asked.bodies.contains(&"0013".to_owned());
            if is_large { Reply::Status(too_large) } else { Reply::Ok }
        })
        .await;
        let desk = Desk::new(&receiver, json!({ "protocol": protocol }));
        let mut sink = desk.open(None).await.unwrap();
        sink.write(&rows(0..20)).await.unwrap();
        let receipt = sink.prepare(1).await.unwrap();
        sink.commit(1, &receipt).await.unwrap();
        let told: Vec<String> = refused(sink.as_mut()).into_iter().map(|(row, _)| row).collect();
        assert_eq!(told, ["0013"]);
        let mut all = receiver.stored();
        all.extend(told);
        all.sort();
        assert_eq!(all, texts(0..20), "{protocol}");
    }
}

#[tokio::test]
async fn whoever_does_not_answer_or_is_not_there_is_an_error_that_may_pass() {
    for protocol in ["http", "grpc"] {
        let receiver = Receiver::start(|_| Reply::Hang).await;
        let desk = Desk::new(&receiver, json!({ "protocol": protocol, "timeout": "300ms" }));
        let mut sink = desk.open(None).await.unwrap();
        sink.write(&rows(0..1)).await.unwrap();
        let receipt = sink.prepare(1).await.unwrap();
        assert_eq!(sink.commit(1, &receipt).await.unwrap_err().kind, ErrorKind::Timeout);
        receiver.says(|_| Reply::Ok);
        sink.commit(1, &receipt).await.unwrap();
        assert_eq!(receiver.stored(), texts(0..1), "{protocol}");

        // Nobody listens at a port that was just given back.
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut config = desk.config.clone();
        config["endpoint"] = json!(format!("http://{nobody}"));
        let planned = planned(&config).unwrap();
        let opening = Opening { generation: 1, last: None };
        let mut sink = planned.open_with(rows(0..0).schema(), opening, desk.kept()).await.unwrap();
        sink.write(&rows(0..1)).await.unwrap();
        let receipt = sink.prepare(1).await.unwrap();
        assert_eq!(sink.commit(1, &receipt).await.unwrap_err().kind, ErrorKind::Transient);
        // A wrong key stops the pipeline, which keeps the rows.
        receiver.says(move |_| Reply::Status(if protocol == "http" { 401 } else { 16 }));
        let mut sink = desk.open(None).await.unwrap();
        sink.write(&rows(0..1)).await.unwrap();
        let receipt = sink.prepare(1).await.unwrap();
        assert_eq!(sink.commit(1, &receipt).await.unwrap_err().kind, ErrorKind::Unauthenticated);
    }
}

#[tokio::test]
async fn rows_can_be_sent_as_they_come() {
    let receiver = Receiver::start(|_| Reply::Ok).await;
    let more = json!({ "protocol": "http", "request_rows_max": 10, "requests_max": 2, "delivery": "at_least_once" });
    let desk = Desk::new(&receiver, more);
    let mut sink = desk.open(None).await.unwrap();
    sink.write(&rows(0..25)).await.unwrap();
    sink.write(&rows(25..30)).await.unwrap();
    assert_eq!(receiver.stored(), texts(0..25));
    receiver.says(|_| Reply::Status(503));
    assert!(sink.prepare(1).await.is_err());
    receiver.says(|_| Reply::Partly(5, "no"));
    sink.prepare(1).await.unwrap();
    assert_eq!(refused(sink.as_mut()).len(), 5);
    assert_eq!(receiver.stored(), texts(0..30));
}

#[test]
fn settings_that_make_no_sense_are_told_of_at_once() {
    let check = |config: Json, expected: &[&str]| {
        let faults = planned(&config).err().unwrap_or_default();
        let told: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect();
        assert_eq!(told, expected, "{config}");
    };
    let with = |more: Json| {
        let mut config = json!({ "endpoint": "http://h:1", "signal": "logs" });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    check(with(json!({})), &[]);
    check(with(json!({ "endpoint": "h:1" })), &["/endpoint: `h:1` does not begin with http:// or https:// and a host"]);
    check(
        with(json!({ "endpoint": "http://h:1/x" })),
        &["/endpoint: `http://h:1/x` has a path, and gRPC has paths of its own"],
    );
    check(with(json!({ "endpoint": "http://h:1/x", "protocol": "http" })), &[]);
    check(
        with(json!({ "endpoint": "http://me:pw@h:1" })),
        &["/endpoint: `http://me:pw@h:1` has a user or a query in it, which belong into `headers`"],
    );
    check(
        with(json!({ "headers": { "Content-Type": "x", "a b": "x", "ok": "a\nb" } })),
        &[
            "/headers/Content-Type: `content-type` is set by the sink itself",
            "/headers/a b: `a b` is not the name of a header",
            "/headers/ok: the value has characters no header may have",
        ],
    );
    check(with(json!({ "tls": {} })), &["/tls: the endpoint is not reached by TLS"]);
    check(
        with(json!({ "endpoint": "https://h:1", "tls": { "ca": "none", "certificate": "x" } })),
        &["/tls/ca: there is no certificate in it", "/tls/certificate: a certificate needs its key"],
    );
    check(
        with(json!({ "request_rows_max": 0, "requests_max": 1000, "timeout": "0s" })),
        &[
            "/request_rows_max: 0 is not between 1 and 100000",
            "/requests_max: 1000 is not between 1 and 64",
            "/timeout: 0s is not between 1ms and 10m",
        ],
    );
    assert!(planned(&json!({ "endpoint": "https://h:1", "signal": "logs" })).is_ok());
}

/// Rows that have no place on the disk are not lost: they wait in memory until there is one.
#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let receiver = Receiver::start(|_| Reply::Ok).await;
    let disk = weir_testkit::sim_disk::SimDisk::new();
    let real: Arc<dyn Disk> = disk.clone();
    let kept: Arc<dyn CheckpointStore> = Arc::new(CheckpointFolder::open(std::path::Path::new("/kept"), real).unwrap());
    let config = json!({ "endpoint": format!("http://{}", receiver.address), "signal": "logs" });
    let opening = Opening { generation: 1, last: None };
    let mut sink = planned(&config).unwrap().open_with(rows(0..0).schema(), opening, kept).await.unwrap();
    // More than waits in memory, so that rows are refused as well.
    disk.fail_from(weir_testkit::sim_disk::Fault::Full, 1);
    sink.write(&rows(0..1000)).await.unwrap();
    let error = sink.write(&rows(1000..1001)).await.unwrap_err();
    assert_eq!((error.kind, sink.prepare(1).await.unwrap_err().kind), (ErrorKind::Full, ErrorKind::Full));
    disk.heal();
    sink.write(&rows(1000..1001)).await.unwrap();
    let receipt = sink.prepare(1).await.unwrap();
    sink.commit(1, &receipt).await.unwrap();
    assert_eq!(receiver.stored(), texts(0..1001));
}
