//! Pipelines between streams of a server: SQL sees every row once, whatever is killed.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{PATIENCE, Serving, run, said, until};
use crate::served_pipelines::Desk;

/// Sends events until they are acknowledged.
fn send(server: &Serving, key: &str, from: u64, count: u64) {
    let events: Vec<Value> = (from..from + count)
        .map(|n| {
            let kind = if n % 4 == 0 { "pageview" } else { "click" };
            json!({ "type": kind, "id": format!("00000000-0000-4000-8000-{n:012}"), "properties": { "n": n, "color": "red" } })
        })
        .collect();
    let reply = post(server, "/ingest", key, &json!({ "events": events }).to_string());
    assert!(reply.starts_with("HTTP/1.1 2"), "{reply}");
}

/// Posts JSON, and gives the whole reply.
pub(crate) fn post(server: &Serving, path: &str, key: &str, body: &str) -> String {
    request(server, "POST", path, key, body)
}

/// Sends JSON, and gives the whole reply.
pub(crate) fn request(server: &Serving, method: &str, path: &str, key: &str, body: &str) -> String {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut socket = TcpStream::connect(&server.http).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    reply
}

/// The one row of an answer.
fn ask(desk: &Desk, sql: &str) -> Option<Vec<Value>> {
    let output = desk.weir(&["query", sql, "--tenant", "acme", "--format", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    answer["rows"][0].as_array().cloned()
}

const CLICKS: &str = r#"
pipeline: clicks
from: { stream: events, watermark: 1s }
steps:
  - filter: "type = 'click'"
  - keep: [time, event_id, properties]
to:
  - stream: clicks
checkpoint: { interval: 50ms }
"#;

const COUNTS: &str = r#"
pipeline: click_counts
from: { stream: { name: clicks, start: oldest, quiet: 500ms }, watermark: 500ms }
steps:
  - window: { tumbling: 1s, by: [color], select: { n: "count(*)" } }
to: [ { stream: click_counts } ]
checkpoint: { interval: 50ms }
"#;

#[test]
fn pipelines_that_have_nothing_to_do_take_next_to_no_processor_time() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let key = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "ingest"]).trim().to_owned();
    let interval = "checkpoint: { interval: 50ms }";
    desk.applies(&desk.write("clicks.yaml", &CLICKS.replace(interval, "")), &[]);
    let counts = COUNTS.replace(interval, "").replace("[color]", "[event_id]");
    let counts = desk.write("counts.yaml", &counts);
    until("the stream is there", || desk.apply(&counts, &[]).status.success().then_some(()));
    send(&server, &key, 0, 200);
    let counted = "select count(*) from click_counts";
    until("the clicks are counted", || ask(&desk, counted).filter(|row| row[0].as_u64() >= Some(140)));
    // What rows still make them do, and checkpoints.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let before = server.processor_time();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let took = server.processor_time() - before;
    assert!(took < std::time::Duration::from_millis(450), "{took:?} of processor time in 3 s without a row");
}

#[test]
fn every_row_is_in_the_streams_once_though_the_server_is_killed() {
    let desk = Desk::new();
    let mut server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let key = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "ingest"]).trim().to_owned();
    let own = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "query,admin"]).trim().to_owned();
    // Came before the pipeline, so it is not of it.
    send(&server, &key, 900_000, 100);
    let file = desk.write("clicks.yaml", CLICKS);
    let applied = desk.weir_with(&own, &["pipeline", "apply", &file]);
    assert!(applied.status.success() && said(&applied).contains("exactly once"), "{}", said(&applied));
    let mut sent = 0;
    for round in 0..12 {
        send(&server, &key, sent, 200);
        sent += 200;
        match round {
            2 | 4 | 9 => {
                server.signal(Signal::KILL);
                drop(server);
                server = Serving::start(&desk.data_dir(), &[]);
            }
            6 => {
                assert_eq!(server.stop(Signal::TERM), Some(0));
                server = Serving::start(&desk.data_dir(), &[]);
            }
            5 => {
                let counts = desk.write(
                    "counts.yaml",
                    &COUNTS.replace("  - window", "  - set: { color: \"properties['color']\" }\n  - window"),
                );
                until("the stream is there", || desk.apply(&counts, &[]).status.success().then_some(()));
            }
            _ => {}
        }
    }
    let clicks = sent / 4 * 3;
    let count = "select count(*), count(distinct event_id), count(properties['color']) from clicks";
    until("all clicks are there", || ask(&desk, count).filter(|row| row[0].as_u64() >= Some(clicks)));
    let all = |desk: &Desk| ask(desk, count).unwrap().iter().map(|value| value.as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(all(&desk), [clicks; 3]);
    let totals = "select coalesce(sum(n), 0) + (select count(*) from click_counts_late), count(distinct color) from click_counts";
    until("all clicks are counted", || ask(&desk, totals).filter(|row| row[0].as_u64() >= Some(clicks)));
    // They can be followed as they come.
    let data_dir = desk.data_dir();
    let following = crate::program::weir(&["tail", "clicks", "--limit", "3", "--tenant", "acme"])
        .args(["--data-dir", data_dir.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    until("the tail is open", || {
        send(&server, &key, sent, 4);
        sent += 4;
        ask(&desk, "select count(*) from clicks").filter(|row| row[0].as_u64() > Some(clicks + 60))
    });
    let followed = following.wait_with_output().unwrap();
    let lines: Vec<Value> =
        String::from_utf8(followed.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0]["event_id"].is_string() && lines[0]["properties"]["color"] == "red", "{lines:?}");
    let clicks = sent / 4 * 3;
    until("all clicks are counted", || ask(&desk, totals).filter(|row| row[0].as_u64() >= Some(clicks)));
    // Another restart settles what was decided last, and that is all.
    server.signal(Signal::KILL);
    drop(server);
    let server = Serving::start(&desk.data_dir(), &[]);
    desk.wait_for("clicks", "running");
    desk.wait_for("click_counts", "running");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(all(&desk), [clicks; 3]);
    assert_eq!(ask(&desk, totals).unwrap(), [json!(clicks), json!(1)]);
    let window = "select time = \"window\"['start'], received_at > time from click_counts limit 1";
    assert_eq!(ask(&desk, window).unwrap(), [json!(true), json!(true)]);
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

#[test]
fn what_streams_do_not_allow_is_said_beforehand() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    for (from, to, expected) in [
        ("events", "events", "a stream of Weir's own"),
        ("nothing", "x", "there is no stream `nothing`"),
        ("events", "mine_late", "does not end in `_late`"),
        ("p_late", "x", "is written by this pipeline"),
    ] {
        let document = format!("pipeline: p\nfrom: {{ stream: {from} }}\nto: [ {{ stream: {to} }} ]\n");
        let file = desk.write("p.yaml", &document);
        let refused = desk.apply(&file, &[]);
        assert!(!refused.status.success() && said(&refused).contains(expected), "{}", said(&refused));
        assert!(said(&refused).contains("p.yaml:"), "with the place: {}", said(&refused));
    }
    let file = desk.write("p.yaml", "pipeline: p\nfrom: { stream: events }\nto: [ { stream: own } ]\n");
    desk.applies(&file, &[]);
    desk.wait_for("p", "running");
    let file = desk.write("loop.yaml", "pipeline: q\nfrom: { stream: own }\nto: [ { stream: own } ]\n");
    assert!(said(&desk.apply(&file, &[])).contains("its results would be its input again"));
    let file =
        desk.write("twice.yaml", "pipeline: q\nfrom: { stream: events }\nto: [ { stream: b }, { stream: b } ]\n");
    assert!(said(&desk.apply(&file, &[])).contains("two sinks write the stream `b`"));
    // The example of the book.
    let book = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/running-pipelines.md");
    let page = std::fs::read_to_string(book).unwrap();
    let example = page.split("```yaml\n").find(|block| block.starts_with("pipeline: slow_checkouts")).unwrap();
    let example = desk.write("slow.yaml", example.split("```").next().unwrap());
    desk.applies(&example, &[]);
    desk.wait_for("slow_checkouts", "running");
    assert_eq!(ask(&desk, "select count(orders) from slow_checkouts").unwrap(), [json!(0)]);
    // Results that are revised have a newest revision only where each is written once.
    let early = "pipeline: r\nfrom: { stream: events }\nsteps:\n  - window: { tumbling: 1m, early: 1s, select: { n: count(*) } }\n\
                 to:\n  - stream: { name: c, delivery: at_least_once }\n    key: window\n";
    let file = desk.write("early.yaml", early);
    assert!(said(&desk.apply(&file, &[])).contains("early.yaml:6:"), "{}", said(&desk.apply(&file, &[])));
    assert!(said(&desk.apply(&file, &[])).contains("with other numbers of revisions"));
    let file = desk.write("final.yaml", &early.replace("early: 1s, ", ""));
    desk.applies(&file, &["--dry-run"]);
    // Without a server the streams of a tenant are not known, those of Weir are.
    let file = desk.write("own.yaml", "pipeline: q\nfrom: { stream: own }\nto: [ { stream: b } ]\n");
    let refused = run(&["check", &file]);
    assert!(said(&refused).contains("weir pipeline apply"), "{}", said(&refused));
    let file = desk.write("events.yaml", "pipeline: q\nfrom: { stream: events }\nto: [ { stream: b } ]\n");
    assert!(run(&["check", &file]).status.success());
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

/// A number in an attribute is a number in a pipeline, and stays one; what nobody had sent when the pipeline began
/// stays text until it begins anew.
#[test]
fn attribute_keys_read_as_they_did_when_the_pipeline_began() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let key = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "ingest"]).trim().to_owned();
    let document = |key: &str| {
        format!(
            "pipeline: big\nfrom: {{ stream: {{ name: events, start: oldest }}, watermark: 1s }}\nsteps:\n  - filter: \"properties['{key}'] \
             >= 90\"\n  - keep: [time, event_id]\nto: [ {{ stream: big }} ]\ncheckpoint: {{ interval: 50ms }}\n"
        )
    };
    send(&server, &key, 0, 100);
    let file = desk.write("big.yaml", &document("n"));
    desk.applies(&file, &[]);
    let count = || ask(&desk, "select count(*) from big").and_then(|row| row[0].as_i64());
    until("the large ones are there", || count().filter(|count| *count == 10));
    let kinds = || {
        let folder = std::fs::read_dir(desk.data_dir().join("pipelines/acme/big")).unwrap().next().unwrap().unwrap();
        std::fs::read_to_string(folder.path().join("kinds.json")).unwrap()
    };
    let entries: Value = serde_json::from_str(&kinds()).unwrap();
    assert_eq!(entries, json!([{ "stream": "events", "column": "properties", "key": "n", "kind": "number" }]));
    // After kill -9 it reads what it has written down.
    server.signal(Signal::KILL);
    drop(server);
    let server = Serving::start(&desk.data_dir(), &[]);
    send(&server, &key, 100, 20);
    until("all of the new ones are large", || count().filter(|count| *count == 30));
    assert_eq!(server.stop(Signal::TERM), Some(0));
}
