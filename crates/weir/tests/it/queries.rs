//! Answers as they come out of `weir query`.

use serde_json::json;

use crate::program::{Serving, said};
use crate::served_pipelines::Desk;
use crate::served_streams::post;

#[test]
fn an_answer_that_breaks_off_is_a_failure_in_every_format() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let desk = desk.with_tenant();
    let key = desk.works(&["key", "create", "--tenant", "acme", "--scopes", "ingest"]).trim().to_owned();
    let events: Vec<_> = (0..30).map(|n| json!({ "type": "custom", "name": format!("n{n}") })).collect();
    let reply = post(&server, "/ingest", &key, &json!({ "events": events }).to_string());
    assert!(reply.starts_with("HTTP/1.1 2"), "{reply}");
    // The division fails long after the first rows are out.
    let sql = "select 10 / (n - 20000) from (select row_number() over () as n from events a, events b, events c)";
    for format in ["table", "json", "ndjson", "csv"] {
        let output = desk.weir(&["query", sql, "--tenant", "acme", "--format", format]);
        assert_eq!(output.status.code(), Some(1), "{format}: {}", said(&output));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("the answer broke off"), "{format}: {told}");
        assert!(output.stdout.len() > 10_000, "{format}: nothing was printed before");
    }
    let file = desk.data_dir().with_file_name("answer.json").display().to_string();
    let output = desk.weir(&["query", sql, "--tenant", "acme", "--format", "json", "--output", &file]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(!std::path::Path::new(&file).exists(), "half an answer was kept as a whole one");
}
