//! `cargo xtask bench stream`: pipelines measured with Nexmark by `weir-nexmark`, whose results DuckDB checks, and which
//! runs Apache Flink beside Weir. Python, Kafka and Flink are fetched into folders under `target/xtask`, once a version.

use std::path::{Path, PathBuf};

use crate::clients::install_python;
use crate::stages::captured;
use crate::{Result, in_ci, kafka, process, root, scratch};

/// Measures, from outside the program `weir`, and adds the figures to `report`. `only` are the queries, all of them if it is empty.
pub(crate) fn bench(weir: &Path, report: &Path, folder: &Path, only: Option<&str>) -> Result<()> {
    let mut command = process::command(process::built("release", "weir-nexmark"), &["--checker"]);
    command.arg(root().join("tests/nexmark/check.py"));
    command.arg("--python").arg(python()?).arg("--weir").arg(weir).arg("--report").arg(report).arg("--dir").arg(folder);
    if let Some(only) = only {
        command.args(["--only", only]);
    }
    if only.is_none_or(|only| only.split(',').any(|name| name == "kafka")) {
        match kafka::libraries().and_then(|libraries| Ok((libraries, flink()?))) {
            Ok((libraries, flink)) => {
                command.arg("--kafka").arg(libraries).arg("--flink").arg(flink);
            }
            Err(reason) if in_ci() || only.is_some() => return Err(reason),
            Err(reason) => println!("nothing is measured with Kafka: {reason}"),
        }
    }
    process::run(command)
}

/// The folder with the classes of Flink and of the program that uses them, made if they are not there.
fn flink() -> Result<PathBuf> {
    let project = root().join("tests/nexmark/flink");
    let folder = scratch().join("flink");
    let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(problem)?;
    let wanted = text_of(&project)?;
    let stamp = folder.join("built");
    if std::fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(folder);
    }
    if !process::exists("mvn") {
        return Err("there is no mvn to fetch Flink with".to_owned());
    }
    let mut build = process::command("mvn", &["--quiet", "--batch-mode", "--file"]);
    build
        .arg(project.join("pom.xml"))
        .arg(format!("-Dout={}", folder.join("build").display()))
        .args(["clean", "compile", "dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", folder.join("jars").display()));
    captured("flink", build).map_err(|error| format!("cannot build what runs Flink: {error}"))?;
    std::fs::write(&stamp, wanted).map_err(problem)?;
    Ok(folder)
}

/// All that stands in the files of a folder and those in it.
fn text_of(folder: &Path) -> Result<String> {
    let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
    let entries: std::io::Result<Vec<_>> = std::fs::read_dir(folder).map_err(problem)?.collect();
    let mut paths: Vec<PathBuf> = entries.map_err(problem)?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    let mut text = String::new();
    for path in paths {
        text.push_str(&match path.is_dir() {
            true => text_of(&path)?,
            false => std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?,
        });
    }
    Ok(text)
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
