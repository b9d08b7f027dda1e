//! How the sessions of a tenant are made, as far as it says so itself.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_base::Diagnostic;
use weir_base::quantity::Span;

/// The most names of events that are conversions.
pub const CONVERSIONS_MAX: usize = 100;
/// The longest such name, in bytes.
const CONVERSION_BYTES_MAX: usize = 200;
/// The shortest time without an event after which the next one may begin a session, ...
const GAP_MIN: Duration = Duration::from_secs(1);
/// ... and the longest.
const GAP_MAX: Duration = Duration::from_secs(86_400);

/// How the sessions of a tenant are made, where that differs from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionSettings {
    /// Whether they are kept; not where the configuration has switched them off.
    pub enabled: Option<bool>,
    /// After so long without an event the next one begins a session.
    pub gap: Option<Span>,
    /// The names of events that are conversions.
    pub conversions: Option<Vec<String>>,
}

impl SessionSettings {
    /// Every problem, with `place` as the JSON pointer of the settings.
    pub(super) fn problems(&self, place: &str) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        let mut problem = |at: String, message: String, hint: &str| {
            problems.push(Diagnostic { message, place: at, hint: hint.to_owned() });
        };
        if let Some(gap) = self.gap.filter(|gap| !(GAP_MIN..=GAP_MAX).contains(&gap.0)) {
            problem(format!("{place}/gap"), format!("{gap} is no gap"), "from 1s to 1d; usual are 30m");
        }
        let names = self.conversions.as_deref().unwrap_or_default();
        if names.len() > CONVERSIONS_MAX {
            let message = format!("{} names are more than {CONVERSIONS_MAX}", names.len());
            problem(format!("{place}/conversions"), message, "");
        }
        for (at, name) in names.iter().enumerate() {
            if name.is_empty()
                || name.len() > CONVERSION_BYTES_MAX
                || name.chars().any(char::is_control)
                || name.contains("${")
            {
                let message = format!("a name has 1 to {CONVERSION_BYTES_MAX} bytes, no control character and no ${{");
                problem(format!("{place}/conversions/{at}"), message, "");
            }
        }
        problems
    }
}
