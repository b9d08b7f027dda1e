//! Servers as processes: one a directory, certificates that change, and the ways to stop.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::program::{PATIENCE, Serving, run, said, until, weir};

#[test]
fn two_processes_on_one_directory_and_one_of_them_serves() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let first = Serving::start(&data_dir, &[]);
    let addresses = std::fs::read(data_dir.join("addresses.json")).unwrap();
    let second = weir(&["serve", "--data-dir", data_dir.to_str().unwrap()])
        .args(["--http", "127.0.0.1:0", "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("in use by another weir"), "{}", said(&second));
    assert!(said(&second).contains(data_dir.to_str().unwrap()), "{}", said(&second));
    // The first notices nothing, and clients still find it.
    assert!(first.is_alive());
    assert_eq!(std::fs::read(data_dir.join("addresses.json")).unwrap(), addresses);
    // The lock ends with its process, however that ends.
    first.signal(Signal::KILL);
    drop(first);
    let third = Serving::start(&data_dir, &[]);
    assert!(third.is_alive());
    assert_eq!(third.stop(Signal::TERM), Some(0));
}

#[test]
fn both_signals_stop_a_server_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        let server = Serving::start(&dir.path().join("data"), &[]);
        assert_eq!(server.stop(signal), Some(0), "{signal:?}");
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/tests/fixtures").join(name)
}

/// One request over a connection that trusts only the certificate `name`.
fn ask(address: &str, name: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    let certificate = std::fs::read(fixture(&format!("{name}.cert.pem"))).unwrap();
    roots.add(CertificateDer::from_pem_slice(&certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}

#[test]
fn a_server_takes_over_new_certificates_while_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let install = |name: &str| {
        for (kind, to) in [("cert", &certificate), ("key", &key)] {
            // As certbot and orchestrators do: aside, then in one step.
            let aside = to.with_extension("new");
            std::fs::copy(fixture(&format!("{name}.{kind}.pem")), &aside).unwrap();
            std::fs::rename(&aside, to).unwrap();
        }
    };
    install("first");
    let config = dir.path().join("weir.yaml");
    let tls = format!("{{ certificate: '{}', key: '{}' }}", certificate.display(), key.display());
    std::fs::write(&config, format!("http: {{ tls: {tls} }}\n")).unwrap();
    let server = Serving::start(&dir.path().join("data"), &["--config", config.to_str().unwrap()]);
    assert!(ask(&server.http, "first").unwrap().starts_with("HTTP/1.1 200 "));
    assert!(ask(&server.http, "second").is_err());
    let plain = run(&["tenant", "list", "--data-dir", dir.path().join("data").to_str().unwrap()]);
    assert_eq!(plain.status.code(), Some(1), "{}", said(&plain));
    assert!(said(&plain).contains("--ca-file"), "{}", said(&plain));
    install("second");
    let reply = until("the new certificate is used", || ask(&server.http, "second").ok());
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    assert!(ask(&server.http, "first").is_err());
    assert_eq!(server.stop(Signal::TERM), Some(0));
}
