//! Links between documents lead somewhere.

use std::path::{Path, PathBuf};

use super::read;
use crate::{Result, root};

/// Every relative link of the given Markdown files names a file that exists.
pub(super) fn resolve(documents: &[PathBuf]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for document in documents {
        let text = read(document)?;
        for link in links(&text) {
            let path = link.split('#').next().unwrap_or_default();
            let outside = link.contains("://") || link.starts_with("mailto:") || path.is_empty();
            let folder = document.parent().unwrap_or(Path::new(""));
            if !outside && !root().join(folder).join(path).exists() {
                findings.push(format!("{}: link to {link}, which does not exist", document.display()));
            }
        }
    }
    Ok(findings)
}

/// The targets of `[text](target)`, outside of code.
fn links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Odd pieces between backticks are code.
        for prose in line.split('`').step_by(2) {
            let mut rest = prose;
            while let Some((_, after)) = rest.split_once("](") {
                let Some((target, after)) = after.split_once(')') else { break };
                found.push(target);
                rest = after;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code() {
        let text = "[a](b.md), [c](d.md#e) and `[x](y)`\n```\n[no](link)\n```\n[f](https://g)";
        assert_eq!(links(text), ["b.md", "d.md#e", "https://g"]);
    }
}
