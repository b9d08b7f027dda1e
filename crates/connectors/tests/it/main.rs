//! What every component has to keep to, looped over the tables.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value as Json, json};
use weir_base::clock::ManualClock;
use weir_base::disk::Disk;
use weir_base::{Clock, Timestamp};
use weir_component::sink::{Opening, PlannedSink};
use weir_component::source::{Next, PlannedSource, Source, SourcePosition};
use weir_component::spec::{About, Fault, PlanContext};
use weir_component::streams::{ReadStream, Streams, WriteStream};
use weir_connectors::{SINKS, SOURCES};
use weir_document::Syntax;
use weir_document::shape::{Names, Shape};
use weir_document::{Schema, check};
use weir_testkit::sim_disk::SimDisk;

struct World {
    disk: Arc<SimDisk>,
    clock: Arc<ManualClock>,
    context: PlanContext,
}

/// Streams that only the entries of the table have to do with: one that is made up, and one that is forgotten.
#[derive(Debug)]
struct FakeStreams {
    disk: Arc<SimDisk>,
    clock: Arc<ManualClock>,
}

impl FakeStreams {
    fn context(&self) -> PlanContext {
        PlanContext {
            tenant: None,
            checkpoint_interval: std::time::Duration::from_secs(10),
            directory: "/d".into(),
            pipeline: "contract".to_owned(),
            disk: Arc::clone(&self.disk) as Arc<dyn Disk>,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            streams: None,
        }
    }
}

impl Streams for FakeStreams {
    fn schema(&self, _: &str) -> Option<SchemaRef> {
        None
    }

    fn source(&self, read: &ReadStream) -> Result<Arc<dyn PlannedSource>, Fault> {
        let spec = SOURCES.iter().find(|spec| spec.about.name == "generator").unwrap();
        match read.name.as_str() {
            "spans" => (spec.plan)(&example(&spec.about), &self.context()).map_err(|faults| faults[0].clone()),
            name => Err(Fault::new("/name", format!("there is no stream `{name}`"), "")),
        }
    }

    fn table(&self, _: &weir_component::streams::ReadTable) -> Result<Arc<dyn PlannedSource>, Fault> {
        Err(Fault::new("", "there are no tables", ""))
    }

    fn sink(&self, write: &WriteStream) -> Result<Arc<dyn PlannedSink>, Fault> {
        let spec = SINKS.iter().find(|spec| spec.about.name == "discard").unwrap();
        match write.name.as_str() {
            "slow_checkouts" => {
                (spec.plan)(&json!({}), &write.key, &self.context()).map_err(|faults| faults[0].clone())
            }
            name => Err(Fault::new("/name", format!("`{name}` is taken"), "")),
        }
    }
}

/// A world in which the examples can run.
fn world() -> World {
    let disk = SimDisk::new();
    let clock = ManualClock::new(Timestamp(1_700_000_000_000_000_000));
    disk.create_dir_all(Path::new("/d/in")).unwrap();
    for name in ["a.ndjson", "b.ndjson"] {
        let path = Path::new("/d/in").join(name);
        disk.create(&path).unwrap();
        let line = |n: usize| match n % 1000 {
            7 => "no row\n".to_owned(),
            _ => format!("{{\"time\":{},\"path\":\"/{n}\",\"status\":{}}}\n", 1_700_000_000_000_usize + n, n % 600),
        };
        disk.poke(&path, (0..20_000).map(line).collect::<String>().as_bytes()).unwrap();
    }
    let context = PlanContext {
        tenant: None,
        checkpoint_interval: std::time::Duration::from_secs(10),
        directory: "/d".into(),
        pipeline: "contract".to_owned(),
        disk: Arc::clone(&disk) as Arc<dyn Disk>,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        streams: Some(Arc::new(FakeStreams { disk: Arc::clone(&disk), clock: Arc::clone(&clock) })),
    };
    World { disk, clock, context }
}

fn abouts() -> impl Iterator<Item = (&'static str, &'static About)> {
    SOURCES.iter().map(|spec| ("source", &spec.about)).chain(SINKS.iter().map(|spec| ("sink", &spec.about)))
}

/// The example as it is read from a document, checked against the schema.
fn example(about: &About) -> Json {
    let shape = check::Schema { root: shape(about), noun: "an example", unsuggested: &[] };
    let mut problems = Vec::new();
    let checked = Schema::check(&shape, &Syntax::Yaml.parse("example", about.example), &mut problems);
    assert_eq!(problems, [], "{}", about.name);
    Json::Object(checked.value)
}

fn shape(about: &About) -> Shape {
    weir_document::shape::of_schema((about.schema)().as_value())
}

#[test]
fn names_and_summaries_have_their_form() {
    let mut names = BTreeSet::new();
    for (kind, about) in abouts() {
        let name = about.name;
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') && !name.is_empty(), "{name}");
        assert!(about.summary.ends_with('.') && about.summary.chars().next().is_some_and(char::is_uppercase), "{name}");
        assert!(names.insert((kind, name)), "two {kind}s are called {name}");
    }
    for kind in ["source", "sink"] {
        let of_kind: Vec<&str> = abouts().filter(|(other, _)| *other == kind).map(|(_, about)| about.name).collect();
        assert!(of_kind.is_sorted(), "{of_kind:?}");
    }
}

/// Every setting, however deep, says what it is; and every word of a choice.
#[test]
fn every_setting_is_documented() {
    for (kind, about) in abouts() {
        let schema = (about.schema)();
        assert_eq!(
            schema.get("additionalProperties"),
            Some(&Json::Bool(false)),
            "{kind} {}: unknown fields",
            about.name
        );
        let text = schema.get("description").and_then(Json::as_str).unwrap_or_default();
        assert!(text.len() > 20, "{kind} {}: what it is", about.name);
        documented(&shape(about), about.name);
    }
}

fn documented(shape: &Shape, at: &str) {
    match shape {
        Shape::Section(fields) => fields.iter().for_each(|field| documented_field(field, at)),
        Shape::Tagged { tags, others, .. } => tags.iter().chain(others).for_each(|field| documented_field(field, at)),
        Shape::List(inner) => documented(inner, at),
        Shape::Map { values, names } => {
            assert!(matches!(names, Names::Any), "{at}");
            documented(values, at);
        }
        Shape::Either(shapes) => shapes.iter().for_each(|shape| documented(shape, at)),
        // The words of a type are told of where the setting is.
        Shape::Choice(words) if !at.ends_with("schema") => {
            words.iter().for_each(|(word, doc)| assert!(!doc.is_empty(), "{at}: what `{word}` means"));
        }
        _ => {}
    }
}

fn documented_field(field: &weir_document::shape::Field, at: &str) {
    let at = format!("{at}.{}", field.name);
    assert!(field.doc.len() > 10 && field.doc.ends_with('.'), "{at}: `{}`", field.doc);
    documented(&field.shape, &at);
}

fn plan_any(kind: &str, name: &str, config: &Json, context: &PlanContext) -> Result<(), Vec<Fault>> {
    if kind == "source" {
        let spec = SOURCES.iter().find(|spec| spec.about.name == name).unwrap();
        (spec.plan)(config, context).map(|_| ())
    } else {
        let spec = SINKS.iter().find(|spec| spec.about.name == name).unwrap();
        (spec.plan)(config, &[], context).map(|_| ())
    }
}

#[test]
fn examples_are_planned_and_unknown_fields_are_not() {
    for (kind, about) in abouts() {
        let world = world();
        let config = example(about);
        plan_any(kind, about.name, &config, &world.context).unwrap();
        let mut unknown = config.clone();
        unknown["no_such_setting"] = json!(1);
        let faults = plan_any(kind, about.name, &unknown, &world.context).unwrap_err();
        assert!(faults[0].message.contains("no_such_setting"), "{kind} {}: {faults:?}", about.name);
        // What is no configuration at all is a fault too, and never a panic.
        for nonsense in [json!([]), json!("x"), json!({ "path": 1, "format": {}, "columns": [], "rate": -1 })] {
            assert!(plan_any(kind, about.name, &nonsense, &world.context).is_err(), "{kind} {}", about.name);
        }
    }
}

/// A whole number in a document stays one on its way into a configuration.
#[test]
fn whole_numbers_are_made_up_where_whole_numbers_are_asked_for() {
    let spec = SOURCES.iter().find(|spec| spec.about.name == "generator").unwrap();
    let plan = (spec.plan)(&example(&spec.about), &world().context).unwrap();
    assert_eq!(plan.schema().field_with_name("user").unwrap().data_type(), &arrow::datatypes::DataType::Int64);
}

#[test]
fn a_check_that_declares_its_columns_touches_no_file() {
    for (kind, about) in abouts() {
        let world = world();
        let before = world.disk.operations();
        plan_any(kind, about.name, &example(about), &world.context).unwrap();
        assert_eq!(world.disk.operations(), before, "{kind} {}", about.name);
    }
}

#[test]
fn sinks_keep_what_they_promise_of_delivery_and_access() {
    let rows = RecordBatch::try_from_iter([("n", Arc::new(arrow::array::Int64Array::from(vec![1])) as _)]).unwrap();
    // The console prints where somebody would read it, and what sends to others is tried with them.
    for spec in SINKS.iter().filter(|spec| spec.about.name != "console" && !spec.about.access.connects) {
        let world = world();
        let before = world.disk.operations();
        let plan = (spec.plan)(&example(&spec.about), &[], &world.context).unwrap();
        assert_eq!(plan.delivery(), spec.delivery, "{}", spec.about.name);
        assert!(!plan.describe().is_empty());
        let mut sink = ready(plan.open(rows.schema(), Opening { generation: 1, last: None })).unwrap();
        for epoch in 1..4 {
            ready(sink.write(&rows)).unwrap();
            let receipt = ready(sink.prepare(epoch)).unwrap();
            ready(sink.commit(epoch, &receipt)).unwrap();
            ready(sink.commit(epoch, &receipt)).unwrap();
        }
        assert_eq!(world.disk.operations() != before, spec.about.access.files, "{}: access", spec.about.name);
    }
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits for something"),
    }
}

/// Rows and rejects up to so many batches, and where the source then stood.
#[derive(PartialEq, Debug)]
struct Taken {
    rows: RecordBatch,
    rejects: Vec<String>,
    position: SourcePosition,
}

const BATCHES: usize = 4;

/// Takes batches; each `next` is dropped after `polls` polls if it has not given anything, and asked
/// again.
fn take(source: &mut dyn Source, clock: &ManualClock, schema: &arrow::datatypes::SchemaRef, polls: usize) -> Taken {
    let (mut batches, mut rejects) = (Vec::new(), Vec::new());
    let mut idle = 0;
    while batches.len() < BATCHES && idle < 10_000 {
        let mut given = None;
        {
            let mut next = std::pin::pin!(source.next(None));
            for _ in 0..polls {
                if let Poll::Ready(value) = next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    given = Some(value.unwrap());
                    break;
                }
            }
        }
        match given {
            Some(Next::Rows(rows)) => {
                assert_eq!(&rows.rows.schema(), schema);
                rejects.extend(rows.rejects.into_iter().map(|reject| format!("{} {}", reject.place, reject.message)));
                batches.push(rows.rows);
            }
            Some(Next::Nothing(wait)) => {
                clock.advance(wait.max(Duration::from_millis(1)));
                idle += 1;
            }
            Some(Next::Time(..)) => {}
            Some(Next::Done) => break,
            None => idle += 1,
        }
    }
    Taken { rows: concat_batches(schema, &batches).unwrap(), rejects, position: source.position() }
}

#[test]
fn a_source_may_be_dropped_at_any_await_and_opened_at_any_position() {
    for spec in SOURCES {
        let open = |position: Option<SourcePosition>| {
            let world = world();
            let plan = (spec.plan)(&example(&spec.about), &world.context).unwrap();
            assert!(!plan.describe().is_empty());
            (ready(plan.open(position)).unwrap(), world, plan.schema())
        };
        let (mut source, world, schema) = open(None);
        let whole = take(source.as_mut(), &world.clock, &schema, usize::MAX);
        assert!(whole.rows.num_rows() > 0, "{}", spec.about.name);
        for polls in 1..4 {
            let (mut source, world, schema) = open(None);
            assert_eq!(take(source.as_mut(), &world.clock, &schema, polls), whole, "{}", spec.about.name);
        }
        // From where it stood the same comes as if it had gone on.
        let further = take(source.as_mut(), &world.clock, &schema, usize::MAX);
        let (mut again, world, schema) = open(Some(whole.position.clone()));
        assert_eq!(again.position(), whole.position, "{}", spec.about.name);
        let from_there = take(again.as_mut(), &world.clock, &schema, usize::MAX);
        let common = further.rows.num_rows().min(from_there.rows.num_rows());
        assert_eq!(further.rows.slice(0, common), from_there.rows.slice(0, common), "{}", spec.about.name);
    }
}

#[test]
fn an_empty_configuration_is_told_what_it_lacks() {
    for (kind, about) in abouts() {
        let world = world();
        let needs = !shape(about).fields().iter().all(|field| !field.required);
        let result = plan_any(kind, about.name, &Json::Object(Map::new()), &world.context);
        assert_eq!(result.is_err(), needs, "{kind} {}: {result:?}", about.name);
    }
}
