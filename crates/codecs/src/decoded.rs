//! What every decoder is given and gives back.

use std::time::Duration;

use arrow::array::RecordBatch;
use weir_base::{ErrorKind, Kinded, Timestamp};
use weir_data::Reject;
use weir_data::attributes::ObservedKey;

/// What a decoder must know about the request it decodes.
#[derive(Clone, Debug)]
pub struct RowContext<'a> {
    /// The tenant of the key; a row that names another one is refused.
    pub tenant: &'a str,
    /// When the request arrived; becomes `received_at`.
    pub received_at: Timestamp,
    /// The client's address as text, for protocols that record it.
    pub client_ip: Option<&'a str>,
    /// The request's `User-Agent`, used where an event names none.
    pub user_agent: Option<&'a str>,
    /// The most rows one request may hold.
    pub rows_max: usize,
    /// The most bytes one row may have, as sent.
    pub row_bytes_max: usize,
    /// The most bytes one property or attribute value may have, as sent.
    pub value_bytes_max: usize,
    /// The most bytes the decoded columns may take.
    pub decoded_bytes_max: usize,
}

/// Rows of one stream out of a request.
#[derive(Clone, Debug)]
pub struct DecodedBatch {
    /// The stream: one of [`weir_data::streams::STREAMS`].
    pub stream: &'static str,
    /// The rows; columns that are all null are left out.
    pub batch: RecordBatch,
    /// Attribute keys met, by open column.
    pub observed: Vec<(&'static str, Vec<ObservedKey>)>,
}

/// A decoded request: good rows and bad ones.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// The good rows, at most one batch a stream; batches have at least one row.
    pub batches: Vec<DecodedBatch>,
    /// The bad rows.
    pub rejects: Vec<Reject>,
    /// How many rows the request held, good and bad.
    pub received: usize,
}

/// Why a request as a whole cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not what they claim to be.
    #[error("{message}")]
    Malformed {
        /// What is wrong.
        message: String,
        /// Where: a JSON pointer, or `byte N`.
        place: String,
    },
    /// A limit was passed.
    #[error("{limit} is {value}, and the request has {actual} or more")]
    TooLarge {
        /// The name of the limit with its unit, for example `rows_per_request_max`.
        limit: &'static str,
        /// Its value.
        value: u64,
        /// What the request has; a lower bound where counting stopped early.
        actual: u64,
    },
    /// The body names a tenant that is not the key's.
    #[error("the body names another tenant than the key's")]
    WrongTenant,
    /// The body is in a format this route does not take.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
}

impl Kinded for DecodeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Malformed { .. } | Self::Unsupported { .. } => ErrorKind::Input,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::WrongTenant => ErrorKind::Forbidden,
        }
    }
}

/// A row this much older than its arrival is flagged `late`.
pub const LATE_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A row this much ahead of its arrival is flagged `early`.
pub const EARLY_AFTER: Duration = Duration::from_secs(60 * 60);
/// The flag of a row whose given time cannot be a time; its `time` is its arrival.
pub const IMPOSSIBLE: &str = "impossible";

/// The `time_flag` of a row that happened at `time` as far as its sender says.
pub fn time_flag(time: Timestamp, received_at: Timestamp) -> Option<&'static str> {
    if time < received_at.minus(LATE_AFTER) {
        Some("late")
    } else if time > received_at.plus(EARLY_AFTER) {
        Some("early")
    } else {
        None
    }
}
