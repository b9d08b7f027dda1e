//! Rules about crates: dependencies point downward, one crate knows the query engine, and the map
//! in ARCHITECTURE.md shows what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::read;
use crate::{Result, root};

/// Crates by layer. A crate may depend on those of lower layers, never on one of its own.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["data", "document"],
    &["api", "component"],
    &["codecs", "meta"],
    &["log", "connectors"],
    &["store", "connect-kafka"],
    &["sql"],
    &["operators", "engine"],
    &["pipelines"],
    &["testkit"],
    &["server", "nexmark"],
    &["weir"],
];

/// Crates only one of ours may name, because an upgrade must not touch the others.
const ONLY: &[(&str, &str)] = &[("datafusion", "sql"), ("rusqlite", "meta")];

/// No edge points up, sideways, or around the one crate that may use something.
pub(super) fn edges() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (name, manifest) in manifests()? {
        let Some(layer) = layer_of(&name) else {
            findings.push(format!("crates/{name}: in no layer of {}", file!()));
            continue;
        };
        for (section, dependency) in dependencies(&manifest) {
            let ours = dependency.strip_prefix("weir-");
            // Tests may use the testkit from anywhere below it.
            let is_tool = section == "dev-dependencies" && ours == Some("testkit");
            if let Some(ours) = ours
                && !is_tool
                && layer_of(ours).is_none_or(|other| other >= layer)
            {
                findings.push(format!("crates/{name}: must not depend on {ours}, which is not in a lower layer"));
            }
            if let Some((_, owner)) = ONLY.iter().find(|(only, owner)| *only == dependency && *owner != name) {
                findings.push(format!("crates/{name}: only {owner} may name {dependency}"));
            }
        }
    }
    Ok(findings)
}

/// The crate map of ARCHITECTURE.md has one row for each crate, and no other.
pub(super) fn crate_map() -> Result<Vec<String>> {
    let text = read(Path::new("ARCHITECTURE.md"))?;
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `crates/")?.split_once('`'));
    let described: BTreeSet<&str> = rows.map(|(name, _)| name).collect();
    let manifests = manifests()?;
    let present: BTreeSet<&str> = manifests.keys().map(String::as_str).collect();
    let missing = present.difference(&described).map(|name| format!("ARCHITECTURE.md: no row for crates/{name}"));
    let gone = described.difference(&present).map(|name| format!("ARCHITECTURE.md: crates/{name} does not exist"));
    Ok(missing.chain(gone).collect())
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

fn manifests() -> Result<BTreeMap<String, String>> {
    let folder = std::fs::read_dir(root().join("crates")).map_err(|error| format!("crates/: {error}"))?;
    let mut manifests = BTreeMap::new();
    for entry in folder.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = Path::new("crates").join(&name).join("Cargo.toml");
        if root().join(&path).exists() {
            manifests.insert(name, read(&path)?);
        }
    }
    Ok(manifests)
}

/// Section and name of every dependency in a manifest.
fn dependencies(manifest: &str) -> Vec<(&str, &str)> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if section.ends_with("dependencies")
            && let Some((name, _)) = line.split_once(['.', '=', ' '])
            && !line.starts_with('#')
        {
            found.push((section, name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_with_their_section() {
        let manifest = "[package]\nname = \"weir-log\"\n\n[dependencies]\nweir-base.workspace = true\n# a comment\nbytes = \"1\"\n\n[dev-dependencies]\nweir-testkit.workspace = true\n";
        let expected = [("dependencies", "weir-base"), ("dependencies", "bytes"), ("dev-dependencies", "weir-testkit")];
        assert_eq!(dependencies(manifest), expected);
    }
}
