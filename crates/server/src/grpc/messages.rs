//! The messages of a request: a flag, a length of four bytes, and so many bytes, again and again.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use weir_base::ErrorKind;
use weir_base::error::grpc as code;
use weir_codecs::inflate::Encoding;

use super::{GRPC_ENCODING, Status};
use crate::net::body::{BodyError, BodyLimits, BodyReader, Pace, RequestBody, parse_encoding};
use crate::problem::Problem;

/// Flag and length.
const PREFIX_BYTES: usize = 5;
/// What is allocated ahead for a declared length.
const AHEAD_BYTES_MAX: usize = 256 * 1024;

/// Reads the messages of a call.
#[derive(Debug)]
pub struct Messages {
    reader: Arc<BodyReader>,
    body: Body,
    limits: BodyLimits,
    encoding: Encoding,
    /// Bytes that have come and belong to no message yet.
    rest: Bytes,
    pace: Pace,
}

impl Messages {
    /// The messages in `body`. An encoding that is not known is an error at once.
    pub fn new(reader: &Arc<BodyReader>, headers: &HeaderMap, body: Body, limits: BodyLimits) -> Result<Self, Status> {
        let encoding = match headers.get(GRPC_ENCODING) {
            None => Encoding::Identity,
            Some(name) => name.to_str().ok().and_then(parse_encoding).ok_or_else(|| {
                Status::new(code::UNIMPLEMENTED, "grpc-encoding is not supported; send identity, gzip or zstd")
            })?,
        };
        let pace = reader.pace();
        Ok(Self { reader: Arc::clone(reader), body, limits, encoding, rest: Bytes::new(), pace })
    }

    /// The one message of a unary call.
    pub async fn only(mut self) -> Result<RequestBody, Status> {
        let Some(message) = self.read(true).await? else {
            return Err(Status::new(code::INVALID_ARGUMENT, "the call has no message"));
        };
        let more = !self.rest.is_empty() || self.piece().await?.is_some();
        if more {
            return Err(Status::new(code::INVALID_ARGUMENT, "the call has more than one message"));
        }
        Ok(message)
    }

    /// The next message of a streaming call; none at its end. Between messages a client may be
    /// quiet for as long as its connection answers pings; within one it may not.
    pub async fn next(&mut self) -> Result<Option<RequestBody>, Status> {
        self.read(false).await
    }

    async fn read(&mut self, is_first_timed: bool) -> Result<Option<RequestBody>, Status> {
        if self.rest.is_empty() {
            let first = if is_first_timed {
                self.piece().await?
            } else {
                Pace::first_piece(&mut self.body).await.map_err(to_status)?
            };
            match first {
                None => return Ok(None),
                Some(piece) => self.rest = piece,
            }
        }
        self.pace.restart();
        let mut reservation = self.reader.budget().empty();
        self.fill(PREFIX_BYTES, &mut reservation).await?;
        let flag = self.rest.get_u8();
        let length = self.rest.get_u32() as usize;
        let encoding = match flag {
            0 => Encoding::Identity,
            1 if self.encoding == Encoding::Identity => {
                return Err(Status::new(code::INTERNAL, "a message is compressed and grpc-encoding names nothing"));
            }
            1 => self.encoding,
            _ => return Err(Status::new(code::INVALID_ARGUMENT, format!("the flag of a message is {flag}"))),
        };
        let max = self.limits.body_bytes_max;
        if length > max {
            return Err(to_status(BodyError::TooLarge { max, actual: length as u64 }));
        }
        self.fill(length, &mut reservation).await?;
        let message = self.rest.split_to(length);
        let decoded = self.reader.decode(encoding, message, reservation, self.limits.decoded_bytes_max).await;
        decoded.map(Some).map_err(to_status)
    }

    /// Reads until `rest` has at least `length` bytes, reserving them as they come.
    async fn fill(&mut self, length: usize, reservation: &mut crate::net::budget::Reservation) -> Result<(), Status> {
        let mut have = self.rest.len();
        reservation.grow_to(have.min(length)).await.map_err(|error| to_status(error.into()))?;
        if have >= length {
            return Ok(());
        }
        let mut buffer = BytesMut::with_capacity(length.min(AHEAD_BYTES_MAX).max(have));
        buffer.extend_from_slice(&self.rest);
        while have < length {
            let Some(piece) = self.piece().await? else {
                return Err(Status::new(code::INVALID_ARGUMENT, "the call ends in the middle of a message"));
            };
            have += piece.len();
            reservation
                .grow_to(have.min(length).next_multiple_of(4096))
                .await
                .map_err(|error| to_status(error.into()))?;
            buffer.extend_from_slice(&piece);
        }
        self.rest = buffer.freeze();
        Ok(())
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Status> {
        self.pace.piece(&mut self.body).await.map_err(to_status)
    }
}

fn to_status(error: BodyError) -> Status {
    if matches!(&error, BodyError::Gone(_)) {
        return Status::new(ErrorKind::Cancelled.grpc_status(), "the call was cancelled");
    }
    Status::from(Problem::from(error))
}
