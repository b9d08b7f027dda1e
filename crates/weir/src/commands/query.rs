//! `weir query`: SQL in, an answer out. Everything but the table is the server's own bytes, passed on
//! as they come, so an answer of any size needs no memory here.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use weir_api::query::{QueryReply, QueryRequest};

use super::{note, table};
use crate::cli::{QueryArgs, QueryFormat};
use crate::client::{Api, collect};
use crate::failure::bad_arguments;

/// The trailer of an answer that was cut.
const TRUNCATED: &str = "x-weir-truncated";
/// The trailer of an answer that an error has ended, with its code.
const FAILED: &str = "x-weir-error";
const BROKE_OFF: &str = "the answer broke off; what was printed is not all of it";

pub(super) async fn run(args: QueryArgs) -> anyhow::Result<()> {
    let sql = match args.sql.as_str() {
        "-" => std::io::read_to_string(std::io::stdin().lock().take(1 << 20)).context("cannot read standard input")?,
        sql => sql.to_owned(),
    };
    let binary = matches!(args.format, QueryFormat::Arrow | QueryFormat::Parquet);
    if binary && args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(bad_arguments("this format is not for terminals: give --output FILE or redirect standard output"));
    }
    let params = args.params.iter().map(|text| parameter(text)).collect::<anyhow::Result<Vec<Value>>>()?;
    let api = Api::new(&args.target, args.tenant.tenant.as_deref())?;
    let request = Bytes::from(serde_json::to_vec(&QueryRequest { sql, params })?);
    let response = api.send(Method::POST, "/api/v1/query", media_type(args.format), Some(request)).await?;
    match &args.output {
        None if args.format == QueryFormat::Table => {
            print_table(&reply(response.into_body()).await?, &mut std::io::stdout().lock())
        }
        None => pass_on(response.into_body(), &mut std::io::stdout()).await,
        Some(path) => {
            // Written aside, so that FILE is the whole answer or not there.
            let aside = path.with_extension("partial");
            let problem = || format!("cannot write {}", path.display());
            let mut file = std::fs::File::create(&aside).with_context(problem)?;
            let written = if args.format == QueryFormat::Table {
                print_table(&reply(response.into_body()).await?, &mut file)
            } else {
                pass_on(response.into_body(), &mut file).await
            };
            if written.is_err() {
                // The first error is the one to tell.
                let _ = std::fs::remove_file(&aside);
                return written.with_context(problem);
            }
            std::fs::rename(&aside, path).with_context(problem)
        }
    }
}

fn media_type(format: QueryFormat) -> &'static str {
    match format {
        QueryFormat::Table => "application/json; numbers=all",
        QueryFormat::Json => "application/json",
        QueryFormat::Ndjson => "application/x-ndjson",
        QueryFormat::Csv => "text/csv",
        QueryFormat::Arrow => "application/vnd.apache.arrow.stream",
        QueryFormat::Parquet => "application/vnd.apache.parquet",
    }
}

/// `5` is a number, `true` a boolean, `"5"` and `five` are text.
fn parameter(text: &str) -> anyhow::Result<Value> {
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let digits = text.trim();
    let is_integer = digits.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
    if value.is_f64() && is_integer && digits != "-0" {
        return Err(bad_arguments(format!(
            "--param {digits} is an integer of more than 64 bits, and would be rounded: give it as text, \
             '\"{digits}\"', and write cast($1 as decimal(38, 0))"
        )));
    }
    Ok(value)
}

async fn reply(body: Incoming) -> anyhow::Result<QueryReply> {
    serde_json::from_slice(&collect(body).await?).context("the server's answer is not a query's")
}

async fn pass_on(mut body: Incoming, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let (mut last, mut is_cut, mut failed) = (b'\n', false, None);
    while let Some(frame) = body.frame().await {
        let frame = frame.context(BROKE_OFF)?;
        match frame.into_data() {
            Ok(data) => {
                out.write_all(&data)?;
                last = data.last().copied().unwrap_or(last);
            }
            Err(frame) => {
                let Some(trailers) = frame.trailers_ref() else { continue };
                is_cut |= trailers.contains_key(TRUNCATED);
                failed = trailers.get(FAILED).map(|code| String::from_utf8_lossy(code.as_bytes()).into_owned());
            }
        }
    }
    if last != b'\n' && std::io::stdout().is_terminal() {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    if is_cut {
        warn_of_cut();
    }
    match failed {
        None => Ok(()),
        Some(code) => Err(anyhow!("{code}; `error` at its end says more").context(BROKE_OFF)),
    }
}

/// Says that an answer is not all there is, also where nobody watches: a file looks whole.
fn warn_of_cut() {
    // Nobody can be told where standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "warning: the answer was cut at the tenant's query_rows_max");
}

fn print_table(reply: &QueryReply, out: &mut dyn Write) -> anyhow::Result<()> {
    let columns = reply.columns.iter().map(|column| table::Column::typed(&column.name, &column.r#type));
    let cells = reply.rows.iter().map(|row| row.iter().map(table::cell).collect());
    let table = table::render(columns.collect(), cells.collect(), table::width_of_stdout());
    out.write_all(table.as_bytes())?;
    note(format_args!("{} rows in {:.1} ms", reply.rows.len(), reply.stats.elapsed_ms));
    if reply.stats.truncated {
        warn_of_cut();
    }
    match &reply.error {
        None => Ok(()),
        Some(error) => Err(anyhow!("{}", error.detail).context(BROKE_OFF)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_json_or_text() {
        for (text, expected) in [
            ("5", json!(5)),
            ("-2.5", json!(-2.5)),
            ("true", json!(true)),
            ("null", json!(null)),
            ("\"5\"", json!("5")),
            ("five", json!("five")),
            ("", json!("")),
            ("2026-01-01T00:00:00Z", json!("2026-01-01T00:00:00Z")),
        ] {
            assert_eq!(parameter(text).unwrap(), expected, "{text}");
        }
        for (text, expected) in [
            ("12345678901234567890", json!(12_345_678_901_234_567_890_u64)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("1e20", json!(1e20)),
            ("-0", json!(-0.0)),
            ("\"123456789012345678901234567890\"", json!("123456789012345678901234567890")),
        ] {
            assert_eq!(parameter(text).unwrap(), expected, "{text}");
        }
        for text in ["18446744073709551616", "-9223372036854775809", " 123456789012345678901234567890 "] {
            let error = parameter(text).unwrap_err().to_string();
            assert!(error.contains("more than 64 bits"), "{error}");
        }
    }

    #[test]
    fn a_result_becomes_a_table() {
        let reply: QueryReply = serde_json::from_value(json!({
            "columns": [{"name": "type", "type": "string"}, {"name": "n", "type": "int64"}],
            "rows": [["click", 3], [null, 12]],
            "stats": {}
        }))
        .unwrap();
        let mut out = Vec::new();
        print_table(&reply, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "type    n\n─────  ──\nclick   3\n       12\n");
    }
}
