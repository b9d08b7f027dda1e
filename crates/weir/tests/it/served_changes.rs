//! Pipelines that are changed, or go back to a savepoint, at any moment: no row is lost by it and none is there twice.

use std::io::Write;

use rustix::process::Signal;
use serde_json::json;

use crate::program::{Serving, said, until};
use crate::served_pipelines::Desk;
use crate::served_streams::{post, request};

/// `weir pipeline ARGUMENTS` of the tenant.
fn pipeline<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["pipeline"], arguments, &["--tenant", "acme"]].concat()
}

struct Bench {
    desk: Desk,
    server: Option<Serving>,
    key: String,
}

impl Bench {
    fn new() -> Self {
        let desk = Desk::new();
        let server = Some(Serving::start(&desk.data_dir(), &[]));
        let desk = desk.with_tenant();
        let key = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "ingest,query,admin"]);
        Self { desk, server, key: key.trim().to_owned() }
    }

    /// An event of this name.
    fn send(&self, name: &str) {
        let body = json!({ "events": [{ "type": "custom", "name": name }] }).to_string();
        let reply = post(self.server.as_ref().unwrap(), "/ingest", &self.key, &body);
        assert!(reply.starts_with("HTTP/1.1 2"), "{reply}");
    }

    /// Kills the server and starts it again.
    fn kill(&mut self) {
        self.server.take().unwrap().stop(Signal::KILL);
        self.server = Some(Serving::start(&self.desk.data_dir(), &[]));
    }

    /// The names of the rows in a stream.
    fn names(&self, stream: &str) -> Vec<String> {
        let sql = format!("select name from {stream} order by name");
        let output = self.desk.weir(&["query", &sql, "--tenant", "acme", "--format", "json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let rows = answer["rows"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| row[0].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn waits_for(&self, stream: &str, names: &[&str]) {
        until(&format!("{names:?} in {stream}"), || (self.names(stream).len() >= names.len()).then_some(()));
        // What would come twice comes with the next checkpoint.
        self.desk.works(&["pipeline", "stop", "p", "--tenant", "acme"]);
        assert_eq!(self.names(stream), names);
    }

    /// Waits until the pipeline has read so many rows since it was started.
    fn has_read(&self, rows: u64) {
        let read = || self.desk.show("p")["nodes"][0]["counters"]["rows_in"].as_u64();
        until(&format!("{rows} rows are read"), || (read() >= Some(rows)).then_some(()));
    }

    fn apply(&self, text: &str, more: &[&str]) -> String {
        self.desk.applies(&self.desk.write("p.yaml", text), more)
    }
}

/// A pipeline that copies events and marks them; the next checkpoint is far.
fn copying(start: &str, mark: &str, more: &str) -> String {
    format!(
        "pipeline: p\nfrom: {{ stream: {{ name: events, start: {start} }} }}\nsteps:\n  - set: {{ mark: \"'{mark}'\" }}\n\
         {more}to: [ {{ stream: copies }} ]\ncheckpoint: {{ interval: 15s }}\n"
    )
}

#[test]
fn a_change_before_the_first_checkpoint_loses_nothing() {
    let mut bench = Bench::new();
    bench.apply(&copying("now", "0", ""), &[]);
    bench.send("a");
    assert!(bench.apply(&copying("now", "1", ""), &["--dry-run"]).contains("would go on from the checkpoint it makes"));
    assert!(bench.apply(&copying("now", "1", ""), &[]).contains("goes on from checkpoint"));
    bench.send("b");
    // One after the other, whether or not one has begun by then.
    for mark in ["2", "3", "4"] {
        bench.apply(&copying("now", mark, ""), &[]);
    }
    bench.send("c");
    bench.kill();
    bench.send("d");
    bench.apply(&copying("now", "5", "parallelism: 3\n"), &[]);
    bench.send("e");
    // One that is stopped stands where it was.
    bench.desk.works(&["pipeline", "stop", "p", "--tenant", "acme"]);
    bench.send("f");
    bench.apply(&copying("now", "6", ""), &[]);
    bench.send("g");
    bench.waits_for("copies", &["a", "b", "c", "d", "e", "f", "g"]);
}

/// It has read nothing, since what it writes does not take it, and still owns all that came since it was applied.
#[test]
fn a_change_of_one_that_never_came_to_run_loses_nothing() {
    let bench = Bench::new();
    let folder = bench.desk.dir.path().join("missing").display().to_string();
    let to = |path: &str| {
        copying("now", "0", "")
            .replace("{ stream: copies }", &format!("{{ file: {{ path: \"{path}\", format: ndjson }} }}"))
    };
    // The folder cannot be made where there is a file.
    std::fs::write(&folder, "").unwrap();
    bench.apply(&to(&format!("{folder}/out.ndjson")), &[]);
    bench.send("a");
    let applied = bench.apply(&copying("now", "1", ""), &[]);
    assert!(applied.contains("goes on where it began"), "{applied}");
    bench.send("b");
    bench.waits_for("copies", &["a", "b"]);
}

/// The same document, after it was applied.
#[test]
fn one_that_begins_anew_begins_now() {
    let bench = Bench::new();
    let text = copying("now", "0", "").replace("15s", "100ms");
    bench.apply(&text, &[]);
    bench.send("a");
    until("the row is there", || (bench.names("copies") == ["a"]).then_some(()));
    bench.apply(&text, &["--restart"]);
    bench.send("b");
    bench.waits_for("copies", &["a", "b"]);
}

/// The client is gone while what ran takes its last checkpoint.
#[test]
fn a_change_is_made_though_nobody_waits_for_it() {
    let bench = Bench::new();
    bench.apply(&copying("now", "0", ""), &[]);
    bench.desk.wait_for("p", "running");
    bench.send("a");
    let server = bench.server.as_ref().unwrap();
    let body = json!({ "document": copying("now", "1", ""), "format": "yaml" }).to_string();
    let (key, length) = (&bench.key, body.len());
    let head = format!(
        "POST /api/v1/pipelines HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut client = std::net::TcpStream::connect(&server.http).unwrap();
    client.write_all(format!("{head}{body}").as_bytes()).unwrap();
    until("it is stopped, or changed already", || {
        let shown = bench.desk.show("p");
        (shown["status"] != "running" || shown.to_string().contains("'1'")).then_some(())
    });
    drop(client);
    until("it is changed", || bench.desk.show("p").to_string().contains("'1'").then_some(()));
    bench.desk.wait_for("p", "running");
    bench.send("b");
    bench.waits_for("copies", &["a", "b"]);
}

#[test]
fn a_change_before_the_first_checkpoint_doubles_nothing() {
    let bench = Bench::new();
    bench.send("a");
    bench.apply(&copying("oldest", "0", ""), &[]);
    bench.has_read(1);
    bench.send("b");
    bench.apply(&copying("oldest", "1", ""), &[]);
    bench.waits_for("copies", &["a", "b"]);
}

/// What a pipeline keeps that has come to no checkpoint yet is known all the same.
#[test]
fn a_change_that_does_not_fit_leaves_what_runs() {
    let bench = Bench::new();
    let window = |select: &str| {
        format!(
            "pipeline: p\nfrom: {{ stream: events }}\nsteps:\n  - window: {{ tumbling: 1s, by: [name], select: {{ {select} }} }}\n\
             to: [ {{ stream: copies }} ]\ncheckpoint: {{ interval: 15s }}\n"
        )
    };
    bench.apply(&window("n: \"count(*)\""), &[]);
    bench.desk.wait_for("p", "running");
    bench.send("a");
    let changed = bench.desk.write("changed.yaml", &window("n: \"count(x)\""));
    for more in [&["--dry-run"][..], &[]] {
        let refused = bench.desk.apply(&changed, more);
        assert!(!refused.status.success() && said(&refused).contains("window was"), "{}", said(&refused));
    }
    bench.send("b");
    bench.desk.works(&["pipeline", "stop", "p", "--tenant", "acme"]);
    assert!(bench.apply(&window("n: \"count(*)\""), &[]).contains("is what was applied before"));
    // Their windows end by and by, though nothing more comes.
    bench.waits_for("copies", &["a", "b"]);
}

#[test]
fn a_dry_run_promises_no_more_than_the_limits_allow() {
    let bench = Bench::new();
    let admin = std::fs::read_to_string(bench.desk.data_dir().join("admin.key")).unwrap();
    let server = bench.server.as_ref().unwrap();
    let reply = request(server, "PATCH", "/api/v1/tenants/acme", admin.trim(), "{\"limits\": {\"pipelines_max\": 1}}");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    bench.apply(&copying("now", "0", ""), &[]);
    let other = bench.desk.write("q.yaml", &copying("now", "0", "").replace("pipeline: p", "pipeline: q"));
    for more in [&["--dry-run"][..], &[]] {
        let refused = bench.desk.apply(&other, more);
        assert!(!refused.status.success() && said(&refused).contains("pipelines_max is 1"), "{}", said(&refused));
    }
    // One that is there may be changed.
    assert!(bench.apply(&copying("now", "1", ""), &["--dry-run"]).contains("would go on"));
}

#[test]
fn going_back_says_what_came_after_the_last_checkpoint() {
    let mut bench = Bench::new();
    for delivery in ["exactly_once", "at_least_once"] {
        let text = copying("now", "0", "")
            .replace("{ stream: copies }", &format!("{{ stream: {{ name: {delivery}, delivery: {delivery} }} }}"));
        bench.apply(&text, &["--restart"]);
        bench.desk.wait_for("p", "running");
        bench.desk.works(&pipeline(&["savepoint", "p", "--as", delivery]));
        // Rows of others move its place in the log, and are none of its.
        let body = json!({ "resourceLogs": [] }).to_string();
        post(bench.server.as_ref().unwrap(), "/v1/logs", &bench.key, &body);
        let restored = bench.desk.works(&pipeline(&["restore", "p", delivery]));
        assert!(restored.contains("it has read nothing since"), "{restored}");
        bench.desk.wait_for("p", "running");
        bench.send("a");
        bench.send("b");
        bench.has_read(2);
        let dry = bench.desk.works(&pipeline(&["restore", "p", delivery, "--dry-run"]));
        assert!(dry.contains("after that is seen when it is stopped"), "{dry}");
        let refused = bench.desk.weir(&pipeline(&["restore", "p", delivery]));
        assert!(!refused.status.success() && said(&refused).contains("are written again"), "{}", said(&refused));
        // It runs on as it was.
        bench.desk.wait_for("p", "running");
        bench.send("c");
        bench.waits_for(delivery, &["a", "b", "c"]);
        let refused = bench.desk.weir(&pipeline(&["restore", "p", delivery]));
        assert!(!refused.status.success() && said(&refused).contains("are written again"), "{}", said(&refused));
    }
    // What was shown before a kill is in no checkpoint.
    bench.desk.works(&pipeline(&["start", "p"]));
    bench.desk.wait_for("p", "running");
    bench.desk.works(&pipeline(&["savepoint", "p", "--as", "late"]));
    bench.send("d");
    until("the row is shown", || (bench.names("at_least_once").len() == 4).then_some(()));
    bench.kill();
    bench.desk.works(&pipeline(&["stop", "p"]));
    let refused = bench.desk.weir(&pipeline(&["restore", "p", "late"]));
    assert!(!refused.status.success() && said(&refused).contains("are written again"), "{}", said(&refused));
}

/// Nobody listens there, and it takes long until that is certain.
#[cfg(feature = "kafka")]
#[test]
fn one_that_starts_says_what_does_not_answer() {
    let bench = Bench::new();
    bench.apply(
        "pipeline: p\nfrom: { kafka: { brokers: \"127.0.0.1:1\", topic: t, format: json, schema: { a: text } } }\n\
         to: [ { stream: copies } ]\n",
        &[],
    );
    let shown = until("it says what it waits for", || {
        let shown = bench.desk.show("p");
        shown["failure"]["message"]
            .as_str()
            .is_some_and(|message| message.contains("reads t of Kafka"))
            .then_some(shown)
    });
    assert_eq!(shown["status"], "starting", "{shown}");
    assert!(shown["nodes"].as_array().unwrap().len() > 1, "{shown}");
}
