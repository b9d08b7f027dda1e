//! Rows that can be told apart, and somebody who keeps all that is published.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use weir_base::clock::ManualClock;
use weir_base::{StreamName, TenantId, Timestamp};
use weir_log::{
    Append, AppendPart, Appended, Commit, Damage, Durability, Log, LogError, LogOptions, Position, Subscriber,
};
use weir_testkit::sim_disk::SimDisk;

pub(crate) const DIR: &str = "/data/log";
pub(crate) const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

/// A row as tests see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Row {
    pub(crate) tenant: String,
    pub(crate) stream: String,
    pub(crate) id: String,
    pub(crate) value: i64,
}

impl Row {
    /// Whether it is one of that stream.
    pub(crate) fn is_of(&self, tenant: &str, stream: &str) -> bool {
        self.tenant == tenant && self.stream == stream
    }
}

/// Somebody who wants everything from an offset on, and remembers it.
#[derive(Default)]
pub(crate) struct Keeper {
    pub(crate) from: u64,
    pub(crate) rows: Mutex<Vec<Row>>,
    pub(crate) positions: Mutex<Vec<Position>>,
    pub(crate) damages: Mutex<Vec<Damage>>,
}

impl Subscriber for Keeper {
    fn wants(&self, _tenant: &TenantId, _stream: &StreamName, position: Position) -> bool {
        position.offset >= self.from
    }

    fn committed(&self, commit: &Commit) {
        for record in &commit.records {
            self.positions.lock().unwrap().push(record.position);
            self.rows.lock().unwrap().extend(rows_of(record.tenant.as_str(), record.stream.as_str(), &record.batch));
        }
    }

    fn damaged(&self, damage: &Damage) {
        self.damages.lock().unwrap().push(damage.clone());
    }
}

impl Keeper {
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.rows.lock().unwrap().clone()
    }
}

pub(crate) fn rows_of(tenant: &str, stream: &str, batch: &RecordBatch) -> Vec<Row> {
    let ids = batch.column_by_name("event_id").map(|ids| ids.as_string::<i32>().clone());
    let values = batch.column_by_name("value").unwrap().as_primitive::<Int64Type>().clone();
    (0..batch.num_rows())
        .map(|row| Row {
            tenant: tenant.to_owned(),
            stream: stream.to_owned(),
            id: ids.as_ref().filter(|ids| ids.is_valid(row)).map_or(String::new(), |ids| ids.value(row).to_owned()),
            value: values.value(row),
        })
        .collect()
}

/// A batch of the test's own stream: id (may be empty for null), value, and a time.
pub(crate) fn batch(rows: &[(&str, i64)]) -> RecordBatch {
    let ids: StringArray = rows.iter().map(|(id, _)| (!id.is_empty()).then_some(*id)).collect();
    let values: Int64Array = rows.iter().map(|(_, value)| Some(*value)).collect();
    let times: TimestampNanosecondArray = rows.iter().map(|(_, value)| Some(*value)).collect();
    let times = times.with_timezone("UTC");
    let columns: Vec<(Field, ArrayRef)> = vec![
        (Field::new("time", times.data_type().clone(), false), Arc::new(times)),
        (Field::new("event_id", DataType::Utf8, true), Arc::new(ids)),
        (Field::new("value", DataType::Int64, true), Arc::new(values)),
    ];
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub(crate) fn part(stream: &str, rows: &[(&str, i64)]) -> AppendPart {
    AppendPart { stream: StreamName::new(stream).unwrap(), batch: batch(rows), id_column: Some("event_id") }
}

pub(crate) fn append(name: &str, parts: Vec<AppendPart>) -> Append {
    Append { tenant: tenant(name), parts, idempotency_key: None, producer: None, durability: Durability::Disk }
}

/// Small enough that every test sees several segments and runs.
pub(crate) fn small_options() -> LogOptions {
    LogOptions {
        segment_bytes: 8 << 10,
        commit_bytes_max: 64 << 10,
        queue_bytes_max: 1 << 20,
        reserve_bytes: 8 << 10,
        dedup_memory_ids_max: 64,
        ..LogOptions::new(DIR)
    }
}

/// An open log on a simulated disk, driven by hand.
pub(crate) struct Bench {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) log: Arc<Log>,
}

pub(crate) fn try_open(disk: &Arc<SimDisk>, clock: &Arc<ManualClock>) -> Result<Bench, LogError> {
    try_open_with(disk, clock, small_options(), 0)
}

pub(crate) fn try_open_with(
    disk: &Arc<SimDisk>,
    clock: &Arc<ManualClock>,
    options: LogOptions,
    from: u64,
) -> Result<Bench, LogError> {
    let keeper = Arc::new(Keeper { from, ..Keeper::default() });
    let log = Log::open_without_threads(
        options,
        Arc::clone(disk) as _,
        Arc::clone(clock) as _,
        vec![Arc::clone(&keeper) as _],
    )?;
    Ok(Bench { disk: Arc::clone(disk), clock: Arc::clone(clock), keeper, log })
}

pub(crate) fn open(disk: &Arc<SimDisk>) -> Bench {
    try_open(disk, &ManualClock::new(START)).unwrap()
}

impl Bench {
    /// Appends and commits at once.
    pub(crate) fn append(&self, append: Append) -> Result<Appended, LogError> {
        let answer = self.log.append(append);
        self.log.step();
        answer.now().unwrap()
    }

    /// Lets the log be idle long enough for its watermark.
    pub(crate) fn rest(&self) {
        self.clock.advance(Duration::from_millis(25));
        self.log.step();
    }

    /// Closes and opens again, with everything wanted.
    pub(crate) fn reopen(self) -> Self {
        self.log.close();
        let Self { disk, clock, log, .. } = self;
        drop(log);
        try_open(&disk, &clock).unwrap()
    }
}

/// The segment files on a disk.
pub(crate) fn segments(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    disk.files_under(Path::new(DIR))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect()
}
