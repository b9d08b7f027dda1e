//! A server on a free port, and clients that see every byte.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_base::shutdown::Shutdown;
use weir_server::net::{DrainReport, Listener, NetOptions, Server};

/// Longer than anything a test waits for; only a failing test reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) server: Server,
    pub(crate) shutdown: Shutdown,
    pub(crate) ended: JoinHandle<DrainReport>,
}

/// Serves `router` on a free port of the loopback.
pub(crate) async fn start(options: NetOptions, router: Router) -> Running {
    start_listener(options, Listener::bind("test", "127.0.0.1:0", None).await.unwrap(), router)
}

pub(crate) fn start_listener(options: NetOptions, listener: Listener, router: Router) -> Running {
    let address = listener.address();
    let server = Server::new(options);
    let shutdown = Shutdown::default();
    let ended = tokio::spawn({
        let server = server.clone();
        let shutdown = shutdown.clone();
        async move { server.serve(vec![(listener, router)], shutdown).await }
    });
    Running { address, server, shutdown, ended }
}

impl Running {
    /// Begins the shutdown and waits for its end.
    pub(crate) async fn stop(self) -> DrainReport {
        self.shutdown.begin();
        timeout(PATIENCE, self.ended).await.unwrap().unwrap()
    }

    /// Returns once `condition` holds.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Server) -> bool) {
        until(what, || condition(&self.server)).await;
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Returns once `condition` holds; panics naming `what` if it never does.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for: {what}");
}

/// Sends bytes and reads to the end of the connection.
pub(crate) async fn exchange(mut socket: TcpStream, bytes: &[u8]) -> String {
    socket.write_all(bytes).await.unwrap();
    read_to_end(&mut socket).await
}

/// Everything until the other side closes, also by a reset.
pub(crate) async fn read_to_end(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) type Http2Client = http2::SendRequest<Full<Bytes>>;

/// An HTTP/2 connection over any stream.
pub(crate) async fn http2_over<S>(stream: S) -> Http2Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

/// An HTTP/1 connection over any stream.
pub(crate) async fn http1_over<S>(stream: S) -> http1::SendRequest<Full<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).header("host", "localhost").body(Full::default()).unwrap()
}

pub(crate) fn post(uri: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(uri).header("host", "localhost").body(Full::new(body.into())).unwrap()
}

pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    String::from_utf8(timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap().to_bytes().to_vec())
        .unwrap()
}
