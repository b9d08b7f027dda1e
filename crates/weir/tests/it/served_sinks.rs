//! A sink that is down beside one that is not.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use weir_base::Clock;
use weir_base::clock::SystemClock;

use crate::program::{Serving, until};
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

fn sink(desk: &Desk, name: &str) -> Value {
    let nodes = desk.show(name)["nodes"].as_array().unwrap().clone();
    nodes.into_iter().find(|node| node["id"] == "file").unwrap()
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
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
    let send = |number: u64| {
        let path = folder.join("in/a.ndjson");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{{\"n\":{number}}}").unwrap();
    };
    let clock = SystemClock::new();
    // How long a number takes to come out of the one that is well, the slowest of twenty.
    let slowest = |from: u64| -> Duration {
        (from..from + 20)
            .map(|number| {
                let (sent, path) = (clock.monotonic(), folder.join("well/out.ndjson"));
                send(number);
                let there = usize::try_from(number).unwrap() + 1;
                until("it comes out", || (lines(&path) == there).then_some(()));
                clock.monotonic().saturating_sub(sent)
            })
            .max()
            .unwrap()
    };
    let before = slowest(0);
    until("both have all", || (lines(&folder.join("down/out.ndjson")) == 20).then_some(()));
    assert_eq!(sink(&desk, "down")["circuit"]["state"], "closed");

    std::fs::rename(folder.join("down"), folder.join("gone")).unwrap();
    let during = slowest(20);
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
