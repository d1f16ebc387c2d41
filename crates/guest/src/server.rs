//! Accepting connections, within bounds.
//!
//! Two classes of peers: the gateway, behind which are the node and its ingress, and everybody
//! else, which can only be a process of the sandbox. The second class has few connections and
//! little patience, so that it can't starve the first.

use std::{cell::Cell, convert::Infallible, io, rc::Rc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    daemon::{Daemon, is_gateway},
    http::{self, Connection},
};

/// The ingress may have a long request open per client and process, and a tunnel per connection of
/// each client's program.
const MAX_GATEWAY_CONNECTIONS: usize = 16384;
const MAX_OTHER_CONNECTIONS: usize = 64;

/// How long a connection may take to send a request's head, the idle time before it included.
const GATEWAY_HEAD_TIMEOUT: Duration = Duration::from_secs(600);
const OTHER_HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Request heads beyond this are refused (431).
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The gateway's heads are bounded by the ingress already; its uploads want large reads.
const GATEWAY_READ_BYTES: usize = 256 << 10;

/// After a failed accept (no descriptors left) somebody must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How long what a peer still sends is read and thrown away before its connection is closed.
const LINGER: Duration = Duration::from_secs(2);

/// The same after an upgrade: much may be on its way to a slow client, and a reset destroys it.
const UPGRADED_LINGER: Duration = Duration::from_secs(30);

/// Connections of one class.
#[derive(Clone)]
struct Class {
    open: Rc<Cell<usize>>,
    max: usize,
    head_timeout: Duration,
    /// hyper's bound on a request's head, and on what it reads from a socket at once.
    max_read_bytes: usize,
}

/// One open connection.
struct Slot(Rc<Cell<usize>>);

/// Serves until the listener fails for good.
pub(crate) async fn run(listener: TcpListener, daemon: Rc<Daemon>) -> io::Result<()> {
    let gateway = Class {
        open: Rc::default(),
        max: MAX_GATEWAY_CONNECTIONS,
        head_timeout: GATEWAY_HEAD_TIMEOUT,
        max_read_bytes: GATEWAY_READ_BYTES,
    };
    let others = Class {
        open: Rc::default(),
        max: MAX_OTHER_CONNECTIONS,
        head_timeout: OTHER_HEAD_TIMEOUT,
        max_read_bytes: MAX_HEAD_BYTES,
    };
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let connection = Connection::new(peer.ip(), daemon.seal.era());
        let class = if is_gateway(connection.peer) { &gateway } else { &others };
        // Beyond the bound a connection is closed at once, by dropping it.
        if let Some(slot) = class.enter() {
            let (daemon, class) = (Rc::clone(&daemon), class.clone());
            tokio::task::spawn_local(async move {
                tokio::select! {
                    // In this order, so that no held request is begun on a connection that ends.
                    biased;
                    () = daemon.seal.outlived(&connection.era) => {}
                    () = serve_connection(&daemon, stream, &connection, &class) => {}
                }
                drop(slot);
            });
        }
    }
}

async fn serve_connection(
    daemon: &Rc<Daemon>,
    stream: TcpStream,
    connection: &Connection,
    class: &Class,
) {
    // Small frames must not wait for each other; a socket that refuses is slower, not wrong.
    drop(stream.set_nodelay(true));
    let service = service_fn(|request| {
        let daemon = Rc::clone(daemon);
        async move { Ok::<_, Infallible>(http::handle(daemon, connection, request).await) }
    });
    // An error here is the peer's: it has hung up, or sent what is not HTTP.
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(class.head_timeout)
        .max_buf_size(class.max_read_bytes)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that changes its protocol is handed back here, too, with what has come since.
    let Ok(parts) = serving.without_shutdown().await else { return };
    let stream = parts.io.into_inner();
    match connection.upgrade.take() {
        None => linger(stream, LINGER).await,
        Some(next) => {
            let stream = next.run(daemon, stream, parts.read_buf).await;
            linger(stream, UPGRADED_LINGER).await;
        }
    }
}

/// Closes a connection without losing the last answer on it.
///
/// A request that is refused early leaves its body unread, and a socket that is closed over unread
/// bytes sends a reset, which makes the peer throw away the answer.
async fn linger(mut stream: TcpStream, limit: Duration) {
    // A peer that is gone already needs no farewell.
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut waste = vec![0; 16 << 10];
    let discard = async { while stream.read(&mut waste).await.is_ok_and(|read| read > 0) {} };
    drop(tokio::time::timeout(limit, discard).await);
}

// === impl Class ===

impl Class {
    fn enter(&self) -> Option<Slot> {
        if self.open.get() >= self.max {
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(Slot(Rc::clone(&self.open)))
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
