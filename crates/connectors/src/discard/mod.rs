//! The sink `discard`: rows go nowhere. For measuring, and for pipelines whose side streams are all
//! that matters.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use weir_component::sink::{Delivery, Opening, PlannedSink, Receipt, Sink, SinkError};
use weir_component::spec::{About, Access, Fault, PlanContext, SinkSpec, Stability};

use crate::config;

/// The entry of the table.
pub const SPEC: SinkSpec = SinkSpec {
    about: About {
        name: "discard",
        summary: "Takes rows and forgets them.",
        stability: Stability::Stable,
        access: Access { connects: false, files: false, credentials: false, terminal: false },
        example: "{}\n",
        schema: || schemars::schema_for!(DiscardConfig),
    },
    delivery: Delivery::ExactlyOnce,
    plan,
};

/// Takes rows and forgets them. There is nothing to configure.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiscardConfig {}

struct Discard;

fn plan(config: &Json, _: &[String], _: &PlanContext) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
    config::parse::<DiscardConfig>(config)?;
    Ok(Arc::new(Discard))
}

#[async_trait]
impl PlannedSink for Discard {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    fn keeps_rows(&self) -> bool {
        false
    }

    fn commit_interval(&self) -> Option<Duration> {
        None
    }

    async fn open(&self, _: SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Self))
    }

    fn describe(&self) -> String {
        "forgets the rows".to_owned()
    }
}

#[async_trait]
impl Sink for Discard {
    async fn write(&mut self, _: &RecordBatch) -> Result<(), SinkError> {
        Ok(())
    }

    async fn prepare(&mut self, _: u64) -> Result<Receipt, SinkError> {
        Ok(Receipt::default())
    }

    async fn commit(&mut self, _: u64, _: &Receipt) -> Result<(), SinkError> {
        Ok(())
    }
}
