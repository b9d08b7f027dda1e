#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::AsArray;
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::Int64Type;
use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::json;
use weir_base::Timestamp;
use weir_base::clock::ManualClock;
use weir_component::table::Part;
use weir_engine::{
    BreakerOptions, Input, Job, JobError, JobOptions, NodeStats, Plan, PlanSink, PlanSource, PlanStep, Progress, Steps,
};
use weir_operators::{STEPS, StepContext};
use weir_sql::expressions::{Language, NoKinds};

use crate::testing::memory::{MemorySink, MemorySource, MemoryStore, MemoryStream, MemoryTable};
use crate::testing::schedule::{Seeded, settle};

use super::*;

/// A source whose rows, or whose failure, is what a test says.
struct Told {
    rows: Mutex<Result<Vec<i64>, ErrorKind>>,
    /// What cannot be made into rows.
    rejects: Mutex<Vec<&'static str>>,
    /// How often whoever asks has to ask again, before it is open and before each piece.
    waits: Mutex<usize>,
    is_bounded: bool,
    /// What its input lacks.
    lacks: Mutex<Option<&'static str>>,
}

/// Has nothing to say so many times.
async fn wait(times: usize) {
    let mut left = times;
    std::future::poll_fn(|_| match left {
        0 => std::task::Poll::Ready(()),
        _ => {
            left -= 1;
            std::task::Poll::Pending
        }
    })
    .await;
}

fn numbers(values: &[i64]) -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    RecordBatch::try_from_iter([("n", values)]).unwrap()
}

#[async_trait]
impl PlannedSource for Told {
    fn schema(&self) -> SchemaRef {
        numbers(&[]).schema()
    }

    fn is_bounded(&self) -> bool {
        self.is_bounded
    }

    async fn open(&self, _: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        let waits = *self.waits.lock();
        wait(waits).await;
        let pieces = match &*self.rows.lock() {
            Ok(values) => values.chunks(2).map(<[i64]>::to_vec).collect(),
            Err(kind) => return Err(SourceError::new(*kind, "it cannot be read")),
        };
        let reject = |payload: &&str| SourceReject {
            place: format!("t:{}", self.rows.lock().as_ref().map_or(0, Vec::len)),
            message: "it is no row".to_owned(),
            payload: (*payload).to_owned(),
        };
        let (rejects, lacks) = (self.rejects.lock().iter().map(reject).collect(), *self.lacks.lock());
        Ok(Box::new(ToldReader { pieces, rejects, waits, waited: 0, lacks }))
    }

    fn describe(&self) -> String {
        "what a test says".to_owned()
    }
}

struct ToldReader {
    pieces: VecDeque<Vec<i64>>,
    rejects: Vec<SourceReject>,
    waits: usize,
    waited: usize,
    lacks: Option<&'static str>,
}

#[async_trait]
impl Source for ToldReader {
    async fn next(&mut self, _: Option<&str>) -> Result<Next, SourceError> {
        while self.waited < self.waits {
            self.waited += 1;
            wait(1).await;
        }
        self.waited = 0;
        let Some(values) = self.pieces.pop_front() else { return Ok(Next::Done) };
        let (rows, rejects) = (numbers(&values), std::mem::take(&mut self.rejects));
        Ok(Next::Rows(SourceRows { partition: "p".into(), rows, arrived: None, rejects, bytes: 8 }))
    }

    fn position(&self) -> SourcePosition {
        SourcePosition::default()
    }

    fn lacks(&self) -> Option<&str> {
        self.lacks
    }
}

impl Told {
    fn new(rows: Vec<i64>, is_bounded: bool) -> Self {
        let rows = Mutex::new(Ok(rows));
        Self { rows, rejects: Mutex::default(), waits: Mutex::default(), is_bounded, lacks: Mutex::default() }
    }
}

struct Table {
    told: Arc<Told>,
    clock: Arc<ManualClock>,
    planned: Arc<dyn PlannedSource>,
    /// What pipelines with it have put out.
    results: Arc<MemoryTable>,
}

fn table(refresh: Option<Duration>, bytes_max: u64) -> Table {
    let told = Arc::new(Told::new(vec![1, 2, 3], true));
    let clock = ManualClock::new(Timestamp(0));
    let options = TableOptions { refresh, bytes_max };
    let planned = TableSource::plan("t", Arc::<Told>::clone(&told), options, Arc::<ManualClock>::clone(&clock), None);
    Table { told, planned: planned.unwrap(), clock, results: Arc::default() }
}

impl Table {
    fn open(&self) -> Result<Box<dyn Source>, SourceError> {
        self.planned.open(None).now_or_never().unwrap()
    }
}

/// All that comes until there is nothing: `(version, value)`, and a version alone where it is whole.
fn all(source: &mut dyn Source) -> Vec<(i64, Option<i64>)> {
    let mut found = Vec::new();
    loop {
        match source.next(None).now_or_never().unwrap().unwrap() {
            Next::Rows(rows) => {
                let part = Part::of(&rows.rows).unwrap();
                let values = part.rows.column(0).as_primitive::<Int64Type>();
                if part.is_mark(0) {
                    found.push((part.versions.value(0), None));
                } else {
                    found.extend((0..values.len()).map(|row| (part.versions.value(row), Some(values.value(row)))));
                }
            }
            Next::Time(_, time) => assert_eq!(time, i64::MAX, "a table holds back nothing"),
            Next::Nothing(_) | Next::Done => return found,
        }
    }
}

fn whole(version: i64, values: &[i64]) -> Vec<(i64, Option<i64>)> {
    values.iter().map(|value| (version, Some(*value))).chain([(version, None)]).collect()
}

#[test]
fn a_version_comes_when_the_table_has_changed() {
    let table = table(Some(Duration::from_secs(10)), 1 << 20);
    let mut source = table.open().unwrap();
    assert_eq!(all(source.as_mut()), whole(1, &[1, 2, 3]));
    *table.told.rows.lock() = Ok(vec![4]);
    table.clock.advance(Duration::from_secs(9));
    assert_eq!(all(source.as_mut()), []);
    table.clock.advance(Duration::from_secs(1));
    assert_eq!(all(source.as_mut()), whole(2, &[4]));
    table.clock.advance(Duration::from_secs(10));
    assert_eq!(all(source.as_mut()), [], "it is as it was");
    *table.told.rows.lock() = Ok(Vec::new());
    table.clock.advance(Duration::from_secs(10));
    assert_eq!(all(source.as_mut()), whole(3, &[]), "an empty table is one");
    for (rows, version) in [(vec![5, 6, 7], 4), (vec![7, 5, 6], 4), (vec![7, 5, 5], 5), (vec![7, 5], 6)] {
        *table.told.rows.lock() = Ok(rows.clone());
        table.clock.advance(Duration::from_secs(10));
        let is_new = rows != [7, 5, 6];
        let expected = if is_new { whole(version, &rows) } else { Vec::new() };
        assert_eq!(all(source.as_mut()), expected, "in another order it is the same");
    }
}

/// What comes of a table that somebody waits for, until there is nothing more.
async fn asked_for(source: &mut dyn Source) -> Vec<(i64, Option<i64>)> {
    let mut found = Vec::new();
    // Behind what it gives it waits until somebody asks again.
    while let Ok(next) = tokio::time::timeout(Duration::from_millis(50), source.next(None)).await {
        if let Next::Rows(rows) = next.unwrap() {
            let part = Part::of(&rows.rows).unwrap();
            let values = part.rows.column(0).as_primitive::<Int64Type>();
            let value = |row: usize| (!part.is_mark(row)).then(|| values.value(row));
            let rows = if part.is_mark(0) { 1 } else { values.len() };
            found.extend((0..rows).map(|row| (part.versions.value(row), value(row))));
        }
    }
    found
}

/// Long before it is time: whoever asks is told when what there is has been given, also if it cannot be read.
#[tokio::test]
async fn a_table_is_read_again_when_somebody_asks() {
    let refreshes = Arc::new(Refreshes::default());
    assert_eq!(refreshes.ask(), None, "nobody reads a table");
    let told = Arc::new(Told::new(vec![1], true));
    let options = TableOptions { refresh: Some(Duration::from_secs(3600)), bytes_max: 1 << 20 };
    let clock = ManualClock::new(Timestamp(0));
    let planned = TableSource::plan("t", Arc::<Told>::clone(&told), options, clock, Some(Arc::clone(&refreshes)));
    let mut source = planned.unwrap().open(None).await.unwrap();
    assert_eq!(asked_for(source.as_mut()).await, whole(1, &[1]));
    *told.rows.lock() = Ok(vec![2]);
    assert_eq!(asked_for(source.as_mut()).await, [], "it is not time");

    let asked = refreshes.ask().unwrap();
    assert!(refreshes.done(asked).now_or_never().is_none(), "it has not been read");
    loop {
        let next = source.next(None).await.unwrap();
        assert!(refreshes.done(asked).now_or_never().is_none(), "what was read has not been given");
        if matches!(&next, Next::Rows(rows) if Part::of(&rows.rows).unwrap().is_empty()) {
            break;
        }
    }
    assert_eq!(asked_for(source.as_mut()).await, [], "it is read once");
    assert!(refreshes.done(asked).now_or_never().is_some());

    *told.rows.lock() = Err(ErrorKind::Transient);
    let asked = refreshes.ask().unwrap();
    assert_eq!(asked_for(source.as_mut()).await, []);
    assert!(refreshes.done(asked).now_or_never().is_some(), "nobody waits for a table that cannot be read");
    assert_eq!(source.trouble().map(|trouble| trouble.attempts), Some(1));

    let asked = refreshes.ask().unwrap();
    drop(source);
    assert!(refreshes.done(asked).now_or_never().is_some(), "nobody waits for a table that nobody reads");
    assert_eq!(refreshes.ask(), None);
}

#[test]
fn what_could_be_read_last_counts() {
    let table = table(Some(Duration::from_secs(10)), 1 << 20);
    *table.told.rows.lock() = Err(ErrorKind::Transient);
    assert_eq!(table.open().err().map(|error| error.kind), Some(ErrorKind::Transient), "whoever runs it tries again");
    *table.told.rows.lock() = Ok(vec![1]);
    let mut source = table.open().unwrap();
    assert_eq!(all(source.as_mut()), whole(1, &[1]));
    assert_eq!(source.trouble(), None);
    for (kind, attempts) in [(ErrorKind::Transient, 1), (ErrorKind::NotFound, 2), (ErrorKind::Corrupt, 3)] {
        *table.told.rows.lock() = Err(kind);
        table.clock.advance(Duration::from_secs(10));
        assert_eq!(all(source.as_mut()), [], "{kind:?}");
        let since = Timestamp(10_000_000_000);
        let trouble = Trouble { attempts, since, error: "it cannot be read".to_owned() };
        assert_eq!(source.trouble(), Some(&trouble), "whoever looks is told");
    }
    *table.told.rows.lock() = Ok(vec![2]);
    table.clock.advance(Duration::from_secs(10));
    assert_eq!(all(source.as_mut()), whole(2, &[2]));
    assert_eq!(source.trouble(), None);
    // What is not there at a start is no loss of rows, as it would be of a stream.
    *table.told.rows.lock() = Err(ErrorKind::NotFound);
    assert_eq!(table.open().err().map(|error| error.kind), Some(ErrorKind::Transient));
}

/// A file that somebody has just emptied is no table without rows.
#[test]
fn an_input_that_is_not_whole_is_no_version() {
    let table = table(Some(Duration::from_secs(10)), 1 << 20);
    let mut source = table.open().unwrap();
    assert_eq!(all(source.as_mut()), whole(1, &[1, 2, 3]));
    (*table.told.rows.lock(), *table.told.lacks.lock()) = (Ok(vec![]), Some("t has no header"));
    table.clock.advance(Duration::from_secs(10));
    assert_eq!(all(source.as_mut()), [], "the version before counts");
    let trouble = source.trouble().map(|trouble| (trouble.attempts, trouble.error.as_str()));
    assert_eq!(trouble, Some((1, "t has no header")));
    assert_eq!(table.open().err().map(|error| error.kind), Some(ErrorKind::Transient), "nor is it one to start with");
    *table.told.lacks.lock() = None;
    table.clock.advance(Duration::from_secs(10));
    assert_eq!(all(source.as_mut()), whole(2, &[]));
    assert_eq!(source.trouble(), None);
}

/// Whoever asks does not wait for ever: it goes away, and asks again. What was read so far is not read again.
#[test]
fn a_read_goes_on_where_it_was() {
    let table = table(Some(Duration::from_secs(10)), 1 << 20);
    let mut source = table.open().unwrap();
    assert_eq!(all(source.as_mut()), whole(1, &[1, 2, 3]));
    // What it takes to read it again is kept free from the start, so that it cannot be too much only then.
    let kept_free = source.held_bytes();
    *table.told.waits.lock() = 3;
    *table.told.rows.lock() = Ok(vec![4, 5, 6]);
    table.clock.advance(Duration::from_secs(10));
    let (mut asked, mut held) = (0, 0);
    let first = loop {
        asked += 1;
        assert!(asked < 100, "it does not come to its end");
        match source.next(None).now_or_never() {
            None | Some(Ok(Next::Time(..))) => held = held.max(source.held_bytes()),
            Some(Ok(Next::Rows(rows))) => break rows,
            Some(other) => panic!("{other:?}"),
        }
    };
    let part = Part::of(&first.rows).unwrap();
    assert_eq!((part.versions.value(0), part.len()), (2, 2));
    assert!(held >= 3 * size_of::<i64>(), "what is read counts: {held}");
    assert!(held <= kept_free && source.held_bytes() <= kept_free, "{held} of {kept_free}");
    assert_eq!(all(source.as_mut()), whole(2, &[4, 5, 6])[2..]);
    assert_eq!(source.held_bytes(), 0);
}

/// What is wrong in a table is set aside once, and not with each version it is still in.
#[test]
fn what_is_no_row_is_said_once() {
    let table = table(Some(Duration::from_secs(10)), 1 << 20);
    let rejects = |source: &mut dyn Source| {
        let mut found = Vec::new();
        loop {
            match source.next(None).now_or_never().unwrap().unwrap() {
                Next::Rows(rows) => found.extend(rows.rejects.into_iter().map(|reject| reject.payload)),
                Next::Time(..) => {}
                Next::Nothing(_) | Next::Done => return found,
            }
        }
    };
    *table.told.rejects.lock() = vec!["x", "y"];
    let mut source = table.open().unwrap();
    assert_eq!(rejects(source.as_mut()), ["x", "y"]);
    let mut again = |rows: Vec<i64>, wrong: Vec<&'static str>| {
        *table.told.rows.lock() = Ok(rows);
        *table.told.rejects.lock() = wrong;
        table.clock.advance(Duration::from_secs(10));
        rejects(source.as_mut())
    };
    assert_eq!(again(vec![1, 2, 3, 4], vec!["x", "y"]), Vec::<String>::new());
    assert_eq!(again(vec![1, 2, 3, 4], vec!["x", "z"]), ["z"], "also if the rows are the same");
    assert_eq!(again(vec![1, 2, 3], vec!["y", "z"]), ["y"], "it was not there in between");
}

#[test]
fn a_table_has_a_bound_and_an_end() {
    let table = table(Some(Duration::from_secs(10)), 100);
    let mut source = table.open().unwrap();
    all(source.as_mut());
    *table.told.rows.lock() = Ok((0..1000).collect());
    table.clock.advance(Duration::from_secs(10));
    let error = loop {
        match source.next(None).now_or_never().unwrap() {
            Ok(Next::Time(..)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.message, "the rows of the table `t` take more than its `bytes_max`, 100B");
    assert_eq!(table.open().err().map(|error| error.kind), Some(ErrorKind::TooLarge));
    let endless = Arc::new(Told::new(Vec::new(), false));
    let options = TableOptions { refresh: None, bytes_max: 1 };
    let faults = TableSource::plan("t", endless, options, ManualClock::new(Timestamp(0)), None).err().unwrap();
    assert_eq!(faults[0].message, "a table is read to its end, and this has none");
}

#[test]
fn tables_have_a_bound_together() {
    let check = |written: &[Option<u64>], state: u64, is_read_once: bool, expected: Result<&[u64], &str>| {
        let written: Vec<_> = written.iter().map(|written| written.map(ByteSize)).collect();
        let found =
            bounds_of(&written, state, is_read_once).map_err(|fault| format!("{} ({})", fault.message, fault.hint));
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{written:?} of {state}");
    };
    check(&[], 0, false, Ok(&[]));
    check(&[None, Some(5)], 1 << 30, false, Ok(&[64 << 20, 5]));
    check(&[None, None], 1 << 20, false, Ok(&[256 << 10, 256 << 10]));
    check(&[None, None], 1 << 20, true, Ok(&[512 << 10, 512 << 10]));
    let (state, hint) = (
        "the 20B of state the pipeline may have (give them smaller `bytes_max`, together at most",
        "in a server the limit `pipeline_state_bytes_max` of the tenant says how much state there may be)",
    );
    let message = format!(
        "the rows of all tables may take 17B together, and twice that while they are read again, more than {state} 10B; {hint}"
    );
    check(&[Some(12), None], 20, false, Err(&message));
    let message = format!("the rows of all tables may take 22B together, more than {state} 20B; {hint}");
    check(&[Some(12), None], 20, true, Err(&message));
    let message = "the rows of all tables may take 2GiB together, more than the 1GiB there may be (give them smaller `bytes_max`)";
    check(&[Some(2 << 30)], 8 << 30, false, Err(message));
}

/// Beside sources that end it is read once, and is no reason to go on.
#[test]
fn a_table_that_is_read_once_ends() {
    let table = table(None, 1 << 20);
    assert!(table.planned.is_bounded());
    let mut source = table.open().unwrap();
    assert_eq!(all(source.as_mut()), whole(1, &[1, 2, 3]));
    table.clock.advance(Duration::from_secs(100_000));
    assert!(matches!(source.next(None).now_or_never().unwrap(), Ok(Next::Done)));
}

/// A pipeline that looks rows up in a table which has another name in each plan.
fn plan_with(table: &Table, name: &str, stream: &Arc<MemoryStream>) -> Plan {
    let language = Language::new(Arc::new(NoKinds), Arc::<ManualClock>::clone(&table.clock));
    let spec = STEPS.iter().find(|spec| spec.name == "lookup").unwrap();
    let context = StepContext {
        input: stream.schema(),
        others: vec![table.planned.schema()],
        language: &language,
        when: None,
        identity: None,
    };
    let step = (spec.plan)(&json!({ "table": name, "on": ["n"] }), &context);
    let source = |id: &str, source: Arc<dyn PlannedSource>| PlanSource {
        id: id.to_owned(),
        source,
        time: None,
        disorder: Duration::ZERO,
        idle: None,
        align: None,
    };
    let rows = Arc::new(MemorySource { stream: Arc::clone(stream), time: None });
    Plan {
        pipeline: "p".to_owned(),
        sources: vec![source("from", rows), source(&format!("table_{name}"), Arc::clone(&table.planned))],
        steps: vec![PlanStep {
            id: "lookup".to_owned(),
            step: step.unwrap(),
            inputs: vec![Input::Source(0), Input::Source(1)],
        }],
        sinks: vec![PlanSink {
            id: "results".to_owned(),
            sink: Arc::new(MemorySink(Arc::clone(&table.results))),
            input: Input::Step { step: 0, branch: 0 },
            key: Vec::new(),
            breaker: BreakerOptions::default(),
        }],
        late: None,
        dead: None,
        parallelism: 1,
    }
}

struct Running {
    steps: Steps,
    progress: Arc<Progress>,
}

fn run(table: &Table, plan: &Plan, store: &Arc<MemoryStore>, state_bytes_max: usize) -> Running {
    let interval = Some(Duration::from_millis(10));
    let options = JobOptions { checkpoint_interval: interval, state_bytes_max, ..JobOptions::default() };
    let clock = Arc::<ManualClock>::clone(&table.clock);
    let job = Job::open(plan, Arc::<MemoryStore>::clone(store), clock, options).now_or_never().unwrap().unwrap();
    Running { progress: Arc::clone(job.progress()), steps: Steps::new(job) }
}

impl Running {
    /// Goes on for so long.
    fn pass(&mut self, table: &Table, time: Duration) -> Result<(), JobError> {
        for _ in 0..10 {
            table.clock.advance(time / 10);
            settle(&mut self.steps, &mut Seeded::new(1), usize::MAX)?;
        }
        Ok(())
    }
}

/// What is counted as read are the rows of the stream; those of a table are counted apart, and what says that a
/// version is whole is nothing of either.
#[test]
fn rows_of_a_table_are_counted_apart() {
    let (table, stream) =
        (table(Some(Duration::from_secs(1)), 1 << 20), MemoryStream::new(numbers(&[]).schema(), &["p"]));
    stream.send("p", numbers(&[3, 1, 9, 1]));
    let mut running = run(&table, &plan_with(&table, "t", &stream), &Arc::default(), usize::MAX);
    running.pass(&table, Duration::from_millis(100)).unwrap();
    let counted = |running: &Running| {
        let of = |at: usize, counter: fn(&NodeStats) -> u64| counter(&running.progress.sources[at].1);
        let rows_in = |stats: &NodeStats| NodeStats::get(&stats.rows_in);
        let table_rows = |stats: &NodeStats| NodeStats::get(&stats.table_rows);
        let step = &running.progress.steps[0].1;
        (
            of(0, rows_in),
            of(1, rows_in),
            of(1, table_rows),
            NodeStats::get(&step.rows_in),
            NodeStats::get(&step.rows_out),
        )
    };
    assert_eq!(counted(&running), (4, 0, 3, 4, 3));
    *table.told.rows.lock() = Ok(vec![1, 2]);
    running.pass(&table, Duration::from_secs(2)).unwrap();
    assert_eq!(counted(&running), (4, 0, 5, 4, 3));
    // What it goes on without is said where whoever looks finds it.
    *table.told.rows.lock() = Err(ErrorKind::Corrupt);
    running.pass(&table, Duration::from_secs(2)).unwrap();
    let trouble = running.progress.sources[1].1.source.trouble().unwrap();
    assert!(trouble.attempts > 0 && trouble.error == "it cannot be read", "{trouble:?}");
    *table.told.rows.lock() = Ok(vec![1]);
    running.pass(&table, Duration::from_secs(2)).unwrap();
    assert_eq!(running.progress.sources[1].1.source.trouble(), None);
}

/// Nothing of a table is in a checkpoint, so nothing is lost when it has another name or is not read any more.
#[test]
fn a_table_with_another_name_loses_nothing() {
    let (table, stream) =
        (table(Some(Duration::from_secs(1)), 1 << 20), MemoryStream::new(numbers(&[]).schema(), &["p"]));
    let store: Arc<MemoryStore> = Arc::default();
    stream.send("p", numbers(&[3, 1]));
    let plan = plan_with(&table, "t", &stream);
    let mut running = run(&table, &plan, &store, usize::MAX);
    running.pass(&table, Duration::from_millis(100)).unwrap();
    drop(running);
    let resumes = |plan: &Plan| plan.resumes(store.as_ref()).now_or_never().unwrap();
    let epoch = resumes(&plan).unwrap();
    assert!(epoch.is_some());
    let renamed = plan_with(&table, "people", &stream);
    assert_eq!(resumes(&renamed).unwrap(), epoch);
    // What was read of a source is lost without it, and that is said.
    let mut without = plan_with(&table, "t", &stream);
    without.sources[0].id = "other".to_owned();
    assert!(matches!(resumes(&without), Err(JobError::Changed { .. })));
    stream.send("p", numbers(&[2]));
    let mut running = run(&table, &renamed, &store, usize::MAX);
    running.pass(&table, Duration::from_millis(100)).unwrap();
    assert_eq!(NodeStats::get(&running.progress.sources[0].1.rows_in), 1, "it goes on where it was");
}

/// What is read of a table counts as state of its pipeline, from the first piece on.
#[test]
fn a_table_that_is_read_counts_as_state() {
    let (table, stream) =
        (table(Some(Duration::from_secs(1)), 1 << 30), MemoryStream::new(numbers(&[]).schema(), &["p"]));
    let mut running = run(&table, &plan_with(&table, "t", &stream), &Arc::default(), 100_000);
    running.pass(&table, Duration::from_millis(100)).unwrap();
    *table.told.rows.lock() = Ok((0..100_000).collect());
    let failed = running.pass(&table, Duration::from_secs(2)).err();
    assert!(matches!(failed, Some(JobError::StateTooLarge { max: 100_000, .. })), "{failed:?}");
    let given = NodeStats::get(&running.progress.sources[1].1.table_rows);
    assert_eq!(given, 3, "those of the first version: nothing of the second was given to anybody");
}
