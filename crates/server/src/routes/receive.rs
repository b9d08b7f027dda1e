//! What all receivers share: who sends, how much may be sent, the body within its bounds, and from
//! the decoded rows to the log.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use weir_base::{ErrorKind, Timestamp};
use weir_codecs::{DecodeError, Decoded, RowContext, events};
use weir_meta::limits::Limits;
use weir_meta::tenants::Tenant;

use crate::admission::Cost;
use crate::app::App;
use crate::auth::{Caller, has_credentials};
use crate::ingest::{Envelope, Outcome};
use crate::middleware::RequestId;
use crate::net::Peer;
use crate::net::body::{BodyLimits, RequestBody};
use crate::problem::{Problem, Result};

/// The header that makes a retried request harmless; in gRPC the metadata of the same name.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The most bytes of an idempotency key.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// Columns take at most about this many times the bytes they are decoded from; where a protocol can
/// do worse, its decoder counts.
const COLUMNS_PER_BODY: usize = 2;

/// The bounds on a body whose key is in the body: what Segment's SDKs send at most in a batch.
const KEYLESS_LIMITS: BodyLimits =
    BodyLimits { body_bytes_max: weir_codecs::segment::BATCH_BYTES_MAX, decoded_bytes_max: 1024 * 1024 };

/// What a receiver is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// Its name in metrics, `_usage` and `_rejected`.
    pub(crate) name: &'static str,
    /// The stream its rows belong to.
    pub(crate) stream: &'static str,
}

/// The sender of a request: known before its body is read, unless the key is in the body.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    source: Source,
    client: IpAddr,
    user_agent: Option<String>,
    request_id: String,
    idempotency_key: Option<String>,
    received_at: Timestamp,
}

/// A request whose sender may send and whose body is here.
#[derive(Debug)]
pub(crate) struct Incoming {
    sender: Sender,
    caller: Caller,
    body: RequestBody,
    /// What is reserved for columns, in times of the body.
    columns_per_body: usize,
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

impl Sender {
    /// What the head of a request says of its sender.
    pub(crate) fn of(app: &App, parts: &Parts, source: Source) -> Result<Self> {
        let peer = parts.extensions.get::<Peer>().ok_or_else(|| Problem::internal("a request without a peer"))?;
        let idempotency_key = text(&parts.headers, IDEMPOTENCY_KEY);
        if let Some(key) = &idempotency_key
            && (key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX)
        {
            return Err(Problem::new(
                ErrorKind::Input,
                format!("an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes"),
            )
            .pointer("Idempotency-Key"));
        }
        Ok(Self {
            source,
            client: app.proxies.client(peer.address.ip(), &parts.headers).address,
            user_agent: text(&parts.headers, USER_AGENT.as_str()),
            request_id: parts.extensions.get::<RequestId>().map_or_else(String::new, |id| id.as_str().to_owned()),
            idempotency_key,
            received_at: app.clock.now(),
        })
    }

    /// Who it is, by a key in the head or one found in the body.
    pub(crate) fn caller(&self, app: &App, headers: &HeaderMap, body_key: Option<&str>) -> Result<Caller> {
        let caller = app.authenticator.authenticate(headers, body_key, self.client)?;
        caller.require_ingest()?;
        Ok(caller)
    }

    /// With the body, once it is here and the tenant may send that much.
    pub(crate) fn with_body(self, app: &App, caller: Caller, body: RequestBody) -> Result<Incoming> {
        let cost = Cost { requests: 1, bytes: body.encoded_bytes as u64, ..Cost::default() };
        admit(app, &caller, cost)?;
        Ok(Incoming { sender: self, caller, body, columns_per_body: COLUMNS_PER_BODY })
    }

    /// What surrounds the rows of a request; `body` is the hash of it, if there is an idempotency key.
    fn envelope<'a>(&'a self, caller: &'a Caller, wire_bytes: usize, body: Option<u64>) -> Envelope<'a> {
        Envelope {
            tenant: &caller.tenant,
            key_id: &caller.principal.key_id,
            source: self.source.name,
            stream: self.source.stream,
            request_id: &self.request_id,
            idempotency_key: self.idempotency_key.as_deref().zip(body),
            wire_bytes,
            received_at: self.received_at,
        }
    }

    /// The sender of the next message of a stream. An idempotency key names a request, and a stream
    /// is many: it must not make all but the first message repetitions.
    pub(crate) fn of_message(&self, app: &App) -> Self {
        Self { idempotency_key: None, received_at: app.clock.now(), ..self.clone() }
    }
}

fn admit(app: &App, caller: &Caller, cost: Cost) -> Result<()> {
    let admitted = app.admission.admit(&caller.tenant.id, &caller.tenant.limits, cost).map_err(Problem::from);
    count_refusal(app, caller, admitted)
}

/// Counts what a limit refused.
fn count_refusal<T>(app: &App, caller: &Caller, result: Result<T>) -> Result<T> {
    if let Err(problem) = &result
        && let Some(limit) = problem.body(None).limit
    {
        app.telemetry.limit_refusals.with([caller.tenant.id.as_str(), &limit.name]).add(1);
    }
    result
}

/// The bounds on a tenant's bodies.
pub(crate) fn body_limits(limits: &Limits) -> BodyLimits {
    BodyLimits {
        body_bytes_max: limits.body_bytes_max.as_usize(),
        decoded_bytes_max: limits.decoded_bytes_max.as_usize(),
    }
}

/// What decoders are told of a request.
fn row_context<'a>(
    tenant: &'a Tenant,
    user_agent: &'a Option<String>,
    client: &'a str,
    received_at: Timestamp,
) -> RowContext<'a> {
    let limits = &tenant.limits;
    RowContext {
        tenant: tenant.id.as_str(),
        received_at,
        client_ip: Some(client),
        user_agent: user_agent.as_deref(),
        rows_max: usize::try_from(limits.rows_per_request_max).unwrap_or(usize::MAX),
        row_bytes_max: limits.row_bytes_max.as_usize(),
        value_bytes_max: limits.value_bytes_max.as_usize(),
        decoded_bytes_max: limits.decoded_bytes_max.as_usize(),
    }
}

impl Incoming {
    /// The same for a format whose bodies become `columns_per_body` times as large.
    pub(crate) fn expanding(self, columns_per_body: usize) -> Self {
        Self { columns_per_body, ..self }
    }

    /// Receives a request over plain HTTP. `body_key` finds a key in the body, for senders that
    /// cannot set headers; such a body is read before anybody knows whose it is, and must be small.
    pub(crate) async fn receive(
        app: &Arc<App>,
        request: Request,
        source: Source,
        body_key: Option<fn(&[u8]) -> Option<String>>,
    ) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let sender = Sender::of(app, &parts, source)?;
        match body_key.filter(|_| !has_credentials(&parts.headers)) {
            Some(body_key) => {
                let body = app.bodies.read(&parts.headers, body, KEYLESS_LIMITS).await?;
                let bytes = body.bytes.clone();
                let key = app.workers.run(bytes.len(), move || body_key(&bytes)).await?;
                let caller = sender.caller(app, &parts.headers, key.as_deref())?;
                sender.with_body(app, caller, body)
            }
            None => {
                let caller = sender.caller(app, &parts.headers, None)?;
                let body = read(app, &caller, &parts.headers, body).await?;
                sender.with_body(app, caller, body)
            }
        }
    }

    /// Makes the events of a small request durable together with those of others. Gives back a request
    /// that has to go its own way, for [`Incoming::decode_and_store`] to say what is wrong with it, if
    /// anything is.
    pub(crate) async fn gather_events(self, app: &Arc<App>) -> std::result::Result<Result<Outcome>, Self> {
        let suits = self.sender.idempotency_key.is_none()
            && self.body.bytes.len() <= events::FEW_BYTES_MAX
            && app.ingest.gathers(&self.caller.tenant);
        if !suits {
            return Err(self);
        }
        let Self { sender, caller, body, columns_per_body } = self;
        let RequestBody { bytes, encoded_bytes, mut reservation } = body;
        let reserved = reservation.grow_to(bytes.len() * (1 + columns_per_body)).await.map_err(Problem::from);
        if let Err(problem) = count_refusal(app, &caller, reserved) {
            return Ok(Err(problem));
        }
        let client = sender.client.to_string();
        let context = row_context(&caller.tenant, &sender.user_agent, &client, sender.received_at);
        let few = match app.workers.run_here(|| events::read_few(&bytes, &context)) {
            Ok(Some(few)) => few,
            Ok(None) | Err(_) => {
                let body = RequestBody { bytes, encoded_bytes, reservation };
                return Err(Self { sender, caller, body, columns_per_body });
            }
        };
        let cost = Cost { rows: few.len() as u64, ..Cost::default() };
        if let Err(problem) = admit(app, &caller, cost) {
            return Ok(Err(problem));
        }
        match app.ingest.gather(&caller.tenant, few, reservation).await {
            Ok(result) => {
                app.ingest.count(&sender.envelope(&caller, encoded_bytes, None), result.as_ref().ok());
                if result.is_err() {
                    app.admission.refund(&caller.tenant.id, cost);
                }
                Ok(result)
            }
            Err(reservation) => {
                app.admission.refund(&caller.tenant.id, cost);
                let body = RequestBody { bytes, encoded_bytes, reservation };
                Err(Self { sender, caller, body, columns_per_body })
            }
        }
    }

    /// Decodes the body and makes its rows durable.
    pub(crate) async fn decode_and_store(
        self,
        app: &Arc<App>,
        decode: impl FnOnce(&[u8], &RowContext<'_>) -> std::result::Result<Decoded, DecodeError> + Send + 'static,
    ) -> Result<Outcome> {
        let Self { sender, caller, body, columns_per_body } = self;
        let RequestBody { bytes, encoded_bytes, mut reservation } = body;
        let body_bytes = bytes.len();
        reservation
            .grow_to(bytes.len().saturating_mul(1 + columns_per_body).min(reservation_max(app)))
            .await
            .map_err(Problem::from)?;
        let (tenant, client, user_agent) =
            (Arc::clone(&caller.tenant), sender.client.to_string(), sender.user_agent.clone());
        let received_at = sender.received_at;
        let is_named = sender.idempotency_key.is_some();
        let work = move || {
            let context = row_context(&tenant, &user_agent, &client, received_at);
            let hash = is_named.then(|| body_hash(&bytes));
            (decode(&bytes, &context), hash, reservation)
        };
        let (decoded, body_hash, mut reservation) = app.workers.run(body_bytes, work).await?;
        let decoded = count_refusal(app, &caller, decoded.map_err(Problem::from))?;
        // What the columns really take stays reserved until the log has them: a few attributes of a
        // resource become many times their bytes when every row gets them.
        let columns: usize = decoded.batches.iter().map(|decoded| decoded.batch.get_array_memory_size()).sum();
        // What is kept of refused rows is copied into columns, too.
        let columns = columns + 2 * decoded.rejects.iter().map(|reject| reject.payload.len()).sum::<usize>();
        let reserved = reservation.grow_to(columns.min(reservation_max(app))).await.map_err(Problem::from);
        count_refusal(app, &caller, reserved)?;
        reservation.shrink_to(columns);
        let cost = Cost { rows: decoded.received as u64, ..Cost::default() };
        admit(app, &caller, cost)?;
        let envelope = sender.envelope(&caller, encoded_bytes, body_hash);
        match app.ingest.accept(envelope, decoded).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                app.admission.refund(&caller.tenant.id, cost);
                Err(error.into())
            }
        }
    }
}

/// What is remembered of a body beside its idempotency key: length and CRC32C, of what was decompressed. Cheaper than reading
/// the body once more is not to be had, and it is kept on disk, so it must not change.
fn body_hash(body: &[u8]) -> u64 {
    (body.len() as u64) << 32 | u64::from(weir_base::crc::crc32c(body))
}

/// A request larger than the whole budget is still decoded if its body fits: the budget bounds all
/// requests together, the tenant's limits bound one.
fn reservation_max(app: &App) -> usize {
    app.bodies.budget().total()
}

/// Reads a body within the tenant's bounds.
pub(crate) async fn read(app: &App, caller: &Caller, headers: &HeaderMap, body: Body) -> Result<RequestBody> {
    let read = app.bodies.read(headers, body, body_limits(&caller.tenant.limits)).await;
    count_refusal(app, caller, read.map_err(Problem::from))
}

/// Says in the reply that its rows are not on disk yet, where that is so.
pub(crate) fn with_durability(mut response: Response, outcome: &Outcome) -> Response {
    if outcome.memory_only {
        response.headers_mut().insert("weir-durability", HeaderValue::from_static("memory"));
    }
    response
}
