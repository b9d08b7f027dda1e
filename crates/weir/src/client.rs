//! The client commands' way to a server: which server, with which key, and what a refusal says.
//!
//! One small client on hyper. It follows no redirects, keeps no cookies and retries nothing: a
//! command says what it did, and a second try is the user's decision.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde_json::Value;
use weir_api::health::Addresses;
use weir_api::problem::Problem;
use weir_base::secret::Secret;

use crate::cli::Target;
use crate::failure::bad_arguments;

/// Answers the commands hold in memory whole (lists, tables for people) end here.
const ANSWER_BYTES_MAX: usize = 256 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The addresses of the server of a data directory, from `DIR/addresses.json`.
pub(crate) fn local_addresses(data_dir: &Path) -> anyhow::Result<Addresses> {
    let path = data_dir.join("addresses.json");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "no server found: cannot read {} (start one with `weir serve --data-dir {}`, or name one with --url and --key)",
            path.display(),
            data_dir.display()
        )
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what `weir serve` writes", path.display()))
}

/// Whether a server named by its address is on this machine.
fn is_loopback(base: &str) -> bool {
    let Ok(uri) = base.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The server said no. Built from its `application/problem+json`.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    problem: Option<Problem>,
}

impl Refused {
    fn new(status: StatusCode, body: &[u8]) -> Self {
        Self { status, problem: serde_json::from_slice(body).ok() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(problem) = &self.problem else {
            let reason = self.status.canonical_reason().unwrap_or("no reason given");
            return write!(formatter, "the server answered {} ({reason})", self.status.as_u16());
        };
        formatter.write_str(&problem.detail)?;
        // The place of a mistake in SQL is in the detail already, with a comma.
        if let Some(pointer) = &problem.pointer
            && !(pointer.starts_with("line ") && problem.detail.contains(&pointer.replace(" column ", ", column ")))
        {
            write!(formatter, ", at {pointer}")?;
        }
        write!(formatter, " [{}]", problem.code)?;
        if let Some(hint) = &problem.hint {
            write!(formatter, "\n  hint: {hint}")?;
        }
        for place in &problem.errors {
            write!(formatter, "\n  {}: {}", place.pointer, place.detail)?;
            if let Some(hint) = &place.hint {
                write!(formatter, " ({hint})")?;
            }
        }
        if let Some(seconds) = problem.retry_after {
            write!(formatter, "\n  try again in {seconds} s")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// A server, a key, and perhaps the tenant to act for.
#[derive(Debug)]
pub(crate) struct Api {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    key: Secret<String>,
    tenant: Option<String>,
}

impl Api {
    /// Finds the server and the key; connects to nothing yet.
    pub(crate) fn new(target: &Target, tenant: Option<&str>) -> anyhow::Result<Self> {
        let base = match &target.url {
            Some(url) => checked_url(url)?,
            None => {
                // Who trusts an authority expects a certificate.
                let scheme = if target.ca_file.is_some() { "https" } else { "http" };
                format!("{scheme}://{}", local_addresses(&target.data_dir)?.http)
            }
        };
        let key = match &target.key {
            Some(key) => key.trim().to_owned(),
            // The local administrator's key goes to this machine only, whatever else is asked for.
            None if target.url.is_some() && !(is_loopback(&base) && target.data_dir.join("admin.key").exists()) => {
                return Err(bad_arguments("a server named by --url needs a key: give --key or set WEIR_KEY"));
            }
            None => read_key(&target.data_dir.join("admin.key"))?,
        };
        // An administrator may name the tenant; nothing but an identifier may reach a header.
        if let Some(tenant) = tenant {
            tenant.parse::<weir_base::TenantId>().map_err(|error| bad_arguments(error.to_string()))?;
        }
        Ok(Self {
            http: Client::builder(TokioExecutor::new()).build(connector(target.ca_file.as_deref())?),
            base,
            key: Secret::new(key),
            tenant: tenant.map(str::to_owned),
        })
    }

    /// The address of the server, without a slash at the end.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request and returns the answer whose body has not been read; a refusal is an error.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key.expose()))
            .header(header::ACCEPT, accept)
            // An answer may end with what was not known when it began.
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")));
        if let Some(tenant) = &self.tenant {
            request = request.header("x-weir-tenant", tenant);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .context("the key or address has characters no header may have")?;
        let response = self.http.request(request).await.map_err(|error| self.unreached(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = collect(response.into_body()).await.unwrap_or_default();
        Err(anyhow::Error::new(Refused::new(status, &body)))
    }

    /// Why there is no answer. Where an answer to plain HTTP is none, TLS is the likely reason.
    fn unreached(&self, error: hyper_util::client::legacy::Error) -> anyhow::Error {
        let error = anyhow::Error::new(error);
        let is_no_http =
            error.chain().any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse));
        let hint = if is_no_http && self.base.starts_with("http:") {
            ": what answers there is no HTTP; does it speak TLS? Then give https:// in --url, or --ca-file"
        } else {
            ""
        };
        error.context(format!("cannot reach {}{hint}", self.base))
    }

    /// Asks for JSON; an empty answer is null.
    pub(crate) async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        self.json_answer(self.send(method, path, "application/json", None).await?).await
    }

    /// Posts JSON and returns JSON.
    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Value> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        self.json_answer(self.send(Method::POST, path, "application/json", Some(body)).await?).await
    }

    async fn json_answer(&self, response: Response<Incoming>) -> anyhow::Result<Value> {
        let body = collect(response.into_body()).await?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).with_context(|| format!("{} answered something that is not JSON", self.base))
    }
}

/// A body in memory, up to [`ANSWER_BYTES_MAX`].
pub(crate) async fn collect(body: Incoming) -> anyhow::Result<Bytes> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(anyhow::anyhow!("cannot read the answer: {error}")),
    }
}

/// One segment of a path: everything that is not plain is escaped.
pub(crate) fn path_segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The key in a file that `weir serve` wrote.
pub(crate) fn read_key(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read the administrator's key {} (give --key, or run as the server's user)", path.display())
    })?;
    Ok(text.trim().to_owned())
}

fn checked_url(url: &str) -> anyhow::Result<String> {
    let uri: http::Uri = url.parse().map_err(|error| bad_arguments(format!("--url {url}: {error}")))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.authority().is_some() => Ok(url.trim_end_matches('/').to_owned()),
        _ => Err(bad_arguments(format!("--url {url}: expected http://HOST:PORT or https://HOST:PORT"))),
    }
}

/// How connections are made: plain, or TLS trusting the usual authorities or the one of `ca_file`.
pub(crate) fn connector(ca_file: Option<&Path>) -> anyhow::Result<HttpsConnector<HttpConnector>> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let builder = hyper_rustls::HttpsConnectorBuilder::new();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = match ca_file {
        None => builder.with_provider_and_webpki_roots(provider)?,
        Some(path) => {
            use rustls::pki_types::pem::PemObject;
            let problem = || format!("--ca-file {}", path.display());
            let mut roots = rustls::RootCertStore::empty();
            for certificate in rustls::pki_types::CertificateDer::pem_file_iter(path).with_context(problem)? {
                roots.add(certificate.with_context(problem)?).with_context(problem)?;
            }
            anyhow::ensure!(!roots.is_empty(), bad_arguments(format!("{}: no certificate in it", problem())));
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
            builder.with_tls_config(config)
        }
    };
    Ok(builder.https_or_http().enable_http1().wrap_connector(http))
}

#[cfg(test)]
mod tests;
