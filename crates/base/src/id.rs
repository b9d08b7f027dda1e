//! Identifiers of tenants and streams: checked once where they enter, cheap to clone afterwards.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: {rule}")]
pub struct InvalidId {
    what: &'static str,
    rule: &'static str,
    /// The offending text, cut to 80 characters.
    pub text: String,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and takes it.
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                let check: fn(&[u8]) -> bool = $check;
                if check(text.as_bytes()) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { what: $what, rule: $rule, text: text.chars().take(80).collect() })
                }
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, formatter)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "maxLength": 64, "description": $rule })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn tail_ok(bytes: &[u8], allowed: fn(u8) -> bool) -> bool {
    bytes.len() <= 64 && bytes.iter().all(|byte| allowed(*byte))
}

identifier!(
    /// An owner of data: `^[a-z0-9][a-z0-9_-]{0,63}$`. A UUID fits.
    TenantId,
    "tenant id",
    "1 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit",
    |bytes| {
        bytes.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && tail_ok(bytes, |byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
            })
    }
);

identifier!(
    /// A stream, and the table of the same name: `^[a-z_][a-z0-9_]{0,63}$`. A leading underscore
    /// marks the streams Weir keeps itself (`_rejected`, `_usage`).
    StreamName,
    "stream name",
    "1 to 64 of a-z, 0-9 and _, not beginning with a digit",
    |bytes| {
        bytes.first().is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'_')
            && tail_ok(bytes, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    }
);

impl TenantId {
    /// The operator's own tenant: Weir's metrics and logs are rows of it.
    pub fn system() -> Self {
        Self("system".into())
    }
}
