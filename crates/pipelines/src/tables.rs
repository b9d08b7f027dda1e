//! Tables rows are looked up in, as sources of the plan: read as a whole, and again when they have changed.
//!
//! What a table is read from is a source that ends. It is read when the pipeline starts, and a pipeline whose table
//! cannot be read does not start: whoever runs it tries again. From then on the newest version that could be read
//! counts; that it cannot be read at the moment is said in the log, and changes nothing. A table holds back no event time.
//!
//! Nothing of a table is in a checkpoint but that it is there: after a start it is read anew.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use weir_base::quantity::ByteSize;
use weir_base::{Clock, ErrorKind};
use weir_component::batch::bytes_of;
use weir_component::source::{Next, PlannedSource, Source, SourceError, SourcePosition, SourceReject, SourceRows};
use weir_component::spec::Fault;
use weir_component::table::{marks_of, rows_of, with_columns};

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

/// A table, as a source of the plan.
pub(crate) struct TableSource {
    id: String,
    source: Arc<dyn PlannedSource>,
    options: TableOptions,
    clock: Arc<dyn Clock>,
    schema: SchemaRef,
}

impl TableSource {
    /// Makes a table of a source that ends.
    pub(crate) fn plan(
        id: &str,
        source: Arc<dyn PlannedSource>,
        options: TableOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
        if !source.is_bounded() {
            let message = "a table is read to its end, and this has none";
            return Err(vec![Fault::new("", message, "leave out `follow`: it is read again when it has changed")]);
        }
        let schema = with_columns(&source.schema());
        Ok(Arc::new(Self { id: id.to_owned(), source, options, clock, schema }))
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
            next: VecDeque::new(),
            has_begun: false,
            version: 0,
            digest: None,
            due: self.clock.monotonic(),
        };
        reader.read().await?;
        Ok(Box::new(reader))
    }

    fn describe(&self) -> String {
        let again = match self.options.refresh {
            Some(refresh) => format!("again every {}", weir_base::quantity::Span(refresh)),
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
    /// What is still to be given of the newest version.
    next: VecDeque<SourceRows>,
    /// Whether it was said that no time is to be waited for.
    has_begun: bool,
    version: i64,
    /// A digest of the newest version.
    digest: Option<u64>,
    /// When it is read again.
    due: Duration,
}

/// A whole table.
struct Whole {
    rows: Vec<RecordBatch>,
    rejects: Vec<SourceReject>,
    digest: u64,
    bytes: u64,
}

impl Reader {
    /// Reads the table; what it has now is given next, if it has changed.
    async fn read(&mut self) -> Result<(), SourceError> {
        let whole = self.whole().await;
        self.due = self.clock.monotonic() + self.options.refresh.unwrap_or_default();
        let Whole { rows, rejects, digest, bytes } = whole?;
        if self.digest == Some(digest) {
            return Ok(());
        }
        self.digest = Some(digest);
        self.version += 1;
        let internal = |error: arrow::error::ArrowError| SourceError::new(ErrorKind::Internal, error.to_string());
        let of = |rows: RecordBatch, rejects: Vec<SourceReject>, bytes: u64| SourceRows {
            partition: PARTITION.into(),
            rows,
            arrived: None,
            rejects,
            bytes,
        };
        // What was not given yet of the version before is of no use any more.
        self.next.clear();
        for rows in &rows {
            let rows = rows_of(&self.schema, rows, self.version).map_err(internal)?;
            self.next.push_back(of(rows, Vec::new(), 0));
        }
        let marks = marks_of(&self.schema, self.version).map_err(internal)?;
        self.next.push_back(of(marks, rejects, bytes));
        Ok(())
    }

    async fn whole(&self) -> Result<Whole, SourceError> {
        let mut source = self.source.open(None).await?;
        let mut whole = Whole { rows: Vec::new(), rejects: Vec::new(), digest: 0, bytes: 0 };
        let mut hasher = DefaultHasher::new();
        let mut held = 0;
        loop {
            match source.next(None).await? {
                Next::Rows(SourceRows { rows, rejects, bytes, .. }) => {
                    held += bytes_of(&rows) as u64;
                    if held > self.options.bytes_max {
                        let max = ByteSize(self.options.bytes_max);
                        let message =
                            format!("the rows of the table `{}` take more than its `bytes_max`, {max}", self.id);
                        return Err(SourceError::new(ErrorKind::TooLarge, message));
                    }
                    rows.columns().iter().for_each(|column| digest(&column.to_data(), &mut hasher));
                    if rows.num_rows() > 0 {
                        whole.rows.push(rows);
                    }
                    whole.rejects.extend(rejects);
                    whole.bytes += bytes;
                }
                Next::Time(..) | Next::Nothing(_) => {}
                Next::Done => break,
            }
        }
        whole.digest = hasher.finish();
        Ok(whole)
    }
}

/// Whether two versions are the same is told by what their columns are made of: the same source makes the same of the same
/// rows.
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
        if self.next.is_empty() && self.options.refresh.is_some() && self.clock.monotonic() >= self.due {
            match self.read().await {
                Ok(()) => {}
                // A table that grows too large is a mistake, and nobody would notice that it is not read any more.
                Err(error) if error.kind == ErrorKind::TooLarge => return Err(error),
                Err(error) => {
                    tracing::warn!(table = %self.id, %error, "the table cannot be read now; what it was counts on");
                }
            }
        }
        if let Some(rows) = self.next.pop_front() {
            return Ok(Next::Rows(rows));
        }
        match self.options.refresh {
            None => Ok(Next::Done),
            Some(_) => Ok(Next::Nothing(self.due.saturating_sub(self.clock.monotonic()))),
        }
    }

    fn position(&self) -> SourcePosition {
        SourcePosition::default()
    }
}

#[cfg(test)]
mod tests;
