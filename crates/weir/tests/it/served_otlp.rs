//! The sink `otlp`: from Weir to Weir, each row once whoever is killed, and receivers that refuse, throttle and hang.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Serving, said, until, weir};
use crate::served_pipelines::Desk;
use crate::served_streams::request;

/// Reads numbers from files and sends them as log records.
fn sending(folder: &Path, follow: bool, endpoint: &str, more: &str) -> String {
    let follow = if follow { ", follow: true" } else { "" };
    format!(
        r#"
pipeline: sending
from:
  file: {{ path: "{}/in/*.ndjson", format: ndjson, schema: {{ n: int64 }}{follow} }}
steps:
  - set: {{ body: "concat('row ', n, ';')", service_name: "concat('service-', n % 3)", severity_number: "9" }}
to:
  - otlp: {{ endpoint: "{endpoint}", signal: logs, request_rows_max: 200, timeout: 5s{more} }}
    breaker: {{ failures: 3, open: 200ms, budget: 10m }}
checkpoint: {{ interval: 20ms }}
"#,
        folder.display()
    )
}

fn input(folder: &Path, name: &str, numbers: std::ops::Range<u64>) {
    std::fs::create_dir_all(folder.join("in")).unwrap();
    let lines: String = numbers.map(|number| format!("{{\"n\":{number}}}\n")).collect();
    let aside = folder.join(format!("{name}.aside"));
    std::fs::write(&aside, lines).unwrap();
    std::fs::rename(aside, folder.join("in").join(name)).unwrap();
}

/// How many log records there are, and how many different ones.
fn counted(desk: &Desk) -> (u64, u64) {
    let sql = "select count(*) as n, count(distinct body) as d from logs where body like 'row %'";
    let answer = desk.works(&["query", sql, "--tenant", "acme", "--format", "csv"]);
    let line = answer.lines().nth(1).unwrap().to_owned();
    let (all, different) = line.split_once(',').unwrap();
    (all.parse().unwrap(), different.parse().unwrap())
}

/// The settings with which the tenant may send.
fn with_key(desk: &Desk, protocol: &str) -> String {
    let key = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "ingest"]);
    format!(", protocol: {protocol}, headers: {{ authorization: \"Bearer {}\" }}", key.trim())
}

#[test]
fn a_run_sends_each_row_once_whoever_is_killed() {
    for protocol in ["grpc", "http"] {
        let desk = Desk::new();
        let mut server = Serving::start(&desk.data_dir(), &[]);
        let desk = desk.with_tenant();
        let folder = desk.dir.path().to_owned();
        const ROWS: u64 = 60_000;
        input(&folder, "a.ndjson", 0..ROWS);
        let addresses = server.addresses();
        let endpoint = if protocol == "grpc" { &addresses[1] } else { &addresses[2] };
        let more = with_key(&desk, protocol);
        let file = desk.write("sending.yaml", &sending(&folder, false, &format!("http://{endpoint}"), &more));
        let mut chance = ChaCha8Rng::seed_from_u64(5);
        let mut n_killed = 0;
        for round in 0.. {
            let mut child = weir(&["run", &file]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(chance.random_range(50..400)));
            if round % 3 == 1 {
                // The receiver, too. A run that has reached it before waits for it.
                server.signal(Signal::KILL);
                drop(server);
                std::thread::sleep(Duration::from_millis(chance.random_range(0..300)));
                server = Serving::start_again(&desk.data_dir(), &addresses, &[]);
            }
            if child.try_wait().unwrap().is_some() || n_killed >= 12 {
                let output = child.wait_with_output().unwrap();
                if output.status.success() {
                    assert!(said(&output).contains("at least once") || n_killed > 0, "{}", said(&output));
                    break;
                }
                // Only before its first checkpoint it may be a mistake that nobody is there.
                assert!(said(&output).contains("cannot send to"), "{}", said(&output));
                continue;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            n_killed += 1;
        }
        assert!(n_killed >= 2, "{protocol}: it was killed {n_killed} times only");
        assert_eq!(counted(&desk), (ROWS, ROWS), "{protocol}, after {n_killed} kills");
        let services = "select count(distinct service_name) from logs";
        let services = desk.works(&["query", services, "--tenant", "acme", "--format", "csv"]);
        assert_eq!(services.lines().nth(1), Some("3"));
        assert_eq!(server.stop(Signal::TERM), Some(0));
    }
}

#[test]
fn a_server_sends_each_row_to_another_once_whoever_is_killed() {
    let (here, there) = (Desk::new(), Desk::new());
    let mut receiver = Serving::start(&there.data_dir(), &[]);
    let there = there.with_tenant();
    let mut server = Serving::start(&here.data_dir(), &[]);
    let here = here.with_tenant();
    let folder = here.dir.path().to_owned();
    let addresses = receiver.addresses();
    let more = with_key(&there, "grpc");
    let file = here.write("sending.yaml", &sending(&folder, true, &format!("http://{}", addresses[1]), &more));
    here.applies(&file, &[]);
    let mut sent = 0;
    for round in 0..6 {
        input(&folder, &format!("{round}.ndjson"), sent..sent + 3000);
        sent += 3000;
        std::thread::sleep(Duration::from_millis(150));
        if round % 2 == 0 {
            server.signal(Signal::KILL);
            drop(server);
            server = Serving::start(&here.data_dir(), &[]);
        } else {
            receiver.signal(Signal::KILL);
            drop(receiver);
            receiver = Serving::start_again(&there.data_dir(), &addresses, &[]);
        }
    }
    until("all rows are there", || (counted(&there).1 == sent).then_some(()));
    here.works(&["pipeline", "stop", "sending", "--tenant", "acme"]);
    assert_eq!(counted(&there), (sent, sent));
    assert_eq!(server.stop(Signal::TERM), Some(0));
    assert_eq!(receiver.stop(Signal::TERM), Some(0));
}

/// What a receiver does with the next requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Takes,
    Throttles,
    Hangs,
    Refuses,
}

#[derive(Default)]
struct Seen {
    /// Bodies that were taken, by their keys.
    taken: BTreeMap<String, Vec<u8>>,
    throttled: u64,
    hung: u64,
}

/// A receiver over HTTP that is not Weir.
struct Receiver {
    address: String,
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Mutex<Seen>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (mood, seen) = (Arc::new(Mutex::new(Mood::Takes)), Arc::new(Mutex::new(Seen::default())));
        let serving = (Arc::clone(&mood), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (mood, seen) = (Arc::clone(&serving.0), Arc::clone(&serving.1));
                std::thread::spawn(move || while answer(&stream, &mood, &seen).is_some() {});
            }
        });
        Self { address, mood, seen }
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The rows in all bodies that were taken: they are text between other bytes.
    fn rows(&self) -> Vec<u64> {
        let seen = self.seen.lock().unwrap();
        let mut rows: Vec<u64> = seen.taken.values().flat_map(|body| numbers(body)).collect();
        rows.sort_unstable();
        rows
    }
}

fn numbers(body: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(body).into_owned();
    text.split("row ").skip(1).map(|rest| rest.split_once(';').unwrap().0.parse().unwrap()).collect()
}

fn answer(stream: &TcpStream, mood: &Mutex<Mood>, seen: &Mutex<Seen>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut key, mut line) = (0, String::new(), String::new());
    while reader.read_line(&mut line).ok()? > 0 {
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        } else if let Some(value) = lower.strip_prefix("idempotency-key:") {
            value.trim().clone_into(&mut key);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mood = *mood.lock().unwrap();
    let is_bad = mood == Mood::Refuses && numbers(&body).iter().any(|number| number % 2 == 1);
    let reply = match mood {
        Mood::Hangs => {
            seen.lock().unwrap().hung += 1;
            std::thread::sleep(Duration::from_secs(600));
            return None;
        }
        Mood::Throttles => {
            seen.lock().unwrap().throttled += 1;
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n".to_owned()
        }
        _ if is_bad => {
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 8\r\n\r\nnot even".to_owned()
        }
        Mood::Takes | Mood::Refuses => {
            seen.lock().unwrap().taken.insert(key, body);
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n".to_owned()
        }
    };
    let mut writer = stream;
    writer.write_all(reply.as_bytes()).ok()
}

fn sink(desk: &Desk) -> Value {
    let nodes = desk.show("sending")["nodes"].as_array().unwrap().clone();
    nodes.into_iter().find(|node| node["id"] == "otlp").unwrap()
}

fn letters(desk: &Desk) -> Vec<Value> {
    let arguments = ["deadletters", "list", "sending", "--tenant", "acme", "--format", "json"];
    serde_json::from_str::<Value>(&desk.works(&arguments)).unwrap().as_array().unwrap().clone()
}

#[test]
fn a_receiver_may_throttle_hang_and_refuse() {
    let receiver = Receiver::start();
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    let admin = std::fs::read_to_string(desk.data_dir().join("admin.key")).unwrap().trim().to_owned();
    let more = ", protocol: http, compression: none";
    let text = sending(&folder, true, &format!("http://{}", receiver.address), more);
    // Each row by itself, so that it is known which are refused.
    let text = text.replace("request_rows_max: 200, timeout: 5s", "request_rows_max: 1, timeout: 300ms");
    let file = desk.write("sending.yaml", &text);
    desk.applies(&file, &[]);
    input(&folder, "a.ndjson", 0..10);
    until("the first rows are there", || (receiver.rows() == (0..10).collect::<Vec<_>>()).then_some(()));

    // It is not asked again before it said so, and everything comes.
    receiver.is(Mood::Throttles);
    input(&folder, "b.ndjson", 10..20);
    until("it is throttled", || (receiver.seen.lock().unwrap().throttled > 0).then_some(()));
    std::thread::sleep(Duration::from_millis(700));
    // Four may be under way at once.
    assert!(receiver.seen.lock().unwrap().throttled <= 4);
    let circuit = until("its circuit says why", || {
        Some(sink(&desk)["circuit"].clone()).filter(|circuit| circuit["error"].is_string())
    });
    assert!(circuit["error"].as_str().unwrap().contains("429"), "{circuit}");
    receiver.is(Mood::Takes);
    until("the next rows are there", || (receiver.rows() == (0..20).collect::<Vec<_>>()).then_some(()));

    receiver.is(Mood::Hangs);
    input(&folder, "c.ndjson", 20..30);
    until("it hangs", || (receiver.seen.lock().unwrap().hung > 0).then_some(()));
    until("its circuit opens", || (sink(&desk)["circuit"]["opened"].as_u64() > Some(0)).then_some(()));
    // Once in a while it is tried with one request, which takes as long as it may.
    until("it is half-open", || (sink(&desk)["circuit"]["state"] == "half_open").then_some(()));
    let metrics = || request(&server, "GET", "/metrics", &admin, "");
    let has = |name: &str, value: &dyn Fn(u64) -> bool| {
        let metrics = metrics();
        let mut lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains("part=\"otlp\""));
        lines.next().and_then(|line| line.rsplit(' ').next()?.parse().ok()).is_some_and(value)
    };
    assert!(has("weir_pipeline_circuit_opened_total{", &|opened| opened > 0), "{}", metrics());
    assert!(has("weir_pipeline_circuit_open{", &|open| open == 1), "{}", metrics());
    receiver.is(Mood::Takes);
    until("what waited is there", || (receiver.rows() == (0..30).collect::<Vec<_>>()).then_some(()));
    until("its circuit is closed", || (sink(&desk)["circuit"]["state"] == "closed").then_some(()));
    assert!(has("weir_pipeline_circuit_open{", &|open| open == 0), "{}", metrics());
    assert_eq!(letters(&desk).len(), 0);

    // What it refuses for good is set aside with its words, also across a kill -9, and can be sent again.
    receiver.is(Mood::Refuses);
    input(&folder, "d.ndjson", 30..40);
    let refused = until("five are refused", || Some(letters(&desk)).filter(|letters| letters.len() == 5));
    for letter in &refused {
        assert_eq!((&letter["step"], &letter["class"]), (&"to otlp".into(), &"refused".into()), "{letter}");
        assert!(letter["error"].as_str().unwrap().contains("400: not even"), "{letter}");
    }
    server.stop(Signal::KILL);
    let server = Serving::start(&desk.data_dir(), &[]);
    desk.wait_for("sending", "running");
    assert_eq!(letters(&desk).len(), 5);
    receiver.is(Mood::Takes);
    let replayed = desk.works(&["deadletters", "replay", "sending", "--tenant", "acme", "--step", "to otlp"]);
    assert!(replayed.contains("5 dead letters of sending are run again"), "{replayed}");
    until("all rows are there", || (receiver.rows() == (0..40).collect::<Vec<_>>()).then_some(()));
    until("nothing is open", || letters(&desk).is_empty().then_some(()));
    assert_eq!(server.stop(Signal::TERM), Some(0));
}
