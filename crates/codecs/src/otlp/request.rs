//! The state of one request while it is decoded: budgets, counters and what is refused.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use weir_data::reject::PAYLOAD_BYTES_MAX;
use weir_data::{Reject, RejectCode};

use super::columns::NOT_UTF8;
use super::json::Source;
use super::wire::Broken;
use crate::{DecodeError, RowContext};

/// Between what a refused message is and its bytes.
const BASE64: &str = ", base64: ";

/// Why decoding of a part stopped.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// This row is bad; the others go on.
    Row(Box<RowFault>),
    /// The request as a whole is refused.
    Stop(Box<DecodeError>),
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowFault {
    pub(super) code: RejectCode,
    /// JSON pointer, relative to the row; grows at the front while the error travels up.
    pub(super) field: String,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn row(code: RejectCode, message: impl Into<String>) -> Self {
        Self::Row(Box::new(RowFault { code, field: String::new(), message: message.into() }))
    }

    /// The same fault, seen from the message that holds `field`.
    #[cold]
    pub(super) fn under(mut self, field: impl std::fmt::Display) -> Self {
        if let Self::Row(fault) = &mut self {
            fault.field = format!("/{field}{}", fault.field);
        }
        self
    }
}

impl From<&'static str> for Fault {
    #[cold]
    fn from(message: &'static str) -> Self {
        Self::row(RejectCode::Malformed, message)
    }
}

impl From<Broken> for Fault {
    #[cold]
    fn from(broken: Broken) -> Self {
        Self::row(RejectCode::Malformed, format!("{}, at byte {} of the message", broken.what, broken.at))
    }
}

impl From<DecodeError> for Fault {
    #[cold]
    fn from(error: DecodeError) -> Self {
        Self::Stop(Box::new(error))
    }
}

/// Adds the field's name to the faults below it.
pub(super) trait Under<T> {
    fn under(self, field: &'static str) -> Result<T, Fault>;
}

impl<T, E: Into<Fault>> Under<T> for Result<T, E> {
    #[inline]
    fn under(self, field: &'static str) -> Result<T, Fault> {
        self.map_err(|error| error.into().under(field))
    }
}

/// A text field, checked.
#[inline]
pub(super) fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::from(NOT_UTF8).under(field))
}

/// A row or value over a limit of its own.
#[cold]
pub(super) fn too_large(limit: &'static str, value: usize, actual: usize) -> Fault {
    Fault::row(RejectCode::TooLarge, format!("{limit} is {value}, and this has {actual} bytes"))
}

/// The most bytes that are kept of the refused rows of a request: they must not take what its good rows need.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// What a row is counted as beside its own bytes: numbers, offsets and validity of its columns.
const ROW_BYTES: usize = 96;

/// One request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) context: &'a RowContext<'a>,
    /// The protobuf bytes.
    pub(super) body: &'a [u8],
    /// Where the protobuf bytes come from, if they were JSON.
    pub(super) source: Option<&'a Source<'a>>,
    /// What a row is called, for people.
    pub(super) noun: &'static str,
    /// How many rows were met, good and bad.
    pub(super) received: usize,
    /// How many rows are stored.
    pub(super) rows: usize,
    pub(super) rejects: Vec<Reject>,
    budget: usize,
    budget_max: usize,
    /// How many bytes of refused rows may still be kept.
    kept_left: usize,
    /// The place of the row whose bytes were kept last.
    kept_at: Option<usize>,
}

impl<'a> Request<'a> {
    pub(super) fn new(
        context: &'a RowContext<'a>,
        body: &'a [u8],
        source: Option<&'a Source<'a>>,
        noun: &'static str,
    ) -> Self {
        // Half of what Arrow's offsets reach, so that no estimate has to be exact.
        let budget_max = context.decoded_bytes_max.min(1 << 30);
        Self {
            context,
            body,
            source,
            noun,
            received: 0,
            rows: 0,
            rejects: Vec::new(),
            budget: budget_max,
            budget_max,
            kept_left: KEPT_BYTES_MAX.min(budget_max / 16),
            kept_at: None,
        }
    }

    /// Counts `bytes` of decoded columns, before they are allocated where that can be known.
    #[inline]
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(self.over_budget(bytes)),
        }
    }

    #[cold]
    fn over_budget(&self, bytes: usize) -> DecodeError {
        DecodeError::TooLarge {
            limit: "decoded_bytes_max",
            value: self.budget_max as u64,
            actual: (self.budget_max - self.budget).saturating_add(bytes) as u64,
        }
    }

    /// How many bytes may still be decoded.
    pub(super) fn left(&self) -> usize {
        self.budget
    }

    /// Checks the size of a row. Of JSON the text was checked, not the protobuf made of it.
    #[inline]
    pub(super) fn check_row(&self, slice: &[u8]) -> Result<(), Fault> {
        if self.source.is_none() && slice.len() > self.context.row_bytes_max {
            return Err(too_large("row_bytes_max", self.context.row_bytes_max, slice.len()));
        }
        self.check_source(slice)
    }

    /// Counts one more row, good or bad.
    #[inline]
    pub(super) fn receive(&mut self) -> Result<(), DecodeError> {
        self.received += 1;
        if self.received > self.context.rows_max {
            return Err(DecodeError::TooLarge {
                limit: "rows_per_request_max",
                value: self.context.rows_max as u64,
                actual: self.received as u64,
            });
        }
        self.charge(ROW_BYTES)
    }

    /// Refuses the row that was received last.
    #[cold]
    pub(super) fn refuse(&mut self, slice: &[u8], fault: &RowFault) -> Result<(), DecodeError> {
        let at = self.offset(slice);
        let place = at.map(|at| format!(" at byte {at}")).unwrap_or_default();
        let what = format!("{} of {} bytes{place}", self.noun, slice.len());
        // What is refused as a whole is refused as several rows, and kept with the first.
        let is_kept = at.is_some() && at == self.kept_at;
        let payload = match self.source.and_then(|source| source.text_of(at?)) {
            _ if is_kept => what,
            Some(text) => text.to_owned(),
            None => match self.bytes_kept(slice, PAYLOAD_BYTES_MAX - what.len() - BASE64.len()) {
                Some(bytes) => format!("{what}{BASE64}{bytes}"),
                None => what,
            },
        };
        self.kept_at = at;
        let reject = Reject::new(self.received - 1, fault.code, &fault.field, fault.message.clone(), &payload);
        self.charge(size_of::<Reject>() + reject.field.len() + reject.message.len() + reject.payload.len())?;
        self.rejects.push(reject);
        Ok(())
    }

    /// The beginning of a protobuf message as text of at most so many bytes. `None` of one that was JSON, and where as much
    /// is kept of the request as may be.
    #[cold]
    fn bytes_kept(&mut self, slice: &[u8], bytes_max: usize) -> Option<String> {
        if self.source.is_some() {
            return None;
        }
        // Four characters for three bytes: what is cut is cut between those.
        let text = BASE64_STANDARD.encode(&slice[..slice.len().min(bytes_max / 4 * 3)]);
        self.kept_left = self.kept_left.checked_sub(text.len())?;
        Some(text)
    }

    /// Where `slice` lies in the protobuf bytes; `None` for a merged copy.
    pub(super) fn offset(&self, slice: &[u8]) -> Option<usize> {
        let at = slice.as_ptr().addr().checked_sub(self.body.as_ptr().addr())?;
        (at + slice.len() <= self.body.len()).then_some(at)
    }

    /// The whole request cannot be walked: a message on the way to the rows is broken.
    #[cold]
    pub(super) fn malformed(&self, message: &[u8], broken: Broken) -> DecodeError {
        let at = self.offset(message).unwrap_or(0) + broken.at;
        DecodeError::Malformed { message: broken.what.to_owned(), place: format!("byte {at}") }
    }

    /// What was found wrong with this message while it was JSON.
    #[inline]
    pub(super) fn check_source(&self, slice: &[u8]) -> Result<(), Fault> {
        match self.source {
            None => Ok(()),
            Some(source) => match self.offset(slice).and_then(|at| source.fault_at(at)) {
                None => Ok(()),
                Some(fault) => Err(Fault::Row(Box::new(fault.clone()))),
            },
        }
    }
}
