//! Predicates for live tails.

use arrow::array::AsArray;
use weir_base::StreamName;
use weir_data::attributes::AttributeKind;

use crate::support::{NOON, SECOND, World, logs, tenant};

#[tokio::test]
async fn rows_for_which_it_is_true_stay() {
    let world = World::new();
    world.kind("acme", "logs", "attributes", "n", AttributeKind::Number);
    let rows = logs(&[
        (NOON, 9, "hello world", r#"{"n":1,"s":"x"}"#),
        (NOON + SECOND, 17, "failed", r#"{"n":5}"#),
        (NOON + 2 * SECOND, 21, "worse", "{}"),
    ]);
    let name = StreamName::new("logs").unwrap();
    let check = async |predicate: &str, expected: &[&str]| {
        let filter = world.engine.row_filter(&tenant("acme"), &name, predicate).await.unwrap();
        let kept = filter.filter(&rows).unwrap_or_else(|error| panic!("{predicate}: {error:?}"));
        let bodies = kept.column_by_name("body").unwrap().as_string::<i32>();
        assert_eq!(bodies.iter().flatten().collect::<Vec<_>>(), expected, "{predicate}");
        assert_eq!(kept.schema(), rows.schema(), "{predicate}");
    };
    check("true", &["hello world", "failed", "worse"]).await;
    check("false", &[]).await;
    check("null", &[]).await;
    check("severity_number >= 17", &["failed", "worse"]).await;
    check("body like '%wor%'", &["hello world", "worse"]).await;
    check("attributes['n'] > 1", &["failed"]).await;
    check("attributes['s'] = 'x'", &["hello world"]).await;
    check("trace_id is null and logs.body <> 'failed'", &["hello world", "worse"]).await;
    check("time > '2026-11-21T12:00:00.5Z'", &["failed", "worse"]).await;
    check("coalesce(event_name, body) = 'worse'", &["worse"]).await;
}

#[tokio::test]
async fn what_is_not_a_filter_is_refused() {
    let world = World::new();
    let check = async |stream: &str, predicate: &str, expected: &str| {
        let name = StreamName::new(stream).unwrap();
        let error = world.engine.row_filter(&tenant("acme"), &name, predicate).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{predicate}: {error}");
    };
    check("logs", "bdy = 'x'", "did you mean `body`?").await;
    check("logs", "body", "a filter is a condition").await;
    check("logs", "count(*) > 1", "one row").await;
    check("logs", "row_number() over () > 1", "one row").await;
    check("logs", "exists (select 1)", "no subqueries").await;
    check("logs", "body in (select body from logs)", "no subqueries").await;
    check("logs", "repeat(body, 2000000000) = 'x' or version() = '1'", "invalid function 'version'").await;
    check("logs", &vec!["true"; 600].join(" and "), "operators in one expression").await;
    check("nothing", "true", "there is no table `nothing`").await;
}

#[tokio::test]
async fn a_filter_that_fails_on_a_row_says_so() {
    let world = World::new();
    let name = StreamName::new("logs").unwrap();
    let rows = logs(&[(NOON, 9, "x", "{}")]);
    let filter = world.engine.row_filter(&tenant("acme"), &name, "cast(body as int) = 1").await.unwrap();
    assert!(filter.filter(&rows).unwrap_err().to_string().contains("cannot cast string 'x'"));
    let filter = world.engine.row_filter(&tenant("acme"), &name, "repeat(body, 2000000000) = 'x'").await.unwrap();
    assert!(filter.filter(&rows).unwrap_err().to_string().contains("would be larger"));
}
