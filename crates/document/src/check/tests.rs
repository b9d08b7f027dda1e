#![allow(clippy::unwrap_used, dead_code, reason = "tests; the fields are read through their schema")]

use std::collections::BTreeMap;
use std::fmt::Write;

use expect_test::{Expect, expect};
use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::Syntax;
use crate::fill::{Fills, NoFills, fill};
use crate::shape::of_schema;

/// A source, as a component would have it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    /// Which files.
    path: String,
    /// How they are written.
    format: Encoding,
    /// How much is read at once.
    #[schemars(extend("x-min" = "1KiB"))]
    #[serde(default)]
    chunk: ByteSize,
    rate: Option<f64>,
    columns: Option<Vec<Column>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Ndjson,
    Csv,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Column {
    name: String,
    #[serde(default)]
    depth: i8,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Stream {
    Name(String),
    Config(StreamConfig),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StreamConfig {
    /// Which stream.
    name: String,
    lanes: Option<u8>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// One after another.
    Tumbling(Span),
    Hopping {
        size: Span,
        every: Span,
    },
}

#[derive(Deserialize, JsonSchema)]
struct Window {
    #[serde(flatten)]
    kind: Kind,
    #[serde(default)]
    by: By,
    #[schemars(extend("x-weir-shape" = "expressions"))]
    select: BTreeMap<String, String>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(untagged)]
enum By {
    #[default]
    Nothing,
    Names(Vec<String>),
    Expressions(BTreeMap<String, String>),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Root {
    file: Option<FileConfig>,
    stream: Option<Stream>,
    window: Option<Window>,
    #[schemars(extend("format" = "expression"))]
    filter: Option<String>,
    extra: Option<Json>,
    values: Option<Vec<Json>>,
    level: Option<Encoding>,
}

fn schema() -> Schema {
    let mut root = of_schema(schemars::schema_for!(Root).as_value());
    if let Shape::Section(fields) = &mut root {
        let inner = ["file", "stream"].map(|name| fields.iter().find(|field| field.name == name).unwrap().clone());
        let others = vec![Field::new("time", "Which column.", Shape::Text(Format::Plain))];
        let shape = Shape::Tagged { noun: "source".to_owned(), tags: inner.to_vec(), others };
        fields.push(Field::new("from", "Where rows come from.", shape));
    }
    Schema { root, noun: "the document", unsuggested: &[] }
}

struct Fixed;

impl Fills for Fixed {
    fn variable(&self, name: &str) -> Result<String, String> {
        match name {
            "SECRET" => Ok("hunter2".to_owned()),
            "LIST" => Ok("a, b".to_owned()),
            "NUMBER" => Ok("7".to_owned()),
            _ => Err(format!("there is no environment variable `{name}`")),
        }
    }

    fn file(&self, path: &str) -> Result<String, String> {
        Ok(format!("content of {path}"))
    }
}

fn run(text: &str, fills: &dyn Fills) -> (Checked, Vec<Problem>) {
    let mut parsed = Syntax::Yaml.parse("f.yaml", text);
    let mut problems = Vec::new();
    fill(&mut parsed.root, fills, &mut problems);
    let checked = schema().check(&parsed, &mut problems);
    (checked, problems)
}

fn check_good(text: &str, expected: Json) {
    let (checked, problems) = run(text, &Fixed);
    assert_eq!(problems, [], "{text}");
    assert_eq!(Json::Object(checked.value), expected, "{text}");
}

fn check_bad(text: &str, expected: Expect) {
    let (_, problems) = run(text, &Fixed);
    assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
    let mut shown = String::new();
    for problem in Problem::all_shown(problems) {
        writeln!(shown, "{problem}").unwrap();
    }
    expected.assert_eq(&shown);
}

#[test]
fn what_fits_becomes_json() {
    use serde_json::json;
    check_good(
        "file: { path: a, format: csv, chunk: 2KiB, rate: 1e3, columns: [{name: x, depth: -3}] }",
        json!({"file": {"path": "a", "format": "csv", "chunk": "2KiB", "rate": 1000.0, "columns": [{"name": "x", "depth": -3}]}}),
    );
    check_good("stream: spans", json!({"stream": "spans"}));
    check_good("stream: { name: spans, lanes: 2 }", json!({"stream": {"name": "spans", "lanes": 2}}));
    check_good(
        "window: { tumbling: 1m, by: [a], select: { n: count(*), a: 1, yes: true } }",
        json!({"window": {"tumbling": "1m", "by": ["a"], "select": [{"name": "n", "text": "count(*)"}, {"name": "a", "text": "1"}, {"name": "yes", "text": "true"}]}}),
    );
    check_good(
        "window: { hopping: { size: 5m, every: 1m }, by: { 'a/b~c': x }, select: {} }",
        json!({"window": {"hopping": {"size": "5m", "every": "1m"}, "by": {"a/b~c": "x"}, "select": []}}),
    );
    check_good("values: [a, null, ~, 1]", json!({"values": ["a", null, null, 1]}));
    check_good("extra: [1, 1.5, null, {a: yes, b: true}]", json!({"extra": [1, 1.5, null, {"a": "yes", "b": true}]}));
    check_good(
        "level: csv\nfrom: { stream: spans, time: t }",
        json!({"level": "csv", "from": {"stream": "spans", "time": "t"}}),
    );
}

#[test]
fn what_is_filled_in_has_no_type_of_its_own() {
    use serde_json::json;
    check_good("stream: 'a-${env:SECRET}-${file:x y}'", json!({"stream": "a-hunter2-content of x y"}));
    check_good("stream: { name: x, lanes: '${env:NUMBER}' }", json!({"stream": {"name": "x", "lanes": 7}}));
    check_good(
        "window: { tumbling: 1m, by: '${env:LIST}', select: {} }",
        json!({"window": {"tumbling": "1m", "by": ["a", "b"], "select": []}}),
    );
    check_good("stream: $${env:SECRET} ${x} $$ ${", json!({"stream": "${env:SECRET} ${x} $$ ${"}));
    check_good("filter: \"'${service}' = name\"", json!({"filter": "'${service}' = name"}));
    let (checked, problems) = run("stream: '${env:SECRET}'", &NoFills);
    assert_eq!(problems.len(), 1);
    assert!(checked.value.is_empty());
}

#[test]
fn every_problem_at_once() {
    check_bad(
        "
file: { pth: a, format: cvs, chunk: 1B, rate: fast, columns: [{ nam: x }, { name: 1, depth: 300 }, 7] }
stream: [1]
window: { tumbling: 1m, hopping: { size: 5m }, select: { a, b: [1] } }
filter: ''
level: 3
extra: { a: 1, a: 2 }
from: { fil: {} }
",
        expect![[r#"
            f.yaml:2:7: `file` needs `path` (Which files)
            f.yaml:2:9: unknown field `pth` in `file` (did you mean `path`?)
            f.yaml:2:25: `file.format` must be one of ndjson, csv, not `cvs` (did you mean `csv`?)
            f.yaml:2:37: `file.chunk` must be at least 1KiB, not 1B
            f.yaml:2:47: `file.rate` must be a number, not `fast`
            f.yaml:2:63: `file.columns.0` needs `name`
            f.yaml:2:65: unknown field `nam` in `file.columns.0` (did you mean `name`?)
            f.yaml:2:83: `file.columns.1.name` must be text, not the number 1 (put it in quotes)
            f.yaml:2:93: `file.columns.1.depth` must be a whole number from -128 to 127, not the number 300
            f.yaml:2:100: `file.columns.2` must be a section with settings of its own, not the number 7
            f.yaml:3:9: `stream` must be text, or a section with settings of its own, not a list
            f.yaml:4:25: `window` has both `tumbling` and `hopping` (keep one of them)
            f.yaml:4:34: `window.hopping` needs `every`
            f.yaml:4:59: `window.select.a` must be an SQL expression, not nothing (put an expression that has a comma in quotes; nothing at all is written null, in quotes)
            f.yaml:4:64: `window.select.b` must be an SQL expression, not a list
            f.yaml:5:9: `filter` must be an SQL expression, not an empty text
            f.yaml:6:8: `level` must be one of ndjson, csv, not the number 3
            f.yaml:7:16: `extra.a` is set twice
            f.yaml:8:9: unknown field `fil` in `from` (did you mean `file`?)
        "#]],
    );
    check_bad(
        "from: { time: t }\nwindow: { select: {}, by: 7 }\nstream: { lanes: 1000 }\nfilter: [a]\n",
        expect![[r#"
        f.yaml:1:7: `from` needs a source: one of file, stream
        f.yaml:2:9: `window` needs one of tumbling, hopping
        f.yaml:2:27: `window.by` must be a list, each text, or a section of names, each with text, not the number 7
        f.yaml:3:9: `stream` needs `name` (Which stream)
        f.yaml:3:18: `stream.lanes` must be a whole number from 0 to 255, not the number 1000
        f.yaml:4:9: `filter` must be an SQL expression, not a list
    "#]],
    );
    check_bad(
        "from: { stream: a, file: { path: x, format: csv } }\nlevel: Csv\nstream: 5\n",
        expect![[r#"
        f.yaml:1:20: `from` has both `stream` and `file` (keep one of them)
        f.yaml:2:8: `level` must be one of ndjson, csv, not `Csv` (did you mean `csv`?)
        f.yaml:3:9: `stream` must be text, not the number 5 (put it in quotes)
    "#]],
    );
    check_bad(
        "from: file\nwindow: tumbling\n",
        expect![[r#"
        f.yaml:1:7: `from` must be a section with one of file, stream, not `file` (file: {}?)
        f.yaml:2:9: `window` must be a section with one of tumbling, hopping, not `tumbling` (`tumbling` needs a duration such as 250ms, 10s, 5m, 24h or 30d)
    "#]],
    );
    check_bad(
        "from: { file: }\n",
        expect![[r#"
        f.yaml:1:13: `from.file` needs `path` (Which files)
        f.yaml:1:13: `from.file` needs `format` (How they are written)
    "#]],
    );
}

#[test]
fn nothing_filled_in_is_ever_shown() {
    check_bad(
        "
file: { path: [ '${env:SECRET}' ], format: '${env:SECRET}', chunk: '${env:SECRET}', rate: '${env:SECRET}' }
stream: { name: a, lanes: '${env:SECRET}' }
filter: 'a = ${env:SECRET}'
window: { tumbling: '${env:NUMBER}', select: {} }
",
        expect![[r#"
            f.yaml:2:15: `file.path` must be text, not a list
            f.yaml:2:44: `file.format` must be one of ndjson, csv, not the value of `${env:SECRET}`
            f.yaml:2:68: `file.chunk` must be a size such as 512KiB, 32MiB or 4GiB, not the value of `${env:SECRET}`
            f.yaml:2:91: `file.rate` must be a number, not the value of `${env:SECRET}`
            f.yaml:3:27: `stream.lanes` must be a whole number from 0 to 255, not the value of `${env:SECRET}`
            f.yaml:4:9: `a = ${env:SECRET}` cannot be used in SQL (SQL is shown in plans and messages, and what is filled in must not be)
            f.yaml:5:21: `window.tumbling` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not the value of `${env:NUMBER}`
        "#]],
    );
    check_bad(
        "stream: ${env:ABSENT}\nfilter: '${env:SECRET'\nlevel: '${env:A}${env:B}'\n",
        expect![[r#"
        f.yaml:1:9: `${env:ABSENT}`: there is no environment variable `ABSENT`
        f.yaml:2:9: `${env:SECRET` has no `}`
        f.yaml:3:8: `${env:A}`: there is no environment variable `A`
        f.yaml:3:8: `${env:B}`: there is no environment variable `B`
    "#]],
    );
    let (checked, _) = run("stream: '${env:SECRET}'", &Fixed);
    assert_eq!(checked.places["/stream"].to_string(), "f.yaml:1:9");
}

#[test]
fn places_are_found_by_pointer() {
    let (checked, problems) =
        run("window: { hopping: { size: 5m, every: 1m }, by: { 'a/b~c': x }, select: {} }", &Fixed);
    assert_eq!(problems, []);
    let columns = checked.places.iter().map(|(pointer, place)| format!("{pointer} {}", place.column));
    expect![[r#"
         1
        /window 9
        /window/by 49
        /window/by/a~1b~0c 60
        /window/hopping 20
        /window/hopping/every 39
        /window/hopping/size 28
        /window/select 73"#]]
    .assert_eq(&columns.collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_work_and_the_report_are_bounded() {
    for (deep, expected) in [("[", "recursion limit"), ("- ", "levels are nested")] {
        let (_, problems) = run(&format!("extra:\n  {}", deep.repeat(10_000)), &Fixed);
        assert!(problems[0].message.contains(expected), "{problems:?}");
    }
    let many: String = (0..20_000).fold(String::new(), |mut text, n| {
        let _ = writeln!(text, "unknown{n}: 1");
        text
    });
    for (syntax, text) in [(Syntax::Yaml, many.clone()), (Syntax::Toml, many.replace(": ", " = "))] {
        let mut problems = Vec::new();
        schema().check(&syntax.parse("f", &text), &mut problems);
        let shown = Problem::all_shown(problems);
        assert_eq!(shown.len(), 101);
        assert_eq!(shown[100].to_string(), "f:101:1: 19900 more problems from here on");
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_never_panics(text in "[ a-z:{}\\[\\]'\"#\\n\\-&*!|>0-9äß€=.,$]{0,80}") {
            for syntax in [Syntax::Yaml, Syntax::Toml, Syntax::Json] {
                let mut parsed = syntax.parse("f", &text);
                let mut problems = Vec::new();
                fill(&mut parsed.root, &Fixed, &mut problems);
                schema().check(&parsed, &mut problems);
            }
        }

        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = String::from_utf8_lossy(&bytes);
            for syntax in [Syntax::Yaml, Syntax::Toml, Syntax::Json] {
                schema().check(&syntax.parse("f", &text), &mut Vec::new());
            }
        }

        #[test]
        fn a_place_inside_a_text_is_in_the_document(text in "[a-z'\" \\n|>:ä\\\\]{0,40}", line in 0usize..5, column in 0usize..20) {
            for syntax in [Syntax::Yaml, Syntax::Toml, Syntax::Json] {
                let document = format!("a: {text}");
                let place = Place { source: "f".into(), line: 1, column: 4 };
                crate::inside::inside(&document, syntax, &place, &text, line, column);
            }
        }
    }
}
