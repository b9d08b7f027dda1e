//! What a pipeline may be whose source is divided among several processes.

use std::sync::Arc;
use std::time::Duration;

use weir_base::clock::SystemClock;
use weir_base::disk::RealDisk;
use weir_component::spec::{Access, PlanContext};
use weir_document::{NoFills, Syntax};
use weir_pipelines::ends::RealEnds;
use weir_pipelines::plan::{GRAMMAR, plan};
use weir_sql::expressions::{Language, NoKinds};

/// What is wrong, with its place.
fn problems(text: &str) -> Vec<String> {
    let document = GRAMMAR.read("p", Syntax::Yaml, text, &NoFills).unwrap_or_else(|found| panic!("{text}{found:?}"));
    let context = PlanContext {
        directory: "/d".into(),
        pipeline: document.name.clone(),
        tenant: None,
        checkpoint_interval: Duration::from_secs(10),
        disk: RealDisk::new(),
        clock: SystemClock::new(),
        streams: None,
    };
    let ends =
        RealEnds { context, allowed: Access::ALL, state_bytes_max: 1 << 30, late: None, dead: None, refreshes: None };
    let language = Language::new(Arc::new(NoKinds), SystemClock::new());
    let found = plan(&document, &ends, &language, 2).err().unwrap_or_default();
    found.iter().map(|problem| problem.to_string()).collect()
}

fn check(steps: &str, to: &str, expected: &[&str]) {
    let kafka =
        "kafka: { brokers: \"k:1\", topic: in, format: json, schema: { at: timestamp, user: text }, shared: true }";
    let text = format!("pipeline: p\nfrom:\n  {kafka}\n  time: at\n{steps}to:\n{to}");
    let found = problems(&text);
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(|(found, part)| found.contains(part)),
        "{text}{found:#?}"
    );
}

const TO_KAFKA: &str = "  - kafka: { brokers: \"k:1\", topic: out }\n";

#[test]
fn steps_that_remember_nothing_move_with_their_partitions() {
    let steps = "steps:
  - filter: \"user is not null\"
  - set: { name: \"upper(user)\" }
  - route: { odd: \"length(user) % 2 = 1\" }
";
    check(steps, &format!("{TO_KAFKA}  - discard: {{}}\n    from: odd\n"), &[]);
    check("", "  - console: {}\n", &[]);
    check("", "  - kafka: { brokers: \"k:1\", topic: out, delivery: at_least_once }\n", &[]);
}

#[test]
fn what_is_remembered_would_stay_behind() {
    let window = "steps:\n  - window: { tumbling: 1m, by: [user], select: { n: \"count(*)\" } }\n";
    check(window, TO_KAFKA, &["the step `window` remembers rows"]);
    check("steps:\n  - dedupe: { by: [user], within: 1m }\n", TO_KAFKA, &["the step `dedupe` remembers rows"]);
    let sql = "sql: SELECT tumble(at, interval '1 minute') AS w, count(*) AS n FROM input GROUP BY 1\n";
    check(sql, TO_KAFKA, &["remembers rows"]);
}

#[test]
fn sinks_that_keep_rows_in_one_process_are_refused() {
    check(
        "",
        "  - file: { path: out.ndjson, format: ndjson }\n",
        &["`file` delivers exactly once by the checkpoints of one"],
    );
}

#[test]
fn the_key_of_a_message_is_an_expression() {
    let to = |key: &str| format!("  - kafka: {{ brokers: \"k:1\", topic: out, key: \"{key}\" }}\n");
    check("", &to("user"), &[]);
    check("", &to("concat(user, '/', extract(year from at))"), &[]);
    check("", &to("concat(user, nobody)"), &["nobody"]);
}
