//! Runs text tests: each in several ways against the same expectation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::Value as Json;
use weir_base::clock::{ManualClock, SystemClock};
use weir_base::{Clock, Diagnostic, Timestamp};
use weir_component::sink::PlannedSink;
use weir_component::source::PlannedSource;
use weir_component::spec::Fault;
use weir_document::{NoFills, Syntax};
use weir_engine::{Job, JobOptions, Plan, Steps};
use weir_sql::expressions::{Language, NoKinds};

use super::file::{TextTest, What};
use super::memory::{MemorySink, MemorySource, MemoryStore, MemoryStream, MemoryTable, MemoryWhole};
use super::schedule::{Rest, Seeded, settle};
use super::table::{TextTable, cell_of_text, render, shown};
use crate::document::{Component, Document, Output, Table};
use crate::ends::Ends;
use crate::plan::{GRAMMAR, plan};

/// One of the ways a test is run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As it is written: one batch a section, one instance a step.
    Straight,
    /// Batches cut at random, tasks in a random order.
    Cut {
        /// What chance is drawn from.
        seed: u64,
    },
    /// Steps in three instances.
    Parallel,
    /// With crashes at random, and another parallelism after each.
    Crashing {
        /// What chance is drawn from.
        seed: u64,
    },
}

impl Way {
    /// The ways every test is run in.
    pub const ALL: [Self; 7] = [
        Self::Straight,
        Self::Parallel,
        Self::Cut { seed: 1 },
        Self::Cut { seed: 2 },
        Self::Crashing { seed: 1 },
        Self::Crashing { seed: 2 },
        Self::Crashing { seed: 3 },
    ];

    fn describe(self) -> String {
        match self {
            Self::Straight => "run straight".to_owned(),
            Self::Cut { seed } => format!("with batches cut at random (seed {seed})"),
            Self::Parallel => "at parallelism 3".to_owned(),
            Self::Crashing { seed } => format!("with crashes in between (seed {seed})"),
        }
    }

    fn seed(self) -> u64 {
        match self {
            Self::Straight | Self::Parallel => 0,
            Self::Cut { seed } | Self::Crashing { seed } => seed,
        }
    }
}

/// How often checkpoints are made, in simulated time.
const INTERVAL: Duration = Duration::from_secs(1);
/// More turns than any test takes.
const TURNS_MAX: usize = 10_000_000;
/// The sink, or source, of a stream of Weir.
const STREAM: &str = "stream";
/// What rows of a source that is no stream are sent to.
const INPUT: &str = "input";

/// Sources and sinks of a test.
struct TestEnds {
    clock: Arc<ManualClock>,
    /// Columns of what is sent, by name.
    schemas: BTreeMap<String, SchemaRef>,
    streams: Mutex<BTreeMap<String, Arc<MemoryStream>>>,
    tables: Mutex<BTreeMap<String, Arc<MemoryTable>>>,
    partitions: BTreeMap<String, Vec<String>>,
    /// Sections whose rows are there from the start.
    present: Vec<usize>,
    /// No time passes in which a table could change, so tables end with the streams.
    are_tables_fixed: bool,
    pipeline: String,
}

fn stream_name(component: &Component) -> Option<&str> {
    let config = component.config();
    (component.name == STREAM).then(|| config.as_str().or_else(|| config["name"].as_str())).flatten()
}

/// Whether there is a column `time` that can be the event time.
fn has_time(schema: &SchemaRef) -> bool {
    schema.field_with_name("time").is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(..)))
}

impl TestEnds {
    fn table(&self, name: &str) -> Arc<MemoryTable> {
        Arc::clone(self.tables.lock().entry(name.to_owned()).or_default())
    }
}

impl Ends for TestEnds {
    fn source(&self, component: &Component) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
        let name = stream_name(component).unwrap_or(INPUT);
        let built_in = weir_data::streams::stream(name).map(|stream| weir_sql::expressions::stream_schema(stream));
        let Some(schema) = built_in.or_else(|| self.schemas.get(name).cloned()) else {
            let hint = format!("give its rows under `--- send {name}`");
            return Err(vec![Fault::new(
                "",
                format!("the test sends nothing to `{name}`, so its columns are not known"),
                hint,
            )]);
        };
        let partitions = self.partitions.get(name).cloned().unwrap_or_default();
        let names: Vec<&str> = partitions.iter().map(String::as_str).collect();
        let stream = MemoryStream::new(schema, &names);
        self.streams.lock().insert(name.to_owned(), Arc::clone(&stream));
        // Every stream has its event time in this column.
        let is_stream = component.name == STREAM && has_time(&stream.schema());
        Ok(Arc::new(MemorySource { stream, time: is_stream.then_some("time") }))
    }

    fn table(&self, table: &Table) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
        let Some(schema) = self.schemas.get(&table.id).cloned() else {
            let hint = format!("give its rows under `--- send {}`", table.id);
            return Err(vec![Fault::new("", format!("the test sends no rows of the table `{}`", table.id), hint)]);
        };
        // Tables that several plans of a test read are the same.
        let stream = MemoryStream::new(schema, &[]);
        self.streams.lock().insert(table.id.clone(), Arc::clone(&stream));
        Ok(Arc::new(MemoryWhole(stream)))
    }

    fn are_tables_fixed(&self) -> bool {
        self.are_tables_fixed
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn sink(&self, output: &Output, _schema: &SchemaRef) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
        let name = stream_name(&output.component).unwrap_or(&output.id);
        Ok(Arc::new(MemorySink(self.table(name))))
    }

    fn late(&self) -> Option<Arc<dyn PlannedSink>> {
        Some(Arc::new(MemorySink(self.table(&format!("{}_late", self.pipeline)))))
    }

    fn dead(&self) -> Option<Arc<dyn PlannedSink>> {
        Some(Arc::new(MemorySink(self.table(&format!("{}_dead", self.pipeline)))))
    }
}

/// How a test went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As expected, every way.
    Passed,
    /// Not as expected: what people are told.
    Failed(String),
}

/// A test that was run straight, with what it really gave.
struct Outcome {
    /// Bodies of `expect` sections as they should be, by section.
    actual: Vec<(usize, String)>,
    /// The first thing that is not as expected.
    mismatch: Option<String>,
}

impl TextTest {
    /// Runs the test in all ways. `folder` is what paths in it are relative to.
    pub fn run(&self, folder: &Path) -> Verdict {
        for way in Way::ALL {
            match self.run_way(folder, way) {
                Ok(Outcome { mismatch: None, .. }) => {}
                Ok(Outcome { mismatch: Some(message), .. }) | Err(message) => {
                    return Verdict::Failed(format!("{message}\n({})", way.describe()));
                }
            }
        }
        Verdict::Passed
    }

    /// The text of the test with expectations that are what a straight run gives, and how that test goes: rows nobody
    /// expects, or results that are not the same every way, are not mended by writing down others.
    ///
    /// # Errors
    /// If the run comes to no end.
    pub fn blessed(&self, folder: &Path) -> Result<(String, Verdict), String> {
        let text = self.with_bodies(&self.run_way(folder, Way::Straight)?.actual);
        let verdict = match Self::parse(&self.name, &text) {
            Ok(test) => test.run(folder),
            Err(problems) => Verdict::Failed(problems.iter().map(|problem| format!("{problem}\n")).collect()),
        };
        Ok((text, verdict))
    }

    fn document(&self, folder: &Path) -> Result<Result<Document, Vec<Diagnostic>>, String> {
        let section = &self.sections[0];
        let What::Pipeline { path } = &section.what else { return Err("a test begins with a pipeline".to_owned()) };
        match path {
            Some(path) => Ok(GRAMMAR.read_file_as_far(&folder.join(path), &NoFills)),
            None => {
                // Places in the document are lines of the test.
                let text = "\n".repeat(section.line) + &self.text[section.body.clone()];
                // What is expected of problems does not depend on from where the test was started.
                let name = Path::new(&self.name)
                    .file_name()
                    .map_or_else(|| self.name.as_str().into(), |name| name.to_string_lossy());
                Ok(GRAMMAR.read_as_far(&name, Syntax::Yaml, &text, &NoFills))
            }
        }
    }

    fn plan(&self, folder: &Path) -> Result<Result<(Plan, TestEnds), Vec<Diagnostic>>, String> {
        let document = match self.document(folder)? {
            Ok(document) => document,
            Err(problems) => return Ok(Err(problems)),
        };
        let mut ends = TestEnds {
            clock: ManualClock::new(Timestamp(0)),
            schemas: BTreeMap::new(),
            streams: Mutex::default(),
            tables: Mutex::default(),
            partitions: BTreeMap::new(),
            present: Vec::new(),
            are_tables_fixed: !self.lets_time_pass(),
            pipeline: document.name.clone(),
        };
        let mut sent: BTreeMap<&str, Vec<&TextTable>> = BTreeMap::new();
        for section in &self.sections {
            if let What::Send { stream, partition, table } = &section.what {
                sent.entry(stream).or_default().push(table);
                let partitions = ends.partitions.entry(stream.clone()).or_default();
                if !partitions.contains(partition) {
                    partitions.push(partition.clone());
                }
            }
        }
        ends.schemas = sent.into_iter().map(|(name, tables)| (name.to_owned(), TextTable::schema(tables))).collect();
        let language = Language::new(Arc::new(NoKinds), SystemClock::new());
        let planned = plan(&document, &ends, &language, 1);
        // A table is there before the pipeline is.
        for table in &document.tables {
            let first = self.sections.iter().enumerate().find_map(|(at, section)| match &section.what {
                What::Send { stream, partition, table: rows } if *stream == table.id => Some((at, partition, rows)),
                _ => None,
            });
            let stream = ends.streams.lock().get(&table.id).cloned();
            if let (Some((at, partition, rows)), Some(stream)) = (first, stream) {
                stream.send(partition, rows.batch(&stream.schema())?);
                ends.present.push(at);
            }
        }
        Ok(planned.map(|plan| (plan, ends)))
    }

    fn run_way(&self, folder: &Path, way: Way) -> Result<Outcome, String> {
        let (plan, ends) = match self.plan(folder)? {
            Ok(planned) => planned,
            Err(problems) => return self.compare_problems(&problems),
        };
        if let Some(section) = self.sections.iter().find(|section| matches!(section.what, What::ExpectProblems)) {
            return Err(format!("{}:{}: the pipeline has no problems", self.name, section.line));
        }
        let has_early = plan.steps.iter().any(|step| step.step.early().is_some());
        if matches!(way, Way::Crashing { .. }) && (self.lets_time_pass() || has_early) {
            // A crash forgets how long it has been silent, or since when results wait, as it should: the results
            // come later.
            return Ok(Outcome { actual: Vec::new(), mismatch: None });
        }
        let mut run = Running::new(plan, ends, way)?;
        let mut outcome = Outcome { actual: Vec::new(), mismatch: None };
        for (at, section) in self.sections.iter().enumerate() {
            let place = format!("{}:{}", self.name, section.line);
            match &section.what {
                What::Pipeline { .. } | What::ExpectProblems => {}
                What::Send { .. } if run.ends.present.contains(&at) => {}
                What::Send { stream, partition, table } => {
                    run.send(stream, partition, table).map_err(|message| format!("{place}: {message}"))?;
                }
                What::Advance(span) => run.advance(span.0)?,
                What::End => run.end()?,
                What::Expect { name, table } => {
                    let columns: Vec<String> = table.columns.iter().map(|(name, _)| name.clone()).collect();
                    let (columns, actual) =
                        run.new_rows(name, columns).map_err(|message| format!("{place}: {message}"))?;
                    let mut sorted = (actual.clone(), table.rows.clone());
                    sorted.0.sort();
                    sorted.1.sort();
                    if sorted.0 != sorted.1 && outcome.mismatch.is_none() {
                        outcome.mismatch = Some(difference(&place, name, &columns, &table.rows, &actual));
                    }
                    let is_nothing = table.columns.is_empty() && actual.is_empty();
                    outcome.actual.push((at, if is_nothing { String::new() } else { render(&columns, &actual) }));
                }
            }
        }
        if outcome.mismatch.is_none() {
            outcome.mismatch = run.left_over()?;
        }
        Ok(outcome)
    }

    fn lets_time_pass(&self) -> bool {
        self.sections.iter().any(|section| matches!(section.what, What::Advance(_)))
    }

    fn compare_problems(&self, problems: &[Diagnostic]) -> Result<Outcome, String> {
        let actual: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        let expecting = |section: &super::file::Section| matches!(section.what, What::ExpectProblems);
        let Some(at) = self.sections.iter().position(expecting) else { return Err(actual) };
        let expected: Vec<&str> = self.text[self.sections[at].body.clone()].lines().collect();
        let expected: Vec<&str> = expected.into_iter().filter(|line| !line.trim().is_empty()).collect();
        let mismatch = (actual.lines().collect::<Vec<_>>() != expected)
            .then(|| format!("{}:{}: other problems than expected:\n{actual}", self.name, self.sections[at].line));
        Ok(Outcome { actual: vec![(at, actual)], mismatch })
    }
}

/// What was expected and did not come, and what came and was not expected.
fn difference(place: &str, name: &str, columns: &[String], expected: &[Vec<String>], actual: &[Vec<String>]) -> String {
    let mut missing = expected.to_vec();
    let mut surplus = Vec::new();
    for row in actual {
        match missing.iter().position(|other| other == row) {
            Some(at) => drop(missing.remove(at)),
            None => surplus.push(row.clone()),
        }
    }
    let all: Vec<Vec<String>> = missing.iter().chain(&surplus).cloned().collect();
    let lines: Vec<String> = render(columns, &all).lines().map(str::to_owned).collect();
    let mut text = format!("{place}: the rows of {name} are not those expected\n  {}", lines[0]);
    for (at, line) in lines[1..].iter().enumerate() {
        let sign = if at < missing.len() { '-' } else { '+' };
        text.push_str(&format!("\n{sign} {line}"));
    }
    text
}

/// A pipeline under test.
struct Running {
    plan: Plan,
    ends: TestEnds,
    way: Way,
    seeded: Seeded,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    /// `None` once it has ended.
    steps: Option<Steps>,
    /// Rows of each sink that were compared.
    seen: BTreeMap<String, usize>,
    may_crash: bool,
}

impl Running {
    fn new(mut plan: Plan, ends: TestEnds, way: Way) -> Result<Self, String> {
        if way == Way::Parallel {
            plan.parallelism = 3;
        }
        let clock = Arc::clone(&ends.clock);
        let mut running = Self {
            plan,
            ends,
            way,
            seeded: Seeded::new(way.seed()),
            store: Arc::default(),
            clock,
            steps: None,
            seen: BTreeMap::new(),
            may_crash: true,
        };
        running.open()?;
        Ok(running)
    }

    fn open(&mut self) -> Result<(), String> {
        let options = JobOptions { checkpoint_interval: Some(INTERVAL), ..JobOptions::default() };
        let store: Arc<MemoryStore> = Arc::clone(&self.store);
        let job = Job::open(&self.plan, store, self.clock.clone(), options).now_or_never();
        let job = job.ok_or("opening a pipeline in memory had to wait")?.map_err(|error| error.to_string())?;
        self.steps = (!job.is_finished()).then(|| Steps::new(job));
        Ok(())
    }

    /// Lets the pipeline work until it has nothing to do.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            let Some(steps) = &mut self.steps else { return Ok(()) };
            let until = match self.way {
                Way::Crashing { .. } if self.may_crash && self.seeded.below(2) == 0 => 1 + self.seeded.below(40),
                _ => TURNS_MAX,
            };
            match settle(steps, &mut self.seeded, until).map_err(|error| error.to_string())? {
                Rest::Quiet(_) => return Ok(()),
                Rest::Ended(_) => self.steps = None,
                Rest::Enough if until == TURNS_MAX => return Err("the pipeline comes to no rest".to_owned()),
                Rest::Enough => {
                    self.steps = None;
                    self.plan.parallelism = 1 + self.seeded.below(3);
                    self.open()?;
                }
            }
        }
    }

    fn send(&mut self, stream: &str, partition: &str, table: &TextTable) -> Result<(), String> {
        let known = self.ends.streams.lock().get(stream).cloned();
        let schema = match weir_data::streams::stream(stream) {
            Some(built_in) => weir_sql::expressions::stream_schema(built_in),
            None => self.ends.schemas[stream].clone(),
        };
        let Some(known) = known else {
            return Err(format!("the pipeline does not read `{stream}`"));
        };
        known.send(partition, table.batch(&schema)?);
        if !matches!(self.way, Way::Straight | Way::Parallel) {
            known.cut((0..20).map(|_| self.seeded.below(4)).collect::<Vec<_>>());
        }
        self.settle()
    }

    fn advance(&mut self, time: Duration) -> Result<(), String> {
        self.clock.advance(time);
        self.settle()
    }

    fn end(&mut self) -> Result<(), String> {
        for stream in self.ends.streams.lock().values() {
            stream.end();
        }
        self.settle()
    }

    /// Rows that have come to a sink since the last time, after a checkpoint, with their columns: those that are wanted,
    /// or all if none is named.
    fn new_rows(&mut self, name: &str, mut columns: Vec<String>) -> Result<(Vec<String>, Vec<Vec<String>>), String> {
        // One that was under way, and one that begins now; the last one is not crashed, or there might be
        // none at all. Before it, results that were put out only after the last crash are in an epoch.
        for may_crash in [true, true, false, false] {
            self.may_crash = may_crash;
            self.clock.advance(INTERVAL);
            self.settle()?;
        }
        self.may_crash = true;
        let Some(table) = self.ends.tables.lock().get(name).cloned() else {
            let names: Vec<String> = self.ends.tables.lock().keys().cloned().collect();
            return Err(format!("there is no sink `{name}`; there are {}", names.join(", ")));
        };
        let is_aside = name == format!("{}_late", self.ends.pipeline) || name == format!("{}_dead", self.ends.pipeline);
        let mut batches = table.rows();
        if is_aside && !batches.is_empty() {
            let whole = concat_batches(&batches[0].schema(), &batches).map_err(|error| error.to_string())?;
            batches = vec![with_row(&whole, &columns)?];
        }
        if let (Some(batch), true) = (batches.first(), columns.is_empty()) {
            columns = batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        }
        let mut rows = Vec::new();
        for batch in batches {
            rows.extend(shown(&batch, &columns)?);
        }
        let seen = self.seen.insert(name.to_owned(), rows.len()).unwrap_or(0);
        Ok((columns, rows.split_off(seen.min(rows.len()))))
    }

    /// Rows of sinks that are looked at, and that came after the last look.
    fn left_over(&mut self) -> Result<Option<String>, String> {
        self.may_crash = false;
        // Nobody has to say that no row is to fail.
        self.seen.entry(format!("{}_dead", self.ends.pipeline)).or_insert(0);
        for (name, seen) in self.seen.clone() {
            self.clock.advance(INTERVAL);
            self.settle()?;
            let table = self.ends.tables.lock().get(&name).cloned();
            let now: usize = table.iter().flat_map(|table| table.rows()).map(|rows| rows.num_rows()).sum();
            if now > seen {
                let more = now - seen;
                return Ok(Some(format!(
                    "{more} more rows came to {name} than the test looks at: say which, under `--- expect {name}`"
                )));
            }
        }
        Ok(None)
    }
}

/// Rows that were set aside, with the wanted columns of the original rows beside them.
fn with_row(aside: &RecordBatch, columns: &[String]) -> Result<RecordBatch, String> {
    let Some(texts) = aside.column_by_name("row").and_then(|column| column.as_string_opt::<i32>()) else {
        return Ok(aside.clone());
    };
    let parsed: Vec<Json> =
        (0..texts.len())
            .map(|row| {
                if texts.is_null(row) {
                    Json::Null
                } else {
                    serde_json::from_str(texts.value(row)).unwrap_or(Json::Null)
                }
            })
            .collect();
    let mut fields = Vec::new();
    for column in columns {
        // Beside its own columns, those of the rows; of the same name, those of the rows.
        if parsed.iter().all(|row| row.get(column).is_none()) {
            continue;
        }
        let cells = parsed.iter().map(|row| vec![row.get(column).map_or_else(|| "null".to_owned(), cell_of)]);
        let table = TextTable { columns: vec![(column.clone(), None)], rows: cells.collect() };
        let batch = table.batch(&TextTable::schema([&table]))?;
        fields.push((column.clone(), Arc::clone(batch.column(0))));
    }
    let own = aside.schema();
    let kept = own
        .fields()
        .iter()
        .zip(aside.columns())
        .filter(|(field, _)| fields.iter().all(|(name, _)| name != field.name()));
    let kept: Vec<(String, ArrayRef)> =
        kept.map(|(field, column)| (field.name().clone(), Arc::clone(column))).collect();
    RecordBatch::try_from_iter(kept.into_iter().chain(fields)).map_err(|error| error.to_string())
}

/// A JSON value as the cell of a test.
fn cell_of(value: &Json) -> String {
    match value {
        Json::String(text) => cell_of_text(text),
        other => other.to_string(),
    }
}

/// The tests in a file or folder, in the order of their names.
///
/// # Errors
/// If the path cannot be read.
pub fn find(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            found.extend(find(&entry)?);
        } else if entry.extension().is_some_and(|extension| extension == "wt") {
            found.push(entry);
        }
    }
    Ok(found)
}
