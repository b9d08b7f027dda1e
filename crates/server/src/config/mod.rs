//! The configuration of `weir serve`: what may be written ([`settings`]), how it is read, and the
//! pages that describe it.
//!
//! Flags go before environment variables, these before the file, and the file before the defaults.
//! Each source is read into a tree that knows the place of every part, checked against a schema made
//! from the structs, and only what is right is merged and turned into the structs. So every problem
//! of every source is reported at once, with its place.
//!
//! Nothing here is started or bound; the only files touched are the configuration file and, to see
//! that they can be read, the certificates.

pub mod environment;
mod options;
mod reference;
mod schema;
pub mod settings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use weir_base::Diagnostic;
use weir_document::read::text_of_file;
use weir_document::{Checked, Node, Place, Problem, Value};
use weir_meta::limits::Tier;

pub use reference::{annotated_example_yaml, reference_markdown};
use schema::schema;
pub use settings::Config;

/// What was given on the command line; it goes before everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--http`
    pub http: Option<String>,
    /// `--otlp-grpc`
    pub otlp_grpc: Option<String>,
    /// `--otlp-http`
    pub otlp_http: Option<String>,
}

impl Overrides {
    fn sources(self) -> Vec<Node> {
        let data_dir = self.data_dir.map(|path| path.to_string_lossy().into_owned());
        let flags = [
            ("--data-dir", &["data_dir"][..], data_dir),
            ("--http", &["http", "address"], self.http),
            ("--otlp-grpc", &["otlp_grpc", "address"], self.otlp_grpc),
            ("--otlp-http", &["otlp_http", "address"], self.otlp_http),
        ];
        let source = |(flag, path, text): (&str, &[&str], Option<String>)| {
            let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
            text.map(|text| environment::assignment(&Place::named(flag), &path, Value::Loose(text)))
        };
        flags.into_iter().filter_map(source).collect()
    }
}

impl Config {
    /// Reads the configuration from all its sources.
    ///
    /// # Errors
    /// Every problem of every source, in the order file, environment, flags.
    pub fn load(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
        flags: Overrides,
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let mut merged = defaults();
        if let Some(path) = file
            && let Some((syntax, text)) = text_of_file(path, "configuration file", &mut problems)
        {
            let parsed = syntax.parse(&path.display().to_string(), &text);
            merged.overlay(schema().check_file(&parsed, &mut problems));
        }
        let mut sources = environment::read(variables, &mut problems);
        sources.extend(flags.sources());
        for source in sources {
            merged.overlay(schema().check_source(&source, &mut problems));
        }
        merged.complete(schema(), &mut problems);
        let Checked { value, places } = merged;
        let config = match serde_json::from_value::<Self>(Json::Object(value)) {
            Ok(config) => config,
            // What the schema accepts the structs accept; were it otherwise, this says so.
            Err(error) => {
                let name = file.map_or_else(|| "configuration".to_owned(), |path| path.display().to_string());
                problems.push(Problem::new(&Place::named(&name), error.to_string(), ""));
                Self::default()
            }
        };
        problems.extend(contradictions(&config, |pointer| places.get(pointer)));
        if problems.is_empty() {
            return Ok(config);
        }
        Err(Problem::all_shown(problems))
    }
}

/// The lowest source. All of it, because a section alone does not know every default: each listener
/// has a port of its own.
fn defaults() -> Checked {
    let value = match serde_json::to_value(Config::default()) {
        Ok(Json::Object(value)) => value,
        _ => serde_json::Map::new(),
    };
    Checked { value, places: BTreeMap::new() }
}

/// The problems of a file, for `weir check`; empty if there are none.
pub fn check_file(path: &Path) -> Vec<Diagnostic> {
    Config::load(Some(path), std::iter::empty(), Overrides::default()).err().unwrap_or_default()
}

/// Settings that are right one by one and not together.
fn contradictions<'a>(config: &Config, place: impl Fn(&str) -> Option<&'a Place>) -> Vec<Problem> {
    let defaults = Place::named("defaults");
    let at = |pointers: &[&str]| pointers.iter().find_map(|pointer| place(pointer)).unwrap_or(&defaults);
    let mut problems = Vec::new();

    let listeners = [("http", &config.http), ("otlp_grpc", &config.otlp_grpc), ("otlp_http", &config.otlp_http)];
    for (later, (name, listener)) in listeners.iter().enumerate() {
        for (other, earlier) in &listeners[..later] {
            if listener.address == earlier.address && !listener.address.ends_with(":0") {
                let (pointer, other_pointer) = (format!("/{name}/address"), format!("/{other}/address"));
                problems.push(Problem::new(
                    at(&[&pointer, &other_pointer]),
                    format!("`{name}` and `{other}` have the same address {}", listener.address),
                    "give each listener a port of its own",
                ));
            }
        }
    }
    let sizes = [
        ("log", "commit_bytes_max", config.log.commit_bytes_max, "queue_bytes_max", config.log.queue_bytes_max),
        (
            "tables",
            "compaction_bytes",
            config.tables.compaction_bytes,
            "compaction_bytes_max",
            config.tables.compaction_bytes_max,
        ),
        ("tables", "flush_bytes", config.tables.flush_bytes, "unflushed_bytes_max", config.tables.unflushed_bytes_max),
    ];
    for (section, smaller, small, larger, large) in sizes {
        if small > large {
            problems.push(Problem::new(
                at(&[&format!("/{section}/{smaller}"), &format!("/{section}/{larger}")]),
                format!("`{section}.{smaller}` is {small}, more than `{section}.{larger}`, which is {large}"),
                "",
            ));
        }
    }
    for tier in Tier::ALL {
        for (limit, message) in
            config.tiers.get(&tier).map(weir_meta::limits::LimitOverrides::problems).into_iter().flatten()
        {
            let pointer = format!("/tiers/{tier}/{limit}");
            problems.push(Problem::new(at(&[&pointer]), format!("`tiers.{tier}.{limit}` {message}"), ""));
        }
    }
    problems
}

#[cfg(test)]
mod tests;
