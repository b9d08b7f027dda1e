//! A sink for dead letters that gives each an id.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use weir_base::ErrorKind;
use weir_component::sink::{Delivery, Opening, PlannedSink, Receipt, Sink, SinkError};
use weir_component::spec::Fault;

use super::LetterId;

/// The column with the id.
pub const ID: &str = "id";

/// The sink behind it, with one column more.
pub struct Identified(pub Arc<dyn PlannedSink>);

fn with_id(schema: &SchemaRef) -> SchemaRef {
    let id = Arc::new(Field::new(ID, DataType::Utf8, false));
    Arc::new(Schema::new(schema.fields().iter().cloned().chain([id]).collect::<Vec<_>>()))
}

#[async_trait]
impl PlannedSink for Identified {
    fn delivery(&self) -> Delivery {
        self.0.delivery()
    }

    async fn open(&self, schema: SchemaRef, opening: Opening) -> Result<Box<dyn Sink>, SinkError> {
        let schema = with_id(&schema);
        let sink = self.0.open(Arc::clone(&schema), opening).await?;
        // Rows that were written and never seen are written anew by the next start, under other ids.
        let start = u64::from_be_bytes(weir_base::random::bytes());
        Ok(Box::new(Identifying { sink, schema, start, count: 0 }))
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn commit_interval(&self) -> Option<Duration> {
        self.0.commit_interval()
    }

    fn check(&self, schema: &SchemaRef) -> Vec<Fault> {
        self.0.check(&with_id(schema))
    }

    fn stream(&self) -> Option<&str> {
        self.0.stream()
    }
}

struct Identifying {
    sink: Box<dyn Sink>,
    schema: SchemaRef,
    start: u64,
    count: u64,
}

impl Identifying {
    fn identified(&mut self, rows: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let (start, before) = (self.start, self.count);
        let ids = (0..rows.num_rows() as u64).map(|row| LetterId { start, number: before + row + 1 }.to_string());
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(ids));
        let columns = rows.columns().iter().cloned().chain([ids]).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| SinkError::new(ErrorKind::Internal, format!("cannot name dead letters: {error}")))
    }
}

#[async_trait]
impl Sink for Identifying {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        let rows = self.identified(rows)?;
        self.sink.write(&rows).await?;
        self.count += rows.num_rows() as u64;
        Ok(())
    }

    async fn write_timed(&mut self, rows: &RecordBatch, times: &ScalarBuffer<i64>) -> Result<(), SinkError> {
        let rows = self.identified(rows)?;
        self.sink.write_timed(&rows, times).await?;
        self.count += rows.num_rows() as u64;
        Ok(())
    }

    async fn prepare(&mut self, epoch: u64) -> Result<Receipt, SinkError> {
        self.sink.prepare(epoch).await
    }

    async fn commit(&mut self, epoch: u64, receipt: &Receipt) -> Result<(), SinkError> {
        self.sink.commit(epoch, receipt).await
    }
}
