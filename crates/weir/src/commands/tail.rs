//! `weir tail`: follows a stream as server-sent events and prints one JSON line a row.

use std::io::Write;

use anyhow::Context;
use http::Method;
use http_body_util::BodyExt;
use weir_api::tail::TailMessage;

use super::note;
use crate::cli::TailArgs;
use crate::client::{Api, path_segment};

/// One event is one batch of rows; a server that sends more without an end is not ours.
const EVENT_BYTES_MAX: usize = 16 << 20;

pub(super) async fn run(args: TailArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.target, args.tenant.tenant.as_deref())?;
    let mut path = format!("/api/v1/tail/{}", path_segment(&args.stream));
    let mut mark = '?';
    for (name, value) in [("where", args.filter), ("limit", args.limit.map(|limit| limit.to_string()))] {
        if let Some(value) = value {
            path.push_str(&format!("{mark}{name}={}", path_segment(&value)));
            mark = '&';
        }
    }
    follow(&api, &path, &args.stream).await
}

/// Prints the rows of a tail until it ends or somebody has seen enough.
pub(super) async fn follow(api: &Api, path: &str, what: &str) -> anyhow::Result<()> {
    let mut body = api.send(Method::GET, path, "text/event-stream", None).await?.into_body();
    note(format_args!("following {what} at {}; end with Ctrl-C", api.base()));
    let mut parser = EventParser::default();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            signal = tokio::signal::ctrl_c() => return signal.context("cannot wait for Ctrl-C"),
        };
        let Some(frame) = frame else { anyhow::bail!("the server ended the stream without saying why") };
        let Ok(data) = frame.context("the connection broke")?.into_data() else { continue };
        let mut out = std::io::stdout().lock();
        let mut ended = None;
        parser.push(&data, |event| {
            if ended.is_none() {
                ended = show(&event, &mut out)?;
            }
            Ok(())
        })?;
        out.flush()?;
        match ended {
            None => {}
            Some((code, _)) if code == "limit" => return Ok(()),
            Some((code, detail)) => anyhow::bail!("the server ended the stream: {detail} [{code}]"),
        }
    }
}

/// Prints one message; returns code and reason if it was the last.
fn show(event: &str, out: &mut dyn Write) -> anyhow::Result<Option<(String, String)>> {
    match serde_json::from_str(event).context("the server sent something that is not a message of a tail")? {
        TailMessage::Rows { rows } => {
            for row in rows {
                serde_json::to_writer(&mut *out, &row).map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
            }
        }
        TailMessage::Skipped { rows } => note(format_args!("{rows} rows left out to keep up")),
        TailMessage::End { code, detail } => return Ok(Some((code, detail))),
    }
    Ok(None)
}

/// The data of server-sent events (HTML standard, section 9.2), as far as a client needs it that
/// never reconnects.
#[derive(Debug, Default)]
struct EventParser {
    line: Vec<u8>,
    data: String,
    after_return: bool,
}

impl EventParser {
    fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(String) -> anyhow::Result<()>) -> anyhow::Result<()> {
        for byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_return) => {}
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    if let Some(event) = self.end_of_line() {
                        emit(event)?;
                    }
                }
                other => {
                    self.after_return = false;
                    self.line.push(*other);
                    anyhow::ensure!(
                        self.line.len() + self.data.len() <= EVENT_BYTES_MAX,
                        "an event of more than {EVENT_BYTES_MAX} bytes"
                    );
                }
            }
        }
        Ok(())
    }

    fn end_of_line(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            return Some(std::mem::take(&mut self.data)).filter(|data| !data.is_empty());
        }
        // Comments (an empty field) keep the connection alive; the message itself says its kind.
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        if field == "data" {
            if !self.data.is_empty() {
                self.data.push('\n');
            }
            self.data.push_str(value.strip_prefix(' ').unwrap_or(value));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn events_do_not_depend_on_how_the_bytes_arrive() {
        let text = ": hello\n\ndata: {\"a\":1}\n\nevent: x\r\ndata: x\r\ndata:y\r\n\r\nid: 7\rdata: é\r\rdata: cut";
        for step in 1..=text.len() {
            let mut parser = EventParser::default();
            let mut events = Vec::new();
            for piece in text.as_bytes().chunks(step) {
                parser
                    .push(piece, |event| {
                        events.push(event);
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(events, ["{\"a\":1}", "x\ny", "é"], "pieces of {step}");
        }
    }

    #[test]
    fn messages_print_rows_and_say_the_end() {
        let mut out = Vec::new();
        let ended = show(r#"{"kind":"rows","rows":[{"a":1},{"b":"x\ny"}]}"#, &mut out).unwrap();
        assert_eq!((ended, out.as_slice()), (None, b"{\"a\":1}\n{\"b\":\"x\\ny\"}\n".as_slice()));
        let ended = show(r#"{"kind":"end","code":"limit","detail":"done"}"#, &mut out).unwrap();
        assert_eq!(ended, Some(("limit".to_owned(), "done".to_owned())));
    }
}
