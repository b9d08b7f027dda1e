//! `GET /api/v1/tail/{stream}`: rows as they become durable, over WebSocket or server-sent events.
//!
//! Browsers cannot set headers on a WebSocket, so a key may also come as a subprotocol: the client
//! offers `weir` and `weir.key.<KEY>`, and `weir` is chosen.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde_json::{Map, Value};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use weir_api::tail::{TailMessage, TailParameters};
use weir_base::{ErrorKind, StreamName};
use weir_data::defined::HISTORY;
use weir_engine::Listening;
use weir_sql::nearest;

use super::Path;
use super::QueryString;
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
/// About so many bytes of rows in one message, unless one row alone has more: many clients take messages of up to 1 MiB.
const MESSAGE_BYTES_MAX: usize = 512 << 10;
/// The longest message a client may send over a WebSocket.
const CLIENT_MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// How long a quiet tail says nothing, so that proxies do not cut it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /api/v1/tail/{stream}`.
pub(crate) async fn tail(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(stream): Path<String>,
    QueryString(parameters): QueryString<TailParameters>,
    request: Request,
) -> Result<Response> {
    caller.require_query()?;
    let stream = stream_of(&app, &caller, &stream)?;
    check_count(&app, &caller)?;
    // Watching before compiling makes this one count while it does.
    let watch = app.live.watch(caller.tenant.id.clone(), stream.clone());
    let filter: Option<Filter> = match &parameters.predicate {
        Some(predicate) => {
            let filter = app.engine.row_filter(&caller.tenant.id, &stream, predicate).await;
            let filter = filter.map_err(|error| problem(&error))?;
            Some(Arc::new(move |batch| filter.filter(batch).map_err(|error| error.to_string())))
        }
        None => None,
    };
    follow(app, caller, Followed::Stream(watch), filter, parameters.limit, request).await
}

/// The stream of that name. What happens in the table with all revisions of a stream is what happens in the stream.
fn stream_of(app: &App, caller: &Caller, name: &str) -> Result<StreamName> {
    let (streams, tenant) = (app.meta.streams(), &caller.tenant.id);
    let known = match streams.get(tenant, name) {
        Some(stream) => Some(stream),
        None => {
            name.strip_suffix(HISTORY).and_then(|name| streams.get(tenant, name)).filter(|stream| stream.is_keyed())
        }
    };
    known.and_then(|stream| StreamName::new(&stream.name).ok()).ok_or_else(|| {
        let all = streams.all(tenant);
        let hint = match nearest(name, all.iter().map(|stream| stream.name.as_ref())) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => "SHOW TABLES lists the streams of the tenant".to_owned(),
        };
        Problem::new(ErrorKind::NotFound, "there is no such stream").hint(hint)
    })
}

/// Refuses one more tail than the tenant may have.
pub(super) fn check_count(app: &App, caller: &Caller) -> Result<()> {
    let tails_max = caller.tenant.limits.tails_concurrent_max;
    let open = (app.live.count(&caller.tenant.id) + app.pipelines.taps_open(&caller.tenant.id)) as u64;
    if open < tails_max {
        return Ok(());
    }
    Err(Problem::new(ErrorKind::Limit, "the tenant has as many tails open as it may").limit(
        "tails_concurrent_max",
        tails_max,
        Some(open),
    ))
}

/// Sends the rows of what is followed to the client, as it asked for it.
pub(super) async fn follow(
    app: Arc<App>,
    caller: Caller,
    followed: Followed,
    filter: Option<Filter>,
    limit: Option<u64>,
    request: Request,
) -> Result<Response> {
    let mut key_check = interval(KEY_CHECK_INTERVAL);
    key_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    app.telemetry.tails_open.with([]).add(1);
    let tail = Tail {
        app,
        caller,
        followed,
        filter,
        left: limit,
        batch: None,
        reading: None,
        waiting: VecDeque::new(),
        key_check,
        ended: false,
    };

    let (mut parts, _) = request.into_parts();
    if parts.headers.contains_key(http::header::SEC_WEBSOCKET_KEY) {
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
            .await
            .map_err(|error| Problem::new(ErrorKind::Input, error.to_string()))?;
        // Nothing a client has to say here is longer.
        let upgrade = upgrade.max_message_size(CLIENT_MESSAGE_BYTES_MAX).max_frame_size(CLIENT_MESSAGE_BYTES_MAX);
        return Ok(upgrade.protocols(["weir"]).on_upgrade(|socket| over_websocket(tail, socket)));
    }
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events(tail)).keep_alive(keep_alive).into_response();
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

type Row = Map<String, Value>;
type Rows = std::result::Result<VecDeque<Read>, String>;

/// A row with the bytes it takes as text.
struct Read {
    bytes: usize,
    row: Row,
}

/// What is left of a batch; the error is for people.
pub(super) type Filter = Arc<dyn Fn(&RecordBatch) -> std::result::Result<RecordBatch, String> + Send + Sync>;

/// What is followed.
pub(super) enum Followed {
    /// A stream: rows as they become durable.
    Stream(Watch),
    /// A part of a pipeline: rows as they pass.
    Part(Listening),
}

impl Followed {
    async fn next(&mut self) -> Option<RecordBatch> {
        match self {
            Self::Stream(watch) => watch.next().await,
            Self::Part(listening) => listening.next().await,
        }
    }

    fn take_skipped_rows(&self) -> u64 {
        match self {
            Self::Stream(watch) => watch.take_skipped_rows(),
            Self::Part(listening) => listening.take_missed_rows(),
        }
    }

    /// Why it has ended by itself, of a tenant that is still there.
    fn over(&self) -> &'static str {
        match self {
            Self::Stream(_) => "the server stops",
            Self::Part(_) => "the pipeline has ended or was started anew",
        }
    }
}

/// One subscription on its way to a client. Everything it waits for is kept here, so that
/// [`Tail::next`] can be dropped and called again without losing a row.
struct Tail {
    app: Arc<App>,
    caller: Caller,
    followed: Followed,
    filter: Option<Filter>,
    left: Option<u64>,
    /// What is left of the batch that is worked on.
    batch: Option<RecordBatch>,
    /// The slice that is being read.
    reading: Option<JoinHandle<Rows>>,
    waiting: VecDeque<Read>,
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
            let skipped = self.followed.take_skipped_rows();
            if skipped > 0 {
                self.app.telemetry.tail_rows_skipped.with([]).add(skipped);
                return Some(TailMessage::Skipped { rows: skipped });
            }
            if !self.waiting.is_empty() {
                return Some(TailMessage::Rows { rows: message_of(&mut self.waiting) });
            }
            if self.left == Some(0) {
                return Some(self.end("limit", "as many rows as were asked for"));
            }
            self.read_on();
            let idle = self.reading.is_none();
            let reading = async {
                match &mut self.reading {
                    Some(reading) => reading.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                rows = reading => {
                    self.reading = None;
                    match rows {
                        Ok(Ok(rows)) => {
                            if let Some(left) = &mut self.left {
                                *left = left.saturating_sub(rows.len() as u64);
                            }
                            self.waiting = rows;
                        }
                        Ok(Err(error)) => return Some(self.end("error", &error)),
                        Err(error) => {
                            tracing::error!(%error, "reading the rows of a tail panicked");
                            return Some(self.end("error", "the rows cannot be read"));
                        }
                    }
                }
                batch = self.followed.next(), if idle => match batch {
                    Some(batch) => self.batch = Some(batch),
                    None => {
                        let why = self.followed.over();
                        let gone = self.end_of_tenant();
                        return Some(gone.unwrap_or_else(|| self.end("shutdown", why)));
                    }
                },
                _ = self.key_check.tick() => {
                    if !self.caller.still_holds(&self.app.meta) {
                        // Its keys are gone before its streams are.
                        if let Some(end) = self.end_of_tenant() {
                            return Some(end);
                        }
                        return Some(self.end("revoked", "the key was revoked or has expired"));
                    }
                }
                () = self.app.shutdown.begun() => return Some(self.end("shutdown", "the server stops")),
            }
        }
    }

    /// The end, if the tenant was deleted.
    fn end_of_tenant(&mut self) -> Option<TailMessage> {
        let is_gone = matches!(self.app.meta.tenant(&self.caller.tenant.id), Ok(None));
        is_gone.then(|| self.end("tenant_deleted", "the tenant was deleted, with all its rows"))
    }

    fn end(&mut self, code: &str, detail: &str) -> TailMessage {
        self.ended = true;
        TailMessage::End { code: code.to_owned(), detail: detail.to_owned() }
    }

    /// Begins to read the next slice of the batch, on a thread where that delays nobody.
    fn read_on(&mut self) {
        if self.reading.is_some() {
            return;
        }
        let Some(batch) = self.batch.take() else { return };
        let count = batch.num_rows().min(MESSAGE_ROWS_MAX);
        let slice = batch.slice(0, count);
        if batch.num_rows() > count {
            self.batch = Some(batch.slice(count, batch.num_rows() - count));
        }
        let (filter, left) = (self.filter.clone(), self.left);
        self.reading = Some(spawn_blocking(move || read(&slice, filter.as_ref(), left)));
    }
}

/// The rows of a batch for a client, at most `left`.
fn read(batch: &RecordBatch, filter: Option<&Filter>, left: Option<u64>) -> Rows {
    let kept = match filter {
        Some(filter) => filter(batch)?,
        None => batch.clone(),
    };
    let rows = left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX)).min(kept.num_rows());
    let lines = weir_sql::output::lines(&kept.slice(0, rows));
    lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut row: Row = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            row.retain(|_, value| !value.is_null());
            Ok(Read { bytes: line.len(), row })
        })
        .collect()
}

/// Takes the rows of one message, at least one.
fn message_of(waiting: &mut VecDeque<Read>) -> Vec<Row> {
    let mut left = MESSAGE_BYTES_MAX;
    let mut rows = Vec::new();
    while let Some(first) = waiting.front()
        && (rows.is_empty() || first.bytes <= left)
    {
        left = left.saturating_sub(first.bytes);
        rows.extend(waiting.pop_front().map(|read| read.row));
    }
    rows
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_before_clients_refuse_it() {
        let sizes = [400 << 10, 100 << 10, 20 << 10, 3 << 20, 1];
        let mut waiting: VecDeque<Read> = sizes.map(|bytes| Read { bytes, row: Row::new() }).into();
        let messages: Vec<usize> =
            std::iter::from_fn(|| Some(message_of(&mut waiting).len()).filter(|n| *n > 0)).collect();
        // The third does not fit beside the first two; the fourth does not fit anywhere and goes alone.
        assert_eq!(messages, [2, 1, 1, 1]);
    }
}
