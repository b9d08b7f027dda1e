//! The columns of files nobody has declared.

use std::io;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use weir_base::disk::DiskFile;
use weir_codecs::rows::{Columns, Inference, infer_csv, infer_ndjson};
use weir_component::spec::Fault;

use super::text::{Input, encoding};
use super::{FileFormat, Plan, RowShape, glob, parquet};

/// How many rows a guess is founded on.
const ROWS: usize = 1000;
/// How much of a file is looked at.
const BYTES_A_FILE: usize = 1 << 20;
/// How many files are looked at.
const FILES: usize = 20;

const DECLARE: &str = "declare the columns: `schema: {name: type}`";

/// Guesses the columns from the first rows of the first files.
pub(super) fn columns(plan: &Plan) -> Result<RowShape, Fault> {
    let found = glob::expand(plan.disk.as_ref(), &plan.directory, &plan.patterns)
        .map_err(|error| Fault::new("/path", format!("cannot look for files: {error}"), ""))?;
    if found.is_empty() {
        let hint = if plan.follow {
            DECLARE.to_owned()
        } else {
            format!("paths start at {}; or {DECLARE}", plan.directory.display())
        };
        return Err(Fault::new("/path", format!("no file matches {}", plan.patterns.join(", ")), hint));
    }
    let n_files = found.len();
    let mut guess = Inference::default();
    let mut arrow: Option<SchemaRef> = None;
    for (name, path) in found.into_iter().take(FILES) {
        let unreadable =
            |error: &dyn std::fmt::Display| Fault::new("/path", format!("cannot read {name}: {error}"), "");
        let file = plan.disk.open_read(&path).map_err(|error| unreadable(&error))?;
        if plan.format == FileFormat::Parquet {
            arrow = Some(parquet::schema_of(&name, &file).map_err(|error| Fault::new("/path", error.to_string(), ""))?);
            break;
        }
        let (bytes, whole) = beginning(plan, &name, &file).map_err(|error| unreadable(&error))?;
        match plan.format {
            FileFormat::Csv => infer_csv(&mut guess, &bytes, plan.csv, whole, ROWS),
            FileFormat::Ndjson | FileFormat::Parquet => infer_ndjson(&mut guess, &bytes, whole, ROWS),
        }
        if guess.n_rows() >= ROWS {
            break;
        }
    }
    if let Some(schema) = arrow {
        return Ok(RowShape::Arrow(schema));
    }
    if guess.n_rows() == 0 {
        let files = if n_files == 1 { "1 file".to_owned() } else { format!("{n_files} files") };
        let message = format!("there is no row to tell the columns from in {} ({files})", plan.patterns.join(", "));
        return Err(Fault::new("/path", message, DECLARE));
    }
    Ok(RowShape::Text(Arc::new(Columns::new(guess.columns()))))
}

/// The first bytes of a file, decompressed, and whether they are all of it.
fn beginning(plan: &Plan, name: &str, file: &Arc<dyn DiskFile>) -> io::Result<(Vec<u8>, bool)> {
    let mut input = Input::new(file, encoding(plan.compression, name))?;
    let mut bytes = vec![0; BYTES_A_FILE];
    let mut len = 0;
    while len < bytes.len() {
        match input.read(&mut bytes[len..])? {
            0 => {
                bytes.truncate(len);
                // The last line of a file that is followed may still be on its way.
                return Ok((bytes, !plan.follow));
            }
            n_bytes => len += n_bytes,
        }
    }
    Ok((bytes, false))
}
