//! A socket to a sandbox that knows how much was written and when it was last busy.
//!
//! The count decides whether a failed request may be called "not executed"; the time ends streams
//! nobody uses. Both live at the socket because there they hold for bodies, WebSockets and HTTP/2
//! alike, and because a stalled *reader* shows there too: once buffers are full nothing moves.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    socket,
    spin::{self, Side},
};

/// How a connection to a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It has not, or it ended between messages.
    Open,
    /// No byte for the idle time.
    Idle,
    /// The sandbox stopped.
    Gone,
    /// It broke.
    Broken,
}

/// What happened on one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    opened: Instant,
    busy_ms: AtomicU64,
    written: AtomicU64,
    end: AtomicU8,
}

/// A byte stream to a sandbox with its meter.
#[derive(Debug)]
pub(crate) struct MeteredStream<S> {
    stream: S,
    meter: Arc<Meter>,
}

// === impl Meter ===

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            opened: Instant::now(),
            busy_ms: AtomicU64::new(0),
            written: AtomicU64::new(0),
            end: AtomicU8::new(End::Open as u8),
        }
    }

    /// Returns how many bytes the kernel has accepted for the sandbox.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Notes how the connection ended; the first note stays.
    pub(crate) fn finish(&self, end: End) {
        // Losing the race is the point: somebody has said it already.
        _ = self.end.compare_exchange(End::Open as u8, end as u8, Relaxed, Relaxed);
    }

    pub(crate) fn end(&self) -> End {
        let end = self.end.load(Relaxed);
        [End::Idle, End::Gone, End::Broken]
            .into_iter()
            .find(|known| *known as u8 == end)
            .unwrap_or(End::Open)
    }

    /// Resolves once no byte has moved for `limit`. Cancel-safe.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            let busy = Duration::from_millis(self.busy_ms.load(Relaxed));
            let quiet = self.opened.elapsed().saturating_sub(busy);
            let Some(left) = limit.checked_sub(quiet).filter(|left| !left.is_zero()) else {
                return;
            };
            tokio::time::sleep(left).await;
        }
    }

    fn touch(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.busy_ms.store(now, Relaxed);
    }

    fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Relaxed);
        self.touch();
        spin::wrote(Side::Sandbox, std::ptr::from_ref(self).addr());
    }
}

// === impl MeteredStream ===

impl<S> MeteredStream<S> {
    pub(crate) fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            spin::read();
            self.meter.touch();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.meter.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let written = ready!(socket::poll_write_pieces(stream, cx, slices))?;
        self.meter.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_counts_from_the_last_byte() {
        let meter = Meter::new();
        tokio::time::advance(Duration::from_secs(50)).await;
        meter.touch();
        let begun = Instant::now();
        meter.idle(Duration::from_secs(60)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
    }

    #[test]
    fn the_first_end_stays() {
        let meter = Meter::new();
        assert_eq!(meter.end(), End::Open);
        meter.finish(End::Idle);
        meter.finish(End::Broken);
        assert_eq!(meter.end(), End::Idle);
    }
}
