//! Real SDKs, unmodified, against a real server: each sends, and a query says whether all arrived.
//!
//! The programs are in `tests/clients/`, one a client. They know an address and a key from their
//! environment, send what [`CLIENTS`] expects, flush and end.

use std::path::{Path, PathBuf};

use crate::arguments::Arguments;
use crate::server::Server;
use crate::stages::{Outcome, captured};
use crate::{Result, in_ci, process, root, scratch};

#[derive(Clone, Copy, PartialEq)]
enum Language {
    Python,
    Node,
}

struct Client {
    /// Also the tenant that receives its rows.
    name: &'static str,
    language: Language,
    script: &'static str,
    /// Arguments, after the script.
    arguments: &'static [&'static str],
    /// Questions with one value as the answer.
    expected: &'static [(&'static str, &'static str)],
}

const SPANS: (&str, &str) =
    ("select count(*) from spans where service_name = 'checkout' and attributes['shop.items'] = 3", "10");
const LINKED: (&str, &str) = (
    "select count(*) from spans c join spans p on c.parent_span_id = p.span_id and c.trace_id = p.trace_id \
     where c.name = 'charge' and p.name = 'order' and c.duration_ns > 0",
    "10",
);
const LOGS: (&str, &str) = (
    "select count(*) from logs where body like 'order %' and service_name = 'checkout' and severity_number = 13 \
     and attributes['order.id'] is not null",
    "10",
);
const COUNTER: (&str, &str) = (
    "select max(coalesce(value, cast(value_int as double))) from metrics where name = 'orders' and is_monotonic",
    "10",
);
const HISTOGRAM: (&str, &str) = ("select max(count) from metrics where name = 'order.duration'", "10");
const RESOURCE: (&str, &str) =
    ("select count(distinct resource['deployment.environment.name']) from spans where service_name = 'checkout'", "1");
const OTLP: &[(&str, &str)] = &[SPANS, LINKED, LOGS, COUNTER, HISTOGRAM, RESOURCE];

const TRACKED: (&str, &str) = (
    "select count(*) from events where type = 'custom' and name = 'Order Completed' and properties['total'] = 12.5",
    "10",
);
const IDENTIFIED: (&str, &str) = ("select count(*) from events where type = 'identify' and user_id = 'user-1'", "1");
const PAGES: (&str, &str) = ("select count(*) from events where type = 'pageview' and name = 'Home'", "1");
const NONE_TWICE: (&str, &str) = ("select count(*) - count(distinct event_id) from events", "0");
const TRACKING: &[(&str, &str)] = &[TRACKED, IDENTIFIED, PAGES, NONE_TWICE];

/// Every client, and what must be there afterwards.
const CLIENTS: &[Client] = &[
    Client {
        name: "opentelemetry-python-http",
        language: Language::Python,
        script: "opentelemetry_sdk.py",
        arguments: &["http"],
        expected: OTLP,
    },
    Client {
        name: "opentelemetry-python-grpc",
        language: Language::Python,
        script: "opentelemetry_sdk.py",
        arguments: &["grpc"],
        expected: OTLP,
    },
    Client {
        name: "opentelemetry-node-json",
        language: Language::Node,
        script: "opentelemetry_sdk.cjs",
        arguments: &["http"],
        expected: OTLP,
    },
    Client {
        name: "opentelemetry-node-protobuf",
        language: Language::Node,
        script: "opentelemetry_sdk.cjs",
        arguments: &["proto"],
        expected: OTLP,
    },
    Client {
        name: "opentelemetry-node-grpc",
        language: Language::Node,
        script: "opentelemetry_sdk.cjs",
        arguments: &["grpc"],
        expected: OTLP,
    },
    Client {
        name: "segment-python",
        language: Language::Python,
        script: "segment_analytics.py",
        arguments: &[],
        expected: TRACKING,
    },
    Client {
        name: "segment-node",
        language: Language::Node,
        script: "segment_analytics.cjs",
        arguments: &[],
        expected: TRACKING,
    },
    Client {
        name: "rudderstack-js",
        language: Language::Node,
        script: "rudderstack_browser.cjs",
        arguments: &[],
        expected: TRACKING,
    },
];

/// `cargo xtask clients`.
pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    let only = arguments.option("--only")?;
    arguments.end()?;
    process::run(process::build_binaries())?;
    match all(only.as_deref())? {
        Outcome::Passed(remark) | Outcome::Skipped(remark) => println!("{remark}"),
    }
    Ok(())
}

/// Every client, or those whose name contains a text.
pub(crate) fn all(only: Option<&str>) -> Result<Outcome> {
    let chosen: Vec<&Client> =
        CLIENTS.iter().filter(|client| only.is_none_or(|only| client.name.contains(only))).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = CLIENTS.iter().map(|client| client.name).collect();
        return Err(format!("no such client; there are {}", names.join(", ")));
    }
    let mut skipped = Vec::new();
    let mut passed = Vec::new();
    let mut failed = Vec::new();
    let server = start()?;
    for language in [Language::Python, Language::Node] {
        let clients: Vec<&&Client> = chosen.iter().filter(|client| client.language == language).collect();
        if clients.is_empty() {
            continue;
        }
        let runtime = match Runtime::prepare(language) {
            Ok(runtime) => runtime,
            // What cannot be installed at the desk is said and left out; CI has to have it.
            Err(reason) if !in_ci() => {
                skipped.push(reason);
                continue;
            }
            Err(reason) => return Err(reason),
        };
        for client in clients {
            match one(client, &runtime, &server) {
                Ok(()) => {
                    println!("  {}: ok", client.name);
                    passed.push(client.name);
                }
                Err(message) => {
                    println!("  {}: FAILED\n{message}", client.name);
                    failed.push(client.name);
                }
            }
        }
    }
    if !failed.is_empty() {
        return Err(format!("clients failed: {}\n{}", failed.join(", "), server.log_end()));
    }
    server.stop()?;
    let remark = format!("{} clients", passed.len());
    match skipped.as_slice() {
        [] => Ok(Outcome::Passed(remark)),
        _ => Ok(Outcome::Skipped(format!("{remark} passed, others not run: {}", skipped.join("; ")))),
    }
}

fn start() -> Result<Server> {
    let data_dir = scratch().join("clients-data");
    if data_dir.exists() {
        std::fs::remove_dir_all(&data_dir).map_err(|error| format!("{}: {error}", data_dir.display()))?;
    }
    std::fs::create_dir_all(scratch()).map_err(|error| format!("{}: {error}", scratch().display()))?;
    let log = scratch().join("clients-server.log");
    Server::start(&process::built("debug", "weir"), &data_dir, &log, ["127.0.0.1:0"; 3])
}

fn one(client: &Client, runtime: &Runtime, server: &Server) -> Result<()> {
    process::output(server.client(&["tenant", "create", client.name]))?;
    let key = process::output(server.client(&["key", "create", "--tenant", client.name]))?;
    let mut command = process::command(&runtime.program, &[client.script]);
    command
        .args(client.arguments)
        .current_dir(&runtime.folder)
        .env("WEIR_KEY", key.trim())
        .env("WEIR_HTTP", format!("http://{}", server.addresses.http))
        .env("WEIR_OTLP_HTTP", format!("http://{}", server.addresses.otlp_http))
        .env("WEIR_OTLP_GRPC", format!("http://{}", server.addresses.otlp_grpc));
    captured(client.name, command)?;
    let mut wrong = Vec::new();
    for (sql, expected) in client.expected {
        let found = server.query_value(client.name, sql)?;
        if found != *expected {
            wrong.push(format!("{sql}\n    expected {expected}, found {found}"));
        }
    }
    let rejected = server.query_value(client.name, "select count(*) from _rejected")?;
    if rejected != "0" {
        wrong.push(format!("{rejected} rows in _rejected"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// An interpreter with the packages of `tests/clients/LANGUAGE`, and a copy of the programs.
struct Runtime {
    program: PathBuf,
    folder: PathBuf,
}

impl Runtime {
    fn prepare(language: Language) -> Result<Self> {
        let (name, list) = match language {
            Language::Python => ("python", "requirements.txt"),
            Language::Node => ("node", "package-lock.json"),
        };
        let source = root().join("tests/clients").join(name);
        let folder = scratch().join("clients").join(name);
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        copy_files(&source, &folder)?;
        let program = match language {
            Language::Python => folder.join("venv/bin/python"),
            Language::Node => PathBuf::from("node"),
        };
        // Installed once; again when the list of packages changes.
        let wanted = std::fs::read_to_string(source.join(list)).map_err(|error| format!("{list}: {error}"))?;
        let stamp = folder.join("installed");
        if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return Ok(Self { program, folder });
        }
        let install = match language {
            Language::Python => install_python(&folder),
            Language::Node => install_node(&folder),
        };
        install.map_err(|error| format!("cannot install the {name} packages of the real clients: {error}"))?;
        std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
        Ok(Self { program, folder })
    }
}

/// A virtual environment with the packages of `requirements.txt`, both in a folder.
pub(crate) fn install_python(folder: &Path) -> Result<()> {
    let mut venv = process::command("python3", &["-m", "venv", "--clear", "venv"]);
    venv.current_dir(folder);
    captured("python-venv", venv)?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
    let mut pip = process::command(folder.join("venv/bin/python"), &pip);
    pip.current_dir(folder);
    captured("python-packages", pip).map(|_| ())
}

fn install_node(folder: &Path) -> Result<()> {
    let mut npm = process::command("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    npm.current_dir(folder);
    captured("node-packages", npm).map(|_| ())
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let problem = |error: std::io::Error| format!("{}: {error}", from.display());
    for entry in std::fs::read_dir(from).map_err(problem)? {
        let entry = entry.map_err(problem)?;
        if entry.file_type().map_err(problem)?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).map_err(problem)?;
        }
    }
    Ok(())
}
