//! A whole server in this process, on free ports and a directory of its own, and a client for it.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use weir_base::Clock;
use weir_base::clock::SystemClock;
use weir_base::shutdown::Shutdown;
use weir_server::app::{self, App, Environment, StartError};
use weir_server::config::Config;
use weir_server::config::settings::ListenerConfig;
use weir_server::telemetry::logs::LineBuffer;

use crate::harness::{http1_over, http2_over};

/// A running server.
pub(crate) struct Whole {
    pub(crate) app: Arc<App>,
    pub(crate) http: String,
    pub(crate) otlp_grpc: String,
    pub(crate) otlp_http: String,
    pub(crate) admin: String,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

/// A reply that has been read.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The reply, if its status is the expected one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }
}

/// The defaults, on free ports, in `dir`.
pub(crate) fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.join("data"),
        http: ListenerConfig::on("127.0.0.1:0"),
        otlp_grpc: ListenerConfig::on("127.0.0.1:0"),
        otlp_http: ListenerConfig::on("127.0.0.1:0"),
        ..Config::default()
    }
}

pub(crate) async fn start(dir: &TempDir) -> Whole {
    start_with(config(dir.path())).await.unwrap()
}

pub(crate) async fn start_with(config: Config) -> Result<Whole, StartError> {
    let admin_key = config.data_dir.join("admin.key");
    let clock: Arc<dyn Clock> = SystemClock::new();
    let shutdown = Shutdown::default();
    let lines = LineBuffer::new(Arc::clone(&clock));
    let running = app::start(config, Environment { clock, lines, shutdown: shutdown.clone() }).await?;
    let addresses = running.addresses().clone();
    let app = Arc::clone(running.app());
    let admin = std::fs::read_to_string(admin_key).unwrap().trim().to_owned();
    Ok(Whole {
        app,
        http: addresses.http,
        otlp_grpc: addresses.otlp_grpc,
        otlp_http: addresses.otlp_http,
        admin,
        shutdown,
        serving: tokio::spawn(running.serve()),
    })
}

impl Whole {
    pub(crate) async fn stop(self) {
        let Self { app, shutdown, serving, .. } = self;
        drop(app);
        shutdown.begin();
        serving.await.unwrap();
    }

    /// Sends a request to the main port.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        send_to(&self.http, request).await
    }

    pub(crate) async fn call(&self, method: Method, path: &str, key: &str, body: Option<Value>) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        self.send(request.body(Full::new(body)).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Reply {
        self.call(Method::GET, path, key, None).await
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: Value) -> Reply {
        self.call(Method::POST, path, key, Some(body)).await
    }

    /// Makes a tenant.
    pub(crate) async fn tenant(&self, id: &str, settings: Value) {
        let mut body = json!({"id": id, "tier": "paid"});
        for (name, value) in settings.as_object().unwrap() {
            body[name] = value.clone();
        }
        self.post("/api/v1/tenants", &self.admin, body).await.expect(201);
    }

    /// Makes a key of a tenant.
    pub(crate) async fn key(&self, tenant: &str, scopes: &[&str]) -> String {
        let path = format!("/api/v1/tenants/{tenant}/keys");
        let reply = self.post(&path, &self.admin, json!({"scopes": scopes})).await.expect(201);
        reply.json()["key"].as_str().unwrap().to_owned()
    }

    /// A tenant with a key that may send and ask.
    pub(crate) async fn tenant_with_key(&self, id: &str) -> String {
        self.tenant(id, json!({})).await;
        self.key(id, &["ingest", "query"]).await
    }

    /// The rows of a query.
    pub(crate) async fn query(&self, key: &str, sql: &str) -> Value {
        self.post("/api/v1/query", key, json!({"sql": sql})).await.expect(200).json()["rows"].clone()
    }
}

/// Sends one request over a connection of its own.
pub(crate) async fn send_to(address: &str, mut request: Request<Full<Bytes>>) -> Reply {
    request.headers_mut().insert("host", address.parse().unwrap());
    let mut client = http1_over(TcpStream::connect(address).await.unwrap()).await;
    read(client.send_request(request).await.unwrap()).await
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Reply {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: parts.status, headers: parts.headers, body }
}

/// Makes a unary gRPC call; the status of the call and the message of the reply.
pub(crate) async fn grpc(
    address: &str,
    method: &str,
    headers: &[(&str, &str)],
    message: &[u8],
) -> (String, HeaderMap, Bytes) {
    let mut client = http2_over(TcpStream::connect(address).await.unwrap()).await;
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    let mut request = Request::post(format!("http://{address}{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.send_request(request.body(Full::new(frame.into())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or(parts.headers);
    let status = trailers.get("grpc-status").map_or("", |value| value.to_str().unwrap()).to_owned();
    let bytes = collected.to_bytes();
    (status, trailers, bytes.slice(bytes.len().min(5)..))
}

/// The header of HTTP Basic with the key as user.
pub(crate) fn basic(key: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{key}:")))
}
