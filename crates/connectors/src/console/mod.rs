//! The sink `console`: rows to standard output, for people who try something out.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use async_trait::async_trait;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use weir_base::ErrorKind;
use weir_component::sink::{Delivery, Opening, PlannedSink, Receipt, Sink, SinkError};
use weir_component::spec::{About, Access, Fault, PlanContext, SinkSpec, Stability};
use weir_data::json_rows;

use crate::config;

/// The entry of the table.
pub const SPEC: SinkSpec = SinkSpec {
    about: About {
        name: "console",
        summary: "Prints rows to standard output, as JSON lines or as tables.",
        stability: Stability::Preview,
        access: Access { connects: false, files: false, credentials: false, terminal: true },
        example: "format: table\n",
        schema: || schemars::schema_for!(ConsoleConfig),
    },
    delivery: Delivery::AtLeastOnce,
    plan,
};

/// Prints rows to standard output as they come. After a restart rows since the last checkpoint are printed again.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleConfig {
    /// How rows are printed. Default: `ndjson`.
    #[serde(default)]
    pub format: ConsoleFormat,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleFormat {
    /// A JSON object a line.
    #[default]
    Ndjson,
    /// A table for each batch of rows.
    Table,
}

/// Where rows are printed.
type Printer = Arc<Mutex<dyn Write + Send>>;

struct Plan {
    format: ConsoleFormat,
    printer: Printer,
}

struct Console {
    format: ConsoleFormat,
    printer: Printer,
    /// The columns of a table that has no rows yet.
    names: Vec<String>,
}

fn plan(config: &Json, _: &[String], _: &PlanContext) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
    let ConsoleConfig { format } = config::parse(config)?;
    Ok(Arc::new(Plan { format, printer: Arc::new(Mutex::new(io::stdout())) }))
}

#[async_trait]
impl PlannedSink for Plan {
    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce
    }

    async fn open(&self, schema: SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(Box::new(Console { format: self.format, printer: Arc::clone(&self.printer), names }))
    }

    fn describe(&self) -> String {
        "prints the rows".to_owned()
    }
}

impl Console {
    fn print(&self, text: &[u8]) -> Result<(), SinkError> {
        let mut printer = self.printer.lock();
        printer.write_all(text).and_then(|()| printer.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                return SinkError::new(ErrorKind::Cancelled, "nobody reads standard output any more");
            }
            SinkError::new(ErrorKind::Transient, format!("cannot print rows: {error}"))
        })
    }
}

#[async_trait]
impl Sink for Console {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        match self.format {
            ConsoleFormat::Ndjson => self.print(&json_rows::lines(rows, &self.names)),
            ConsoleFormat::Table => {
                let options = FormatOptions::new().with_display_error(true);
                let table = pretty_format_batches_with_options(std::slice::from_ref(rows), &options)
                    .map_err(|error| SinkError::new(ErrorKind::Internal, format!("cannot print rows: {error}")))?;
                self.print(format!("{table}\n").as_bytes())
            }
        }
    }

    async fn prepare(&mut self, _: u64) -> Result<Receipt, SinkError> {
        Ok(Receipt::default())
    }

    async fn commit(&mut self, _: u64, _: &Receipt) -> Result<(), SinkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
