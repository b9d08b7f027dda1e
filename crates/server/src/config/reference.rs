//! The pages about the configuration, made from the structs: a reference and an annotated example.

use std::fmt::Write;

use serde_json::Value as Json;
use weir_document::shape::{Field, Shape};
use weir_meta::limits::{Limits, Tier};

use super::environment::variable;
use super::schema::{TIERS, root};

/// Where comments of the example are broken.
const LINE_WIDTH: usize = 100;

fn top() -> &'static [Field] {
    match root() {
        Shape::Section(fields) => fields,
        _ => &[],
    }
}

/// The reference of all settings, as Markdown.
pub fn reference_markdown() -> String {
    let mut page = String::from(REFERENCE_HEAD);
    for field in top() {
        let _ = write!(page, "\n## `{}`\n\n{}\n", field.name, field.doc);
        match &field.shape {
            Shape::Section(_) if field.name == TIERS => tiers_table(&mut page, field),
            Shape::Section(fields) => {
                page.push_str("\n| setting | kind | default | what | environment |\n|---|---|---|---|---|\n");
                rows(&mut page, fields, &mut vec![field.name.clone()], 1);
            }
            _ => {
                let environment = variable(std::slice::from_ref(&field.name));
                let _ = write!(page, "\nKind: {}. Default: {}. ", kind(field), default(field));
                let _ = writeln!(page, "Environment: `{environment}`.");
            }
        }
    }
    page
}

/// One row for each setting; those of sections below have dotted names.
fn rows(page: &mut String, fields: &[Field], path: &mut Vec<String>, n_outer: usize) {
    for field in fields {
        path.push(field.name.clone());
        let name = path[n_outer..].join(".");
        match &field.shape {
            Shape::Section(inner) => {
                let _ = writeln!(page, "| `{name}` | section | {} | {} | |", default(field), cell(&field.doc));
                rows(page, inner, path, n_outer);
            }
            _ => {
                let (kind, default, doc) = (kind(field), default(field), cell(&field.doc));
                let _ = writeln!(page, "| `{name}` | {kind} | {default} | {doc} | `{}` |", variable(path));
            }
        }
        path.pop();
    }
}

fn tiers_table(page: &mut String, tiers: &Field) {
    let columns: Vec<&[Field]> = match &tiers.shape {
        Shape::Section(tiers) => tiers
            .iter()
            .map(|tier| match &tier.shape {
                Shape::Section(limits) => limits.as_slice(),
                _ => &[],
            })
            .collect(),
        _ => Vec::new(),
    };
    page.push_str("\nThe sections `free`, `paid` and `enterprise` have the same settings, with these defaults.\n");
    page.push_str("\n| limit | kind | free | paid | enterprise | what |\n|---|---|---|---|---|---|\n");
    for name in Limits::NAMES {
        let fields: Vec<&Field> =
            columns.iter().filter_map(|limits| limits.iter().find(|limit| limit.name == *name)).collect();
        let Some(first) = fields.first() else { continue };
        let defaults: Vec<String> = fields.iter().map(|field| default(field)).collect();
        let _ = writeln!(page, "| `{name}` | {} | {} | {} |", kind(first), defaults.join(" | "), cell(&first.doc));
    }
    let example = variable(&[TIERS.to_owned(), Tier::Free.to_string(), "keys_max".to_owned()]);
    let _ = write!(page, "\nEnvironment: for example `{example}`.\n");
}

/// The kind, and its bounds.
fn kind(field: &Field) -> String {
    let mut text = field.shape.kind();
    let bounds = match &field.shape {
        Shape::Integer { min, max } => {
            let bound = |at: i128, none: i128| (at != none).then(|| at.to_string());
            (bound(*min, 0), (*max < i128::from(u16::MAX)).then(|| max.to_string()))
        }
        Shape::Size { min, max } | Shape::Span { min, max } => {
            (min.clone().filter(|min| !min.starts_with('0')), max.clone())
        }
        _ => (None, None),
    };
    let _ = match bounds {
        (Some(min), Some(max)) => write!(text, ", {min} to {max}"),
        (Some(min), None) => write!(text, ", at least {min}"),
        (None, Some(max)) => write!(text, ", at most {max}"),
        (None, None) => Ok(()),
    };
    text
}

fn default(field: &Field) -> String {
    if field.required {
        return "(required)".to_owned();
    }
    match &field.default {
        Json::Null => "none".to_owned(),
        // A section has none of its own, and an empty map is nothing.
        Json::Object(_) => {
            if matches!(field.shape, Shape::Section(_)) {
                String::new()
            } else {
                "none".to_owned()
            }
        }
        value => format!("`{}`", plain(value)),
    }
}

/// A value as it is written in YAML on one line.
fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => {
            let is_plain = !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':'))
                && !text.ends_with(':');
            if is_plain { text.clone() } else { value.to_string() }
        }
        other => other.to_string(),
    }
}

/// Text inside a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A file with every setting at its default, commented out, with what it means.
pub fn annotated_example_yaml() -> String {
    let mut text = String::from(EXAMPLE_HEAD);
    for field in top() {
        text.push('\n');
        comment(&mut text, 0, &field.doc);
        if field.name == TIERS {
            tiers_example(&mut text, field);
        } else {
            example(&mut text, field, 0);
        }
    }
    text
}

/// A setting, or a section with its settings; the comment stands before it already.
fn example(text: &mut String, field: &Field, depth: usize) {
    let indent = "  ".repeat(depth);
    match &field.shape {
        Shape::Section(fields) => {
            let _ = writeln!(text, "{indent}{}:", field.name);
            for inner in fields {
                comment(text, depth + 1, &inner.doc);
                if let Shape::Choice(words) = &inner.shape {
                    let words: Vec<String> = words.iter().map(|(word, doc)| format!("{word} ({doc})")).collect();
                    comment(text, depth + 1, &format!("One of: {}", words.join(" ")));
                }
                example(text, inner, depth + 1);
            }
        }
        _ => {
            let value = match &field.default {
                Json::Null => field.example.as_ref().unwrap_or(&Json::Null),
                value => value,
            };
            let _ = writeln!(text, "{indent}#{}: {}", field.name, plain(value));
        }
    }
}

/// What the limits mean is said once, at the first tier.
fn tiers_example(text: &mut String, tiers: &Field) {
    let _ = writeln!(text, "{}:", tiers.name);
    let Shape::Section(tiers) = &tiers.shape else { return };
    for (at, tier) in tiers.iter().enumerate() {
        let _ = writeln!(text, "  {}:", tier.name);
        let Shape::Section(limits) = &tier.shape else { continue };
        for limit in limits {
            if at == 0 {
                comment(text, 2, &limit.doc);
            }
            let _ = writeln!(text, "    #{}: {}", limit.name, plain(&limit.default));
        }
    }
}

/// A comment, broken into lines.
fn comment(text: &mut String, depth: usize, words: &str) {
    let begin = format!("{}#", "  ".repeat(depth));
    let mut line = begin.clone();
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > LINE_WIDTH && line.len() > begin.len() {
            text.push_str(&line);
            text.push('\n');
            line.clone_from(&begin);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

const REFERENCE_HEAD: &str = "\
# Configuration

<!-- Made from crates/server/src/config/settings.rs; do not edit. `cargo xtask gen` writes it anew. -->

`weir serve` works without any configuration. What is set in several places is taken from the first of

1. flags: `--data-dir`, `--http`, `--otlp-grpc`, `--otlp-http`;
2. environment variables, named below;
3. the file given with `--config FILE` (or `WEIR_CONFIG`), YAML (`.yaml`, `.yml`) or TOML (`.toml`);
4. the defaults.

Every problem is reported at once, with its line, and Weir does not start (exit code 2). `weir check FILE` does the same
without starting. [weir.example.yaml](weir.example.yaml) has every setting with its default.

Sizes are written `512KiB`, `32MiB`, `4GiB` (or decimal `64KB`, `32MB`), or as a number of bytes. Durations are written
`250ms`, `10s`, `5m`, `24h`, `30d`. In an environment variable a list is separated by commas; an empty variable counts as
not set. Relative paths start at the working directory.
";

const EXAMPLE_HEAD: &str = "\
# Configuration of `weir serve`. Every setting is here with its default, commented out: remove the `#`
# before a name to change it. Sizes: 512KiB, 32MiB, 4GiB. Durations: 250ms, 10s, 5m, 24h, 30d.
#
# Made from crates/server/src/config/settings.rs; do not edit. `weir check FILE` checks your copy.
";
