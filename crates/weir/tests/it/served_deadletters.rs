//! Rows of pipelines in a server that failed: listed, run again once, purged.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Serving, numbers, put, said, until};
use crate::served_pipelines::Desk;

/// Divides 100 by each number, and writes what comes of it.
fn dividing(folder: &Path, by: &str) -> String {
    format!(
        r#"
pipeline: shares
from:
  file: {{ path: "{0}/in/*.ndjson", format: ndjson, schema: {{ n: int64 }}, follow: true }}
steps:
  - set: {{ before: "n + 1" }}
  - set: {{ share: "100 / {by}" }}
    id: divide
to:
  - file: {{ path: "{0}/out.ndjson", format: ndjson }}
checkpoint: {{ interval: 20ms }}
"#,
        folder.display()
    )
}

fn list(desk: &Desk, more: &[&str]) -> Vec<Value> {
    let arguments = [&["deadletters", "list", "shares", "--tenant", "acme", "--format", "json"], more].concat();
    let listed: Value = serde_json::from_str(&desk.works(&arguments)).unwrap();
    listed.as_array().unwrap().clone()
}

fn count_in_sql(desk: &Desk) -> String {
    let sql = "select count(*) from shares_dead";
    desk.works(&["query", sql, "--tenant", "acme", "--format", "csv"]).lines().nth(1).unwrap().to_owned()
}

/// Also across a kill -9, and after the pipeline was repaired.
#[test]
fn rows_that_failed_are_run_again_once_and_those_that_fail_again_are_counted() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    let lines: String = (0..200).map(|n| format!("{{\"n\":{}}}\n", n % 100)).collect();
    put(&folder.join("in/a.ndjson"), &format!("{lines}{{\"n\":\"many\"}}\n"));
    let file = desk.write("shares.yaml", &dividing(&folder, "(n % 10)"));
    desk.applies(&file, &[]);
    let letters = until("the rows are set aside", || Some(list(&desk, &[])).filter(|letters| letters.len() == 21));
    let failed = letters.iter().find(|letter| letter["step"] == "divide").unwrap();
    assert_eq!(
        (&failed["class"], &failed["attempts"], &failed["state"]),
        (&"failed".into(), &1.into(), &"open".into())
    );
    assert!(failed["error"].as_str().unwrap().contains("zero"), "{failed}");
    assert!(failed["row"].as_str().unwrap().contains("\"before\":"), "{failed}");
    assert_eq!(list(&desk, &["--class", "malformed"]).len(), 1);
    let unknown = desk.weir(&["deadletters", "list", "shares", "--tenant", "acme", "--class", "wrong"]);
    let classes = "the classes are malformed, no_time, failed, over_limit, refused";
    assert!(unknown.status.code() == Some(2) && said(&unknown).contains(classes), "{}", said(&unknown));
    assert_eq!(list(&desk, &["--step", "divide", "-n", "7"]).len(), 7);
    assert_eq!(list(&desk, &["--since", "1h"]).len(), 21);
    assert_eq!(list(&desk, &["--since", "2100-01-01T00:00:00Z"]).len(), 0);
    assert_eq!(numbers(&folder).len(), 180);

    // What cannot be read is still no number: it fails again, and so does a division by zero.
    let divided = desk.works(&["deadletters", "replay", "shares", "--tenant", "acme", "--step", "divide"]);
    assert!(divided.contains("20 dead letters of shares are run again"), "{divided}");
    let again = until("they have failed again", || {
        Some(list(&desk, &["--step", "divide"]))
            .filter(|letters| letters.len() == 20 && letters.iter().all(|letter| letter["attempts"] == 2))
    });
    assert!(again.iter().all(|letter| letter["state"] == "open"));
    assert_eq!(list(&desk, &["--all"]).len(), 41);
    let refused = desk.weir(&["deadletters", "replay", "shares", "--tenant", "acme", "--class", "malformed"]);
    assert!(!refused.status.success() && said(&refused).contains("expected an int64"), "{}", said(&refused));

    // Repaired while it is stopped; asked for twice, and killed while it runs them.
    desk.works(&["pipeline", "stop", "shares", "--tenant", "acme"]);
    let waiting = desk.works(&["deadletters", "replay", "shares", "--tenant", "acme", "--step", "divide"]);
    assert!(waiting.contains("20 dead letters of shares will be run again when it runs"), "{waiting}");
    let nothing = desk.works(&["deadletters", "replay", "shares", "--tenant", "acme", "--step", "divide"]);
    assert!(nothing.contains("0 dead letters"), "{nothing}");
    let file = desk.write("shares.yaml", &dividing(&folder, "(n % 10 + 1)"));
    desk.applies(&file, &[]);
    server.stop(Signal::KILL);
    let server = Serving::start(&desk.data_dir(), &[]);
    until("all are there", || Some(()).filter(|()| numbers(&folder).len() >= 200));
    until("nothing is open", || Some(()).filter(|()| list(&desk, &["--step", "divide"]).is_empty()));
    let mut expected: Vec<i64> = (0..100).flat_map(|n| [n, n]).collect();
    expected.sort_unstable();
    let server = {
        server.stop(Signal::KILL);
        Serving::start(&desk.data_dir(), &[])
    };
    desk.wait_for("shares", "running");
    assert_eq!(numbers(&folder), expected);

    // Purged rows are gone for queries, too, and stay so.
    assert_eq!(count_in_sql(&desk), "41");
    let purged = desk.works(&["deadletters", "purge", "shares", "--tenant", "acme", "--step", "divide"]);
    assert!(purged.contains("purged 40"), "{purged}");
    assert_eq!((list(&desk, &["--all"]).len(), count_in_sql(&desk)), (1, "1".to_owned()));
    assert!(!desk.weir(&["deadletters", "purge", "shares", "--tenant", "acme"]).status.success());
    desk.works(&["pipeline", "delete", "shares", "--tenant", "acme"]);
    server.stop(Signal::KILL);
    let server = Serving::start(&desk.data_dir(), &[]);
    assert_eq!(count_in_sql(&desk), "1");
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

#[test]
fn dead_letters_belong_to_their_tenant_and_a_step_that_is_gone_is_named() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    desk.works(&["tenant", "create", "blue"]);
    let folder = desk.dir.path().to_owned();
    put(&folder.join("in/a.ndjson"), "{\"n\":0}\n{\"n\":1}\n");
    let file = desk.write("shares.yaml", &dividing(&folder, "n"));
    desk.applies(&file, &[]);
    until("a row is set aside", || Some(()).filter(|()| list(&desk, &[]).len() == 1));
    let key = |tenant: &str, scopes: &str| {
        desk.works(&["key", "create", "--tenant", tenant, "--scopes", scopes]).trim().to_owned()
    };
    let (blue, reader) = (key("blue", "query,admin"), key("acme", "query"));
    for arguments in [
        vec!["deadletters", "list", "shares"],
        vec!["deadletters", "replay", "shares"],
        vec!["deadletters", "purge", "shares", "--all"],
    ] {
        let refused = desk.weir_with(&blue, &arguments);
        assert!(
            !refused.status.success() && said(&refused).contains("there is no such pipeline"),
            "{}",
            said(&refused)
        );
        let allowed = desk.weir_with(&reader, &arguments).status.success();
        assert_eq!(allowed, arguments[1] == "list", "{arguments:?}");
    }
    let file = desk.write("shares.yaml", &dividing(&folder, "n").replace("id: divide", "id: split"));
    desk.applies(&file, &[]);
    let refused = desk.weir(&["deadletters", "replay", "shares", "--tenant", "acme"]);
    let expected = "there is no source, step or sink `divide` in the pipeline any more";
    assert!(!refused.status.success() && said(&refused).contains(expected), "{}", said(&refused));
    assert_eq!(list(&desk, &[]).len(), 1);
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

/// The table is repaired and the rows are asked for at once, long before it would be read again.
#[test]
fn rows_that_failed_for_what_a_table_lacks_are_run_again_when_it_has_it() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let folder = desk.dir.path().to_owned();
    let table = |text: &str| put(&folder.join("known.csv"), text);
    table("id,name\n1,one\n3,three\nmany,four\n");
    put(&folder.join("in/a.ndjson"), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    let document = format!(
        r#"
pipeline: shares
from:
  file: {{ path: "{0}/in/*.ndjson", format: ndjson, schema: {{ n: int64 }}, follow: true }}
tables:
  - file: {{ path: "{0}/known.csv", format: csv, schema: {{ id: int64, name: text }} }}
    id: known
    refresh: 1h
steps:
  - lookup: {{ table: known, on: {{ n: id }}, kind: required }}
to:
  - file: {{ path: "{0}/out.ndjson", format: ndjson }}
checkpoint: {{ interval: 20ms }}
"#,
        folder.display()
    );
    let file = desk.write("shares.yaml", &document);
    desk.applies(&file, &[]);
    let letters = until("the rows are set aside", || Some(list(&desk, &[])).filter(|letters| letters.len() == 2));
    let failed = letters.iter().find(|letter| letter["step"] == "lookup").unwrap();
    assert!(failed["error"].as_str().unwrap().contains("no row of the table `known`"), "{failed}");
    until("the others are there", || Some(()).filter(|()| numbers(&folder) == [1, 3]));

    // A row of the table itself comes with the table.
    let refused = desk.weir(&["deadletters", "replay", "shares", "--tenant", "acme", "--class", "malformed"]);
    assert!(!refused.status.success() && said(&refused).contains("read again with the table"), "{}", said(&refused));

    table("id,name\n1,one\n2,two\n3,three\n");
    desk.works(&["deadletters", "replay", "shares", "--tenant", "acme", "--step", "lookup"]);
    until("it is there", || Some(()).filter(|()| numbers(&folder) == [1, 2, 3]));
    assert_eq!(list(&desk, &["--step", "lookup"]).len(), 0);
    assert_eq!(server.stop(Signal::TERM), Some(0));
}
