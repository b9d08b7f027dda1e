use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use weir_base::{ErrorKind, Kinded};
use weir_log::{
    Append, Appended, Durability, IdempotencyKey, Log, LogError, LogOptions, PartOutcome, ProducerSequence,
};
use weir_testkit::sim_disk::SimDisk;

use crate::harness::{Keeper, append, open, part, rows_of, segments, small_options, tenant, try_open, try_open_with};

#[test]
fn rows_are_published_once_durable_and_found_again() {
    let bench = open(&SimDisk::new());
    let appended = bench.append(append("a", vec![part("s", &[("1", 1), ("2", 2)]), part("t", &[("", 3)])])).unwrap();
    assert_eq!(appended.parts.iter().map(|part| part.stored).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(appended.end, bench.log.end(0));
    let rows = bench.keeper.rows();
    assert_eq!(rows.len(), 3);
    let end = bench.log.end(0);
    let bench = bench.reopen();
    assert_eq!(bench.keeper.rows(), rows);
    assert!(bench.log.end(0) >= end, "the end never goes back");
    assert_eq!(*bench.keeper.damages.lock().unwrap(), []);
}

#[test]
fn many_segments_are_replayed_in_order_and_records_can_be_read_back() {
    let mut bench = open(&SimDisk::new());
    for value in 0..200 {
        bench.append(append(["a", "b"][value % 2], vec![part("s", &[(&format!("{value}"), value as i64)])])).unwrap();
        if value % 67 == 66 {
            bench = bench.reopen();
        }
    }
    assert!(segments(&bench.disk).len() > 5);
    let bench = bench.reopen();
    let rows = bench.keeper.rows();
    assert_eq!(rows.iter().map(|row| row.value).collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
    let positions = bench.keeper.positions.lock().unwrap().clone();
    assert!(positions.is_sorted());
    let read: Vec<_> = positions
        .iter()
        .flat_map(|position| {
            let record = bench.log.read(*position).unwrap();
            rows_of(record.tenant.as_str(), record.stream.as_str(), &record.batch)
        })
        .collect();
    assert_eq!(read, rows);
    assert!(matches!(bench.log.read(bench.log.end(0)), Err(LogError::Gone { .. })));
}

#[test]
fn closed_segments_nobody_wants_are_not_read_and_can_still_be_read_back() {
    let bench = open(&SimDisk::new());
    for value in 0..100 {
        bench.append(append("a", vec![part("s", &[(&format!("{value}"), value)])])).unwrap();
    }
    let positions = bench.keeper.positions.lock().unwrap().clone();
    let end = bench.log.end(0);
    bench.log.close();
    let second = try_open_with(&bench.disk, &bench.clock, small_options(), end.offset).unwrap();
    assert_eq!(second.keeper.rows(), []);
    let record = second.log.read(positions[0]).unwrap();
    assert_eq!(rows_of("a", "s", &record.batch)[0].value, 0);
}

#[test]
fn ids_are_stored_once_per_tenant_and_stream() {
    let mut bench = open(&SimDisk::new());
    let outcome =
        bench.append(append("a", vec![part("s", &[("x", 1), ("y", 2), ("x", 3), ("", 4), ("", 5)])])).unwrap();
    assert_eq!(outcome.parts, [PartOutcome { stored: 4, duplicates: vec![2] }]);
    for _ in 0..3 {
        let again = bench.append(append("a", vec![part("s", &[("y", 6), ("z", 7)])])).unwrap();
        assert!(again.parts[0].duplicates.contains(&0));
        bench = bench.reopen();
    }
    assert_eq!(bench.append(append("b", vec![part("s", &[("x", 8)])])).unwrap().parts[0].stored, 1);
    assert_eq!(bench.append(append("a", vec![part("t", &[("x", 9)])])).unwrap().parts[0].stored, 1);
}

#[test]
fn requests_of_one_commit_see_each_others_ids() {
    let bench = open(&SimDisk::new());
    let first = bench.log.append(append("a", vec![part("s", &[("x", 1)])]));
    let second = bench.log.append(append("a", vec![part("s", &[("x", 2), ("y", 3)])]));
    bench.log.step();
    assert_eq!(first.now().unwrap().unwrap().parts[0].stored, 1);
    assert_eq!(second.now().unwrap().unwrap().parts[0], PartOutcome { stored: 1, duplicates: vec![0] });
    assert_eq!(bench.log.stats().commits, 1);
}

#[test]
fn ids_outlive_memory_segments_and_merges_and_are_forgotten_after_the_window() {
    let options = || weir_log::LogOptions { retention: Duration::from_secs(60), ..small_options() };
    let clock = weir_base::clock::ManualClock::new(crate::harness::START);
    let disk = SimDisk::new();
    let mut bench = try_open_with(&disk, &clock, options(), 0).unwrap();
    let mut value = 0;
    for _ in 0..40 {
        let names: Vec<String> = (0..50).map(|at| format!("id-{}", value + at)).collect();
        let rows: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), value)).collect();
        assert_eq!(bench.append(append("a", vec![part("s", &rows)])).unwrap().parts[0].stored, 50);
        value += 50;
    }
    clock.advance(Duration::from_secs(7200));
    bench.log.release(bench.log.end(0));
    for _ in 0..4 {
        bench.rest();
    }
    assert!(bench.log.stats().segments <= 2, "{:?}", bench.log.stats());
    assert!(bench.log.stats().dedup_run_keys >= 1900, "{:?}", bench.log.stats());
    for round in 0..2 {
        for id in [0, 700, 1999] {
            let name = format!("id-{id}");
            let outcome = bench.append(append("a", vec![part("s", &[(&name, 1)])])).unwrap();
            assert_eq!(outcome.parts[0].stored, 0, "{name} in round {round}");
        }
        bench.log.close();
        bench = try_open_with(&disk, &clock, options(), u64::MAX).unwrap();
    }
    for _ in 0..30 {
        clock.advance(Duration::from_secs(3600));
        bench.rest();
    }
    assert_eq!(bench.append(append("a", vec![part("s", &[("id-0", 1)])])).unwrap().parts[0].stored, 1);
    assert_eq!(bench.log.stats().dedup_runs, 0);
}

#[test]
fn a_clock_that_is_days_ahead_at_the_start_forgets_no_ids() {
    for closed in [true, false] {
        let bench = open(&SimDisk::new());
        for value in 0..200 {
            bench.append(append("a", vec![part("s", &[(&format!("{value}"), value)])])).unwrap();
        }
        bench.rest();
        let mut disk = Arc::clone(&bench.disk);
        if closed {
            bench.log.close();
        } else {
            disk = disk.after_crash(&mut weir_testkit::sim_disk::Choices::seeded(1));
        }
        let ahead = crate::harness::START.plus(Duration::from_secs(10 * 24 * 3600));
        let clock = weir_base::clock::ManualClock::new(ahead);
        let bench = try_open_with(&disk, &clock, small_options(), u64::MAX).unwrap();
        for _ in 0..5 {
            clock.advance(Duration::from_secs(60));
            bench.log.step();
        }
        for id in ["0", "100", "199"] {
            let outcome = bench.append(append("a", vec![part("s", &[(id, 1)])])).unwrap();
            assert_eq!(outcome.parts[0].stored, 0, "{id}, closed: {closed}");
        }
        // Time that really passes still counts.
        for _ in 0..40 {
            clock.advance(Duration::from_secs(3600));
            bench.log.step();
        }
        assert_eq!(bench.append(append("a", vec![part("s", &[("0", 1)])])).unwrap().parts[0].stored, 1);
    }
}

#[test]
fn repeated_requests_store_nothing() {
    let keyed = |key: &str, value| Append {
        idempotency_key: Some(IdempotencyKey { key: key.as_bytes().to_vec(), body: value as u64 }),
        ..append("a", vec![part("s", &[("", value), ("", value)])])
    };
    let mut bench = open(&SimDisk::new());
    assert!(!bench.append(keyed("k", 1)).unwrap().repeated);
    let first = bench.log.append(keyed("l", 2));
    let second = bench.log.append(keyed("l", 2));
    bench.log.step();
    assert!(!first.now().unwrap().unwrap().repeated);
    let second = second.now().unwrap().unwrap();
    assert!(second.repeated);
    assert_eq!(second.parts, [PartOutcome { stored: 0, duplicates: vec![0, 1] }]);
    bench = bench.reopen();
    assert!(bench.append(keyed("k", 1)).unwrap().repeated);
    let other = Append { tenant: tenant("b"), ..keyed("k", 5) };
    assert!(!bench.append(other).unwrap().repeated, "keys of tenants do not meet");
}

/// Its rows would be lost without a word.
#[test]
fn a_key_of_another_request_is_refused() {
    let keyed = |key: &str, body: u64, value| Append {
        idempotency_key: Some(IdempotencyKey { key: key.as_bytes().to_vec(), body }),
        ..append("a", vec![part("s", &[("", value)])])
    };
    let is_refused = |answer: Result<Appended, LogError>| {
        let error = answer.unwrap_err();
        assert!(matches!(error, LogError::KeyReused), "{error}");
        assert_eq!(error.kind(), ErrorKind::Rejected);
    };
    let mut bench = open(&SimDisk::new());
    assert!(!bench.append(keyed("k", 1, 1)).unwrap().repeated);
    is_refused(bench.append(keyed("k", 2, 2)));
    assert!(bench.append(keyed("k", 1, 1)).unwrap().repeated);
    // In one commit, where the first is not durable yet.
    let first = bench.log.append(keyed("l", 1, 3));
    let second = bench.log.append(keyed("l", 2, 4));
    bench.log.step();
    assert!(!first.now().unwrap().unwrap().repeated);
    is_refused(second.now().unwrap());
    // Of another process, from the log and from what it keeps of ids.
    for _ in 0..2 {
        bench = bench.reopen();
        is_refused(bench.append(keyed("k", 2, 5)));
        assert!(bench.append(keyed("k", 1, 1)).unwrap().repeated);
        bench.rest();
    }
    // What was refused has taken nothing.
    assert!(!bench.append(keyed("m", 2, 6)).unwrap().repeated);
}

#[test]
fn producer_sequences_and_epochs() {
    let sequenced = |epoch, sequence| Append {
        producer: Some(ProducerSequence { producer: 7, epoch, sequence }),
        ..append("a", vec![part("s", &[("", 1)])])
    };
    let options = || LogOptions { retention: Duration::from_secs(60), ..small_options() };
    let clock = weir_base::clock::ManualClock::new(crate::harness::START);
    let disk = SimDisk::new();
    let mut bench = try_open_with(&disk, &clock, options(), u64::MAX).unwrap();
    for (epoch, sequence, repeated) in [(1, 5, false), (1, 5, true), (1, 4, true), (1, 9, false), (2, 1, false)] {
        assert_eq!(bench.append(sequenced(epoch, sequence)).unwrap().repeated, repeated, "{epoch} {sequence}");
    }
    let fenced = bench.append(sequenced(1, 100)).unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Conflict);
    // The last sequence outlives its segments.
    for value in 0..100 {
        bench.append(append("b", vec![part("s", &[(&format!("{value}"), value)])])).unwrap();
    }
    clock.advance(Duration::from_secs(7200));
    bench.log.release(bench.log.end(0));
    for _ in 0..4 {
        bench.rest();
    }
    assert!(bench.log.stats().oldest[0] > 0);
    for _ in 0..2 {
        bench.log.close();
        bench = try_open_with(&disk, &clock, options(), u64::MAX).unwrap();
        assert!(bench.append(sequenced(2, 1)).unwrap().repeated);
        assert_eq!(bench.append(sequenced(1, 1)).unwrap_err().kind(), ErrorKind::Conflict);
    }
}

#[test]
fn memory_durability_answers_before_the_write_and_says_what_was_decided() {
    let bench = open(&SimDisk::new());
    let appended = bench
        .append(Append { durability: Durability::Memory, ..append("a", vec![part("s", &[("x", 1), ("x", 2)])]) })
        .unwrap();
    assert_eq!(appended.parts[0], PartOutcome { stored: 1, duplicates: vec![1] });
    assert_eq!(appended.end, bench.log.end(0));
}

/// One row in the columns of the tests' stream, and one more column of the given name.
fn row_with_column(value: i64, name: &str) -> RecordBatch {
    let rows = crate::harness::batch(&[("", value)]);
    let mut fields: Vec<_> = rows.schema().fields().iter().map(Arc::clone).collect();
    fields.push(Arc::new(Field::new(name, DataType::Int64, true)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from(vec![value])));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[test]
fn the_sets_of_columns_of_a_stream_in_a_segment_are_bounded() {
    use arrow::array::{ArrayRef, AsArray, StringArray, TimestampNanosecondArray};
    let stream = weir_data::streams::stream("events").unwrap();
    let texts: Vec<usize> = (0..stream.schema.fields().len())
        .filter(|at| {
            let field = stream.schema.field(*at);
            *field.data_type() == DataType::Utf8 && field.is_nullable() && field.name() != "event_id"
        })
        .take(8)
        .collect();
    assert_eq!(texts.len(), 8);
    // Every number is another set of columns.
    let rows = |number: usize| {
        let time: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![number as i64]).with_timezone("UTC"));
        let text: ArrayRef = Arc::new(StringArray::from(vec![number.to_string()]));
        let columns = stream
            .schema
            .fields()
            .iter()
            .enumerate()
            .map(|(at, field)| match texts.iter().position(|text| *text == at) {
                Some(bit) => (number >> bit & 1 == 1).then(|| Arc::clone(&text)),
                None => matches!(field.name().as_str(), "time" | "received_at").then(|| Arc::clone(&time)),
            })
            .collect();
        weir_data::batch::sparse(&stream.schema, columns, 1).unwrap()
    };
    let options = LogOptions { segment_bytes: 16 << 20, ..small_options() };
    let keeper = Arc::new(Collector::default());
    let clock = weir_base::clock::ManualClock::new(crate::harness::START);
    let disk = SimDisk::new();
    let log =
        Log::open_without_threads(options, Arc::clone(&disk) as _, clock, vec![Arc::clone(&keeper) as _]).unwrap();
    for number in 0..256 {
        let mut append = append("a", vec![part("events", &[])]);
        append.parts[0].batch = rows(number);
        let answer = log.append(append);
        log.step();
        answer.now().unwrap().unwrap();
    }
    let records = keeper.0.lock().unwrap().clone();
    let mut column_sets = std::collections::HashSet::new();
    for (number, record) in records.iter().enumerate() {
        assert_eq!(record.batch, rows(number), "what is published stays as it came");
        let read = log.read(record.position).unwrap().batch;
        column_sets.insert(read.schema());
        assert_eq!(
            weir_data::batch::conform(&read, &stream.schema).unwrap(),
            weir_data::batch::conform(&record.batch, &stream.schema).unwrap()
        );
        for (bit, at) in texts.iter().enumerate().filter(|(bit, _)| number >> bit & 1 == 1) {
            let column = read.column_by_name(stream.schema.field(*at).name()).unwrap();
            assert_eq!(column.as_string::<i32>().value(0), number.to_string(), "bit {bit}");
        }
    }
    assert_eq!(column_sets.len(), 65);
    // What a set had before it became too many is still stored narrow.
    assert!(log.read(records[3].position).unwrap().batch.num_columns() < 8);
}

#[test]
fn no_schema_is_lost_when_there_are_many() {
    let options = || LogOptions { segment_bytes: 16 << 20, queue_bytes_max: 64 << 20, ..small_options() };
    let clock = weir_base::clock::ManualClock::new(crate::harness::START);
    let disk = SimDisk::new();
    let bench = try_open_with(&disk, &clock, options(), 0).unwrap();
    // Commits of three rows, so that the writer's cache of 4096 fills up in the middle of one.
    let mut wanted = Vec::new();
    for value in (0..4200).step_by(3) {
        let mut append = append("a", Vec::new());
        for value in value..value + 3 {
            let mut part = part("s", &[]);
            part.batch = row_with_column(value, &format!("column_{value}"));
            append.parts.push(part);
            wanted.push(value);
        }
        bench.append(append).unwrap();
    }
    let check = |bench: &crate::harness::Bench, positions: &[weir_log::Position]| {
        let read: Vec<i64> = positions
            .iter()
            .flat_map(|position| rows_of("a", "s", &bench.log.read(*position).unwrap().batch))
            .map(|row| row.value)
            .collect();
        assert_eq!(read, wanted);
    };
    let positions = bench.keeper.positions.lock().unwrap().clone();
    check(&bench, &positions);
    bench.log.close();
    drop(bench);
    // Nobody wants anything: the schemas come out of the footer.
    let bench = try_open_with(&disk, &clock, options(), u64::MAX).unwrap();
    check(&bench, &positions);
}

#[test]
fn known_streams_are_merged_into_one_record_a_commit() {
    let stream = weir_data::streams::stream("events").unwrap();
    let rows = |value: i64, name: Option<&str>| {
        use arrow::array::{ArrayRef, StringArray, TimestampNanosecondArray};
        let time: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![value]).with_timezone("UTC"));
        let columns = stream
            .schema
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                "time" | "received_at" => Some(Arc::clone(&time)),
                "name" => name.map(|name| Arc::new(StringArray::from(vec![name])) as ArrayRef),
                _ => None,
            })
            .collect();
        weir_data::batch::sparse(&stream.schema, columns, 1).unwrap()
    };
    let keeper = Arc::new(Collector::default());
    let log = Log::open_without_threads(
        small_options(),
        SimDisk::new(),
        weir_base::clock::ManualClock::new(crate::harness::START),
        vec![Arc::clone(&keeper) as _],
    )
    .unwrap();
    let answers: Vec<_> = (0..5)
        .map(|value| {
            let mut append = append("a", vec![part("s", &[])]);
            append.parts = vec![weir_log::AppendPart {
                stream: weir_base::StreamName::new("events").unwrap(),
                batch: rows(value, (value % 2 == 0).then_some("n")),
                id_column: Some("event_id"),
            }];
            log.append(append)
        })
        .collect();
    log.step();
    for answer in answers {
        assert_eq!(answer.now().unwrap().unwrap().parts[0].stored, 1);
    }
    let records = keeper.0.lock().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].batch.num_rows(), 5);
    assert_eq!(records[0].batch.num_columns(), 3);
}

#[derive(Default)]
struct Collector(std::sync::Mutex<Vec<weir_log::Record>>);

impl weir_log::Subscriber for Collector {
    fn wants(&self, _: &weir_base::TenantId, _: &weir_base::StreamName, _: weir_log::Position) -> bool {
        true
    }

    fn committed(&self, commit: &weir_log::Commit) {
        self.0.lock().unwrap().extend(commit.records.iter().cloned());
    }

    fn damaged(&self, _: &weir_log::Damage) {}
}

#[test]
fn only_one_can_open() {
    let bench = open(&SimDisk::new());
    let refused = try_open(&bench.disk, &bench.clock).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    bench.log.close();
    try_open(&bench.disk, &bench.clock).unwrap();
}

#[test]
fn what_is_too_large_is_refused_and_one_tenant_cannot_take_the_whole_queue() {
    let bench = open(&SimDisk::new());
    let large = "x".repeat(2 << 20);
    let error = bench.log.append(append("a", vec![part("s", &[(&large, 1)])])).now().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let half = "x".repeat(300 << 10);
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(bench.log.append(append("a", vec![part("s", &[(&half, 1)])])));
    }
    let refused = answers.pop().unwrap().now().unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Limit);
    let other = bench.log.append(append("b", vec![part("s", &[("x", 1)])]));
    bench.log.step();
    assert_eq!(other.now().unwrap().unwrap().parts[0].stored, 1);
    assert_eq!(answers.pop().unwrap().now().unwrap().unwrap().parts[0].stored, 1);
    assert_eq!(bench.log.stats().queue_bytes, 0);
}

#[test]
fn an_append_larger_than_a_segment_is_one_block() {
    let bench = open(&SimDisk::new());
    let names: Vec<String> = (0..2000).map(|at| format!("{at:x>40}")).collect();
    let rows: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    // A segment is made ahead, and is too small.
    bench.log.step();
    bench.append(append("a", vec![part("s", &[("", 1)])])).unwrap();
    bench.append(append("a", vec![part("s", &rows)])).unwrap();
    assert_eq!(bench.log.stats().commits, 2);
    let files = bench.disk.files_under(std::path::Path::new(crate::harness::DIR));
    let spares = files.iter().filter(|path| path.extension().is_some_and(|end| end == "tmp")).count();
    assert_eq!(spares, 1, "{files:?}");
    let bench = bench.reopen();
    assert_eq!(bench.keeper.rows().len(), 2001);
}

#[test]
fn an_idle_shard_writes_one_watermark() {
    let bench = open(&SimDisk::new());
    bench.append(append("a", vec![part("s", &[("x", 1)])])).unwrap();
    let end = bench.log.end(0).offset;
    for _ in 0..5 {
        bench.rest();
    }
    assert_eq!(bench.log.end(0).offset, end + 512);
}

#[test]
fn threads_on_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = || LogOptions { segment_bytes: 1 << 20, reserve_bytes: 1 << 20, ..LogOptions::new(dir.path()) };
    let keeper = Arc::new(Keeper::default());
    let log = Log::open(
        options(),
        weir_base::disk::RealDisk::new(),
        weir_base::clock::SystemClock::new(),
        vec![Arc::clone(&keeper) as _],
    )
    .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for value in 0..50 {
                    let id = format!("{thread}-{value}");
                    let append = append(&format!("t{thread}"), vec![part("s", &[(&id, value)])]);
                    assert_eq!(runtime.block_on(log.append(append)).unwrap().parts[0].stored, 1);
                }
            });
        }
    });
    let refused =
        Log::open(options(), weir_base::disk::RealDisk::new(), weir_base::clock::SystemClock::new(), Vec::new());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    log.close();
    assert_eq!(log.append(append("a", vec![])).now().unwrap().unwrap_err().kind(), ErrorKind::Transient);
    let again = Arc::new(Keeper::default());
    let log = Log::open(
        options(),
        weir_base::disk::RealDisk::new(),
        weir_base::clock::SystemClock::new(),
        vec![Arc::clone(&again) as _],
    )
    .unwrap();
    assert_eq!(again.rows(), keeper.rows());
    assert_eq!(again.rows().len(), 200);
    drop(log);
}
