//! Rows that look into a table of their tenant, and of nobody else.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{Serving, put, said, until};
use crate::served_pipelines::Desk;
use crate::served_streams::post;

/// The people are a table of what was said of them, and clicks find their names.
const CLICKS: &str = r#"
pipeline: named_clicks
from: { stream: events, watermark: 1s }
tables:
  - table: { name: events, columns: [user_id, name], where: "type = 'custom'" }
    id: people
    refresh: 200ms
steps:
  - filter: "type = 'click'"
  - keep: [time, event_id, user_id]
  - lookup: { table: people, on: { user_id: user_id }, select: { who: name } }
to:
  - stream: named_clicks
checkpoint: { interval: 50ms }
"#;

fn send(server: &Serving, key: &str, number: u64, event: &Value) {
    let mut event = event.clone();
    event["id"] = json!(format!("00000000-0000-4000-8000-{number:012}"));
    let reply = post(server, "/ingest", key, &json!({ "events": [event] }).to_string());
    assert!(reply.starts_with("HTTP/1.1 2"), "{reply}");
}

fn names(desk: &Desk, sql: &str) -> Vec<Value> {
    let output = desk.weir(&["query", sql, "--tenant", "acme", "--format", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    answer["rows"].as_array().cloned().unwrap_or_default()
}

#[test]
fn rows_find_what_their_own_tenant_has() {
    let desk = Desk::new();
    let mut server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    desk.works(&["tenant", "create", "globex"]);
    let key_of =
        |tenant: &str| desk.works(&["key", "create", "--tenant", tenant, "--scopes", "ingest"]).trim().to_owned();
    let (acme, globex) = (key_of("acme"), key_of("globex"));
    let own = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "query,admin"]).trim().to_owned();
    send(&server, &globex, 1, &json!({ "type": "custom", "name": "Eve", "user_id": "u1" }));
    send(&server, &globex, 2, &json!({ "type": "custom", "name": "Eve", "user_id": "u2" }));
    send(&server, &acme, 1, &json!({ "type": "custom", "name": "Ann", "user_id": "u1" }));
    let file = desk.write("clicks.yaml", CLICKS);
    let applied = desk.weir_with(&own, &["pipeline", "apply", &file]);
    assert!(applied.status.success(), "{}", said(&applied));
    desk.wait_for("named_clicks", "running");
    let sql = "select user_id, who, count(*) from named_clicks group by all order by 1, 2";
    let mut number = 100;
    let mut click = |server: &Serving, user: &str| {
        number += 1;
        send(server, &acme, number, &json!({ "type": "click", "user_id": user }));
    };
    click(&server, "u1");
    click(&server, "u2");
    until("the click of u1 is there", || Some(names(&desk, sql)).filter(|rows| *rows == [json!(["u1", "Ann", 1])]));
    // The table is read again while the pipeline runs.
    send(&server, &acme, 2, &json!({ "type": "custom", "name": "Bob", "user_id": "u2" }));
    until("u2 is known", || {
        click(&server, "u2");
        Some(names(&desk, sql)).filter(|rows| rows.iter().any(|row| row[1] == "Bob"))
    });
    server.signal(Signal::KILL);
    drop(server);
    server = Serving::start(&desk.data_dir(), &[]);
    desk.wait_for("named_clicks", "running");
    click(&server, "u1");
    let rows = until("the second click of u1 is there", || {
        Some(names(&desk, sql)).filter(|rows| rows[0] == json!(["u1", "Ann", 2]))
    });
    assert!(rows.iter().all(|row| row[1] != "Eve"), "{rows:?}");
    let twice = "select event_id, count(*) from named_clicks group by 1 having count(*) > 1";
    assert_eq!(names(&desk, twice), Vec::<Value>::new());
    // What the tenant does not have is refused before anything runs.
    let wrong =
        desk.write("wrong.yaml", &CLICKS.replace("name: events, columns: [user_id", "name: evnts, columns: [id"));
    let refused = desk.weir_with(&own, &["pipeline", "apply", &wrong]);
    assert!(!refused.status.success() && said(&refused).contains("there is no table `evnts`"), "{}", said(&refused));
}

/// A table that is read again is none of the rows a pipeline has read.
#[test]
fn going_back_asks_nothing_for_a_table_that_was_read_since() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let key = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "ingest"]).trim().to_owned();
    let folder = desk.dir.path().display().to_string();
    let text = r#"
pipeline: named
from: { stream: events }
tables:
  - file: { path: "FOLDER/people.csv", format: csv, schema: { id: text, name: text } }
    id: people
    refresh: 100ms
steps:
  - lookup: { table: people, on: { user_id: id }, select: { who: name } }
to: [ { stream: named } ]
checkpoint: { interval: 20ms }
"#;
    let read = || desk.show("named")["nodes"][1]["counters"]["table_rows"].as_u64();
    desk.write("people.csv", "id,name\n1,Ann\n");
    desk.applies(&desk.write("named.yaml", &text.replace("FOLDER", &folder)), &[]);
    until("the table is read", || (read() == Some(1)).then_some(()));
    desk.works(&["pipeline", "savepoint", "named", "--as", "before", "--tenant", "acme"]);
    // Rows of others move its place in the log, and are none of its.
    let log = json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": [{ "body": { "stringValue": "x" } }] }] }] });
    assert!(post(&server, "/v1/logs", &key, &log.to_string()).starts_with("HTTP/1.1 2"));
    desk.write("people.csv", "id,name\n1,Ann\n2,Bob\n");
    until("the table is read again", || (read() >= Some(3)).then_some(()));
    let restored = desk.works(&["pipeline", "restore", "named", "before", "--tenant", "acme"]);
    assert!(restored.contains("it has read nothing since"), "{restored}");
}

/// A table that cannot be read is said, with the reason: while the pipeline runs, and where it cannot be started. It goes
/// on where it was as soon as it can, also with another name for the table.
#[test]
fn a_table_that_cannot_be_read_is_shown() {
    let desk = Desk::new();
    let _server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().display().to_string();
    let document = |table: &str| {
        let text = r#"
pipeline: named
from: { file: { path: "FOLDER/in/*.ndjson", format: ndjson, schema: { id: int64 }, follow: true } }
tables:
  - file: { path: "FOLDER/people.csv", format: csv, schema: { id: int64, name: text } }
    id: TABLE
    refresh: 100ms
steps:
  - lookup: { table: TABLE, on: [id], select: { who: name } }
    id: known
to:
  - file: { path: "FOLDER/out.ndjson", format: ndjson }
checkpoint: { interval: 20ms }
"#;
        desk.write("named.yaml", &text.replace("FOLDER", &folder).replace("TABLE", table))
    };
    let results = || std::fs::read_to_string(desk.dir.path().join("out.ndjson")).unwrap_or_default().lines().count();
    let give = |name: &str| put(&desk.dir.path().join("in").join(name), "{\"id\":1}\n");
    let people = desk.write("people.csv", "id,name\n1,Ann\n");
    desk.applies(&document("people"), &[]);
    give("a.ndjson");
    until("the first row is there", || Some(()).filter(|()| results() == 1));
    let node = || desk.show("named")["nodes"][1].clone();
    assert_eq!((&node()["counters"]["table_rows"], &node()["counters"]["rows_in"]), (&json!(1), &json!(0)));
    assert!(node()["trouble"].is_null());
    // A file that was just emptied is no table without rows.
    std::fs::write(&people, "").unwrap();
    until("it is said", || node()["trouble"]["error"].as_str().filter(|error| error.contains("no header")).map(drop));
    assert_eq!(node()["counters"]["table_rows"], json!(1), "nothing else was read");
    std::fs::remove_file(&people).unwrap();
    until("it is said", || Some(()).filter(|()| node()["trouble"]["attempts"].as_u64() > Some(0)));
    let shown = desk.works(&["pipeline", "show", "named", "--tenant", "acme"]);
    assert!(shown.contains("not read again since") && shown.contains("people.csv"), "{shown}");
    assert_eq!(desk.show("named")["status"], "running");
    // A start finds no table: that is no row lost, and may pass.
    desk.works(&["pipeline", "stop", "named", "--tenant", "acme"]);
    desk.works(&["pipeline", "start", "named", "--tenant", "acme"]);
    let waiting = desk.wait_for("named", "waiting");
    assert!(waiting["failure"]["message"].as_str().unwrap().contains("people.csv"), "{waiting}");
    desk.write("people.csv", "id,name\n1,Ann\n");
    desk.wait_for("named", "running");
    let applied = desk.applies(&document("persons"), &[]);
    assert!(applied.contains("goes on from checkpoint"), "{applied}");
    give("b.ndjson");
    until("the second row is there", || Some(()).filter(|()| results() >= 2));
    assert_eq!(results(), 2);
}
