"""The official OpenTelemetry SDK for Python, exporting to Weir over HTTP (protobuf) or gRPC.

Sends ten orders: a span with a child, a log record and two metrics each. It must not know Weir:
everything is configuration any collector would get.
"""

import logging
import os
import sys

from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

protocol = sys.argv[1]
key = os.environ["WEIR_KEY"]

if protocol == "http":
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = os.environ["WEIR_OTLP_HTTP"]
    common = {"headers": {"authorization": f"Bearer {key}"}}
    spans = OTLPSpanExporter(endpoint=f"{base}/v1/traces", compression=Compression.Gzip, **common)
    logs = OTLPLogExporter(endpoint=f"{base}/v1/logs", **common)
    metrics = OTLPMetricExporter(endpoint=f"{base}/v1/metrics", **common)
else:
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    common = {
        "endpoint": os.environ["WEIR_OTLP_GRPC"],
        "insecure": True,
        "headers": (("authorization", f"Bearer {key}"),),
    }
    spans = OTLPSpanExporter(compression=Compression.Gzip, **common)
    logs = OTLPLogExporter(**common)
    metrics = OTLPMetricExporter(**common)

resource = Resource.create({"service.name": "checkout", "deployment.environment.name": "test"})
tracer_provider = TracerProvider(resource=resource)
tracer_provider.add_span_processor(BatchSpanProcessor(spans))
logger_provider = LoggerProvider(resource=resource)
logger_provider.add_log_record_processor(BatchLogRecordProcessor(logs))
meter_provider = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(metrics)])

logger = logging.getLogger("orders")
logger.setLevel(logging.INFO)
logger.addHandler(LoggingHandler(level=logging.INFO, logger_provider=logger_provider))
tracer = tracer_provider.get_tracer("shop", "1.2.3")
meter = meter_provider.get_meter("shop", "1.2.3")
orders = meter.create_counter("orders", unit="{order}")
duration = meter.create_histogram("order.duration", unit="ms")

for number in range(10):
    with tracer.start_as_current_span("order", kind=trace.SpanKind.SERVER) as span:
        span.set_attribute("shop.items", 3)
        span.add_event("paid", {"amount": 12.5})
        with tracer.start_as_current_span("charge", kind=trace.SpanKind.CLIENT):
            logger.warning("order %d accepted", number, extra={"order.id": f"o-{number}"})
        orders.add(1, {"country": "de"})
        duration.record(5.0 * number, {"country": "de"})

# Each returns whether everything was delivered, so a refused export fails this program.
delivered = [
    tracer_provider.force_flush(),
    logger_provider.force_flush(),
    meter_provider.force_flush(),
]
tracer_provider.shutdown()
logger_provider.shutdown()
meter_provider.shutdown()
if not all(outcome is not False for outcome in delivered):
    sys.exit(f"not everything was delivered: {delivered}")
