//! The one shape of an error reply: `application/problem+json` (RFC 9457) with a stable code.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The media type of [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request failed. Programs go by `code`, people read `detail` and `hint`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// A name for the class of the problem: `urn:weir:problem:` followed by the code.
    pub r#type: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code, lower case with underscores: `unauthenticated`, `too_large`, `limit`, ...
    pub code: Cow<'static, str>,
    /// What was wrong with this request.
    pub detail: String,
    /// Where it was wrong: a JSON pointer into the body, the name of a header or parameter, or
    /// `byte N`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The limit that was passed, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitPassed>,
    /// Further problems of the same request, where all are reported at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemPlace>,
    /// In how many seconds the request may succeed; the `Retry-After` header says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The id of the request, as in the `X-Request-Id` header and in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// A limit that a request passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitPassed {
    /// The name of the limit with its unit: `body_bytes_max`, `rows_per_second`, ...
    pub name: Cow<'static, str>,
    /// Its value.
    pub value: u64,
    /// What the request has, or what is in use; a lower bound where counting stopped early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
}

/// One of several problems of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProblemPlace {
    /// Where: a JSON pointer, or `line N column M`.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
