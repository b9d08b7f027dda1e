//! What queries answer.

use weir_data::attributes::AttributeKind;

use crate::support::{NOON, SECOND, World, file, logs};

#[tokio::test]
async fn a_tail_is_queried_as_a_table() {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "hello", r#"{"n":1}"#), (NOON + SECOND, 17, "bad", r#"{"n":2.5}"#)]));
    world.kind("acme", "logs", "attributes", "n", AttributeKind::Number);
    let answer = world
        .json("acme", "select time, severity_number, body, attributes['n'] from logs order by time desc")
        .await
        .unwrap();
    assert_eq!(
        answer["columns"].to_string(),
        r#"[{"name":"time","type":"timestamp"},{"name":"severity_number","type":"int64"},{"name":"body","type":"string"},{"name":"attributes['n']","type":"float64"}]"#
    );
    assert_eq!(
        answer["rows"].to_string(),
        r#"[["2026-11-21T12:00:01Z",17,"bad",2.5],["2026-11-21T12:00:00Z",9,"hello",1]]"#
    );
    assert_eq!(answer["stats"]["rows"], 2);
    assert_eq!(answer["stats"]["truncated"], false);
}

#[tokio::test]
async fn files_and_tail_are_one_table() {
    let world = World::new();
    let old = logs(&[(NOON, 9, "one", "{}"), (NOON + SECOND, 17, "two", r#"{"k":"v"}"#)]);
    world.file("acme", "logs", file(1, weir_data::streams::stream("logs").unwrap(), &old, 1));
    world.tail("acme", "logs", logs(&[(NOON + 2 * SECOND, 9, "three", "{}")]));
    assert_eq!(world.rows("acme", "select count(*) from logs").await, "[[3]]");
    assert_eq!(world.rows("acme", "select body from logs order by time desc limit 2").await, r#"[["three"],["two"]]"#);
    assert_eq!(world.rows("acme", "select body from logs where attributes['k'] = 'v'").await, r#"[["two"]]"#);
        "{}",
        world.rows("acme", "explain select * from logs where body like '%x%' order by time desc limit 5").await
    );
}
