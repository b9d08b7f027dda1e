//! What holds for each component: its example can be written into a document, each of its fields says
//! what it is for, and a field it does not have is refused.

use weir_document::shape::Shape;
use weir_document::{NoFills, Syntax};
use weir_operators::STEPS;
use weir_pipelines::document::Document;
use weir_pipelines::plan::{COMPONENTS, GRAMMAR};

fn read(source: (&str, &str), sink: (&str, &str)) -> Result<Document, String> {
    let indented = |text: &str| text.lines().map(|line| format!("      {line}\n")).collect::<String>();
    let ((source, of_source), (sink, of_sink)) = (source, sink);
    let text =
        format!("pipeline: p\nfrom:\n    {source}:\n{}to:\n  - {sink}:\n{}", indented(of_source), indented(of_sink));
    read_text(&text)
}

fn read_text(text: &str) -> Result<Document, String> {
    GRAMMAR.read("p.yaml", Syntax::Yaml, text, &NoFills).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        format!("{text}{}", problems.join("\n"))
    })
}

const SOURCE: (&str, &str) = ("generator", "columns: { time: { timestamp: {} } }");
const SINK: (&str, &str) = ("discard", "{}");

#[test]
fn every_example_is_right() {
    for spec in COMPONENTS.sources {
        let document =
            read((spec.about.name, spec.about.example), SINK).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(document.from[0].component.name, spec.about.name);
    }
    for spec in COMPONENTS.sinks {
        let document =
            read(SOURCE, (spec.about.name, spec.about.example)).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(document.to[0].component.name, spec.about.name);
    }
}

#[test]
fn every_example_of_a_step_is_right() {
    for spec in STEPS {
        let text = format!(
            "pipeline: p\nfrom: {{ generator: {{ {} }} }}\nsteps:\n  - {}\nto: [ {{ discard: {{}} }} ]\n",
            SOURCE.1, spec.example
        );
        let document = read_text(&text).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(document.steps[0].component.name, spec.name);
    }
}

#[test]
fn unknown_fields_are_refused() {
    let example = |example: &str| match example.trim() {
        "{}" => "nothing_like_this: 1".to_owned(),
        example => format!("{example}\nnothing_like_this: 1"),
    };
    for spec in COMPONENTS.sources {
        let problems = read((spec.about.name, &example(spec.about.example)), SINK).unwrap_err();
        assert!(problems.contains("unknown field `nothing_like_this` in `from."), "{problems}");
    }
    for spec in COMPONENTS.sinks {
        let problems = read(SOURCE, (spec.about.name, &example(spec.about.example))).unwrap_err();
        assert!(problems.contains("unknown field `nothing_like_this` in `to.0."), "{problems}");
    }
}

#[test]
fn every_field_is_documented() {
    fn walk(shape: &Shape, path: &str, missing: &mut Vec<String>) {
        for field in shape.fields() {
            let path = format!("{path}.{}", field.name);
            if field.doc.is_empty() {
                missing.push(path.clone());
            }
            walk(&field.shape, &path, missing);
        }
        match shape {
            Shape::List(inner) => walk(inner, path, missing),
            Shape::Map { values, .. } => walk(values, path, missing),
            Shape::Either(shapes) => shapes.iter().for_each(|shape| walk(shape, path, missing)),
            _ => {}
        }
    }
    let mut missing = Vec::new();
    walk(GRAMMAR.shape(), "", &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}
