//! The pipeline that keeps `sessions`: its document, and what of it tenants and operators choose.

use weir_base::quantity::Span;
use weir_meta::tenants::sessions::SessionSettings;

use crate::config::settings::SessionsConfig;

/// The pipeline as it ships, with the defaults. It is tried out by the text test beside it.
const DOCUMENT: &str = include_str!("sessions.yaml");
/// Where the gap is written in it, ...
const GAP: &str = "gap: 30m }";
/// ... the lateness, ...
const LATENESS: &str = "lateness: 1h\n";
/// ... and the names of conversions.
const CONVERSIONS: &str = "'purchase', 'checkout', 'signup'";

/// What one tenant's sessions are made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Whether they are kept.
    pub(super) is_on: bool,
    /// After so long without an event the next one begins a session.
    pub(super) gap: Span,
    /// How late an event may come to be part of one.
    pub(super) lateness: Span,
    conversions: Vec<String>,
}

impl Chosen {
    /// What the tenant chooses, and where it does not, the configuration.
    pub(super) fn new(config: &SessionsConfig, tenant: &SessionSettings) -> Self {
        Self {
            is_on: tenant.enabled.unwrap_or(true) && config.enabled,
            gap: tenant.gap.unwrap_or(config.gap),
            lateness: config.lateness,
            conversions: tenant.conversions.as_ref().unwrap_or(&config.conversions).clone(),
        }
    }

    /// The document. A first one begins with the oldest events there are; one that takes the place of another, where that stands.
    pub(super) fn document(&self) -> String {
        let names: Vec<String> = self.conversions.iter().map(|name| quoted(name)).collect();
        let names = if names.is_empty() { "''".to_owned() } else { names.join(", ") };
        DOCUMENT
            .replace(GAP, &format!("gap: {} }}", self.gap))
            .replace(LATENESS, &format!("lateness: {}\n", self.lateness))
            .replace(CONVERSIONS, &names)
    }
}

/// A text as a literal of SQL, within a text in double quotes of YAML.
fn quoted(name: &str) -> String {
    let literal = format!("'{}'", name.to_lowercase().replace('\'', "''"));
    literal.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_document::{NoFills, Syntax};
    use weir_pipelines::plan::GRAMMAR;

    use super::*;

    #[test]
    fn what_is_chosen_is_in_the_document() {
        for part in [GAP, LATENESS, CONVERSIONS] {
            assert_eq!(DOCUMENT.matches(part).count(), 1, "{part}");
        }
        let config = SessionsConfig::default();
        let by_default = Chosen::new(&config, &SessionSettings::default());
        assert!(by_default.is_on);
        assert_eq!(by_default.document(), DOCUMENT, "the document ships with the defaults");
        let odd = "It's \"half\" a \\ Sale";
        let own = SessionSettings {
            enabled: None,
            gap: Some(Span(Duration::from_secs(90))),
            conversions: Some(vec![odd.to_owned(), "Paid".to_owned()]),
        };
        let document = Chosen::new(&config, &own).document();
        assert!(document.contains("session: { gap: 90s }"), "{document}");
        let read = GRAMMAR.read("sessions.yaml", Syntax::Yaml, &document, &NoFills).unwrap();
        let set = read.steps[1].component.config().to_string();
        let expected = serde_json::to_string("lower(name) in ('it''s \"half\" a \\ sale', 'paid')").unwrap();
        assert!(set.contains(expected.trim_matches('"')), "{set}");
        let none = SessionSettings { conversions: Some(vec![]), ..SessionSettings::default() };
        assert!(Chosen::new(&config, &none).document().contains("lower(name) in ('')"));
        let off = SessionSettings { enabled: Some(false), ..SessionSettings::default() };
        assert!(!Chosen::new(&config, &off).is_on);
        let on = SessionSettings { enabled: Some(true), ..SessionSettings::default() };
        assert!(!Chosen::new(&SessionsConfig { enabled: false, ..config }, &on).is_on);
    }
}
