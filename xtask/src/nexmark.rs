//! `cargo xtask bench stream`: pipelines measured with Nexmark by `weir-nexmark`, whose results DuckDB checks.

use std::path::{Path, PathBuf};

use crate::clients::install_python;
use crate::{Result, process, root, scratch};

/// Measures, and adds the figures to `report`. `only` are the queries, all of them if it is empty.
pub(crate) fn bench(report: &Path, folder: &Path, only: Option<&str>) -> Result<()> {
    let mut command = process::command(process::built("release", "weir-nexmark"), &["--checker"]);
    command.arg(root().join("tests/nexmark/check.py"));
    command.arg("--python").arg(python()?).arg("--report").arg(report).arg("--dir").arg(folder);
    if let Some(only) = only {
        command.args(["--only", only]);
    }
    process::run(command)
}

/// A Python with DuckDB; made once, and again when the version changes.
fn python() -> Result<PathBuf> {
    let list = root().join("tests/nexmark/requirements.txt");
    let folder = scratch().join("nexmark");
    let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(problem)?;
    let wanted = std::fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    let (python, stamp) = (folder.join("venv/bin/python"), folder.join("installed"));
    if !std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        std::fs::copy(&list, folder.join("requirements.txt")).map_err(problem)?;
        install_python(&folder).map_err(|error| format!("cannot install DuckDB: {error}"))?;
        std::fs::write(&stamp, wanted).map_err(problem)?;
    }
    Ok(python)
}
