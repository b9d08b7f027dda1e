//! Open columns in places where values are compared or put together.

use crate::support::{NOON, World, batch, times};

fn world() -> World {
    let world = World::new();
    let mut builder = weir_data::attributes::AttributesBuilder::with_capacity(2);
    builder.push_json("a", "7");
    builder.push_str("b", "x");
    builder.end_row();
    builder.push_json("a", "8");
    builder.end_row();
    let rows = batch(
        "events",
        vec![
            ("time", times([NOON, NOON + 1])),
            ("received_at", times([NOON, NOON])),
            ("properties", builder.finish().0),
        ],
    );
    world.tail("acme", "events", rows);
    world
}

/// Results of expressions, and items of lists, are not marked as what they are.
#[tokio::test]
async fn open_columns_stay_open_in_expressions() {
    let world = world();
    let first = r#"{"a":7,"b":"x"}"#;
    for (sql, expected) in [
        ("select coalesce(properties, context) from events order by time limit 1", format!("[[{first}]]")),
        ("select case when true then properties else context end from events limit 1", format!("[[{first}]]")),
        ("select first_value(properties order by time) from events", format!("[[{first}]]")),
        ("select array_agg(properties order by time) from events", format!("[[[{first},{{\"a\":8}}]]]")),
        ("select named_struct('p', properties) from events limit 1", format!("[[{{\"p\":{first}}}]]")),
        ("select map(['a'], ['7']) from events limit 1", r#"[[{"a":"7"}]]"#.to_owned()),
    ] {
        assert_eq!(world.rows("acme", sql).await, expected, "{sql}");
    }
}

/// The engine plans these and fails when the first row comes.
#[tokio::test]
async fn what_cannot_be_done_with_maps_is_refused_with_a_reason() {
    let world = world();
    let order = "needs values in an order, and maps have none";
    let found = "rows of one side are not found by a map of the other";
    for (sql, expected) in [
        ("select max(properties) from events", order),
        ("select min(properties) over () from events", order),
        ("select max(named_struct('p', properties)) from events", order),
        ("select max([properties]) from events", order),
        ("select row_number() over (order by properties) from events", order),
        ("select 1 from events e join events f on e.properties = f.properties", found),
        ("select 1 from events where properties in (select context from events)", found),
        ("select properties from events except select context from events", found),
        ("select properties from events intersect select context from events", found),
    ] {
        let error = world.json("acme", sql).await.unwrap_err();
        assert!(matches!(error, weir_sql::SqlError::Invalid { .. }), "{sql}: {error:?}");
        assert!(error.to_string().contains(expected), "{sql}: {error}");
    }
    for sql in ["select distinct properties from events", "select count(distinct properties) from events"] {
        assert!(world.json("acme", sql).await.is_ok(), "{sql}");
    }
}
