//! What we depend on: licences we may ship under, and no version with a known advisory.

use std::path::{Path, PathBuf};

use crate::stages::Outcome;
use crate::{Result, process, root, target};

/// Licences that ask for no more than a notice.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    // Data of certificate authorities in webpki-roots.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Every crate in the build is under a licence of the list.
pub(crate) fn licences() -> Result<Outcome> {
    let edges = "normal,build,dev";
    let tree = ["tree", "--workspace", "--edges", edges, "--prefix", "none", "--format", "{p}|{l}"];
    let text = process::output(process::cargo(&tree))?;
    // A crate that was listed before is marked.
    let mut crates: Vec<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    crates.retain(|line| !line.is_empty());
    crates.sort_unstable();
    crates.dedup();
    let bad: Vec<&str> = crates
        .iter()
        .copied()
        .filter(|line| !line.split_once('|').is_some_and(|(_, licence)| allowed(licence)))
        .collect();
    if bad.is_empty() {
        return Ok(Outcome::Passed(format!("{} crates", crates.len())));
    }
    Err(format!("crates under a licence that is not in the list of {}:\n  {}", file!(), bad.join("\n  ")))
}

/// Whether an SPDX expression can be met with allowed licences alone.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut place = 0;
    any(&tokens, &mut place).is_some_and(|met| met && place == tokens.len())
}

fn any(tokens: &[&str], place: &mut usize) -> Option<bool> {
    let mut met = all(tokens, place)?;
    while tokens.get(*place) == Some(&"OR") {
        *place += 1;
        met |= all(tokens, place)?;
    }
    Some(met)
}

fn all(tokens: &[&str], place: &mut usize) -> Option<bool> {
    let mut met = one(tokens, place)?;
    while tokens.get(*place) == Some(&"AND") {
        *place += 1;
        met &= one(tokens, place)?;
    }
    Some(met)
}

fn one(tokens: &[&str], place: &mut usize) -> Option<bool> {
    let token = *tokens.get(*place)?;
    *place += 1;
    if token == "(" {
        let met = any(tokens, place)?;
        *place += 1;
        return (tokens.get(*place - 1) == Some(&")")).then_some(met);
    }
    let mut licence = token.to_owned();
    if tokens.get(*place) == Some(&"WITH") {
        licence = format!("{token} WITH {}", tokens.get(*place + 1)?);
        *place += 2;
    }
    Some(ALLOWED.contains(&licence.as_str()))
}

/// No locked version is named by an advisory of the RustSec database, if a copy of it is at hand.
pub(crate) fn advisories() -> Result<Outcome> {
    let Some(database) = database() else {
        let reason = "no copy of the RustSec database here and none could be fetched; \
                      put one at $CARGO_HOME/advisory-db or set WEIR_ADVISORY_DB";
        return Ok(Outcome::Skipped(reason.to_owned()));
    };
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    let mut found = Vec::new();
    let mut n_advisories = 0;
    for (name, version) in locked(&lock) {
        let Ok(folder) = std::fs::read_dir(database.join("crates").join(name)) else { continue };
        for file in folder.flatten() {
            let text = std::fs::read_to_string(file.path()).map_err(|error| format!("{:?}: {error}", file.path()))?;
            n_advisories += 1;
            if concerns(&text, version) {
                found.push(format!("{name} {version}: {}", file.file_name().to_string_lossy()));
            }
        }
    }
    if found.is_empty() {
        return Ok(Outcome::Passed(format!("{n_advisories} advisories read, none concerns a locked version")));
    }
    Err(format!("versions with a known advisory:\n  {}", found.join("\n  ")))
}

fn database() -> Option<PathBuf> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    let fetched = target().join("xtask").join("advisory-db");
    let places = [
        std::env::var_os("WEIR_ADVISORY_DB").map(PathBuf::from),
        cargo_home.map(|home| home.join("advisory-db")),
        Some(fetched.clone()),
    ];
    let find = || places.iter().flatten().find(|place| place.join("crates").is_dir()).cloned();
    find().or_else(|| {
        let url = "https://github.com/rustsec/advisory-db";
        let mut clone =
            process::command("git", &["-c", "http.lowSpeedTime=20", "clone", "--quiet", "--depth", "1", url]);
        clone.arg(&fetched).env("GIT_TERMINAL_PROMPT", "0");
        process::output(clone).ok().and_then(|_| find())
    })
}

/// Names and versions of Cargo.lock.
fn locked(lock: &str) -> Vec<(&str, &str)> {
    let mut packages = Vec::new();
    let mut name = None;
    for line in lock.lines() {
        match line.split_once(" = ") {
            Some(("name", text)) => name = Some(text.trim_matches('"')),
            // The file's own version comes before any name.
            Some(("version", text)) => packages.extend(name.take().map(|name| (name, text.trim_matches('"')))),
            _ => {}
        }
    }
    packages
}

/// Whether a RustSec advisory (Markdown that begins with TOML) concerns a version. Withdrawn and
/// merely informational ones concern nobody.
fn concerns(advisory: &str, version: &str) -> bool {
    let toml = advisory.split("```").nth(1).unwrap_or_default();
    let has = |key: &str| toml.lines().any(|line| line.trim_start().starts_with(key));
    if has("withdrawn") || has("informational") {
        return false;
    }
    let list = |key: &str| {
        let from = toml.lines().position(|line| line.trim_start().starts_with(key));
        let text = from.map(|from| toml.lines().skip(from).collect::<Vec<_>>().join(" ")).unwrap_or_default();
        let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(inside, _)| inside);
        inside.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    };
    ![list("patched"), list("unaffected")].concat().iter().any(|requirement| fits(version, requirement))
}

/// Whether a version meets a requirement such as `>= 1.2.3, < 2.0.0`, `^0.4` or `= 1.0.0`.
fn fits(version: &str, requirement: &str) -> bool {
    let version = numbers(version);
    requirement.split(',').map(str::trim).all(|part| {
        let split = part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
        let (operator, text) = part.split_at(split);
        let bound = numbers(text);
        match operator.trim() {
            ">=" => version >= bound,
            ">" => version > bound,
            "<" => version < bound,
            "<=" => version <= bound,
            "=" => version == bound,
            "~" => version >= bound && version[..2] == bound[..2],
            // A caret, written or meant: the same leftmost number that is not zero.
            _ => {
                let fixed = bound.iter().position(|number| *number > 0).unwrap_or(2) + 1;
                version >= bound && version[..fixed] == bound[..fixed]
            }
        }
    })
}

fn numbers(version: &str) -> [u64; 3] {
    let plain = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = [0; 3];
    for (number, text) in numbers.iter_mut().zip(plain.split('.')) {
        *number = text.trim().parse().unwrap_or(0);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions() {
        for (expression, expected) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND GPL-2.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0 WITH LLVM-exception", false),
            ("MPL-2.0", false),
            ("", false),
            ("(MIT", false),
        ] {
            assert_eq!(allowed(expression), expected, "{expression}");
        }
    }

    #[test]
    fn advisories_concern_versions_outside_the_patched_ones() {
        let advisory = "```toml\n[advisory]\nid = \"RUSTSEC-1\"\n[versions]\npatched = [\n  \"^0.4.16\",\n  \">= 0.5.2, < 0.6.0\"]\nunaffected = [\"< 0.3.0\"]\n```\n# A title";
        for (version, expected) in
            [("0.4.15", true), ("0.4.16", false), ("0.5.1", true), ("0.5.2", false), ("0.6.0", true), ("0.2.9", false)]
        {
            assert_eq!(concerns(advisory, version), expected, "{version}");
        }
        assert!(!concerns(&advisory.replace("id =", "withdrawn ="), "0.4.15"));
    }

    #[test]
    fn the_lock_file_is_read() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.2.3\"\ndependencies = [\n \"b\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"0.1.0\"\n";
        assert_eq!(locked(lock), [("a", "1.2.3"), ("b", "0.1.0")]);
    }
}
