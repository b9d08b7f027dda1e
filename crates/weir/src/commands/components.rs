//! `weir components`: what this program can receive, from one table.

use std::io::Write;

use serde_json::json;

use super::{say, table};
use crate::cli::{ComponentsArgs, ListFormat};

/// A way into Weir. Rows are in the order a newcomer meets them.
struct Receiver {
    name: &'static str,
    listens: &'static str,
    routes: &'static str,
    streams: &'static str,
    summary: &'static str,
}

const RECEIVERS: &[Receiver] = &[
    Receiver {
        name: "sdk_events",
        listens: "http",
        routes: "POST /ingest",
        streams: "events",
        summary: "events of websites and apps, as JSON",
    },
    Receiver {
        name: "segment",
        listens: "http",
        routes: "POST /v1/{track,identify,page,screen,group,alias,batch}",
        streams: "events",
        summary: "the Segment tracking API, also for RudderStack's SDKs",
    },
    Receiver {
        name: "otlp_http",
        listens: "otlp_http, http",
        routes: "POST /v1/{logs,traces,metrics}",
        streams: "logs, spans, metrics",
        summary: "OpenTelemetry over HTTP, protobuf and JSON",
    },
    Receiver {
        name: "otlp_grpc",
        listens: "otlp_grpc",
        routes: "opentelemetry.proto.collector.*.v1",
        streams: "logs, spans, metrics",
        summary: "OpenTelemetry over gRPC",
    },
    Receiver {
        name: "otap_grpc",
        listens: "otlp_grpc",
        routes: "opentelemetry.proto.experimental.arrow.v1",
        streams: "logs, spans, metrics",
        summary: "OpenTelemetry Arrow, as streams over gRPC",
    },
    Receiver {
        name: "otap_http",
        listens: "otlp_http, http",
        routes: "POST /v1/otap/{logs,traces,metrics}",
        streams: "logs, spans, metrics",
        summary: "OpenTelemetry Arrow, single batches over HTTP",
    },
];

pub(super) fn run(args: &ComponentsArgs) -> anyhow::Result<()> {
    if args.format == ListFormat::Json {
        let list: Vec<_> = RECEIVERS
            .iter()
            .map(|receiver| {
                json!({
                    "name": receiver.name,
                    "kind": "receiver",
                    "listens": receiver.listens,
                    "routes": receiver.routes,
                    "streams": receiver.streams,
                    "summary": receiver.summary,
                })
            })
            .collect();
        say(serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    let columns = ["name", "kind", "listens", "routes", "streams", "summary"].map(table::Column::text);
    let rows = RECEIVERS
        .iter()
        .map(|receiver| {
            [receiver.name, "receiver", receiver.listens, receiver.routes, receiver.streams, receiver.summary]
                .map(str::to_owned)
                .into()
        })
        .collect();
    std::io::stdout().lock().write_all(table::render(columns.into(), rows, table::width_of_stdout()).as_bytes())?;
    Ok(())
}
