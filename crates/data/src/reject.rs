//! Rows that cannot be stored, with the reason. Bad rows are data, not failure: decoders return
//! them beside the good ones, and they become rows of `_rejected`.

/// Why a row was refused. The texts are contract: they stand in replies and in `_rejected.code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectCode {
    /// Not valid JSON, or not the shape the protocol asks for.
    Malformed,
    /// A field that must be there is not.
    MissingField,
    /// A field has the wrong type.
    WrongType,
    /// A field has the right type and a value outside its range.
    OutOfRange,
    /// The event's `type` is none of those known.
    UnknownType,
    /// The row, or one of its fields, is larger than the tenant's limit.
    TooLarge,
    /// The row names another tenant.
    WrongTenant,
}

impl RejectCode {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::UnknownType => "unknown_type",
            Self::TooLarge => "too_large",
            Self::WrongTenant => "wrong_tenant",
        }
    }
}

/// The longest payload kept of a refused row, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// One refused row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Which row of the request, counted from 0.
    pub index: usize,
    /// Why.
    pub code: RejectCode,
    /// What was wrong, for people: lower case, no full stop.
    pub message: String,
    /// The field, as a JSON pointer relative to the row; empty for the row as a whole.
    pub field: String,
    /// What was sent, cut to [`PAYLOAD_BYTES_MAX`]; JSON where the protocol is JSON, else a
    /// description with the bytes in base64.
    pub payload: String,
}

impl Reject {
    /// A reject whose payload is cut to what is kept.
    pub fn new(index: usize, code: RejectCode, field: &str, message: String, payload: &str) -> Self {
        let mut end = payload.len().min(PAYLOAD_BYTES_MAX);
        while !payload.is_char_boundary(end) {
            end -= 1;
        }
        Self { index, code, message, field: field.to_owned(), payload: payload[..end].to_owned() }
    }
}
