//! The network edge: listeners, connections and request bodies, all of them with bounds.
//!
//! Weir owns its accept loop, because the bounds that keep one hostile client from harming the
//! others are on connections and not on requests: time to send a request's head, time for a TLS
//! handshake, idle time, a peer that does not read, streams and resets of one HTTP/2 connection,
//! the number of connections. `axum::serve` installs no timer, so that none of hyper's would work.
//!
//! Invariant: whatever a peer does, its connection ends within a bounded time of it doing nothing
//! useful, and holds a bounded amount of memory until then.
//! Invariant: a connection counts against `connections_max` until its socket is closed, also after
//! an upgrade to WebSocket.
//!
//! Deliberately absent: routing and everything about tenants.

pub mod body;
pub mod budget;
mod connection;
mod expiry;
mod io;
mod listener;
mod reply;
mod request;
mod server;
mod slots;
pub mod tls;

use std::io::Error as IoError;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weir_base::{ErrorKind, Kinded};

pub use listener::Listener;
pub use server::{DrainReport, Server};

/// The bounds on connections.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// The most connections at a time, over all listeners.
    pub connections_max: usize,
    /// Connections above `connections_max` that are still answered: health probes as ever,
    /// everything else with 503. Beyond these, connections are closed at once.
    pub connections_reserve: usize,
    /// The most connections at a time from one IPv4 address or one IPv6 network of 64 bits, over all
    /// listeners; 0 is no limit. A few above it are answered with 429, the rest is closed at once.
    pub connections_per_address_max: usize,
    /// Networks of proxies, from which there may be any number of connections.
    pub proxies: Vec<ipnet::IpNet>,
    /// The most time from the first byte of a request to the end of its headers, and from the
    /// start of a connection to its first request.
    pub header_timeout: Duration,
    /// The most time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// How long a connection may do nothing between requests.
    pub idle_timeout: Duration,
    /// How long a peer may not read what is sent to it.
    pub write_timeout: Duration,
    /// How often an HTTP/2 peer is asked whether it is still there, and how long it may take.
    pub ping_interval: Duration,
    /// The most requests at a time on one HTTP/2 connection.
    pub streams_max: u32,
    /// The most bytes of one request's headers.
    pub header_bytes_max: u32,
    /// The most HTTP/2 requests one connection may abandon within 10 seconds.
    pub resets_max: u32,
    /// How long requests may go on once the shutdown has begun.
    pub drain_timeout: Duration,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_reserve: 64,
            connections_per_address_max: 4_000,
            proxies: Vec::new(),
            header_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(30),
            streams_max: 128,
            header_bytes_max: 64 * 1024,
            resets_max: 1000,
            drain_timeout: Duration::from_secs(25),
        }
    }
}

/// Who is at the other end of a connection; an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address of the socket's other end: the client's, or that of a proxy before it.
    pub address: SocketAddr,
    /// The name of the listener it came in through.
    pub listener: &'static str,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// An address that is none.
    #[error("resolving {address} for the {listener} listener")]
    Resolve {
        /// The listener.
        listener: &'static str,
        /// The address as configured.
        address: String,
        /// Why.
        source: IoError,
    },
    /// An address that cannot be listened on.
    #[error("listening on {address} for {listener}")]
    Bind {
        /// The listener.
        listener: &'static str,
        /// The address as configured.
        address: String,
        /// Why.
        source: IoError,
    },
    /// A certificate or key that cannot be used.
    #[error("loading {}: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl NetError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                "another program listens there, perhaps another weir; choose another address, or port 0 for a free one"
            }
            Self::Bind { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need a privilege; choose a higher port"
            }
            Self::Bind { .. } => "the address must be one of this machine",
            Self::Resolve { .. } => "an address is host:port, for example 127.0.0.1:8080 or [::1]:8080",
            Self::Tls { .. } => "both files must be PEM: the certificate with its chain, and its private key",
        }
    }
}

impl Kinded for NetError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Config
    }
}
