//! Readers give every row of their stream once, in order, from wherever they were: while it is written, over segments
//! and restarts; and where rows are gone they say so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use weir_base::clock::ManualClock;
use weir_base::{ErrorKind, Kinded, StreamName, Timestamp};
use weir_log::{Log, LogError, LogOptions, LogReader, Position, Read};
use weir_testkit::sim_disk::SimDisk;

use crate::harness::{Bench, DIR, START, append, open, part, rows_of, segments, small_options, tenant, try_open_with};

const STREAMS: [(&str, &str); 4] = [("a", "s"), ("a", "t"), ("b", "s"), ("c", "u")];

fn reader(log: &Log, (owner, stream): (&str, &str), position: Option<Position>) -> LogReader {
    log.reader(&tenant(owner), &StreamName::new(stream).unwrap(), position).unwrap()
}

/// Up to `records` records, and why there are not more.
fn take(reader: &mut LogReader, records: usize) -> (Vec<i64>, Result<bool, LogError>) {
    let mut values = Vec::new();
    let mut taken = 0;
    while taken < records {
        match reader.read() {
            Ok(Read::Record(record)) => {
                values.extend(rows_of("", "", &record.batch).into_iter().map(|row| row.value));
                taken += 1;
            }
            Ok(Read::More | Read::Lost(_)) => {}
            Ok(Read::Nothing) => return (values, Ok(true)),
            Err(error) => return (values, Err(error)),
        }
    }
    (values, Ok(false))
}

fn all(reader: &mut LogReader) -> Vec<i64> {
    let (values, end) = take(reader, usize::MAX);
    assert!(end.unwrap());
    values
}

#[derive(Clone, Debug)]
enum Act {
    /// Appends to these streams, made one commit or several.
    Append(Vec<(usize, usize)>, bool),
    /// The reader of that number reads so many records.
    Read(usize, usize),
    /// The reader of that number is made anew where it was.
    Again(usize),
    Reopen,
    Rest,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (proptest::collection::vec((0..STREAMS.len(), 1usize..4), 1..8), any::<bool>())
            .prop_map(|(parts, together)| Act::Append(parts, together)),
        4 => (0usize..8, 0usize..6).prop_map(|(reader, records)| Act::Read(reader, records)),
        2 => (0usize..8).prop_map(Act::Again),
        1 => Just(Act::Reopen),
        1 => Just(Act::Rest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two readers of each stream, one behind the other, over any history.
    #[test]
    fn every_row_comes_once_and_in_order(acts in proptest::collection::vec(act(), 1..80), recent in 0usize..3) {
        let clock = ManualClock::new(START);
        // Nothing, little, and all of it from memory.
        let options = || LogOptions { recent_bytes_max: [0, 4 << 10, 8 << 20][recent], ..small_options() };
        let mut bench = try_open_with(&SimDisk::new(), &clock, options(), 0).unwrap();
        let mut written: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        let mut readers: Vec<LogReader> = (0..8).map(|at| reader(&bench.log, STREAMS[at / 2], None)).collect();
        let mut read: Vec<Vec<i64>> = vec![Vec::new(); 8];
        let mut next = 0;
        for act in acts {
            match act {
                Act::Append(parts, together) => {
                    for (stream, count) in parts {
                        let values: Vec<i64> = (next..next + count as i64).collect();
                        next += count as i64;
                        let rows: Vec<(&str, i64)> = values.iter().map(|value| ("", *value)).collect();
                        let (owner, name) = STREAMS[stream];
                        drop(bench.log.append(append(owner, vec![part(name, &rows)])));
                        written.entry(stream).or_default().extend(values);
                        if !together {
                            bench.log.step();
                        }
                    }
                    bench.log.step();
                }
                Act::Read(at, records) => read[at].extend(take(&mut readers[at], records).0),
                Act::Again(at) => {
                    let position = readers[at].position();
                    readers[at] = reader(&bench.log, STREAMS[at / 2], Some(position));
                }
                Act::Rest => bench.rest(),
                Act::Reopen => {
                    let positions: Vec<Position> = readers.iter().map(LogReader::position).collect();
                    readers.clear();
                    bench.log.close();
                    bench = try_open_with(&bench.disk, &clock, options(), 0).unwrap();
                    readers = (0..8).map(|at| reader(&bench.log, STREAMS[at / 2], Some(positions[at]))).collect();
                }
            }
        }
        for (at, (reader, mut read)) in readers.iter_mut().zip(read).enumerate() {
            read.extend(all(reader));
            prop_assert_eq!(&read[..], written.get(&(at / 2)).map_or(&[][..], Vec::as_slice), "reader {}", at);
            prop_assert_eq!((reader.behind_bytes(), reader.behind_rows()), (0, Some(0)));
        }
    }

    /// Whatever is written over a part of any file: a prefix of the rows, and an error if they are not all.
    #[test]
    fn damage_is_told_and_never_passed(file in 0usize..100, at in 0usize..40_000, garbage in proptest::collection::vec(any::<u8>(), 1..700)) {
        let (disk, written) = sample();
        let files = segments(&disk);
        let path = &files[file % files.len()];
        let mut bytes = disk.peek(path).unwrap();
        let at = at % bytes.len().max(1);
        let end = (at + garbage.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&garbage[..end - at]);
        disk.poke(path, &bytes).unwrap();
        let Ok(bench) = try_open_with(&disk, &ManualClock::new(START), small_options(), u64::MAX) else { return Ok(()) };
        for (stream, written) in STREAMS.iter().zip(written) {
            let (values, end) = take(&mut reader(&bench.log, *stream, None), usize::MAX);
            prop_assert_eq!(&values[..], &written[..values.len()]);
            match end {
                Ok(_) => prop_assert_eq!(values.len(), written.len(), "{:?} lost rows in silence", stream),
                // Of a damaged header nobody knows whose rows are behind it.
                Err(error) => prop_assert!(
                    matches!(error, LogError::Corrupt { .. } | LogError::Overrun { .. }), "{}", error
                ),
            }
        }
    }
}

/// Who begins with the oldest rows does not begin behind the first block, if that was lost together with the header.
#[test]
fn a_first_block_that_is_lost_with_the_header_is_told() {
    for end in [513, 600, 1025] {
        let (disk, _) = sample();
        let path = &segments(&disk)[0];
        let mut bytes = disk.peek(path).unwrap();
        bytes[3..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        disk.poke(path, &bytes).unwrap();
        let bench = try_open_with(&disk, &ManualClock::new(START), small_options(), u64::MAX).unwrap();
        let (values, told) = take(&mut reader(&bench.log, STREAMS[0], None), usize::MAX);
        assert!(values.is_empty() && matches!(told, Err(LogError::Corrupt { .. })), "{end}: {values:?} {told:?}");
    }
}

/// A closed log of several segments, and what each stream holds.
fn sample() -> (Arc<SimDisk>, Vec<Vec<i64>>) {
    let bench = open(&SimDisk::new());
    let mut written = vec![Vec::new(); STREAMS.len()];
    for value in 0..60 {
        // A stream that some segments have nothing of.
        let stream = if value < 45 { value % 3 } else { value % 4 };
        let (owner, name) = STREAMS[stream];
        bench.append(append(owner, vec![part(name, &[("", value as i64)])])).unwrap();
        written[stream].push(value as i64);
    }
    bench.rest();
    bench.log.close();
    assert!(segments(&bench.disk).len() > 3);
    (bench.disk.fork(), written)
}

#[test]
fn a_reader_knows_how_far_it_is_behind() {
    let bench = open(&SimDisk::new());
    let mut reader = reader(&bench.log, ("a", "s"), None);
    assert_eq!((reader.behind_rows(), reader.headroom()), (Some(0), 1.0));
    for value in 0..60 {
        bench.append(append("a", vec![part("s", &[("", value), ("", value)])])).unwrap();
        bench.append(append("b", vec![part("s", &[("", value)])])).unwrap();
    }
    assert_eq!((reader.behind_rows(), reader.headroom()), (Some(120), 0.0));
    assert_eq!(take(&mut reader, 30).0.len(), 60);
    assert_eq!(reader.behind_rows(), Some(60));
    assert!((0.4..0.6).contains(&reader.headroom()), "{}", reader.headroom());
    // What is not in memory any more is not counted.
    let options = LogOptions { recent_bytes_max: 0, ..small_options() };
    let bench = try_open_with(&SimDisk::new(), &ManualClock::new(START), options, 0).unwrap();
    let reader = self::reader(&bench.log, ("a", "s"), None);
    bench.append(append("a", vec![part("s", &[("", 1)])])).unwrap();
    assert_eq!(reader.behind_rows(), None);
}

#[test]
fn a_reader_is_told_of_commits_and_does_not_ask_in_between() {
    use std::task::{Context, Poll, Waker};
    let bench = open(&SimDisk::new());
    let reader = reader(&bench.log, ("a", "s"), None);
    let mut waits = std::pin::pin!(reader.wait());
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(waits.as_mut().poll(&mut context), Poll::Pending);
    bench.append(append("a", vec![part("s", &[("", 1)])])).unwrap();
    assert_eq!(waits.as_mut().poll(&mut context), Poll::Ready(()));
    // There is something to read: nobody waits.
    let mut waits = std::pin::pin!(reader.wait());
    assert_eq!(waits.as_mut().poll(&mut context), Poll::Ready(()));
}

#[test]
fn a_reader_of_a_quiet_stream_is_left_alone_by_all_others() {
    use std::task::{Context, Poll, Waker};
    let disk = SimDisk::new();
    let bench = open(&disk);
    let mut quiet = reader(&bench.log, ("a", "s"), None);
    let mut context = Context::from_waker(Waker::noop());
    let looks = |bench: &Bench, quiet: &mut LogReader| {
        let before = disk.operations();
        let read = quiet.read().unwrap();
        assert_eq!(disk.operations(), before, "nothing of the disk is read for it");
        match read {
            Read::Nothing => assert_eq!(quiet.position(), bench.log.end(0)),
            other => panic!("{other:?}"),
        }
    };
    for round in 0..3 {
        {
            let mut waits = std::pin::pin!(quiet.wait());
            assert_eq!(waits.as_mut().poll(&mut context), Poll::Pending);
            // More than is kept in memory.
            for value in 0..600 {
                bench.append(append("a", vec![part("t", &[("", value)])])).unwrap();
                bench.append(append("b", vec![part("s", &[("", value)])])).unwrap();
            }
            assert_eq!(waits.as_mut().poll(&mut context), Poll::Pending, "those are not its rows");
            bench.append(append("a", vec![part("s", &[("", round)])])).unwrap();
            assert_eq!(waits.as_mut().poll(&mut context), Poll::Ready(()));
        }
        assert_eq!(all(&mut quiet), [round]);
        bench.append(append("b", vec![part("s", &[("", 0)])])).unwrap();
        looks(&bench, &mut quiet);
    }
    // One that begins further back sees all there is, and another of the same stream is nothing to it.
    let mut whole = reader(&bench.log, ("a", "s"), Some(Position { shard: 0, offset: 0 }));
    drop(quiet);
    bench.append(append("a", vec![part("s", &[("", 3)])])).unwrap();
    assert_eq!(all(&mut whole), [0, 1, 2, 3]);
    looks(&bench, &mut whole);
}

#[test]
fn streams_of_others_are_passed_without_their_rows_being_read() {
    let (disk, written) = sample();
    let bench = try_open_with(&disk, &ManualClock::new(START), small_options(), u64::MAX).unwrap();
    let reads = |stream| {
        let before = disk.operations();
        let values = all(&mut reader(&bench.log, stream, None));
        (values, disk.operations().iter().sum::<u64>() - before.iter().sum::<u64>())
    };
    let (values, rare) = reads(STREAMS[3]);
    assert_eq!(values, written[3]);
    let (values, none) = reads(("nobody", "s"));
    assert!(values.is_empty());
    let (values, often) = reads(STREAMS[0]);
    assert_eq!(values, written[0]);
    // Of closed segments without the stream only the end is read.
    assert!(none < often / 2 && rare < often, "{none} {rare} {often}");
}

/// Retention takes rows from readers, and only from those that are too slow; what was lost is named.
#[test]
fn a_reader_that_is_overrun_is_told_what_it_missed() {
    let clock = ManualClock::new(START);
    let options = || LogOptions { retention: Duration::from_secs(60), recent_bytes_max: 0, ..small_options() };
    let mut bench = try_open_with(&SimDisk::new(), &clock, options(), 0).unwrap();
    let mut slow = reader(&bench.log, ("a", "s"), None);
    let write = |bench: &Bench, from: i64| {
        for value in from..from + 60 {
            bench.append(append("a", vec![part("s", &[("", value)])])).unwrap();
        }
    };
    write(&bench, 0);
    assert_eq!(take(&mut slow, 3).0, [0, 1, 2]);
    let (at, end) = (slow.position(), bench.log.end(0));
    // The table writer has everything, and still nothing goes away before its time.
    bench.log.release(end);
    for _ in 0..4 {
        bench.rest();
    }
    assert_eq!(bench.log.oldest(0).offset, 0);
    clock.advance(Duration::from_secs(3600));
    write(&bench, 60);
    for _ in 0..4 {
        bench.rest();
    }
    let oldest = bench.log.oldest(0);
    assert!(oldest.offset > at.offset);
    for round in 0..3 {
        let error = reader(&bench.log, ("a", "s"), Some(at)).read().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(
            matches!(error, LogError::Overrun { offset, oldest: begin, .. } if (offset, begin) == (at.offset, oldest.offset)),
            "{error}"
        );
        assert!(error.to_string().contains(&format!("{} bytes", oldest.offset - at.offset)), "{error}");
        let left = all(&mut reader(&bench.log, ("a", "s"), None));
        assert_eq!(left.last(), Some(&119), "round {round}");
        assert_eq!(left, (left[0]..120).collect::<Vec<_>>());
        bench.log.close();
        bench = try_open_with(&bench.disk, &clock, options(), u64::MAX).unwrap();
    }
    drop(slow);
}

#[test]
fn a_position_of_a_log_that_was_longer_is_not_taken_for_one_of_this() {
    let bench = open(&SimDisk::new());
    bench.append(append("a", vec![part("s", &[("", 1)])])).unwrap();
    let end = bench.log.end(0);
    let beyond = Position { offset: end.offset + 512, ..end };
    let error = reader(&bench.log, ("a", "s"), Some(beyond)).read().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        bench
            .log
            .reader(&tenant("a"), &StreamName::new("s").unwrap(), Some(Position { shard: 9, offset: 0 }))
            .is_none()
    );
}

#[test]
fn a_position_is_found_by_its_time() {
    let clock = ManualClock::new(START);
    let mut bench = try_open_with(&SimDisk::new(), &clock, small_options(), 0).unwrap();
    for value in 0..80 {
        clock.advance(Duration::from_secs(1));
        bench.append(append("a", vec![part("s", &[("", value)])])).unwrap();
    }
    for _ in 0..2 {
        for from in [0, 1, 39, 40, 79, 80] {
            let time = START.plus(Duration::from_secs(from + 1));
            let position = bench.log.position_at(0, time).unwrap();
            let read = all(&mut reader(&bench.log, ("a", "s"), Some(position)));
            assert_eq!(read, (from as i64..80).collect::<Vec<_>>());
        }
        assert_eq!(bench.log.position_at(0, Timestamp(i64::MAX)).unwrap(), bench.log.end(0));
        bench.log.close();
        bench = try_open_with(&bench.disk, &clock, small_options(), 0).unwrap();
    }
    assert_eq!(bench.log.time(0), clock_now(&clock));
    assert!(bench.disk.files_under(Path::new(DIR)).len() > 3);
}

fn clock_now(clock: &ManualClock) -> Timestamp {
    use weir_base::Clock;
    clock.now()
}

/// On the real disk, with the log's own threads: rows are read while they are written.
#[test]
fn a_reader_keeps_up_with_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        LogOptions { segment_bytes: 64 << 10, reserve_bytes: 0, ..LogOptions::new(folder.path().join("log")) };
    let clock = weir_base::clock::SystemClock::new();
    let log = Log::open(options, weir_base::disk::RealDisk::new(), clock, Vec::new()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let reading = {
        let mut reader = reader(&log, ("a", "s"), None);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let mut values = Vec::new();
            while values.len() < 500 {
                values.extend(take(&mut reader, 10).0);
                if reader.behind_bytes() == 0 && values.len() < 500 {
                    runtime.block_on(reader.wait());
                }
            }
            values
        })
    };
    for value in 0..500 {
        runtime.block_on(log.append(append("a", vec![part("s", &[("", value)])]))).unwrap();
    }
    assert_eq!(reading.join().unwrap(), (0..500).collect::<Vec<_>>());
    log.close();
}
