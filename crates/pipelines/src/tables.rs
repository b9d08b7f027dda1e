//! Tables rows are looked up in, as sources of the plan: read as a whole, and again when they have changed.
//!
//! What a table is read from is a source that ends. It is read when the pipeline starts, and a pipeline whose table
//! cannot be read does not start: whoever runs it tries again. From then on the newest version that could be read
//! counts; that it cannot be read at the moment is said ([`Source::trouble`]), and changes nothing. A table holds back no
//! event time.
//!
//! Reading may take longer than whoever asks waits, so it goes on where it was when it is asked again. What was read of
//! a version that is not whole is held here, and counts as state of the pipeline. Meanwhile the version before counts
//! on, so a table that is read again needs twice its rows: that much has to be free before anything runs
//! ([`bounds_of`]), and behind the first version as much again is kept free, so that a table which turns out to be too large
//! is so at the start and not an hour later.
//!
//! Nothing of a table is in a checkpoint: after a start it is read anew.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use async_trait::async_trait;
use futures::future::BoxFuture;
use weir_base::quantity::{ByteSize, Span};
use weir_base::{Clock, ErrorKind};
use weir_component::batch::bytes_of;
use weir_component::source::{
    Next, PlannedSource, Source, SourceError, SourcePosition, SourceReject, SourceRows, Trouble,
};
use weir_component::spec::Fault;
use weir_component::table::{marks_of, own_columns, rows_of, with_columns};

use crate::refreshes::{Asked, Refreshes};

/// The most bytes the rows of a table may take, where the document does not say.
const BYTES_MAX: u64 = 64 << 20;
/// The most bytes the rows of all tables of a pipeline may take.
const ALL_BYTES_MAX: u64 = 1 << 30;
/// How often a table is read again, where the document does not say.
const REFRESH: Duration = Duration::from_secs(60);
/// The only partition of a table.
const PARTITION: &str = "table";

/// How a table is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableOptions {
    /// How often it is read again; `None`: once.
    pub(crate) refresh: Option<Duration>,
    /// The most bytes its rows may take.
    pub(crate) bytes_max: u64,
}

impl TableOptions {
    /// Those of a table of a document; one that is read once is not looked at again.
    pub(crate) fn new(refresh: Option<Span>, is_read_once: bool, bytes_max: u64) -> Self {
        let refresh = (!is_read_once).then(|| refresh.map_or(REFRESH, |refresh| refresh.0));
        Self { refresh, bytes_max }
    }
}

/// The names of the columns a table has of its own.
pub(crate) fn own_names(schema: &SchemaRef) -> Vec<String> {
    own_columns(schema).iter().flat_map(|own| own.fields().iter().map(|field| field.name().clone())).collect()
}

/// The most bytes the rows of each table may take, in a pipeline with so much state. What the document does not say is as
/// much as all tables can have.
///
/// # Errors
/// If what it says is more than that together.
pub(crate) fn bounds_of(
    written: &[Option<ByteSize>],
    state_bytes_max: u64,
    is_read_once: bool,
) -> Result<Vec<u64>, Fault> {
    let of_state = if is_read_once { state_bytes_max } else { state_bytes_max / 2 };
    let most = of_state.min(ALL_BYTES_MAX);
    let default = BYTES_MAX.min(most / written.len().max(1) as u64);
    let bounds: Vec<u64> = written.iter().map(|written| written.map_or(default, |bytes| bytes.0)).collect();
    let all = bounds.iter().copied().fold(0, u64::saturating_add);
    if all <= most {
        return Ok(bounds);
    }
    let (all, state, most) = (ByteSize(all), ByteSize(state_bytes_max), ByteSize(most));
    if most.0 == ALL_BYTES_MAX {
        let message = format!("the rows of all tables may take {all} together, more than the {most} there may be");
        return Err(Fault::new("", message, "give them smaller `bytes_max`"));
    }
    let again = if is_read_once { "" } else { ", and twice that while they are read again" };
    let message = format!(
        "the rows of all tables may take {all} together{again}, more than the {state} of state the pipeline may have"
    );
    let hint = format!(
        "give them smaller `bytes_max`, together at most {most}; in a server the limit `pipeline_state_bytes_max` of \
         the tenant says how much state there may be"
    );
    Err(Fault::new("", message, hint))
}

/// A table, as a source of the plan.
pub(crate) struct TableSource {
    id: String,
    source: Arc<dyn PlannedSource>,
    options: TableOptions,
    clock: Arc<dyn Clock>,
    refreshes: Option<Arc<Refreshes>>,
    schema: SchemaRef,
}

impl TableSource {
    /// Makes a table of a source that ends. Through `refreshes` it can be asked for before it is time.
    pub(crate) fn plan(
        id: &str,
        source: Arc<dyn PlannedSource>,
        options: TableOptions,
        clock: Arc<dyn Clock>,
        refreshes: Option<Arc<Refreshes>>,
    ) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
        if !source.is_bounded() {
            let message = "a table is read to its end, and this has none";
            return Err(vec![Fault::new("", message, "leave out `follow`: it is read again when it has changed")]);
        }
        let schema = with_columns(&source.schema());
        Ok(Arc::new(Self { id: id.to_owned(), source, options, clock, refreshes, schema }))
    }
}

#[async_trait]
impl PlannedSource for TableSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn is_bounded(&self) -> bool {
        self.options.refresh.is_none()
    }

    async fn open(&self, _position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        let mut reader = Reader {
            id: self.id.clone(),
            source: Arc::clone(&self.source),
            options: self.options,
            clock: Arc::clone(&self.clock),
            schema: Arc::clone(&self.schema),
            digests: Digests::new(&self.source.schema()),
            next: VecDeque::new(),
            next_bytes: 0,
            kept_free: 0,
            has_begun: false,
            reading: None,
            version: 0,
            digest: None,
            rejected: HashSet::new(),
            trouble: None,
            due: self.clock.monotonic(),
            // What is asked for from now on is done by reading it once more.
            asked: self.refreshes.as_ref().filter(|_| self.options.refresh.is_some()).map(Refreshes::join),
        };
        loop {
            match reader.read_on().await {
                Ok(None) => {}
                Ok(Some(whole)) => {
                    reader.take(whole)?;
                    if self.options.refresh.is_some() {
                        reader.kept_free = reader.next_bytes;
                    }
                    return Ok(Box::new(reader));
                }
                // Nothing that was to be read is lost, as it would be of a stream: it is not there now, and may be later.
                Err(error) if error.kind == ErrorKind::NotFound => {
                    return Err(SourceError { kind: ErrorKind::Transient, ..error });
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn again(&self, _payload: &str) -> Option<Result<RecordBatch, String>> {
        Some(Err("it is a row of a table, which is read again with the table: repair it there".to_owned()))
    }

    fn describe(&self) -> String {
        let again = match self.options.refresh {
            Some(refresh) => format!("again every {}", Span(refresh)),
            None => "once".to_owned(),
        };
        format!("the table {}, read {again}: {}", self.id, self.source.describe())
    }
}

struct Reader {
    id: String,
    source: Arc<dyn PlannedSource>,
    options: TableOptions,
    clock: Arc<dyn Clock>,
    schema: SchemaRef,
    digests: Digests,
    /// What is still to be given of the newest version.
    next: VecDeque<SourceRows>,
    /// Bytes of memory that takes.
    next_bytes: usize,
    /// Bytes that reading it again will take, until that has been done: what cannot work later fails at the start.
    kept_free: usize,
    /// Whether it was said that no time is to be waited for.
    has_begun: bool,
    /// The version that is being read.
    reading: Option<Reading>,
    version: i64,
    /// A digest of the newest version.
    digest: Option<u64>,
    /// Digests of what could not be made into rows of it: what is set aside once is not set aside again as long as it
    /// is there.
    rejected: HashSet<u64>,
    trouble: Option<Trouble>,
    /// When it is read again.
    due: Duration,
    /// Who wants it to be read again before.
    asked: Option<Asked>,
}

/// A table that is being read.
enum Reading {
    /// It is being opened.
    Opening(BoxFuture<'static, Result<Box<dyn Source>, SourceError>>),
    /// So much of it has been read.
    Open(Box<dyn Source>, Whole),
}

/// A whole table, or as much of it as was read.
#[derive(Default)]
struct Whole {
    rows: Vec<RecordBatch>,
    rejects: Vec<SourceReject>,
    digest: u64,
    /// Bytes it was read from.
    bytes: u64,
    /// Bytes of memory it takes.
    held: u64,
}

impl Reader {
    /// Reads one more piece of the table; the whole of it, if that was the last one. May be dropped at any await: what
    /// was read is kept.
    async fn read_on(&mut self) -> Result<Option<Whole>, SourceError> {
        let read = self.piece().await;
        if !matches!(read, Ok(None)) {
            self.reading = None;
            self.asked.as_mut().into_iter().for_each(Asked::has_read);
            self.due = self.clock.monotonic() + self.options.refresh.unwrap_or_default();
        }
        read
    }

    async fn piece(&mut self) -> Result<Option<Whole>, SourceError> {
        let source = Arc::clone(&self.source);
        let opening = || Reading::Opening(Box::pin(async move { source.open(None).await }));
        let (source, whole) = match self.reading.get_or_insert_with(opening) {
            Reading::Opening(opening) => {
                let source = opening.await?;
                self.reading = Some(Reading::Open(source, Whole::default()));
                return Ok(None);
            }
            Reading::Open(source, whole) => (source, whole),
        };
        let SourceRows { rows, rejects, bytes, .. } = match source.next(None).await? {
            Next::Rows(rows) => rows,
            Next::Time(..) | Next::Nothing(_) => return Ok(None),
            // An empty file is no version, but one that is being written or was cut.
            Next::Done => {
                return match source.lacks() {
                    Some(lacks) => Err(SourceError::new(ErrorKind::Transient, lacks)),
                    None => Ok(Some(std::mem::take(whole))),
                };
            }
        };
        let of_reject = |reject: &SourceReject| reject.place.len() + reject.message.len() + reject.payload.len();
        whole.held += bytes_of(&rows) as u64 + rejects.iter().map(of_reject).sum::<usize>() as u64;
        if whole.held > self.options.bytes_max {
            let max = ByteSize(self.options.bytes_max);
            let message = format!("the rows of the table `{}` take more than its `bytes_max`, {max}", self.id);
            return Err(SourceError::new(ErrorKind::TooLarge, message));
        }
        whole.digest = whole.digest.wrapping_add(self.digests.of(&rows, whole.rows.len()).map_err(internal)?);
        if rows.num_rows() > 0 {
            whole.rows.push(rows);
        }
        whole.rejects.extend(rejects);
        whole.bytes += bytes;
        Ok(None)
    }

    /// Takes a whole table; what it has now is given next, if it has changed.
    fn take(&mut self, whole: Whole) -> Result<(), SourceError> {
        let Whole { rows, mut rejects, digest, bytes, .. } = whole;
        let known = std::mem::take(&mut self.rejected);
        self.rejected = rejects.iter().map(digest_of_reject).collect();
        rejects.retain(|reject| !known.contains(&digest_of_reject(reject)));
        if self.version > 0 {
            self.kept_free = 0;
        }
        if self.digest == Some(digest) {
            if !rejects.is_empty() {
                self.give(RecordBatch::new_empty(Arc::clone(&self.schema)), rejects, 0);
            }
            return Ok(());
        }
        self.digest = Some(digest);
        self.version += 1;
        for rows in &rows {
            let rows = rows_of(&self.schema, rows, self.version).map_err(internal)?;
            self.give(rows, Vec::new(), 0);
        }
        let marks = marks_of(&self.schema, self.version).map_err(internal)?;
        self.give(marks, rejects, bytes);
        Ok(())
    }

    fn give(&mut self, rows: RecordBatch, rejects: Vec<SourceReject>, bytes: u64) {
        self.next_bytes += bytes_of(&rows);
        self.next.push_back(SourceRows { partition: PARTITION.into(), rows, arrived: None, rejects, bytes });
    }

    /// Takes note that the table cannot be read now.
    fn note(&mut self, error: SourceError) {
        tracing::warn!(table = %self.id, %error, "the table cannot be read now; what it was counts on");
        let since = self.trouble.as_ref().map_or_else(|| self.clock.now(), |trouble| trouble.since);
        let attempts = self.trouble.as_ref().map_or(0, |trouble| trouble.attempts) + 1;
        self.trouble = Some(Trouble { attempts, since, error: error.message });
    }
}

fn internal(error: ArrowError) -> SourceError {
    SourceError::new(ErrorKind::Internal, error.to_string())
}

fn digest_of_reject(reject: &SourceReject) -> u64 {
    // Not of its place, which is another one when something was put in before it.
    let mut hasher = DefaultHasher::new();
    (&reject.message, &reject.payload).hash(&mut hasher);
    hasher.finish()
}

/// Tells whether two versions have the same rows, in whatever order: the digest of a version is the sum of those of its
/// rows.
struct Digests(Option<RowConverter>);

impl Digests {
    fn new(schema: &SchemaRef) -> Self {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        let fields: Vec<SortField> = fields.collect();
        Self(RowConverter::supports_fields(&fields).then(|| RowConverter::new(fields).ok()).flatten())
    }

    /// The digest of rows, which are the `batch`th of the version.
    fn of(&self, rows: &RecordBatch, batch: usize) -> Result<u64, ArrowError> {
        let Some(converter) = &self.0 else {
            // Maps cannot be told apart row by row; so their order is part of what they are.
            let mut hasher = DefaultHasher::new();
            batch.hash(&mut hasher);
            rows.columns().iter().for_each(|column| digest(&column.to_data(), &mut hasher));
            return Ok(hasher.finish());
        };
        let rows = converter.convert_columns(rows.columns())?;
        let digest = |row: &[u8]| {
            let mut hasher = DefaultHasher::new();
            row.hash(&mut hasher);
            hasher.finish()
        };
        Ok(rows.iter().map(|row| digest(row.data())).fold(0, u64::wrapping_add))
    }
}

/// What columns are made of: the same source makes the same of the same rows.
fn digest(data: &ArrayData, hasher: &mut DefaultHasher) {
    (data.len(), data.offset(), data.null_count()).hash(hasher);
    data.nulls().into_iter().flat_map(|nulls| nulls.iter()).for_each(|is_valid| is_valid.hash(hasher));
    data.buffers().iter().for_each(|buffer| buffer.as_slice().hash(hasher));
    data.child_data().iter().for_each(|child| digest(child, hasher));
}

#[async_trait]
impl Source for Reader {
    async fn next(&mut self, _behind: Option<&str>) -> Result<Next, SourceError> {
        if !std::mem::replace(&mut self.has_begun, true) {
            return Ok(Next::Time(PARTITION.into(), i64::MAX));
        }
        if let Some(rows) = self.next.pop_front() {
            self.next_bytes = self.next_bytes.saturating_sub(bytes_of(&rows.rows));
            return Ok(Next::Rows(rows));
        }
        if self.options.refresh.is_none() {
            return Ok(Next::Done);
        }
        let now = self.clock.monotonic();
        if self.reading.is_none() {
            self.asked.as_mut().into_iter().for_each(Asked::has_given);
            let is_asked_for = self.asked.as_mut().is_some_and(Asked::begins);
            if now < self.due && !is_asked_for {
                let left = self.due - now;
                let Some(asked) = &mut self.asked else { return Ok(Next::Nothing(left)) };
                let _ = tokio::time::timeout(left, asked.wait()).await;
                return Ok(Next::Nothing(Duration::ZERO));
            }
        }
        match self.read_on().await {
            Ok(whole) => {
                if let Some(whole) = whole {
                    self.trouble = None;
                    self.take(whole)?;
                }
                // Nothing new, and asked again at once.
                Ok(Next::Time(PARTITION.into(), i64::MAX))
            }
            // A table that grows too large is a mistake, and nobody would notice that it is not read any more.
            Err(error) if error.kind == ErrorKind::TooLarge => Err(error),
            Err(error) => {
                self.note(error);
                // Whoever has asked hears of it when it is asked again.
                let left = || self.due.saturating_sub(self.clock.monotonic());
                Ok(Next::Nothing(if self.asked.is_some() { Duration::ZERO } else { left() }))
            }
        }
    }

    fn position(&self) -> SourcePosition {
        SourcePosition::default()
    }

    fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    fn held_bytes(&self) -> usize {
        let read = match &self.reading {
            Some(Reading::Open(_, whole)) => usize::try_from(whole.held).unwrap_or(usize::MAX),
            _ => 0,
        };
        (read + self.next_bytes).max(self.kept_free)
    }
}

#[cfg(test)]
mod tests;
