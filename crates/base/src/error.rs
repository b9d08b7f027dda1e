//! The closed set of error kinds, and the one table that decides what each becomes on the wire.
//!
//! Libraries have an error enum each; every variant has a kind, and the kind alone decides the HTTP
//! status, the gRPC status and how loudly it is logged.

use std::fmt;

use serde::Serialize;

/// What went wrong, as far as anyone outside has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The configuration is wrong.
    Config,
    /// The request is malformed.
    Input,
    /// The request is well formed, and every row in it is bad.
    Rejected,
    /// A size limit was passed.
    TooLarge,
    /// No credentials, or none that are valid.
    Unauthenticated,
    /// Valid credentials that do not allow this.
    Forbidden,
    /// No such thing, or a thing that belongs to somebody else.
    NotFound,
    /// The thing exists already or has changed meanwhile.
    Conflict,
    /// A rate or concurrency limit was passed; trying again later can succeed.
    Limit,
    /// No space left on the disk.
    Full,
    /// Something outside failed in a way that may pass.
    Transient,
    /// A deadline passed.
    Timeout,
    /// Stored bytes are damaged.
    Corrupt,
    /// A bug in Weir.
    Internal,
    /// The caller went away.
    Cancelled,
}

/// gRPC status codes, as numbered by the gRPC specification.
pub mod grpc {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const OK: u8 = 0;
    pub const CANCELLED: u8 = 1;
    pub const INVALID_ARGUMENT: u8 = 3;
    pub const DEADLINE_EXCEEDED: u8 = 4;
    pub const NOT_FOUND: u8 = 5;
    pub const ALREADY_EXISTS: u8 = 6;
    pub const PERMISSION_DENIED: u8 = 7;
    pub const RESOURCE_EXHAUSTED: u8 = 8;
    pub const UNIMPLEMENTED: u8 = 12;
    pub const INTERNAL: u8 = 13;
    pub const UNAVAILABLE: u8 = 14;
    pub const DATA_LOSS: u8 = 15;
    pub const UNAUTHENTICATED: u8 = 16;
}

/// How loudly a kind is logged. `Error` means that someone must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl ErrorKind {
    /// Every kind, in the order of the table.
    pub const ALL: [ErrorKind; 15] = [
        Self::Config,
        Self::Input,
        Self::Rejected,
        Self::TooLarge,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::Limit,
        Self::Full,
        Self::Transient,
        Self::Timeout,
        Self::Corrupt,
        Self::Internal,
        Self::Cancelled,
    ];

    /// The table: default code, HTTP status, gRPC status, log level.
    const fn row(self) -> (&'static str, u16, u8, LogLevel) {
        use LogLevel::{Debug, Error, Info, Warn};
        match self {
            Self::Config => ("config", 400, grpc::INVALID_ARGUMENT, Info),
            Self::Input => ("input", 400, grpc::INVALID_ARGUMENT, Info),
            Self::Rejected => ("rejected", 422, grpc::INVALID_ARGUMENT, Info),
            Self::TooLarge => ("too_large", 413, grpc::INVALID_ARGUMENT, Info),
            Self::Unauthenticated => ("unauthenticated", 401, grpc::UNAUTHENTICATED, Info),
            Self::Forbidden => ("forbidden", 403, grpc::PERMISSION_DENIED, Info),
            Self::NotFound => ("not_found", 404, grpc::NOT_FOUND, Info),
            Self::Conflict => ("conflict", 409, grpc::ALREADY_EXISTS, Info),
            Self::Limit => ("limit", 429, grpc::RESOURCE_EXHAUSTED, Info),
            Self::Full => ("full", 507, grpc::UNAVAILABLE, Error),
            Self::Transient => ("transient", 503, grpc::UNAVAILABLE, Warn),
            Self::Timeout => ("timeout", 504, grpc::DEADLINE_EXCEEDED, Warn),
            Self::Corrupt => ("corrupt", 500, grpc::DATA_LOSS, Error),
            Self::Internal => ("internal", 500, grpc::INTERNAL, Error),
            Self::Cancelled => ("cancelled", 499, grpc::CANCELLED, Debug),
        }
    }

    /// The stable code of the kind, in lower case with underscores.
    pub const fn code(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub const fn http_status(self) -> u16 {
        self.row().1
    }

    /// The gRPC status.
    pub const fn grpc_status(self) -> u8 {
        self.row().2
    }

    /// How loudly it is logged.
    pub const fn log_level(self) -> LogLevel {
        self.row().3
    }
}

/// Implemented by the error enum of every crate.
pub trait Kinded: std::error::Error {
    /// The kind that decides what this error becomes outside.
    fn kind(&self) -> ErrorKind;
}

/// One problem in something a user wrote: what, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// What is wrong, lower case, no full stop.
    pub message: String,
    /// Where: `file:line:column`, a JSON pointer, or a flag's name.
    pub place: String,
    /// What to do about it; empty if the message says it all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.message)?;
        if !self.hint.is_empty() {
            write!(formatter, " ({})", self.hint)?;
        }
        Ok(())
    }
}

/// The message of an error and of everything that caused it, joined by `: `.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
