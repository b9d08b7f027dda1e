#![allow(clippy::unwrap_used, dead_code, reason = "tests; the fields are read through their schema")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use expect_test::{Expect, expect};
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::json;
use weir_document::{Fills, NoFills, ProcessFills};

use super::*;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Which files.
    path: String,
    /// How rows are written.
    format: FileFormat,
    #[serde(default)]
    options: Json,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FileFormat {
    Ndjson,
    Csv,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Kafka {
    brokers: Vec<String>,
    topic: String,
    password: Option<String>,
    #[serde(default)]
    port: u16,
}

#[derive(Deserialize, JsonSchema)]
struct Console {}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Stream {
    Name(String),
    Config { name: String },
}

#[derive(JsonSchema)]
#[schemars(transparent)]
struct Filter(#[schemars(extend("format" = "expression"))] String);

#[derive(JsonSchema)]
#[schemars(transparent)]
struct Set(#[schemars(extend("x-weir-shape" = "expressions"))] BTreeMap<String, String>);

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Window {
    tumbling: Option<Span>,
    hopping: Option<Hopping>,
    by: Option<Keys>,
    select: Set,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Hopping {
    size: Span,
    every: Span,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Keys {
    Columns(Vec<String>),
    Named(Set),
}

fn grammar() -> Grammar {
    let entry = |name, summary, schema| Entry { name, summary, schema };
    let file = entry("file", "Files.", || schema_for!(File));
    let kafka = entry("kafka", "Kafka.", || schema_for!(Kafka));
    let stream = entry("stream", "A stream of Weir.", || schema_for!(Stream));
    let steps = [
        entry("filter", "Keeps rows.", || schema_for!(Filter)),
        entry("set", "Sets columns.", || schema_for!(Set)),
        entry("keep", "Keeps columns.", || schema_for!(Vec<String>)),
        entry("window", "Aggregates.", || schema_for!(Window)),
    ];
    let console = entry("console", "Prints.", || schema_for!(Console));
    Grammar::new(&[file, kafka, stream], &[file], &steps, &[stream, file, kafka, console])
}

struct Fixed;

impl Fills for Fixed {
    fn variable(&self, name: &str) -> Result<String, String> {
        match name {
            "BROKERS" => Ok("k1:9092,k2:9092".to_owned()),
            "PORT" => Ok("9093".to_owned()),
            _ => Err(format!("there is no environment variable `{name}`")),
        }
    }

    fn file(&self, path: &str) -> Result<String, String> {
        match path {
            "/run/password" => Ok("hunter2".to_owned()),
            _ => Err(format!("there is no file `{path}`")),
        }
    }
}

fn read(text: &str) -> Document {
    grammar().read("p.yaml", Syntax::Yaml, text, &Fixed).unwrap_or_else(|problems| panic!("{}", show(&problems)))
}

fn show(problems: &[Diagnostic]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        writeln!(text, "{problem}").unwrap();
        text
    })
}

fn check_bad(text: &str, expected: Expect) {
    let problems = grammar().read("p.yaml", Syntax::Yaml, text, &Fixed).unwrap_err();
    let shown = show(&problems);
    assert!(!shown.contains("hunter2"), "{shown}");
    expected.assert_eq(&shown);
}

const VISITS: &str = r#"
pipeline: visits
from:
  file: { path: "in/*.ndjson", format: ndjson }
  time: timestamp            # event-time column; omitted: arrival time
  watermark: 5s              # rows may be this much out of order
sql: |
  SELECT tumble(timestamp, interval '1 minute') AS w, path, count(*) AS n
  FROM input GROUP BY 1, 2
to:
  - file: { path: "out/visits.ndjson", format: ndjson }
"#;

const SLOW_CHECKOUTS: &str = r#"
pipeline: slow_checkouts
from: { stream: spans, watermark: 5s, idle: 1m }
steps:
  - filter: "name = 'POST /checkout' and duration_ns > 5e8"
  - set: { region: "coalesce(attributes['cloud.region'], 'unknown')", a: 1 }
    when: region is null
  - filter: true
  - window:
      tumbling: 1m
      by: [region]
      select: { orders: "count(*)", p95: "approx_percentile_cont(duration_ns, 0.95)" }
    id: per_region
to:
  - stream: slow_checkouts
    key: region
  - console:
  - kafka: { brokers: "${env:BROKERS}", topic: slow-checkouts, password: "${file:/run/password}", port: "${env:PORT}" }
    key: [window, region]
parallelism: 4
checkpoint: { interval: 200ms }
"#;

#[test]
fn the_documents_of_the_design_are_read() {
    let document = read(VISITS);
    assert_eq!(document.name, "visits");
    assert_eq!(document.from[0].component.name, "file");
    assert_eq!(document.from[0].component.config(), &json!({"path": "in/*.ndjson", "format": "ndjson"}));
    assert_eq!(document.from[0].time.as_deref(), Some("timestamp"));
    assert_eq!(document.from[0].watermark, Some(Span(Duration::from_secs(5))));
    assert!(document.sql.as_ref().is_some_and(|sql| sql.starts_with("SELECT") && sql.ends_with("GROUP BY 1, 2\n")));
    assert_eq!((document.steps.len(), document.to.len()), (0, 1));
    assert_eq!((document.parallelism, document.checkpoint_interval), (None, None));

    let document = read(SLOW_CHECKOUTS);
    assert_eq!(document.from[0].component.config(), &json!("spans"));
    assert_eq!(document.from[0].idle, Some(Span(Duration::from_secs(60))));
    let steps: Vec<_> = document.steps.iter().map(|step| (step.component.name.as_str(), step.id.as_str())).collect();
    assert_eq!(steps, [("filter", "filter"), ("set", "set"), ("filter", "filter_2"), ("window", "per_region")]);
    assert_eq!(document.steps[1].when.as_deref(), Some("region is null"));
    assert_eq!(document.steps[2].component.config(), &json!("true"));
    let window = document.steps[3].component.config();
    assert_eq!(window["tumbling"], "1m");
    assert_eq!(window["select"][0], json!({"name": "orders", "text": "count(*)"}));
    let sinks: Vec<_> = document.to.iter().map(|to| (to.id.as_str(), to.key.join(","))).collect();
    assert_eq!(
        sinks,
        [("stream", "region".to_owned()), ("console", String::new()), ("kafka", "window,region".to_owned())]
    );
    assert_eq!(document.to[1].component.config(), &json!({}));
    let kafka =
        json!({"brokers": ["k1:9092", "k2:9092"], "topic": "slow-checkouts", "password": "hunter2", "port": 9093});
    assert_eq!(document.to[2].component.config(), &kafka);
    assert_eq!(document.parallelism, Some(4));
    assert_eq!(document.checkpoint_interval, Some(Span(Duration::from_millis(200))));
    assert!(!format!("{document:?}").contains("hunter2"));
    assert!(!format!("{document:#?}").contains("k1:9092"));
}

#[test]
fn all_languages_say_the_same() {
    let toml = r#"
pipeline = "p"
from = { file = { path = "a", format = "csv" }, time = "t", watermark = "1s" }
parallelism = 2
[[steps]]
filter = "a > 1"
[[steps]]
id = "w"
window = { hopping = { size = "5m", every = "1m" }, by = ["b"], select = { z = "sum(a)", a = "max(a)" } }
[[to]]
stream = { name = "x" }
key = ["b"]
"#;
    let json = r#"{
	"pipeline": "p",
	"from": {"file": {"path": "a", "format": "csv"}, "time": "t", "watermark": "1s"},
	"parallelism": 2,
	"steps": [
		{"filter": "a > 1"},
		{"id": "w", "window": {"hopping": {"size": "5m", "every": "1m"}, "by": ["b"], "select": {"z": "sum(a)", "a": "max(a)"}}}
	],
	"to": [{"stream": {"name": "x"}, "key": ["b"]}]
}"#;
    let yaml = r#"
pipeline: p
from: { file: { path: a, format: csv }, time: t, watermark: 1s }
parallelism: 2
steps:
- filter: a > 1
- id: w
  window: { hopping: { size: 5m, every: 1m }, by: [b], select: { z: sum(a), a: max(a) } }
to: [ { stream: { name: x }, key: [b] } ]
"#;
    let what = |syntax, text: &str| {
        let document = grammar().read("p", syntax, text, &NoFills).unwrap();
        let steps: Vec<_> =
            document.steps.iter().map(|step| (step.component.config().to_string(), step.id.clone())).collect();
        let to: Vec<_> = document.to.iter().map(|to| (to.component.config().to_string(), to.key.clone())).collect();
        (document.from[0].component.config().clone(), document.from[0].time.clone(), steps, to, document.parallelism)
    };
    let expected = what(Syntax::Yaml, yaml);
    assert_eq!(what(Syntax::Toml, toml), expected);
    assert_eq!(what(Syntax::Json, json), expected);
    // The order of expressions is that of the document.
    assert!(
        expected.2[1].0.contains(r#""select":[{"name":"z","text":"sum(a)"},{"name":"a","text":"max(a)"}]"#),
        "{:?}",
        expected.2
    );
}

#[test]
fn problems_of_documents() {
    check_bad(
        "",
        expect![[r#"
            p.yaml:1:1: a pipeline needs `pipeline` (The name of the pipeline: lower-case letters, digits and _, beginning with a letter, at most 56 characters, because streams are named after it)
            p.yaml:1:1: a pipeline needs `from` (Where rows come from: a source, or a list of several)
            p.yaml:1:1: a pipeline needs `to` (Where the results go)
        "#]],
    );
    check_bad(
        "pipeline: Visits-1\nfrom: {}\nto: []\n",
        expect![[r#"
        p.yaml:1:11: `pipeline` must be a name of lower-case letters, digits and _ that begins with a letter (at most 56), not `Visits-1` (visits_1?)
        p.yaml:2:7: `from` needs a source: one of file, kafka, stream
    "#]],
    );
    check_bad(
        "pipeline: visits_late\nfrom: { stream: a }\nto: []\n",
        expect![[r#"
        p.yaml:1:11: a pipeline's name does not end in `_late`: streams made for pipelines do (choose another name)
    "#]],
    );
    check_bad(
        "pipeline: p\nfrom: { stream: a, name: b }\nto: [ { console: } ]\n",
        expect![[r#"
        p.yaml:2:20: unknown field `name` in `from` (it belongs into the stream: stream: { ..., name: ... })
    "#]],
    );
    check_bad(
        &format!("pipeline: {}\nfrom: {{ stream: a }}\nto: {{ console: }}\n", "a".repeat(57)),
        expect![[r#"
        p.yaml:1:11: `pipeline` must be a name of lower-case letters, digits and _ that begins with a letter (at most 56), not `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...`
        p.yaml:3:5: `to` must be a list, each a section with one of stream, file, kafka, console, not a section (begin each item with `- `)
    "#]],
    );
    check_bad(
        "
pipeline: p
from:
  fiel: { path: x }
  watermark: 5
  time: ''
step: []
steps:
  - filter: ''
  - fliter: a
  - filter: a
    set: { a: 1 }
  - set: { a: coalesce(a, b) }
  - window: { tumbling: 1 minute, select: [a] }
    id: Per Region
  - keep: a
    when: [x]
  - filter
  -
to:
  - consol
  - console
  - kafka: { brokers: k1, topics: x, port: 70000 }
    keys: a
  - stream: []
    key: {}
parallelism: 0
checkpoint: 10s
",
        expect![[r#"
            p.yaml:4:3: unknown field `fiel` in `from` (did you mean `file`?)
            p.yaml:5:14: `from.watermark` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not the number 5 (a duration needs a unit: 5s, 5ms, ...)
            p.yaml:6:9: `from.time` must be the name of a column, not an empty text
            p.yaml:7:1: unknown field `step` (did you mean `steps`?)
            p.yaml:9:13: `steps.0.filter` must be an SQL expression, not an empty text
            p.yaml:10:5: unknown field `fliter` in `steps.1` (did you mean `filter`?)
            p.yaml:12:5: `steps.2` has both `filter` and `set` (keep one of them)
            p.yaml:13:30: `steps.3.set.b)` must be an SQL expression, not nothing (put an expression that has a comma in quotes; nothing at all is written null, in quotes)
            p.yaml:14:25: `steps.4.window.tumbling` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not `1 minute`
            p.yaml:14:43: `steps.4.window.select` must be a section of names, each with an SQL expression, not a list
            p.yaml:15:9: `steps.4.id` must be a name of lower-case letters, digits and _ that begins with a letter (at most 64), not `Per Region` (per_region?)
            p.yaml:16:11: `steps.5.keep` must be a list, each text, not `a` ([a]?)
            p.yaml:17:11: `steps.5.when` must be an SQL expression, not a list
            p.yaml:18:5: `steps.6` must be a section with one of filter, set, keep, window, not `filter` (`filter` needs an SQL expression)
            p.yaml:19:4: `steps.7` must be a section with one of filter, set, keep, window, not nothing
            p.yaml:21:5: `to.0` must be a section with one of stream, file, kafka, console, not `consol`
            p.yaml:22:5: `to.1` must be a section with one of stream, file, kafka, console, not `console` (console: {}?)
            p.yaml:23:12: `to.2.kafka` needs `topic`
            p.yaml:23:23: `to.2.kafka.brokers` must be a list, each text, not `k1` ([k1]?)
            p.yaml:23:27: unknown field `topics` in `to.2.kafka` (did you mean `topic`?)
            p.yaml:23:44: `to.2.kafka.port` must be a whole number from 0 to 65535, not the number 70000
            p.yaml:24:5: unknown field `keys` in `to.2` (did you mean `key`?)
            p.yaml:25:13: `to.3.stream` must be text, or a section with settings of its own, not a list
            p.yaml:26:10: `to.3.key` must be the name of a column, or a list, each the name of a column, not a section
            p.yaml:27:14: `parallelism` must be a whole number from 1 to 1024, not the number 0
            p.yaml:28:13: `checkpoint` must be a section with settings of its own, not `10s`
        "#]],
    );
    check_bad(
        "
pipeline: p
from: { stream: a, file: { path: x, format: csv } }
steps:
  - { filter: a, id: f }
  - { filter: a, id: filter }
  - { filter: a, id: f }
to: [ { console: , key: [] }, { console: , key: [a, b, a] } ]
checkpoint: { interval: 1ms, every: 1s }
",
        expect![[r#"
            p.yaml:3:20: `from` has both `stream` and `file` (keep one of them)
            p.yaml:7:22: two steps have the id `f` (first at p.yaml:5:22)
            p.yaml:8:25: a key has at least one column
            p.yaml:8:56: the column `a` is in the key twice
            p.yaml:9:25: `checkpoint.interval` must be at least 10ms, not 1ms
            p.yaml:9:30: unknown field `every` in `checkpoint` (known are interval)
        "#]],
    );
    check_bad(
        "
pipeline: p
from: { kafka: { brokers: '${env:BROKERS}', topic: '${file:nowhere}', port: '${file:/run/password}' } }
sql: SELECT '${env:PORT}'
steps:
  - filter: a = '${env:PORT}'
  - set: { a: '${env:NOBODY}' }
to: [ { console: } ]
",
        expect![[r#"
            p.yaml:3:52: `${file:nowhere}`: there is no file `nowhere`
            p.yaml:3:77: `from.kafka.port` must be a whole number from 0 to 65535, not the value of `${file:/run/password}`
            p.yaml:4:6: `SELECT '${env:PORT}'` cannot be used in SQL (SQL is shown in plans and messages, and what is filled in must not be)
            p.yaml:6:13: `a = '${env:PORT}'` cannot be used in SQL (SQL is shown in plans and messages, and what is filled in must not be)
            p.yaml:7:15: `${env:NOBODY}`: there is no environment variable `NOBODY`
        "#]],
    );
}

#[test]
fn nothing_of_the_process_is_filled_in_for_others() {
    let text = "pipeline: p\nfrom: { stream: '${env:HOME}' }\nto: [ { stream: '${file:/etc/passwd}' } ]\n";
    let problems = grammar().read("p.yaml", Syntax::Yaml, text, &NoFills).unwrap_err();
    expect![[r#"
        p.yaml:2:17: `${env:HOME}`: environment variables of the server cannot be used here
        p.yaml:3:17: `${file:/etc/passwd}`: files of the server cannot be used here
    "#]]
    .assert_eq(&show(&problems));
}

#[test]
fn files_are_read_with_what_is_beside_them() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("secret.txt"), "a secret\r\n").unwrap();
    std::fs::write(at("p.yml"), "pipeline: p\nfrom: { stream: '${file:secret.txt}' }\nto: [ { console: } ]\n").unwrap();
    let fills = ProcessFills { directory: directory.path().to_path_buf() };
    let document = grammar().read_file(&at("p.yml"), &fills).unwrap();
    assert_eq!(document.from[0].component.config(), &json!("a secret"));
    std::fs::write(at("secret.txt"), vec![b'x'; 70_000]).unwrap();
    let mut text = String::new();
    for name in ["p.yml", "absent.toml", "p.txt"] {
        text.push_str(&show(&grammar().read_file(&at(name), &fills).unwrap_err()));
    }
    expect![[r#"
        p.yml:2:17: `${file:secret.txt}`: the file `secret.txt` is larger than 65536 bytes
        absent.toml: the pipeline file does not exist
        p.txt: a pipeline file ends in .yaml, .yml, .toml or .json
    "#]]
    .assert_eq(&text.replace(&format!("{}/", directory.path().display()), ""));
}

#[test]
fn faults_of_components_find_their_place() {
    let document = read(SLOW_CHECKOUTS);
    let window = &document.steps[3].component;
    let set = &document.steps[1].component;
    let kafka = &document.to[2].component;
    let faults = [
        (window, Fault::new("", "all of it", "")),
        (window, Fault::new("/tumbling", "too short", "make it longer")),
        (window, Fault::new("/hopping/size", "is not there", "")),
        (window, Fault::new("/select/p95", "there is no function", "").at(1, 24)),
        (window, Fault::new("/select/p95", "beyond the text", "").at(3, 1)),
        (set, Fault::new("/region", "no column attributes", "").at(1, 10)),
        (set, Fault::new("/a", "a number", "").at(1, 1)),
        (set, Fault::new("/when", "no column region", "").at(1, 8)),
        (&document.from[0].component, Fault::new("", "no such stream", "")),
        (kafka, Fault::new("/password", "`hunter2` is too short", "not hunter2 again").at(1, 1)),
        (kafka, Fault::new("/brokers/1", "k2:9092 does not answer", "")),
    ];
    let mut text = String::new();
    for (component, fault) in faults {
        writeln!(text, "{}", document.diagnostic(component, fault)).unwrap();
    }
    expect![[r#"
        p.yaml:10:7: all of it
        p.yaml:10:17: too short (make it longer)
        p.yaml:10:7: is not there
        p.yaml:12:66: there is no function
        p.yaml:12:42: beyond the text
        p.yaml:6:30: no column attributes
        p.yaml:6:74: a number
        p.yaml:7:18: no column region
        p.yaml:3:17: no such stream
        p.yaml:18:74: `***` is too short (not *** again)
        p.yaml:18:23: *** does not answer
    "#]]
    .assert_eq(&text);

    let document = read(VISITS);
    let problem = document.problem("/sql", Some((2, 12)), "wrong", "");
    assert_eq!(problem.to_string(), "p.yaml:9:14: wrong");
}

/// The schema for editors accepts what is right and says what a part is for.
#[test]
fn the_schema_for_editors() {
    let schema = grammar().json_schema();
    assert_eq!(schema["required"], json!(["pipeline", "from", "to"]));
    assert_eq!(schema["additionalProperties"], json!(false));
    let from = &schema["properties"]["from"]["anyOf"][0];
    assert_eq!(schema["properties"]["from"]["anyOf"][1]["anyOf"][0]["items"], *from);
    assert_eq!(from["oneOf"], json!([{"required": ["file"]}, {"required": ["kafka"]}, {"required": ["stream"]}]));
    assert_eq!(from["properties"]["file"]["anyOf"][0]["required"], json!(["path", "format"]));
    let path = &from["properties"]["file"]["anyOf"][0]["properties"]["path"];
    assert_eq!(path, &json!({"type": "string", "description": "Which files."}));
    let filter = &schema["properties"]["steps"]["anyOf"][0]["items"]["properties"]["filter"];
    assert_eq!(filter, &json!({"type": ["string", "number", "boolean"], "description": "Keeps rows."}));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = String::from_utf8_lossy(&bytes);
            for syntax in [Syntax::Yaml, Syntax::Toml, Syntax::Json] {
                let _ = grammar().read("p", syntax, &text, &NoFills);
            }
        }

        /// A document with something cut out, doubled or changed is read, or has problems with places in it.
        #[test]
        fn a_damaged_document_has_problems_with_places(
            at in 0usize..900,
            length in 0usize..40,
            put in "[ a-z:{}\\[\\]'\"#\\n\\-&*!|>0-9$]{0,10}",
        ) {
            let text: Vec<char> = SLOW_CHECKOUTS.chars().collect();
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            let damaged: String = text[..at].iter().chain(put.chars().collect::<Vec<_>>().iter()).chain(&text[end..]).collect();
            match grammar().read("p", Syntax::Yaml, &damaged, &Fixed) {
                Ok(document) => prop_assert!(!document.to.is_empty()),
                Err(problems) => {
                    for problem in problems {
                        let mut parts = problem.place.split(':').skip(1).map(|part| part.parse::<usize>().unwrap());
                        let (line, column) = (parts.next().unwrap(), parts.next().unwrap());
                        prop_assert!(line >= 1 && line <= damaged.lines().count() + 1 && column >= 1, "{}", problem);
                        prop_assert!(!problem.to_string().contains("hunter2"), "{}", problem);
                    }
                }
            }
        }
    }
}

/// The seeds of the fuzz target, and what it once found.
#[test]
fn the_corpus_of_the_fuzzer_is_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/pipeline_document");
    let mut n_good = 0;
    let mut n_bad = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let Ok(text) = std::str::from_utf8(&bytes[1..]) else { continue };
        for syntax in [Syntax::Yaml, Syntax::Toml, Syntax::Json] {
            match grammar().read("f", syntax, text, &Fixed) {
                Ok(document) => {
                    let input = weir_sql::streaming::Input { time: Some("t"), ..Default::default() };
                    assert!(crate::sql::steps(&document, &[input]).is_ok(), "{text}");
                    n_good += 1;
                }
                Err(problems) => n_bad += usize::from(!problems.is_empty()),
            }
        }
    }
    assert!(n_good >= 1 && n_good + n_bad >= 15, "{n_good} {n_bad}");
}
