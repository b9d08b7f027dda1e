//! The Segment HTTP tracking API, and what RudderStack's browser SDK asks beyond it, so that their
//! official SDKs work unchanged when pointed here.
//!
//! A bad event is no error to these clients: the reply is a success, and the event is in
//! `_rejected` with the reason.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use weir_api::ingest::SegmentReply;
use weir_base::{ErrorKind, Kinded};
use weir_codecs::segment::{self, Call};

use super::Path;
use super::QueryString;
use super::receive::{Incoming, Source, with_durability};
use crate::app::App;
use crate::net::Peer;
use crate::problem::{Problem, Result};

/// `POST /v1/{call}`.
pub(super) async fn track(State(app): State<Arc<App>>, Path(call): Path<String>, request: Request) -> Result<Response> {
    let Some(call) = Call::of_route(&call) else {
        return Err(Problem::new(ErrorKind::NotFound, "there is no such call")
            .hint("calls are track, identify, page, screen, group, alias and batch"));
    };
    let source = Source { name: "segment", stream: "events" };
    let stored = match Incoming::receive(&app, request, source, Some(weir_codecs::events::write_key)).await {
        Ok(incoming) => {
            incoming.decode_and_store(&app, move |body, context| segment::decode(call, body, context)).await
        }
        Err(problem) => Err(problem),
    };
    match stored {
        Ok(outcome) => Ok(with_durability(Json(SegmentReply { success: true }).into_response(), &outcome)),
        // The tracking API's word for what is too large.
        Err(problem) if problem.kind() == ErrorKind::TooLarge => Err(problem.status(StatusCode::BAD_REQUEST)),
        Err(problem) => Err(problem),
    }
}

/// `GET /v1/projects/{write_key}/settings`.
pub(super) async fn settings(
    State(app): State<Arc<App>>,
    Path(write_key): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    peer: axum::Extension<Peer>,
) -> Result<Response> {
    known(&app, &write_key, &peer, &headers)?;
    Ok(json(segment::settings(&write_key, host(&uri, &headers)?, peer.tls)))
}

#[derive(Debug, Deserialize)]
pub(super) struct SourceConfigQuery {
    #[serde(rename = "writeKey")]
    write_key: Option<String>,
}

/// `GET /sourceConfig`.
pub(super) async fn source_config(
    State(app): State<Arc<App>>,
    QueryString(query): QueryString<SourceConfigQuery>,
    uri: Uri,
    headers: HeaderMap,
    peer: axum::Extension<Peer>,
) -> Result<Response> {
    let write_key = query
        .write_key
        .ok_or_else(|| Problem::new(ErrorKind::Input, "the query parameter writeKey is missing").pointer("writeKey"))?;
    known(&app, &write_key, &peer, &headers)?;
    let scheme = if peer.tls { "https" } else { "http" };
    Ok(json(segment::rudder_source_config(&write_key, &format!("{scheme}://{}", host(&uri, &headers)?))))
}

/// Only keys that may send are told anything, and guessing is counted like everywhere.
fn known(app: &App, write_key: &str, peer: &Peer, headers: &HeaderMap) -> Result<()> {
    let client = app.proxies.client(peer.address.ip(), headers).address;
    let caller = app.authenticator.authenticate(&HeaderMap::new(), Some(write_key), client);
    match caller.and_then(|caller| caller.require_ingest()) {
        Ok(()) => Ok(()),
        Err(refused) if refused.kind() == ErrorKind::Limit => Err(refused.into()),
        Err(_) => Err(Problem::new(ErrorKind::NotFound, "there is no such write key")),
    }
}

/// The name the client knows this server by: the authority of HTTP/2, else the Host header.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str> {
    uri.authority()
        .map(Authority::as_str)
        .or_else(|| headers.get(HOST).and_then(|host| host.to_str().ok()))
        .ok_or_else(|| Problem::new(ErrorKind::Input, "the Host header is missing"))
}

fn json(text: String) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    response
}
