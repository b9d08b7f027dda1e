//! The simulator from outside.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::program::{Serving, said, weir};
use crate::served_pipelines::Desk;

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it takes as somebody at the terminal sees it")]
fn an_address_nobody_listens_at_is_told_at_once() {
    let desk = Desk::new();
    let server = Serving::start(&desk.data_dir(), &[]);
    let key = std::fs::read_to_string(desk.data_dir().join("admin.key")).unwrap();
    let url = format!("http://{}", server.addresses()[0]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let arguments = ["generate", "--url", &url, "--key", key.trim(), "--tenants", "1", "--duration", "1s"];
    let begun = Instant::now();
    let output = weir(&arguments).args(["--otlp-grpc", &nobody]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("--otlp-grpc"), "{}", said(&output));
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    let output = weir(&arguments).args(["--otlp-grpc", &server.addresses()[1]]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}
