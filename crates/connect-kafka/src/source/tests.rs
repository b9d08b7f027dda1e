use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value as Json, json};
use weir_base::clock::SystemClock;
use weir_base::disk::RealDisk;
use weir_component::source::{Next, PlannedSource, Source, SourceRows};
use weir_component::spec::PlanContext;

use super::{Plan, make, open};
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
        (json!({ "part": { "number": 3, "of": 3 } }), ""),
        (json!({ "part": { "number": 0, "of": 3 } }), "/part there is no part 0 of 3"),
        (json!({ "part": { "number": 4, "of": 3 } }), "/part there is no part 4 of 3"),
        (json!({ "part": { "number": 1, "of": 0 } }), "/part there is no part 1 of 0"),
        (json!({ "part": { "number": 1, "of": 2 }, "shared": true }), "/part the processes divide the partitions"),
        (json!({ "message_bytes_max": "65MiB" }), "/message_bytes_max 65MiB is not between"),
    ] {
        let faults = planned(&more).err().unwrap_or_default();
        let found: Vec<String> = faults.iter().map(|fault| format!("{} {}", fault.pointer, fault.message)).collect();
        assert_eq!(found.len(), usize::from(!expected.is_empty()), "{more}: {found:?}");
        assert!(found.first().is_none_or(|found| found.starts_with(expected)), "{more}: {found:?}");
    }
}

/// Each partition is in one part, also one that is found later, and a checkpoint is of one part.
#[test]
fn parts_have_each_partition_once() {
    let counts = [("a".to_owned(), 7), ("b".to_owned(), 2)].into();
    let mut all: Vec<(String, i32)> = Vec::new();
    for number in 1..=3 {
        let plan = planned(&json!({ "topic": ["a", "b"], "part": { "number": number, "of": 3 } })).unwrap();
        let own = open::read_of(&plan, &counts);
        let fewer = open::read_of(&plan, &[("a".to_owned(), 5)].into());
        assert!(fewer.iter().all(|partition| own.contains(partition)), "none goes to another part");
        let places = || own.iter().map(|(topic, number)| (open::name(topic, *number), 1));
        let position = open::write_position(plan.part, places());
        assert_eq!(open::read_position(&position).unwrap().len(), own.len());
        assert!(open::check_part(&plan, &position).is_ok());
        let whole = planned(&json!({ "topic": ["a", "b"] })).unwrap();
        let other = planned(&json!({ "topic": ["a", "b"], "part": { "number": number, "of": 4 } })).unwrap();
        let of_whole = open::write_position(None, places());
        assert!(open::check_part(&whole, &of_whole).is_ok());
        for (plan, position) in [(&whole, &position), (&other, &position), (&plan, &of_whole)] {
            assert_eq!(open::check_part(plan, position).unwrap_err().kind, weir_base::ErrorKind::Config);
        }
        all.extend(own);
    }
    all.sort();
    let expected: Vec<(String, i32)> =
        (0..7).map(|number| ("a".to_owned(), number)).chain((0..2).map(|number| ("b".to_owned(), number))).collect();
    assert_eq!(all, expected);
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

#[test]
fn a_message_that_was_no_row_can_be_read_again_without_what_kafka_said_of_it() {
    let metadata = json!({ "key": "k", "timestamp": "at", "headers": "h", "partition": "p", "offset": "o" });
    let plan = planned(&json!({ "metadata": metadata, "schema": { "id": "text" } })).unwrap();
    let rows = plan.again("{\"id\":\"many\"}").unwrap().unwrap();
    assert_eq!((rows.num_rows(), rows.num_columns(), rows.schema()), (1, 6, plan.schema()));
    assert!((1..6).all(|at| rows.column(at).null_count() == 1));
    let strict = planned(&json!({})).unwrap();
    assert!(strict.again("{\"id\":\"many\"}").unwrap().unwrap_err().contains("int64"));
    for (payload, expected) in [("", "no value"), (" ", "no value"), ("{\"id\":1}{\"id\":2}", ""), ("[1]", "")] {
        let error = strict.again(payload).unwrap().unwrap_err();
        assert!(error.contains(expected), "{payload}: {error}");
    }
    let cut = format!("{{\"id\":1,\"x\":\"{}\"}}", "x".repeat(64 << 10));
    assert!(strict.again(&cut).unwrap().unwrap_err().contains("longer than"));
}

/// Whoever gives a partition away before what it read of it is committed lets the next one read it again.
#[test]
fn partitions_go_when_what_was_read_of_each_is_committed() {
    let key = |number: i32| ("in".to_owned(), number);
    let committed = [(key(0), Some(7)), (key(1), None), (key(2), Some(4))].into();
    let read = |key: &(String, i32)| [Some(7), Some(1), Some(5), None][usize::try_from(key.1).unwrap()];
    for (keys, expected) in [
        (vec![], true),
        (vec![key(0)], true),
        // Nothing of it is committed, less than was read is, and nothing of it was read.
        (vec![key(1)], false),
        (vec![key(2)], false),
        (vec![key(3)], true),
        (vec![key(0), key(3)], true),
        (vec![key(0), key(2)], false),
        (vec![key(2), key(0)], false),
    ] {
        assert_eq!(super::group::may_go(&keys, &committed, read), expected, "{keys:?}");
    }
}

/// What is read next, once something is.
async fn rows_of(source: &mut Box<dyn Source>) -> SourceRows {
    loop {
        if let Next::Rows(rows) = source.next(None).await.unwrap() {
            return rows;
        }
    }
}

/// Killed before its first checkpoint it would begin at another end, so it gives nothing before that.
#[tokio::test]
async fn one_that_begins_with_what_comes_waits_until_a_checkpoint_says_where_that_is() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("in", 1, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let send = |id: i64| {
        let message = json!({ "id": id }).to_string();
        producer.send(BaseRecord::<(), str>::to("in").payload(&message)).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
    };
    send(0);
    let plan = planned(&json!({ "brokers": brokers, "start": "latest" })).unwrap();
    let mut source = plan.open(None).await.unwrap();
    assert!(source.wants_checkpoint());
    let began = source.position();
    send(1);
    // Until it is certain that there is something to be read.
    while source.lag_rows() != Some(1) {
        assert!(matches!(source.next(None).await.unwrap(), Next::Nothing(_)));
    }
    assert!(matches!(source.next(None).await.unwrap(), Next::Nothing(_)));
    assert_eq!(source.position(), began);
    source.committed(&began).await.unwrap();
    assert!(!source.wants_checkpoint());
    assert_eq!(rows_of(&mut source).await.rows.num_rows(), 1);
    drop(source);
    // Killed now, it goes on from the checkpoint, and at once.
    let mut source = plan.open(Some(began)).await.unwrap();
    assert!(!source.wants_checkpoint());
    assert_eq!(rows_of(&mut source).await.rows.num_rows(), 1);
    // The oldest message can be found again.
    let plan = planned(&json!({ "brokers": cluster.bootstrap_servers() })).unwrap();
    let mut source = plan.open(None).await.unwrap();
    assert!(!source.wants_checkpoint());
    let mut n_rows = 0;
    while n_rows < 2 {
        n_rows += rows_of(&mut source).await.rows.num_rows();
    }
}

/// The group is told where that is, so that one killed before its first commit skips nothing.
#[tokio::test]
async fn one_that_shares_and_begins_with_what_comes_tells_the_group_first() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("in", 2, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let send = |id: i64, partition: i32| {
        let message = json!({ "id": id }).to_string();
        producer.send(BaseRecord::<(), str>::to("in").partition(partition).payload(&message)).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
    };
    send(0, 0);
    let plan = planned(&json!({ "brokers": brokers, "start": "latest", "shared": true, "group": "g" })).unwrap();
    let mut source = plan.open(None).await.unwrap();
    while source.partitions().is_none_or(|partitions| partitions.is_empty()) {
        assert!(matches!(source.next(None).await.unwrap(), Next::Nothing(_)));
    }
    // Nothing was committed by it, and it is gone.
    drop(source);
    let watcher: rdkafka::consumer::BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", &brokers).set("group.id", "g").create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition("in", 0);
    list.add_partition("in", 1);
    let found = rdkafka::consumer::Consumer::committed_offsets(&watcher, list, Duration::from_secs(30)).unwrap();
    let offsets: Vec<_> = found.elements().iter().map(|element| element.offset()).collect();
    assert_eq!(offsets, [rdkafka::Offset::Offset(1), rdkafka::Offset::Offset(0)]);
    send(1, 0);
    send(2, 1);
    let mut source = plan.open(None).await.unwrap();
    let mut n_rows = 0;
    while n_rows < 2 {
        n_rows += rows_of(&mut source).await.rows.num_rows();
    }
    assert!(matches!(source.next(None).await.unwrap(), Next::Nothing(_)), "and not the one before");
}

#[test]
fn what_a_document_reads_of_the_partitions_is_said() {
    for (more, expected) in [
        (json!({}), Some("all partitions")),
        (json!({ "part": { "number": 1, "of": 3 } }), Some("part 1/3 of the partitions")),
        // By turns, as the group says.
        (json!({ "shared": true }), None),
    ] {
        assert_eq!(planned(&more).unwrap().part().as_deref(), expected);
    }
}
