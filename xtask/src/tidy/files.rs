//! Rules about single files: a header, no unsigned notes to self, no growth beyond a size.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Source, read};
use crate::{Result, root};

/// Files longer than this are on the list, with a length they may not pass.
const LINES_MAX: usize = 600;
const LIST: &str = "xtask/large-files.txt";
const LIST_HEADER: &str =
    "# Files of more than 600 lines, with the length they may not pass. Lines may go and numbers may fall
# (`cargo xtask tidy --bless` does both), never the other way: look for a second subject in the file instead.
";

/// Every module says first what it is. Tests may, and build scripts.
pub(super) fn headers(sources: &[Source]) -> Vec<String> {
    let without = sources.iter().filter(|source| !source.is_test() && !source.text.starts_with("//!"));
    without.map(|source| format!("{}: does not begin with a `//!` header", source.shown())).collect()
}

/// A note to self carries a name or an issue: `TODO(name): ...`, or is not committed.
pub(super) fn words(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            // Written in two parts, or this line would find itself.
            for word in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")] {
                if line.match_indices(word).any(|(place, _)| is_unsigned(line, place, word.len())) {
                    findings.push(format!("{}:{}: {word} without a name or issue", source.shown(), index + 1));
                }
            }
        }
    }
    findings
}

fn is_unsigned(line: &str, place: usize, length: usize) -> bool {
    let before = line[..place].chars().next_back();
    let after = line[place + length..].chars().next();
    let inside_a_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    !inside_a_word(before) && !inside_a_word(after) && after != Some('(')
}

/// Large files may shrink, not grow, and no file becomes one.
pub(super) fn sizes(sources: &[Source]) -> Result<Vec<String>> {
    let list = parse(&read(Path::new(LIST))?)?;
    let mut findings = Vec::new();
    for (path, lines) in large(sources) {
        match list.get(&path) {
            None => findings.push(format!("{path}: {lines} lines; files have at most {LINES_MAX}")),
            Some(allowed) if lines > *allowed => {
                findings.push(format!("{path}: grew from {allowed} to {lines} lines; it may only shrink"));
            }
            Some(_) => {}
        }
    }
    Ok(findings)
}

/// Rewrites the list: what is listed keeps the smaller number, what is small now goes.
pub(super) fn bless(sources: &[Source]) -> Result<()> {
    let list = parse(&read(Path::new(LIST)).unwrap_or_default())?;
    let first_time = list.is_empty();
    let mut text = LIST_HEADER.to_owned();
    for (path, lines) in large(sources) {
        match list.get(&path) {
            Some(allowed) => text.push_str(&format!("{} {path}\n", lines.min(*allowed))),
            None if first_time => text.push_str(&format!("{lines} {path}\n")),
            None => return Err(format!("{path}: {lines} lines, and the list takes no new files")),
        }
    }
    std::fs::write(root().join(LIST), text).map_err(|error| format!("{LIST}: {error}"))
}

fn large(sources: &[Source]) -> BTreeMap<String, usize> {
    let counted = sources.iter().filter(|source| !source.is_test());
    let lines = counted.map(|source| (source.path.to_string_lossy().into_owned(), source.text.lines().count()));
    lines.filter(|(_, lines)| *lines > LINES_MAX).collect()
}

fn parse(text: &str) -> Result<BTreeMap<String, usize>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let entry = |line: &str| {
        let (lines, path) = line.split_once(' ')?;
        Some((path.to_owned(), lines.parse().ok()?))
    };
    lines.map(|line| entry(line).ok_or_else(|| format!("{LIST}: `{line}` is not `LINES PATH`"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.to_owned() }
    }

    #[test]
    fn a_header_comes_first_except_in_tests() {
        let sources = [
            source("crates/a/src/lib.rs", "//! What it is.\n"),
            source("crates/a/src/b.rs", "use std::fs;\n"),
            source("crates/a/src/b/tests.rs", "use super::*;\n"),
        ];
        assert_eq!(headers(&sources), ["crates/a/src/b.rs: does not begin with a `//!` header"]);
    }

    #[test]
    fn notes_to_self_are_signed() {
        let word = concat!("TO", "DO");
        for (line, expected) in [
            (format!("// {word}: later"), 1),
            (format!("// {word}(ada): later"), 0),
            (format!("const {word}S: u8 = 1;"), 0),
            (word.to_owned(), 1),
        ] {
            assert_eq!(words(&[source("a.rs", &line)]).len(), expected, "{line}");
        }
    }
}
