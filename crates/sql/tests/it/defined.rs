//! Streams that tenants have defined are tables like all others, of that tenant only.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, StructArray};
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use weir_data::attributes::AttributesBuilder;
use weir_data::streams::StreamDef;

use crate::support::{NOON, SECOND, World, times};

fn world() -> World {
    let mut attributes = AttributesBuilder::with_capacity(2);
    attributes.push_json("http.route", "\"/a\"");
    attributes.end_row();
    attributes.push_json("http.route", "7");
    attributes.end_row();
    let minute = |offset: i64| times([NOON + offset, NOON + 60 * SECOND + offset]);
    let window = StructArray::try_from(vec![("start", minute(0)), ("end", minute(60 * SECOND))]).unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("time", minute(0)),
        ("received_at", minute(SECOND)),
        ("window", Arc::new(window)),
        ("region", Arc::new(StringArray::from(vec!["eu", "us"]))),
        ("orders", Arc::new(Int64Array::from(vec![3, 4]))),
        ("attributes", attributes.finish().0),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let narrow = StreamDef::define("slow_checkouts", None, &rows.schema(), &[]).unwrap();
    let p95 = Schema::new(vec![arrow::datatypes::Field::new("p95", arrow::datatypes::DataType::Float64, true)]);
    let stream = StreamDef::define("slow_checkouts", Some(&narrow), &p95, &[]).unwrap();
    let rows = weir_data::defined::kept_rows(&rows, &stream).unwrap();
    let world = World::new();
    world.own("acme", Arc::new(stream), vec![rows]);
    world
}

#[tokio::test]
async fn rows_are_queried_with_all_their_columns() {
    let world = world();
    let answer = world.rows("acme", "select region, orders, p95 from slow_checkouts order by time desc").await;
    assert_eq!(answer, r#"[["us",4,null],["eu",3,null]]"#, "a column no row has is null");
    let sql =
        "select \"window\"['start'] as s, \"window\"['end'] > time as open from slow_checkouts where region = 'eu'";
    assert_eq!(world.rows("acme", sql).await, r#"[["2026-11-21T12:00:00Z",true]]"#);
    let sql = "select attributes['http.route'] from slow_checkouts order by 1";
    assert_eq!(world.rows("acme", sql).await, r#"[["/a"],["7"]]"#, "its keys read as text");
    let star = world.json("acme", "select * from slow_checkouts").await.unwrap();
    assert_eq!(star["columns"].as_array().unwrap().len(), 8);
}

#[tokio::test]
async fn they_are_described_and_suggested_to_their_owner_only() {
    let world = world();
    let sql = "select table_name from information_schema.tables where table_name = 'slow_checkouts'";
    assert_eq!(world.rows("acme", sql).await, r#"[["slow_checkouts"]]"#);
    assert_eq!(world.rows("rival", sql).await, "[]");
    let described = world.rows("acme", "describe slow_checkouts").await;
    assert!(described.starts_with(r#"[["time","timestamp",false],["received_at""#), "{described}");
    assert!(described.contains(r#"["window","struct",true],["region","string",true]"#), "{described}");
    for (owner, suggests) in [("acme", true), ("rival", false)] {
        let error = world.json(owner, "select * from slow_checkout").await.unwrap_err();
        assert_eq!(error.to_string().contains("slow_checkouts"), suggests, "{owner}: {error}");
    }
    assert!(world.rows("rival", "select * from slow_checkouts").await.starts_with("error: there is no table"));
}

#[tokio::test]
async fn filters_of_live_tails_know_them() {
    let world = world();
    let (acme, rival) = (crate::support::tenant("acme"), crate::support::tenant("rival"));
    let stream = weir_base::StreamName::new("slow_checkouts").unwrap();
    assert!(world.engine.row_filter(&acme, &stream, "orders > 3 and region = 'us'").await.is_ok());
    assert!(world.engine.row_filter(&rival, &stream, "orders > 3").await.is_err());
}
