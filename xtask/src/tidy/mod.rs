//! Rules of the house that no compiler checks. Each is a function that returns what it found.

mod files;
mod layers;
mod links;

use std::path::{Path, PathBuf};

use crate::arguments::Arguments;
use crate::{Result, process, root};

/// `cargo xtask tidy`.
pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    let bless = arguments.flag("--bless");
    arguments.end()?;
    if bless {
        return files::bless(&sources()?);
    }
    check()
}

/// All rules; all findings at once.
pub(crate) fn check() -> Result<()> {
    let sources = sources()?;
    let rules = [
        files::headers(&sources),
        files::words(&sources),
        files::sizes(&sources)?,
        layers::edges()?,
        layers::crate_map()?,
        links::resolve(&tracked(&["*.md"])?)?,
    ];
    let findings = rules.concat();
    if findings.is_empty() { Ok(()) } else { Err(format!("tidy:\n  {}", findings.join("\n  "))) }
}

/// A file of ours: its path from the root, and its text.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    fn shown(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    fn is_test(&self) -> bool {
        let parts: Vec<_> = self.path.iter().map(|part| part.to_string_lossy()).collect();
        parts.iter().any(|part| part == "tests" || part == "fuzz")
            || parts.last().is_some_and(|name| name.ends_with("tests.rs"))
    }
}

fn sources() -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in tracked(&["*.rs"])? {
        let text =
            std::fs::read_to_string(root().join(&path)).map_err(|error| format!("{}: {error}", path.display()))?;
        sources.push(Source { path, text });
    }
    Ok(sources)
}

/// Files git knows or would add, that exist.
fn tracked(patterns: &[&str]) -> Result<Vec<PathBuf>> {
    let arguments = [&["ls-files", "--cached", "--others", "--exclude-standard", "--"], patterns].concat();
    let text = process::output(process::command("git", &arguments))?;
    let mut paths: Vec<PathBuf> = text.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(root().join(path)).map_err(|error| format!("{}: {error}", path.display()))
}
