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
}

#[tokio::test]
async fn mistakes_are_explained() {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "x", "{}")]));
    let check = async |sql: &str, expected: &str| {
        assert_eq!(world.rows("acme", sql).await, format!("error: {expected}"), "{sql}");
    };
    check(
        "select severity from logs",
        "there is no column `severity` at line 1, column 8; did you mean `severity_text`?; the columns here are time, received_at, time_flag, observed_time, severity_number, severity_text, body, event_name, trace_id, span_id, flags, service_name, scope_name, scope_version, attributes, resource, scope_attributes, schema_url, scope_schema_url, dropped_attributes_count",
    )
    .await;
    check(
        "select 1 from lgos",
        "there is no table `lgos`; did you mean `logs`?; the tables are _rejected, _usage, events, logs, metrics, sessions, sessions_history, spans",
    )
    .await;
    check("select lenght(body) from logs", "invalid function 'lenght'. Did you mean 'length'? at line 1, column 8")
        .await;
    check("selec 1", "expected: an SQL statement, found: selec at line 1, column 1").await;
    check("vacuum", "VACUUM is not supported: a query is one SELECT, EXPLAIN, SHOW TABLES, SHOW COLUMNS or DESCRIBE")
        .await;
    check("select 1 +", "expected: an expression, found: EOF").await;
    check("select * from logs\nwhere (body = 'x'", "expected: ), found: EOF").await;
    check(
        "select body + 1 from logs",
        "cannot coerce arithmetic expression string + Int64 to valid types at line 1, column 8",
    )
    .await;
    check(
        "select body, count(*) from logs",
        "column \"logs.body\" must appear in the GROUP BY clause or must be part of an aggregate function, currently only \"count(Int64(1))\" appears in the SELECT clause satisfies this requirement at line 1, column 8",
    )
    .await;
    check("select 1 / 0", "division by zero").await;
    check("select cast(body as int) from logs", "cannot cast string 'x' to value of Int32 type").await;
    check(
        "select * from logs where body",
        "cannot create filter with non-boolean predicate 'logs.body' returning string",
    )
    .await;
    check(
        "select a.time from logs a, logs b where time > now()",
        "`time` could be a column of several tables; write it as table.time at line 1, column 41",
    )
    .await;
    check("select sum(body) from logs", "no function matches the given name and argument types 'sum(string)'").await;
}
