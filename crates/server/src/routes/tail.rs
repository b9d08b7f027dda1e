//! `GET /api/v1/tail/{stream}`: rows as they become durable, over WebSocket or server-sent events.
//!
//! Browsers cannot set headers on a WebSocket, so a key may also come as a subprotocol: the client
//! offers `weir` and `weir.key.<KEY>`, and `weir` is chosen.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde_json::{Map, Value};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use weir_api::tail::{TailMessage, TailParameters};
use weir_base::{ErrorKind, StreamName};
use weir_data::streams;
use weir_sql::RowFilter;

use super::query::problem;
use crate::app::App;
use crate::auth::Caller;
use crate::live::Watch;
use crate::problem::{Problem, Result};

/// How often an open tail looks whether its key still holds. Revocation must be effective within a
/// second.
const KEY_CHECK_INTERVAL: Duration = Duration::from_millis(900);
/// The most rows of one message.
const MESSAGE_ROWS_MAX: usize = 1000;
/// How long a quiet tail says nothing, so that proxies do not cut it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /api/v1/tail/{stream}`.
pub(crate) async fn tail(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(stream): Path<String>,
    Query(parameters): Query<TailParameters>,
    request: Request,
) -> Result<Response> {
    caller.require_query()?;
    let unknown = || {
        Problem::new(ErrorKind::NotFound, "there is no such stream").hint("SHOW TABLES lists the streams of the tenant")
    };
    let stream = StreamName::new(&stream).map_err(|_| unknown())?;
    if streams::stream(stream.as_str()).is_none() {
        return Err(unknown());
    }
    let filter = match &parameters.predicate {
        Some(predicate) => {
            Some(app.engine.row_filter(&caller.tenant.id, &stream, predicate).map_err(|error| problem(&error))?)
        }
        None => None,
    };
    let tails_max = usize::try_from(caller.tenant.limits.tails_concurrent_max).unwrap_or(usize::MAX);
    let open = app.live.count(&caller.tenant.id);
    if open >= tails_max {
        return Err(Problem::new(ErrorKind::Limit, "the tenant has as many tails open as it may").limit(
            "tails_concurrent_max",
            tails_max as u64,
            Some(open as u64),
        ));
    }
    let mut key_check = interval(KEY_CHECK_INTERVAL);
    key_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = app.live.watch(caller.tenant.id.clone(), stream);
    app.telemetry.tails_open.with([]).add(1);
    let tail =
        Tail { app, caller, watch, filter, left: parameters.limit, waiting: Vec::new(), key_check, ended: false };

    let (mut parts, _) = request.into_parts();
    if parts.headers.contains_key(http::header::SEC_WEBSOCKET_KEY) {
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
            .await
            .map_err(|error| Problem::new(ErrorKind::Input, error.to_string()))?;
        return Ok(upgrade.protocols(["weir"]).on_upgrade(|socket| over_websocket(tail, socket)));
    }
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events(tail)).keep_alive(keep_alive).into_response();
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One subscription on its way to a client.
struct Tail {
    app: Arc<App>,
    caller: Caller,
    watch: Watch,
    filter: Option<RowFilter>,
    left: Option<u64>,
    waiting: Vec<Map<String, Value>>,
    key_check: tokio::time::Interval,
    ended: bool,
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.app.telemetry.tails_open.with([]).add(-1);
    }
}

impl Tail {
    /// The next message; `None` after the last one.
    async fn next(&mut self) -> Option<TailMessage> {
        if self.ended {
            return None;
        }
        loop {
            let skipped = self.watch.take_skipped_rows();
            if skipped > 0 {
                self.app.telemetry.tail_rows_skipped.with([]).add(skipped);
                return Some(TailMessage::Skipped { rows: skipped });
            }
            if !self.waiting.is_empty() {
                let count = self.waiting.len().min(MESSAGE_ROWS_MAX);
                return Some(TailMessage::Rows { rows: self.waiting.drain(..count).collect() });
            }
            if self.left == Some(0) {
                return Some(self.end("limit", "as many rows as were asked for"));
            }
            tokio::select! {
                batch = self.watch.next() => match batch {
                    Some(batch) => {
                        if let Err(error) = self.take(&batch) {
                            return Some(self.end("error", &error));
                        }
                    }
                    None => return Some(self.end("shutdown", "the server stops, or the tenant was deleted")),
                },
                _ = self.key_check.tick() => {
                    if !self.caller.still_holds(&self.app.meta) {
                        return Some(self.end("revoked", "the key was revoked or has expired"));
                    }
                }
                () = self.app.shutdown.begun() => return Some(self.end("shutdown", "the server stops")),
            }
        }
    }

    fn end(&mut self, code: &str, detail: &str) -> TailMessage {
        self.ended = true;
        TailMessage::End { code: code.to_owned(), detail: detail.to_owned() }
    }

    fn take(&mut self, batch: &arrow::array::RecordBatch) -> std::result::Result<(), String> {
        let kept = match &self.filter {
            Some(filter) => filter.filter(batch).map_err(|error| error.to_string())?,
            None => batch.clone(),
        };
        let rows = match self.left {
            Some(left) => kept.num_rows().min(usize::try_from(left).unwrap_or(usize::MAX)),
            None => kept.num_rows(),
        };
        if let Some(left) = &mut self.left {
            *left -= rows as u64;
        }
        let lines = weir_sql::output::lines(&kept.slice(0, rows));
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let mut row: Map<String, Value> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            row.retain(|_, value| !value.is_null());
            self.waiting.push(row);
        }
        Ok(())
    }
}

fn text(message: &TailMessage) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

fn events(tail: Tail) -> impl Stream<Item = std::result::Result<Event, std::convert::Infallible>> {
    futures::stream::unfold(tail, |mut tail| async move {
        let message = tail.next().await?;
        Some((Ok(Event::default().data(text(&message))), tail))
    })
}

async fn over_websocket(mut tail: Tail, mut socket: WebSocket) {
    let mut ping = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            message = tail.next() => match message {
                Some(message) => socket.send(Message::Text(text(&message).into())).await,
                None => {
                    // The client may be gone already.
                    let _ = socket.send(Message::Close(None)).await;
                    return;
                }
            },
            received = socket.recv() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => Ok(()),
            },
            _ = ping.tick() => socket.send(Message::Ping(bytes::Bytes::new())).await,
        };
        if sent.is_err() {
            return;
        }
    }
}
