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

/// The engine's own operators would begin again at the other end.
#[tokio::test]
async fn integers_that_do_not_fit_are_an_error() {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "x", "{}"), (NOON, 21, "y", "{}")]));
    let max = i64::MAX;
    let refused = [
        (format!("select {max} + 1"), format!("{max} + 1 does not fit int64")),
        (format!("select -2 - {max}"), format!("-2 - {max} does not fit int64")),
        (format!("select severity_number * {max} from logs"), format!("9 * {max} does not fit int64")),
        (
            format!("select count(*) from logs where severity_number + {max} > 0"),
            format!("9 + {max} does not fit int64"),
        ),
        (format!("select body from logs order by severity_number * {max}"), format!("9 * {max} does not fit int64")),
        (format!("select max(severity_number + {max}) from logs"), format!("9 + {max} does not fit int64")),
        (format!("select count(*) + {max} from logs"), format!("2 + {max} does not fit int64")),
        (
            format!("select 1 where 1 = (select max(severity_number) * {max} from logs)"),
            format!("21 * {max} does not fit int64"),
        ),
        ("select cast(100 as tinyint) + cast(100 as tinyint)".to_owned(), "100 + 100 does not fit int8".to_owned()),
        ("select -cast(-128 as tinyint)".to_owned(), "- -128 does not fit int8".to_owned()),
    ];
    for (sql, expected) in refused {
        let error = format!("error: {expected}; cast an operand to double or to decimal(38, 0)");
        assert_eq!(world.rows("acme", &sql).await, error, "{sql}");
    }
    for (sql, expected) in [
        ("select 2 + 3 * 4 - 1, -7, - -9223372036854775807, 7 / 2, 7 % 4", "[[13,-7,9223372036854775807,3,3]]"),
        ("select severity_number * 2 as n from logs group by severity_number * 2 order by n", "[[18],[42]]"),
        ("select body from logs order by severity_number * -1 limit 3 - 2", r#"[["y"]]"#),
        ("select sum(severity_number + 1), count(*) * 2 from logs", "[[32,4]]"),
        ("select cast(9223372036854775807 as double) + 1", "[[9.223372036854776e+18]]"),
        ("select null + 1", "[[null]]"),
        // The stretches of rows that have something in common: which number theirs is does not matter.
        (
            "select count(distinct i) from (select row_number() over (partition by severity_number order by time) \
             - row_number() over (order by time, severity_number desc) as i from logs)",
            "[[2]]",
        ),
        (
            "select sum(a.severity_number + b.severity_number) from logs a join logs b on a.severity_number = b.severity_number + 12",
            "[[30]]",
        ),
    ] {
        assert_eq!(world.rows("acme", sql).await, expected, "{sql}");
    }
    // What a column is called does not change.
    let answer = world.json("acme", "select severity_number + 1, 2 * (severity_number - 1) from logs").await.unwrap();
    let names: Vec<_> = answer["columns"].as_array().unwrap().iter().map(|column| column["name"].to_string()).collect();
    assert_eq!(names, [r#""severity_number + 1""#, r#""2 * (severity_number - 1)""#]);
    // A long chain is one call.
    let long = format!("select severity_number{} from logs limit 1", " + 1 - 2 * 1".repeat(100));
    assert_eq!(world.rows("acme", &long).await, "[[-91]]");
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
