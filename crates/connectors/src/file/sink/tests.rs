#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;
mod place;
mod taken;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, Int64Array, StringArray, StructArray, TimestampNanosecondArray};
use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema};
use serde_json::json;
use weir_base::Timestamp;
use weir_base::clock::ManualClock;
use weir_component::sink::Receipt;
use weir_data::streams::timestamp_type;
use weir_testkit::sim_disk::SimDisk;

use super::*;
use crate::ready as run;

fn clock() -> Arc<ManualClock> {
    ManualClock::new(Timestamp(1_700_000_000_000_000_000))
}

fn planned(disk: &Arc<SimDisk>, clock: &Arc<ManualClock>, config: &Json) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
    let context = PlanContext {
        tenant: None,
        checkpoint_interval: std::time::Duration::from_secs(10),
        directory: "/d".into(),
        pipeline: "test".to_owned(),
        disk: Arc::clone(disk) as Arc<dyn Disk>,
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        streams: None,
    };
    plan(config, &[], &context)
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)]))
}

/// Rows `from..to`, told apart by their numbers.
fn rows(from: i64, to: i64) -> RecordBatch {
    let n = Int64Array::from_iter_values(from..to);
    let t = StringArray::from_iter_values((from..to).map(|n| format!("row {n}, \"{}\"", "x".repeat(n as usize % 40))));
    RecordBatch::try_new(schema(), vec![Arc::new(n), Arc::new(t)]).unwrap()
}

/// The numbers of the rows of a file, or what is wrong with it.
fn numbers(format: &str, bytes: &[u8]) -> Result<Vec<i64>, String> {
    if format == "parquet" {
        let reader = ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
            bytes::Bytes::copy_from_slice(bytes),
        )
        .and_then(|builder| builder.build())
        .map_err(|error| error.to_string())?;
        let mut numbers = Vec::new();
        for batch in reader {
            let batch = batch.map_err(|error| error.to_string())?;
            numbers.extend(batch.column(0).as_primitive::<Int64Type>().values());
            assert_eq!(batch.column(0).len(), batch.column(1).len());
        }
        return Ok(numbers);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let lines = text.lines();
    if format == "csv" {
        let mut lines = lines;
        if lines.next() != Some("n,t") {
            return Err("no header".to_owned());
        }
        return lines
            .map(|line| line.split(',').next().and_then(|n| n.parse().ok()).ok_or_else(|| line.to_owned()))
            .collect();
    }
    let number = |line: &str| serde_json::from_str::<Json>(line).ok()?.get("n")?.as_i64();
    lines.map(|line| number(line).ok_or_else(|| line.to_owned())).collect()
}

/// The numbers in all files that can be seen, in the order of their names.
fn visible(disk: &SimDisk, format: &str) -> Result<Vec<i64>, String> {
    let mut all = Vec::new();
    for path in disk.files_under(Path::new("/d/out")) {
        if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            let bytes = disk.peek(&path).unwrap();
            all.extend(numbers(format, &bytes).map_err(|error| format!("{}: {error}", path.display()))?);
        }
    }
    Ok(all)
}

fn names(disk: &SimDisk) -> Vec<String> {
    let names = disk.files_under(Path::new("/d/out")).into_iter();
    names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

fn start(disk: &Arc<SimDisk>, config: &Json) -> Result<Box<dyn Sink>, SinkError> {
    run(planned(disk, &clock(), config).unwrap().open(schema(), Opening { generation: 1, last: None }))
}

fn epoch(sink: &mut Box<dyn Sink>, epoch: u64, batches: &[RecordBatch]) -> Receipt {
    for batch in batches {
        run(sink.write(batch)).unwrap();
    }
    let receipt = run(sink.prepare(epoch)).unwrap();
    // As it is in a checkpoint.
    serde_json::from_str(&serde_json::to_string(&receipt).unwrap()).unwrap()
}

#[test]
fn rows_appear_when_their_epoch_is_committed() {
    for format in ["ndjson", "csv", "parquet"] {
        let disk = SimDisk::new();
        let config = json!({ "path": format!("out/x.{format}"), "format": format });
        let mut sink = start(&disk, &config).unwrap();
        let first = epoch(&mut sink, 1, &[rows(0, 3), rows(3, 5)]);
        assert_eq!(visible(&disk, format), Ok(vec![]), "{format}");
        run(sink.commit(1, &first)).unwrap();
        assert_eq!(visible(&disk, format), Ok((0..5).collect()));
        for n in 2..8_i64 {
            let receipt = epoch(&mut sink, n as u64, &[rows(n * 5 - 5, n * 5)]);
            run(sink.commit(n as u64, &receipt)).unwrap();
            run(sink.commit(n as u64, &receipt)).unwrap();
            assert_eq!(visible(&disk, format), Ok((0..n * 5).collect()), "{format} {n}");
        }
        let nothing = epoch(&mut sink, 8, &[]);
        run(sink.commit(8, &nothing)).unwrap();
        // The file, its version before, and the lock.
        assert_eq!(names(&disk).len(), 3, "{:?}", names(&disk));
        drop(sink);
        let opening = Opening { generation: 2, last: Some((8, nothing)) };
        let mut sink = run(planned(&disk, &clock(), &config).unwrap().open(schema(), opening)).unwrap();
        assert_eq!(names(&disk).len(), 2, "{:?}", names(&disk));
        let receipt = epoch(&mut sink, 9, &[rows(35, 36)]);
        run(sink.commit(9, &receipt)).unwrap();
        assert_eq!(visible(&disk, format), Ok((0..36).collect()));
    }
}

#[test]
fn a_pipeline_without_results_has_a_file_without_rows() {
    for format in ["ndjson", "csv", "parquet"] {
        let disk = SimDisk::new();
        let mut sink = start(&disk, &json!({ "path": format!("out/x.{format}"), "format": format })).unwrap();
        for n in 1..4 {
            let receipt = epoch(&mut sink, n, &[]);
            run(sink.commit(n, &receipt)).unwrap();
        }
        assert_eq!(numbers(format, &disk.peek(Path::new(&format!("/d/out/x.{format}"))).unwrap()), Ok(vec![]));
        let receipt = epoch(&mut sink, 4, &[rows(0, 2)]);
        run(sink.commit(4, &receipt)).unwrap();
        assert_eq!(visible(&disk, format), Ok(vec![0, 1]));
    }
}

#[test]
fn files_are_rolled_by_size_and_time() {
    for format in ["ndjson", "csv", "parquet"] {
        let disk = SimDisk::new();
        let clock = clock();
        let config =
            json!({ "path": format!("out/x.{format}"), "format": format, "roll": { "bytes": "2KiB", "every": "1h" } });
        let plan = planned(&disk, &clock, &config).unwrap();
        let mut sink = run(plan.open(schema(), Opening { generation: 1, last: None })).unwrap();
        // More than one file in an epoch.
        let batches: Vec<RecordBatch> = (0..30).map(|n| rows(n * 10, n * 10 + 10)).collect();
        let receipt = epoch(&mut sink, 1, &batches);
        run(sink.commit(1, &receipt)).unwrap();
        assert_eq!(visible(&disk, format), Ok((0..300).collect()));
        let by_size = names(&disk).into_iter().filter(|name| name.starts_with("x-0000")).count();
        assert!(by_size > 2, "{format} {by_size}");
        clock.advance(Duration::from_secs(1800));
        let receipt = epoch(&mut sink, 2, &[rows(300, 301)]);
        run(sink.commit(2, &receipt)).unwrap();
        let after_half = names(&disk).iter().filter(|name| name.starts_with('x')).count();
        clock.advance(Duration::from_secs(3601));
        let receipt = epoch(&mut sink, 3, &[rows(301, 302)]);
        run(sink.commit(3, &receipt)).unwrap();
        assert_eq!(names(&disk).iter().filter(|name| name.starts_with('x')).count(), after_half + 1);
        // A rolled file may be taken away, the last one too.
        for name in names(&disk).iter().filter(|name| name.starts_with('x')) {
            disk.vanish(&Path::new("/d/out").join(name)).unwrap();
        }
        drop(sink);
        let mut sink = run(plan.open(schema(), Opening { generation: 2, last: Some((3, receipt)) })).unwrap();
        let receipt = epoch(&mut sink, 4, &[rows(302, 303)]);
        run(sink.commit(4, &receipt)).unwrap();
        assert_eq!(visible(&disk, format), Ok(vec![302]));
        assert!(names(&disk).contains(&format!("x-{:06}.{format}", after_half + 2)), "{:?}", names(&disk));
    }
}

#[test]
fn what_is_there_is_refused_continued_or_replaced() {
    for format in ["ndjson", "csv", "parquet"] {
        let before = SimDisk::new();
        let config =
            |existing: &str| json!({ "path": format!("out/x.{format}"), "format": format, "existing": existing });
        let mut sink = start(&before, &config("refuse")).unwrap();
        let receipt = epoch(&mut sink, 1, &[rows(0, 2)]);
        run(sink.commit(1, &receipt)).unwrap();
        drop(sink);

        let error = start(&before.fork(), &config("refuse")).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Conflict);
        assert!(error.message.contains("exists already") && error.message.contains("`existing: append`"), "{error}");
        for (existing, expected) in [("append", vec![0, 1, 7]), ("replace", vec![7])] {
            let disk = before.fork();
            let mut sink = start(&disk, &config(existing)).unwrap();
            assert_eq!(visible(&disk, format), Ok(vec![0, 1]), "{format} {existing}");
            let receipt = epoch(&mut sink, 1, &[rows(7, 8)]);
            run(sink.commit(1, &receipt)).unwrap();
            assert_eq!(visible(&disk, format), Ok(expected), "{format} {existing}");
        }
    }
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d/out")).unwrap();
    disk.create(Path::new("/d/out/x.csv")).unwrap();
    for (bytes, config, expected) in [
        (&b"n,t\n1"[..], json!({ "format": "csv" }), "its last line has no end"),
        (&b"n,u\n1,2\n"[..], json!({ "format": "csv" }), "its first line does not name the same columns"),
        (&b"PAR1 no PAR1"[..], json!({ "format": "parquet" }), "cannot read /d/out/x.csv"),
    ] {
        disk.poke(Path::new("/d/out/x.csv"), bytes).unwrap();
        let mut config = config;
        config["path"] = json!("out/x.csv");
        config["existing"] = json!("append");
        let error = start(&disk, &config).err().unwrap();
        assert!(error.message.contains(expected), "{error}");
    }
    // Rolled files: all of them are replaced, or the numbers go on.
    for (existing, expected) in [("append", "x-000008.csv"), ("replace", "x-000001.csv")] {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d/out")).unwrap();
        for name in ["x-000001.csv", "x-000007.csv", "x-y.csv", "x.csv"] {
            disk.create(&Path::new("/d/out").join(name)).unwrap();
        }
        let config = json!({ "path": "out/x.csv", "format": "csv", "existing": existing, "roll": { "every": "1h" } });
        let mut sink = start(&disk, &config).unwrap();
        let receipt = epoch(&mut sink, 1, &[rows(7, 8)]);
        run(sink.commit(1, &receipt)).unwrap();
        run(sink.commit(1, &receipt)).unwrap();
        assert!(names(&disk).contains(&expected.to_owned()), "{:?}", names(&disk));
        assert_eq!(names(&disk).contains(&"x-000007.csv".to_owned()), existing == "append");
        assert!(names(&disk).contains(&"x-y.csv".to_owned()), "that was never one of its files");
    }
}

#[test]
fn a_file_that_was_changed_meanwhile_is_refused() {
    let disk = SimDisk::new();
    let config = json!({ "path": "out/x.ndjson", "format": "ndjson" });
    let mut sink = start(&disk, &config).unwrap();
    let first = epoch(&mut sink, 1, &[rows(0, 2)]);
    run(sink.commit(1, &first)).unwrap();
    let second = start(&disk, &config).err().unwrap();
    assert_eq!(second.kind, ErrorKind::Transient, "{second}");
    assert!(second.message.contains("being written by another"), "{second}");
    let prepared = epoch(&mut sink, 2, &[rows(2, 4)]);
    drop(sink);
    let path = Path::new("/d/out/x.ndjson");
    let good = disk.peek(path).unwrap();
    let open = |last: &Receipt| {
        let opening = Opening { generation: 2, last: Some((2, last.clone())) };
        run(planned(&disk, &clock(), &config).unwrap().open(schema(), opening)).map(|_| ())
    };
    // With less it may be on its way back; with more it was somebody else.
    let more = [&good[..], b"\n"].concat();
    for (bytes, kind, expected) in [
        (&good[1..], ErrorKind::Transient, "it is waited for"),
        (b"", ErrorKind::Transient, "it is waited for"),
        (&more, ErrorKind::Conflict, "was changed by something else"),
    ] {
        disk.poke(path, bytes).unwrap();
        for receipt in [&first, &prepared] {
            let error = open(receipt).unwrap_err();
            assert_eq!(error.kind, kind);
            assert!(error.message.contains(expected), "{error}");
        }
    }
    disk.vanish(path).unwrap();
    assert!(open(&prepared).unwrap_err().message.contains("is gone"));
    // A damaged stage is never made visible.
    let disk_before = disk.fork();
    disk_before.create(path).unwrap();
    disk_before.poke(path, &good).unwrap();
    let stage = names(&disk_before).into_iter().find(|name| name.contains("-s2")).unwrap();
    let stage = Path::new("/d/out").join(stage);
    let mut bytes = disk_before.peek(&stage).unwrap();
    bytes[3] ^= 1;
    disk_before.poke(&stage, &bytes).unwrap();
    let opening = Opening { generation: 2, last: Some((2, prepared)) };
    let error = run(planned(&disk_before, &clock(), &config).unwrap().open(schema(), opening)).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
    assert_eq!(visible(&disk_before, "ndjson"), Ok(vec![0, 1]));
}

/// The disk of this machine, with somebody who reads the file by its name all the time.
#[test]
fn readers_meet_whole_lines_on_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out/x.ndjson");
    let context = PlanContext {
        tenant: None,
        checkpoint_interval: std::time::Duration::from_secs(10),
        directory: folder.path().to_owned(),
        pipeline: "test".to_owned(),
        disk: weir_base::disk::RealDisk::new(),
        clock: clock(),
        streams: None,
    };
    let plan = plan(&json!({ "path": "out/x.ndjson", "format": "ndjson" }), &[], &context).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut most = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let Ok(bytes) = std::fs::read(&path) else { continue };
                let seen = numbers("ndjson", &bytes).unwrap();
                assert_eq!(seen, (0..seen.len() as i64).collect::<Vec<_>>());
                assert!(seen.len() >= most && seen.len().is_multiple_of(50), "{} rows", seen.len());
                most = seen.len();
            }
        });
        let mut last = None;
        for generation in 1..4 {
            let mut sink = run(plan.open(schema(), Opening { generation, last: last.clone() })).unwrap();
            for _ in 0..10 {
                let number = last.as_ref().map_or(1, |(number, _)| number + 1);
                let first = (number as i64 - 1) * 50;
                let receipt = epoch(&mut sink, number, &[rows(first, first + 20), rows(first + 20, first + 50)]);
                run(sink.commit(number, &receipt)).unwrap();
                last = Some((number, receipt));
            }
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        reader.join().unwrap();
    });
    assert_eq!(numbers("ndjson", &std::fs::read(&path).unwrap()).unwrap().len(), 1500);
}

#[test]
fn values_are_written_as_answers_are() {
    let window: Fields =
        vec![Field::new("start", timestamp_type(), true), Field::new("end", timestamp_type(), true)].into();
    let time = |value: i64| Arc::new(TimestampNanosecondArray::from(vec![value]).with_timezone("UTC")) as ArrayRef;
    let minute = 60_000_000_000;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("window", Arc::new(StructArray::new(window, vec![time(0), time(minute)], None))),
        ("p95", Arc::new(Float64Array::from(vec![f64::NAN]))),
        ("at", time(1_700_000_000_123_000_000)),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let written = |format: &str| {
        let disk = SimDisk::new();
        let plan = planned(&disk, &clock(), &json!({ "path": "out/x", "format": format })).unwrap();
        let mut sink = run(plan.open(batch.schema(), Opening { generation: 1, last: None })).unwrap();
        let receipt = epoch(&mut sink, 1, std::slice::from_ref(&batch));
        run(sink.commit(1, &receipt)).unwrap();
        String::from_utf8(disk.peek(Path::new("/d/out/x")).unwrap()).unwrap()
    };
    assert_eq!(
        written("ndjson"),
        "{\"window\":{\"start\":\"1970-01-01T00:00:00Z\",\"end\":\"1970-01-01T00:01:00Z\"},\"p95\":null,\"at\":\"2023-11-14T22:13:20.123Z\"}\n"
    );
    assert_eq!(
        written("csv"),
        "window,p95,at\n\"{\"\"start\"\":\"\"1970-01-01T00:00:00Z\"\",\"\"end\"\":\"\"1970-01-01T00:01:00Z\"\"}\",,2023-11-14T22:13:20.123Z\n"
    );
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_at_once() {
    let disk = SimDisk::new();
    for (config, expected) in [
        (
            json!({ "path": "out/", "format": "ndjson", "header": false, "roll": {} }),
            vec![
                "/path: `out/` is not the name of a file",
                "/header: only csv has a header",
                "/roll: it does not say when",
            ],
        ),
        (
            json!({ "path": "out/*.csv", "format": "csv", "delimiter": "", "roll": { "bytes": 7, "every": "0s" } }),
            vec![
                "/path: a file that is written has one name, not a pattern",
                "/delimiter: `` cannot separate cells",
                "/roll/bytes: less than 1KiB",
                "/roll/every: no time at all",
            ],
        ),
        (
            json!({ "path": "x", "format": "csv", "mode": 1 }),
            vec![": unknown field `mode`, expected one of `path`, `format`, `roll`, `existing`, `header`, `delimiter`"],
        ),
    ] {
        let faults = planned(&disk, &clock(), &config).err().unwrap();
        let told: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect();
        assert_eq!(told, expected);
    }
    assert_eq!(disk.operations()[0], 0, "a check touches nothing");
    let twice = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true); 2]));
    let plan = planned(&disk, &clock(), &json!({ "path": "x", "format": "csv" })).unwrap();
    let error = run(plan.open(twice, Opening { generation: 1, last: None })).err().unwrap();
    assert_eq!(error.message, "there are two columns `n`, and x tells them by name");
}
