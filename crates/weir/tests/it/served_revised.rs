//! Results that are put out early, revised by late rows and taken back, in a server: what SQL sees of each, also after kill -9.

use std::io::Write;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{Serving, until};
use crate::served_pipelines::Desk;

/// Counts of ten seconds that are told early and again, as long as they are small.
fn counting(folder: &std::path::Path) -> String {
    format!(
        r#"
pipeline: small
from:
  file: {{ path: "{}/in/*.ndjson", format: ndjson, schema: {{ ts: timestamp, k: int64 }}, follow: true }}
  time: ts
  watermark: 1s
steps:
  - window: {{ tumbling: 10s, by: [k], lateness: 1m, early: 100ms, select: {{ n: "count(*)" }} }}
  - filter: "n < 5"
to:
  - stream: small
    key: [window, k]
  - stream: small_finals
checkpoint: {{ interval: 50ms }}
"#,
        folder.display()
    )
}

fn rows(desk: &Desk, sql: &str) -> Value {
    let output = desk.weir(&["query", sql, "--tenant", "acme", "--format", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    answer["rows"].clone()
}

#[test]
fn sql_sees_the_newest_revision_of_each_result_and_none_that_was_taken_back() {
    let desk = Desk::new();
    let mut server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    std::fs::create_dir_all(folder.join("in")).unwrap();
    let send = |seconds: &[i64], key: i64| {
        let path = folder.join("in/a.ndjson");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let line = |second: &i64| format!("{{\"ts\":{},\"k\":{key}}}\n", 1_782_900_000_000 + second * 1000);
        file.write_all(seconds.iter().map(line).collect::<String>().as_bytes()).unwrap();
    };
    let file = desk.write("small.yaml", &counting(&folder));
    desk.applies(&file, &[]);
    let now = |desk: &Desk| rows(desk, "select k, n, is_final from small order by time, k");
    let shows = |desk: &Desk, what: &str, expected: Value| {
        let mut last = Value::Null;
        let seen = || {
            last = now(desk);
            (last == expected).then_some(())
        };
        // What it was when it was not in time says more than that it was not.
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until(what, seen)));
        assert!(seen.is_ok(), "{what}: {last} instead of {expected}");
    };
    // Nobody has said that time goes on, and the window is there.
    send(&[0, 1], 1);
    shows(&desk, "it is told early", json!([[1, 2, false]]));
    send(&[2], 1);
    shows(&desk, "it is told again", json!([[1, 3, false]]));
    // Its time is over, and late rows may come for a minute.
    send(&[12], 2);
    shows(&desk, "the next window is told early", json!([[1, 3, false], [2, 1, false]]));
    send(&[3], 1);
    shows(&desk, "a late row changes it", json!([[1, 4, false], [2, 1, false]]));
    server.signal(Signal::KILL);
    drop(server);
    server = Serving::start(&desk.data_dir(), &[]);
    shows(&desk, "it is as it was", json!([[1, 4, false], [2, 1, false]]));
    // With one more the filter does not let it pass any more.
    send(&[4], 1);
    shows(&desk, "it is taken back", json!([[2, 1, false]]));
    let history = "select n, retracted from small_history where k = 1 order by revision";
    let history = rows(&desk, history);
    let told = history.as_array().unwrap();
    assert_eq!(told.first(), Some(&json!([2, false])), "{history}");
    assert_eq!(told.last().unwrap()[1], true, "{history}");
    // When the minute is over, what is left is final; each final result is told once to who gets no others.
    send(&[100], 3);
    shows(&desk, "it is final", json!([[2, 1, true], [3, 1, false]]));
    let finals = || rows(&desk, "select k, n from small_finals order by k");
    until("it is told to those who wait for final results", || (finals() == json!([[2, 1]])).then_some(()));
    server.signal(Signal::KILL);
    drop(server);
    let server = Serving::start(&desk.data_dir(), &[]);
    desk.wait_for("small", "running");
    shows(&desk, "it stays final", json!([[2, 1, true], [3, 1, false]]));
    assert_eq!(finals(), json!([[2, 1]]));
    let revisions = "select count(*), count(distinct revision) from small_history where k = 2";
    let revisions = rows(&desk, revisions);
    assert_eq!(revisions[0][0], revisions[0][1], "each revision once");
    assert_eq!(server.stop(Signal::TERM), Some(0));
}
