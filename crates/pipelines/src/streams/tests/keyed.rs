//! Streams with a key: what is kept of revisions, what readers get of them, and who writes those of Weir's own.

use super::*;

/// What a pipeline gives a sink with a key.
fn revised(values: [i64; 3]) -> RecordBatch {
    let window = StructArray::try_from(vec![("start", times([START.0; 3])), ("end", times([START.0 + 60; 3]))]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("window", Arc::new(window.unwrap())),
        ("path", Arc::new(StringArray::from(vec!["/a", "/a", "/b"]))),
        ("v", Arc::new(Int64Array::from(values.to_vec()))),
        ("is_final", Arc::new(BooleanArray::from(vec![false, true, true]))),
        ("revision", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ("retracted", Arc::new(BooleanArray::from(vec![false, false, true]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[test]
fn a_stream_with_a_key_keeps_revisions_and_is_read_without() {
    let bench = Bench::new();
    let streams = bench.streams();
    let keyed = |key: &[&str]| WriteStream { key: key.iter().map(ToString::to_string).collect(), ..write("visits") };
    let rows = revised([10, 20, 30]);
    let plan = streams.sink(&keyed(&["window", "path"])).unwrap();
    assert_eq!(plan.check(&rows.schema()), []);
    assert_eq!(plan.describe(), "writes the stream visits, by window, path");
    let mut sink = ready(plan.open(rows.schema(), Opening { generation: 1, last: None })).unwrap();
    ready(sink.write_timed(&rows, &vec![START.0; 3].into())).unwrap();
    ready(sink.write_timed(&rows, &vec![START.0; 3].into())).unwrap();
    let receipt = ready(sink.prepare(1)).unwrap();
    ready(sink.commit(1, &receipt)).unwrap();
    // Time follows from the window, so it is part of the key; and of equal revisions the later row counts.
    let stream = bench.defined.0.get(&id("acme"), "visits").unwrap();
    assert_eq!(stream.key, ["window", "path", "time"]);
    let received: Vec<i64> = (0..6).map(|at| START.0 + at).collect();
    assert_eq!(bench.values("acme", "visits", "received_at"), received);
    assert_eq!(bench.values("acme", "visits", "began_at"), [START.0; 6]);
    // Another key is refused beforehand, and so is none.
    for key in [&["path"][..], &[]] {
        let faults = streams.sink(&keyed(key)).unwrap().check(&rows.schema());
        assert!(faults[0].message.contains("has the key [window, path, time], not"), "{faults:?}");
    }
    let others = bench.streams_of("acme", "others", Resume::Position);
    let all = |revisions| ReadStream { revisions, ..read("visits", StreamStart::Oldest) };
    let values = |read: &ReadStream| {
        let plan = others.source(read).unwrap();
        let mut source = ready(plan.open(None)).unwrap();
        let mut values: Vec<i64> = Vec::new();
        loop {
            let rows = match ready(source.next(None)).unwrap() {
                Next::Rows(rows) => rows,
                Next::Time(..) => continue,
                _ => break,
            };
            assert_eq!(rows.rows.schema().fields(), plan.schema().fields());
            assert_eq!(rows.arrived.unwrap().len(), rows.rows.num_rows());
            values.extend(rows.rows.column_by_name("v").unwrap().as_primitive::<Int64Type>().values());
        }
        (values, plan.schema().field_with_name("revision").is_ok())
    };
    assert_eq!(values(&all(Revisions::Final)), (vec![20, 20], false));
    let narrow = ReadStream { columns: vec!["v".to_owned()], ..all(Revisions::Final) };
    assert_eq!(values(&narrow), (vec![20, 20], false));
    assert_eq!(others.source(&narrow).unwrap().schema().fields().len(), 3, "time, received_at and v");
    let wrong = ReadStream { columns: vec!["pth".to_owned()], ..narrow };
    let fault = others.source(&wrong).err().unwrap();
    assert_eq!((fault.pointer.as_str(), fault.hint.as_str()), ("/columns/0", "did you mean `path`?"));
    assert_eq!(values(&all(Revisions::All)), (vec![10, 20, 30, 10, 20, 30], true));
}

#[test]
fn streams_of_weir_are_written_by_its_own_pipelines() {
    let bench = Bench::new();
    let write = |name: &str| WriteStream { key: vec!["time".to_owned(), "visitor".to_owned()], ..write(name) };
    let error = bench.streams().sink(&write("sessions")).err().unwrap();
    assert!(error.message.contains("`sessions` is a stream of Weir's own"), "{error:?}");
    let own =
        bench.streams_with(StreamsOptions { is_built_in: true, ..bench.options("acme", "sessions", Resume::Oldest) });
    let error = own.sink(&write("events")).err().unwrap();
    assert!(error.message.contains("`events` is a stream of Weir's own"), "{error:?}");
    let sink = own.sink(&write("sessions")).unwrap();
    let columns = |fields: Vec<Field>| Arc::new(Schema::new(fields));
    let time = Field::new("time", weir_data::streams::timestamp_type(), true);
    let visitor = Field::new("visitor", DataType::Utf8View, true);
    assert_eq!(sink.check(&columns(vec![time.clone(), visitor.clone()])), []);
    for (field, message) in [
        (Field::new("pages", DataType::Utf8, true), "is Utf8, and that of the stream `sessions` is Int64"),
        (Field::new("more", DataType::Utf8, true), "column `more` is none of the stream `sessions`"),
    ] {
        let faults = sink.check(&columns(vec![time.clone(), visitor.clone(), field]));
        assert!(faults[0].message.contains(message), "{faults:?}");
    }
}
