//! Encrypted connections, and certificates that change.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::routing::get as on_get;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weir_server::net::tls::{Tls, TlsFiles};
use weir_server::net::{Listener, NetOptions, Peer};

use crate::harness::{PATIENCE, Running, get, http1_over, http2_over, read_to_end, start_listener, text};

const POLL: Duration = Duration::from_millis(20);

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn install(name: &str, files: &TlsFiles) {
    fs::write(&files.certificate, fixture(&format!("{name}.cert.pem"))).unwrap();
    fs::write(&files.key, fixture(&format!("{name}.key.pem"))).unwrap();
}

fn files(directory: &tempfile::TempDir) -> TlsFiles {
    TlsFiles { certificate: directory.path().join("cert.pem"), key: directory.path().join("key.pem") }
}

async fn start(files: &TlsFiles, options: NetOptions) -> Running {
    let router =
        Router::new().route("/tls", on_get(|Extension(peer): Extension<Peer>| async move { peer.tls.to_string() }));
    let tls = Tls::load(files.clone(), POLL).unwrap();
    start_listener(options, Listener::bind("test", "127.0.0.1:0", Some(tls)).await.unwrap(), router)
}

/// Connects, trusting only the certificate `name`.
async fn connect(running: &Running, name: &str, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fixture(&format!("{name}.cert.pem"))).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let socket = TcpStream::connect(running.address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await
}

#[tokio::test]
async fn both_versions_of_http_are_served_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    install("first", &files(&directory));
    let running = start(&files(&directory), NetOptions::default()).await;
    let stream = connect(&running, "first", b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut client = http2_over(stream).await;
    assert_eq!(text(client.send_request(get("https://localhost/tls")).await.unwrap()).await, "true");
    let mut client = http1_over(connect(&running, "first", b"http/1.1").await.unwrap()).await;
    assert_eq!(text(client.send_request(get("/tls")).await.unwrap()).await, "true");
    assert!(connect(&running, "second", b"h2").await.is_err());
}

#[tokio::test]
async fn a_handshake_that_stalls_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    install("first", &files(&directory));
    let options = NetOptions { handshake_timeout: Duration::from_millis(100), ..NetOptions::default() };
    let running = start(&files(&directory), options).await;
    let mut silent = running.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");
    running.until("closed", |server| server.connections_open() == 0).await;
}

#[tokio::test]
async fn new_certificates_are_taken_over_and_bad_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    install("first", &files);
    let running = start(&files, NetOptions::default()).await;
    let mut old = http2_over(connect(&running, "first", b"h2").await.unwrap()).await;
    // Half of a pair, and then something that is no certificate: the first stays in use.
    fs::write(&files.key, fixture("second.key.pem")).unwrap();
    tokio::time::sleep(POLL * 10).await;
    assert!(connect(&running, "first", b"h2").await.is_ok());
    fs::write(&files.certificate, "not a certificate").unwrap();
    tokio::time::sleep(POLL * 10).await;
    assert!(connect(&running, "first", b"h2").await.is_ok());
    // The whole pair.
    install("second", &files);
    let begun = Instant::now();
    while connect(&running, "second", b"h2").await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the new certificate is not used");
    }
    assert!(connect(&running, "first", b"h2").await.is_err());
    // Connections made before go on.
    assert_eq!(text(old.send_request(get("https://localhost/tls")).await.unwrap()).await, "true");
}

#[tokio::test]
async fn unusable_files_are_named_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    install("first", &files);
    fs::write(&files.certificate, "").unwrap();
    assert!(Tls::load(files.clone(), POLL).unwrap_err().to_string().contains("cert.pem"));
    fs::write(&files.certificate, fixture("second.cert.pem")).unwrap();
    assert!(Tls::load(files.clone(), POLL).is_err(), "key and certificate do not fit together");
    fs::remove_file(&files.key).unwrap();
    assert!(Tls::load(files, POLL).unwrap_err().to_string().contains("key.pem"));
}
