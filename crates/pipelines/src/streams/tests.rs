//! Streams over the real log on a simulated disk: what is refused, what becomes of columns and times, overruns, and the
//! protocol of the sink with every kill between its steps. Whole pipelines under a seed are in [`simulation`].
#![allow(clippy::unwrap_used, reason = "tests")]

mod at_once;
mod keyed;
mod simulation;

use std::path::Path;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, StructArray, TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, TimestampNanosecondType};
use futures::FutureExt;
use parking_lot::Mutex;
use weir_base::ErrorKind;
use weir_base::clock::ManualClock;
use weir_base::disk::Disk;
use weir_component::sink::{Opening, Receipt, Sink};
use weir_component::source::{Next, Source, SourcePosition};
use weir_component::streams::{Revisions, StreamStart};
use weir_connectors::checkpoints::CheckpointFolder;
use weir_log::{AppendPart, Durability, LogOptions, Read};
use weir_testkit::sim_disk::SimDisk;

use super::*;

const START: Timestamp = Timestamp(1_700_000_000_000_000_000);
const QUIET: Duration = Duration::from_secs(30);

/// Definitions that outlive every crash.
#[derive(Default)]
struct Defined(Arc<StreamRegistry>, std::sync::atomic::AtomicBool);

impl Definitions for Defined {
    fn registry(&self) -> Arc<StreamRegistry> {
        Arc::clone(&self.0)
    }

    fn admit(&self, _: &TenantId) -> Result<(), SinkError> {
        match self.1.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(SinkError::new(ErrorKind::Limit, "full")),
            false => Ok(()),
        }
    }

    fn define(
        &self,
        tenant: &TenantId,
        name: &str,
        columns: &Schema,
        key: &[String],
    ) -> Result<Arc<StreamDef>, SinkError> {
        let before = self.0.get(tenant, name);
        let stream = StreamDef::define(name, before.as_deref(), columns, key)
            .map_err(|error| SinkError::new(ErrorKind::Config, error.to_string()))?;
        self.0.set(tenant, Arc::new(stream));
        Ok(self.0.get(tenant, name).unwrap())
    }
}

/// What goes wrong with appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    /// The process is gone before the append with that number from now, ...
    Before(usize),
    /// ... or after it, and nobody has heard of it.
    After(usize),
}

/// The log without threads: whoever appends makes the commit.
struct Stepped {
    log: Arc<Log>,
    kill: Mutex<Option<Kill>>,
    dead: Mutex<bool>,
}

impl Stepped {
    fn new(log: &Arc<Log>) -> Arc<Self> {
        Arc::new(Self { log: Arc::clone(log), kill: Mutex::default(), dead: Mutex::default() })
    }
}

#[async_trait]
impl Appends for Stepped {
    async fn append(&self, append: Append) -> Result<Appended, LogError> {
        let mut kill = self.kill.lock();
        *kill = match *kill {
            Some(Kill::Before(0)) => {
                *self.dead.lock() = true;
                None
            }
            Some(Kill::Before(left)) => Some(Kill::Before(left - 1)),
            other => other,
        };
        if *self.dead.lock() {
            return Err(LogError::Closed);
        }
        let answer = self.log.append(append);
        self.log.step();
        *kill = match *kill {
            Some(Kill::After(0)) => {
                *self.dead.lock() = true;
                return Err(LogError::Closed);
            }
            Some(Kill::After(left)) => Some(Kill::After(left - 1)),
            other => other,
        };
        answer.now().unwrap()
    }
}

fn log_options() -> LogOptions {
    LogOptions {
        segment_bytes: 16 << 10,
        reserve_bytes: 8 << 10,
        retention: Duration::from_secs(3600),
        recent_bytes_max: 4 << 10,
        ..LogOptions::new("/log")
    }
}

fn id(text: &str) -> TenantId {
    TenantId::new(text).unwrap()
}

/// The checkpoints of a pipeline.
fn checkpoints(disk: &Arc<SimDisk>, pipeline: &str) -> Arc<dyn CheckpointStore> {
    let path = Path::new("/checkpoints").join(pipeline);
    Arc::new(CheckpointFolder::open(&path, Arc::clone(disk) as Arc<dyn Disk>).unwrap())
}

/// One process over a disk.
struct Bench {
    disk: Arc<SimDisk>,
    clock: Arc<ManualClock>,
    log: Arc<Log>,
    appends: Arc<Stepped>,
    defined: Arc<Defined>,
    store: Arc<dyn CheckpointStore>,
}

impl Bench {
    fn on(disk: &Arc<SimDisk>, clock: &Arc<ManualClock>, defined: &Arc<Defined>) -> Self {
        let log = Log::open_without_threads(log_options(), Arc::clone(disk) as _, Arc::clone(clock) as _, Vec::new());
        let log = log.unwrap();
        Self {
            disk: Arc::clone(disk),
            clock: Arc::clone(clock),
            appends: Stepped::new(&log),
            log,
            defined: Arc::clone(defined),
            store: checkpoints(disk, "visits"),
        }
    }

    fn new() -> Self {
        Self::on(&SimDisk::new(), &ManualClock::new(START), &Arc::default())
    }

    fn streams(&self) -> TenantStreams {
        self.streams_of("acme", "visits", Resume::Position)
    }

    fn streams_of(&self, tenant: &str, pipeline: &str, resume: Resume) -> TenantStreams {
        self.streams_with(self.options(tenant, pipeline, resume))
    }

    fn options(&self, tenant: &str, pipeline: &str, resume: Resume) -> StreamsOptions {
        StreamsOptions {
            tenant: id(tenant),
            pipeline: pipeline.to_owned(),
            incarnation: 7,
            since: START,
            began: [].into(),
            resume,
            is_built_in: false,
            wait: Duration::ZERO,
            linger: Duration::ZERO,
        }
    }

    fn streams_with(&self, options: StreamsOptions) -> TenantStreams {
        let defined: Arc<Defined> = Arc::clone(&self.defined);
        let clock: Arc<ManualClock> = Arc::clone(&self.clock);
        let store = checkpoints(&self.disk, &options.pipeline);
        TenantStreams::new(Arc::clone(&self.log), defined, store, clock, options)
            .appending(Arc::clone(&self.appends) as _)
    }

    fn append(&self, tenant: &str, stream: &str, batch: RecordBatch) {
        let part = AppendPart { stream: StreamName::new(stream).unwrap(), batch, id_column: None };
        let append = Append {
            tenant: id(tenant),
            parts: vec![part],
            idempotency_key: None,
            producer: None,
            durability: Durability::Disk,
        };
        self.appends.append(append).now_or_never().unwrap().unwrap();
    }

    /// The values of a column of all rows of a stream in the log, in their order.
    fn values(&self, tenant: &str, stream: &str, column: &str) -> Vec<i64> {
        let mut reader = self.log.reader(&id(tenant), &StreamName::new(stream).unwrap(), None).unwrap();
        let mut values = Vec::new();
        loop {
            match reader.read().unwrap() {
                Read::Record(record) => {
                    let column = record.batch.column_by_name(column).unwrap();
                    match column.data_type() {
                        DataType::Int64 => values.extend(column.as_primitive::<Int64Type>().values()),
                        _ => values.extend(column.as_primitive::<TimestampNanosecondType>().values()),
                    }
                }
                Read::More | Read::Lost(_) => {}
                Read::Nothing => return values,
            }
        }
    }
}

fn times(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn numbers(values: &[i64]) -> RecordBatch {
    RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]).unwrap()
}

/// Rows of the stream `clicks`: `v`, with a time and an arrival.
fn clicks(rows: &[(i64, i64, i64)]) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("time", times(rows.iter().map(|row| row.0))),
        ("received_at", times(rows.iter().map(|row| row.1))),
        ("v", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))) as ArrayRef),
    ])
    .unwrap()
}

fn define_clicks(bench: &Bench, tenant: &str) {
    let columns = Schema::new(vec![Field::new("v", DataType::Int64, true)]);
    bench.defined.define(&id(tenant), "clicks", &columns, &[]).unwrap();
}

fn read(name: &str, start: StreamStart) -> ReadStream {
    ReadStream { name: name.to_owned(), start, quiet: QUIET, revisions: Revisions::Final, columns: vec![] }
}

fn write(name: &str) -> WriteStream {
    WriteStream { name: name.to_owned(), key: Vec::new(), delivery: Delivery::ExactlyOnce }
}

#[test]
fn few_rows_wait_for_more_and_many_do_not() {
    let bench = Bench::new();
    define_clicks(&bench, "acme");
    let linger = Duration::from_millis(10);
    let options = StreamsOptions { linger, ..bench.options("acme", "visits", Resume::Position) };
    let planned = bench.streams_with(options).source(&read("clicks", StreamStart::Oldest)).unwrap();
    let mut source = ready(planned.open(None)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let append = |rows: i64| {
        let now = bench.clock.now().0;
        bench.append("acme", "clicks", clicks(&(0..rows).map(|v| (now, now, v)).collect::<Vec<_>>()));
    };
    // How many rows there are now; `None` if the source waits.
    let mut given = || loop {
        match source.next(None).now_or_never()?.unwrap() {
            Next::Rows(rows) => return Some(rows.rows.num_rows()),
            Next::Time(..) | Next::Nothing(Duration::ZERO) => {}
            other => panic!("{other:?}"),
        }
    };
    append(1);
    assert_eq!(given(), Some(1), "the first row does not wait");
    append(2);
    assert_eq!(given(), None);
    append(3);
    assert_eq!(given(), None);
    bench.clock.advance(linger);
    assert_eq!(given(), Some(5), "what came meanwhile is one batch");
    append(12);
    assert_eq!(given(), Some(12), "a whole batch does not wait");
    // Rows of long ago: time goes on between each of these commits, so none goes with another.
    let old = bench.clock.now().0 - 10 * i64::try_from(QUIET.as_nanos()).unwrap();
    for commit in 0..3 {
        bench.clock.advance(QUIET);
        bench.append("acme", "clicks", clicks(&[(old, old, commit)]));
    }
    assert_eq!([given(), given(), given()], [Some(1); 3], "what cannot be gathered does not wait");
    // Unless they are near each other, as where much is sent at once.
    let stride = QUIET / 32;
    let passed = u128::try_from(bench.clock.now().0).unwrap() % stride.as_nanos();
    bench.clock.advance(stride - Duration::from_nanos(u64::try_from(passed).unwrap()));
    for commit in 0..9 {
        bench.append("acme", "clicks", clicks(&[(old, old, commit)]));
        bench.clock.advance(stride / 10);
    }
    assert_eq!((given(), given()), (Some(9), None), "they are given together");
}

#[test]
fn time_without_rows_is_told_in_strides() {
    let bench = Bench::new();
    define_clicks(&bench, "acme");
    let (linger, wait) = (Duration::from_millis(10), Duration::from_millis(250));
    let options = StreamsOptions { linger, wait, ..bench.options("acme", "visits", Resume::Position) };
    let planned = bench.streams_with(options).source(&read("clicks", StreamStart::Oldest)).unwrap();
    let mut source = ready(planned.open(None)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    // How often time is told in so many milliseconds; a commit of another tenant in each of them.
    let mut told = |millis: u64| {
        let mut count = 0;
        for _ in 0..millis {
            bench.clock.advance(Duration::from_millis(1));
            bench.append("rival", "clicks", clicks(&[(0, 0, 0)]));
            for _ in 0..3 {
                match source.next(None).now_or_never() {
                    Some(Ok(Next::Time(..))) => count += 1,
                    Some(Ok(Next::Rows(_) | Next::Nothing(_))) | None => {}
                    Some(other) => panic!("{other:?}"),
                }
            }
        }
        count
    };
    assert_eq!(told(10), 1, "it says at once where it is");
    let old = bench.clock.now().0 - 10 * i64::try_from(QUIET.as_nanos()).unwrap();
    bench.append("acme", "clicks", clicks(&[(old, old, 1)]));
    let soon = told(80);
    assert!(soon <= 1, "{soon} times in 80 ms after rows");
    // Each costs all steps of the pipeline a turn.
    let late = told(15_000);
    assert!((15..=17).contains(&late), "{late} times in 15 s");
    // Time has nothing to say before `quiet` is over, and meanwhile nobody asks again and again.
    bench.clock.advance(linger);
    let now = bench.clock.now().0;
    bench.append("acme", "clicks", clicks(&[(now, now, 2)]));
    let mut answers = std::iter::from_fn(|| source.next(None).now_or_never());
    assert!(answers.any(|answer| matches!(answer, Ok(Next::Rows(_)))));
    let step = Duration::from_millis(1);
    let steps = u32::try_from(QUIET.as_millis()).unwrap() / 2;
    let answers = (0..steps).filter(|_| {
        bench.clock.advance(step);
        source.next(None).now_or_never().is_some()
    });
    assert_eq!(answers.count(), 0, "it waits for rows and does nothing");
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here waits")
}

#[test]
fn what_cannot_be_read_or_written_is_refused() {
    let bench = Bench::new();
    define_clicks(&bench, "acme");
    let streams = bench.streams();
    for (name, part) in [("nothing", "there is no stream"), ("visits_late", "is written by this pipeline")] {
        let fault = streams.source(&read(name, StreamStart::Now)).err().unwrap();
        assert!(fault.message.contains(part), "{fault:?}");
    }
    assert!(streams.source(&read("clicks", StreamStart::Now)).is_ok());
    assert!(bench.streams_of("rival", "x", Resume::Position).source(&read("clicks", StreamStart::Now)).is_err());
    for (name, part) in [
        ("events", "Weir's own"),
        ("_rejected", "Weir's own"),
        ("mine_late", "does not end in"),
        ("mine_history", "does not end in"),
        ("Mine", "not the name of a stream"),
        ("_mine", "not the name of a stream"),
    ] {
        let fault = streams.sink(&write(name)).err().unwrap();
        assert!(fault.message.contains(part), "{fault:?}");
    }
    let sink = streams.sink(&write("clicks")).unwrap();
    let schema = |data_type| Arc::new(Schema::new(vec![Field::new("v", data_type, true)]));
    assert_eq!(sink.check(&schema(DataType::Int64)), []);
    let faults = sink.check(&schema(DataType::Utf8));
    assert!(faults[0].message.contains("column `v` is Utf8, and that of the stream `clicks` is Int64"), "{faults:?}");
    assert_eq!(
        (sink.stream(), streams.source(&read("clicks", StreamStart::Now)).unwrap().stream()),
        (Some("clicks"), Some("clicks"))
    );
}

#[test]
fn times_of_results_are_their_own_their_windows_or_their_events() {
    let received = Timestamp(START.0 + 5);
    let events = [START.0 + 1, START.0 + 2];
    let map = |columns: Vec<(&str, ArrayRef)>| {
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let stream = Arc::new(StreamDef::define("out", None, &rows::own_columns(&rows.schema()), &[]).unwrap());
        rows::Mapping::new(stream, &rows.schema(), START).map(&rows, &events, received).unwrap()
    };
    let time = |rows: &RecordBatch| rows.column(0).as_primitive::<TimestampNanosecondType>().values().to_vec();
    let values: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let rows = map(vec![("v", Arc::clone(&values))]);
    assert_eq!(time(&rows), events);
    let window: ArrayRef = Arc::new(
        StructArray::try_from(vec![
            ("start", times([START.0 + 10, START.0 + 20])),
            ("end", times([START.0 + 20, START.0 + 30])),
        ])
        .unwrap(),
    );
    let rows = map(vec![("v", Arc::clone(&values)), ("w", Arc::clone(&window))]);
    assert_eq!(time(&rows), [START.0 + 10, START.0 + 20]);
    let year = 365 * 24 * 3600 * 1_000_000_000;
    let own: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![Some(START.0 - year), None]).with_timezone("UTC"));
    let passed = times([0, 0]);
    let flags: ArrayRef = Arc::new(StringArray::from(vec!["early", "early"]));
    let rows = map(vec![("w", window), ("time", own), ("received_at", passed), ("time_flag", flags), ("v", values)]);
    assert_eq!(time(&rows), [START.0 - year, received.0], "a row without a time has that of its arrival");
    let names: Vec<_> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["time", "received_at", "time_flag", "w", "v"]);
    assert_eq!(rows.column(1).as_primitive::<TimestampNanosecondType>().values(), &[received.0; 2]);
    assert_eq!(rows.column(2).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("late"), None]);
}

/// What a source gives until it has nothing: rows by value, and times.
fn drain(source: &mut dyn Source) -> (Vec<i64>, Vec<i64>) {
    let (mut values, mut passed) = (Vec::new(), Vec::new());
    loop {
        match ready(source.next(None)).unwrap() {
            Next::Rows(rows) => {
                let column = rows.rows.column_by_name("v").unwrap();
                values.extend(column.as_primitive::<Int64Type>().values());
                assert_eq!(rows.arrived.unwrap().len(), rows.rows.num_rows());
            }
            Next::Time(_, time) => passed.push(time),
            Next::Nothing(Duration::ZERO) => {}
            Next::Nothing(_) => return (values, passed),
            Next::Done => panic!("a stream has no end"),
        }
    }
}

#[test]
fn a_source_begins_when_its_pipeline_did_and_goes_on_where_it_was() {
    let second = 1_000_000_000;
    let mut bench = Bench::on(&SimDisk::new(), &ManualClock::new(Timestamp(START.0 - second)), &Arc::default());
    define_clicks(&bench, "acme");
    let send = |bench: &Bench, value: i64| {
        let now = bench.clock.now().0;
        bench.append("acme", "clicks", clicks(&[(now, now, value)]));
        bench.append("rival", "clicks", clicks(&[(now, now, -1)]));
    };
    // Before the pipeline was made.
    send(&bench, 0);
    bench.clock.advance(Duration::from_secs(1));
    send(&bench, 1);
    let open = |bench: &Bench, start, position: Option<SourcePosition>| {
        ready(bench.streams().source(&read("clicks", start)).unwrap().open(position)).unwrap()
    };
    assert_eq!(drain(open(&bench, StreamStart::Oldest, None).as_mut()).0, [0, 1]);
    let mut source = open(&bench, StreamStart::Now, None);
    assert_eq!(drain(source.as_mut()).0, [1]);
    send(&bench, 2);
    // A pipeline that never made a checkpoint begins where it has begun.
    assert_eq!(drain(open(&bench, StreamStart::Now, None).as_mut()).0, [1, 2]);
    let position = source.position();
    assert_eq!(drain(source.as_mut()).0, [2]);
    assert_eq!(drain(open(&bench, StreamStart::Now, Some(position.clone())).as_mut()).0, [2]);
    drop(source);
    bench.log.close();
    let (disk, clock, defined) = (Arc::clone(&bench.disk), Arc::clone(&bench.clock), Arc::clone(&bench.defined));
    drop(bench);
    bench = Bench::on(&disk, &clock, &defined);
    let mut source = open(&bench, StreamStart::Now, Some(position));
    assert_eq!(drain(source.as_mut()).0, [2]);
    // Time goes on behind the log while nothing comes, in strides, and not in between.
    let behind = |now: i64| (now - 30 * second).div_euclid(30 * second / 32) * (30 * second / 32);
    bench.clock.advance(Duration::from_secs(100));
    assert_eq!(drain(source.as_mut()), (vec![], vec![behind(bench.clock.now().0)]));
    assert_eq!(drain(source.as_mut()), (vec![], vec![]));
    // Before the rows of a commit time has come to it, whoever looked when.
    bench.clock.advance(Duration::from_secs(100));
    send(&bench, 3);
    assert_eq!(drain(source.as_mut()), (vec![3], vec![behind(bench.clock.now().0)]));
}

#[test]
fn a_source_that_is_overrun_says_so_and_goes_on_when_told_where() {
    let bench = Bench::new();
    define_clicks(&bench, "acme");
    let send = |from: i64| {
        for value in from..from + 40 {
            let now = bench.clock.now().0;
            bench.append("acme", "clicks", clicks(&[(now, now, value)]));
        }
    };
    send(0);
    let open = |resume, position: &SourcePosition| {
        let streams = bench.streams_of("acme", "visits", resume);
        ready(streams.source(&read("clicks", StreamStart::Oldest)).unwrap().open(Some(position.clone())))
    };
    let start = ready(bench.streams().source(&read("clicks", StreamStart::Oldest)).unwrap().open(None)).unwrap();
    let position = start.position();
    assert_eq!(drain(open(Resume::Position, &position).unwrap().as_mut()).0.len(), 40);
    drop(start);
    bench.log.release(bench.log.end(0));
    bench.clock.advance(Duration::from_secs(7200));
    send(40);
    for _ in 0..4 {
        bench.clock.advance(Duration::from_millis(25));
        bench.log.step();
    }
    assert!(bench.log.oldest(0).offset > 0);
    let error = open(Resume::Position, &position).err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(
        error.message.starts_with("overrun: the pipeline has read the stream `clicks` up to position 0"),
        "{error}"
    );
    assert!(error.message.contains(&format!("begins at {} now", bench.log.oldest(0).offset)), "{error}");
    let oldest = drain(open(Resume::Oldest, &position).unwrap().as_mut()).0;
    assert_eq!(oldest, (oldest[0]..80).collect::<Vec<_>>());
    assert!(oldest[0] > 0);
    assert_eq!(drain(open(Resume::Now, &position).unwrap().as_mut()).0, [0; 0]);
    // A log that is another one.
    let mut other = position;
    other.partitions.values_mut().for_each(|place| place["log"] = 1.into());
    assert!(open(Resume::Position, &other).err().unwrap().message.contains("the log is another one"));
}

fn open_sink(bench: &Bench, generation: u64, last: Option<(u64, Receipt)>) -> Result<Box<dyn Sink>, SinkError> {
    let plan = bench.streams().sink(&write("out")).unwrap();
    ready(plan.open(numbers(&[]).schema(), Opening { generation, last }))
}

fn give(sink: &mut dyn Sink, values: &[i64]) {
    for value in values {
        ready(sink.write_timed(&numbers(&[*value]), &vec![START.0 + value].into())).unwrap();
    }
}

/// A kill before and after every append of an epoch, also of the start that comes after it: each row is there once.
#[test]
fn rows_are_appended_once_whenever_the_process_is_killed() {
    let values: Vec<i64> = (0..20).collect();
    for kill in (0..9).flat_map(|at| [Kill::Before(at), Kill::After(at)]) {
        for again in [None, Some(Kill::Before(2)), Some(Kill::After(0))] {
            let bench = Bench::new();
            let mut sink = open_sink(&bench, 1, None).unwrap();
            give(sink.as_mut(), &values);
            let receipt = ready(sink.prepare(1)).unwrap();
            assert_eq!(bench.values("acme", "out", "v"), [0; 0], "nothing can be seen of what was not decided");
            *bench.appends.kill.lock() = Some(kill);
            let result = ready(sink.commit(1, &receipt));
            let was_killed = *bench.appends.dead.lock();
            assert_eq!(result.is_err(), was_killed, "{kill:?}: {result:?}");
            assert!(was_killed || matches!(kill, Kill::Before(at) | Kill::After(at) if at >= 7), "{kill:?}");
            drop(sink);
            let mut last = Some((1, receipt));
            let mut bench = bench;
            for (generation, kill) in [(2, again), (3, None)] {
                // The old log closes in good order on a disk that nobody looks at any more.
                let disk = bench.disk.fork();
                let next = Bench::on(&disk, &bench.clock, &bench.defined);
                bench = next;
                *bench.appends.kill.lock() = kill;
                let opened = open_sink(&bench, generation, last.clone());
                assert_eq!(opened.is_err(), *bench.appends.dead.lock(), "{kill:?}");
                let Ok(mut sink) = opened else { continue };
                give(sink.as_mut(), &[100 + generation as i64]);
                let receipt = ready(sink.prepare(generation)).unwrap();
                if ready(sink.commit(generation, &receipt)).is_ok() {
                    last = Some((generation, receipt));
                }
            }
            let mut found = bench.values("acme", "out", "v");
            found.retain(|value| *value < 100);
            assert_eq!(found, values, "{kill:?} {again:?}");
        }
    }
}

#[test]
fn an_older_start_appends_nothing_any_more() {
    let bench = Bench::new();
    let mut old = open_sink(&bench, 1, None).unwrap();
    give(old.as_mut(), &[1, 2]);
    let first = ready(old.prepare(1)).unwrap();
    ready(old.commit(1, &first)).unwrap();
    give(old.as_mut(), &[3]);
    let undecided = ready(old.prepare(2)).unwrap();
    // Somebody takes over: what was prepared and not decided is never appended, also if it is still there.
    let name = undecided.0["objects"][0].as_str().unwrap().to_owned();
    let bytes = ready(bench.store.read(&name)).unwrap().unwrap();
    let mut new = open_sink(&bench, 2, Some((1, first.clone()))).unwrap();
    assert_eq!(ready(bench.store.create(&name, &bytes)).unwrap(), weir_component::checkpoint::Created::Now);
    let error = ready(old.commit(2, &undecided)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    give(new.as_mut(), &[4]);
    let second = ready(new.prepare(3)).unwrap();
    ready(new.commit(3, &second)).unwrap();
    ready(new.commit(3, &second)).unwrap();
    assert_eq!(bench.values("acme", "out", "v"), [1, 2, 4]);
    // A third start finds that the second has settled what the first had decided.
    let mut third = open_sink(&bench, 3, Some((3, second))).unwrap();
    let fourth = ready(third.prepare(4)).unwrap();
    ready(third.commit(4, &fourth)).unwrap();
    assert!(open_sink(&bench, 2, Some((1, first))).is_err(), "and a late second one is told");
    assert_eq!(bench.values("acme", "out", "v"), [1, 2, 4]);
    drop(open_sink(&bench, 4, None).unwrap());
    let left = ready(bench.store.list()).unwrap();
    assert_eq!(left, [""; 0], "nothing is left beside the checkpoints");
}

#[test]
fn rows_that_were_prepared_and_are_gone_are_an_error() {
    let bench = Bench::new();
    let mut sink = open_sink(&bench, 1, None).unwrap();
    give(sink.as_mut(), &[1]);
    let receipt = ready(sink.prepare(1)).unwrap();
    for name in ready(bench.store.list()).unwrap() {
        ready(bench.store.delete(&name)).unwrap();
    }
    assert_eq!(ready(sink.commit(1, &receipt)).unwrap_err().kind, ErrorKind::Corrupt);
    assert_eq!(open_sink(&bench, 2, Some((1, receipt))).err().unwrap().kind, ErrorKind::Corrupt);
}

/// A tenant that stores as much as it may gets no more rows; what was taken is appended nevertheless.
#[test]
fn a_tenant_without_room_is_told_before_its_rows_are_taken() {
    let bench = Bench::new();
    let mut sink = open_sink(&bench, 1, None).unwrap();
    give(sink.as_mut(), &[1]);
    bench.defined.1.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(ready(sink.write(&numbers(&[2]))).unwrap_err().kind, ErrorKind::Limit);
    let receipt = ready(sink.prepare(1)).unwrap();
    ready(sink.commit(1, &receipt)).unwrap();
    bench.defined.1.store(false, std::sync::atomic::Ordering::Relaxed);
    give(sink.as_mut(), &[2]);
    let receipt = ready(sink.prepare(2)).unwrap();
    ready(sink.commit(2, &receipt)).unwrap();
    assert_eq!(bench.values("acme", "out", "v"), [1, 2]);
}

#[test]
fn what_is_set_aside_are_streams_of_the_pipeline() {
    let bench = Bench::new();
    for (sink, name) in [(bench.streams().late(), "visits_late"), (bench.streams().dead(), "visits_dead")] {
        assert_eq!(sink.stream(), Some(name));
        drop(ready(sink.open(weir_engine::aside_schema(), Opening { generation: 1, last: None })).unwrap());
        let stream = bench.defined.registry().get(&id("acme"), name).unwrap();
        let names: Vec<&str> = stream.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let expected =
            ["time", "received_at", "time_flag", "step", "reason", "late_by_ns", "message", "row", "input", "attempts"];
        assert_eq!(names, expected);
    }
}
