//! `POST /ingest`: events of our own SDKs and of anybody who speaks JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use weir_api::ingest::{Durability, IngestReply, ROW_ERRORS_MAX, RowError};
use weir_codecs::events;

use super::receive::{Incoming, Source, with_durability};
use crate::app::App;
use crate::ingest::Outcome;
use crate::problem::Result;

/// `POST /ingest`.
pub(crate) async fn ingest(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let source = Source { name: "ingest", stream: "events" };
    let incoming = Incoming::receive(&app, request, source, Some(events::write_key)).await?;
    let outcome = match incoming.gather_events(&app).await {
        Ok(outcome) => outcome?,
        // Boxed: most requests have no use for the room this takes.
        Err(incoming) => Box::pin(incoming.decode_and_store(&app, events::decode)).await?,
    };
    let all_bad = outcome.received > 0 && outcome.rejects.len() == outcome.received;
    let status = if all_bad { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok(with_durability((status, Json(reply(&outcome))).into_response(), &outcome))
}

fn reply(outcome: &Outcome) -> IngestReply {
    IngestReply {
        received: outcome.received as u64,
        stored: outcome.stored as u64,
        deduplicated: outcome.deduplicated as u64,
        rejected: outcome.rejects.len() as u64,
        errors: outcome
            .rejects
            .iter()
            .take(ROW_ERRORS_MAX)
            .map(|reject| RowError {
                index: reject.index as u64,
                field: reject.field.clone(),
                code: reject.code.as_str().to_owned(),
                message: reject.message.clone(),
            })
            .collect(),
        durability: if outcome.memory_only { Durability::Memory } else { Durability::Disk },
    }
}
