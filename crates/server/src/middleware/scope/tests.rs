#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::sync::Arc;

use axum::body::Body;
use http::Request;
use parking_lot::Mutex;
use tracing_subscriber::fmt::{MakeWriter, format};
use tracing_subscriber::layer::SubscriberExt;
use weir_base::TenantId;

use super::{RequestScope, WithRequest, record_tenant};
use crate::middleware::{RequestId, TraceContext};

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Output {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The scope of a request that is part of a trace, to an address that matched no route.
fn scope(path: &str) -> RequestScope {
    let request = Request::get(path)
        .header("x-request-id", "r1")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01")
        .body(Body::empty())
        .unwrap();
    let trace = TraceContext::of(request.headers());
    RequestScope::of(&request, &RequestId::of(request.headers()), trace)
}

async fn lines() {
    scope("/a\"b")
        .around(async {
            tracing::info!("before");
            record_tenant(&TenantId::new("acme").unwrap());
            tracing::warn!(tenant = "own", "after");
            tracing::info!("somebody wrote tenant=other path=/ \"tenant\":1");
        })
        .await;
    tracing::info!("outside");
}

#[tokio::test]
async fn lines_of_text_name_the_request() {
    let output = Output::default();
    let text = format::format().without_time().with_target(false).with_ansi(false);
    let layer = tracing_subscriber::fmt::layer().event_format(WithRequest::text(text)).with_writer(output.clone());
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    lines().await;
    let trace = "trace_id=0af7651916cd43dd8448eb211c80319c parent_id=00f067aa0ba902b7 method=GET";
    assert_eq!(
        String::from_utf8(output.0.lock().clone()).unwrap(),
        format!(
            " INFO before request_id=r1 {trace} path=\"/a\\\"b\"\n\
             \u{20}WARN after tenant=\"own\" request_id=r1 {trace} path=\"/a\\\"b\"\n\
             \u{20}INFO somebody wrote tenant=other path=/ \"tenant\":1 request_id=r1 tenant=acme {trace} path=\"/a\\\"b\"\n\
             \u{20}INFO outside\n"
        )
    );
}

#[tokio::test]
async fn lines_of_parts_of_a_pipeline_name_it() {
    let output = Output::default();
    let text = format::format().without_time().with_target(false).with_ansi(false);
    let layer = tracing_subscriber::fmt::layer().event_format(WithRequest::text(text)).with_writer(output.clone());
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let whose = weir_engine::Whose { tenant: Some(TenantId::new("acme").unwrap()), pipeline: "copies".to_owned() };
    whose.around(async { tracing::warn!(sink = "a", "a sink fails") }).await;
    let line = " WARN a sink fails sink=\"a\" tenant=acme pipeline=copies\n";
    assert_eq!(String::from_utf8(output.0.lock().clone()).unwrap(), line);
}

#[tokio::test]
async fn lines_of_json_name_the_request_and_stay_json() {
    let output = Output::default();
    let layer = tracing_subscriber::fmt::layer()
        .fmt_fields(format::JsonFields::new())
        .event_format(WithRequest::json(format::format().json().flatten_event(true)))
        .with_writer(output.clone());
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    lines().await;
    let output = String::from_utf8(output.0.lock().clone()).unwrap();
    let lines: Vec<serde_json::Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&lines[0]["request_id"], &lines[0]["path"], lines[0].get("tenant")),
        (&"r1".into(), &"/a\"b".into(), None)
    );
    // A field of the line's own stays what it is.
    assert_eq!((&lines[1]["tenant"], &lines[1]["request_id"]), (&"own".into(), &"r1".into()));
    assert_eq!((&lines[2]["tenant"], &lines[2]["path"]), (&"acme".into(), &"/a\"b".into()));
    assert_eq!((lines.len(), lines[3].get("request_id")), (4, None));
}
