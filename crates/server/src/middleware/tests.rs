#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use axum::routing::{get, post};
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use tower::ServiceExt;
use weir_base::clock::ManualClock;
use weir_base::{ErrorKind, Timestamp};

use super::{Observer, RequestEnd, RequestId, Surroundings, TraceContext, around, is_sane};
use crate::problem::{self, Problem};

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Observer for Seen {
    fn request_ended(&self, end: &RequestEnd<'_>) {
        let code = end.problem.map_or("-", Problem::code_text);
        let panicked = if end.panicked { " panicked" } else { "" };
        self.0.lock().push(format!("{} {} {} {code}{panicked}", end.method, end.route, end.status.as_u16()));
    }
}

async fn panics() {
    panic!("a test panics on purpose");
}

async fn send(request: http::request::Builder) -> (Response<()>, String, String) {
    let routes = Router::new()
        .route("/id", get(|Extension(id): Extension<RequestId>| async move { id.as_str().to_owned() }))
        .route("/trace", get(|Extension(trace): Extension<TraceContext>| async move { trace.to_string() }))
        .route("/fail/{why}", get(|| async { Problem::new(ErrorKind::Conflict, "it is there already") }))
        .route("/site", post(|| async { Problem::new(ErrorKind::Forbidden, "no").code("origin_not_allowed") }))
        .route("/panic", get(panics))
        .route("/big", get(|| async { axum::Json(vec!["all work and no play"; 1000]) }))
        .fallback(problem::route_not_found)
        .method_not_allowed_fallback(problem::method_not_allowed);
    let seen = Arc::new(Seen::default());
    let clock = ManualClock::new(Timestamp(0));
    let router = around(routes, Surroundings { clock, observer: Arc::clone(&seen) as _ });
    let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let seen = seen.0.lock().join("; ");
    (Response::from_parts(parts, ()), String::from_utf8_lossy(&bytes).into_owned(), seen)
}

#[tokio::test]
async fn every_reply_has_a_request_id() {
    let (response, body, seen) = send(Request::get("/id").header("x-request-id", "client-1")).await;
    assert_eq!((response.headers()["x-request-id"].as_bytes(), body.as_str()), (&b"client-1"[..], "client-1"));
    assert_eq!(seen, "GET /id 200 -");
    for bad in ["", "a b", "é", "\"", &"x".repeat(129)] {
        assert!(!is_sane(bad), "{bad}");
        let (response, body, _) = send(Request::get("/id").header("x-request-id", bad.as_bytes())).await;
        assert_eq!(response.headers()["x-request-id"], body.as_str());
        assert_eq!(body.len(), 32, "{body}");
    }
}

#[tokio::test]
async fn problems_carry_the_request_id_in_every_case() {
    for (request, status, code, seen) in [
        (Request::get("/fail/now"), 409, "conflict", "GET /fail/{why} 409 conflict"),
        (Request::get("/nothing/here"), 404, "not_found", "GET  404 not_found"),
        (Request::put("/id"), 405, "method_not_allowed", "PUT /id 405 method_not_allowed"),
        (Request::get("/panic"), 500, "internal", "GET /panic 500 internal panicked"),
    ] {
        let (response, body, ended) = send(request.header("x-request-id", "r1")).await;
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!((&problem["code"], &problem["request_id"]), (&code.into(), &"r1".into()), "{body}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["x-request-id"], "r1");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!(ended, seen);
        assert!(!body.contains("purpose"), "{body}");
        if status == 405 {
            assert!(response.headers()["allow"].to_str().unwrap().contains("GET"));
        }
    }
}

#[tokio::test]
async fn problems_of_grpc_calls_are_trailers() {
    let request = Request::get("/fail/now").version(Version::HTTP_2).header("content-type", "application/grpc");
    let (response, body, _) = send(request).await;
    assert_eq!((response.status().as_u16(), body.as_str()), (200, ""));
    assert_eq!(response.headers()["grpc-status"], "6");
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(response.headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn pages_see_their_replies_unless_their_site_is_refused() {
    let origin = ("origin", "https://shop.example");
    let (response, _, _) = send(Request::get("/id").header(origin.0, origin.1)).await;
    assert_eq!(response.headers()["access-control-allow-origin"], "https://shop.example");
    // Also errors, so that the page can say what is wrong.
    let (response, _, _) = send(Request::get("/fail/now").header(origin.0, origin.1)).await;
    assert_eq!(response.headers()["access-control-allow-origin"], "https://shop.example");
    let (response, _, _) = send(Request::post("/site").header(origin.0, origin.1)).await;
    assert_eq!(response.status().as_u16(), 403);
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    let preflight =
        Request::options("/site").header(origin.0, origin.1).header("access-control-request-method", "POST");
    let (response, _, _) = send(preflight).await;
    assert_eq!(response.status().as_u16(), 204);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://shop.example");
}

#[tokio::test]
async fn text_is_compressed_when_it_is_long() {
    for encoding in ["gzip", "zstd"] {
        let (response, _, _) = send(Request::get("/big").header("accept-encoding", encoding)).await;
        assert_eq!(response.headers()["content-encoding"], encoding);
    }
    let (response, body, _) = send(Request::get("/big")).await;
    assert!(!response.headers().contains_key("content-encoding"));
    assert_eq!(body.len(), 23_001);
    let (response, _, _) = send(Request::get("/id").header("accept-encoding", "gzip")).await;
    assert!(!response.headers().contains_key("content-encoding"));
}

#[tokio::test]
async fn trace_contexts_are_taken_over() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for (header, expected) in [
        (format!("00-{trace}-b7ad6b7169203331-01"), true),
        (format!("00-{trace}-b7ad6b7169203331-00"), true),
        (format!("01-{trace}-b7ad6b7169203331-01-more"), true),
        (format!("00-{trace}-b7ad6b7169203331-01-more"), false),
        (format!("ff-{trace}-b7ad6b7169203331-01"), false),
        (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false),
        (format!("00-{trace}-0000000000000000-01"), false),
        (format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()), false),
        (format!("00-{trace}-b7ad6b7169203331"), false),
        ("nonsense".to_owned(), false),
    ] {
        let (response, body, _) = send(Request::get("/trace").header("traceparent", &header)).await;
        assert_eq!((response.status().is_success(), body == trace), (expected, expected), "{header}");
    }
}
