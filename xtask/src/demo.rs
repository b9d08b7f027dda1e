//! `cargo xtask demo`: from a bare checkout to a running Weir with live data.

use std::io::{IsTerminal, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::server::{self, Server};
use crate::stages::seconds;
use crate::{Result, http, process, root, scratch, signal};

const TENANTS: usize = 3;
const DEFAULT_PORTS: [&str; 3] = ["127.0.0.1:8080", "127.0.0.1:4317", "127.0.0.1:4318"];
const TABLES: [&str; 4] = ["events", "logs", "spans", "metrics"];

struct Options {
    dev: bool,
    data_dir: PathBuf,
    rate: u64,
    duration: Option<Duration>,
    check: bool,
}

pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    let options = Options {
        dev: arguments.flag("--dev"),
        check: arguments.flag("--check"),
        data_dir: root().join(arguments.option("--data-dir")?.unwrap_or_else(|| "weir-data".to_owned())),
        rate: arguments.number("--rate", 1000)?,
        duration: arguments.duration("--duration")?,
    };
    arguments.end()?;
    look_for_tools()?;
    let weir = build(options.dev)?;
    signal::catch();
    let (server, counts) = one_run(&weir, &options)?;
    server.stop()?;
    if options.check {
        check_restart(&weir, &options, &counts)?;
    }
    println!("Stopped. All data is kept in {}; the same command resumes with it.", shown(&options.data_dir));
    Ok(())
}

/// What a build needs, and how to get it.
fn look_for_tools() -> Result<()> {
    if !["cc", "gcc", "clang"].into_iter().any(process::exists) {
        return Err("no C compiler found. Weir needs one for SQLite and zstd. Install it with\n  \
             Debian, Ubuntu:  sudo apt-get install gcc libc6-dev\n  \
             Fedora:          sudo dnf install gcc\n  \
             Alpine:          sudo apk add build-base\n  \
             macOS:           xcode-select --install\n\
             and run `cargo xtask demo` again."
            .to_owned());
    }
    Ok(())
}

fn build(dev: bool) -> Result<PathBuf> {
    let profile = if dev { "debug" } else { "release" };
    let weir = process::built(profile, "weir");
    println!(
        "Building weir ({}){}",
        if dev { "unoptimised" } else { "optimised" },
        if weir.exists() {
            "."
        } else {
            ". The first build takes more than 10 minutes on two cores; later ones are quick."
        }
    );
    let begin = Instant::now();
    if dev {
        process::run(process::build_binaries())?;
    } else {
        process::run(process::cargo(&["build", "--release", "--package", "weir"]))?;
    }
    println!("Built in {}.", seconds(begin.elapsed()));
    Ok(weir)
}

/// One life of the server with the simulator beside it. Returns the server, still running, and how
/// many rows each table of the first tenant has.
fn one_run(weir: &Path, options: &Options) -> Result<(Server, Vec<u64>)> {
    std::fs::create_dir_all(scratch()).map_err(|error| format!("{}: {error}", scratch().display()))?;
    let log = scratch().join("demo-server.log");
    let known = options.data_dir.exists();
    let mut server = Server::start(weir, &options.data_dir, &log, ports(options.check))?;
    let mut generate = start_simulator(&server, options)?;
    introduce(weir, &server, known);
    let outcome = watch(&mut server, &mut generate, options);
    // First the traffic, then the server, so that nobody sees refused connections.
    let ended = server::stop(&mut generate, Duration::from_secs(20));
    outcome?;
    if options.check && !ended.is_some_and(|status| status.success()) {
        return Err(format!("weir generate did not end well: {ended:?}\n{}", simulator_said()));
    }
    let counts = if options.check { check_data(&server)? } else { Vec::new() };
    Ok((server, counts))
}

/// The well-known ports if they are free. A check never disturbs what runs there.
fn ports(check: bool) -> [&'static str; 3] {
    if check {
        return ["127.0.0.1:0"; 3];
    }
    DEFAULT_PORTS.map(|address| match TcpListener::bind(address) {
        Ok(_) => address,
        Err(error) => {
            println!("{address} is not free ({error}); taking another port.");
            "127.0.0.1:0"
        }
    })
}

fn start_simulator(server: &Server, options: &Options) -> Result<Child> {
    let log = scratch().join("demo-generate.log");
    let file = std::fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let second = file.try_clone().map_err(|error| error.to_string())?;
    let mut command = server.client(&["generate"]);
    command.args(["--tenants", &TENANTS.to_string(), "--rate", &options.rate.to_string(), "--incident"]);
    command.process_group(0).stdout(Stdio::from(file)).stderr(Stdio::from(second));
    command.spawn().map_err(|error| process::cannot_start(&command, &error))
}

fn simulator_said() -> String {
    std::fs::read_to_string(scratch().join("demo-generate.log")).unwrap_or_default()
}

fn introduce(weir: &Path, server: &Server, known: bool) {
    let (weir, dir, http) = (shown(weir), shown(&server.data_dir), &server.addresses.http);
    let at = if dir == "weir-data" { String::new() } else { format!(" --data-dir {dir}") };
    println!(
        "
Weir is running{}.

  API, ingest          http://{http}
  OTLP over gRPC       {}
  OTLP over HTTP       http://{}
  administrator's key  {dir}/admin.key
  server log           {}

Ask it, from another terminal:

  {weir} query{at} --tenant demo-1 \"select type, count(*) as n from events group by type order by n desc\"

  curl -s http://{http}/api/v1/query -H \"Authorization: Bearer $(cat {dir}/admin.key)\" \\
    -H 'X-Weir-Tenant: demo-1' -H 'Content-Type: application/json' \\
    -d '{{\"sql\": \"select service_name, count(*) as n from logs group by service_name\"}}'

The tenants are demo-1 to demo-{TENANTS}; the tables are events, logs, spans, metrics. End with Ctrl-C.
",
        if known { ", with the data it had before" } else { "" },
        server.addresses.otlp_grpc,
        server.addresses.otlp_http,
        shown(&server.log),
    );
}

/// Shows a live line until Ctrl-C, the end of the duration, or the end of either process.
fn watch(server: &mut Server, generate: &mut Child, options: &Options) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let begin = Instant::now();
    let mut before: Option<(Instant, f64)> = None;
    let every = Duration::from_secs(if terminal { 1 } else { 10 });
    let mut next = begin + every;
    while !signal::stop_asked() && options.duration.is_none_or(|duration| begin.elapsed() < duration) {
        if !server.runs() {
            return Err(format!("weir serve has stopped by itself\n{}", server.log_end()));
        }
        if let Ok(Some(status)) = generate.try_wait() {
            return Err(format!("weir generate ended with {status}\n{}", simulator_said()));
        }
        std::thread::sleep(Duration::from_millis(50));
        if Instant::now() < next {
            continue;
        }
        next += every;
        let Ok((200, metrics)) = http::get(&server.addresses.http, "/metrics") else { continue };
        let stored = http::metric_sum(&metrics, ROWS_METRIC, ROWS_STORED);
        let now = Instant::now();
        if let Some((then, stored_then)) = before {
            let rate = (stored - stored_then) / now.duration_since(then).as_secs_f64();
            let line = format!("{:>9} rows stored, {rate:>7.0} rows/s, {}", stored, seconds(begin.elapsed()));
            if terminal {
                print!("\r\x1b[K  {line}");
                // A line for the eye; the next one comes in a second.
                let _ = std::io::stdout().flush();
            } else {
                println!("  {line}");
            }
        }
        before = Some((now, stored));
    }
    println!("\n{}", if signal::stop_asked() { "Stopping." } else { "Time is over, stopping." });
    Ok(())
}

/// The server's counter of rows, and the label of those that were stored.
const ROWS_METRIC: &str = "weir_ingest_rows_total";
const ROWS_STORED: &str = "outcome=\"stored\"";

fn counts(server: &Server, tenant: &str) -> Result<Vec<u64>> {
    let count = |table: &&str| {
        let value = server.query_value(tenant, &format!("select count(*) from {table}"))?;
        value.parse().map_err(|_| format!("count of {table} is `{value}`"))
    };
    TABLES.iter().map(count).collect()
}

fn check_data(server: &Server) -> Result<Vec<u64>> {
    let mut first = Vec::new();
    for number in (1..=TENANTS).rev() {
        let tenant = format!("demo-{number}");
        first = counts(server, &tenant)?;
        println!("  {tenant}: {}", describe(&first));
        if let Some(place) = first.iter().position(|count| *count == 0) {
            return Err(format!("{tenant} has no rows in {}\n{}", TABLES[place], server.log_end()));
        }
    }
    Ok(first)
}

/// A second start finds every row of the first.
fn check_restart(weir: &Path, options: &Options, before: &[u64]) -> Result<()> {
    let server = Server::start(weir, &options.data_dir, &scratch().join("demo-server.log"), ports(true))?;
    let after = counts(&server, "demo-1")?;
    println!("  demo-1 after a restart: {}", describe(&after));
    server.stop()?;
    // No less: what was acknowledged is there. No more: nothing sends.
    if after == before { Ok(()) } else { Err(format!("a restart changed the rows: {before:?} became {after:?}")) }
}

fn describe(counts: &[u64]) -> String {
    TABLES.iter().zip(counts).map(|(table, count)| format!("{count} {table}")).collect::<Vec<_>>().join(", ")
}

/// A path as it is typed in the root of the checkout.
fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}
