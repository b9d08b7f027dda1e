//! Writes streams of OTAP as `otel-arrow-dfe-pdata` makes them, each batch beside the OTLP request
//! it stands for: `otap-oracle FOLDER`.

#[path = "../../../crates/codecs/tests/otlp/generate.rs"]
#[allow(dead_code)]
mod generate;

mod oracle {
    pub(crate) const RECEIVED_AT: i64 = 1_700_000_000_000_000_000;
}

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;

use bytes::Bytes;
use generate::Random;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use otel_arrow_dfe_pdata::encode::producer::ProducerOptions;
use otel_arrow_dfe_pdata::{Consumer, OtapArrowRecords, OtlpProtoBytes, Producer, TryFromWithOptions};
use prost::Message;

const STREAMS: u64 = 3;
const BATCHES: u64 = 3;

/// A request in OTLP, by a random generator; without resources and scopes that have no rows, whose
/// attributes the library's encoder does not survive.
type Make = fn(&mut Random) -> OtlpProtoBytes;

/// The library changes the order of attributes, and the first `service.name` names the service.
fn each_key_once(resource: &mut Resource) {
    let mut known = HashSet::new();
    resource.attributes.retain(|attribute| known.insert(attribute.key.clone()));
}

/// The library drops numbers that no enum has, and an end without a start; and it refuses links to
/// nowhere.
fn plain_span(span: &mut Span) {
    span.kind = span.kind.clamp(0, 5);
    if let Some(status) = &mut span.status {
        status.code = status.code.clamp(0, 2);
    }
    span.start_time_unix_nano = span.start_time_unix_nano.max(1);
    span.end_time_unix_nano = span.end_time_unix_nano.max(1);
    for id in [&mut span.trace_id, &mut span.span_id] {
        id.iter_mut().for_each(|byte| *byte = (*byte).max(1));
    }
    span.links.retain(|link| link.trace_id.iter().any(|byte| *byte != 0) && link.span_id.iter().any(|byte| *byte != 0));
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: otap-oracle FOLDER")?;
    let signals: [(&str, Make); 3] = [
        ("logs", |random| {
            let mut request = random.logs();
            for resource in &mut request.resource_logs {
                resource.resource.iter_mut().for_each(each_key_once);
                resource.scope_logs.retain(|scope| !scope.log_records.is_empty());
            }
            request.resource_logs.retain(|resource| !resource.scope_logs.is_empty());
            OtlpProtoBytes::ExportLogsRequest(Bytes::from(request.encode_to_vec()))
        }),
        ("traces", |random| {
            let mut request = random.spans();
            for resource in &mut request.resource_spans {
                resource.resource.iter_mut().for_each(each_key_once);
                resource.scope_spans.retain(|scope| !scope.spans.is_empty());
                resource.scope_spans.iter_mut().flat_map(|scope| &mut scope.spans).for_each(plain_span);
            }
            request.resource_spans.retain(|resource| !resource.scope_spans.is_empty());
            OtlpProtoBytes::ExportTracesRequest(Bytes::from(request.encode_to_vec()))
        }),
        ("metrics", |random| {
            let mut request = random.metrics();
            for resource in &mut request.resource_metrics {
                resource.resource.iter_mut().for_each(each_key_once);
                resource.scope_metrics.retain(|scope| !scope.metrics.is_empty());
            }
            request.resource_metrics.retain(|resource| !resource.scope_metrics.is_empty());
            OtlpProtoBytes::ExportMetricsRequest(Bytes::from(request.encode_to_vec()))
        }),
    ];
    for (name, make) in signals {
        for seed in 0..STREAMS {
            stream(Path::new(&folder), name, seed, make)?;
        }
    }
    Ok(())
}

fn stream(folder: &Path, name: &str, seed: u64, make: Make) -> Result<(), Box<dyn Error>> {
    let mut random = Random::new(seed);
    let mut producer = Producer::new_with_options(ProducerOptions {
        ipc_compression: if seed % 2 == 0 { ProducerOptions::default().ipc_compression } else { None },
    });
    let mut consumer = Consumer::default();
    let mut n = 0;
    while n < BATCHES {
        let request = make(&mut random);
        let bytes = match &request {
            OtlpProtoBytes::ExportLogsRequest(bytes)
            | OtlpProtoBytes::ExportTracesRequest(bytes)
            | OtlpProtoBytes::ExportMetricsRequest(bytes) => bytes.clone(),
        };
        let mut records = match OtapArrowRecords::try_from_with_default(request) {
            Ok(records) if records.root_record_batch().is_some() => records,
            Ok(_) => continue,
            Err(error) => {
                eprintln!("{name} {seed}: {error}");
                continue;
            }
        };
        let batch = match producer.produce_bar(&mut records) {
            Ok(batch) => batch,
            Err(error) => {
                eprintln!("{name} {seed}: {error}");
                continue;
            }
        };
        // Its encoder leaves out columns of zeros, also of numbers where zero is not the same as
        // none: of metrics, what the library's own decoder reads is what was sent.
        let bytes = match name {
            "metrics" => Bytes::from(consumer.consume_metrics_batches(&mut batch.clone())?.encode_to_vec()),
            _ => bytes,
        };
        std::fs::write(folder.join(format!("{name}-{seed}-{n}.otlp")), &bytes)?;
        std::fs::write(folder.join(format!("{name}-{seed}-{n}.otap")), batch.encode_to_vec())?;
        n += 1;
    }
    Ok(())
}
