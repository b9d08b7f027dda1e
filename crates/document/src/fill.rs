//! `${env:NAME}` and `${file:PATH}` inside texts: what a document needs and must not hold, such as
//! passwords.
//!
//! Invariant: what was put in is never shown. Messages show the text as it was written, `Debug` shows
//! stars. Any other `${...}` is left alone; `$${env:NAME}` stands for itself without the first `$`.

use std::io::Read;
use std::path::{Path, PathBuf};

use weir_base::secret::Secret;

use crate::tree::{Filled, Node, Place, Problem, Value, cut};

/// Where the values come from.
pub trait Fills {
    /// The value of an environment variable.
    ///
    /// # Errors
    /// Why there is none, for the user.
    fn variable(&self, name: &str) -> Result<String, String>;

    /// The content of a file.
    ///
    /// # Errors
    /// Why there is none, for the user.
    fn file(&self, path: &str) -> Result<String, String>;
}

/// Nothing may be put in, because the document comes from somebody this machine's environment and
/// files are not for.
#[derive(Clone, Copy, Debug)]
pub struct NoFills;

impl Fills for NoFills {
    fn variable(&self, _: &str) -> Result<String, String> {
        Err("environment variables of the server cannot be used here".to_owned())
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Err("files of the server cannot be used here".to_owned())
    }
}

/// The environment and the files of this process.
#[derive(Clone, Debug)]
pub struct ProcessFills {
    /// What relative paths are relative to.
    pub directory: PathBuf,
}

/// A file that is put in may not be larger.
const FILE_BYTES_MAX: u64 = 64 * 1024;

impl Fills for ProcessFills {
    fn variable(&self, name: &str) -> Result<String, String> {
        std::env::var(name).map_err(|error| match error {
            std::env::VarError::NotPresent => format!("there is no environment variable `{name}`"),
            std::env::VarError::NotUnicode(_) => format!("the environment variable `{name}` is not UTF-8"),
        })
    }

    /// Without the last line's end, which editors put there.
    fn file(&self, path: &str) -> Result<String, String> {
        let mut bytes = Vec::new();
        std::fs::File::open(self.directory.join(Path::new(path)))
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => format!("there is no file `{path}`"),
                _ => format!("the file `{path}` cannot be read: {error}"),
            })?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("the file `{path}` is larger than {FILE_BYTES_MAX} bytes"));
        }
        let mut text = String::from_utf8(bytes).map_err(|_| format!("the file `{path}` is not UTF-8"))?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

/// Puts in what is asked for, everywhere below `node`. Returns what was put in, so that it can be
/// kept out of messages that are made later.
pub fn fill(node: &mut Node, fills: &dyn Fills, problems: &mut Vec<Problem>) -> Vec<Secret<String>> {
    let mut secrets = Vec::new();
    walk(node, fills, problems, &mut secrets);
    secrets
}

fn walk(node: &mut Node, fills: &dyn Fills, problems: &mut Vec<Problem>, secrets: &mut Vec<Secret<String>>) {
    match &mut node.value {
        Value::Text(written) => {
            if let Some(value) = fill_text(written, &node.place, fills, problems, secrets) {
                node.value = value;
            }
        }
        Value::List(items) => items.iter_mut().for_each(|item| walk(item, fills, problems, secrets)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, child)| walk(child, fills, problems, secrets)),
        _ => {}
    }
}

/// What the text becomes, if anything.
fn fill_text(
    written: &str,
    place: &Place,
    fills: &dyn Fills,
    problems: &mut Vec<Problem>,
    secrets: &mut Vec<Secret<String>>,
) -> Option<Value> {
    let mut text = String::new();
    let mut rest = written;
    let mut is_filled = false;
    let mut is_wrong = false;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let kind = ["${env:", "${file:"].into_iter().find(|kind| from.starts_with(kind));
        let Some(kind) = kind else {
            text.push_str(&rest[..at + 2]);
            rest = &rest[at + 2..];
            continue;
        };
        if let Some(before) = before.strip_suffix('$') {
            text.push_str(before);
            text.push_str(kind);
            rest = &from[kind.len()..];
            continue;
        }
        text.push_str(before);
        let Some(end) = from.find('}') else {
            problems.push(Problem::new(place, format!("`{}` has no `}}`", cut(from)), ""));
            return Some(Value::Wrong);
        };
        let name = &from[kind.len()..end];
        let value = if kind == "${env:" { fills.variable(name) } else { fills.file(name) };
        match value {
            Ok(value) => {
                text.push_str(&value);
                secrets.push(Secret::new(value));
                is_filled = true;
            }
            Err(reason) => {
                problems.push(Problem::new(place, format!("`{}`: {reason}", &from[..=end]), ""));
                is_wrong = true;
            }
        }
        rest = &from[end + 1..];
    }
    text.push_str(rest);
    match (is_wrong, is_filled) {
        (true, _) => Some(Value::Wrong),
        (false, true) => Some(Value::Filled(Filled { written: written.to_owned(), text: Secret::new(text) })),
        (false, false) => (text != written).then_some(Value::Text(text)),
    }
}
