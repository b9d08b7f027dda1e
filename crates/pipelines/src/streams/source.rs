//! A stream as a source: the shard of the tenant is its one partition.
//!
//! Time goes by the log alone, so that what is late is a function of what is in it: before the rows of a commit, the
//! partition has come at least to the time of that commit less `quiet`. While nothing comes, time goes on with the
//! log's clock, which is never ahead of a later commit; so it closes windows early or late and changes no result.
//!
//! Time that goes on without rows goes in strides ([`StreamSource::floor`]), with a commit as with the clock: each is a message
//! through the whole pipeline, and rows that lie between two of them cannot be given together.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef, TimestampNanosecondType};
use arrow::temporal_conversions::timestamp_ns_to_datetime;
use async_trait::async_trait;
use serde_json::json;
use weir_base::{ErrorKind, Kinded, StreamName, Timestamp};
use weir_component::batch::bytes_of;
use weir_component::source::{
    Next, PartitionName, PlannedSource, Source, SourceError, SourcePosition, SourceReject, SourceRows,
};
use weir_component::streams::{ReadStream, Revisions, StreamStart};
use weir_data::batch::conform;
use weir_data::defined::{BEGAN_AT, IS_FINAL, RETRACTED, REVISION};
use weir_data::streams::StreamDef;
use weir_log::{LogError, LogReader, Lost, Position, Read, Record};
use weir_sql::expressions::stream_schema;

use super::{Resume, Shared};

/// Rows that are given at once, if there are as many; a record is not cut.
const BATCH_ROWS: usize = if cfg!(test) { 12 } else { 8192 };
/// A pipeline with less of the log before it than this is near to being overrun, ...
const HEADROOM_MIN: f64 = 0.25;
/// ... which is said so often.
const WARNED_EVERY: Duration = Duration::from_secs(60);
/// Time that goes on without rows makes strides of one part in so many of `quiet`.
const STRIDE_PART: u32 = 32;
/// While nothing comes, time is told so many times until as much of it has passed again.
const TOLD_PART: u32 = 8;
/// Until there is time to be told a silent source waits so many times as long as it does otherwise.
const SILENT_WAITS: u32 = 4;
/// How long nobody asks a source again that has nothing.
const NOTHING: Duration = Duration::from_millis(1);

/// A stream that can be read.
pub(super) struct StreamSourcePlan {
    shared: Arc<Shared>,
    name: StreamName,
    schema: SchemaRef,
    start: StreamStart,
    quiet: Duration,
    /// Only final results are read.
    is_final: bool,
}

impl StreamSourcePlan {
    pub(super) fn new(shared: &Arc<Shared>, name: StreamName, stream: &StreamDef, read: &ReadStream) -> Self {
        let (schema, is_final) = columns_of(stream, read);
        Self { shared: Arc::clone(shared), name, schema, start: read.start, quiet: read.quiet, is_final }
    }

    /// Where to begin, or to go on.
    fn begin(&self, shard: u16, place: Option<&serde_json::Value>) -> Result<Place, SourceError> {
        let Shared { log, options, .. } = self.shared.as_ref();
        let end = Place { position: log.end(shard), committed_at: i64::MIN };
        let oldest = Place { position: log.oldest(shard), committed_at: i64::MIN };
        let Some(place) = place else {
            return match self.start {
                StreamStart::Oldest => Ok(oldest),
                StreamStart::Now => {
                    let since = options.began.get(self.name.as_str()).copied().unwrap_or(options.since);
                    let position = log.position_at(shard, since).map_err(|error| failed(&self.name, &error))?;
                    Ok(Place { position, committed_at: i64::MIN })
                }
            };
        };
        let read = || Some((place["log"].as_u64()?, place["offset"].as_u64()?, place["committed_at"].as_i64()?));
        let (id, offset, committed_at) = read().ok_or_else(|| {
            SourceError::new(ErrorKind::Corrupt, format!("the position in `{}` makes no sense", self.name))
        })?;
        let lost = |what: String| {
            let message = format!(
                "overrun: the pipeline has read the stream `{}` up to position {offset}{}, and {what}",
                self.name,
                since(committed_at)
            );
            SourceError::new(ErrorKind::NotFound, message)
        };
        let is_gone = if id != log.id() {
            Some(lost("the log is another one now: rows may be missing".to_owned()))
        } else if offset > end.position.offset {
            Some(lost(format!("the log ends at {} now: rows of it were lost", end.position.offset)))
        } else if offset < oldest.position.offset {
            let bytes = oldest.position.offset - offset;
            Some(lost(format!(
                "the log begins at {} now: {bytes} bytes of it in between, which may hold rows of the stream, were \
                 removed (log.retention, log.retention_bytes)",
                oldest.position.offset
            )))
        } else {
            None
        };
        match (is_gone, options.resume) {
            (_, Resume::Now) => Ok(end),
            (None, _) => Ok(Place { position: Position { shard, offset }, committed_at }),
            (Some(_), Resume::Oldest) => Ok(oldest),
            (Some(error), Resume::Position) => Err(error),
        }
    }
}

/// The columns that are read of a stream, and whether only final results are.
pub(super) fn columns_of(stream: &StreamDef, read: &ReadStream) -> (SchemaRef, bool) {
    let schema = stream_schema(stream);
    let is_final = stream.is_keyed() && read.revisions == Revisions::Final;
    let schema = if is_final { unrevised(&schema) } else { schema };
    let schema = if read.columns.is_empty() { schema } else { narrowed(&schema, &read.columns) };
    (schema, is_final)
}

/// Columns without those that say which revisions rows are.
fn unrevised(schema: &Schema) -> SchemaRef {
    let revised = [IS_FINAL, REVISION, RETRACTED, BEGAN_AT];
    let own = schema.fields().iter().filter(|field| !revised.contains(&field.name().as_str()));
    Arc::new(Schema::new(own.cloned().collect::<Vec<_>>()))
}

/// Only these columns, and those that say when a row was.
fn narrowed(schema: &Schema, columns: &[String]) -> SchemaRef {
    let is_read = |name: &String| ["time", "received_at"].contains(&name.as_str()) || columns.contains(name);
    let fields = schema.fields().iter().filter(|field| is_read(field.name()));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// Which rows are results that will not change any more. Rows that nobody revises are.
fn finals(rows: &RecordBatch) -> BooleanArray {
    let marks = |name: &str| rows.column_by_name(name).and_then(|column| column.as_boolean_opt());
    let (is_final, retracted) = (marks(IS_FINAL), marks(RETRACTED));
    let revision = rows.column_by_name(REVISION);
    let is =
        |marks: Option<&BooleanArray>, row: usize| marks.is_some_and(|marks| marks.is_valid(row) && marks.value(row));
    let is_result = |row: usize| {
        let is_numbered = revision.is_some_and(|revision| revision.is_valid(row));
        (is(is_final, row) || !is_numbered) && !is(retracted, row)
    };
    BooleanArray::new(BooleanBuffer::collect_bool(rows.num_rows(), is_result), None)
}

/// A place in the log, and when the last commit before it was made from which something was read.
#[derive(Clone, Copy, Debug)]
struct Place {
    position: Position,
    committed_at: i64,
}

fn since(committed_at: i64) -> String {
    match timestamp_ns_to_datetime(committed_at) {
        Some(time) if committed_at > i64::MIN => format!(" (rows of {})", time.format("%Y-%m-%dT%H:%M:%SZ")),
        _ => String::new(),
    }
}

fn failed(stream: &StreamName, error: &LogError) -> SourceError {
    let what = if matches!(error, LogError::Overrun { .. } | LogError::Gone { .. }) { "overrun: " } else { "" };
    let message = format!("{what}cannot read the stream `{stream}`: {}", weir_base::error::chain(error));
    SourceError::new(error.kind(), message)
}

#[async_trait]
impl PlannedSource for StreamSourcePlan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn is_bounded(&self) -> bool {
        false
    }

    async fn open(&self, position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        let Shared { log, options, .. } = self.shared.as_ref();
        let shard = log.shard_of(&options.tenant);
        let partition: PartitionName = format!("shard-{shard}").into();
        let place = position.as_ref().and_then(|position| position.partitions.get(partition.as_ref()));
        let given = self.begin(shard, place)?;
        let reader = log.reader(&options.tenant, &self.name, Some(given.position));
        let reader = reader.ok_or_else(|| SourceError::new(ErrorKind::Internal, "the shard of a tenant is missing"))?;
        Ok(Box::new(StreamSource {
            shared: Arc::clone(&self.shared),
            name: self.name.clone(),
            schema: Arc::clone(&self.schema),
            quiet: self.quiet,
            stride: i64::try_from((self.quiet / STRIDE_PART).as_nanos()).unwrap_or(i64::MAX).max(1),
            is_final: self.is_final,
            partitions: Arc::new([Arc::clone(&partition)]),
            partition,
            shard,
            reader,
            given,
            held: None,
            lost: None,
            gave_at: None,
            rested_at: None,
            told_at: None,
            newest: i64::MIN,
            warned: None,
        }))
    }

    fn describe(&self) -> String {
        format!("reads the stream {}", self.name)
    }

    fn time(&self) -> Option<&str> {
        Some("time")
    }

    fn stream(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

struct StreamSource {
    shared: Arc<Shared>,
    name: StreamName,
    schema: SchemaRef,
    quiet: Duration,
    /// In nanoseconds.
    stride: i64,
    /// Only final results are given.
    is_final: bool,
    partition: PartitionName,
    partitions: Arc<[PartitionName]>,
    shard: u16,
    reader: LogReader,
    /// Behind the last rows that were given, or what was passed after them.
    given: Place,
    /// A record that was read and not given, and the place behind it.
    held: Option<(Box<Record>, Position)>,
    /// A part of the log that is gone, where it was not said yet.
    lost: Option<Lost>,
    /// When it last gave rows.
    gave_at: Option<Duration>,
    /// When it last gave rows or found none.
    rested_at: Option<Duration>,
    /// When it last said how far time has come while there were no rows.
    told_at: Option<Duration>,
    /// How far the partition's time has come, as far as this source knows.
    newest: i64,
    /// When it was last looked whether it is about to be overrun.
    warned: Option<Duration>,
}

/// What [`StreamSource::record`] found.
enum Found {
    Record(Box<Record>, Position),
    Lost(Lost),
    More,
    Nothing,
}

impl StreamSource {
    /// Says beforehand that the pipeline may be overrun.
    fn warn(&mut self) {
        let now = self.shared.clock.monotonic();
        if self.warned.is_some_and(|warned| now.saturating_sub(warned) < WARNED_EVERY) {
            return;
        }
        self.warned = Some(now);
        if self.reader.headroom() < HEADROOM_MIN {
            let options = &self.shared.options;
            tracing::warn!(
                tenant = %options.tenant, pipeline = options.pipeline, stream = %self.name,
                behind_bytes = self.reader.behind_bytes(),
                "the pipeline has fallen far behind: if the log removes what it has not read, it is overrun"
            );
        }
    }

    fn record(&mut self) -> Result<Found, SourceError> {
        if let Some((record, behind)) = self.held.take() {
            return Ok(Found::Record(record, behind));
        }
        if let Some(lost) = self.lost.take() {
            return Ok(Found::Lost(lost));
        }
        match self.reader.read() {
            Ok(Read::Record(record)) => Ok(Found::Record(record, self.reader.position())),
            Ok(Read::Lost(lost)) => Ok(Found::Lost(lost)),
            Ok(Read::More) => Ok(Found::More),
            Ok(Read::Nothing) => Ok(Found::Nothing),
            Err(error) => Err(failed(&self.name, &error)),
        }
    }

    /// How long to gather rows before looking for some again; `None` if it is time, or there are many. Each commit with
    /// such rows wakes a source that waits, so one that has just looked does not look again, either.
    fn lingers(&self) -> Option<Duration> {
        if self.held.is_some() {
            // It was read and did not go with the rows before it, so nothing is gathered by waiting.
            return None;
        }
        let passed = self.shared.clock.monotonic().saturating_sub(self.rested_at?);
        let left = self.shared.options.linger.checked_sub(passed).filter(|left| !left.is_zero())?;
        self.lag_rows().is_some_and(|rows| rows < BATCH_ROWS as u64).then_some(left)
    }

    /// How long to wait for rows before saying that time has come to `floor`: each time costs the whole pipeline a
    /// turn. Often soon after rows, whose windows are open then, and seldom long after them.
    fn until_told(&self, time: Timestamp) -> Duration {
        let Shared { clock, options, .. } = self.shared.as_ref();
        // Where the next stride after the newest row ends.
        let next = self.newest.div_euclid(self.stride).saturating_add(1).saturating_mul(self.stride);
        let ahead = next.saturating_sub(time.minus(self.quiet).0);
        if let Ok(ahead @ 1..) = u64::try_from(ahead) {
            // It is known when there is something to tell, and of rows it hears at once: it is looked at more often only because
            // of clocks that are set, and of those who wait for it to be idle.
            return Duration::from_nanos(ahead).min(options.wait * SILENT_WAITS);
        }
        let Some(told_at) = self.told_at else { return Duration::ZERO };
        let since_rows = told_at.saturating_sub(self.gave_at.unwrap_or_default());
        let every = (since_rows / TOLD_PART).max(options.linger).max(NOTHING).min(options.wait);
        (told_at + every).saturating_sub(clock.monotonic())
    }

    /// The time the partition has come to before the rows of a commit, or where the log's clock is: `quiet` and up to a stride
    /// behind.
    fn floor(&self, time: Timestamp) -> i64 {
        let time = time.minus(self.quiet).0;
        time.saturating_sub(time.rem_euclid(self.stride))
    }

    /// The rows of a record, with when they arrived; and how far they bring time.
    fn rows(&self, record: &Record) -> Result<(RecordBatch, ScalarBuffer<i64>, i64), SourceError> {
        let internal = |error: arrow::error::ArrowError| {
            SourceError::new(ErrorKind::Internal, format!("rows of the stream `{}` do not fit it: {error}", self.name))
        };
        // A column that is newer than the plan is not read.
        let known: Vec<usize> = record
            .batch
            .schema_ref()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| self.schema.field_with_name(field.name()).is_ok())
            .map(|(at, _)| at)
            .collect();
        let rows = record.batch.project(&known).and_then(|rows| conform(&rows, &self.schema)).map_err(internal)?;
        let column = |name: &str| {
            let column = rows.column_by_name(name)?.as_primitive_opt::<TimestampNanosecondType>()?;
            Some(column.values().clone())
        };
        let (Some(times), Some(arrived)) = (column("time"), column("received_at")) else {
            return Err(SourceError::new(ErrorKind::Internal, format!("rows of `{}` have no time", self.name)));
        };
        let newest = times.iter().zip(arrived.iter()).map(|(time, arrived)| *time.min(arrived)).max();
        let newest = newest.unwrap_or(i64::MIN);
        if !self.is_final {
            return Ok((rows, arrived, newest));
        }
        let finals = finals(&record.batch);
        let kept: ScalarBuffer<i64> = arrived
            .iter()
            .zip(finals.values())
            .filter_map(|(arrived, is_final)| is_final.then_some(*arrived))
            .collect();
        Ok((filter_record_batch(&rows, &finals).map_err(internal)?, kept, newest))
    }

    /// Goes on behind rows that an operator had taken out of the log, because they were damaged. That they are missing is a
    /// dead letter: counted, and kept with the place.
    fn passed(&mut self, lost: &Lost) -> Next {
        let options = &self.shared.options;
        let (from, to) = (lost.from.offset, lost.to.offset);
        tracing::warn!(
            tenant = %options.tenant, pipeline = options.pipeline, stream = %self.name, shard = self.shard, from, to,
            rows = lost.rows, "rows of the log were damaged and taken away by fsck; the pipeline goes on without them"
        );
        let what = match lost.rows {
            Some(rows) => format!("{rows} rows of the stream `{}` were", self.name),
            None => format!("what was there, which may have been rows of the stream `{}`, was", self.name),
        };
        let reject = SourceReject {
            place: format!("log {} from {from} to {to}", self.partition),
            message: format!("{what} damaged, and taken away by `weir log fsck --repair`"),
            payload: String::new(),
        };
        self.given.position = self.reader.position();
        self.rested_at = None;
        Next::Rows(SourceRows {
            partition: Arc::clone(&self.partition),
            rows: RecordBatch::new_empty(Arc::clone(&self.schema)),
            arrived: None,
            rejects: vec![reject],
            bytes: 0,
        })
    }

    /// Rows of neighbouring records, as long as the time between them needs no telling.
    fn batch(&mut self, first: &Record, behind: Position) -> Result<Next, SourceError> {
        let (rows, arrived, newest) = self.rows(first)?;
        self.newest = self.newest.max(newest);
        let mut given = Place { position: behind, committed_at: first.committed_at.0 };
        let (mut count, mut batches, mut arrivals) = (rows.num_rows(), vec![rows], arrived.to_vec());
        while count < BATCH_ROWS {
            let (record, behind) = match self.record() {
                Ok(Found::Record(record, behind)) => (record, behind),
                Ok(Found::Lost(lost)) => {
                    self.lost = Some(lost);
                    break;
                }
                // An error is met again by the next call.
                Ok(Found::More | Found::Nothing) | Err(_) => break,
            };
            if self.floor(record.committed_at) > self.newest || count + record.batch.num_rows() > BATCH_ROWS {
                self.held = Some((record, behind));
                break;
            }
            let (rows, arrived, newest) = self.rows(&record)?;
            self.newest = self.newest.max(newest);
            given = Place { position: behind, committed_at: record.committed_at.0 };
            count += rows.num_rows();
            batches.push(rows);
            arrivals.extend_from_slice(&arrived);
        }
        let rows = arrow::compute::concat_batches(&self.schema, &batches)
            .map_err(|error| SourceError::new(ErrorKind::Internal, format!("cannot put rows together: {error}")))?;
        self.given = given;
        self.gave_at = Some(self.shared.clock.monotonic());
        self.rested_at = self.gave_at;
        self.warn();
        let bytes = bytes_of(&rows) as u64;
        let partition = Arc::clone(&self.partition);
        Ok(Next::Rows(SourceRows { partition, rows, arrived: Some(arrivals.into()), rejects: Vec::new(), bytes }))
    }
}

#[async_trait]
impl Source for StreamSource {
    async fn next(&mut self, _behind: Option<&str>) -> Result<Next, SourceError> {
        if let Some(left) = self.lingers() {
            tokio::time::sleep(left).await;
        }
        for is_last in [false, true] {
            // Before it is looked for rows: what comes after this look is of no earlier time.
            let time = self.shared.log.time(self.shard);
            match self.record()? {
                Found::Record(record, behind) => {
                    let floor = self.floor(record.committed_at);
                    if floor > self.newest {
                        self.newest = floor;
                        self.held = Some((record, behind));
                        return Ok(Next::Time(Arc::clone(&self.partition), floor));
                    }
                    return self.batch(&record, behind);
                }
                Found::Lost(lost) => return Ok(self.passed(&lost)),
                Found::More => {
                    self.rested_at = None;
                    self.given.position = self.reader.position();
                    self.warn();
                    return Ok(Next::Nothing(Duration::ZERO));
                }
                Found::Nothing => {
                    self.given.position = self.reader.position();
                    let (floor, now) = (self.floor(time), self.shared.clock.monotonic());
                    self.rested_at = Some(now);
                    let wait = self.until_told(time);
                    if wait.is_zero() && floor > self.newest {
                        self.newest = floor;
                        self.told_at = Some(now);
                        return Ok(Next::Time(Arc::clone(&self.partition), floor));
                    }
                    if is_last || wait.is_zero() {
                        break;
                    }
                    let _ = tokio::time::timeout(wait, self.reader.wait()).await;
                }
            }
        }
        Ok(Next::Nothing(NOTHING))
    }

    fn position(&self) -> SourcePosition {
        let Place { position, committed_at } = self.given;
        let place = json!({ "log": self.shared.log.id(), "offset": position.offset, "committed_at": committed_at });
        SourcePosition { partitions: [(self.partition.to_string(), place)].into() }
    }

    fn lag_rows(&self) -> Option<u64> {
        let held = self.held.as_ref().map_or(0, |(record, _)| record.batch.num_rows() as u64);
        self.reader.behind_rows().map(|rows| rows + held)
    }

    fn partitions(&self) -> Option<Arc<[PartitionName]>> {
        Some(Arc::clone(&self.partitions))
    }
}
