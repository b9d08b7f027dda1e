//! `weir run`, `weir test` and `weir check` of pipelines, and what is left after kill -9.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::program::{run, said, weir};

const PIPELINE: &str = r#"
pipeline: counts
from:
  file: { path: "in/*.ndjson", format: ndjson, schema: { ts: timestamp, k: int64, v: int64 } }
  time: ts
  watermark: 2s
steps:
  - window: { hopping: { size: 1m, every: 20s }, by: [k], select: { n: "count(*)", total: "sum(v)" } }
to:
  - file: { path: "out/counts.ndjson", format: ndjson }
checkpoint: { interval: 10ms }
"#;

/// Rows in two files; some are later than the watermark allows, and some lines are none.
fn write_input(folder: &Path, rows: u64) {
    let mut chance = ChaCha8Rng::seed_from_u64(7);
    std::fs::create_dir_all(folder.join("in")).unwrap();
    for name in ["a", "b"] {
        let mut text = String::new();
        let mut time: i64 = 1_782_900_000_000;
        for row in 0..rows {
            time += chance.random_range(0..60);
            let ts = time - if row % 50 == 0 { 90_000 } else { chance.random_range(0..2_000) };
            let (k, v) = (chance.random_range(0..40), chance.random_range(0..1000));
            text.push_str(&format!("{{\"ts\":{ts},\"k\":{k},\"v\":{v}}}\n"));
            if row % 1000 == 999 {
                text.push_str("{\"ts\": not a number}\n");
            }
        }
        std::fs::write(folder.join(format!("in/{name}.ndjson")), text).unwrap();
    }
    std::fs::write(folder.join("counts.yaml"), PIPELINE).unwrap();
}

/// All lines of the results, of the late rows and of the dead letters, each sorted.
fn results(folder: &Path) -> [Vec<String>; 3] {
    ["out/counts.ndjson", ".weir/counts/late.ndjson", ".weir/counts/dead.ndjson"].map(|name| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{name} ends within a line");
        // Ids of dead letters are those of the start that wrote them.
        let without_id = |line: &str| line.split(",\"id\":\"").next().unwrap().to_owned();
        let mut lines: Vec<String> = text.lines().map(without_id).collect();
        lines.sort();
        lines
    })
}

#[test]
fn a_pipeline_killed_at_any_moment_gives_each_result_once() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = |folder: &Path| folder.join("counts.yaml").display().to_string();
    const ROWS: u64 = 40_000;
    for folder in [whole.path(), killed.path()] {
        write_input(folder, ROWS);
    }
    let output = run(&["run", &file(whole.path())]);
    assert!(output.status.success(), "{}", said(&output));
    let expected = results(whole.path());
    assert!(expected[0].len() > 1000, "{}", said(&output));
    assert!(expected[1].len() > 100, "some rows are late");
    assert_eq!(expected[2].len(), 80, "lines that are no rows");
    // Every row is in the result, late or dead: windows of a minute every twenty seconds hold each row three times.
    let counted: u64 = expected[0]
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap())
        .sum();
    let late = expected[1].len() as u64;
    assert!(counted <= 3 * (2 * ROWS - late) && counted > 2 * (2 * ROWS - late), "{counted} of {ROWS}, {late} late");

    let mut chance = ChaCha8Rng::seed_from_u64(11);
    let mut n_killed = 0;
    loop {
        let mut child =
            weir(&["run", &file(killed.path())]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(chance.random_range(10..150)));
        if child.try_wait().unwrap().is_some() || n_killed >= 60 {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        n_killed += 1;
    }
    assert!(n_killed >= 3, "it was killed {n_killed} times only");
    assert_eq!(results(killed.path()), expected, "after {n_killed} kills");

    // Nothing is done twice, until somebody wants it.
    let output = run(&["run", &file(killed.path())]);
    assert!(output.status.success() && said(&output).contains("--restart begins anew"), "{}", said(&output));
    assert_eq!(results(killed.path()), expected);
    let output = run(&["run", &file(killed.path()), "--restart"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("exists already"), "{}", said(&output));
}

#[test]
fn a_pipeline_that_has_read_everything_says_what_has_come_and_begins_anew_only_if_it_can() {
    let dir = tempfile::tempdir().unwrap();
    write_input(dir.path(), 2000);
    let file = dir.path().join("counts.yaml").display().to_string();
    let works = |arguments: &[&str]| {
        let output = run(&[&["run", &file], arguments].concat());
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let fails = |arguments: &[&str]| {
        let output = run(&[&["run", &file], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    };
    works(&[]);
    let before = results(dir.path());
    assert!(fails(&["--restart"]).contains("stays as it was"));
    // Nothing was forgotten, and it is said what is in the way.
    let said = works(&[]);
    assert!(said.contains("all input has been read before") && said.contains("move it away"), "{said}");
    assert_eq!(results(dir.path()), before);

    let input = dir.path().join("in/a.ndjson");
    let text = std::fs::read_to_string(&input).unwrap();
    std::fs::write(&input, format!("{text}{{\"ts\":1782900000000,\"k\":1,\"v\":1}}\n")).unwrap();
    assert!(fails(&[]).contains("in/a.ndjson has grown"));
    std::fs::write(&input, text.replace("\"k\":", "\"k\": ")).unwrap();
    assert!(fails(&[]).contains("was replaced"));
    std::fs::remove_file(dir.path().join("out/counts.ndjson")).unwrap();
    works(&["--restart"]);
    assert_eq!(results(dir.path())[0], before[0]);
}

/// What a table is made of is no row that was read.
#[test]
fn rows_of_tables_are_counted_apart() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("in.ndjson", "{\"id\":1}\n{\"id\":2}\n{\"id\":1}\n{\"id\":9}\n");
    write("people.csv", "id,name\n1,Ann\n2,Bob\n3,Cid\n");
    write(
        "named.yaml",
        "pipeline: named\nfrom:\n  file: { path: in.ndjson, format: ndjson, schema: { id: int64 } }\ntables:\n  - file: { path: people.csv, format: csv, schema: { id: int64, name: text } }\n    id: people\nsteps:\n  - lookup: { table: people, on: [id] }\nto:\n  - discard:\n",
    );
    let output = run(&["run", folder.path().join("named.yaml").to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    assert!(said.contains("4 rows read (") && said.contains("3 rows of the table people"), "{said}");
    assert!(said.contains("3 rows to discard"), "{said}");
}

#[test]
fn wrong_pipelines_are_refused_with_all_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.yaml");
    std::fs::write(
        &file,
        "pipeline: bad\nfrom: { file: { path: \"x.ndjson\", format: ndjsn }, time: t }\nsteps:\n  - filtr: \"x > 1\"\nto: [ { console: {} } ]\n",
    )
    .unwrap();
    for command in ["check", "run"] {
        let output = run(&[command, file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let text = said(&output);
        assert!(text.contains("bad.yaml:2:") && text.contains("did you mean `ndjson`"), "{text}");
        assert!(
            text.contains("bad.yaml:4:5: unknown field `filtr`") && text.contains("did you mean `filter`"),
            "{text}"
        );
    }
    // What is pasted from a page without its first line is no configuration.
    let file = folder.path().join("part.yaml");
    std::fs::write(&file, "from: { stream: events }\nto: [ { console: {} } ]\n").unwrap();
    let output = run(&["check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("needs `pipeline`"), "{}", said(&output));
}

#[test]
fn the_examples_and_the_text_tests_pass_from_outside() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // What ships with Weir is tried out as users try out theirs.
    let folders = ["examples/pipelines", "tests/pipelines", "crates/server/src/pipelines/built_in"];
    let folders = folders.map(|folder| root.join(folder).display().to_string());
    let tests = root.join("tests/pipelines");
    let output = run(&["test", &folders[0], &folders[1], &folders[2]]);
    assert!(output.status.success(), "{}", said(&output));

    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.wt");
    let text = std::fs::read_to_string(tests.join("tumbling.wt")).unwrap().replace("a     2  4", "a     3  4");
    std::fs::write(&wrong, &text).unwrap();
    let output = run(&["test", wrong.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = said(&output);
    assert!(shown.contains("- 00:00:00      00:00:10    a     3  4"), "{shown}");
    assert!(shown.contains("+ 00:00:00      00:00:10    a     2  4"), "{shown}");
    let output = run(&["test", "--bless", wrong.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let blessed = std::fs::read_to_string(&wrong).unwrap();
    assert_eq!(blessed, std::fs::read_to_string(tests.join("tumbling.wt")).unwrap());
}

#[test]
fn a_pipeline_that_is_stopped_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("made.yaml");
    std::fs::write(
        &file,
        "pipeline: made\nfrom:\n  generator: { count: 3000, rate: 2000, columns: { n: { sequence: {} } } }\nto:\n  - file: { path: out.ndjson, format: ndjson }\ncheckpoint: { interval: 50ms }\n",
    )
    .unwrap();
    let start =
        || weir(&["run", file.to_str().unwrap()]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let child = start();
    std::thread::sleep(Duration::from_millis(700));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && said(&output).contains("stopped; run it again"), "{}", said(&output));
    let before = std::fs::read_to_string(folder.path().join("out.ndjson")).unwrap().lines().count();
    assert!(before > 0 && before < 3000, "{before}");
    let output = start().wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = std::fs::read_to_string(folder.path().join("out.ndjson")).unwrap();
    let numbers: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
}
