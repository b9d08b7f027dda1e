//! What stands at both ends of a pipeline that is measured: rows that are in memory already, and a sink that forgets or
//! keeps what it is given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;
use weir_base::clock::SystemClock;
use weir_base::{Clock, ErrorKind};
use weir_component::sink::{Delivery, Opening, PlannedSink, Receipt, Sink, SinkError};
use weir_component::source::{Next, PartitionName, PlannedSource, Source, SourceError, SourcePosition, SourceRows};
use weir_component::spec::Fault;
use weir_pipelines::document::{Component, Output};
use weir_pipelines::ends::Ends;

use crate::tables::Table;

/// The name of the only partition.
const PARTITION: &str = "0";

/// A table, read batch by batch; with laps over and over.
struct TableSource {
    table: Table,
    laps: Option<Laps>,
}

struct Reader {
    table: Table,
    laps: Option<Laps>,
    next: usize,
    partition: PartitionName,
}

/// Lets a table be read over and over until it is enough, and takes the time between two batches.
#[derive(Clone, Debug)]
pub(crate) struct Laps {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<LapState>>,
}

#[derive(Debug, Default)]
struct LapState {
    is_enough: bool,
    /// When it was asked last.
    asked: Option<Duration>,
    /// The longest time between two batches since the last checkpoint.
    longest: Duration,
    /// The same of each checkpoint before.
    gaps: Vec<Duration>,
}

impl Default for Laps {
    fn default() -> Self {
        Self { clock: SystemClock::new(), state: Arc::default() }
    }
}

impl Laps {
    /// No more rows come.
    pub(crate) fn end(&self) {
        self.state.lock().is_enough = true;
    }

    /// For each checkpoint, the longest time without a batch around it.
    pub(crate) fn gaps(&self) -> Vec<Duration> {
        self.state.lock().gaps.clone()
    }

    /// Takes note of a call; whether more rows are wanted.
    fn ask(&self) -> bool {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        if let Some(before) = state.asked.replace(now) {
            state.longest = state.longest.max(now.saturating_sub(before));
        }
        !state.is_enough
    }

    fn barrier(&self) {
        let mut state = self.state.lock();
        let longest = std::mem::take(&mut state.longest);
        if state.asked.is_some() {
            state.gaps.push(longest);
        }
    }
}

#[async_trait]
impl PlannedSource for TableSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.schema)
    }

    fn is_bounded(&self) -> bool {
        true
    }

    async fn open(&self, position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        let place =
            position.and_then(|position| position.partitions.get(PARTITION).and_then(serde_json::Value::as_u64));
        let next = usize::try_from(place.unwrap_or(0))
            .map_err(|_| SourceError::new(ErrorKind::Corrupt, "the position is no batch"))?;
        let (table, laps) = (self.table.clone(), self.laps.clone());
        Ok(Box::new(Reader { table, laps, next, partition: PARTITION.into() }))
    }

    fn describe(&self) -> String {
        "rows in memory".to_owned()
    }
}

#[async_trait]
impl Source for Reader {
    async fn next(&mut self, _: Option<&str>) -> Result<Next, SourceError> {
        let at = match &self.laps {
            None => self.next,
            Some(laps) if laps.ask() => self.next % self.table.batches.len(),
            Some(_) => return Ok(Next::Done),
        };
        let Some(rows) = self.table.batches.get(at) else { return Ok(Next::Done) };
        self.next += 1;
        let (partition, rows) = (Arc::clone(&self.partition), rows.clone());
        Ok(Next::Rows(SourceRows { partition, rows, arrived: None, rejects: Vec::new(), bytes: 0 }))
    }

    fn position(&self) -> SourcePosition {
        // Asked for when a barrier is sent.
        if let Some(laps) = &self.laps {
            laps.barrier();
        }
        SourcePosition { partitions: BTreeMap::from([(PARTITION.to_owned(), json!(self.next))]) }
    }
}

/// What a sink was given, if it keeps that.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    is_kept: bool,
    rows: Arc<Mutex<Option<(SchemaRef, Vec<RecordBatch>)>>>,
}

impl Kept {
    /// Everything is kept.
    pub(crate) fn all() -> Self {
        Self { is_kept: true, ..Self::default() }
    }

    /// The columns and rows; nothing if the sink was never opened.
    pub(crate) fn take(&self) -> Option<(SchemaRef, Vec<RecordBatch>)> {
        self.rows.lock().take()
    }
}

#[async_trait]
impl PlannedSink for Kept {
    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce
    }

    async fn open(&self, schema: SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        self.rows.lock().get_or_insert((schema, Vec::new()));
        Ok(Box::new(self.clone()))
    }

    fn describe(&self) -> String {
        "rows in memory".to_owned()
    }
}

#[async_trait]
impl Sink for Kept {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        if self.is_kept
            && let Some((_, kept)) = &mut *self.rows.lock()
        {
            kept.push(rows.clone());
        }
        Ok(())
    }

    async fn prepare(&mut self, _: u64) -> Result<Receipt, SinkError> {
        Ok(Receipt::default())
    }

    async fn commit(&mut self, _: u64, _: &Receipt) -> Result<(), SinkError> {
        Ok(())
    }
}

/// The ends of a pipeline over tables, by the names of its streams.
pub(crate) struct TableEnds {
    pub(crate) tables: BTreeMap<String, Table>,
    pub(crate) kept: Kept,
    /// Tables are read over and over.
    pub(crate) laps: Option<Laps>,
}

impl Ends for TableEnds {
    fn source(&self, component: &Component) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
        // A stream is written by its name alone, or with `name` among its settings.
        let config = component.config();
        let name =
            config.as_str().or_else(|| config.get("name").and_then(serde_json::Value::as_str)).unwrap_or_default();
        match self.tables.get(name) {
            Some(table) => Ok(Arc::new(TableSource { table: table.clone(), laps: self.laps.clone() })),
            None => Err(vec![Fault::new("", format!("there are no events called {name}"), "")]),
        }
    }

    fn table(&self, table: &weir_pipelines::document::Table) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
        match self.tables.get(&table.id) {
            Some(table) => Ok(Arc::new(TableSource { table: table.clone(), laps: None })),
            None => Err(vec![Fault::new("", format!("there is no table {}", table.id), "")]),
        }
    }

    fn clock(&self) -> Arc<dyn weir_base::Clock> {
        weir_base::clock::SystemClock::new()
    }

    fn sink(&self, _: &Output, _: &SchemaRef) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
        Ok(Arc::new(self.kept.clone()))
    }

    fn late(&self) -> Option<Arc<dyn PlannedSink>> {
        None
    }

    fn dead(&self) -> Option<Arc<dyn PlannedSink>> {
        None
    }
}
