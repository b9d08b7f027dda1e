//! A server for one scenario, and what is asked of it besides ingest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use weir_testkit::oracle::server::Server;
use weir_testkit::oracle::wire::Reply;

/// Where a scenario plays. It ends with its server and its files.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) data_dir: PathBuf,
    // Dropped after the server.
    _scratch: tempfile::TempDir,
}

impl Stage {
    /// A server that runs, with its data in a folder of its own.
    pub(crate) async fn start(weir: &Path, config: &str) -> Result<Self> {
        let scratch = tempfile::tempdir().context("cannot make a scratch directory")?;
        let data_dir = scratch.path().join("data");
        Self::start_in(weir, config, scratch, data_dir).await
    }

    /// The same with its data in a given place.
    pub(crate) async fn start_in(
        weir: &Path,
        config: &str,
        scratch: tempfile::TempDir,
        data_dir: PathBuf,
    ) -> Result<Self> {
        let mut server = Server::new(weir, scratch.path(), &data_dir, config)?;
        if let Err(error) = server.start().await {
            return Err(error.context(server.log_end()));
        }
        Ok(Self { server, data_dir, _scratch: scratch })
    }

    /// Runs a scenario; a failure gets the server's last words and whether it still runs.
    pub(crate) fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| {
            let words = self.server.log_end();
            anyhow::anyhow!("{error:#}\n{words}")
        })
    }

    /// A request as the administrator, in the name of a tenant if there is one.
    pub(crate) async fn admin(&self, method: Method, path: &str, tenant: Option<&str>, body: &Value) -> Result<Reply> {
        let mut headers = vec![
            ("authorization", format!("Bearer {}", self.server.admin_key)),
            ("content-type", "application/json".to_owned()),
        ];
        headers.extend(tenant.map(|tenant| ("x-weir-tenant", tenant.to_owned())));
        let body = if body.is_null() { Bytes::new() } else { serde_json::to_vec(body)?.into() };
        let replied =
            self.server.http.request(method.clone(), &self.server.addresses.http, path, &headers, body).await?;
        replied.map_err(|problem| anyhow::anyhow!("{method} {path}: {problem}"))
    }

    /// The same, with a reply of JSON, which has to be a success.
    pub(crate) async fn admin_json(
        &self,
        method: Method,
        path: &str,
        tenant: Option<&str>,
        body: &Value,
    ) -> Result<Value> {
        let reply = self.admin(method.clone(), path, tenant, body).await?;
        ensure!((200..300).contains(&reply.status), "{method} {path}: {}", reply.text());
        serde_json::from_slice(&reply.body).with_context(|| format!("the reply of {method} {path}"))
    }

    /// Makes a tenant and a key that may send; returns the key.
    pub(crate) async fn tenant(&self, id: &str, tier: &str, limits: &Value) -> Result<String> {
        let body = json!({ "id": id, "name": id, "tier": tier, "limits": limits });
        self.admin_json(Method::POST, "/api/v1/tenants", None, &body).await?;
        Ok(self.key(id).await?.0)
    }

    /// Makes one more key; returns it and its id.
    pub(crate) async fn key(&self, tenant: &str) -> Result<(String, String)> {
        let path = format!("/api/v1/tenants/{tenant}/keys");
        let reply = self.admin_json(Method::POST, &path, None, &json!({ "scopes": ["ingest"] })).await?;
        let text = |name: &str| reply[name].as_str().map(str::to_owned);
        let key = text("key").context("the reply has no key")?;
        let id = text("id").context("the reply has no id of the key")?;
        Ok((key, id))
    }

    /// The rows of a query.
    pub(crate) async fn query(&self, tenant: &str, sql: &str) -> Result<Vec<Value>> {
        let body = json!({ "sql": sql });
        let mut reply = self.admin_json(Method::POST, "/api/v1/query", Some(tenant), &body).await?;
        ensure!(reply["stats"]["truncated"] != json!(true), "the answer of `{sql}` was cut");
        match reply["rows"].take() {
            Value::Array(rows) => Ok(rows),
            other => bail!("the answer of `{sql}` has no rows: {other}"),
        }
    }

    /// What must hold after any abuse: it runs, and nothing panicked.
    pub(crate) async fn no_panics(&self) -> Result<()> {
        let reply = self.admin(Method::GET, "/metrics", None, &Value::Null).await?;
        let text = String::from_utf8_lossy(&reply.body);
        ensure!(reply.status == 200 && text.contains("weir_"), "GET /metrics: {}", reply.text());
        let panics = text.lines().find_map(|line| line.strip_prefix("weir_panics_total ")).unwrap_or("0").trim();
        ensure!(panics.parse::<f64>() == Ok(0.0), "{panics} panics were caught");
        let log = self.server.log_text();
        let panicked = log.lines().find(|line| line.contains("panicked"));
        ensure!(panicked.is_none(), "a panic: {}", panicked.unwrap_or_default());
        Ok(())
    }

    /// Memory of the server that is in use, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        memory(self.server.process_id().context("the server does not run")?)
    }
}

/// Memory a process holds. The pages of its program are not counted: a development build has
/// hundreds of megabytes of them, and the kernel takes them back when it likes.
pub(crate) fn memory(process: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).context("the server has died")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("the server has died: no RssAnon")?;
    let kib: u64 = line.split_whitespace().next().context("RssAnon is empty")?.parse()?;
    Ok(kib * 1024)
}
