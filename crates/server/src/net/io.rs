//! The bytes of a connection, watched: what a peer sends outside of requests, and whether it reads
//! what is sent to it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::connection::Activity;
use super::slots::Slot;

/// A socket, encrypted or not. An enum rather than a type parameter: hyper's state machines are
/// compiled once instead of twice.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A peer that takes less than this within the write timeout does not read.
const PROGRESS_BYTES_MIN: usize = 16 * 1024;

/// A connection's stream. Holds the connection's slot, so that an upgraded connection keeps it.
#[derive(Debug)]
pub(super) struct WatchedIo {
    stream: Stream,
    activity: Arc<Activity>,
    write_timeout: Duration,
    stall: Option<Stall>,
    _slot: Slot,
}

/// The peer's receive window is full: running since the first write that had to wait.
#[derive(Debug)]
struct Stall {
    timer: Pin<Box<Sleep>>,
    taken_bytes: usize,
}

impl WatchedIo {
    pub(super) fn new(stream: Stream, activity: Arc<Activity>, write_timeout: Duration, slot: Slot) -> Self {
        Self { stream, activity, write_timeout, stall: None, _slot: slot }
    }

    /// Ends a write that goes nowhere, `written` being what came of it.
    fn watch_write(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(taken)) => {
                if let Some(stall) = &mut self.stall {
                    stall.taken_bytes += taken;
                    if taken >= wanted || stall.taken_bytes >= PROGRESS_BYTES_MIN {
                        self.stall = None;
                    }
                }
                Poll::Ready(Ok(taken))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let timeout = self.write_timeout;
                let stall = self.stall.get_or_insert_with(|| Stall {
                    timer: Box::pin(sleep_until(Instant::now() + timeout)),
                    taken_bytes: 0,
                });
                match stall.timer.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the peer does not read what is sent to it",
                    ))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn watch_done(&mut self, context: &mut Context<'_>, done: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        self.watch_write(context, done.map_ok(|()| usize::MAX), 0).map_ok(|_| ())
    }
}

macro_rules! on_stream {
    ($self:expr, $stream:ident => $call:expr) => {
        match &mut $self.stream {
            Stream::Plain($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for WatchedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = on_stream!(self, stream => Pin::new(stream).poll_read(context, buffer));
        if let Poll::Ready(Ok(())) = &read {
            self.activity.bytes_read(&buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for WatchedIo {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = on_stream!(self, stream => Pin::new(stream).poll_write(context, bytes));
        self.watch_write(context, written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = on_stream!(self, stream => Pin::new(stream).poll_write_vectored(context, slices));
        self.watch_write(context, written, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = on_stream!(self, stream => Pin::new(stream).poll_flush(context));
        match &self.stream {
            // A TCP socket has nothing to flush: its answer says nothing about the peer.
            Stream::Plain(_) => flushed,
            Stream::Tls(_) => self.watch_done(context, flushed),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = on_stream!(self, stream => Pin::new(stream).poll_shutdown(context));
        self.watch_done(context, done)
    }
}
