//! Savepoints of pipelines in a server: made, kept, gone back to, and refused with the reason.

use std::io::Write;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Serving, said, until};
use crate::served_pipelines::Desk;

/// How often each key came, all in one window that closes when time comes to its end.
fn counting(folder: &Path, out: &str, select: &str) -> String {
    format!(
        r#"
pipeline: counts
from:
  file: {{ path: "{0}/in/*.ndjson", format: ndjson, schema: {{ ts: timestamp, k: int64 }}, follow: true }}
  time: ts
  watermark: 0s
steps:
  - window: {{ tumbling: 1h, by: [k], select: {{ {select} }} }}
    id: hours
to:
  - file: {{ path: "{0}/{out}", format: ndjson, existing: append }}
checkpoint: {{ interval: 60s }}
"#,
        folder.display()
    )
}

/// Seconds after the beginning of an hour.
fn input(folder: &Path, rows: &[(i64, i64)]) {
    std::fs::create_dir_all(folder.join("in")).unwrap();
    let lines: String = rows
        .iter()
        .map(|(seconds, k)| format!("{{\"ts\":{},\"k\":{k}}}\n", 1_782_900_000_000 + seconds * 1000))
        .collect();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("in/a.ndjson")).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

/// Keys with their counts.
fn results(path: &Path) -> Vec<(i64, i64)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let pair = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        (row["k"].as_i64().unwrap(), row["n"].as_i64().unwrap())
    };
    let mut results: Vec<(i64, i64)> = text.lines().map(pair).collect();
    results.sort_unstable();
    results
}

fn read(desk: &Desk, rows: u64) {
    until(&format!("{rows} rows are read"), || {
        let shown = desk.show("counts");
        let from = shown["nodes"].as_array().unwrap().iter().find(|node| node["role"] == "source")?;
        (from["counters"]["rows_in"] == rows).then_some(())
    });
}

fn pipeline(desk: &Desk, arguments: &[&str]) -> String {
    desk.works(&[&["pipeline"], arguments, &["--tenant", "acme"]].concat())
}

fn refused(desk: &Desk, arguments: &[&str]) -> String {
    let output = desk.weir(&[&["pipeline"], arguments, &["--tenant", "acme"]].concat());
    assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

#[test]
fn a_pipeline_goes_on_from_what_was_kept_while_it_ran_or_was_stopped() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    input(&folder, &[(1, 1), (2, 1), (3, 2)]);
    let file = desk.write("counts.yaml", &counting(&folder, "out.ndjson", "n: \"count(*)\""));
    desk.applies(&file, &[]);
    read(&desk, 3);
    // Its next checkpoint would be in a minute.
    assert!(pipeline(&desk, &["savepoint", "counts", "--as", "early"]).contains("early: savepoint of counts"));
    assert!(refused(&desk, &["savepoint", "counts", "--as", "early"]).contains("there is a savepoint early already"));
    assert!(refused(&desk, &["savepoint", "counts", "--as", "../x"]).contains("is not the name of a savepoint"));
    // Nothing was read since, so nothing is written again.
    assert!(pipeline(&desk, &["restore", "counts", "early"]).contains("it has read nothing since"));
    desk.wait_for("counts", "running");
    input(&folder, &[(4, 2), (3601, 3)]);
    let closed = [(1, 2), (2, 2)];
    read(&desk, 2);
    pipeline(&desk, &["stop", "counts"]);
    assert_eq!(results(&folder.join("out.ndjson")), closed);
    pipeline(&desk, &["savepoint", "counts", "--as", "stopped"]);
    assert_eq!(desk.show("counts")["status"], "stopped");
    let labels = |desk: &Desk| -> Vec<String> {
        let list = pipeline(desk, &["savepoints", "counts", "--format", "json"]);
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        list.iter().map(|savepoint| savepoint["label"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(labels(&desk), ["early", "stopped"]);

    // They outlive kill -9 and checkpoints that were cleaned up.
    server.stop(Signal::KILL);
    let server = Serving::start(&desk.data_dir(), &[]);
    assert_eq!(labels(&desk), ["early", "stopped"]);
    let without = refused(&desk, &["restore", "counts", "early"]);
    assert!(without.contains("are written again") && without.contains("--write-again"), "{without}");
    assert!(without.contains("rows are added"), "{without}");
    // Another sink, and a window that keeps the same: what was counted before the savepoint counts.
    let elsewhere = desk.write("other.yaml", &counting(&folder, "again.ndjson", "n: \"count(*)\""));
    let said = pipeline(&desk, &["restore", "counts", "early", "--file", &elsewhere, "--dry-run"]);
    assert!(said.contains("would go on from early") && said.contains("there is no file"), "{said}");
    pipeline(&desk, &["restore", "counts", "early", "--file", &elsewhere, "--write-again"]);
    read(&desk, 2);
    pipeline(&desk, &["stop", "counts"]);
    assert_eq!(results(&folder.join("again.ndjson")), closed);
    assert_eq!(results(&folder.join("out.ndjson")), closed);
    // A window that keeps something else does not fit, and nothing is touched.
    let changed = desk.write("changed.yaml", &counting(&folder, "again.ndjson", "n: \"sum(k)\""));
    let unfit = refused(&desk, &["restore", "counts", "early", "--file", &changed, "--write-again"]);
    assert!(unfit.contains("the savepoint does not fit the pipeline: hours was"), "{unfit}");
    assert_eq!(desk.show("counts")["status"], "stopped");

    pipeline(&desk, &["delete-savepoint", "counts", "early"]);
    assert_eq!(labels(&desk), ["stopped"]);
    assert!(refused(&desk, &["restore", "counts", "early"]).contains("there is no savepoint early"));
    desk.works(&["tenant", "create", "blue"]);
    let blue = desk.works(&["key", "create", "--tenant", "blue", "--scopes", "query,admin"]).trim().to_owned();
    let of_another = desk.weir_with(&blue, &["pipeline", "savepoints", "counts"]);
    assert!(crate::program::said(&of_another).contains("there is no such pipeline"));
    assert_eq!(server.stop(Signal::TERM), Some(0));
}
