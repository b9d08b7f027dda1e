//! The routes: what each address answers.
//!
//! A handler reads the caller, does one thing, and returns a reply or a [`Problem`]. Everything all
//! routes share (request ids, panics, compression, CORS, counting) is in the layers around them.

pub(crate) mod deadletters;
mod draft;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod metrics;
pub(crate) mod otap;
pub(crate) mod otlp;
pub(crate) mod pipelines;
pub(crate) mod query;
pub(crate) mod receive;
pub(crate) mod savepoints;
pub(crate) mod segment;
pub mod table;
pub(crate) mod tail;
pub(crate) mod tap;
pub(crate) mod tenants;
pub(crate) mod time;

use std::sync::Arc;

use axum::Router;
use axum::extract::path::ErrorKind as PathError;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Query};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::request::Parts;
use serde::de::DeserializeOwned;
use weir_base::{ErrorKind, Kinded};

use crate::app::App;
use crate::auth::{Caller, MaybeCaller, has_credentials};
use crate::middleware::{self, Surroundings};
use crate::net::Peer;
use crate::problem::{self, Problem, Result};
pub(crate) use draft::{Draft, JsonBody};

/// The most bytes of a request that manages something.
const MANAGEMENT_BODY_BYTES_MAX: usize = 1024 * 1024;

/// The routes of the main port.
pub(crate) fn http(app: &Arc<App>) -> Router {
    let routes =
        table::routes().iter().fold(Router::new(), |router, route| router.route(route.path(), route.handler()));
    finish(app, routes)
}

/// The routes of the OTLP/HTTP port.
pub(crate) fn otlp_http(app: &Arc<App>) -> Router {
    let handlers = otlp::http_handlers().into_iter().chain(otap::http_handlers());
    finish(app, handlers.fold(Router::new(), |router, (path, _, handler)| router.route(path, handler)))
}

/// The routes of the OTLP/gRPC port.
pub(crate) fn otlp_grpc(app: &Arc<App>) -> Router {
    finish(app, otlp::grpc_routes().merge(otap::grpc_routes()))
}

fn finish(app: &Arc<App>, routes: Router<Arc<App>>) -> Router {
    let routes = routes
        .fallback(problem::route_not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(Arc::clone(app));
    let surroundings = Surroundings { clock: Arc::clone(&app.clock), observer: Arc::clone(&app.telemetry) as _ };
    middleware::around(routes, surroundings)
}

/// Runs work that reads or writes the disk off the I/O threads.
pub(crate) async fn blocking<T, E>(work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    E: Kinded + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Problem::from),
        Err(error) => Err(Problem::internal(error.to_string())),
    }
}

/// Makes a change to its end, also if the client goes away in the middle of it: what is stopped for it is to run again.
pub(crate) async fn whole<T: Send + 'static>(change: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match middleware::spawned(change).await {
        Ok(result) => result,
        Err(error) => Err(Problem::internal(error.to_string())),
    }
}

/// The prefix of a WebSocket subprotocol that carries a key, for browsers.
const KEY_SUBPROTOCOL: &str = "weir.key.";

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let peer = parts.extensions.get::<Peer>().ok_or_else(|| Problem::internal("a request without a peer"))?;
        let client = app.proxies.client(peer.address.ip(), &parts.headers).address;
        let offered = parts.headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
        let offered =
            offered.and_then(|names| names.split(',').find_map(|name| name.trim().strip_prefix(KEY_SUBPROTOCOL)));
        Ok(app.authenticator.authenticate(&parts.headers, offered, client)?)
    }
}

impl FromRequestParts<Arc<App>> for MaybeCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        if has_credentials(&parts.headers) {
            Caller::from_request_parts(parts, app).await.map(|caller| Self(Some(caller)))
        } else {
            Ok(Self(None))
        }
    }
}

/// What a route takes out of the path of a request.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(found)| Self(found)).map_err(|rejection| match rejection {
            PathRejection::FailedToDeserializePathParams(wrong) => {
                let problem = Problem::new(ErrorKind::Input, wrong.body_text()).pointer("the path");
                match wrong.kind() {
                    PathError::InvalidUtf8InPathParam { .. } => problem.hint(
                        "what stands behind % in a path has to be the bytes of UTF-8, as two hexadecimal digits each",
                    ),
                    _ => problem.hint("GET /api/openapi.json says what stands in the paths there are"),
                }
            }
            other => Problem::internal(other.body_text()),
        })
    }
}

/// The query string of a request.
pub(crate) struct QueryString<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(parameters)| Self(parameters))
            .map_err(|rejection| Problem::new(ErrorKind::Input, rejection.body_text()).pointer("the query string"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use axum::body::Body;
    use axum::extract::Request;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_bad_path_is_told_what_is_wrong_with_it() {
        for (path, expected) in [("/x/%ff", "behind %"), ("/x/many", "openapi.json")] {
            let routes: Router = Router::new().route("/x/{n}", get(async |Path(n): Path<u64>| n.to_string()));
            let reply = routes.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            let problem = reply.extensions().get::<Arc<Problem>>().unwrap();
            assert_eq!(problem.http_status().as_u16(), 400);
            let message = problem.message();
            assert!(message.contains(expected), "{path}: {message}");
            assert_eq!(message.contains('%'), path.contains('%'), "{path}: {message}");
        }
    }
}
