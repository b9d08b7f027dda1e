use std::time::Duration;

use serde_json::{Value as Json, json};
use weir_base::clock::SystemClock;
use weir_base::disk::RealDisk;
use weir_component::source::PlannedSource;
use weir_component::spec::PlanContext;

use super::{Plan, make};
use weir_component::spec::Fault;

fn context() -> PlanContext {
    PlanContext {
        directory: "/d".into(),
        pipeline: "visits".to_owned(),
        tenant: None,
        checkpoint_interval: Duration::from_secs(10),
        disk: RealDisk::new(),
        clock: SystemClock::new(),
        streams: None,
    }
}

fn planned(more: &Json) -> Result<Plan, Vec<Fault>> {
    let mut config = json!({ "brokers": "k:9092", "topic": "in", "format": "json", "schema": { "id": "int64" } });
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    make(&config, &context())
}

#[test]
fn what_is_wrong_is_said_where_it_is() {
    for (more, expected) in [
        (json!({}), ""),
        (json!({ "topic": ["a", "b"] }), ""),
        (json!({ "topic": [] }), "/topic there is no topic"),
        (json!({ "topic": ["a", "a"] }), "/topic the topic `a` is named twice"),
        (json!({ "topic": "a b" }), "/topic `a b` is not the name of a topic"),
        (json!({ "brokers": "k" }), "/brokers `k` is not the address of a broker"),
        (json!({ "schema": { "id": "number" } }), "/schema/id there is no type `number`"),
        (json!({ "metadata": { "key": "id" } }), "/metadata/key there is a column `id` already"),
        (json!({ "metadata": { "key": "" } }), "/metadata/key the column has no name"),
        (json!({ "discover": "10ms" }), "/discover 10ms is less than 1s"),
        (json!({ "message_bytes_max": "65MiB" }), "/message_bytes_max 65MiB is not between"),
    ] {
        let faults = planned(&more).err().unwrap_or_default();
        let found: Vec<String> = faults.iter().map(|fault| format!("{} {}", fault.pointer, fault.message)).collect();
        assert_eq!(found.len(), usize::from(!expected.is_empty()), "{more}: {found:?}");
        assert!(found.first().is_none_or(|found| found.starts_with(expected)), "{more}: {found:?}");
    }
}

#[test]
fn columns_are_those_of_the_messages_and_what_is_wished_for() {
    let metadata =
        json!({ "key": "k", "timestamp": "at", "headers": "h", "topic": "t", "partition": "p", "offset": "o" });
    let plan = planned(&json!({ "metadata": metadata })).unwrap();
    let names: Vec<String> = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "k", "at", "h", "t", "p", "o"]);
    assert_eq!(plan.group, "weir.local.visits");
    assert!(!plan.is_bounded());
}
