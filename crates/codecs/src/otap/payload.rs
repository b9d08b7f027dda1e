//! `BatchArrowRecords`: the protobuf around the Arrow messages.

use super::ipc::broken;
use crate::DecodeError;
use crate::otlp::Signal;
use crate::otlp::wire::{Broken, Fields, Value};

/// The most bytes of a schema id.
const SCHEMA_ID_BYTES_MAX: usize = 1024;

macro_rules! payload_types {
    ($($name:ident = $number:literal $text:literal),* $(,)?) => {
        /// `ArrowPayloadType`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum PayloadType { $($name = $number),* }

        impl PayloadType {
            const ALL: &[Self] = &[$(Self::$name),*];

            /// As the specification writes it.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

payload_types! {
    ResourceAttrs = 1 "RESOURCE_ATTRS",
    ScopeAttrs = 2 "SCOPE_ATTRS",
    UnivariateMetrics = 10 "UNIVARIATE_METRICS",
    NumberDataPoints = 11 "NUMBER_DATA_POINTS",
    SummaryDataPoints = 12 "SUMMARY_DATA_POINTS",
    HistogramDataPoints = 13 "HISTOGRAM_DATA_POINTS",
    ExpHistogramDataPoints = 14 "EXP_HISTOGRAM_DATA_POINTS",
    NumberDpAttrs = 15 "NUMBER_DP_ATTRS",
    SummaryDpAttrs = 16 "SUMMARY_DP_ATTRS",
    HistogramDpAttrs = 17 "HISTOGRAM_DP_ATTRS",
    ExpHistogramDpAttrs = 18 "EXP_HISTOGRAM_DP_ATTRS",
    NumberDpExemplars = 19 "NUMBER_DP_EXEMPLARS",
    HistogramDpExemplars = 20 "HISTOGRAM_DP_EXEMPLARS",
    ExpHistogramDpExemplars = 21 "EXP_HISTOGRAM_DP_EXEMPLARS",
    NumberDpExemplarAttrs = 22 "NUMBER_DP_EXEMPLAR_ATTRS",
    HistogramDpExemplarAttrs = 23 "HISTOGRAM_DP_EXEMPLAR_ATTRS",
    ExpHistogramDpExemplarAttrs = 24 "EXP_HISTOGRAM_DP_EXEMPLAR_ATTRS",
    MultivariateMetrics = 25 "MULTIVARIATE_METRICS",
    MetricAttrs = 26 "METRIC_ATTRS",
    Logs = 30 "LOGS",
    LogAttrs = 31 "LOG_ATTRS",
    Spans = 40 "SPANS",
    SpanAttrs = 41 "SPAN_ATTRS",
    SpanEvents = 42 "SPAN_EVENTS",
    SpanLinks = 43 "SPAN_LINKS",
    SpanEventAttrs = 44 "SPAN_EVENT_ATTRS",
    SpanLinkAttrs = 45 "SPAN_LINK_ATTRS",
}

impl PayloadType {
    fn of(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| *kind as i32 == number)
    }

    /// The signal that has it; `None` if all have.
    const fn signal(self) -> Option<Signal> {
        match self as u8 {
            1 | 2 => None,
            10..=26 => Some(Signal::Metrics),
            30 | 31 => Some(Signal::Logs),
            _ => Some(Signal::Traces),
        }
    }
}

/// A `BatchArrowRecords`.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) id: i64,
    /// At most one of each type.
    pub(super) payloads: Vec<Payload<'a>>,
}

/// An `ArrowPayload`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload<'a> {
    pub(super) schema_id: &'a [u8],
    pub(super) kind: PayloadType,
    pub(super) record: &'a [u8],
}

#[cold]
fn at_byte(broken: Broken) -> DecodeError {
    DecodeError::Malformed { message: broken.what.to_owned(), place: format!("byte {}", broken.at) }
}

/// The id of a batch, if its bytes can be read that far: to be answered even if the rest cannot.
pub fn batch_id(body: &[u8]) -> i64 {
    let mut id = 0;
    let mut fields = Fields::new(body);
    while let Ok(Some(field)) = fields.next() {
        if let (1, Value::Varint(value)) = field {
            id = value.cast_signed();
        }
    }
    id
}

impl<'a> Batch<'a> {
    pub(super) fn read(signal: Signal, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut batch = Self { id: 0, payloads: Vec::new() };
        let mut fields = Fields::new(body);
        while let Some((number, value)) = fields.next().map_err(at_byte)? {
            let at = fields.at();
            let wrong = |what| at_byte(Broken { at, what });
            match number {
                1 => batch.id = value.int64().map_err(wrong)?,
                2 => {
                    let payload = Payload::read(value.len().map_err(wrong)?)?;
                    batch.add(signal, payload)?;
                }
                _ => {}
            }
        }
        Ok(batch)
    }

    fn add(&mut self, signal: Signal, payload: Payload<'a>) -> Result<(), DecodeError> {
        let kind = payload.kind;
        if kind == PayloadType::MultivariateMetrics {
            return Err(DecodeError::Unsupported { what: "the payload MULTIVARIATE_METRICS".to_owned() });
        }
        if kind.signal().is_some_and(|of| of != signal) {
            return Err(broken(format!("the payload {} does not belong to this signal", kind.name())));
        }
        if self.payloads.iter().any(|known| known.kind == kind) {
            return Err(broken(format!("the batch has two payloads {}", kind.name())));
        }
        self.payloads.push(payload);
        Ok(())
    }
}

impl<'a> Payload<'a> {
    fn read(message: &'a [u8]) -> Result<Self, DecodeError> {
        let (mut schema_id, mut kind, mut record): (&[u8], i32, &[u8]) = (b"", 0, b"");
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next().map_err(at_byte)? {
            let at = fields.at();
            let wrong = |what| at_byte(Broken { at, what });
            match number {
                1 => schema_id = value.len().map_err(wrong)?,
                2 => kind = value.int32().map_err(wrong)?,
                3 => record = value.len().map_err(wrong)?,
                _ => {}
            }
        }
        if schema_id.len() > SCHEMA_ID_BYTES_MAX {
            return Err(DecodeError::TooLarge {
                limit: "schema_id_bytes_max",
                value: SCHEMA_ID_BYTES_MAX as u64,
                actual: schema_id.len() as u64,
            });
        }
        let kind = PayloadType::of(kind).ok_or_else(|| broken(format!("the payload type {kind} is not known")))?;
        Ok(Self { schema_id, kind, record })
    }
}
