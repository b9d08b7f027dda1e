#![allow(clippy::unwrap_used, reason = "tests")]

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use super::*;

#[test]
fn a_full_success_is_an_empty_response() {
    for signal in [Signal::Logs, Signal::Traces, Signal::Metrics] {
        assert_eq!(export(signal, Encoding::Protobuf, 0, ""), b"");
        assert_eq!(export(signal, Encoding::Json, 0, ""), b"{}");
    }
}

#[test]
fn a_partial_success_reads_back() {
    for (rejected, message) in [(3, "row 7: the id has \"3\" bytes"), (0, "a warning"), (u64::from(u32::MAX), "")] {
        let logs = export(Signal::Logs, Encoding::Protobuf, rejected, message);
        let logs = ExportLogsServiceResponse::decode(logs.as_slice()).unwrap().partial_success.unwrap();
        assert_eq!((logs.rejected_log_records, logs.error_message.as_str()), (rejected as i64, message));
        let spans = export(Signal::Traces, Encoding::Protobuf, rejected, message);
        let spans = ExportTraceServiceResponse::decode(spans.as_slice()).unwrap().partial_success.unwrap();
        assert_eq!((spans.rejected_spans, spans.error_message.as_str()), (rejected as i64, message));
        let points = export(Signal::Metrics, Encoding::Protobuf, rejected, message);
        let points = ExportMetricsServiceResponse::decode(points.as_slice()).unwrap().partial_success.unwrap();
        assert_eq!((points.rejected_data_points, points.error_message.as_str()), (rejected as i64, message));
    }
    let json =
        |signal, rejected, message| String::from_utf8(export(signal, Encoding::Json, rejected, message)).unwrap();
    assert_eq!(
        json(Signal::Logs, 3, "a \"quote\""),
        r#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"a \"quote\""}}"#
    );
    assert_eq!(json(Signal::Traces, 1, ""), r#"{"partialSuccess":{"rejectedSpans":"1"}}"#);
    assert_eq!(json(Signal::Metrics, 0, "w"), r#"{"partialSuccess":{"errorMessage":"w"}}"#);
}

/// `google.rpc.Status` and its parts, as their definitions say.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[test]
fn a_status_reads_back_with_its_retry_info() {
    for (delay, text) in [
        (Duration::ZERO, "0s"),
        (Duration::from_secs(300), "300s"),
        (Duration::from_millis(1500), "1.500s"),
        (Duration::new(2, 1), "2.000000001s"),
    ] {
        let read = Status::decode(status(Encoding::Protobuf, 8, "too fast", Some(delay)).as_slice()).unwrap();
        assert_eq!((read.code, read.message.as_str()), (8, "too fast"));
        assert_eq!(read.details[0].type_url, "type.googleapis.com/google.rpc.RetryInfo");
        let info = RetryInfo::decode(read.details[0].value.as_slice()).unwrap().retry_delay.unwrap();
        assert_eq!((info.seconds as u64, info.nanos as u32), (delay.as_secs(), delay.subsec_nanos()));
        assert_eq!(
            String::from_utf8(status(Encoding::Json, 8, "too fast", Some(delay))).unwrap(),
            format!(
                r#"{{"code":8,"message":"too fast","details":[{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{text}"}}]}}"#
            )
        );
    }
    let read = Status::decode(status(Encoding::Protobuf, 3, "bad \"row\"", None).as_slice()).unwrap();
    assert_eq!((read.code, read.message.as_str(), read.details.len()), (3, "bad \"row\"", 0));
    assert_eq!(status(Encoding::Json, 3, "bad \"row\"", None), br#"{"code":3,"message":"bad \"row\""}"#);
}

#[test]
fn what_is_said_is_read() {
    for delay in [None, Some(Duration::ZERO), Some(Duration::from_millis(1)), Some(Duration::new(90, 5))] {
        let told = Told { code: 8, message: "slower, é".to_owned(), retry_after: delay };
        assert_eq!(read_status(&status(Encoding::Protobuf, 8, "slower, é", delay)), Some(told));
    }
    assert_eq!(read_status(b""), Some(Told::default()));
    assert_eq!(read_status(b"<html>"), None);
    for (rejected, message) in [(0, ""), (0, "old"), (7, ""), (u64::from(u32::MAX) + 1, "why")] {
        let answer = export(Signal::Logs, Encoding::Protobuf, rejected, message);
        assert_eq!(read_export(&answer), Some((rejected, message.to_owned())));
    }
    assert_eq!(read_export(b"{}"), None);
}
