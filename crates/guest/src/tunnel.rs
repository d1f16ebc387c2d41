//! TCP tunnels into the sandbox: over a WebSocket for clients (spec 05 §6), bare for the ingress.
//!
//! ```text
//!                       client's close ──▶ shut down the server's input, go on delivering
//!   client ◀─ frames ─▶ tunnel ◀─ bytes ─▶ server
//!                       server's end ──▶ send what is left, close 1000, go on taking in
//! ```
//!
//! Each direction is read only while the other side takes what was read before, so a slow reader
//! slows its writer and costs at most one chunk of memory.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::{
    io::{AsyncWriteExt as _, BufReader, Interest, copy_buf},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    clock::Timer,
    scratch::Scratch,
    websocket::{Beat, Broken, HEADER_BYTES, WebSocket, close_code},
};

/// Between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// The npm package loses bytes that come in one packet with the 101 (spec 05 §6: at least 50 ms).
const QUIET_AFTER_UPGRADE: Duration = Duration::from_millis(60);

/// The same while nothing has come from the client, which may be too busy to have seen the 101.
const QUIET_BEFORE_CLIENT: Duration = Duration::from_millis(200);

/// Loopback answers at once, unless its queue of connections is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may go on sending after the server has ended.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);

/// How long a server may be silent after the ingress has ended its half of a bare connection.
const HALF_CLOSED_PATIENCE: Duration = Duration::from_secs(60);

/// Buffers of a bare connection, each way.
const BARE_BUFFER_BYTES: usize = 16 << 10;

/// A server in the sandbox, with what it has not taken yet.
struct Server {
    stream: TcpStream,
    backlog: Vec<u8>,
    taken: usize,
    input: Input,
    /// How its output ended, as the code and reason of a close.
    ended: Option<(u16, &'static str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    /// Shut down by us, or refused by the server: what still comes for it is dropped.
    Closed,
}

/// Connects to a port of the sandbox's loopback, by IPv4 first.
pub(crate) async fn connect(port: u16) -> io::Result<TcpStream> {
    let v4 = open((Ipv4Addr::LOCALHOST, port).into()).await;
    let stream = match v4 {
        Ok(stream) => stream,
        Err(_refused) => open((Ipv6Addr::LOCALHOST, port).into()).await?,
    };
    // Slower without it, not wrong.
    drop(stream.set_nodelay(true));
    Ok(stream)
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    if is_its_own_peer(&stream) { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(stream) }
}

/// Says whether a connection leads back to itself: where nobody listens, the kernel may choose that
/// very port for our own end.
pub(crate) fn is_its_own_peer(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(own), Ok(peer)) if own == peer)
}

/// Carries bytes between a client's WebSocket and a server until both have ended or one is gone;
/// returns the client's connection.
pub(crate) async fn relay(
    scratch: &Scratch,
    mut client: WebSocket,
    stream: TcpStream,
) -> TcpStream {
    let mut server = Server::new(stream);
    match carry(scratch, &mut client, &mut server).await {
        Ok(()) => client.close(close_code::NORMAL, "").await,
        Err(Broken::Gone) => {
            server.finish().await;
            client.into_stream()
        }
        Err(Broken::Refused(code, reason)) => client.close(code, reason).await,
    }
}

async fn carry(
    scratch: &Scratch,
    client: &mut WebSocket,
    server: &mut Server,
) -> Result<(), Broken> {
    let mut timer = Timer::new(PING_INTERVAL);
    let upgraded_at = Instant::now();
    let (mut quiet, mut heard) = (true, false);
    let mut give_up_at: Option<Instant> = None;
    loop {
        client.flush()?;
        server.flush();
        if takes_more(client, server) {
            heard |=
                scratch.with(|buffer| client.receive(buffer, |bytes, _end| server.send(bytes)))?;
        }
        let wait = if heard { QUIET_AFTER_UPGRADE } else { QUIET_BEFORE_CLIENT };
        let quiet_until = upgraded_at + wait;
        if client.is_peer_closed() && server.is_flushed() {
            server.shut_input();
        }
        if !quiet && gives_more(client, server) {
            scratch.with(|buffer| server.receive(buffer, client))?;
        }
        if let (Some((code, reason)), true, None) = (server.ended, client.is_flushed(), give_up_at)
        {
            client.send_close(code, reason)?;
            give_up_at = Some(Instant::now() + CLOSE_PATIENCE);
        }
        if give_up_at.is_some() && client.is_peer_closed() && server.is_flushed() {
            return Ok(());
        }
        let (from_client, from_server) =
            (takes_more(client, server), !quiet && gives_more(client, server));
        let passed = tokio::select! {
            () = client.ready(from_client) => None,
            () = server.ready(from_server) => None,
            () = sleep_until(quiet_until), if quiet => {
                quiet = false;
                None
            }
            () = reached(give_up_at) => return Ok(()),
            passed = timer.passed() => Some(passed),
        };
        if let Some(passed) = passed {
            client.beat(PING_INTERVAL, Beat::new(passed, !from_client))?;
        }
        // A busy tunnel lets the others have their turn.
        tokio::task::yield_now().await;
    }
}

/// Returns whether more of the client may be read.
fn takes_more(client: &WebSocket, server: &Server) -> bool {
    server.is_flushed() && !client.is_full()
}

/// Returns whether more of the server may be read.
fn gives_more(client: &WebSocket, server: &Server) -> bool {
    server.ended.is_none() && client.is_flushed()
}

async fn reached(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Carries bytes between the ingress and a server, without frames; returns the ingress's end.
pub(crate) async fn relay_bare(
    mut client: TcpStream,
    early: &[u8],
    mut server: TcpStream,
) -> TcpStream {
    if server.write_all(early).await.is_ok() {
        copy_both(&mut client, &mut server).await;
    }
    client
}

async fn copy_both(client: &mut TcpStream, server: &mut TcpStream) {
    let (from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let up = async {
        let mut from_client = BufReader::with_capacity(BARE_BUFFER_BYTES, from_client);
        let copied = copy_buf(&mut from_client, &mut to_server).await;
        // A server that is gone needs no farewell.
        drop(to_server.shutdown().await);
        copied
    };
    let down = async {
        let mut from_server = BufReader::with_capacity(BARE_BUFFER_BYTES, from_server);
        copy_buf(&mut from_server, &mut to_client).await
    };
    tokio::pin!(up, down);
    tokio::select! {
        // What the client still sends has nowhere to go: servers that end, end both ways.
        _ended = &mut down => {}
        // Half closed, as only who still listens does; who does not is noticed by writing.
        _ended = &mut up => drop(timeout(HALF_CLOSED_PATIENCE, &mut down).await),
    }
}

// === impl Server ===

impl Server {
    fn new(stream: TcpStream) -> Self {
        Self { stream, backlog: Vec::new(), taken: 0, input: Input::Open, ended: None }
    }

    fn is_flushed(&self) -> bool {
        self.taken == self.backlog.len()
    }

    /// Gives bytes to the server; what it does not take now waits, at most one chunk.
    fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while self.input == Input::Open && self.is_flushed() && !rest.is_empty() {
            match self.try_write(rest) {
                0 => break,
                count => rest = rest.get(count..).unwrap_or_default(),
            }
        }
        if self.input == Input::Open {
            self.backlog.extend_from_slice(rest);
        }
    }

    fn flush(&mut self) {
        while let Some(rest) = self.backlog.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match self.stream.try_write(rest) {
                Ok(count) => self.taken += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.input = Input::Closed;
                    break;
                }
            }
        }
        (self.backlog, self.taken) = (Vec::new(), 0);
    }

    fn try_write(&mut self, bytes: &[u8]) -> usize {
        match self.stream.try_write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.input = Input::Closed;
                0
            }
        }
    }

    /// Reads once and passes it on.
    fn receive(&mut self, buffer: &mut [u8], client: &mut WebSocket) -> Result<(), Broken> {
        let Some(room) = buffer.get_mut(HEADER_BYTES..) else { return Ok(()) };
        match self.stream.try_read(room) {
            Ok(0) => self.ended = Some((close_code::NORMAL, "")),
            Ok(count) => {
                let frame = buffer.get_mut(..HEADER_BYTES + count).unwrap_or_default();
                client.send_in_place(frame)?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                let reason = "the server reset the connection";
                self.ended = Some((close_code::INTERNAL_ERROR, reason));
            }
        }
        Ok(())
    }

    /// Says that nothing more comes; once.
    fn shut_input(&mut self) {
        if self.input == Input::Open {
            self.input = Input::Closed;
            // One that is gone needs no farewell.
            _ = shutdown(self.stream.as_raw_fd(), Shutdown::Write);
        }
    }

    async fn ready(&self, to_read: bool) {
        let interest = match (to_read, self.is_flushed()) {
            (true, true) => Interest::READABLE,
            (true, false) => Interest::READABLE | Interest::WRITABLE,
            (false, false) => Interest::WRITABLE,
            (false, true) => return std::future::pending().await,
        };
        // A failure shows at the next read or write.
        drop(self.stream.ready(interest).await);
    }

    /// Gives the server what the client, which has gone, had sent.
    async fn finish(mut self) {
        let rest = self.backlog.split_off(self.taken);
        let farewell = async {
            self.stream.write_all(&rest).await?;
            self.stream.shutdown().await
        };
        drop(timeout(CONNECT_TIMEOUT, farewell).await);
    }
}
