//! What a tenant may use: one structure, with defaults by tier and overrides by tenant.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_base::quantity::{ByteSize, Span};
use weir_base::{Diagnostic, StreamName};

/// The class of a tenant; it gives the defaults of its [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Small limits, for trying Weir out.
    Free,
    /// The usual limits.
    Paid,
    /// Large limits; rates are not limited by default.
    Enterprise,
}

impl Tier {
    /// Every tier, smallest first.
    pub const ALL: [Tier; 3] = [Self::Free, Self::Paid, Self::Enterprise];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Paid => "paid",
            Self::Enterprise => "enterprise",
        }
    }

    /// The tier of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == text)
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const fn size(bytes: u64) -> ByteSize {
    ByteSize(bytes)
}

const fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

const fn days(days: u64) -> Span {
    Span(Duration::from_secs(days * 86_400))
}

/// A value a limit can have.
trait LimitValue {
    /// As a metric; spans in seconds. `None` if it is not one number.
    fn gauge(&self) -> Option<f64>;
}

impl LimitValue for u64 {
    fn gauge(&self) -> Option<f64> {
        Some(*self as f64)
    }
}

impl LimitValue for ByteSize {
    fn gauge(&self) -> Option<f64> {
        Some(self.0 as f64)
    }
}

impl LimitValue for Span {
    fn gauge(&self) -> Option<f64> {
        Some(self.0.as_secs_f64())
    }
}

impl LimitValue for BTreeMap<StreamName, Span> {
    fn gauge(&self) -> Option<f64> {
        None
    }
}

/// Declares each limit once: documentation, type, defaults of the three tiers, and whether 0 (which
/// then means "no limit") may be given.
macro_rules! limits {
    ($( $(#[doc = $doc:literal])+ $name:ident: $type:ty = [$free:expr, $paid:expr, $enterprise:expr], zero $zero:ident; )+) => {
        /// The limits of a tenant, all of them given.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct Limits {
            $( $(#[doc = $doc])+ pub $name: $type, )+
        }

        /// Limits that differ from the tier's defaults; what is absent stays as it is.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct LimitOverrides {
            $(
                $(#[doc = $doc])+
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type>,
            )+
        }

        impl Limits {
            /// The names of all limits.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),+];

            /// The defaults of a tier.
            pub fn of_tier(tier: Tier) -> Self {
                match tier {
                    Tier::Free => Self { $($name: $free),+ },
                    Tier::Paid => Self { $($name: $paid),+ },
                    Tier::Enterprise => Self { $($name: $enterprise),+ },
                }
            }

            /// These limits with the given overrides.
            pub fn with(&self, overrides: &LimitOverrides) -> Self {
                Self { $($name: overrides.$name.clone().unwrap_or_else(|| self.$name.clone())),+ }
            }

            /// Every limit that is one number, by name, for the metrics; spans in seconds.
            pub fn gauges(&self) -> Vec<(&'static str, f64)> {
                let all = [$((stringify!($name), self.$name.gauge())),+];
                all.into_iter().filter_map(|(name, gauge)| gauge.map(|gauge| (name, gauge))).collect()
            }
        }

        impl LimitOverrides {
            /// Takes one field of a JSON object; `null` takes the override away.
            fn set(&mut self, name: &str, value: &serde_json::Value) -> Result<(), Problem> {
                match name {
                    $(stringify!($name) => {
                        if value.is_null() {
                            self.$name = None;
                            return Ok(());
                        }
                        let value: $type = serde_json::from_value(value.clone()).map_err(Problem::Value)?;
                        if zero_refused!($zero) && value.gauge() == Some(0.0) {
                            return Err(Problem::Zero);
                        }
                        self.$name = Some(value);
                        Ok(())
                    })+
                    _ => Err(Problem::Unknown),
                }
            }

            /// Problems of overrides that were not read by [`LimitOverrides::merge`]: (name, message).
            pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
                let mut problems = Vec::new();
                $(
                    if zero_refused!($zero) && self.$name.as_ref().is_some_and(|value| value.gauge() == Some(0.0)) {
                        problems.push((stringify!($name), ZERO_MESSAGE));
                    }
                )+
                problems
            }
        }
    };
}

macro_rules! zero_refused {
    (refused) => {
        true
    };
    (unlimited) => {
        false
    };
}

const ZERO_MESSAGE: &str = "must be more than 0";

enum Problem {
    Unknown,
    Zero,
    Value(serde_json::Error),
}

limits! {
    /// Largest request body, as sent (compressed or not).
    body_bytes_max: ByteSize = [size(4 * MIB), size(16 * MIB), size(64 * MIB)], zero refused;
    /// Largest request body after decompression and decoding.
    decoded_bytes_max: ByteSize = [size(32 * MIB), size(64 * MIB), size(256 * MIB)], zero refused;
    /// Largest row (event, log record, span, data point), decoded.
    row_bytes_max: ByteSize = [size(256 * KIB), size(MIB), size(4 * MIB)], zero refused;
    /// Largest single value within a row: one property, attribute or text.
    value_bytes_max: ByteSize = [size(64 * KIB), size(256 * KIB), size(MIB)], zero refused;
    /// Most rows in one request.
    rows_per_request_max: u64 = [10_000, 50_000, 200_000], zero refused;
    /// Rows accepted each second, averaged; 0 is no limit.
    rows_per_second: u64 = [5_000, 50_000, 0], zero unlimited;
    /// Rows accepted at once after a quiet time, on top of the rate.
    rows_burst: u64 = [50_000, 500_000, 2_000_000], zero refused;
    /// Bytes of request bodies accepted each second, averaged; 0 is no limit.
    bytes_per_second: ByteSize = [size(8 * MIB), size(64 * MIB), size(0)], zero unlimited;
    /// Bytes of request bodies accepted at once after a quiet time, on top of the rate.
    bytes_burst: ByteSize = [size(64 * MIB), size(512 * MIB), size(2 * GIB)], zero refused;
    /// Most attribute keys with a kind of their own in each stream; further keys are stored and read as text.
    attribute_keys_max: u64 = [1_000, 5_000, 20_000], zero refused;
    /// Most bytes of table files at rest; beyond it new rows are refused. 0 is no limit.
    storage_bytes_max: ByteSize = [size(10 * GIB), size(TIB), size(0)], zero unlimited;
    /// How long rows are kept.
    retention: Span = [days(7), days(30), days(365)], zero refused;
    /// How long rows of a stream are kept, where it differs from `retention`; for example `{"spans": "3d"}`.
    retention_by_stream: BTreeMap<StreamName, Span> = [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()], zero refused;
    /// Queries that may run at the same time.
    queries_concurrent_max: u64 = [4, 8, 32], zero refused;
    /// Memory the tenant's running queries may use together; what is more goes to disk, or the query fails.
    query_memory_bytes_max: ByteSize = [size(128 * MIB), size(512 * MIB), size(2 * GIB)], zero refused;
    /// How long one query may run.
    query_time_max: Span = [seconds(30), seconds(120), seconds(600)], zero refused;
    /// Most rows one query may return; 0 is no limit.
    query_rows_max: u64 = [1_000_000, 10_000_000, 0], zero unlimited;
    /// Most keys that are neither revoked nor expired.
    keys_max: u64 = [20, 200, 2_000], zero refused;
    /// Live tails that may be open at the same time.
    tails_concurrent_max: u64 = [4, 20, 100], zero refused;
    /// Most pipelines, running or stopped.
    pipelines_max: u64 = [5, 50, 500], zero refused;
    /// Memory the state of one pipeline may take; a pipeline that needs more stops, and says so.
    pipeline_state_bytes_max: ByteSize = [size(64 * MIB), size(512 * MIB), size(2 * GIB)], zero refused;
}

impl Limits {
    /// How long rows of that stream are kept.
    pub fn retention_of(&self, stream: &StreamName) -> Duration {
        self.retention_by_stream.get(stream).unwrap_or(&self.retention).0
    }
}

impl LimitOverrides {
    /// These overrides changed by a JSON object: a value sets one, `null` takes one away, what is
    /// absent stays. `place` is the JSON pointer of the object.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn merge(&self, patch: &serde_json::Value, place: &str) -> Result<Self, Vec<Diagnostic>> {
        let diagnostic = |place: String, message: String, hint: String| Diagnostic { message, place, hint };
        let Some(object) = patch.as_object() else {
            return Err(vec![diagnostic(place.to_owned(), "limits must be an object".to_owned(), String::new())]);
        };
        let mut merged = self.clone();
        let mut problems = Vec::new();
        for (name, value) in object {
            let at = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
            match merged.set(name, value) {
                Ok(()) => {}
                Err(Problem::Unknown) => {
                    problems.push(diagnostic(at, format!("there is no limit `{name}`"), nearest(name)));
                }
                Err(Problem::Zero) => problems.push(diagnostic(at, ZERO_MESSAGE.to_owned(), String::new())),
                Err(Problem::Value(error)) => problems.push(diagnostic(at, error.to_string(), String::new())),
            }
        }
        if problems.is_empty() { Ok(merged) } else { Err(problems) }
    }

    /// These overrides, and where they are silent those of `base`.
    pub fn or(&self, base: &Self) -> Self {
        // Both are plain data: the detour over JSON keeps one list of fields.
        let (Ok(serde_json::Value::Object(mut merged)), Ok(serde_json::Value::Object(own))) =
            (serde_json::to_value(base), serde_json::to_value(self))
        else {
            return self.clone();
        };
        merged.extend(own);
        serde_json::from_value(serde_json::Value::Object(merged)).unwrap_or_else(|_| self.clone())
    }
}

fn nearest(name: &str) -> String {
    let best = Limits::NAMES.iter().map(|known| (strsim::damerau_levenshtein(name, known), known)).min();
    match best {
        Some((distance, known)) if distance <= name.len().max(known.len()) / 3 => format!("did you mean `{known}`?"),
        _ => format!("known are {}", Limits::NAMES.join(", ")),
    }
}

#[cfg(test)]
mod tests;
