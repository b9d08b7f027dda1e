//! `attributes['k']` everywhere, and every kind of value under every kind of key.

use weir_data::attributes::AttributeKind;
use weir_sql::output::Format;

use crate::support::{NOON, SECOND, World, batch, file, logs, promoted_logs, request, texts, times};

/// How the first two rows are kept; the others are in the tail.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Tail,
    File,
    FileWithPromotedKeys,
}

const KEPT: [Kept; 3] = [Kept::Tail, Kept::File, Kept::FileWithPromotedKeys];

fn world(kept: Kept) -> World {
    let world = World::new();
    let rows = [
        (NOON, 9, "a", r#"{"n":1,"t":"x","b":true,"big":9007199254740993,"o":{"p":[1,2]}}"#),
        (NOON + SECOND, 9, "b", r#"{"n":"text","t":7,"b":"yes","big":1.5}"#),
        (NOON + 2 * SECOND, 9, "c", r#"{"n":2.5,"t":"y","b":false,"t2":null}"#),
        (NOON + 3 * SECOND, 9, "d", "{}"),
    ];
    let stream = weir_data::streams::stream("logs").unwrap();
    match kept {
        Kept::Tail => {
            world.tail("acme", "logs", logs(&rows[..2]));
        }
        Kept::File => {
            world.file("acme", "logs", file(1, stream, &logs(&rows[..2]), 1));
        }
        Kept::FileWithPromotedKeys => {
            world.file("acme", "logs", file(1, stream, &promoted_logs(&rows[..2]), 1));
        }
    }
    world.tail("acme", "logs", logs(&rows[2..]));
    for (key, kind) in [("n", AttributeKind::Number), ("t", AttributeKind::Text), ("b", AttributeKind::Bool)] {
        world.kind("acme", "logs", "attributes", key, kind);
    }
    world
}

#[tokio::test]
async fn a_key_reads_as_its_kind_and_other_values_are_null() {
    let check = async |expression: &str, expected: &str| {
        for kept in KEPT {
            let sql = format!("select {expression} from logs order by time");
            assert_eq!(world(kept).rows("acme", &sql).await, expected, "{expression}, {kept:?}");
        }
    };
    check("attributes['n']", "[[1],[null],[2.5],[null]]").await;
    check("attributes['t']", r#"[["x"],[null],["y"],[null]]"#).await;
    check("attributes['b']", "[[true],[null],[false],[null]]").await;
    check("attributes['unknown']", "[[null],[null],[null],[null]]").await;
    check("attributes['o']", r#"[["{\"p\":[1,2]}"],[null],[null],[null]]"#).await;
    check("attribute_text(attributes, 'n')", r#"[["1"],["text"],["2.5"],[null]]"#).await;
    check("attribute_text(attributes, 't')", r#"[["x"],["7"],["y"],[null]]"#).await;
    check("attribute_text(attributes, 't2')", "[[null],[null],[null],[null]]").await;
    check("attribute_int(attributes, 'big')", "[[9007199254740993],[null],[null],[null]]").await;
    check("attributes[body]", "[[null],[\"yes\"],[null],[null]]").await;
    check("attributes['n'] + 1", "[[2],[null],[3.5],[null]]").await;
}

#[tokio::test]
async fn a_key_works_wherever_an_expression_does() {
    let check = async |sql: &str, expected: &str| {
        for kept in KEPT {
            assert_eq!(world(kept).rows("acme", sql).await, expected, "{sql}, {kept:?}");
        }
    };
    check("select body from logs where attributes['n'] > 1", r#"[["c"]]"#).await;
    check("select body from logs where attributes['b']", r#"[["a"]]"#).await;
    check("select body from logs where attributes['t'] = 'x' and attributes['n'] = 1", r#"[["a"]]"#).await;
    check("select body from logs where attributes['n'] is null order by body", r#"[["b"],["d"]]"#).await;
    check("select body from logs order by attributes['n'] desc nulls last, body limit 2", r#"[["c"],["a"]]"#).await;
    check(
        "select attributes['t'], count(*) from logs group by attributes['t'] order by 1 nulls first",
        r#"[[null,2],["x",1],["y",1]]"#,
    )
    .await;
    check("select l.attributes['n'] from logs l where l.body = 'c'", "[[2.5]]").await;
    check("select x.a['n'] from (select attributes as a from logs where body = 'c') x", "[[2.5]]").await;
    check("with w as (select attributes, body from logs) select attributes['n'] from w where body = 'a'", "[[1]]")
        .await;
    check(
        "select a.body, b.body from logs a join logs b on a.attributes['n'] = b.attributes['n'] order by 1",
        r#"[["a","a"],["c","c"]]"#,
    )
    .await;
    check("select body from logs where body in (select body from logs where attributes['b'] = false)", r#"[["c"]]"#)
        .await;
    check("select max(attributes['n']) from logs having max(attributes['n']) > 2", "[[2.5]]").await;
    check("select sum(attributes['n']) over (order by time) from logs order by time", "[[1],[1],[3.5],[3.5]]").await;
    check("select case when attributes['b'] then 'yes' else 'no' end from logs where body = 'a'", r#"[["yes"]]"#).await;
    check("select attributes from logs where body = 'c'", r#"[[{"b":false,"n":2.5,"t":"y","t2":null}]]"#).await;
    check(
        "select attributes from logs where body = 'a'",
        r#"[[{"b":true,"big":9007199254740993,"n":1,"o":{"p":[1,2]},"t":"x"}]]"#,
    )
    .await;
    check("select attributes from logs where body = 'b'", r#"[[{"b":"yes","big":1.5,"n":"text","t":7}]]"#).await;
    check("select cardinality(attributes) from logs order by time", "[[5],[4],[4],[null]]").await;
    check("select count(attributes), count(attributes['n']) from logs", "[[3,2]]").await;
    check("select count(*) from logs where attributes is not null", "[[3]]").await;
    check("select attributes['n'], attributes['n'] is null from logs where body = 'c'", "[[2.5,false]]").await;
    check(
        "select attributes['t'] from logs where body = 'a' union all select attributes['t'] from logs where body = 'c' order by 1",
        r#"[["x"],["y"]]"#,
    )
    .await;
    check("select distinct attributes['b'] from logs where attributes['b'] is not null order by 1", "[[false],[true]]")
        .await;
}

#[tokio::test]
async fn every_open_column_has_keys() {
    let world = World::new();
    let mut properties = weir_data::attributes::AttributesBuilder::with_capacity(1);
    properties.push_f64("price", 9.5);
    properties.push_str("plan", "pro");
    properties.end_row();
    let rows = batch(
        "events",
        vec![
            ("time", times([NOON])),
            ("received_at", times([NOON])),
            ("name", texts([Some("buy")])),
            ("properties", properties.finish().0),
        ],
    );
    world.tail("acme", "events", rows);
    // As in the streams that pipelines write: nobody has fixed a kind.
    assert_eq!(
        world
            .rows("acme", "select properties['price'] as price from events where properties['price'] is not null")
            .await,
        r#"[["9.5"]]"#
    );
    world.kind("acme", "events", "properties", "price", AttributeKind::Number);
    assert_eq!(
        world.rows("acme", "select properties['price'], properties['plan'], context['x'] from events").await,
        r#"[[9.5,"pro",null]]"#
    );
}

#[tokio::test]
async fn wrong_uses_of_a_key_are_explained() {
    let world = world(Kept::Tail);
    let check = async |sql: &str, expected: &str| {
        let said = world.rows("acme", sql).await;
        assert!(said.starts_with("error: ") && said.contains(expected), "{sql}: {said}");
    };
    check("select attribute_text(body, 'k') from logs", "takes a column of attributes").await;
    check("select attribute_int(attributes) from logs", "a column of attributes and a key").await;
    check("select attributes[1:2] from logs", "is not a list").await;
    check("select attributes[1] from logs", "a key of attributes is text").await;
    let number = "logs.attributes['n'] is a number, and 'x' is not: to compare it as text, write \
                  attribute_text(logs.attributes, 'n')";
    check("select 1 from logs where attributes['n'] = 'x'", number).await;
    check("select 1 from logs where 'x' <> attributes['n']", number).await;
    check("select 1 from logs where attributes['n'] in ('1', 'x')", number).await;
    check("select 1 from logs where attributes['n'] between '1' and 'x'", number).await;
    check("select a.body from logs a join logs b on a.attributes['n'] > 'x'", "attribute_text(a.attributes, 'n')")
        .await;
    check("select 1 from logs where attributes['n'] like 'x%'", "is a number, and 'x%' is not").await;
    check("select 1 from logs where attributes['n'] ~ '^x'", "is a number, and '^x' is not").await;
    check("select 1 from logs where attributes['b'] = 'x'", "is true or false, and 'x' is not").await;
    let mut asked = request("select 1 from logs where attributes['n'] = $1");
    asked.params = vec!["x".into()];
    let said = world.run("acme", asked, Format::Json).await.unwrap_err();
    assert!(said.to_string().contains(number), "{said}");
    // What is said helps.
    let rows = world.rows("acme", "select body from logs where attribute_text(logs.attributes, 'n') = 'text'").await;
    assert_eq!(rows, r#"[["b"]]"#);
    // A number in quotes is one.
    assert_eq!(world.rows("acme", "select body from logs where attributes['n'] = '2.5'").await, r#"[["c"]]"#);
    assert_eq!(world.rows("acme", "select body from logs where attributes['t'] = '7'").await, "[]");
}

#[tokio::test]
async fn a_promoted_key_is_read_alone() {
    use std::sync::atomic::Ordering;
    let rows: Vec<(i64, i32, String, String)> = (0..5_000)
        .map(|row| {
            let object = format!(
                r#"{{"n":{row},"t":"t{}","long":"{:064x}"}}"#,
                row % 7,
                (row as u128).pow(3) * 0x9E37_79B9_7F4A_7C15
            );
            (NOON + row * SECOND, 9, format!("body {row}"), object)
        })
        .collect();
    let rows: Vec<(i64, i32, &str, &str)> =
        rows.iter().map(|row| (row.0, row.1, row.2.as_str(), row.3.as_str())).collect();
    let mut reads = Vec::new();
    for promoted in [false, true] {
        let world = World::new();
        world.kind("acme", "logs", "attributes", "n", AttributeKind::Number);
        world.kind("acme", "logs", "attributes", "t", AttributeKind::Text);
        let stream = weir_data::streams::stream("logs").unwrap();
        let rows = if promoted { promoted_logs(&rows) } else { logs(&rows) };
        let read = world.file("acme", "logs", file(1, stream, &rows, 1_000));
        let sql = "select attributes['t'], sum(attributes['n']) from logs where attributes['n'] >= 10 group by 1 order by 1 limit 2";
        assert_eq!(world.rows("acme", sql).await, r#"[["t0",1786778],["t1",1787491]]"#, "{promoted}");
        reads.push(read.load(Ordering::Relaxed));
    }
    assert!(reads[1] * 5 < reads[0], "{reads:?}");
}
