//! A pipeline that `weir run` runs, with a sink that is down beside one that is not.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::{run, said, until, weir};

fn write(folder: &Path, follow: bool, breaker: &str) -> String {
    let file = folder.join("both.yaml");
    let text = format!(
        r#"
pipeline: both
from: {{ file: {{ path: "in/*.ndjson", format: ndjson, schema: {{ n: int64 }}, follow: {follow} }} }}
steps:
  - filter: "n >= 0"
to:
  - file: {{ path: "down/out.ndjson", format: ndjson }}
    breaker: {{ failures: 3, open: 100ms, {breaker} }}
  - file: {{ path: "well/out.ndjson", format: ndjson }}
checkpoint: {{ interval: 30ms }}
"#
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn started(file: &str) -> Child {
    weir(&["run", file]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The other sink has everything, whatever becomes of the run; the run says so by its exit code; and the next one makes up for it.
#[test]
fn a_run_ends_well_once_every_sink_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    for name in ["in", "real"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    // A folder that is not simply made again when it is gone.
    std::os::unix::fs::symlink(folder.join("real"), folder.join("down")).unwrap();
    let (down, well) = (folder.join("down/out.ndjson"), folder.join("well/out.ndjson"));
    let send = |numbers: std::ops::Range<u64>| {
        let path = folder.join("in/a.ndjson");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let text: String = numbers.map(|number| format!("{{\"n\":{number}}}\n")).collect();
        file.write_all(text.as_bytes()).unwrap();
    };
    let file = write(folder, true, "budget: 10m");
    send(0..10);
    let mut child = started(&file);
    until("both have all", || (lines(&down) == 10 && lines(&well) == 10).then_some(()));
    std::fs::rename(folder.join("real"), folder.join("gone")).unwrap();
    send(10..20);
    until("the other one goes on", || (lines(&well) == 20).then_some(()));
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();

    // So it does in the next process, which can be stopped meanwhile.
    let mut child = started(&file);
    send(20..30);
    until("the other one goes on", || (lines(&well) == 30).then_some(()));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let output = run(&["pipeline", "savepoint", &file]);
    assert!(said(&output).contains("has not taken all"), "{}", said(&output));

    // At the end of the input it is waited for as long as it may fail.
    let file = write(folder, false, "budget: 1s");
    send(30..40);
    for _ in 0..2 {
        let output = run(&["run", &file]);
        assert!(!output.status.success() && said(&output).contains("down"), "{}", said(&output));
        assert_eq!(lines(&well), 40);
    }
    std::fs::rename(folder.join("gone"), folder.join("real")).unwrap();
    let output = run(&["run", &file]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&down).unwrap(), std::fs::read_to_string(&well).unwrap(), "each once, in order");
    assert!(said(&run(&["run", &file])).contains("all input has been read before"));
    let left = std::fs::read_dir(folder.join(".weir/both/checkpoints")).unwrap();
    let mut names = left.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    assert!(names.all(|name| !name.starts_with("box-")), "nothing is kept that nobody is owed");
}

/// A run whose only sink is down makes no checkpoint any more. It stops nevertheless, and the next one has everything.
#[test]
#[expect(clippy::disallowed_methods, reason = "how long it takes as somebody at the terminal sees it")]
fn a_run_stops_also_while_its_sink_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    for name in ["in", "real"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(folder.join("real"), folder.join("down")).unwrap();
    let file = folder.join("one.yaml");
    let text = r#"
pipeline: one
from: { file: { path: "in/*.ndjson", format: ndjson, schema: { n: int64 }, follow: true } }
to:
  - file: { path: "down/out.ndjson", format: ndjson }
    breaker: { budget: 10m }
checkpoint: { interval: 30ms }
"#;
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let numbers =
        |numbers: std::ops::Range<u64>| numbers.map(|number| format!("{{\"n\":{number}}}\n")).collect::<String>();
    let down = folder.join("down/out.ndjson");
    std::fs::write(folder.join("in/a.ndjson"), numbers(0..10)).unwrap();
    let mut child = started(&file);
    until("all are there", || (lines(&down) == 10).then_some(()));
    std::fs::rename(folder.join("real"), folder.join("gone")).unwrap();
    let mut input = std::fs::OpenOptions::new().append(true).open(folder.join("in/a.ndjson")).unwrap();
    input.write_all(numbers(10..20).as_bytes()).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let asked = std::time::Instant::now();
    assert!(child.wait().unwrap().success());
    let seconds = asked.elapsed().as_secs();
    assert!((10..30).contains(&seconds), "it waits for a checkpoint, and not for ever: {seconds} s");
    std::fs::rename(folder.join("gone"), folder.join("real")).unwrap();
    let mut child = started(&file);
    until("all are there", || (lines(&down) == 20).then_some(()));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(&down).unwrap(), numbers(0..20));
}
