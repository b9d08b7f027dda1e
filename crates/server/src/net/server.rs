//! The accept loops, and their end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weir_base::shutdown::Shutdown;

use super::connection::{self, Shared};
use super::slots::{Bounds, Slots};
use super::{Listener, NetOptions, Peer};

/// Serves any number of listeners under one bound on connections.
#[derive(Clone, Debug)]
pub struct Server {
    options: NetOptions,
    slots: Arc<Slots>,
}

/// How the serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that were cut because they did not end within the drain timeout.
    pub cut: usize,
}

/// How long a listener that cannot accept (mostly: no file descriptors left) waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// A server that accepts nothing yet.
    pub fn new(options: NetOptions) -> Self {
        let slots = Slots::new(Bounds {
            max: options.connections_max,
            reserve: options.connections_reserve,
            per_address_max: options.connections_per_address_max,
            proxies: options.proxies.clone(),
        });
        Self { options, slots }
    }

    /// Connections open now.
    pub fn connections_open(&self) -> usize {
        self.slots.open()
    }

    /// Connections that found the server full, since the start.
    pub fn connections_refused(&self) -> u64 {
        self.slots.refused()
    }

    /// Connections from an address that had as many as it may, since the start.
    pub fn connections_of_address_refused(&self) -> u64 {
        self.slots.refused_of_address()
    }

    /// Serves each listener with its router until the shutdown begins; then stops accepting, lets
    /// requests finish for at most the drain timeout, and cuts what is left.
    ///
    /// Handlers that never end by themselves, such as live tails, have to watch the shutdown too.
    pub async fn serve(&self, listeners: Vec<(Listener, Router)>, shutdown: Shutdown) -> DrainReport {
        let draining = CancellationToken::new();
        let aborted = CancellationToken::new();
        let mut accepting = JoinSet::new();
        for (listener, router) in listeners {
            let shared = Arc::new(Shared {
                options: self.options.clone(),
                tls: listener.tls.clone(),
                router,
                listener: listener.name,
                draining: draining.clone(),
                aborted: aborted.clone(),
            });
            if let Some(tls) = &listener.tls {
                accepting.spawn(Arc::clone(tls).watch());
            }
            accepting.spawn(accept_all(listener, shared, Arc::clone(&self.slots)));
        }
        shutdown.begun().await;
        // Dropping the sockets refuses new connections from here on.
        accepting.shutdown().await;
        draining.cancel();
        let open = self.slots.open();
        if timeout(self.options.drain_timeout, self.slots.all_closed()).await.is_ok() {
            return DrainReport { cut: 0 };
        }
        let cut = self.slots.open();
        warn!(open, cut, timeout = ?self.options.drain_timeout, "connections did not end in time and are cut");
        aborted.cancel();
        // Only so that handlers see the end of their connection before what they use goes away.
        let _ = timeout(Duration::from_secs(1), self.slots.all_closed()).await;
        DrainReport { cut }
    }
}

async fn accept_all(listener: Listener, shared: Arc<Shared>, slots: Arc<Slots>) {
    info!(listener = listener.name, address = %listener.address(), tls = listener.tls.is_some(), "listening");
    let mut full = false;
    loop {
        let (socket, address) = match listener.socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_about_one_connection(&error) => continue,
            Err(error) => {
                warn!(listener = listener.name, %error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(slot) = slots.take(address.ip()) else {
            if !full {
                warn!(
                    listener = listener.name,
                    "connections refused: as many are open as may be, in all or from one address"
                );
            }
            full = true;
            refuse(socket);
            continue;
        };
        full = false;
        let peer = Peer { address, listener: shared.listener, tls: false };
        tokio::spawn(connection::serve(socket, peer, slot, Arc::clone(&shared)));
    }
}

/// Errors of the connection that was to be accepted, not of the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Closes at once, with a reset: no reply to write, no state to keep.
fn refuse(socket: TcpStream) {
    let _ = socket.set_zero_linger();
    drop(socket);
}
