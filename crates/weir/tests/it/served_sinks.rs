//! A sink that is down beside one that is not.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use weir_base::Clock;
use weir_base::clock::SystemClock;

use crate::program::{Serving, said, until};
use crate::served_pipelines::Desk;

/// Copies numbers that come to a file.
fn copying(name: &str, folder: &Path, breaker: &str) -> String {
    format!(
        r#"
pipeline: {name}
from:
  file: {{ path: "{0}/in/*.ndjson", format: ndjson, schema: {{ n: int64 }}, follow: true }}
steps:
  - filter: "n >= 0"
to:
  - file: {{ path: "{0}/{name}/out.ndjson", format: ndjson }}
{breaker}
checkpoint: {{ interval: 50ms }}
"#,
        folder.display()
    )
}

/// The same to two files, of which the first may go away.
fn copying_twice(folder: &Path) -> String {
    let breaker = "    breaker: { failures: 3, open: 300ms, budget: 10m }";
    let well = format!("  - file: {{ path: \"{}/well/out.ndjson\", format: ndjson }}", folder.display());
    copying("both", folder, &format!("{breaker}\n{well}")).replace("/both/out", "/down/out")
}

/// Sends a number to those who copy.
fn send(folder: &Path, number: u64) {
    let path = folder.join("in/a.ndjson");
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{{\"n\":{number}}}").unwrap();
}

/// How long a number takes to come out where all is well, the slowest of so many.
fn slowest(folder: &Path, from: u64, count: u64) -> Duration {
    let clock = SystemClock::new();
    let taken = (from..from + count).map(|number| {
        let (sent, path) = (clock.monotonic(), folder.join("well/out.ndjson"));
        send(folder, number);
        let there = usize::try_from(number).unwrap() + 1;
        until("it comes out", || (lines(&path) == there).then_some(()));
        clock.monotonic().saturating_sub(sent)
    });
    taken.max().unwrap()
}

fn sink(desk: &Desk, name: &str) -> Value {
    let nodes = desk.show(name)["nodes"].as_array().unwrap().clone();
    nodes.into_iter().find(|node| node["id"] == "file").unwrap()
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// The names of all files in a folder and those in it.
fn files_below(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let (mut folders, mut names) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => names.push(entry.file_name().to_string_lossy().into_owned()),
            }
        }
    }
    names.into_iter()
}

/// The folder of a file is gone, as if it had been unmounted, and comes back.
#[test]
fn a_sink_that_is_down_is_left_alone_and_costs_another_pipeline_nothing() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    std::fs::create_dir_all(folder.join("in")).unwrap();
    let tuned = "    breaker: { failures: 3, open: 300ms, budget: 10m }";
    for (name, breaker) in [("down", tuned), ("well", "")] {
        let file = desk.write(&format!("{name}.yaml"), &copying(name, &folder, breaker));
        desk.applies(&file, &[]);
        desk.wait_for(name, "running");
    }
    let before = slowest(&folder, 0, 20);
    until("both have all", || (lines(&folder.join("down/out.ndjson")) == 20).then_some(()));
    assert_eq!(sink(&desk, "down")["circuit"]["state"], "closed");

    std::fs::rename(folder.join("down"), folder.join("gone")).unwrap();
    let during = slowest(&folder, 20, 20);
    let open =
        until("its circuit is open", || Some(sink(&desk, "down")).filter(|sink| sink["circuit"]["state"] == "open"));
    assert!(open["circuit"]["error"].as_str().unwrap().contains("down"), "{open}");
    let top = desk.works(&["top", "down", "--tenant", "acme", "-n", "1"]);
    assert!(top.contains("[circuit "), "{top}");
    until("it has been tried and has opened again", || {
        (sink(&desk, "down")["circuit"]["opened"].as_u64() > Some(1)).then_some(())
    });
    assert_eq!(desk.show("down")["restarts"], 0);
    // A checkpoint apart, they have nothing in common: the one that is down costs the other at most a turn.
    assert!(during < before + Duration::from_millis(500), "{before:?} {during:?}");

    std::fs::rename(folder.join("gone"), folder.join("down")).unwrap();
    until("what waited is there", || (lines(&folder.join("down/out.ndjson")) == 40).then_some(()));
    until("its circuit is closed", || (sink(&desk, "down")["circuit"]["state"] == "closed").then_some(()));
    assert_eq!(lines(&folder.join("well/out.ndjson")), 40);
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

/// The folder of a file is that of a mount point on which nothing is mounted: there, empty, and not the one that was written
/// to. Nothing is put there, another sink of the pipeline goes on, and so does this one when its own folder is back.
#[test]
fn a_folder_that_only_looks_like_that_of_a_sink_gets_nothing() {
    let desk = Desk::new();
    let mut server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    std::fs::create_dir_all(folder.join("in")).unwrap();
    let document = copying_twice(&folder);
    let file = desk.write("both.yaml", &document);
    desk.applies(&file, &[]);
    desk.wait_for("both", "running");
    let mut sent = 0;
    let mut send_more = || {
        (sent..sent + 20).for_each(|number| send(&folder, number));
        sent += 20;
        until("they come out", || (lines(&folder.join("well/out.ndjson")) as u64 == sent).then_some(()));
    };
    send_more();
    until("both have all", || (lines(&folder.join("down/out.ndjson")) == 20).then_some(()));

    let (down, away) = (folder.join("down"), folder.join("away"));
    for what in ["an empty folder", "a file"] {
        std::fs::rename(&down, &away).unwrap();
        match what {
            "a file" => std::fs::write(&down, "").unwrap(),
            _ => std::fs::create_dir(&down).unwrap(),
        }
        let before = sink(&desk, "both")["circuit"]["opened"].as_u64();
        send_more();
        until("its circuit opens", || (sink(&desk, "both")["circuit"]["opened"].as_u64() > before).then_some(()));
        send_more();
        // A start meanwhile changes nothing about it.
        server.signal(Signal::KILL);
        drop(server);
        server = Serving::start(&desk.data_dir(), &[]);
        send_more();
        assert_eq!(desk.show("both")["status"], "running", "{what}");
        assert_eq!(files_below(&down).count(), 0, "{what}: nothing is put there");
        if what == "a file" { std::fs::remove_file(&down) } else { std::fs::remove_dir(&down) }.unwrap();
        std::fs::rename(&away, &down).unwrap();
        until("what waited is there", || (sink(&desk, "both")["circuit"]["state"] == "closed").then_some(()));
    }
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    until("both have all", || (lines(&folder.join("down/out.ndjson")) == 140).then_some(()));
    assert_eq!(text("down/out.ndjson"), text("well/out.ndjson"));
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

/// One pipeline, two sinks, one of which is down: the other is as quick as ever, and the one that was down gets everything
/// once, though the server is killed meanwhile.
#[test]
fn a_sink_that_is_down_does_not_hold_up_one_of_the_same_pipeline() {
    let desk = Desk::new();
    let mut server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    for name in ["in", "real"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    // A folder that is not simply made again when it is gone.
    std::os::unix::fs::symlink(folder.join("real"), folder.join("down")).unwrap();
    let document = copying_twice(&folder);
    let file = desk.write("both.yaml", &document);
    desk.applies(&file, &[]);
    desk.wait_for("both", "running");
    let before = slowest(&folder, 0, 20);
    until("both have all", || (lines(&folder.join("down/out.ndjson")) == 20).then_some(()));

    std::fs::rename(folder.join("real"), folder.join("gone")).unwrap();
    let during = slowest(&folder, 20, 40);
    let down =
        until("its circuit is open", || Some(sink(&desk, "both")).filter(|sink| sink["circuit"]["state"] != "closed"));
    assert!(down["counters"]["held"]["backlog_bytes"].as_u64() > Some(0), "{down}");
    assert_eq!(desk.show("both")["restarts"], 0);
    assert!(during < before + Duration::from_millis(500), "{before:?} {during:?}");
    // Nobody would take what is kept for it.
    let output = desk.weir(&["pipeline", "savepoint", "both", "--tenant", "acme"]);
    assert!(said(&output).contains("has not taken all"), "{}", said(&output));
    let without = desk.write("without.yaml", &document.replace("/down/out", "/other/out"));
    let output = desk.apply(&without, &[]);
    assert!(!output.status.success() && said(&output).contains("down/out.ndjson"), "{}", said(&output));

    server.signal(Signal::KILL);
    drop(server);
    server = Serving::start(&desk.data_dir(), &[]);
    desk.wait_for("both", "running");
    slowest(&folder, 60, 20);

    std::fs::rename(folder.join("gone"), folder.join("real")).unwrap();
    until("what waited is there", || (lines(&folder.join("down/out.ndjson")) >= 80).then_some(()));
    slowest(&folder, 80, 5);
    until("the circuit is closed", || (sink(&desk, "both")["circuit"]["state"] == "closed").then_some(()));
    until("both have all", || (lines(&folder.join("down/out.ndjson")) >= 85).then_some(()));
    let text = |name: &str| std::fs::read_to_string(folder.join(name).join("out.ndjson")).unwrap();
    assert_eq!(text("down"), text("well"), "each once and in their order");
    desk.works(&["pipeline", "savepoint", "both", "--tenant", "acme"]);

    // What is kept goes with the pipeline.
    std::fs::rename(folder.join("real"), folder.join("gone")).unwrap();
    slowest(&folder, 85, 5);
    let kept =
        || files_below(&desk.data_dir().join("pipelines/acme/both")).filter(|name| name.starts_with("box-")).count();
    until("something is kept", || (kept() > 0).then_some(()));
    desk.works(&["pipeline", "delete", "both", "--tenant", "acme"]);
    assert_eq!(kept(), 0);
    assert_eq!(server.stop(Signal::TERM), Some(0));
}
