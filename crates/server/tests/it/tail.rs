//! Live tails: rows as they are stored, over both transports, until the end is said.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{PATIENCE, http1_over};
use crate::whole::{Whole, start};

/// The messages of a tail over server-sent events.
struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    async fn open(server: &Whole, key: &str, path: &str) -> Self {
        Self::open_of(server, key, None, path).await
    }

    async fn open_of(server: &Whole, key: &str, tenant: Option<&str>, path: &str) -> Self {
        let mut request = Request::get(path)
            .header("host", &server.http)
            .header("authorization", format!("Bearer {key}"))
            .body(Full::new(bytes::Bytes::new()))
            .unwrap();
        if let Some(tenant) = tenant {
            request.headers_mut().insert("x-weir-tenant", tenant.parse().unwrap());
        }
        let mut client = http1_over(TcpStream::connect(&server.http).await.unwrap()).await;
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
                self.text = rest.to_owned();
                if let Some(data) = data {
                    return serde_json::from_str(&data).unwrap();
                }
                continue;
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("a message in time").unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    }
}

async fn send(server: &Whole, key: &str, names: &[&str]) {
    let events: Vec<_> = names.iter().map(|name| json!({"type": "custom", "name": name})).collect();
    server.post("/ingest", key, json!({"events": events})).await.expect(200);
}

fn names(message: &Value) -> Vec<&str> {
    message["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_filtered_and_in_order_until_the_limit() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    let other = server.tenant_with_key("blog").await;
    let path = "/api/v1/tail/events?where=name%20%3C%3E%20%27no%27&limit=4";
    let mut events = Events::open(&server, &key, path).await;
    send(&server, &other, &["of-blog"]).await;
    send(&server, &key, &["a", "no", "b"]).await;
    send(&server, &key, &["c", "no", "d", "e"]).await;
    let mut seen = Vec::new();
    loop {
        let message = events.next().await;
        if message["kind"] == "end" {
            assert_eq!(message["code"], "limit");
            break;
        }
        seen.extend(names(&message).into_iter().map(str::to_owned));
    }
    assert_eq!(seen, ["a", "b", "c", "d"]);
    for (path, status) in [
        ("/api/v1/tail/nonsense", 404),
        ("/api/v1/tail/events?where=nme%20%3D%201", 400),
        ("/api/v1/tail/events?where=count(*)%20%3E%201", 400),
        ("/api/v1/tail/events?nonsense=1", 400),
    ] {
        assert_eq!(server.get(path, &key).await.status.as_u16(), status, "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_follows_over_websocket_with_its_key_as_subprotocol() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    let mut request = format!("ws://{}/api/v1/tail/events", server.http).into_client_request().unwrap();
    let offered = format!("weir, weir.key.{key}");
    request.headers_mut().insert("sec-websocket-protocol", offered.parse().unwrap());
    let (mut socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "weir");
    send(&server, &key, &["a"]).await;
    let message = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    assert_eq!(names(&message), ["a"]);
    socket.send(Message::Close(None)).await.unwrap();
    // The place is given back.
    let tenant = server.app.meta.tenant(&"shop".parse().unwrap()).unwrap().unwrap();
    timeout(PATIENCE, async {
        while server.app.live.count(&tenant.id) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the subscription ends with its connection");
    let mut bad = format!("ws://{}/api/v1/tail/events", server.http).into_client_request().unwrap();
    bad.headers_mut().insert("sec-websocket-protocol", "weir, weir.key.nonsense".parse().unwrap());
    assert!(tokio_tungstenite::connect_async(bad).await.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_its_tails_and_a_stop_ends_all() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    server.tenant("shop", json!({})).await;
    let doomed = server.key("shop", &["query"]).await;
    let other = server.key("shop", &["query"]).await;
    let mut ended = Events::open(&server, &doomed, "/api/v1/tail/logs").await;
    let mut stays = Events::open(&server, &other, "/api/v1/tail/logs").await;
    let id = doomed.split('_').nth(2).unwrap().to_owned();
    server.call(Method::DELETE, &format!("/api/v1/tenants/shop/keys/{id}"), &server.admin, None).await.expect(204);
    let begun = std::time::Duration::from_secs(1);
    let message = timeout(begun, ended.next()).await.expect("revocation is effective within a second");
    assert_eq!((&message["kind"], &message["code"]), (&json!("end"), &json!("revoked")));
    let stopping = tokio::spawn(server.stop());
    let message = stays.next().await;
    assert_eq!((&message["kind"], &message["code"]), (&json!("end"), &json!("shutdown")));
    stopping.await.unwrap();
}

/// Also of whoever keeps their key: an administrator.
#[tokio::test(flavor = "multi_thread")]
async fn tails_of_a_deleted_tenant_say_that_it_is_gone() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    server.tenant("shop", json!({})).await;
    let own = server.key("shop", &["query"]).await;
    let mut tails = vec![Events::open(&server, &own, "/api/v1/tail/logs").await];
    tails.push(Events::open_of(&server, &server.admin, Some("shop"), "/api/v1/tail/logs").await);
    server.call(Method::DELETE, "/api/v1/tenants/shop", &server.admin, None).await.expect(204);
    for tail in &mut tails {
        let message = timeout(PATIENCE, tail.next()).await.expect("it ends");
        assert_eq!((&message["kind"], &message["code"]), (&json!("end"), &json!("tenant_deleted")), "{message}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_so_many_tails_and_no_more() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    server.tenant("shop", json!({"limits": {"tails_concurrent_max": 1}})).await;
    let key = server.key("shop", &["query"]).await;
    let first = Events::open(&server, &key, "/api/v1/tail/logs").await;
    let refused = server.get("/api/v1/tail/logs", &key).await.expect(429).json();
    assert_eq!(refused["limit"]["name"], "tails_concurrent_max");
    drop(first);
    server.stop().await;
}
