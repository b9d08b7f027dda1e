use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use rdkafka::message::Headers;
use serde_json::{Value as Json, json};
use weir_base::clock::SystemClock;
use weir_base::disk::RealDisk;
use weir_component::sink::Owner;
use weir_component::spec::PlanContext;

use super::messages::Messages;
use super::{Plan, make};

fn context(interval: Duration, tenant: Option<&str>) -> PlanContext {
    PlanContext {
        directory: "/d".into(),
        pipeline: "visits".to_owned(),
        tenant: tenant.map(str::to_owned),
        checkpoint_interval: interval,
        disk: RealDisk::new(),
        clock: SystemClock::new(),
        streams: None,
    }
}

fn config(more: &Json) -> Json {
    let mut config = json!({ "brokers": "k:9092", "topic": "out" });
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    config
}

fn planned(more: &Json, tenant: Option<&str>) -> Plan {
    make(&config(more), &context(Duration::from_secs(10), tenant)).unwrap()
}

#[test]
fn what_is_wrong_is_said_where_it_is() {
    let check = |more: Json, interval: u64, expected: &[&str]| {
        let found = make(&config(&more), &context(Duration::from_secs(interval), None)).map(|_| ());
        let found: Vec<String> = found
            .err()
            .unwrap_or_default()
            .iter()
            .map(|fault| format!("{} {}", fault.pointer, fault.message))
            .collect();
        assert!(
            found.len() == expected.len() && found.iter().zip(expected).all(|(found, part)| found.contains(part)),
            "{more}: {found:?}"
        );
    };
    check(json!({}), 10, &[]);
    check(json!({ "brokers": "nowhere" }), 10, &["/brokers `nowhere` is not the address"]);
    check(json!({ "topic": "a/b" }), 10, &["/topic `a/b` is not the name"]);
    check(json!({ "topic": "__weir_progress" }), 10, &["/progress_topic rows and progress need different"]);
    check(json!({ "partition": "key" }), 10, &["/partition there is no key"]);
    check(json!({ "colour": "red" }), 10, &["unknown field"]);
    check(json!({ "message_bytes_max": "1B" }), 10, &["/message_bytes_max 1B is not between"]);
    // A transaction lasts from checkpoint to checkpoint.
    check(json!({ "transaction_timeout": "30s" }), 10, &[]);
    check(
        json!({ "transaction_timeout": "29s" }),
        10,
        &["/transaction_timeout 29s is too short for a checkpoint every 10s"],
    );
    check(json!({}), 600, &["a checkpoint every 10m is too seldom"]);
    check(json!({ "transaction_timeout": "30m" }), 600, &[]);
    let plain = json!({ "delivery": "at_least_once", "transaction_timeout": "60s" });
    check(plain, 10, &["/transaction_timeout at least once takes no transactions"]);
    check(json!({ "delivery": "at_least_once" }), 3600, &[]);
}

#[test]
fn a_producer_has_a_name_that_stays() {
    let owner = |sink: &str, member: Option<&str>| Owner {
        sink: sink.to_owned(),
        writer: "w.1".to_owned(),
        is_again: false,
        member: member.map(str::to_owned),
    };
    let id = |tenant, owner: &Owner| planned(&json!({}), tenant).transactional_id(owner);
    assert_eq!(id(None, &owner("kafka", None)), "weir/local/visits/kafka");
    assert_eq!(id(Some("acme"), &owner("kafka_2", None)), "weir/acme/visits/kafka_2");
    // Those who read together do not fence each other.
    assert_eq!(id(None, &owner("kafka", Some("m1"))), "weir/local/visits/kafka/m1");
}

#[test]
fn the_transaction_lasts_longer_than_two_checkpoints() {
    for (interval, expected) in [(1, 60), (10, 60), (30, 90), (120, 270)] {
        let plan = make(&config(&json!({})), &context(Duration::from_secs(interval), None)).unwrap();
        assert_eq!(plan.transaction_timeout, Duration::from_secs(expected), "{interval}");
    }
}

#[test]
fn a_computed_key_is_no_part_of_the_message() {
    let columns: [(&str, ArrayRef); 2] = [
        ("n", Arc::new(Int64Array::from(vec![1]))),
        (super::messages::KEY_COLUMN, Arc::new(StringArray::from(vec!["k1"]))),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let mut messages = Messages::new(&planned(&json!({ "key": "concat('k', n)" }), None), &rows.schema(), 2);
    let mut writer = messages.of(&rows);
    let message = writer.message(0);
    assert_eq!((message.value, message.key), (r#"{"n":1}"#, Some("k1")));
}

/// Value, key, partition and tenant header of each row.
fn messages(more: &Json, tenant: Option<&str>) -> Vec<(String, Option<String>, Option<i32>, Option<String>)> {
    let columns: [(&str, ArrayRef); 3] = [
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ("k", Arc::new(StringArray::from(vec![Some("a\"b"), Some("c"), None]))),
        ("session_id", Arc::new(StringArray::from(vec!["s1", "s2", "s3"]))),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let mut messages = Messages::new(&planned(more, tenant), &rows.schema(), 2);
    let mut writer = messages.of(&rows);
    let mut all = Vec::new();
    for row in 0..rows.num_rows() {
        let message = writer.message(row);
        let header = message.headers.map(|headers| String::from_utf8_lossy(headers.get(0).value.unwrap()).into_owned());
        all.push((message.value.to_owned(), message.key.map(str::to_owned), message.partition, header));
    }
    all
}

#[test]
fn rows_become_messages() {
    let text = |text: &str| Some(text.to_owned());
    let rows = messages(&json!({}), None);
    assert_eq!(rows[0], (r#"{"n":1,"k":"a\"b","session_id":"s1"}"#.to_owned(), None, Some(0), None));
    assert_eq!(rows[1].0, r#"{"n":null,"k":"c","session_id":"s2"}"#);
    assert_eq!(rows.iter().map(|row| row.2).collect::<Vec<_>>(), [Some(0), Some(1), Some(0)]);
    let keys = |more: Json, tenant| messages(&more, tenant).into_iter().map(|row| row.1).collect::<Vec<_>>();
    assert_eq!(keys(json!({ "key": "k" }), None), [text("a\"b"), text("c"), None]);
    assert_eq!(keys(json!({ "key": "n" }), None), [text("1"), None, text("3")]);
    assert_eq!(keys(json!({ "partition": "session" }), None), [text("s1"), text("s2"), text("s3")]);
    let with_tenant = json!({ "key": "k", "key_with_tenant": true });
    assert_eq!(keys(with_tenant, Some("acme")), [text("acme/a\"b"), text("acme/c"), None]);
    let by_tenant = messages(&json!({ "partition": "tenant" }), Some("acme"));
    assert!(by_tenant.iter().all(|row| row.1 == text("acme") && row.2 == by_tenant[0].2 && row.3 == text("acme")));
    // A key decides the partition by itself.
    assert!(messages(&json!({ "key": "k" }), None).iter().all(|row| row.2.is_none()));
}

#[test]
fn the_column_of_the_key_must_be_there() {
    use weir_component::sink::PlannedSink;
    let schema = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap().schema();
    let faults = |more: Json| planned(&more, None).check(&schema);
    assert!(faults(json!({ "key": "n" })).is_empty());
    let missing = &faults(json!({ "partition": "session" }))[0];
    assert_eq!((missing.pointer.as_str(), missing.hint.as_str()), ("/partition", "the columns are n"));
    // Whatever else is no column is computed.
    let computes = |more: Json| planned(&more, None).computes(&schema).map(|computed| computed.expression);
    assert_eq!(computes(json!({ "key": "n % 2" })).as_deref(), Some("n % 2"));
    assert_eq!(computes(json!({ "key": "n" })), None);
    assert_eq!(computes(json!({ "partition": "session" })), None);
}
