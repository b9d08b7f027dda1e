// The official OpenTelemetry SDK for Node, exporting to Weir as JSON or protobuf over HTTP, or over
// gRPC. Sends ten orders: a span with a child, a log record and two metrics each.
'use strict';

const api = require('@opentelemetry/api');
const { SeverityNumber } = require('@opentelemetry/api-logs');
const { resourceFromAttributes } = require('@opentelemetry/resources');
const { BatchLogRecordProcessor, LoggerProvider } = require('@opentelemetry/sdk-logs');
const { MeterProvider, PeriodicExportingMetricReader } = require('@opentelemetry/sdk-metrics');
const { BatchSpanProcessor, NodeTracerProvider } = require('@opentelemetry/sdk-trace-node');

const protocol = process.argv[2];
const { OTLPTraceExporter } = require(`@opentelemetry/exporter-trace-otlp-${protocol}`);
const { OTLPMetricExporter } = require(`@opentelemetry/exporter-metrics-otlp-${protocol}`);
const { OTLPLogExporter } = require(`@opentelemetry/exporter-logs-otlp-${protocol}`);

const authorization = `Bearer ${process.env.WEIR_KEY}`;
function options(path) {
  if (protocol === 'grpc') {
    const { credentials, Metadata } = require('@grpc/grpc-js');
    const metadata = new Metadata();
    metadata.set('authorization', authorization);
    return { url: process.env.WEIR_OTLP_GRPC, credentials: credentials.createInsecure(), metadata };
  }
  return { url: process.env.WEIR_OTLP_HTTP + path, headers: { authorization }, compression: 'gzip' };
}

// The SDK reports refused exports to its diagnostics only; here they end the program.
const problems = [];
const collect = (...words) => problems.push(words.map(String).join(' '));
const silent = () => {};
api.diag.setLogger({ error: collect, warn: collect, info: silent, debug: silent, verbose: silent });

const resource = resourceFromAttributes({ 'service.name': 'checkout', 'deployment.environment.name': 'test' });
const tracers = new NodeTracerProvider({
  resource,
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter(options('/v1/traces')))],
});
tracers.register();
const meters = new MeterProvider({
  resource,
  readers: [new PeriodicExportingMetricReader({ exporter: new OTLPMetricExporter(options('/v1/metrics')) })],
});
const logExporter = new OTLPLogExporter(options('/v1/logs'));
const loggers = new LoggerProvider({ resource, processors: [logProcessor(logExporter)] });

// The processor took the exporter itself before it took options.
function logProcessor(exporter) {
  return BatchLogRecordProcessor.length === 0 || takesOptions()
    ? new BatchLogRecordProcessor({ exporter })
    : new BatchLogRecordProcessor(exporter);
}

function takesOptions() {
  const [major, minor] = require('@opentelemetry/sdk-logs/package.json').version.split('.').map(Number);
  return major > 0 || minor >= 220;
}

async function main() {
  const tracer = tracers.getTracer('shop', '1.2.3');
  const logger = loggers.getLogger('shop', '1.2.3');
  const meter = meters.getMeter('shop', '1.2.3');
  const orders = meter.createCounter('orders', { unit: '{order}' });
  const duration = meter.createHistogram('order.duration', { unit: 'ms' });
  for (let number = 0; number < 10; number += 1) {
    tracer.startActiveSpan('order', { kind: api.SpanKind.SERVER }, (order) => {
      order.setAttribute('shop.items', 3);
      order.addEvent('paid', { amount: 12.5 });
      tracer.startActiveSpan('charge', { kind: api.SpanKind.CLIENT }, (charge) => {
        logger.emit({
          severityNumber: SeverityNumber.WARN,
          severityText: 'WARN',
          body: `order ${number} accepted`,
          attributes: { 'order.id': `o-${number}` },
        });
        charge.end();
      });
      orders.add(1, { country: 'de' });
      duration.record(5 * number, { country: 'de' });
      order.end();
    });
  }
  for (const provider of [tracers, loggers, meters]) {
    await provider.forceFlush();
    await provider.shutdown();
  }
  if (problems.length > 0) {
    throw new Error(`not everything was delivered: ${problems.join('; ')}`);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
