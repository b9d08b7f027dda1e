//! Pipelines that run in a server: applied, watched, changed, stopped, and what is left after kill -9.

use std::path::{Path, PathBuf};
use std::process::Output;

use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Serving, put, run, said, until, weir};

/// A directory with a server and what its pipelines read.
pub(crate) struct Desk {
    pub(crate) dir: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// `weir ARGUMENTS` with the administrator's key.
    pub(crate) fn weir(&self, arguments: &[&str]) -> Output {
        let data_dir = self.data_dir();
        weir(arguments).args(["--data-dir", data_dir.to_str().unwrap()]).output().unwrap()
    }

    /// The same with a key.
    pub(crate) fn weir_with(&self, key: &str, arguments: &[&str]) -> Output {
        let data_dir = self.data_dir();
        weir(arguments).args(["--data-dir", data_dir.to_str().unwrap(), "--key", key]).output().unwrap()
    }

    pub(crate) fn works(&self, arguments: &[&str]) -> String {
        let output = self.weir(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn show(&self, name: &str) -> Value {
        serde_json::from_str(&self.works(&["pipeline", "show", name, "--tenant", "acme", "--format", "json"])).unwrap()
    }

    pub(crate) fn wait_for(&self, name: &str, status: &str) -> Value {
        until(&format!("{name} becomes {status}"), || Some(self.show(name)).filter(|shown| shown["status"] == status))
    }

    pub(crate) fn apply(&self, file: &str, more: &[&str]) -> Output {
        self.weir(&[&["pipeline", "apply", file, "--tenant", "acme"], more].concat())
    }

    pub(crate) fn applies(&self, file: &str, more: &[&str]) -> String {
        let output = self.apply(file, more);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn with_tenant(self) -> Self {
        self.works(&["tenant", "create", "acme"]);
        self
    }
}

/// Counts rows by key from a folder of files into one file, and goes on as long as it is let.
fn counting(folder: &Path, follow: bool, select: &str) -> String {
    let follow = if follow { ", follow: true" } else { "" };
    format!(
        r#"
pipeline: counts
from:
  file: {{ path: "{0}/in/*.ndjson", format: ndjson, schema: {{ ts: timestamp, k: int64 }}{follow} }}
  time: ts
  watermark: 2s
steps:
  - window: {{ tumbling: 10s, by: [k], select: {{ {select} }} }}
to:
  - file: {{ path: "{0}/out.ndjson", format: ndjson }}
checkpoint: {{ interval: 20ms }}
"#,
        folder.display()
    )
}

fn input(folder: &Path, name: &str, from: i64, rows: i64) {
    let text: String = (from..from + rows)
        .map(|row| format!("{{\"ts\":{},\"k\":{}}}\n", 1_782_900_000_000 + row * 20, row % 7))
        .collect();
    put(&folder.join("in").join(name), &text);
}

fn lines(path: &Path) -> Vec<String> {
    let mut lines: Vec<String> = std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_pipeline_runs_in_the_server_to_the_end_of_its_input() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    input(desk.dir.path(), "a.ndjson", 0, 5_000);
    let file = desk.write("counts.yaml", &counting(desk.dir.path(), false, "n: \"count(*)\""));
    let answer = desk.applies(&file, &["--dry-run"]);
    assert!(answer.contains("counts: would be created"), "{answer}");
    assert!(answer.contains("to ") && answer.contains("exactly once"), "{answer}");
    assert!(desk.works(&["pipeline", "list", "--tenant", "acme", "--format", "json"]).contains("[]"));
    let answer = desk.applies(&file, &[]);
    assert!(answer.contains("counts: created, and runs"), "{answer}");
    let shown = desk.wait_for("counts", "finished");
    let counters = |at: usize| shown["nodes"][at]["counters"].clone();
    assert_eq!(counters(0)["rows_in"], 5_000, "{shown}");
    assert_eq!(shown["document"].as_str().map(str::trim_start).map(|text| &text[..16]), Some("pipeline: counts"));
    // A hundred seconds in windows of ten, seven keys.
    assert_eq!(lines(&desk.dir.path().join("out.ndjson")).len(), 70);
    let list = desk.works(&["pipeline", "list", "--tenant", "acme"]);
    assert!(list.contains("counts") && list.contains("finished") && list.contains("5000"), "{list}");
    // Applying it again changes nothing, and does nothing again.
    desk.applies(&file, &[]);
    desk.wait_for("counts", "finished");
    assert_eq!(lines(&desk.dir.path().join("out.ndjson")).len(), 70);
    desk.works(&["pipeline", "delete", "counts", "--tenant", "acme"]);
    let gone = desk.weir(&["pipeline", "show", "counts", "--tenant", "acme"]);
    assert!(!gone.status.success() && said(&gone).contains("there is no such pipeline"), "{}", said(&gone));
    // What it has written stays, and its checkpoints are gone.
    assert_eq!(lines(&desk.dir.path().join("out.ndjson")).len(), 70);
    assert!(!desk.data_dir().join("pipelines/acme/counts").exists());
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

#[test]
fn results_are_those_of_one_whole_run_though_the_server_is_killed_and_stopped() {
    let (whole, desk) = (tempfile::tempdir().unwrap(), Desk::new());
    let folder = desk.dir.path().to_owned();
    for at in 0..12 {
        input(whole.path(), &format!("{at:02}.ndjson"), at * 2_000, 2_000);
    }
    let file = whole.path().join("counts.yaml");
    std::fs::write(&file, counting(whole.path(), false, "n: \"count(*)\"")).unwrap();
    let output = run(&["run", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let expected = lines(&whole.path().join("out.ndjson"));

    let mut server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let file = desk.write("counts.yaml", &counting(&folder, true, "n: \"count(*)\""));
    desk.applies(&file, &[]);
    for at in 0..12 {
        input(&folder, &format!("{at:02}.ndjson"), at * 2_000, 2_000);
        std::thread::sleep(std::time::Duration::from_millis(50));
        match at % 4 {
            0 => {
                server.signal(Signal::KILL);
                drop(server);
                server = Serving::start(&desk.data_dir(), &[]);
            }
            1 => {
                assert_eq!(server.stop(Signal::TERM), Some(0));
                server = Serving::start(&desk.data_dir(), &[]);
            }
            2 => {
                desk.works(&["pipeline", "stop", "counts", "--tenant", "acme"]);
                assert_eq!(desk.show("counts")["status"], "stopped");
                desk.works(&["pipeline", "start", "counts", "--tenant", "acme"]);
            }
            _ => {}
        }
    }
    // The same document, but for the end of its input: it goes on from the checkpoint of the other.
    let file = desk.write("counts.yaml", &counting(&folder, false, "n: \"count(*)\""));
    let answer = desk.applies(&file, &[]);
    assert!(answer.contains("goes on from checkpoint"), "{answer}");
    desk.wait_for("counts", "finished");
    assert_eq!(lines(&folder.join("out.ndjson")), expected);
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

#[test]
fn a_change_the_state_does_not_allow_is_refused_beforehand() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    input(&folder, "a.ndjson", 0, 5_000);
    let document = |select| {
        let document = counting(&folder, true, select);
        document.replace("format: ndjson }\ncheckpoint", "format: ndjson, existing: replace }\ncheckpoint")
    };
    let file = desk.write("counts.yaml", &document("n: \"count(*)\""));
    desk.applies(&file, &[]);
    until("there is a checkpoint", || {
        Some(()).filter(|()| desk.show("counts")["checkpoint"]["epoch"].as_u64() > Some(1))
    });
    let other = desk.write("other.yaml", &document("n: \"count(*)\", least: \"min(ts)\""));
    for more in [&[][..], &["--dry-run"]] {
        let refused = desk.apply(&other, more);
        assert!(!refused.status.success(), "{}", said(&refused));
        assert!(
            said(&refused).contains("pipeline_changed") && said(&refused).contains("count(*)"),
            "{}",
            said(&refused)
        );
    }
    // What ran runs on.
    let shown = desk.show("counts");
    assert_eq!((shown["status"].as_str(), shown["revision"].as_u64()), (Some("running"), Some(1)));
    let answer = desk.applies(&other, &["--restart"]);
    assert!(answer.contains("begins anew"), "{answer}");
    until("it runs anew", || Some(()).filter(|()| desk.show("counts")["nodes"][0]["counters"]["rows_in"] == 5_000));
    assert_eq!(std::fs::read_dir(desk.data_dir().join("pipelines/acme/counts")).unwrap().count(), 1);
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

#[test]
fn tenants_reach_nothing_of_the_server_and_nothing_of_each_other() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    desk.works(&["tenant", "create", "blue"]);
    let key = |tenant: &str, scopes: &str| {
        desk.works(&["key", "create", "--tenant", tenant, "--scopes", scopes]).trim().to_owned()
    };
    let (acme, blue, reader) = (key("acme", "query,admin"), key("blue", "query,admin"), key("acme", "query"));
    let made_up = "pipeline: made_up\nfrom:\n  generator: { rate: 100, columns: { n: { sequence: {} } } }\nto: [ { discard: {} } ]\n";
    let file = desk.write("made_up.yaml", made_up);
    let applied = desk.weir_with(&acme, &["pipeline", "apply", &file]);
    assert!(applied.status.success(), "{}", said(&applied));
    desk.wait_for("made_up", "running");
    // What passes can be looked at, sampled and filtered, and by nobody else.
    let tapped = desk.weir_with(&reader, &["tap", "made_up.from", "--every", "3", "--where", "n % 2 = 0", "-n", "5"]);
    assert!(tapped.status.success(), "{}", said(&tapped));
    let numbers: Vec<i64> = String::from_utf8(tapped.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_i64().unwrap())
        .collect();
    assert!(numbers.len() == 5 && numbers.windows(2).all(|two| two[1] - two[0] == 6), "{numbers:?}");
    assert!(numbers.iter().all(|number| number % 2 == 0), "{numbers:?}");
    let refused = desk.weir_with(&reader, &["tap", "made_up.window"]);
    assert!(said(&refused).contains("its parts are from, discard"), "{}", said(&refused));
    assert!(!desk.weir_with(&blue, &["tap", "made_up"]).status.success());
    // Files, the terminal and the environment of the server are refused, with the place.
    let refusals = [
        (made_up.replace("discard: {}", "file: { path: /tmp/x, format: ndjson }"), "files of the machine"),
        (made_up.replace("discard: {}", "console: {}"), "terminal"),
        (made_up.replace("made_up\n", "${env:HOME}\n"), "environment variables of the server cannot be used here"),
        (made_up.replace("discard", "discart"), "discart"),
    ];
    for (document, expected) in refusals {
        let file = desk.write("wrong.yaml", &document);
        let refused = desk.weir_with(&acme, &["pipeline", "apply", &file]);
        assert!(!refused.status.success(), "{document}: {}", said(&refused));
        assert!(said(&refused).contains(expected) && said(&refused).contains("wrong.yaml:"), "{}", said(&refused));
    }
    // To an administrator, too, the terminal is none.
    let file = desk.write("console.yaml", &made_up.replace("discard: {}", "console: {}"));
    assert!(said(&desk.apply(&file, &[])).contains("there is no terminal"));
    for arguments in
        [["pipeline", "show", "made_up"], ["pipeline", "stop", "made_up"], ["pipeline", "delete", "made_up"]]
    {
        let refused = desk.weir_with(&blue, &arguments);
        assert!(!refused.status.success() && said(&refused).contains("there is no"), "{}", said(&refused));
    }
    let list = desk.weir_with(&blue, &["pipeline", "list", "--format", "json"]);
    assert_eq!(String::from_utf8_lossy(&list.stdout).trim(), "[]");
    // Who may only ask may look and not touch.
    assert!(desk.weir_with(&reader, &["pipeline", "show", "made_up"]).status.success());
    assert!(!desk.weir_with(&reader, &["pipeline", "stop", "made_up"]).status.success());
    assert_eq!(desk.show("made_up")["status"], "running");
    // A tenant that goes takes its pipelines along.
    desk.works(&["tenant", "delete", "acme", "--yes"]);
    until("its checkpoints are gone", || Some(()).filter(|()| !desk.data_dir().join("pipelines/acme").exists()));
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

#[test]
fn one_that_fails_is_tried_again_and_costs_the_others_nothing() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    input(&folder, "a.ndjson", 0, 5_000);
    let good = desk.write("counts.yaml", &counting(&folder, true, "n: \"count(*)\""));
    // It writes below something that is a file.
    std::fs::write(folder.join("taken"), "").unwrap();
    let bad = counting(&folder, true, "n: \"count(*)\"")
        .replace("out.ndjson", "taken/out.ndjson")
        .replace(": counts", ": bad");
    let bad = desk.write("bad.yaml", &bad);
    desk.applies(&good, &[]);
    desk.applies(&bad, &[]);
    let failed = until("it fails", || Some(desk.show("bad")).filter(|shown| shown["failure"].is_object()));
    assert!(failed["failure"]["message"].as_str().unwrap().contains("taken"), "{failed}");
    until("the other goes on", || {
        Some(()).filter(|()| desk.show("counts")["nodes"][0]["counters"]["rows_in"] == 5_000)
    });
    // Two seconds behind the last of five thousand rows, twenty milliseconds apart; the source says so from time to time.
    until("what time waits for is told", || {
        let explained = desk.works(&["pipeline", "explain", "counts", "--tenant", "acme"]);
        Some(()).filter(|()| explained.contains("it waits for") && explained.contains("which is at 2026-07-01T"))
    });
    let top = desk.works(&["top", "--tenant", "acme", "--looks", "1"]);
    assert!(top.contains("counts: running") && top.contains("taken") && top.contains("5000"), "{top}");
    // What is not there cannot have been missed.
    let absent = counting(&folder, false, "n: \"count(*)\"")
        .replace("/in/*.ndjson", "/in/absent.ndjson")
        .replace(": counts", ": absent");
    let absent = desk.write("absent.yaml", &absent.replace("out.ndjson", "absent_out.ndjson"));
    desk.applies(&absent, &[]);
    let failed = desk.wait_for("absent", "failed");
    assert!(failed["failure"]["message"].as_str().unwrap().contains("no file matches"), "{failed}");
    // What stood in its way goes, and it runs: by itself, or when it is told to.
    std::fs::remove_file(folder.join("taken")).unwrap();
    desk.works(&["pipeline", "start", "bad", "--tenant", "acme"]);
    desk.wait_for("bad", "running");
    until("it has read everything", || {
        Some(()).filter(|()| desk.show("bad")["nodes"][0]["counters"]["rows_in"] == 5_000)
    });
    assert_eq!(server.stop(Signal::TERM), Some(0));
}
