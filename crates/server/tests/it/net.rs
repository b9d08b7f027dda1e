//! The bounds on connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use axum::routing::{get as on_get, post as on_post};
use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use weir_server::net::{DrainReport, Listener, NetOptions, Peer};

use crate::harness::{PATIENCE, exchange, get, http1_over, http2_over, post, read_to_end, start, text, until};

const SHORT: Duration = Duration::from_millis(150);

fn hello() -> Router {
    Router::new()
        .route("/hello", on_get(|Extension(peer): Extension<Peer>| async move { format!("{}", peer.tls) }))
        .route("/health/live", on_get(|| async { "alive" }))
        .route("/echo", on_post(|body: Bytes| async move { body }))
}

/// A router whose `/wait` answers when told to, and says that it has begun.
fn waiting() -> (Router, Arc<Notify>, Arc<AtomicUsize>) {
    let go = Arc::new(Notify::new());
    let begun = Arc::new(AtomicUsize::new(0));
    let router = hello().route(
        "/wait",
        on_get({
            let (go, begun) = (Arc::clone(&go), Arc::clone(&begun));
            move || async move {
                begun.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                "done"
            }
        }),
    );
    (router, go, begun)
}

#[tokio::test]
async fn both_versions_of_http_are_served_on_one_port() {
    let running = start(NetOptions::default(), hello()).await;
    let mut http1 = http1_over(running.connect().await).await;
    let mut http2 = http2_over(running.connect().await).await;
    for _ in 0..2 {
        assert_eq!(text(http1.send_request(get("/hello")).await.unwrap()).await, "false");
        assert_eq!(text(http2.send_request(post("http://localhost/echo", "abc")).await.unwrap()).await, "abc");
    }
    assert_eq!(running.server.connections_open(), 2);
    drop((http1, http2));
    running.until("both connections closed", |server| server.connections_open() == 0).await;
    assert_eq!(running.stop().await, DrainReport { cut: 0 });
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = Listener::bind("http", "127.0.0.1:0", None).await.unwrap();
    let error = Listener::bind("http", &first.address().to_string(), None).await.unwrap_err();
    assert_eq!(error.to_string(), format!("listening on {} for http", first.address()));
    assert!(error.hint().contains("another program"), "{}", error.hint());
    let error = Listener::bind("http", "nonsense", None).await.unwrap_err();
    assert!(error.to_string().starts_with("resolving nonsense"), "{error}");
}

#[tokio::test]
async fn slow_heads_are_closed() {
    let options = NetOptions { header_timeout: SHORT, ..NetOptions::default() };
    let running = start(options, hello()).await;
    // Nothing at all, half a head, half an HTTP/2 preface: all end, and nothing is answered.
    for bytes in ["", "GET /hello HTTP/1.1\r\nhost: x\r\nx-slow: ", "PRI * HTTP/2.0\r\n"] {
        assert_eq!(exchange(running.connect().await, bytes.as_bytes()).await, "", "{bytes:?}");
    }
    // A byte every few milliseconds does not help, also not on a connection that was good before.
    let mut socket = running.connect().await;
    socket.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut reply = [0; 15];
    socket.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"HTTP/1.1 200 OK");
    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    for byte in b"GET /hello HTTP/1.1\r\nhost: x\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a')) {
        pace.tick().await;
        if socket.write_all(&[*byte]).await.is_err() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
    }
    running.until("all connections closed", |server| server.connections_open() == 0).await;
}

#[tokio::test]
async fn idle_connections_are_closed_and_slow_handlers_are_not() {
    let options = NetOptions { idle_timeout: SHORT, header_timeout: SHORT, ..NetOptions::default() };
    let (router, go, begun) = waiting();
    let running = start(options, router).await;
    let mut idle1 = http1_over(running.connect().await).await;
    let mut idle2 = http2_over(running.connect().await).await;
    text(idle1.send_request(get("/hello")).await.unwrap()).await;
    text(idle2.send_request(get("http://localhost/hello")).await.unwrap()).await;
    let mut busy = http1_over(running.connect().await).await;
    let waiting = tokio::spawn(async move { text(busy.send_request(get("/wait")).await.unwrap()).await });
    until("the handler runs", || begun.load(Ordering::SeqCst) == 1).await;
    running.until("only the busy connection is left", |server| server.connections_open() == 1).await;
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(running.server.connections_open(), 1);
    go.notify_waiters();
    assert_eq!(waiting.await.unwrap(), "done");
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let options = NetOptions { header_bytes_max: 8192, ..NetOptions::default() };
    let running = start(options, hello()).await;
    let head = format!("GET /hello HTTP/1.1\r\nhost: x\r\nx-big: {}\r\n\r\n", "a".repeat(10_000));
    let reply = exchange(running.connect().await, head.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
    let mut http2 = http2_over(running.connect().await).await;
    let mut request = get("http://localhost/hello");
    request.headers_mut().insert("x-big", "a".repeat(10_000).parse().unwrap());
    match http2.send_request(request).await {
        Ok(response) => assert_eq!(response.status().as_u16(), 431),
        Err(error) => assert!(error.to_string().contains("http2"), "{error}"),
    }
}

#[tokio::test]
async fn a_full_server_refuses_fast_and_stays_healthy() {
    let options = NetOptions { connections_max: 2, connections_reserve: 1, ..NetOptions::default() };
    let running = start(options, hello()).await;
    let (first, second) = (running.connect().await, running.connect().await);
    running.until("two connections", |server| server.connections_open() == 2).await;
    // The third finds the server full: health is answered, work is not.
    let health = "GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(exchange(running.connect().await, health.as_bytes()).await.ends_with("alive"));
    running.until("the third closed", |server| server.connections_open() == 2).await;
    let reply = exchange(running.connect().await, b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 503 ") && reply.contains("\"code\":\"connections_max\""), "{reply}");
    assert!(reply.contains("retry-after: 2"), "{reply}");
    running.until("the third closed", |server| server.connections_open() == 2).await;
    // With the reserve taken too, a connection is closed at once.
    let third = running.connect().await;
    running.until("three connections", |server| server.connections_open() == 3).await;
    assert_eq!(read_to_end(&mut running.connect().await).await, "");
    assert_eq!(running.server.connections_refused(), 4);
    drop((first, second, third));
    running.until("all closed", |server| server.connections_open() == 0).await;
    assert!(exchange(running.connect().await, health.as_bytes()).await.ends_with("alive"));
}

#[tokio::test]
async fn one_address_does_not_take_all_places() {
    let options = NetOptions { connections_per_address_max: 1, ..NetOptions::default() };
    let running = start(options.clone(), hello()).await;
    let first = running.connect().await;
    running.until("one connection", |server| server.connections_open() == 1).await;
    let reply = exchange(running.connect().await, b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 429 ") && reply.contains("\"connections_per_address_max\""), "{reply}");
    running.until("the second closed", |server| server.connections_open() == 1).await;
    let mut told = Vec::new();
    for open in 2..10 {
        told.push(running.connect().await);
        running.until("another connection", |server| server.connections_open() == open).await;
    }
    assert_eq!(read_to_end(&mut running.connect().await).await, "");
    assert_eq!((running.server.connections_refused(), running.server.connections_of_address_refused()), (0, 10));
    drop((first, told));
    running.until("all closed", |server| server.connections_open() == 0).await;
    assert!(exchange(running.connect().await, b"GET /hello HTTP/1.0\r\n\r\n").await.ends_with("false"));
    // A proxy stands for many.
    let running = start(NetOptions { proxies: vec!["127.0.0.0/8".parse().unwrap()], ..options }, hello()).await;
    let _first = running.connect().await;
    running.until("one connection", |server| server.connections_open() == 1).await;
    assert!(exchange(running.connect().await, b"GET /hello HTTP/1.0\r\n\r\n").await.ends_with("false"));
}

/// A reply that never ends, as fast as the peer takes it.
fn endless() -> (Router, Arc<AtomicUsize>) {
    struct Alive(Arc<AtomicUsize>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let alive = Arc::new(AtomicUsize::new(0));
    let router = hello().route(
        "/endless",
        on_get({
            let alive = Arc::clone(&alive);
            move || async move {
                alive.fetch_add(1, Ordering::SeqCst);
                let state = (Alive(alive), Bytes::from(vec![b'x'; 64 * 1024]));
                Body::from_stream(stream::unfold(state, |state| async move {
                    Some((Ok::<_, std::io::Error>(state.1.clone()), state))
                }))
            }
        }),
    );
    (router, alive)
}

#[tokio::test]
async fn peers_that_do_not_read_are_cut() {
    let options = NetOptions { write_timeout: SHORT, ..NetOptions::default() };
    let (router, alive) = endless();
    let running = start(options, router).await;
    let mut socket = running.connect().await;
    socket.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until("the reply begins", || alive.load(Ordering::SeqCst) == 1).await;
    until("what the reply holds is dropped", || alive.load(Ordering::SeqCst) == 0).await;
    running.until("the connection closed", |server| server.connections_open() == 0).await;
}

#[tokio::test]
async fn a_stream_without_window_loses_its_reply_and_its_neighbours_do_not() {
    let options = NetOptions { write_timeout: SHORT * 2, ..NetOptions::default() };
    let (router, alive) = endless();
    let running = start(options, router).await;
    let mut client = http2_over(running.connect().await).await;
    // The reply is not read, so that its stream's window stays closed; the connection goes on.
    let stuck = client.send_request(get("http://localhost/endless")).await.unwrap();
    until("the reply begins", || alive.load(Ordering::SeqCst) == 1).await;
    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while alive.load(Ordering::SeqCst) == 1 {
        pace.tick().await;
        assert!(begun.elapsed() < PATIENCE, "the reply was never dropped");
        // Small replies pass while the big one is stuck, as long as the connection lives.
        if let Ok(response) = client.send_request(get("http://localhost/hello")).await {
            assert_eq!(text(response).await, "false");
        }
    }
    // With nothing left on it but what is stuck, the connection goes too.
    running.until("the connection closed", |server| server.connections_open() == 0).await;
    drop((stuck, client));
}

#[tokio::test]
async fn a_stream_that_waits_for_its_handler_is_left_alone() {
    let options = NetOptions { write_timeout: SHORT, ..NetOptions::default() };
    let router = Router::new().route(
        "/slow",
        on_get(|| async {
            Body::from_stream(stream::unfold(0, |n| async move {
                tokio::time::sleep(SHORT * 3).await;
                (n < 2).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(b"tick ")), n + 1))
            }))
        }),
    );
    let running = start(options, router).await;
    let mut client = http2_over(running.connect().await).await;
    assert_eq!(text(client.send_request(get("http://localhost/slow")).await.unwrap()).await, "tick tick ");
}

#[tokio::test]
async fn floods_of_abandoned_requests_end_the_connection() {
    let options = NetOptions { resets_max: 50, ..NetOptions::default() };
    let (router, _go, begun) = waiting();
    let running = start(options, router).await;
    let mut client = http2_over(running.connect().await).await;
    let mut n_sent = 0;
    while client.ready().await.is_ok() && n_sent < 2000 {
        let before = begun.load(Ordering::SeqCst);
        let request = client.send_request(get("http://localhost/wait"));
        let waiting = tokio::spawn(request);
        n_sent += 1;
        let _ = timeout(Duration::from_secs(1), until("begun", || begun.load(Ordering::SeqCst) > before)).await;
        waiting.abort();
        let _ = waiting.await;
    }
    assert!((50..200).contains(&n_sent), "{n_sent}");
    running.until("the connection closed", |server| server.connections_open() == 0).await;
}

#[tokio::test]
async fn control_frames_without_requests_end_the_connection() {
    let running = start(NetOptions::default(), hello()).await;
    let mut socket = running.connect().await;
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    // PING frames of 17 bytes, for ever.
    let pings = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00weirweir".repeat(1000);
    let (mut reader, mut writer) = socket.into_split();
    let reading =
        tokio::spawn(
            async move { while reader.read_buf(&mut Vec::with_capacity(65536)).await.is_ok_and(|n| n > 0) {} },
        );
    let mut n_sent = 0_usize;
    while writer.write_all(&pings).await.is_ok() {
        n_sent += pings.len();
        assert!(n_sent < 64 << 20, "nobody minds");
    }
    running.until("the connection closed", |server| server.connections_open() == 0).await;
    timeout(PATIENCE, reading).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_finishes_what_has_begun() {
    let (router, go, begun) = waiting();
    // So long that only the drain can end the idle connection.
    let options = NetOptions { header_timeout: PATIENCE * 10, idle_timeout: PATIENCE * 10, ..NetOptions::default() };
    let running = start(options, router).await;
    let address = running.address;
    let idle = running.connect().await;
    let mut http1 = http1_over(running.connect().await).await;
    let mut http2 = http2_over(running.connect().await).await;
    let first = tokio::spawn(async move { text(http1.send_request(get("/wait")).await.unwrap()).await });
    let second =
        tokio::spawn(async move { text(http2.send_request(get("http://localhost/wait")).await.unwrap()).await });
    until("both handlers run", || begun.load(Ordering::SeqCst) == 2).await;
    running.shutdown.begin();
    // New connections are refused while the old requests go on.
    let deadline = Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < deadline, "still accepting");
    }
    running.until("the idle connection closed", |server| server.connections_open() == 2).await;
    go.notify_waiters();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), ("done".to_owned(), "done".to_owned()));
    assert_eq!(running.stop().await, DrainReport { cut: 0 });
    drop(idle);
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let (router, _go, begun) = waiting();
    let running = start(NetOptions { drain_timeout: SHORT, ..NetOptions::default() }, router).await;
    let mut http1 = http1_over(running.connect().await).await;
    let waiting = tokio::spawn(async move { http1.send_request(get("/wait")).await.is_err() });
    until("the handler runs", || begun.load(Ordering::SeqCst) == 1).await;
    assert_eq!(running.stop().await, DrainReport { cut: 1 });
    assert!(waiting.await.unwrap(), "the client must see the end of its connection");
}

#[tokio::test]
async fn large_replies_arrive_whole() {
    let big = Bytes::from(vec![7_u8; 5 << 20]);
    let router = Router::new().route(
        "/big",
        on_get({
            let big = big.clone();
            move || async move { big }
        }),
    );
    let running = start(NetOptions::default(), router).await;
    let mut client = http2_over(running.connect().await).await;
    let reply = client.send_request(get("http://localhost/big")).await.unwrap();
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), big);
    let mut client = http1_over(running.connect().await).await;
    let reply = client.send_request(get("/big")).await.unwrap();
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), big);
}
