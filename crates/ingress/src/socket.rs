//! How every socket of the ingress is set up, and how a client's is closed.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::sockopt;
use tarn_tls::ServerStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use crate::{
    ingress::ClientPhase,
    spin::{self, Side},
};

/// How long a client may go on sending after our last byte.
const LINGER: Duration = Duration::from_secs(2);
const DISCARD_BYTES: usize = 16 << 10;
/// How the sending to sandboxes is controlled. Nothing lies between them and us that could be
/// congested, and every kernel has this one. What a host is given for the internet may be far
/// slower here: BBR, which sends by the clock, carries half as much.
const TO_SANDBOXES: &str = "reno";
/// What is copied together to be written, at most.
const GATHERED_BYTES: usize = 1 << 10;

/// A client's connection that closes without destroying what the client has not read yet.
///
/// An upload may be answered before it is read: a wrong key, a sandbox that is gone. Closing a
/// socket with unread bytes resets it, and the reset throws the answer away at the client's end.
/// So after the last byte whatever still comes is read and dropped, for a while.
#[derive(Debug)]
pub(crate) struct ClientStream {
    stream: ServerStream,
    phase: Arc<ClientPhase>,
    /// Whether our end is closed.
    closed: bool,
    linger: Option<Pin<Box<Sleep>>>,
}

// === impl ClientStream ===

impl ClientStream {
    pub(crate) fn new(stream: ServerStream, phase: Arc<ClientPhase>) -> Self {
        Self { stream, phase, closed: false, linger: None }
    }

    fn note_written(&self) {
        spin::wrote(Side::Client, Arc::as_ptr(&self.phase).addr());
    }

    /// Reads and drops until the client closes or has had its time; nothing is decrypted any more.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; DISCARD_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(self.stream.socket_mut()).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        self.poll_patience(cx)
    }

    /// Resolves when closing has taken long enough.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER))).as_mut().poll(cx)
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        spin::read();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.note_written();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(poll_write_pieces(Pin::new(&mut self.stream), cx, slices))?;
        self.note_written();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Ready(closed) => {
                    closed?;
                    self.closed = true;
                }
                // TLS says that it ends, and waits until a client that reads nothing has room for
                // that. A tunnel has its own limit.
                Poll::Pending if self.phase.is_tunnel() => return Poll::Pending,
                Poll::Pending => return self.poll_patience(cx).map(Ok),
            }
        }
        // A tunnel closes half by half: what still comes is for the sandbox.
        if self.phase.is_tunnel() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_discard(cx));
        Poll::Ready(Ok(()))
    }
}

/// Writes what lies in pieces, a head and a short body above all. The kernel takes a few bytes in
/// one piece faster than it reads a list of pieces.
pub(crate) fn poll_write_pieces<S: AsyncWrite>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return stream.poll_write(cx, piece);
    }
    let mut gathered = [0; GATHERED_BYTES];
    let mut length = 0;
    for piece in pieces {
        let Some(place) = gathered.get_mut(length..length + piece.len()) else {
            return stream.poll_write_vectored(cx, pieces);
        };
        place.copy_from_slice(piece);
        length += piece.len();
    }
    stream.poll_write(cx, &gathered[..length])
}

/// Sets a socket to a sandbox up.
pub(crate) fn prepare_inward(stream: &TcpStream) {
    prepare(stream);
    if let Err(error) = sockopt::set_tcp_congestion(stream, TO_SANDBOXES) {
        tracing::debug!(%error, "how a socket sends could not be set");
    }
}

/// Sets the socket up: no delay for small writes, and probes that notice a vanished peer.
pub(crate) fn prepare(stream: &TcpStream) {
    let set = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(stream, 4)?;
        Ok(())
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "a socket option could not be set");
    }
}
