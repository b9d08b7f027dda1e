//! `weir generate`: makes sure that the demo tenants and their keys exist, then runs the simulator.
//!
//! Beside a server on this machine the keys are kept in its data directory (`demo-keys.json`, mode
//! 0600), so that starting again makes no new ones. For a server elsewhere they are made for one run
//! and revoked at its end.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use http::{Method, StatusCode};
use serde_json::Value;
use weir_api::key::{KeyCreate, Scope};
use weir_api::tenant::{TenantCreate, TenantSettings, Tier};
use weir_base::shutdown::Shutdown;

use super::note;
use crate::cli::GenerateArgs;
use crate::client::{Api, Refused, local_addresses};
use crate::failure::bad_arguments;
use crate::generate::{self, GenerateOptions, Incident, Target};

const KEYS_FILE: &str = "demo-keys.json";
/// How long to wait for a connection before anything is sent.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn run(args: GenerateArgs) -> anyhow::Result<()> {
    // Several threads: it plays many senders at once.
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(simulate(args))
}

async fn simulate(args: GenerateArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.target, None)?;
    let (otlp_http_url, otlp_grpc_url) = otlp_urls(&args, &api)?;
    // Else every call would be tried again for minutes before anybody was told.
    reach(&otlp_grpc_url).await.with_context(|| {
        format!("nobody takes OTLP over gRPC at {otlp_grpc_url}; say where it is with --otlp-grpc HOST:PORT")
    })?;
    let keys_file = args.target.url.is_none().then(|| args.target.data_dir.join(KEYS_FILE));
    let keys = Keys::prepare(&api, args.tenants, keys_file).await?;
    let shutdown = Shutdown::default();
    tokio::spawn(stop_on_signal(shutdown.clone()));
    let options = GenerateOptions {
        targets: keys.targets(),
        http_url: api.base().to_owned(),
        otlp_http_url,
        otlp_grpc_url,
        ca_file: args.target.ca_file.clone(),
        rate: f64::from(args.rate),
        duration: args.duration.map(|duration| duration.0),
        seed: args.seed,
        incident: args.incident.then(Incident::default),
        quiet: false,
    };
    let summary = generate::run(options, shutdown).await;
    keys.forget(&api).await;
    let summary = summary?;
    anyhow::ensure!(summary.is_clean(), "not every row was accounted for");
    Ok(())
}

/// Where OTLP goes: to the addresses of the local server; otherwise over HTTP to the main port, and
/// over gRPC to the usual port of the same host unless another is named.
fn otlp_urls(args: &GenerateArgs, api: &Api) -> anyhow::Result<(String, String)> {
    if args.target.url.is_none() {
        let addresses = local_addresses(&args.target.data_dir)?;
        let grpc = args.otlp_grpc.as_ref().unwrap_or(&addresses.otlp_grpc);
        return Ok((format!("http://{}", addresses.otlp_http), format!("http://{grpc}")));
    }
    let uri: http::Uri = api.base().parse().map_err(|_| bad_arguments("--url is not an address"))?;
    let scheme = uri.scheme_str().unwrap_or("http");
    let grpc = match &args.otlp_grpc {
        Some(address) => address.clone(),
        None => format!("{}:4317", uri.host().unwrap_or_default()),
    };
    Ok((api.base().to_owned(), format!("{scheme}://{grpc}")))
}

/// Whether somebody listens there.
async fn reach(url: &str) -> anyhow::Result<()> {
    let uri: http::Uri = url.parse()?;
    let authority = uri.authority().context("no address")?;
    let port = authority.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    tokio::time::timeout(REACH_TIMEOUT, tokio::net::TcpStream::connect((host, port))).await??;
    Ok(())
}

async fn stop_on_signal(shutdown: Shutdown) {
    use tokio::signal::unix::{SignalKind, signal};
    // Without a handler the signal ends the process, which is what was asked for.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    shutdown.begin();
}

/// A key for each demo tenant.
struct Keys {
    by_tenant: BTreeMap<String, String>,
    /// Ids of keys to revoke at the end, by tenant.
    of_this_run: Vec<(String, String)>,
}

impl Keys {
    async fn prepare(api: &Api, tenants: u32, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let mut by_tenant = file.as_deref().map(read).transpose()?.unwrap_or_default();
        let mut of_this_run = Vec::new();
        let known = by_tenant.len();
        for number in 1..=tenants {
            let tenant = format!("demo-{number}");
            if by_tenant.contains_key(&tenant) {
                continue;
            }
            let (id, key) = create(api, &tenant).await.with_context(|| format!("cannot prepare tenant {tenant}"))?;
            of_this_run.push((tenant.clone(), id));
            by_tenant.insert(tenant, key);
        }
        if let Some(file) = &file
            && by_tenant.len() > known
        {
            write(file, &by_tenant)?;
            of_this_run.clear();
        }
        let wanted = |tenant: &str| (1..=tenants).any(|number| tenant == format!("demo-{number}"));
        by_tenant.retain(|tenant, _| wanted(tenant));
        Ok(Self { by_tenant, of_this_run })
    }

    fn targets(&self) -> Vec<Target> {
        let target = |(tenant, key): (&String, &String)| Target { tenant: tenant.clone(), key: key.clone() };
        self.by_tenant.iter().map(target).collect()
    }

    async fn forget(&self, api: &Api) {
        for (tenant, id) in &self.of_this_run {
            if let Err(error) = api.ask(Method::DELETE, &format!("/api/v1/tenants/{tenant}/keys/{id}")).await {
                note(format_args!("key {id} of {tenant} could not be revoked: {error:#}"));
            }
        }
    }
}

/// Makes the tenant if it does not exist, and a key that may ingest.
async fn create(api: &Api, tenant: &str) -> anyhow::Result<(String, String)> {
    let body = TenantCreate {
        id: tenant.to_owned(),
        name: Some(format!("Demo {tenant}")),
        // The simulator shows what Weir does, not what a free tenant may not.
        tier: Tier::Enterprise,
        limits: serde_json::Map::new(),
        settings: TenantSettings::default(),
    };
    match api.post("/api/v1/tenants", &body).await {
        Err(error) if error.downcast_ref::<Refused>().is_none_or(|refused| refused.status != StatusCode::CONFLICT) => {
            return Err(error);
        }
        Ok(_) | Err(_) => {}
    }
    let body = KeyCreate { scopes: vec![Scope::Ingest], name: Some("weir generate".to_owned()), expires_at: None };
    let answer = api.post(&format!("/api/v1/tenants/{tenant}/keys"), &body).await?;
    let field = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
    field("id").zip(field("key")).context("the server's answer has no id and key")
}

fn read(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is damaged; remove it", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Written aside and renamed: an interrupted start must not leave half a file.
fn write(path: &Path, keys: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let problem = || format!("cannot write {}", path.display());
    let aside = path.with_extension("json.tmp");
    let mut file = std::fs::File::options();
    let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(&aside).with_context(problem)?;
    file.write_all(serde_json::to_string_pretty(keys)?.as_bytes()).with_context(problem)?;
    file.sync_all().with_context(problem)?;
    std::fs::rename(&aside, path).with_context(problem)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_keys_file_is_the_owners_alone_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEYS_FILE);
        assert_eq!(read(&path).unwrap(), BTreeMap::new());
        let keys = BTreeMap::from([("demo-1".to_owned(), "weir_key_x".to_owned())]);
        write(&path, &keys).unwrap();
        assert_eq!(read(&path).unwrap(), keys);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("remove it"));
    }
}
