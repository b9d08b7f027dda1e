//! A bound socket. Binding is apart from serving, so that port 0 works: the address is known, and
//! can be told to others, before the first request is served.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, lookup_host};

use super::NetError;
use super::tls::Tls;

/// A socket that listens, not yet served.
#[derive(Debug)]
pub struct Listener {
    pub(super) name: &'static str,
    pub(super) socket: TcpListener,
    pub(super) tls: Option<Arc<Tls>>,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`, `host:port`; port 0 takes a free one. `name` stands in logs and in
    /// [`super::Peer`].
    pub async fn bind(name: &'static str, address: &str, tls: Option<Arc<Tls>>) -> Result<Self, NetError> {
        let addresses: Vec<SocketAddr> = lookup_host(address)
            .await
            .map_err(|source| NetError::Resolve { listener: name, address: address.to_owned(), source })?
            .collect();
        let bind_error = |source| NetError::Bind { listener: name, address: address.to_owned(), source };
        let socket = TcpListener::bind(addresses.as_slice()).await.map_err(bind_error)?;
        let address = socket.local_addr().map_err(bind_error)?;
        Ok(Self { name, socket, tls, address })
    }

    /// The address it listens on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
