//! Everything a pipeline is made of, as one list: for `weir components`, the reference page and the tests that
//! hold each component to what it says of itself.

use std::fmt::Write;

use schemars::Schema;
use weir_component::spec::{Access, Stability};
use weir_document::shape::{Field, Shape, of_schema};
use weir_operators::STEPS;

use crate::plan::COMPONENTS;

/// A source, step or sink, for people.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name in a document.
    pub name: &'static str,
    /// `source`, `step` or `sink`.
    pub kind: &'static str,
    /// One sentence: what it does.
    pub summary: &'static str,
    /// How finished it is.
    pub stability: Stability,
    /// What it needs of the world.
    pub access: Access,
    /// What it promises of each row; sinks only.
    pub delivery: Option<&'static str>,
    /// An example, as it stands in a document.
    pub example: String,
    schema: fn() -> Schema,
}

/// All components: sources, steps, sinks.
pub fn described() -> Vec<Described> {
    let sources = COMPONENTS.sources.iter().map(|spec| Described {
        name: spec.about.name,
        kind: "source",
        summary: spec.about.summary,
        stability: spec.about.stability,
        access: spec.about.access,
        delivery: None,
        example: under(&format!("from:\n  {}:", spec.about.name), spec.about.example, 4),
        schema: spec.about.schema,
    });
    let steps = STEPS.iter().map(|spec| Described {
        name: spec.name,
        kind: "step",
        summary: spec.summary,
        stability: spec.stability,
        access: Access::default(),
        delivery: None,
        example: format!("steps:\n  - {}\n", spec.example.trim_end().replace('\n', "\n    ")),
        schema: spec.schema,
    });
    let sinks = COMPONENTS.sinks.iter().map(|spec| Described {
        name: spec.about.name,
        kind: "sink",
        summary: spec.about.summary,
        stability: spec.about.stability,
        access: spec.about.access,
        delivery: Some(spec.delivery.as_str()),
        example: under(&format!("to:\n  - {}:", spec.about.name), spec.about.example, 6),
        schema: spec.about.schema,
    });
    sources.chain(steps).chain(sinks).collect()
}

/// A configuration under its heading.
fn under(heading: &str, example: &str, indent: usize) -> String {
    let lines = example.trim_end().lines().map(|line| format!("{}{line}\n", " ".repeat(indent)));
    format!("{heading}\n{}", lines.collect::<String>())
}

impl Described {
    /// What its configuration is.
    pub fn shape(&self) -> Shape {
        of_schema((self.schema)().as_value())
    }

    /// The documentation of its configuration as a whole.
    pub fn about(&self) -> String {
        let schema = (self.schema)();
        schema.get("description").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    }

    /// Its part of the reference.
    pub fn markdown(&self) -> String {
        let mut page = format!("\n## {} `{}`\n\n{}\n", capital(self.kind), self.name, self.summary);
        let about = self.about();
        if about != self.summary {
            let _ = writeln!(page, "\n{about}");
        }
        let mut facts = vec![self.stability.as_str().to_owned()];
        facts.extend(self.delivery.map(|delivery| format!("delivers {delivery}")));
        let access = [
            (self.access.files, "reads or writes files of its machine"),
            (self.access.connects, "connects to other machines"),
            (self.access.credentials, "uses credentials"),
            (self.access.terminal, "writes to the terminal of its process"),
        ];
        facts.extend(access.iter().filter(|(does, _)| *does).map(|(_, what)| (*what).to_owned()));
        let _ = writeln!(page, "\n*{}*", facts.join("; "));
        let shape = self.shape();
        let fields = shape.fields();
        if fields.is_empty() {
            let _ = writeln!(page, "\nIts configuration is {}.", shape.expected());
        } else {
            page.push_str("\n| setting | kind | default | what |\n|---|---|---|---|\n");
            rows(&mut page, &fields, "");
        }
        let _ = writeln!(page, "\n```yaml\n{}```", self.example);
        page
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// A row for each setting; those of sections have dotted names.
fn rows(page: &mut String, fields: &[&Field], outer: &str) {
    for field in fields {
        let name = format!("{outer}{}", field.name);
        let default = match &field.default {
            _ if field.required => "required".to_owned(),
            serde_json::Value::Null => String::new(),
            default => format!("`{}`", default.to_string().replace('|', "\\|")),
        };
        let doc = field.doc.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(page, "| `{name}` | {} | {default} | {doc} |", field.shape.kind().replace('|', "\\|"));
        rows(page, &field.shape.fields(), &format!("{name}."));
    }
}

/// The reference page of all components.
pub fn markdown() -> String {
    let mut page =
        "# Components of pipelines\n\nMade from the components themselves by `cargo xtask gen`.\n".to_owned();
    for component in described() {
        page.push_str(&component.markdown());
    }
    page
}
