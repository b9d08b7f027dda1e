//! The one way a request's body is read.
//!
//! In this order, each step before the next one costs anything: the declared length against the
//! limit; the bytes as they come, against the limit, the global budget and the clock; then
//! decompression, with its output reserved before it is made. What is held in memory is reserved
//! from the budget until the caller drops the [`RequestBody`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, StatusCode};
use http_body::Body as HttpBody;
use tokio::time::{Instant, timeout_at};
use weir_base::{ErrorKind, Kinded};
use weir_codecs::DecodeError;
use weir_codecs::inflate::{Encoding, decompress};

use super::budget::{BudgetError, ByteBudget, Reservation};
use crate::problem::Problem;
use crate::work::{WorkError, Workers};

/// How patiently bodies are read.
#[derive(Clone, Debug)]
pub struct BodyOptions {
    /// How long a sender may send nothing.
    pub idle_timeout: Duration,
    /// The fewest bytes a second, averaged, a sender may send; counted after `idle_timeout`.
    pub bytes_per_second_min: u64,
    /// The most bytes all requests together may hold, encoded and decoded: the limit
    /// `decoded_bytes_in_flight_max`.
    pub in_flight_bytes_max: usize,
    /// How long a request waits for others to give back bytes before it is refused.
    pub in_flight_wait: Duration,
}

impl Default for BodyOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(30),
            bytes_per_second_min: 1024,
            in_flight_bytes_max: 128 << 20,
            in_flight_wait: Duration::from_millis(250),
        }
    }
}

/// How large the body of one request may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// As sent: `body_bytes_max`.
    pub body_bytes_max: usize,
    /// After decompression: `decoded_bytes_max`.
    pub decoded_bytes_max: usize,
}

/// Reads bodies under one budget.
#[derive(Debug)]
pub struct BodyReader {
    options: BodyOptions,
    budget: Arc<ByteBudget>,
    workers: Arc<Workers>,
}

/// A body, read and decompressed.
#[derive(Debug)]
pub struct RequestBody {
    /// The bytes, without any encoding.
    pub bytes: Bytes,
    /// How many bytes were sent.
    pub encoded_bytes: usize,
    /// What the bytes take of the budget. Grow it for what is made of them.
    pub reservation: Reservation,
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More bytes than allowed.
    #[error("the body is larger than {max} bytes")]
    TooLarge {
        /// The limit `body_bytes_max`.
        max: usize,
        /// The declared length, or what had come when reading was stopped.
        actual: u64,
    },
    /// The bytes came too slowly, or not at all.
    #[error("the body arrived too slowly: {received} bytes in {} s", elapsed.as_secs())]
    Slow {
        /// What had come.
        received: usize,
        /// In what time.
        elapsed: Duration,
    },
    /// An encoding that is not known, or more than one.
    #[error("content-encoding `{encoding}` is not supported")]
    Encoding {
        /// As sent, cut.
        encoding: String,
    },
    /// Too much is in flight.
    #[error("too much data is being received at the moment")]
    Budget(#[from] BudgetError),
    /// The bytes do not decompress.
    #[error("the body cannot be decompressed")]
    Decompress(#[source] DecodeError),
    /// The decompression failed in a way it must not.
    #[error("decompressing the body")]
    Work(#[from] WorkError),
    /// The chunks of the body are not as HTTP has them.
    #[error("the chunks of the body are malformed")]
    Framing(#[source] axum::Error),
    /// The sender went away.
    #[error("the sender went away in the middle of the body")]
    Gone(#[source] axum::Error),
}

impl Kinded for BodyError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Slow { .. } => ErrorKind::Timeout,
            Self::Encoding { .. } | Self::Framing(_) => ErrorKind::Input,
            Self::Budget(error) => error.kind(),
            Self::Decompress(error) => error.kind(),
            Self::Work(error) => error.kind(),
            Self::Gone(_) => ErrorKind::Cancelled,
        }
    }
}

impl BodyError {
    /// What [`Problem`] says beyond the kind and the message.
    pub(crate) fn describe(&self, problem: Problem) -> Problem {
        match self {
            // The rest of the body is still on its way and nobody will read it: the connection
            // cannot be used again.
            Self::TooLarge { max, actual } => {
                problem.limit("body_bytes_max", *max as u64, Some(*actual)).hint("send fewer rows in a request").close()
            }
            Self::Framing(_) => problem.code("malformed_chunks").pointer("Transfer-Encoding").close(),
            Self::Slow { .. } => problem.code("body_timeout").status(StatusCode::REQUEST_TIMEOUT).close(),
            Self::Encoding { .. } => problem
                .code("unsupported_encoding")
                .pointer("Content-Encoding")
                .hint("send gzip, zstd, deflate or identity, and only one of them"),
            Self::Budget(BudgetError::Busy { name, total, in_use }) => {
                problem.limit(*name, *total as u64, Some(*in_use as u64)).close()
            }
            Self::Budget(BudgetError::Never { name, total, wanted }) => {
                problem.limit(*name, *total as u64, Some(*wanted as u64)).hint("send fewer rows in a request").close()
            }
            Self::Decompress(DecodeError::TooLarge { limit, value, actual }) => {
                problem.limit(*limit, *value, Some(*actual)).hint("send fewer rows in a request")
            }
            Self::Decompress(_) => problem.code("malformed_encoding").pointer("Content-Encoding"),
            Self::Work(_) | Self::Gone(_) => problem,
        }
    }
}

/// Reservations grow in steps of this, so that a body in many small pieces is not many
/// reservations, and one small body not a large one.
const STEP_BYTES: usize = 4096;
/// The most time beyond the idle timeout a sender can earn by sending quickly.
const EARNED_MAX: Duration = Duration::from_secs(60);
/// What is allocated ahead for a declared length; declarations are cheap, bytes are not.
const AHEAD_BYTES_MAX: usize = 256 * 1024;

impl BodyReader {
    /// A reader with its own budget.
    pub fn new(options: BodyOptions, workers: Arc<Workers>) -> Arc<Self> {
        let budget =
            ByteBudget::new("decoded_bytes_in_flight_max", options.in_flight_bytes_max, options.in_flight_wait);
        Arc::new(Self { options, budget, workers })
    }

    /// The budget, to look at, and to reserve from for what is made of bodies.
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.budget
    }

    /// Reads a body to its end and undoes its `Content-Encoding`.
    pub async fn read(&self, headers: &HeaderMap, body: Body, limits: BodyLimits) -> Result<RequestBody, BodyError> {
        let encoding = content_encoding(headers)?;
        let declared = declared_length(headers);
        let (bytes, reservation) = self.receive(body, declared, limits.body_bytes_max).await?;
        self.decode(encoding, bytes, reservation, limits.decoded_bytes_max).await
    }

    /// Undoes an encoding. The output is reserved before it is made: first what telemetry usually
    /// needs, and if that is not enough, what the encoding can give at most.
    pub(crate) async fn decode(
        &self,
        encoding: Encoding,
        encoded: Bytes,
        mut reservation: Reservation,
        decoded_bytes_max: usize,
    ) -> Result<RequestBody, BodyError> {
        let encoded_bytes = encoded.len();
        if encoding == Encoding::Identity {
            if encoded_bytes > decoded_bytes_max {
                let (value, actual) = (decoded_bytes_max as u64, encoded_bytes as u64);
                return Err(BodyError::Decompress(DecodeError::TooLarge { limit: "decoded_bytes_max", value, actual }));
            }
            return Ok(RequestBody { bytes: encoded, encoded_bytes, reservation });
        }
        let usual = encoded_bytes.saturating_mul(16).max(64 * 1024);
        let most = encoded_bytes.saturating_mul(101).max(2 << 20);
        for out_max in [usual, most] {
            let out_max = out_max.min(decoded_bytes_max);
            reservation.grow_to(encoded_bytes.saturating_add(out_max)).await?;
            let input = encoded.clone();
            // The reservation goes along, so that it outlives the work if the caller goes away.
            let work = move || (decompress(encoding, &input, out_max), reservation);
            let (decoded, held) = self.workers.run(out_max.min(encoded_bytes.saturating_mul(8)), work).await?;
            reservation = held;
            match decoded {
                Ok(bytes) => {
                    drop(encoded);
                    reservation.shrink_to(bytes.len());
                    return Ok(RequestBody { bytes, encoded_bytes, reservation });
                }
                Err(DecodeError::TooLarge { .. }) if out_max < decoded_bytes_max && out_max < most => {}
                Err(error) => return Err(BodyError::Decompress(error)),
            }
        }
        let (value, actual) = (decoded_bytes_max as u64, most as u64);
        Err(BodyError::Decompress(DecodeError::TooLarge { limit: "decoded_bytes_max", value, actual }))
    }

    async fn receive(
        &self,
        mut body: Body,
        declared: Option<u64>,
        max: usize,
    ) -> Result<(Bytes, Reservation), BodyError> {
        if let Some(actual) = declared.filter(|length| *length > max as u64) {
            return Err(BodyError::TooLarge { max, actual });
        }
        let mut clock = self.pace();
        let mut reservation = self.budget.empty();
        let mut first = Bytes::new();
        let mut buffer = BytesMut::new();
        while let Some(piece) = clock.piece(&mut body).await? {
            let length = first.len() + buffer.len() + piece.len();
            if length > max {
                return Err(BodyError::TooLarge { max, actual: length as u64 });
            }
            reservation.grow_to(length.next_multiple_of(STEP_BYTES)).await?;
            if length == piece.len() {
                // Most bodies are one piece, and stay where they are.
                first = piece;
                continue;
            }
            if buffer.is_empty() {
                let declared = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
                buffer.reserve(length.max(declared.min(AHEAD_BYTES_MAX)));
                buffer.extend_from_slice(&first);
                first = Bytes::new();
            }
            buffer.extend_from_slice(&piece);
        }
        let bytes = if buffer.is_empty() { first } else { buffer.freeze() };
        Ok((bytes, reservation))
    }

    /// A clock for one sender, beginning now.
    pub(crate) fn pace(&self) -> Pace {
        let now = Instant::now();
        Pace {
            idle_timeout: self.options.idle_timeout,
            bytes_per_second_min: self.options.bytes_per_second_min.max(1),
            start: now,
            received: 0,
        }
    }
}

/// Judges how quickly one sender sends.
#[derive(Debug)]
pub(crate) struct Pace {
    idle_timeout: Duration,
    bytes_per_second_min: u64,
    start: Instant,
    received: usize,
}

impl Pace {
    /// The next piece of a body with at least one byte; none at its end.
    pub(crate) async fn piece(&mut self, body: &mut Body) -> Result<Option<Bytes>, BodyError> {
        let now = Instant::now();
        // What came quickly earns time, but not without bound: whoever sends most of a body at once
        // must not hold it in memory for hours.
        let earned = Duration::from_secs(self.received as u64 / self.bytes_per_second_min).min(EARNED_MAX);
        let deadline = (now + self.idle_timeout).min(self.start + self.idle_timeout + earned);
        match timeout_at(deadline, next_piece(body)).await {
            Ok(piece) => {
                self.received += piece.as_ref().ok().and_then(Option::as_ref).map_or(0, Bytes::len);
                piece
            }
            Err(_) => Err(BodyError::Slow { received: self.received, elapsed: self.start.elapsed() }),
        }
    }

    /// The first piece of what may come at any time.
    pub(crate) async fn first_piece(body: &mut Body) -> Result<Option<Bytes>, BodyError> {
        next_piece(body).await
    }

    /// Starts anew, for the next message of a stream that may be quiet between messages.
    pub(crate) fn restart(&mut self) {
        self.start = Instant::now();
        self.received = 0;
    }
}

async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, BodyError> {
    loop {
        match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            None => return Ok(None),
            Some(Err(error)) => return Err(broken(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) if !piece.is_empty() => return Ok(Some(piece)),
                // Trailers, or a frame of nothing: neither is progress.
                _ => {}
            },
        }
    }
}

/// Who sends nonsense is told so, while the connection can still carry an answer.
fn broken(error: axum::Error) -> BodyError {
    if is_malformed(&error) { BodyError::Framing(error) } else { BodyError::Gone(error) }
}

/// Whether hyper could not make sense of the chunks; it has no question for that.
fn is_malformed(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
        }
        cause = error.source();
    }
    false
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn content_encoding(headers: &HeaderMap) -> Result<Encoding, BodyError> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    let text = String::from_utf8_lossy(value.as_bytes());
    match parse_encoding(&text) {
        Some(encoding) if values.next().is_none() => Ok(encoding),
        _ => Err(BodyError::Encoding { encoding: text.chars().take(60).collect() }),
    }
}

/// The encoding of that name, as HTTP and gRPC have it.
pub(crate) fn parse_encoding(name: &str) -> Option<Encoding> {
    match name.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Some(Encoding::Identity),
        "gzip" | "x-gzip" => Some(Encoding::Gzip),
        "deflate" => Some(Encoding::Deflate),
        "zstd" => Some(Encoding::Zstd),
        _ => None,
    }
}
