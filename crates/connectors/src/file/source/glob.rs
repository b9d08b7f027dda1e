//! Patterns of paths: `*` and `?` within a name, `[a-z]` and `[!a-z]`, `**` for any folders.
//!
//! Names that begin with a dot match only a pattern that has the dot: they are what others write
//! aside, and what our own sinks have not committed yet.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use weir_base::disk::Disk;

/// The most files a source may have.
pub const FILES_MAX: usize = 100_000;
/// The deepest folder `**` goes down to.
const DEPTH_MAX: usize = 64;

/// The files that match any of `patterns`, by name, in the order of their names. A name is the path
/// as the pattern has it: relative if that is.
///
/// # Errors
/// If a folder cannot be listed, or there are more than [`FILES_MAX`] files.
pub fn expand(disk: &dyn Disk, root: &Path, patterns: &[String]) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for pattern in patterns {
        let base = if pattern.starts_with('/') { "/" } else { "" };
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let folder = if base.is_empty() { root.to_owned() } else { PathBuf::from(base) };
        walk(disk, &folder, base, &parts, 0, &mut found)?;
    }
    Ok(found)
}

/// Whether a pattern names exactly one file.
pub fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['*', '?', '['])
}

fn walk(
    disk: &dyn Disk,
    folder: &Path,
    name: &str,
    parts: &[&str],
    depth: usize,
    found: &mut BTreeMap<String, PathBuf>,
) -> io::Result<()> {
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    if is_literal(part) {
        let (path, name) = (folder.join(part), joined(name, part));
        if !rest.is_empty() {
            return walk(disk, &path, &name, rest, depth, found);
        }
        return match disk.open_read(&path) {
            Ok(_) => add(name, path, found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
    }
    let entries = match disk.list(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(error),
    };
    if *part == "**" {
        // No folder at all, or one of these and then the same again.
        walk(disk, folder, name, rest, depth, found)?;
        for entry in entries.iter().filter(|entry| entry.is_dir && !entry.name.starts_with('.')) {
            if depth < DEPTH_MAX {
                walk(disk, &folder.join(&entry.name), &joined(name, &entry.name), parts, depth + 1, found)?;
            }
        }
        return Ok(());
    }
    for entry in entries {
        if !matches(part, &entry.name) {
            continue;
        }
        let (path, name) = (folder.join(&entry.name), joined(name, &entry.name));
        if rest.is_empty() {
            if !entry.is_dir {
                add(name, path, found)?;
            }
        } else {
            walk(disk, &path, &name, rest, depth, found)?;
        }
    }
    Ok(())
}

fn joined(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        "/" => format!("/{name}"),
        folder => format!("{folder}/{name}"),
    }
}

fn add(name: String, path: PathBuf, found: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    found.insert(name, path);
    if found.len() > FILES_MAX {
        return Err(io::Error::other(format!("more than {FILES_MAX} files match")));
    }
    Ok(())
}

/// Whether a name matches a part of a pattern.
pub fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut next) = (0, 0);
    // Where to go back to: after the last `*`, and what it may swallow up to.
    let mut star: Option<(usize, usize)> = None;
    while next < name.len() {
        let matched = match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, next));
                at += 1;
                continue;
            }
            Some('?') => Some(at + 1),
            Some('[') => match class(&pattern[at..], name[next]) {
                Some((true, len)) => Some(at + len),
                Some((false, _)) => None,
                // A bracket that is never closed stands for itself.
                None => (name[next] == '[').then_some(at + 1),
            },
            Some(character) => (*character == name[next]).then_some(at + 1),
            None => None,
        };
        match (matched, star) {
            (Some(after), _) => {
                at = after;
                next += 1;
            }
            // The last `*` swallows one more.
            (None, Some((after, swallowed))) => {
                star = Some((after, swallowed + 1));
                at = after;
                next = swallowed + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|character| *character == '*')
}

/// Whether `character` is of the class `pattern` begins with, and how long the class is.
fn class(pattern: &[char], character: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let first = if negated { 2 } else { 1 };
    // A bracket that comes first is a member.
    let close = pattern.iter().skip(first + 1).position(|member| *member == ']')? + first + 1;
    let members = &pattern[first..close];
    let mut is_member = false;
    let mut at = 0;
    while let Some(member) = members.get(at) {
        if let (Some('-'), Some(end)) = (members.get(at + 1), members.get(at + 2)) {
            is_member |= (*member..=*end).contains(&character);
            at += 3;
        } else {
            is_member |= *member == character;
            at += 1;
        }
    }
    Some((is_member != negated, close + 1))
}
