//! Dead letters and savepoints of pipelines that `weir run` runs, without a server.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::program::{numbers, run, said, until, weir};

fn works(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

fn dividing(folder: &Path, by: &str) -> String {
    let file = folder.join("shares.yaml");
    let text = format!(
        r#"
pipeline: shares
from: {{ file: {{ path: "in.csv", format: csv, schema: {{ n: int64 }} }} }}
steps:
  - set: {{ share: "100 / {by}" }}
    id: divide
to: [ {{ file: {{ path: "out.ndjson", format: ndjson }} }} ]
checkpoint: {{ interval: 10ms }}
"#
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn list(file: &str, more: &[&str]) -> Vec<Value> {
    let listed = works(&[&["deadletters", "list", file, "--format", "json"], more].concat());
    serde_json::from_str::<Value>(&listed).unwrap().as_array().unwrap().clone()
}

#[test]
fn rows_that_failed_are_run_again_once_by_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    std::fs::write(folder.join("in.csv"), format!("n\n{lines}many\n")).unwrap();
    let file = dividing(folder, "(n % 10)");
    assert!(fails(&["deadletters", "list", &file]).contains("has not run yet"));
    works(&["run", &file]);
    assert_eq!(numbers(folder).len(), 90);
    let letters = list(&file, &["-n", "1000"]);
    assert_eq!(letters.len(), 11);
    assert_eq!(list(&file, &["--class", "malformed"])[0]["row"], "n\nmany");
    let failed = list(&file, &["--step", "divide", "-n", "1"]);
    assert_eq!((&failed[0]["class"], &failed[0]["state"]), (&"failed".into(), &"open".into()));
    assert!(failed[0]["error"].as_str().unwrap().contains("zero"), "{failed:?}");
    assert!(fails(&["deadletters", "list", &file, "--since", "1h"]).contains("does not say when"));

    // What is no number is none again; the rest waits for the next run, however often it is asked for.
    let refused = fails(&["deadletters", "replay", &file]);
    assert!(refused.contains("not 1: ") && refused.contains("int64"), "{refused}");
    assert!(refused.contains("10 dead letters of"), "{refused}");
    let again = works(&["deadletters", "replay", &file, "--step", "divide"]);
    assert!(again.contains("0 dead letters of"), "{again}");
    assert_eq!(list(&file, &["--step", "divide"])[0]["state"], "waiting");
    // All input was read before, and there is something to be done nevertheless. It fails again.
    works(&["run", &file]);
    let again = list(&file, &["--step", "divide"]);
    assert_eq!(again.len(), 10);
    assert!(again.iter().all(|letter| letter["attempts"] == 2 && letter["state"] == "open"), "{again:?}");
    assert_eq!(list(&file, &["--all"]).len(), 21);

    // Repaired, and killed while they are run again.
    let file = dividing(folder, "(n % 10 + 1)");
    works(&["deadletters", "replay", &file, "--step", "divide"]);
    for pause in [5, 20, 40] {
        let mut child = weir(&["run", &file]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    works(&["run", &file]);
    assert_eq!(numbers(folder), (0..100).collect::<Vec<_>>());
    assert_eq!(list(&file, &[]).len(), 1);
    assert!(works(&["run", &file]).contains("all input has been read before"));

    // Purged letters are not seen any more, and not run again.
    let purged = works(&["deadletters", "purge", &file, "--class", "malformed"]);
    assert!(purged.contains("purged 1 dead letters"), "{purged}");
    assert_eq!((list(&file, &[]).len(), list(&file, &["--all"]).len()), (0, 20));
    assert!(works(&["deadletters", "replay", &file]).contains("0 dead letters"));
}

/// A step that goes by time holds rows back, and looks at them when time has passed them: that is when they fail.
#[test]
fn rows_that_failed_after_they_were_held_back_are_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    std::fs::write(folder.join("in.csv"), "n\n1\n0\n2\n").unwrap();
    for (step, class, failing) in [
        ("dedupe: { by: { share: \"100 / n\" }, within: 1h }", "failed", 1),
        ("limit_rate: { rows: 1, per: 1h }", "over_limit", 2),
        ("window: { count: { rows: 3, within: 1h }, select: { shares: \"sum(100 / n)\" } }", "failed", 1),
    ] {
        let name = step.split(':').next().unwrap();
        let file = folder.join(format!("{name}.yaml"));
        let text = format!(
            "pipeline: {name}\nfrom: {{ file: {{ path: in.csv, format: csv, schema: {{ n: int64 }} }} }}\n\
             steps:\n  - {step}\n    id: held\nto: [ {{ file: {{ path: {name}.ndjson, format: ndjson }} }} ]\n"
        );
        std::fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        works(&["run", &file]);
        assert_eq!(list(&file, &["--class", class, "--step", "held"]).len(), failing, "{name}");
        let again = works(&["deadletters", "replay", &file]);
        assert!(again.contains(&format!("{failing} dead letters of")), "{name}: {again}");
        // All input was read, so time has passed them there, too.
        works(&["run", &file]);
        assert_eq!(list(&file, &[]).len(), 0, "{name}");
        let late = std::fs::read_to_string(folder.join(format!(".weir/{name}/late.ndjson"))).unwrap();
        assert_eq!(late.lines().count(), failing, "{name}: {late}");
    }
}

/// A pipeline that is stopped in the middle.
fn stopped(file: &str) -> Output {
    let child = weir(&["run", file]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_run_goes_on_from_a_savepoint() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let file = folder.join("made.yaml");
    let text = "pipeline: made\nfrom:\n  generator: { count: 4000, rate: 2000, columns: { n: { sequence: {} } } }\nto:\n  - file: { path: out.ndjson, format: ndjson }\ncheckpoint: { interval: 20ms }\n";
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let output = stopped(&file);
    assert!(output.status.success() && said(&output).contains("stopped; run it again"), "{}", said(&output));
    let before = numbers(folder);
    assert!(!before.is_empty() && before.len() < 4000, "{}", before.len());
    assert!(works(&["pipeline", "savepoint", &file, "--as", "half"]).contains("half: savepoint of"));
    assert!(fails(&["pipeline", "savepoint", &file, "--as", "half"]).contains("there is a savepoint half already"));
    assert!(fails(&["pipeline", "savepoint", &file, "--as", "Half"]).contains("is not the name of a savepoint"));
    let listed: Value = serde_json::from_str(&works(&["pipeline", "savepoints", &file, "--format", "json"])).unwrap();
    assert_eq!((&listed[0]["label"], listed.as_array().unwrap().len()), (&"half".into(), 1));

    // While it runs nobody else may touch its state.
    let mut child = weir(&["run", &file]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(fails(&["pipeline", "savepoint", &file]).contains("another process runs this pipeline"));
    assert!(fails(&["deadletters", "purge", &file, "--all"]).contains("another process runs this pipeline"));
    assert!(child.wait().unwrap().success());
    assert_eq!(numbers(folder), (0..4000).collect::<Vec<_>>());

    // Back to the middle: what it writes anew must be wanted, and have a place.
    assert!(fails(&["pipeline", "restore", &file, "half", "--write-again"]).contains("exists already"));
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.file_name().unwrap().to_string_lossy().starts_with("out") {
            std::fs::remove_file(entry).unwrap();
        }
    }
    assert!(fails(&["pipeline", "restore", &file, "half"]).contains("--write-again"));
    assert!(works(&["pipeline", "restore", &file, "half", "--dry-run"]).contains("would go on from half"));
    let restored = works(&["pipeline", "restore", &file, "half", "--write-again"]);
    assert!(restored.contains("the next run goes on from half"), "{restored}");
    works(&["run", &file]);
    let first = i64::try_from(before.len()).unwrap();
    assert_eq!(numbers(folder), (first..4000).collect::<Vec<_>>());

    // One that was interrupted is not run from what is left.
    std::fs::write(folder.join(".weir/made/restoring"), "half").unwrap();
    assert!(fails(&["run", &file]).contains("did not come to its end"));
    works(&["pipeline", "delete-savepoint", &file, "half"]);
    assert!(works(&["pipeline", "savepoints", &file, "--format", "json"]).contains("[]"));
    assert!(fails(&["pipeline", "restore", &file, "half", "--write-again"]).contains("savepoint"));
}

/// A savepoint of a pipeline that came to its end between the decision of a checkpoint and what its sink had to do then: what was
/// decided is neither lost nor written again by who goes on from there.
#[test]
fn a_savepoint_settles_what_was_decided_before() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let file = folder.join("made.yaml");
    let text = "pipeline: made\nfrom:\n  generator: { count: 3000, rate: 1000, columns: { n: { sequence: {} } } }\nto:\n  - file: { path: out.ndjson, format: ndjson, existing: append }\ncheckpoint: { interval: 1s }\n";
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let child = weir(&["run", &file]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it writes", || folder.join(".out.ndjson.weir-lock").exists().then_some(()));
    // What it is to be called is taken, so it cannot be shown once it is decided.
    let taken = folder.join("out.ndjson");
    std::fs::create_dir(&taken).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    std::fs::remove_dir(&taken).unwrap();
    assert!(numbers(folder).is_empty());
    works(&["pipeline", "savepoint", &file, "--as", "then"]);
    let settled = numbers(folder).len();
    assert!(settled > 0 && settled < 3000, "{settled}");
    let restored = works(&["pipeline", "restore", &file, "then"]);
    assert!(restored.contains("it has read nothing since"), "{restored}");
    works(&["run", &file]);
    assert_eq!(numbers(folder), (0..3000).collect::<Vec<_>>());
}
