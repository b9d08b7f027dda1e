//! From a file or a text to a tree.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::tree::{Parsed, Place, Problem};
use crate::{toml, yaml};

/// A document may not be larger.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// YAML, without anchors, aliases and tags.
    Yaml,
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

impl Syntax {
    /// By the ending of the file's name.
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("yaml" | "yml") => Some(Self::Yaml),
            Some("toml") => Some(Self::Toml),
            Some("json") => Some(Self::Json),
            _ => None,
        }
    }

    /// Reads a text. `source` is the name of it in the places.
    pub fn parse(self, source: &str, text: &str) -> Parsed {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match self {
            Self::Yaml => yaml::parse(source, text, "YAML"),
            // What is JSON is YAML, too; what is merely YAML does no harm in it.
            Self::Json => yaml::parse(source, text, "JSON"),
            Self::Toml => toml::parse(source, text),
        }
    }
}

/// The text of a file and how it is written. `noun` is what such a file is called in messages.
pub fn text_of_file(path: &Path, noun: &str, problems: &mut Vec<Problem>) -> Option<(Syntax, String)> {
    let name = path.display().to_string();
    let mut problem = |message: String, hint: &str| {
        problems.push(Problem::new(&Place::named(&name), message, hint));
        None
    };
    let Some(syntax) = Syntax::of_path(path) else {
        return problem(format!("a {noun} ends in .yaml, .yml, .toml or .json"), "");
    };
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return problem(format!("the {noun} does not exist"), "");
        }
        Err(error) => return problem(format!("the {noun} cannot be read: {error}"), ""),
        Ok(_) if bytes.len() as u64 > DOCUMENT_BYTES_MAX => {
            return problem(format!("the {noun} is larger than {DOCUMENT_BYTES_MAX} bytes"), "");
        }
        Ok(_) => {}
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some((syntax, text)),
        Err(error) => {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            let place = Place { source: name.as_str().into(), line, column: 1 };
            problems.push(Problem::new(&place, format!("the {noun} is not UTF-8 here"), ""));
            None
        }
    }
}
