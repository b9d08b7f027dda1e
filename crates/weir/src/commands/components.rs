//! `weir components`: what this program can receive, and what pipelines are made of.

use std::io::Write;

use serde_json::json;
use weir_pipelines::reference::{Described, described};

use super::{say, table};
use crate::cli::{ComponentsArgs, ListFormat};
use crate::failure::bad_arguments;

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
    let described = described();
    if let Some(name) = &args.name {
        return show(&described, name, args.example);
    }
    if args.format == ListFormat::Json {
        let receivers = RECEIVERS.iter().map(|receiver| {
            json!({
                "name": receiver.name,
                "kind": "receiver",
                "listens": receiver.listens,
                "routes": receiver.routes,
                "streams": receiver.streams,
                "summary": receiver.summary,
            })
        });
        let parts = described.iter().map(|component| {
            json!({
                "name": component.name,
                "kind": component.kind,
                "stability": component.stability.as_str(),
                "delivery": component.delivery,
                "summary": component.summary,
            })
        });
        say(serde_json::to_string_pretty(&receivers.chain(parts).collect::<Vec<_>>())?)?;
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    let columns = ["name", "kind", "listens", "routes", "streams", "summary"].map(table::Column::text);
    let rows = RECEIVERS
        .iter()
        .map(|receiver| {
            [receiver.name, "receiver", receiver.listens, receiver.routes, receiver.streams, receiver.summary]
                .map(str::to_owned)
                .into()
        })
        .collect();
    out.write_all(table::render(columns.into(), rows, table::width_of_stdout()).as_bytes())?;
    writeln!(out)?;
    let columns = ["name", "kind", "stability", "delivery", "summary"].map(table::Column::text);
    let rows = described
        .iter()
        .map(|component| {
            let delivery = component.delivery.unwrap_or_default();
            [component.name, component.kind, component.stability.as_str(), delivery, component.summary]
                .map(str::to_owned)
                .into()
        })
        .collect();
    out.write_all(table::render(columns.into(), rows, table::width_of_stdout()).as_bytes())?;
    Ok(())
}

/// All there is to say of the components of a name: there may be a source and a sink.
fn show(described: &[Described], name: &str, example: bool) -> anyhow::Result<()> {
    let found: Vec<&Described> = described.iter().filter(|component| component.name == name).collect();
    if found.is_empty() {
        let mut names: Vec<&str> = described.iter().map(|component| component.name).collect();
        names.sort_unstable();
        names.dedup();
        return Err(bad_arguments(format!("no source, step or sink is called {name}; there are {}", names.join(", "))));
    }
    for component in found {
        let text = if example { component.example.clone() } else { component.markdown() };
        say(text.trim())?;
    }
    Ok(())
}
