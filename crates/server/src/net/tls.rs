//! Encryption of connections, with certificates that may change while the server runs.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info, warn};
use weir_base::clock::SystemClock;
use weir_base::{Clock, Timestamp};

use super::NetError;
use super::expiry::not_after;
use crate::routes::time::rfc3339;

/// Where the certificate is, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by the chain up to, but without, the root.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// TLS for a listener. Cheap to share between listeners.
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    loaded: Fingerprint,
    poll_interval: Duration,
}

/// What changes when a file is replaced, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fingerprint(Vec<Option<(u64, SystemTime)>>);

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Loads the files. While the server runs they are looked at every `poll_interval`.
    pub fn load(files: TlsFiles, poll_interval: Duration) -> Result<Arc<Self>, NetError> {
        let loaded = fingerprint(&files);
        let config = ArcSwap::from(config(&files)?);
        Ok(Arc::new(Self { files, config, loaded, poll_interval }))
    }

    pub(super) async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config.load_full()).accept(socket).await
    }

    /// Takes over new files whenever they change, for ever. New connections use them; a pair that
    /// does not load or does not fit together (mostly: one of the two was not yet replaced) changes
    /// nothing and is logged.
    ///
    /// Polling rather than notification, because it also works for what orchestrators do: replace
    /// a symbolic link to a directory.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut seen = self.loaded.clone();
        loop {
            sleep(self.poll_interval).await;
            let files = self.files.clone();
            let before = seen.clone();
            let looked = spawn_blocking(move || {
                let now = fingerprint(&files);
                (now != before).then(|| (now, config(&files)))
            });
            let Ok(Some((now, loaded))) = looked.await else { continue };
            seen = now;
            match loaded {
                Ok(config) => {
                    self.config.store(config);
                    info!(certificate = %self.files.certificate.display(), "took over a new certificate");
                }
                Err(error) => error!(%error, "the new certificate cannot be used; the old one stays in use"),
            }
        }
    }
}

/// Clients refuse a certificate that has ended; whoever installed it should know before they do.
fn warn_of_end(files: &TlsFiles, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
    let ended = chain.iter().filter_map(|certificate| not_after(certificate)).min().filter(|end| *end <= now);
    if let Some(ended) = ended {
        let path = files.certificate.display();
        warn!(certificate = %path, ended = rfc3339(ended), "the certificate has expired: clients will refuse it");
    }
    ended.is_some()
}

fn fingerprint(files: &TlsFiles) -> Fingerprint {
    let look = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    };
    Fingerprint(vec![look(&files.certificate), look(&files.key)])
}

fn config(files: &TlsFiles) -> Result<Arc<ServerConfig>, NetError> {
    let failed = |path: &Path, reason: String| NetError::Tls { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(&files.certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(failed(&files.certificate, "it holds no certificate".to_owned()));
    }
    warn_of_end(files, &chain, SystemClock::new().now());
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| failed(&files.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&files.certificate, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| failed(&files.certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_has_ended_is_warned_of() {
        let chain = [CertificateDer::from_pem_slice(include_bytes!("../../tests/fixtures/first.cert.pem")).unwrap()];
        let files = TlsFiles { certificate: "cert.pem".into(), key: "key.pem".into() };
        let end = not_after(&chain[0]).unwrap();
        assert!(!warn_of_end(&files, &chain, Timestamp(end.0 - 1)));
        assert!(warn_of_end(&files, &chain, end));
    }
}
